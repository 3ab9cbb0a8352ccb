"""`python launch.py vnncomp --mode=full`.

Instances of the neural network verification competition: how many are solved, how
long they take, and whether a verdict contradicts the competition's. Any folder with
an instances.csv will do (--folder); without one it is the part of VNN-COMP 2021
(arXiv 2109.00498) in LATHE_DATA.

Quick mode decides the `test` instances and four of ACAS Xu, at 10 s each. Full mode
decides all of test, acasxu and mnistfc at the official limits, then oval21 and
cifar10_resnet at 60 s. In a folder of one's own quick mode takes four instances of
each benchmark at 10 s, full mode all of them at their limits.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

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
    limits: tuple[int, ...] = option(
        (0,),
        "instances of each benchmark, the first ones; one number for all or one for "
        "each; 0 means every one",
        low=0,
    )
    caps: tuple[float, ...] = option(
        (0.0,),
        "largest time limit of an instance in seconds, likewise; 0 means the official "
        "one",
        low=0.0,
    )


def run(run: "Run", config: Config) -> "Outcome":
    """Decides every instance; see `experiments.verification.competition`."""
    from experiments.verification import competition

    return competition.outcome(competition.decide(run, fitted(config, run.mode)))


def fitted(config: Config, mode: str) -> Config:
    """Returns the config for a folder of one's own.

    The modes name benchmarks of 2021, with numbers for each. In another folder they
    stand for all benchmarks, the first four instances at 10 s in quick mode.

    Args:
      config: as given.
      mode: its name.
    """
    if not config.folder:
        return config
    other: dict[str, Any] = {"benchmarks": (), "limits": config.limits[-1:]}
    other["caps"] = config.caps[:1]
    preset = EXPERIMENT.modes[mode].overrides
    same = [name for name in other if getattr(config, name) == preset.get(name)]
    return dataclasses.replace(config, **{name: other[name] for name in same})


EXPERIMENT = Experiment(
    name="vnncomp",
    paper=papers.VNNCOMP_2021,
    claim="Every provided instance of acasxu and mnistfc solved, none contradicted",
    config=Config,
    modes={
        "quick": Mode(
            1.0,
            {"benchmarks": ("test", "acasxu"), "limits": (0, 4), "caps": (10.0,)},
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
