"""The variants that are compared, norms to fold, the penalty of depthwise kernels."""

import dataclasses
from collections.abc import Callable

import jax
import optax
from flax import linen as nn

from core import trees
from core.types import PyTree
from experiments.models.norm import BatchNorm
from experiments.models.separable import SmallMobileNetV1, SmallMobileNetV2
from experiments.rounding import networks as digits
from quant.normalization import Pairs


@dataclasses.dataclass(frozen=True)
class Variant:
    """A network, as it was published or changed step by step.

    Attributes:
      title: in the report.
      depthwise_norm: whether norm and activation are behind depthwise layers.
      activation: "relu6" or "relu".
      penalty: whether depthwise kernels have an L2 penalty.
      separable: whether it has depthwise layers at all.
      paper: top-1 in %, float and 8 bits: arXiv 1803.08607, ImageNet.
    """

    title: str
    depthwise_norm: bool = True
    activation: str = "relu6"
    penalty: bool = False
    separable: bool = True
    paper: tuple[float, float] | None = None

    @property
    def pairs(self) -> Pairs:
        """The layers and the norms behind them."""
        if not self.separable:
            return digits.PAIRS
        layers = ["conv1", "pointwise", "expand", "project"]
        layers += ["depthwise"] * self.depthwise_norm
        return [(rf"((?:.*/)?(?:{'|'.join(layers)}))", r"\1_bn")]

    @property
    def epsilon(self) -> float:
        """What its norms add to variances."""
        return SmallMobileNetV1.epsilon if self.separable else BatchNorm.epsilon

    def build(self, family: str, widths: tuple[int, ...], extra: int = 0) -> nn.Module:
        """Returns the network.

        Args:
          family: "v1" or "v2"; nothing to the contrast.
          widths: of the first convolution and the blocks.
          extra: more channels in depthwise layers.
        """
        if not self.separable:
            first, second = widths[:2]
            return digits.DigitsNet(features=(first, second, second, max(widths[:3])))
        kind: Callable[..., nn.Module] = FAMILIES[family]
        return kind(
            widths=widths,
            depthwise_norm=self.depthwise_norm,
            activation=self.activation,
            extra=extra,
        )


FAMILIES = {"v1": SmallMobileNetV1, "v2": SmallMobileNetV2}
VARIANTS = {
    "base": Variant("base", paper=(70.50, 1.80)),
    "bare": Variant("no norm in depthwise", False, paper=(70.55, 61.50)),
    "relu": Variant("+ ReLU", False, "relu", paper=(70.80, 67.80)),
    "l2": Variant("+ L2", False, "relu", True, paper=(70.77, 68.03)),
    "plain": Variant("no depthwise layers", separable=False, paper=(78.00, 76.92)),
}
"""By name on the command line; the paper's contrast is InceptionV3."""
REPAIRED = 45.73
"""Top-1 in % of the base at 8 bits with variances repaired, in the paper."""


def penalized(
    optimizer: optax.GradientTransformation, rest: float, depthwise: float
) -> optax.GradientTransformation:
    """Returns an optimizer whose gradients have those of L2 penalties.

    Penalties are factor * sum ||W||^2 / 2 over kernels.

    Args:
      optimizer: that takes the gradients.
      rest: factor of kernels that are not depthwise.
      depthwise: factor of those that are; the usual training exempts them.
    """

    def mask(wanted: bool) -> Callable[[PyTree], PyTree]:
        def of(params: PyTree) -> PyTree:
            names, _, treedef = trees.flatten(params)
            kernels = [n.endswith("/kernel") for n in names]
            is_depthwise = [n.endswith("depthwise/kernel") for n in names]
            pairs = zip(kernels, is_depthwise, strict=True)
            return jax.tree.unflatten(treedef, [k and d == wanted for k, d in pairs])

        return of

    return optax.chain(
        optax.masked(optax.add_decayed_weights(rest), mask(False)),
        optax.masked(optax.add_decayed_weights(depthwise), mask(True)),
        optimizer,
    )
