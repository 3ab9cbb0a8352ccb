"""The operators, by group; importing this package registers all of them."""

from graph.onnx.operators import (
    activations,
    arithmetic,
    constants,
    convolution,
    dense,
    indexing,
    normalization,
    pooling,
    reductions,
    resizing,
    shapes,
)

__all__ = [
    "activations",
    "arithmetic",
    "constants",
    "convolution",
    "dense",
    "indexing",
    "normalization",
    "pooling",
    "reductions",
    "resizing",
    "shapes",
]
