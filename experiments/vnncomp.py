"""`python launch.py vnncomp --mode=full`.

Instances of the neural network verification competition: how many are solved, how
long they take, and whether a verdict contradicts the competition's. Any folder with
an instances.csv will do (--folder); without one it is the part of VNN-COMP 2021
(arXiv 2109.00498) in LATHE_DATA.

Quick mode decides the `test` instances and four of ACAS Xu. Full mode decides all of
test, acasxu and mnistfc at the official limits, then oval21 and cifar10_resnet at
60 s.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    folder: str = option(
        "",
        "folder with instances.csv; empty means verify/vnncomp2021 in LATHE_DATA",
    )
    benchmarks: tuple[str, ...] = option(
        (), "benchmarks of the table, in this order; empty means all"
    )
    instances: tuple[int, ...] = option(
        (0,),
        "instances of each benchmark, the first ones; one number for all or one for "
        "each; 0 means every one",
        low=0,
    )
    caps: tuple[float, ...] = option(
        (0.0,),
        "largest time limit of an instance in each benchmark, likewise; 0 means the "
        "official one",
        unit="seconds",
        low=0.0,
    )


def run(run: "Run", config: Config) -> "Outcome":
    """Decides every instance; see `experiments.verification.competition`."""
    from experiments.verification import competition

    return competition.outcome(competition.decide(run, config))


EXPERIMENT = Experiment(
    name="vnncomp",
    paper=papers.VNNCOMP_2021,
    claim="Every provided instance of acasxu and mnistfc solved, none contradicted",
    config=Config,
    modes={
        "quick": Mode(
            1.0,
            {"benchmarks": ("test", "acasxu"), "instances": (0, 4), "caps": (10.0,)},
        ),
        "full": Mode(
            60.0,
            {
                "benchmarks": (
                    "test",
                    "acasxu",
                    "mnistfc",
                    "oval21",
                    "cifar10_resnet",
                ),
                "caps": (0.0, 0.0, 0.0, 60.0, 60.0),
            },
        ),
    },
    data=("LATHE_DATA/verify/vnncomp2021",),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
