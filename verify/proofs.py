"""Collects the certificate of a search as its phases end."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.errors import GraphError
from verify.certificate import BoxLeaf, Certificate, Leaf, RootLayer, collect, format
from verify.clauses import unpadded
from verify.kept import LIMIT, WHY, Kept
from verify.leaves import LinearLeaf
from verify.network import Network
from verify.problem import Problem
from verify.properties import Clause, Property, Spec
from verify.reduce import Reduced
from verify.regions import Region
from verify.types import Bounds, by_layer


@dataclasses.dataclass
class Proof:
    """The parts of a certificate found so far.

    Args:
      network: of the problem.
      prop: its property.
    """

    network: Network
    prop: Property
    leaves: list[Any] = dataclasses.field(default_factory=list)
    roots: dict[int, tuple[RootLayer, ...]] = dataclasses.field(default_factory=dict)
    missing: str = ""
    size: int = 0

    def __post_init__(self):
        self.position = {id(c): k for k, c in enumerate(self.prop.clauses)}
        self.region = format.regions(self.prop)[1]

    def by_crown(self, clauses: Sequence[Clause]) -> None:
        """All clauses of a region hold by intervals or CROWN."""
        self._roots(clauses, ())
        for clause in clauses:
            k = self.position[id(clause)]
            none = np.zeros(0, np.int32), np.zeros(0, np.float32)
            slopes = (none,) * len(self.network.nonlinear)
            self.leaves.append(Leaf(k, (), slopes, np.zeros(0), None))

    def by_alpha(
        self,
        clauses: Sequence[Clause],
        chosen: Mapping[int, int],
        reduced: Reduced,
        slopes: Mapping[str, Any],
    ) -> None:
        """The `chosen` of the clauses of a region hold by alpha-CROWN.

        Args:
          clauses: of the region, all of them.
          chosen: positions of those that hold, and which row of each does.
          reduced: what was optimised.
          slopes: its free parameters; the rows of "output" are those of all clauses,
            padded to one number.
        """
        self._roots(clauses, collect.alpha_roots(reduced, slopes))
        most = max(len(c.spec.d) for c in clauses)
        rows = [np.asarray(part)[:, 0] for part in slopes["output"]]
        for k, row in chosen.items():
            weights = unpadded(np.eye(most)[row], len(clauses[k].spec.d))
            alpha = np.concatenate([part[k * most + row] for part in rows])
            beta = np.zeros_like(alpha)
            own = self.position[id(clauses[k])]
            self.leaves.append(collect.leaf(reduced, own, (), (), alpha, beta, weights))

    def by_splits(
        self,
        clauses: Sequence[Clause],
        reduced: Reduced,
        region: Region,
        specs: Sequence[Spec],
        tree: Any,
    ) -> None:
        """The rest of the clauses hold by splits; `by_alpha` was called before."""
        if not self._fits(tree.kept):
            return
        for node, k, dual in tree.kept.leaves:
            path = tree.path(node)
            if dual is not None:
                alpha, split, weights = dual
                beta = np.zeros_like(alpha)
                beta[sorted(neuron for neuron, _ in path)] = split
                dual = alpha, beta, weights
            self._leaf(clauses[k], reduced, region, specs[int(k)], path, dual)

    def _fits(self, kept: Kept, times: int = 1) -> bool:
        """Whether the leaves of one more search are to be kept, each so many times."""
        self.size += times * kept.size
        if kept.full or self.size > LIMIT:
            self.missing = WHY
            self.leaves.clear()
        return not self.missing

    def by_programs(
        self,
        clauses: Sequence[Clause],
        reduced: Reduced,
        region: Region,
        specs: Sequence[Spec],
    ) -> None:
        """All clauses hold by linear programs where no neuron is unstable."""
        self._roots(clauses, ())
        for clause, spec in zip(clauses, specs, strict=True):
            self._leaf(clause, reduced, region, spec, ())

    def _leaf(
        self,
        clause: Clause,
        reduced: Reduced,
        region: Region,
        spec: Spec,
        path: Sequence[tuple[int, int]],
        dual: Any = None,
    ) -> None:
        """Adds a leaf; without multipliers, those of linear programs."""
        neurons, signs = [n for n, _ in path], [s for _, s in path]
        if dual is None:
            dual = _from_program(reduced, region, spec, neurons, signs)
        if dual is None:
            self.missing = "a leaf that a linear program closed has no multipliers"
            return
        alpha, beta, weights = dual
        weights = unpadded(weights, len(clause.spec.d))
        position = self.position[id(clause)]
        self.leaves.append(
            collect.leaf(reduced, position, neurons, signs, alpha, beta, weights)
        )

    def by_boxes(self, clauses: Sequence[Clause], kept: Kept) -> None:
        """All clauses of a region hold on each of the kept `boxes.Leaf`s."""
        if not self._fits(kept, len(clauses)):
            return
        most = max(len(c.spec.d) for c in clauses)
        for k, clause in enumerate(clauses):
            own = self.position[id(clause)]
            for leaf in kept.leaves:
                steps = tuple((a, t, 1 if side else -1) for a, t, side in leaf.path)
                weights = unpadded(np.eye(most)[leaf.row[k]], len(clause.spec.d))
                slopes = tuple(_listed(part[k]) for part in leaf.slopes)
                self.leaves.append(BoxLeaf(own, steps, weights, slopes))

    def certificate(self, problem: Problem) -> Certificate:
        """Returns the certificate.

        Raises:
          GraphError: a part of the proof is missing, or it mixes both kinds.
        """
        kinds = {type(leaf) for leaf in self.leaves}
        if not self.network.is_piecewise_linear:
            self.missing = "the network has other nonlinear operators than ReLUs"
        if len(kinds) > 1:
            self.missing = "some regions were split by neurons, others by inputs"
        if self.missing:
            raise GraphError(f"no certificate: {self.missing}")
        kind = "input" if BoxLeaf in kinds else "relu"
        count = len(format.regions(self.prop)[0])
        roots = tuple(self.roots.get(k, ()) for k in range(count))
        return Certificate(
            kind,
            format.digest(problem),
            tuple(self.leaves),
            roots if kind == "relu" else (),
        )

    def _roots(self, clauses: Sequence[Clause], further: tuple[RootLayer, ...]) -> None:
        sizes = [int(np.prod(n.inputs[0].shape)) for n in self.network.nonlinear]
        ordered = collect.crown_roots(sizes) + further
        # A layer's bounds rest on those of the layers before it.
        ordered = sorted(ordered, key=lambda root: root.layer)
        self.roots[self.region[self.position[id(clauses[0])]]] = tuple(ordered)


def _listed(slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The neurons with slopes of their own, and these."""
    ids = np.flatnonzero(~np.isnan(slopes))
    return ids.astype(np.int32), slopes[ids].astype(np.float32)


def _from_program(
    reduced: Reduced,
    region: Region,
    spec: Spec,
    neurons: Sequence[int],
    signs: Sequence[int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Multipliers of a leaf that linear programs closed, and weights of its rows.

    Over the box of a ball: the check of a leaf takes one of both bounds, not their sum.
    """
    region = Region(np.ravel(region.lower), np.ravel(region.upper))
    hidden = [Bounds(*map(np.asarray, b)) for b in reduced.hidden]
    flat = np.zeros(sum(reduced.sizes), np.int8)
    flat[np.asarray(neurons, int)] = signs
    splits = by_layer(flat, reduced.sizes)
    leaf = LinearLeaf(reduced.params, region, hidden, splits)
    best = leaf.weights(spec)
    for weights in np.eye(len(spec.d)) if best is None else [best[0]]:
        row = weights @ spec.C, float(weights @ spec.d)
        status, value, _ = leaf.minimum(*row)
        if status != "infeasible" and not (status == "optimal" and value > 0):
            continue
        betas = leaf.betas(*row)
        if betas is not None:
            return np.zeros(len(flat)), np.concatenate([np.zeros(0), *betas]), weights
    return None
