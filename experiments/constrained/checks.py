"""What experiments share: images held out, ADMM's residual, outputs that stay.

Removing what is masked leaves the real numbers as they are, but sums in another order:
float32 logits differ by some rounding, and where two of them are as near as that, so
may the prediction. What counts is therefore relative to the largest logit, and a
prediction counts as changed where its lead was above the tolerance.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import admm
from core.errors import check_range
from core.types import Array, ArrayLike
from experiments import data
from experiments.results import Row, mean_row
from experiments.training import TrainState

SAME = 1e-5
"""The largest difference of logits over the largest logit."""
NOTE = (
    f"Logits are the same up to {SAME:g} of the largest one: sums in another order. A "
    "prediction counts as changed where the logit that led did so by more than that."
)
"""Of reports with these rows."""


def residual(state: TrainState) -> dict[str, Array]:
    """Returns the relative residual of ADMM, inside a mask or not, to be watched.

    Near 0 the projection hardly changes a network; where much of it is left, that was
    magnitude pruning, or rounding, after all.
    """
    inner: Any = state.opt_state
    inner = inner if isinstance(inner, admm.ADMMState) else inner.inner
    return {"residual": admm.residuals(state.params, inner).relative}


def residual_rows(setting: str, results: Sequence[Mapping[str, Any]]) -> Iterable[Row]:
    """Yields the residual of results that have one."""
    left = [r["residual"] for r in results if "residual" in r]
    if left:
        metric = "relative residual of ADMM before its projection"
        yield mean_row(metric, setting, left)


class Same(NamedTuple):
    """How two networks differ on the same images.

    Attributes:
      difference: the largest of logits, over the largest magnitude of the first's.
      changed: predictions that differ where the first network's lead, over the same,
        is above `SAME`.
      differ: all predictions that differ.
    """

    difference: float
    changed: int
    differ: int


def compared(whole: ArrayLike, less: ArrayLike) -> Same:
    """Returns how the logits of two networks differ, [n, classes] each, on the host."""
    a, b = (np.asarray(x, np.float64) for x in (whole, less))
    size = max(float(np.abs(a).max()), float(np.finfo(np.float32).tiny))
    second, first = np.partition(a, -2, axis=-1)[:, -2:].T
    other = a.argmax(-1) != b.argmax(-1)
    clear = first - second > SAME * size
    far = float(np.abs(a - b).max()) / size
    return Same(far, int((other & clear).sum()), int(other.sum()))


def compared_on(
    images: np.ndarray,
    pixels: Callable[[Array], Array],
    whole: Callable[[Array], Array],
    less: Callable[[Array], Array],
    batch: int = 500,
) -> Same:
    """Returns how two networks differ on all images.

    Args:
      images: [n, ...], as a data set holds them.
      pixels: normalizes a batch of them.
      whole: the first network, from normalized images to logits.
      less: the other one.
      batch: images at once.
    """
    parts = []
    for first in range(0, len(images), batch):
        x = pixels(jnp.asarray(images[first : first + batch]))
        parts.append(compared(whole(x), less(x)))
    return joined(parts)


def joined(parts: Sequence[Same]) -> Same:
    """Returns how the networks differ over all of several batches."""
    far, changed, differ = zip(*parts, strict=True)
    return Same(max(far), sum(changed), sum(differ))


def equality_rows(
    what: str, setting: str, results: Sequence[Mapping[str, Any]]
) -> Iterable[Row]:
    """Yields the largest difference and the predictions that changed.

    Args:
      what: was done to the networks.
      setting: of the rows.
      results: over seeds, each with the fields of `Same`.
    """
    worst = max(r["difference"] for r in results)
    metric = f"largest difference of logits by {what}, over the largest logit"
    yield Row(metric, setting, worst, baseline=SAME, holds=worst <= SAME, check=True)
    changed = sum(r["changed"] for r in results)
    metric = f"predictions that {what} changes, beyond rounding"
    yield Row(metric, setting, changed, baseline=0, holds=changed == 0, check=True)
    differ = sum(r["differ"] for r in results)
    yield Row(f"predictions that {what} changes, all", setting, differ)


def splits(
    dataset: data.Dataset, examples: int, validation: int = 0
) -> tuple[data.Split, data.Split]:
    """Returns the images to train on, and those that accuracy is measured on.

    Args:
      dataset: both splits.
      examples: stratified training images; 0 means all.
      validation: training images to measure on instead of the test images, held out
        first; 0 means none.

    Raises:
      InputError: more images are to be held out, or left, than there are.
    """
    train, test = dataset.train, dataset.test
    if validation:
        check_range("--validation", validation, 1, len(train.labels) - 1)
        train, test = data.hold_out(train, validation, 0)
    if examples:
        train = data.subset(train, examples, 0)
    return train, test
