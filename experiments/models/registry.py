"""The table of networks and the function that builds one by name."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from flax import linen as nn

from core.errors import InputError, check_range, nearest, unknown_name
from experiments.models.convnet import ConvNet
from experiments.models.lenet import LeNet5, LeNet300
from experiments.models.mobilenet import MobileNetV2
from experiments.models.recurrent import RecurrentClassifier
from experiments.models.resnet import ResNet
from experiments.models.vgg import VGG


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """One network of the registry.

    Attributes:
      build: makes the module from its attributes.
      input_shape: shape of one input, without the batch axis.
      parameters: number of parameters with 10 classes on that input.
      summary: what it is, in one line.
      source: where architecture and count come from.
    """

    build: Callable[..., nn.Module]
    input_shape: tuple[int, ...]
    parameters: int
    summary: str
    source: str


_DIGIT = (28, 28, 1)
_COLOUR = (32, 32, 3)
_HE = "arXiv 1512.03385, section 4.2 and table 6"
_KUANGLIU = "github.com/kuangliu/pytorch-cifar"

MODELS: Mapping[str, ModelInfo] = MappingProxyType(
    {
        "lenet_300_100": ModelInfo(
            LeNet300,
            _DIGIT,
            266_610,
            "two hidden layers of 300 and 100 units, for digits",
            "LeCun et al. 1998; arXiv 1510.00149, table 2 (266K weights)",
        ),
        "lenet5": ModelInfo(
            LeNet5,
            _DIGIT,
            431_080,
            "Caffe's LeNet-5: 430,500 weights and 580 biases, for digits",
            "arXiv 1804.03294, table 1 (430.5K weights); Caffe examples/mnist/lenet",
        ),
        "convnet": ModelInfo(
            ConvNet,
            _COLOUR,
            122_570,
            "three convolutions and two dense layers, for small colour images",
            "tensorflow.org/tutorials/images/cnn",
        ),
        "resnet20": ModelInfo(
            partial(ResNet, depth=20), _COLOUR, 269_722, "ResNet of 20 layers", _HE
        ),
        "resnet32": ModelInfo(
            partial(ResNet, depth=32), _COLOUR, 464_154, "ResNet of 32 layers", _HE
        ),
        "resnet56": ModelInfo(
            partial(ResNet, depth=56), _COLOUR, 853_018, "ResNet of 56 layers", _HE
        ),
        "vgg16": ModelInfo(
            VGG,
            _COLOUR,
            14_728_266,
            "VGG-16 with batch norm and one linear layer, for small images",
            f"arXiv 1409.1556, table 1; {_KUANGLIU} (VGG16)",
        ),
        "mobilenetv2": ModelInfo(
            MobileNetV2,
            _COLOUR,
            2_296_922,
            "MobileNetV2 with less striding, for small images",
            f"arXiv 1801.04381, table 2; {_KUANGLIU} (MobileNetV2)",
        ),
        "lstm": ModelInfo(
            partial(RecurrentClassifier, cell="lstm"),
            (28, 28),
            81_674,
            "an LSTM of 128 units over a sequence, such as the rows of a digit",
            "Hochreiter and Schmidhuber 1997",
        ),
        "gru": ModelInfo(
            partial(RecurrentClassifier, cell="gru"),
            (28, 28),
            61_706,
            "a GRU of 128 units over a sequence, such as the rows of a digit",
            "arXiv 1406.1078",
        ),
    }
)
"""Every network by name, in the order of the manual."""


def create(name: str, num_classes: int = 10, **attributes: Any) -> nn.Module:
    """Returns the network of that name.

    Args:
      name: a key of `MODELS`.
      num_classes: number of logits, at least 1.
      **attributes: attributes of the module, such as `dtype=jnp.bfloat16` (every
        network has it) or `dropout_rate=0.0`.

    Raises:
      UnknownNameError: there is no such network.
      InputError: the network has no such attribute, or no class is asked for.

    Example:
      >>> create("lenet5", num_classes=26, dropout_rate=0.2).num_classes
      26
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    check_range("num_classes", num_classes, low=1)
    build = MODELS[name].build
    known = _attributes(build)
    for attribute in attributes:
        if attribute not in known:
            near = nearest(attribute, known) or known
            raise InputError(
                f"model {name!r} has no attribute {attribute!r}; "
                f"did you mean {', '.join(near)}?"
            )
    return build(num_classes=num_classes, **attributes)


def _attributes(build: Callable[..., nn.Module]) -> list[str]:
    """Returns the attributes that a caller may set: not those the row has fixed."""
    fixed = build.keywords if isinstance(build, partial) else {}
    module: Any = build.func if isinstance(build, partial) else build
    names = [field.name for field in dataclasses.fields(module)]
    return [n for n in names if n not in {"parent", "name", *fixed}]
