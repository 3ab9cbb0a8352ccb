"""What an attack may do and wants, and what it found."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError, ShapeError, check_range, describe
from core.types import Array, ArrayLike
from zo.base import known


class AttackResult(NamedTuple):
    """What an attack found.

    Attributes:
      images: the attacked images, like the given ones: the first that succeeded, or the
        last that were tried; of a decision attack the nearest.
      success: whether every one of them is wrong (or of the target), by the margin that
        was asked for, bool [].
      fraction: share of the images for which that is so, [].
      queries: images shown to the network, int32 []; at most the budget.
      first: queries up to and with the one that showed success; -1 without it.
      failures: images shown whose answers were not finite, int32 []: no success. Of a
        change for several all count whose loss was not finite.
      l2: distance of each image from the given one, [b].
      linf: the largest change of a pixel, [b].
    """

    images: Array
    success: Array
    fraction: Array
    queries: Array
    first: Array
    failures: Array
    l2: Array
    linf: Array


@dataclasses.dataclass(frozen=True)
class Threat:
    """What an attack may do and wants.

    Attributes:
      targeted: whether the labels given are wanted, rather than to be left.
      low: least value of a pixel.
      high: its largest.
      radius: most change of a pixel; None for any within the box.
      kappa: margin by which an image is to be wrong, in logits.
      distance: weight of the squared l2 distance in the loss.

    Raises:
      InputError: out of range.
    """

    targeted: bool = False
    low: float = 0.0
    high: float = 1.0
    radius: float | None = None
    kappa: float = 0.0
    distance: float = 0.0

    def __post_init__(self):
        check_range("high", self.high, self.low, low_open=True)
        check_range("kappa", self.kappa, 0.0)
        check_range("distance", self.distance, 0.0)
        if self.radius is not None:
            check_range("radius", self.radius, 0.0, low_open=True)

    def lead(self, logits: Array, labels: Array) -> Array:
        """Returns the margin of logits [..., classes], [...], which is to be negative.

        It is the label's logit less the largest of the others, or the reverse if the
        label is wanted; NaN for a label that is no class, or where any logit is not
        finite: such an answer failed.
        """
        classes = logits.shape[-1]
        fits = (labels >= 0) & (labels < classes)
        own = jnp.take_along_axis(logits, jnp.where(fits, labels, 0)[..., None], -1)
        good = fits & jnp.isfinite(logits).all(-1)
        own = jnp.where(good, own[..., 0], jnp.nan)
        is_own = jax.nn.one_hot(labels, classes, dtype=jnp.bool_)
        other = jnp.where(is_own, -jnp.inf, logits).max(-1)
        return other - own if self.targeted else own - other

    def margin(self, logits: Array, labels: Array) -> Array:
        """Returns the loss of logits [..., classes], [...]: max(margin, -kappa)."""
        return jnp.maximum(self.lead(logits, labels), -self.kappa)

    def succeeds(self, logits: Array, labels: Array) -> Array:
        """Returns whether the attack has what it wants, bool [...].

        The class is wrong (or the wanted one) and the margin is at most -kappa. Logits
        of which any is not finite are no success.
        """
        wrong = self.wrong(logits.argmax(-1), labels)
        return wrong & (self.lead(logits, labels) <= -self.kappa)

    def wrong(self, classes: Array, labels: Array) -> Array:
        """Returns whether classes are what the attack wants, bool."""
        return (classes == labels) if self.targeted else (classes != labels)

    def placed(self, images: Array, change: Array) -> Array:
        """Returns images with a change, within the box and the radius."""
        if self.radius is not None:
            change = jnp.clip(change, -self.radius, self.radius)
        return jnp.clip(images + change, self.low, self.high)

    def batch(self, images: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
        """Returns images [b, h, w, c] and labels [b], of one without the b too.

        Raises:
          ShapeError: other shapes.
          InputError: labels that are no integers, or negative; images that are not
            finite or outside of the box; as far as they are known.
        """
        if known(labels) and np.any(np.asarray(labels) < 0):
            raise InputError(describe(f"labels {labels}", "classes, from 0"))
        self.check_images(images)
        images, labels = jnp.asarray(images), jnp.asarray(labels)
        if images.ndim == 3:
            images, labels = images[None], labels[None]
        if images.ndim != 4 or labels.shape != images.shape[:1] or not images.size:
            given = f"images of {images.shape} and labels of {labels.shape}"
            wanted = "[h, w, c] and [], or [b, h, w, c] and [b]"
            raise ShapeError(describe(given, wanted))
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise InputError(describe(f"labels of {labels.dtype}", "integers"))
        return images, labels

    def check_images(self, images: ArrayLike) -> None:
        """Raises `InputError` unless images, if they are known, are in the box."""
        if not known(images) or not np.size(images):
            return
        pixels = np.asarray(images)
        if not np.all((self.low <= pixels) & (pixels <= self.high)):
            given = f"pixels from {pixels.min():g} to {pixels.max():g}"
            remedy = "Give the threat the network's own range."
            wanted = f"numbers in [{self.low:g}, {self.high:g}]"
            raise InputError(describe(given, wanted, remedy))


UNTARGETED = Threat()
"""Any wrong class, any change within [0, 1]."""


def check_labels(labels: ArrayLike, classes: int) -> None:
    """Raises `InputError` unless labels, if they are known, are below `classes`."""
    if known(labels) and np.any(np.asarray(labels) >= classes):
        given = f"labels up to {np.max(np.asarray(labels))}"
        raise InputError(describe(given, f"one of the {classes} classes, from 0"))


def l2_between(found: Array, images: Array) -> Array:
    """Returns the l2 distances [b] of images [b, h, w, c]."""
    change = (found - images).reshape(len(images), -1)
    return jnp.sqrt(jnp.square(change).sum(1))


def result(
    images: Array,
    found: Array,
    wrong: Array,
    *,
    queries: Array,
    first: Array,
    failures: Array,
    single: bool,
) -> AttackResult:
    """Returns the result of images [b, h, w, c] that became `found`.

    Args:
      images: as given.
      found: likewise, attacked.
      wrong: which of them succeeded, bool [b].
      queries: see `AttackResult`.
      first: see `AttackResult`; kept where all succeeded.
      failures: see `AttackResult`.
      single: whether one image was given.
    """
    success = wrong.all()
    return AttackResult(
        images=found[0] if single else found,
        success=success,
        fraction=wrong.astype(images.dtype).mean(),
        queries=queries,
        first=jnp.where(success, first, -1),
        failures=failures,
        l2=l2_between(found, images),
        linf=jnp.abs(found - images).reshape(len(images), -1).max(1),
    )
