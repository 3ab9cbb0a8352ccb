"""`python launch.py shape_and_prove --mode=quick`.

What the rooms of Lathe do together: a network is trained, pruned by ADMM (arXiv
1804.03294), put on the levels of MSQ (arXiv 2012.04240) by ADMM again, certified by
beta-CROWN (arXiv 2103.06624) and priced on every hardware target, before and after:
accuracy, bytes, certified accuracy, latency and energy.

Quick mode (about two minutes on 2 cores, the 5,000 digits that ship with Lathe) shapes
LeNet-300-100; it is the main job. Full mode takes all of MNIST and three seeds, and
judges that shaping costs at most a point of accuracy and certifies no fewer images. No
paper has these figures.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.admm_pruning import PHASES
from experiments.options import check_length, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    dataset: str = option(
        "mnist_5k",
        "data set of 28x28 digits",
        choices=("mnist_5k", "mnist", "fashion_mnist"),
    )
    rate: float = option(
        22.9, "compression rate of the pruning", choices=(12.0, 22.9, 40.0, 80.0)
    )
    bits: int = option(4, "width of weights", unit="bits", low=3, high=8)
    input_bits: int = option(
        4, "width of the inputs of products", unit="bits", low=2, high=8
    )
    share: float = option(
        0.6, "share of rows that are sums of powers of two", low=0.0, high=1.0
    )
    epochs: tuple[int, ...] = option(
        (40, 60, 40),
        "training, pruning phase, retraining",
        unit="epochs",
        low=1,
    )
    quantize_epochs: int = option(
        20, "ADMM towards the levels, an iteration each", unit="epochs", low=1
    )
    eps: float = option(
        0.03,
        "radius in which no pixel may change the class, of the l_inf ball",
        unit="of the pixels' range",
        low=0.0,
        low_open=True,
    )
    images: int = option(
        30, "test images to certify, the first ones", unit="images", low=1
    )
    timeout_s: float = option(
        2.0, "mean time limit of an image", unit="seconds", low=0.0, low_open=True
    )
    batch: int = option(1, "images at once on the hardware", unit="images", low=1)

    def __post_init__(self):
        check_length(self, "epochs", *PHASES)


def run(run: "Run", config: Config) -> "Outcome":
    """Shapes, certifies and prices a network; see `experiments.shaping`."""
    from experiments.shaping import outcome, pipeline

    sizes = "dataset", "epochs", "quantize_epochs", "images", "timeout_s"
    judged = EXPERIMENT.reaches(config, *sizes)
    return outcome.outcome(run, config, pipeline.run_all(run, config), judged)


EXPERIMENT = Experiment(
    name="shape_and_prove",
    paper=papers.ADMM_PRUNING,
    claim="Pruned by ADMM and quantized by MSQ, a network keeps its accuracy and what "
    "beta-CROWN certifies, at a fraction of the price on hardware",
    config=Config,
    modes={
        "quick": Mode(2.0),
        "full": Mode(
            30.0,
            {
                "dataset": "mnist",
                "epochs": (20, 30, 20),
                "quantize_epochs": 15,
                "images": 100,
                "timeout_s": 5.0,
            },
            seeds=(0, 1, 2),
        ),
    },
    data=("mnist_5k", "mnist", "fashion_mnist"),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
