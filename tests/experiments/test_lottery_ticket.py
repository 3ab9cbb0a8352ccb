"""The lottery ticket experiment: pure trainings, fair controls, computed verdicts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import trees
from core.errors import InputError
from experiments import models
from experiments.data import Dataset, Split
from experiments.lottery import claims, networks, plans, training, trials
from experiments.lottery_ticket import CONTROLS, EXPERIMENT, Config, is_judged
from experiments.workdir import Run
from gap import lottery

SHAPE = (6, 6, 1)


def made_up(n=64, seed=0):
    """Ten classes that a small network can tell apart a little."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 10).astype(np.int32)
    images = rng.integers(0, 120, (n, *SHAPE))
    images[np.arange(n), labels % 6, labels // 6 * 5] += 120
    return Split(images.astype(np.uint8), labels)


@pytest.fixture(scope="module")
def dataset():
    return Dataset("mnist", "made up", made_up(), made_up(40, 1), 10, (0.3,), (0.3,))


def tiny(width):
    return models.LeNet300(hidden=(max(1, round(8 * width)), max(1, round(6 * width))))


NETWORK = networks.Network("tiny", "Tiny", tiny, [(".*/kernel", True)], None, 0.0)
RULES = [("params/.*/kernel", True)]


@pytest.mark.parametrize("skips", [True, False])
def test_resnet8_is_the_registered_one_with_its_connections(skips, key):
    ours = networks.SmallResNet(width=4, skips=skips)
    theirs = models.ResNet(depth=8, width=4)
    x = jax.random.normal(key, (2, 8, 8, 3))
    variables = filled(theirs, x)
    shapes = jax.tree.map(jnp.shape, variables)
    assert jax.tree.map(jnp.shape, filled(ours, x)) == shapes
    both = (jax.jit(model.apply)(variables, x) for model in (ours, theirs))
    assert np.allclose(*both, atol=1e-5) is skips
    odd = networks.SmallResNet(width=3)
    assert jax.eval_shape(odd.apply, filled(odd, x), x).shape == (2, 10)


def filled(model, x):
    """Variables without an initialiser to compile; variances are positive."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree.map(
        lambda s: jnp.asarray(np.abs(rng.normal(size=s.shape, scale=0.3)), s.dtype),
        shapes,
    )


def test_a_ticket_starts_as_the_dense_network_with_masked_kernels(key):
    """Batch norm: statistics, scales and offsets are part of theta_0."""
    network = networks.RESNET8
    x = jax.random.normal(key, (2, 8, 8, 3))
    theta0 = filled(network.build(0.25), x)
    rules = [(f"params/{path}", spec) for path, spec in network.rules]
    moved = jax.tree.map(lambda w: w + 0.5, theta0)
    masks = lottery.omp(moved, 0.3, rules)
    assert {k.split("/")[1][:5] for k in trees.by_path(masks)} == {"layer"}
    start = lottery.ticket(theta0, masks)
    kernels = trees.by_path(masks)

    def by_hand(path, w):
        mask = kernels.get(trees.path_str(path))
        return w if mask is None else w * mask.astype(w.dtype)

    model = network.build(0.25)
    apply = jax.jit(model.apply)
    expected = apply(jax.tree_util.tree_map_with_path(by_hand, theta0), x)
    np.testing.assert_array_equal(apply(start, x), expected)
    jax.tree.map(
        np.testing.assert_array_equal, start["batch_stats"], theta0["batch_stats"]
    )


def test_training_keeps_masks_and_goes_on_where_it_was_rewound(dataset, key):
    data = training.make_data(dataset, 0, 1)
    recipe = training.Recipe(16, 0.0)
    train = jax.jit(training.make_train(tiny(1), recipe, 0.3, 0.3, eval_batch=7))
    theta0 = NETWORK.init(key, SHAPE)
    dense = lottery.dense_masks(theta0, RULES)
    rate = jnp.float32(0.05)

    def run(start, masks, first=0, epochs=6, rewind=2):
        span = training.Span(*map(jnp.int32, (first, epochs, rewind)))
        return train(start, masks, key, rate, span, data)

    whole = run(theta0, dense)
    assert float(whole.loss) < 2.2  # log(10) is 2.3
    logits = tiny(1).apply(
        whole.variables, (dataset.test.images / np.float32(255) - 0.3) / 0.3
    )
    right = 100 * np.mean(np.argmax(logits, -1) == dataset.test.labels)
    assert float(whole.accuracy) == pytest.approx(right)
    # Two epochs of a run of two: other milestones, so only the first is the same.
    other = run(theta0, dense, epochs=4, rewind=2)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        other.early,
        run(theta0, dense, rewind=2).early,
    )
    masks = lottery.omp(whole.variables, 0.3, RULES)
    start = lottery.ticket(whole.early, masks)
    assert np.any(start["params"]["fc1"]["bias"] != 0)
    for after in (run(start, masks, first=2), run(start, masks, first=6)):
        for name, mask in trees.by_path(masks).items():
            assert not np.any(trees.by_path(after.variables)[name][~mask])
    # No epoch left: nothing moves.
    jax.tree.map(np.testing.assert_array_equal, after.variables, start)
    assert train._cache_size() == 1


def test_rates_fall_to_a_tenth_at_the_milestones(dataset, key):
    """Without momentum and noise a step is the rate times the gradient."""
    data = training.make_data(dataset, 0, 1)
    recipe = training.Recipe(64, 0.0, momentum=0.0)
    train = jax.jit(training.make_train(tiny(1), recipe, 0.3, 0.3))
    theta0 = NETWORK.init(key, SHAPE)
    masks = lottery.dense_masks(theta0, RULES)

    def step(first):
        span = training.Span(*map(jnp.int32, (first, first + 1, 0)))
        span = span._replace(epochs=jnp.int32(8))
        # Only the last epoch of eight runs when it begins at 7, and so on.
        return train(theta0, masks, key, jnp.float32(1e-3), span, data)

    last = step(7).variables["params"]["fc3"]["bias"]
    two = step(6).variables["params"]["fc3"]["bias"]
    five = step(3).variables["params"]["fc3"]["bias"]
    # Rates of the epochs: 1 before 4, 0.1 from 4, 0.01 from 6, in units of 1e-3.
    moves = [float(np.abs(x).sum()) for x in (last, two, five)]
    assert moves[1] / moves[0] == pytest.approx(2, rel=0.1)
    assert moves[2] / moves[0] == pytest.approx(122, rel=0.1)


def plan(**changes):
    values = {
        "network": NETWORK,
        "label": f"tiny-{plans.LONG}",
        "epochs": 4,
        "rewind": 1,
        "rates": (0.01, 0.1),
        "seeds": (0, 1),
        "levels": (1, 2),
        "methods": ("omp", "imp"),
        "controls": CONTROLS,
        "extra_levels": (2,),
    }
    return trials.Plan(**(values | changes))


@pytest.fixture(scope="module")
def programs(dataset):
    data = training.make_data(dataset, 0, 1)
    return trials.Programs(NETWORK, training.Recipe(16, 0.0), dataset, data)


@pytest.fixture(scope="module")
def trained(programs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lottery")

    def session(tables):
        about = {"experiment": "lottery_ticket", "mode": "quick", "config": Config()}
        with Run(folder, **about) as run:
            parts = [
                claims.Part(t, trials.Trials(run, t, programs).run_all(), "mnist")
                for t in tables
            ]
            return parts, run.fresh

    short = plan(
        label=f"tiny-{plans.SHORT}", epochs=1, methods=("omp",), controls=("rr", "sdt")
    )
    tables = [plan(longer=2), short]
    return session(tables), session(tables), folder


def test_every_training_is_a_stage_that_runs_once(trained):
    (parts, fresh), (again, none), _ = trained
    kinds = ["lt", "rr"]
    names = {"dense", "dense-longer", "sdt-1", "sdt-2"}
    names |= {f"{k}-{m}-{j}" for k in kinds for m in ("omp", "imp") for j in (1, 2)}
    extra = ["random", "rewind", "replay"]
    names |= {f"{k}-{m}-2" for k in extra for m in ("omp", "imp")}
    assert set(parts[0].found) == names
    # The round of learning-rate rewinding on the way to level 2, and the short table.
    assert len(fresh) == len(names) + 1 + 7
    assert none == []
    assert [p.found for p in again] == [p.found for p in parts]
    assert np.shape(parts[0].found["dense"]["accuracy"]) == (2, 2)


def test_iterative_rounds_prune_nested_masks_from_one_start(trained, dataset):
    """The weights kept on disk: zeros nested, counts exact, one theta_0."""
    _, _, folder = trained
    one = jax.eval_shape(lambda: NETWORK.init(jax.random.key(0), SHAPE))
    theta0 = jax.tree.map(lambda w: jnp.zeros((4, *w.shape), w.dtype), one)
    with Run(folder, experiment="lottery_ticket", mode="quick", config=Config()) as run:
        one, two = (
            run.checkpoints(f"tiny-T-imp-{j}").restore({"final": theta0})[1]["final"]
            for j in (1, 2)
        )
    total = NETWORK.weights(SHAPE)
    for j, tree in ((1, one), (2, two)):
        flat = [v for k, v in trees.by_path(tree).items() if k.endswith("kernel")]
        left = sum(np.count_nonzero(w, axis=(1, 2)) for w in flat)
        np.testing.assert_array_equal(left, round(0.8**j * total))
    for name, w in trees.by_path(two).items():
        if name.endswith("kernel"):
            assert not np.any((w != 0) & (trees.by_path(one)[name] == 0))


def test_learning_rate_rewinding_goes_on_from_what_each_round_trained(
    trained, programs
):
    """Round 1 begins at the dense network's weights, round 2 at those of round 1."""
    _, _, folder = trained
    like = jax.eval_shape(lambda: NETWORK.init(jax.random.key(0), SHAPE))
    like = {"final": jax.tree.map(lambda w: jnp.zeros((4, *w.shape), w.dtype), like)}
    with Run(folder, experiment="lottery_ticket", mode="quick", config=Config()) as run:
        made = trials.Trials(run, plan(), programs)

        def kept(name, like):
            return run.checkpoints(f"tiny-T-{name}").restore(like)[1]["final"]

        last = kept("dense", {**like, "early": like["final"]})
        after = [kept(f"replay-imp-{j}", like) for j in (1, 2)]
    span = training.Span(*map(jnp.int32, (0, 4, 1)))
    alive = jax.vmap(lambda p: lottery.dense_masks(p, RULES))(last)
    for j, found in enumerate(after):
        alive = jax.vmap(
            lambda p, a, j=j: lottery.omp(p, 0.8 ** (j + 1), RULES, alive=a)
        )(last, alive)
        start = lottery.ticket(last, alive)
        expected = programs.train(1.0)(
            start, alive, made.keys, made.rates, span, programs.data
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            found,
            expected.variables,
        )
        last = found


def test_the_report_is_computed_from_the_trainings(trained, monkeypatch):
    monkeypatch.setattr(claims, "LEARNED", 0.0)  # in four steps none does
    (parts, _), _, _ = trained
    made = claims.outcome(parts, ("made up",))
    rows = {(r.metric, r.setting): r for r in made.rows}
    assert len(rows) == len(made.rows)
    match = next(r for r in made.rows if "short over whole" in r.metric)
    learned = parts[0].learned & parts[1].learned
    assert match.measured == claims.matches(parts[1], learned).mean()
    assert match.baseline == claims.matches(parts[0], learned).mean()
    jackpots = next(r for r in made.rows if r.metric == "jackpot tickets")
    reference = parts[0].values("dense-longer").mean(1).max()
    kinds = [e.verdict.kind for e in claims.judge(parts[0], reference)]
    longer = next(r for r in made.rows if r.metric == "accuracy, dense, longer")
    assert longer.measured == pytest.approx(reference)
    assert not any("not tested" in note for note in made.notes)
    assert jackpots.measured == kinds.count("jackpot")
    assert sum(n.count("5. ") for n in made.notes) == 6
    assert all(r.holds is None for r in made.rows)  # two seeds
    assert "fewer than 3 seeds" in made.notes[-1]
    best = parts[0].values("lt-omp-1").mean(1)
    row = next(
        r
        for r in made.rows
        if r.metric == "accuracy, ticket" and "20.0 % pruned, one-shot" in r.setting
    )
    assert row.measured == pytest.approx(best.max())
    assert len(made.figures) == 6


def part(short=False, judged=True, **accuracy):
    """A table of made-up accuracies, [rates][seeds] each."""
    label = plans.SHORT if short else plans.LONG
    seeds = range(len(accuracy["dense"][0]))
    made = plan(
        label=f"tiny-{label}",
        levels=(8,),
        methods=("omp",),
        controls=("rr", "sdt"),
        seeds=tuple(seeds),
    )
    found = {
        name: {
            "accuracy": np.asarray(rows, float).tolist(),
            "correlation": [[0.9 for _ in seeds], [0.4 + 0.1 * i for i in seeds]],
            "diverged": [[False for _ in seeds]] * 2,
        }
        for name, rows in accuracy.items()
    }
    names = {"lt": "lt-omp-8", "rr": "rr-omp-8", "sdt": "sdt-8"}
    found = {names.get(k, k): v for k, v in found.items()}
    return claims.Part(made, found, "mnist", judged)


def thrice(*means):
    return [[m] * 3 for m in means]


LEAD = "lead over re-initialisation falls (better)"
OVERLAP = "overlap of large weights falls (better)"
MATCH = "tickets that match dense at their rate, short over whole (better)"


def test_claims_follow_the_numbers():
    whole = part(
        dense=thrice(96, 98),
        lt=thrice(95, 97.5),
        rr=thrice(93, 97),
        sdt=thrice(92, 95),
    )
    few = part(
        True,
        dense=thrice(90, 94),
        lt=thrice(91, 94),
        rr=thrice(85, 92),
        sdt=thrice(84, 88),
    )
    rows = {r.metric: r for r in claims.outcome([whole, few]).rows}
    assert (rows[LEAD].measured, rows[LEAD].holds) == (1.5, True)
    assert rows["jackpot tickets"].holds is True
    seen = rows[MATCH]
    assert (seen.measured, seen.baseline, seen.holds) == (2, 0, True)
    assert rows[OVERLAP].measured == pytest.approx(0.4)
    assert rows[OVERLAP].holds is True
    # Trained for long, the same network reaches 98: the short one proves nothing.
    assert claims.judge(few, None)[0].verdict.kind == "jackpot"
    assert claims.judge(few, 98.0)[0].verdict.kind == "none"
    best = part(
        dense=thrice(96, 98), lt=thrice(95, 98), rr=thrice(93, 97), sdt=thrice(92, 95)
    )
    rows = {r.metric: r for r in claims.outcome([best]).rows}
    assert (rows["jackpot tickets"].measured, rows["jackpot tickets"].holds) == (
        1,
        False,
    )


def test_a_rate_at_which_dense_networks_died_proves_no_ticket():
    """A pruned network that learns there would match the dense one by 80 points."""
    accuracy = {
        "dense": thrice(96, 10),
        "lt": thrice(95, 94),
        "rr": thrice(93, 90),
        "sdt": thrice(92, 91),
    }
    table = part(**accuracy)
    verdict = claims.judge(table, None)[0].verdict
    assert [bool(c) for c in verdict.conditions] == [True, True, True, False, False]
    made = claims.outcome([table, part(True, **accuracy)])
    assert "did not learn (at most 20 %) at rate 0.1" in " ".join(made.notes)
    seen = next(r for r in made.rows if r.metric == MATCH)
    assert (seen.measured, seen.baseline) == (0, 0)
    assert "all 1 densities and rates" in seen.setting
    dead = part(**{name: thrice(10, 10) for name in accuracy})
    assert claims.judge(dead, None) == []
    rows = {r.metric: r for r in claims.outcome([dead]).rows}
    assert rows["jackpot tickets"].holds is None


def test_length_and_controls_that_were_not_tested_are_said():
    """A first condition that holds without evidence says so."""
    names = "dense", "lt", "rr", "sdt"
    alone = part(**{name: thrice(96, 98) for name in names})
    longer = {"dense-longer": thrice(97, 99)}
    tested = part(**{name: thrice(96, 98) for name in names}, **longer)
    for table, said in ((alone, True), (tested, False)):
        notes = claims.outcome([table]).notes
        assert any("length of training not tested" in n for n in notes) is said
        assert any("no longer training says" in n for n in notes) is said
    assert "1. non-trivial density, trained long enough: fails" in " ".join(notes)
    # Too few epochs, and no ticket can be one: what it does is counted, not judged.
    rows = {r.metric: r for r in claims.outcome([tested]).rows}
    jackpots = rows["jackpot tickets"]
    assert (jackpots.measured, jackpots.holds) == (0, None)
    assert jackpots.setting.endswith("too few to judge")
    found = {"dense": tested.found["dense"]}
    spared = tested.plan._replace(network=networks.RESNET8, controls=(), levels=())
    cnn = claims.Part(spared, found, "cifar10")
    said = " ".join(claims._general([cnn]))
    assert "15 epochs in the specification. Nothing is trained beside" in said


def test_claims_need_three_seeds_and_more_than_two_standard_errors():
    names = "dense", "lt", "rr", "sdt"
    spread = [[96, 96, 96], [95, 95, 95.0]], [[95, 99, 95], [94, 94, 94.0]]
    noisy = part(dense=thrice(96, 98), lt=spread[1], rr=spread[0], sdt=thrice(92, 95))
    lead = next(r for r in claims.outcome([noisy]).rows if r.metric == LEAD)
    assert lead.holds is False  # -1, 3, -1 less -1: mean 4/3, s.e. 4/3
    assert "s.e. 1.3" in lead.setting
    for other in (
        part(judged=False, **{name: thrice(96, 98) for name in names}),
        part(**{name: [[96, 96], [98, 98]] for name in names}),
    ):
        assert all(r.holds is None for r in claims.outcome([other]).rows)


def test_rates_at_which_nothing_is_learned_are_not_compared():
    lost = part(
        dense=thrice(96, 10), lt=thrice(95, 10), rr=thrice(93, 10), sdt=thrice(92, 10)
    )
    metrics = {r.metric for r in claims.outcome([lost]).rows}
    assert not metrics & {LEAD, OVERLAP}


def test_options_are_checked():
    with pytest.raises(InputError, match="--rates"):
        Config(rates=(0.1, 0.01))
    with pytest.raises(InputError, match="--levels"):
        Config(levels=())
    with pytest.raises(InputError, match="--short"):
        Config(epochs=2, short=4)
    with pytest.raises(InputError, match="divisor of 6 and 6"):
        training.make_data(
            Dataset("x", "x", made_up(), made_up(), 10, (0.3,), (0.3,)), 0, 4
        )


@pytest.mark.parametrize("mode", EXPERIMENT.modes)
def test_plans_of_every_mode(mode):
    from experiments.options import build

    config = build(Config, EXPERIMENT.modes[mode].overrides)
    for name in config.networks:
        first, *rest = plans.plans(config, name, (0, 1, 2))
        assert first.label == f"{name}-T"
        assert 1 <= first.rewind < first.epochs
        assert [p.epochs * config.short for p in rest] == (
            [first.epochs] if name == "lenet300" else []
        )
        assert plans.recipe(config, name).batch_size == config.batch_size
        examples = plans.sizes(config, name)[0] or 60_000
        assert is_judged(config, name, examples) is (mode != "quick")
        assert not is_judged(config, name, 5_000)
