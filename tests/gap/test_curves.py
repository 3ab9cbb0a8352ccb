"""Sensitivity curves, and the allocation that they lead to."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gap
from core.errors import InputError
from gap.curves import Curves
from tests.strategies import seeds


def network(key):
    a, b, c = jax.random.split(key, 3)
    params = {
        "one": {"kernel": jax.random.normal(a, (6, 8)), "bias": jnp.zeros(8)},
        "two": {"kernel": jax.random.normal(b, (8, 4))},
    }
    x = jax.random.normal(c, (10, 6))

    def loss(params):
        h = jnp.tanh(x @ params["one"]["kernel"] + params["one"]["bias"][None])
        return jnp.mean(jnp.square(h @ params["two"]["kernel"]))

    return loss, params


@pytest.mark.parametrize("pattern", [gap.Unstructured(), gap.NM(2), gap.Filter()])
def test_curves_are_the_losses_of_networks_with_one_leaf_pruned(key, pattern):
    loss, params = network(key)
    densities = (0.75, 0.25, 0.5)
    curves = gap.sensitivity(loss, params, densities=densities, pattern=pattern)
    assert curves.paths == ("one/kernel", "two/kernel")
    for path, kept, losses in zip(
        curves.paths, curves.kept, curves.losses, strict=True
    ):
        assert np.all(np.diff(kept) >= 0)
        for i, density in enumerate(sorted(densities)):
            target = gap.Target(density=density, pattern=pattern)
            masks = gap.magnitude_masks(params, [(path, target)])
            pruned = gap.apply_masks(params, masks)
            assert losses[i] == pytest.approx(float(loss(pruned)), rel=1e-5)
            name, leaf = path.split("/")
            assert kept[i] == int(masks[name][leaf].sum())
        assert losses[-1] == pytest.approx(float(loss(params)), rel=1e-6)
    assert all(path in str(curves) for path in curves.paths)


def test_the_loss_is_traced_once_for_every_leaf(key):
    loss, params = network(key)
    traces = []

    def counted(params):
        traces.append(1)
        return loss(params)

    gap.sensitivity(counted, params, densities=[0.1, 0.2, 0.3, 0.4, 0.5])
    assert len(traces) == 1 + 2  # the dense network and two leaves


def made(kept, losses):
    paths = tuple(f"w{i}" for i in range(len(kept)))
    return Curves(paths, np.array(kept), np.array(losses, float), gap.Unstructured())


def predicted(curves, counts):
    return sum(
        np.interp(c, k, x)
        for c, k, x in zip(counts, curves.kept, curves.losses, strict=True)
    )


@given(seed=seeds, leaves=st.integers(1, 3))
def test_allocation_is_the_best_for_convex_curves(seed, leaves):
    """Brute force over every way to keep the total, one weight at a time."""
    rng = np.random.default_rng(seed)
    kept, losses = [], []
    for _ in range(leaves):
        grid = np.sort(rng.choice(np.arange(9), 3, replace=False))
        grid = np.array([*grid, 9])
        slopes = np.sort(rng.integers(-20, 3, 3))
        kept.append(grid)
        losses.append(np.cumsum([60, *(slopes * np.diff(grid))]))
    curves = made(kept, losses)
    least = sum(int(k[0]) for k in kept)
    total = int(rng.integers(least, 9 * leaves + 1))
    rules = gap.allocate(curves, total / (9 * leaves))
    counts = [t.count for _, t in rules]
    assert sum(counts) == total
    best = min(
        predicted(curves, each)
        for each in itertools.product(*(range(k[0], 10) for k in kept))
        if sum(each) == total
    )
    assert predicted(curves, counts) == pytest.approx(best, abs=1e-9)


@given(seed=seeds)
def test_allocation_of_any_curves_never_stops_above_the_hull(seed):
    """At the totals of hull vertices it is as good as any choice of measured points."""
    rng = np.random.default_rng(seed)
    grid = np.array([0, 2, 5, 8, 10])
    curves = made([grid, grid], rng.integers(0, 30, (2, 5)))
    hull = [
        np.array(
            [
                min(
                    [losses[i]]
                    + [
                        np.interp(grid[i], grid[[a, b]], losses[[a, b]])
                        for a in range(i)
                        for b in range(i + 1, 5)
                    ]
                )
                for i in range(5)
            ]
        )
        for losses in curves.losses
    ]
    total = int(rng.integers(21))
    counts = [t.count for _, t in gap.allocate(curves, total / 20)]
    got = sum(np.interp(c, grid, h) for c, h in zip(counts, hull, strict=True))
    choices = [
        curves.losses[0][i] + curves.losses[1][j]
        for i, j in itertools.product(range(5), repeat=2)
        if grid[i] + grid[j] == total
    ]
    assert sum(counts) == total
    assert all(got <= choice + 1e-9 for choice in choices)


def test_rules_keep_the_total_and_spare_what_matters(key):
    loss, params = network(key)

    def mostly_first(params):
        return loss(params) + 100 * jnp.sum(
            jnp.square(params["one"]["kernel"] - original)
        )

    original = params["one"]["kernel"]
    curves = gap.sensitivity(mostly_first, params, densities=[0.05, 0.2, 0.5])
    rules = gap.allocate(curves, 0.4)
    masks = gap.magnitude_masks(params, rules)
    sizes = {"one": 48, "two": 32}
    kept = {k: int(masks[k]["kernel"].sum()) for k in sizes}
    assert sum(kept.values()) == 32
    assert kept["one"] / 48 > kept["two"] / 32
    assert masks["one"]["bias"] is None


def test_a_pattern_of_units_gets_densities(key):
    loss, params = network(key)
    curves = gap.sensitivity(loss, params, pattern=gap.Filter(), densities=[0.25, 0.5])
    rules = gap.allocate(curves, 0.5)
    assert all(t.pattern == gap.Filter() for _, t in rules)
    kept = [t.weights(s) for (_, t), s in zip(rules, [(6, 8), (8, 4)], strict=True)]
    assert abs(sum(kept) - 40) <= (6 + 8) / 2


def test_a_unit_of_few_weights_still_meets_the_total(key):
    """A kept kernel holds 4 of 9 weights: a share of weights is no share of units."""
    shapes = {"a": (3, 3, 4, 8), "b": (3, 3, 8, 16)}
    params = {k: jax.random.normal(key, s) for k, s in shapes.items()}
    total = sum(w.size for w in params.values())

    def loss(p):
        return sum(jnp.sum((p[k] - params[k]) ** 2) for k in p)

    pattern = gap.KernelPattern()
    curves = gap.sensitivity(loss, params, densities=[0.1, 0.5, 1.0], pattern=pattern)
    assert curves.shapes == tuple(shapes.values())
    for density in (0.1, 0.3, 0.4):
        rules = gap.allocate(curves, density)
        masks = gap.magnitude_masks(params, rules)
        kept = sum(int(m.sum()) for m in masks.values())
        assert abs(kept - density * total) <= 2 * 2  # half a kernel for each leaf
    # More than any mask of the pattern keeps: a leaf stays dense.
    kept = [t.weights(shapes[k]) for k, t in gap.allocate(curves, 0.9)]
    assert kept[0] == 4 * 32 or kept[0] == 9 * 32
    assert kept[1] == 9 * 128


def test_bad_requests_are_refused(key):
    loss, params = network(key)
    with pytest.raises(InputError):
        gap.sensitivity(loss, params, densities=[])
    with pytest.raises(InputError):
        gap.sensitivity(loss, params, densities=[1.5])
    curves = made([[2, 4]], [[3, 1]])
    with pytest.raises(InputError, match="lower densities"):
        gap.allocate(curves, 0.25)
    with pytest.raises(InputError):
        gap.allocate(curves._replace(losses=np.array([[np.nan, 1.0]])), 0.75)
