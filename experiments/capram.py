"""`python launch.py capram --mode=full`.

CAP-RAM (arXiv 2107.02388): networks whose products run in an SRAM macro that adds
charge and digitises it with seven bits. LeNet-5, pruned until it fits one macro, with
ternary weights and inputs of eight levels: in software, in a macro that only rounds, in
chips with mismatch and noise, and trained with a chip in the loop; a trained ResNet-20
on CIFAR-10, without training; and LeNet-5 in memristor crossbars (arXiv 1908.10017).

Quick mode (about two minutes on 2 cores) takes the 5,000 digits that ship with Lathe.
It prints accuracies beside those of software, cells, latency and energy of an image.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import check_filled, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    dataset: str = option(
        "mnist_5k", "digits", choices=("mnist_5k", "mnist", "fashion_mnist")
    )
    examples: int = option(2_000, "training examples", unit="images", low=1_000)
    epochs: int = option(4, "of float training", unit="epochs", low=1)
    tuning: int = option(2, "after each step of compression", unit="epochs", low=1)
    hardware_epochs: int = option(1, "with a chip in the loop", unit="epochs", low=1)
    chips: int = option(1, "that are sampled", low=1)
    adc_bits: tuple[int, ...] = option(
        (6,), "widths of converters to compare", unit="bits", low=4, high=12
    )
    cifar_images: int = option(
        0, "test images of CIFAR-10; 0 leaves it out", unit="images", low=0
    )
    cifar_bits: int = option(6, "of ResNet-20's weights", unit="bits", low=2, high=6)
    cifar_digits: int = option(2, "base-8 digits of its inputs", low=1, high=3)

    def __post_init__(self):
        check_filled(self, "adc_bits")


def run(run: "Run", config: Config) -> "Outcome":
    """Measures chips, then networks in them."""
    from experiments import data
    from experiments.hardware import macro_runs
    from experiments.results import Outcome

    bent = run.stage("linearity", lambda: macro_runs.linearity((0, 1)))
    found = [macro_runs.digits(run, config, seed) for seed in run.seeds]
    images = None
    if config.cifar_images:
        images = run.stage("cifar", lambda: macro_runs.cifar(run, config, run.seeds[0]))
    notes = [
        "Chips are simulated: mismatch, gains, offsets, bent curves and noise of the "
        "converters are those of the paper's specification, chosen there. Transfer "
        "curves are of sums of 0 to 448 through capacitors and all 128 converters; "
        "gains and offsets push some of them out of their range at both ends, where "
        "no calibration brings them back. Costs have the published throughput and "
        "efficiency.",
        "LeNet-5's filters are removed by magnitude, and what is left is trained; the "
        "paper prunes by ADMM. Converters span what the sums of training images need, "
        "layer by layer, but for rows with the full range.",
        "ResNet-20 is the trained network of 87.5 % on these images; nothing is tuned "
        "after its weights take their bits, and it needs several macros: the paper's "
        "89.0 % is of a network that was pruned and trained to fit one.",
        "Crossbars hold weights of 8 bits of the pruned LeNet-5 in float, without "
        "training, and read inputs of 8 bits one bit after another; converters span "
        "what the sums of training images need. Drift and noise are our choice.",
    ]
    judged = EXPERIMENT.reaches(
        config, "dataset", "examples", "epochs", "tuning", "hardware_epochs", "chips"
    )
    rows = list(macro_runs.rows(bent, found, images, judged))
    names = (config.dataset, "cifar10") if images else (config.dataset,)
    sources = [data.load(name, data_dir=run.data_dir).source for name in names]
    return Outcome(rows, macro_runs.figures(found, config.adc_bits), notes, sources)


EXPERIMENT = Experiment(
    name="capram",
    paper=papers.CAPRAM,
    claim="A pruned LeNet-5 in a charge-domain macro is as accurate as its quantized "
    "software",
    config=Config,
    modes={
        "quick": Mode(2.0),
        "full": Mode(
            20.0,
            {
                "dataset": "mnist",
                "examples": 20_000,
                "epochs": 6,
                "tuning": 3,
                "hardware_epochs": 2,
                "chips": 3,
                "adc_bits": (4, 5, 6, 7, 8, 10),
                "cifar_images": 500,
            },
            seeds=(0, 1, 2),
        ),
    },
    data=("mnist_5k", "mnist", "fashion_mnist", "cifar10", "LATHE_DATA/pretrained"),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
