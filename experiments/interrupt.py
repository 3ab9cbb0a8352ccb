"""Ctrl-C that cannot get lost.

An exception that a signal raises is swallowed where Python runs a callback for C
code (XLA's garbage collection is one), and comes out as another error where a
library catches it. `listening` therefore remembers the signal, and long work asks
`check()` between its parts.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

_asked = threading.Event()


def asked() -> bool:
    """Returns whether Ctrl-C was pressed while a command listens."""
    return _asked.is_set()


def check() -> None:
    """Raises the KeyboardInterrupt that was swallowed, if one was."""
    if _asked.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Remembers the first Ctrl-C inside; the second one ends the process at once.

    In other threads than the main one, and where the parent process had Ctrl-C
    ignored, it changes nothing.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not main or before is not signal.default_int_handler:
        yield
        return
    report = sys.unraisablehook

    def quiet(lost: Any) -> None:
        if not (asked() and issubclass(lost.exc_type, KeyboardInterrupt)):
            report(lost)

    signal.signal(signal.SIGINT, _remember)
    sys.unraisablehook = quiet
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = report
        _asked.clear()


def _remember(number: int, frame: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _asked.set()
    raise KeyboardInterrupt
