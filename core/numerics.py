"""Finite checks at the boundary between a user's arrays and our methods."""

import jax
import jax.numpy as jnp

from core import trees
from core.errors import NonFiniteError, describe
from core.types import PyTree


def check_finite(tree: PyTree, what: str) -> None:
    """Raises unless every floating-point element of `tree` is finite.

    Meant for boundaries: it waits for the arrays and reads one flag a leaf. A
    tree that is being traced has no values yet and passes.

    Args:
      tree: a pytree of arrays.
      what: what the tree is called in the message, such as 'params'.

    Raises:
      NonFiniteError: naming the leaves that hold NaN or infinity.
    """
    floats = {
        name: leaf
        for name, leaf in trees.by_path(tree).items()
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    }
    flags = {name: jnp.isfinite(leaf).all() for name, leaf in floats.items()}
    try:
        bad = [name for name, flag in jax.device_get(flags).items() if not flag]
    except jax.errors.ConcretizationTypeError:  # traced: no values yet
        return
    if bad:
        raise NonFiniteError(
            describe(
                f"{what} with NaN or infinity in {', '.join(bad[:5])}"
                + (f" and {len(bad) - 5} more" if len(bad) > 5 else ""),
                "finite numbers",
                "Look for a diverged training run or a damaged file.",
            )
        )
