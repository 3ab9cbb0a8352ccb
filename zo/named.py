"""The field's optimizers by name: pairs of an estimator and a transform.

All of them take the same arguments besides their own.

| argument | |
|---|---|
| `rate` | step size, or a function of the step |
| `mu` | smoothing: a number, or a function of the step; the estimator's own if None |
| `central` | whether differences are central, rather than forward |
| `chunk` | most function values at once |
| `projection` | onto the set that holds every point, to the last bit |
"""

from typing import TypedDict, Unpack

import optax

from core.errors import InputError, describe
from core.types import Schedule
from zo.base import Estimator
from zo.control import ControlVariate, Sign
from zo.coordinates import Coordinate
from zo.directions import Law, Random
from zo.hybrid import Hybrid
from zo.optimizers import SVRG, Optimizer
from zo.sets import Projection
from zo.transforms import Rate, adamm


class Options(TypedDict, total=False):
    """What every optimizer takes, see the module."""

    mu: float | Schedule | None
    central: bool
    chunk: int | None
    projection: Projection | None


class _Differences(TypedDict, total=False):
    mu: float
    central: bool


class _Rest(TypedDict, total=False):
    smoothing: Schedule | None
    chunk: int | None
    projection: Projection | None


def _parted(options: Options) -> tuple[_Differences, _Rest]:
    """The options of an estimator, and those of an optimizer."""
    unknown = set(options) - set(Options.__annotations__)
    if unknown:
        wanted = ", ".join(Options.__annotations__)
        given = f"the arguments {', '.join(sorted(unknown))}"
        raise InputError(describe(given, f"of {wanted} and the optimizer's own"))
    mu = options.get("mu")
    first: _Differences = {"central": options.get("central", True)}
    if mu is not None and not callable(mu):
        first["mu"] = mu
    rest: _Rest = {
        "smoothing": mu if callable(mu) else None,
        "chunk": options.get("chunk"),
        "projection": options.get("projection"),
    }
    return first, rest


def zo_sgd(
    rate: Rate, *, samples: int = 20, law: Law = "sphere", **options: Unpack[Options]
) -> Optimizer:
    """ZO-SGD (Ghadimi and Lan, arXiv 1309.5549): random directions, gradient steps."""
    first, rest = _parted(options)
    return Optimizer(Random(samples, law, **first), optax.sgd(rate), **rest)


def zo_scd(rate: Rate, *, count: int = 20, **options: Unpack[Options]) -> Optimizer:
    """ZO-SCD (arXiv 1606.00498): uniform coordinates, gradient steps."""
    first, rest = _parted(options)
    return Optimizer(Coordinate(count, **first), optax.sgd(rate), **rest)


def zo_sign_sgd(
    rate: Rate, *, samples: int = 20, **options: Unpack[Options]
) -> Optimizer:
    """ZO-signSGD (Liu et al. 2019): the sign of the mean over random directions."""
    first, rest = _parted(options)
    return Optimizer(Sign(Random(samples, **first)), optax.sgd(rate), **rest)


def zo_svrg(
    rate: Rate,
    *,
    samples: int = 10,
    period: int = 50,
    snapshot: Estimator | None = None,
    full_cost: int = 1,
    **options: Unpack[Options],
) -> SVRG:
    """ZO-SVRG (Liu et al., arXiv 1805.10367): random directions less a snapshot's.

    A step takes four values for each direction, at the point and at the snapshot. With
    mini-batches give `minimize` or `step` the `full` function of snapshots, and here
    what a value of it costs.
    """
    first, rest = _parted(options)
    return SVRG(
        ControlVariate(Random(samples, **first)),
        optax.sgd(rate),
        snapshot=snapshot or Coordinate(**first),
        period=period,
        full_cost=full_cost,
        **rest,
    )


def zo_adamm(rate: Rate, *, samples: int = 20, **options: Unpack[Options]) -> Optimizer:
    """ZO-AdaMM (Chen et al., arXiv 1910.06513): random directions, `adamm`."""
    first, rest = _parted(options)
    # The projection in its own metric finds the point; rounding is left to the other.
    transform = adamm(rate, projection=rest.get("projection"))
    return Optimizer(Random(samples, **first), transform, **rest)


def hge_sgd(
    rate: Rate,
    *,
    samples: int = 10,
    count: int = 10,
    estimator: Hybrid | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    """ZO-HGD (Sharma et al., arXiv 2012.11518): `Hybrid`, gradient steps.

    Standard rates have `inverse_sqrt` and `inverse` for steps, and `horizon_mu(d,
    horizon)` for mu. A given `estimator` has samples, count, mu and central of its own;
    a schedule of mu goes with it.
    """
    return _hybrid(optax.sgd(rate), samples, count, estimator, options)


def hge_adam(
    rate: Rate,
    *,
    samples: int = 10,
    count: int = 10,
    estimator: Hybrid | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    """`Hybrid` with Adam's steps; arguments as for `hge_sgd`."""
    return _hybrid(optax.adam(rate), samples, count, estimator, options)


def _hybrid(
    transform: optax.GradientTransformation,
    samples: int,
    count: int,
    estimator: Hybrid | None,
    options: Options,
) -> Optimizer:
    first, rest = _parted(options)
    if estimator is None:
        estimator = Hybrid(samples, count, **first)
    elif "mu" in first or "central" in options:
        given = "an estimator, and mu or central besides"
        raise InputError(describe(given, "either", "Give them to the estimator."))
    return Optimizer(estimator, transform, **rest)


OPTIMIZERS = {
    "zo_sgd": zo_sgd,
    "zo_scd": zo_scd,
    "zo_sign_sgd": zo_sign_sgd,
    "zo_svrg": zo_svrg,
    "zo_adamm": zo_adamm,
    "hge_sgd": hge_sgd,
    "hge_adam": hge_adam,
}
"""Every optimizer by name; one contract test walks it."""
