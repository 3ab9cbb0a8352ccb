"""The networks of the training benchmark as others write them: flax and torch.

Same layers, same initial distribution, same optimizer and the same work per step:
draw a batch from uint8 images, normalise, forward, backward, update.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

MEAN, STD = 0.5, 0.25


class FlaxLeNet5(nn.Module):
    """LeNet-5 of `experiments.models` from flax's own layers."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits [n, 10] of images [n, 28, 28, 1]."""
        for features in (20, 50):
            x = nn.Conv(features, (5, 5), padding="VALID")(x)
            x = nn.relu(nn.max_pool(x, (2, 2), (2, 2)))
        x = nn.relu(nn.Dense(500)(x.reshape((x.shape[0], -1))))
        return nn.Dense(10)(nn.Dropout(0.5)(x, deterministic=not train))


class FlaxResNet20(nn.Module):
    """ResNet-20 of `experiments.models` from flax's own layers."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits [n, 10] of images [n, 32, 32, 3]."""

        def conv(x, features, stride):
            x = nn.Conv(features, (3, 3), stride, padding=1, use_bias=False)(x)
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = nn.relu(conv(x, 16, 1))
        for features in (16, 32, 64):
            for block in range(3):
                stride = 2 if block == 0 and features > 16 else 1
                y = nn.relu(conv(x, features, stride))
                y = conv(y, features, 1)
                if stride == 2:
                    side = features // 4
                    x = jnp.pad(x[:, ::2, ::2], ((0, 0),) * 3 + ((side, side),))
                x = nn.relu(x + y)
        return nn.Dense(10)(x.mean((1, 2)))


def torch_steps(
    name: str, images: np.ndarray, labels: np.ndarray, batch_size: int, steps: int
) -> Callable[[], None]:
    """Returns a call that trains `steps` batches with torch on one thread.

    Args:
      name: "lenet5" (Adam) or "resnet20" (SGD with momentum).
      images: uint8 [n, h, w, c].
      labels: int32 [n].
      batch_size: examples per step.
      steps: steps per call.

    Raises:
      ImportError: torch is not installed.
    """
    import torch

    torch.set_num_threads(1)
    functional = torch.nn.functional
    model = _torch_lenet5() if name == "lenet5" else _torch_resnet20()
    make = torch.optim.Adam if name == "lenet5" else _momentum
    optimizer = make(model.parameters(), lr=1e-3)
    data = torch.tensor(np.moveaxis(images, -1, 1).copy())
    targets = torch.tensor(labels.astype(np.int64))

    def run() -> None:
        order = torch.randperm(len(targets))
        for i in range(steps):
            chosen = order[i * batch_size : (i + 1) * batch_size]
            x = (data[chosen].float() / 255 - MEAN) / STD
            optimizer.zero_grad()
            functional.cross_entropy(model(x), targets[chosen]).backward()
            optimizer.step()

    return run


def _momentum(parameters: Any, lr: float) -> Any:
    import torch

    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


def _torch_lenet5() -> Any:
    from torch import nn as tnn

    return tnn.Sequential(
        tnn.Conv2d(1, 20, 5),
        tnn.MaxPool2d(2),
        tnn.ReLU(),
        tnn.Conv2d(20, 50, 5),
        tnn.MaxPool2d(2),
        tnn.ReLU(),
        tnn.Flatten(),
        tnn.Linear(800, 500),
        tnn.ReLU(),
        tnn.Dropout(0.5),
        tnn.Linear(500, 10),
    )


def _torch_resnet20() -> Any:
    from torch import nn as tnn
    from torch.nn import functional

    def conv(channels: int, features: int, stride: int) -> Any:
        return tnn.Sequential(
            tnn.Conv2d(channels, features, 3, stride, 1, bias=False),
            tnn.BatchNorm2d(features),
        )

    class Block(tnn.Module):
        def __init__(self, channels: int, features: int, stride: int) -> None:
            super().__init__()
            self.conv1 = conv(channels, features, stride)
            self.conv2 = conv(features, features, 1)
            self.side, self.stride = (features - channels) // 2, stride

        def forward(self, x: Any) -> Any:
            y = self.conv2(functional.relu(self.conv1(x)))
            if self.stride == 2:
                pad = (0, 0, 0, 0, self.side, self.side)
                x = functional.pad(x[:, :, ::2, ::2], pad)
            return functional.relu(x + y)

    blocks, channels = [], 16
    for features in (16, 32, 64):
        for i in range(3):
            stride = 2 if i == 0 and features > 16 else 1
            blocks.append(Block(channels, features, stride))
            channels = features
    return tnn.Sequential(
        conv(3, 16, 1),
        tnn.ReLU(),
        *blocks,
        tnn.AdaptiveAvgPool2d(1),
        tnn.Flatten(),
        tnn.Linear(64, 10),
    )
