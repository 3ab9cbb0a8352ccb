"""What every command line is made of: flags in, exit code out.

Whatever a user can do wrong is one line on stderr and exit code 2; Ctrl-C is one
line that says how to go on and exit code 130; a bug keeps its trace.
"""

import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from core.errors import InputError, LatheError, describe, unknown_name
from experiments import interrupt, options

LAUNCH = "python launch.py"
HELP = {"--help", "-help", "-h", "--helpshort", "--helpfull"}


@dataclasses.dataclass(frozen=True)
class NoFlags:
    """A command without flags."""


def leave(code: int) -> int:
    """Returns an exit code; ends the process at once where XLA may still compute.

    So it does after Ctrl-C, or when a verdict came before its search could stop.
    Python's own way out would wait for that or crash. Work folders are closed by now.

    Args:
      code: of `front_door` or `guard`.
    """
    if code == 130 or any(t.name == "verify" for t in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    return code


def guard(command: Callable[[], int]) -> int:
    """Runs a command; a user's mistake becomes one line and exit code 2.

    Args:
      command: returns an exit code. With LATHE_TRACE set in the environment its
        errors keep their traces, to see where in the code a message comes from.

    Returns:
      The exit code.
    """
    with interrupt.listening():
        try:
            with interruptible(""):
                return command()
        except LatheError as error:
            if os.environ.get("LATHE_TRACE"):
                raise
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as stop:
            print(f"interrupted{''.join(map(str, stop.args))}", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of our output has left: `--list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


@contextlib.contextmanager
def interruptible(remedy: str) -> Iterator[None]:
    """Says how to go on after Ctrl-C, also where it came out as another error.

    Args:
      remedy: what stands behind "interrupted".
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(*(stop.args or [remedy])) from None
    except Exception:
        if not interrupt.asked():
            raise
        raise KeyboardInterrupt(remedy) from None


def parse(
    argv: Sequence[str], *configs: type
) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the flags given of each config class, and what is no flag.

    Args:
      argv: words of a command line.
      *configs: dataclasses of options.

    Raises:
      InputError: a flag without its value, a switch that is neither true nor false.
      UnknownNameError: a flag of no config.
    """
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    for config in configs:
        options.define_flags(config, values)
    try:
        rest = values(["launch", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        names = [f"--{n}" for config in configs for n in options.options_of(config)]
        if not names:
            given = f"--{error.flagname}"
            raise InputError(describe(given, "no flags beside this command")) from error
        raise unknown_name("flag", f"--{error.flagname}", names) from error
    except flags.IllegalFlagValueError as error:  # only switches are read by absl
        given = str(error).split(":")[0]
        raise InputError(describe(given, "true or false")) from error
    except (flags.Error, ValueError) as error:  # ValueError: --noswitch=1
        raise InputError(str(error)) from error
    return [options.given_flags(config, values) for config in configs], rest


def seeds_of(
    given: dict[str, Any], seeds: tuple[int, ...], default: tuple[int, ...]
) -> tuple[int, ...]:
    """Returns the seeds of a run.

    Args:
      given: the flags given.
      seeds: as parsed from them.
      default: where no flag gives any.

    Raises:
      InputError: none, or one twice.
    """
    if "seeds" not in given:
        return default
    if not seeds or len(set(seeds)) < len(seeds):
        expected = "distinct integers, as in 0,1,2"
        raise InputError(f"--seeds: {describe(repr(given['seeds']), expected)}")
    return seeds


def one(rest: list[str], what: str, usage: str) -> str:
    """Returns the only word of `rest`.

    Args:
      rest: words that are no flags.
      what: a word is, for the message.
      usage: of the command, for the message.

    Raises:
      InputError: another number of words.
    """
    if len(rest) != 1:
        given = " ".join(rest) or "none"
        raise InputError(f"{describe(given, f'one {what}', f'Usage: {usage}')}")
    return rest[0]


def no_more(rest: list[str], after: str = "the name of an experiment") -> None:
    """Checks that only flags were given.

    Args:
      rest: words that are no flags.
      after: what the flags follow, for the message.

    Raises:
      InputError: there is a word.
    """
    if rest:
        expected = f"flags, as --name=value, after {after}"
        raise InputError(describe(f"argument {rest[0]!r}", expected))
