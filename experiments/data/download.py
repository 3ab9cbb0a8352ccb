"""Downloads a data set and lets tfds write it, without TensorFlow.

tfds's own download retries for minutes when there is no network, and unpacks with
TensorFlow. Here the archives come over `urllib` with a short budget, are checked
against the SHA-256 sums that tfds ships, and are handed to tfds's writer.
"""

import contextlib
import gzip
import hashlib
import io
import os
import stat
import sys
import tarfile
import threading
import time
import types
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.records import import_tfds

CONNECT_SECS = 6.0
"""How long the first archive may take to answer."""
STALL_SECS = 15.0
"""How long a download may stand still."""
TOTAL_SECS = 1200.0
"""How long one archive may take in all."""

_IDX = (
    "train-images-idx3",
    "train-labels-idx1",
    "t10k-images-idx3",
    "t10k-labels-idx1",
)
_CVDF = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_TORONTO = "https://www.cs.toronto.edu/~kriz/"

ARCHIVES: dict[str, tuple[str, ...]] = {
    "mnist": tuple(f"{_CVDF}{part}-ubyte.gz" for part in _IDX),
    "fashion_mnist": tuple(f"{_FASHION}{part}-ubyte.gz" for part in _IDX),
    "cifar10": (f"{_TORONTO}cifar-10-binary.tar.gz",),
    "cifar100": (f"{_TORONTO}cifar-100-binary.tar.gz",),
}
"""Where each data set comes from; the addresses that tfds knows the sums of."""


class NotDownloadedError(Exception):
    """A data set that could not be downloaded; the text says why, in a few words."""


def prepare(name: str, data_dir: Path) -> None:
    """Downloads data set `name` and writes it to `data_dir` in tfds's layout.

    Args:
      name: a key of `ARCHIVES`.
      data_dir: where `NAME/VERSION/` is to be; made if it does not exist.

    Raises:
      NotDownloadedError: no address, no network, a read-only folder, or archives
        that are not what tfds expects.
    """
    if name not in ARCHIVES:
        raise NotDownloadedError("no address is known for it")
    _check_writable(data_dir)
    urls = ARCHIVES[name]
    first = _connect(urls[0])
    tfds = import_tfds()
    builder = tfds.builder(name, data_dir=str(data_dir), file_format="array_record")
    sums = checksums(builder)
    blobs = []
    for url in urls:
        response = first if url == urls[0] else _connect(url)
        blobs.append(_fetch(response, url, sums[url]))
    try:
        splits = _cifar(name, blobs[0]) if "cifar" in name else _idx(blobs)
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        tarfile.TarError,
        zlib.error,
    ) as err:
        raise NotDownloadedError(f"{urls[0]} cannot be unpacked: {err}") from err
    _write(tfds, builder, splits)


def checksums(builder: Any) -> dict[str, str]:
    """Returns the SHA-256 sums, by address, that tfds ships for `builder`."""
    return {url: info.checksum for url, info in builder.url_infos.items()}


def _check_writable(folder: Path) -> None:
    """Raises if `folder`, or the nearest parent that exists, must not be written.

    The mode bits count even for root: a folder marked read-only is left alone.
    """
    nearest = next(
        path for path in (folder, *folder.absolute().parents) if path.exists()
    )
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise NotDownloadedError(f"{nearest} cannot be written")
    if not stat.S_IMODE(nearest.stat().st_mode) & 0o222:
        raise NotDownloadedError(f"{nearest} is read-only")


def _connect(url: str) -> Any:
    """Opens `url` within CONNECT_SECS, in a thread since name look-up has no limit."""
    outcome: list[Any] = []
    given_up = threading.Event()

    def connect() -> None:
        try:
            response = urllib.request.urlopen(url, timeout=STALL_SECS)
        except Exception as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            outcome.append(NotDownloadedError(f"{url}: {error}"))
            return
        outcome.append(response)
        if given_up.is_set():
            response.close()

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECS)
    if not outcome:
        given_up.set()
        raise NotDownloadedError(f"{url} did not answer in {CONNECT_SECS:g} s")
    if isinstance(outcome[0], NotDownloadedError):
        raise outcome[0]
    return outcome[0]


def _fetch(response: Any, url: str, sha256: str) -> bytes:
    """Reads the whole response and checks its sum."""
    deadline = time.monotonic() + TOTAL_SECS
    chunks = []
    try:
        with response:
            while chunk := response.read(1 << 20):
                chunks.append(chunk)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not done after {TOTAL_SECS:g} s")
    except Exception as error:  # OSError, or HTTPException where it is cut short
        raise NotDownloadedError(f"{url}: {error}") from error
    blob = b"".join(chunks)
    if hashlib.sha256(blob).hexdigest() != sha256:
        raise NotDownloadedError(f"{url}: {len(blob)} bytes of another SHA-256 sum")
    return blob


_Splits = dict[str, Iterator[tuple[int, dict[str, Any]]]]


def _idx(blobs: list[bytes]) -> _Splits:
    """Returns the examples of MNIST's four IDX files, in the order of `_IDX`."""
    raw = [gzip.decompress(blob) for blob in blobs]
    splits: _Splits = {}
    for which, pixels, labels in (("train", *raw[:2]), ("test", *raw[2:])):
        count, height, width = np.frombuffer(pixels, ">i4", 3, offset=4)
        images = np.frombuffer(pixels, np.uint8, offset=16)
        images = images.reshape(count, height, width)
        splits[which] = _examples(
            [
                {"image": image, "label": int(label)}
                for image, label in zip(
                    images, np.frombuffer(labels, np.uint8, offset=8), strict=True
                )
            ]
        )
    return splits


def _cifar(name: str, blob: bytes) -> _Splits:
    """Returns the examples of a CIFAR archive in its binary form."""
    names = ["label"] if name == "cifar10" else ["coarse_label", "label"]
    members: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    with tarfile.open(fileobj=io.BytesIO(blob), mode="r:gz") as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            file = tar.extractfile(member) if member.name.endswith(".bin") else None
            if file is not None:
                rows = np.frombuffer(file.read(), np.uint8).reshape(
                    -1, len(names) + 3072
                )
                members["test" if "test" in member.name else "train"].append(rows)
    splits: _Splits = {}
    for which, parts in members.items():
        examples = []
        for i, row in enumerate(np.concatenate(parts)):
            image = row[len(names) :].reshape(3, 32, 32).transpose(1, 2, 0)
            labels = {key: int(row[j]) for j, key in enumerate(names)}
            examples.append({"id": f"{which}_{i:05d}", "image": image, **labels})
        splits[which] = _examples(examples)
    return splits


def _examples(rows: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields what tfds's writer takes: images as PNG files, keys in order."""
    from PIL import Image

    for key, row in enumerate(rows):
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(row["image"])).save(file, "PNG")
        file.seek(0)
        yield key, {**row, "image": file}


def _write(tfds: Any, builder: Any, splits: _Splits) -> None:
    """Lets tfds write the examples in its layout."""
    builder._split_generators = types.MethodType(lambda *_: splits, builder)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(
                download_config=config, file_format="array_record"
            )
    except OSError as error:
        raise NotDownloadedError(f"{builder.data_dir}: {error}") from error
