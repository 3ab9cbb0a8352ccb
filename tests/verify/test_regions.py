import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from core.errors import InputError, NonFiniteError, ShapeError
from verify import regions

SEEDS = st.integers(0, 2**31)
NORMS = ["linf", "l2", "l1"]


def _case(seed, norm, shape=(1, 4), clip=True):
    rng = np.random.default_rng(seed)
    center = rng.uniform(-1, 1, shape)
    limits = (-1.0, rng.uniform(0.6, 1.0)) if clip else None
    return rng, regions.ball(center, rng.uniform(0.5, 1.5), norm, limits)


@pytest.mark.parametrize("norm", NORMS)
@given(seed=SEEDS)
def test_minimum_is_below_every_point(norm, seed):
    rng, region = _case(seed, norm)
    A = rng.normal(size=(3, 1, 4)).astype(np.float32)
    bound = np.asarray(region.minimum(A))
    points = np.asarray(region.sample(jax.random.key(seed), 50))
    points = np.stack([region.inside(p) for p in points])
    values = np.einsum("sij,nij->sn", A.astype(np.float64), points)
    assert (bound[:, None] <= values + 1e-5).all()


@given(seed=SEEDS)
def test_minimum_over_a_box_is_attained_at_a_corner(seed):
    rng, region = _case(seed, "linf")
    A = rng.normal(size=(2, 1, 4))
    corners = itertools.product(*np.stack([region.lower[0], region.upper[0]], 1))
    values = np.stack([A[:, 0] @ np.array(c) for c in corners])
    np.testing.assert_allclose(region.minimum(A), values.min(0), atol=1e-5)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_minimum_over_a_free_ball_is_the_dual_norm(norm):
    center = np.array([1.0, -2.0, 0.5])
    region = regions.ball(center, 0.7, norm)
    a = np.array([3.0, -4.0, 1.0])
    dual = np.linalg.norm(a) if norm == "l2" else 4.0
    np.testing.assert_allclose(
        region.minimum(a[None]), [a @ center - 0.7 * dual], rtol=1e-6
    )


@pytest.mark.parametrize("norm", NORMS)
def test_the_minimizer_attains_the_minimum(norm):
    rng, region = _case(3, norm, clip=False)
    A = np.concatenate([rng.normal(size=(5, 1, 4)), np.zeros((1, 1, 4))])
    A = A.astype(np.float32)
    points = np.asarray(region.minimizer(jnp.asarray(A)))
    assert all(region.contains(p, tol=1e-6) for p in points)
    found = (A * points).sum((1, 2))
    np.testing.assert_allclose(found, region.minimum(A), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_dual_norm_of_tiny_and_huge_coefficients(scale):
    region = regions.outward32(regions.ball(np.full(3, 0.5), 1.0, "l2"))
    A = np.float32(scale) * np.float32([[1.0, -2.0, 2.0]])
    assert float(region.dual(A)[0]) == pytest.approx(3 * scale, rel=1e-6)
    assert float(region.minimum(A)[0]) == pytest.approx(-2.5 * scale, rel=1e-5)
    lengths = jax.jit(jax.grad(lambda a: region.dual(a).sum()))(A)
    np.testing.assert_allclose(lengths, [[1 / 3, -2 / 3, 2 / 3]], rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_boxes_meet_a_ball_where_their_nearest_point_is_in_it(norm):
    rng, region = _case(4, norm, clip=False)
    low = rng.uniform(-3, 3, (200, 4))
    high = low + rng.uniform(0, 1, low.shape)
    met = region.meets(low, high)
    center = region.lower if region.center is None else region.center
    nearest = np.clip(center.reshape(-1), low, high)
    if norm == "linf":
        assert met.all()  # of parts of its own box
    else:
        inside = [region.contains(p.reshape(1, 4)) for p in nearest]
        np.testing.assert_array_equal(met, inside)
        assert 0 < met.sum() < 200
    assert region.flat().minimum(np.ones((1, 4))) == region.minimum(np.ones((1, 1, 4)))


def test_minimum_takes_the_better_of_ball_and_clip():
    region = regions.ball([0.0, 0.0], 1.0, "l2", clip=(-0.1, 1.0))
    np.testing.assert_allclose(region.minimum(np.ones((1, 2))), [-0.2], rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_minimum_has_finite_gradients_at_zero(norm):
    region = regions.ball(np.zeros(3), 1.0, norm)
    grads = jax.grad(lambda a: region.minimum(a).sum())(jnp.zeros((2, 3)))
    assert np.isfinite(grads).all()


@pytest.mark.parametrize("norm", NORMS)
@given(seed=SEEDS)
def test_projected_and_sampled_points_are_inside(norm, seed):
    rng, region = _case(seed, norm)
    far = rng.normal(size=(1, 4)) * 3
    near = region.project(jnp.asarray(far, jnp.float32))
    assert region.contains(near, 1e-5)
    assert region.contains(region.inside(far))
    assert region.contains(region.inside(near))
    for point in np.asarray(region.sample(jax.random.key(seed), 8)):
        assert region.contains(point, 1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("seed", range(4))
def test_projection_is_the_nearest_point(norm, seed):
    rng, region = _case(seed, norm, (3,))
    far = rng.normal(size=3) * 2
    ours = region.inside(far)
    size = {
        "l2": lambda v: (v**2).sum() - region.radius**2,
        "l1": lambda v: np.abs(v).sum() - region.radius,
    }[norm]
    starts = [ours, *np.asarray(region.sample(jax.random.key(seed), 3), np.float64)]
    found = [
        optimize.minimize(
            lambda z: ((z - far) ** 2).sum(),
            start,
            bounds=list(zip(region.lower, region.upper, strict=True)),
            constraints={"type": "ineq", "fun": lambda z: -size(z - region.center)},
            method="SLSQP",
        ).x
        for start in starts
    ]
    # SLSQP's points lie outside by its tolerance; their feasible ones are to compare.
    best = min(((region.inside(z) - far) ** 2).sum() for z in found)
    assert ((ours - far) ** 2).sum() <= best + 1e-9


@pytest.mark.parametrize("norm", NORMS)
@given(seed=SEEDS)
def test_outward_contains_the_original(norm, seed):
    rng, region = _case(seed, norm, clip=False)
    wide = regions.outward32(region)
    assert {a.dtype for a in jax.tree.leaves(wide)} == {np.dtype(np.float32)}
    assert (wide.lower <= region.lower).all()
    assert (wide.upper >= region.upper).all()
    np.testing.assert_allclose(wide.lower, region.lower, rtol=3e-7)
    if norm == "linf":
        return
    way = rng.normal(size=(1, 4))
    way /= np.linalg.norm(way) if norm == "l2" else np.abs(way).sum()
    edge = region.inside(region.center + region.radius * way)
    assert wide.contains(edge)
    np.testing.assert_allclose(wide.radius, region.radius, atol=1e-6)


def test_outward_of_its_own_dtype_is_the_same_object():
    wide = regions.outward32(regions.box([0.1], [0.1]))
    assert regions.outward32(wide) is wide
    assert float(wide.lower[0]) < 0.1 < float(wide.upper[0])


def test_regions_pass_through_jit_grad_and_vmap():
    region = regions.outward32(regions.ball(np.zeros((2, 3)), 1.0, "l2"))

    @jax.jit
    def low(region, A):
        return region.minimum(A)

    np.testing.assert_allclose(low(region, jnp.ones((1, 2, 3))), [-(6**0.5)], rtol=1e-6)
    both = jax.tree.map(lambda a: jnp.stack([a, a]), region)
    out = jax.vmap(low, (0, None))(both, jnp.ones((1, 2, 3)))
    assert out.shape == (2, 1)
    made = jax.jit(lambda c: regions.ball(c, 0.5, "l2").upper)(jnp.zeros(3))
    np.testing.assert_allclose(made, 0.5)


def test_contains_is_exact_and_takes_a_tolerance():
    region = regions.ball([0.0, 0.0], 1.0, "l1")
    assert region.contains([0.5, -0.5])
    assert not region.contains([0.5, -0.5001])
    assert region.contains([0.5, -0.5001], tol=1e-3)
    assert not region.contains([np.nan, 0.0])
    with pytest.raises(ShapeError, match="point"):
        region.contains([0.0])


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: regions.box([0.0, 2.0], [1.0, 1.0]), InputError, r"index \(1,\)"),
        (lambda: regions.box([0.0], [1.0, 1.0]), ShapeError, "one shape"),
        (lambda: regions.box([np.nan], [1.0]), NonFiniteError, "lower"),
        (lambda: regions.box([0.0], [np.inf]), NonFiniteError, "upper"),
        (lambda: regions.ball([0.0], -1.0), InputError, "radius"),
        (lambda: regions.ball([0.0], [[0.1, 0.2]]), ShapeError, "broadcasts"),
        (lambda: regions.ball([0.0], [0.1], "l2"), ShapeError, "scalar"),
        (lambda: regions.ball([0.0], 0.1, "l3"), InputError, "l3"),  # type: ignore
        (lambda: regions.ball([0.0], 0.1, clip=(0.5, 1)), InputError, "lower"),
        (
            lambda: regions.ball([0.0, 0.0], 1.0, "l2", (0.9, 2)),
            InputError,
            "outside of clip",
        ),
        (lambda: regions.box([0.0], [1.0]).minimum(jnp.ones(1)), ShapeError, "A of"),
    ],
)
def test_mistakes_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()
