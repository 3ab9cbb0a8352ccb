"""What is late: waited for before anything else is timed, and said so."""

import threading

import pytest

from verify import timing


@pytest.mark.parametrize("ends", [True, False])
def test_waiting_for_what_is_late_is_said_once(ends):
    free, said = threading.Event(), []
    for _ in range(2):
        assert timing.within(0.001, free.wait, lambda: "late") == "late"
    late = [t for t in threading.enumerate() if t.name == timing.NAME]
    assert len(late) == 2

    def say(line):
        said.append(line)
        if ends:
            free.set()

    timing.quiet(say, 60.0 if ends else 0.001)
    limit = "120 s" if ends else "0.002 s"
    assert f"2 earlier searches still compute or compile, {limit} at most" in said[0]
    assert said[1:] == (
        [] if ends else ["2 of them go on, and slow down what is timed next"]
    )
    free.set()
    for thread in late:
        thread.join()
    said.clear()
    timing.quiet(say)
    assert not said
