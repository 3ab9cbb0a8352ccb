"""Rows and figures of `beta_crown_sdp`, computed from the verdicts alone."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.results import Figure, Outcome, Row, Series, mean_std
from experiments.verification.cases import count
from experiments.verification.sdp import MAIN, METHODS, Found, limit

Rows = Sequence[Mapping[str, Any]]


class Reference(NamedTuple):
    """What others report of a network.

    Attributes:
      verified: the paper's share in %, of 200 images at 180 s.
      bound: its upper bound in %, by PGD.
      seconds: its mean time on a GPU, or None.
      images: how many first images alpha-beta-CROWN decided on a CPU at 60 s.
      found: what it verified, falsified and left open of them.
    """

    verified: float
    bound: float
    seconds: float | None
    images: int
    found: tuple[int, int, int]


REFERENCES = {
    "mnist_cnn_a_adv": Reference(70.5, 76.5, 21.1, 30, (20, 4, 5)),
    "cifar_cnn_a_adv": Reference(44.0, 50.0, None, 100, (41, 19, 6)),
    "cifar_cnn_a_mix": Reference(41.5, 53.0, None, 30, (14, 4, 3)),
}
"""arXiv 2103.06624, and the alpha-beta-CROWN verifier of December 2025 on 2 cores."""

PAPER_IMAGES, PAPER_SECONDS, REFERENCE_SECONDS = 200, 180.0, 60.0
ENOUGH = 30
"""Images on which methods are compared; fewer are left to chance."""
FATES = ("verified", "falsified", "open", "misclassified")


def outcome(found: Found, config: Any) -> Outcome:
    """Returns the report of all verdicts.

    Args:
      found: the row of every image, by network, method and seed.
      config: of the experiment.
    """
    rows: list[Row] = []
    figures: list[Figure] = []
    for name in dict.fromkeys(key.network for key in found):
        part = {m: _of(found, name, m) for m in METHODS if _of(found, name, m)}
        for method, runs in part.items():
            rows += _method_rows(name, method, runs, config)
        rows += _comparisons(name, part, config)
        figures += _figures(name, part)
    return Outcome(rows, figures, _notes(found, config), ("verify/sdp",))


def _of(found: Found, name: str, method: str) -> list[Rows]:
    return [rows for key, rows in found.items() if key[:2] == (name, method)]


def share(rows: Rows, *fates: str) -> float:
    """Returns the percentage of images with one of the fates."""
    return 100 * count(rows, *fates) / len(rows)


def within(rows: Rows, seconds: float) -> Rows:
    """Returns the rows as a shorter time limit would have left them."""
    solved = ("verified", "falsified")
    return [
        {**row, "status": "open"}
        if row["status"] in solved and row["seconds"] > seconds
        else row
        for row in rows
    ]


def _over(
    runs: Sequence[Rows], measure: Callable[[Rows], float]
) -> tuple[float, float]:
    return mean_std(measure(rows) for rows in runs)


def _mean(rows: Rows, name: str) -> float:
    values = [r[name] for r in rows if r["status"] in ("verified", "falsified", "open")]
    return sum(values) / len(values) if values else math.nan


def _setting(name: str, method: str, runs: Sequence[Rows], config: Any) -> str:
    seconds = limit(method, config.timeout_s, config.rivals_timeout_s)
    limited = f", {seconds:g} s" if METHODS[method].branches else ""
    return f"{name}, {METHODS[method].title}, {len(runs[0])} images{limited}"


def _method_rows(
    name: str, method: str, runs: Sequence[Rows], config: Any
) -> Iterable[Row]:
    setting = _setting(name, method, runs, config)
    reference = REFERENCES.get(name)
    whole = len(runs[0]) == PAPER_IMAGES
    if method == "pgd":
        bound = _over(runs, lambda r: 100 - share(r, "falsified", "misclassified"))
        paper = reference.bound if reference else None
        # One image of 200 is half a percent: an attack may miss or gain so much.
        held = bound[0] <= paper + 0.5 if whole and paper else None
        yield Row("upper bound", setting, *bound, None, paper, "%", holds=held)
        return
    main = method == MAIN
    verified = _over(runs, lambda r: share(r, "verified"))
    paper = reference.verified if reference and main else None
    judged = whole and paper and config.timeout_s >= PAPER_SECONDS
    held = verified[0] >= paper if judged and paper else None
    yield Row("verified", setting, *verified, None, paper, "%", holds=held)
    if METHODS[method].branches:
        for fate in ("falsified", "open"):
            yield Row(
                fate, setting, *_over(runs, lambda r, f=fate: share(r, f)), unit="%"
            )
        domains = _over(runs, lambda r: _mean(r, "domains"))
        yield Row("sub-domains an image", setting, *domains)
    seconds = reference.seconds if reference and main else None
    took = _over(runs, lambda r: _mean(r, "seconds"))
    yield Row("time an image", setting, *took, None, seconds, "s")


def _comparisons(
    name: str, part: Mapping[str, Sequence[Rows]], config: Any
) -> Iterable[Row]:
    if MAIN in part:
        yield from _with_rivals(name, part, config)
        yield from _with_reference(name, part[MAIN], config)
    if len(part) > 1:
        runs = list(itertools.chain(*part.values()))
        both = _both(runs)
        yield Row(
            "both verified and falsified", f"{name}, all methods", both, holds=not both
        )


def _both(runs: Sequence[Rows]) -> int:
    """Images that one method verified and another falsified: bugs, so none."""
    fates = {
        fate: {r["image"] for rows in runs for r in rows if r["status"] == fate}
        for fate in ("verified", "falsified")
    }
    return len(fates["verified"] & fates["falsified"])


def _with_rivals(
    name: str, part: Mapping[str, Sequence[Rows]], config: Any
) -> Iterable[Row]:
    """The main method against each weaker one, on the same images and time."""
    for method in [m for m in part if METHODS[m].branches and m != MAIN]:
        seconds = limit(method, config.timeout_s, config.rivals_timeout_s)
        if seconds > config.timeout_s:
            continue
        mine = _over(part[MAIN], lambda r, s=seconds: share(within(r, s), "verified"))
        theirs, _ = _over(part[method], lambda r: share(r, "verified"))
        judged = len(part[MAIN][0]) >= ENOUGH
        yield Row(
            f"verified within {seconds:g} s",
            f"{name}, {METHODS[MAIN].title}; baseline {METHODS[method].title}",
            *mine,
            theirs,
            unit="%",
            holds=mine[0] >= theirs if judged and method == "split" else None,
        )


def _with_reference(name: str, runs: Sequence[Rows], config: Any) -> Iterable[Row]:
    """Counts of the images that alpha-beta-CROWN decided, at its time limit."""
    reference = REFERENCES.get(name)
    if reference is None or len(runs[0]) < reference.images:
        return
    if config.timeout_s < REFERENCE_SECONDS:
        return
    first = [within(rows[: reference.images], REFERENCE_SECONDS) for rows in runs]
    where = (
        f"{name}, {METHODS[MAIN].title}, first {reference.images} images, "
        f"{REFERENCE_SECONDS:g} s; baseline alpha-beta-CROWN"
    )
    for fate, theirs in zip(FATES, reference.found, strict=False):
        mine = _over(first, lambda r, f=fate: count(r, f))
        held = mine[0] >= theirs if fate == "verified" else None
        yield Row(fate, where, *mine, theirs, holds=held)


def _figures(name: str, part: Mapping[str, Sequence[Rows]]) -> Iterable[Figure]:
    titles = [METHODS[method].title for method in part]
    yield Figure(
        f"{name}: what became of the images",
        "bar",
        "",
        "images in %",
        [
            Series(
                fate,
                titles,
                [
                    _over(runs, lambda r, f=fate: share(r, f))[0]
                    for runs in part.values()
                ],
            )
            for fate in FATES
        ],
    )
    curves = []
    for method, runs in part.items():
        times = sorted(r["seconds"] for r in runs[0] if r["status"] == "verified")
        if METHODS[method].branches and times:
            counts = range(1, len(times) + 1)
            curves.append(Series(METHODS[method].title, times, list(counts)))
    if curves:
        yield Figure(
            f"{name}: images verified in a time",
            "line",
            "seconds an image",
            "images verified",
            curves,
            log_x=True,
        )


def _notes(found: Found, config: Any) -> list[str]:
    notes = [
        "Shares are of all images; one that is misclassified as it is counts as not "
        "verified. Times are wall times of one image after the other, without the "
        "images that are misclassified; the first image of a method compiles.",
        "PGD is the same attack that each branch and bound begins with. Bounds without "
        "branching do not attack, so what they do not verify is open.",
    ]
    judged = config.images >= PAPER_IMAGES and config.timeout_s >= PAPER_SECONDS
    if not judged:
        notes.append(
            f"The paper's share is of {PAPER_IMAGES} images at {PAPER_SECONDS:g} s on "
            "a GPU; it is not judged on less. --mode=paper does that."
        )
    failed = sum(count(rows, "error") for rows in found.values())
    if failed:
        notes.append(
            f"{failed} decisions failed and count as not verified: the csv files in "
            "the work folder say why; the same command tries them again."
        )
    return notes
