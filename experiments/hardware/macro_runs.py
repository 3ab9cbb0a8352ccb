"""Runs of CAP-RAM's networks: digits with training, CIFAR-10 without."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gap
import hw
from experiments import data, models
from experiments.hardware import in_memory
from experiments.models import LeNet5
from experiments.pruning.trainer import Trainer, cosine, jitted_accuracy
from experiments.results import Figure, Row, Series, mean_row
from experiments.training import TrainState
from experiments.workdir import Run
from hw import capram

BATCH = 64
PIXELS: dict[str, Any] = {"mean": 0.0, "std": 1.0}
"""Digits stay in [0, 1]: the macro has no negative inputs."""
DENSITIES = {"conv1/kernel": 0.5, "conv2/kernel": 0.32, "fc1/kernel": 0.2}
"""Filters kept, so that what is left fits the macro's cells."""
SOFTWARE, RANGE, IDEAL, CHIP = (
    *("ternary, software", "macro, full range", "macro, rounding alone"),
    "macro, chips",
)
TUNED = "macro, chips, trained with them"
CELLS = 65_536


_linearity = jax.jit(capram.linearity, static_argnums=(3,))


def linearity(seeds: Sequence[int]) -> dict[str, Any]:
    """Returns errors in steps of chips before and after calibration."""
    spec = capram.MacroSpec()
    found: dict[str, Any] = {}
    for seed in seeds:
        for mended in (False, True):
            made = in_memory.macro(spec, seed, mended)
            key = jax.random.key(seed + 1_000)
            swept = _linearity(made.chip, made.calibration, key, spec)
            name = f"chip {seed}, {'calibrated' if mended else 'as it is'}"
            found[name] = {k: float(v) for k, v in swept._asdict().items()}
    return found


def digits(run: Run, config: Any, seed: int) -> dict[str, Any]:
    """Returns accuracies in % of LeNet-5, pruned to fit and run in macros.

    Every phase of training is a stage of the run, and so is what is measured after.
    """
    dataset = data.load(config.dataset, data_dir=run.data_dir)
    train = dataset.train
    if config.examples < len(train.labels):
        train = data.subset(train, config.examples, seed)
    full = LeNet5()
    trainer = Trainer(run, full, train, dataset.test, batch_size=BATCH, **PIXELS)
    images = trainer.pixels(train.images[:200])
    found: dict[str, float] = {}

    def fit(
        arm: str,
        state: TrainState,
        *,
        model: Any = full,
        epochs: int = config.tuning,
        rate: float = 1e-3,
        masks: Any = None,
    ) -> TrainState:
        optimizer = optax.adam(cosine(rate, epochs * trainer.steps, left=0.0))
        if masks is not None:
            optimizer = gap.masked(optimizer, masks)
        state, result = trainer.phase(
            f"s{seed}-{arm}",
            state,
            optimizer,
            epochs,
            seed=seed,
            tag=f"{seed} {arm}",
            model=model,
            dropout=False,
        )
        found[arm] = result["accuracy"]
        return state

    state = fit("float", trainer.start(seed, "lenet5"), epochs=config.epochs)
    rules = [
        (path, gap.Target(d, pattern=gap.Filter())) for path, d in DENSITIES.items()
    ]
    masks = gap.magnitude_masks(state.params, rules)
    state = fit("masked", state, masks=masks)

    def scores(params: Any, x: Any) -> Any:
        return full.apply({"params": params}, x)

    small = gap.compact(scores, state.params, masks, images[:2])
    sizes = [small.params[n]["bias"].shape[0] for n in ("conv1", "conv2", "fc1")]
    model = LeNet5(features=(sizes[0], sizes[1]), hidden=sizes[2])
    state = fit("compact", state._replace(params=small.params), model=model)
    held, variables = state, {"params": state.params}

    steps = in_memory.steps_of(model, variables, images, in_memory.LEVELS)
    steps = {path: abs(step) for path, step in steps.items()}
    software = in_memory.through(model, in_memory.ternary_product(steps))
    state = fit("ternary", state, model=software)
    variables = {"params": state.params}
    scales = in_memory.scales_of(model, variables, images, steps)
    whole = dict.fromkeys(scales, 1.0)

    def macro(spec: Any, chip: int, full_scale: Any = scales) -> in_memory.Macro:
        made = in_memory.macro(spec, chip)
        return dataclasses.replace(made, full_scale=full_scale)

    chips = [macro(capram.MacroSpec(), chip) for chip in range(config.chips)]
    first = in_memory.through(model, in_memory.ternary_product(steps, chips[0]))
    tuned = fit("chip", state, model=first, epochs=config.hardware_epochs, rate=3e-4)

    def in_macro(given: tuple[in_memory.Macro, Any], x: Any) -> Any:
        chip, params = given
        product = in_memory.ternary_product(steps, chip)
        network = in_memory.through(model, product)
        return network.apply({"params": params}, trainer.pixels(x), train=False)

    def accuracy(chip: in_memory.Macro, state: TrainState) -> float:
        return jitted_accuracy(in_macro, (chip, state.params), trainer.test)

    def measured() -> dict[str, float]:
        found = _crossbars(trainer, model, held, images)
        found[RANGE] = accuracy(macro(capram.ideal(), 0, whole), state)
        found[IDEAL] = accuracy(macro(capram.ideal(), 0), state)
        found[CHIP] = float(np.mean([accuracy(chip, state) for chip in chips]))
        found[TUNED] = float(np.mean([accuracy(chip, tuned) for chip in chips]))
        for bits in config.adc_bits:
            spec, name = capram.ideal(bits), f"ADC of {bits} bits"
            found[f"{name}, fitted range"] = accuracy(macro(spec, 0), state)
            found[f"{name}, full range"] = accuracy(macro(spec, 0, whole), state)
        return found

    circuits = run.stage(f"s{seed}-circuits", measured)
    table = hw.workload(model.apply, variables, images[:1])
    table = hw.design(table, bits=2.0, input_bits=3.0)
    arms = {
        "float": found["float"],
        "float, filters pruned": found["compact"],
        SOFTWARE: found["ternary"],
    }
    return {"accuracy": arms | circuits, "cost": _price(table)}


def _crossbars(
    trainer: Trainer, model: Any, state: TrainState, images: Any
) -> dict[str, float]:
    """Accuracies of weights of 8 bits in crossbars: noise, converters, drift.

    Ranges of inputs and of converters are those of training images.
    """
    variables = {"params": state.params}
    top = 2.0**in_memory.CROSSBAR_BITS - 1
    steps = in_memory.steps_of(model, variables, images, top, quantile=1.0)
    scales = in_memory.crossbar_scales_of(model, variables, images[:16], steps)
    right = {"noise": 0.0, "drift": 0.0, "drift_spread": 0.0}
    plans = [
        ("8 bits, exact", {}, 1.0, 0),
        ("noise 5 %", {"noise": 0.05}, 1.0, 0),
        ("noise 20 %", {"noise": 0.2}, 1.0, 0),
        ("a day of drift", {"drift": 0.02, "drift_spread": 0.01}, 86_400.0, 0),
        ("ADC of 6 bits", {}, 1.0, 6),
    ]

    def in_crossbars(given: tuple[Any, Any], x: Any) -> Any:
        product, params = given
        network = in_memory.through(model, product)
        return network.apply({"params": params}, trainer.pixels(x), train=False)

    found = {}
    for name, wrong, seconds, adc_bits in plans:
        product = in_memory.Crossbars(
            tuple(steps.items()),
            jax.random.key(0),
            right | wrong,
            scales,
            seconds,
            adc_bits,
        )
        score = jitted_accuracy(in_crossbars, (product, state.params), trainer.test)
        found[f"crossbars, {name}"] = score
    return found


def _price(table: hw.Workload) -> dict[str, float]:
    found = hw.summary(hw.cost(table, hw.get("capram")))
    operations = 2 * table.total_macs
    return {
        "cells": found["cells"],
        "feasible": float(found["feasible"]),
        "us": 1e6 * found["latency_s"],
        "nJ": 1e9 * found["energy_j"],
        "GOPS": operations / found["latency_s"] / 1e9,
        "TOPS/W": operations / found["energy_j"] / 1e12,
    }


def cifar(run: Any, config: Any, seed: int) -> dict[str, Any]:
    """Returns accuracies in % of a trained ResNet-20 in macros, without training."""
    dataset = data.load("cifar10", data_dir=run.data_dir)
    split = data.subset(dataset.test, config.cifar_images, seed)
    images = data.normalize(
        jnp.asarray(split.images),
        mean=models.PRETRAINED_MEAN,
        std=models.PRETRAINED_STD,
    )
    shown = split._replace(images=images)
    model = models.create("resnet20")
    variables = models.load_pretrained("resnet20_jpeg")
    bits, places = config.cifar_bits, config.cifar_digits
    steps = in_memory.steps_of(
        model, variables, images[:32], 8.0**places - 1, quantile=0.9995
    )
    scales = in_memory.plane_scales_of(
        model, variables, images[:8], steps, bits, places
    )

    def accuracy(product: Any) -> float:
        network: Any = in_memory.through(model, product) if product else model
        return jitted_accuracy(network.apply, variables, shown, batch=20)

    def macro(spec: Any, fitted: bool = True) -> Any:
        made = in_memory.macro(spec, 0)
        made = dataclasses.replace(made, full_scale=scales if fitted else {})
        return in_memory.binary_product(steps, bits, places, made)

    found = {
        "float": accuracy(None),
        f"{bits} bits, software": accuracy(
            in_memory.binary_product(steps, bits, places)
        ),
        RANGE: accuracy(macro(capram.ideal(), False)),
        IDEAL: accuracy(macro(capram.ideal())),
        CHIP: accuracy(macro(capram.MacroSpec())),
    }
    table = hw.workload(model.apply, variables, images[:1])
    table = hw.design(table, bits=float(bits), input_bits=3.0 * places)
    return {"accuracy": found, "cost": _price(table), "images": len(split.labels)}


def rows(
    bent: dict[str, Any],
    found: Sequence[dict[str, Any]],
    images: dict[str, Any] | None,
    judged: bool,
) -> Iterable[Row]:
    """Yields linearity, accuracies and costs.

    Args:
      bent: of `linearity`.
      found: of `digits`, by seed.
      images: of `cifar`, None where it was not run.
      judged: whether data and training are those of full mode.
    """
    for name, swept in bent.items():
        after = name.endswith("calibrated")
        whole = max(swept["most"], swept["ends"])
        for where, most in (
            ("over the whole range", whole),
            ("where no converter saturates", swept["most"]),
        ):
            yield Row(
                f"largest error of the transfer curve {where}",
                name,
                most,
                paper=2.0 if after else None,
                unit="steps",
                simulated=True,
                holds=most < 2 if after else None,
            )
        metric = "root mean square error of the transfer curve, no converter saturated"
        yield Row(metric, name, swept["rms"], unit="steps", simulated=True)
        for end in ("low", "high"):
            metric = f"{end} end of the range that no converter cuts off"
            share = 100 * swept[end]
            yield Row(metric, name, share, unit="%", simulated=True)
    by_arm = {k: [f["accuracy"][k] for f in found] for k in found[0]["accuracy"]}
    software = float(np.mean(by_arm[SOFTWARE]))
    papers = {SOFTWARE: 98.8, TUNED: 98.8}
    for arm, values in by_arm.items():
        holds = None
        if arm == TUNED and judged:
            holds = float(np.mean(values)) >= software - 1.0
        yield mean_row(
            "accuracy",
            f"LeNet-5, {arm}",
            values,
            baseline=software if arm.startswith(("macro", "ADC")) else None,
            paper=papers.get(arm),
            unit="%",
            simulated=arm.startswith(("macro", "ADC", "crossbars")),
            holds=holds,
        )
    yield from _cost_rows("LeNet-5, one macro", found[0]["cost"], True)
    if images is None:
        return
    setting = f"ResNet-20, {images['images']} images of CIFAR-10"
    level = images["accuracy"]["float"]
    for arm, value in images["accuracy"].items():
        paper = 89.0 if arm == CHIP else None
        yield Row(
            "accuracy",
            f"{setting}, {arm}",
            value,
            baseline=level,
            paper=paper,
            unit="%",
            simulated=arm.startswith("macro"),
        )
    macros = math.ceil(images["cost"]["cells"] / CELLS)
    yield from _cost_rows(f"ResNet-20, cells of {macros} macros", images["cost"], False)


def _cost_rows(setting: str, cost: dict[str, float], fits: bool) -> Iterable[Row]:
    cells = Row("cells", setting, cost["cells"], paper=CELLS, simulated=True)
    yield cells._replace(holds=bool(cost["feasible"]) if fits else None)
    yield Row("latency of an image", setting, cost["us"], unit="us", simulated=True)
    yield Row("energy of an image", setting, cost["nJ"], unit="nJ", simulated=True)
    yield Row("throughput", setting, cost["GOPS"], unit="GOPS", simulated=True)
    yield Row("efficiency", setting, cost["TOPS/W"], unit="TOPS/W", simulated=True)


def figures(found: Sequence[dict[str, Any]], widths: Sequence[int]) -> list[Figure]:
    """Returns accuracy over the converters' bits."""
    series = [
        Series(
            kind,
            list(widths),
            [
                float(
                    np.mean([f["accuracy"][f"ADC of {b} bits, {kind}"] for f in found])
                )
                for b in widths
            ],
        )
        for kind in ("fitted range", "full range")
    ]
    title = "LeNet-5 in the macro, before it is trained with it"
    return [Figure(title, "line", "bits of the converters", "accuracy (%)", series)]
