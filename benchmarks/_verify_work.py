"""The calls that the verification benchmark times, and the operations they need.

Each does what a search does: bounds hidden values, reduces the network to its unstable
neurons, optimises, and bounds batches of sub-domains on the reduced form.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.verification import images, networks
from verify import Bounds, Config, Problem, Region, Verifier, crown, vnnlib, windows
from verify.alpha import AlphaConfig
from verify.beta import BetaConfig, Domains, bound_batch
from verify.box_bounds import bound_boxes
from verify.network import Network
from verify.programs import Programs, Shape, round_config
from verify.reduce import Reduced
from verify.regions import outward
from verify.root import Rooted, stacked
from verify.search import grouped, padded, verifier_of, verify

STEPS = 20
"""Iterations of alpha- and beta-CROWN, as in the quoted figures."""

Timed = tuple[Callable[[], Any], float]
"""A call, and its multiplications and additions."""


class Root(NamedTuple):
    """A reduced network in the middle of a search.

    Attributes:
      params: of the reduced form.
      region: its flat input.
      reduced: the form.
      programs: of its shape.
      C: the row of the open clause of the least bound, [m, n_y].
      d: constants, [m].
      about: how large it is.
    """

    params: Any
    region: Region
    reduced: Reduced
    programs: Programs
    C: np.ndarray
    d: np.ndarray
    about: str


@functools.cache
def loaded(onnx: Path) -> networks.Network:
    """Returns the network of a file, the same one each time."""
    return networks.load_network(onnx)


def of_competition(onnx: Path, prop: Path) -> Problem:
    """Returns a property of a network, both in files."""
    net = loaded(onnx)
    found = vnnlib.load(prop, net.input_shape, net.output_size)
    return Problem(net.fn, net.params, found, f"{net.name} {found.name}")


def competition(path: str) -> Path:
    """Returns a file of the provided VNN-COMP data.

    Raises:
      DataUnavailableError: it is not there.
    """
    return networks.provided("vnncomp2021", *path.split("/"))


def acasxu_files(network: str, prop: int) -> tuple[Path, Path]:
    """Returns the files of a network and a property of ACAS Xu."""
    onnx = competition(f"acasxu/ACASXU_run2a_{network}_batch_2000.onnx")
    return onnx, competition(f"acasxu/prop_{prop}.vnnlib")


def acasxu(network: str, prop: int) -> tuple[Path, Problem]:
    """Returns a property of ACAS Xu and the network's file."""
    onnx, vnnlib = acasxu_files(network, prop)
    return onnx, of_competition(onnx, vnnlib)


def decide(problem: Problem, timeout_s: float) -> str:
    """Returns the status of a verdict."""
    return verify(problem, Config(timeout_s=timeout_s)).status


def problems(name: str) -> Iterator[Problem]:
    """Yields properties of a network in the order of their files."""
    if name == "cifar_base_kw":
        onnx = competition(f"oval21/{name}.onnx")
        for prop in sorted(onnx.parent.glob(f"{name}*.vnnlib.gz")):
            yield of_competition(onnx, prop)
        return
    entry = images.published(name)
    net = loaded(entry.onnx)
    data = images.inputs(entry.inputs)
    how = images.Setting(entry.eps, "linf", entry.mean, entry.std)
    classify = images.classifier(net, how)
    for pixels, label in zip(data.pixels, data.labels, strict=True):
        if classify(pixels) == label:
            yield images.problem(net, pixels, int(label), how)


def open_root(name: str) -> Root:
    """Returns the root of the first property that alpha-CROWN leaves open."""
    config = Config(root_steps=STEPS, restarts=0)
    for problem in problems(name):
        verifier = verifier_of(problem)
        rooter = verifier.rooter
        weights = verifier.prepare(problem.params)
        ((region, clauses),) = grouped(problem.property)
        inside = jax.tree.map(jnp.asarray, outward(region, verifier.dtype))
        specs = padded(clauses, verifier.dtype)
        hidden = rooter.hidden(weights, inside)
        form = rooter.reduced(weights, hidden)
        rooted = rooter.alpha(weights, inside, specs, hidden, form, config, math.inf)
        if rooted.start is not None:
            return _root(rooted, specs)
    raise AssertionError(f"{name}: no property needs branching")


def _root(rooted: Rooted, specs: Sequence[Any]) -> Root:
    reduced, programs = rooted.reduced, rooted.programs
    assert reduced is not None
    assert programs is not None
    assert rooted.region is not None
    spec = specs[int(np.argmin(rooted.lower))]
    held = "+".join(str(len(each)) for each in reduced.index)
    about = f"{held} unstable, padded to {'+'.join(map(str, reduced.sizes))}"
    params = jax.tree.map(jnp.asarray, reduced.params)
    return Root(params, rooted.region, reduced, programs, spec.C, spec.d, about)


def sub_domains(root: Root, count: int, depth: int = 8) -> Domains:
    """Returns sub-domains with `depth` random splits each."""
    rng = np.random.default_rng(0)
    m = len(root.d)
    real = [len(each) for each in root.reduced.index]
    offsets = np.cumsum([0, *root.reduced.sizes])
    unstable = np.concatenate(
        [np.arange(n) + at for n, at in zip(real, offsets[:-1], strict=True)]
    )
    flat = np.zeros((count, offsets[-1]), np.int8)
    for row in flat:
        chosen = rng.choice(unstable, min(depth, len(unstable)), replace=False)
        row[chosen] = rng.choice([-1, 1], len(chosen))
    layers = [jnp.asarray(a) for a in np.split(flat, offsets[1:-1], axis=1)]
    dtype = root.C.dtype

    def full(value: float) -> tuple[jax.Array, ...]:
        return tuple(jnp.full(a.shape, value, dtype) for a in layers)

    return Domains(
        jnp.repeat(jnp.asarray(root.C)[None], count, 0),
        jnp.repeat(jnp.asarray(root.d)[None], count, 0),
        jnp.full((count, m), 1 / m, dtype),
        tuple(layers),
        full(0.5),
        full(0.0),
    )


def _hidden(root: Root) -> tuple[Bounds, ...]:
    return tuple(Bounds(*map(jnp.asarray, b)) for b in root.reduced.hidden)


def passes(steps: int) -> int:
    """Returns the products of an optimised bound: a pass and its gradient a step."""
    return 2 * steps + 1


def bounding(root: Root, count: int) -> Timed:
    """Returns a call of `bound_batch` on `count` sub-domains."""
    network = root.programs.network

    @functools.partial(jax.jit, static_argnums=4)
    def bound(params, region, hidden, domains, config):
        weights = network.prepare(params)
        return bound_batch(network, weights, region, hidden, domains, config)

    given = root.params, root.region, _hidden(root), sub_domains(root, count)
    operations = 2.0 * root.programs.shape.macs() * passes(STEPS) * count
    return lambda: bound(*given, BetaConfig(STEPS)), operations


def round_of(root: Root, count: int) -> Timed:
    """Returns a call of a search's round that bounds `count` children."""
    config = Config(steps=STEPS)
    parents = sub_domains(root, count // 2)
    bias = tuple(jnp.asarray(b) for b in root.reduced.bias)
    lower = jnp.full(count // 2, -jnp.inf, root.C.dtype)
    given = root.params, root.region, _hidden(root), bias, parents, lower
    choosing = (1 + 4 * config.candidates) / 2  # a parent: one pass, two a candidate
    point = 1  # the network itself, at the minimiser of each child's bound
    each = 2.0 * root.programs.shape.macs() * (passes(STEPS) + choosing + point)
    settings = round_config(config)
    return lambda: root.programs.round(*given, settings), each * count


After = tuple[float | None, str]
"""Multiplications and additions of a call, and what it came to."""


def methods(
    name: str, count: int
) -> Iterator[tuple[str, Callable[[], Any], Callable[[], After]]]:
    """Yields ways to bound the first images of a network.

    Each call bounds all margins of all images, one image after another.

    Args:
      name: of the network.
      count: images.

    Yields:
      The method, a call of it, and what to ask after it was timed.
    """
    chosen = [p for p, _ in zip(problems(name), range(count), strict=False)]
    verifier = verifier_of(chosen[0])
    weights = verifier.prepare(chosen[0].params)
    net = verifier.network
    given = []
    for problem in chosen:
        ((region, clauses),) = grouped(problem.property)
        inside = jax.tree.map(jnp.asarray, outward(region, verifier.dtype))
        given.append((inside, stacked(padded(clauses, verifier.dtype))[0]))
    rooter = verifier.rooter
    rows = given[0][1].d.shape[0]
    forward = jax.jit(
        functools.partial(crown.hidden_bounds, net, backward_passes=False)
    )
    hidden_work = hidden_operations(net)
    spec_work = 2.0 * rows * row_macs(net, net.output)

    def with_hidden(hidden: Any) -> Callable[[Any, Any], Any]:
        def bound(region: Any, spec: Any) -> jax.Array:
            passed = rooter.bound(weights, region, spec, hidden(weights, region))
            return passed.least - passed.slack

        return bound

    def alpha(optimise: bool) -> tuple[Callable[[Any, Any], Any], Callable[[], float]]:
        config = AlphaConfig(STEPS, hidden=optimise, chunk=0)

        def operations() -> float:
            work = 0.0
            for region, _ in given:
                _, program = rooter.reduced(weights, rooter.hidden(weights, region))
                work += alpha_operations(program.shape, rows, optimise) / count
            return hidden_work + work

        return functools.partial(_alpha, verifier, weights, config), operations

    for method, (one, operations) in {
        "interval": (functools.partial(rooter.interval, weights), None),
        "CROWN-IBP": (with_hidden(forward), lambda: spec_work),
        "CROWN": (with_hidden(rooter.hidden), lambda: hidden_work + spec_work),
        "alpha-CROWN, hidden bounds fixed": alpha(False),
        "alpha-CROWN, hidden bounds optimised": alpha(True),
    }.items():

        def run(one: Any = one) -> list[Any]:
            return [one(region, spec) for region, spec in given]

        def after(run: Any = run, operations: Any = operations) -> After:
            least = float(np.mean([np.min(lower) for lower in run()]))
            total = None if operations is None else operations() * count
            return total, f"least margin {least:.2f}"

        yield method, run, after


def _alpha(
    verifier: Verifier, weights: Any, config: AlphaConfig, region: Region, spec: Any
) -> jax.Array:
    """Hidden bounds, the reduced form, alpha-CROWN on it: [rows]."""
    rooter = verifier.rooter
    reduced, program = rooter.reduced(weights, rooter.hidden(weights, region))
    params = jax.tree.map(jnp.asarray, reduced.params)
    hidden = tuple(Bounds(*map(jnp.asarray, b)) for b in reduced.hidden)
    flat = Region(region.lower.reshape(-1), region.upper.reshape(-1))
    slopes = program.start(params, flat, hidden, spec.d.shape[0], config)
    rate = jnp.asarray(config.learning_rate, flat.lower.dtype)
    start = slopes, rate, jnp.asarray(config.steps, jnp.int32)
    return program.root(params, flat, spec, hidden, start, config).lower


def boxing(network: str, prop: int, count: int) -> Timed:
    """Returns a call of `bound_boxes` on `count` boxes of an ACAS Xu property."""
    _, problem = acasxu(network, prop)
    verifier = verifier_of(problem)
    weights = verifier.prepare(problem.params)
    region, clauses = grouped(problem.property)[0]
    specs = padded(clauses, verifier.dtype)
    C, d = (jnp.asarray(np.stack([s[k] for s in specs])) for k in (0, 1))
    shape = verifier.network.input.shape
    rng = np.random.default_rng(0)
    low, high = np.asarray(region.lower), np.asarray(region.upper)
    start = rng.uniform(0, 0.9, (count, *shape))
    lower = jnp.asarray(low + (high - low) * start, verifier.dtype)
    upper = jnp.asarray(low + (high - low) * (start + 0.1), verifier.dtype)
    bound = jax.jit(functools.partial(bound_boxes, verifier.network))
    net = verifier.network
    rows = 2.0 * 2 * d.size * row_macs(net, net.output)  # the second pass is for scores
    operations = (hidden_operations(net) + rows) * count
    return lambda: bound(weights, lower, upper, C, d), operations


def hidden_operations(net: Network) -> float:
    """Returns the operations of backward bounds of all hidden values of a box.

    Values before the first nonlinear operator keep their intervals, which are exact.
    """
    nonlinear = set(net.nonlinear)
    total = 0.0
    for value in net.hidden:
        if nonlinear.intersection(net.before(value)):
            total += 2.0 * 2 * math.prod(value.shape) * neuron_macs(net, value)
    return total


def alpha_operations(shape: Shape, rows: int, optimise: bool) -> float:
    """Returns the operations of alpha-CROWN on a reduced network.

    Args:
      shape: of the network.
      rows: of the specification.
      optimise: whether the hidden bounds are optimised, two rows a neuron.
    """
    total = rows * shape.macs()
    before, below = shape.inputs, 0
    for layer, n in enumerate(shape.neurons):
        below += before * n
        before += n
        if layer and optimise:
            total += 2 * n * below
    return 2.0 * passes(STEPS) * total


def neuron_macs(net: Network, value: Any) -> int:
    """Returns the multiply-accumulates of a neuron's row, as a window where it is one.

    Args:
      net: the network.
      value: the neuron's hidden value.
    """
    how = windows.plan(net, value, net.before(value))
    if how is None:
        return row_macs(net, value)
    total, window = row_macs(net, how.end), (1, 1)
    for node in how.nodes:
        if node.op == "conv_general_dilated":
            total += math.prod(window) * math.prod(node.inputs[1].shape)
            window = windows.grown(node, window)
    return total


def row_macs(net: Network, value: Any) -> int:
    """Returns the multiply-accumulates of one row's pass from a value to the input."""
    total = 0
    for node in net.before(value):
        size = math.prod(node.outputs[0].shape)
        if node.op == "dot_general":
            (summed, _), _ = node.params["dimension_numbers"]
            total += size * math.prod(node.inputs[0].shape[a] for a in summed)
        elif node.op == "conv_general_dilated":
            kernel = node.inputs[1].shape
            out = node.params["dimension_numbers"].rhs_spec[0]
            total += size * math.prod(kernel) // kernel[out]
    return total
