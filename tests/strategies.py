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
