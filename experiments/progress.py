"""Progress bars on long work: steps, shown numbers, time left.

Quiet where stderr is not a terminal, so that logs stay readable.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Protocol


class Progress(Protocol):
    """A bar that is told how far the work is."""

    def update(self, n: int = 1, **shown: Any) -> None:
        """Moves the bar.

        Args:
          n: units done since the last call.
          **shown: numbers to show beside the bar, such as loss and accuracy.
        """
        ...


class _Quiet:
    def update(self, n: int = 1, **shown: Any) -> None:
        pass


class _Bar:
    def __init__(self, bar: Any):
        self._bar = bar

    def update(self, n: int = 1, **shown: Any) -> None:
        if shown:
            text = ", ".join(f"{name} {_brief(value)}" for name, value in shown.items())
            self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(n)


@contextlib.contextmanager
def progress(
    name: str, total: int, unit: str = "step", initial: int = 0
) -> Iterator[Progress]:
    """Opens a progress bar.

    Args:
      name: of the work.
      total: units in all.
      unit: their name, in the singular.
      initial: units that were done before (a resumed stage).

    Yields:
      A `Progress`; one that does nothing where stderr is not a terminal.
    """
    if not sys.stderr.isatty():
        yield _Quiet()
        return
    from tqdm import tqdm

    with tqdm(
        total=total,
        initial=initial,
        desc=name,
        unit=unit,
        leave=False,
        dynamic_ncols=True,
    ) as bar:
        yield _Bar(bar)


def _brief(value: Any) -> str:
    if hasattr(value, "item"):
        value = value.item()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
