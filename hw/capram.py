"""The arithmetic of CAP-RAM: products as charge, seven-bit converters (2107.02388).

A column adds 64 products of a stored bit and an input of eight levels as charge on
capacitors, and a converter digitises the mean. Weights of several bits take several
columns, inputs of several digits several cycles, and longer sums several groups; all
that is recombined digitally. Capacitors differ, converters have gains, offsets, bent
curves and noise, which a calibration in two steps mends: a line for each converter,
then one curve for the chip.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from core.errors import InputError, check_range, describe
from core.types import Array

Scheme = Literal["binary", "ternary"]


class MacroSpec(NamedTuple):
    """What is known of a macro; widths and deviations of the converter in steps.

    Attributes:
      group: products that a column adds at a time.
      columns: of the array, each with a converter.
      levels: of the inputs: 0 to levels - 1.
      adc_bits: of the converters.
      mismatch: relative deviation of a capacitor.
      gain: deviation of a converter's gain.
      offset: deviation of a converter's offset.
      bend: size of the curve that all converters share.
      own_bend: size of the curve that each has alone.
      noise: deviation of a conversion.
    """

    group: int = 64
    columns: int = 128
    levels: int = 8
    adc_bits: int = 7
    mismatch: float = 0.005
    gain: float = 0.02
    offset: float = 1.5
    bend: float = 1.5
    own_bend: float = 0.3
    noise: float = 0.3

    @property
    def top(self) -> int:
        """The largest code."""
        return 2**self.adc_bits - 1

    @property
    def full(self) -> int:
        """The largest sum of a group."""
        return self.group * (self.levels - 1)


def ideal(adc_bits: int = 7) -> MacroSpec:
    """Returns a macro that rounds and does nothing else wrong."""
    return MacroSpec(64, 128, 8, adc_bits, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


class Chip(NamedTuple):
    """A sample of what manufacturing leaves, fixed for a chip.

    Attributes:
      capacitors: relative, [group, columns].
      gain: of converters, [columns].
      offset: of converters, [columns].
      phase: of the shared curve, [].
      own_phase: of the own curves, [columns].
    """

    capacitors: Array
    gain: Array
    offset: Array
    phase: Array
    own_phase: Array


class Calibration(NamedTuple):
    """What turns codes back into shares of the full scale.

    Attributes:
      slope: for each converter, [columns].
      start: for each converter, [columns].
      curve: for each code, of the chip, [codes].
    """

    slope: Array
    start: Array
    curve: Array


def sample_chip(key: Array, spec: MacroSpec) -> Chip:
    """Returns a chip as it comes from the fab."""
    keys = jax.random.split(key, 5)
    n = (spec.columns,)
    return Chip(
        1 + spec.mismatch * jax.random.normal(keys[0], (spec.group, spec.columns)),
        1 + spec.gain * jax.random.normal(keys[1], n),
        spec.offset * jax.random.normal(keys[2], n),
        2 * jnp.pi * jax.random.uniform(keys[3]),
        2 * jnp.pi * jax.random.uniform(keys[4], n),
    )


def convert(share: Array, chip: Chip, column: Array, key: Array, spec: MacroSpec):
    """Returns codes of shares of the full scale, float32 of whole numbers.

    Args:
      share: [..., n], 0 to 1; beyond, codes stick at the ends.
      chip: whose converters they are.
      column: of the last axis, int32 [n].
      key: of the thermal noise.
      spec: of the macro.
    """
    lead = (1,) * (share.ndim - 1)

    def of(values: Array) -> Array:
        return values[column].reshape(*lead, -1)

    bent = spec.bend * jnp.sin(2 * jnp.pi * share + chip.phase)
    own = spec.own_bend * jnp.sin(2 * jnp.pi * share + of(chip.own_phase))
    raw = spec.top * share * of(chip.gain) + of(chip.offset) + bent + own
    if spec.noise:
        # Drawn flat: XLA compiles that in a fraction of the time.
        draws = jax.random.normal(key, (share.size,), share.dtype)
        raw = raw + spec.noise * draws.reshape(share.shape)
    return jnp.clip(jnp.round(raw), 0, spec.top)


def read(codes: Array, found: Calibration, column: Array) -> Array:
    """Returns the shares of the full scale that codes stand for, [..., n]."""
    lead = (1,) * (codes.ndim - 1)
    slope, start = (v[column].reshape(*lead, -1) for v in (found.slope, found.start))
    return codes * slope + start + found.curve[codes.astype(jnp.int32)]


def uncalibrated(spec: MacroSpec) -> Calibration:
    """Returns the calibration that takes codes at their face value."""
    n = jnp.ones(spec.columns)
    return Calibration(n / spec.top, 0 * n, jnp.zeros(spec.top + 1))


def calibrate(chip: Chip, key: Array, spec: MacroSpec, repeats: int = 8) -> Calibration:
    """Returns the two steps of calibration of a chip.

    Args:
      chip: to measure.
      key: of the noise while it is measured; not that of later use.
      spec: of the macro.
      repeats: conversions of each point.
    """
    share = jnp.linspace(0.0, 1.0, 4 * (spec.top + 1))
    shares = jnp.broadcast_to(share[:, None], (share.size, spec.columns))
    column = jnp.arange(spec.columns)
    keys = jax.random.split(key, repeats)
    codes = lax.map(lambda k: convert(shares, chip, column, k, spec), keys)
    inside = (codes > 0) & (codes < spec.top)
    weight = inside.astype(share.dtype)
    count = weight.sum((0, 1)) + 1e-9
    true = jnp.broadcast_to(shares[None], codes.shape)
    mean_x = (weight * codes).sum((0, 1)) / count
    mean_y = (weight * true).sum((0, 1)) / count
    away = codes - mean_x[None, None]
    slope = (weight * away * (true - mean_y[None, None])).sum((0, 1))
    slope = slope / ((weight * away**2).sum((0, 1)) + 1e-9)
    start = mean_y - slope * mean_x
    left = true - codes * slope[None, None] - start[None, None]
    place = codes.astype(jnp.int32).reshape(-1)
    size = spec.top + 1
    total = jnp.zeros(size).at[place].add((weight * left).reshape(-1))
    seen = jnp.zeros(size).at[place].add(weight.reshape(-1))
    return Calibration(slope, start, total / jnp.maximum(seen, 1.0))


def encode(w: Array, bits: int, scheme: Scheme) -> tuple[Array, tuple[int, ...]]:
    """Returns the stored planes of integer weights and what each counts for.

    "binary" is two's complement, -2^(bits-1) to 2^(bits-1) - 1, a cell a bit; of one
    bit it is -1 and 1. "ternary" has digits -1, 0, 1 in pairs of cells, +-(2^bits - 1).

    Args:
      w: integers as floats, [k, n].
      bits: planes of "binary", 1 to 6, or digits of "ternary", 1 to 3.
      scheme: of the two.

    Returns:
      Planes [bits, k, n] of 0 and 1, or of -1, 0 and 1; their weights.

    Raises:
      InputError: no such width or scheme.
    """
    check_range("bits", bits, 1, {"binary": 6, "ternary": 3}.get(scheme, 0))
    places = jnp.arange(bits).reshape(-1, 1, 1)
    if scheme == "ternary":
        size = jnp.abs(w).astype(jnp.int32)[None]
        planes = ((size >> places) & 1).astype(w.dtype) * jnp.sign(w)[None]
        return planes, tuple(2**i for i in range(bits))
    if scheme != "binary":
        raise InputError(describe(repr(scheme), "'binary' or 'ternary'"))
    if bits == 1:  # w = 2 b - 1; the digital side takes the sum of inputs off
        return ((w + 1) / 2)[None], (2,)
    words = w.astype(jnp.int32)[None] & (2**bits - 1)
    planes = ((words >> places) & 1).astype(w.dtype)
    return planes, (*(2**i for i in range(bits - 1)), -(2 ** (bits - 1)))


def decode(planes: Array, weights: tuple[int, ...], scheme: Scheme) -> Array:
    """Returns the weights that planes stand for, [k, n]."""
    counts = jnp.asarray(weights, planes.dtype).reshape(-1, 1, 1)
    total = (planes * counts).sum(0)
    return total - 1 if scheme == "binary" and weights == (2,) else total


def macro_matmul(
    x: Array,
    w: Array,
    key: Array,
    *,
    chip: Chip,
    calibration: Calibration,
    spec: MacroSpec,
    bits: int = 1,
    scheme: Scheme = "ternary",
    full_scale: float | Array = 1.0,
) -> Array:
    """Returns the product of inputs and integer weights as a macro computes it.

    Backwards it is the exact product, with no gradient through sums that the converters
    cut off.

    Args:
      x: levels, whole numbers of 0 to levels - 1 as floats, [m, k].
      w: integers as floats, [k, n].
      key: of the thermal noise.
      chip: of `sample_chip`.
      calibration: of `calibrate`.
      spec: of the macro.
      bits: planes or digits of a weight; see `encode`.
      scheme: see `encode`. A ternary pair is subtracted before its conversion.
      full_scale: share of the range that the converters span, [].

    Returns:
      Float [m, n], in units of x w.
    """
    planes, counts = encode(lax.stop_gradient(w), bits, scheme)
    k, n = w.shape
    groups = -(-k // spec.group)
    pad = groups * spec.group - k
    x = jnp.pad(x, ((0, 0), (0, pad))).reshape(len(x), groups, spec.group)
    # [groups, group, planes, n]: a plane is so many columns more.
    stored = jnp.pad(planes, ((0, 0), (0, pad), (0, 0)))
    stored = stored.reshape(-1, groups, spec.group, n).transpose(1, 2, 0, 3)
    column = jnp.arange(len(counts) * n) % spec.columns
    share = jnp.asarray(full_scale, x.dtype)
    signed = scheme == "ternary"
    flat = stored.reshape(groups, spec.group, -1)
    values = lax.stop_gradient(x)
    sums, codes = _sums(
        values, flat, column, key, chip, calibration, spec, signed, share
    )
    inside = codes < spec.top
    if signed:  # the lowest code of others is that of no charge, which cuts nothing off
        inside = inside & (codes > 0)
    worth = jnp.asarray(counts, x.dtype)
    total = (sums.sum(1).reshape(len(x), -1, n) * worth[None, :, None]).sum(1)
    if scheme == "binary" and bits == 1:  # w = 2 b - 1
        total = total - x.sum((1, 2))[:, None]
    return _value(total, x, w, stored, inside, worth)


@jax.custom_vjp
def _value(total, x, w, stored, inside, worth) -> Array:
    """Returns `total`; its gradients are those of `_straight`."""
    del x, w, stored, inside, worth
    return total


def _forward(total, *parts):
    return total, parts


def _backward(parts, change):
    x, w, *others = parts
    _, slopes = jax.vjp(lambda x, w: _straight(x, w, *others), x, w)
    return (change, *slopes(change), None, None, None)


_value.defvjp(_forward, _backward)


def _straight(x, w, stored, inside, worth) -> Array:
    """What has the gradients of the exact product where no sum is cut off, [m, n].

    In x every plane's sum of a group counts if its own conversion is inside; in w,
    whose planes have no gradient, the mean of a group's planes.
    """
    m, groups, group = x.shape
    k, n = w.shape
    whole = jnp.pad(w, ((0, groups * group - k), (0, 0))).reshape(groups, group, n)
    mask = inside.reshape(m, groups, -1, n).astype(x.dtype)
    exact = jnp.einsum("mgi,gipn->mgpn", x, stored) * worth[None, None, :, None]
    by_input = (mask * exact).sum((1, 2))
    weight = (jnp.abs(worth) / jnp.abs(worth).sum())[None, None, :, None]
    mean = (mask * weight).sum(2)
    change = jnp.einsum(
        "mgi,gin->mgn", lax.stop_gradient(x), whole - lax.stop_gradient(whole)
    )
    return by_input + (mean * change).sum(1)


def _sums(x, stored, column, key, chip, calibration, spec, signed, scale):
    """Sums of all groups and their codes, [m, groups, columns] each."""
    capacitors = chip.capacitors[:, column]
    share = jnp.einsum("mgi,gin->mgn", x, stored * capacitors[None])
    # All 64 capacitors share the charge, used or not.
    share = share / ((spec.levels - 1) * capacitors.sum(0))[None, None]
    lifted = (share / scale + 1) / 2 if signed else share / scale
    codes = convert(lifted, chip, column, key, spec)
    found = read(codes, calibration, column)
    found = (2 * found - 1) * scale if signed else found * scale
    return spec.full * found, codes


def fit_full_scale(
    x: Array, w: Array, spec: MacroSpec, scheme: Scheme = "ternary", quantile=0.999
) -> Array:
    """Returns the share of the range that the sums of a layer need, [].

    Args:
      x: levels, [m, k], of calibration data.
      w: integers, [k, n]; digits of one plane.
      spec: of the macro.
      scheme: see `encode`.
      quantile: of the sums' sizes that converters shall not cut off.
    """
    k, _ = w.shape
    groups = -(-k // spec.group)
    pad = groups * spec.group - k
    x = jnp.pad(x, ((0, 0), (0, pad))).reshape(len(x), groups, spec.group)
    planes = jnp.pad(w, ((0, pad), (0, 0))).reshape(groups, spec.group, -1)
    planes = planes if scheme == "ternary" else jnp.abs(planes) > 0
    sums = jnp.einsum("mgi,gin->mgn", x, planes.astype(x.dtype))
    found = jnp.quantile(jnp.abs(sums), quantile) / spec.full
    return jnp.clip(found, 1 / 64, 1.0)


class Linearity(NamedTuple):
    """Errors of a sweep through the whole range, in steps.

    Attributes:
      most: the largest where no conversion saturates.
      rms: root mean square there.
      low: the share of full scale below which some conversion gives the lowest code.
      high: the share above which some conversion gives the highest code.
      ends: the largest error in what saturates; 0 if nothing does.
    """

    most: Array
    rms: Array
    low: Array
    high: Array
    ends: Array


def linearity(
    chip: Chip, found: Calibration, key: Array, spec: MacroSpec, points: int = 449
) -> Linearity:
    """Returns the errors of a sweep of sums, through capacitors and converters.

    Inputs of `points` different sums, 0 to the largest, meet columns of ones: what
    `macro_matmul` does with one group, capacitor mismatch included.

    Args:
      chip: to measure.
      found: how codes are read.
      key: of the noise and of which inputs are active; not that of the calibration.
      spec: of the macro.
      points: of the sweep.
    """
    first, second = jax.random.split(key)
    wanted = jnp.round(jnp.linspace(0.0, spec.full, points))
    order = jax.random.permutation(first, spec.group).astype(wanted.dtype)
    # As many inputs at the top as fit, and one of what is left.
    x = jnp.clip(
        wanted[:, None] - order[None] * (spec.levels - 1.0), 0.0, spec.levels - 1.0
    )
    column = jnp.arange(spec.columns)
    ones = jnp.ones((1, spec.group, spec.columns))
    sums, codes = _sums(
        x[:, None], ones, column, second, chip, found, spec, False, jnp.ones(())
    )
    error = (sums[:, 0] - wanted[:, None]) * spec.top / spec.full
    good = ((codes > 0) & (codes < spec.top))[:, 0].all(1)
    share = wanted / spec.full
    size = jnp.abs(error).max(1)
    count = jnp.maximum(good.sum(), 1).astype(error.dtype)
    square = jnp.where(good, (error**2).mean(1), 0.0).sum() / count
    half = share < 0.5
    return Linearity(
        jnp.where(good, size, 0.0).max(),
        jnp.sqrt(square),
        jnp.where(half & ~good, share, 0.0).max(),
        jnp.where(~half & ~good, share, 1.0).min(),
        jnp.where(good, 0.0, size).max(),
    )
