"""From the arrays of a search on a reduced network to the parts of a certificate."""

from collections.abc import Mapping, Sequence

import numpy as np

from core.types import ArrayLike
from verify.certificate.format import Leaf, RootLayer
from verify.reduce import Reduced


def crown_roots(sizes: Sequence[int]) -> tuple[RootLayer, ...]:
    """Returns root layers that bound all neurons by CROWN with adaptive slopes.

    Args:
      sizes: the number of neurons of each ReLU layer.
    """
    none, flat = np.zeros(0, np.int32), np.zeros((1, 0), np.float32)
    return tuple(
        RootLayer(
            k, np.arange(n, dtype=np.int32), (none,) * k, (flat,) * k, (flat,) * k
        )
        for k, n in enumerate(sizes)
    )


def alpha_roots(
    reduced: Reduced, slopes: Mapping[str, Sequence[ArrayLike]]
) -> tuple[RootLayer, ...]:
    """Returns root layers that bound a reduced network's neurons by alpha-CROWN.

    They come after `crown_roots`, within whose bounds the network was reduced: a layer
    may have several root layers, and bounds are intersected.

    Args:
      reduced: the network that was optimised.
      slopes: its `verify.alpha.AlphaState.slopes`.
    """
    roots = []
    for k, (neurons, size) in enumerate(zip(reduced.index, reduced.sizes, strict=True)):
        given = slopes.get(f"hidden{k}")
        if given is None or not len(neurons):
            continue
        lower, upper = [], []
        for own, columns in zip(given, reduced.index[:k], strict=True):
            own = np.asarray(own)[:, 0, : len(columns)]
            half = 1 if own.shape[0] == 2 else size
            count = 1 if half == 1 else len(neurons)
            lower.append(own[:count])
            upper.append(own[half : half + count])
        roots.append(
            RootLayer(k, neurons, tuple(reduced.index[:k]), tuple(lower), tuple(upper))
        )
    return tuple(roots)


def leaf(
    reduced: Reduced,
    clause: int,
    neurons: Sequence[int],
    signs: Sequence[int],
    alpha: np.ndarray,
    beta: np.ndarray,
    weights: np.ndarray | None,
) -> Leaf:
    """Returns a leaf of a search on a reduced network.

    Args:
      reduced: the network.
      clause: of the property.
      neurons: that were split, in order: positions among the padded neurons of all
        layers, one layer after the other.
      signs: of each, 1 or -1.
      alpha: lower slopes of all padded neurons, [n].
      beta: multipliers of all padded neurons, [n].
      weights: of the clause's rows.
    """
    starts = np.cumsum([0, *reduced.sizes])
    path = []
    for neuron, sign in zip(neurons, signs, strict=True):
        k = int(np.searchsorted(starts, neuron, side="right")) - 1
        path.append((k, int(reduced.index[k][neuron - starts[k]]), int(sign)))
    slopes = tuple(
        (ids, np.asarray(alpha[start : start + len(ids)]))
        for ids, start in zip(reduced.index, starts[:-1], strict=True)
    )
    multipliers = np.asarray(beta)[np.asarray(neurons, np.int64)]
    return Leaf(int(clause), tuple(path), slopes, multipliers, weights)
