"""A toy experiment, and a stand-in for `launch.py` that runs it.

    python toy_sweep.py MODE SEED FOLDER FLAGS_AS_JSON

It counts its starts in FOLDER/starts and fails, dies or sleeps as `--model` says.
"""

import dataclasses
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core.errors import InputError
from experiments import results
from experiments.options import build, option
from experiments.registry import Experiment, Mode, Paper

PAPER = Paper(
    key="zhang2018",
    title="A Systematic DNN Weight Pruning Framework",
    authors=("Tianyun Zhang", "Shaokai Ye", "Kaiqi Zhang"),
    year=2018,
    arxiv="1804.03294",
    venue="ECCV",
)


@dataclasses.dataclass(frozen=True)
class Config:
    rho: float = option(1e-3, "penalty", low=0.0, low_open=True)
    epochs: int = option(5, "length", unit="epochs", low=1)
    keep: tuple[float, ...] = option((0.1,), "kept", high=1.0)
    model: str = option("lenet", "network", choices=("lenet", "crash", "slow", "die"))

    def __post_init__(self):
        if self.rho == 13:
            raise InputError("an unlucky rho")


TOY = Experiment(
    name="toy",
    paper=PAPER,
    claim="A toy.",
    config=Config,
    modes={"quick": Mode(0.1, {"epochs": 2}), "full": Mode(1.0)},
    data=("none",),
    run=lambda run, config: None,
)


def main(mode, seed, folder, flags):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starts").open("a") as log:
        log.write("start\n")
    print("progress 1\rprogress 2", file=sys.stderr)
    data_dir = flags.pop("data_dir", "default")
    config = build(TOY.config, TOY.mode(mode).overrides, flags)
    misbehave(config, folder)
    accuracy = 90 + config.epochs + seed - 10 * config.rho
    odd = math.nan if config.rho == 0.01 else 80.0
    rows = [
        results.Row("accuracy", "LeNet", accuracy, unit="%"),
        results.Row("accuracy", "MLP", odd, unit="%"),
        results.Row("energy", "chip", 1e-5 / config.rho, unit="J", simulated=True),
    ]
    info = results.RunInfo(mode, (seed,), config, 1.0, (data_dir,), device="toy")
    results.write(folder, TOY, info, results.Outcome(rows))


def misbehave(config, folder):
    if config.model == "crash" and config.rho == 0.1:
        sys.exit("ValueError: rho is too large\n\n")
    first = len((folder / "starts").read_text().split()) == 1
    if config.model == "die" and config.rho == 0.1 and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.model == "slow":
        (folder / "asleep").touch()
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            (folder / "saved").touch()
            raise


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
