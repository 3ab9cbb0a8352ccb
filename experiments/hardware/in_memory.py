"""Networks whose products run in CAP-RAM's macro or in memristor crossbars."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from core.types import Array, PyTree
from experiments.pruning.trainer import Wrapped
from hw import behaviour, capram, memristor

LEVELS = 7.0
"""The largest input of the macro: eight levels."""


def through(model: Any, product: behaviour.Product) -> Wrapped:
    """Returns a module whose products a function computes; see `hw.behaviour`."""
    return Wrapped(model, lambda run: behaviour.through(run, product))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("chip", "calibration", "key", "full_scale"),
    meta_fields=("spec",),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Macro:
    """A chip and how it is read; a pytree, so that one program serves all chips.

    Attributes:
      spec: of the macro.
      chip: a sample.
      calibration: of the chip.
      key: of the thermal noise.
      full_scale: by path; 1 for what is not named.
    """

    spec: capram.MacroSpec
    chip: capram.Chip
    calibration: capram.Calibration
    key: Array
    full_scale: Mapping[str, float | Array] = dataclasses.field(default_factory=dict)

    def __call__(
        self, path: str, x: Array, w: Array, bits: int, scheme: capram.Scheme
    ) -> Array:
        """Returns the product of levels and integers; noise differs with the data."""
        total = lax.stop_gradient(jnp.sum(x) + jnp.sum(w))
        salt = lax.bitcast_convert_type(total, jnp.uint32)
        return capram.macro_matmul(
            x,
            w,
            jax.random.fold_in(self.key, salt),
            chip=self.chip,
            calibration=self.calibration,
            spec=self.spec,
            bits=bits,
            scheme=scheme,
            full_scale=self.full_scale.get(path, 1.0),
        )


_calibrate = jax.jit(capram.calibrate, static_argnums=(2,))


def macro(spec: capram.MacroSpec, seed: int, mended: bool = True) -> Macro:
    """Returns a chip of a seed, calibrated or as it is."""
    keys = jax.random.split(jax.random.key(seed), 3)
    chip = capram.sample_chip(keys[0], spec)
    found = capram.uncalibrated(spec)
    if mended and spec.gain:
        found = _calibrate(chip, keys[1], spec)
    return Macro(spec, chip, found, keys[2])


def ternary(w: Array) -> tuple[Array, Array]:
    """Returns digits of -1, 0, 1 [k, n] and the scale of each output [n].

    Weights below 0.7 of the mean size of their output's are 0 (arXiv 1605.04711).
    """
    size = jnp.abs(w)
    kept = size > 0.7 * size.mean(axis=0, keepdims=True)
    count = jnp.maximum(kept.sum(axis=0), 1).astype(w.dtype)
    scale = jnp.where(kept, size, 0.0).sum(axis=0) / count
    return jnp.where(kept, jnp.sign(w), 0.0), scale


def ternary_product(
    steps: Mapping[str, float], chip: Macro | None = None
) -> behaviour.Product:
    """Returns products of ternary weights and inputs of three bits.

    Gradients go straight through rounding, and not through inputs above the top level
    nor through sums that the chip's converters cut off.

    Args:
      steps: of the inputs' levels, by path.
      chip: that computes the sums; None for integers.
    """

    def product(path: str, x: Array, w: Array) -> Array:
        step = steps[path]
        levels = _straight(jnp.clip(x / step, 0.0, LEVELS), jnp.round)
        digits, scale = map(lax.stop_gradient, ternary(w))
        # Digits stay whole for the chip: nothing but 0 is added to them.
        unit = w / jnp.where(scale > 0, scale, 1.0)[None]
        digits = _straight(unit, lambda _: digits)
        if chip is None:
            return step * (levels @ (digits * scale[None]))
        return step * scale[None] * chip(path, levels, digits, 1, "ternary")

    return product


def _straight(x: Array, rounding: Callable[[Array], Array]) -> Array:
    """Returns what rounding makes of x, to the bit, with the gradient of x."""
    return lax.stop_gradient(rounding(x)) + (x - lax.stop_gradient(x))


def binary_product(
    steps: Mapping[str, float], bits: int, digits: int, chip: Macro | None = None
) -> behaviour.Product:
    """Returns products of weights of some bits and inputs of some base-8 digits.

    Inputs with both signs take two passes, one for each sign.

    Args:
      steps: of the inputs' levels, by path; negative where inputs have both signs.
      bits: of the weights, a scale for each output.
      digits: of the inputs, three bits each.
      chip: that computes the sums; None for integers.
    """
    top = 8.0**digits - 1

    def sums(path: str, levels: Array, w: Array) -> Array:
        if chip is None:
            return levels @ w
        total = jnp.zeros((len(levels), w.shape[1]))
        for place in range(digits):
            digit = jnp.floor(levels / 8.0**place) % 8.0
            total = total + 8.0**place * chip(path, digit, w, bits, "binary")
        return total

    def product(path: str, x: Array, w: Array) -> Array:
        step, signed = abs(steps[path]), steps[path] < 0
        scale = jnp.abs(w).max(axis=0) / (2 ** (bits - 1) - 1)
        whole = jnp.round(w / scale[None])
        found = sums(path, jnp.clip(jnp.round(x / step), 0.0, top), whole)
        if signed:
            found = found - sums(path, jnp.clip(jnp.round(-x / step), 0.0, top), whole)
        return step * scale[None] * found

    return product


CROSSBAR_BITS = 8
"""Of weights and of inputs in crossbars."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("key", "wrong", "full_scale", "seconds"),
    meta_fields=("steps", "adc_bits"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Crossbars:
    """Crossbars of a network; a pytree, so that one program serves several.

    Attributes:
      steps: of the inputs' levels, by path; negative where inputs have both signs.
      key: of the cells.
      wrong: deviations by name; see `memristor.Crossbar`.
      full_scale: of converters, by path.
      seconds: since the cells were written.
      adc_bits: of converters; 0 for exact ones.
    """

    steps: tuple[tuple[str, float], ...]
    key: Array
    wrong: Mapping[str, float | Array]
    full_scale: Mapping[str, float]
    seconds: float | Array = 1.0
    adc_bits: int = 0

    def __call__(self, path: str, x: Array, w: Array) -> Array:
        """Returns a product of weights and inputs of 8 bits each.

        Inputs with both signs take two passes, one for each sign.
        """
        xbar = memristor.Crossbar(adc_bits=self.adc_bits, **self.wrong)  # type: ignore[arg-type]
        scale, whole = whole_weights(w)
        salt = lax.bitcast_convert_type(jnp.sum(jnp.abs(w)), jnp.uint32)
        mine = jax.random.fold_in(self.key, salt)  # cells are the same for all inputs

        def sums(levels: Array) -> Array:
            return memristor.crossbar_matmul(
                levels,
                whole,
                xbar,
                mine,
                self.seconds,
                bits=CROSSBAR_BITS,
                input_bits=CROSSBAR_BITS,
                full_scale=self.full_scale.get(path, 1.0),
            )

        step = dict(self.steps)[path]
        found = sums(crossbar_levels(x, abs(step)))
        if step < 0:
            found = found - sums(crossbar_levels(-x, abs(step)))
        return abs(step) * scale * found


def whole_weights(w: Array) -> tuple[Array, Array]:
    """Returns a scale [] and whole weights of 8 bits."""
    scale = jnp.abs(w).max() / (2 ** (CROSSBAR_BITS - 1) - 1)
    return scale, jnp.round(w / scale)


def crossbar_levels(x: Array, step: float) -> Array:
    """Returns whole inputs of 8 bits; what is negative is 0."""
    return jnp.clip(jnp.round(x / step), 0.0, 2.0**CROSSBAR_BITS - 1)


def observe(
    model: Any, variables: PyTree, x: Array, look: Callable[..., Any], **kwargs: Any
) -> dict[str, float]:
    """Returns a number for each kernel: `look(path, data, weights)` of its product."""
    found: dict[str, Array] = {}

    def run(variables: PyTree, x: Array) -> dict[str, Array]:
        def product(path: str, a: Array, w: Array) -> Array:
            found[path] = look(path, a, w)
            return a @ w

        through(model, product).apply(variables, x, **kwargs)
        return dict(found)

    return {k: float(v) for k, v in jax.jit(run)(variables, x).items()}


def steps_of(
    model: Any, variables: PyTree, x: Array, top: float, quantile: float = 0.995
) -> dict[str, float]:
    """Returns steps of levels that hold a share of the inputs; negative if signed."""

    def look(path: str, a: Array, w: Array) -> Array:
        del path, w
        size = jnp.quantile(jnp.abs(a), quantile)
        step = jnp.maximum(size, 1e-6) / top
        return jnp.where(a.min() < 0, -step, step)

    return observe(model, variables, x, look)


def scales_of(
    model: Any, variables: PyTree, x: Array, steps: Mapping[str, float]
) -> dict[str, float]:
    """Returns full scales of converters for ternary weights, by path."""

    def look(path: str, a: Array, w: Array) -> Array:
        levels = jnp.clip(jnp.round(a / steps[path]), 0.0, LEVELS)
        return capram.fit_full_scale(levels, ternary(w)[0], capram.MacroSpec())

    return observe(model, variables, x, look)


def plane_scales_of(
    model: Any,
    variables: PyTree,
    x: Array,
    steps: Mapping[str, float],
    bits: int,
    digits: int,
) -> dict[str, float]:
    """Returns full scales of converters for planes of binary weights, by path."""

    def look(path: str, a: Array, w: Array) -> Array:
        levels = jnp.clip(
            jnp.round(jnp.abs(a) / abs(steps[path])), 0.0, 8.0**digits - 1
        )
        scale = jnp.abs(w).max(axis=0) / (2 ** (bits - 1) - 1)
        planes, _ = capram.encode(jnp.round(w / scale[None]), bits, "binary")
        found = [
            capram.fit_full_scale(
                jnp.floor(levels / 8.0**place) % 8.0,
                plane,
                capram.MacroSpec(),
                "binary",
            )
            for place in range(digits)
            for plane in planes
        ]
        return jnp.stack(found).max()

    return observe(model, variables, x, look)


def crossbar_scales_of(
    model: Any, variables: PyTree, x: Array, steps: Mapping[str, float]
) -> dict[str, float]:
    """Returns full scales of crossbars' converters, by path."""

    def look(path: str, a: Array, w: Array) -> Array:
        levels = crossbar_levels(jnp.abs(a), abs(steps[path]))
        whole = whole_weights(w)[1]
        return memristor.fit_full_scale(levels, whole, memristor.Crossbar())

    return observe(model, variables, x, look)
