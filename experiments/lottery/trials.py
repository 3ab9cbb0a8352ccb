"""Dense networks, tickets and controls of one network, every rate and seed at once.

A member is a learning rate and a seed; all members of a training share one program.
Seeds meet every rate with the same initial weights and the same order of images.
Every training is a stage of the run, and those that later ones start from keep
their weights.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import CheckpointError
from core.types import Array, PartialTree, PyTree
from experiments.data import Dataset
from experiments.lottery.networks import Network
from experiments.lottery.training import (
    Data,
    Recipe,
    Span,
    Trained,
    make_train,
)
from experiments.pruning.fit import stage_key
from experiments.workdir import Run
from gap import lottery

SHARE = 0.1
"""p of the correlation indicator, as in the paper's figure."""

LONGER = "dense-longer"
"""Name of the dense training that says whether T is long enough."""

Found = dict[str, Any]
"""A stage's result: `accuracy`, `loss` and more, lists [rates][seeds]."""


class Plan(NamedTuple):
    """What is trained.

    Attributes:
      network: which one.
      label: prefix of its stages.
      epochs: T, length of every training.
      rewind: epoch t that weights are rewound to.
      rates: learning rates.
      seeds: one repetition each.
      levels: rounds of iterative pruning whose densities are judged.
      methods: "omp", "imp".
      controls: what is trained beside the tickets: "rr", re-initialised; "sdt", small
        dense; "random", the mask shuffled too; "rewind", from epoch t on; "replay",
        from the trained weights.
      extra_levels: the levels of the last three, among `levels`.
      longer: the dense network is also trained for this many times T, which says
        whether T is long enough; 0 leaves it out.
    """

    network: Network
    label: str
    epochs: int
    rewind: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    levels: tuple[int, ...]
    methods: tuple[str, ...]
    controls: tuple[str, ...] = ("rr", "sdt")
    extra_levels: tuple[int, ...] = ()
    longer: int = 0

    def trains(self, control: str, level: int) -> bool:
        """Returns whether a control is trained at a level."""
        everywhere = control in ("rr", "sdt") or level in self.extra_levels
        return control in self.controls and everywhere


class Programs:
    """The compiled trainings and initialisers of one network, shared by its plans."""

    def __init__(self, network: Network, recipe: Recipe, dataset: Dataset, data: Data):
        self.network, self.data = network, data
        self.shape = tuple(data.train.images.shape[1:])

        def train(width: float) -> Any:
            one = make_train(network.build(width), recipe, dataset.mean, dataset.std)
            return lottery.population(one, shared=2, size=network.members)

        def init(width: float) -> Any:
            one = functools.partial(network.init, shape=self.shape, width=width)
            return jax.jit(jax.vmap(one))

        self.train = functools.lru_cache(maxsize=None)(train)
        self.init = functools.lru_cache(maxsize=None)(init)


class Trials:
    """Trains what a plan names, each training as a stage of the run."""

    def __init__(self, run: Run, plan: Plan, programs: Programs):
        self.run, self.plan, self.programs = run, plan, programs
        self.shape = programs.shape
        self.rules = [(f"params/{path}", spec) for path, spec in plan.network.rules]
        self.rates, self.keys = lottery.cross(plan.rates, self._seed_keys("train"))

    def run_all(self) -> dict[str, Found]:
        """Returns the result of every training by its name in the plan."""
        theta0 = self._fresh("init")
        full = jax.vmap(lambda v: lottery.dense_masks(v, self.rules))(theta0)
        found, state = self._dense(theta0, full)
        results = {"dense": found}
        if self.plan.longer:
            epochs = self.plan.longer * self.plan.epochs
            results[LONGER] = self._once(LONGER, theta0, full, epochs=epochs)
        final, early = state["final"], state["early"]
        masks: dict[tuple[str, int], PartialTree] = {}
        if "imp" in self.plan.methods:
            rounds = self._iterative("imp", self.plan.levels, theta0, final)
            for j, one in rounds.items():
                masks["imp", j] = one.masks
                results[f"lt-imp-{j}"] = one.metrics
            replayed = [j for j in self.plan.levels if self.plan.trains("replay", j)]
            rounds = self._iterative("replay-imp", replayed, theta0, final)
            results |= {f"replay-imp-{j}": one.metrics for j, one in rounds.items()}
        for level in self.plan.levels:
            if "omp" in self.plan.methods:
                masks["omp", level] = self._prune(final, level)
            for method in self.plan.methods:
                mask = masks[method, level]
                results |= self._tickets(method, level, mask, theta0, final, early)
            if self.plan.trains("sdt", level):
                some = masks[self.plan.methods[0], level]
                results[f"sdt-{level}"] = self._small_dense(level, some)
        return results

    def density(self, level: int) -> float:
        """Returns the share of weights kept after `level` rounds."""
        return lottery.imp_density(level)

    def _dense(self, theta0: PyTree, full: PartialTree) -> tuple[Found, PyTree]:
        def keep(trained: Trained) -> PyTree:
            return {"final": trained.variables, "early": trained.early}

        like = {"final": theta0, "early": theta0}
        return self._kept("dense", theta0, full, like, keep)

    def _iterative(
        self, name: str, levels: Sequence[int], theta0: PyTree, final: PyTree
    ) -> dict[int, lottery.IMPRound]:
        """Returns the rounds at some levels; all up to the last of them are trained.

        Round 0 is the dense network, which is trained already. All rounds see the
        images in its order, so their own keys are not used.
        """
        if not levels:
            return {}
        rounds = itertools.count()

        def train(start: PyTree, masks: PartialTree, _: Array) -> tuple[PyTree, Any]:
            j = next(rounds)
            if j == 0:
                return final, None
            found, state = self._kept(
                f"{name}-{j}",
                start,
                masks,
                {"final": start},
                lambda trained: {"final": trained.variables},
            )
            return state["final"], found

        rewind = lottery.LEARNING_RATE if name.startswith("replay") else None
        found = lottery.imp(
            train, theta0, max(levels), self.rules, self.keys,
            rewind=rewind, stacked=True,
        )  # fmt: skip
        return {j: found[j] for j in levels}

    def _tickets(
        self,
        method: str,
        level: int,
        masks: PartialTree,
        theta0: PyTree,
        final: PyTree,
        early: PyTree,
    ) -> dict[str, Found]:
        """The ticket and its controls at one density."""
        plan, fresh = self.plan, self._fresh("reinit")
        starts = {"lt": theta0}
        others = {"rr": fresh, "rewind": early, "replay": final}
        starts |= {k: v for k, v in others.items() if plan.trains(k, level)}
        results = {}
        for kind, origin in starts.items():
            if method == "imp" and kind in ("lt", "replay"):
                continue  # that is the round itself
            first = plan.rewind if kind == "rewind" else 0
            start = lottery.ticket(origin, masks)
            name = f"{kind}-{method}-{level}"
            results[name] = self._once(name, start, masks, first=first)
        if plan.trains("random", level):
            name = f"random-{method}-{level}"
            moved = jax.vmap(lottery.shuffle)(self._member_keys("shuffle"), masks)
            start = lottery.ticket(fresh, moved)
            results[name] = self._once(name, start, moved)
        return results

    def _small_dense(self, level: int, masks: PartialTree) -> Found:
        network = self.plan.network
        # Every member's masks keep the same number.
        target = int(np.asarray(jax.vmap(lottery.kept)(masks))[0])
        count = functools.lru_cache(maxsize=None)(
            functools.partial(network.weights, self.shape)
        )
        width = lottery.small_dense_width(lambda w: count(w), target)
        start = self._fresh("small", width)
        full = jax.vmap(lambda v: lottery.dense_masks(v, self.rules))(start)
        found = self._once(f"sdt-{level}", start, full, width=width)
        return found | {"weights": count(width), "target": target}

    def _prune(self, params: PyTree, level: int) -> PartialTree:
        density = self.density(level)
        return jax.vmap(lambda p: lottery.omp(p, density, self.rules))(params)

    def _kept(self, name: str, start, masks, like, keep) -> tuple[Found, PyTree]:
        """A training whose weights later ones need."""
        stage = f"{self.plan.label}-{name}"
        checkpoints = self.run.checkpoints(stage)

        def train() -> Found:
            trained, found = self._train(stage, start, masks)
            checkpoints.save(1, keep(trained), force=True)
            return found

        result = self.run.stage(stage, train)
        found = checkpoints.restore(like)
        if found is None:
            raise CheckpointError(
                f"stage {stage} is finished but the checkpoint of its weights is "
                f"damaged; remove {self.run.dir / 'stages' / stage}.json to train again"
            )
        return result, found[1]

    def _once(self, name: str, start, masks, **options: Any) -> Found:
        stage = f"{self.plan.label}-{name}"
        return self.run.stage(
            stage, lambda: self._train(stage, start, masks, **options)[1]
        )

    def _train(
        self,
        stage: str,
        start,
        masks,
        first: int = 0,
        width: float = 1.0,
        epochs: int = 0,
    ) -> tuple[Trained, Found]:
        length = epochs or self.plan.epochs
        span = Span(*map(jnp.int32, (first, length, self.plan.rewind)))
        trained = self.programs.train(width)(
            start, masks, self.keys, self.rates, span, self.programs.data
        )
        shown = {"accuracy": trained.accuracy, "loss": trained.loss}
        if width == 1.0:
            shown["correlation"] = _overlap(start, trained.variables, masks)
        found = jax.device_get(lottery.uncross(shown, len(self.plan.rates)))
        for i, rate in enumerate(self.plan.rates):
            means = {k: float(np.mean(v[i])) for k, v in found.items()}
            self.run.log(stage, i + 1, rate=rate, **means)
        # A loss that is not finite says that the run diverged; JSON cannot hold it.
        found["diverged"] = ~np.isfinite(found.pop("loss"))
        return trained, {k: v.tolist() for k, v in found.items()}

    def _seed_keys(self, use: str) -> Array:
        # Without the label: a shorter training starts from the same weights.
        name = f"{self.plan.network.name}-{use}"
        return jnp.stack([stage_key(seed, name) for seed in self.plan.seeds])

    def _member_keys(self, use: str) -> Array:
        return lottery.cross(self.plan.rates, self._seed_keys(use))[1]

    def _fresh(self, use: str, width: float = 1.0) -> PyTree:
        """Initial variables of every member; the same at every rate."""
        return self.programs.init(width)(self._member_keys(use))


@jax.jit
def _overlap(start: PyTree, end: PyTree, masks: PartialTree) -> Array:
    """The correlation indicator of every member, float32 [members]."""
    one = functools.partial(lottery.correlation, p=SHARE)
    return jax.vmap(lambda a, b, m: one(a, b, masks=m))(start, end, masks)
