"""Networks and properties from files; where the provided ones are."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.errors import DataFormatError, DataUnavailableError, InputError, describe
from experiments.compilation import keep_programs
from experiments.folders import data_root

if TYPE_CHECKING:
    from verify.problem import Problem


class Network(NamedTuple):
    """A network as the verifier takes it.

    Attributes:
      fn: `fn(params, x) -> y`.
      params: a pytree of arrays.
      input_shape: of x, with the batch axis of 1 that the file has.
      output_size: how many outputs there are.
      name: of the file.
    """

    fn: Callable[[Any, Any], Any]
    params: Any
    input_shape: tuple[int, ...]
    output_size: int
    name: str


class Networks:
    """The network loaded last, and the functions of all before it.

    Instances of one network share what is compiled for it; so do networks that differ
    in their parameters only, as those of ACAS Xu.
    """

    def __init__(self):
        keep_programs()
        self._path: Path | None = None
        self._network: Network | None = None
        self._functions: dict[str, Callable[[Any, Any], Any]] = {}

    def get(self, path: Path) -> Network:
        """Returns the network of an ONNX file.

        Args:
          path: `.onnx` or `.onnx.gz`.

        Raises:
          LatheError: no such file, or one that is no such network.
        """
        if self._network is None or path != self._path:
            found = load_network(path)
            fn = self._functions.setdefault(_code(found), found.fn)
            self._path, self._network = path, found._replace(fn=fn)
        return self._network

    def problem(self, onnx: Path, vnnlib: Path) -> "Problem":
        """Returns a property of a network.

        Args:
          onnx: the network's file.
          vnnlib: the property's file.

        Raises:
          LatheError: files that are missing, damaged or do not fit together.
        """
        from verify import vnnlib as properties
        from verify.problem import Problem

        network = self.get(onnx)
        prop = properties.load(vnnlib, network.input_shape, network.output_size)
        name = f"{network.name} {prop.name}"
        return Problem(network.fn, network.params, prop, name)


def load_network(path: Path) -> Network:
    """Reads an ONNX file; see `Networks.get`."""
    import jax
    import numpy as np

    from graph import onnx

    about = onnx.describe(path)
    if len(about.inputs) != 1:
        given = f"{path.name} with {len(about.inputs)} inputs"
        raise DataFormatError(describe(given, "a network of one input"))
    shape = about.inputs[0].concrete()
    if shape is None:
        given = f"{path.name} with an input of shape {about.inputs[0].shape}"
        raise DataFormatError(describe(given, "fixed sizes but for the batch"))
    fn, params = onnx.load(path)
    output = jax.eval_shape(fn, params, jax.ShapeDtypeStruct(shape, np.float32))
    if not hasattr(output, "shape"):
        given = f"{path.name} with several outputs"
        raise DataFormatError(describe(given, "a network of one output"))
    return Network(fn, params, shape, int(np.prod(output.shape)), stem(path))


def _code(network: Network) -> str:
    """Returns what a network computes, to the last constant, but for its parameters."""
    import jax
    import numpy as np

    x = jax.ShapeDtypeStruct(network.input_shape, np.float32)
    text = jax.jit(network.fn).lower(network.params, x).as_text()
    kinds = str(jax.tree.map(lambda a: (np.shape(a), str(a.dtype)), network.params))
    return hashlib.sha256(f"{kinds}\0{text}".encode()).hexdigest()


def stem(path: Path) -> str:
    """Returns a file's name without `.gz` and the ending before it."""
    return Path(path.name.removesuffix(".gz")).stem


def existing(path: str | Path, flag: str = "") -> Path:
    """Returns the file `path`, or `path.gz` where only that is there.

    Args:
      path: as written by a user or in a table.
      flag: the flag that named it, for the message.

    Raises:
      InputError: neither is there.
    """
    for found in (Path(path), Path(f"{path}.gz")):
        if found.is_file():
            return found
    where = f"{flag}: " if flag else ""
    raise InputError(f"{where}{describe(f'no file {path}', 'a file that is there')}")


def provided(*parts: str, data_dir: Path | None = None, remedy: str = "") -> Path:
    """Returns a file or folder of the verification data.

    Args:
      *parts: of its path below `verify`.
      data_dir: a folder to look in first: one that holds `verify`, or is it.
      remedy: what else would help, as a sentence.

    Raises:
      DataUnavailableError: it is not there.
    """
    own = [data_dir / "verify", data_dir] if data_dir else []
    places = [folder.joinpath(*parts) for folder in (*own, data_root() / "verify")]
    for path in places:
        if path.exists():
            return path
    help = f"Set LATHE_DATA to the folder that holds verify/. {remedy}".rstrip()
    where = " or ".join(map(str, places))
    raise DataUnavailableError(describe(f"nothing at {where}", "the data", help))
