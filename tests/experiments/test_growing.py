"""The experiment on grow-and-prune: equal budgets, exact counts, honest claims."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gap
from core import trees
from core.errors import InputError, UnknownNameError
from experiments import gap as experiment
from experiments.differences import EQUAL
from experiments.growing import claims, methods, networks
from experiments.growing.protocol import Trial
from experiments.options import build
from experiments.training import TrainState

SHAPES = {
    f"fc{i}": {"kernel": jnp.ones((8, 6)), "bias": jnp.ones(6)} for i in (1, 2, 3)
}


def phase(**changes):
    values = {
        "rules": ((".*/kernel", 0.25),),
        "steps": 24,
        "learning_rate": 0.05,
        "every": 4,
        "stage": 4,
        "round": 8,
        "kappa": 3,
        "decay": 0.01,
    }
    return methods.Phase(**(values | changes))


def test_macs_are_those_counted_by_hand():
    lenet = networks.kernel_macs(networks.LENET300.build(), (28, 28, 1))
    assert lenet == {"fc1/kernel": 235_200, "fc2/kernel": 30_000, "fc3/kernel": 1_000}
    resnet = networks.kernel_macs(networks.RESNET8.build(), (16, 16, 3))
    assert resnet["conv1/kernel"] == 9 * 3 * 16 * 256
    assert resnet["layer1_0/conv2/kernel"] == 9 * 16 * 16 * 256
    assert resnet["layer2_0/conv1/kernel"] == 9 * 16 * 32 * 64
    assert resnet["layer3_0/conv2/kernel"] == 9 * 64 * 64 * 16
    assert resnet["linear/kernel"] == 640


@pytest.mark.parametrize("network", networks.NETWORKS.values(), ids=lambda n: n.name)
def test_three_groups_in_depth_order_are_the_stages_of_the_network(network):
    shape = (28, 28, 1) if network.name == "lenet300" else (16, 16, 3)
    params = jax.eval_shape(
        lambda: network.build().init(
            jax.random.key(0), jnp.zeros((1, *shape)), train=False
        )
    )["params"]
    groups = gap.partition(params, network.rules(0.1), 3).parts
    for i, group in enumerate(groups):
        start = "fc" if network.name == "lenet300" else "layer"
        assert all(name.startswith(f"{start}{i + 1}") for name in group)


def test_first_phases_are_shared_by_methods_that_do_not_know_the_density():
    names = {
        method: {
            Trial(0, method, d).stage(networks.LENET300, "grow") for d in (0.05, 0.01)
        }
        for method in ("one_shot", "str", "rigl")
    }
    assert names["one_shot"] == {"lenet300-s0-dense-1-grow"}
    assert names["str"] == {"lenet300-s0-str-1-grow"}
    assert len(names["rigl"]) == 2
    tuned = {Trial(0, "str", d).stage(networks.LENET300, "tune") for d in (0.05, 0.01)}
    assert len(tuned) == 2


@pytest.mark.parametrize("mode", experiment.EXPERIMENT.modes)
def test_modes_train_what_is_judged_at_equal_budgets(mode):
    chosen = experiment.EXPERIMENT.modes[mode]
    config = build(experiment.Config, chosen.overrides)
    for name in config.networks:
        network = networks.NETWORKS[name]
        examples = config.of(network, "examples") or network.images
        judged = experiment.is_judged(config, network, examples)
        assert judged is (mode != "quick")
        assert not experiment.is_judged(config, network, examples - 1)
        if judged:  # every stage and round is whole
            assert len(config.seeds_of(network, chosen.seeds)) >= 3
            assert set(config.of(network, "methods")) == set(experiment.ALL)
            first, _ = config.of(network, "epochs")
            assert first % (config.of(network, "stage") * config.kappa) == 0
            assert first % config.round_epochs == 0


@pytest.mark.parametrize("mode", experiment.EXPERIMENT.modes)
def test_rivals_move_as_often_as_cycles_change_groups(mode):
    config = build(experiment.Config, experiment.EXPERIMENT.modes[mode].overrides)
    for name in config.networks:
        network = networks.NETWORKS[name]
        examples = config.of(network, "examples") or 5_000
        epochs, _ = config.of(network, "epochs")
        steps = examples // config.batch_size * epochs
        moves = (steps - 1) // config.of(network, "move_every")
        assert moves >= epochs // config.of(network, "stage")


def test_a_cycle_fills_the_phase_whatever_the_number_of_groups():
    for kappa in (1, 2, 3, 6):
        rounds = phase().rounds(kappa)
        assert rounds >= 1
        assert rounds * kappa == 6
    assert phase(steps=4).rounds(6) == 1


@pytest.mark.parametrize("method", sorted(methods.MASKED))
def test_every_method_ends_the_phase_at_its_density(method, key):
    start = SHAPES
    if method == "c_gap_6":  # six groups need six kernels
        start = {f"fc{i}": SHAPES["fc1"] for i in range(6)}
    tx = methods.optimizer(method, phase(), key, start)
    goal = jax.tree.map(lambda w: jax.random.normal(key, w.shape), start)

    def loss(p):
        gaps = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), p, goal)
        return sum(jax.tree.leaves(gaps))

    with jax.numpy_dtype_promotion("standard"):

        @jax.jit
        def train(params):
            def step(carry, _):
                params, state = carry
                updates, state = tx.update(jax.grad(loss)(params), state, params)
                return (optax.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, tx.init(params)), length=24)[0]

        params, state = train(start)
    total = sum(int(m.sum()) for m in jax.tree.leaves(state.masks))
    if method.startswith("c_gap"):  # the last group is dense until it is pruned
        pruned, masks = gap.prune_back(params, phase().rules)
        total = sum(int(m.sum()) for m in jax.tree.leaves(masks))
        assert set(gap.explored(state).values()) == {1.0}
        assert float(loss(pruned)) < float(loss(start))
    assert total == 12 * len(start)


def test_copies_are_combined_and_grown_anew_at_the_end_of_a_round(key):
    # An epoch of 4 steps that adds to every active weight the number of its copy.
    def epoch(state, split, key):
        masks = state.opt_state.masks
        own = state.model_state["batch_stats"]["fc1"]["copy"]
        add = trees.map_partial(
            lambda m, w: w + jnp.where(m, own, 0.0), masks, state.params,
            absent=lambda w: w + own,
        )  # fmt: skip
        return state._replace(params=add, step=state.step + 4), {"loss": own}

    groups = gap.partition(SHAPES, phase().rules, 3)
    masks = gap.random_masks(key, SHAPES, phase().rules)
    statistics = {"batch_stats": {"fc1": {"copy": jnp.zeros(())}}}
    start = TrainState(jnp.zeros((), jnp.int32), SHAPES, statistics, ())
    state = methods.copies_of(start, phase(), groups, masks)
    statistics = {"batch_stats": {"fc1": {"copy": jnp.arange(3.0)}}}
    state = state._replace(model_state=statistics)
    # The combined network's activations are no copy's: statistics are measured anew.
    measured = {"batch_stats": {"fc1": {"copy": jnp.full((), 7.0)}}}
    train = methods.epoch_of_copies(
        epoch, phase(), groups, lambda s, *_: s._replace(model_state=measured)
    )
    state, metrics = train(state, None, key)
    assert float(metrics["loss"]) == 1.0
    np.testing.assert_array_equal(state.params["fc1"]["bias"][:, 0], [1.0, 2.0, 3.0])
    state, _ = train(state, None, key)  # the end of the round: 8 steps
    assert state.model_state["batch_stats"]["fc1"]["copy"].tolist() == [7.0] * 3
    for i in range(3):
        layer = state.params[f"fc{i + 1}"]
        np.testing.assert_array_equal(layer["bias"], np.full((3, 6), 1.0 + 2 * i))
        kernels = np.asarray(layer["kernel"])
        assert set(np.count_nonzero(kernels, axis=(1, 2)).tolist()) == {12}
        dense = np.asarray(state.opt_state.masks[f"fc{i + 1}"]["kernel"])
        assert dense.all(axis=(1, 2)).tolist() == [j == i for j in range(3)]


def fake(accuracies, explored=1.0, seeds=(0, 1, 2)):
    return {
        Trial(seed, method, 1.0 if method == "dense" else 0.1): {
            # Seeds differ; of C-GaP by half a point more or less than of the others.
            "accuracy": value + seed + (0.5 * (seed - 1) if method == "c_gap" else 0),
            "pruned_accuracy": value,
            "left": 0.1,
            "explored": explored,
            "cost": 3.0,
            "reached": 0.2,
        }
        for seed in seeds
        for method, value in accuracies.items()
    }


def report(tmp_path, found, judged=True, dataset="cifar10"):
    (tmp_path / "metrics.jsonl").write_text("")
    run = types.SimpleNamespace(dir=tmp_path)
    stub = types.SimpleNamespace(
        network=networks.LENET300,
        peak=lambda *_: 0.5,
        dataset=types.SimpleNamespace(name=dataset),
    )
    rows, _ = claims.report(run, stub, found, judged)
    return {(r.metric, [*r.setting.split(", "), "", ""][2]): r for r in rows}


def test_claims_are_judged_by_the_error_of_paired_differences(tmp_path):
    found = fake(
        {"dense": 98, "gmp": 97, "static": 94.5, "set": 95.4, "rigl": 96, "c_gap": 95}
    )
    rows = report(tmp_path, found)
    set_, rigl = (f"accuracy above {name} ({EQUAL})" for name in ("SET", "RigL"))
    lead = rows[set_, "C-GaP"]
    assert lead.measured == pytest.approx(-0.4)
    assert lead.holds is True
    assert "3 seeds, s.e. 0.29" in lead.setting
    assert rows[rigl, "C-GaP"].holds is False
    strict = report(tmp_path, found, dataset="mnist")
    lead = strict["accuracy above SET (at least equal, within 0.1 point)", "C-GaP"]
    assert lead.holds is None  # within two standard errors
    # Above by half a point, but that is less than two standard errors.
    assert rows["accuracy above static random (better)", "C-GaP"].holds is False
    assert rows["accuracy above GMP", "C-GaP"].holds is None
    assert rows["accuracy above dense", "C-GaP"].measured == pytest.approx(-3.0)
    assert rows["accuracy", "RigL"].std == pytest.approx(1.0)
    clear = report(tmp_path, fake({"dense": 98, "static": 90, "c_gap": 95}))
    assert clear["accuracy above static random (better)", "C-GaP"].holds is True
    few = fake({"dense": 98, "set": 90, "c_gap": 95}, seeds=(0, 1))
    for unjudged in (
        report(tmp_path, found, judged=False),
        report(tmp_path, few),
    ):
        assert unjudged[set_, "C-GaP"].holds is None


def test_other_groups_are_compared_over_the_seeds_they_have(tmp_path):
    found = fake({"dense": 98, "c_gap": 95}) | fake({"c_gap_1": 90}, seeds=(0,))
    rows = report(tmp_path, found)
    lead = rows["accuracy above C-GaP, one group", "C-GaP"]
    assert lead.measured == pytest.approx(95 - 0.5 - 90)
    assert lead.holds is None
    assert "one seed" in lead.setting
    one = next(
        r
        for r in rows.values()
        if (r.metric, r.measured) == ("accuracy", pytest.approx(90))
    )
    assert one.std is None
    config = build(experiment.Config, experiment.EXPERIMENT.modes["full"].overrides)
    chosen = [config.ablation_of(networks.RESNET8, seed, (0, 1, 2)) for seed in (0, 1)]
    assert chosen == [experiment.ABLATION, ()]
    assert config.ablation_of(networks.LENET300, 0, (0, 1, 2)) == ()
    params = {f"fc{i}": SHAPES["fc1"] for i in range(6)}
    drawn = {
        methods.groups_of("c_gap_random", phase(), params, jax.random.key(s)).parts
        for s in range(3)
    }
    assert len(drawn) == 3


def test_exploration_is_shown_and_judges_nothing(tmp_path):
    """A cycle reaches all weights by construction."""
    rows = report(tmp_path, fake({"dense": 98, "set": 95, "c_gap": 95}, explored=0.9))
    ours, theirs = (rows["weights ever active", name] for name in ("C-GaP", "SET"))
    assert (ours.measured, ours.paper, ours.holds) == (90, 100, None)
    assert (theirs.paper, theirs.holds) == (None, None)


def test_set_leaves_its_last_weights_time_to_learn(key):
    tx = methods.optimizer("set", phase(steps=40, every=1), key, SHAPES)
    with jax.numpy_dtype_promotion("standard"):
        update = jax.jit(tx.update)
        params, state, masks = SHAPES, tx.init(SHAPES), []
        for _ in range(40):
            updates, state = update(params, state, params)
            params = optax.apply_updates(params, updates)
            masks.append(jax.tree.leaves(state.masks))
    same = [
        all((a == b).all() for a, b in zip(*pair, strict=True))
        for pair in itertools.pairwise(masks)
    ]
    assert not same[34]
    assert all(same[36:])


def test_titles_cover_all_methods_and_bad_options_are_named(key):
    assert set(methods.TITLES) == {"dense", *methods.METHODS}
    assert set(experiment.ALL) | set(experiment.ABLATION) == set(methods.METHODS)
    with pytest.raises(UnknownNameError, match="method"):
        methods.optimizer("magic", phase(), key, SHAPES)
    with pytest.raises(InputError, match="two numbers"):
        experiment.Config(lenet300_epochs=(3,))
    with pytest.raises(InputError, match="divides"):
        experiment.Config(lenet300_epochs=(4, 1))
    with pytest.raises(InputError, match=r"--cnn_str: .*two numbers"):
        experiment.Config(cnn_str=(1.0,))
    with pytest.raises(InputError, match="networks"):
        experiment.Config(networks=())
