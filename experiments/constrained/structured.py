"""Filters, channels and shapes by ADMM, compacted and timed (arXiv 1807.11091)."""

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import admm
import gap
import quant
from core import trees
from core.types import Array, PyTree
from experiments import data, models
from experiments.constrained import checks
from experiments.differences import difference, lead_row
from experiments.pruning.trainer import Trainer, cosine
from experiments.results import Figure, Row, Series, mean_row, mean_std
from experiments.rounding.networks import PAIRS, DigitsNet
from experiments.trained.protocol import halved
from experiments.training import TrainState, crop_and_flip
from experiments.workdir import Run
from gap import packed

PATTERNS = {"filter": gap.Filter(), "channel": gap.Channel(), "shape": gap.Shape()}
WAYS = {
    "admm": "ADMM",
    "sgd": "ADMM with SGD",
    "lasso": "group lasso",
    "magnitude": "magnitude",
}
METHODS = {
    f"{way}_{kind}": f"{title}, {kind}s"
    for way, title in WAYS.items()
    for kind in PATTERNS
}
"""Pruned kernels lose whole groups; all ways start from one dense network."""


class Network(NamedTuple):
    """A network of convolutions and batch norms.

    Attributes:
      title: in the report.
      kernels: path regex of what is pruned: not the first layer, not the classifier.
      dataset: its own, or "" for the config's.
      halved: whether images are taken at half their size.
      pretrained: name of trained weights, or "" to train.
    """

    title: str
    kernels: str
    dataset: str
    halved: bool
    pretrained: str = ""


NETWORKS = {
    "digits": Network("DigitsNet", "conv[234]/kernel", "", False),
    "cifar": Network("CIFAR-10 at 16x16", "conv[234]/kernel", "cifar10", True),
    "resnet20": Network(
        "ResNet-20 on CIFAR-10",
        "layer.*/conv./kernel",
        "cifar10",
        False,
        "resnet20_jpeg",
    ),
}


class Protocol:
    """Prunes one network in every way at equal lengths of training."""

    def __init__(self, run: Run, config: Any):
        self.run, self.config = run, config
        self.network = network = NETWORKS[config.network]
        name = network.dataset or config.dataset
        self.dataset = data.load(name, data_dir=run.data_dir)
        train, test = checks.splits(self.dataset, config.examples, config.validation)
        if network.halved:
            train, test = halved(train), halved(test)
        features = (32, 64, 64, 96) if network.halved else (16, 32, 32, 64)
        self.model: Any = DigitsNet(features=features)
        mean, std = self.dataset.mean, self.dataset.std
        if network.pretrained:
            self.model = models.create(models.PRETRAINED[network.pretrained].model)
            mean, std = models.PRETRAINED_MEAN, models.PRETRAINED_STD
        self.trainer = Trainer(
            run,
            self.model,
            train,
            test,
            mean=mean,
            std=std,
            batch_size=config.batch_size,
            weight_decay=config.weight_decay,
            augment=crop_and_flip if network.pretrained else None,
            every=False,
        )
        # A network of few images is a weaker start: every row says how many.
        self.title = f"{network.title}, {len(train.labels):,} images"
        self.test = test
        self.dense = functools.lru_cache(maxsize=None)(self._dense)

    def fn(self, variables: PyTree, images: Array) -> Array:
        """The network at evaluation, of normalized images."""
        logits: Any = self.model.apply(variables, images, train=False)
        return logits

    def _stage(self, seed: int, name: str) -> str:
        return f"{self.config.network}-s{seed}-{name}"

    def _dense(self, seed: int) -> TrainState:
        start = self.trainer.start(seed, self.config.network)
        if self.network.pretrained:
            variables = models.load_pretrained(self.network.pretrained)
            params = variables["params"]
            rest = {"batch_stats": variables["batch_stats"]}
            return start._replace(params=params, model_state=rest)
        rate = cosine(
            self.config.learning_rate, self.config.epochs[0] * self.trainer.steps
        )
        return self.trainer.phase(
            self._stage(seed, "dense"),
            start,
            optax.adam(rate),
            self.config.epochs[0],
            seed=seed,
            tag="dense",
        )[0]

    def control(self, seed: int) -> tuple[TrainState, dict[str, Any]]:
        """Trains the dense network on for as long as the pruned ones."""
        epochs = sum(self.config.epochs[1:])
        rate = cosine(self.config.tuning_rate, epochs * self.trainer.steps)
        return self.trainer.phase(
            self._stage(seed, "control"),
            self.dense(seed),
            optax.adam(rate),
            epochs,
            seed=seed,
            tag="control",
        )

    def rules(self, kind: str, rate: float) -> list[tuple[str, gap.Target]]:
        """Returns targets that make pruned layers multiply about `rate` times less.

        A filter less is an input channel less in the next layer too, so filters and
        channels keep 1 / sqrt(rate), shapes 1 / rate.
        """
        share = 1 / rate if kind == "shape" else 1 / math.sqrt(rate)
        return [(self.network.kernels, gap.Target(share, pattern=PATTERNS[kind]))]

    def prune(
        self, seed: int, method: str, rate: float
    ) -> tuple[TrainState, PyTree, dict[str, Any]]:
        """Prunes in one way; returns the network, its masks, and its accuracy."""
        config, trainer = self.config, self.trainer
        way, _, kind = method.partition("_")
        rules, name = self.rules(kind, rate), self._stage(seed, f"{method}-{rate:g}x")
        state, drawn = self.dense(seed), {}
        _, first, second = config.epochs
        if way != "magnitude":
            state, drawn = trainer.phase(
                f"{name}-towards",
                state,
                self._towards(way, kind, rules),
                first,
                seed=seed,
                tag=f"{method}-{rate:g}x",
                watch=(lambda _: {}) if way == "lasso" else checks.residual,
            )
        params, masks = admm.finish(state.params, rules)
        masks = with_norms(params, masks)
        # What magnitude pruning does not need to find its groups, it tunes longer.
        epochs = first + second if way == "magnitude" else second
        inner = optax.adam(cosine(config.tuning_rate, epochs * trainer.steps))
        state, result = trainer.phase(
            name,
            state,
            gap.masked(inner, masks),
            epochs,
            seed=seed,
            tag=f"masked-{epochs}",
            params=gap.apply_masks(params, masks),
        )
        return state, masks, {**drawn, **result}

    def measured(
        self, seed: int, method: str, rate: float, state: TrainState, masks: PyTree
    ) -> dict[str, Any]:
        """MACs and milliseconds of a pruned network; when all are trained."""
        name = self._stage(seed, f"{method}-{rate:g}x")
        timed = self.run.stage(f"{name}-compact", lambda: self._compacted(state, masks))
        if not method.endswith("_shape"):
            return timed
        gathered = self.run.stage(f"{name}-rows", lambda: self._gathered(state, masks))
        return {**timed, **gathered}

    def _towards(self, way: str, kind: str, rules: Any) -> optax.GradientTransformation:
        """The optimizer of the phase that prepares groups to go."""
        config, trainer = self.config, self.trainer
        adam = optax.adam(config.tuning_rate)
        if way == "lasso":
            pull = group_lasso(self.network.kernels, kind, config.lasso)
            return optax.chain(pull, adam)
        momentum = optax.sgd(config.sgd_rate, momentum=0.9)
        return trainer.towards(
            adam if way == "admm" else momentum,
            rules,
            config.epochs[1],
            interval=trainer.interval(config.iterations),
            rho=config.rho,
            rho_end=config.rho_end,
        )

    def _compacted(self, state: TrainState, masks: PyTree) -> dict[str, Any]:
        """Compacts a network; its MACs, milliseconds and differences from the whole."""
        variables = {"params": state.params, **state.model_state}
        every = {
            "params": masks,
            **jax.tree.map(lambda _: None, state.model_state),
        }
        images = self.trainer.pixels(jnp.asarray(self.test.images[:256]))
        small = gap.compact(self.fn, variables, every, images[:2])
        one = images[:1]
        whole = gap.profile(self.fn, variables, one).total.macs
        left = gap.profile(small.fn, small.params, one).total.macs
        masked = gap.profile(self.fn, variables, one, masks=every).total
        run, less = jax.jit(self.fn), jax.jit(small.fn)
        same = checks.compared_on(
            self.test.images,
            self.trainer.pixels,
            lambda x: run(variables, x),
            lambda x: less(small.params, x),
        )
        found: dict[str, Any] = {
            "macs": whole / left,
            "effective": whole / max(masked.effective_macs, 1),
            "weights": trees.size(state.params) / _params(small.params),
            **same._asdict(),
            "ms": {},
        }
        for batch in self.config.batches:
            x = images[:batch]
            calls = [
                functools.partial(run, variables, x),
                functools.partial(less, small.params, x),
            ]
            seconds = packed.time_in_turns(calls, self.config.turns)
            found["ms"][str(batch)] = [1e3 * s for s in seconds]
        return found

    def _gathered(self, state: TrainState, masks: PyTree) -> dict[str, Any]:
        """Milliseconds of the pruned layers alone, dense and by the rows that are left.

        A layer without some rows of its GEMM view gathers the others from its windows.
        """
        variables = {"params": state.params, **state.model_state}
        images = self.trainer.pixels(jnp.asarray(self.test.images[:256]))
        rules = [(f"params/{self.network.kernels}", quant.Layer())]
        leaves, known = trees.by_path(state.params), trees.by_path(masks)
        found: dict[str, Any] = {"rows_ms": {}}
        for batch in self.config.batches:
            seen = quant.record(self.fn, rules)(variables, images[:batch])[1]
            total = np.zeros(2)
            for path, each in seen.items():
                name = path.removeprefix("params/")
                w, mask = leaves[name], known[name]
                stride = each.inputs.shape[1] // each.products.shape[1]
                form = packed.pack(w, mask, gap.Shape())
                calls = [
                    functools.partial(_convolved, each.inputs, w, stride),
                    functools.partial(_by_rows, each.inputs, form, stride),
                ]
                seconds = packed.time_in_turns(calls, self.config.turns)
                total += 1e3 * np.asarray(seconds)
            found["rows_ms"][str(batch)] = total.tolist()
        return found


AXES = {"filter": (0, 1, 2), "channel": (0, 1, 3), "shape": (3,)}
"""Of a convolution's kernel, within one group."""


def group_lasso(kernels: str, kind: str, strength: float) -> Any:
    """Returns a transform that adds the slope of `strength` times groups' norms.

    The static regularization that ADMM's moving target is compared with.

    Args:
      kernels: path regex.
      kind: of groups.
      strength: in units of loss per unit of a norm.
    """
    chosen = re.compile(kernels)

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[Any, Any]:
        names, leaves, treedef = trees.flatten(params)

        def slope(name: str, g: Array, w: Array) -> Array:
            if not chosen.fullmatch(name):
                return g
            norm = jnp.sqrt(jnp.square(w).sum(AXES[kind], keepdims=True))
            return g + strength * w / jnp.maximum(norm, 1e-12)

        rows = zip(names, treedef.flatten_up_to(updates), leaves, strict=True)
        return jax.tree.unflatten(treedef, [slope(*row) for row in rows]), state

    return optax.GradientTransformation(optax.init_empty_state, update)


SIDES = ((1, 1), (1, 1))
"""Padding of every convolution of these networks."""


@functools.partial(jax.jit, static_argnums=2)
def _convolved(x: Array, w: Array, stride: int) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, w, (stride, stride), SIDES, dimension_numbers=numbers
    )


@functools.partial(jax.jit, static_argnums=2)
def _by_rows(x: Array, form: Any, stride: int) -> Array:
    return packed.conv(x, form, strides=stride, padding=SIDES)


def _params(variables: Mapping[str, PyTree]) -> int:
    return trees.size(variables["params"])


def with_norms(params: PyTree, masks: PyTree) -> PyTree:
    """Returns masks that take a dead filter's norm along: its channel is then 0.

    Args:
      params: of convolutions and the batch norms behind them, by `PAIRS`.
      masks: of kernels.
    """
    known = dict(trees.by_path(masks))
    leaves = trees.by_path(params)
    for path, mask in list(known.items()):
        layer = path.removesuffix("/kernel")
        for pattern, norm in PAIRS:
            if not re.fullmatch(pattern, layer):
                continue
            alive = mask.reshape(-1, mask.shape[-1]).any(0)
            for part in ("scale", "bias"):
                name = f"{re.sub(pattern, norm, layer)}/{part}"
                if name in leaves:
                    known[name] = alive
    names, _, treedef = trees.flatten(params)
    return jax.tree.unflatten(treedef, [known.get(name) for name in names])


# ---- rows


def rows(
    title: str,
    dense: Sequence[float],
    found: Mapping[tuple[str, float], Sequence[Mapping[str, Any]]],
    judged: bool,
) -> Iterable[Row]:
    """Yields accuracy, MACs and times of every method and rate, and the claims.

    Args:
      title: of the network.
      dense: accuracies of the control.
      found: results over seeds, by method and rate.
      judged: whether data and training are those of full mode.
    """
    base = mean_std(dense)[0]
    yield mean_row("accuracy", f"{title}, dense", dense, unit="%")
    for (method, rate), results in found.items():
        # The layer before or behind the pruned ones keeps channels: less is met.
        met = float(np.mean([_met(r) for r in results]))
        setting = f"{title}, {met:.3g}x (asked: {rate:g}x), {METHODS[method]}"
        values = [r["accuracy"] for r in results]
        yield mean_row("accuracy", setting, values, baseline=base, unit="%")
        for key, metric in (
            ("macs", "multiplications, reduction by compaction"),
            ("effective", "multiplications, reduction counted from masks"),
            ("weights", "parameters, reduction by compaction"),
        ):
            yield mean_row(metric, setting, [r[key] for r in results], unit="x")
        yield from checks.residual_rows(setting, results)
        for batch in results[0]["ms"]:
            gains = [r["ms"][batch][0] / r["ms"][batch][1] for r in results]
            modelled = float(np.mean([r["macs"] for r in results]))
            at = f"{setting}, batch {batch}"
            yield mean_row(
                "speed-up, measured (baseline: by multiplications)",
                at,
                gains,
                baseline=modelled,
                unit="x",
            )
        for batch in results[0].get("rows_ms", {}):
            times = [r["rows_ms"][batch] for r in results]
            yield mean_row(
                "speed-up of pruned layers by gathered rows (baseline: the rate)",
                f"{setting}, batch {batch}",
                [dense / rows for dense, rows in times],
                baseline=rate,
                unit="x",
            )
        yield from checks.equality_rows("compaction", setting, results)
    for rate in dict.fromkeys(rate for _, rate in found):
        pairs = [
            (f"admm_{kind}", f"{way}_{kind}")
            for kind in PATTERNS
            for way in WAYS
            if way != "admm"
        ]
        for ours, theirs in (*pairs, ("admm_shape", "admm_filter")):
            if (ours, rate) not in found or (theirs, rate) not in found:
                continue
            lead = difference(
                *([r["accuracy"] for r in found[m, rate]] for m in (ours, theirs))
            )
            rule = {"magnitude": "better", "admm": "at least equal"}.get(
                theirs.partition("_")[0], NOT_TUNED
            )
            metric = f"{METHODS[ours]} above {METHODS[theirs]}"
            yield lead_row(metric, f"{title}, asked: {rate:g}x", lead, rule, judged)
        for kind in ("filter", "channel"):
            if (ours := f"admm_{kind}", rate) in found:
                yield _faster(title, ours, rate, found[ours, rate], judged)


NOT_TUNED = ""
"""The rule against rivals whose strengths were not sought: nothing is claimed."""


def _met(result: Mapping[str, Any]) -> float:
    """How many times fewer multiplications are left, of compaction or of masks.

    A shape stays in the array; a channel takes others along.
    """
    return max(result["effective"], result["macs"])


def _faster(
    title: str,
    method: str,
    rate: float,
    results: Sequence[Mapping[str, Any]],
    judged: bool,
) -> Row:
    """Whether compaction saves time, at the largest batch."""
    batch = max(results[0]["ms"], key=int)
    whole, less = zip(*(r["ms"][batch] for r in results), strict=True)
    setting = f"{title}, asked: {rate:g}x, {METHODS[method]}, batch {batch}"
    metric = "time that compaction saves"
    return lead_row(metric, setting, difference(whole, less), "better", judged, "ms")


def figure(
    title: str, found: Mapping[tuple[str, float], Sequence[Mapping[str, Any]]]
) -> Figure:
    """Returns accuracy against the share of multiplications that are left."""
    series = []
    for method in dict.fromkeys(method for method, _ in found):
        mine = [results for (m, _), results in found.items() if m == method]
        points = [mean_std([r["accuracy"] for r in results]) for results in mine]
        means, stds = zip(*points, strict=True)
        kept = [float(np.mean([100 / _met(r) for r in results])) for results in mine]
        series.append(Series(METHODS[method], kept, means, stds))
    return Figure(
        f"{title}: accuracy against multiplications",
        "errorbar",
        "multiplications left (%)",
        "test accuracy (%)",
        series,
        log_x=True,
    )
