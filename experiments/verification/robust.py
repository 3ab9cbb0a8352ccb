"""Robustness of a network over the images of a test set."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import InputError, describe
from experiments.options import option
from experiments.registry import RUNS
from experiments.report import text
from experiments.verification import cases, images
from experiments.verification.images import Images, Published, Setting
from experiments.verification.networks import Network
from experiments.verification.search import SearchFlags, judged, judged_all

MODE = "robustness"
TABLE = "results.csv"
NAMES = {"unsat": "verified", "sat": "falsified", "timeout": "open", "unknown": "open"}
"""What a verdict means for an image."""


@dataclasses.dataclass(frozen=True)
class OwnFlags:
    """Flags of this form alone."""

    net: str = option(
        "",
        "an ONNX file, or a network of LATHE_DATA/verify (mnist_cnn_a_adv, "
        "mnist_6_100, ...), which brings its eps, mean and std",
    )
    data: str = option(
        "sdp",
        "test set; sdp means the images provided with the network",
        choices=("sdp", "mnist", "mnist_5k", "fashion_mnist", "cifar10"),
    )
    eps: float = option(
        0.0,
        "radius, in pixels of [0, 1]; 0 means the network's published one",
        low=0.0,
    )
    norm: str = option("linf", "of the ball", choices=("linf", "l2", "l1"))
    mean: tuple[float, ...] = option(
        (), "of pixels, for each channel; empty means the network's, else 0"
    )
    std: tuple[float, ...] = option(
        (),
        "of pixels, for each channel; empty means the network's, else 1",
        low=0.0,
        low_open=True,
    )
    images: int = option(0, "images to decide; 0 means all", low=0)
    first: int = option(0, "number of the first image", low=0)
    timeout: float = option(
        60.0, "time limit of an image", unit="seconds", low=0.0, low_open=True
    )
    together: int = option(
        1,
        "images decided at once: what is left to split of them shares every batch, "
        "which fills an accelerator; the time limit is then their mean",
        unit="images",
        low=1,
    )
    workdir: str = option(
        "",
        f"work folder; empty means {RUNS}/verify-NET-DATA-EPS. A stopped run goes on",
    )


@dataclasses.dataclass(frozen=True)
class Flags(SearchFlags, OwnFlags):
    """Flags of this form and of the search."""


def run(flags: Flags, where: Any, again: str) -> int:
    """Decides every image and prints the counts.

    Args:
      flags: of the command.
      where: folder of data sets.
      again: not used.

    Returns:
      The exit code, 0 once every image has a row.

    Raises:
      LatheError: networks, images or a normalisation that are not there or do not
        fit; a work folder of another run.
    """
    data_dir = Path(where.data_dir) if where.data_dir else None
    net, known = images.network(_named(flags.net), data_dir)
    how = _setting(flags, known)
    found = _images(flags, known, data_dir)
    end = flags.first + (flags.images or len(found.labels))
    numbers = range(flags.first, min(end, len(found.labels)))
    if not numbers:
        given = f"--first={flags.first}"
        raise InputError(describe(given, f"below {len(found.labels)}, the images"))
    images.problem(net, found.pixels[0], 0, how)  # what does not fit is named now
    folder = flags.workdir or Path(
        RUNS, f"verify-{net.name}-{flags.data}-{how.norm}-{how.eps:.6g}"
    )
    with cases.open_run(Path(folder), MODE, flags) as work:
        rows = cases.decide_all(
            work,
            net.name,
            image_cases(
                net, found, numbers, how, flags, flags.timeout, together=flags.together
            ),
            "image",
            TABLE,
            say=lambda row: print(_line(row), flush=True),
            tally=tally,
        )
        took = work.seconds
    print(_summary(rows, took, f"{net.name}, {found.source}, {how.norm} {how.eps:g}"))
    print(f"results  {Path(folder) / TABLE}")
    return 0


def image_cases(
    net: Network,
    found: Images,
    numbers: Sequence[int],
    how: Setting,
    flags: SearchFlags,
    timeout_s: float,
    stage: str = "",
    together: int = 1,
) -> list[cases.Case]:
    """Returns a case for each image.

    Args:
      net: the network.
      found: the images.
      numbers: of the images to decide.
      how: radius, norm, normalisation.
      flags: of the search.
      timeout_s: seconds for each.
      stage: how the names of the stages begin.
      together: images that are decided by one call, when the first of them is asked
        for. A stopped run decides the rest of such a group anew.
    """
    classify = images.classifier(net, how)
    records: dict[int, dict[str, Any]] = {}

    def decide_group(first: int) -> None:
        asked = []
        for number in numbers[first : first + together]:
            image, label = found.pixels[number], int(found.labels[number])
            if classify(image) == label:
                asked.append((number, images.problem(net, image, label, how)))
        for (number, _), each in zip(
            asked, judged_all([p for _, p in asked], flags, timeout_s), strict=True
        ):
            records[number] = each

    def case(number: int) -> cases.Case:
        image, label = found.pixels[number], int(found.labels[number])

        def decide() -> dict[str, Any]:
            if classify(image) != label:
                return images.misclassified()
            if together > 1:
                if number not in records:
                    at = numbers.index(number)
                    decide_group(at - at % together)
                record = records[number]
                return {**record, "status": NAMES[record["status"]]}
            record, _ = judged(
                lambda: images.problem(net, image, label, how), flags, timeout_s
            )
            return {**record, "status": NAMES[record["status"]]}

        return cases.Case(
            f"{stage}i{number:05d}", {"image": number, "label": label}, decide
        )

    return [case(number) for number in numbers]


def tally(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Returns how many images have each fate."""
    names = ("verified", "falsified", "open", "misclassified")
    return {name: cases.count(rows, name) for name in names}


def _named(name: str) -> str:
    if not name:
        raise InputError(f"--net: {describe('nothing', 'a network')}")
    return name


def _setting(flags: Flags, known: Published | None) -> Setting:
    eps = flags.eps or (known.eps if known else 0.0)
    if not eps:
        raise InputError(f"--eps: {describe('nothing', 'a radius above 0')}")
    mean = flags.mean or (known.mean if known else (0.0,))
    std = flags.std or (known.std if known else (1.0,))
    return Setting(eps, flags.norm, mean, std)


def _images(flags: Flags, known: Published | None, data_dir: Path | None) -> Images:
    if flags.data != "sdp":
        return images.split(flags.data, data_dir)
    if known is None:
        raise InputError(
            describe(
                "--data=sdp with an ONNX file",
                "the name of a provided network",
                "Give --net=mnist_cnn_a_adv or the like, or another --data",
            )
        )
    return images.inputs(known.inputs)


def _line(row: Mapping[str, Any]) -> str:
    took = "" if row["seconds"] is None else f"{row['seconds']:.1f} s"
    why = f"  {row['why']}" if row["status"] == "error" else ""
    return f"image {row['image']:<5} {row['status']:13} {took:>8}{why}"


def _summary(rows: Sequence[Mapping[str, Any]], seconds: float, what: str) -> str:
    counts = tally(rows)
    share = {name: 100 * count / len(rows) for name, count in counts.items()}
    spent = [row["seconds"] for row in rows if row["seconds"]]
    mean = sum(spent) / len(spent) if spent else math.nan
    lines = ["", f"{what}: {len(rows)} image{'s' * (len(rows) > 1)}"]
    lines += [f"{n:13} {counts[n]:5}  {share[n]:6.2f} %" for n in counts]
    if errors := cases.count(rows, "error"):
        lines.append(f"{'error':13} {errors:5}")
    lines.append(f"time     {mean:.2f} s an image, {text.duration(seconds)} in all")
    return "\n".join(lines)
