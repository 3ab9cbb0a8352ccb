"""The networks, what shares a width, and a network at frozen widths."""

import dataclasses
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from core.rules import Rules
from core.types import Array
from experiments.rounding.networks import DigitsNet
from quant import CHANNEL, TENSOR, Per, bitwidth

GROUPS: dict[str, Rules] = {
    "tensor": [(".*/kernel", TENSOR)],
    "16": [
        ("linear/kernel", TENSOR),
        (".*/kernel", Per(group=16, group_axis=-1)),
    ],
    "channel": [(".*/kernel", CHANNEL)],
}
"""What shares a width, by name on the command line."""
RELAXATIONS: dict[str, bitwidth.Relaxation] = {
    "interpolation": bitwidth.Interpolation(),
    "step": bitwidth.RealStep(),
    "categorical": bitwidth.Categorical(),
}
"""How widths become real, by name on the command line: A, B, C."""


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network of 3x3 convolutions, a norm behind each, and a linear layer.

    Attributes:
      title: in the report.
      dataset: what it is trained on; None for the one that the config names.
      build: makes the module.
    """

    title: str
    dataset: str | None
    build: Callable[[], nn.Module]


NETWORKS = {
    "digits": Network("DigitsNet", None, DigitsNet),
    "cifar": Network(
        "six convolutions",
        "cifar10",
        lambda: DigitsNet(features=(16, 16, 16, 32, 32, 64)),
    ),
}


class Frozen:
    """A network at integer widths, called as a module is; gradients pass through.

    The widths are a collection: {"params", "batch_stats", "widths"}, so that one
    compiled epoch does for all of them.
    """

    def __init__(self, model: nn.Module, rules: Rules):
        self._model, self._rules = model, rules

    def apply(self, variables: Any, images: Array, train: bool = False, **how: Any):
        """Returns logits; while training, the collections that change too."""
        widths, stats = variables["widths"], variables["batch_stats"]
        params = bitwidth.with_widths(variables["params"], widths, self._rules)
        variables = {"params": params, "batch_stats": stats}
        if not train:
            return self._model.apply(variables, images)
        how["mutable"] = ["batch_stats"]
        logits, updated = self._model.apply(variables, images, train=True, **how)
        return logits, {**updated, "widths": widths}
