"""Smaller images, the same in every experiment that trains on them."""

import numpy as np

from core.errors import InputError, describe
from experiments.data import Split


def shrunk(split: Split, factor: int) -> Split:
    """Returns a split of which every `factor` x `factor` pixels became their mean.

    Means are rounded to whole pixel values, halves up.

    Args:
      split: uint8 images [n, h, w, c].
      factor: pixels of a square each way; 1 leaves images alone.

    Raises:
      InputError: a factor that does not divide height and width.
    """
    if factor == 1:
        return split
    n, h, w, c = split.images.shape
    if h % factor or w % factor:
        raise InputError(f"factor: {describe(factor, f'a divisor of {h} and {w}')}")
    squares = split.images.reshape(n, h // factor, factor, w // factor, factor, c)
    means = np.floor(squares.mean((2, 4), dtype=np.float32) + np.float32(0.5))
    return Split(means.astype(np.uint8), split.labels)
