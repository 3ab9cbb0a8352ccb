"""Rows and figures of pruning in steps and of levels."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.constrained import checks
from experiments.constrained.progressive import TITLES
from experiments.differences import EQUAL, difference, lead_row
from experiments.pruning.networks import Network
from experiments.results import Figure, Row, mean_row, mean_std
from experiments.trained.claims import by_number


def pruning_rows(
    network: Network,
    found: Mapping[str, Mapping[float, Sequence[Mapping[str, Any]]]],
    dense: Sequence[float],
    judged: bool,
) -> Iterable[Row]:
    """Yields accuracies of every method and rate, what is left, and the claims.

    Args:
      network: that was pruned.
      found: results over seeds, by method and rate.
      dense: accuracy of the control, by seed.
      judged: whether data and training are those of full mode.
    """
    base = mean_std(dense)[0]
    yield mean_row("accuracy", f"{network.title}, dense", dense, unit="%")
    ours = found["progressive"]
    for rate in ours:
        for method in [m for m in found if rate in found[m]]:
            values = [r["accuracy"] for r in found[method][rate]]
            setting = f"{network.title}, {rate:g}x, {TITLES[method]}"
            yield mean_row("accuracy", setting, values, baseline=base, unit="%")
            yield from checks.residual_rows(setting, found[method][rate])
        every = [r for m in found for r in found[m].get(rate, [])]
        size, left = every[0]["size"], max(r["left"] for r in every)
        setting = f"{network.title}, {rate:g}x, the most of any method"
        yield Row("weight reduction", setting, size / left, unit="x")
        for method in [m for m in found if rate in found[m] and m != "progressive"]:
            lead = difference(
                *(
                    [r["accuracy"] for r in found[m][rate]]
                    for m in ("progressive", method)
                )
            )
            setting = f"{network.title}, {rate:g}x"
            yield lead_row(
                f"progressive ADMM above {TITLES[method]}",
                setting,
                lead,
                "better",
                judged and rate >= CLAIMED_FROM,
            )
    for rate in [r for r in ours if r == 246.0]:
        lead = difference([r["accuracy"] for r in ours[rate]], dense)
        setting = f"{network.title}, {rate:g}x"
        yield lead_row("progressive ADMM above dense", setting, lead, EQUAL, judged)


CLAIMED_FROM = 120.0
"""Rates below it are easy for every method: nothing is claimed there."""


def level_rows(
    network: Network,
    found: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]],
    dense: Sequence[float],
    judged: bool,
) -> Iterable[Row]:
    """Yields accuracies at every width, and how many levels kernels have."""
    base = mean_std(dense)[0]
    for arm, widths in found.items():
        for bits, results in widths.items():
            values = [r["accuracy"] for r in results]
            setting = f"{network.title}, {bits} bits in all layers, {arm}"
            yield mean_row("accuracy", setting, values, baseline=base, unit="%")
            counts = [n for r in results for n in r.get("levels", {}).values()]
            if counts:
                most = 2**bits
                yield Row(
                    "most levels of a layer",
                    setting,
                    max(counts),
                    baseline=most,
                    holds=max(counts) <= most,
                    check=True,
                )
            far = [r["violation"] for r in results if "violation" in r]
            if far:
                metric = "largest distance from the levels"
                lies = max(far) == 0
                yield Row(metric, setting, max(far), baseline=0, holds=lies, check=True)
    for arm in ("progressive ADMM", "one-shot ADMM"):
        for bits in [b for b in found[arm] if b == 1]:
            ours = [r["accuracy"] for r in found[arm][bits]]
            setting = f"{network.title}, {bits} bit in all layers"
            lead = difference(ours, dense)
            yield lead_row(f"{arm} above dense", setting, lead, EQUAL, judged)
            rivals = found.get("straight-through", {}).get(bits)
            if rivals:
                lead = difference(ours, [r["accuracy"] for r in rivals])
                metric = f"{arm} above straight-through"
                yield lead_row(metric, setting, lead, EQUAL, judged)


def joint_rows(
    network: Network, rate: float, bits: int, results: Sequence[Mapping[str, Any]]
) -> Iterable[Row]:
    """Yields accuracy and storage of a network pruned and put on levels.

    Args:
      network: that was compressed.
      rate: of pruning.
      bits: of the levels.
      results: over seeds, of `progressive.Protocol.joint`.
    """
    setting = f"{network.title}, {rate:g}x and then {bits} bits, progressive ADMM"
    before = mean_std([r["before"] for r in results])[0]
    values = [r["accuracy"] for r in results]
    yield mean_row("accuracy", setting, values, baseline=before, unit="%")
    for key, what in (("values", "values alone"), ("stored", "values and indices")):
        gains = [r["dense"] / r[key] for r in results]
        yield mean_row("storage reduction", f"{setting}, {what}", gains, unit="x")
    kept = all(r["nonzeros"] == r["left"] for r in results)
    metric = "levels leave as many weights as pruning"
    yield Row(metric, setting, float(kept), baseline=1, holds=kept, check=True)


def figures(
    network: Network,
    pruned: Mapping[str, Mapping[float, Sequence[Mapping[str, Any]]]],
    levels: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]],
) -> list[Figure]:
    """Returns accuracy against the rate, and against the width."""

    def accuracies(part: Mapping[Any, Sequence[Mapping[str, Any]]]) -> dict[Any, Any]:
        return {x: [r["accuracy"] for r in results] for x, results in part.items()}

    out = []
    if pruned:
        series = {TITLES[m]: accuracies(part) for m, part in pruned.items() if part}
        title = f"{network.title}: accuracy against compression"
        out.append(by_number(title, "weights before / after", series))
    if levels:
        series = {arm: accuracies(part) for arm, part in levels.items() if part}
        title = f"{network.title}: accuracy against bits, all layers"
        out.append(by_number(title, "bits", series))
    return [figure._replace(log_x=True) for figure in out]
