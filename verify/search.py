"""The verifier: falsify, bound, branch; a verdict with its reasons."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import GraphError, InputError, describe
from core.types import PyTree
from verify import bab, box_bounds, boxes, falsify, reduce, timing
from verify.clauses import decide_leaf, flattened, grouped, padded
from verify.network import Network, network
from verify.problem import UNSPLIT, Config, Problem, Verdict
from verify.proofs import Proof
from verify.properties import Clause, Property, Spec
from verify.regions import Region, outward
from verify.root import Rooted, Rooter
from verify.state import Opened, Progress, Search
from verify.types import by_layer

LATE = "the time limit came amid a computation or a compilation"
UNCOLLECTED = "no certificate: no time was left to collect it"
INTERVALS = "a region that intervals closed, which no leaf can say"
GRACE_S = 1.0
"""Seconds after a time limit for a search to end by itself."""


def verify(
    problem: Problem,
    config: Config = Config(),  # noqa: B008 - frozen
    *,
    progress: Progress | None = None,
) -> Verdict:
    """Decides whether a property holds, within a time limit.

    Each region is bounded by intervals and CROWN; projected gradient descent then
    looks for a counterexample, on the reduced form of the network; alpha-CROWN comes
    next, and what stays open is split: ReLU neurons with beta-CROWN (arXiv 2103.06624),
    or the input box where it has few dimensions.

    Args:
      problem: network and property.
      config: how to search.
      progress: called with a line of text as the search goes on.

    Returns:
      The verdict. A counterexample is checked in float64 before it is reported, and
      a bound that is not a number proves nothing.

    Raises:
      GraphError: an operator that can not be bounded.
      ShapeError: a property of other shapes than the network.
    """
    verifier = verifier_of(problem)
    return verifier(problem.params, problem.property, config, progress)


def verifier_of(problem: Problem) -> "Verifier":
    """Returns the verifier of a problem's network, the same one for the same `fn`."""
    structs = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(np.shape(a), jnp.result_type(a)), problem.params
    )
    leaves, tree = jax.tree.flatten(structs)
    return _verifier(problem.fn, tuple(leaves), tree, problem.property.input_shape)


@functools.lru_cache(maxsize=16)
def _verifier(fn: Any, leaves: Any, tree: Any, shape: tuple[int, ...]) -> "Verifier":
    return Verifier(fn, jax.tree.unflatten(tree, leaves), shape)


class Verifier:
    """Verifies properties of one function; what it compiles serves all of them.

    Args:
      fn: `fn(params, x) -> y`.
      params: arrays or their `jax.ShapeDtypeStruct`s.
      input_shape: of x.

    Raises:
      InputError: parameters that are not all float32 or all float64.
    """

    def __init__(self, fn: Any, params: PyTree, input_shape: tuple[int, ...]):
        self.fn = fn
        kinds = [leaf.dtype for leaf in jax.tree.leaves(params)]
        floats = {np.dtype(k) for k in kinds if jnp.issubdtype(k, jnp.floating)}
        self.dtype = min(floats or {np.dtype(np.float32)}, key=str)
        if len(floats) > 1 or self.dtype not in (np.float32, np.float64):
            given = f"parameters of {', '.join(sorted(map(str, floats)))}"
            remedy = "Convert them: a proof is of the function that is computed."
            raise InputError(
                describe(given, "float32 or float64, one of them for all", remedy)
            )
        example = jax.ShapeDtypeStruct(input_shape, self.dtype)
        self.network: Network = network(fn, params, example)
        self.prepare = jax.jit(self.network.prepare)
        self.boxes = boxes.BoxSearch(self.network)

    @functools.cached_property
    def double(self) -> box_bounds.DoubleBounds:
        """Bounds boxes in float64."""
        return box_bounds.DoubleBounds(self.fn, self.network.input.shape)

    @functools.cached_property
    def rooter(self) -> Rooter:
        """Bounds, and reduces ReLU networks."""
        return Rooter(self.network)

    def halves_inputs(self, config: Config, region: Region) -> bool:
        """Whether a search splits the input box, not neurons.

        A box around a ball is mostly corners, so neurons are better there. So is a
        ReLU network's one bound by a method that splits nothing.
        """
        if self.network.is_piecewise_linear and config.method in UNSPLIT:
            return False
        small = int(np.prod(self.network.input.shape)) <= config.input_limit
        boxy = small and region.radius is None
        either = boxy or not self.network.is_piecewise_linear
        return config.branching == "input" or (config.branching == "auto" and either)

    def __call__(
        self,
        params: PyTree,
        prop: Property,
        config: Config = Config(),  # noqa: B008 - frozen
        progress: Progress | None = None,
    ) -> Verdict:
        """Decides a property; see `verify`."""
        search = Search(params, prop, config, time.monotonic(), progress)

        def late() -> Verdict:
            search.progress = None
            if search.is_refuted:
                return search.verdict("unsat", UNCOLLECTED)
            return search.verdict("timeout", LATE)

        return timing.within(
            config.timeout_s + GRACE_S, lambda: self._decide(search, params, prop), late
        )

    def rooted(
        self,
        params: PyTree,
        prop: Property,
        config: Config,
        progress: Progress | None = None,
    ) -> "Verdict | tuple[Search, Opened]":
        """Decides a property of one region as far as that takes no splits."""
        self._check_sizes(prop)
        search = Search(params, prop, config, time.monotonic(), progress)
        (region, clauses), *_ = grouped(prop)
        found = self._root(search, self.prepare(params), region, clauses)
        if isinstance(found, Opened):
            return search, found
        return search.verdict("unsat") if found is None else found

    def _decide(self, search: Search, params: PyTree, prop: Property) -> Verdict:
        self._check_sizes(prop)
        config = search.config
        if config.certificate:
            search.proof = Proof(self.network, prop)
        weights = self.prepare(params)
        regions = grouped(prop)
        if len(regions) > 1:  # a counterexample in any of them decides it
            witness = self._attack(search, None, prop.clauses)
            if witness is not None:
                return search.verdict("sat", witness=witness)
        undecided = None
        for k, (region, clauses) in enumerate(regions):
            search.is_last = undecided is None and k + 1 == len(regions)
            verdict = self._region(search, weights, region, clauses)
            if verdict is not None and verdict.status in ("sat", "timeout"):
                return verdict
            undecided = undecided or verdict
        if undecided is not None:
            return search.verdict("unknown", undecided.why)
        verdict = search.verdict("unsat")
        if search.proof is None:
            return verdict
        search.is_refuted = True
        try:
            problem = Problem(self.fn, params, prop)
            certificate = search.proof.certificate(problem)
        except GraphError as error:
            return dataclasses.replace(verdict, why=str(error))
        return dataclasses.replace(verdict, certificate=certificate)

    def _check_sizes(self, prop: Property) -> None:
        size = int(np.prod(self.network.output.shape))
        prop.check_network(self.network.input.shape, size)

    def _attack(
        self, search: Search, form: Any, clauses: Sequence[Clause], draw: int = 0
    ) -> falsify.Witness | None:
        """Projected gradient descent, on the reduced form where there is one.

        Args:
          search: under way.
          form: parameters of a reduced network, which is much faster than the
            original where that has convolutions; or None.
          clauses: to attack.
          draw: another one, other random starts.
        """
        config = search.config
        if not (config.restarts and config.attack_steps):
            return None
        attack = falsify.Attack(restarts=config.restarts, steps=config.attack_steps)
        fn, params = self.fn, search.params
        prop = dataclasses.replace(search.asked, clauses=tuple(clauses))
        if form is not None:
            fn, params, prop = reduce.apply, form, flattened(prop)
        key = jax.random.fold_in(jax.random.key(config.seed), draw)
        for candidate in falsify.falsify(fn, params, prop, key, attack)[:4]:
            if candidate.margin <= 1e-3:
                shape = self.network.input.shape
                witness = self.check(search, candidate.x.reshape(shape))
                if witness is not None:
                    search.phase = "attack"
                    search.lower = min(witness.margin, 0.0)
                    return witness
        return None

    def _region(
        self, search: Search, weights: Any, region: Region, clauses: list[Clause]
    ) -> Verdict | None:
        """Decides the clauses of one region; None where all are refuted."""
        found = self._root(search, weights, region, clauses)
        return self._branch(search, *found) if isinstance(found, Opened) else found

    def _root(
        self, search: Search, weights: Any, region: Region, clauses: list[Clause]
    ) -> "Verdict | Opened | None":
        """As `_region`, but leaves the splitting of neurons to the caller."""
        config = search.config
        inside = jax.tree.map(jnp.asarray, outward(region, self.dtype))
        specs = padded(clauses, self.dtype)
        if self.halves_inputs(config, region):
            witness = self._attack(search, None, clauses)
            if witness is not None:
                return search.verdict("sat", witness=witness)
            once = config.method in UNSPLIT
            decide = self._bounded_once if once else self._boxes
            return decide(search, weights, inside, specs, clauses)
        if not self.network.is_piecewise_linear:
            raise GraphError(
                "branching='relu': the network has operators that are not piecewise "
                "linear; use branching='input' or 'auto'"
            )
        rooter = self.rooter
        search.domains += len(specs)
        lower, search.phase, specs, hidden, backward, lost = rooter.crown(
            weights, inside, specs, config
        )
        search.say(f"{search.phase}: lower bound {lower.min():.4g}")
        holds = bool((lower > 0).all())
        if holds:
            search.lower = min(search.lower, float(lower.min()))
            if search.proof is None:
                return None
            if np.all(backward > 0):
                search.proof.by_crown(clauses)
                return None
            if config.method in ("interval", "crown"):
                search.proof.missing = INTERVALS
                return None
        if hidden is None:  # the caller wants no more than intervals
            hidden = rooter.hidden(weights, inside)
        form = rooter.reduced(weights, hidden, lost)
        witness = None if holds else self._attack(search, form[0].params, clauses)
        if witness is not None:
            return search.verdict("sat", witness=witness)
        if config.method in ("interval", "crown"):
            return self._open(search, lower, search.phase)
        if not form[0].unstable:
            return self._affine(search, form[0], inside, specs, clauses, lower)
        rooted = rooter.alpha(
            weights,
            inside,
            specs,
            hidden,
            form,
            config,
            search.deadline,
            search.say,
            # A certificate needs each clause's bound in terms of one form.
            lower if search.proof is None else None,
        )
        least = float(rooted.lower.min())
        if holds and least <= 0:  # no search for what is known, but for its proof
            assert search.proof is not None
            search.proof.missing = INTERVALS
            return None
        search.phase = rooted.phase
        search.lower = min(search.lower, least)
        if search.proof is not None and rooted.slopes is not None:
            held = {
                int(k): int(rooted.row[k]) for k in np.flatnonzero(rooted.lower > 0)
            }
            search.proof.by_alpha(clauses, held, *rooted.slopes)
        if least > 0:
            return None
        if config.method == "alpha":
            return self._open(search, rooted.lower, "alpha")
        return Opened(rooted, specs, region, clauses)

    def _affine(
        self,
        search: Search,
        reduced: reduce.Reduced,
        region: Region,
        specs: Sequence[Spec],
        clauses: list[Clause],
        lower: np.ndarray,
    ) -> Verdict | None:
        """Decides a region in which no neuron is unstable: one leaf a clause.

        Clauses whose `lower` is positive hold already.
        """
        is_unsafe = self._judge(search)
        splits = [np.zeros(n, np.int8) for n in reduced.sizes]
        still = 0
        for spec, known in zip(specs, lower, strict=True):
            if known > 0 and search.proof is None:
                continue
            each = np.full(len(spec.d), 1 / len(spec.d))
            said, x = decide_leaf(reduced, region, spec, splits, each, is_unsafe)
            if x is not None and said == "point":
                return search.verdict("sat", witness=self.check(search, self._image(x)))
            still += said != "safe" and not known > 0  # no region is empty
        if still:
            why = f"no neuron is unstable, yet linear programs leave {still} clauses"
            return search.verdict("unknown", f"{why} open")
        search.lower = min(search.lower, 0.0)
        if search.proof is not None:
            search.is_refuted = search.is_last
            search.proof.by_programs(clauses, reduced, region, specs)
        return None

    def _image(self, x: np.ndarray) -> np.ndarray:
        return np.reshape(x, self.network.input.shape)

    def _judge(self, search: Search) -> Callable[[np.ndarray], bool]:
        """Whether a flat input is a counterexample, checked in float64."""
        return lambda x: self.check(search, self._image(x)) is not None

    def _open(self, search: Search, lower: np.ndarray, phase: str) -> Verdict:
        """The verdict where a method without branching leaves clauses open."""
        search.lower = min(search.lower, float(lower.min()))
        why = (
            f"{int((lower <= 0).sum())} of {len(lower)} clauses open after {phase}: "
            f"the least bound is {lower.min():.4g}"
        )
        return search.verdict("unknown", why)

    def _bounded_once(
        self,
        search: Search,
        weights: Any,
        region: Region,
        specs: Sequence[Spec],
        clauses: Sequence[Clause],
    ) -> Verdict | None:
        """Decides a region of any network by a method that splits nothing."""
        config = search.config
        lower, search.phase, *_ = self.rooter.crown(weights, region, specs, config)
        if config.method == "alpha" and (lower <= 0).any():
            search.phase = "alpha"
            lower = np.maximum(lower, self.boxes.whole(weights, region, specs))
        search.domains += len(clauses)
        if (lower <= 0).any():
            return self._open(search, lower, search.phase)
        search.lower = min(search.lower, float(lower.min()))
        return None

    def _boxes(
        self,
        search: Search,
        weights: Any,
        region: Region,
        specs: Sequence[Spec],
        clauses: Sequence[Clause],
    ) -> Verdict | None:
        search.phase = "branch"

        def is_unsafe(x: np.ndarray) -> bool:
            return self.check(search, x) is not None

        given = padded(clauses, np.float64)

        def exact(low: np.ndarray, high: np.ndarray) -> np.ndarray:
            return self.double(search.params, low, high, given)

        found = self.boxes(
            weights,
            region,
            specs,
            search.config,
            search.deadline,
            is_unsafe=is_unsafe,
            exact=exact,
            progress=search.say,
        )
        search.domains += found.domains
        search.lower = min(search.lower, found.lower)
        search.info["programs"] = dict(self.boxes.traces)
        if found.status == "point":
            return search.verdict("sat", witness=self.check(search, found.point))
        if found.status == "unsat":
            if search.proof is not None:
                search.is_refuted = search.is_last
                search.proof.by_boxes(clauses, found.kept)
            return None
        why = found.why or (
            f"{found.domains} boxes bounded, the least bound is {found.lower:.4g}"
        )
        return search.verdict(found.status, why)

    def _branch(
        self,
        search: Search,
        rooted: Rooted,
        specs: Sequence[Spec],
        region: Region,
        clauses: Sequence[Clause],
    ) -> Verdict | None:
        search.phase = "branch"
        reduced, programs = rooted.reduced, rooted.programs
        assert reduced is not None
        assert programs is not None
        assert rooted.region is not None
        assert rooted.start is not None
        search.info["unstable"] = [len(each) for each in reduced.index]
        search.say(
            f"{len(rooted.start.lower)} clauses open, unstable neurons "
            f"{search.info['unstable']}, lower bound {rooted.lower.min():.4g}"
        )
        is_unsafe = self._judge(search)

        def solve_leaf(
            clause: int, splits: np.ndarray, weights: np.ndarray
        ) -> tuple[str, np.ndarray | None]:
            return decide_leaf(
                reduced,
                region,
                specs[clause],
                by_layer(splits, reduced.sizes),
                weights,
                is_unsafe,
            )

        def attack(draw: int) -> np.ndarray | None:
            witness = self._attack(search, reduced.params, clauses, draw)
            return None if witness is None else witness.x.reshape(-1)

        found = bab.search(
            programs,
            reduced,
            rooted.region,
            specs,
            rooted.start,
            search.config,
            search.deadline,
            is_unsafe=is_unsafe,
            solve_leaf=solve_leaf,
            attack=attack,
            progress=search.say,
        )
        search.domains += found.domains
        search.info |= {"rounds": found.rounds, "programs": dict(programs.traces)}
        if found.status == "unsat":
            search.lower = 0.0
            if search.proof is not None:
                search.is_refuted = search.is_last
                search.proof.by_splits(clauses, reduced, region, specs, found.tree)
            return None
        search.lower = min(search.lower, found.lower)
        if found.status == "point":
            assert found.point is not None
            witness = self.check(search, self._image(found.point))
            return search.verdict("sat", witness=witness)
        why = found.why or (
            f"{found.domains} sub-domains bounded, the least bound is {found.lower:.4g}"
        )
        return search.verdict(found.status, why)

    def check(self, search: Search, x: Any) -> falsify.Witness | None:
        """Returns a counterexample at a point of a region, or None."""
        for region, _ in grouped(search.asked):
            point = region.inside(np.asarray(x, np.float64))
            found = falsify.check(self.fn, search.params, search.asked, point)
            if found is not None:
                return found
        return None
