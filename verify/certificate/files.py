"""Certificates as .npz files, without pickles."""

import itertools
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DataFormatError, describe
from verify.certificate.format import BoxLeaf, Certificate, Leaf, RootLayer

MAX_BYTES = 8 << 30
"""The most that the arrays of a file may take in memory."""


def save(certificate: Certificate, path: str | Path) -> None:
    """Writes a certificate as a compressed .npz file.

    Args:
      certificate: any.
      path: of the file; it is named exactly so.
    """
    arrays = _pack(certificate)
    with Path(path).open("wb") as file:
        np.savez_compressed(file, **arrays)


def load(path: str | Path) -> Certificate:
    """Reads a certificate; what it says is not checked.

    Args:
      path: of a file that `save` wrote.

    Raises:
      DataFormatError: no such file, or one that is damaged or hostile.
    """
    try:
        arrays = _read(Path(path))
        return _unpack(arrays)
    except DataFormatError:
        raise
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        OverflowError,
        MemoryError,
        RuntimeError,
        NotImplementedError,
        SyntaxError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataFormatError(
            f"{path}: {describe(f'{type(error).__name__}: {error}', 'a certificate')}"
        ) from error


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file whose sizes are what their headers say."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > MAX_BYTES:
            raise DataFormatError(f"{path}: more than {MAX_BYTES} bytes of arrays")
        for member in members:
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                if version not in ((1, 0), (2, 0)):
                    raise ValueError(f"array format {version}")
                reader = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, fortran, dtype = reader(file)
                if dtype.kind not in "iufU" or fortran:
                    raise ValueError(f"an array of {dtype}")
                count = 1
                for n in shape:
                    count *= n
                if count * dtype.itemsize > member.file_size:
                    raise ValueError(f"shape {shape} of {member.file_size} bytes")
                data = file.read(count * dtype.itemsize)
                array = np.frombuffer(data, dtype, count)
                found[member.filename.removesuffix(".npy")] = array.reshape(shape)
    return found


def _pack(certificate: Certificate) -> dict[str, Any]:
    leaves: Any = certificate.leaves
    arrays: dict[str, Any] = {
        "version": np.asarray(certificate.version),
        "kind": np.asarray(certificate.kind),
        "digest": np.asarray(certificate.digest),
        "clause": np.asarray([leaf.clause for leaf in leaves], np.int32),
        "depth": np.asarray([len(leaf.path) for leaf in leaves], np.int32),
    }
    path = [cut for leaf in leaves for cut in leaf.path]
    threshold = np.float64 if certificate.kind == "input" else np.int32
    for name, column, dtype in (
        ("first", 0, np.int32),
        ("second", 1, threshold),
        ("side", 2, np.int8),
    ):
        arrays[name] = np.asarray([cut[column] for cut in path], dtype)
    weights = [() if leaf.weights is None else leaf.weights for leaf in leaves]
    _pack_rows(arrays, "weights", weights)
    if certificate.kind == "relu":
        _pack_rows(arrays, "beta", [leaf.beta for leaf in leaves])
    layers = max((len(leaf.slopes) for leaf in leaves), default=0)
    arrays["layers"] = np.asarray(layers)
    for k in range(layers):
        for part, name in enumerate(("ids", "values")):
            rows = [leaf.slopes[k][part] if leaf.slopes else () for leaf in leaves]
            _pack_rows(arrays, f"slopes{k}_{name}", rows)
    arrays["roots"] = np.asarray([len(root) for root in certificate.roots], np.int32)
    for at, root in enumerate(itertools.chain.from_iterable(certificate.roots)):
        arrays[f"root{at}_layer"] = np.asarray(root.layer)
        arrays[f"root{at}_neurons"] = np.asarray(root.neurons)
        for name in ("columns", "lower", "upper"):
            for j, array in enumerate(getattr(root, name)):
                arrays[f"root{at}_{name}{j}"] = np.ascontiguousarray(array)
    return arrays


def _pack_rows(arrays: dict[str, Any], name: str, rows: list[Any]) -> None:
    rows = [np.asarray(row) for row in rows]
    arrays[f"{name}_lengths"] = np.asarray([row.size for row in rows], np.int32)
    filled = [row for row in rows if row.size]  # an empty one has no type of its own
    arrays[name] = np.concatenate(filled) if filled else np.zeros(0, np.int32)


def _rows(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    return _cut(arrays[name], arrays[f"{name}_lengths"], name)


def _cut(array: np.ndarray, lengths: np.ndarray, name: str) -> list[np.ndarray]:
    """Consecutive rows of an array, which they must fill."""
    if array.ndim != 1 or lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise ValueError(f"{name}: of shape {array.shape}")
    if (lengths < 0).any() or int(lengths.sum(dtype=np.int64)) != array.size:
        raise ValueError(f"{name}: lengths that do not sum to {array.size}")
    stops = np.cumsum(lengths, dtype=np.int64).tolist()
    return [array[b - n : b] for b, n in zip(stops, lengths.tolist(), strict=True)]


def _unpack(arrays: Mapping[str, np.ndarray]) -> Certificate:
    kind = str(arrays["kind"])
    if kind not in ("relu", "input"):
        raise DataFormatError(describe(f"kind {kind!r}", "'relu' or 'input'"))
    depth = arrays["depth"]
    columns = [_cut(arrays[name], depth, name) for name in ("first", "second", "side")]
    paths = [
        tuple(zip(*(part.tolist() for part in parts), strict=True))
        for parts in zip(*columns, strict=True)
    ]
    clauses = arrays["clause"].tolist()
    weights = [row if row.size else None for row in _rows(arrays, "weights")]
    slopes = [
        zip(
            _rows(arrays, f"slopes{k}_ids"),
            _rows(arrays, f"slopes{k}_values"),
            strict=True,
        )
        for k in range(int(arrays["layers"]))
    ]
    per_leaf = list(zip(*slopes, strict=True)) if slopes else [()] * len(clauses)
    if kind == "input":
        leaves: Any = tuple(
            BoxLeaf(*each)
            for each in zip(clauses, paths, weights, per_leaf, strict=True)
        )
    else:
        beta = _rows(arrays, "beta")
        leaves = tuple(
            Leaf(*each)
            for each in zip(clauses, paths, per_leaf, beta, weights, strict=True)
        )
    return Certificate(
        kind,  # pyright: ignore[reportArgumentType]
        str(arrays["digest"]),
        leaves,
        _unpack_roots(arrays),
        int(arrays["version"]),
    )


def _unpack_roots(arrays: Mapping[str, np.ndarray]) -> tuple:
    at, roots = itertools.count(), []
    for length in arrays["roots"].tolist():
        layers = []
        for _ in range(length):
            name = f"root{next(at)}"
            k = int(arrays[f"{name}_layer"])
            if not 0 <= k <= len(arrays):
                raise ValueError(f"{name}: layer {k}")
            columns, lower, upper = (
                tuple(arrays[f"{name}_{part}{j}"] for j in range(k))
                for part in ("columns", "lower", "upper")
            )
            neurons = arrays[f"{name}_neurons"]
            layers.append(RootLayer(k, neurons, columns, lower, upper))
        roots.append(tuple(layers))
    return tuple(roots)
