"""From options to what is trained."""

from collections.abc import Iterator
from typing import Any

from experiments.lottery.networks import LENET300, NETWORKS
from experiments.lottery.training import Recipe
from experiments.lottery.trials import Plan

LONG, SHORT = "T", "short"
"""Labels of the whole training and of the shortened one."""


def dataset_of(config: Any, network: str) -> str:
    """Returns the name of the data set that a network is trained on."""
    return config.dataset if network == LENET300.name else "cifar10"


def sizes(config: Any, network: str) -> tuple[int, int]:
    """Returns the training examples (0 for all), and pixels averaged to one."""
    if network == LENET300.name:
        return config.examples, 1
    return config.cnn_examples, config.cnn_pool


def plans(config: Any, network: str, seeds: tuple[int, ...]) -> Iterator[Plan]:
    """Yields the tables of a network: the whole training, then the shortened one.

    Args:
      config: the experiment's.
      network: its name.
      seeds: the run's.
    """
    net = NETWORKS[network]
    mlp = net is LENET300
    epochs = config.epochs if mlp else config.cnn_epochs
    plan = Plan(
        network=net,
        label=f"{network}-{LONG}",
        epochs=epochs,
        rewind=_rewind(epochs),
        rates=config.rates if mlp else config.cnn_rates,
        seeds=seeds if mlp else seeds[: config.cnn_seeds],
        levels=config.levels if mlp else config.cnn_levels,
        methods=config.methods,
        controls=config.controls if mlp else config.cnn_controls,
        extra_levels=config.extra_levels,
        longer=config.longer if mlp else 0,
    )
    yield plan
    if mlp and config.short:
        yield plan._replace(
            label=f"{network}-{SHORT}",
            epochs=epochs // config.short,
            rewind=_rewind(epochs // config.short),
            methods=("omp",),
            controls=("rr", "sdt"),
            longer=0,
        )


def recipe(config: Any, network: str) -> Recipe:
    """Returns the recipe of a network."""
    return Recipe(config.batch_size, NETWORKS[network].weight_decay)


def _rewind(epochs: int) -> int:
    """About 5 % of the training, as in the paper."""
    return max(1, round(0.05 * epochs))
