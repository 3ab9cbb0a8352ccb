"""Pretrained CIFAR-10 ResNets: npz files with torch's names and layouts.

Layouts differ in three ways: convolutions are OIHW in torch and HWIO here, linear
weights [out, in] and [in, out], and batch norm's running statistics are parameters'
neighbours in torch and a collection of their own here.
"""

import dataclasses
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from core.errors import (
    DataFormatError,
    DataUnavailableError,
    describe,
    nearest,
    unknown_name,
)
from core.types import PyTree
from experiments.folders import data_root
from experiments.models.registry import MODELS, create

PRETRAINED_MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)
"""Subtract from RGB in [0, 1]: the constants of ImageNet, not of CIFAR-10."""
PRETRAINED_STD: tuple[float, float, float] = (0.229, 0.224, 0.225)
"""Then divide by this."""


@dataclasses.dataclass(frozen=True)
class PretrainedInfo:
    """One file of pretrained weights.

    Attributes:
      model: the network's name in `MODELS`.
      file: the file's name.
      clean: correct ones of the 200 lossless test images beside the weights.
      jpeg: accuracy on the CIFAR-10 test split whose pixels went through JPEG.
      summary: what it is, in one line.
    """

    model: str
    file: str
    clean: int
    jpeg: float
    summary: str


PRETRAINED: Mapping[str, PretrainedInfo] = MappingProxyType(
    {
        "resnet20": PretrainedInfo(
            "resnet20",
            "cifar10_resnet20.npz",
            185,
            0.8103,
            "the published ResNet-20 (91.73 % on original pixels)",
        ),
        "resnet20_jpeg": PretrainedInfo(
            "resnet20",
            "cifar10_resnet20_jpeg.npz",
            185,
            0.8751,
            "the same, tuned on training images that went through JPEG",
        ),
        "resnet56": PretrainedInfo(
            "resnet56",
            "cifar10_resnet56.npz",
            189,
            0.8320,
            "the published ResNet-56 (93.39 % on original pixels)",
        ),
    }
)
"""Trained weights by name: github.com/akamaster/pytorch_resnet_cifar10 at d5489e8."""

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "bias"): "bias",
    ("params", "scale"): "weight",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}


def load_pretrained(
    path_or_name: str | Path, data_dir: str | Path | None = None
) -> PyTree:
    """Returns trained variables, {"params", "batch_stats"}, float32.

    Inputs are RGB in [0, 1], minus `PRETRAINED_MEAN`, divided by `PRETRAINED_STD`.

    Args:
      path_or_name: a key of `PRETRAINED`, or the path of an .npz file with a ResNet
        of `MODELS` in torch's names.
      data_dir: the folder that holds the files of `PRETRAINED`; by default
        `pretrained` in the folder that LATHE_DATA names (../shared/data beside the
        repository if it is not set).

    Raises:
      UnknownNameError: neither a name nor a path.
      DataUnavailableError: there is no such file.
      DataFormatError: the file is damaged, or holds other names, shapes or types
        than the network.
    """
    path, model = _locate(path_or_name, data_dir)
    arrays = _read(path)
    if model is None:
        model = _recognise(arrays, path)
    shape = MODELS[model].input_shape
    return from_torch(arrays, create(model), shape, source=f"{path} as {model}")


def from_torch(
    arrays: Mapping[str, np.ndarray],
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    source: str = "the arrays",
) -> PyTree:
    """Returns the variables of `model` from arrays in torch's names and layouts.

    `layer1.0.conv1.weight` [out, in, h, w] becomes params/layer1_0/conv1/kernel
    [h, w, in, out]; `num_batches_tracked` is left out. A dense layer behind a
    flattened image would need its rows permuted too: no such network is meant here.

    Args:
      arrays: torch's state dict as numpy arrays.
      model: a network of convolutions, batch norm and one linear layer.
      input_shape: shape of one input, without the batch axis.
      source: what to call the arrays in an error.

    Raises:
      DataFormatError: names, shapes or types are not those of `model`, or a value
        is not finite.
    """
    like = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, *input_shape), jnp.float32)
    )
    leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    names = [_torch_name([key.key for key in path]) for path, _ in leaves]
    given = [name for name in arrays if not name.endswith("num_batches_tracked")]
    _check_names(names, given, source)
    return jax.tree.unflatten(
        treedef,
        [
            jnp.asarray(_convert(arrays[name], leaf.shape, f"{source}, {name}"))
            for name, (_, leaf) in zip(names, leaves, strict=True)
        ],
    )


def _locate(
    path_or_name: str | Path, data_dir: str | Path | None
) -> tuple[Path, str | None]:
    """Returns the file, and its network where the name says it."""
    text = os.fspath(path_or_name)
    model = None
    if text in PRETRAINED:
        folder = Path(data_dir) if data_dir is not None else data_root() / "pretrained"
        path, model = folder / PRETRAINED[text].file, PRETRAINED[text].model
    elif isinstance(path_or_name, str) and not text.endswith(".npz"):
        raise unknown_name("pretrained network", text, PRETRAINED)
    else:
        path = Path(path_or_name)
    if not path.is_file():
        raise DataUnavailableError(
            describe(
                f"no file at {path}",
                "pretrained weights (.npz)",
                "Set LATHE_DATA to the data folder, or pass data_dir.",
            )
        )
    return path, model


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, not an archive")
            return {name: file[name] for name in file.files}
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = error
    raise DataFormatError(
        describe(
            f"{path}, which cannot be read ({reason})",
            "an .npz archive of arrays",
            "Copy the file again: it is damaged or something else.",
        )
    ) from reason


def _recognise(arrays: Iterable[str], path: Path) -> str:
    """Returns the name of the ResNet that has as many blocks as the file."""
    blocks = sum(
        name.startswith("layer") and name.endswith(".conv1.weight") for name in arrays
    )
    model = f"resnet{2 * blocks + 2}"
    if blocks == 0 or model not in MODELS:
        known = ", ".join(n for n in MODELS if n.startswith("resnet"))
        raise DataFormatError(
            describe(f"{path} with {blocks} residual blocks", f"one of {known}")
        )
    return model


def _torch_name(path: list[str]) -> str:
    """Returns 'layer1.0.bn1.running_mean' of batch_stats/layer1_0/bn1/mean."""
    collection, *modules, leaf = path
    return ".".join(
        [*(m.replace("_", ".") for m in modules), _LEAVES[collection, leaf]]
    )


def _check_names(expected: list[str], given: list[str], source: str) -> None:
    missing = [name for name in expected if name not in given]
    extra = [name for name in given if name not in expected]
    if not missing and not extra:
        return
    parts = []
    if missing:
        near = nearest(missing[0], extra, count=1)
        hint = f"; nearest is {near[0]}" if near else ""
        parts.append(f"lacks {len(missing)} names ({_first(missing)}{hint})")
    if extra:
        parts.append(f"has {len(extra)} too many ({_first(extra)})")
    raise DataFormatError(
        describe(f"{source}: it {' and '.join(parts)}", f"{len(expected)} names")
    )


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _convert(value: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Returns one array in flax's layout, checked."""
    array = np.asarray(value)
    if not np.issubdtype(array.dtype, np.floating):
        raise DataFormatError(describe(f"{what} of type {array.dtype}", "floats"))
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    elif array.ndim == 2:
        array = array.T
    if array.shape != shape:
        raise DataFormatError(
            describe(f"{what} of shape {array.shape} after transposition", f"{shape}")
        )
    if not np.isfinite(array).all():
        raise DataFormatError(describe(f"{what} with NaN or infinity", "finite values"))
    return np.ascontiguousarray(array, dtype=np.float32)
