"""Several properties decided together: their sub-domains share every batch."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from core.errors import LatheError
from verify import timing, together
from verify.clauses import decide_leaf, grouped
from verify.pool import Batch
from verify.problem import Config, Problem, Status, Verdict
from verify.programs import Programs
from verify.reduce import Reduced
from verify.regions import Region
from verify.search import GRACE_S, LATE, Verifier, verifier_of
from verify.state import Opened
from verify.types import by_layer


def verify_all(
    problems: Sequence[Problem],
    config: Config = Config(),  # noqa: B008 - frozen
    *,
    progress: Callable[[str], None] | None = None,
) -> list[Verdict]:
    """Decides several properties, those of one network in common batches.

    Each property is attacked and bounded on its own. What is left to split after that
    goes into one pool for all properties whose reduced networks have one shape, so that
    problems of few sub-domains fill the batches of an accelerator together. Properties
    that are split over their input, of several regions, or with certificates are
    decided one by one, as `verify` does.

    Args:
      problems: of any networks; those with the same `fn` share what is compiled.
      config: how to search; `timeout_s` is a mean: the call ends within that of all
        problems together.
      progress: called with a line of text as the search goes on.

    Returns:
      The verdicts, in the order of the problems. Their `seconds` are those of the whole
      search up to their own end. A problem that `verify` raises an error for, such as
      weights that are NaN or an operator without bounds, is "unknown" with the error's
      text, and does not keep the others from theirs.
    """
    began = time.monotonic()
    verdicts: list[Verdict | None] = [None] * len(problems)

    def say(text: str) -> None:
        if progress is not None and not is_late:
            progress(text)

    def work() -> list[Verdict]:
        waiting: dict[Any, list[_Member]] = {}
        for k, problem in enumerate(problems):
            try:
                verifier = verifier_of(problem)
                found = _rooted(verifier, problem, config, say)
            except LatheError as error:
                verdicts[k] = undecided("unknown", str(error))
                continue
            if isinstance(found, Verdict):
                verdicts[k] = found
            else:
                member = _Member(k, verifier, *found)
                opened = found[1]
                kind = jax.tree.structure(opened.rooted.region)  # box or ball
                rows = len(opened.specs[0].d)
                key = (id(verifier), opened.rooted.programs, rows, kind)
                waiting.setdefault(key, []).append(member)
        for members in waiting.values():
            found = _branch(members, config, deadline, say)
            for member, verdict in zip(members, found, strict=True):
                verdicts[member.position] = verdict
        return [verdict for verdict in verdicts if verdict is not None]

    def undecided(status: Status, why: str) -> Verdict:
        return Verdict(status, -np.inf, 0, time.monotonic() - began, "", why)

    def late() -> list[Verdict]:
        is_late.append(True)
        missing = undecided("timeout", LATE)
        return [verdict or missing for verdict in verdicts]

    is_late: list[bool] = []
    limit = config.timeout_s * max(len(problems), 1)
    deadline = began + limit
    return timing.within(limit + GRACE_S, work, late)


@dataclasses.dataclass
class _Member:
    position: int
    verifier: Verifier
    search: Any
    opened: Opened

    def parts(self) -> tuple[Reduced, Programs, Region, Batch]:
        """The reduced network, its programs, its flat input, where splitting starts."""
        rooted = self.opened.rooted
        assert rooted.reduced is not None
        assert rooted.programs is not None
        assert rooted.region is not None
        assert rooted.start is not None
        return rooted.reduced, rooted.programs, rooted.region, rooted.start

    def is_unsafe(self, x: np.ndarray) -> bool:
        shape = self.verifier.network.input.shape
        return self.verifier.check(self.search, x.reshape(shape)) is not None


def _rooted(
    verifier: Verifier,
    problem: Problem,
    config: Config,
    progress: Callable[[str], None] | None,
) -> Any:
    """A verdict, or (search, `Opened`) where neurons are left to split."""
    regions = grouped(problem.property)
    alone = len(regions) != 1 or config.certificate
    if alone or verifier.halves_inputs(config, regions[0][0]):
        return verifier(problem.params, problem.property, config, progress)
    return verifier.rooted(problem.params, problem.property, config, progress)


def _branch(
    members: Sequence[_Member],
    config: Config,
    deadline: float,
    progress: Callable[[str], None] | None,
) -> list[Verdict]:
    """Verdicts of members whose reduced networks have one shape."""
    parts = [member.parts() for member in members]
    forms = together.stacked([(reduced, region) for reduced, _, region, _ in parts])
    counts = [len(member.opened.specs) for member in members]
    first = np.cumsum([0, *counts])
    starts = [
        start._replace(clause=start.clause + at)
        for (*_, start), at in zip(parts, first, strict=False)
    ]
    start = Batch(*(np.concatenate(each) for each in zip(*starts, strict=True)))
    owner = np.repeat(np.arange(len(members)), counts)

    def solve_leaf(
        clause: int, splits: np.ndarray, weights: np.ndarray
    ) -> tuple[str, np.ndarray | None]:
        member = members[owner[clause]]
        opened = member.opened
        spec = opened.specs[clause - first[owner[clause]]]
        reduced = member.parts()[0]
        own = by_layer(splits, reduced.sizes)
        return decide_leaf(reduced, opened.region, spec, own, weights, member.is_unsafe)

    found = together.search(
        parts[0][1],
        forms,
        owner,
        [spec for member in members for spec in member.opened.specs],
        start,
        config,
        deadline,
        is_unsafe=lambda k, x: members[k].is_unsafe(x),
        solve_leaf=solve_leaf,
        progress=progress,
    )
    return [_verdict(k, member, found) for k, member in enumerate(members)]


def _verdict(k: int, member: _Member, found: together.Outcome) -> Verdict:
    search = member.search
    search.phase = "branch"
    search.domains += int(found.domains[k])
    if k in found.points:
        x = found.points[k].reshape(member.verifier.network.input.shape)
        witness = member.verifier.check(search, x)
        return search.verdict("sat", witness=witness)
    if not found.open[k]:
        search.lower = 0.0
        return search.verdict("unsat")
    search.lower = min(search.lower, float(found.lower[k]))
    if k in found.stuck:
        why = "a sub-domain without anything left to split is open"
        return search.verdict("unknown", why)
    if found.full:
        why = f"{found.open.sum()} open sub-domains of all problems, over max_domains"
        return search.verdict("unknown", why)
    why = f"{found.domains[k]} sub-domains bounded, {found.open[k]} are open"
    return search.verdict("timeout", why)
