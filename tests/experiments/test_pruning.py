"""The pruning experiment: published numbers, equal budgets, honest claims."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import admm
import gap
from core import trees
from core.errors import InputError, UnknownNameError
from experiments import models
from experiments.admm_pruning import Config
from experiments.data import Split
from experiments.pruning import claims, methods, networks, trainer
from experiments.pruning.protocol import EDGES, Trial


@functools.cache
def initial(name):
    init = jax.jit(models.create(name).init)
    return init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["params"]


def left(network, rate):
    masks = gap.magnitude_masks(initial(network.model), network.rules(rate))
    return {k.split("/")[0]: int(m.sum()) for k, m in trees.by_path(masks).items()}


def test_published_allocations_leave_the_published_counts():
    lenet5 = left(networks.LENET5, 71.2)
    assert lenet5 == {"conv1": 100, "conv2": 2000, "fc1": 3600, "fc2": 350}
    assert sum(lenet5.values()) == 6050
    lenet300 = left(networks.LENET300, 22.9)
    assert lenet300 == {
        "fc1": round(0.04 * 235_200),
        "fc2": round(0.07 * 30_000),
        "fc3": round(0.12 * 1_000),
    }


@pytest.mark.parametrize("network", networks.NETWORKS.values(), ids=lambda n: n.name)
def test_every_allocation_has_the_rate_it_is_named_after(network):
    total = {"lenet300": 266_200, "lenet5": 430_500}[network.name]
    for rate in network.targets:
        assert total / sum(left(network, rate).values()) == pytest.approx(
            rate, rel=0.01
        )


def test_macs_of_lenet5_are_counted_by_hand():
    positions = networks.output_positions(models.create("lenet5"), (28, 28, 1))
    assert positions == {"conv1": 24 * 24, "conv2": 8 * 8, "fc1": 1, "fc2": 1}
    dense = {"conv1": 500, "conv2": 25_000, "fc1": 400_000, "fc2": 5_000}
    assert networks.macs(dense, positions) == 288_000 + 1_600_000 + 400_000 + 5_000


def test_alexnet_table_is_the_published_one():
    weights = {k: w for k, (w, _, _) in networks.ALEXNET_KEPT.items()}
    assert sum(weights.values()) == pytest.approx(60.9e6, rel=2e-3)
    by_name = {r.metric: r for r in claims._alexnet()}
    assert by_name["weight reduction"].measured == pytest.approx(21, abs=0.05)
    assert all(r.simulated and r.holds is None for r in by_name.values())


def test_uniform_keeps_one_density_everywhere():
    network = networks.uniform(networks.LENET300, 0.1)
    assert left(network, 10.0) == {"fc1": 23_520, "fc2": 3_000, "fc3": 100}


def test_unknown_rates_methods_and_epochs_are_named():
    with pytest.raises(UnknownNameError, match="rate of LeNet-5"):
        networks.LENET5.rules(70.0)
    with pytest.raises(UnknownNameError, match="method"):
        methods.pruning_optimizer("magic", phase())
    for density in (1.0, 1e-9):
        with pytest.raises(InputError, match="--keep_ratio"):
            networks.uniform(networks.LENET5, density)
    with pytest.raises(InputError, match="--methods"):
        Config(methods=())
    with pytest.raises(InputError, match="three numbers"):
        Config(lenet5_epochs=(1, 2))
    with pytest.raises(InputError, match="at least rho"):
        Config(rho=0.1, lenet5_rho_end=0.01)


def phase(**changes):
    values = {
        "rules": [("w", gap.Target(count=5))],
        "steps": 40,
        "learning_rate": 0.05,
        "interval": 8,
        "rho": 0.1,
        "rho_end": 1.0,
        "l1": 0.01,
        "stages": 5,
    }
    return methods.Phase(**(values | changes))


@pytest.mark.parametrize("method", sorted(methods.METHODS))
def test_every_method_trains_towards_the_target(method, key):
    params = {"w": jax.random.normal(key, (6, 5)), "b": jnp.ones(5)}
    goal = jax.random.normal(jax.random.fold_in(key, 1), (6, 5))

    def loss(p):
        return jnp.mean((p["w"] - goal) ** 2) + jnp.mean(p["b"] ** 2)

    with jax.numpy_dtype_promotion("standard"):
        tx = methods.pruning_optimizer(method, phase())

        @jax.jit
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (after, _), _ = jax.lax.scan(step, (params, tx.init(params)), length=40)
    hard, masks = admm.finish(after, phase().rules)
    assert int(masks["w"].sum()) == 5
    if method in ("one_shot", "iterative", "gradual"):
        # Pruned already in the phase: hard pruning changes nothing.
        np.testing.assert_array_equal(hard["w"], after["w"])
    assert float(loss(after)) < float(loss(params))
    assert set(methods.TITLES) == {*methods.METHODS, "dense"}


def test_an_interval_longer_than_the_phase_is_refused():
    with pytest.raises(InputError, match="every 40 steps"):
        methods.pruning_optimizer("admm", phase(interval=40))


def test_rho_reaches_its_end_in_the_last_iteration():
    tx = methods.pruning_optimizer("admm", phase())
    params = {"w": jnp.ones((6, 5))}
    with jax.numpy_dtype_promotion("standard"):
        state = tx.init(params)
        update = jax.jit(tx.update)
        seen = []
        for _ in range(40):
            _, state = update(params, state, params)
            seen.append(float(state.rho))
    assert seen[0] == pytest.approx(0.1)
    assert seen[-1] == pytest.approx(1.0)
    assert seen[-9] < 0.99


def result(accuracy, left, pruned=90.0):
    return {
        "accuracy": accuracy,
        "pruned_accuracy": pruned,
        "left": left,
        "sizes": {"fc1": 235_200, "fc2": 30_000, "fc3": 1_000},
        "histogram": [1] * (len(EDGES) - 1),
    }


@pytest.mark.parametrize(("accuracy", "holds"), [(98.41, True), (98.39, False)])
def test_the_claim_is_computed_from_the_mean_over_seeds(accuracy, holds):
    network = networks.LENET300
    full = {"fc1": 235_200, "fc2": 30_000, "fc3": 1_000}
    kept = dict(network.targets[22.9])
    part = {}
    for seed, off in enumerate((-0.1, 0.0, 0.1)):
        part[Trial(network, seed, "dense", 1.0)] = result(98.5 + off, full)
        part[Trial(network, seed, "admm", 22.9)] = result(accuracy + off, kept)
        part[Trial(network, seed, "one_shot", 22.9)] = result(99.0, kept)
    rows = {
        (r.metric, r.setting): r for r in claims._rows(network, (28, 28, 1), part, True)
    }
    row = rows["accuracy, pruned", "LeNet-300-100, 22.9x, ADMM"]
    assert row.holds is holds
    assert row.std == pytest.approx(0.1)
    assert row.baseline == pytest.approx(98.5)
    elsewhere = claims._rows(network, (28, 28, 1), part, False)
    assert all(r.holds is None for r in elsewhere if r.unit == "%")
    rival = rows["accuracy, pruned", "LeNet-300-100, 22.9x, one-shot magnitude"]
    assert rival.measured == 99.0
    assert rival.holds is None
    assert rows["weights left in fc1", "LeNet-300-100, 22.9x"].measured == 9_408
    # Counts alone prove nothing: the reduction holds with its accuracy.
    assert rows["weight reduction", "LeNet-300-100, 22.9x"].holds is holds


def trials(network, dense, kept, **accuracies):
    """Three equal seeds of a dense control and of methods at 22.9x."""
    part = {}
    for seed in range(3):
        part[Trial(network, seed, "dense", 1.0)] = result(dense, kept)
        for method, (accuracy, left) in accuracies.items():
            part[Trial(network, seed, method, 22.9)] = result(accuracy, left)
    return part


@pytest.mark.parametrize(("dense", "seeds"), [(98.0, 3), (98.5, 2)])
def test_a_weak_dense_network_and_few_seeds_prove_nothing(dense, seeds):
    network = networks.LENET300
    kept = dict(network.targets[22.9])
    part = trials(network, dense, kept, admm=(98.4, kept))
    part = {t: r for t, r in part.items() if t.seed < seeds}
    rows = {r.metric: r for r in claims._rows(network, (28, 28, 1), part, True)}
    assert rows["accuracy, pruned"].holds is None
    assert rows["weight reduction"].holds is None


@pytest.mark.parametrize("wrong", ["admm", "l1"])
def test_a_wrong_count_of_any_method_breaks_its_claim(wrong):
    network = networks.LENET300
    kept = dict(network.targets[22.9])
    left = {m: kept | {"fc2": 2_101} if m == wrong else kept for m in ("admm", "l1")}
    part = trials(network, 98.5, kept, **{m: (98.5, n) for m, n in left.items()})
    rows = {r.metric: r for r in claims._rows(network, (28, 28, 1), part, True)}
    assert rows["accuracy, pruned"].setting.endswith("L1 and prune")
    assert rows["weights left in fc2"].measured == 2_101
    assert rows["weight reduction"].holds is False


def test_a_density_that_is_given_names_no_column():
    """Cells of a sweep over it share their columns."""
    a, b = (networks.uniform(networks.LENET300, keep) for keep in (0.1, 0.05))
    assert a.at(10.0) == b.at(20.0) == "LeNet-300-100, one density"
    assert networks.LENET300.at(22.9) == "LeNet-300-100, 22.9x"


@pytest.mark.parametrize("batch", [10, 53, 100])
def test_classes_do_not_depend_on_the_batch(batch):
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(7, 4)), rng.normal(size=(53, 7))
    labels = (x @ w).argmax(-1)

    def fn(w, x):
        return x @ w

    np.testing.assert_array_equal(trainer.classes(fn, w, x, batch), labels)
    labels[:13] = (labels[:13] + 1) % 4
    found = trainer.jitted_accuracy(fn, w, Split(x, labels), batch)
    assert found == pytest.approx(100 * 40 / 53)
