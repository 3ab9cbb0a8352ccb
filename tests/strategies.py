"""Shared hypothesis strategies: arrays and small parameter trees."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

names = st.sampled_from(["fc1", "fc2", "conv1", "head", "block_0"])


def floats(dtype=np.float32, bound=100.0):
    """Finite floats that squares and sums stay finite for."""
    width = np.dtype(dtype).itemsize * 8
    return st.floats(-bound, bound, width=width, allow_subnormal=False)


# A handful of shapes, so that compilations are shared between examples.
SHAPES = {1: [(1,), (4,)], 2: [(1, 3), (6, 5)], 3: [(2, 3, 4)]}


def arrays(dtype=np.float32, min_dims=1, max_dims=3):
    """Small arrays of finite numbers."""
    shapes = [s for d in range(min_dims, max_dims + 1) for s in SHAPES[d]]
    return st.sampled_from(shapes).flatmap(
        lambda shape: hnp.arrays(dtype, shape, elements=floats(dtype))
    )


def trees(dtype=np.float32):
    """Parameter trees such as {'fc1': {'kernel': ..., 'bias': ...}}."""
    layer = st.fixed_dictionaries(
        {"kernel": arrays(dtype, min_dims=2), "bias": arrays(dtype, max_dims=1)}
    )
    return st.dictionaries(names, layer, min_size=1, max_size=3)


def boxes(shape):
    """Boxes as (lower, upper), float32: of many sizes, some sides of length zero."""
    radii = st.sampled_from([0.0, 1e-6, 0.01, 0.1, 0.5])

    def make(seed, radius, share):
        rng = np.random.default_rng(seed)
        center = rng.normal(size=shape)
        spread = radius * rng.uniform(0.2, 1, shape) * (rng.uniform(size=shape) < share)
        ends = (
            (center - spread).astype(np.float32),
            (center + spread).astype(np.float32),
        )
        return ends

    return st.builds(make, seeds, radii, st.sampled_from([0.3, 1.0]))


seeds = st.integers(0, 2**31 - 1)
