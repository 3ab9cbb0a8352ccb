"""The experiments on function values: computed claims, budgets, rates."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quant
import zo
from core.errors import InputError
from experiments import hge_attack, hge_synthetic, zo_quant
from experiments.options import build
from experiments.zeroth import (
    attack_rows,
    attacks,
    campaign,
    problems,
    runs,
    scales,
    synthetic,
)
from experiments.zeroth.arms import HGE, IMPORTANCE, SCD, SGD
from experiments.zeroth.victims import Victim, targets


def curve(queries_to_half, seeds=10, k=200):
    """Losses of all rates that fall as 1 / queries, each seed a little apart."""
    queries = np.arange(1, k + 1) * 100.0
    spread = 1 + 0.01 * np.arange(seeds)
    values = 1 / (1 + queries[None] / (queries_to_half * spread[:, None]))
    worse = np.stack([values * factor for factor in (4, 2, 1, 2, 4)])
    return {
        "rates": [1, 2, 3, 4, 5],
        "queries": queries.tolist(),
        "start": [1.0] * seeds,
        "values": worse.tolist(),
    }


@pytest.mark.parametrize(
    ("law", "ours", "holds"),
    [
        ("heavy", 100, True),
        ("heavy", 190, False),
        ("isotropic", 190, True),
        ("isotropic", 100, False),
        ("isotropic", 290, False),
    ],
)
def test_gains_and_ties_are_computed(law, ours, holds):
    problem = problems.quadratic(law, 20)
    found = {SGD: curve(300), SCD: curve(200), HGE: curve(ours)}
    *each, gain = synthetic.query_rows(problem, found, 0.05, True)
    assert len(each) == 3
    assert gain.measured == pytest.approx(200 / ours, rel=0.05)
    assert gain.holds is holds
    assert "over ZO-SCD" in gain.setting
    assert (
        next(reversed(list(synthetic.query_rows(problem, found, 0.05, False)))).holds
        is None
    )


def test_what_never_gets_there_has_no_gain():
    problem = problems.quadratic("heavy", 20)
    found = {SGD: curve(300), SCD: curve(200), HGE: curve(1e9)}
    *_, gain = synthetic.query_rows(problem, found, 0.05, True)
    assert (gain.measured, gain.holds) == (0.0, False)


def test_slopes_are_fitted_at_the_best_rate():
    problem = problems.quadratic("heavy", 20)
    rows = list(synthetic.slope_rows(problem, {SGD: curve(10), "x": curve(10)}, True))
    assert rows[0].measured == pytest.approx(-1, abs=0.05)
    assert [row.holds for row in rows] == [True, None]
    assert synthetic.edges(problem, {SGD: curve(10)}) == []
    assert synthetic.edges(problem, {SGD: curve(10)}, 1e-9) == []
    # What falls faster than a rate is on its way from the start.
    faster = curve(10)
    faster["values"] = np.square(faster["values"]).tolist()
    (row,) = synthetic.slope_rows(problem, {SGD: faster}, True)
    assert (row.measured, row.holds) == (pytest.approx(-2, abs=0.1), False)


def test_rates_at_an_end_of_the_grid_are_named_by_the_score_of_their_rows():
    problem, found = problems.quadratic("heavy", 20), curve(10)
    found["values"] = found["values"][2:]  # the best is first
    assert synthetic.edges(problem, {SGD: found}) == [SGD]
    assert synthetic.edges(problem, {SGD: found}, 0.05) == [SGD]


def test_ties_are_judged_by_their_interval_as_well():
    problem, wide = problems.quadratic("isotropic", 20), curve(200)
    spread = np.asarray([0.4, 0.5, 0.6, 1, 1, 1, 1, 2, 2.2, 2.4])[None, :, None]
    values = 1 / (1 + np.asarray(wide["queries"])[None, None] / (200 * spread))
    found = {SGD: curve(300), SCD: curve(200), HGE: wide | {"values": [*values] * 3}}
    *_, gain = synthetic.query_rows(problem, found, 0.05, True)
    assert gain.measured == pytest.approx(1, rel=0.05)
    assert gain.holds is False


def test_importance_alone_stands_beside_the_hybrid():
    problem = problems.quadratic("heavy", 20)
    found = {SGD: curve(300), SCD: curve(200), HGE: curve(100), IMPORTANCE: curve(80)}
    row = list(synthetic.query_rows(problem, found, 0.05, True))[-2]
    assert "over importance alone" in row.setting
    assert row.measured == pytest.approx(0.8, rel=0.05)
    assert row.holds is None


def test_closed_forms_of_variances():
    """Those of the specification's table, and of a gradient that saturates."""
    forms, alpha = synthetic.closed_forms(
        synthetic.gradient("one entry in ten", 200), 10
    )
    assert forms[synthetic.RANDOM] == pytest.approx(19.9)
    assert forms[synthetic.UNIFORM] == pytest.approx(19)
    assert forms[synthetic.BEST] == pytest.approx(
        1 / (1 / 19.9 + 1 / forms[synthetic.BY_IMPORTANCE])
    )
    assert alpha < 0.05
    assert forms[synthetic.CLIPPED] > forms[synthetic.BEST]
    forms, _ = synthetic.closed_forms(np.asarray([8.0, 1, 1, 0, 0]), 2)
    assert forms[synthetic.BY_IMPORTANCE] == pytest.approx(2 / 66)


def test_closed_forms_are_those_of_the_estimators():
    g = jnp.asarray(synthetic.gradient("Laplace", 40))
    forms, _ = synthetic.closed_forms(np.asarray(g), 5)
    mixed = zo.Hybrid(5, 5, floor=1e-6)
    known = mixed.start(40, g.dtype)._replace(magnitudes=jnp.abs(g))
    found = float(mixed.variance_at(g, known))
    assert found == pytest.approx(forms[synthetic.CLIPPED], rel=1e-3)


def test_spectra_and_snapshots():
    problem = problems.spectrum(30)
    h = np.asarray(problem.data.curvature)
    assert (h.min(), h.max()) == pytest.approx((0.1, 1))
    x = jnp.linspace(-1, 1, 30)
    loss = problems.measured(problem.data, x)
    assert loss == pytest.approx(float(0.5 * (h * np.square(x)).sum()), rel=1e-5)
    data = problems.logistic(False, 6, 40).data
    assert problems.snapshot_cost(data, 16) == 3
    whole = problems.snapshot(data, jax.random.key(0), 16)
    assert whole(jnp.zeros(6)) == pytest.approx(np.log(2), rel=1e-5)


def test_snapshots_cost_what_they_show():
    problem = problems.quadratic("heavy", 20)
    found = runs.curves(
        problem, "svrg", (0,), budget=7_000, probes=4, size=4, decaying=False
    )
    # 20 steps of 4 (4 + 4) values, and 40 values of 16 mini-batches every 100 steps.
    assert found["queries"][0] == 20 * 2 * 8 + 40 * 16
    steps = np.diff(found["queries"])
    assert set(steps) == {20 * 2 * 8, 20 * 2 * 8 + 40 * 16}
    assert np.flatnonzero(steps > 20 * 2 * 8).tolist() == [4, 9]
    assert found["queries"][-1] <= 7_000
    with pytest.raises(InputError, match="budget"):
        runs.curves(problem, "svrg", (0,), budget=999, probes=4, size=4, decaying=True)


def test_running_means_and_hits():
    np.testing.assert_allclose(runs.average(np.asarray([[4.0, 2, 0]])), [[4, 3, 2]])
    hit = runs.hits(curve(100, seeds=1), 0.2)
    assert np.argmin(hit[:, 0]) == 2
    assert runs.best_rate(np.full((5, 3), np.inf)) == 2


def test_problems_have_the_gradients_that_they_say():
    data = problems.logistic(True, 6, 40).data
    x = jnp.linspace(-1, 1, 6)
    whole = problems.measured(data, x)
    rows = np.asarray(data.rows)
    loss = np.logaddexp(0, -rows @ np.asarray(x)).mean()
    assert whole == pytest.approx(loss - float(data.least), rel=1e-4)
    assert whole > 0
    other = problems.logistic(False, 6, 40).data
    slope = -(rows.T @ (1 / (1 + np.exp(rows @ np.asarray(x))))) / 40
    slope += 0.05 * 2 * np.asarray(x) / (1 + np.asarray(x) ** 2) ** 2
    square = problems.measured(other, x)
    assert square == pytest.approx(np.square(slope).sum(), rel=1e-3)
    for law in ("heavy", "isotropic"):
        s = problems.scales(law, 30)
        assert np.square(s).sum() == pytest.approx(1)


def test_methods_ask_equally_often():
    from experiments.zeroth.arms import ARMS, MU

    steps = {
        name: arm.make(0.1, 20, MU).estimator.queries(100) for name, arm in ARMS.items()
    }
    assert steps.pop("svrg") == 80  # at its snapshot too
    assert set(steps.values()) == {40}


def test_an_oracle_draws_by_the_gradient_of_the_mini_batch():
    problem = problems.quadratic("heavy", 20)
    data, x = problem.data, jnp.linspace(-1, 1, 20)
    f = problems.loss(data, problems.batch(data, jax.random.key(0), 4))
    from experiments.zeroth.arms import ARMS

    optimizer = ARMS["hge_oracle"].make(0.1, 8, 1e-3)
    _, state = runs._told((x, optimizer.init(x)), f)
    np.testing.assert_allclose(state.estimate.memory.magnitudes, abs(jax.grad(f)(x)))
    options = {"budget": 4_000, "probes": 8, "size": 4, "decaying": False}
    ends = {
        arm: np.asarray(runs.curves(problem, arm, (0, 1, 2), **options)["values"])
        for arm in ("hge_oracle", "hge_uniform")
    }
    last = {arm: values[4, :, -3:].mean() for arm, values in ends.items()}
    assert last["hge_oracle"] < 0.7 * last["hge_uniform"]


def test_a_synthetic_run():
    problem = problems.quadratic("heavy", 20)
    found = runs.curves(
        problem, "scd", (0, 1), budget=4_000, probes=4, size=4, decaying=True
    )
    values = np.asarray(found["values"])
    assert values.shape == (10, 2, 25)
    assert found["queries"][-1] == 4_000
    assert values[5, :, -1].max() < 0.7 * min(found["start"])


W = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)


def logits(variables, images):
    return images.reshape(len(images), -1) @ variables


@pytest.fixture(scope="module")
def victim():
    rng = np.random.default_rng(1)
    images = rng.uniform(0.2, 0.8, (60, 2, 2, 1)).astype(np.float32)
    labels = (images.reshape(60, -1) @ W).argmax(1).astype(np.int32)
    return Victim(
        "toy", "toy", jnp.asarray(W), logits, images, labels, 100.0, 60, "made"
    )


@pytest.fixture(scope="module")
def config():
    options = {"images": 3, "tuning": 2, "budget": 300, "probes": 4, "universal": 2}
    return build(hge_attack.Config, options)


def test_attacks_with_the_best_of_three_rates(victim, config):
    plan = campaign.plan("untargeted", config, victim, ("sgd",))
    found = campaign.fought(plan, "sgd")
    assert len(found["spent"]) == 3
    assert max(found["queries"]) <= 300
    assert str(found["rate"]) in found["tried"]
    assert found["tried"][str(found["rate"])] == min(found["tried"].values())
    rows = list(attack_rows.rows("toy", plan.words, {"sgd": found}, 300))
    # The budget is asserted before: no claim that could not fail is counted.
    assert (rows[-1].baseline, rows[-1].holds) == (300, None)
    share = 100 * np.mean(found["success"])
    assert rows[0].measured == pytest.approx(share)


def test_plans_use_other_images_for_rates(victim, config):
    for goal in hge_attack.GOALS:
        plan = campaign.plan(goal, config, victim, ("sgd", "nes"))
        test, tuning = (part[0].reshape(-1, 4) for part in (plan.test, plan.tuning))
        assert not (test[:, None] == tuning[None]).all(-1).any()
        assert ("nes" in plan.arms) == (not plan.by_decisions)
        assert plan.threat.targeted == goal.startswith("targeted")
    big = build(hge_attack.Config, {"images": 60})
    with pytest.raises(InputError, match="at most the 60"):
        campaign.plan("untargeted", big, victim, ("sgd",))
    wanted = targets(victim.labels, 0)
    assert np.all(wanted != victim.labels)
    assert wanted.max() < 10


@pytest.mark.oracle
def test_a_rival_changes_several_images_at_once_within_the_budget(victim, config):
    pytest.importorskip("evosax")
    plan = campaign.plan("universal", config, victim, ("nes",))
    plan = dataclasses.replace(plan, budget=500)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        found = campaign.fought(plan, "nes")  # evosax's own code
    # Two images, before the first step, and in each of its eight values and its test.
    assert all((q - 2) % (2 * 9) == 0 and q <= 500 for q in found["queries"])
    assert np.shape(found["spent"]) == (1,)


def test_decisions_of_a_class_that_is_wanted(victim, config):
    plan = campaign.plan("targeted_decision", config, victim, ("sgd",))
    assert plan.words == "targeted, decisions"
    assert not (plan.test[1] == victim.labels[: len(plan.test[1])]).any()
    most = int(np.bincount(victim.labels).argmax())  # some classes have few images
    parts = {
        name: (getattr(plan, name)[0], np.full_like(getattr(plan, name)[1], most))
        for name in ("tuning", "test")
    }
    plan = dataclasses.replace(plan, near=0.0, budget=500, **parts)
    found = campaign.fought(plan, "sgd")
    assert max(found["queries"]) <= 500
    assert np.isfinite(found["l2"]).all()


def test_gains_are_judged_with_the_data_and_sizes_of_full_mode():
    """And not at all without both rivals."""
    full = dict(hge_attack.EXPERIMENT.mode("full").overrides)
    config = build(hge_attack.Config, full)
    reaches = hge_attack.EXPERIMENT.reaches
    assert reaches(config, *hge_attack.SIZES, examples=20_000)
    for options in ({"dataset": "mnist_5k"}, {"epochs": 1}, {"probes": 4}):
        config = build(hge_attack.Config, full | options)
        assert not reaches(config, *hge_attack.SIZES, examples=20_000)
    assert not reaches(build(hge_attack.Config, full), examples=5_000)
    found = {"sgd": {"spent": [300, 200]}, "hge": {"spent": [100, 50]}}
    with pytest.raises(KeyError):
        attack_rows.gain_row("toy", "x", found, "hge", ("sgd", "scd"), True)


def test_a_budget_that_was_passed_is_an_error():
    fields = {name: np.zeros(2) for name in ("success", "fraction")}
    sizes = {name: np.zeros((2, 1)) for name in ("l2", "linf")}
    found = types.SimpleNamespace(**fields, **sizes, queries=np.asarray([99, 101]))
    with pytest.raises(AssertionError, match="101 queries of 100"):
        attacks._shown(found, 100)  # type: ignore[arg-type]


def test_gains_of_attacks():
    found = {
        "sgd": {"spent": [300, 200]},
        "scd": {"spent": [200, 100]},
        "hge": {"spent": [100, 50]},
    }
    row = attack_rows.gain_row("toy", "x", found, "hge", ("sgd", "scd"), True)
    assert (row.measured, row.holds) == (2.0, True)
    assert "over ZO-SCD" in row.setting
    found["hge"] = {"spent": [240, 20]}
    row = attack_rows.gain_row("toy", "x", found, "hge", ("sgd", "scd"), True)
    assert row.measured > 1
    assert row.holds is False  # its interval reaches below 1


def test_scales_are_multiplied_and_stay_positive():
    scaling = quant.Scaling
    weights = {"fc1/kernel": scaling(jnp.asarray([[1.0, 2.0]]), jnp.zeros((1, 2)))}
    inputs = {"fc1/kernel": scaling(jnp.ones((1, 1)), jnp.zeros((1, 1)))}
    before = quant.Scales(weights, inputs)
    tuned = scales.untuned(before)
    assert scales.count(before) == 3
    moved = tuned._replace(
        weights={"fc1/kernel": jnp.log(jnp.asarray([[0.5, 3.0]]))},
        inputs={"fc1/kernel": jnp.full((1, 1), -50.0)},
    )
    after = scales.scaled(before, moved)
    np.testing.assert_allclose(after.weights["fc1/kernel"].scale, [[0.5, 6.0]])
    assert after.inputs["fc1/kernel"].scale > 0


def test_options_that_cannot_be_judged_are_errors():
    with pytest.raises(InputError, match="sgd, scd and hge"):
        build(hge_synthetic.Config, {"arms": ("sgd",)})
    with pytest.raises(InputError, match="arms"):
        build(zo_quant.Config, {"arms": ()})
