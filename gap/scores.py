"""Scores: how much each weight matters, for any pattern and any method.

A score tree has the structure of the parameters; higher is kept. The functions here are
pure and jittable; `score_masks` turns their result into masks, and
`gap.global_magnitude_masks(scores, density, rules, score=lambda s: s)` into masks under
one threshold over all leaves, as SNIP and GraSP were published.

| score | formula | source |
|-------|---------|--------|
| `magnitude` | abs(w) | Han et al., arXiv 1506.02626 |
| `snip` | abs(w g) | Lee et al., arXiv 1810.02340 |
| `grasp` | w (H g) | Wang et al., arXiv 2002.07376 |
| `movement` | -w g, summed over steps | Sanh et al., arXiv 2005.07683 |
| `taylor` | abs(sum of w g over a group) | Molchanov et al., arXiv 1906.10771 |
| `activation_aware` | abs(w) norm(its input) | Sun et al., arXiv 2306.11695 |

`w` is a weight, `g` the gradient of the loss there and `H` the Hessian.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from core import trees
from core.errors import ShapeError, describe
from core.gemm import gemm_shape
from core.numerics import check_finite
from core.rules import Rules
from core.types import Array, PartialTree, PyTree
from gap.masks import targets
from gap.patterns import Target
from gap.patterns.coarse import grouped


def magnitude(params: PyTree) -> PyTree:
    """Returns `abs(w)`."""
    return jax.tree.map(jnp.abs, params)


def snip(params: PyTree, grads: PyTree) -> PyTree:
    """Returns `abs(w g)`, the change of the loss to first order if w is removed.

    Connection sensitivity (arXiv 1810.02340, equation 6) without the common factor.

    Args:
      params: a pytree of arrays, usually at initialisation.
      grads: the gradient of the loss there, over one or more batches.
    """
    return jax.tree.map(connection_sensitivity, params, grads)


def connection_sensitivity(w: Array, g: Array) -> Array:
    """Returns `abs(w g)`, the score of SNIP for one leaf, in the dtype of w."""
    return jnp.abs(w * g.astype(w.dtype))


def grasp(loss: Callable[..., Array], params: PyTree, *args: object) -> PyTree:
    """Returns `w (H g)`, how much of the gradient's norm is lost with w.

    Removing w changes `norm(g)**2` by `-2 w (H g)` to first order. The paper calls
    `-w (H g)` the score and removes the weights where it is highest (arXiv 2002.07376,
    equation 8 and algorithm 1); here, as everywhere, higher is kept. `H g` is one
    forward derivative of the gradient, about the cost of two gradients.

    Args:
      loss: `loss(params, *args)` to a scalar. (The paper divides logits by 200.)
      params: a pytree of floating-point arrays.
      *args: what else the loss takes, such as a batch.

    Example:
      >>> import jax.numpy as jnp
      >>> loss = lambda p: jnp.sum(jnp.array([1.0, 3.0]) * p["w"] ** 2) / 2
      >>> grasp(loss, {"w": jnp.array([2.0, 1.0])})["w"].tolist()
      [4.0, 9.0]
    """

    def gradient(p: PyTree) -> PyTree:
        return jax.grad(loss)(p, *args)

    g = gradient(params)
    _, curved = jax.jvp(gradient, (params,), (g,))
    return jax.tree.map(jnp.multiply, params, curved)


def movement(params: PyTree, grads: PyTree) -> PyTree:
    """Returns `-w g`, one step's part of the movement score: does w move from 0?

    The score is the sum over steps (arXiv 2005.07683, equation 3): `accumulate`.
    """
    return jax.tree.map(lambda w, g: -w * g.astype(w.dtype), params, grads)


def accumulate(total: PyTree, scores: PyTree, decay: float = 1.0) -> PyTree:
    """Returns `decay * total + scores`, for scores that are summed over steps.

    Args:
      total: the sum so far; start with zeros like the parameters.
      scores: those of this step.
      decay: the factor on the past; 1 for a plain sum.
    """
    return jax.tree.map(lambda t, s: decay * t + s.astype(t.dtype), total, scores)


def taylor(params: PyTree, grads: PyTree, rules: Rules = ()) -> PyTree:
    """Returns the first-order change of the loss when a whole group is removed.

    A group S has the importance `(sum of w g over S)**2` (arXiv 1906.10771, equation
    8): changes of both signs cancel in it. Each of its n weights gets `abs(sum) /
    sqrt(n)`, since a pattern adds up the squares of scores and so ranks groups by the
    paper's importance. Without a group the score is `abs(w g)`: the paper's order, and
    SNIP's score. SNIP's score of a group differs, for nothing cancels in it.

    Args:
      params: a pytree of arrays.
      grads: the gradient of the loss there, over one or more batches.
      rules: those that `score_masks` will get. Leaves with a target of `Filter`,
        `Channel`, `Shape` or `Block` have its groups, all others single weights.

    Raises:
      RuleError, InputError: as `gap.targets`.

    Example, a filter whose weights cancel and one whose weights do not:
      >>> import jax.numpy as jnp
      >>> from gap.patterns import Filter, Target
      >>> params = {"w": jnp.array([[3.0, 1.0], [-3.0, 1.0]])}
      >>> rules = [("w", Target(0.5, pattern=Filter()))]
      >>> grads = {"w": jnp.ones((2, 2))}
      >>> score_masks(taylor(params, grads, rules), rules)["w"][0].tolist()
      [False, True]
    """

    def score(target: Target, change: Array) -> Array:
        return jnp.abs(grouped(target.pattern, change))

    change = jax.tree.map(lambda w, g: w * g.astype(w.dtype), params, grads)
    return trees.map_partial(score, targets(params, rules), change, absent=jnp.abs)


def input_norms(
    x: Array,
    kernel_shape: tuple[int, ...],
    *,
    strides: Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    feature_group_count: int = 1,
) -> Array:
    """Returns the norm of every input of a kernel over all the samples it met.

    For a convolution an input is a window position of a feature, and its norm runs
    over all output positions. Norms of several batches add up in squares.

    Args:
      x: the layer's input, [..., in] for a dense kernel, else [batch, *space, in].
      kernel_shape: (in, out), or (*window, in, out) in flax layout.
      strides: of the convolution; 1 by default.
      padding: of the convolution.
      feature_group_count: groups of a grouped or depthwise convolution.

    Returns:
      float32, (*kernel_shape[:-1], 1), or `kernel_shape` for a grouped convolution.

    Raises:
      ShapeError: `x` does not fit the kernel.
    """
    view = gemm_shape(kernel_shape)
    space = len(view.window)
    fits = x.shape[-1:] == (view.in_features * feature_group_count,)
    if not fits or (space and x.ndim != space + 2):
        raise ShapeError(
            describe(
                f"an input of shape {x.shape} for a kernel {tuple(kernel_shape)}",
                "input features last, and [batch, *space, in] for a convolution",
            )
        )
    squares = jnp.square(x.astype(jnp.float32))
    if not space:
        return jnp.sqrt(squares.reshape(-1, view.in_features).sum(0))[:, None]
    outputs = 1 if feature_group_count == 1 else kernel_shape[-1]
    letters = "DHW"[-space:] if space <= 3 else None
    if letters is None:
        raise ShapeError(describe(f"a window of {space} axes", "at most three"))

    def total(kernel: Array) -> Array:
        y = lax.conv_general_dilated(
            squares,
            kernel,
            strides or (1,) * space,
            padding if isinstance(padding, str) else list(padding),
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
            feature_group_count=feature_group_count,
        )
        return y.sum()

    # The weight of a kernel entry in the summed output is the sum of what it met.
    start = jnp.zeros((*kernel_shape[:-1], outputs), jnp.float32)
    return jnp.sqrt(jax.grad(total)(start))


def activation_aware(params: PyTree, norms: PartialTree) -> PyTree:
    """Returns `abs(w)` times the norm of the input that w multiplies.

    Wanda (arXiv 2306.11695, equation 1). It ranks the inputs of one output among each
    other: `BankBalanced` with a bank as long as the inputs, or `NM`, does that.

    Args:
      params: a pytree of arrays.
      norms: for the leaves concerned, an array of `input_norms`, one of shape [rows of
        the GEMM view], or one of the kernel's shape; `None` for leaves to be scored
        by magnitude.

    Raises:
      ShapeError: norms that do not fit their kernel.
    """

    def score(norm: Array, w: Array) -> Array:
        view = gemm_shape(w.shape)
        if jnp.shape(norm) == w.shape:
            scale = jnp.asarray(norm)
        elif jnp.size(norm) == view.rows:
            scale = jnp.reshape(norm, (*w.shape[:-1], 1))
        else:
            raise ShapeError(
                describe(
                    f"input norms of shape {jnp.shape(norm)} for a kernel {w.shape}",
                    f"{view.rows} norms, one for each row of the GEMM view",
                )
            )
        return jnp.abs(w) * scale.astype(w.dtype)

    return trees.map_partial(score, norms, params, absent=jnp.abs)


def score_masks(scores: PyTree, rules: Rules) -> PartialTree:
    """Returns masks that keep the best units of each leaf by given scores.

    Args:
      scores: a score tree, higher is kept; -inf ranks last and +inf first.
      rules: pairs of a path regex and a density in [0, 1] or a `Target`.

    Returns:
      A mask tree; each mask keeps exactly `Target.kept(leaf.shape)` units.

    Raises:
      RuleError, InputError: as `gap.targets`.
      NonFiniteError: NaN in the scores of a leaf that a rule matches.

    Example, SNIP at initialisation:
      >>> import jax, jax.numpy as jnp
      >>> params = {"w": jnp.array([3.0, 1.0]), "b": jnp.zeros(1)}
      >>> grads = jax.grad(lambda p: p["w"][0] + 9 * p["w"][1])(params)
      >>> score_masks(snip(params, grads), [("w", 0.5)])["w"].tolist()
      [False, True]
    """
    wanted = targets(scores, rules)
    numbers = trees.map_partial(
        lambda _, s: jnp.where(jnp.isinf(s), jnp.zeros_like(s), s), wanted, scores
    )
    check_finite(numbers, "scores")
    return trees.map_partial(
        lambda t, s: t.pattern.mask(s, t.kept(s.shape)), wanted, scores
    )


SCORES = {
    "magnitude": magnitude,
    "snip": snip,
    "grasp": grasp,
    "movement": movement,
    "taylor": taylor,
    "activation_aware": activation_aware,
}
"""Every score by name."""
