"""One trained network in every format: accuracy, noise of layers, cost."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

import quant
from core import trees
from experiments.rounding.networks import KERNELS, PAIRS
from experiments.rounding.protocol import Protocol, Trial
from experiments.zoo import formats
from quant.calibration import BestScale


def run_trial(made: Protocol, trial: Trial, config: Any) -> dict[str, Any]:
    """Returns what is measured of a network, by width and format.

    Of each: which test images are right (see `experiments.rounding.protocol.unpack`),
    squared errors and sums of squares of kernels, formats of kernels, shifts and adds
    a product, and the noise of each layer's products on training images.

    Args:
      made: of the network.
      trial: of it.
      config: of the run.
    """
    weights = functools.cache(lambda: _folded(made, trial))
    found = {
        "float": made.run.stage(
            f"{trial.stage}-float", lambda: made.float_of(weights())
        )
    }
    for bits in config.bits:
        found[str(bits)] = made.run.stage(
            f"{trial.stage}-b{bits}",
            functools.partial(_width, made, weights, config, bits),
        )
    return found


def _folded(made: Protocol, trial: Trial) -> Any:
    return quant.fold_batch_norm(made.weights(trial), PAIRS)


def _width(made: Protocol, weights: Any, config: Any, bits: int) -> dict[str, Any]:
    """All formats of one width; those that are one set of levels are measured once."""
    variables = weights()
    search = BestScale(config.steps)
    paths = [p for p in trees.by_path(variables) if p.endswith("/kernel")]
    each: dict[str, formats.Coded] = {}
    made_sets: dict[tuple[float, ...], formats.Coded] = {}
    for name, fmt in formats.of_width(config.formats, bits).items():
        every = dict.fromkeys(paths, fmt)
        shape = formats.shape_of(fmt)
        if shape not in made_sets:
            made_sets[shape] = formats.coded(variables, every, search)
        each[name] = made_sets[shape]._replace(formats=every)
    candidates = [each[name] for name in formats.CANDIDATES if name in each]
    if len(candidates) > 1:
        each[formats.CHOSEN] = formats.chosen(candidates)
    images = jnp.asarray(made.train.images[: config.layer_images])
    exact = _products(made)(variables, images)
    measured, seen = {}, {}
    for name, coded in each.items():
        shapes = tuple(formats.shape_of(fmt) for fmt in coded.formats.values())
        if shapes not in seen:
            found = _products(made)(coded.variables, images)
            noise = {
                site: float(quant.sqnr(exact[site], found[site])) for site in exact
            }
            seen[shapes] = {"right": made.right(coded.variables), "noise": noise}
        measured[name] = {
            **seen[shapes],
            "errors": coded.errors,
            "signals": coded.signals,
            "formats": {path: str(fmt) for path, fmt in coded.formats.items()},
            "cost": _cost(coded, variables),
        }
    return measured


@functools.lru_cache(maxsize=4)
def _products(made: Protocol) -> Any:
    """What layers put out, by path; one program for all formats."""
    record = quant.record(made.apply, [(KERNELS, quant.Layer())])

    @jax.jit
    def run(variables: Any, images: Any) -> Any:
        return {
            site: seen.products for site, seen in record(variables, images)[1].items()
        }

    return run


def _cost(coded: formats.Coded, variables: Any) -> float:
    """Shifts and adds of a product, on average over the weights."""
    sizes = {p: w.size for p, w in trees.by_path(variables).items()}
    spent = sum(sizes[p] * sum(fmt.cost) for p, fmt in coded.formats.items())
    return spent / sum(sizes[p] for p in coded.formats)
