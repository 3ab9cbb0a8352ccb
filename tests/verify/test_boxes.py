"""Input splitting: verdicts, bounds of boxes, their proofs, neurons inside of boxes."""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from tests.verify.network_cases import Case, layers, mlp
from verify import box_bounds, boxed_neurons, boxes, certificate, crown, exact
from verify.boxed_neurons import Effort
from verify.clauses import padded
from verify.properties import Property, Spec
from verify.regions import Region
from verify.search import Verifier
from verify.types import Bounds

CASE = Case(mlp, layers(3, 8, 8, 2), (3,))
CONFIG = verify.Config(
    timeout_s=60, branching="input", restarts=0, heuristic="babsr", steps=5
)
GAP = 0.02
"""How far properties are from being the other way round."""


@functools.cache
def verifier():
    """One for all tests of this file, so that they share what is compiled."""
    return Verifier(mlp, CASE.params(np.random.default_rng(0)), (3,))


def outputs(params, x):
    """The network in float64, points on the first axes."""
    x = np.asarray(x, np.float64)
    for k in range(3):
        x = x @ np.float64(params[f"fc{k}"]) + np.float64(params[f"fc{k}_bias"])
        x = np.maximum(x, 0) if k < 2 else x
    return x


def least(params, region, row):
    """The exact minimum of a row, by a mixed-integer program in float64."""
    low, high, before = np.asarray(region.lower), np.asarray(region.upper), 0
    parts, hidden = [], []
    for k in range(3):
        matrix, bias = (np.float64(params[f"fc{k}{end}"]) for end in ("", "_bias"))
        parts.append({"matrix": np.pad(matrix, ((before, 0), (0, 0))), "bias": bias})
        above, below = np.maximum(matrix, 0), np.minimum(matrix, 0)
        ends = low @ above + high @ below + bias, high @ above + low @ below + bias
        hidden.append(Bounds(*ends))
        low, high = (np.maximum(end, 0) for end in ends)
        before += len(matrix)
    form = {"layers": parts[:2], "output": parts[2]}
    return exact.dense_milp(form, region, row, 0.0, hidden[:2])


@functools.cache
def drawn(seed):
    """A network, a box, two rows, and the exact minimum of each."""
    rng = np.random.default_rng(seed)
    params = CASE.params(rng)
    x = rng.normal(size=3)
    region = verify.box(x - 1.2, x + 1.2)
    C = rng.normal(size=(2, 2))
    return params, region, C, np.array([least(params, region, row) for row in C])


def problem(seed, gap):
    """A property of two clauses; the first holds, or does not, by `gap`."""
    params, region, C, minima = drawn(seed)
    prop = verify.linear(region, C, np.array([gap, 2 * GAP]) - minima)
    return verify.Problem(mlp, params, prop)


def is_real(asked, witness):
    """Whether a witness violates a property."""
    x, y = witness
    np.testing.assert_allclose(y, outputs(asked.params, x), rtol=1e-9, atol=1e-9)
    return verify.properties.violates(asked.property, x, y)


def test_verdicts_are_those_of_the_mixed_integer_program():
    domains = 0
    for seed in range(5):
        for gap in (GAP, -GAP):
            asked = problem(seed, gap)
            verdict = verifier()(asked.params, asked.property, CONFIG)
            assert verdict.status == ("unsat" if gap > 0 else "sat"), (seed, gap)
            assert gap > 0 or is_real(asked, verdict.witness)
            domains += verdict.domains
    assert domains > 50  # they are not decided at once


def various(rng, low, width):
    """64 boxes, some of them flat in some dimensions."""
    size = width * rng.uniform(0, 0.7, (64, 1)) * rng.integers(0, 2, (64, 3))
    return low + (width - size) * rng.uniform(size=(64, 3)), size


def alike(rng, low, width):
    """64 large boxes that overlap."""
    size = width * rng.uniform(0.6, 0.7, (64, 3))
    return low + (width - size) * rng.uniform(0.3, 0.7, (64, 3)), size


@functools.cache
def bounded(seed, kind=various):
    """Bounds of 64 boxes within a region."""
    params, region, C, _ = drawn(seed)
    start, size = kind(
        np.random.default_rng(seed + 100),
        np.asarray(region.lower),
        np.asarray(region.upper) - np.asarray(region.lower),
    )
    low = np.float32(start)
    high = np.maximum(low, np.float32(start + size))
    specs = [Spec(np.float32(row[None]), np.zeros(1, np.float32)) for row in C]
    found = jax.tree.map(
        np.asarray,
        verifier().boxes._bound(
            verifier().prepare(params),
            *map(jnp.asarray, (low, high)),
            *(jnp.asarray(np.stack(part)) for part in zip(*specs, strict=True)),
            None,
            True,
        ),
    )
    return params, np.float64(C), low, high, specs, found


def sampled(params, C, low, high, count=2000):
    """Rows at random points and corners of boxes, [B, points, rows]."""
    share = np.random.default_rng(0).uniform(size=(count, 1, 3))
    share[: count // 2] = share[: count // 2] > 0.5
    x = np.float64(low) + (np.float64(high) - low) * share
    return np.moveaxis(outputs(params, x) @ C.T, 0, 1)


@pytest.mark.parametrize("seed", range(3))
def test_bounds_of_boxes_are_below_all_samples(seed):
    params, C, low, high, _, found = bounded(seed)
    reached = sampled(params, C, low, high).min(1)
    assert (found.lower - found.slack <= reached).all()
    assert (found.lower <= reached + 1e-5).all()
    first = np.float64(params["fc0"])
    z = 0.5 * (np.float64(low) + high) @ first + np.float64(params["fc0_bias"])
    np.testing.assert_allclose(found.hidden[0].lower + found.hidden[0].upper, 2 * z,
                               rtol=1e-4, atol=1e-5)  # fmt: skip
    assert ((found.point >= low) & (found.point <= high)).all()
    at = (outputs(params, found.point) @ C.T).min(-1)
    np.testing.assert_allclose(found.margin, at, rtol=1e-4, atol=1e-5)
    open_ = ~(found.lower > found.slack).all(-1)
    wanted = (high > low) & open_[:, None]  # what is refuted needs no halving
    np.testing.assert_array_equal(np.isfinite(found.score), wanted)
    flat = (high == low).all(-1)
    assert 0 < flat.sum() < 64
    np.testing.assert_allclose(found.lower[flat], reached[flat], rtol=1e-4, atol=1e-5)


@jax.jit
def of_crown(weights, low, high, spec):
    """CROWN's bounds of the rows on each box."""

    def one(low, high):
        net = verifier().network
        proof = crown.CrownConfig(margin=True)
        hidden = crown.hidden_bounds(net, weights, Region(low, high), proof)
        return crown.spec_bound(net, weights, Region(low, high), spec, hidden)

    return jax.vmap(one)(low, high)


def test_optimised_slopes_are_slopes_and_never_worse_than_crowns():
    gained, moved = 0.0, np.zeros(2)
    for seed in range(3):
        params, _, low, high, specs, found = bounded(seed)
        rows = Spec(*(np.concatenate(part) for part in zip(*specs, strict=True)))
        plain = np.asarray(of_crown(verifier().prepare(params), low, high, rows))
        assert (found.lower >= plain - 1e-5 * (1 + np.abs(plain))).all()
        gained = max(gained, (found.lower - plain).max())
        for part in found.slopes:
            assert part.shape == (64, 2, 8)
            assert (np.isnan(part) | ((part >= 0) & (part <= 1))).all()
        moved += [np.mean(~np.isnan(part)) for part in found.slopes]
    assert gained > 0.05
    assert (moved > 0).all()


def proven(seed):
    """A property that holds, narrowly, and its certificate."""
    asked = problem(seed, GAP)
    config = dataclasses.replace(CONFIG, certificate=True)
    return asked, verifier()(asked.params, asked.property, config).certificate


def with_slopes(found, change):
    """A certificate whose leaves have other slopes."""
    leaves = tuple(
        dataclasses.replace(leaf, slopes=tuple(map(change, leaf.slopes)))
        for leaf in found.leaves
    )
    return dataclasses.replace(found, leaves=leaves)


def test_proofs_by_boxes_need_their_slopes():
    weaker = 0
    for seed in range(2):
        asked, found = proven(seed)
        checked = certificate.check(asked, found)
        assert checked.ok, checked.why
        assert len(found.leaves) > 2
        bare = with_slopes(found, lambda part: tuple(end[:0] for end in part))
        margin = certificate.check(asked, bare).least_margin
        assert margin < checked.least_margin
        weaker += margin <= 0
    assert weaker


@pytest.mark.parametrize("bad", [-1e-6, 1 + 1e-6, np.nan, np.inf])
def test_a_slope_outside_of_its_range_is_refused(bad):
    asked, found = proven(0)
    at = next(
        k for k, leaf in enumerate(found.leaves) if any(len(s[0]) for s in leaf.slopes)
    )

    def spoil(part):
        values = part[1].copy()
        values[:1] = bad
        return part[0], values

    one = dataclasses.replace(found, leaves=found.leaves[at : at + 1])
    (leaf,) = with_slopes(one, spoil).leaves
    leaves = (*found.leaves[:at], leaf, *found.leaves[at + 1 :])
    checked = certificate.check(asked, dataclasses.replace(found, leaves=leaves))
    assert not checked.ok
    assert "slopes" in checked.why


@pytest.fixture
def small_batches(monkeypatch):
    """Neurons are split in few boxes at once, so that little is compiled."""
    monkeypatch.setattr(boxed_neurons, "BOXES", 8)


def test_splitting_neurons_in_all_boxes_changes_no_verdict(monkeypatch, small_batches):
    monkeypatch.setattr(boxes, "HARD", 0)
    search, closed = verifier().boxes, 0
    splitter = search.splitter

    def counting(*args):
        nonlocal closed
        found = splitter(*args)
        closed += int(found.closed.sum())
        return found

    monkeypatch.setattr(search, "splitter", counting)
    for seed in range(4):
        for gap in (GAP, -GAP):
            asked = problem(seed, gap)
            verdict = verifier()(asked.params, asked.property, CONFIG)
            assert verdict.status == ("unsat" if gap > 0 else "sat"), (seed, gap)
            assert gap > 0 or is_real(asked, verdict.witness)
    assert closed


@pytest.mark.parametrize("seed", [0, 5])
def test_no_box_with_a_counterexample_is_closed(monkeypatch, small_batches, seed):
    """Some boxes have one, the last of them barely; bounds leave all others open."""
    monkeypatch.setattr(boxed_neurons, "ROUNDS", 100)
    params, C, low, high, specs, found = bounded(seed, alike)
    low, high = low[:16], high[:16]
    ends = zip(np.float64(low), np.float64(high), strict=True)
    minima = np.array([[least(params, Region(*e), row) for row in C] for e in ends])
    d = -1e-5 - np.sort(minima, 0)[4]
    specs = [s._replace(d=np.float32([k])) for s, k in zip(specs, d, strict=True)]
    found = jax.tree.map(lambda a: a[:16], found)
    found = found._replace(lower=found.lower + np.float32(d))
    unsafe = (minima + d <= 0).any(-1)
    assert 5 <= unsafe.sum() < 12

    def is_real(x):
        return bool((outputs(params, x) @ C.T + d <= 0).any())

    def tried(own, is_unsafe):
        return verifier().boxes.splitter(
            verifier().prepare(params),
            (low[own], high[own]),
            jax.tree.map(lambda a: a[own], found),
            specs,
            CONFIG,
            time.monotonic() + 60,
            is_unsafe,
            Effort(),
        )

    closed, points = np.zeros(16, bool), 0
    for own in np.arange(16).reshape(2, 8):
        closed[own] = tried(own, lambda x: False).closed
        point = tried(own, is_real).point
        if point is not None:
            assert is_real(point)
            assert ((point >= low[own]) & (point <= high[own])).all(-1).any()
            points += 1
    assert points
    alone = (found.lower > found.slack).all(-1)
    assert not (closed & unsafe).any()
    assert (closed & ~alone).any()


def test_two_programs_serve_all_boxes():
    """One that returns slopes, for certificates, and one that does not."""
    for seed in (0, 1):
        for made in (False, True):
            config = dataclasses.replace(CONFIG, certificate=made)
            asked = problem(seed, GAP)
            verdict = verifier()(asked.params, asked.property, config)
            assert verdict.status == "unsat"
    assert verdict.info["programs"] == {f"boxes{box_bounds.CHUNK}": 2}


def shifted(p, x):
    return x * p["w"] + p["b"]


def test_what_float32_leaves_in_doubt_float64_decides():
    """x + 100 is above 0.001: positive, by less than rounding may add in float32."""
    params = {"w": np.ones(1, np.float32), "b": np.full(1, 100, np.float32)}
    region = verify.box(np.array([-99.999]), np.array([0.0]))
    prop: Property = verify.linear(region, np.ones((1, 1)), [0.0])
    own = Verifier(shifted, params, (1,))
    verdict = own(params, prop, CONFIG)
    assert verdict.status == "unsat"
    assert verdict.domains == 3  # both halves: a doubt is not looked into before
    specs = padded(prop.clauses, np.float32)
    inside = jax.tree.map(jnp.asarray, verify.regions.outward(region, np.float32))
    given = own.prepare(params), inside, specs, CONFIG, time.monotonic() + 60
    assert own.boxes(*given, is_unsafe=lambda x: False).status == "unknown"
    refuse = lambda low, high: np.full(len(low), -1.0)  # noqa: E731
    refused = own.boxes(*given, is_unsafe=lambda x: False, exact=refuse)
    assert refused.status == "unknown"


def test_bounds_in_float64_are_exact_for_any_number_of_boxes():
    params = {"w": np.float32([2]), "b": np.float32([-1])}
    rng = np.random.default_rng(0)
    low = rng.normal(size=(box_bounds.CHUNK + 6, 1))
    high = low + rng.uniform(size=low.shape)
    specs = [Spec(np.ones((1, 1)), np.zeros(1)), Spec(-np.ones((1, 1)), np.ones(1))]
    found = box_bounds.DoubleBounds(shifted, (1,))(params, low, high, specs)
    assert found.dtype == np.float64
    wanted = np.minimum(2 * low - 1, 2 - 2 * high)[:, 0]
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)
    assert (found <= wanted).all()
