"""`python launch.py ernn --mode=full`.

E-RNN (arXiv 1812.07106): the kernels of LSTM and GRU in circulant blocks, by ADMM and
then training of their generators; beside generators from scratch (C-LSTM), projection
without ADMM, and magnitude pruning to as many weights (ESE), all for as long. What is
trained runs by real FFTs from stored spectra, and is compared with the dense circulant
kernels; then the two phases of design: blocks and cell by few trainings, the width of
numbers with tables for sigmoid and tanh.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) reads rows
of digits with a GRU in blocks of 8. Full mode takes spoken digits too. The paper's
figures are of TIMIT and of an FPGA: energy is not measured here.
"""

import dataclasses
from typing import TYPE_CHECKING

from core.errors import InputError, describe
from experiments import papers
from experiments.options import check_filled, check_length, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

ARMS = ("admm", "scratch", "projected", "pruned")


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    tasks: tuple[str, ...] = option(
        ("rows",),
        "rows of digits; spoken digits from LATHE_DATA",
        choices=("rows", "speech"),
    )
    dataset: str = option(
        "mnist_5k", "data set of the rows", choices=("mnist_5k", "mnist")
    )
    examples: int = option(
        0, "stratified training images of rows; 0 means all", unit="images", low=0
    )
    cells: tuple[str, ...] = option(("gru",), "cells to train", choices=("lstm", "gru"))
    units: int = option(64, "of the hidden state, a multiple of every block", low=1)
    blocks: tuple[int, ...] = option((8,), "block sizes", low=2)
    arms: tuple[str, ...] = option(
        ("admm", "scratch", "projected"), "ways to train them", choices=ARMS
    )
    epochs: tuple[int, ...] = option(
        (4, 4, 3), "dense, ADMM, generators", unit="epochs", low=1
    )
    batch_size: int = option(50, "examples per step", unit="images", low=1)
    learning_rate: float = option(1e-2, "Adam's rate", low=0.0, low_open=True)
    interval: int = option(1, "length of an ADMM iteration", unit="epochs", low=1)
    rho: float = option(1e-2, "ADMM's first penalty", low=0.0, low_open=True)
    rho_end: float = option(10.0, "ADMM's last penalty", low=0.0, low_open=True)
    explore: tuple[str, ...] = option(
        (), "tasks of the two phases", choices=("rows", "speech")
    )
    budget: float = option(1.0, "loss that phase I allows", unit="points", low=0.0)
    memory: float = option(
        0.3, "what memory holds, over the dense LSTM's weights of 12 bits", low=0.0
    )
    widths: tuple[int, ...] = option(
        (16, 14, 12, 10, 8, 6), "widths of phase II", unit="bits", low=4, high=24
    )
    width_budget: float = option(
        0.1, "loss that phase II allows", unit="points", low=0.0
    )

    def __post_init__(self):
        check_filled(self, "tasks", "cells", "blocks", "arms", "widths")
        check_length(self, "epochs", "dense", "ADMM", "generators")
        for block in self.blocks:
            if self.units % block:
                wanted = f"a divisor of --units={self.units}"
                raise InputError(f"--blocks: {describe(block, wanted)}")


def is_judged(config: Config, task: str) -> bool:
    """Returns whether data and training of a task are those of full mode at least.

    Args:
      config: of the run.
      task: on the command line.
    """
    rows = () if task == "speech" else ("dataset",)
    if task == "rows" and config.examples:  # 0 means all
        rows += ("examples",)
    return EXPERIMENT.reaches(config, "epochs", "units", *rows)


def run(run: "Run", config: Config) -> "Outcome":
    """Trains every cell and block; see `experiments.constrained.recurrent`."""
    from experiments.constrained import recurrent, recurrent_rows
    from experiments.differences import RULES
    from experiments.results import Outcome

    rows, figures, sources = [], [], []
    shapes = [recurrent.Shape(c, k, k) for c in config.cells for k in config.blocks]
    for task in config.tasks:
        made = recurrent.Protocol(run, config, task)
        found: dict[tuple[str, str], list[dict]] = {}
        dense: dict[str, list[float]] = {}
        for seed in run.seeds:
            for cell in config.cells:
                control = made.control(seed, cell)
                dense.setdefault(cell, []).append(control["accuracy"])
            for shape in shapes:
                for arm in config.arms:
                    params, result = made.arm(seed, shape, arm)
                    if arm == "admm":
                        stage = f"{task}-s{seed}-{shape.name}"
                        done = made.executed(shape, stage, params)
                        result = {**result, "executed": done}
                    found.setdefault((shape.name, arm), []).append(result)
        features = int(made.splits[0].images[0, 0].size)
        judged = is_judged(config, task)
        rows += recurrent_rows.rows(
            made.title, config.units, features, shapes, found, dense, judged
        )
        figures += recurrent_rows.figure(made.title, config.units, shapes, found)
        sources.append(made.dataset.source)
    for task in config.explore:
        made = recurrent.Protocol(run, config, task, held=True)
        result = run.stage(f"{task}-phases", lambda m=made: m.explored(run.seeds[0]))
        rows += recurrent_rows.phase_rows(
            made.title, result, config.budget, is_judged(config, task)
        )
    notes = [
        "Every arm has the same number of epochs in all: dense training, ADMM (or "
        "training of generators instead), training of generators. Those from scratch "
        "have as many from random ones, scaled so that kernels have the deviation of "
        "dense ones. Pruned kernels keep 1 / block of their weights, without indices.",
        "Biases and the classifier are dense. Executed: spectra are stored, a step has "
        "one real FFT of its state and one back.",
        f"Tables have {recurrent.SEGMENTS} segments. Phase II rounds generators, "
        "biases, inputs, states and both functions' arguments and results; sums are "
        "floats. Both phases choose on a fifth of the training images.",
        "The paper's energy (37.4 times ESE's efficiency) is of FPGAs and is not in "
        "this experiment; TIMIT is not free.",
        RULES,
    ]
    if "speech" in config.tasks:
        notes.append("Spoken digits have 300 test recordings: one is 0.33 points.")
    if not all(is_judged(config, task) for task in config.tasks):
        notes.append("Not judged: less data or training than in full mode.")
    return Outcome(rows, figures, notes, tuple(dict.fromkeys(sources)))


EXPERIMENT = Experiment(
    name="ernn",
    paper=papers.ERNN,
    claim="Block-circulant LSTM and GRU trained by ADMM lose less than those trained "
    "from scratch",
    config=Config,
    modes={
        "quick": Mode(1.0),
        "full": Mode(
            26.0,
            {
                "tasks": ("rows", "speech"),
                "dataset": "mnist",
                "examples": 4_000,
                "cells": ("gru", "lstm"),
                "units": 64,
                "blocks": (8, 16),
                "arms": ARMS,
                "epochs": (6, 14, 12),
                "explore": ("speech",),
                # One of the 540 recordings held out is 0.19 points.
                "width_budget": 0.2,
            },
            seeds=(0, 1, 2),
        ),
    },
    data=("mnist_5k", "mnist", "LATHE_DATA/speech_digits"),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
