"""Rows and figures of block-circulant cells."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from admm import recurrent
from experiments.constrained.recurrent import EXACT, TITLES, Shape
from experiments.differences import difference, lead_row
from experiments.results import Figure, Row, Series, mean_row, mean_std

Results = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
"""Results over seeds by the name of a shape and an arm."""


def rows(
    what: str,
    units: int,
    features: int,
    shapes: Sequence[Shape],
    found: Results,
    dense: Mapping[str, Sequence[float]],
    judged: bool,
) -> Iterable[Row]:
    """Yields accuracies of every arm, what is stored and multiplied, and claims.

    Args:
      what: was learned, `recurrent.Protocol.title`.
      units: of the layer.
      features: of a step's input.
      shapes: of the layers.
      found: results.
      dense: accuracies of the controls, by cell.
      judged: whether data and training are those of full mode.
    """
    for cell, values in dense.items():
        setting = f"{what}, {cell.upper()}-{units}, dense"
        yield mean_row("accuracy", setting, values, unit="%")
    for shape in shapes:
        title = f"{what}, {shape.cell.upper()}-{units}, block {shape.hidden}"
        base = mean_std(dense[shape.cell])[0]
        size = recurrent.size(shape.cell, features, units, shape.blocks)
        yield Row(
            "weights of the layer, reduction",
            title,
            size.dense_weights / size.weights,
            unit="x",
        )
        yield Row(
            "multiplications of the layer, reduction",
            title,
            size.dense / size.multiplications,
            unit="x",
        )
        arms = [arm for name, arm in found if name == shape.name]
        for arm in arms:
            results = found[shape.name, arm]
            setting = f"{title}, {TITLES[arm]}"
            values = [r["accuracy"] for r in results]
            yield mean_row("accuracy", setting, values, baseline=base, unit="%")
            if "projected" in results[0] and arm != "scratch":
                values = [r["projected"] for r in results]
                metric = "accuracy right after projection"
                yield mean_row(metric, setting, values, unit="%")
        yield from _execution(title, found, shape, judged)
        for rival in [a for a in arms if a not in ("admm", "pruned")]:
            if "admm" not in arms:
                continue
            values = (
                [r["accuracy"] for r in found[shape.name, a]] for a in ("admm", rival)
            )
            rule = "better" if rival == "scratch" else ""
            metric = f"ADMM above {TITLES[rival]}"
            yield lead_row(metric, title, difference(*values), rule, judged)


NEAR = 0.05
"""Of the kernels' norm: what ADMM may leave to its projection."""


def _execution(title: str, found: Results, shape: Shape, judged: bool) -> Iterable[Row]:
    results = found.get((shape.name, "admm"), [])
    checks = [r["executed"] for r in results if "executed" in r]
    if not checks:
        return
    worst, dense = (max(c[key] for c in checks) for key in ("exact", "dense"))
    metric = "largest difference of states by FFT from dense circulant kernels, float64"
    yield Row(metric, title, worst, baseline=EXACT, holds=worst <= EXACT, check=True)
    metric = "that of the dense circulant kernels in float32"
    yield Row(metric, title, dense)
    violation = max(r["violation"] for r in results)
    metric = "violation of the constraint by the trained kernels"
    lies = violation == 0
    yield Row(metric, title, violation, baseline=0.0, holds=lies, check=True)
    residual = max(r["residual"] for r in results)
    metric = "largest relative residual of ADMM before its projection"
    holds = residual <= NEAR if judged else None
    yield Row(metric, title, residual, baseline=NEAR, holds=holds, check=True)
    values = [c["accuracy"] for c in checks]
    yield mean_row("accuracy, executed by FFT", title, values, unit="%")


def phase_rows(
    what: str, result: Mapping[str, Any], budget: float, judged: bool
) -> Iterable[Row]:
    """Yields the trials of phase I and the widths of phase II.

    Full runs judge whether it found a design. Trials are few by construction; the
    dense networks that they are compared with and start from are counted too.
    """
    title = f"{what}, others held out"
    low, high = result["bounds"]
    yield Row("phase I, smallest block", title, low)
    yield Row("phase I, largest block", title, high)
    for i, trial in enumerate(result["trials"], start=1):
        setting = f"{title}, trial {i}: {trial['name']}"
        yield Row(
            "phase I, loss of accuracy",
            setting,
            trial["loss"],
            baseline=budget,
            unit="points",
        )
    fits = result["fits"]
    yield Row("phase I, designs within the budget", title, float(fits),
              baseline=1, holds=fits if judged else None)  # fmt: skip
    trials = len(result["trials"])
    yield Row("phase I, trials", title, trials, baseline=result["grid"], paper=5)
    every = trials + result["dense trainings"]
    yield Row("phase I, trainings with dense ones", title, every)
    chosen = result["design"]
    setting = f"{title}, {chosen['name']}"
    if not fits:
        setting += " (not within the budget; lost least)"
    for bits, loss in result["widths"]:
        metric = "phase II, loss of accuracy"
        yield Row(metric, f"{setting}, {bits} bits", loss, unit="points")
    if chosen["bits"]:
        yield Row("phase II, bits", setting, chosen["bits"], paper=12)


def figure(
    what: str, units: int, shapes: Sequence[Shape], found: Results
) -> list[Figure]:
    """Returns accuracy by block of every arm, a figure for each cell."""
    out = []
    for cell in dict.fromkeys(s.cell for s in shapes):
        mine = [s for s in shapes if s.cell == cell]
        series = []
        for arm in dict.fromkeys(arm for _, arm in found):
            points = [
                mean_std([r["accuracy"] for r in found[s.name, arm]]) for s in mine
            ]
            means, stds = zip(*points, strict=True)
            blocks = [s.hidden for s in mine]
            series.append(Series(TITLES[arm], blocks, means, stds))
        title = f"{what}, {cell.upper()}-{units}: accuracy by block"
        out.append(Figure(title, "errorbar", "block", "%", series, log_x=True))
    return out
