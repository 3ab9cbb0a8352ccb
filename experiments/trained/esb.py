"""Arms and claims of elastic significant bits (arXiv 2109.03513)."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax

import quant
from core.types import PyTree
from experiments.differences import EQUAL
from experiments.results import Figure, Row, Series, mean_row
from experiments.trained import claims
from experiments.trained.arms import FLOAT, Arm, layers
from experiments.trained.networks import kernels_of, relative_error, with_kernels
from experiments.trained.protocol import Protocol
from quant.alignment import normal_error, normal_scale
from quant.calibration import Aligned, BestScale

PUBLISHED: Mapping[tuple[int, int], float] = MappingProxyType(
    {
        **{(2, 0): 1.2240, (3, 0): 0.5181, (3, 1): 1.3015, (4, 0): 0.0381},
        **{(4, 1): 0.4871, (4, 2): 1.4136, (5, 1): 0.0391, (5, 2): 0.4828},
        **{(5, 3): 1.5460, (6, 2): 0.0406, (6, 3): 0.4997, (6, 4): 1.6878},
        **{(7, 3): 0.0409, (7, 4): 0.5247, (7, 5): 1.8324, (8, 4): 0.0412},
        **{(8, 5): 0.5527, (8, 6): 1.9757},
    }
)
"""The authors' scales for N(0, 1) by bits and significant bits, to four decimals."""
SEARCH = BestScale()
"""Of scales that are searched for on the kernel itself, in rows of their own."""
SEARCHED = ", searched scale"
"""Ends the titles of those rows."""
BEFORE = "float, before it trains on"
"""The network whose kernels are quantized after training."""
OUTER_BITS = 8
"""Of the first and the last layer."""
FAMILIES = {"esb": "ESB", "fixed": "fixed point", "powers": "powers of two"}


def middle_rise(bits: int) -> quant.Levels:
    """Returns fixed point that has no 0: all odd numbers, 2**bits of them."""
    return quant.Levels(tuple(range(1 - 2**bits, 2**bits, 2)))


@functools.cache
def best(bits: int, signed: bool = True) -> quant.ElasticSignificantBits:
    """Returns the member of least error on N(0, 1); of equals the fewest bits."""
    made = [
        quant.ElasticSignificantBits(bits, k, signed) for k in range(bits - int(signed))
    ]
    return min(made, key=lambda fmt: normal_error(fmt, normal_scale(fmt)))


def member(family: str, bits: int, signed: bool = True) -> quant.ElasticSignificantBits:
    """Returns the format of a family; unsigned ones have a magnitude bit more."""
    if family == "esb":
        return best(bits, signed)
    most = bits - 1 - int(signed)
    return quant.ElasticSignificantBits(bits, most if family == "fixed" else 0, signed)


def titled(family: str, bits: int) -> str:
    """Returns the title of the arm of a family."""
    return f"{bits} bits, {FAMILIES[family]}"


def is_same(one: str, other: str, bits: int) -> bool:
    """Returns whether two families have the same weights and inputs at a width."""
    return all(
        member(one, bits, signed) == member(other, bits, signed)
        for signed in (True, False)
    )


def arm(paths: Sequence[str], family: str, bits: int) -> Arm:
    """Returns the arm of a family at a width of weights and inputs."""
    weights, inputs = member(family, bits), member(family, bits, False)
    inner = quant.Layer(
        quant.Quantizer(weights, calibration=Aligned(), beyond="identity"),
        quant.Quantizer(inputs, calibration=Aligned()),
    )
    outer = quant.Quantizer(quant.Uniform(OUTER_BITS, symmetric=True))
    after = quant.Quantizer(quant.Uniform(OUTER_BITS, signed=False))
    name = f"b{bits}-k{weights.significant}-{inputs.significant}"
    found = layers(paths, quant.Layer(outer, outer), inner, quant.Layer(outer, after))
    return Arm(name, titled(family, bits), found)


def trained(made: Protocol, seed: int, widths: Iterable[int]) -> dict[str, Any]:
    """Returns what training a seed leads to, by title; equal arms run once."""
    found = {FLOAT.title: made.run_arm(seed, FLOAT)}
    seen: dict[str, Any] = {}
    for bits in widths:
        for family in FAMILIES:
            each = arm(made.network.paths, family, bits)
            if each.name not in seen:
                seen[each.name] = made.run_arm(seed, each)
            found[each.title] = seen[each.name]
    return found


def after_training(bits: int) -> dict[str, quant.Quantizer]:
    """Returns the quantizers of kernels that are compared without training.

    All of them with the scale that is best for a normal distribution (DDA): ESB's own,
    and so the same rule for the others. ESB with no significant bits is powers of two,
    with bits - 2 fixed point; what the cap of the exponent makes of others is left out.
    Those that claims compare, and SP2, have the best scale of a search too.
    """
    members = [quant.ElasticSignificantBits(bits, k) for k in range(1, bits - 2)]
    formats: dict[str, quant.Format] = {
        significant(fmt.significant): fmt
        for fmt in members
        if fmt.fraction_bits == fmt.significant
    }
    last = list(formats)[-1:]
    formats |= {
        "fixed point": quant.Uniform(bits, symmetric=True),
        "powers of two": quant.PowerOfTwo(bits),
        "SP2": quant.SumOfPowers(bits),
        "APoT": quant.AdditivePowers(bits),
        "fixed point without 0": middle_rise(bits),
    }
    found = {n: quant.Quantizer(f, calibration=Aligned()) for n, f in formats.items()}
    for name in [*last, "fixed point", "powers of two", "SP2"]:
        found[name + SEARCHED] = quant.Quantizer(formats[name], calibration=SEARCH)
    return found


def significant(k: int) -> str:
    """Returns the title of ESB with k significant bits."""
    return f"ESB, {k} significant bit" + "s" * (k != 1)


def quantized(made: Protocol, seed: int, bits: int) -> dict[str, Any]:
    """Returns accuracy and relative error of kernels quantized after training."""
    state = made.start(seed)
    found = {}
    for title, quantizer in after_training(bits).items():
        params, error = _projected(quantizer, state.params)
        accuracy = made.accuracy(params, state.model_state)
        found[title] = {"accuracy": accuracy, "error": float(error)}
    return found


@functools.partial(jax.jit, static_argnums=0)
def _projected(quantizer: quant.Quantizer, params: PyTree) -> Any:
    old = kernels_of(params)
    new = {name: quantizer.project(w) for name, w in old.items()}
    return with_kernels(params, new), relative_error(new, old)


def table_rows(widths: Iterable[int]) -> Iterable[Row]:
    """Yields scales and errors on N(0, 1) of every member, and what ESB gains.

    No run can change them, so none is judged: tests hold the authors' constants.
    """
    for bits in widths:
        errors = {}
        for k in range(max(bits - 5, 0), bits - 1):
            fmt = quant.ElasticSignificantBits(bits, k)
            if fmt.fraction_bits != k:
                continue
            scale = normal_scale(fmt)
            errors[k] = normal_error(fmt, scale)
            setting = f"{bits} bits, {k} significant"
            paper = PUBLISHED.get((bits, k))
            metric = "best scale on N(0, 1) (the authors' constant)"
            yield Row(metric, setting, scale, paper=paper)
            yield Row("mean squared error on N(0, 1)", setting, errors[k])
            yield Row("shifts and adds a product", setting, sum(fmt.cost))
        if bits - 3 in errors:
            gain = 100 * (1 - errors[bits - 3] / errors[bits - 2])
            setting = f"{bits} bits, {bits - 3} significant"
            yield Row("less error on N(0, 1) than fixed point", setting, gain, unit="%")
            rise = middle_rise(bits)
            least = normal_error(rise, normal_scale(rise))
            gain = 100 * (1 - errors[bits - 3] / least)
            metric = "less error on N(0, 1) than fixed point without 0"
            yield Row(metric, setting, gain, unit="%")


def after_rows(
    title: str, found: Mapping[int, Mapping[int, Any]], base: list[float], judged: bool
) -> Iterable[Row]:
    """Yields rows of kernels quantized after training.

    Args:
      title: of the network.
      found: what `quantized` returned by seed and width.
      base: accuracies of the float networks whose kernels they are.
      judged: see `experiments.trained.options.is_judged`.
    """
    yield mean_row("accuracy", f"{title}, {BEFORE}", base, unit="%")
    level = sum(base) / len(base)
    for bits, at, parts, right in claims.after_training(found):
        for name, values in right.items():
            setting = f"{title}, {name}"
            yield mean_row("accuracy", setting, values, baseline=level, unit="%")
            errors = [p["error"] for p in parts[name]]
            metric = "squared error of kernels, relative"
            yield mean_row(metric, setting, errors)
        if bits > 3:
            ours = at + significant(bits - 3)
            for other, rule in (
                ("fixed point", EQUAL),
                ("powers of two", "better"),
            ):
                yield claims.lead_row(title, right, ours, at + other, rule, judged)
            # DDA against a search costs what the kernel is not normal: no claim.
            theirs = ours + SEARCHED
            yield claims.lead_row(title, right, ours, theirs, "", judged)
            theirs = at + "fixed point" + SEARCHED
            yield claims.lead_row(title, right, ours + SEARCHED, theirs, "", judged)


def trained_rows(
    title: str,
    found: claims.Found,
    unsettled: claims.Found,
    widths: Iterable[int],
    judged: bool,
) -> Iterable[Row]:
    """Yields rows of training; what is one arm under two names claims nothing.

    Args:
      title: of the network.
      found: accuracies by title.
      unsettled: those with norms as training leaves them.
      widths: that are trained.
      judged: see `experiments.trained.options.is_judged`.
    """
    yield from claims.accuracy_rows(title, found, FLOAT.title)
    for name, values in unsettled.items():
        metric = "accuracy with running means for moments of norms"
        level = sum(found[name]) / len(found[name])
        setting = f"{title}, {name}"
        yield mean_row(metric, setting, values, baseline=level, unit="%")
    pairs = (("esb", "fixed"), ("fixed", "powers"), ("esb", "powers"))
    for bits in widths:
        for pair in pairs:
            if not is_same(*pair, bits):
                ours, theirs = (titled(family, bits) for family in pair)
                rule = EQUAL
                yield claims.lead_row(title, found, ours, theirs, rule, judged)


def figures(
    title: str, after: Mapping[int, Mapping[int, Any]], found: claims.Found
) -> list[Figure]:
    """Returns accuracies by width after training, and those of training."""
    first = next(iter(after.values()))
    names = dict.fromkeys(n for settings in first.values() for n in settings)
    by_name = {
        name: {
            bits: [part[bits][name]["accuracy"] for part in after.values()]
            for bits, settings in first.items()
            if name in settings
        }
        for name in names
    }
    return [
        claims.by_number(f"{title}: kernels quantized after training", "bits", by_name),
        claims.bars(f"{title}: trained with quantized layers", found),
    ]


def table_figure(widths: Iterable[int]) -> Figure:
    """Returns the error on N(0, 1) by width, of ESB with bits - 3 and of others."""
    widths = [bits for bits in widths if bits > 3]

    def errors(build: Any) -> list[float]:
        made = [build(bits) for bits in widths]
        return [normal_error(fmt, normal_scale(fmt)) for fmt in made]

    esb = quant.ElasticSignificantBits
    series = [
        Series("ESB, bits - 3 significant", widths, errors(lambda b: esb(b, b - 3))),
        Series("fixed point", widths, errors(lambda b: esb(b, b - 2))),
        Series("fixed point without 0", widths, errors(middle_rise)),
    ]
    title = "mean squared error on N(0, 1)"
    return Figure(title, "line", "bits", "", series, log_y=True)
