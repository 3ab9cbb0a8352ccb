"""Input regions: boxes and norm balls, with the linear programs they solve.

A region is the set over which a property is decided: a box, or an l2 or l1 ball
intersected with one. An l_inf ball is a box. Regions made from Python hold numpy
float64; `outward` casts them for a verifier that computes in float32.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from core.errors import InputError, NonFiniteError, ShapeError, describe
from core.types import Array, ArrayLike

Norm = Literal["linf", "l2", "l1"]
NORMS = ("linf", "l2", "l1")
_HALVINGS = 50  # of the bisection in a projection; 2**-50 is below float64's need


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("lower", "upper", "center", "radius"),
    meta_fields=("norm",),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """The set `{lower <= x <= upper}`, intersected with a ball if `radius` is given.

    Make one with `box` or `ball`, which check their arguments. Compared and hashed
    by identity, so that clauses can share one.

    Attributes:
      lower: smallest values, any float dtype, the shape of one input.
      upper: largest values, as `lower`.
      center: the ball's centre, as `lower`, or None.
      radius: the ball's radius, shape [], or None for a box.
      norm: which ball; "linf" means that there is only the box.

    Invariants: `lower <= upper`, finite, and the set is not empty. Of a ball the
    box encloses the part inside of the clip range.
    """

    lower: Any
    upper: Any
    center: Any = None
    radius: Any = None
    norm: Norm = "linf"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return np.shape(self.lower)

    def minimum(self, A: Array) -> Array:
        """Returns a lower bound of `min <A, x>` over the region; exact for a box.

        With a ball it is the larger of the ball's dual-norm bound (exact for the
        ball alone) and the box's, up to rounding. Differentiable in `A`, with
        finite gradients.

        Args:
          A: coefficients [S, *shape]; its dtype is that of the computation.

        Returns:
          [S].

        Source: Hoelder's inequality; arXiv:1811.00866, theorem 3.2.
        """
        A = jnp.asarray(A)
        if A.shape[1:] != self.shape:
            raise ShapeError(describe(f"A of {A.shape}", f"(S, {self.shape})"))
        region = outward(self, A.dtype)
        axes = tuple(range(1, A.ndim))
        zero = jnp.zeros((), A.dtype)
        low, high = jnp.asarray(region.lower)[None], jnp.asarray(region.upper)[None]
        least = jnp.maximum(A, zero) * low + jnp.minimum(A, zero) * high
        least = least.sum(axes)
        if region.radius is None:
            return least
        middle = (A * jnp.asarray(region.center)[None]).sum(axes)
        return jnp.maximum(least, middle - region.radius * self.dual(A))

    def dual(self, A: Array) -> Array:
        """Returns the dual norm of coefficients [S, *shape], [S]; for balls.

        The radius times that is what `<A, x>` varies by over the ball, to either side.
        """
        axes = tuple(range(1, A.ndim))
        if self.norm == "l2":
            return _euclidean(A, axes)
        return jnp.abs(A).max(axes)

    def minimizer(self, A: Array) -> Array:
        """Returns where `minimum` is attained, or near it, [S, *shape].

        Exact for a box. Of a ball the minimiser on its surface, clipped to the box: a
        point to look at, which may be outside where the box cuts the ball.

        Args:
          A: coefficients [S, *shape].
        """
        region = outward(self, A.dtype)
        low, high = jnp.asarray(region.lower)[None], jnp.asarray(region.upper)[None]
        if region.radius is None:
            return jnp.where(A > 0, low, high)
        flat = A.reshape(A.shape[0], -1)
        if self.norm == "l2":
            length = self.dual(flat)[:, None]
            step = flat / jnp.where(length > 0, length, 1.0)
        else:
            largest = jax.nn.one_hot(
                jnp.abs(flat).argmax(-1), flat.shape[-1], dtype=A.dtype
            )
            step = jnp.sign(flat) * largest
        center = jnp.asarray(region.center)[None]
        return jnp.clip(center - region.radius * step.reshape(A.shape), low, high)

    def flat(self) -> "Region":
        """Returns the region of flattened inputs, [n]."""
        center = None if self.center is None else self.center.reshape(-1)
        return dataclasses.replace(
            self,
            lower=self.lower.reshape(-1),
            upper=self.upper.reshape(-1),
            center=center,
        )

    def meets(self, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """Returns which boxes have a point in the ball, bool [B].

        Computed in float64, and in doubt True. All do where there is no ball.

        Args:
          lower: ends of boxes inside of the region's box, [B, n] with n flat.
          upper: likewise.
        """
        if self.radius is None:
            return np.ones(len(lower), bool)
        center = np.asarray(self.center, np.float64).reshape(-1)
        low, high = (np.asarray(end, np.float64) for end in (lower, upper))
        apart = np.clip(center, low, high) - center
        far = np.abs(apart).sum(-1)
        if self.norm == "l2":
            far = np.sqrt((apart**2).sum(-1))
        return far <= float(self.radius) * (1 + 1e-9)

    def contains(self, x: ArrayLike, tol: float = 0.0) -> bool:
        """Returns whether `x` is in the region, computed in float64.

        Args:
          x: a concrete array of the region's shape; NaN is never inside.
          tol: how far outside of each bound, and of the radius, still counts.

        Raises:
          ShapeError: `x` of another shape.
        """
        point = np.asarray(x, np.float64)
        if point.shape != self.shape:
            raise ShapeError(describe(f"a point of {point.shape}", f"{self.shape}"))
        low, high = np.asarray(self.lower), np.asarray(self.upper)
        if not np.all((point >= low - tol) & (point <= high + tol)):
            return False
        if self.radius is None:
            return True
        apart = point - np.asarray(self.center, np.float64)
        return bool(_length(apart, self.norm, np) <= float(self.radius) + tol)

    def project(self, x: Array) -> Array:
        """Returns the nearest point of the region to `x`, in Euclidean distance.

        Exact for a box; for a ball up to a bisection of the multiplier. Jittable;
        a result in float32 can be outside by a rounding error, see `inside`.

        Args:
          x: the region's shape and any float dtype.
        """
        x = jnp.asarray(x)
        like = functools.partial(jnp.asarray, dtype=x.dtype)
        region = jax.tree.map(like, self)
        return _project_jit(region, x)

    def inside(self, x: ArrayLike) -> np.ndarray:
        """Returns a float64 point, near `x`, for which `contains` holds exactly.

        Args:
          x: a concrete array of the region's shape, without NaN.
        """
        region = jax.tree.map(lambda a: np.asarray(a, np.float64), self)
        point = np.asarray(x, np.float64)
        return point if self.contains(point) else _project(region, point, np)

    def sample(self, key: Array, n: int) -> Array:
        """Returns `n` random points of the region, [n, *shape].

        Uniform in a box. In a ball directions are uniform and the radius fills the
        volume, before the box cuts what is outside of it.

        Args:
          key: a random key.
          n: how many.
        """
        return _sample(jax.tree.map(jnp.asarray, self), key, n)

    def noise(self, key: Array, count: tuple[int, ...], shape: tuple[int, ...]) -> Any:
        """Returns what `place` makes random points of: of any regions of this kind.

        One draw for many regions compiles much faster than one for each of them.

        Args:
          key: a random key.
          count: of points, by axes.
          shape: of one input.
        """
        dtype = jnp.asarray(self.lower).dtype
        if self.radius is None:
            return (jax.random.uniform(key, (*count, *shape), dtype),)
        towards, far = jax.random.split(key)
        draw = {"l2": jax.random.normal, "l1": jax.random.laplace}[self.norm]
        return draw(towards, (*count, *shape), dtype), jax.random.uniform(
            far, count, dtype
        )

    def place(self, noise: Any) -> Array:
        """Returns random points [n, *shape] from noise of `count` (n,)."""
        low, high = self.lower, self.upper
        if self.radius is None:
            return jax.vmap(lambda s: jnp.clip(low + s * (high - low), low, high))(
                *noise
            )

        def one(way: Array, share: Array) -> Array:
            reach = self.radius * share ** (1 / max(low.size, 1))
            step = way * (reach / _length(way, self.norm, jnp))
            return _project(self, self.center + step, jnp)

        return jax.vmap(one)(*noise)


def box(lower: ArrayLike, upper: ArrayLike) -> Region:
    """Returns the region `{lower <= x <= upper}`.

    Args:
      lower: smallest values, the shape of one input; concrete values become
        numpy float64, traced ones stay as they are and are not checked.
      upper: largest values, as `lower`.

    Raises:
      ShapeError: shapes that differ.
      NonFiniteError: NaN or infinity.
      InputError: an element of `lower` above that of `upper`.

    Example:
      >>> box([0.0, -1.0], [1.0, 1.0]).contains([0.5, 0.0])
      True
    """
    if np.shape(lower) != np.shape(upper):
        raise ShapeError(
            describe(
                f"lower of shape {np.shape(lower)} and upper of {np.shape(upper)}",
                "two arrays of one shape, that of one input",
            )
        )
    if _traced(lower, upper):
        return Region(jnp.asarray(lower), jnp.asarray(upper))
    low, high = _concrete(lower, "lower"), _concrete(upper, "upper")
    wrong = np.argwhere(low > high)
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        raise InputError(
            describe(
                f"lower {low[at]:g} above upper {high[at]:g} at index {at}"
                + (f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""),
                "lower <= upper everywhere",
            )
        )
    return Region(low, high)


def ball(
    center: ArrayLike,
    radius: ArrayLike,
    norm: Norm = "linf",
    clip: tuple[ArrayLike, ArrayLike] | None = None,
) -> Region:
    """Returns the ball `||x - center|| <= radius`, cut to a range of values.

    Args:
      center: the shape of one input.
      radius: not negative; a scalar, and for "linf" anything that broadcasts to
        the shape of `center`.
      norm: "linf" (the result is a box), "l2" or "l1".
      clip: smallest and largest values that an input may have, each broadcastable
        to `center`, or None.

    Raises:
      InputError: an unknown norm, a negative radius, or an empty intersection.
      ShapeError, NonFiniteError: as `box`.

    Example:
      >>> ball([0.5, 0.9], 0.2, clip=(0.0, 1.0)).upper.tolist()
      [0.7, 1.0]
    """
    if norm not in NORMS:
        raise InputError(describe(repr(norm), f"a norm of {', '.join(NORMS)}"))
    traced = _traced(center, radius, clip)
    middle = jnp.asarray(center) if traced else _concrete(center, "center")
    size = jnp.asarray(radius) if traced else _concrete(radius, "radius")
    if norm != "linf" and size.shape != ():
        raise ShapeError(describe(f"a radius of shape {size.shape}", "a scalar"))
    if not traced and np.any(size < 0):
        raise InputError(describe(f"radius {size}", "a number of at least 0"))
    low, high = middle - _spread(size, middle), middle + _spread(size, middle)
    if norm != "linf" and not traced:  # so that rounding cuts nothing off the ball
        low, high = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
    if clip is not None:
        xp = jnp if traced else np
        low = xp.maximum(low, _spread(xp.asarray(clip[0], low.dtype), middle))
        high = xp.minimum(high, _spread(xp.asarray(clip[1], low.dtype), middle))
    region = box(low, high)
    if norm == "linf":
        return region
    region = dataclasses.replace(region, center=middle, radius=size, norm=norm)
    if not traced:
        nearest = np.clip(middle, low, high) - middle
        if _length(nearest, norm, np) > size:
            raise InputError(describe("a ball outside of clip", "one that meets it"))
    return region


def outward(region: Region, dtype: Any) -> Region:
    """Returns a region of `dtype` that contains `region`, no larger than it must be.

    Lower bounds are rounded down and upper bounds up; a ball's radius grows by
    what rounding its centre moved. A wider or equal dtype changes no value. There are
    no denormal numbers in the result, which some devices take for 0.

    Args:
      region: of any float dtype, traced or not.
      dtype: the float dtype of the result.
    """
    dtype = np.dtype(dtype)
    if all(getattr(a, "dtype", None) == dtype for a in jax.tree.leaves(region)):
        return region
    low = _rounded(region.lower, dtype, -np.inf)
    high = _rounded(region.upper, dtype, np.inf)
    if region.radius is None:
        return Region(low, high)
    xp = jnp if isinstance(region.center, Array) else np
    exact = xp.asarray(region.center)
    center = exact.astype(dtype)
    center = xp.where(xp.abs(center) < np.finfo(dtype).tiny, 0 * center, center)
    moved = _length(center.astype(exact.dtype) - exact, region.norm, xp)
    grown = region.radius + moved * (1 + 1e-6)
    radius = _rounded(xp.asarray(grown, exact.dtype), dtype, np.inf)
    return Region(low, high, center, radius, region.norm)


def outward32(region: Region) -> Region:
    """Returns the smallest float32 region that contains `region`; see `outward`."""
    return outward(region, np.float32)


def _rounded(values: Any, dtype: np.dtype, towards: float) -> Any:
    xp = jnp if isinstance(values, jax.Array) else np
    exact = xp.asarray(values)
    near = exact.astype(dtype)
    back = near.astype(exact.dtype)
    short = back > exact if towards < 0 else back < exact
    near = xp.where(short, xp.nextafter(near, xp.asarray(towards, dtype)), near)
    least = xp.asarray(np.copysign(np.finfo(dtype).tiny, towards), dtype)
    beyond = xp.where(
        (near < 0 if towards < 0 else near > 0), least, xp.zeros_like(near)
    )
    return xp.where(xp.abs(near) < xp.abs(least), beyond, near)


def _project(region: Region, x: Any, xp: Any) -> Any:
    """The minimiser is clip(path(t)) for the smallest feasible multiplier t.

    Both norms have such a path, on which the distance to the centre only falls as
    `t` goes from 0 to 1: towards the centre for l2, soft thresholding for l1.
    """
    if region.radius is None:
        return xp.clip(x, region.lower, region.upper)
    apart = x - region.center
    most = xp.abs(apart).max()

    def point(t: Any) -> Any:
        if region.norm == "l2":
            step = apart * (1 - t)
        else:
            step = xp.sign(apart) * xp.maximum(xp.abs(apart) - t * most, 0 * most)
        return xp.clip(region.center + step, region.lower, region.upper)

    def halve(_: int, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        outer, inner = ends
        middle = (outer + inner) / 2
        fits = _length(point(middle) - region.center, region.norm, xp) <= region.radius
        return xp.where(fits, outer, middle), xp.where(fits, middle, inner)

    zero = xp.zeros((), x.dtype)
    ends = (zero, zero + 1)
    if xp is np:
        for step in range(_HALVINGS):
            ends = halve(step, ends)
    else:
        ends = jax.lax.fori_loop(0, _HALVINGS, halve, ends)
    start = xp.clip(x, region.lower, region.upper)
    fits = _length(start - region.center, region.norm, xp) <= region.radius
    return xp.where(fits, start, point(ends[1]))


@jax.jit
def _project_jit(region: Region, x: Array) -> Array:
    return _project(region, x, jnp)


@functools.partial(jax.jit, static_argnums=2)
def _sample(region: Region, key: Array, n: int) -> Array:
    return region.place(region.noise(key, (n,), region.lower.shape))


def _length(v: Any, norm: str, xp: Any) -> Any:
    return xp.sqrt((v * v).sum()) if norm == "l2" else xp.abs(v).sum()


def _euclidean(a: Array, axes: tuple[int, ...]) -> Array:
    """The length; of numbers whose squares vanish or overflow as well."""
    most = lax.stop_gradient(jnp.abs(a).max(axes, keepdims=True))
    unit = jnp.where((most > 0) & (most < jnp.inf), most, jnp.ones_like(most))
    share = a / unit
    square = (share * share).sum(axes)
    positive = square > 0
    root = jnp.sqrt(jnp.where(positive, square, jnp.ones_like(square)))
    return jnp.where(positive, root, jnp.zeros_like(square)) * unit.reshape(root.shape)


def _traced(*values: Any) -> bool:
    try:
        for value in jax.tree.leaves(values):
            np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return True
    return False


def _concrete(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise NonFiniteError(
            describe(f"{name} with NaN or infinity", "finite numbers in every bound")
        )
    return array


def _spread(values: Any, like: Any) -> Any:
    xp = jnp if isinstance(values, jax.Array) else np
    try:
        return xp.broadcast_to(values, like.shape)
    except ValueError as error:
        raise ShapeError(
            describe(
                f"a radius or clip of shape {values.shape}",
                f"one that broadcasts to the input's {like.shape}",
            )
        ) from error
