"""Certificates of what the verifier's own optimisation found, and of real networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import graph.onnx
from tests.verify import certificate_cases as cases
from verify import alpha, regions, vnnlib
from verify.certificate import BoxLeaf, RootLayer, check, collect
from verify.certificate import regions as distinct_regions
from verify.crown import hidden_bounds
from verify.network import network
from verify.problem import Problem
from verify.properties import Clause, Property, Spec
from verify.reduce import Reducer, apply
from verify.regions import Region
from verify.types import Bounds


@pytest.fixture(autouse=True)
def _promotion():
    """The bounds that the checker is compared with promote ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def optimised(problem, share=False):
    """alpha-CROWN on the reduced form: what a root of a search has."""
    region = problem.property.clauses[0].region
    example = jnp.zeros(region.shape, jnp.float32)
    built = network(problem.fn, problem.params, example)
    weights = built.prepare(problem.params)
    low, high = (jnp.asarray(a, jnp.float32) for a in (region.lower, region.upper))
    narrow = Region(low, high)
    hidden = jax.jit(lambda w, r: hidden_bounds(built, w, r))(weights, narrow)
    reduced = Reducer(built)(weights, hidden)
    flat = Region(low.reshape(-1), high.reshape(-1))
    dense = network(apply, reduced.params, jnp.zeros(low.size, jnp.float32))
    specs = [clause.spec for clause in problem.property.clauses]
    spec = Spec(
        jnp.asarray(np.concatenate([s.C for s in specs]), jnp.float32),
        jnp.asarray(np.concatenate([s.d for s in specs]), jnp.float32),
    )
    bounds = tuple(Bounds(*map(jnp.asarray, b)) for b in reduced.hidden)
    config = alpha.AlphaConfig(steps=15, share=share)

    @jax.jit
    def run(params):
        return alpha.optimize(dense, dense.prepare(params), flat, spec, bounds, config)

    return reduced, run(jax.tree.map(jnp.asarray, reduced.params))


@pytest.mark.parametrize("share", [False, True])
def test_slopes_of_alpha_crown_give_the_checker_the_same_bounds(share):
    x = np.random.default_rng(0).uniform(size=(1, 1, 5, 4))
    problem = cases.robust(cases.residual, cases.residual_params(0), x, 0.3)
    reduced, state = optimised(problem, share)
    sizes = (32, 32, 32)
    plain = collect.crown_roots(sizes)
    roots = (*plain, *collect.alpha_roots(reduced, state.slopes))
    assert len(roots) > len(plain)
    leaves = []
    for clause in range(2):
        slopes = np.concatenate(
            [np.asarray(own[clause, 0]) for own in state.slopes["output"]]
        )
        zero = np.zeros_like(slopes)
        leaves.append(collect.leaf(reduced, clause, [], [], slopes, zero, None))
    certificate = cases.certify(problem, leaves, (roots,))
    lower, upper, *_ = cases.root_bounds(problem, certificate.roots)
    # Shared slopes are those of the last iterate, bounds the best of all iterates.
    for k, index in enumerate(() if share else reduced.index):
        low, high = (np.asarray(a)[: len(index)] for a in state.hidden[k])
        assert (lower[k][0, index] >= low - 1e-4).all()
        assert (upper[k][0, index] <= high + 1e-4).all()
    found = check(problem, certificate)
    assert share or found.least_margin >= float(state.lower.min()) - 1e-4
    crown = [cases.plain_leaf(problem, clause) for clause in range(2)]
    loose = check(problem, cases.certify(problem, crown, (plain,)))
    assert found.least_margin > loose.least_margin


def test_positions_of_reduced_neurons_are_those_of_the_network():
    x = np.random.default_rng(0).uniform(size=(1, 1, 5, 4))
    problem = cases.robust(cases.residual, cases.residual_params(0), x, 0.3)
    reduced, _ = optimised(problem)
    starts = np.cumsum([0, *reduced.sizes])
    split = [int(starts[2]), 1, int(starts[1]) + 2]
    rng = np.random.default_rng(0)
    n = int(starts[-1])
    found = collect.leaf(
        reduced, 1, split, [1, -1, 1], rng.uniform(size=n), np.arange(n), np.ones(1)
    )
    index = reduced.index
    assert found.path == (
        (2, int(index[2][0]), 1),
        (0, int(index[0][1]), -1),
        (1, int(index[1][2]), 1),
    )
    np.testing.assert_array_equal(found.beta, split)
    assert [len(ids) for ids, _ in found.slopes] == [len(each) for each in index]


def acasxu(data_root, name, prop):
    folder = data_root / "verify" / "vnncomp2021" / "acasxu"
    fn, params = graph.onnx.load(folder / name)
    found = vnnlib.load(folder / prop, (1, 1, 1, 5), 5)
    return Problem(fn, params, found)


def near_centre(problem, share):
    """The same property on a smaller box around each clause's centre."""
    clauses = []
    for clause in problem.property.clauses:
        low, high = np.asarray(clause.region.lower), np.asarray(clause.region.upper)
        middle, half = (low + high) / 2, share * (high - low) / 2
        box = regions.box(middle - half, middle + half)
        clauses.append(clause._replace(region=box))
    prop = Property(tuple(clauses), problem.property.input_shape, 5)
    return dataclasses.replace(problem, property=prop)


@pytest.mark.data
def test_a_part_of_an_acasxu_instance_by_boxes(data_root):
    name = "ACASXU_run2a_2_2_batch_2000.onnx"
    problem = near_centre(acasxu(data_root, name, "prop_3.vnnlib"), 0.5)
    tree = cases.box_search(problem, 1)
    leaves = tuple(BoxLeaf(each.clause, each.path, None) for each in tree.leaves)
    whole = (BoxLeaf(0, (), None),)
    one = check(problem, dataclasses.replace(tree, leaves=whole))
    found = check(problem, dataclasses.replace(tree, leaves=leaves))
    assert one.least_margin < found.least_margin
    assert found.ok, found.why


@pytest.mark.data
def test_a_convolutional_network_agrees_with_its_reference_bounds(data_root):
    """CROWN's margins of the first image; ours are intersected, so never looser."""
    folder = data_root / "verify"
    fn, params = graph.onnx.load(folder / "eran" / "mnist_conv_small.onnx")
    pixels = np.load(folder / "eran" / "mnist_eran_inputs.npz")["x_nchw_01"][:1]
    reference = np.load(folder / "reference_bounds" / "mnist_conv_small.npz")
    mean, std, label = 0.1307, 0.3081, int(reference["labels"][0])
    x = (pixels[0][None].astype(np.float64) - mean) / std
    clip = (-mean / std, (1 - mean) / std)
    box = regions.ball(x, 0.12 / std, clip=clip)
    one = np.eye(10)
    rows = np.stack([one[label] - one[j] for j in range(10) if j != label])
    clauses = tuple(Clause(box, Spec(row[None], np.zeros(1))) for row in rows)
    problem = Problem(fn, params, Property(clauses, box.shape, 10))
    assert len(distinct_regions(problem.property)[0]) == 1
    leaves = [cases.plain_leaf(problem, k) for k in range(9)]
    found = check(problem, cases.certify(problem, leaves, partial_roots(problem)))
    assert found.least_margin >= reference["CROWN"][0].min() - 1e-3


def partial_roots(problem):
    """Roots of the neurons alone that intervals leave unstable, to save time."""
    roots = cases.crown_roots(problem)
    lower, upper, *_ = cases.root_bounds(problem, ((),))
    layers = tuple(
        RootLayer(
            root.layer,
            np.flatnonzero((low[0] < 0) & (high[0] > 0)),
            root.columns,
            root.lower,
            root.upper,
        )
        for root, low, high in zip(roots[0], lower, upper, strict=True)
    )
    return (layers,)
