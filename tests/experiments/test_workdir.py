"""The work folder: stages run once, metrics match checkpoints, one owner."""

import contextlib
import dataclasses
import json
import signal
import time

import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError, NonFiniteError, WorkdirError
from experiments import interrupt
from experiments.options import option
from experiments.workdir import Run


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = option(0.1, "rate")
    keep: tuple[float, ...] = option((0.5, 0.25), "keep")


class Killed(BaseException):
    """Stands for the end of a process."""


def open_run(folder, **changes):
    values = {"experiment": "toy", "config": Config(), "mode": "quick", "seeds": (0, 1)}
    return Run(folder, **{**values, "checkpoint_secs": 0.0, **changes})


def lines(folder):
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


def count_up(run, stage, total, die_at=None, save=True, seen=None):
    checkpoints = run.checkpoints(stage)
    state, step = {"x": jnp.zeros((), jnp.int32)}, 0
    if found := checkpoints.restore(state):
        step, state = found
    while step < total:
        step += 1
        state = {"x": state["x"] + step}
        if seen is not None:
            seen.append(step)
        run.log(stage, step, x=state["x"])
        if step == die_at:
            raise Killed
        if save:
            checkpoints.save(step, state, force=step == total)
    return {"x": state["x"]}


def test_a_mistake_in_the_first_stage_leaves_the_folder_free(tmp_path):
    def fail(name, error, *steps):
        with open_run(tmp_path / name) as run:

            def fn():
                for step in steps:
                    run.log("one", step, x=1.0)
                    run.checkpoints("one").save(step, {"x": jnp.zeros(())}, force=True)
                raise error("no")

            run.stage("one", fn)

    with pytest.raises(InputError):
        fail("a", InputError)
    with open_run(tmp_path / "a", config=Config(rate=0.3)):
        pass
    # What was reached, and what tells how training failed, is kept.
    for name, error, steps in (("b", NonFiniteError, ()), ("c", InputError, (1,))):
        with pytest.raises(error):
            fail(name, error, *steps)
        with (
            pytest.raises(WorkdirError, match="another config"),
            open_run(tmp_path / name, config=Config(rate=0.4)),
        ):
            pass


def test_a_stage_runs_once_and_comes_back_as_json(tmp_path):
    calls = []

    def fn():
        calls.append(1)
        return {
            "a": np.float32(0.1),
            "b": jnp.arange(2),
            "c": (1, None, "x"),
            3: float("nan"),
        }

    with open_run(tmp_path) as run:
        first = run.stage("s", fn)
        again = run.stage("s", fn)
    with open_run(tmp_path) as run:
        later = run.stage("s", fn)
        assert run.fresh == []
    assert len(calls) == 1
    assert first["a"] == float(np.float32(0.1))
    assert (first["b"], first["c"]) == ([0, 1], [1, None, "x"])
    assert repr(first) == repr(again) == repr(later)
    assert np.isnan(first["3"])


def test_a_resumed_run_has_the_metrics_of_an_uninterrupted_one(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with open_run(whole) as run:
        for name in ("a", "b"):
            expected = run.stage(name, lambda n=name: count_up(run, n, 6))
    seen = []
    for die_at in (3, 5, None):
        try:
            with open_run(parts) as run:
                for name in ("a", "b"):
                    found = run.stage(
                        name, lambda n=name, d=die_at: count_up(run, n, 6, d, seen=seen)
                    )
        except Killed:
            with (parts / "metrics.jsonl").open("a") as file:
                file.write('{"stage": "a", "st')
    assert found == expected
    assert lines(parts) == lines(whole)
    assert seen == [1, 2, 3, 3, 4, 5, 5, 6, 1, 2, 3, 4, 5, 6]


def test_a_stage_without_checkpoints_logs_anew(tmp_path):
    def fn(run, die):
        for step in range(3):
            run.log("s", step, x=step)
            if die and step == 1:
                raise Killed
        return {}

    with pytest.raises(Killed), open_run(tmp_path) as run:
        run.stage("s", lambda: fn(run, True))
    with open_run(tmp_path) as run:
        run.stage("s", lambda: fn(run, False))
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2]


def test_a_later_stage_restores_the_result_of_an_earlier_one(tmp_path):
    like = {"x": jnp.zeros((), jnp.int32)}
    for _ in range(2):
        with open_run(tmp_path) as run:
            run.stage("a", lambda: count_up(run, "a", 4))
            step, state = run.checkpoints("a").restore(like)
            assert (step, int(state["x"])) == (4, 10)
    assert len(lines(tmp_path)) == 4
    assert [p.name for p in (tmp_path / "checkpoints/a").iterdir()] == ["4"]


def test_a_damaged_result_checkpoint_runs_its_stage_again(tmp_path, capsys):
    with open_run(tmp_path) as run:
        run.stage("a", lambda: count_up(run, "a", 4))
    (tmp_path / "checkpoints/a/4/manifest.json").unlink()
    with open_run(tmp_path) as run:
        assert run.stage("a", lambda: count_up(run, "a", 4)) == {"x": 10}
        assert run.fresh == ["a"]
        assert any("result of stage a is damaged" in note for note in run.notes)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert "note: " in capsys.readouterr().err
    with open_run(tmp_path) as run:
        assert any("damaged" in note for note in run.notes)


def test_a_damaged_stage_file_runs_its_stage_again(tmp_path):
    with open_run(tmp_path) as run:
        run.stage("a", lambda: {"x": 1})
    (tmp_path / "stages/a.json").write_text('{"stage": "a", "res')
    with open_run(tmp_path) as run:
        assert run.stage("a", lambda: {"x": 2}) == {"x": 2}


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path):
    with open_run(tmp_path) as run:
        run.stage("s", lambda: run.log("s", 1, loss=jnp.nan, x=1.5) or {})
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert lines(tmp_path)[0] == {
        "stage": "s",
        "step": 1,
        "loss": None,
        "x": 1.5,
        "not_finite": ["loss"],
    }


def test_a_lost_ctrl_c_is_raised_again_in_a_stage(tmp_path):
    def lose(run):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        run.log("s", 1, x=1)

    with (
        pytest.raises(KeyboardInterrupt),
        interrupt.listening(),
        open_run(tmp_path) as run,
    ):
        run.stage("s", lambda: lose(run))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_logging_outside_of_a_stage_is_refused(tmp_path):
    with open_run(tmp_path) as run, pytest.raises(ValueError, match="outside"):
        run.log("s", 1, x=1)


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a b", "é"])
def test_stage_names_are_file_names(tmp_path, name):
    with open_run(tmp_path) as run, pytest.raises(ValueError, match="stage name"):
        run.stage(name, dict)


def test_another_config_is_refused_key_by_key_with_a_way_on(tmp_path):
    with open_run(tmp_path):
        pass
    other = open_run(tmp_path, config=Config(rate=0.2, keep=(0.1,)), seeds=(0,))
    with pytest.raises(WorkdirError) as caught, other:
        pass
    text = str(caught.value)
    assert "rate 0.1 there and 0.2 now" in text
    assert "--seeds=0,1 --rate=0.1 --keep=0.5,0.25" in text
    assert "another --workdir" in text
    with open_run(tmp_path):
        pass


def test_an_empty_value_is_shown_as_none(tmp_path):
    with open_run(tmp_path, config=Config(keep=())):
        pass
    with (
        pytest.raises(WorkdirError, match=r"keep \(none\) there and 0\.5,0\.25 now"),
        open_run(tmp_path),
    ):
        pass


@pytest.mark.parametrize("place", ["metrics.jsonl", "stages/s.json", "checkpoints/s"])
def test_what_cannot_be_written_is_named(tmp_path, place):
    def fn():
        blocked = tmp_path / place
        if blocked.suffix:
            (blocked / "in the way").mkdir(parents=True)
        else:
            blocked.touch()
        if place[0] == "m":
            run.log("s", 1, x=1)
        run.checkpoints("s").save(1, {"x": jnp.ones(2)}, force=True)
        return {}

    with (
        pytest.raises(WorkdirError, match=rf"{place}: cannot be written \("),
        open_run(tmp_path) as run,
    ):
        run.stage("s", fn)


def test_what_is_no_part_of_the_numbers_may_change(tmp_path):
    with open_run(tmp_path):
        pass
    with open_run(tmp_path, checkpoint_secs=5.0, data_dir="elsewhere"):
        pass


def test_new_packages_are_noted_where_a_stage_still_runs(tmp_path):
    with open_run(tmp_path):
        pass
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["versions"]["jax"] = "0.1.0"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with open_run(tmp_path) as run:
        assert run.notes == []
        run.stage("s", dict)
        assert "jax 0.1.0 -> " in run.notes[0]


def test_two_owners_at_a_time_are_refused(tmp_path):
    one, other = open_run(tmp_path), open_run(tmp_path)
    with one, pytest.raises(WorkdirError, match="in use by process"), other:
        pass
    with open_run(tmp_path):
        pass


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"experiment": "toy"}'])
def test_a_broken_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WorkdirError, match=r"config\.json"), open_run(tmp_path):
        pass


def test_folders_of_other_things_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(WorkdirError, match=r"thesis\.tex"), open_run(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(WorkdirError), open_run(tmp_path / "thesis.tex"):
        pass


def test_seconds_add_up_over_sessions_that_worked(tmp_path, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr("experiments.workdir.time.monotonic", lambda: next(clock))
    with open_run(tmp_path) as run:
        run.stage("a", dict)
        first = run.seconds
    assert first > 0
    with open_run(tmp_path) as run:
        run.stage("a", dict)
        cached = run.seconds
    with open_run(tmp_path) as run:
        run.stage("b", dict)
        assert run.seconds > cached >= first


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_for_terminals_only(tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    with open_run(tmp_path) as run, run.progress("warm", 10, "epoch", 4) as bar:
        time.sleep(0.15)  # bars are drawn ten times a second at most
        bar.update(6, loss=jnp.float32(0.25), accuracy=0.98765)
    err = capsys.readouterr().err
    assert (err == "") is not terminal
    if terminal:
        assert "warm" in err
        assert "10/10" in err
        assert "epoch/s, loss 0.25, accuracy 0.9877" in err
