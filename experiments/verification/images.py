"""Images of a test set as robustness problems.

Images are pixels in [0, 1] of shape [n, H, W, C], whatever their file holds; a
perturbation is in pixels too. Both are normalised as the network wants it, and then
laid out as its input is.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.errors import (
    DataFormatError,
    InputError,
    ShapeError,
    describe,
    unknown_name,
)
from experiments.verification import networks
from experiments.verification.networks import Network, provided

if TYPE_CHECKING:
    import numpy as np

    from verify.problem import Problem

COLLECTIONS = ("sdp", "eran")
_MISCLASSIFIED = {"seconds": 0.0, "domains": 0, "phase": "", "lower": None, "why": ""}


@dataclasses.dataclass(frozen=True)
class Published:
    """A provided network and the setting of its publication.

    Attributes:
      onnx: its file.
      inputs: the file of its images.
      eps: radius in pixels.
      mean: of each channel, in pixels.
      std: of each channel.
    """

    onnx: Path
    inputs: Path
    eps: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Images(NamedTuple):
    """Pixels, float64 in [0, 1] of [n, H, W, C], and labels int64 [n]."""

    pixels: "np.ndarray"
    labels: "np.ndarray"
    source: str


class Setting(NamedTuple):
    """What a robustness problem is made of, beside network and image.

    Attributes:
      eps: radius in pixels.
      norm: of the ball, "linf", "l2" or "l1".
      mean: subtracted from pixels, for each channel or one for all.
      std: pixels are divided by it, likewise.
    """

    eps: float
    norm: str = "linf"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


def published(name: str, data_dir: Path | None = None) -> Published:
    """Returns a provided network.

    Args:
      name: as in `sdp.json` and `eran.json`.
      data_dir: as `networks.provided` takes it.

    Raises:
      DataUnavailableError: the data are not there.
      DataFormatError: they are not what they should be.
      UnknownNameError: no such network.
    """
    known: dict[str, Published] = {}
    for collection in COLLECTIONS:
        path = provided(collection, f"{collection}.json", data_dir=data_dir)
        known |= _collection(path)
    if name not in known:
        raise unknown_name("network", name, known)
    return known[name]


def _collection(path: Path) -> dict[str, Published]:
    try:
        networks = json.loads(path.read_text(encoding="utf-8"))["networks"]
        return {
            name: Published(
                path.parent / entry["file"],
                path.parent / entry["inputs"],
                float(entry["eps_pixel"]),
                tuple(map(float, entry["mean"])),
                tuple(map(float, entry["std"])),
            )
            for name, entry in networks.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise DataFormatError(f"{path}: {error!r}; expected networks") from error


def inputs(path: Path) -> Images:
    """Reads the images of a provided network.

    Args:
      path: an .npz file of `x_nhwc_01` or `x_nchw_01`, and `y`.

    Raises:
      DataFormatError: another kind of file.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            if "x_nhwc_01" in file:
                images = file["x_nhwc_01"]
            else:
                images = file["x_nchw_01"].transpose(0, 2, 3, 1)
            labels = file["y"]
    except (OSError, ValueError, KeyError) as error:
        raise DataFormatError(f"{path}: {error}; expected images and labels") from error
    return Images(images.astype(np.float64), labels.astype(np.int64), path.stem)


def split(name: str, data_dir: Path | None) -> Images:
    """Returns the test split of a data set of `experiments.data`."""
    import numpy as np

    from experiments import data

    found = data.load(name, data_dir=data_dir)
    pixels = found.test.images.astype(np.float64) / 255
    return Images(pixels, found.test.labels.astype(np.int64), found.source)


def network(name: str, data_dir: Path | None = None) -> tuple[Network, Any]:
    """Returns a network, and its `Published` where it is a provided one.

    Args:
      name: of a provided network, or an ONNX file.
      data_dir: as `networks.provided` takes it.

    Raises:
      LatheError: neither.
    """
    path = Path(name)
    if path.name.removesuffix(".gz").endswith(".onnx"):
        if not path.is_file():
            raise InputError(f"--net: {describe(f'no file {name}', 'an ONNX file')}")
        return networks.load_network(path), None
    found = published(name, data_dir)
    return networks.load_network(found.onnx), found


def laid_out(pixels: "np.ndarray", shape: tuple[int, ...]) -> "np.ndarray":
    """Returns an image in the layout of a network's input.

    Args:
      pixels: [H, W, C].
      shape: of the input: [1, C, H, W], [1, H, W, C], or flat in the order C, H, W.

    Raises:
      ShapeError: the image does not fit.
    """
    height, width, channels = pixels.shape
    if shape[-3:] == (height, width, channels):
        return pixels.reshape(shape)
    size = 1
    for axis in shape:
        size *= axis
    flat = sum(axis > 1 for axis in shape) <= 1
    if size != pixels.size or not (flat or shape[-3:] == (channels, height, width)):
        given = f"images of {height}x{width}x{channels}"
        raise ShapeError(describe(given, f"what fits the network's input {shape}"))
    return pixels.transpose(2, 0, 1).reshape(shape)


def problem(net: Network, image: "np.ndarray", label: int, how: Setting) -> "Problem":
    """Returns the robustness of a network at an image.

    Args:
      net: the network.
      image: float64 pixels [H, W, C].
      label: its class.
      how: radius, norm and normalisation.

    Raises:
      LatheError: an image or a normalisation that does not fit.
    """
    import numpy as np

    from verify.problem import Problem
    from verify.properties import robustness

    def spread(values: Any) -> Any:
        channels = np.asarray(values, np.float64)
        if channels.shape not in ((1,), image.shape[-1:]):
            wanted = f"one number or {image.shape[-1]}, one for each channel"
            raise ShapeError(describe(list(values), wanted))
        return laid_out(np.broadcast_to(channels, image.shape), net.input_shape)

    mean, std = spread(how.mean), spread(how.std)
    point = laid_out(image, net.input_shape)
    eps = how.eps / std
    if how.norm != "linf":
        if np.ptp(std) > 0:
            given = f"a different std for each channel, {how.std}"
            raise InputError(describe(given, f"one std for norm {how.norm}"))
        eps = float(eps.flat[0])
    prop = robustness(
        (point - mean) / std,
        label,
        eps,
        norm=how.norm,  # type: ignore[arg-type]
        clip=((0 - mean) / std, (1 - mean) / std),
        classes=net.output_size,
    )
    return Problem(net.fn, net.params, prop, net.name)


def classifier(net: Network, how: Setting) -> Callable[["np.ndarray"], int]:
    """Returns a function from pixels [H, W, C] to the class of the highest score."""
    import jax
    import numpy as np

    run = jax.jit(net.fn)

    def classify(image: "np.ndarray") -> int:
        mean = np.broadcast_to(np.asarray(how.mean), image.shape)
        x = laid_out((image - mean) / np.asarray(how.std), net.input_shape)
        return int(np.argmax(run(net.params, x.astype(np.float32))))

    return classify


def misclassified() -> dict[str, Any]:
    """Returns the record of an image that the network gets wrong as it is."""
    return {"status": "misclassified", **_MISCLASSIFIED}
