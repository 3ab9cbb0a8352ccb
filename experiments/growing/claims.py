"""Rows and figures of the experiment, computed from its trials."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.differences import EQUAL, MARGIN_RULES, difference, lead_row
from experiments.growing.methods import CYCLES, TITLES
from experiments.growing.networks import Network
from experiments.growing.protocol import Protocol, Trial
from experiments.results import Figure, Row, Series, mean_std
from experiments.workdir import Run
from gap import lottery

Found = Mapping[Trial, Mapping[str, Any]]

SPARSE_RIVALS = {"static": "better", "set": EQUAL, "rigl": EQUAL}
"""Methods that never hold a dense network either, and the rule that judges ours."""
DENSE_RIVALS = ("one_shot", "gmp", "str", "snip")
"""Methods that begin dense: at schedules as short as these, an upper reference.

SNIP looks at a dense network once, and gives its layers other densities.
"""
NOTES = (
    "Every method starts from the same initial weights and gets the same number of "
    "steps with the same learning rate: a phase in which it chooses its weights, then "
    "fine-tuning with fixed masks. P-GaP takes that many steps on each of its copies. "
    "Accuracy is that of the last epoch on the test split; no epoch was selected.",
    "Dense-equivalent epochs count the multiply-accumulates of active weights (of all "
    "copies) over those of the dense network; they are modelled: the masked training "
    "itself runs dense, no index is counted, and the dense gradients that RigL reads "
    "are free. The forward passes of STR are counted as dense.",
    "Of a seed, all methods share the initial weights, the first random masks and the "
    "order of images; the copies of P-GaP have an order each.",
    "STR meets no budget: it chooses weights once per seed, whatever the density "
    "('density reached' is its own), and they are pruned by magnitude to each target "
    "before fine-tuning; where it kept fewer, the rest of the target begins at 0. SNIP "
    "ranks all layers in one order, so its layers have other densities.",
    "Statistics of batch norms are measured anew when P-GaP combines its copies; these "
    "forward passes, one epoch a round, are not counted as cost.",
    "SET and GMP change masks until 0.9 of the phase; the share that RigL moves falls "
    "to 0 at its end.",
    "P-GaP's claims compare its copies, each with the steps of one rival.",
    "The small convolutional network is left out: the specification's CIFAR-10 network "
    "of this size is ResNet-8, and the budget of full mode is spent on its densities.",
    "The paper's gain over pruning from dense was measured with schedules about ten "
    "times longer; the distance to one-shot, GMP and STR is printed, not judged.",
    MARGIN_RULES + " The margin is what counts as equal on the data set: 0.1 point on "
    "MNIST, 0.5 on CIFAR-10 (gap.lottery.tolerances).",
)


def report(
    run: Run, protocol: Protocol, found: Found, judged: bool
) -> tuple[list[Row], list[Figure]]:
    """Returns the rows and figures of one network.

    Args:
      run: the work folder, for its metrics.
      protocol: of the network.
      found: the result of every trial.
      judged: whether claims about accuracy are judged: not on shortened data.
    """
    network = protocol.network
    margin, _ = lottery.tolerances(protocol.dataset.name)
    dense, std = mean_std(_values(found, "dense", 1.0, "accuracy"))
    rows = [Row("accuracy, dense", network.title, dense, std, unit="%")]
    for density in _densities(found):
        rows += _table(network, found, density, dense)
        rows += _differences(network, found, density, judged, margin)
        rows += _ablation(network, found, density)
        rows += _exploration(network, found, density)
        rows += _peaks(protocol, found, density)
    return rows, [*_figures(network, found), *_curves(run, network, found)]


def _values(found: Found, method: str, density: float, name: str) -> list[float]:
    return [
        r[name] for t, r in found.items() if (t.method, t.density) == (method, density)
    ]


def _densities(found: Found) -> list[float]:
    return list(dict.fromkeys(t.density for t in found if t.density < 1))


def _methods(found: Found, density: float) -> list[str]:
    return list(dict.fromkeys(t.method for t in found if t.density == density))


def _setting(network: Network, density: float, method: str) -> str:
    return f"{network.title}, density {density:g}, {TITLES[method]}"


def _table(
    network: Network, found: Found, density: float, dense: float
) -> Iterable[Row]:
    """Accuracy, cost and the weights that are left, for every method."""
    epochs = mean_std(_values(found, "dense", 1.0, "cost"))[0]
    for method in _methods(found, density):
        setting = _setting(network, density, method)

        def row(
            metric: str,
            name: str,
            scale: float = 1.0,
            method: str = method,
            setting: str = setting,
            **options: Any,
        ) -> Row:
            values = [scale * v for v in _values(found, method, density, name)]
            return Row(metric, setting, *_spread(values), **options)

        yield row("accuracy", "accuracy", baseline=dense, unit="%")
        yield row("accuracy before fine-tuning", "pruned_accuracy", unit="%")
        yield row("dense-equivalent epochs", "cost", baseline=epochs, simulated=True)
        yield row("weights that are not 0", "left", 100.0, unit="%")
        if method == "str":
            yield row("density reached", "reached", 100.0, unit="%")


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and deviation; `None` for one seed, which has none."""
    mean, std = mean_std(values)
    return mean, std if len(values) > 1 else None


def _differences(
    network: Network, found: Found, density: float, judged: bool, margin: float
) -> Iterable[Row]:
    """Mean difference of GaP to each rival, over seeds that share a start."""
    methods = _methods(found, density)
    for ours in [m for m in ("c_gap", "p_gap") if m in methods]:
        for rival in ("dense", *DENSE_RIVALS, *SPARSE_RIVALS):
            if rival != "dense" and rival not in methods:
                continue
            at = 1.0 if rival == "dense" else density
            lead = difference(
                _values(found, ours, density, "accuracy"),
                _values(found, rival, at, "accuracy"),
            )
            yield lead_row(
                f"accuracy above {TITLES[rival]}",
                _setting(network, density, ours),
                lead,
                SPARSE_RIVALS.get(rival, ""),
                judged,
                margin=margin,
            )


def _ablation(network: Network, found: Found, density: float) -> Iterable[Row]:
    """The usual groups against others, over the seeds that those were trained with."""
    for method in [m for m in _methods(found, density) if m in CYCLES[1:]]:
        theirs = [t for t in found if (t.method, t.density) == (method, density)]
        ours = [t._replace(method="c_gap") for t in theirs]
        if all(t in found for t in ours):
            lead = difference(
                [found[t]["accuracy"] for t in ours],
                [found[t]["accuracy"] for t in theirs],
            )
            setting = _setting(network, density, "c_gap")
            yield lead_row(f"accuracy above {TITLES[method]}", setting, lead)


def _exploration(network: Network, found: Found, density: float) -> Iterable[Row]:
    """Share of prunable weights that were active at some step.

    Grow-and-prune reaches 100 % by construction after one round: no claim to judge.
    """
    for method in _methods(found, density):
        values = [100 * v for v in _values(found, method, density, "explored")]
        ours = method == "p_gap" or method in CYCLES
        yield Row(
            "weights ever active",
            _setting(network, density, method),
            *_spread(values),
            paper=100.0 if ours else None,
            unit="%",
        )


def _peaks(protocol: Protocol, found: Found, density: float) -> Iterable[Row]:
    """The most weights active at once in a cycle, a proxy of its memory."""
    for method in [m for m in _methods(found, density) if m in CYCLES]:
        trials = [t for t in found if (t.method, t.density) == (method, density)]
        shares = [100 * protocol.peak(t) for t in trials]
        setting = _setting(protocol.network, density, method)
        # Only groups at random differ between seeds.
        spread = _spread(shares) if len(set(shares)) > 1 else (shares[0], None)
        yield Row("weights active at once, at most", setting, *spread, unit="%")


def _figures(network: Network, found: Found) -> list[Figure]:
    densities = _densities(found)
    series, spent = [], []
    for method in dict.fromkeys(t.method for t in found if t.density < 1):
        here = [d for d in densities if _values(found, method, d, "accuracy")]
        points = [mean_std(_values(found, method, d, "accuracy")) for d in here]
        means, stds = zip(*points, strict=True)
        costs = [mean_std(_values(found, method, d, "cost"))[0] for d in here]
        series.append(Series(TITLES[method], tuple(here), means, stds))
        spent.append(Series(TITLES[method], tuple(costs), means, stds))
    return [
        Figure(
            f"{network.title}: accuracy against density",
            "errorbar",
            "density (share of prunable weights kept)",
            "test accuracy (%)",
            series,
            log_x=True,
        ),
        Figure(
            f"{network.title}: accuracy against modelled training cost",
            "errorbar",
            "dense-equivalent epochs",
            "test accuracy (%)",
            spent,
        ),
    ]


def _curves(run: Run, network: Network, found: Found) -> list[Figure]:
    """Accuracy on some test images during both phases, at the lowest density."""
    densities = _densities(found)
    if not densities:
        return []
    density, seed = min(densities), min(t.seed for t in found)
    lines: dict[str, list[dict[str, Any]]] = {}
    for text in (run.dir / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        lines.setdefault(line["stage"], []).append(line)
    series = []
    for method in _methods(found, density):
        trial = Trial(seed, method, density)
        values = [
            line["watched_accuracy"]
            for part in ("grow", "tune")
            for line in _stage(lines, trial, network, part)
        ]
        x = tuple(float(i + 1) for i in range(len(values)))
        series.append(Series(TITLES[method], x, tuple(values)))
    return [
        Figure(
            f"{network.title}, density {density:g}: both phases (seed {seed})",
            "line",
            "epoch",
            "accuracy on 1,000 test images (%)",
            series,
        )
    ]


def _stage(
    lines: Mapping[str, Sequence[dict[str, Any]]],
    trial: Trial,
    network: Network,
    part: str,
) -> Sequence[dict[str, Any]]:
    return lines.get(trial.stage(network, part), ())
