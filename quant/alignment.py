"""DDA: the best scale of a format for a normal distribution (arXiv 2109.03513)."""

import functools
import math

import numpy as np

from quant.formats import Format


def normal_error(fmt: Format, scale: float) -> float:
    """Returns E[(x - scale * round(x / scale))**2] for a standard normal x, exactly.

    For unsigned formats x is half-normal. The closed form of arXiv 2109.03513's
    alignment objective: the moments of the normal density between the boundaries of
    each level.
    """
    levels = fmt.levels * scale
    inner = (levels[:-1] + levels[1:]) / 2
    edges = np.concatenate([[-np.inf if fmt.signed else 0.0], inner, [np.inf]])
    low, high = edges[:-1], edges[1:]
    zeroth = _below(high) - _below(low)
    first = _density(low) - _density(high)
    ends = [np.where(np.isfinite(e), e, 0) * _density(e) for e in (low, high)]
    second = zeroth + ends[0] - ends[1]
    error = (second - 2 * levels * first + levels**2 * zeroth).sum()
    return float(error if fmt.signed else 2 * error)


LEAST, AUTHORS = 1e-6, 0.02
"""`within` for the least error, and for the published constants of arXiv 2109.03513."""
_COARSE = 0.001
"""More than by what an error on the scan's steps is above that of the dip's bottom."""


@functools.lru_cache(maxsize=256)
def normal_scale(fmt: Format, within: float = LEAST) -> float:
    """Returns the scale of least `normal_error`.

    Scales between those at which the largest level is 1/4 and at which the smallest is
    8 standard deviations are scanned in steps of 1 %, from the small end; the intervals
    around the least are then searched by golden section.

    Args:
      fmt: the levels.
      within: of minima whose errors are above the least one by less than this share the
        first is taken. Formats of many octaves have many that are equal but for less
        than `LEAST`. `AUTHORS` gives the published constants, which are the first of
        several minima at ESB (4, 0), powers of two of 4 bits (0.0381, where the least
        is at 0.0656, 1.8 % lower), and at ESB (5, 1) (0.0391, where it is at 0.0766,
        0.016 % lower); elsewhere they are the least.
    """
    smallest = fmt.levels[fmt.levels > 0].min()
    low, high = 0.25 / fmt.max, 8.0 / smallest
    count = math.ceil(math.log(high / low) / math.log(1.01)) + 1
    scales = np.geomspace(low, high, count)
    errors = np.array([normal_error(fmt, scale) for scale in scales])
    dips = np.flatnonzero((errors[1:-1] <= errors[:-2]) & (errors[1:-1] < errors[2:]))
    dips = dips[errors[dips + 1] <= (1 + within + _COARSE) * errors.min()]

    def error(scale: float) -> float:
        return normal_error(fmt, scale)

    found = [_golden(error, scales[i], scales[i + 2]) for i in dips]
    least = min(map(error, found))
    return next(scale for scale in found if error(scale) <= (1 + within) * least)


def _golden(fn, low: float, high: float) -> float:
    """The minimum of a function with one between two points, to 1e-7 of it."""
    share = (math.sqrt(5) - 1) / 2
    a, b = high - share * (high - low), low + share * (high - low)
    fa, fb = fn(a), fn(b)
    while high - low > 1e-7 * high:
        if fa < fb:
            high, b, fb = b, a, fa
            a = high - share * (high - low)
            fa = fn(a)
        else:
            low, a, fa = a, b, fb
            b = low + share * (high - low)
            fb = fn(b)
    return (low + high) / 2


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _below(x: np.ndarray) -> np.ndarray:
    """The share of a standard normal below x."""
    return 0.5 * (1 + _erf(x / math.sqrt(2)))


def _density(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.square(x) / 2) / math.sqrt(2 * math.pi)
