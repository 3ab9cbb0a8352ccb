"""Certificates that hold are accepted, whatever is tampered with is not."""

import dataclasses
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import GraphError
from tests.verify import certificate_cases as cases
from verify import proofs, regions
from verify.certificate import BoxLeaf, RootLayer, check, digest
from verify.problem import Problem
from verify.properties import Clause, Property, Spec
from verify.types import Bounds

ROW = (1.0, -1.0)


@pytest.fixture(scope="module")
def proven():
    """A problem whose minimum is 1e-6, and a proof with all neurons split."""
    params = cases.dense_params(1, (3, 5, 4, 2))
    return cases.split_search(params, cases.UNIT_BOX, ROW, 1e-6)


@pytest.fixture(scope="module")
def image():
    """A convolutional residual network, three classes, unsplit leaves."""
    x = np.random.default_rng(0).uniform(size=(1, 1, 5, 4))
    problem = cases.robust(cases.residual, cases.residual_params(0), x, 0.05)
    leaves = [cases.plain_leaf(problem, clause) for clause in range(2)]
    return problem, cases.certify(problem, leaves)


@pytest.fixture(scope="module")
def boxes():
    params = cases.dense_params(0, (3, 6, 6, 2))
    problem = cases.margin_problem(cases.dense, params, cases.UNIT_BOX, 0.1)
    return problem, cases.box_search(problem, 2)


def rejects(problem, certificate, why):
    found = check(problem, certificate)
    assert not found.ok
    assert why in found.why, found.why
    return found


def leaf_changed(certificate, at=3, **changes):
    leaves = list(certificate.leaves)
    leaves[at] = dataclasses.replace(leaves[at], **changes)
    return dataclasses.replace(certificate, leaves=tuple(leaves))


def test_a_proof_by_splits_reaches_the_minimum(proven):
    problem, certificate = proven
    found = check(problem, certificate)
    assert found.ok, found.why
    assert found.leaves == len(certificate.leaves)
    assert 0.99e-6 < found.least_margin <= 1e-6
    assert found.seconds > 0


def test_what_does_not_hold_is_not_proven():
    params = cases.dense_params(1, (3, 5, 4, 2))
    problem, certificate = cases.split_search(params, cases.UNIT_BOX, ROW, -1e-7)
    found = rejects(problem, certificate, "expected a positive one")
    assert -1.1e-7 < found.least_margin < -0.9e-7


def test_convolutions_with_a_skip_are_proven(image):
    problem, certificate = image
    assert check(problem, certificate).ok
    intervals = dataclasses.replace(certificate, roots=())
    least = check(problem, intervals).least_margin
    assert least < check(problem, certificate).least_margin


def test_a_proof_by_boxes(boxes):
    problem, certificate = boxes
    found = check(problem, certificate)
    assert found.ok, found.why
    each = [dataclasses.replace(leaf, weights=None) for leaf in certificate.leaves]
    tried = dataclasses.replace(certificate, leaves=tuple(each))
    assert check(problem, tried).least_margin == found.least_margin
    whole = dataclasses.replace(certificate, leaves=(BoxLeaf(0, (), np.ones(1)),))
    assert check(problem, whole).least_margin < found.least_margin


@pytest.mark.parametrize("kind", ["proven", "boxes"])
def test_leaves_must_cover_everything(kind, request):
    problem, certificate = request.getfixturevalue(kind)
    leaves = certificate.leaves
    replace = dataclasses.replace
    for at in (0, 7, len(leaves) - 1):
        left = leaves[:at] + leaves[at + 1 :]
        rejects(problem, replace(certificate, leaves=left), "no leaf on side")
    rejects(problem, replace(certificate, leaves=()), "no leaf")
    path = leaves[3].path
    flipped = (*path[:-1], (*path[-1][:2], -path[-1][2]))
    rejects(problem, leaf_changed(certificate, path=flipped), "no leaf on side")
    other = (((path[0][0] + 1) % 2, *path[0][1:]), *path[1:])
    rejects(problem, leaf_changed(certificate, path=other), "split both")
    again = replace(certificate, leaves=(*leaves, leaves[0]))
    assert check(problem, again).ok
    shuffled = replace(certificate, leaves=leaves[::-1])
    assert check(problem, shuffled).ok


def test_a_box_cut_elsewhere_on_one_side_leaves_a_gap(boxes):
    problem, certificate = boxes
    path = certificate.leaves[3].path
    moved = (*path[:-1], (path[-1][0], path[-1][1] + 1e-9, path[-1][2]))
    rejects(problem, leaf_changed(certificate, path=moved), "split both")


def test_multipliers_outside_of_their_sets_are_refused(proven):
    problem, certificate = proven
    leaf = certificate.leaves[3]
    beta = leaf.beta.copy()
    for bad in (-1e-12, np.nan, np.inf):
        beta[0] = bad
        rejects(problem, leaf_changed(certificate, beta=beta), "beta")
    rejects(problem, leaf_changed(certificate, beta=leaf.beta[1:]), "betas of")
    for bad in (-1e-9, 1 + 1e-9, np.nan):
        slopes = ((np.array([1]), np.array([bad])), *leaf.slopes[1:])
        rejects(problem, leaf_changed(certificate, slopes=slopes), "slopes")
    for ids in ([9], [-1], [0, 0], [0.5]):
        slopes = ((np.array(ids), np.full(len(ids), 0.5)), *leaf.slopes[1:])
        rejects(problem, leaf_changed(certificate, slopes=slopes), "slopes")
    rejects(problem, leaf_changed(certificate, slopes=leaf.slopes[1:]), "malformed")
    for bad in ([-1.0], [0.0], [np.nan], [1.0, 1.0], [], [[1.0]]):
        rejects(problem, leaf_changed(certificate, weights=np.array(bad)), "weights")
    rejects(problem, leaf_changed(certificate, clause=1), "no clause")
    for path in (((0, 99, 1),), ((7, 0, 1),), ((0, 0, 0),), ((0, 0, 2),)):
        changed = leaf_changed(certificate, path=path, beta=np.zeros(1))
        rejects(problem, changed, "leaf 3")
    rejects(problem, leaf_changed(certificate, path=((0, 0.5, 1),)), "malformed")
    rejects(problem, leaf_changed(certificate, path=None), "malformed")
    rejects(problem, leaf_changed(certificate, beta=["x"] * 7), "numbers of type")


def test_betas_are_needed(proven):
    problem, certificate = proven
    leaves = tuple(
        dataclasses.replace(leaf, beta=0 * leaf.beta) for leaf in certificate.leaves
    )
    bare = dataclasses.replace(certificate, leaves=leaves)
    rejects(problem, bare, "expected a positive one")


def test_boxes_outside_of_their_sets_are_refused(boxes):
    problem, certificate = boxes
    for path in (((3, 0.0, 1),), ((-1, 0.0, 1),), ((0, np.nan, 1),), ((0, 0.0, 0),)):
        rejects(problem, leaf_changed(certificate, path=path), "leaf 3")
    rejects(problem, leaf_changed(certificate, weights=-np.ones(1)), "weights")
    mixed = (*certificate.leaves[:-1], cases.plain_leaf(problem, 0))
    wrong = dataclasses.replace(certificate, leaves=mixed)
    rejects(problem, wrong, "not of kind")


def test_a_certificate_of_another_problem_is_refused(proven):
    problem, certificate = proven
    params = jax.tree.map(np.copy, problem.params)
    params[1]["kernel"][0, 0] = np.nextafter(params[1]["kernel"][0, 0], np.float32(9))
    others = [dataclasses.replace(problem, params=params)]
    clause = problem.property.clauses[0]
    wider = regions.box(clause.region.lower, clause.region.upper + 1e-9)
    changes = [
        Clause(wider, clause.spec),
        Clause(clause.region, Spec(clause.spec.C, clause.spec.d - 1e-9)),
        Clause(clause.region, Spec(clause.spec.C * 1.001, clause.spec.d)),
    ]
    for changed in changes:
        prop = Property((changed,), (3,), 2)
        others.append(dataclasses.replace(problem, property=prop))
    for other in others:
        rejects(other, certificate, "digest")
    # Neither would the numbers hold, were the digest forged.
    for other in others[1:3]:
        forged = dataclasses.replace(certificate, digest=digest(other))
        margin = check(other, forged).least_margin
        assert margin != check(problem, certificate).least_margin
    lower = Property(
        (Clause(clause.region, Spec(clause.spec.C, clause.spec.d - 1e-5)),), (3,), 2
    )
    other = dataclasses.replace(problem, property=lower)
    forged = dataclasses.replace(certificate, digest=digest(other))
    rejects(other, forged, "expected a positive one")


def test_versions_and_kinds(proven):
    problem, certificate = proven
    replace = dataclasses.replace
    rejects(problem, replace(certificate, version=certificate.version + 1), "version")
    rejects(problem, replace(certificate, kind="other"), "kind")
    rejects(problem, replace(certificate, kind="input"), "not of kind")


def test_a_clause_without_leaves_is_open(image):
    problem, certificate = image
    one = dataclasses.replace(certificate, leaves=certificate.leaves[:1])
    rejects(problem, one, "clause 1: no leaf")


def test_roots_that_do_not_fit_are_refused(image):
    problem, certificate = image
    root = certificate.roots[0]
    none = np.zeros(0, np.int64)

    def with_layer(**changes):
        layers = (*root[:2], dataclasses.replace(root[2], **changes))
        return dataclasses.replace(certificate, roots=(layers,))

    slopes = np.full((32, 4), 0.5)
    columns = (np.arange(4), none)
    empty = np.zeros((1, 0))
    good = with_layer(columns=columns, lower=(slopes, empty), upper=(slopes, empty))
    assert check(problem, good).least_margin > 0
    for bad in (np.full((32, 4), 1.5), np.full((31, 4), 0.5), slopes * np.nan):
        wrong = with_layer(columns=columns, lower=(bad, empty), upper=(slopes, empty))
        rejects(problem, wrong, "root layer")
    rejects(problem, with_layer(layer=9), "no layer")
    rejects(problem, with_layer(layer=1), "slopes of other than")
    rejects(problem, with_layer(neurons=np.array([32])), "outside of")
    rejects(problem, with_layer(neurons=None), "root layer")
    two = dataclasses.replace(certificate, roots=certificate.roots * 2)
    rejects(problem, two, "2 roots of 1 regions")
    loose = dataclasses.replace(certificate, roots=((1,),))
    rejects(problem, loose, "root layer: int")


def test_numbers_that_are_not_finite_prove_nothing(image):
    problem, _ = image
    for bad in (np.nan, np.inf, 1e38):
        params = dict(problem.params, out=np.full((12, 3), bad, np.float32))
        if bad == 1e38:
            params["first"] = params["first"] * np.float32(1e30)
        other = dataclasses.replace(problem, params=params)
        leaves = [cases.plain_leaf(problem, clause) for clause in range(2)]
        assert not check(other, cases.certify(other, leaves)).ok
    params = dict(problem.params, first=problem.params["first"] * np.float32(np.nan))
    other = dataclasses.replace(problem, params=params)
    rejects(other, cases.certify(other, leaves), "not finite")


def test_each_region_has_its_own_root():
    params = cases.dense_params(2, (3, 8, 2))
    spec = Spec(np.array([[1.0, -1.0]]), np.array([5.0]))
    near, far = regions.box([0.0] * 3, [0.1] * 3), regions.box([0.4] * 3, [0.5] * 3)
    same = regions.box([0.0] * 3, [0.1] * 3)
    clauses = tuple(Clause(region, spec) for region in (near, far, same))
    problem = Problem(cases.dense, params, Property(clauses, (3,), 2))
    leaves = [cases.plain_leaf(problem, clause) for clause in range(3)]
    certificate = cases.certify(problem, leaves)
    assert len(certificate.roots) == 2
    assert check(problem, certificate).ok
    one = dataclasses.replace(certificate, roots=certificate.roots[:1])
    rejects(problem, one, "1 roots of 2 regions")


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_balls_are_tighter_than_their_boxes(norm):
    params = cases.dense_params(3, (4, 8, 2))
    ball = regions.ball(np.full(4, 0.3), 0.2, norm)
    box = regions.box(ball.lower, ball.upper)
    margins = []
    for region in (ball, box):
        problem = cases.margin_problem(cases.dense, params, region, 5.0)
        spec = Spec(np.array([[1.0, -1.0]]), np.array([5.0]))
        prop = Property((Clause(region, spec),), (4,), 2)
        problem = dataclasses.replace(problem, property=prop)
        certificate = cases.certify(problem, [cases.plain_leaf(problem, 0)])
        margins.append(check(problem, certificate).least_margin)
        boxed = cases.certify(problem, [BoxLeaf(0, (), np.ones(1))], kind="input")
        np.testing.assert_allclose(
            check(problem, boxed).least_margin, margins[-1], rtol=1e-9
        )
    assert margins[0] > margins[1]


def test_a_convex_combination_of_rows_can_refute_what_no_row_does():
    """y = (x, -x): not both are <= -1/2, though each is for some x."""
    problem = Problem(
        lambda params, x: x @ params,
        np.array([[1.0, -1.0]], np.float32),
        Property(
            (Clause(regions.box([-1.0], [1.0]), Spec(np.eye(2), np.full(2, 0.5))),),
            (1,),
            2,
        ),
    )
    leaf = cases.plain_leaf(problem, 0)
    halves = dataclasses.replace(leaf, weights=np.array([0.5, 0.5]))
    assert check(problem, cases.certify(problem, [halves])).ok
    for weights in ([1.0, 0.0], [0.0, 1.0], [0.2, 0.8]):
        wrong = dataclasses.replace(leaf, weights=np.array(weights))
        rejects(problem, cases.certify(problem, [wrong]), "positive")


def test_programs_prove_leaves_that_only_a_combination_of_rows_closes():
    """Of y + 1/100 and 1/100 - 2 z one is positive: y = z, by two equal neurons."""
    first = {
        "kernel": np.float32([[1, 0, 0], [0, 1, 1]]),
        "bias": np.float32([2, 0, 0]),
    }
    last = {
        "kernel": np.float32([[1, 1], [1, 0], [-1, 0]]),
        "bias": np.float32([-2] * 2),
    }
    params = [first, last]
    region = regions.box(-np.ones(2), np.ones(2))
    spec = Spec(np.array([[1.0, 0.0], [0.0, -2.0]]), np.full(2, 0.01))
    problem = Problem(cases.dense, params, Property((Clause(region, spec),), (2,), 2))
    roots = cases.crown_roots(problem)
    low, high = cases.root_bounds(problem, roots)[:2]
    reduced = types.SimpleNamespace(
        params=cases.reduced(params), hidden=[Bounds(low[0][0], high[0][0])], sizes=(3,)
    )
    leaves = []
    for signs in itertools.product((1, -1), repeat=2):
        _, beta, weights = proofs._from_program(reduced, region, spec, (1, 2), signs)
        path = [(0, 1, signs[0]), (0, 2, signs[1])]
        leaf = cases.plain_leaf(problem, 0, path, beta[1:])
        leaves.append(dataclasses.replace(leaf, weights=weights))
    np.testing.assert_allclose(leaves[0].weights, [2 / 3, 1 / 3], atol=1e-6)
    assert check(problem, cases.certify(problem, leaves, roots)).ok
    for row in np.eye(2):
        one = [dataclasses.replace(leaf, weights=row) for leaf in leaves]
        rejects(problem, cases.certify(problem, one, roots), "positive")
    root = dataclasses.replace(
        cases.plain_leaf(problem, 0), weights=np.array([2 / 3, 1 / 3])
    )
    rejects(problem, cases.certify(problem, [root], roots), "positive")


def test_slopes_of_roots_and_leaves_are_used():
    """Other slopes, other bounds; each sound, so below the sampled minimum."""
    x = np.random.default_rng(0).uniform(size=(1, 1, 5, 4))
    problem = cases.robust(cases.residual, cases.residual_params(0), x, 0.4)
    leaves = [cases.plain_leaf(problem, clause) for clause in range(2)]
    certificate = cases.certify(problem, leaves)
    rng = np.random.default_rng(0)
    margins = set()
    for _ in range(4):
        layers = tuple(
            RootLayer(
                root.layer,
                root.neurons,
                tuple(np.arange(32) for _ in root.columns),
                tuple(rng.uniform(size=(32, 32)) for _ in root.columns),
                tuple(rng.uniform(size=(1, 32)) for _ in root.columns),
            )
            for root in certificate.roots[0]
        )
        slopes = tuple((np.arange(32), rng.uniform(size=32)) for _ in range(3))
        leaves = [
            dataclasses.replace(leaf, slopes=slopes) for leaf in certificate.leaves
        ]
        changed = cases.certify(problem, leaves, (layers,))
        margins.add(check(problem, changed).least_margin)
    assert len(margins) == 4
    region = problem.property.clauses[0].region
    points = region.sample(jax.random.key(1), 2000)
    y = jax.jit(jax.vmap(lambda x: cases.residual(problem.params, x).reshape(-1)))(
        points
    )
    y = np.asarray(y, np.float64)
    sampled = min(
        float((y @ np.asarray(c.spec.C).T + c.spec.d).min())
        for c in problem.property.clauses
    )
    assert max(margins) <= sampled + 1e-5


def test_other_nonlinear_operators_are_named():
    problem = Problem(
        lambda params, x: jnp.tanh(x) @ params,
        np.ones((3, 2), np.float32),
        Property((Clause(cases.UNIT_BOX, Spec(np.eye(2)[:1], np.ones(1))),), (3,), 2),
    )
    certificate = dataclasses.replace(
        cases.certify(problem, (), ()), leaves=(BoxLeaf(0, (), np.ones(1)),)
    )
    with pytest.raises(GraphError, match="tanh"):
        check(problem, certificate)


def test_a_property_without_clauses_needs_no_leaf():
    problem = Problem(
        cases.dense, cases.dense_params(0, (3, 2, 2)), Property((), (3,), 2)
    )
    assert check(problem, cases.certify(problem, (), ())).ok
