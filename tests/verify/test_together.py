"""Several reduced networks in one search: lanes, forms, verdicts, the pool."""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import verify
from tests.strategies import seeds
from tests.verify.network_cases import CASES, Case, layers, mlp
from verify import bab, crown, exact, reduce, together
from verify.clauses import decide_leaf
from verify.pool import Batch, Pool
from verify.programs import Shape, programs
from verify.properties import Spec
from verify.reduce import Reducer, reduce_within
from verify.regions import Region


@settings(max_examples=200)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 6),
       st.integers(1, 4), seeds)  # fmt: skip
def test_lanes_hold_one_network_each_and_the_worst_sub_domains(
    item, lanes, parents, seed
):
    item = np.array(item)
    lower = np.random.default_rng(seed).integers(-5, 5, len(item)) / 2  # with ties
    slots, rest = together.assign(item, lower, lanes, parents)
    assert slots.shape == (lanes, parents)
    placed = slots[slots >= 0]
    np.testing.assert_array_equal(
        np.sort(np.concatenate([placed, rest])), np.arange(len(item))
    )
    assert slots[0, 0] >= 0  # a round fills its empty places from there
    for lane in slots:
        own = lane[lane >= 0]
        assert (lane[: len(own)] >= 0).all()
        assert len(set(item[own])) <= 1
    # What a lane is worth is its worst sub-domain; a network's lanes follow each other.
    worth = [
        part[::parents] for part in (np.sort(lower[item == k]) for k in np.unique(item))
    ]
    worth = np.sort(np.concatenate(worth))
    used = slots[slots[:, 0] >= 0]
    assert len(used) == min(lanes, len(worth))
    kept = [lower[lane[lane >= 0]].min() for lane in used]
    np.testing.assert_array_equal(kept, worth[:lanes])
    for k in np.unique(item):
        inside = lower[placed[item[placed] == k]]
        outside = lower[rest[item[rest] == k]]
        assert inside.max(initial=-np.inf) <= outside.min(initial=np.inf)


@functools.cache
def reducers(name, sizes):
    """A network, its hidden bounds, and both ways to reduce it."""
    case = CASES[name]
    params = case.params(np.random.default_rng(0))
    net = verify.network(case.fn, params, np.zeros(case.input_shape, np.float32))
    within = jax.jit(
        jax.vmap(functools.partial(reduce_within, net, sizes=sizes), (None, 0, 0))
    )
    bounds = jax.jit(jax.vmap(functools.partial(crown.hidden_bounds, net), (None, 0)))
    return case, net, bounds, Reducer(net), within


def ordered(params, hidden, bias):
    """A form with the neurons of each layer by their bounds, padded ones last."""
    order = [np.lexsort((b.lower, ~((b.lower < 0) & (b.upper > 0)))) for b in hidden]
    sizes = [len(o) for o in order]
    inputs = params["output"]["matrix"].shape[0] - sum(sizes)
    starts = inputs + np.cumsum([0, *sizes])
    rows = np.concatenate(
        [np.arange(inputs), *(o + at for o, at in zip(order, starts, strict=False))]
    )
    found = []
    for layer, own in zip(params["layers"], order, strict=True):
        matrix = np.asarray(layer["matrix"])
        found += [matrix[rows[: len(matrix)]][:, own], np.asarray(layer["bias"])[own]]
    found.append(np.asarray(params["output"]["matrix"])[rows])
    found.append(np.asarray(params["output"]["bias"]))
    ends = [np.asarray(b)[o] for b, o in zip(hidden, order, strict=True)
            for b in (b.lower, b.upper)]  # fmt: skip
    return found + ends + [np.asarray(b)[o] for b, o in zip(bias, order, strict=True)]


@pytest.mark.parametrize(
    ("name", "sizes", "width"),
    [("dense", (8, 8), 0.5), ("conv", (24, 30), 0.15)],
)
def test_a_form_reduced_within_a_program_is_that_of_the_reducer(name, sizes, width):
    case, net, hidden, reducer, within = reducers(name, sizes)
    rng = np.random.default_rng(1)
    params = case.params(rng)
    weights = net.prepare(params)
    x = rng.normal(size=(3, *case.input_shape))
    size = width * np.array([0.05, 0.4, 1.0]).reshape(3, *[1] * (x.ndim - 1))
    region = Region(np.float32(x - size), np.float32(x + size))
    found = hidden(weights, region)
    params_of, bounds, bias = within(weights, found, np.zeros(3, np.float32))
    counts = []
    for k in range(3):
        own = jax.tree.map(lambda a, k=k: np.asarray(a[k]), found)
        wanted = reducer(weights, own, sizes)
        counts.append([len(each) for each in wanted.index])
        assert all(n <= size for n, size in zip(counts[-1], sizes, strict=True))
        same = jax.tree.map(lambda a, k=k: np.asarray(a[k]), (params_of, bounds, bias))
        for a, b in zip(
            ordered(*same),
            ordered(wanted.params, wanted.hidden, wanted.bias),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        points = np.float32(rng.uniform(region.lower[k], region.upper[k]))
        y = reduce.apply(jax.tree.map(jnp.asarray, same[0]), points.ravel())
        np.testing.assert_allclose(
            y, np.ravel(case.fn(params, points)), rtol=1e-4, atol=1e-4
        )
    # From few to many unstable neurons, some layers not full: padding is compared too.
    assert np.sum(counts[0]) < np.sum(counts[2])
    assert (np.array(counts) < sizes).any()


CASE = Case(mlp, layers(4, 8, 8, 2), (4,))
CONFIG = verify.Config(timeout_s=60, batch=8, steps=5, heuristic="babsr")
REGIONS, CLAUSES, GAP = 5, 2, 0.05


class Several:
    """Boxes of one network, a two-row specification each; exact minima are known."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.params = CASE.params(rng)
        net = verify.network(mlp, self.params, np.zeros(4, np.float32))
        hidden = jax.jit(functools.partial(crown.hidden_bounds, net))
        reducer = Reducer(net)
        weights = net.prepare(self.params)
        self.items, self.minima, self.C = [], [], rng.normal(size=(CLAUSES, 1, 2))
        for _ in range(REGIONS):
            x = rng.normal(size=4)
            region = Region(np.float32(x - 0.8), np.float32(x + 0.8))
            reduced = reducer(weights, hidden(weights, region))
            self.items.append((reduced, region))
            self.minima.append([
                exact.dense_milp(
                    reduced.params, region, row[0], 0.0, reduced.hidden
                )
                for row in self.C
            ])  # fmt: skip

    def specs(self, holds):
        """Rows of every region: in those that hold all minima are positive by GAP."""
        minima = np.array(self.minima)
        gaps = np.full(minima.shape, GAP)
        gaps[~np.array(holds), 1] = -GAP
        d = np.float32(gaps - minima)
        return [
            [Spec(np.float32(row), d[k, c : c + 1]) for c, row in enumerate(self.C)]
            for k in range(REGIONS)
        ]


@functools.cache
def several(seed):
    return Several(seed)


def start(count, neurons):
    """One sub-domain for each clause, about which nothing is known."""
    return Batch(
        np.full(count, -100, np.float32),
        np.arange(count, dtype=np.int32),
        np.zeros((count, neurons), np.int8),
        np.full((count, neurons), 0.5, np.float32),
        np.zeros((count, neurons), np.float32),
        np.ones((count, 1), np.float32),
        np.arange(count),
    )


def unsafe(asked, specs, k):
    """The judge of region `k`, in float64, and its solver of leaves."""
    reduced, region = asked.items[k]

    def judge(x):
        assert ((x >= region.lower) & (x <= region.upper)).all()
        y = verify.falsify.evaluate(mlp, asked.params, x)
        return any((s.C @ y + s.d <= 0).all() for s in specs[k])

    def solve(clause, splits, weights):
        parts = np.split(splits, [8])
        return decide_leaf(reduced, region, specs[k][clause], parts, weights, judge)

    return judge, solve


def one_by_one(asked, specs, k):
    """The verdict of `bab.search` on one region."""
    reduced, region = asked.items[k]
    judge, solve = unsafe(asked, specs, k)
    found = bab.search(
        programs(Shape(4, (8, 8), 2, "float32")),
        reduced,
        jax.tree.map(jnp.asarray, region),
        specs[k],
        start(CLAUSES, 16),
        CONFIG,
        time.monotonic() + 60,
        is_unsafe=judge,
        solve_leaf=solve,
    )
    return found.status


def at_once(asked, specs, config=CONFIG, leaves=True, **given):
    """The outcome of `together.search` on all regions."""
    judges, solvers = zip(*(unsafe(asked, specs, k) for k in range(REGIONS)),
                          strict=True)  # fmt: skip

    def solve(clause, splits, weights):
        return solvers[clause // CLAUSES](clause % CLAUSES, splits, weights)

    return together.search(
        programs(Shape(4, (8, 8), 2, "float32")),
        together.stacked(asked.items),
        np.repeat(np.arange(REGIONS), CLAUSES),
        [spec for own in specs for spec in own],
        start(REGIONS * CLAUSES, 16),
        config,
        time.monotonic() + 60,
        is_unsafe=lambda k, x: judges[k](x),
        solve_leaf=solve if leaves else None,
        **given,
    )


@pytest.mark.parametrize("seed", range(3))
def test_verdicts_are_those_of_one_search_after_another(seed):
    asked = several(seed)
    holds = [True, False, True, True, False]
    specs = asked.specs(holds)
    alone = [one_by_one(asked, specs, k) for k in range(REGIONS)]
    assert alone == ["unsat" if k else "point" for k in holds]
    found = at_once(asked, specs)
    assert sorted(found.points) == [1, 4]
    for k, x in found.points.items():
        assert unsafe(asked, specs, k)[0](x)
    proven = (found.open == 0) & ~np.isin(np.arange(REGIONS), list(found.points))
    assert proven.tolist() == holds
    assert (found.lower[proven] == np.inf).all()
    assert (found.domains >= 2).all()
    assert found.stuck <= set(found.points)


def test_what_is_left_is_open_and_said_so():
    asked = several(0)
    specs = asked.specs([True, True, False, True, True])
    one = at_once(asked, specs, max_rounds=1)
    assert one.rounds == 1
    assert 0 < one.domains.sum() <= CONFIG.batch
    still = (one.open > 0) | np.isin(np.arange(REGIONS), list(one.points))
    assert still[2]
    assert still.sum() >= 4
    assert (one.lower[one.open > 0] <= 0).all()
    assert (one.lower[one.open == 0] == np.inf).all()
    full = at_once(asked, specs, dataclasses.replace(CONFIG, max_domains=1))
    assert full.rounds == 0
    assert full.full
    assert not one.full
    assert (full.open == CLAUSES).all()
    assert (full.lower == -100).all()


def test_a_network_whose_leaf_nothing_decides_is_stuck():
    """The unsafe region, where no point is believed and no leaf is solved."""
    asked = several(0)
    specs = asked.specs([True, True, False, True, True])
    judged = []

    def never(k, x):
        judged.append(k)
        return False

    found = together.search(
        programs(Shape(4, (8, 8), 2, "float32")),
        together.stacked(asked.items),
        np.repeat(np.arange(REGIONS), CLAUSES),
        [spec for own in specs for spec in own],
        start(REGIONS * CLAUSES, 16),
        CONFIG,
        time.monotonic() + 60,
        is_unsafe=never,
    )
    assert 2 in judged
    assert not found.points
    assert 2 in found.stuck
    assert found.open[2] > 0
    assert found.lower[2] == -np.inf
    safe = [k for k in range(REGIONS) if k not in found.stuck]
    assert safe
    assert (found.open[safe] == 0).all()


def test_few_programs_compile():
    """One a number of lanes, whatever the regions and specifications."""
    programs.cache_clear()
    for seed in (0, 1):
        at_once(several(seed), several(seed).specs([True, False] * 2 + [True]))
    traces = programs(Shape(4, (8, 8), 2, "float32")).traces
    assert set(traces) <= {"rounds1x1", "rounds4x1"}
    assert set(traces.values()) == {1}


def test_lanes_are_few_where_little_is_open_and_shared_where_weights_are_large():
    forms = together.stacked(several(0).items)
    config = dataclasses.replace(CONFIG, batch=64)
    assert together._lanes(forms, 4, config) == (4, 1)
    assert together._lanes(forms, 5, config) == (32, 1)
    large = forms._replace(params=np.zeros((1, together.IN_CACHE // 4 + 1), np.float32))
    assert together._lanes(large, 1000, config) == (4, 8)


def test_a_pool_keeps_what_is_chosen():
    rng = np.random.default_rng(0)
    pool, left = Pool(3, 2, 10_000), {}
    number = 0
    for _ in range(30):
        count = int(rng.integers(1, 60))
        ids = np.arange(number, number + count)
        number += count
        lower = np.float32(rng.normal(size=count))
        wide = np.repeat(ids[:, None], 3, 1)
        batch = Batch(lower, ids.astype(np.int32), (wide % 100).astype(np.int8),
                      np.float32(wide % 7), np.float32(wide % 5),
                      np.float32(wide[:, :2]), ids)  # fmt: skip
        pool.add(batch)
        left |= dict(zip(ids.tolist(), lower.tolist(), strict=True))
        chosen = rng.uniform(size=len(pool)) < rng.choice([0.0, 0.5, 0.9, 1.0])
        gone = pool.clauses[~chosen].tolist()
        pool.keep(chosen)
        for k in gone:
            del left[k]
        assert len(pool) == len(left)
        assert dict(zip(pool.clauses.tolist(), pool.bounds.tolist(), strict=True)) == (
            left
        )
    assert left
    every = pool.take(len(pool))
    for field, modulus in ((every.splits, 100), (every.alpha, 7), (every.beta, 5)):
        np.testing.assert_array_equal(
            field, np.repeat(every.node[:, None] % modulus, 3, 1)
        )
    np.testing.assert_array_equal(every.weights[:, 0], every.node)
    np.testing.assert_array_equal(every.clause, every.node)
