"""`python launch.py sp2_msq --mode=full`.

MSQ (arXiv 2012.04240): weights that are sums of two powers of two (SP2) in the rows of
least variance, fixed point in the others, one scale a layer. Errors of both formats by
the spread of rows, and where one becomes the better; accuracy of 4-bit weights and
inputs trained with ADMM, beside fixed point, SP2 and powers of two alone; rows assigned
by variance, the other way round, at random, and by error.

Quick mode (about 80 s on 2 cores, the 5,000 digits that ship with Lathe) trains a
network of four convolutions. Full mode takes MNIST, and a network of 0.1 million
weights on CIFAR-10 at half size. It prints the differences that the paper's order
claims. The paper's own figures are of ImageNet and of an FPGA.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import check_filled, option
from experiments.registry import Experiment, Mode
from experiments.trained.options import Training, is_judged

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Options of the experiment."""

    bits: int = option(4, "width of weights and inputs", unit="bits", low=3, high=7)
    study: tuple[int, ...] = option(
        (4, 5, 6, 8), "widths at which errors of rows are compared", low=3, high=8
    )
    formats: tuple[str, ...] = option(
        ("fixed",),
        "formats that are trained alone",
        choices=("fixed", "sp2", "powers"),
    )
    shares: tuple[float, ...] = option(
        (0.6,), "shares of SP2 rows that are trained", low=0.0, high=1.0
    )
    share: float = option(
        0.6, "share at which orders of rows are compared", low=0.0, high=1.0
    )
    orders: tuple[str, ...] = option(
        ("variance",),
        "orders of rows that are trained, on digits",
        choices=("variance", "reversed", "random", "error"),
    )
    straight: bool = option(False, "train without ADMM too, for comparison, on digits")
    admm_epochs: int = option(
        2, "length of ADMM; rows stay in the last third", unit="epochs", low=1
    )
    admm_updates: int = option(
        12, "updates of levels and multipliers in ADMM, evenly spaced", low=2
    )
    rho: float = option(1e-2, "ADMM's penalty at the start", low=0.0, low_open=True)
    rho_end: float = option(1.0, "its penalty at the end", low=0.0, low_open=True)

    def __post_init__(self):
        check_filled(self, "networks", "study")


def run(run: "Run", config: Config) -> "Outcome":
    """Measures every network that the config asks for; see `experiments.trained`."""
    from experiments.differences import MARGIN_RULES
    from experiments.results import Outcome
    from experiments.trained import claims, msq
    from experiments.trained.protocol import Protocol

    rows = list(msq.study_rows(config.study))
    figures, sources = [msq.study_figure()], []
    for name in config.networks:
        made = Protocol(run, config, name)
        judged = is_judged(config, EXPERIMENT, name)
        errors, trained = [], []
        for seed in run.seeds:
            errors.append(
                run.stage(
                    made.stage(seed, "errors"),
                    lambda m=made, s=seed: msq.errors(m, s, config.bits, config.share),
                )
            )
            arms = msq.arms(made.network.paths, config, name == "digits")
            trained.append({arm.title: made.run_arm(seed, arm) for arm in arms})
        found = claims.by_title(trained, "accuracy")
        title = made.network.title
        residuals = claims.by_title(trained, "residual")
        rows += msq.rows(title, found, residuals, config, judged)
        by_order = {name: [e[name] for e in errors] for name in errors[0]}
        rows += msq.error_rows(title, by_order, config.share, judged)
        figures.append(claims.bars(f"{title}: accuracy after training", found))
        sources.append(made.dataset.source)
    notes = [
        f"All kernels have {config.bits} bits, those of the first and the last layer "
        "too, with a scale for each layer that is fitted to its levels; batch norms "
        "are not folded. Inputs are unsigned fixed point of as many bits in every arm, "
        "with scales of running means over batches; images have 8 bits. The gradient "
        "of rounded weights is the identity in every arm, beyond the levels too.",
        f"ADMM draws float kernels to their levels, anew {config.admm_updates} times; "
        "MSQ assigns its rows anew each time, but for the last third. Then kernels are "
        "put on their levels, and trained straight-through with the scales and rows "
        "they have. The penalty is what Adam needs to bring weights near their levels "
        "in so few steps; see the residuals. "
        "The float network, the control, trains on for as long, at the same rates.",
        "Errors of rows are sums over 20,000 quantiles of a distribution whose "
        "deviation is a given share of the largest level. With a scale that is its "
        "own, a normal row has less error in fixed point: SP2 gains by the shared "
        "scale.",
        "Peak throughput and the best share of rows on a device need a model of "
        "hardware and are not in this experiment. The paper's 70.27 % (ResNet-18, "
        "ImageNet, 4/4) are of other data.",
        claims.SETTLED,
        MARGIN_RULES,
    ]
    return Outcome(rows, figures, notes, tuple(dict.fromkeys(sources)))


EXPERIMENT = Experiment(
    name="sp2_msq",
    paper=papers.MSQ,
    claim="Sums of two powers in rows of small variance and fixed point in the others "
    "are as accurate as either alone",
    config=Config,
    modes={
        "quick": Mode(1.5),
        "full": Mode(
            30.0,
            {
                "networks": ("digits", "cifar"),
                "formats": ("fixed", "sp2", "powers"),
                "shares": (0.5, 0.6, 2 / 3),
                "orders": ("variance", "reversed", "random", "error"),
                "dataset": "mnist",
                "straight": True,
                "examples": 6_000,
                "cifar_examples": 8_000,
                "epochs": 8,
                "admm_epochs": 3,
                "batch_size": 64,
            },
            seeds=(0, 1, 2),
        ),
    },
    data=("mnist_5k", "mnist", "cifar10"),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
