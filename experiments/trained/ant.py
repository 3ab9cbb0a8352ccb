"""Arms and claims of formats chosen for each tensor by their error (2208.14286)."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import quant
from core import trees
from core.types import Array, PyTree
from experiments.differences import EQUAL
from experiments.results import Figure, Row, mean_row
from experiments.trained import claims, study
from experiments.trained.arms import FLOAT, Arm
from experiments.trained.networks import kernels_of, with_kernels
from experiments.trained.protocol import Protocol
from experiments.zoo.formats import shape_of
from quant.calibration import LeastError

LISTS = {
    "I": "integers",
    "P": "powers of two",
    "F": "flint",
    "IP": "integers or powers of two (IP)",
    "IPF": "integers, powers of two or flint (IP-F)",
}
"""What is chosen from, by the letters of `quant.candidates`."""
LETTERS = "IPF"
INT_LIKE = ("uniform", "normal", "uniform from 0", "half-normal")
"""Distributions that are to have less error in integers than in flint."""
ORDERS = {"error": "by error", "random": "at random", "reversed": "by least error"}
"""How layers are promoted, by name."""
ROOM = LeastError(low=0.05, high=1.49, steps=145)
"""A search that may clip: that of the map of types."""
WIDE_BITS = 8
WIDE_SEARCH = LeastError(low=0.95)
"""Above 6 bits integers clip little: the paper's search."""


def type_rows(bits: int) -> Iterable[Row]:
    """Yields relative errors of distributions in each format, and which is the best.

    No run can change them, so none is judged: tests hold the sides of the map.
    """
    for names, signed in ((study.SIGNED, True), (_unsigned(), False)):
        formats = dict(
            zip(LETTERS, quant.candidates(LETTERS, bits, signed), strict=True)
        )
        found = study.searched_errors(formats, names, ROOM)
        papers = study.searched_errors(formats, names, LeastError())
        word = "signed" if signed else "unsigned"
        for name, errors in found.items():
            setting = f"{name}, {bits} bits, {word}"
            for letter, error in errors.items():
                yield Row("relative error", f"{setting}, {LISTS[letter]}", error)
            ratio = errors["F"] / errors["I"]
            side = "above 1" if name in INT_LIKE else "below 1"
            metric = "error of flint over integers"
            yield Row(f"{metric} ({side})", setting, ratio, unit="x")
            ratio = papers[name]["F"] / papers[name]["I"]
            yield Row(metric, f"{setting}, scales from 0.75 on", ratio, unit="x")


def _unsigned() -> tuple[str, ...]:
    return tuple(name for name in study.INVERSES if name not in study.SIGNED)


def choices(made: Protocol, seed: int, bits: int) -> dict[str, Any]:
    """Returns errors of kernels and inputs in each format, by path.

    Of every path "weights" and "inputs": sums over scales of mean squared errors by the
    format's letter; and whether its inputs are "signed", which is if any is negative.
    """
    leaves = trees.by_path({"params": made.start(seed).params})
    inputs, found = made.inputs(seed), {}
    for path in made.network.paths:
        w, x = leaves[path], inputs[path]
        signed = bool((x < 0).any())
        found[path] = {
            "weights": _by_letter(w, bits, True, quant.CHANNEL),
            "inputs": _by_letter(x, bits, signed, quant.TENSOR),
            "signed": signed,
        }
    return found


def _by_letter(x: Array, bits: int, signed: bool, per: quant.Per) -> dict[str, float]:
    formats = quant.candidates(LETTERS, bits, signed)
    errors = quant.choose(x, formats, per).errors
    return {letter: errors[f] for letter, f in zip(LETTERS, formats, strict=True)}


def least(errors: Mapping[str, float], letters: str) -> str:
    """Returns the letter of least error of a list; of equals the first."""
    return min(letters, key=lambda letter: errors[letter])


def arm(
    letters: str,
    chosen: Mapping[str, Any],
    bits: int,
    promoted: Sequence[str] = (),
    trained: bool = True,
) -> Arm:
    """Returns the arm of a list of formats.

    Args:
      letters: of the list.
      chosen: what `choices` returned.
      bits: of weights and inputs.
      promoted: paths of layers with integers of 8 bits instead.
      trained: straight-through with learned scales; else quantized after training.
    """
    layers = []
    for path, errors in chosen.items():
        wide = path in promoted
        parts = {}
        for part, per in (("weights", quant.CHANNEL), ("inputs", quant.TENSOR)):
            signed = part == "weights" or errors["signed"]
            letter = "I" if wide else least(errors[part], letters)
            size = WIDE_BITS if wide else bits
            search = WIDE_SEARCH if wide else LeastError()
            fmt = quant.candidates(letter, size, signed)[0]
            parts[part] = quant.Quantizer(
                fmt, per, search, gradient="ant", beyond="identity"
            )
        layers.append((path, quant.Layer(**parts)))
    name = f"b{bits}-{letters}"
    if not trained:
        name += "-wide" + "".join(str(int(path in promoted)) for path in chosen)
    way = "ste" if trained else "none"
    return Arm(name, LISTS[letters], tuple(layers), way, learned=trained)


def trained(
    made: Protocol, seed: int, chosen: Mapping[str, Any], config: Any
) -> dict[str, float]:
    """Returns accuracies of a seed after training, by title.

    A list that chooses as another one did is the same arm, run once.
    """
    found = {FLOAT.title: made.run_arm(seed, FLOAT)["accuracy"]}
    seen: dict[Any, float] = {}
    for letters in config.lists:
        each = arm(letters, chosen, config.trained_bits)
        if each.layers not in seen:
            seen[each.layers] = made.run_arm(seed, each)["accuracy"]
        found[each.title] = seen[each.layers]
    return found


def quantized(made: Protocol, seed: int, bits: int) -> dict[str, Any]:
    """Returns accuracy and errors of kernels quantized after training, by title.

    A scale for each output channel. "kernels" tells the letter of every kernel.
    """
    state = made.start(seed)
    each = {}
    for letter in LETTERS:
        fmt = quant.candidates(letter, bits)[0]
        quantizer = quant.Quantizer(fmt, quant.CHANNEL, LeastError())
        each[letter] = _projected(quantizer, state.params)
    errors = {letter: jax.device_get(part[1]) for letter, part in each.items()}
    found = {}
    for letters in ("I", "P", "F", "IPF"):
        kinds = {
            n: least({k: errors[k][n] for k in letters}, letters) for n in errors["I"]
        }
        kernels = {n: each[kinds[n]][0][n] for n in kinds}
        params = with_kernels(state.params, kernels)
        found[LISTS[letters]] = {
            "accuracy": made.accuracy(params, state.model_state),
            "error": sum(float(errors[kinds[n]][n]) for n in kinds),
            "kernels": kinds,
        }
    return found


@functools.partial(jax.jit, static_argnums=0)
def _projected(quantizer: quant.Quantizer, params: PyTree) -> Any:
    """Kernels on their levels, and the sum over channels of mean squared errors."""
    old = kernels_of(params)
    new = {name: quantizer.project(w) for name, w in old.items()}
    errors = {
        n: ((new[n] - w) ** 2).sum() * w.shape[-1] / w.size for n, w in old.items()
    }
    return new, errors


def promoted(
    made: Protocol, seed: int, chosen: Mapping[str, Any], config: Any
) -> dict[str, dict[int, float]]:
    """Returns accuracies by order and number of layers with 8 bits, not trained."""
    errors = {
        path: sum(min(e[part].values()) for part in ("weights", "inputs"))
        for path, e in chosen.items()
    }
    shuffled = np.random.default_rng(seed).permutation(len(errors))
    ranks = {
        "error": errors,
        "random": dict(zip(errors, map(float, shuffled), strict=True)),
        "reversed": {path: -error for path, error in errors.items()},
    }
    found: dict[str, dict[int, float]] = {}
    for order in config.orders:
        for count in config.promoted:
            paths = quant.promote(ranks[order], min(count, len(errors)))
            each = arm("IPF", chosen, config.trained_bits, paths, trained=False)
            accuracy = made.run_arm(seed, each)["accuracy"]
            found.setdefault(order, {})[count] = accuracy
    return found


def after_rows(
    title: str, found: Mapping[int, Mapping[int, Any]], judged: bool
) -> Iterable[Row]:
    """Yields rows of kernels quantized after training, per channel.

    Args:
      title: of the network.
      found: what `quantized` returned by seed and width.
      judged: see `experiments.trained.options.is_judged`.
    """
    for bits, at, parts, right in claims.after_training(found):
        yield from claims.accuracy_rows(title, right)
        for name, each in parts.items():
            values = [p["error"] for p in each]
            metric = "error of kernels, sum over channels"
            yield mean_row(metric, f"{title}, {name}", values)
        networks = {
            name: [
                [shape_of(quant.candidates(k, bits)[0]) for k in p["kernels"].values()]
                for p in each
            ]
            for name, each in parts.items()
        }
        yield from _leads(title, right, networks, at + LISTS["IPF"], judged)


def trained_rows(
    title: str,
    found: claims.Found,
    chosen: Sequence[Mapping[str, Any]],
    bits: int,
    judged: bool,
) -> Iterable[Row]:
    """Yields rows of training with learned scales.

    Args:
      title: of the network.
      found: accuracies by title, a value for each seed.
      chosen: what `choices` returned, by seed.
      bits: of weights and inputs.
      judged: see `experiments.trained.options.is_judged`.
    """
    yield from claims.accuracy_rows(title, found, FLOAT.title)

    def shapes(choice: Mapping[str, Any], letters: str) -> list[tuple[float, ...]]:
        layers = [layer for _, layer in arm(letters, choice, bits).layers]
        both = [part for layer in layers for part in (layer.weights, layer.inputs)]
        return [shape_of(p.format) for p in both if isinstance(p, quant.Quantizer)]

    networks = {
        name: [shapes(choice, letters) for choice in chosen]
        for letters, name in LISTS.items()
        if name in found
    }
    yield from _leads(title, found, networks, LISTS["IPF"], judged)


def _leads(
    title: str,
    found: claims.Found,
    networks: Mapping[str, Sequence[Any]],
    ours: str,
    judged: bool,
) -> Iterable[Row]:
    """Leads over every other list; one that chooses as a list before it has none.

    Args:
      title: of the network.
      found: accuracies by title, a value for each seed.
      networks: likewise what tells networks apart: the levels of their tensors.
      ours: the title whose leads they are.
      judged: see `experiments.trained.options.is_judged`.
    """
    compared: list[Any] = []
    for theirs, made in networks.items():
        if ours not in networks or theirs == ours or made in compared:
            continue
        compared.append(made)
        differ = sum(a != b for a, b in zip(networks[ours], made, strict=True))
        yield claims.lead_row(title, found, ours, theirs, EQUAL, judged, differ)


def promoted_rows(
    title: str,
    found: Sequence[Mapping[str, Mapping[int, float]]],
    layers: int,
    judged: bool,
) -> Iterable[Row]:
    """Yields accuracies by the number of layers with 8 bits, and leads of orders.

    The lead is that of the mean over numbers at which orders differ.

    Args:
      title: of the network.
      found: what `promoted` returned, by seed.
      layers: of the network.
      judged: see `experiments.trained.options.is_judged`.
    """
    means: dict[str, list[float]] = {}
    for order, word in ORDERS.items():
        if order not in found[0]:
            continue
        for count in found[0][order]:
            setting = f"{title}, {count} of {layers} layers with 8 bits, {word}"
            values = [each[order][count] for each in found]
            yield mean_row("accuracy, not trained", setting, values, unit="%")
        inner = [c for c in found[0][order] if 0 < c < layers]
        if inner:
            name = f"promotion {word}"
            means[name] = [float(np.mean([e[order][c] for c in inner])) for e in found]
    ours, *others = means or [""]
    for theirs in others:
        yield claims.lead_row(title, means, ours, theirs, EQUAL, judged)


def choice_rows(title: str, chosen: Sequence[Mapping[str, Any]]) -> Iterable[Row]:
    """Yields how many kernels and inputs of all layers and seeds choose each format."""
    for part in ("weights", "inputs"):
        each = [least(e[part], LETTERS) for c in chosen for e in c.values()]
        for letter in LETTERS:
            metric = f"{part} that choose {LISTS[letter]}"
            share = 100 * each.count(letter) / len(each)
            yield Row(metric, f"{title}, of {len(each)}", share, unit="%")


def figures(
    title: str,
    found: claims.Found,
    mixed: Sequence[Mapping[str, Mapping[int, float]]],
) -> list[Figure]:
    """Returns accuracies of training, and those by layers with 8 bits."""
    by_count = {
        ORDERS[order]: {c: [each[order][c] for each in mixed] for c in counts}
        for order, counts in mixed[0].items()
    }
    name = f"{title}: layers of 8 bits among those of 4, not trained"
    return [
        claims.bars(f"{title}: trained with learned scales", found),
        claims.by_number(name, "layers", by_count),
    ]
