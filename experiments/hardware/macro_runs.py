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
from experiments.results import Figure, Row, Series, mean_row
from experiments.training import init_state, make_epoch, make_evaluate, put, restart
from hw import capram, memristor

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
            most, rms = _linearity(made.chip, made.calibration, key, spec)
            found[f"chip {seed}, {'calibrated' if mended else 'as it is'}"] = [
                float(most),
                float(rms),
            ]
    return found


def digits(run: Any, config: Any, seed: int) -> dict[str, Any]:
    """Returns accuracies in % of LeNet-5, pruned to fit and run in macros."""
    dataset = data.load(config.dataset, data_dir=run.data_dir)
    train = dataset.train
    if config.examples < len(train.labels):
        train = data.subset(train, config.examples, seed)
    train, test = put(train), put(dataset.test)
    steps_each = len(train.labels) // BATCH

    def fit(model: Any, state: Any, epochs: int, rate: float, masks: Any = None) -> Any:
        schedule = optax.cosine_decay_schedule(rate, epochs * steps_each)
        optimizer = optax.adam(schedule)
        if masks is not None:
            optimizer = gap.masked(optimizer, masks)
        epoch = make_epoch(model, optimizer, batch_size=BATCH, dropout=False, **PIXELS)
        state = restart(state, optimizer)
        for i in range(epochs):
            key = jax.random.fold_in(jax.random.key(seed), i)
            state, _ = epoch(state, train, key)
        return state

    def accuracy(model: Any, state: Any) -> float:
        evaluate = make_evaluate(model, batch_size=100, **PIXELS)
        found = evaluate(state.params, state.model_state, test)["accuracy"]
        return 100 * float(found)

    full = LeNet5()
    shape = dataset.train.images.shape[1:]
    state = init_state(full, optax.adam(1e-3), jax.random.key(seed), shape)
    state = fit(full, state, config.epochs, 1e-3)
    found = {"float": accuracy(full, state)}

    rules = [
        (path, gap.Target(d, pattern=gap.Filter())) for path, d in DENSITIES.items()
    ]
    masks = gap.magnitude_masks(state.params, rules)
    state = fit(full, state, config.tuning, 1e-3, masks)
    images = jnp.asarray(train.images[:200]).astype(jnp.float32) / 255
    images = images.reshape(200, *shape)

    def scores(params: Any, x: Any) -> Any:
        return full.apply({"params": params}, x)

    small = gap.compact(scores, state.params, masks, images[:2])
    sizes = [small.params[n]["bias"].shape[0] for n in ("conv1", "conv2", "fc1")]
    model = LeNet5(features=(sizes[0], sizes[1]), hidden=sizes[2])
    fresh = init_state(model, optax.adam(1e-3), jax.random.key(seed), shape)
    state = fit(model, fresh._replace(params=small.params), config.tuning, 1e-3)
    found["float, filters pruned"] = accuracy(model, state)

    variables = {"params": state.params}
    steps = in_memory.steps_of(model, variables, images, in_memory.LEVELS)
    steps = {path: abs(step) for path, step in steps.items()}
    software = in_memory.Through(model, in_memory.ternary_product(steps))
    found |= _crossbars(model, state, accuracy)
    state = fit(software, state, config.tuning, 1e-3)
    found[SOFTWARE] = accuracy(software, state)

    variables = {"params": state.params}
    scales = in_memory.scales_of(model, variables, images, steps)

    def macro(spec: Any, chip: int, fitted: bool = True) -> Any:
        made = in_memory.macro(spec, chip)
        made = dataclasses.replace(made, full_scale=scales if fitted else {})
        return in_memory.Through(model, in_memory.ternary_product(steps, made))

    found[RANGE] = accuracy(macro(capram.ideal(), 0, False), state)
    found[IDEAL] = accuracy(macro(capram.ideal(), 0), state)
    chips = [macro(capram.MacroSpec(), chip) for chip in range(config.chips)]
    found[CHIP] = float(np.mean([accuracy(chip, state) for chip in chips]))
    tuned = fit(chips[0], state, config.hardware_epochs, 3e-4)
    found[TUNED] = float(np.mean([accuracy(chip, tuned) for chip in chips]))
    for bits in config.adc_bits:
        name = f"ADC of {bits} bits"
        found[f"{name}, fitted range"] = accuracy(macro(capram.ideal(bits), 0), state)
        found[f"{name}, full range"] = accuracy(
            macro(capram.ideal(bits), 0, False), state
        )
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), variables)
    table = hw.workload(
        model.apply, shapes, jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    )
    table = hw.design(table, bits=2.0, input_bits=3.0)
    return {"accuracy": found, "cost": _price(table)}


def _crossbars(model: Any, state: Any, accuracy: Any) -> dict[str, float]:
    """Accuracies of weights of 8 bits in crossbars: noise, converters, drift."""
    found = {}
    plans = [
        ("8 bits, exact", {}, 1.0),
        ("noise 5 %", {"noise": 0.05}, 1.0),
        ("noise 20 %", {"noise": 0.2}, 1.0),
        ("ADC of 6 bits", {"adc_bits": 6}, 1.0),
        ("a day of drift", {"drift": 0.02, "drift_spread": 0.01}, 86_400.0),
    ]
    for name, wrong, seconds in plans:
        product = in_memory.crossbar_product(
            memristor.Crossbar(**wrong), jax.random.key(0), seconds
        )
        found[f"crossbars, {name}"] = accuracy(in_memory.Through(model, product), state)
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
    images = jnp.asarray(split.images, jnp.float32) / 255
    mean, std = (
        jnp.asarray(v) for v in (models.PRETRAINED_MEAN, models.PRETRAINED_STD)
    )
    images = (images - mean[None, None, None]) / std[None, None, None]
    labels = np.asarray(split.labels)
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
        scores = jax.jit(
            in_memory.Through(model, product).apply if product else model.apply
        )
        right = [
            np.asarray(scores(variables, images[i : i + 20]).argmax(-1))
            for i in range(0, len(images), 20)
        ]
        return 100 * float((np.concatenate(right) == labels).mean())

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
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), variables)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    table = hw.workload(model.apply, shapes, x)
    table = hw.design(table, bits=float(bits), input_bits=3.0 * places)
    return {"accuracy": found, "cost": _price(table), "images": len(labels)}


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
    for name, (most, rms) in bent.items():
        after = name.endswith("calibrated")
        yield Row(
            "largest error of the transfer curve",
            name,
            most,
            paper=2.0 if after else None,
            unit="steps",
            simulated=True,
            holds=most < 2 if after else None,
        )
        metric = "root mean square error of the transfer curve"
        yield Row(metric, name, rms, unit="steps", simulated=True)
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
