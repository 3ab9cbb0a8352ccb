"""Trained rank pruning beside decompositions after training (arXiv 1812.02402)."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import admm
from admm import factors, low_rank
from core import trees
from core.types import Array, PyTree
from experiments import data, models
from experiments.constrained import checks
from experiments.differences import SEEDS, difference, lead_row
from experiments.pruning.networks import output_positions
from experiments.pruning.trainer import Trainer, Wrapped, cosine, mapped
from experiments.results import Figure, Row, Series, mean_row, mean_std
from experiments.trained.protocol import halved
from experiments.training import TrainState
from experiments.workdir import Run

ARMS = {
    "dense": "dense",
    "nuclear": "nuclear norm alone",
    "trp": "TRP",
    "trp_nuclear": "TRP and nuclear norm",
}
"""What is trained, each from the same start."""
OURS = ("trp", "trp_nuclear")


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and the kernels of it that are decomposed.

    Attributes:
      model: its name in `experiments.models`.
      attributes: of the module.
      title: in the report.
      kernels: path regex; not the first layer's and the classifier's.
      halved: whether images are taken at half their size.
      learning_rate: of SGD with momentum 0.9, which falls to 0 along a cosine.
    """

    model: str
    attributes: Mapping[str, Any]
    title: str
    kernels: str
    halved: bool
    learning_rate: float


NETWORKS = {
    "lenet300": Network(
        "lenet_300_100", {}, "LeNet-300-100", "fc[12]/kernel", False, 0.05
    ),
    "resnet8": Network(
        "resnet8", {}, "ResNet-8 at 16x16", "layer.*/conv./kernel", True, 0.1
    ),
}
Ranks = Mapping[str, int]
"""Of each kernel by path; those that are not in it stay whole."""


class Protocol:
    """Trains every arm, and decomposes what comes out."""

    def __init__(self, run: Run, config: Any):
        self.run = run
        self.config = config
        self.network = NETWORKS[config.network]
        name = "cifar10" if self.network.halved else config.dataset
        self.dataset = data.load(name, data_dir=run.data_dir)
        train, test = checks.splits(self.dataset, config.examples)
        if self.network.halved:
            train, test = halved(train), halved(test)
        model = (
            models.ResNet(depth=8)
            if self.network.model == "resnet8"
            else models.create(self.network.model)
        )
        self.trainer = Trainer(
            run,
            model,
            train,
            test,
            mean=self.dataset.mean,
            std=self.dataset.std,
            batch_size=config.batch_size,
            weight_decay=config.weight_decay,
            every=False,
        )
        # A network of few images is a weaker start: every row says how many.
        self.title = f"{self.network.title}, {len(train.labels):,} images"
        self.positions = output_positions(model, train.images.shape[1:])
        self.strides = strides_of(model, train.images.shape[1:])
        self._tuned = functools.lru_cache(maxsize=None)(self._make_tuned)

    def rules(self) -> list[tuple[str, admm.EnergyLoss]]:
        """Returns the rules of trained rank pruning."""
        spec = admm.EnergyLoss(self.config.energy_loss, self.config.scheme)
        return [(self.network.kernels, spec)]

    def train(self, seed: int, arm: str) -> tuple[TrainState, dict[str, Any]]:
        """Trains an arm from the start that all arms of a seed share."""
        config, trainer = self.config, self.trainer
        steps = config.epochs * trainer.steps
        rate = cosine(self.network.learning_rate, steps)
        optimizer: Any = optax.sgd(rate, momentum=0.9, nesterov=True)
        start = trainer.start(seed, config.network)
        params = start.params
        if arm != "dense":
            optimizer = admm.trp(
                optimizer,
                self.rules(),
                period=config.period,
                # What is trained is the full-rank network just before a truncation.
                first=(steps + 1) % config.period,
                nuclear=0.0 if arm == "trp" else config.nuclear,
                truncate=arm in OURS,
            )
        if arm in OURS:
            params = admm.truncate(params, self.rules())

        def finish(state: TrainState) -> dict[str, Any]:
            more: dict[str, Any] = {"spectra": self.spectra(state.params)}
            if arm in OURS:
                after = admm.truncate(state.params, self.rules())
                more["truncated"] = trainer.accuracy(after, state.model_state)
            return more

        return trainer.phase(
            f"s{seed}-{arm}",
            start,
            optimizer,
            config.epochs,
            seed=seed,
            tag=arm,
            params=params,
            finish=finish,
        )

    def kernels(self, params: PyTree) -> dict[str, Array]:
        """Returns the kernels that are decomposed, by path."""
        chosen = re.compile(self.network.kernels)
        leaves = trees.by_path(params).items()
        return {path: w for path, w in leaves if chosen.fullmatch(path)}

    def spectra(self, params: PyTree) -> dict[str, list[float]]:
        """Returns the singular values of each kernel over the largest."""
        found = {}
        for path, w in self.kernels(params).items():
            values = np.linalg.svd(
                np.asarray(low_rank.matricize(w, self.config.scheme)), compute_uv=False
            )
            found[path] = [float(v) for v in values / values[0]]
        return found

    def ranks(self, result: Mapping[str, Any]) -> dict[str, int]:
        """Returns the ranks that leave so much energy, where that saves work."""
        found = {}
        for path, values in result["spectra"].items():
            energy = np.cumsum(np.square(values))
            lost = 1 - self.config.final_loss
            found[path] = int(np.sum(energy < lost * energy[-1])) + 1
        return found

    def at_rate(self, params: PyTree, rate: float) -> dict[str, int]:
        """Returns the ranks at which every kernel multiplies `rate` times less."""
        return {
            path: max(1, int(self._break_even(path, w) / rate))
            for path, w in self.kernels(params).items()
        }

    def _break_even(self, path: str, w: Array) -> int:
        strides = self.strides[path.rpartition("/")[0]]
        return factors.break_even(w.shape, self.config.scheme, strides)

    def worthwhile(self, params: PyTree, ranks: Ranks) -> dict[str, int]:
        """Returns the ranks of kernels whose factors multiply less than they do."""
        return {
            path: ranks[path]
            for path, w in self.kernels(params).items()
            if ranks[path] <= self._break_even(path, w)
        }

    def cost(self, params: PyTree, ranks: Ranks) -> tuple[float, float]:
        """Returns how many times fewer multiplications and weights there are."""
        scheme, before, after, stored, left = self.config.scheme, 0, 0, 0, 0
        for path, w in trees.by_path(params).items():
            layer, _, last = path.rpartition("/")
            if last != "kernel":
                continue
            size = work = mine = int(np.prod(w.shape))
            if path in ranks:
                of, strides = (w.shape, ranks[path], scheme), self.strides[layer]
                # Without strides each number that is stored multiplies once.
                mine = factors.multiplications(*of)
                work = factors.multiplications(*of, strides)
            before += size * self.positions[layer]
            after += work * self.positions[layer]
            stored, left = stored + size, left + mine
        return before / after, stored / left

    def decomposed(
        self, stage: str, state: TrainState, ranks: Ranks
    ) -> dict[str, float]:
        """Returns accuracy with kernels of these ranks, without any training."""

        def measure() -> dict[str, float]:
            used = self.worthwhile(state.params, ranks)
            params = compose(split(state.params, used, self.config.scheme))
            macs, weights = self.cost(state.params, used)
            right = self.trainer.accuracy(params, state.model_state)
            return {"accuracy": right, "macs": macs, "weights": weights}

        return self.run.stage(stage, measure)

    def tuned(
        self, seed: int, stage: str, state: TrainState, ranks: Ranks
    ) -> dict[str, Any]:
        """Trains the factors of a decomposed network for a few epochs more."""
        config = self.config
        steps = config.tuning * self.trainer.steps
        used = self.worthwhile(state.params, ranks)
        rate = cosine(self.network.learning_rate / 10, steps)
        return self.trainer.phase(
            stage,
            state,
            optax.sgd(rate, momentum=0.9, nesterov=True),
            config.tuning,
            seed=seed,
            tag=stage,
            params=split(state.params, used, config.scheme),
            model=self._tuned(),
        )[1]

    def _make_tuned(self) -> Wrapped:
        return mapped(self.trainer.model, compose)


def strides_of(model: nn.Module, shape: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Returns the strides of each layer of a flax module by path, 1 of a dense one."""
    found: dict[str, tuple[int, int]] = {}

    def see(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext):
        strides = getattr(context.module, "strides", None) or 1
        high, across = np.broadcast_to(strides, 2).tolist()
        found["/".join(context.module.path)] = (high, across)
        return call(*args, **kwargs)

    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    with nn.intercept_methods(see):
        init = functools.partial(model.init, train=False)
        jax.eval_shape(init, jax.random.key(0), image)
    return found


def split(params: PyTree, ranks: Ranks, scheme: low_rank.Scheme) -> PyTree:
    """Returns parameters with `Factors` in place of the kernels that have a rank."""
    names, leaves, treedef = trees.flatten(params)
    parts = [
        factors.factorize(w, ranks[name], scheme) if name in ranks else w
        for name, w in zip(names, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, parts)


def compose(params: PyTree) -> PyTree:
    """Returns parameters with the products of their `Factors`."""

    def whole(leaf: Any) -> Array:
        return product(leaf) if isinstance(leaf, factors.Factors) else leaf

    return jax.tree.map(whole, params, is_leaf=lambda x: isinstance(x, factors.Factors))


def product(pair: factors.Factors) -> Array:
    """Returns the kernel of two factors, of the "channel" or "spatial" scheme."""
    first, second = pair
    if first.ndim == 2:
        return jnp.matmul(first, second, precision="highest")
    # One of the two has no window on an axis: both schemes are one product.
    across = "hwcr,xyrn->hwcn" if second.shape[1] == 1 else "hxcr,ywrn->hwcn"
    return jnp.einsum(across, first, second, precision="highest")


# ---- rows


LEAST = 1.5
"""Times fewer multiplications from which on decomposing is said to cost nothing.

Ranks that are nearly full lose nothing either: that would be no finding.
"""


def trained_on(at: str, epochs: int) -> str:
    """Returns the name of a decomposition whose factors are trained for more epochs."""
    return f"{at}, {epochs} epochs more"


def rows(
    title: str,
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    judged: bool,
    tuning: int,
    tolerance: float = 0.5,
) -> Iterable[Row]:
    """Yields accuracies of every arm, before and after each decomposition.

    Args:
      title: of the network.
      found: for each arm a mapping for each seed: "trained" accuracy at full rank,
        "truncated" right after another truncation of TRP, and for each decomposition
        "accuracy", "macs", "weights".
      judged: whether data and training are those of full mode.
      tuning: epochs that decomposed dense networks are trained on.
      tolerance: points that TRP may lose.
    """
    base = mean_std([r["trained"] for r in found["dense"]])[0]
    for arm, results in found.items():
        trained = [r["trained"] for r in results]
        setting = f"{title}, {ARMS[arm]}"
        yield mean_row("accuracy, trained", setting, trained, baseline=base, unit="%")
        if "truncated" in results[0]:
            yield mean_row(
                "accuracy, truncated once more as in training",
                setting,
                [r["truncated"] for r in results],
                baseline=mean_std(trained)[0],
                unit="%",
            )
    for at in found["dense"][0]["after"]:
        for arm, results in found.items():
            if at not in results[0]["after"]:
                continue
            after = [r["after"][at] for r in results]
            setting = f"{title}, {at}, {ARMS[arm]}"
            yield mean_row(
                "accuracy, decomposed",
                setting,
                [a["accuracy"] for a in after],
                baseline=mean_std([r["trained"] for r in results])[0],
                unit="%",
            )
            if "macs" in after[0]:
                for name, key in (("multiplications", "macs"), ("weights", "weights")):
                    yield mean_row(
                        f"{name}, reduction",
                        setting,
                        [a[key] for a in after],
                        unit="x",
                    )
    yield from _claims(title, found, judged, tuning, tolerance)


def _claims(
    title: str,
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    judged: bool,
    tuning: int,
    tolerance: float,
) -> Iterable[Row]:
    def after(arm: str, at: str, key: str = "accuracy") -> list[float]:
        return [r["after"][at][key] for r in found[arm]]

    def change(arm: str, at: str) -> list[float]:
        trained = (r["trained"] for r in found[arm])
        return [a - t for a, t in zip(after(arm, at), trained, strict=True)]

    for arm in [a for a in OURS if a in found]:
        at = f"ranks of {ARMS[arm]}"
        lead = difference(change(arm, at), [0.0] * len(found[arm]))
        fewer = min(after(arm, at, "macs"))
        counts = judged and fewer >= LEAST
        enough = counts and lead.seeds >= SEEDS
        setting = f"{title}, {ARMS[arm]} and dense, {at} ({fewer:.3g}x at least)"
        yield Row(
            f"change of accuracy by decomposing (at least {-tolerance:g})",
            f"{title}, {ARMS[arm]}, {at} ({fewer:.3g}x at least), {lead.text}",
            lead.mean,
            lead.std if lead.seeds > 1 else None,
            unit="points",
            holds=lead.mean >= -tolerance if enough else None,
        )
        lead = difference(change(arm, at), change("dense", at))
        yield lead_row(
            "loss by decomposing, dense above TRP", setting, lead, "better", counts
        )
        lead = difference(after(arm, at), after("dense", trained_on(at, tuning)))
        metric = f"accuracy, TRP above dense trained on for {tuning} epochs"
        yield lead_row(metric, setting, lead, "at least equal", counts)


def spectra_figure(
    title: str, found: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Figure:
    """Returns the spectrum of the last kernel of every arm, of the first seed."""
    series = []
    for arm, results in found.items():
        values = list(results[0]["spectra"].values())[-1]
        series.append(Series(ARMS[arm], list(range(1, len(values) + 1)), values))
    path = list(found["dense"][0]["spectra"])[-1]
    return Figure(
        f"{title}: singular values of {path}",
        "line",
        "number",
        "over the largest",
        series,
        log_y=True,
    )
