"""The networks of the experiments, in flax linen.

| name          | input      | parameters | what                                       |
| ------------- | ---------- | ---------- | ------------------------------------------ |
| lenet_300_100 | 28 x 28    | 266,610    | 300 and 100 hidden units                   |
| lenet5        | 28 x 28    | 431,080    | Caffe's LeNet-5, the pruning benchmark     |
| convnet       | 32 x 32    | 122,570    | three convolutions, no batch norm          |
| resnet20      | 32 x 32    | 269,722    | He et al. 2015 for CIFAR, option A         |
| resnet32      | 32 x 32    | 464,154    | the same, 32 layers                        |
| resnet56      | 32 x 32    | 853,018    | the same, 56 layers                        |
| vgg16         | 32 x 32    | 14,728,266 | 13 convolutions with batch norm, 1 linear  |
| mobilenetv2   | 32 x 32    | 2,296,922  | kuangliu's CIFAR form                      |
| lstm, gru     | time x d   | 81,674 / 61,706 | a recurrent layer, linear on the last |

`MODELS` is this table with sources; `create` builds from it. Every network is called
in one way, takes inputs that are already normalised, and returns float32 logits:

    model = create("resnet20", num_classes=10, dtype=jnp.bfloat16)
    variables = model.init(key, jnp.zeros((1, 32, 32, 3)))
    logits = model.apply(variables, images)                        # evaluation
    logits, updates = model.apply(                                 # training
        variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )

`dtype` is the type of the computation; parameters and running statistics stay
float32. Networks without batch norm have no `batch_stats`; those without dropout do
not need the key. Parameter paths read like the architecture: `conv1/kernel`,
`fc1/bias`, `layer2_0/bn1/scale`, `lstm1/hf/kernel`.

`load_pretrained("resnet20")` returns trained variables (`PRETRAINED` lists them) for
images normalised with `PRETRAINED_MEAN` and `PRETRAINED_STD`; `from_torch` converts
other torch weights of these architectures. `layers` (convolution, pooling) and `norm`
(batch norm) have flax's interface and values and are fast on CPU.

`SmallMobileNetV1` and `SmallMobileNetV2` are for experiments on few bits: depthwise
layers with or without norm and activation, ReLU6 or ReLU.

References: LeCun et al. 1998; arXiv 1409.1556 (VGG), 1512.03385 (ResNet), 1801.04381
(MobileNetV2), 1406.1078 (GRU); Hochreiter and Schmidhuber 1997 (LSTM).
"""

from experiments.models.convnet import ConvNet
from experiments.models.lenet import REFERENCE_INIT, LeNet5, LeNet300
from experiments.models.mobilenet import MobileNetV2
from experiments.models.pretrained import (
    PRETRAINED,
    PRETRAINED_MEAN,
    PRETRAINED_STD,
    from_torch,
    load_pretrained,
)
from experiments.models.recurrent import RecurrentClassifier
from experiments.models.registry import MODELS, ModelInfo, create
from experiments.models.resnet import ResNet
from experiments.models.separable import SmallMobileNetV1, SmallMobileNetV2
from experiments.models.vgg import VGG

__all__ = [
    "MODELS",
    "PRETRAINED",
    "PRETRAINED_MEAN",
    "PRETRAINED_STD",
    "REFERENCE_INIT",
    "VGG",
    "ConvNet",
    "LeNet5",
    "LeNet300",
    "MobileNetV2",
    "ModelInfo",
    "RecurrentClassifier",
    "ResNet",
    "SmallMobileNetV1",
    "SmallMobileNetV2",
    "create",
    "from_torch",
    "load_pretrained",
]
