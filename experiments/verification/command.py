"""`launch.py verify`: decides properties of networks, in three forms."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import InputError, describe
from experiments import identity, manual, options
from experiments.commandline import HELP, LAUNCH, interruptible, no_more, parse
from experiments.options import option
from experiments.verification import benchmark, robust, single
from experiments.verification.search import SearchFlags

COMMAND = f"{LAUNCH} verify"
ABOUT = (
    "Proves a property of a network, or refutes it. Of one property the first line "
    "of the output is the competition's: unsat (it holds: no input of the region is "
    "unsafe), sat (a counterexample was found and checked), timeout or unknown; "
    "details go to stderr. A benchmark or a test set becomes a table, results.csv in "
    "the work folder, row by row; stopped, the same command goes on."
)


@dataclasses.dataclass(frozen=True)
class WhereFlags:
    """Flags of every form."""

    data_dir: str = option(
        "", "folder of data sets; empty means what LATHE_DATA and TFDS_DATA_DIR name"
    )


class Form(NamedTuple):
    """One of the ways to call the command.

    Attributes:
      flag: the flag that chooses it.
      usage: how it is called.
      own: a dataclass of the flags that only this form has.
      flags: `own` and the search's.
      run: `run(flags, where, again)` returns an exit code; `again` is the command.
    """

    flag: str
    usage: str
    own: type
    flags: type
    run: Callable[[Any, Any, str], int]


FORMS: Mapping[str, Form] = {
    "single": Form(
        "onnx",
        "--onnx=NET --vnnlib=PROP [flags]",
        single.OwnFlags,
        single.Flags,
        single.run,
    ),
    benchmark.MODE: Form(
        "instances",
        "--instances=instances.csv [flags]",
        benchmark.OwnFlags,
        benchmark.Flags,
        benchmark.run,
    ),
    robust.MODE: Form(
        "net",
        "--net=NAME_OR_ONNX --data=NAME [flags]",
        robust.OwnFlags,
        robust.Flags,
        robust.run,
    ),
}


def verify_command(argv: Sequence[str]) -> int:
    """Runs `launch.py verify`.

    Args:
      argv: the command line after `verify`.

    Returns:
      The exit code: 0 where there is a verdict, whatever it says.

    Raises:
      LatheError: whatever the flags or the files have wrong.
    """
    if HELP.intersection(argv):
        print(_help())
        return 0
    form = FORMS[_form(argv)]
    (own, where), rest = parse(argv, form.flags, WhereFlags)
    no_more(rest, "verify")
    flags = options.build(form.flags, given=own)
    again = shlex.join([*COMMAND.split(), *argv])
    return _go(form, flags, options.build(WhereFlags, given=where), again)


def resume_run(folder: Path, stored: Mapping[str, Any], data_dir: str = "") -> int:
    """Goes on with a benchmark or a test set.

    Args:
      folder: its work folder.
      stored: what `identity.read` found there.
      data_dir: folder of data sets.

    Returns:
      The exit code.

    Raises:
      InputError: the folder is no such run's.
    """
    if stored["mode"] not in FORMS:
        names = ", ".join(name for name in FORMS if name != "single")
        raise InputError(f"{folder}: {describe(stored['mode'], f'one of {names}')}")
    form = FORMS[stored["mode"]]
    config = {**stored["config"], "workdir": str(folder)}
    flags = identity.config_of({**stored, "config": config}, form.flags)
    again = shlex.join([*LAUNCH.split(), "resume", str(folder)])
    return _go(form, flags, WhereFlags(data_dir), again)


def _go(form: Form, flags: Any, where: WhereFlags, again: str) -> int:
    goes_on = form.flag != "onnx"
    with interruptible(f"; the same command goes on: {again}" if goes_on else ""):
        return form.run(flags, where, again)


def _form(argv: Sequence[str]) -> str:
    given = [name for name, form in FORMS.items() if _has(argv, form.flag)]
    if len(given) == 1:
        return given[0]
    flags = [f"--{FORMS[name].flag}" for name in given]
    wanted = ", ".join(f"--{form.flag}" for form in FORMS.values())
    raise InputError(
        describe(
            f"verify with {' and '.join(flags) or 'nothing to verify'}",
            f"one of {wanted}",
            f"'{COMMAND} --help' explains them",
        )
    )


def _has(argv: Sequence[str], flag: str) -> bool:
    names = [word.split("=")[0].lstrip("-") for word in argv if word.startswith("-")]
    return flag in names


def _help() -> str:
    lines = [f"{COMMAND} {form.usage}" for form in FORMS.values()]
    first = manual.command_help("\n".join(lines), ABOUT, WhereFlags)
    parts = [first]
    for form in FORMS.values():
        title = f"\nflags with --{form.flag}:"
        parts += [title, *manual.flag_lines(form.own)]
    parts += ["\nflags of the search:", *manual.flag_lines(SearchFlags)]
    return "\n".join(parts)
