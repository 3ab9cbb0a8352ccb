"""Optimizers: one contract for all, and what each of them promises alone."""

import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

import zo
from core.errors import InputError, NonFiniteError, ShapeError
from tests.relaxed import relaxed

D = 12
H = np.linspace(0.2, 1.0, D).astype(np.float32)
X = jnp.asarray(np.random.default_rng(0).normal(size=D), jnp.float32)


def f(x):
    return 0.5 * jnp.vdot(jnp.asarray(H) * x, x)


def hybrid():
    return zo.Hybrid(3, 3)


CASES = {
    "zo_sgd": lambda: zo.zo_sgd(0.2, samples=6),
    "zo_scd": lambda: zo.zo_scd(0.3, count=6),
    "zo_sign_sgd": lambda: zo.zo_sign_sgd(zo.inverse(0.1, 30.0), samples=6),
    "zo_svrg": lambda: zo.zo_svrg(0.2, samples=6, period=20),
    "zo_adamm": lambda: zo.zo_adamm(0.1, samples=6),
    "hge_sgd": lambda: zo.hge_sgd(0.2, estimator=hybrid()),
    "hge_adam": lambda: zo.hge_adam(0.1, estimator=hybrid()),
}


def relaxed_inner(optimizer):
    """optax's own arithmetic mixes types."""
    import dataclasses

    return dataclasses.replace(optimizer, transform=relaxed(optimizer.transform))


def made(name):
    return relaxed_inner(CASES[name]())


def test_every_optimizer_has_a_case():
    assert set(CASES) == set(zo.OPTIMIZERS)


@pytest.mark.parametrize("name", sorted(CASES))
def test_minimizes_within_the_budget_and_counts_what_it_asks(name):
    optimizer, traces, calls = made(name), [], []

    def counted(x):
        traces.append(1)
        jax.debug.callback(lambda _: calls.append(1), x[0])
        return f(x)

    go = jax.jit(lambda key: zo.minimize(key, optimizer, counted, X, 1500))
    x, state, trace = go(jax.random.key(0))
    jax.effects_barrier()
    assert f(x) < 0.05 * f(X)
    assert jnp.isfinite(trace.value).all()
    assert state.estimate.failures == 0
    steps = optimizer.steps(D, 1500)
    assert state.step == steps == len(trace.queries)
    assert len(calls) == state.estimate.queries == optimizer.queries(D, steps) <= 1500
    assert trace.queries[-1] == state.estimate.queries
    assert optimizer.queries(D, steps + 1) > 1500  # one more would not fit
    before = len(traces)
    np.testing.assert_array_equal(go(jax.random.key(0))[0], x)
    assert len(traces) == before  # one compilation


def test_ask_and_tell_are_a_step():
    optimizer = made("hge_sgd")
    state, key = optimizer.init(X), jax.random.key(3)
    points, plan = jax.jit(optimizer.ask)(key, X, state)
    values = [0.5 * float((H * p**2).sum()) for p in np.asarray(points)]
    x, told, _ = jax.jit(optimizer.tell)(plan, jnp.asarray(values), X, state)
    stepped, after, _ = jax.jit(lambda x: optimizer.step(key, f, x, state))(X)
    np.testing.assert_allclose(x, stepped, rtol=1e-3, atol=1e-4)
    assert told.estimate.queries == after.estimate.queries == len(values)


@pytest.mark.parametrize("central", [True, False])
def test_a_step_without_a_slope_moves_nothing(central):
    """One bad side of every pair, or f(x) of forward differences, is enough."""
    optimizer = relaxed_inner(zo.zo_adamm(0.1, samples=6, central=central))
    _, state, _ = optimizer.step(jax.random.key(1), f, X, optimizer.init(X))
    _, plan = optimizer.ask(jax.random.key(0), X, state)
    values = np.ones(optimizer.queries(D))
    values[: 6 if central else 1] = np.nan
    x, after, info = optimizer.tell(plan, values, X, state)
    np.testing.assert_array_equal(x, X)
    assert after.inner.step == state.inner.step
    assert info.worked == 0


@pytest.mark.parametrize("name", ["hge_adam", "zo_adamm"])
def test_one_outlier_that_is_finite_does_not_spoil_a_run(name):
    """A simulator that says "infeasible" by a large number, in one step of 40."""
    optimizer = made(name)
    per = optimizer.estimator.queries(D)

    def body(carry, each):
        key, is_bad = each
        x, state, info = optimizer.step(
            key, lambda x: jnp.where(is_bad & (x[0] > X[0]), 1e20, f(x)), *carry
        )
        return (x, state), info.worked

    @jax.jit
    def go(key):
        keys = jax.random.split(key, 40), jnp.arange(40) == 0
        return jax.lax.scan(body, (X, optimizer.init(X)), keys)

    (x, state), worked = go(jax.random.key(0))
    assert np.isfinite(x).all()
    assert state.estimate.queries == 40 * per
    assert state.step == 40
    assert np.asarray(worked)[1:].min() > 0
    assert worked[0] == 0  # squares of its slopes overflow: a dead step, counted
    assert f(x) < 0.7 * f(X)


def test_the_transform_is_given_the_value():
    plateau = optax.contrib.reduce_on_plateau(
        factor=0.5, patience=2, accumulation_size=1
    )
    inner = relaxed(optax.chain(optax.sgd(0.1), plateau))
    optimizer = zo.Optimizer(zo.Coordinate(), inner)
    state = optimizer.init(X)
    step = jax.jit(lambda k, x, s: optimizer.step(k, lambda x: f(x) * 0 + 1, x, s))
    x = X
    for i in range(6):
        x, state, _ = step(jax.random.key(i), x, state)
    assert state.inner[-1].scale < 1
    assert state.inner[-1].best_value == 1


def test_standard_schedules_keep_their_bound():
    """(1 / T) sum ||grad f||^2 <= 2 f(x_0) / (eta T), eta <= 1 / (L kappa)."""
    horizon, samples = 100, 6
    eta = 1 / (1 + (D - 1) / samples)
    optimizer = zo.zo_sgd(
        zo.inverse_sqrt(eta * horizon**0.5, horizon),
        samples=samples,
        mu=zo.horizon_mu(D, horizon),
        central=False,
    )
    optimizer = relaxed_inner(optimizer)

    def body(carry, key):
        x, state, _ = optimizer.step(key, f, *carry)
        return (x, state), jnp.square(jnp.asarray(H) * carry[0]).sum()

    @jax.jit
    def go(key):
        keys = jax.random.split(key, horizon)
        return jax.lax.scan(body, (X, optimizer.init(X)), keys)[1].mean()

    means = [float(go(key)) for key in jax.random.split(jax.random.key(0), 8)]
    assert np.mean(means) <= 2 * float(f(X)) / (eta * horizon)
    # A whole step along a direction of length 1 is 1 / sqrt(d T).
    assert optimizer.estimator.mu * D**0.5 == pytest.approx((D * horizon) ** -0.5)


def test_a_run_without_a_slope_is_an_error():
    def g(x):
        return jnp.nan * x[0]

    with pytest.raises(NonFiniteError, match="60 values of 60"):
        zo.minimize(jax.random.key(0), made("zo_sgd"), g, X, 60)
    go = jax.jit(lambda key: zo.minimize(key, made("zo_sgd"), g, X, 60))
    assert not go(jax.random.key(0))[2].worked.any()


def test_minimize_compiles_once_and_takes_batches_and_chunks():
    optimizer, traces = made("zo_sgd"), []

    def g(x, shift):
        traces.append(1)
        return f(x - shift)

    shifts = jnp.full((10, D), 0.5)
    x, _, _ = zo.minimize(jax.random.key(0), optimizer, g, X, 120, batches=shifts)
    before = len(traces)
    zo.minimize(jax.random.key(1), optimizer, g, 2 * X, 120, batches=0 * shifts)
    assert len(traces) == before
    whole, _, _ = zo.minimize(
        jax.random.key(0), optimizer, lambda x: f(x - 0.5), X, 120, chunk=4
    )
    np.testing.assert_allclose(x, whole, rtol=1e-3, atol=1e-3)
    with pytest.raises(ShapeError, match="10 batches for 11 steps"):
        zo.minimize(jax.random.key(0), optimizer, g, X, 140, batches=shifts)


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_optimizer_takes_the_common_arguments(name):
    make = zo.OPTIMIZERS[name]
    schedule = lambda step: 0.1 / (1 + step.astype(jnp.float32))  # noqa: E731
    project = zo.box(-1.0, 1.0)
    made = make(0.1, mu=schedule, central=False, chunk=8, projection=project)
    assert (made.smoothing, made.chunk, made.projection) == (schedule, 8, project)
    inner = make(0.1, mu=0.25, central=False).estimator
    while hasattr(inner, "estimator"):
        inner = inner.estimator
    assert (inner.mu, inner.central) == (0.25, False)
    with pytest.raises(InputError, match="sampels"):
        make(0.1, sampels=3)
    with pytest.raises(InputError, match="chunk"):
        make(0.1, chunk=0)


def test_a_control_variate_without_snapshots_is_rejected():
    with pytest.raises(InputError, match=r"Take zo\.SVRG"):
        zo.Optimizer(zo.Sign(zo.ControlVariate(zo.Random())), optax.sgd(0.1))
    with pytest.raises(InputError, match="Give them to the estimator"):
        zo.hge_sgd(0.1, estimator=hybrid(), mu=0.1)


def test_svrg_moves_on_after_a_snapshot_that_failed():
    optimizer = made("zo_svrg")

    def full(x):
        return jnp.nan * x[0]

    x, state = X, optimizer.init(X)
    step = jax.jit(lambda k, x, s: optimizer.step(k, f, x, s, full))
    for i in range(15):
        x, state, _ = step(jax.random.key(i), x, state)
    assert f(x) < 0.7 * f(X)


def test_snapshots_of_mini_batches_are_of_all_data_and_cost_what_they_show():
    rows = jax.random.normal(jax.random.key(1), (8, D)) * 3
    optimizer = zo.zo_svrg(0.1, samples=12, period=20, full_cost=8)
    optimizer = relaxed_inner(optimizer)
    budget = 3 * (8 * 2 * D + 20 * 48)

    def g(x, row):
        return 0.5 * jnp.square(x - row).sum()

    def full(x):
        return 0.5 * jnp.square(x[None] - rows).sum(1).mean()

    go = lambda **options: zo.minimize(  # noqa: E731
        jax.random.key(0), optimizer, g, X, budget, batches=rows[batch], **options
    )
    batch = jax.random.randint(jax.random.key(2), (60,), 0, 8)
    x, state, trace = go(full=full)
    assert state.estimate.queries == trace.queries[-1] == budget
    assert optimizer.queries(D, 60) == budget
    assert optimizer.steps(D, budget) == state.step == 60
    # No noise of mini-batches or directions is left at the end, as there are snapshots.
    assert np.linalg.norm(x - rows.mean(0)) < 0.05 * np.linalg.norm(X - rows.mean(0))
    with pytest.raises(InputError, match="the function of snapshots"):
        go()
    with pytest.raises(InputError, match="an SVRG"):
        zo.minimize(jax.random.key(0), made("zo_sgd"), f, X, 120, full=full)
    with pytest.raises(InputError, match="full_cost"):
        zo.zo_svrg(0.2, full_cost=0)


def test_a_step_whose_queries_all_failed_moves_nothing():
    optimizer = made("zo_adamm")
    state = optimizer.init(X)
    _, plan = optimizer.ask(jax.random.key(0), X, state)
    x, after, info = optimizer.tell(plan, [np.nan] * 12, X, state)
    np.testing.assert_array_equal(x, X)
    assert after.inner.step == 0
    assert after.step == 1
    assert info.failures == after.estimate.failures == 12


def test_svrg_through_ask_and_tell():
    optimizer = made("zo_svrg")
    state = optimizer.init(X)
    assert optimizer.due(state)
    full = optimizer.snapshot
    start = full.init(X)
    go = jax.jit(lambda k: full.estimate(k, f, X, start))
    gradient, _, info = go(jax.random.key(0))
    state = optimizer.anchored(state, X, gradient, info)
    points, plan = jax.jit(optimizer.ask)(jax.random.key(1), X, state)
    values = 0.5 * (H * np.square(points)).sum(1)
    x, state, _ = jax.jit(optimizer.tell)(plan, values, X, state)
    np.testing.assert_allclose(x, X - 0.2 * H * X, rtol=1e-3, atol=1e-3)  # no variance
    assert state.estimate.queries == optimizer.queries(D, 1)
    assert not optimizer.due(state)


def test_budgets_below_one_step_are_errors():
    with pytest.raises(InputError, match="12 of one step"):
        zo.minimize(jax.random.key(0), made("zo_sgd"), f, X, 11)
    with pytest.raises(InputError, match="48 of one step"):
        zo.minimize(jax.random.key(0), made("zo_svrg"), f, X, 47)
    with pytest.raises(InputError, match="ControlVariate"):
        zo.SVRG(zo.Random(), optax.sgd(0.1))


def test_a_smoothing_schedule_is_the_mu_of_the_step():
    optimizer = zo.Optimizer(
        zo.Coordinate(),
        optax.identity(),
        lambda step: 0.5 / (1 + step.astype(jnp.float32)),
    )
    state = optimizer.init(X)
    for mu in (0.5, 0.25):
        points, plan = optimizer.ask(jax.random.key(0), X, state)
        assert points[D, 0] - X[0] == pytest.approx(mu)
        _, state, _ = optimizer.tell(plan, jax.vmap(f)(points), X, state)


# Constraints.


def test_projected_steps_stay_in_the_set_and_reach_its_best_point():
    target = jnp.asarray([2.0, -3.0, 0.1])

    def g(x):
        return jnp.square(x - target).sum()

    optimizer = zo.zo_scd(0.1, count=3, projection=zo.box(-1.0, 1.0))
    optimizer = relaxed_inner(optimizer)
    x, _, _ = zo.minimize(jax.random.key(0), optimizer, g, jnp.zeros(3), 600)
    np.testing.assert_allclose(x, jnp.clip(target, -1, 1), atol=2e-3)


@pytest.mark.parametrize("name", ["zo_sgd", "zo_adamm"])
def test_points_are_in_the_set_to_the_last_bit(name):
    """x + (P - x) alone leaves the ball in half of all steps."""
    d = 50
    ball = zo.l2_ball(1.0, jnp.full(d, 0.3))
    optimizer = relaxed_inner(
        zo.OPTIMIZERS[name](0.5, samples=4, projection=ball, mu=0.01)
    )

    def go(key):
        x = ball(jnp.ones(d), None)
        return optimizer.step(key, lambda x: -x.sum(), x, optimizer.init(x))[0]

    found = jax.jit(jax.vmap(go))(jax.random.split(jax.random.key(0), 200))
    away = np.asarray(found, np.float64) - np.float64(np.float32(0.3))
    assert np.linalg.norm(away, axis=1).max() <= 1
    np.testing.assert_array_equal(jax.vmap(lambda x: ball(x, None))(found), found)


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("d", [3, 100_000])
def test_balls_hold_their_points(d, metric):
    rng = np.random.default_rng(d)
    ball = jax.jit(zo.l2_ball(0.7))
    w = jnp.asarray(rng.uniform(0.5, 2, d), jnp.float32) if metric else None
    for _ in range(20):
        z = ball(jnp.asarray(rng.normal(size=d) * 3, jnp.float32), w)
        norm = np.linalg.norm(np.asarray(z, np.float64))
        assert 0.7 * (1 - 1e-4) < norm <= 0.7
        np.testing.assert_array_equal(ball(z, w), z)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("d", [3, 20_000])
def test_balls_of_low_precision_do_not_collapse(d, dtype):
    """Norms are added up in float32: what a ball loses does not grow as eps sqrt(d)."""
    rng = np.random.default_rng(d)
    ball = jax.jit(zo.l2_ball(0.7))
    eps = float(jnp.finfo(dtype).eps)
    z = ball(jnp.asarray(rng.normal(size=d), dtype), None)
    norm = np.linalg.norm(np.asarray(z, np.float64))
    assert 0.7 * (1 - 6 * eps) < norm <= 0.7
    np.testing.assert_array_equal(ball(z, None), z)
    inside = jnp.asarray(0.9 / norm * np.asarray(z, float) * 0.7, dtype)
    np.testing.assert_array_equal(ball(inside, None), inside)


def test_boxes_of_numpy_numbers_and_arrays():
    y = {"a": jnp.asarray([-2.0, 0.5]), "b": jnp.asarray([3.0])}
    found = zo.box(np.float32(-1), np.asarray(2.0))(y, None)
    np.testing.assert_array_equal(found["a"], [-1, 0.5])
    np.testing.assert_array_equal(found["b"], [2])
    bounds = zo.box(np.zeros(2), {"a": np.ones(2)}["a"])
    np.testing.assert_array_equal(bounds(y["a"], None), [0, 0.5])
    for low, high in ((np.float32(1), 0.0), (np.asarray([0.0, 2.0]), np.ones(2))):
        with pytest.raises(InputError, match="low <= high"):
            zo.box(low, high)


def test_adamm_projects_in_its_own_metric():
    ball = zo.l2_ball(1.0)
    transform = zo.adamm(0.5, projection=ball)
    x = {"a": jnp.asarray([0.9, 0.1]), "b": jnp.asarray([0.2])}
    g = {"a": jnp.asarray([-3.0, 0.5]), "b": jnp.asarray([-0.1])}
    updates, state = transform.update(g, transform.init(x), x)
    flat_x = np.concatenate([x["a"], x["b"]])
    flat_g = np.concatenate([g["a"], g["b"]])
    w = np.sqrt(0.7 * flat_g**2).astype(float)
    y = flat_x - 0.5 * 0.1 * flat_g / w
    best = optimize.minimize(
        lambda z: (w * (z - y) ** 2).sum(),
        flat_x.astype(float) / 2,
        constraints={"type": "ineq", "fun": lambda z: 1 - (z**2).sum()},
        options={"ftol": 1e-12},
    )
    found = flat_x + np.concatenate([updates["a"], updates["b"]])
    np.testing.assert_allclose(found, best.x, atol=2e-4)
    assert state.step == 1


@pytest.mark.parametrize("metric", [None, [1.0, 4.0, 0.25]])
def test_l2_balls_are_projections(metric):
    ball = zo.l2_ball(1.5, jnp.asarray([1.0, 0.0, 0.0]))
    w = None if metric is None else jnp.asarray(metric)
    inside = jnp.asarray([1.5, 0.5, -0.5])
    np.testing.assert_allclose(ball(inside, w), inside, rtol=1e-6)
    z = ball(jnp.asarray([4.0, -3.0, 2.0]), w)
    assert jnp.linalg.norm(z - jnp.asarray([1.0, 0, 0])) == pytest.approx(1.5, rel=1e-5)
    np.testing.assert_allclose(ball(z, w), z, rtol=1e-5)


def test_proximal_steps_find_the_sparse_minimum():
    target = jnp.asarray([2.0, -0.3, 0.1, -1.0])

    def g(x):
        return 0.5 * jnp.square(x - target).sum()

    transform = zo.proximal(optax.sgd(0.5), zo.l1(0.5), 0.5)
    optimizer = relaxed_inner(zo.Optimizer(zo.Coordinate(), transform))
    x, _, _ = zo.minimize(jax.random.key(0), optimizer, g, jnp.zeros(4), 400)
    np.testing.assert_allclose(x, [1.5, 0, 0, -0.5], atol=2e-3)
    assert (x[1], x[2]) == (0, 0)


def test_schedules():
    step = jnp.int32(3)
    assert zo.inverse_sqrt(2.0)(step) == 1.0
    assert zo.inverse_sqrt(2.0, horizon=16)(step) == 0.5
    assert zo.inverse(2.0)(step) == 0.5
    assert zo.inverse(2.0, delay=3.0)(step) == 1.0
    assert zo.horizon_mu(100, 100) == pytest.approx(0.001)
    assert zo.horizon_mu(10**6, 10**6) == 1e-4
    for make in (
        lambda: zo.inverse_sqrt(0.0),
        lambda: zo.inverse(1.0, -1.0),
        lambda: zo.horizon_mu(0, 1),
        lambda: zo.box(1.0, 0.0),
        lambda: zo.l2_ball(0.0),
        lambda: zo.l1(-1.0),
        lambda: zo.adamm(0.1, b1=1.0),
    ):
        with pytest.raises(InputError):
            make()


# Functions that are not JAX.


def simulate(x):
    """Pure numpy; fails on part of space."""
    if x["a"][0] > 1.1:
        raise RuntimeError("the simulator diverged")
    if x["a"][0] > 1.05:
        return np.nan
    return float(np.square(x["a"]).sum())


@pytest.mark.parametrize("batched", [False, True])
def test_external_functions_within_jit_and_scan(batched):
    calls = []

    def many(x):
        calls.append(len(x["a"]))
        rows = [{"a": row} for row in x["a"]]
        return [np.nan if row["a"][0] > 1.05 else simulate(row) for row in rows]

    def single(x):
        calls.append(1)
        return simulate(x)

    g = zo.external(many if batched else single, batched=batched, catch=(RuntimeError,))
    optimizer = relaxed_inner(zo.zo_sgd(0.05, samples=4, mu=0.3))
    start = {"a": jnp.ones(3)}
    x, state, _ = zo.minimize(jax.random.key(0), optimizer, g, start, 80)
    assert np.square(x["a"]).sum() < 2.6
    assert state.estimate.queries == sum(calls) == 80
    assert 0 < state.estimate.failures < 40
    if batched:
        assert calls == [8] * 10
    assert jax.jit(g)(start) == pytest.approx(3.0)


def test_values_less_an_offset_keep_small_differences():
    def g(x):
        return 1e5 + float(np.square(np.asarray(x, np.float64)).sum()) / 2

    errors = []
    for offset in (0.0, 1e5):
        estimator = zo.Coordinate(mu=1e-2)
        h = zo.external(g, offset=offset)
        found = estimator.estimate(jax.random.key(0), h, X, estimator.init(X))[0]
        errors.append(np.linalg.norm(found - X) / np.linalg.norm(X))
    assert errors[1] < 1e-3 < 0.1 < errors[0]


def test_errors_of_external_functions():
    def broken(x):
        raise ZeroDivisionError

    def mistaken(x):
        return undefined  # noqa: F821

    assert np.isnan(zo.external(broken)(X))
    assert np.isnan(jax.vmap(zo.external(broken, batched=True))(X[None])).all()

    def program(x):  # of its own, that ends with an error
        raise subprocess.CalledProcessError(1, "simulate")

    assert np.isnan(zo.external(program)(X))
    with pytest.raises(Exception, match="ZeroDivisionError"):
        jax.block_until_ready(zo.external(broken, catch=(OSError,))(X))
    with pytest.raises(Exception, match="NameError"):
        jax.block_until_ready(zo.external(mistaken)(X))
    with pytest.raises(Exception, match="a number"):
        jax.block_until_ready(zo.external(lambda x: x[:2])(X))
    with pytest.raises(Exception, match="one for each of 1 points"):
        jax.block_until_ready(zo.external(lambda x: 1.0, batched=True)(X))
    with pytest.raises(InputError, match="a function"):
        zo.external(3.0)


def test_shapes_of_values_are_checked():
    optimizer = made("zo_sgd")
    state = optimizer.init(X)
    _, plan = optimizer.ask(jax.random.key(0), X, state)
    with pytest.raises(ShapeError, match="12 points"):
        optimizer.tell(plan, [0.0] * 3, X, state)
