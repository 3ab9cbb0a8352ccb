"""`python launch.py lpirc_mobilenet --mode=full`.

Networks that are friendly to few bits (arXiv 1903.06791 with 1803.08607): a small
MobileNet as it is, without norm and activation in depthwise layers, with ReLU for
ReLU6, with a penalty on depthwise kernels, and a plain network; all quantized after
training at 8 to 4 bits, inputs and weights, with one scale a tensor. The collapse that
the paper explains needs channels that are dead: they are counted, and appended.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) has two
blocks and the appended channels alone. Full mode trains four variants and the plain
network on CIFAR-10. It prints what dead channels cost and what repair gives back.
"""

import dataclasses
from typing import TYPE_CHECKING

from core.errors import InputError, describe
from experiments import papers
from experiments.options import check_filled, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

NAMES = ("base", "bare", "relu", "l2", "plain")
"""The variants, as `experiments.mobile.networks` names them."""
WAYS = ("minmax", "mean", "sqnr", "mse")
"""Ranges of inputs, as `experiments.mobile.ranges` names them."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    dataset: str = option(
        "mnist_5k", "data set", choices=("mnist_5k", "mnist", "cifar10")
    )
    family: str = option("v1", "MobileNet-V1 or its V2 twin", choices=("v1", "v2"))
    variants: tuple[str, ...] = option(
        ("base", "l2"), "networks compared", choices=NAMES
    )
    widths: tuple[int, ...] = option(
        (16, 32, 64), "channels of the first convolution and of the blocks", low=1
    )
    bits: tuple[int, ...] = option(
        (8, 6, 5, 4), "widths of weights and inputs", unit="bits", low=2, high=8
    )
    ranges: tuple[str, ...] = option(
        ("mse",),
        "ways to find ranges; the last is that of all other rows",
        choices=WAYS,
    )
    dead: tuple[int, ...] = option(
        (1, 2, 4), "dead channels appended to each depthwise layer", low=1
    )
    controlled: tuple[str, ...] = option(
        ("base", "l2"), "variants that get them", choices=NAMES[:-1]
    )
    noise_bits: tuple[int, ...] = option(
        (8,), "widths at which noise of layers is measured", unit="bits", low=2, high=8
    )
    examples: int = option(
        0, "stratified training examples; 0 means all", unit="images", low=0
    )
    images: int = option(
        500, "stratified test images; 0 means all", unit="images", low=0
    )
    range_images: int = option(
        256, "training images that ranges are found on", unit="images", low=8
    )
    noise_images: int = option(
        64, "training images that noise is measured on", unit="images", low=1
    )
    epochs: int = option(3, "length of training", unit="epochs", low=1)
    batch_size: int = option(32, "examples per step", unit="images", low=1)
    learning_rate: float = option(
        0.2, "rate of SGD at the start; it falls to 0", low=0.0, low_open=True
    )
    decay: float = option(4e-5, "L2 penalty of kernels but depthwise ones", low=0.0)
    depthwise_decay: float = option(1e-4, "L2 penalty of depthwise ones", low=0.0)

    def __post_init__(self):
        check_filled(self, "variants", "bits", "ranges")
        if len(self.widths) < 2:
            text = ",".join(map(str, self.widths))
            raise InputError(f"--widths: {describe(text, 'at least two')}")


def is_judged(config: Config, examples: int, images: int) -> bool:
    """Returns whether data and training are those of full mode at least.

    Args:
      config: of the run.
      examples: training images there are.
      images: test images there are.
    """
    return EXPERIMENT.reaches(
        config, "dataset", "epochs", examples=examples, images=images
    )


def run(run: "Run", config: Config) -> "Outcome":
    """Trains and measures every variant; see `experiments.mobile`."""
    from experiments.differences import MARGIN_RULES
    from experiments.mobile import claims
    from experiments.mobile.protocol import Protocol, Trial
    from experiments.results import Outcome

    made = Protocol(run, config)
    found = {
        trial: made.run_trial(trial)
        for seed in run.seeds
        for trial in (Trial(name, seed) for name in config.variants)
    }
    sizes = len(made.train.labels), len(made.test.labels)
    judged = is_judged(config, *sizes)
    scales = [r["scales"] for r in found.values() if "scales" in r]
    outliers = sum(count for each in scales for _, count in each.values())
    notes = [
        "Batch norms are folded with the epsilon of training, then weights get one "
        "grid a tensor from the least to the largest weight, inputs of layers one that "
        "is fixed on training images; 0 is exact in both. Biases stay float, as their "
        "32 bits would. Inputs are what a layer's output is requantized to. Ranges by "
        "sqnr are those of most signal over noise in a layer's products, layer by "
        "layer, all errors before it included.",
        "A dead channel gets zeros alone; its norm in a depthwise layer has variance "
        "0, so its folded scale is 1 / sqrt(epsilon) = 31.6. It changes no output of "
        "the float network, only the range of the weights. Repair replaces variances "
        "below 1 % of the median by the mean of the others. What appended channels "
        "cost is counted from the repaired network, which has no other outlier either.",
        "The paper's figures are of MobileNet-V1 on ImageNet (the plain network's: "
        "InceptionV3) and stand beside other networks and images: only the order can "
        "be compared. Its networks had dead channels by themselves; "
        + (
            f"here {outliers} channels have an outlying scale as trained."
            if outliers
            else "here no channel has an outlying scale as trained, so the friendly "
            "network is not expected to be ahead without appended ones."
        ),
        "Signal over noise is that of a layer's products, before its bias, with the "
        "errors of all layers before it.",
        "Latency and the challenge's score need a model of the hardware; they are left "
        "out here.",
        MARGIN_RULES,
    ]
    if not judged:
        notes.append("Nothing is judged on fewer images or epochs than in full mode.")
    if claims.diverged(found):
        notes.append(
            "A variant whose training diverged at this --learning_rate with any seed "
            "has no accuracy, and nothing is claimed of it."
        )
    rows = list(claims.rows(found, config.ranges, judged))
    figures = claims.figures(found, config.ranges)
    return Outcome(rows, figures, notes, (made.dataset.source,))


EXPERIMENT = Experiment(
    name="lpirc_mobilenet",
    paper=papers.LPIRC,
    claim="Depthwise layers without norm and activation survive 8 bits where dead "
    "channels spoil the others, which repaired variances mend",
    config=Config,
    modes={
        "quick": Mode(1.0),
        "full": Mode(
            30.0,
            {
                "dataset": "cifar10",
                "variants": NAMES,
                "widths": (16, 32, 64, 64, 128, 128),
                "ranges": WAYS,
                "examples": 8_000,
                "images": 2_000,
                "epochs": 6,
                "batch_size": 64,
                "noise_bits": (8, 6),
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
