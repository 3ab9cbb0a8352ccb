"""optax's own arithmetic mixes dtypes; this confines the permission to it."""

import jax
import optax


def relaxed(inner: optax.GradientTransformation):
    """Returns `inner` with its own code under standard dtype promotion."""
    inner = optax.with_extra_args_support(inner)

    def init(params):
        with jax.numpy_dtype_promotion("standard"):
            return inner.init(params)

    def update(updates, state, params=None, **extra):
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)
