"""Batch norm's parameters: folded into kernels, repaired, and read as ranges.

Batch norm says what comes out of it: channel n of its output is close to a normal
variable of mean beta and deviation |gamma|. So the range of a ReLU's output, and its
mean, are known without data (arXiv 2202.07471; 1906.04721).

Variables are flax's, {"params", "batch_stats"}: kernels `kernel` (output channels
last, depthwise ones too), norms `scale`, `bias`, `mean`, `var`.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from core import trees
from core.errors import InputError, RuleError, ShapeError, check_range, describe
from core.numerics import check_finite
from core.types import Array, ArrayLike, PyTree
from quant.calibration import Scaling, symmetric
from quant.formats import Format
from quant.formats.base import check_bits
from quant.quantizers import numbers

Pairs = Sequence[tuple[str, str]]
"""(path regex of layers, path of the norm behind each, with back-references)."""
MULTIPLIERS = ((4, 12.0), (6, 14.0), (8, 25.0))
"""Clip of activations in deviations, by bits: arXiv 2202.07471."""
SIGNED_SHARE = 1.25
"""By this the clips of signed tensors are smaller, as its authors released it."""


def fold_batch_norm(variables: PyTree, pairs: Pairs, eps: float = 1e-5) -> PyTree:
    r"""Returns variables whose kernels do what their batch norms did.

        variables = fold_batch_norm(variables, [(r"(.*)conv(\d)", r"\1bn\2")])

    alpha = gamma / sqrt(var + eps); the kernel is scaled by alpha along its last axis.
    The norm stays, for the module to evaluate unchanged, and adds beta + alpha *
    (bias - mean) alone: its scale is 1, its mean 0, and var + eps is 1 exactly. A bias
    of the layer becomes 0. A norm without `bias` has minus the sum as its mean.

    Args:
      variables: {"params", "batch_stats"}, floating point.
      pairs: first match wins; paths are those of modules within params.
      eps: what the norms add to the variance. Another one than in training changes
        channels of small variance tenfold.

    Raises:
      RuleError: a pattern that matches no layer with a kernel, or is none; a norm that
        is not there, or has two layers.
      ShapeError: a norm of another number of channels than its layer.
      InputError: variables without the two collections.
      NonFiniteError: NaN or infinity in arrays that are not traced.
    """
    check_range("eps", eps, 0.0, 1.0, low_open=True)
    if not {"params", "batch_stats"} <= set(variables):
        raise InputError(
            describe(f"variables with {sorted(variables)}", "params and batch_stats")
        )
    names, leaves, treedef = trees.flatten(variables)
    found = dict(zip(names, leaves, strict=True))
    for layer, norm in norms_of(variables["params"], pairs).items():
        _check_norm(found, layer, norm)
        found |= _folded(found, layer, norm, eps)
    return jax.tree.unflatten(treedef, [found[name] for name in names])


def norms_of(params: PyTree, pairs: Pairs) -> dict[str, str]:
    """Returns the path of the norm behind every layer that a pair names.

    Raises:
      RuleError: as `fold_batch_norm`, but for norms that are not there.
    """
    known = [name[: -len("/kernel")] for name in trees.paths(params) if _is(name)]
    found: dict[str, str] = {}
    for pattern, target in pairs:
        try:
            matches = {n: m for n in known if (m := re.fullmatch(pattern, n))}
            paths = {n: m.expand(target) for n, m in matches.items()}
        except (re.error, IndexError) as error:
            given = f"the pair {pattern!r}, {target!r} ({error})"
            wanted = "a regular expression and a template of its groups"
            raise RuleError(describe(given, wanted)) from error
        if not paths:
            wanted = "the path of at least one layer with a kernel"
            hint = f"There are {', '.join(known[:5]) or 'none'}."
            given = f"pattern {pattern!r}, which matches none"
            raise RuleError(describe(given, wanted, hint))
        found = {**paths, **found}
    twice = [norm for norm in found.values() if list(found.values()).count(norm) > 1]
    if twice:
        raise RuleError(
            describe(f"{twice[0]} behind two layers", "a norm for each", "See `pairs`.")
        )
    return found


def _is(name: str) -> bool:
    return name.endswith("/kernel")


def _check_norm(found: dict[str, Array], layer: str, norm: str) -> None:
    stats = [f"batch_stats/{norm}/{leaf}" for leaf in ("mean", "var")]
    missing = [name for name in stats if name not in found]
    if missing:
        hint = [n.split("/", 1)[1] for n in found if n.startswith("batch_stats/")]
        near = ", ".join(dict.fromkeys(n.rsplit("/", 1)[0] for n in hint))
        given = f"no {missing[0]} for {layer}"
        raise RuleError(describe(given, "the path of a batch norm", f"Norms: {near}."))
    channels = found[f"params/{layer}/kernel"].shape[-1:]
    parts = [*stats, f"params/{norm}/scale", f"params/{norm}/bias"]
    for name in parts:
        if name in found and found[name].shape != channels:
            given = f"{name} of shape {found[name].shape}"
            raise ShapeError(describe(given, f"the {channels} of {layer}/kernel"))
    check_finite({name: found[name] for name in parts if name in found}, norm)


def _folded(
    found: dict[str, Array], layer: str, norm: str, eps: float
) -> dict[str, Array]:
    """The leaves of a layer and of its norm after folding."""
    paths = {
        "kernel": f"params/{layer}/kernel",
        "offset": f"params/{layer}/bias",
        "scale": f"params/{norm}/scale",
        "bias": f"params/{norm}/bias",
        "mean": f"batch_stats/{norm}/mean",
        "var": f"batch_stats/{norm}/var",
    }
    leaves = {part: found[path] for part, path in paths.items() if path in found}
    old = {part: numbers(leaf, paths[part]) for part, leaf in leaves.items()}
    zero, one = jnp.zeros_like(old["var"]), jnp.ones_like(old["var"])
    alpha = old.get("scale", one) / jnp.sqrt(old["var"] + eps)
    bias = old.get("bias", zero) + alpha * (old.get("offset", zero) - old["mean"])
    new = {
        "kernel": old["kernel"]
        * alpha.reshape((1,) * (old["kernel"].ndim - 1) + (-1,)),
        "offset": zero,
        "scale": one,
        "bias": bias,
        "mean": zero if "bias" in old else -bias,
        # The sum of a rounded 1 - eps and eps is 1: both errors are half an ulp.
        "var": one - eps,
    }
    return {paths[part]: new[part].astype(leaf.dtype) for part, leaf in leaves.items()}


def repair_variance(batch_stats: PyTree, relative: float = 1e-2) -> PyTree:
    """Returns statistics without the variances of dead channels (arXiv 1803.08607).

    A variance below `relative` times the median becomes the mean of the others. The
    median is that of the variances above 0, so that dead channels may be the majority.
    A norm with none above 0 stays as it is.

    Args:
      batch_stats: a tree with leaves `var`, [channels]; other leaves stay.
      relative: 0 repairs nothing.

    Raises:
      NonFiniteError: NaN or infinity in statistics that are not traced.
    """
    check_range("relative", relative, 0.0, 1.0)
    check_finite(batch_stats, "batch_stats")
    names, leaves, treedef = trees.flatten(batch_stats)

    def repaired(var: Array) -> Array:
        least = relative * jnp.nanmedian(jnp.where(var > 0, var, jnp.nan))
        healthy = var >= least  # nowhere, if the median is NaN
        count = jnp.maximum(healthy.sum(), 1).astype(var.dtype)
        mean = jnp.where(healthy, var, jnp.zeros_like(var)).sum() / count
        return jnp.where(healthy | ~healthy.any(), var, mean)

    out = [
        repaired(jnp.asarray(leaf)) if name.split("/")[-1] == "var" else leaf
        for name, leaf in zip(names, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, out)


class Rectified(NamedTuple):
    """What a ReLU makes of normal variables, each [channels].

    Attributes:
      mean: E[y] of y = max(x, 0).
      square: E[y**2].
      share: P(y > 0).
    """

    mean: Array
    square: Array
    share: Array

    @property
    def var(self) -> Array:
        """The variance of y."""
        return jnp.maximum(self.square - lax.square(self.mean), 0)


def rectified(mean: ArrayLike, deviation: ArrayLike) -> Rectified:
    """Returns the moments of max(x, 0) for normal x, exactly.

    With t = mean / deviation: E[y] = mean * Phi(t) + deviation * phi(t), E[y**2] =
    (mean**2 + deviation**2) * Phi(t) + mean * deviation * phi(t).

    Args:
      mean: of x, floating point, such as beta of a batch norm.
      deviation: of x, such as its gamma; the sign does not matter. At 0, y is constant.
    """
    mean, deviation = numbers(mean, "means"), jnp.abs(numbers(deviation, "deviations"))
    flat = deviation == 0
    t = mean / jnp.where(flat, jnp.ones_like(deviation), deviation)
    below = lax.erfc(-t * math.sqrt(0.5)) / 2
    share = jnp.where(flat, (mean > 0).astype(t.dtype), below)
    density = jnp.exp(-lax.square(t) / 2) * (deviation / math.sqrt(2 * math.pi))
    first = jnp.maximum(mean * share + density, 0)
    spread = lax.square(mean) + lax.square(deviation)
    return Rectified(first, jnp.maximum(spread * share + mean * density, 0), share)


def clip_multiplier(bits: int) -> float:
    """Returns how many deviations a clip is at: 12, 14, 25 at 4, 6, 8 bits.

    Elsewhere by straight lines in (bits, log multiplier), the outer ones continued: a
    step is the clip over 2**bits, so ratios are what compares.
    """
    check_bits("bits", bits, 1, 16)
    widths, values = zip(*MULTIPLIERS, strict=True)
    at = min(max(int(np.searchsorted(widths, bits)), 1), len(widths) - 1)
    share = (bits - widths[at - 1]) / (widths[at] - widths[at - 1])
    return float(values[at - 1] * (values[at] / values[at - 1]) ** share)


def activation_clip(
    mean: ArrayLike,
    deviation: ArrayLike,
    bits: int,
    *,
    signed: bool = False,
    reach: float = 4.0,
) -> Array:
    """Returns the range of a tensor without data: it ends at alpha, of shape [].

    alpha = s * sigma with s = `clip_multiplier(bits)` and sigma the standard deviation
    of the tensor's positive entries, all channels together; below 6 bits at most its
    largest entry (arXiv 2202.07471, "Activations"). Nothing bounds a normal variable:
    as largest entry counts mean + reach * deviation of any channel.

    Args:
      mean: of each channel before the ReLU, [channels]; see `rectified`.
      deviation: of each channel before the ReLU.
      bits: of the format.
      signed: there is no ReLU: sigma is that of all entries, and alpha is 1.25 times
        smaller; the range begins at -alpha.
      reach: 4 is passed by one entry in 30,000.
    """
    check_range("reach", reach, 0.0, low_open=True)
    mean, deviation = numbers(mean, "means"), jnp.abs(numbers(deviation, "deviations"))
    if signed:
        spread = lax.square(mean) + lax.square(deviation)
        first, second, most = mean.mean(), spread.mean(), jnp.abs(mean)
    else:
        out = rectified(mean, deviation)
        count = jnp.maximum(out.share.sum(), jnp.finfo(mean.dtype).tiny)
        first, second, most = out.mean.sum() / count, out.square.sum() / count, mean
    sigma = jnp.sqrt(jnp.maximum(second - lax.square(first), 0))
    alpha = clip_multiplier(bits) / (SIGNED_SHARE if signed else 1.0) * sigma
    largest = jnp.maximum((most + reach * deviation).max(), 0)
    return jnp.minimum(alpha, largest) if bits < 6 else alpha


def activation_scaling(
    mean: ArrayLike, deviation: ArrayLike, fmt: Format, *, reach: float = 4.0
) -> Scaling:
    """Returns the scaling of a tensor without data, [] each; see `activation_clip`.

    The clip is the largest level; a format without a sign is for what a ReLU left. A
    tensor without a range gets scale 1.
    """
    clip = activation_clip(mean, deviation, fmt.bits, signed=fmt.signed, reach=reach)
    return symmetric(clip / fmt.max)


class CaseFit(NamedTuple):
    """E[x x^T] as a sum of a diagonal, a constant a kernel, and a constant.

    Attributes:
      element: the diagonal, [K, N].
      kernel: of pairs within a window, [N]; 0 where K = 1.
      channel: of all pairs, []; 0 where N = 1.
      cosine: between E[x x^T] and the sum, [].
      pairs: the same without the diagonal, which is always met; NaN for one element.
    """

    element: Array
    kernel: Array
    channel: Array
    cosine: Array
    pairs: Array


def second_moment(x: ArrayLike) -> Array:
    """Returns E[x x^T] of layer inputs [samples, K, N] as [K, N, K, N]."""
    x = numbers(x, "inputs")
    return jnp.tensordot(x, x, (0, 0)) / x.shape[0]


def case_fit(x: ArrayLike) -> CaseFit:
    """Returns the least-squares fit of SQuant's approximation to layer inputs.

    Args:
      x: inputs of one output number each, [samples, K, N]: K places of the window, N
        input channels; K = 1 for dense layers.
    """
    return fit_moment(second_moment(x))


def fit_moment(moment: Array) -> CaseFit:
    """Returns `case_fit` of the inputs that have a second moment [K, N, K, N]."""
    places, channels = moment.shape[:2]
    size = places * channels
    h = moment.transpose(1, 0, 3, 2).reshape(size, size)
    at = jnp.arange(size)
    same = at[:, None] == at[None]
    near = (at[:, None] // places == at[None] // places) & ~same
    far = ~(near | same)
    none = jnp.zeros_like(h)
    others = max(size * size - channels * places**2, 1)
    channel = jnp.where(far, h, none).sum() / others
    rows = jnp.where(near, h, none).sum(1).reshape(channels, places).sum(1)
    inside = rows / max(places * (places - 1), 1)
    kernel = inside - channel if places > 1 else jnp.zeros_like(inside)
    constant = jnp.repeat(kernel, places) + channel
    element = jnp.diagonal(h) - constant
    fitted = jnp.where(near, constant[:, None], jnp.where(far, channel, none))
    rest = jnp.where(same, none, h)
    whole = jnp.where(same, h, fitted)
    return CaseFit(
        element.reshape(channels, places).T,
        kernel,
        channel,
        _cosine(h, whole),
        _cosine(rest, fitted),
    )


def _cosine(a: Array, b: Array) -> Array:
    return jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))
