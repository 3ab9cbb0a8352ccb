"""Parallel grow-and-prune (P-GaP): every copy of a network grows another part.

A round makes kappa copies of a sparse network, grows group i of copy i to dense,
trains the copies independently, takes each group from the copy in which it was dense
and prunes it (arXiv 2106.09857, section 3). Copies lie along a leading axis, so they
train under `vmap`, or on one device each where that axis is sharded over a mesh.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from core import trees
from core.rules import Rules
from core.types import Array, PartialTree, PyTree
from gap.masks import apply_masks, targets
from gap.partitions import Partition
from gap.scope import Scope, scoped_masks


def grow_copies(
    params: PyTree, masks: PartialTree, partition: Partition
) -> tuple[PyTree, PartialTree]:
    """Returns a copy of a sparse network for every group, in which that group is dense.

    Args:
      params: the parameters.
      masks: a mask tree of `params`.
      partition: the groups.

    Returns:
      Parameters and masks with a leading axis of length kappa. Weights that grow are
      0; a mask without a group is the same in all copies.

    Raises:
      RuleError: a group with a path that `params` has not.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, 4.0])}
      >>> masks = {name: jnp.array([True, False]) for name in params}
      >>> copies, grown = grow_copies(params, masks, Partition((("a",), ("b",))))
      >>> copies["a"].tolist(), grown["a"].tolist()
      ([[1.0, 0.0], [1.0, 0.0]], [[True, True], [True, False]])
    """
    kappa = partition.kappa

    def stack(x: Array) -> Array:
        return jnp.broadcast_to(x, (kappa, *x.shape))

    def grow(own: int, mask: Array) -> Array:
        dense = jnp.arange(kappa).reshape(kappa, *(1 for _ in mask.shape)) == own
        return stack(mask) | dense

    grown = trees.map_partial(
        grow,
        partition.index(params),
        masks,
        absent=lambda mask: None if mask is None else stack(mask),
    )
    return jax.tree.map(stack, apply_masks(params, masks)), grown


def combine_copies(
    copies: PyTree, partition: Partition, owners: PyTree | None = None
) -> PyTree:
    """Returns one network, every leaf of it from the copy in which its group was dense.

    Biases and norms come from the same copy as the kernels of their layer, leaves
    outside of all layers from the first copy; statistics of batch norms may be combined
    by the same function, and are best measured anew.

    Args:
      copies: parameters, or another tree with such paths, with a leading axis of
        length kappa.
      partition: the groups.
      owners: the copy that each leaf comes from; `partition.owners(copies)` by default.

    Example:
      >>> import jax.numpy as jnp
      >>> copies = {"a": {"w": jnp.array([1, 2]), "bias": jnp.array([3, 4])}}
      >>> one = combine_copies(copies | {"b": jnp.array([5, 6])},
      ...                      Partition((("b",), ("a/w",))))
      >>> int(one["a"]["w"]), int(one["a"]["bias"]), int(one["b"])
      (2, 4, 5)
    """
    owners = partition.owners(copies) if owners is None else owners
    return jax.tree.map(lambda own, leaf: leaf[own], owners, copies)


def prune_back(
    params: PyTree, rules: Rules, *, scope: Scope = "layer"
) -> tuple[PyTree, PartialTree]:
    """Returns the parameters pruned by magnitude, and their masks.

    Args:
      params: the combined parameters.
      rules: pairs of a path regex and a density or `Target`.
      scope: "layer", or "global" for one threshold over all leaves.

    Raises:
      RuleError, InputError: as `targets`, and a pattern in the global scope.
    """
    wanted = targets(params, rules)
    masks = scoped_masks(wanted, jax.tree.map(jnp.abs, params), scope)
    return apply_masks(params, masks), masks


def parallel_round(
    train: Callable[..., PyTree],
    params: PyTree,
    masks: PartialTree,
    partition: Partition,
    rules: Rules,
    *per_copy: Any,
    scope: Scope = "layer",
    owners: PyTree | None = None,
) -> tuple[PyTree, PartialTree]:
    """One round of P-GaP: grow, train every copy, combine, prune.

    Statistics of batch norms are not parameters: measure them anew on the combined
    network, over some batches in training mode, since no copy has had its activations.

    Args:
      train: `train(params, masks, *args) -> params` of one copy, without side effects;
        it starts a fresh optimizer (see `masked`) and keeps to its masks.
      params: the parameters.
      masks: their masks; `random_masks` in the first round.
      partition: the groups.
      rules: pairs of a path regex and a density or `Target`.
      *per_copy: more arguments of `train` with a leading axis of length kappa, such as
        keys or batches.
      scope: as `prune_back`.
      owners: the copy that each leaf comes from, as `combine_copies`; where groups cut
        through a block, `partition.owners(params, [(".*/bn2/.*", 1)])` says whose
        norms are whose.

    Returns:
      The parameters, pruned, and their masks.
    """
    copies = grow_copies(params, masks, partition)
    trained = jax.vmap(train)(*copies, *per_copy)
    return prune_back(combine_copies(trained, partition, owners), rules, scope=scope)
