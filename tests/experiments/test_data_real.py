"""MNIST and CIFAR-10 themselves, where the data folder is at hand."""

import os
import shutil

import numpy as np
import pytest

from core.errors import DataFormatError
from experiments import data
from experiments.data import cache, records

REAL = data.search_path()


def need(name):
    """Skips where the real data set is not on disk."""
    if not any(records.find(folder, name) for folder in REAL):
        pytest.skip(f"no {name} in {', '.join(map(str, REAL))}: set LATHE_DATA")


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATHE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def mnist():
    need("mnist")
    return data.load("mnist")


@pytest.fixture(scope="module")
def cifar10():
    need("cifar10")
    return data.load("cifar10")


def statistics(images):
    """Returns mean and std per channel of pixels in [0, 1], from their histogram."""
    levels = np.arange(256) / 255
    mean, std = [], []
    for c in range(images.shape[-1]):
        share = np.bincount(images[..., c].ravel(), minlength=256)
        share = share / share.sum()
        mean.append(share @ levels)
        std.append(np.sqrt(share @ (levels - mean[-1]) ** 2))
    return mean, std


@pytest.mark.data
def test_mnist_is_what_its_readme_says(mnist):
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.source == "tfds mnist 3.0.1"
    assert np.bincount(mnist.train.labels).tolist() == train
    assert np.bincount(mnist.test.labels).tolist() == test
    assert (mnist.train.labels[0], mnist.test.labels[0]) == (4, 2)
    mean, std = statistics(mnist.train.images)
    np.testing.assert_allclose(mean, mnist.mean, atol=1e-4)
    np.testing.assert_allclose(std, mnist.std, atol=1e-4)


@pytest.mark.data
def test_cifar10_is_what_its_readme_says(cifar10):
    assert cifar10.source.startswith("tfds cifar10 3.0.2")
    assert np.bincount(cifar10.train.labels).tolist() == [5000] * 10
    assert np.bincount(cifar10.test.labels).tolist() == [1000] * 10
    mean, std = statistics(cifar10.train.images)
    # The registry has the statistics of the untouched pixels; JPEG costs contrast.
    np.testing.assert_allclose(mean, cifar10.mean, atol=5e-4)
    np.testing.assert_allclose(std, cifar10.std, atol=2e-3)
    if "JPEG" in cifar10.source:
        np.testing.assert_allclose(mean, (0.4913, 0.4821, 0.4465), atol=2e-4)
        np.testing.assert_allclose(std, (0.2452, 0.2428, 0.2606), atol=2e-4)


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_fast_path_equals_tfds(name, request):
    dataset = request.getfixturevalue(name)
    folder = next(f for f in REAL if records.find(f, name))
    tfds = records.import_tfds()
    for which in ("train", "test"):
        source = tfds.data_source(name, split=which, data_dir=folder, download=False)
        split = getattr(dataset, which)
        assert len(source) == len(split.labels)
        for i in (0, 1, 4711, len(source) - 1):
            np.testing.assert_array_equal(split.images[i], source[i]["image"])
            assert split.labels[i] == source[i]["label"]


@pytest.mark.data
def test_mnist_5k_images_are_training_images_of_mnist(mnist):
    small = data.load("mnist_5k")
    real = dict(
        zip(
            (image.tobytes() for image in mnist.train.images),
            mnist.train.labels,
            strict=True,
        )
    )
    for split in (small.train, small.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert real[image.tobytes()] == label


@pytest.mark.data
def test_loading_changes_nothing_in_the_data_folder(mnist):
    folder = next(f for f in REAL if records.find(f, "mnist"))
    before = cache.fingerprint((folder / "mnist" / "3.0.1").iterdir())
    again = data.load("mnist", data_dir=folder)
    assert cache.fingerprint((folder / "mnist" / "3.0.1").iterdir()) == before
    np.testing.assert_array_equal(again.train.images, mnist.train.images)


@pytest.mark.data
def test_truncated_mnist_is_named(tmp_path):
    need("mnist")
    folder = next(f for f in REAL if records.find(f, "mnist"))
    copy = tmp_path / "mnist" / "3.0.1"
    copy.mkdir(parents=True)
    for path in (folder / "mnist" / "3.0.1").iterdir():
        shutil.copyfile(path, copy / path.name)
    path = copy / "mnist-train.array_record-00000-of-00001"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataFormatError, match=path.name):
        data.load("mnist", data_dir=tmp_path)
