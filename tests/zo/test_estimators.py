"""Means, variances, counts and failures of every estimator, against closed forms."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zo
from core.errors import InputError, NonFiniteError, ShapeError
from zo import directions
from zo.coordinates import sampled_variance

D = 24
DRAWS = 20_000
G = np.random.default_rng(0).laplace(size=D).astype(np.float32)
H = np.random.default_rng(1).uniform(0.5, 2, size=D).astype(np.float32)


def linear(x):
    return jnp.vdot(jnp.asarray(G), x)


def quadratic(x):
    return 0.5 * jnp.vdot(jnp.asarray(H) * x, x) + linear(x)


AT = np.linspace(-1, 1, D).astype(np.float32)
GRADIENT = H * AT + G  # of the quadratic


def draws(estimator, f, x=None, state=None, count=DRAWS, mu=None):
    """Many estimates at one point and state, [count, D]."""
    x = jnp.asarray(AT) if x is None else x
    state = estimator.init(x) if state is None else state

    @jax.jit
    def run(keys):
        return jax.vmap(lambda k: estimator.estimate(k, f, x, state, mu)[0])(keys)

    return np.asarray(run(jax.random.split(jax.random.key(7), count)), np.float64)


def check(found, mean, variance, within=0.03):
    """The mean within 4.5 standard errors, and the total variance within 3 %."""
    spread = found.std(0) / np.sqrt(len(found))
    np.testing.assert_array_less(np.abs(found.mean(0) - mean), 4.5 * spread + 1e-4)
    total = np.square(found - np.asarray(mean, np.float64)).sum(1).mean()
    assert abs(total / float(variance) - 1) < within


MU = 0.1  # of linear functions and quadratics, where no central difference errs
SPHERE, PART = (D - 1) / 3, D / 5 - 1
MOMENTS = {
    "gaussian": (zo.Random(3, "gaussian", mu=MU), (D + 1) / 3),
    "sphere": (zo.Random(3, "sphere", mu=MU), SPHERE),
    "rademacher": (zo.Random(3, "rademacher", mu=MU), SPHERE),
    "sampled": (zo.Coordinate(5, mu=MU), PART),
    "block": (zo.Coordinate(5, "block", mu=MU), PART),
    "hybrid": (
        zo.Hybrid(3, 5, source="uniform", mu=MU),
        SPHERE * PART / (SPHERE + PART),
    ),
    "hybrid, fixed": (
        zo.Hybrid(3, 5, 0.3, source="uniform", mu=MU),
        0.3**2 * SPHERE + 0.7**2 * PART,
    ),
    "importance alone, at first": (zo.Hybrid(0, 5, mu=MU), PART),
}
"""Estimators, and their variance over ||g||^2 in closed form."""
FORWARD = {
    "sphere": (zo.Random(3, "sphere", mu=MU, central=False), SPHERE),
    "block": (zo.Coordinate(5, "block", mu=MU, central=False), PART),
}
"""Those whose bias or variance curvature changes; see the tests of that."""


def closed_form(estimator, relative, g):
    closed = relative * float(np.square(g).sum())
    assert float(estimator.variance(jnp.asarray(g))) == pytest.approx(closed, rel=1e-4)
    return closed


@pytest.mark.parametrize("name", MOMENTS)
def test_mean_and_variance_on_a_quadratic(name):
    estimator, relative = MOMENTS[name]
    closed = closed_form(estimator, relative, GRADIENT)
    check(draws(estimator, quadratic), GRADIENT, closed)


@pytest.mark.parametrize("name", FORWARD)
def test_mean_and_variance_on_a_linear_function(name):
    estimator, relative = FORWARD[name]
    check(draws(estimator, linear), G, closed_form(estimator, relative, G))


def test_importance_sampling_has_the_mean_and_the_variance_of_its_probabilities():
    estimator = zo.Hybrid(3, 5, mu=MU, floor=0.2)
    state = estimator.init(jnp.zeros(D))
    known = state.memory._replace(magnitudes=jnp.abs(jnp.asarray(GRADIENT)))
    state = state._replace(memory=known)
    theory = estimator.variance_at(jnp.asarray(GRADIENT), known)
    check(draws(estimator, quadratic, state=state), GRADIENT, theory)
    p = np.asarray(estimator.probabilities(known), float)
    random = (D - 1) / 3 * np.square(GRADIENT).sum()
    coordinates = (np.square(GRADIENT) * (1 / p - 1)).sum()
    best = random * coordinates / (random + coordinates)
    np.testing.assert_allclose(theory, best, rtol=1e-4)
    assert theory < min(random, coordinates)


def test_guided_directions_are_biased_as_documented():
    estimator = zo.Guided(4, rank=2, share=0.4, mu=MU)
    rows = jnp.stack([jnp.asarray(GRADIENT), jnp.ones(D)])
    state = estimator.init(jnp.zeros(D))
    state = state._replace(memory=state.memory._replace(rows=rows))
    g = jnp.asarray(GRADIENT)
    mean = estimator.mean_of(g, rows)
    np.testing.assert_allclose(mean, g, rtol=1e-4, atol=1e-5)  # within the span
    found = draws(estimator, quadratic, state=state)
    check(found, mean, estimator.variance_in(g, rows))
    other = jnp.roll(rows, 3, axis=1)
    state = state._replace(memory=state.memory._replace(rows=other))
    mean = estimator.mean_of(g, other)
    assert np.linalg.norm(mean) < np.linalg.norm(g)
    found = draws(estimator, quadratic, state=state)
    check(found, mean, estimator.variance_in(g, other))


def test_guided_estimates_fill_the_span():
    estimator = zo.Guided(3, rank=2)
    x = jnp.zeros(D)
    step = jax.jit(lambda k, s: estimator.estimate(k, linear, x, s))
    state, found = estimator.init(x), []
    for i in range(3):
        g, state, _ = step(jax.random.key(i), state)
        found.append(g)
    np.testing.assert_array_equal(state.memory.rows, jnp.stack([found[2], found[1]]))


def test_signs_of_one_direction_have_the_mean_of_the_arcsine_law():
    found = draws(zo.Sign(zo.Random(1, "gaussian", mu=MU)), quadratic)
    mean = 2 / np.pi * np.arcsin(GRADIENT / np.linalg.norm(GRADIENT))
    check(found, mean, (1 - mean**2).sum())


def test_a_quadratic_biases_forward_coordinates_by_half_its_curvature():
    x = jnp.linspace(-1, 1, D)
    gradient = H * np.asarray(x) + G
    for central, bias in ((True, 0), (False, MU * H / 2)):
        estimator = zo.Coordinate(mu=MU, central=central)
        found, state, info = estimator.estimate(
            jax.random.key(0), quadratic, x, estimator.init(x)
        )
        np.testing.assert_allclose(found, gradient + bias, rtol=1e-4, atol=1e-4)
        assert info.queries == state.queries == (2 * D if central else D + 1)


def test_a_quadratic_biases_the_coordinates_of_a_forward_hybrid():
    estimator = zo.Hybrid(3, 5, 0.3, source="uniform", mu=1.0, central=False)
    found = draws(estimator, quadratic)
    bias = found.mean(0) - GRADIENT
    spread = found.std(0) / np.sqrt(len(found))
    np.testing.assert_array_less(np.abs(bias - 0.7 * 1.0 * H / 2), 4.5 * spread)
    assert np.all(bias > 4.5 * spread)


@pytest.mark.parametrize("law", zo.LAWS)
def test_curvature_adds_to_the_variance_of_forward_differences(law):
    estimator = zo.Random(2, law, mu=1.0, central=False)
    more = {"gaussian": D * (D + 2) * (D + 4)}.get(law, D**3)
    theory = estimator.variance(jnp.asarray(G)) + more / 4 / 2

    def f(x):
        return linear(x) + 0.5 * jnp.square(x).sum()

    check(draws(estimator, f, jnp.zeros(D), count=3 * DRAWS), G, theory)


def test_a_cubic_biases_by_the_square_of_mu():
    def f(x):
        return jnp.sum(x**3)

    x = jnp.full(D, 0.5)
    errors = []
    for mu in (0.1, 0.2):
        estimator = zo.Coordinate(mu=mu)
        found, _, _ = estimator.estimate(jax.random.key(0), f, x, estimator.init(x))
        errors.append(float(jnp.abs(found - 0.75).max()))
    assert errors[1] / errors[0] == pytest.approx(4, rel=0.05)


def test_the_default_mu_is_where_float32_is_flat():
    x = jnp.linspace(0.5, 1.5, D)

    def f(x):
        return jnp.sum(jnp.sin(x))

    def error(mu):
        estimator = zo.Coordinate(mu=mu)
        found = estimator.estimate(jax.random.key(0), f, x, estimator.init(x))[0]
        return float(jnp.linalg.norm(found - jnp.cos(x)) / jnp.linalg.norm(jnp.cos(x)))

    assert error(1e-3) < 3e-3 < error(1e-6)


@functools.cache
def control(x, anchor):
    estimator = zo.ControlVariate(zo.Random(3, mu=MU))
    state = estimator.init(jnp.zeros(D))
    info = zo.Info(jnp.float32(0), jnp.int32(48), jnp.int32(0), jnp.int32(24))
    known = jnp.asarray(H * anchor + G)
    state = estimator.anchored(state, jnp.full(D, anchor), known, info)
    return estimator, state, draws(estimator, quadratic, jnp.full(D, x), state)


@pytest.mark.parametrize("x", [1.0, 0.5])
def test_a_control_variate_has_the_variance_of_the_difference(x):
    estimator, state, found = control(x, 0.25)
    change = jnp.asarray(H * (x - 0.25))
    check(found, H * x + G, estimator.estimator.variance(change))
    assert state.queries == 48
    assert estimator.queries(D) == 12


def test_a_control_variate_at_its_snapshot_does_not_vary():
    _, _, found = control(0.25, 0.25)
    np.testing.assert_allclose(found, np.tile(H * 0.25 + G, (DRAWS, 1)), atol=1e-4)


def sparse(x):
    return jnp.vdot(jnp.where(jnp.arange(200) < 20, 1.0, 0.01), x)


def test_sources_learn_where_the_gradient_is():
    """After 100 steps, on a gradient with 20 heavy entries of 200."""
    g = jax.grad(sparse)(jnp.zeros(200))
    found = {}
    for name in ("random", "ema", "seen"):
        estimator = zo.Hybrid(10, 10, source=name, decay=0.9, mu=MU)

        @jax.jit
        def run(key, estimator=estimator):
            def body(state, key):
                x = jnp.zeros(200)
                return estimator.estimate(key, sparse, x, state)[1], None

            start = estimator.init(jnp.zeros(200))
            state, _ = jax.lax.scan(body, start, jax.random.split(key, 100))
            return sampled_variance(g, estimator.probabilities(state.memory))

        found[name] = float(run(jax.random.key(0)))
    assert found["random"] > 1.05 * found["ema"] > 4 * found["seen"]
    best = sampled_variance(g, zo.importance_probs(jnp.abs(g), 10, 0.1))
    assert found["seen"] <= 1.05 * float(best)


CASES = {
    "random": zo.Random(3, mu=MU),
    "forward": zo.Random(5, "rademacher", mu=MU, central=False),
    "full": zo.Coordinate(mu=MU),
    "hybrid": zo.Hybrid(3, 5, central=False, mu=MU),
    "guided": zo.Guided(4, 2, mu=MU),
    "sign": zo.Sign(zo.Random(3, mu=MU)),
    "control": zo.ControlVariate(zo.Random(3, central=False, mu=MU)),
}


def test_every_estimator_has_a_case():
    assert {type(e) for e in CASES.values()} == set(zo.ESTIMATORS.values())


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_queries_are_counted_and_chunks_change_nothing(name, wide):
    with jax.enable_x64(wide):
        contract(CASES[name], jnp.float64 if wide else jnp.float32)


def contract(estimator, dtype):
    key = jax.random.key(1)
    x = {"a": jnp.ones((4, 5), dtype), "b": jnp.zeros(4, dtype)}
    calls, most = [], 1 + 0.9 * MU  # of the second number, beyond which f fails

    def f(tree):
        jax.debug.callback(lambda _: calls.append(1), tree["b"][0])
        flat = jnp.concatenate([tree["a"].ravel(), tree["b"]])
        h, g = (jnp.asarray(part, dtype) for part in (H, G))
        value = 0.5 * jnp.vdot(h * flat, flat) + jnp.vdot(g, flat)
        return jnp.where(flat[1] > most, jnp.nan, value)

    state = estimator.init(x)

    @jax.jit
    def run(key):
        whole = estimator.estimate(key, f, x, state)
        points, plan = estimator.ask(key, x, state)
        return whole, points, plan

    (whole, after, info), points, plan = run(key)
    jax.effects_barrier()
    assert len(calls) == estimator.queries(D) == int(info.queries)
    assert int(after.queries) == len(calls)
    failed = int((np.asarray(points["a"])[:, 0, 1] > most).sum())
    assert int(info.failures) == int(after.failures) == failed
    assert int(info.worked) > 0
    assert jax.tree.map(jnp.shape, whole) == jax.tree.map(jnp.shape, x)
    assert {leaf.dtype for leaf in jax.tree.leaves((whole, info.value))} == {
        jnp.dtype(dtype)
    }
    calls.clear()
    part, chunked, again = jax.jit(
        lambda k: estimator.estimate(k, f, x, state, chunk=4)
    )(key)
    jax.effects_barrier()
    assert len(calls) == int(chunked.queries)
    assert [int(n) for n in again[1:]] == [int(n) for n in info[1:]]
    assert again.value == pytest.approx(float(info.value), rel=1e-4)
    rows = np.concatenate([np.reshape(points["a"], (-1, 20)), points["b"]], 1)
    values = 0.5 * (H * rows**2).sum(1) + rows @ G
    values = np.where(rows[:, 1] > most, np.nan, values)
    told, _, _ = jax.jit(estimator.tell)(plan, values, state)
    for found in (part, told):
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)


def test_failed_queries_are_left_out_and_counted():
    estimator = zo.Random(8, "rademacher", mu=MU)
    x = jnp.zeros(D)
    state = estimator.init(x)
    points, plan = estimator.ask(jax.random.key(0), x, state)
    values = np.asarray(jax.vmap(linear)(points)).copy()
    values[0], values[11] = np.nan, np.inf  # the near end of 0, the far end of 3
    found, after, info = estimator.tell(plan, values, state)
    kept = np.delete(np.asarray(plan.directions[0]), [0, 3], axis=0)
    np.testing.assert_allclose(found, (kept @ G) @ kept / 6, rtol=1e-4, atol=1e-4)
    assert (int(info.queries), int(info.failures)) == (16, 2)
    assert after.failures == 2
    none, _, info = estimator.tell(plan, np.full(16, np.nan), after)
    np.testing.assert_array_equal(none, 0)
    assert info.failures == 16
    assert np.isnan(info.value)


def test_a_coordinate_that_failed_is_0_and_others_stay():
    estimator = zo.Coordinate(mu=MU)
    x = jnp.zeros(D)
    state = estimator.init(x)
    points, plan = estimator.ask(jax.random.key(0), x, state)
    values = np.asarray(jax.vmap(linear)(points)).copy()
    values[5] = np.nan
    found, _, _ = estimator.tell(plan, values, state)
    np.testing.assert_allclose(found, np.where(np.arange(D) == 5, 0, G), atol=1e-4)


@pytest.mark.parametrize("count", [2, 20])
@pytest.mark.parametrize("kind", [zo.Coordinate, functools.partial(zo.Hybrid, 0)])
def test_where_all_coordinates_are_asked_a_failure_leaves_the_others(kind, count):
    estimator, x = kind(count), jnp.zeros(2)
    state = estimator.init(x)
    points, plan = estimator.ask(jax.random.key(0), x, state)
    values = np.asarray(points, np.float64) @ [3.0, 5.0]
    at = int(np.asarray(points)[:, 1].argmax())  # the far end of the second
    values[at] = np.nan
    found, _, _ = estimator.tell(plan, values, state)
    np.testing.assert_allclose(found, [3, 0], rtol=1e-4)


@pytest.mark.parametrize("source", ["seen", "ema", "random"])
@pytest.mark.parametrize("size", [1e-30, 1e16, 1e20, 3e38])
def test_magnitudes_of_any_size_are_weighed(source, size):
    """Squares of 1e20 are beyond float32, and those of 1e-30 below it."""
    estimator = zo.Hybrid(3, 4, source=source, mu=1e-3 if size < 1 else 1.0)
    x = jnp.zeros(6)
    state = estimator.init(x)
    step = jax.jit(estimator.tell)
    for i in range(3):
        points, plan = estimator.ask(jax.random.key(i), x, state)
        values = size * (np.asarray(points) @ np.asarray([1, -1, 1, 0, 0, 0.5])) / 2
        # As of a simulator that says "infeasible" by one number.
        values = np.clip(values, -size, size) if size > 1 else values
        _, state, info = step(plan, jnp.asarray(values, jnp.float32), state)
        assert info.failures == 0
        assert np.isfinite(state.memory.magnitudes).all()
        weight = float(estimator.weight(state.memory))
        assert 0.05 <= weight <= 0.95
        p = np.asarray(estimator.probabilities(state.memory))
        assert p.sum() == pytest.approx(4, rel=1e-4)
    if source == "seen":
        known = jnp.asarray([1, 0.8, 0.7, 0.6, 0.6, 0.5])
        known = state.memory._replace(magnitudes=known)
        large = known._replace(magnitudes=size * known.magnitudes)
        small = float(estimator.weight(known))
        assert 0.06 < small < 0.94
        assert float(estimator.weight(large)) == pytest.approx(small, rel=1e-4)


def test_a_part_that_failed_has_no_say():
    estimator = zo.Hybrid(3, 5, mu=MU)
    x = jnp.zeros(D)
    state = estimator.init(x)
    points, plan = jax.jit(estimator.ask)(jax.random.key(0), x, state)
    values = np.asarray(jax.vmap(linear)(points)).copy()
    values[:3] = np.nan  # near ends of all random directions
    found, after, _ = jax.jit(estimator.tell)(plan, values, state)
    assert np.count_nonzero(found) == 5
    assert np.isfinite(after.memory.magnitudes).all()


def test_bad_input_is_named():
    x = jnp.zeros(3)
    for make, words in [
        (lambda: zo.Random(0), "samples"),
        (lambda: zo.Random(law="cube"), "sphere, gaussian, rademacher"),
        (lambda: zo.Random(mu=0.0), "mu"),
        (lambda: zo.Coordinate(choice="all"), "sampled or block"),
        (lambda: zo.Hybrid(alpha=2.0), "alpha"),
        (lambda: zo.Hybrid(source="paper"), "uniform, random, ema, seen"),
        (lambda: zo.Hybrid(0, 0), "count"),
        (lambda: zo.Random().init(jnp.arange(3)), "one float type"),
        (lambda: zo.importance_probs(x, 4), "count"),
        (
            lambda: zo.Random().estimate(
                jax.random.key(0), linear, x, zo.Random().init(x), chunk=1
            ),
            "one difference",
        ),
    ]:
        with pytest.raises(InputError, match=words):
            make()
    with pytest.raises(ShapeError, match="at least one dimension"):
        zo.Random().init({"a": jnp.zeros((0, 3))})
    estimator = zo.Random(2)
    state = estimator.init(x)
    _, plan = estimator.ask(jax.random.key(0), x, state)
    with pytest.raises(ShapeError, match="each of the 4 points"):
        estimator.tell(plan, jnp.zeros(3), state)
    with pytest.raises(ShapeError, match="a scalar"):
        estimator.estimate(jax.random.key(0), lambda x: x, x, state, chunk=2)
    with pytest.raises(ShapeError, match="a scalar"):
        estimator.estimate(jax.random.key(0), lambda x: x, x, state)


SPREAD = {law: zo.Random(16, law) for law in zo.LAWS} | {"guided": zo.Guided(16, 8)}


@pytest.mark.parametrize("law", SPREAD)
def test_slopes_do_not_drown_in_rounding_as_dimensions_grow(law):
    """Errors of slopes of mean_i sin(x_i) over their size, by d and mu."""
    for d in (100, 100_000):
        x = jnp.linspace(0.5, 1.5, d)
        g = np.cos(np.asarray(x, float)) / d

        def f(x):
            return jnp.mean(jnp.sin(x))

        for mu in (1e-3, 1e-2):
            estimator = dataclasses.replace(SPREAD[law], mu=mu)
            state = estimator.init(x)
            points, plan = estimator.ask(jax.random.key(0), x, state)
            v = np.asarray(plan.directions[0], float)
            assert np.square(v).mean() == pytest.approx(1, abs=0.15)
            values = np.asarray(jax.vmap(f)(points), float)
            slopes = (values[16:] - values[:16]) / (2 * mu)
            error = np.linalg.norm(slopes - v @ g) / np.linalg.norm(v @ g)
            # Rounding of a mean is some 1e-7, slopes are 1 / sqrt(d).
            assert error < 1e-4 * np.sqrt(d) * (1e-3 / mu)


def test_what_a_step_of_mu_does_not_move_is_an_error():
    with pytest.raises(InputError, match="Raise mu, scale x"):
        zo.Random().init(jnp.full(3, 0.5, jnp.bfloat16))
    with pytest.raises(InputError, match="1 of 3 exceed"):
        zo.Coordinate().init(jnp.asarray([1.0, 1e5, 0.0]))
    zo.Coordinate().init(jnp.asarray([1.0, 1e5, 0.0]), mu=0.1)
    with pytest.raises(NonFiniteError):
        zo.ControlVariate(zo.Random()).init(jnp.asarray([jnp.nan]))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_estimates_in_low_precision(dtype):
    """Points are of the dtype, all else is float32; 3e5 is beyond float16."""
    x = jnp.zeros(3_000, dtype)
    g = jnp.where(jnp.arange(3_000) < 10, 2.0, 0.0)

    def f(x):
        return jnp.vdot(g, x.astype(jnp.float32))

    for estimator in (
        zo.Random(40, mu=0.1),
        zo.Hybrid(20, 20, mu=0.1),
        zo.Guided(40, mu=0.1),
    ):
        step = jax.jit(lambda k, s, e=estimator: e.estimate(k, f, x, s))
        found, _, info = step(jax.random.key(0), estimator.init(x))
        assert found.dtype == dtype
        assert info.value.dtype == jnp.float32
        assert info.failures == 0
        assert jnp.vdot(found.astype(jnp.float32), g) > 0


@pytest.mark.parametrize("estimator", [zo.Random(2, mu=0.1), zo.Guided(2, mu=0.1)])
def test_what_init_takes_moves(estimator):
    x = jnp.ones(3_000, jnp.bfloat16)
    points, _ = estimator.ask(jax.random.key(0), x, estimator.init(x))
    assert (np.asarray(points) != np.asarray(x)).mean() > 0.9


def test_values_of_the_host_are_subtracted_in_float64():
    for estimator in (zo.Coordinate(), zo.Coordinate(central=False)):
        x = jnp.zeros(D)
        state = estimator.init(x)
        points, plan = estimator.ask(jax.random.key(0), x, state)
        values = 1e5 + np.asarray(points, np.float64) @ G
        found, _, info = estimator.tell(plan, list(values), state)
        np.testing.assert_allclose(found, G, rtol=1e-4, atol=1e-5)
        assert info.value == pytest.approx(1e5)
    control = zo.ControlVariate(zo.Coordinate())
    state = control.init(x)
    points, plan = control.ask(jax.random.key(0), x, state)
    values = 1e5 + np.asarray(points, np.float64) @ G
    found, _, _ = control.tell(plan, values, state)
    np.testing.assert_allclose(found, G, rtol=1e-4, atol=1e-5)


def test_without_a_good_snapshot_the_estimate_is_the_plain_one():
    inner, key = zo.Random(3, mu=MU), jax.random.key(4)
    x = jnp.linspace(-1, 1, D)
    estimator = zo.ControlVariate(inner)
    state = estimator.init(x)
    plain, _, _ = inner.estimate(key, quadratic, x, inner.init(x))
    np.testing.assert_allclose(
        estimator.estimate(key, quadratic, x, state)[0], plain, rtol=2e-3, atol=2e-3
    )
    info = zo.Info(jnp.float32(0), jnp.int32(48), jnp.int32(1), jnp.int32(23))
    failed = estimator.anchored(state, x, jnp.zeros(D), info)
    found, _, info = estimator.estimate(key, quadratic, x, failed)
    np.testing.assert_allclose(found, plain, rtol=2e-3, atol=2e-3)
    assert info.worked == 3


def test_more_than_there_is_takes_all():
    x = jnp.zeros(3)
    assert zo.Coordinate(20).queries(3) == 6
    for estimator in (zo.Coordinate(20), zo.Hybrid(0, 20), zo.Guided(2, rank=7)):
        state = estimator.init(x)
        found = estimator.estimate(jax.random.key(0), lambda x: x.sum(), x, state)[0]
        if not isinstance(estimator, zo.Guided):
            np.testing.assert_allclose(found, 1, rtol=1e-3)


def test_in_float64_and_with_a_mu_of_the_step():
    with jax.enable_x64(True):
        x = jnp.linspace(0, 1, 6, dtype=jnp.float64)
        estimator = zo.Coordinate(mu=1e-3)
        found, _, _ = estimator.estimate(
            jax.random.key(0),
            lambda x: jnp.sum(x**3),
            x,
            estimator.init(x),
            mu=jnp.float32(1e-4),
        )
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found, 3 * x**2, atol=2e-8)


def test_signs_of_a_direction_are_independent():
    """Every word gives 32 of them: their correlations are those of 0."""
    keys = jax.random.split(jax.random.key(5), 4096)
    draw = jax.vmap(lambda k: directions.sample(k, "rademacher", (7, 10), np.float32))
    v = np.asarray(draw(keys)).reshape(4096, 70)
    np.testing.assert_array_equal(np.abs(v), 1)
    assert np.abs(v.mean(0)).max() < 5 / 64
    assert np.abs(v.T @ v / 4096 - np.eye(70)).max() < 5 / 64
