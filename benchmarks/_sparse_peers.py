"""Sparse matrix products of scipy and torch, as calls for the benchmark."""

from collections.abc import Callable
from typing import Any

import numpy as np


def scipy_csr(matrix: np.ndarray, xs: np.ndarray) -> Callable[[], np.ndarray]:
    """Returns the products of a matrix in scipy's CSR format.

    Args:
      matrix: float32 [cols, rows] with zeros.
      xs: float32 [inner, rows, b].
    """
    from scipy import sparse

    packed = sparse.csr_matrix(matrix)
    return lambda: np.stack([packed @ x for x in xs])


def torch_csr(matrix: np.ndarray, xs: np.ndarray) -> Callable[[], Any] | None:
    """Returns the products of a matrix in torch's CSR format; None without torch.

    Args:
      matrix: float32 [cols, rows] with zeros.
      xs: float32 [inner, rows, b].
    """
    try:
        import torch
    except ImportError:
        return None
    import warnings

    with warnings.catch_warnings():  # "in beta state"
        warnings.simplefilter("ignore")
        packed = torch.from_numpy(matrix.copy()).to_sparse_csr()
    inputs = [torch.from_numpy(x.copy()) for x in xs]
    return lambda: np.stack([(packed @ x).numpy() for x in inputs])
