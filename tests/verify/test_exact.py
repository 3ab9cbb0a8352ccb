"""The programs of exact and leaves against enumeration of activation patterns."""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from core.errors import InputError
from verify import exact, regions
from verify.clauses import decide_leaf
from verify.crown import hidden_bounds
from verify.leaves import LinearLeaf
from verify.network import network
from verify.properties import Spec
from verify.reduce import Reducer, apply

pytestmark = pytest.mark.oracle


@pytest.fixture(autouse=True)
def _promotion():
    """The bounds that the programs are compared with promote ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


SIZES = (3, 5, 4, 2)


def net(params, x):
    """A dense ReLU network of one flat input."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def parameters(seed):
    rng = np.random.default_rng(seed)
    return [
        {
            "kernel": rng.normal(size=(a, b)).astype(np.float32),
            "bias": rng.normal(size=b).astype(np.float32) / 2,
        }
        for a, b in itertools.pairwise(SIZES)
    ]


@functools.cache
def tools():
    """The network, its hidden bounds and its reduced form, compiled once."""
    built = network(net, parameters(0), jnp.zeros(SIZES[0], jnp.float32))
    return built, jax.jit(functools.partial(hidden_bounds, built)), Reducer(built)


def setup(seed, region):
    params, (built, hidden, reducer) = parameters(seed), tools()
    weights = built.prepare(params)
    return params, built, weights, reducer(weights, hidden(weights, region))


BOX = regions.box(-0.6 * np.ones(3), np.array([0.6, 0.6, 0.5]))
ROW = np.array([1.0, -1.0])


def patterns(reduced):
    """All signs of the unstable neurons, layer by layer, padded."""
    counts = [len(index) for index in reduced.index]
    for signs in itertools.product((1, -1), repeat=sum(counts)):
        parts, at = [], 0
        for n, size in zip(counts, reduced.sizes, strict=True):
            parts.append(np.pad(np.asarray(signs[at : at + n], int), (0, size - n)))
            at += n
        yield parts


def leaf(reduced, region, splits):
    return LinearLeaf(reduced.params, region, reduced.hidden, splits)


def enumerated(reduced, region, row=ROW, d=0.25):
    """The least leaf LP of all patterns, and its minimiser."""
    found = [
        leaf(reduced, region, splits).minimum(row, d) for splits in patterns(reduced)
    ]
    assert {status for status, _, _ in found} <= {"optimal", "infeasible"}
    _, value, x = min(found, key=lambda each: each[1])
    return value, x


@pytest.mark.parametrize("seed", range(4))
def test_milp_is_the_least_leaf_and_below_all_samples(seed):
    params, built, weights, reduced = setup(seed, BOX)
    assert 1 <= reduced.unstable <= 9
    least, x = enumerated(reduced, BOX)
    spec = Spec(np.stack([ROW, -ROW]), np.array([0.25, 0.0]))
    found = exact.milp(built, weights, BOX, spec)
    np.testing.assert_allclose(found[0], least, atol=1e-4)
    reached = float(ROW @ np.asarray(net(params, x.astype(np.float32))) + 0.25)
    np.testing.assert_allclose(reached, least, atol=1e-4)
    points = BOX.sample(jax.random.key(seed), 10_000)
    y = np.asarray(jax.vmap(lambda p: net(params, p))(points), np.float64)
    margins = y @ spec.C.T + spec.d
    assert (margins.min(0) >= found - 1e-4).all()


def test_the_reduced_form_is_what_the_programs_solve():
    _, _, _, reduced = setup(0, BOX)
    least, x = enumerated(reduced, BOX)
    y = np.asarray(apply(reduced.params, jnp.asarray(x, jnp.float32)), np.float64)
    np.testing.assert_allclose(ROW @ y + 0.25, least, atol=1e-4)


def test_the_triangle_relaxation_is_looser_and_exact_on_leaves():
    _, _, _, reduced = setup(1, BOX)
    args = (reduced.params, BOX, ROW, 0.25, reduced.hidden)
    least, _ = enumerated(reduced, BOX)
    assert exact.lp_bound(*args) <= least + 1e-7
    for splits in itertools.islice(patterns(reduced), 40):
        value = leaf(reduced, BOX, splits).minimum(ROW, 0.25)[1]
        np.testing.assert_allclose(exact.lp_bound(*args, splits), value, atol=1e-6)


def test_a_split_tightens_the_relaxation():
    _, _, _, reduced = setup(2, BOX)
    args = (reduced.params, BOX, ROW, 0.0, reduced.hidden)
    free = [np.zeros(n, int) for n in reduced.sizes]
    children = []
    for sign in (1, -1):
        splits = [s.copy() for s in free]
        layer = next(k for k, index in enumerate(reduced.index) if len(index))
        splits[layer][0] = sign
        children.append(exact.lp_bound(*args, splits))
    assert min(children) >= exact.lp_bound(*args, free) - 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_betas_of_a_leaf_prove_its_minimum(seed):
    """The Lagrangian of a leaf, minimised over the box, is the program's minimum."""
    _, _, _, reduced = setup(seed, BOX)
    statuses = set()
    for splits in itertools.islice(patterns(reduced), 200):
        piece = leaf(reduced, BOX, splits)
        status, value, _ = piece.minimum(ROW, 0.0)
        betas = piece.betas(ROW, 0.0)
        statuses.add(status)
        (cost, constant), (A, b) = piece.line(ROW, 0.0), piece.signs
        m = np.concatenate(
            [beta[s != 0] for beta, s in zip(betas, splits, strict=True)]
        )
        assert (m >= 0).all()
        line = cost + m @ A
        bound = constant - m @ b
        bound += np.maximum(line, 0) @ BOX.lower + np.minimum(line, 0) @ BOX.upper
        if status == "optimal":
            np.testing.assert_allclose(bound, value, atol=1e-6)
        else:
            assert status == "infeasible"
            assert value == np.inf
            assert bound > 0
    assert statuses == {"optimal", "infeasible"}


def test_an_l1_ball_is_solved_exactly_and_an_l2_ball_from_below():
    center = np.zeros(3)
    l1 = regions.ball(center, 0.6, "l1")
    _, built, weights, reduced = setup(3, l1)
    least, x = enumerated(reduced, l1)
    assert np.abs(x).sum() <= 0.6 + 1e-6
    found = exact.milp(built, weights, l1, Spec(ROW[None], np.array([0.25])))
    np.testing.assert_allclose(found[0], least, atol=1e-4)
    l2 = regions.ball(center, 0.6, "l2")
    reduced = setup(3, l2)[3]
    splits = next(patterns(reduced))
    args = (reduced.params, l2, ROW, 0.0, reduced.hidden)
    statuses = [leaf(reduced, l2, s).minimum(ROW, 0.0)[0] for s in patterns(reduced)]
    assert set(statuses) <= {"optimal", "infeasible", "relaxed"}
    with pytest.raises(InputError, match="l2 ball"):
        exact.lp_bound(*args, splits)
    with pytest.raises(InputError, match="l2 ball"):
        exact.milp(built, weights, l2, Spec(ROW[None], np.zeros(1)))


def test_a_leaf_with_an_open_neuron_is_refused():
    _, _, _, reduced = setup(0, BOX)
    free = [np.zeros(n, int) for n in reduced.sizes]
    with pytest.raises(InputError, match="neither split nor stable"):
        leaf(reduced, BOX, free).minimum(ROW, 0.0)


def test_a_linear_network_is_a_linear_program():
    params, built, weights, reduced = setup(
        0, regions.box(np.full(3, 0.1), np.full(3, 0.1))
    )
    assert reduced.unstable == 0
    splits = [np.zeros(n, int) for n in reduced.sizes]
    box = regions.box(np.full(3, 0.1), np.full(3, 0.1))
    _, value, _ = leaf(reduced, box, splits).minimum(ROW, 0.0)
    y = np.asarray(net(params, np.full(3, 0.1, np.float32)), np.float64)
    np.testing.assert_allclose(value, ROW @ y, atol=1e-5)
    found = exact.milp(built, weights, box, Spec(ROW[None], np.zeros(1)))
    np.testing.assert_allclose(found, [value], atol=1e-4)


def test_milp_names_what_it_could_not_solve():
    _, built, weights, _ = setup(0, BOX)
    spec = Spec(ROW[None], np.zeros(1))
    failed = optimize.OptimizeResult(status=1, message="time limit", fun=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimize, "milp", lambda *args, **kwargs: failed)
        with pytest.raises(InputError, match="time limit"):
            exact.milp(built, weights, BOX, spec)


def test_a_conjunction_is_decided_by_one_program():
    """Rows x + 0.01 and 0.01 - 2 x are never negative at once, nor is either alone."""
    region = regions.box(-np.ones(1), np.ones(1))
    params = {"layers": (), "output": {"matrix": np.eye(1), "bias": np.zeros(1)}}
    spec = Spec(np.array([[1.0], [-2.0]]), np.array([0.01, 0.01]))
    piece = LinearLeaf(params, region, (), ())
    weights, x = piece.weights(spec)
    np.testing.assert_allclose(weights, [2 / 3, 1 / 3], atol=1e-9)
    assert piece.minimum(weights @ spec.C, 0.01)[1] > 0
    np.testing.assert_allclose(spec.C[0] * x, spec.C[1] * x, atol=1e-9)
    reduced = types.SimpleNamespace(params=params, hidden=())
    asked = []
    for first in ([1.0, 0.0], [0.0, 1.0], [0.5, 0.5]):
        said = decide_leaf(reduced, region, spec, (), np.array(first), asked.append)
        assert said == ("safe", None)
    assert len(asked) == 6  # a point of each program, none of them unsafe


@pytest.mark.parametrize("seed", range(3))
def test_the_best_weights_have_the_least_of_the_largest_rows(seed):
    _, _, _, reduced = setup(seed, BOX)
    spec = Spec(
        np.array([[1.0, -1.0], [-0.5, 2.0], [-1.0, 0.2]]), np.array([0.1, 1.3, -0.6])
    )
    for splits in patterns(reduced):
        found = leaf(reduced, BOX, splits).weights(spec)
        if found is not None:
            break
    weights, x = found
    assert weights.sum() == pytest.approx(1)
    y = np.asarray(apply(reduced.params, jnp.asarray(x, jnp.float32)), np.float64)
    row = weights @ spec.C, float(weights @ spec.d)
    status, value, _ = leaf(reduced, BOX, splits).minimum(*row)
    assert status == "optimal"
    assert value == pytest.approx((spec.C @ y + spec.d).max(), abs=1e-4)
