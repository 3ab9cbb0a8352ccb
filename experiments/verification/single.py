"""One property of one network: the competition's result line, a witness, a proof."""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import GraphError, InputError, describe
from experiments import files
from experiments.options import option
from experiments.registry import RUNS
from experiments.verification import networks, search
from experiments.verification.search import SearchFlags

if TYPE_CHECKING:
    from verify.problem import Problem, Verdict


@dataclasses.dataclass(frozen=True)
class OwnFlags:
    """Flags of this form alone."""

    onnx: str = option("", "the network, .onnx or .onnx.gz")
    vnnlib: str = option("", "its property, .vnnlib or .vnnlib.gz")
    timeout: float = option(
        60.0,
        "time limit of reading and search",
        unit="seconds",
        low=0.0,
        low_open=True,
    )
    witness: str = option(
        "",
        f"file for the counterexample; empty means {RUNS}/verify/NET-PROP.witness",
    )
    certificate: str = option("", "file for the proof of an unsat verdict")
    check: str = option(
        "",
        "file of a proof to check again in float64 arithmetic, instead of a search",
    )


@dataclasses.dataclass(frozen=True)
class Flags(SearchFlags, OwnFlags):
    """Flags of this form and of the search."""


def run(flags: Flags, where: Any, again: str) -> int:
    """Decides, prints the result line, and writes what was found.

    Args:
      flags: of the command.
      where: not used.
      again: not used.

    Returns:
      The exit code: 0 for a verdict; 1 for a proof that does not hold.

    Raises:
      LatheError: files that are missing, damaged or do not fit together.
    """
    start = time.monotonic()
    onnx = networks.existing(_named(flags, "onnx"), "--onnx")
    vnnlib = networks.existing(_named(flags, "vnnlib"), "--vnnlib")
    _writable(flags)
    if flags.check:
        networks.existing(flags.check, "--check")
    problem = networks.Networks().problem(onnx, vnnlib)
    for note in problem.property.notes:
        _say(f"note: {note}")
    if flags.check:
        return _check(problem, Path(flags.check))
    left = max(flags.timeout - (time.monotonic() - start), search.LEAST)
    config = search.search_config(flags, left, bool(flags.certificate))
    with _watched() as progress:
        verdict = search.decide(problem, config, progress)
    print(verdict.status, flush=True)
    _explain(verdict, time.monotonic() - start)
    if verdict.witness is not None:
        name = f"{networks.stem(onnx)}-{networks.stem(vnnlib)}.witness"
        _write_witness(verdict, Path(flags.witness or Path(RUNS, "verify", name)))
    if flags.certificate:
        _write_certificate(problem, verdict, Path(flags.certificate))
    return 0


def _named(flags: Flags, name: str) -> str:
    given = getattr(flags, name)
    if not given:
        raise InputError(f"--{name}: {describe('no file', 'its path')}")
    return given


def _writable(flags: Flags) -> None:
    """A folder in a file's place is a mistake to name before the search."""
    for name in ("witness", "certificate"):
        given = getattr(flags, name)
        if given and Path(given).is_dir():
            raise InputError(f"--{name}: {describe(f'folder {given}', 'a file')}")


def _explain(verdict: "Verdict", seconds: float) -> None:
    what = {
        "unsat": "holds: no input of the region is unsafe",
        "sat": "violated: a counterexample was found and checked in float64",
        "timeout": "open: the time limit was reached",
        "unknown": "open",
    }[verdict.status]
    by = f", decided by {verdict.phase}" if verdict.phase else ""
    _say(f"{what}{by}")
    if verdict.why:
        _say(verdict.why)
    domains = f"{verdict.domains} sub-domain{'s' * (verdict.domains != 1)}"
    solved = verdict.status in ("sat", "unsat")
    lower = "" if solved else f", lower bound {verdict.lower:.6g}"
    _say(f"{seconds:.1f} s, {domains}{lower}")
    for line in _details(verdict.info):
        _say(line)


def _details(info: Mapping[str, Any]) -> list[str]:
    return [f"  {name}: {value}" for name, value in info.items()]


def _write_witness(verdict: "Verdict", path: Path) -> None:
    from verify import vnnlib

    assert verdict.witness is not None
    files.write_text(path, f"{vnnlib.format_witness(*verdict.witness)}\n")
    _say(f"witness  {path}")


def _write_certificate(problem: "Problem", verdict: "Verdict", path: Path) -> None:
    if verdict.certificate is None:
        other = verdict.status != "unsat"
        why = "only an unsat verdict has one" if other else "the search kept no proof"
        _say(f"no certificate: {why}")
        return
    from verify import certificate

    try:
        found = certificate.check(problem, verdict.certificate)
    except GraphError as error:  # an operator that the checker does not know
        _say(f"no certificate: {error}")
        return
    if not found.ok:
        _say(f"no certificate: it does not hold in float64 arithmetic: {found.why}")
        return
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        certificate.save(verdict.certificate, path)
    _say(f"certificate  {path}, checked in {found.seconds:.1f} s")


def _check(problem: "Problem", path: Path) -> int:
    from verify import certificate

    found = certificate.check(problem, certificate.load(path))
    print("valid" if found.ok else "invalid", flush=True)
    if found.ok:
        leaves = f"{found.leaves} leaves, all positive in float64 rounded outward"
        _say(f"holds: {leaves}, the least {found.least_margin:.6g}")
    else:
        _say(f"proves nothing: {found.why}")
    _say(f"{found.seconds:.1f} s")
    return 0 if found.ok else 1


@contextlib.contextmanager
def _watched() -> Iterator[Callable[[str], None] | None]:
    """Yields what shows how far the search is, on one line of a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        yield lambda line: print(f"\r\x1b[K{line[:78]}", end="", file=sys.stderr)
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
