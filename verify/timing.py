"""Results within a time limit, whatever is still being compiled."""

import atexit
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

T = TypeVar("T")

NAME = "verify"
"""Of threads that work."""
EXIT_S = 60.0
"""Seconds that the end of a process waits for each late thread."""

WAIT_S = 600.0
"""Seconds that `quiet` waits for each late thread."""

_SETTINGS = (
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_matmul_precision",
)
_CONTEXTS = (
    jax.enable_x64,
    jax.numpy_dtype_promotion,
    jax.numpy_rank_promotion,
    jax.default_matmul_precision,
)


def within(seconds: float, work: Callable[[], T], late: Callable[[], T]) -> T:
    """Returns `work()`, or `late()` where that takes longer than `seconds`.

    Nothing can interrupt a compilation, so work runs in a thread of its own, which goes
    on unattended if it is late; what it compiles then still serves later calls. The
    thread has the caller's JAX settings. What `work` raises is raised here. A process
    that ends waits for a late thread up to `EXIT_S`: XLA crashes if Python goes first.

    Args:
      seconds: to wait.
      work: what to do.
      late: what to say instead.
    """
    result: list[Any] = []
    settings = [getattr(jax.config, name) for name in _SETTINGS]
    device = getattr(jax.config, "jax_default_device")  # noqa: B009 - pyright

    def run() -> None:
        try:
            with _same(settings, device):
                result.append((work(), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=run, name=NAME, daemon=True)
    thread.start()
    thread.join(seconds)
    if not result:
        atexit.register(thread.join, EXIT_S)
        return late()
    value, error = result[0]
    if error is not None:
        raise error
    return value


def quiet(say: Callable[[str], Any], wait_s: float = WAIT_S) -> None:
    """Waits for late threads, which use the cores of what is to be timed next.

    Args:
      say: told once what is waited for, and what is not any longer; a line of text.
      wait_s: seconds for each thread.
    """
    own = threading.current_thread()
    late = [t for t in threading.enumerate() if t.name == NAME and t is not own]
    if not late:
        return
    say(
        f"waiting for what {len(late)} earlier searches still compute or compile, "
        f"{len(late) * wait_s:g} s at most"
    )
    for thread in late:
        thread.join(wait_s)
    left = sum(thread.is_alive() for thread in late)
    if left:
        say(f"{left} of them go on, and slow down what is timed next")


@contextlib.contextmanager
def _same(settings: list[Any], device: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for context, value in zip(_CONTEXTS, settings, strict=True):
            stack.enter_context(context(value))
        stack.enter_context(jax.default_device(device))
        yield
