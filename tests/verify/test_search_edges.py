"""Searches at the edges: rounding, regions without splits, balls, overflow."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from core.errors import GraphError, InputError, ShapeError
from verify import box_bounds, certificate, crown, network
from verify.clauses import padded
from verify.properties import Clause, Property

CONFIG = verify.Config(timeout_s=60, batch=8, restarts=0)


def steep(params, x):
    return 1 - 1e4 * jax.nn.relu(x @ params["w"] + params["b"])


def cancelling(seed):
    """relu of a sum of large terms that is above 0 in one corner alone, by 0.004.

    1 - 1e4 relu(z) is negative there. Rounded to float32 the sum may be negative
    everywhere: its terms add up to some 5e5, an ulp of which is 0.03.
    """
    rng = np.random.default_rng(seed)
    w = 1e4 * rng.normal(size=200).astype(np.float32)
    low = rng.uniform(-1, 1, 200).astype(np.float32)
    high = low + np.float32(0.01)
    corner = np.where(w > 0, high, low).astype(np.float64)
    b = np.float32(0.004 - corner @ w.astype(np.float64))
    true = corner @ w.astype(np.float64) + np.float64(b)
    params = {"w": w[:, None], "b": b[None]}
    region = verify.box(low, high)
    prop = verify.linear(region, np.ones((1, 1)), [0.0])
    return verify.Problem(steep, params, prop), true


@pytest.mark.parametrize("seed", [2, 5, 9])
def test_a_neuron_within_rounding_of_zero_is_not_taken_for_fixed(seed):
    asked, true = cancelling(seed)
    assert true > 1e-4  # so that 1 - 1e4 * true < 0: a counterexample
    found = verify.verify(asked, CONFIG)
    assert found.status == "sat"
    assert found.witness is not None
    assert found.witness[1][0] <= 0


@pytest.mark.parametrize("backward", [True, False])
def test_hidden_bounds_with_a_margin_hold_the_exact_ones(backward):
    asked, _ = cancelling(0)
    net = network(asked.fn, asked.params, np.zeros(200, np.float32))
    plain, wide = (
        jax.jit(
            functools.partial(
                crown.hidden_bounds,
                net,
                config=crown.CrownConfig(margin=margin, intersect=False),
                backward_passes=backward,
            )
        )
        for margin in (False, True)
    )
    missed = 0  # how often depends on the order in which a machine adds
    for seed in range(40):
        asked, true = cancelling(seed)
        weights = net.prepare(asked.params)
        region = verify.regions.outward32(asked.property.clauses[0].region)
        region = jax.tree.map(jnp.asarray, region)
        missed += float(plain(weights, region)[0].upper[0]) < true
        assert float(wide(weights, region)[0].upper[0]) >= true
    assert missed  # or the margin would not be needed


def product(params, x):
    return x @ params["a"] @ params["b"]


def affine(seed, shift):
    """A network without ReLUs of 20 inputs, and its exact least row."""
    rng = np.random.default_rng(seed)
    params = {
        "a": rng.normal(size=(20, 4)).astype(np.float32),
        "b": rng.normal(size=(4, 3)).astype(np.float32),
    }
    x = rng.uniform(-1, 1, 20)
    rows = rng.normal(size=(2, 3))
    region = verify.box(x - 0.1, x + 0.1)
    slopes = rows @ (params["a"].astype(float) @ params["b"]).T
    least = slopes @ x - 0.1 * np.abs(slopes).sum(-1)
    spec = verify.Spec(rows, shift - least)
    prop = Property((Clause(region, spec),), (20,), 3)
    return verify.Problem(product, params, prop)


@pytest.mark.parametrize("shift", [0.5, -0.01])
def test_a_network_without_neurons_is_decided(shift):
    # By -0.01 each row can be negative, by itself: both at once are so nowhere.
    asked = affine(0, shift)
    config = dataclasses.replace(CONFIG, certificate=True)
    found = verify.verify(asked, config)
    assert found.status == "unsat", found.why
    assert certificate.check(asked, found.certificate).ok
    low = affine(0, -5.0)
    assert verify.verify(low, config).status == "sat"


@pytest.mark.parametrize("order", [1, -1])
def test_no_clause_hides_another_where_nothing_is_unstable(order):
    """One holds on the ball and not on its box, and the other can be violated."""
    params = affine(1, 0.0).params
    slopes = (params["a"].astype(np.float64) @ params["b"]).T
    length = np.linalg.norm(slopes, axis=-1)
    assert (np.abs(slopes).sum(-1) > 2 * length).all()
    region = verify.regions.ball(np.zeros(20), 1.0, "l2")
    rows = np.eye(3)[:2, None]
    holds, fails = (
        Clause(region, verify.Spec(row, np.array([t * n])))
        for row, t, n in zip(rows, (1.2, 0.1), length, strict=False)
    )
    for clauses, status in (((holds,), "unsat"), ((holds, fails)[::order], "sat")):
        asked = verify.Problem(product, params, Property(clauses, (20,), 3))
        assert verify.verify(asked, CONFIG).status == status


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_large_coefficients_count_as_rounding_in_leaves(seed):
    """Affine, of products that cancel; the least row is -0.5, and they lose several."""
    rng = np.random.default_rng(seed)
    params = {
        "a": 1e3 * rng.normal(size=(20, 64)).astype(np.float32),
        "b": 1e3 * rng.normal(size=(64, 1)).astype(np.float32),
    }
    exact = params["a"].astype(np.float64) @ params["b"].astype(np.float64)
    x = rng.uniform(-1, 1, 20)
    x -= exact[:, 0] * (exact[:, 0] @ x) / (exact**2).sum()  # so no constant is large
    low = x.astype(np.float32)
    high = low + np.float32(1e-6)
    least = np.minimum(exact[:, 0] * low, exact[:, 0] * high).sum()
    region = verify.box(low, high)
    prop = verify.linear(region, np.ones((1, 1)), [-(least + 0.5)])
    asked = verify.Problem(product, params, prop)
    assert verify.verify(asked, CONFIG).status != "unsat"  # 0.5 below 0


def hat(params, x):
    """t less the sum of |x - c|, by two ReLUs an input."""
    apart = x - params["c"]
    return params["t"] - (jax.nn.relu(apart) + jax.nn.relu(-apart)) @ params["v"]


def hat_params(n):
    return {
        "c": np.full(n, 0.2, np.float32),
        "v": np.full((n, 1), 1.0, np.float32),
        "t": np.zeros(1, np.float32),
    }


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("branching", ["auto", "input"])
def test_what_holds_on_a_ball_alone_is_verified(norm, branching):
    # The sum of |x - c| is at most 1 in an l1 ball of radius 1, and sqrt(n) in an l2
    # ball; it is n in the corners of the box around both.
    n = 2
    params = hat_params(n)
    most = 1.0 if norm == "l1" else np.sqrt(n)
    region = verify.regions.ball(params["c"], 1.0, norm)
    config = dataclasses.replace(CONFIG, branching=branching)
    for slack, status in ((0.3, "unsat"), (-0.3, "sat")):
        own = dict(params, t=np.full(1, most + slack, np.float32))
        prop = verify.linear(region, np.ones((1, 1)), [0.0])
        asked = verify.Problem(hat, own, prop)
        found = verify.verify(asked, config)
        assert found.status == status, (found.why, found.lower)
    both = verify.verify_all([verify.Problem(hat, own, prop)] * 2, config)
    assert [v.status for v in both] == ["sat", "sat"]


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_ball_has_a_certificate(norm):
    params = hat_params(2)
    region = verify.regions.ball(params["c"], 1.0, norm)
    own = dict(params, t=np.full(1, 1.9, np.float32))  # 2 in the corners of the box
    asked = verify.Problem(hat, own, verify.linear(region, np.ones((1, 1)), [0.0]))
    found = verify.verify(asked, dataclasses.replace(CONFIG, certificate=True))
    assert found.status == "unsat"
    assert found.certificate is not None, found.why
    assert certificate.check(asked, found.certificate).ok


def test_bounds_that_overflow_leave_a_property_unknown():
    def fn(params, x):
        return jax.nn.relu(jax.nn.relu(x @ params["a"]) @ params["a"])[:1]

    rng = np.random.default_rng(0)
    params = {"a": 3e37 * rng.normal(size=(20, 20)).astype(np.float32)}
    prop = verify.linear(verify.box(-np.ones(20), np.ones(20)), np.ones((1, 1)), [1.0])
    found = verify.verify(verify.Problem(fn, params, prop), CONFIG)
    assert found.status == "unknown"
    assert found.why


def filled(params, x):
    index = jnp.array([0, 99])
    return params["w"] * jnp.take(x, index, mode="fill", fill_value=5.0)[1:]


def clipped(params, x):
    return params["w"] * x[jnp.array([99])]


@pytest.mark.parametrize(("fn", "most"), [(filled, 5.0), (clipped, 1.0)])
def test_indices_out_of_bounds_are_those_of_the_function(fn, most):
    region = verify.box(np.zeros(20), np.ones(20))
    prop = verify.linear(region, [[-1.0]], [most - 0.5])  # y < most - 0.5
    asked = verify.Problem(fn, {"w": np.ones(1, np.float32)}, prop)
    found = verify.verify(asked, CONFIG)
    assert found.status == "sat"
    least, most_bound = verify.bound(fn, asked.params, region)
    assert most_bound >= most >= least


def rounding_cast(params, x):
    return (params["w"] * x).astype(jnp.bfloat16).astype(jnp.float32)


def half_layer(params, x):
    return (x.astype(jnp.bfloat16) * params["w"] + params["b"]).astype(jnp.float32)


def test_casts_that_round_are_refused_by_name():
    region = verify.box(np.full(20, 0.99), np.full(20, 0.9985))
    prop = verify.linear(region, -np.eye(20)[:1], [0.9995])  # y[0] is 1.0
    params = {"w": np.ones(20, np.float32)}
    asked = verify.Problem(rounding_cast, params, prop)
    with pytest.raises(GraphError, match=r"test_search_edges.*float32 rounded to bf"):
        verify.verify(asked, CONFIG)
    half = {k: jnp.ones(20, jnp.bfloat16) for k in "wb"} | {"a": np.float32([1])}
    with pytest.raises(InputError, match=r"bfloat16, float32.*one of them for all"):
        verify.verify(verify.Problem(half_layer, half, prop), CONFIG)
    with jax.enable_x64(True):
        wide = {"w": np.ones(20)}
        with pytest.raises(GraphError, match="float64 rounded to float32"):
            verify.verify(verify.Problem(single_inside, wide, prop), CONFIG)


def single_inside(params, x):
    return params["w"] * x.astype(jnp.float32).astype(x.dtype)


def product_in(dtype, params, x):
    numbers = (((0,), (0,)), ((), ()))
    y = jax.lax.dot_general(x, x, numbers, preferred_element_type=dtype)
    return params["w"].astype(dtype) * y


def narrow_product(params, x):
    return product_in(jnp.bfloat16, params, x).astype(jnp.float32)


def test_products_of_two_branches_that_round_are_refused_by_name():
    region = verify.box([1.0005], [1.0007])
    prop = verify.linear(region, [[1.0]], [-1.0005])  # in bfloat16 y is 1.0
    params = {"w": np.ones(1, np.float32)}
    asked = verify.Problem(narrow_product, params, prop)
    with pytest.raises(GraphError, match=r"test_search_edges.*float32 rounded to bf"):
        verify.verify(asked, CONFIG)
    with jax.enable_x64(True):  # a wider result loses nothing
        fn = functools.partial(product_in, jnp.float64)
        low, high = map(np.asarray, verify.bound(fn, params, region))
    assert low <= 1.0005**2 < 1.0007**2 <= high < 1.002


def test_casts_to_the_type_of_the_network_are_none_in_float64_either():
    exact = box_bounds.DoubleBounds(single_inside, (2,))
    low, high = np.zeros((1, 2)), np.ones((1, 2))
    specs = [verify.Spec(np.ones((1, 2)), np.ones(1))]
    params = {"w": np.ones(2, np.float32)}
    np.testing.assert_allclose(exact(params, low, high, specs), 1.0, atol=1e-12)


def fake_quantized(params, x):
    return jnp.clip(jnp.round(params["w"] * x / 0.1), -8, 7) * 0.1


def test_fake_quantizers_are_no_casts():
    params, x = {"w": np.ones(2, np.float32)}, np.zeros(2, np.float32)
    net = network(fake_quantized, params, x)
    assert "round" in {node.op for node in net.nonlinear}


def total(params, x):
    return x @ params["w"]


def test_properties_of_other_shapes_are_refused():
    params = {"w": np.ones((20, 1), np.float32)}
    region = verify.box(np.zeros(20), np.ones(20))
    two = verify.linear(region, [[0.0, 1.0]], [1.0])
    asked = verify.Problem(total, params, two)
    with pytest.raises(ShapeError, match=r"2 outputs; expected.*1 outputs"):
        verify.verify(asked, CONFIG)
    one = verify.linear(region, [[1.0]], [1.0])
    proof = certificate.Certificate("relu", certificate.digest(asked), (), ())
    with pytest.raises(ShapeError, match=r"2 outputs; expected.*1 outputs"):
        certificate.check(asked, proof)
    problems = [asked, verify.Problem(total, params, one)]
    first, second = verify.verify_all(problems, CONFIG)
    assert (first.status, second.status) == ("unknown", "unsat")
    assert "2 outputs; expected" in first.why


def test_one_network_that_is_not_a_number_leaves_the_others_their_verdicts():
    params = {"w": np.full((20, 1), 0.05, np.float32)}
    region = verify.box(-np.ones(20), np.full(20, 2.0))
    prop = verify.linear(region, [[-1.0]], [100.0])
    bad = {"w": np.full((20, 1), np.nan, np.float32)}
    problems = [verify.Problem(raised, each, prop) for each in (bad, params)]
    first, second = verify.verify_all(problems, CONFIG)
    assert (first.status, second.status) == ("unknown", "unsat")
    assert "hidden bounds that are NaN" in first.why


def raised(params, x):
    return jax.nn.relu(x @ params["w"]) + 0.5


@pytest.mark.parametrize("method", ["beta", "crown", "interval"])
def test_what_intervals_alone_close_has_a_certificate_that_checks_or_none(method):
    """CROWN takes slope 1 below a mean in [-1, 2], and so the bound -0.5, not 0.5."""
    params = {"w": np.full((20, 1), 0.05, np.float32)}
    region = verify.box(-np.ones(20), np.full(20, 2.0))
    prop = verify.linear(region, np.ones((1, 1)), [0.0])
    asked = verify.Problem(raised, params, prop)
    config = dataclasses.replace(CONFIG, certificate=True, method=method)
    found = verify.verify(asked, config)
    assert found.status == "unsat"
    if method == "beta":
        assert certificate.check(asked, found.certificate).ok
    else:
        assert found.certificate is None
        assert "intervals" in found.why


def test_rows_that_underflow_in_float32_are_scaled():
    region = verify.box(np.zeros(20), np.ones(20))
    prop = verify.linear(region, [[-1e-46]], [1e-37])  # y < 1e9
    params = {"w": np.full((20, 1), 5e8, np.float32)}
    (row,) = padded(prop.clauses, np.float32)
    assert row.C.dtype == row.d.dtype == np.float32
    np.testing.assert_allclose(row.d / row.C[:, 0], -1e9, rtol=1e-6)
    found = verify.verify(verify.Problem(total, params, prop), CONFIG)
    assert found.status == "sat"
    prop = verify.linear(region, [[1.0], [1e-46]], [-1e-50, 1.0])
    one, other = padded(prop.clauses, np.float32)
    assert one.d < 0 < other.d
    wide = verify.linear(region, [[1.0, -1e-46]], [1.0])
    assert padded(wide.clauses, np.float32)[0].d == -np.inf
    plain = verify.linear(region, [[0.1, -1e-30]], [0.3])
    (row,) = padded(plain.clauses, np.float32)
    np.testing.assert_array_equal(row.C, np.float32([[0.1, -1e-30]]))
    np.testing.assert_array_equal(row.d, np.float32([0.3]))


class _Late(Exception):
    """What takes too long."""


def _never(*_):
    raise _Late


def _at_once(_, work, late):
    """`timing.within` of a limit that comes where `_never` is called."""
    try:
        return work()
    except _Late:
        return late()


def bowl(params, x):
    return jax.nn.relu(x @ params["w"]).sum(keepdims=True)


@pytest.mark.parametrize("slow", ["by_boxes", "certificate"])
def test_what_is_proven_stays_so_where_no_time_is_left_for_its_certificate(
    slow, monkeypatch
):
    monkeypatch.setattr("verify.proofs.Proof." + slow, _never)
    monkeypatch.setattr("verify.timing.within", _at_once)
    params = {"w": np.ones((2, 3), np.float32)}
    boxes = [verify.box(-np.ones(2), at * np.ones(2)) for at in (1, 2)]
    spec = verify.Spec(np.ones((1, 1)), np.ones(1))
    clauses = tuple(Clause(box, spec) for box in boxes)
    config = dataclasses.replace(CONFIG, certificate=True)
    for count in (1, 2):
        asked = verify.Problem(bowl, params, Property(clauses[:count], (2,), 1))
        found = verify.verify(asked, config)
        if count == 2 and slow == "by_boxes":  # the second region is still open
            assert found.status == "timeout"
        else:
            assert found.status == "unsat"
            assert found.certificate is None
            assert "no time was left" in found.why
