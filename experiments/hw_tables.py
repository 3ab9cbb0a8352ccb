"""`python launch.py hw_tables --mode=full`.

The published tables of throughput, resources and energy of nine hardware papers, each
computed again by our cost functions: predicted beside published. Numbers that decided a
constant of the target are marked as fitted and prove nothing.

It trains nothing and takes about a minute on 2 cores. It prints, for each quantity of a
table, the median and the largest factor between predicted and published. Full mode
calibrates `host` too, and times networks that calibration has not seen: nothing else
should run.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import check_filled, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

NAMES = (
    *("msq", "esb", "s2ta", "ant", "capram", "memristor", "eyeriss"),
    *("tpu", "pixel"),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    tables: tuple[str, ...] = option(NAMES, "tables to compute", choices=NAMES)

    host: bool = option(False, "whether to calibrate and time this machine")

    def __post_init__(self):
        check_filled(self, "tables")


def run(run: "Run", config: Config) -> "Outcome":
    """Computes every table that the config asks for."""
    from experiments.hardware import host
    from experiments.hardware.entry import Entry, rows, summaries
    from experiments.hardware.figures import ratios
    from experiments.hardware.tables import TABLES
    from experiments.results import Outcome

    entries = []
    for name in config.tables:
        found = run.stage(
            name, lambda n=name: {"entries": [list(e) for e in TABLES[n]()]}
        )
        entries += [Entry(*each) for each in found["entries"]]
    notes = [
        "All figures are simulated. A row holds if predicted and published are within "
        "a factor of 2, or above what the paper gives as a lower end ('at least'); a "
        "quantity of a table, such as its latencies, if its median is within 1.25. "
        "'Fitted' rows decided a constant of their target (`hw.constants_table` says "
        "which); 'identity' rows are arithmetic on printed constants, such as a peak. "
        "Neither proves anything: both are left out of medians and counts. Lower ends "
        "are claims and are counted, but are in no median.",
        "Tables of Eyeriss, MobileNet's phone, the TPU's applications and MSQ's "
        "implementations are quoted as remembered, not from the papers at hand. "
        "Eyeriss' latencies add up to its printed totals, and operations over latency "
        "give the printed rates of MSQ. RTMobile's table is left out: any line through "
        "its dense and its smallest network meets the rows between.",
        "Eyeriss took four times what its mapping explains on the wide layers of "
        "VGG-16: no source at hand says why, and no constant was fitted to it.",
        "An application of the TPU is one product made up here, of as many weights and "
        "of as many rows as the paper prints operations for each byte of weights. "
        "Below the peak, what is predicted is thus the roofline alone: two operations "
        "times that number times 34 GB/s. LSTM1 and CNN1 stay far below it, as the "
        "authors report.",
        "ESB's paper gives one figure of its units, which decides their clock. The "
        "crossbars' gives no rates of layers: kept weights are shared out evenly. "
        "S2TA's gives no bounds of layers: they are 8/8 first, 2/8 late.",
        "How MSQ's cores map depthwise layers was chosen among two ways with its rows "
        "of MobileNetV2 in view, and how S2TA runs layers of few channels likewise: "
        "these rows are weaker evidence than the others. Constants of Eyeriss' power "
        "were set by hand to AlexNet's rows, and its filling to the sum of AlexNet's "
        "latencies: all of AlexNet's rows count as fitted.",
        "ANT's networks of ours are ResNet-18, ResNet-50, VGG-16 and BERT's 12 blocks, "
        "of the paper's eight.",
    ]
    rows_, figures = [*summaries(entries), *rows(entries)], ratios(entries)
    if config.host:
        timed = run.stage("host", host.measure)
        rows_ += host.rows(timed)
        figures.append(host.figure(timed))
        notes.append(
            "Latencies on this machine are of `hw.calibrate`: the constants of `host` "
            "are fitted to microbenchmarks, and networks are timed after that. Other "
            "programs that run meanwhile spoil both."
        )
        notes.append(host.beyond(timed))
    return Outcome(rows_, figures, notes, ("shapes alone",))


EXPERIMENT = Experiment(
    name="hw_tables",
    paper=papers.MSQ,
    claim="Published throughput, resources and energy of nine designs follow from "
    "their operator tables",
    config=Config,
    modes={"quick": Mode(1.0), "full": Mode(6.0, {"host": True})},
    data=("shapes of networks",),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
