"""`python launch.py fpga_vs_mobile --mode=full`.

Mobile or FPGA (arXiv 2106.09166): which compression helps which device? Widths, sums of
two powers and four patterns of pruning, alone and together, on two processors of a
phone and three FPGAs; and how often each conclusion survives when every constant of
every target is off by up to a half.

All of it is simulated, trains nothing and takes about a minute on 2 cores in quick
mode. It prints speed-ups, energy gains and the share of draws in which a claim holds.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import check_filled, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

NETWORKS = ("resnet18", "mobilenet_v2", "vgg16")


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    networks: tuple[str, ...] = option(
        ("resnet18", "mobilenet_v2"), "to price", choices=NETWORKS
    )
    draws: int = option(200, "of perturbed constants", low=10)
    roofs: bool = option(True, "whether the report has rooflines")

    def __post_init__(self):
        check_filled(self, "networks")


def run(run: "Run", config: Config) -> "Outcome":
    """Prices every design, then perturbs the constants."""
    import hw
    from experiments.hardware import edge
    from experiments.hardware.figures import roofline
    from experiments.hardware.tables import products
    from experiments.results import Outcome

    found, sure = {}, {}
    for name in config.networks:
        found[name] = run.stage(f"cost-{name}", lambda n=name: edge.costs(n))
        sure[name] = run.stage(
            f"sensitivity-{name}",
            lambda n=name: edge.sensitivity(n, run.seeds[0], config.draws),
        )
    figures = edge.figures(found)
    if config.roofs:
        name = config.networks[0]
        table = products(name, bits=8, input_bits=8)
        for target in ("mobile_cpu", "fpga_zcu102"):
            roof = hw.roofline(table, hw.get(target))
            figures.append(roofline(f"{name} at 8 bits on {target}", roof))
    notes = [
        "Everything is simulated. The paper's abstract has no numbers: a claim that "
        "holds says that our cost functions agree with an order that this literature "
        "reports, and that at least 80 % of the draws do; one that does not is shown "
        "as well. Measured accuracies, and networks of small images, are left out.",
        "Some claims hold by construction, by constants chosen after that literature: "
        "slices make four products of 4 bits and patterns keep less than all of a "
        "gain of four; phones have no unit for sums of two powers, and the GPU none "
        "for numbers below 16 bits; blocks keep 0.8 of the ideal gain and more, "
        "unstructured zeros 0.3 and less. Filters keep 0.95 everywhere, more than "
        "blocks: that blocks alone are in the top two can hardly hold then.",
        "Claims compare patterns that keep a quarter of the weights of pruned layers "
        "with 4 bits of 16, or all that keep a half to an eighth. A network counts as "
        "held up by memory if more than half of its time at 16 bits is in layers that "
        "memory or cache bounds; this is claimed of networks with depthwise layers.",
        "Energies of operations are those of 45 nm, scaled by node and platform; they "
        "are no chip's. First and depthwise layers stay dense; patterns of kernels are "
        "of 3 x 3 windows alone.",
        "Sums of two powers move outputs from DSP slices to LUTs in the share that "
        "keeps both busy; processors run them as fixed point, so they gain nothing "
        "there by construction. Draws change every constant that a target lists but "
        "the widths that it has; shares of 1 only fall.",
    ]
    return Outcome(
        list(edge.rows(found, sure, config.draws)), figures, notes, ("shapes alone",)
    )


EXPERIMENT = Experiment(
    name="fpga_vs_mobile",
    paper=papers.FPGA_MOBILE,
    claim="Narrow numbers pay most on FPGAs, patterns that compilers can skip pay on "
    "phones, and blocks pay on both",
    config=Config,
    modes={
        "quick": Mode(1.0),
        "full": Mode(1.0, {"networks": NETWORKS, "draws": 1_000}),
    },
    data=("shapes of networks",),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
