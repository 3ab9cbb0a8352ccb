"""Sparse matrix products of scipy and torch, as calls for the benchmark."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def scipy_csr(
    matrices: Sequence[np.ndarray], xs: np.ndarray
) -> Callable[[], list[np.ndarray]]:
    """Returns the products of matrices in scipy's CSR format, one with each input.

    Args:
      matrices: float32 [cols, rows] each, with zeros.
      xs: float32 [inner, rows, b].
    """
    from scipy import sparse

    packed = [sparse.csr_matrix(matrix) for matrix in matrices]
    return lambda: [m @ x for m, x in zip(packed, xs, strict=True)]


def torch_csr(
    matrices: Sequence[np.ndarray], xs: np.ndarray
) -> Callable[[], Any] | None:
    """Returns the products of matrices in torch's CSR format; None without torch.

    Args:
      matrices: float32 [cols, rows] each, with zeros.
      xs: float32 [inner, rows, b].
    """
    try:
        import torch
    except ImportError:
        return None
    import warnings

    with warnings.catch_warnings():  # "in beta state"
        warnings.simplefilter("ignore")
        packed = [torch.from_numpy(m.copy()).to_sparse_csr() for m in matrices]
    inputs = [torch.from_numpy(x.copy()) for x in xs]
    # `.numpy()` shares memory: no copy of the results is timed.
    return lambda: [(m @ x).numpy() for m, x in zip(packed, inputs, strict=True)]
