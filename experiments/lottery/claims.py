"""Verdicts and rows of the lottery ticket experiment, computed from its trainings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.differences import RULES, SEEDS, Difference, difference
from experiments.lottery.networks import PLAIN8, RESNET8
from experiments.lottery.plans import LONG
from experiments.lottery.trials import LONGER, SHARE, Plan
from experiments.results import Figure, Outcome, Row, Series, mean_std
from gap import lottery

KINDS = {
    "lt": "ticket",
    "rr": "re-initialised",
    "random": "random ticket",
    "rewind": "rewound to epoch t",
    "replay": "learning-rate rewinding",
}
LEARNED = 20.0
"""Accuracy in % above which a network of ten classes learned at all: twice chance."""
CNN_EPOCHS = 15
"""Epochs of the convolutional networks in the specification."""
METHODS = {"omp": "one-shot", "imp": "iterative"}


class Part(NamedTuple):
    """One table: its plan, the results by training, its data set.

    Attributes:
      judged: whether it is large and long enough to judge the paper's claims.
    """

    plan: Plan
    found: Mapping[str, Any]
    dataset: str
    judged: bool = True

    @property
    def long(self) -> bool:
        """Whether it is the whole training, not the shortened one."""
        return self.plan.label.endswith(LONG)

    @property
    def title(self) -> str:
        """The network, and how long it was trained."""
        return f"{self.plan.network.title}, {self.plan.epochs} epochs"

    @property
    def verdicts(self) -> bool:
        """Whether the controls that the definition needs were trained."""
        return {"rr", "sdt"} <= set(self.plan.controls)

    def values(self, name: str, what: str = "accuracy") -> np.ndarray:
        """Returns the results of one training, [rates, seeds]."""
        return np.asarray(self.found[name][what], np.float64)

    @property
    def learned(self) -> np.ndarray:
        """At which rates every dense network learned, bool [rates].

        One that did not is no better than chance: it says nothing of its weights, and
        a ticket that matches it matches nothing.
        """
        return self.values("dense").min(1) > LEARNED

    def setting(self, level: int, method: str = "") -> str:
        """Returns network, sparsity and method in words."""
        pruned = 100 * (1 - lottery.imp_density(level))
        words = f"{self.title}, {pruned:.1f} % pruned"
        return f"{words}, {METHODS[method]}" if method else words


class Judged(NamedTuple):
    """The verdict of one ticket, with the conditions at any rate and at one."""

    part: Part
    level: int
    method: str
    verdict: lottery.Verdict
    strict: lottery.Verdict


def judge(part: Part, reference: float | None) -> list[Judged]:
    """Returns the verdict of every method and level, over rates at which dense learned.

    Args:
      part: the table.
      reference: accuracy of a network trained for longer; None leaves it untested
        whether this one was trained for long enough.
    """
    tol, clear = lottery.tolerances(part.dataset)
    judged = []
    learned = part.learned
    if not learned.any():
        return judged
    for method in part.plan.methods:
        for level in part.plan.levels:
            names = f"lt-{method}-{level}", f"rr-{method}-{level}", f"sdt-{level}"
            table = lottery.TicketTable(
                np.asarray(part.plan.rates)[learned],
                *(part.values(name)[learned] for name in ("dense", *names)),
            )
            verdicts = [
                lottery.judge(
                    table,
                    lottery.imp_density(level),
                    tol=tol,
                    gap=clear,
                    same_lr=same,
                    reference=reference,
                )
                for same in (False, True)
            ]
            judged.append(Judged(part, level, method, *verdicts))
    return judged


def outcome(parts: Sequence[Part], sources: tuple[str, ...] = ()) -> Outcome:
    """Returns the report.

    Args:
      parts: all tables; a network's whole training before its shortened one.
      sources: of the data.
    """
    rows: list[Row] = []
    notes: list[str] = []
    figures: list[Figure] = []
    for part in parts:
        rows += _accuracies(part)
        if part.long:
            rows += _overlaps(part)
            rows += _shrinking(part)
            rows += _methods(part)
            figures += _figures(part)
        if part.verdicts:
            judged = judge(part, _reference(parts, part))
            rows += _verdicts(part, judged)
            notes += [_note(each) for each in judged]
    rows += _undertraining(parts)
    return Outcome(rows, figures, [*notes, *_general(parts)], sources)


def _general(parts: Sequence[Part]) -> Iterator[str]:
    yield (
        "Accuracy is that of the last epoch on the test split. Tolerance and gap are "
        "fixed for each data set in gap.lottery.tolerances. Masks come from the dense "
        "network of the same rate and seed; a ticket and its re-initialisation share "
        "the mask, not the weights. Learning-rate rewinding after iterative pruning "
        "has a mask of its own, found with those weights."
    )
    yield RULES
    diverged = sum(np.sum(f["diverged"]) for part in parts for f in part.found.values())
    yield (
        f"{int(diverged)} trainings ended with a loss that is not finite; they count "
        "with the accuracy they have."
    )
    for part in parts:
        if part.long and not part.judged:
            yield (
                f"{part.title}: smaller data or fewer epochs than in full mode, so the "
                "paper's claims are not judged."
            )
        elif part.long and len(part.plan.seeds) < SEEDS:
            yield f"{part.title}: fewer than {SEEDS} seeds, so no claim is judged."
        dead = np.asarray(part.plan.rates)[~part.learned]
        if len(dead):
            rates = ", ".join(f"{rate:g}" for rate in dead)
            yield (
                f"{part.title}: a dense network did not learn (at most {LEARNED:g} %) "
                f"at rate {rates}. No claim or verdict looks at that."
            )
        if part.long and part.verdicts and LONGER not in part.found:
            yield (
                f"{part.title}: no longer training says whether that was long enough, "
                "so condition 1 is about the density alone."
            )
        if part.long and part.plan.network in (RESNET8, PLAIN8):
            spared = " Nothing is trained beside its tickets, which are only printed."
            spared = "" if part.verdicts else spared
            yield f"{part.title}: {CNN_EPOCHS} epochs in the specification.{spared}"


def _accuracies(part: Part) -> Iterator[Row]:
    dense = part.values("dense")
    best = max(dense.mean(1))
    for rate, runs in zip(part.plan.rates, dense, strict=True):
        setting = f"{part.title}, rate {rate:g}"
        yield Row("accuracy, dense", setting, *_mean(runs), unit="%")
    if LONGER in part.found:
        runs = part.values(LONGER)
        top = int(np.argmax(runs.mean(1)))
        setting = f"{part.title} x {part.plan.longer}"
        setting += f", best rate {part.plan.rates[top]:g}"
        yield Row("accuracy, dense, longer", setting, *_mean(runs[top]), best, unit="%")
    for level in part.plan.levels:
        for name in part.found:
            if name in ("dense", LONGER) or int(name.rsplit("-", 1)[1]) != level:
                continue
            kind, *method = name.split("-")[:-1]
            what = "small dense" if kind == "sdt" else KINDS[kind]
            runs = part.values(name)
            top = int(np.argmax(runs.mean(1)))
            setting = part.setting(level, *method)
            setting += f", best rate {part.plan.rates[top]:g}"
            yield Row(f"accuracy, {what}", setting, *_mean(runs[top]), best, unit="%")


def _extremes(part: Part) -> tuple[int, int]:
    """The smallest rate and the largest at which every dense network learned."""
    learned = np.flatnonzero(part.learned)
    return 0, int(learned[-1]) if len(learned) else len(part.plan.rates) - 1


def _extremes_text(part: Part) -> str:
    low, high = (part.plan.rates[i] for i in _extremes(part))
    return f"rate {low:g} less rate {high:g}"


def _overlaps(part: Part) -> Iterator[Row]:
    """How far large weights stay the large ones, falling with the rate."""
    runs = part.values("dense", "correlation")
    for rate, values in zip(part.plan.rates, runs, strict=True):
        setting = f"{part.title}, rate {rate:g}"
        yield Row(
            "overlap of large weights, dense", setting, *_mean(values), baseline=SHARE
        )
    low, high = _extremes(part)
    if low == high:
        return
    fall = difference(runs[low], runs[high])
    yield Row(
        "overlap of large weights falls (better)",
        f"{part.title}, {_extremes_text(part)}, {fall.text}",
        *_pair(fall),
        holds=fall.better(part.judged),
    )


def _shrinking(part: Part) -> Iterator[Row]:
    """Whether initial weights help less where the rate is large."""
    low, high = _extremes(part)
    if "rr" not in part.plan.controls or low == high:
        return
    for method in part.plan.methods:
        for level in part.plan.levels:
            lead = part.values(f"lt-{method}-{level}")
            lead = lead - part.values(f"rr-{method}-{level}")
            fall = difference(lead[low], lead[high])
            yield Row(
                "lead over re-initialisation falls (better)",
                f"{part.setting(level, method)}, {_extremes_text(part)}, {fall.text}",
                *_pair(fall),
                unit="points",
                holds=fall.better(part.judged),
            )


def _methods(part: Part) -> Iterator[Row]:
    """Iterative against one-shot pruning; noisy with few seeds, so not judged."""
    if set(part.plan.methods) != {"omp", "imp"}:
        return
    for level in part.plan.levels:
        sides = part.values(f"lt-imp-{level}"), part.values(f"lt-omp-{level}")
        for rate, ours, theirs in zip(part.plan.rates, *sides, strict=True):
            lead = difference(ours, theirs)
            setting = f"{part.setting(level)}, rate {rate:g}, {lead.text}"
            yield Row("iterative less one-shot", setting, *_pair(lead), unit="points")


def _verdicts(part: Part, judged: Iterable[Judged]) -> Iterator[Row]:
    """What tickets are, and what they would be had training been long enough."""
    jackpots, secondary, but_first, trained = 0, 0, 0, False
    for each in judged:
        held = [bool(c) for c in each.verdict.conditions]
        marks = " ".join(str(i + 1) if h else "-" for i, h in enumerate(held))
        setting = part.setting(each.level, each.method)
        yield Row(
            "conditions met", f"{setting}: {each.verdict.kind} ({marks})", sum(held)
        )
        jackpots += each.verdict.winning
        secondary += each.verdict.kind == lottery.SECONDARY
        but_first += all(held[1:])
        trained |= held[0]
    if part.long:
        enough = part.judged and len(part.plan.seeds) >= SEEDS
        # Where training was too short no ticket can be one, whatever it does.
        yield Row(
            "jackpot tickets",
            part.title if trained else f"{part.title}, too few to judge",
            jackpots,
            paper=0,
            holds=jackpots == 0 if enough and trained else None,
        )
    yield Row("secondary prizes", part.title, secondary)
    yield Row("tickets that meet conditions 2 to 5", part.title, but_first)


def _note(each: Judged) -> str:
    lines = each.verdict.text().splitlines()
    strict = (
        ""
        if each.strict.kind == each.verdict.kind
        else (f" (one rate for conditions 3 to 5: {each.strict.kind})")
    )
    setting = each.part.setting(each.level, each.method)
    return f"{setting}: {lines[0]}{strict}; {'; '.join(lines[1:])}"


def _reference(parts: Sequence[Part], part: Part) -> float | None:
    """The best dense accuracy of a longer training of the same network, if any."""
    whole = [p for p in parts if p.long and p.plan.network is part.plan.network]
    longer = [p.values(LONGER) for p in whole if LONGER in p.found]
    if not part.long:
        longer += [p.values("dense") for p in whole]
    return float(longer[0].mean(1).max()) if longer else None


def matches(part: Part, learned: np.ndarray) -> np.ndarray:
    """Returns how many one-shot tickets match their dense network, int [seeds].

    Condition 4 at every level and at the rates of `learned`, bool [rates], for each
    seed on its own.
    """
    tol, _ = lottery.tolerances(part.dataset)
    dense = part.values("dense")
    held = [
        (part.values(f"lt-omp-{level}") >= dense - tol - 1e-4)[learned]
        for level in part.plan.levels
    ]
    return np.sum(held, axis=(0, 1))


def _undertraining(parts: Sequence[Part]) -> Iterator[Row]:
    for part in parts:
        whole = [
            p
            for p in parts
            if p.long
            and p.plan.network is part.plan.network
            and "omp" in p.plan.methods
        ]
        if part.long or not whole:
            continue
        learned = part.learned & whole[0].learned
        short, long = matches(part, learned), matches(whole[0], learned)
        pairs = int(learned.sum()) * len(part.plan.levels)
        more = difference(short, long)
        yield Row(
            "tickets that match dense at their rate, short over whole (better)",
            f"{part.title}, one-shot, all {pairs} densities and rates at which dense "
            f"networks learned, mean by seed; difference {more.mean:+.2g}, {more.text}",
            float(short.mean()),
            mean_std(short)[1] if more.seeds > 1 else None,
            baseline=float(long.mean()),
            holds=more.better(whole[0].judged),
        )


def _pair(found: Difference) -> tuple[float, float | None]:
    return found.mean, found.std if found.seeds > 1 else None


def _mean(runs: np.ndarray) -> tuple[float, float | None]:
    mean, std = mean_std(runs)
    return mean, std if len(runs) > 1 else None


def _figures(part: Part) -> Iterator[Figure]:
    plan = part.plan
    level = 8 if 8 in plan.levels else plan.levels[-1]
    for method in plan.methods:
        names = {"dense": "dense"}
        names |= {f"{kind}-{method}-{level}": title for kind, title in KINDS.items()}
        names |= {f"sdt-{level}": "small dense"}
        series = [_series(part, plan.rates, n, t) for n, t in names.items()]
        yield Figure(
            f"{part.setting(level, method)}: accuracy against learning rate",
            "errorbar",
            "learning rate",
            "test accuracy (%)",
            [s for s in series if s],
            log_x=True,
        )
        overlap = {n: t for n, t in names.items() if n[:2] in ("de", "lt", "rr")}
        series = [
            _series(part, plan.rates, n, t, "correlation") for n, t in overlap.items()
        ]
        yield Figure(
            f"{part.setting(level, method)}: large weights that were large at the start"
            f" (p = {SHARE:g})",
            "errorbar",
            "learning rate",
            "overlap",
            [s for s in series if s],
            log_x=True,
        )
        if len(plan.levels) > 1:
            yield _against_sparsity(part, method)


def _series(
    part: Part, x: Sequence[float], name: str, title: str, what: str = "accuracy"
) -> Series | None:
    if name not in part.found:
        return None
    means, stds = zip(*map(mean_std, part.values(name, what)), strict=True)
    return Series(title, tuple(x), means, stds)


def _against_sparsity(part: Part, method: str) -> Figure:
    levels = part.plan.levels
    x = tuple(100 * (1 - lottery.imp_density(level)) for level in levels)
    series = [Series("dense", x, (part.values("dense").mean(1).max(),) * len(x))]
    for kind, title in (*KINDS.items(), ("sdt", "small dense")):
        names = [
            f"sdt-{level}" if kind == "sdt" else f"{kind}-{method}-{level}"
            for level in levels
        ]
        at = [i for i, name in enumerate(names) if name in part.found]
        tops = [part.values(names[i]).mean(1).max() for i in at]
        if at:
            series.append(Series(title, tuple(x[i] for i in at), tuple(tops)))
    return Figure(
        f"{part.title}, {METHODS[method]}: accuracy at the best rate",
        "line",
        "pruned (%)",
        "test accuracy (%)",
        series,
    )
