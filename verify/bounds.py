"""Bounds of a specification by name of the method: the function to lift."""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp

from core.errors import InputError, ShapeError, describe
from core.types import Array, PyTree
from verify import alpha as va
from verify import crown
from verify.network import Network, network
from verify.properties import Spec
from verify.regions import Region, outward
from verify.types import Bounds

Method = Literal["interval", "crown-ibp", "crown", "alpha-crown", "beta-crown"]
METHODS = ("interval", "crown-ibp", "crown", "alpha-crown", "beta-crown")


def bound(
    fn: Callable[[PyTree, Array], Array],
    params: PyTree,
    region: Region,
    spec: Spec | None = None,
    method: Method = "crown",
    *,
    crown_config: crown.CrownConfig = crown.CrownConfig(),  # noqa: B008 - frozen
    alpha_config: va.AlphaConfig = va.AlphaConfig(),  # noqa: B008 - frozen
    built: Network | None = None,
    splits: va.Splits | None = None,
) -> Bounds:
    """Returns bounds of C y + d, y = fn(params, x), for all x in a region.

    Sound up to the rounding of the type that it computes in. Works under `jit`, `vmap`
    over regions, and `grad` with respect to `params` (certified training) for every
    method.

    Args:
      fn: any JAX function of affine operators and those with a relaxation.
      params: a pytree of arrays.
      region: boxes and balls of x, of x's shape.
      spec: rows C [S, n] and d [S] of the flat output; the outputs themselves if left
        out.
      method: "interval" arithmetic; "crown-ibp", a backward pass over intervals
        (arXiv 1906.06316); "crown", backward passes for the hidden bounds too
        (arXiv 1811.00866); "alpha-crown", with optimised relaxations (arXiv
        2011.13824); or "beta-crown", over the part of the region where neurons have
        the signs of `splits` (arXiv 2103.06624).
      crown_config: of hidden bounds.
      alpha_config: of the optimisation.
      built: `verify.network(fn, params, x)`, to trace only once.
      splits: for "beta-crown", from ReLU nodes of `built.nonlinear` to the signs
        demanded of their operands, int8 of the operand's shape.

    Returns:
      `Bounds` of shape [S].

    Raises:
      GraphError: an operator that is neither affine nor has a relaxation.
      InputError: an unknown method, or slopes beyond `alpha.LIMIT` bytes.
      ShapeError: a specification that does not fit the output.
    """
    if method not in METHODS:
        wanted = f"one of {', '.join(METHODS)}"
        raise InputError(f"method: {describe(repr(method), wanted)}")
    example = jnp.asarray(region.lower)
    net = network(fn, params, example) if built is None else built
    size = 1
    for n in net.output.shape:
        size *= n
    if spec is None:
        spec = Spec(jnp.eye(size), jnp.zeros(size))
    if spec.C.shape[-1] != size:
        raise ShapeError(describe(f"C of {spec.C.shape}", f"[S, {size}] for this fn"))
    dtype = net.input.dtype
    inside = outward(region, dtype)
    C, d = jnp.asarray(spec.C, dtype), jnp.asarray(spec.d, dtype)
    both: Any = Spec(jnp.concatenate([C, -C]), jnp.concatenate([d, -d]))
    if splits and (method != "beta-crown" or built is None):
        given = f"splits with method={method!r}, built={built}"
        raise InputError(describe(given, "method='beta-crown' and their network"))
    configs = (crown_config, alpha_config)
    least = _least(net, net.prepare(params), inside, both, method, configs, splits)
    rows = C.shape[0]
    return Bounds(least[:rows], -least[rows:])


def _least(
    net: Network,
    weights: Any,
    region: Region,
    spec: Any,
    method: str,
    configs: tuple[crown.CrownConfig, va.AlphaConfig],
    splits: va.Splits | None,
) -> Array:
    """Lower bounds of the rows."""
    if method in ("alpha-crown", "beta-crown"):
        va.check_size(net, spec.C.shape[0], configs[1])
    if method == "interval":
        return crown.interval_bound(net, weights, region, spec)
    passes = method != "crown-ibp"
    hidden = crown.hidden_bounds(
        net, weights, region, configs[0], backward_passes=passes
    )
    if method in ("alpha-crown", "beta-crown"):
        return va.optimize(
            net, weights, region, spec, hidden, configs[1], splits=splits
        ).lower
    return crown.spec_bound(net, weights, region, spec, hidden)
