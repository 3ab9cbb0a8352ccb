"""The definition of a winning ticket, the correlation indicator, populations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InputError, ShapeError, UnknownNameError
from gap import lottery
from gap.lottery import TicketTable, judge

RATES = (0.005, 0.1)


def table(dense=(90, 92), lt=(91, 91.8), rr=(85, 87), sdt=(84, 85), spread=0.0):
    def runs(means):
        return [[m - spread, m, m + spread] for m in means]

    return TicketTable(RATES, *map(runs, (dense, lt, rr, sdt)))


def held(verdict):
    return [bool(c) for c in verdict.conditions]


def test_a_jackpot_passes_all_five():
    verdict = judge(table(), 0.168)
    assert held(verdict) == [True] * 5
    assert (verdict.kind, verdict.winning) == ("jackpot", True)
    five = verdict.evidence[4]
    assert (float(five.left), float(five.right)) == pytest.approx((91.8, 92.0))
    assert float(five.rate) == pytest.approx(0.1)
    assert float(five.margin) == pytest.approx(0.3, abs=1e-4)
    three = verdict.evidence[2]
    assert float(three.margin) == pytest.approx(91.8 - 87 - 0.5, abs=1e-4)
    assert verdict.text().count("holds") == 5
    assert "density (length of training not tested): holds" in verdict.text()


def test_the_same_rate_alone_is_a_secondary_prize():
    # At 0.005 the ticket matches its own dense network, which is not well trained.
    verdict = judge(table(lt=(90, 89)), 0.168)
    assert held(verdict) == [True, True, True, True, False]
    assert (verdict.kind, verdict.winning) == ("secondary prize", False)
    assert float(verdict.evidence[3].rate) == pytest.approx(0.005)
    assert float(verdict.margins[lottery.CONDITIONS[4]]) == pytest.approx(
        90 - 92 + 0.5, abs=1e-4
    )


def test_the_best_reinitialisation_over_all_rates_counts():
    # L beats R at each rate where it stands alone, but not the best R.
    verdict = judge(table(lt=(89.8, 80), rr=(80, 90), sdt=(70, 70)), 0.168)
    assert held(verdict) == [True, True, False, True, False]
    assert verdict.kind == "none"
    assert float(verdict.evidence[2].right) == 90


def test_a_small_dense_network_as_good_is_no_ticket():
    assert held(judge(table(sdt=(91.5, 80)), 0.168))[1] is False


@pytest.mark.parametrize(
    ("density", "holds"), [(0.8**3, False), (0.8**4, True), (0.055, True)]
)
def test_a_trivial_density_is_no_ticket(density, holds):
    verdict = judge(table(), density)
    assert held(verdict)[0] is holds
    assert (verdict.kind == "jackpot") is holds


def test_short_training_fails_against_a_reference():
    # Under-trained: everything passes until the dense network is trained for long.
    assert judge(table(), 0.168).kind == "jackpot"
    assert judge(table(), 0.168, reference=95.0).kind == "none"
    assert judge(table(), 0.168, reference=92.4).kind == "jackpot"


def test_the_first_condition_shows_the_part_that_fails():
    short = judge(table(), 0.168, reference=95.0)
    one = short.evidence[0]
    assert not bool(one.holds)
    assert float(one.margin) == pytest.approx(92 - 95 + 0.5, abs=1e-4)
    assert (float(one.left), float(one.right)) == pytest.approx((92.0, 95.0))
    assert float(one.rate) == pytest.approx(0.1)
    assert "long enough: fails, 92 against 95, margin -2.5" in short.text()
    dense = judge(table(), 0.8, reference=90.0).evidence[0]  # long enough, not sparse
    assert not bool(dense.holds)
    assert float(dense.margin) == pytest.approx(0.41 - 0.8)
    assert (float(dense.left), float(dense.right)) == pytest.approx((0.8, 0.41))
    lost = judge(table(dense=(np.nan, 92)), 0.168, reference=90.0).evidence[0]
    assert not bool(lost.holds)
    assert np.isnan(float(lost.margin))
    spread = judge(table(spread=1.0), 0.168, reference=95.0).evidence[0]
    assert float(spread.stderr) == pytest.approx(1 / np.sqrt(3), rel=1e-4)


def test_one_rate_for_all_three_is_stricter():
    # 3 and 5 hold at 0.1 only, 4 at 0.005 only.
    split = table(dense=(80, 92), lt=(80, 91.3), rr=(60, 60), sdt=(50, 50))
    loose = judge(split, 0.168, tol=0.6)
    strict = judge(split, 0.168, tol=0.6, same_lr=True)
    assert held(loose)[2:] == [True, True, False]
    assert held(strict)[2:] == [True, True, False]
    assert len({float(e.rate) for e in strict.evidence[2:]}) == 1
    apart = table(dense=(90, 92), lt=(90, 91), rr=(50, 90.2), sdt=(50, 50))
    assert judge(apart, 0.168).kind == "secondary prize"
    assert judge(apart, 0.168, same_lr=True).kind == "none"


@pytest.mark.parametrize(
    ("condition", "at", "below"),
    [(2, 85.5, 85.6), (3, 87.5, 87.6), (4, 89.5, 89.4), (5, 91.5, 91.4)],
)
def test_boundaries(condition, at, below):
    """A gap must be exceeded, a tolerance may be used up."""
    means = {
        2: lambda x: table(dense=(50, 50), lt=(x, x), rr=(50, 50), sdt=(85, 85)),
        3: lambda x: table(dense=(50, 50), lt=(x, x), rr=(87, 87), sdt=(50, 50)),
        4: lambda x: table(dense=(90, 90), lt=(x, x), rr=(50, 50), sdt=(50, 50)),
        5: lambda x: table(dense=(92, 99), lt=(x, x + 7), rr=(50, 50), sdt=(50, 50)),
    }[condition]
    expected = (False, True) if condition < 4 else (True, False)
    got = tuple(held(judge(means(x), 0.1))[condition - 1] for x in (at, below))
    assert got == expected


@functools.partial(jax.jit, static_argnums=1)
def judged(arrays, same_lr):
    return judge(TicketTable(*arrays), 0.1, same_lr=same_lr)


@given(
    st.lists(
        st.lists(
            st.sampled_from([70.0, 89.6, 90.0, 90.4, 91.0, np.nan]),
            min_size=8,
            max_size=8,
        ),
        min_size=2,
        max_size=2,
    ),
    st.booleans(),
)
def test_against_the_definition_in_words(rows, same_lr):
    """The quantifiers written out, one rate after the other."""
    d, low, r, s = (np.array(rows)[:, 2 * i : 2 * i + 2] for i in range(4))
    arrays = [np.asarray(x, np.float32) for x in (RATES, d, low, r, s)]
    verdict = judged(arrays, same_lr)
    d, low, r, s = (x.mean(1) for x in (d, low, r, s))

    def most(x):
        return max(x) if not np.isnan(x).any() else np.nan

    eps = 1e-4
    rates = range(2)
    live = [x for x in low if not np.isnan(x)]
    two = bool(live) and max(live) - most(s) > 0.5 + eps
    three = [bool(low[i] - most(r) > 0.5 + eps) for i in rates]
    four = [bool(low[i] - d[i] >= -0.5 - eps) for i in rates]
    five = [bool(low[i] - most(d) >= -0.5 - eps) for i in rates]
    if not same_lr:
        assert held(verdict) == [True, two, any(three), any(four), any(five)]
        return
    all_three = any(a and b and c for a, b, c in zip(three, four, five, strict=True))
    secondary = any(a and b for a, b in zip(three, four, strict=True))
    kind = "jackpot" if all_three else "secondary prize" if secondary else "none"
    assert verdict.kind == (kind if two else "none")


def test_under_jit_and_vmap_as_outside():
    one = table(spread=0.3)
    arrays = [jnp.asarray(x, jnp.float32) for x in one]
    inside = jax.jit(lambda *a: judge(TicketTable(*a), 0.168))(*arrays)
    assert inside.kind == judge(one, 0.168).kind
    stacked = [jnp.stack([x, x - 1]) for x in arrays[1:]]
    batch = jax.jit(jax.vmap(lambda *a: judge(TicketTable(arrays[0], *a), 0.168)))(
        *stacked
    )
    for a, b in zip(batch.evidence, inside.evidence, strict=True):
        assert bool(a.holds[1]) == bool(b.holds)
        np.testing.assert_allclose(a.margin[1], b.margin, atol=1e-4)


def test_standard_errors_are_of_the_paired_difference():
    d = np.array([[90.0, 91.0, 92.0], [80.0, 80.0, 80.0]])
    low = d + np.array([[0.3, 0.1, 0.2], [0.0, 0.0, 0.0]])
    verdict = judge(TicketTable(RATES, d, low, d - 30, d - 30), 0.1)
    got = verdict.evidence[3]
    assert float(got.stderr) == pytest.approx(0.1 / np.sqrt(3), rel=1e-3)
    single = judge(TicketTable(RATES, d[:, :1], low[:, :1], d[:, :1], d[:, :1]), 0.1)
    assert np.isnan(single.evidence[3].stderr)


def test_tables_and_tolerances_are_checked():
    with pytest.raises(ShapeError, match="lt \\(1, 3\\)"):
        judge(table()._replace(lt=[[1.0, 2.0, 3.0]]), 0.1)
    with pytest.raises(ShapeError, match="rates"):
        judge(table()._replace(rates=[0.1]), 0.1)
    with pytest.raises(InputError, match="density"):
        judge(table(), 1.5)
    with pytest.raises(InputError, match="tol"):
        judge(table(), 0.1, tol=-1.0)
    with pytest.raises(InputError, match="reference"):
        judge(table(), 0.1, reference=float("nan"))
    assert lottery.tolerances("cifar100") == (1.0, 0.5)
    assert lottery.tolerances("mnist") == (0.1, 0.1)
    with pytest.raises(UnknownNameError, match="cifar10"):
        lottery.tolerances("cifar11")


def brute(a, b, p, masks=None):
    """The indicator from sorted lists of indices."""
    shared = total = 0
    for name in a:
        keep = np.ones(a[name].size, bool) if masks is None else masks[name].ravel()
        index = np.flatnonzero(keep)
        k = int(np.floor(p * len(index) + 0.5))
        top = [
            set(index[np.argsort(-np.abs(x[name].ravel()[index]), kind="stable")[:k]])
            for x in (a, b)
        ]
        shared += len(top[0] & top[1])
        total += k
    return shared / total


@settings(max_examples=12)
@given(st.integers(0, 2**31), st.sampled_from([0.1, 1.0]), st.booleans())
def test_correlation_against_sorted_lists(seed, p, masked):
    rng = np.random.default_rng(seed)
    shapes = {"a": (20, 3), "b": (41, 1)}
    one = {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
    two = {k: w + rng.normal(size=w.shape).astype(np.float32) for k, w in one.items()}
    masks = {k: rng.random(w.shape) < 0.5 for k, w in one.items()} if masked else None
    given_masks = None if masks is None else jax.tree.map(jnp.asarray, masks)
    got = lottery.correlation(
        jax.tree.map(jnp.asarray, one),
        jax.tree.map(jnp.asarray, two),
        p,
        masks=given_masks,
    )
    assert float(got) == pytest.approx(brute(one, two, p, masks))


@pytest.mark.parametrize("density", [1.0, 0.168])
def test_independent_weights_score_p_and_identical_ones_1(density, key):
    n, p = 40_000, 0.1
    one, two, cut = jax.random.split(key, 3)
    masks = {"w": jax.random.uniform(cut, (200, 200)) < density}
    a = {"w": jnp.where(masks["w"], jax.random.normal(one, (200, 200)), 0.0)}
    b = {"w": jnp.where(masks["w"], jax.random.normal(two, (200, 200)), 0.0)}
    left = density * n
    sigma = np.sqrt(p * (1 - p) ** 2 / (p * left))  # hypergeometric, near enough
    assert abs(float(lottery.correlation(a, b, p, masks=masks)) - p) < 3 * sigma
    assert float(lottery.correlation(a, a, p, masks=masks)) == 1.0
    if density < 1:  # counting pruned weights too would find the mask, not the weights
        assert float(lottery.correlation(a, b, 0.168)) > 0.9


def test_correlation_takes_the_leaves_it_is_told_and_vmaps(key):
    a = {"w": jnp.arange(10.0), "b": jnp.arange(10.0)}
    b = {"w": jnp.arange(10.0), "b": -jnp.arange(10.0)[::-1]}
    of = jax.jit(functools.partial(lottery.correlation, p=0.2, rules=[(".*", True)]))
    assert float(lottery.correlation(a, b, 0.2, rules=[("w", True)])) == 1.0
    assert float(lottery.correlation(a, b, 0.2, rules=[("b", True)])) == 0.0
    assert float(of(a, b)) == 0.5
    # Biases that start at 0 are ties, and take no part unless they are named.
    wide = {"w": a["w"][:, None], "b": jnp.zeros(10)}
    assert float(lottery.correlation(wide, wide | {"b": b["b"]}, 0.2)) == 1.0
    assert float(of(a, b, masks={"w": jnp.ones(10, bool), "b": None})) == 1.0
    both = jax.tree.map(lambda x, y: jnp.stack([x, y]), a, b)
    rows = jax.jit(jax.vmap(lambda x: of(a, x)))(both)
    np.testing.assert_array_equal(rows, [1.0, 0.5])
    with pytest.raises(InputError, match="p:"):
        lottery.correlation(a, b, 0.0)
    with pytest.raises(InputError, match="at least one layer"):
        lottery.correlation(a, b, masks={"w": None, "b": None})


@pytest.mark.parametrize("size", [None, 1, 4])
def test_a_population_is_its_members_and_compiles_once(size, key):
    traces = []

    def train(params, mask, key, rate, data):
        traces.append(1)
        w = params["w"] - rate * (params["w"] - data.mean(0))
        w = w + jax.random.normal(key, w.shape)
        return {"w": jnp.where(mask["w"], w, 0.0)}, w.sum()

    rates, keys = lottery.cross((0.1, 0.5), jax.random.split(key, 3))
    data = jax.random.normal(key, (5, 4))
    params = {"w": jax.random.normal(key, (6, 4))}
    masks = {"w": jax.random.bernoulli(key, 0.5, (6, 4)), "b": None}
    together = lottery.population(train, shared=1, size=size)
    got, sums = together(params, masks, keys, rates, data)
    together(params, masks, keys, rates, data + 1)
    # Six are not a multiple of four: the remainder is a program of its own.
    assert len(traces) == (2 if size == 4 else 1)
    for i in range(6):
        own, total = train(
            {"w": params["w"][i]}, {"w": masks["w"][i]}, keys[i], rates[i], data
        )
        np.testing.assert_allclose(got["w"][i], own["w"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(sums[i], total, rtol=1e-5, atol=1e-5)


def test_rates_cross_seeds_and_back(key):
    keys = jax.random.split(key, 3)
    rates, all_keys = lottery.cross((0.1, 0.5), keys)
    np.testing.assert_allclose(lottery.uncross(rates, 2), [[0.1] * 3, [0.5] * 3])
    again = jax.random.key_data(lottery.uncross(all_keys, 2))
    for row in again:
        np.testing.assert_array_equal(row, jax.random.key_data(keys))
    with pytest.raises(ShapeError, match="leading axis"):
        lottery.uncross(jnp.ones(5), 2)
    with pytest.raises(InputError, match="size"):
        lottery.population(lambda x: x, size=0)
