"""Reading what tfds prepared: a tiny set written here, its cache, damaged files."""

import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import DataFormatError
from experiments import data
from experiments.data import records
from experiments.data.info import Info

# ---- a tiny set

TINY = Info("tiny", (6, 5, 1), 3, 24, 7, (0.5,), (0.3,), False, "none", "noise")
SHARDS = {"train": (16, 8), "test": (7,)}


def example(image, label, encoding="PNG"):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, encoding)
    proto: Any = importlib.import_module("tensorflow_datasets.proto")
    message = proto.tf_example_pb2.Example()
    message.features.feature["image"].bytes_list.value.append(file.getvalue())
    message.features.feature["label"].int64_list.value.append(int(label))
    return message.SerializeToString()


def write_shard(path, examples):
    module: Any = importlib.import_module("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for item in examples:
        writer.write(item)
    writer.close()


def split_info(name, lengths):
    return {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": name,
        "numBytes": "1",
        "shardLengths": [str(n) for n in lengths],
    }


def write_tiny(data_dir, encoding="PNG", version="1.0.0"):
    """Writes the set as tfds would; returns its folder and its arrays by split."""
    folder = data_dir / "tiny" / version
    folder.mkdir(parents=True)
    features = {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict."
        "FeaturesDict",
        "featuresDict": {
            "features": {
                "image": {
                    "pythonClassName": "tensorflow_datasets.core.features."
                    "image_feature.Image",
                    "image": {
                        "dtype": "uint8",
                        "shape": {"dimensions": ["6", "5", "1"]},
                    },
                },
                "label": {
                    "pythonClassName": "tensorflow_datasets.core.features."
                    "class_label_feature.ClassLabel",
                    "classLabel": {"numClasses": "3"},
                },
            }
        },
    }
    info = {
        "name": "tiny",
        "version": version,
        "fileFormat": "array_record",
        "splits": [split_info(name, lengths) for name, lengths in SHARDS.items()],
    }
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "dataset_info.json").write_text(json.dumps(info))
    generator = np.random.default_rng(0)
    arrays = {}
    for which, lengths in SHARDS.items():
        n = sum(lengths)
        images = generator.integers(0, 256, (n, 6, 5, 1), np.uint8)
        labels = generator.integers(0, 3, n)
        arrays[which] = images, labels
        items = [example(*pair, encoding) for pair in zip(images, labels, strict=True)]
        for k, length in enumerate(lengths):
            name = f"tiny-{which}.array_record-{k:05d}-of-{len(lengths):05d}"
            write_shard(folder / name, items[:length])
            items = items[length:]
    return folder, arrays


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The set on disk, known to the registry, with an empty cache."""
    monkeypatch.setitem(data.DATASETS, "tiny", TINY)
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    folder, arrays = write_tiny(tmp_path / "tfds")
    return tmp_path / "tfds", folder, arrays


def cached(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.npz"))


def assert_same(dataset, arrays):
    for which, (images, labels) in arrays.items():
        split = getattr(dataset, which)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)


def test_shards_are_read_in_order(tiny):
    data_dir, _, arrays = tiny
    dataset = data.load("tiny", data_dir=data_dir)
    assert dataset.source == "tfds tiny 1.0.0"
    assert_same(dataset, arrays)


def test_data_dir_may_be_a_string_or_the_environment(tiny, monkeypatch):
    data_dir, _, arrays = tiny
    assert_same(data.load("tiny", data_dir=str(data_dir)), arrays)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert_same(data.load("tiny"), arrays)
    assert_same(data.load("tiny", data_dir=""), arrays)


def test_search_path_reads_the_environment_at_call_time(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/one")
    assert data.search_path() == [Path("/one")]
    assert data.search_path("/two") == [Path("/two")]
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    own = tmp_path / "home" / "tensorflow_datasets"
    monkeypatch.setenv("LATHE_DATA", str(tmp_path))
    assert data.search_path() == [own]
    (tmp_path / "tensorflow_datasets").mkdir()
    assert data.search_path() == [tmp_path / "tensorflow_datasets", own]


def test_newest_version_is_read(tiny):
    data_dir, _, _ = tiny
    for version in ("1.10.0", "1.9.0", "incomplete.X_2.0.0"):
        shutil.copytree(data_dir / "tiny" / "1.0.0", data_dir / "tiny" / version)
    found = records.find(data_dir, "tiny")
    assert found is not None
    assert found.version == "1.10.0"


def test_lossy_pixels_are_said_so(tmp_path, monkeypatch):
    monkeypatch.setitem(data.DATASETS, "tiny", TINY)
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "cache"))
    write_tiny(tmp_path / "tfds", "JPEG")
    for _ in ("decoded", "cached"):
        dataset = data.load("tiny", data_dir=tmp_path / "tfds")
        assert dataset.source == "tfds tiny 1.0.0 (lossy JPEG pixels)"


# ---- the cache


def test_second_load_reads_the_cache_alone(tiny, tmp_path, monkeypatch):
    data_dir, _, arrays = tiny
    data.load("tiny", data_dir=data_dir)
    assert len(cached(tmp_path)) == 1
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    monkeypatch.setattr(records, "read", None)
    assert_same(data.load("tiny", data_dir=data_dir), arrays)


def test_warm_load_needs_no_tfds(tiny):
    data_dir, _, _ = tiny
    data.load("tiny", data_dir=data_dir)
    code = (
        "import sys; from experiments import data; from experiments.data.info import "
        f"Info; data.DATASETS['tiny'] = {TINY!r}; "
        f"data.load('tiny', data_dir={str(data_dir)!r}); "
        "print(*{'tensorflow_datasets', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        cwd=Path(data.__file__).parents[2],
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("damage", ["cut", "flip", "garbage", "empty", "npy", "other"])
def test_damaged_cache_is_made_anew(tiny, tmp_path, damage):
    data_dir, _, arrays = tiny
    data.load("tiny", data_dir=data_dir)
    (path,) = cached(tmp_path)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flip":
        at = whole.index(arrays["train"][0].tobytes()) + 50
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    elif damage == "garbage":
        path.write_bytes(os.urandom(1000))
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:  # a sound file of other arrays
        split = np.zeros((3, 6, 5, 1), np.uint8), np.zeros(3, np.int32)
        names = ("train_images", "train_labels", "test_images", "test_labels")
        np.savez(path, encoding="PNG", **dict(zip(names, split * 2, strict=True)))
    assert_same(data.load("tiny", data_dir=data_dir), arrays)
    assert path.read_bytes() == whole


def test_changed_source_makes_another_entry(tiny, tmp_path):
    data_dir, folder, arrays = tiny
    data.load("tiny", data_dir=data_dir)
    path = folder / "tiny-test.array_record-00000-of-00001"
    images, labels = arrays["test"]
    write_shard(
        path, [example(*pair) for pair in zip(255 - images, labels, strict=True)]
    )
    os.utime(path, (1, 1))
    arrays["test"] = 255 - images, labels
    assert_same(data.load("tiny", data_dir=data_dir), arrays)
    assert len(cached(tmp_path)) == 2


def test_cache_that_cannot_be_written_is_no_error(tiny, tmp_path, monkeypatch, caplog):
    data_dir, _, arrays = tiny
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LATHE_CACHE", str(tmp_path / "file"))
    assert_same(data.load("tiny", data_dir=data_dir), arrays)
    assert "cannot write the cache" in caplog.text


def test_cache_dir_follows_the_environment(monkeypatch):
    monkeypatch.setenv("LATHE_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    monkeypatch.setenv("HOME", "/c")
    assert data.cache_dir() == Path("/a")
    monkeypatch.delenv("LATHE_CACHE")
    assert data.cache_dir() == Path("/b/lathe")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.cache_dir() == Path("/c/.cache/lathe")


# ---- damaged sources


@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "garbage"])
def test_damaged_record_file_is_named(tiny, tmp_path, damage):
    data_dir, folder, _ = tiny
    path = folder / "tiny-train.array_record-00001-of-00002"
    size = path.stat().st_size
    if damage == "cut":
        os.truncate(path, size * 3 // 4)
    elif damage == "empty":
        os.truncate(path, 0)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(np.random.default_rng(0).bytes(size))
    with pytest.raises(DataFormatError) as caught:
        data.load("tiny", data_dir=data_dir)
    assert str(path) in str(caught.value)
    assert "prepare the data set again" in str(caught.value)
    assert cached(tmp_path) == []


def test_record_that_is_no_example_is_named(tiny):
    data_dir, folder, arrays = tiny
    image, label = (part[0] for part in arrays["test"])
    whole = example(image, label)
    at = whole.index(b"IDAT") + 6
    bad = [
        b"\xff\xff\xff",
        b"",
        whole[:at] + b"\0\0\0" + whole[at + 3 :],
        example(image[:4], label),
        example(np.repeat(image, 3, axis=2), label),
    ]
    path = folder / "tiny-test.array_record-00000-of-00001"
    for record in bad:
        write_shard(path, [*[whole] * 5, record, whole])
        with pytest.raises(DataFormatError, match=r"record 5: got") as caught:
            data.load("tiny", data_dir=data_dir)
        assert str(path) in str(caught.value)


def test_label_out_of_range_is_named(tiny):
    data_dir, folder, arrays = tiny
    images, labels = arrays["test"]
    path = folder / "tiny-test.array_record-00000-of-00001"
    write_shard(path, [example(*pair) for pair in zip(images, labels + 1, strict=True)])
    with pytest.raises(DataFormatError, match=r"tiny/1\.0\.0.*labels in \[0, 3\)"):
        data.load("tiny", data_dir=data_dir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "dataset_info.json"),
        ("[]", "dataset_info.json"),
        ({"fileFormat": "tfrecord"}, "format tfrecord.*convert"),
        ({"splits": [split_info("train", (16, 8))]}, "a split 'test'"),
        ({"splits": [split_info("train", (8,)), split_info("test", (7,))]}, "tiny"),
    ],
)
def test_wrong_dataset_info_is_named(tiny, change, message):
    data_dir, folder, _ = tiny
    path = folder / "dataset_info.json"
    if isinstance(change, dict):
        change = json.dumps(json.loads(path.read_text()) | change)
    path.write_text(change)
    with pytest.raises(DataFormatError, match=message):
        data.load("tiny", data_dir=data_dir)
