"""The networks that are pruned: per-layer targets and multiply-accumulates."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from core import trees
from core.errors import check_range, unknown_name
from core.rules import Rules
from core.types import PyTree
from gap import Target


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network of the pruning literature.

    Attributes:
      name: on the command line.
      model: its name in `experiments.models`.
      title: as papers call it.
      targets: for each compression rate, the weights left in each layer's kernel, or
        the density of all layers.
      accuracy: the paper's accuracy in % after pruning, by rate.
      tolerance: points of accuracy that pruning may cost where the paper reports no
        loss, by rate.
      dense_floor: accuracy in % below which the dense network is no fair start.
      published: the rates whose counts in each layer the paper gives.
      reductions: the paper's reduction of weights, by rate.
    """

    name: str
    model: str
    title: str
    targets: Mapping[float, Mapping[str, int] | float]
    accuracy: Mapping[float, float]
    tolerance: Mapping[float, float]
    dense_floor: float
    published: tuple[float, ...]
    reductions: Mapping[float, float]

    def at(self, rate: float) -> str:
        """Returns the setting of a rate in reports."""
        target = self.targets[rate]
        # A density that is given may be an axis of a sweep: no name of a column.
        many = isinstance(target, Mapping)
        return f"{self.title}, {rate:.4g}x" if many else f"{self.title}, one density"

    def rules(self, rate: float) -> Rules:
        """Returns the rules that keep the published count in each layer.

        Args:
          rate: a key of `targets`.

        Raises:
          UnknownNameError: no allocation of that rate is known.
        """
        if rate not in self.targets:
            known = [f"{r:g}" for r in self.targets]
            raise unknown_name(f"rate of {self.title}", f"{rate:g}", known)
        target = self.targets[rate]
        if not isinstance(target, Mapping):
            return [(".*/kernel", Target(density=target))]
        return [(f"{layer}/kernel", Target(count=n)) for layer, n in target.items()]


LENET300 = Network(
    name="lenet300",
    model="lenet_300_100",
    title="LeNet-300-100",
    targets={
        12.0: {"fc1": 18_383, "fc2": 3_600, "fc3": 200},
        # 4, 7 and 12 %: the paper's as remembered.
        22.9: {"fc1": 9_408, "fc2": 2_100, "fc3": 120},
        40.0: {"fc1": 5_055, "fc2": 1_500, "fc3": 100},
        80.0: {"fc1": 2_352, "fc2": 900, "fc3": 75},
    },
    accuracy={},
    tolerance={22.9: 0.1},
    dense_floor=98.2,
    published=(22.9,),
    reductions={22.9: 22.9},
)
LENET5 = Network(
    name="lenet5",
    model="lenet5",
    title="LeNet-5",
    targets={
        # The allocation of the paper's 40.2x is not published.
        40.0: {"conv1": 125, "conv2": 3_000, "fc1": 7_000, "fc2": 585},
        # The paper's table: 20, 8, 0.9 and 7 %.
        71.2: {"conv1": 100, "conv2": 2_000, "fc1": 3_600, "fc2": 350},
    },
    accuracy={71.2: 99.2},
    tolerance={40.0: 0.15, 71.2: 0.3},
    dense_floor=99.0,
    published=(71.2,),
    reductions={40.0: 40.2, 71.2: 71.2},
)
NETWORKS = {n.name: n for n in (LENET300, LENET5)}


def uniform(network: Network, density: float) -> Network:
    """Returns `network` with one rate, at which every layer has this density.

    Raises:
      InputError: a density that keeps all weights, or may keep none of a layer.
    """
    remedy = "All weights are no pruning, and every layer needs some."
    check_range("--keep_ratio", density, 0.001, 0.999, remedy=remedy)
    return dataclasses.replace(
        network,
        targets={1 / density: density},
        accuracy={},
        tolerance={},
        published=(),
        reductions={},
    )


ALEXNET_KEPT = {
    # layer: (weights, multiply-accumulates, density of the 21x table)
    "conv1": (34_848, 105_415_200, 0.81),
    "conv2": (307_200, 223_948_800, 0.20),
    "conv3": (884_736, 149_520_384, 0.19),
    "conv4": (663_552, 112_140_288, 0.20),
    "conv5": (442_368, 74_760_192, 0.20),
    "fc6": (37_748_736, 37_748_736, 0.028),
    "fc7": (16_777_216, 16_777_216, 0.059),
    "fc8": (4_096_000, 4_096_000, 0.093),
}
"""AlexNet in Caffe's form (two groups in conv2, conv4, conv5), arXiv 1804.03294."""


def weights(params: PyTree) -> int:
    """Returns the number of kernel weights, the denominator of every rate."""
    return sum(layer["kernel"].size for layer in params.values() if "kernel" in layer)


def output_positions(model: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """Returns how often each layer's kernel is applied to one input.

    Args:
      model: a flax module; every layer with a kernel returns its output features last.
      shape: of one input, such as (28, 28, 1).

    Returns:
      For each layer that has a kernel, by its path, the number of output positions:
      height times width for a convolution, 1 for a dense layer.
    """

    def trace() -> tuple[Any, Any]:
        x = jnp.zeros((1, *shape), jnp.float32)
        variables = model.init(jax.random.key(0), x, train=False)
        _, state = model.apply(
            variables,
            x,
            train=False,
            capture_intermediates=True,
            mutable=["intermediates"],
        )
        return variables["params"], state["intermediates"]

    params, outputs = jax.eval_shape(trace)
    found = {}
    for path in trees.by_path(params):
        layer, _, last = path.rpartition("/")
        if last == "kernel":
            output = functools.reduce(
                lambda of, name: of[name], layer.split("/"), outputs
            )
            found[layer] = math.prod(output["__call__"][0].shape[1:-1])
    return found


def macs(left: Mapping[str, int], positions: Mapping[str, int]) -> int:
    """Returns the multiply-accumulates of one input.

    Args:
      left: non-zero weights by layer.
      positions: as `output_positions` gives.
    """
    return sum(count * positions[layer] for layer, count in left.items())
