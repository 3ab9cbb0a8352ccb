"""Densities over layers: published formulas, exact totals, composable rules."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gap
from core.errors import InputError, ShapeError
from gap import allocation


def network(key):
    shapes = {
        "conv1/kernel": (3, 3, 1, 8),
        "conv2/kernel": (3, 3, 8, 16),
        "fc.1/kernel": (64, 40),
        "head/kernel": (40, 10),
        "head/bias": (10,),
    }
    keys = jax.random.split(key, len(shapes))
    return {
        k: jax.random.normal(key, s)
        for (k, s), key in zip(shapes.items(), keys, strict=True)
    }


def kept(params, rules):
    masks = gap.magnitude_masks(params, rules)
    return {k: int(m.sum()) for k, m in masks.items() if m is not None}


def total(params):
    return sum(w.size for w in params.values() if w.ndim > 1)


def test_uniform_names_every_kernel(key):
    params = network(key)
    rules = gap.uniform(params, 0.25)
    assert [path for path, _ in rules] == [
        re.escape(p) for p in params if not p.endswith("bias")
    ]
    assert all(t == gap.Target(density=0.25) for _, t in rules)
    assert all(n == round(params[k].size / 4) for k, n in kept(params, rules).items())


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 0.9])
def test_erdos_renyi_follows_the_formula_under_one_scale(key, kernel, density):
    params = network(key)
    rules = gap.erdos_renyi(params, density, kernel=kernel)
    counts = kept(params, rules)
    assert sum(counts.values()) == round(density * total(params))
    shapes = {k: params[k].shape for k in counts}
    raw = {
        k: sum(s) / np.prod(s) if kernel else (s[-1] + s[-2]) / (s[-1] * s[-2])
        for k, s in shapes.items()
    }
    share = {k: counts[k] / params[k].size for k in counts}
    open_ = [k for k in counts if counts[k] < params[k].size]
    scales = [share[k] / raw[k] for k in open_]
    rounding = max(1 / (params[k].size * raw[k]) for k in open_)
    assert max(scales) - min(scales) <= 2 * rounding
    # A dense layer would exceed 1 under the scale of the others.
    assert all(raw[k] * max(scales) >= 1 - 1e-3 for k in counts if k not in open_)


def test_kernel_form_differs_from_plain_on_convolutions(key):
    params = network(key)
    plain = dict(gap.erdos_renyi(params, 0.1, kernel=False))
    kernel = dict(gap.erdos_renyi(params, 0.1))
    assert plain.keys() == kernel.keys()
    assert plain[re.escape("conv2/kernel")] != kernel[re.escape("conv2/kernel")]


positive = st.floats(0.01, 10.0)


@given(
    raw=hnp.arrays(np.float64, 5, elements=positive),
    sizes=hnp.arrays(np.int64, 5, elements=st.integers(1, 1000)),
    density=st.floats(0.0, 1.0),
)
def test_filling_meets_the_mean_with_the_one_scale_that_does(raw, sizes, density):
    shares = allocation.fill(raw, sizes.astype(float), density)
    assert np.all((shares >= 0) & (shares <= 1 + 1e-12))
    assert np.dot(shares, sizes) == pytest.approx(density * sizes.sum(), rel=1e-9)
    low, high = 0.0, 1000.0  # independently, by bisection
    for _ in range(200):
        middle = (low + high) / 2
        reached = np.dot(np.minimum(1, middle * raw), sizes)
        low, high = (middle, high) if reached < density * sizes.sum() else (low, middle)
    np.testing.assert_allclose(shares, np.minimum(1, high * raw), atol=1e-6)


@pytest.mark.parametrize("density", [0.0, 0.1, 0.37, 1.0])
def test_global_density_gives_the_masks_of_one_threshold(key, density):
    params = network(key)
    rules = gap.global_density(params, density)
    masks = gap.magnitude_masks(params, rules)
    selected = [(".*kernel", True)]
    expected = gap.global_magnitude_masks(params, density, selected)
    assert masks["head/bias"] is None
    for name, mask in expected.items():
        if mask is not None:
            np.testing.assert_array_equal(masks[name], mask)


@pytest.mark.parametrize(
    "allocate",
    [gap.uniform, gap.erdos_renyi, gap.global_density],
    ids=lambda f: f.__name__,
)
def test_other_patterns_and_rules_of_ones_own(key, allocate):
    params = network(key)
    selected = [
        ("conv2/kernel", True),
        (".*1/kernel", None),
        ("fc.*|head/kernel", True),
    ]
    rules = allocate(params, 0.3, selected, gap.Filter())
    assert {p for p, _ in rules} == {
        re.escape("conv2/kernel"),
        re.escape("head/kernel"),
    }
    assert all(t.pattern == gap.Filter() for _, t in rules)
    # An own rule in front wins, one behind takes what is left.
    own = [("head/kernel", 1.0), *rules, ("conv1/kernel", 0.5)]
    wanted = gap.targets(params, own)
    assert wanted["head/kernel"].density == 1.0
    assert wanted["conv1/kernel"].density == 0.5
    assert wanted["conv2/kernel"].pattern == gap.Filter()


def test_rounding_adds_up(key):
    leaves = {f"w{i}": jnp.ones((7, 1)) for i in range(5)}
    rules = allocation.by_density(leaves, [0.5] * 5, gap.Unstructured())
    counts = [t.count for _, t in rules]
    assert sum(counts) == 18  # 17.5, halves up
    assert set(counts) == {3, 4}


@pytest.mark.parametrize(
    ("pattern", "shape"),
    [
        (gap.KernelPattern(), (3, 3, 4, 6)),
        (gap.BCR(8, 6, split=0.5), (20, 13)),
        (gap.NM(4), (18, 3)),
        (gap.Block(4, 4), (10, 9)),
        (gap.Filter(), (7, 5)),
    ],
    ids=str,
)
def test_the_nearest_number_of_weights_by_trying_every_count(pattern, shape):
    counts = range(pattern.units(shape) + 1)
    reached = [pattern.weights(shape, c) for c in counts] + [int(np.prod(shape))]
    for wanted in np.linspace(0, np.prod(shape), 23):
        got = allocation.nearest(pattern, shape, float(wanted)).weights(shape)
        assert abs(got - wanted) == min(abs(n - wanted) for n in reached)


@pytest.mark.parametrize(
    "allocate", [gap.erdos_renyi, gap.global_density], ids=lambda f: f.__name__
)
def test_totals_count_weights_where_units_hold_few_of_them(key, allocate):
    keys = jax.random.split(key, 2)
    shapes = ((3, 3, 8, 16), (3, 3, 16, 16))
    params = {f"conv{i}": jax.random.normal(keys[i], shapes[i]) for i in range(2)}
    size = sum(w.size for w in params.values())
    counts = kept(params, allocate(params, 0.3, pattern=gap.KernelPattern()))
    assert abs(sum(counts.values()) - 0.3 * size) <= 2 * 2


def test_bad_requests_are_refused(key):
    params = network(key)
    with pytest.raises(InputError):
        gap.erdos_renyi(params, 1.5)
    with pytest.raises(InputError, match="no leaf"):
        gap.uniform({"b": jnp.ones(3)}, 0.5)
    with pytest.raises(ShapeError):
        gap.erdos_renyi(params, 0.5, [(".*", True)])
