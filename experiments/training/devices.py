"""Where data and state lie: one device, or all local ones, data parallel."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from core.errors import ShapeError, describe
from experiments.data import Split

Tree = TypeVar("Tree")


def data_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh with the one axis "data".

    Args:
      devices: what to train on; None means every local device.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    return jax.make_mesh(
        (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
    )


def put(split: Split, mesh: Mesh | None = None) -> Split:
    """Returns a split whose arrays lie on the device, or on every device of a mesh.

    Args:
      split: images uint8 [n, h, w, c] and labels int [n].
      mesh: from `data_mesh`; every device gets all of it, for any may draw any image.

    Raises:
      ShapeError: not that, or as many labels as images.
    """
    images, labels = np.asarray(split.images), np.asarray(split.labels)
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or not np.issubdtype(labels.dtype, np.integer)
        or labels.shape != images.shape[:1]
    ):
        raise ShapeError(
            describe(
                f"images {images.dtype} {images.shape}, "
                f"labels {labels.dtype} {labels.shape}",
                "images uint8 [n, h, w, c] and as many integer labels [n]",
                "experiments.data.load returns such splits.",
            )
        )
    placed = replicate((images, labels.astype(np.int32)), mesh)
    return Split(*placed)


def replicate(tree: Tree, mesh: Mesh | None) -> Tree:
    """Returns the arrays on the default device, or a copy on each device of a mesh."""
    if mesh is None:
        return jax.device_put(tree)
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def constrain(tree: Tree, mesh: Mesh | None, *axes: str) -> Tree:
    """Inside `jit`: lays the leaves out along mesh axes; without any, replicates."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.lax.with_sharding_constraint(tree, sharding)
