"""Protocol of `beta_crown_sdp`: every method on the same images."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.verification import cases, images, networks, robust
from experiments.verification.images import Published, Setting
from experiments.verification.search import SearchFlags

if TYPE_CHECKING:
    from experiments.workdir import Run


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
      title: as reports call it.
      flags: of the search.
      branches: whether it is branch and bound, with a time limit that matters.
    """

    title: str
    flags: SearchFlags
    branches: bool = False


_BOUND = SearchFlags(restarts=0)  # bounds alone: nothing is falsified
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "pgd": Method("PGD", SearchFlags(method="interval")),
        "interval": Method("interval", dataclasses.replace(_BOUND, method="interval")),
        "crown": Method("CROWN", dataclasses.replace(_BOUND, method="crown")),
        "alpha": Method("alpha-CROWN", dataclasses.replace(_BOUND, method="alpha")),
        "split": Method("splits without beta", SearchFlags(method="split"), True),
        "beta_babsr": Method("beta-CROWN BaBSR", SearchFlags(heuristic="babsr"), True),
        "beta_kfsb": Method("beta-CROWN kFSB", SearchFlags(), True),
    }
)
"""By the names of --methods, from the weakest to the strongest."""

MAIN = "beta_kfsb"


class Key(NamedTuple):
    """Whose images were decided."""

    network: str
    method: str
    seed: int


Found = Mapping[Key, Sequence[Mapping[str, Any]]]
"""The row of every image, by network, method and seed."""


def limit(method: str, timeout_s: float, rivals_timeout_s: float) -> float:
    """Returns the seconds that a method has for an image.

    Args:
      method: a key of `METHODS`.
      timeout_s: of beta-CROWN with kFSB, and of all that does not branch.
      rivals_timeout_s: of the other branch and bound; 0 for the same.
    """
    rival = METHODS[method].branches and method != MAIN
    return rivals_timeout_s if rival and rivals_timeout_s else timeout_s


def decide(run: "Run", config: Any) -> dict[Key, list[dict[str, Any]]]:
    """Decides every image with every method; each is a stage of the run.

    Args:
      run: the work folder.
      config: of the experiment.

    Returns:
      See `Found`.

    Raises:
      DataUnavailableError: the networks or images are not there.
    """
    names = config.networks
    provided = {name: images.published(name, run.data_dir) for name in names}
    found: dict[Key, list[dict[str, Any]]] = {}
    for name, entry in provided.items():
        net = networks.load_network(entry.onnx)
        data = images.inputs(entry.inputs)
        for method in (m for m in METHODS if m in config.methods):
            for seed in seeds_of(method, run.seeds):
                found[Key(name, method, seed)] = cases.decide_all(
                    run,
                    f"{name} {METHODS[method].title}",
                    robust.image_cases(
                        net,
                        data,
                        range(min(config.images, len(data.labels))),
                        setting(entry),
                        dataclasses.replace(
                            METHODS[method].flags, seed=seed, batch=config.batch
                        ),
                        limit(method, config.timeout_s, config.rivals_timeout_s),
                        stage=f"{name}-{method}-s{seed}-",
                    ),
                    "image",
                    f"{name}-{method}-s{seed}.csv",
                    tally=robust.tally,
                )
    return found


def seeds_of(method: str, seeds: Sequence[int]) -> Sequence[int]:
    """Returns the seeds that can change a method's numbers."""
    return seeds if METHODS[method].flags.restarts else seeds[:1]


def setting(entry: Published) -> Setting:
    """Returns the setting of a network's publication."""
    return Setting(entry.eps, "linf", entry.mean, entry.std)
