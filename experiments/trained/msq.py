"""Arms and claims of sums of powers, mixed with fixed point by rows (2012.04240)."""

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax

import quant
from core.types import Array, PyTree
from experiments.differences import EQUAL
from experiments.results import Figure, Row, Series, mean_row
from experiments.trained import claims, study
from experiments.trained.arms import FLOAT, Arm, Way, layers
from experiments.trained.networks import kernels_of, relative_error
from experiments.trained.protocol import Protocol
from experiments.trained.sets import ORDERS, Order, Rows
from quant.calibration import Aligned, LeastSquares

IMAGE_BITS = 8
"""Of the first layer's inputs."""
FORMATS = {"fixed": "fixed point", "sp2": "SP2", "powers": "powers of two"}
"""Titles of the formats of rows, by their names on the command line."""
SHAPES = ("normal", "Laplace", "uniform")
SHARES = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.40)
"""Deviations over the largest level at which errors are drawn."""
TABLE = (0.10, 0.15, 0.20, 0.25)
"""Those with a row each."""


def schemes(bits: int) -> dict[str, quant.Format]:
    """Returns the formats of rows, all with the same largest level."""
    return {
        "fixed point": quant.Uniform(bits, symmetric=True),
        "SP2": quant.SumOfPowers(bits),
        "powers of two": quant.PowerOfTwo(bits),
    }


def kernels(bits: int, shares: Iterable[float]) -> dict[str, quant.Quantizer | Rows]:
    """Returns what kernels are quantized with, by title; one scale a layer.

    The gradient of all of them is the identity, as that of rows is.
    """
    fit = LeastSquares()
    found: dict[str, Any] = {
        title: quant.Quantizer(fmt, calibration=fit, beyond="identity")
        for title, fmt in schemes(bits).items()
    }
    return found | {mixed(share): Rows(bits, share) for share in shares}


def mixed(share: float) -> str:
    """Returns the title of MSQ with a share of SP2 rows."""
    return f"MSQ, {share:.3g} SP2"


def ordered(share: float, by: Order) -> str:
    """Returns the title of rows assigned by an order."""
    return mixed(share) if by == "variance" else f"{mixed(share)}, rows by {by}"


def arm(
    paths: Sequence[str], title: str, weights: Any, bits: int, training: Way = "admm"
) -> Arm:
    """Returns an arm; inputs are quantized alike in all of them."""
    after = quant.Quantizer(quant.Uniform(bits, signed=False), calibration=Aligned())
    image = quant.Quantizer(quant.Uniform(IMAGE_BITS, symmetric=True))
    inner = quant.Layer(weights, after)
    name = title.replace(", ", "-").replace(" ", "_").replace(".", "_")
    name = name if training == "admm" else f"{name}-{training}"
    title = title if training == "admm" else f"{title}, straight-through alone"
    found = layers(paths, quant.Layer(weights, image), inner, inner)
    return Arm(name, title, found, training)


def arms(paths: Sequence[str], config: Any, more: bool) -> list[Arm]:
    """Returns the arms of a network.

    Args:
      paths: of its kernels.
      config: of the run.
      more: whether other orders of rows, and training without ADMM, are compared too.
    """
    bits = config.bits
    every = kernels(bits, config.shares)
    left = {FORMATS[name] for name in FORMATS if name not in config.formats}
    every = {title: weights for title, weights in every.items() if title not in left}
    found = [arm(paths, title, weights, bits) for title, weights in every.items()]
    if more:
        rows = {
            ordered(config.share, by): Rows(bits, config.share, by=by)
            for by in config.orders
            if by != "variance"
        }
        found += [arm(paths, title, weights, bits) for title, weights in rows.items()]
    if more and config.straight:
        alone = ["fixed point", "SP2", mixed(config.share)]
        found += [arm(paths, t, every[t], bits, "ste") for t in alone if t in every]
    return [FLOAT, *found]


def errors(made: Protocol, seed: int, bits: int, share: float) -> dict[str, float]:
    """Returns relative errors of the float network's kernels by scheme and order.

    The squared error of all kernels over their squares, a scale for each kernel and
    rows that is fitted to both.
    """
    found: dict[str, Any] = {}
    params = made.start(seed).params
    every = kernels(bits, ()) | {
        ordered(share, by): Rows(bits, share, by=by) for by in ORDERS
    }
    for title, weights in every.items():
        found[title] = float(_error(weights, params))
    return found


@functools.partial(jax.jit, static_argnums=0)
def _error(quantizer: quant.Quantizer | Rows, params: PyTree) -> Array:
    old = kernels_of(params)
    return relative_error({n: quantizer.project(w) for n, w in old.items()}, old)


def study_rows(widths: Iterable[int]) -> Iterable[Row]:
    """Yields errors at scales that are given, and where SP2 is as good as fixed point.

    No run can change them, so none is judged: tests hold where SP2 is to be the better.
    """
    for bits in widths:
        formats = schemes(bits)
        for shape in SHAPES:
            x = study.quantiles(shape)
            if bits == 4:
                for share in TABLE:
                    base = study.at_share(formats["fixed point"], x, share)
                    for title, fmt in formats.items():
                        error = study.at_share(fmt, x, share)
                        setting = f"{shape}, deviation {share:g} of the top, {title}"
                        against = None if title == "fixed point" else base
                        metric = "relative error at a given scale, 4 bits"
                        yield Row(metric, setting, error, baseline=against)
            pair = formats["SP2"], formats["fixed point"]
            at = study.crossings(*pair, x, 0.02, 0.5)
            last = at[-1] if at else 0.0
            setting = f"{shape}, {bits} bits"
            if not at:
                setting += ", nowhere"
            metric = "deviation up to which SP2 has less error than fixed point"
            yield Row(metric, setting, last, unit="of the top")


def study_figure() -> Figure:
    """Returns the errors of normal rows by their deviation, 4 bits."""
    x = study.quantiles("normal")
    series = [
        Series(title, SHARES, [study.at_share(fmt, x, share) for share in SHARES])
        for title, fmt in schemes(4).items()
    ]
    title = "normal rows, 4 bits: relative error at a given scale"
    return Figure(title, "line", "deviation / top", "", series, log_y=True)


def error_rows(
    title: str, found: claims.Found, share: float, judged: bool
) -> Iterable[Row]:
    """Yields relative errors of kernels; orders hold if they do for every seed.

    Args:
      title: of the network.
      found: what `errors` returned, a value for each seed.
      share: of SP2 rows.
      judged: see `experiments.trained.options.is_judged`.
    """
    for name, values in found.items():
        metric = "squared error of kernels, relative, after float training"
        yield mean_row(metric, f"{title}, {name}", values)
    for low, high in itertools.pairwise(ORDERS):
        less, more = found[ordered(share, low)], found[ordered(share, high)]
        ratios = [b / a for a, b in zip(less, more, strict=True)]
        yield Row(
            f"error of rows by {high} over that by {low} (above 1)",
            f"{title}, {share:.3g} SP2",
            sum(ratios) / len(ratios),
            unit="x",
            holds=all(ratio > 1 for ratio in ratios) if judged else None,
        )


def rows(
    title: str,
    found: claims.Found,
    residuals: claims.Found,
    config: Any,
    judged: bool,
) -> Iterable[Row]:
    """Yields accuracies, leads and residuals of a network.

    Args:
      title: of the network.
      found: accuracies by title of the arm.
      residuals: of ADMM, by title of the arm.
      config: of the run.
      judged: see `experiments.trained.options.is_judged`.
    """
    yield from claims.accuracy_rows(title, found, FLOAT.title)
    share = config.share
    pairs = [("SP2", "powers of two", "better")]
    pairs += [
        (mixed(share), other, EQUAL)
        for share in config.shares
        for other in ("SP2", "fixed point", FLOAT.title)
    ]
    pairs += [
        (mixed(share), ordered(share, by), EQUAL) for by in ("random", "reversed")
    ]
    pairs += [
        (t, f"{t}, straight-through alone", "")
        for t in ("fixed point", "SP2", mixed(share))
    ]
    for ours, theirs, rule in pairs:
        if ours in found and theirs in found:
            yield claims.lead_row(title, found, ours, theirs, rule, judged)
    for name, values in residuals.items():
        metric = "|W - Z| / |W| at the end of ADMM"
        yield mean_row(metric, f"{title}, {name}", values)
