"""STR: thresholds that are trained with the weights (Kusupati et al., 2002.03231).

The network computes with `sign(w) * relu(|w| - sigmoid(a))`, where a is one trainable
number for each leaf. Weight decay on w and a, and where a starts, decide the density;
no budget is met exactly. Thresholds are parameters, so any optimizer trains them:

    thresholds = gap.init_thresholds(params, [(".*/kernel", True)], value=-5.0)

    def loss(both, batch):
        return objective(gap.thresholded(*both), batch)

    grads = jax.grad(loss)((params, thresholds), batch)

Afterwards `threshold_masks` says what is left, and `masked` fine-tunes it.
"""

import jax
import jax.numpy as jnp

from core import trees
from core.rules import Rules
from core.types import Array, PartialTree, PyTree
from gap.masks import chosen


def soft_threshold(w: Array, a: Array) -> Array:
    """Returns `sign(w) * relu(|w| - sigmoid(a))` (arXiv 2002.03231, equation 4).

    Args:
      w: [...], floating.
      a: [], the same dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> soft_threshold(jnp.array([1.0, -0.25, -2.0]), jnp.array(0.0)).tolist()
      [0.5, -0.0, -1.5]
    """
    return jnp.sign(w) * jax.nn.relu(jnp.abs(w) - jax.nn.sigmoid(a))


def init_thresholds(params: PyTree, rules: Rules, value: float = -5.0) -> PartialTree:
    """Returns the number `a` of every leaf that a rule selects, `None` elsewhere.

    Args:
      params: a pytree of arrays.
      rules: pairs of a path regex and True, or `None` for leaves without a threshold.
      value: where all start; sigmoid(-5) is 0.0067.

    Raises:
      RuleError: a rule that matches no leaf.
      InputError: a spec that is neither True nor None.
    """
    return trees.map_partial(
        lambda _, w: jnp.full((), value, w.dtype), chosen(params, rules), params
    )


def thresholded(params: PyTree, thresholds: PartialTree) -> PyTree:
    """Returns the parameters that the network computes with.

    Args:
      params: the parameters.
      thresholds: as `init_thresholds` gives.
    """
    return trees.map_partial(
        lambda a, w: soft_threshold(w, a), thresholds, params, absent=trees.keep_rest
    )


def threshold_masks(params: PyTree, thresholds: PartialTree) -> PartialTree:
    """Returns masks of the weights that are above their threshold."""
    return trees.map_partial(
        lambda a, w: jnp.abs(w) > jax.nn.sigmoid(a), thresholds, params
    )
