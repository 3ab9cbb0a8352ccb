"""Networks, properties and a small search that makes certificates of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from verify import regions
from verify.certificate import BoxLeaf, Certificate, Leaf, collect, digest
from verify.certificate import regions as distinct_regions
from verify.certificate.checking import _root_tightening, domain
from verify.certificate.passes import forward
from verify.certificate.plan import read
from verify.leaves import LinearLeaf
from verify.problem import Problem
from verify.properties import Clause, Property, Spec, robustness
from verify.types import Bounds


def dense(params, x):
    """ReLU layers on a flat input."""
    x = x.reshape(-1)
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def dense_params(seed, sizes):
    rng = np.random.default_rng(seed)
    return [
        {
            "kernel": (rng.normal(size=(a, b)) / np.sqrt(a)).astype(np.float32),
            "bias": (rng.normal(size=b) / 4).astype(np.float32),
        }
        for a, b in itertools.pairwise(sizes)
    ]


def conv(x, kernel, strides, padding, groups=1, dilation=(1, 1), inner=(1, 1)):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        inner,
        dilation,
        ("NCHW", "OIHW", "NCHW"),
        feature_group_count=groups,
    )


def residual(params, x):
    """Convolutions with strides, uneven pads, groups, dilation, batch norm, a skip."""

    def bias(b):
        return lax.broadcast_in_dim(b, (1, *b.shape, 1, 1), (1,))

    h = conv(x, params["first"], (2, 1), ((1, 0), (0, 1)))
    scale = params["scale"] / jnp.sqrt(params["var"] + np.float32(1e-3))
    h = jnp.broadcast_to(bias(scale), h.shape) * (
        h - jnp.broadcast_to(bias(params["mean"]), h.shape)
    )
    h = jax.nn.relu(h + jnp.broadcast_to(bias(params["shift"]), h.shape))
    skip = h
    h = conv(h, params["grouped"], (1, 1), "SAME", groups=2)
    h = jax.nn.relu(h)
    h = conv(h, params["dilated"], (1, 1), ((2, 2), (2, 2)), dilation=(2, 2))
    h = jax.nn.relu(h + skip)
    h = lax.reduce_window(
        h, np.float32(0), lax.add, (1, 1, 2, 2), (1, 1, 1, 1), "VALID"
    )
    return h.reshape(1, -1) @ params["out"] / np.float32(3)


def residual_params(seed):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return (rng.normal(size=shape) / 2).astype(np.float32)

    return {
        "first": draw(4, 1, 3, 2),
        "scale": draw(4),
        "var": np.abs(draw(4)),
        "mean": draw(4),
        "shift": draw(4),
        "grouped": draw(4, 2, 3, 3),
        "dilated": draw(4, 4, 3, 3),
        "out": draw(4 * 1 * 3, 3),
    }


def robust(fn, params, x, eps, norm="linf", clip=None):
    """The problem that the label of x does not change."""
    y = np.asarray(fn(params, jnp.asarray(x, jnp.float32))).ravel()
    prop = robustness(x, int(y.argmax()), eps, norm, clip, y.size)
    return Problem(fn, params, prop)


def margin_problem(fn, params, region, gap, row=(1.0, -1.0)):
    """The problem that row . y stays above its sampled minimum less `gap`."""
    points = region.sample(jax.random.key(0), 4000)
    y = jax.vmap(lambda x: fn(params, x).reshape(-1))(points)
    row = np.pad(np.asarray(row), (0, y.shape[1] - len(row)))
    least = float((np.asarray(y, np.float64) @ row).min())
    spec = Spec(row[None], np.array([gap - least]))
    prop = Property((Clause(region, spec),), region.shape, y.shape[1])
    return Problem(fn, params, prop)


def crown_roots(problem):
    """Backward bounds of every neuron, with adaptive slopes."""
    layers = collect.crown_roots(read(problem).sizes)
    return (layers,) * len(distinct_regions(problem.property)[0])


def plain_leaf(problem, clause, path=(), beta=None):
    """A leaf with adaptive slopes."""
    layers = len(read(problem).layers)
    none = (np.zeros(0, np.int64), np.zeros(0))
    beta = np.zeros(len(path)) if beta is None else beta
    rows = len(problem.property.clauses[clause].spec.d)
    return Leaf(clause, tuple(path), (none,) * layers, beta, np.eye(rows)[0])


def certify(problem, leaves, roots=None, kind="relu"):
    roots = crown_roots(problem) if roots is None and kind == "relu" else roots or ()
    return Certificate(kind, digest(problem), tuple(leaves), roots)


def root_bounds(problem, roots):
    """Hidden bounds of the first region as the checker has them."""
    plan = read(problem)
    box = domain(distinct_regions(problem.property)[0][0])
    return forward(plan, box, _root_tightening(plan, box, roots[0]))


def reduced(params):
    """Layers of `dense` as `verify.exact` takes them, in float64."""
    layers, before = [], 0
    for layer in params:
        kernel = np.asarray(layer["kernel"], np.float64)
        layers.append(
            {
                "matrix": np.pad(kernel, ((before, 0), (0, 0))),
                "bias": np.asarray(layer["bias"], np.float64),
            }
        )
        before += kernel.shape[0]
    return {"layers": layers[:-1], "output": layers[-1]}


def split_search(params, region, row, gap):
    """The problem that row . y is above its minimum less `gap`, and its proof.

    All unstable neurons are split; leaves take the multipliers of their programs.
    """
    spec = Spec(np.asarray(row)[None], np.zeros(1))
    clause = Clause(region, spec)
    prop = Property((clause,), region.shape, len(row))
    problem = Problem(dense, params, prop)
    roots = crown_roots(problem)
    low, high = root_bounds(problem, roots)[:2]
    hidden = [Bounds(a[0], b[0]) for a, b in zip(low, high, strict=True)]
    unstable = [
        (k, int(i))
        for k, (a, b) in enumerate(hidden)
        for i in np.flatnonzero((a < 0) & (b > 0))
    ]
    assert len(unstable) <= 10
    found, least = [], np.inf
    for signs in itertools.product((1, -1), repeat=len(unstable)):
        splits = [np.zeros(a.size) for a, _ in hidden]
        for (k, i), sign in zip(unstable, signs, strict=True):
            splits[k][i] = sign
        leaf = LinearLeaf(reduced(params), region, hidden, splits)
        least = min(least, leaf.minimum(np.asarray(row), gap)[1] - gap)
        betas = leaf.betas(np.asarray(row), gap)
        path = [(k, i, s) for (k, i), s in zip(unstable, signs, strict=True)]
        found.append((path, np.asarray([betas[k][i] for k, i, _ in path])))
    clause = Clause(region, Spec(spec.C, np.asarray([gap - least])))
    problem = Problem(dense, params, Property((clause,), region.shape, len(row)))
    leaves = [plain_leaf(problem, 0, path, beta) for path, beta in found]
    return problem, certify(problem, leaves, roots)


def box_search(problem, depth):
    """All boxes of `depth` rounds of halving every dimension."""
    leaves = []
    for c, clause in enumerate(problem.property.clauses):
        low, high = (np.ravel(a) for a in (clause.region.lower, clause.region.upper))
        boxes = [((), low, high)]
        for _ in range(depth):
            for dimension in range(low.size):
                boxes = [half for box in boxes for half in _halves(box, dimension)]
        weights = np.ones(len(clause.spec.d))
        leaves += [BoxLeaf(c, path, weights) for path, _, _ in boxes]
    return certify(problem, leaves, kind="input")


def _halves(box, dimension):
    path, low, high = box
    middle = float((low[dimension] + high[dimension]) / 2)
    below, above = high.copy(), low.copy()
    below[dimension] = above[dimension] = middle
    return [
        ((*path, (dimension, middle, -1)), low, below),
        ((*path, (dimension, middle, 1)), above, high),
    ]


UNIT_BOX = regions.box([-0.5] * 3, [0.5] * 3)
