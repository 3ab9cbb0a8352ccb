"""`python launch.py beta_crown_sdp --mode=full`.

Robustness of the networks on which beta-CROWN (arXiv 2103.06624) compares itself
with SDP-FO: how many images each method verifies, what it falsifies, what stays open,
how many sub-domains and how long it takes. The methods are PGD (an upper bound), the
interval, CROWN and alpha-CROWN bounds, branch and bound that uses splits without
beta, and beta-CROWN with the BaBSR and the kFSB branching.

Quick mode decides 3 images at 5 s. Full mode decides the first 50 of MNIST CNN-A-Adv
at 60 s (at 20 s with the weaker branch and bound), and compares the first 30 with
what alpha-beta-CROWN did on such a CPU. The paper's row, 70.5 % of 200 images at 180 s
below a PGD bound of 76.5 %, is --mode=paper on a GPU.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import check_filled, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

NETWORKS = ("mnist_cnn_a_adv", "cifar_cnn_a_adv", "cifar_cnn_a_mix")
ALL = ("pgd", "interval", "crown", "alpha", "split", "beta_babsr", "beta_kfsb")
"""The methods, as `experiments.verification.sdp` names them."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    networks: tuple[str, ...] = option(
        ("mnist_cnn_a_adv",), "networks to verify", choices=NETWORKS
    )
    images: int = option(
        50, "images of each network, the first ones", unit="images", low=1, high=200
    )
    timeout_s: float = option(
        60.0, "time limit of an image", unit="seconds", low=0.0, low_open=True
    )
    rivals_timeout_s: float = option(
        20.0,
        "time limit of an image in seconds for split and beta_babsr; 0 means "
        "--timeout_s",
        low=0.0,
    )
    methods: tuple[str, ...] = option(ALL, "methods to run", choices=ALL)
    batch: int = option(
        256, "most sub-domains bounded at once", unit="sub-domains", low=1
    )

    def __post_init__(self):
        check_filled(self, "networks", "methods")


def run(run: "Run", config: Config) -> "Outcome":
    """Decides every image with every method; see `experiments.verification.sdp`."""
    from experiments.verification import sdp

    found = sdp.decide(run, config)

    from experiments.verification import sdp_rows

    return sdp_rows.outcome(found, config)


EXPERIMENT = Experiment(
    name="beta_crown_sdp",
    paper=papers.BETA_CROWN,
    claim="beta-CROWN verifies as many of 30 images of MNIST CNN-A-Adv as "
    "alpha-beta-CROWN; 70.5 % of 200 at 180 s is judged by paper mode alone",
    config=Config,
    modes={
        "quick": Mode(2.0, {"images": 3, "timeout_s": 5.0, "rivals_timeout_s": 5.0}),
        "full": Mode(25.0),
        "paper": Mode(
            300.0,
            {
                "networks": NETWORKS,
                "images": 200,
                "timeout_s": 180.0,
                "rivals_timeout_s": 60.0,
                "batch": 1024,
            },
            device="a GPU, estimated",
        ),
    },
    data=("LATHE_DATA/verify/sdp",),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
