"""Downloads: absent data fails fast and clearly; archives become tfds data sets."""

import functools
import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading
import urllib.error

import numpy as np
import pytest

from core.errors import DataUnavailableError
from experiments import data
from experiments.data import download, records
from experiments.data.info import Info


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LATHE_DATA", str(tmp_path / "no_lathe_data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(url, timeout):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(download.urllib.request, "urlopen", refuse)


@pytest.fixture
def no_tfds(monkeypatch):
    """Importing tfds, or calling its download, would be an error."""
    monkeypatch.setattr(download, "import_tfds", None)
    monkeypatch.setattr(records, "import_tfds", None)


# ---- nothing there, and no network


@pytest.mark.usefixtures("no_network", "no_tfds")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_absent_data_says_what_where_and_what_instead(name, tmp_path):
    folder = tmp_path / "tfds"
    with pytest.raises(DataUnavailableError) as caught:
        data.load(name, data_dir=folder)
    text = str(caught.value)
    for part in (
        f"{name!r}",
        f"{name}/VERSION/dataset_info.json",
        str(folder),
        "Name or service not known",
        "--dataset=mnist_5k",
        "--data_dir",
        "TFDS_DATA_DIR",
    ):
        assert part in text
    assert "\n" not in text
    assert not folder.exists()


@pytest.mark.usefixtures("no_network", "no_tfds")
def test_every_folder_that_was_looked_in_is_named(tmp_path, monkeypatch):
    (tmp_path / "shared" / "tensorflow_datasets").mkdir(parents=True)
    monkeypatch.setenv("LATHE_DATA", str(tmp_path / "shared"))
    with pytest.raises(DataUnavailableError) as caught:
        data.load("mnist")
    assert str(tmp_path / "shared" / "tensorflow_datasets") in str(caught.value)
    assert str(tmp_path / "home" / "tensorflow_datasets") in str(caught.value)


@pytest.mark.usefixtures("no_tfds")
def test_a_server_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    release = threading.Event()
    late = io.BytesIO()

    def silent(url, timeout):
        release.wait()
        return late

    monkeypatch.setattr(download.urllib.request, "urlopen", silent)
    assert download.CONNECT_SECS < 8
    monkeypatch.setattr(download, "CONNECT_SECS", 0.05)
    try:
        with pytest.raises(DataUnavailableError, match="did not answer in"):
            data.load("mnist", data_dir=tmp_path)
    finally:
        release.set()
    for thread in threading.enumerate():
        if thread.daemon and thread.name.endswith("(connect)"):
            thread.join()
    assert late.closed


@pytest.mark.usefixtures("no_tfds")
@pytest.mark.parametrize("below", [".", "deeper/still"])
def test_read_only_folder_is_left_alone(tmp_path, monkeypatch, below):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o555)
    monkeypatch.setattr(download.urllib.request, "urlopen", None)
    try:
        with pytest.raises(DataUnavailableError, match=r"read-only|cannot be written"):
            data.load("mnist", data_dir=folder / below)
    finally:
        folder.chmod(0o755)


@pytest.mark.usefixtures("no_tfds")
def test_data_dir_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataUnavailableError, match="cannot be written"):
        data.load("mnist", data_dir=tmp_path / "file")


@pytest.mark.parametrize("name", download.ARCHIVES)
def test_tfds_ships_the_sum_of_every_archive(name, tmp_path):
    builder = records.import_tfds().builder(name, data_dir=str(tmp_path))
    sums = download.checksums(builder)
    assert set(download.ARCHIVES[name]) <= set(sums)
    assert set(download.ARCHIVES) == {
        k for k, v in data.DATASETS.items() if not v.offline
    }


# ---- archives from a server on this machine


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def serve(server, monkeypatch, name, blobs):
    """Serves `blobs` as the archives of `name`, with their true sums."""
    folder, address = server
    urls = tuple(f"{address}/{i}" for i in range(len(blobs)))
    sums = {}
    for i, (url, blob) in enumerate(zip(urls, blobs, strict=True)):
        (folder / str(i)).write_bytes(blob)
        sums[url] = hashlib.sha256(blob).hexdigest()
    monkeypatch.setitem(download.ARCHIVES, name, urls)
    monkeypatch.setattr(download, "checksums", lambda builder: sums)


def resize(monkeypatch, name, train, test):
    row = data.DATASETS[name]
    fields = {**vars(row), "num_train": train, "num_test": test}
    monkeypatch.setitem(data.DATASETS, name, Info(**fields))


def noise(n, shape, classes):
    generator = np.random.default_rng(n)
    images = generator.integers(0, 256, (n, *shape), np.uint8)
    return images, generator.integers(0, classes, n).astype(np.uint8)


def idx(images, labels):
    pixels = struct.pack(">4i", 2051, *images.shape[:3]) + images.tobytes()
    return [
        gzip.compress(pixels),
        gzip.compress(struct.pack(">2i", 2049, len(labels)) + labels.tobytes()),
    ]


def as_set(images, labels):
    return {
        (image.tobytes(), int(label))
        for image, label in zip(images, labels, strict=True)
    }


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_become_a_data_set(name, server, tmp_path, monkeypatch):
    train, test = noise(20, (28, 28, 1), 10), noise(8, (28, 28, 1), 10)
    serve(server, monkeypatch, name, idx(*train) + idx(*test))
    resize(monkeypatch, name, 20, 8)
    dataset = data.load(name, data_dir=tmp_path / "tfds")
    assert as_set(*dataset.train) == as_set(*train)
    assert as_set(*dataset.test) == as_set(*test)
    # And it stays on disk, as tfds knows it.
    tfds = records.import_tfds()
    assert tfds.builder(name, data_dir=str(tmp_path / "tfds")).is_prepared()
    monkeypatch.setattr(download, "prepare", None)
    again = data.load(name, data_dir=tmp_path / "tfds")
    np.testing.assert_array_equal(again.train.images, dataset.train.images)


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_archive_becomes_a_data_set(name, classes, server, tmp_path, monkeypatch):
    train, test = noise(12, (32, 32, 3), classes), noise(6, (32, 32, 3), classes)
    coarse = [] if classes == 10 else [3]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        members = {"data_batch_1": (train, 0, 6), "data_batch_2": (train, 6, 12)}
        if coarse:
            members = {"train": (train, 0, 12)}
        for member, ((images, labels), low, high) in {
            **members,
            ("test_batch" if classes == 10 else "test"): (test, 0, 6),
        }.items():
            body = b"".join(
                bytes([*coarse, labels[i]]) + images[i].transpose(2, 0, 1).tobytes()
                for i in range(low, high)
            )
            entry = tarfile.TarInfo(f"folder/{member}.bin")
            entry.size = len(body)
            tar.addfile(entry, io.BytesIO(body))
    serve(server, monkeypatch, name, [file.getvalue()])
    resize(monkeypatch, name, 12, 6)
    dataset = data.load(name, data_dir=tmp_path / "tfds")
    assert as_set(*dataset.train) == as_set(*train)
    assert as_set(*dataset.test) == as_set(*test)


def test_archive_with_another_sum_is_refused(server, tmp_path, monkeypatch):
    serve(server, monkeypatch, "mnist", [b"a", b"b", b"c", b"d"])
    (server[0] / "2").write_bytes(b"tampered")
    with pytest.raises(DataUnavailableError, match="/2: 8 bytes of another SHA-256"):
        data.load("mnist", data_dir=tmp_path / "tfds")
    assert records.find(tmp_path / "tfds", "mnist") is None


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_archive_that_cannot_be_unpacked(name, server, tmp_path, monkeypatch):
    good = gzip.compress(b"too short")
    serve(server, monkeypatch, name, [good] * (4 if name == "mnist" else 1))
    with pytest.raises(DataUnavailableError, match="cannot be unpacked"):
        data.load(name, data_dir=tmp_path / "tfds")


def test_missing_archive_gives_the_status(server, tmp_path, monkeypatch):
    serve(server, monkeypatch, "mnist", [b"a"] * 4)
    (server[0] / "0").unlink()
    with pytest.raises(DataUnavailableError, match="404"):
        data.load("mnist", data_dir=tmp_path / "tfds")
