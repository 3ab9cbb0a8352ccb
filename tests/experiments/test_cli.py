"""The command line of an experiment: exit codes, one-line errors, kill and resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.errors import DataUnavailableError
from experiments import cli
from tests.experiments.toy_experiment import EXPERIMENT as TOY

ROOT = Path(__file__).resolve().parents[2]
TOY_FILE = Path(__file__).with_name("toy_experiment.py")


def run(*argv):
    return cli.guard(lambda: cli.run_command(TOY, argv, "python toy"))


def start(*argv, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, str(TOY_FILE), *argv],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def read_lines(path):
    return path.read_text().splitlines() if path.exists() else []


def numbers(folder):
    found = json.loads((folder / "results.json").read_text())
    return {key: found[key] for key in ("rows", "figures", "notes", "config", "seeds")}


def test_a_run_writes_its_files_and_says_where(tmp_path, capsys):
    folder = tmp_path / "w"
    assert run(f"--workdir={folder}", "--rate=0.2") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert str(folder / "report.html") in out
    assert "2 of 2 claims reproduced" in out
    for name in ("config.json", "metrics.jsonl", "results.json", "report.html"):
        assert (folder / name).stat().st_size > 0
    found = json.loads((folder / "results.json").read_text())
    assert found["config"]["steps"] == 6
    assert found["config"]["rate"] == 0.2
    assert found["command"] == "python toy --mode=quick --seeds=0 --rate=0.2"
    assert found["notes"] == ["a note"]

    before = numbers(folder)
    (folder / "report.html").unlink()
    assert run(f"--workdir={folder}", "--rate=0.2") == 0
    out, err = capsys.readouterr()
    assert "was finished before" in out
    assert err == ""
    assert (folder / "report.html").exists()
    assert numbers(folder) == before


def test_the_default_work_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run() == 0
    assert (tmp_path / "runs" / "toy-quick" / "results.json").exists()
    assert "runs/toy-quick/report.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--rat=1"], "unknown flag '--rat'; did you mean --rate"),
        (["--rate=3"], "--rate: got 3.0; expected a number in (0, 1]"),
        (["--rate=x"], "--rate: got x; expected"),
        (["--rate"], "Missing value for flag --rate"),
        (["--steps=1.5"], "--steps: got 1.5; expected an integer >= 1"),
        (["--verbose=3"], "--verbose=3; expected true or false"),
        (["--rule=momentun"], "Did you mean momentum?"),
        (["--mode=ful"], "unknown mode of toy 'ful'; did you mean full?"),
        (["--seeds=a"], "--seeds: got a; expected a comma list of integers"),
        (["--seeds=-1"], "--seeds: got -1"),
        (["--seeds="], "--seeds: got ''; expected distinct integers"),
        (["--seeds=0,0"], "--seeds: got '0,0'; expected distinct integers"),
        (["--checkpoint_secs=-1"], "--checkpoint_secs: got -1.0"),
        (["more"], "got argument 'more'"),
        (["--fail=user"], "got no data; expected some. Try mnist_5k"),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(
    argv, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1


def test_a_work_folder_of_another_config(tmp_path, capsys):
    assert run(f"--workdir={tmp_path}", "--fail=user") == 2
    capsys.readouterr()
    assert run(f"--workdir={tmp_path}", "--rate=0.3", "--fail=user") == 2
    err = capsys.readouterr().err
    assert "rate 0.1 there and 0.3 now" in err
    assert "--rate=0.1" in err
    assert err.count("\n") == 1


def test_a_bug_keeps_its_trace(tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        run(f"--workdir={tmp_path}", "--fail=bug")
    monkeypatch.setenv("LATHE_TRACE", "1")
    with pytest.raises(DataUnavailableError):
        run(f"--workdir={tmp_path / 'other'}", "--fail=user")


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys):
    flags = [f"--workdir={tmp_path}", "--fail=interrupt"]
    assert run(*flags) == 130
    err = capsys.readouterr().err
    assert f"the same command goes on: python toy {flags[0]} {flags[1]}\n" in err
    assert err.count("\n") == 1


def test_help_explains_every_flag(capsys):
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert "length of training in steps; an integer >= 1" in out
    assert "(default 12; quick 6; full 40)" in out
    assert "quick: about 0.1 min on 2 CPU cores" in out
    assert max(map(len, out.splitlines())) <= 88
    for name in ("--rule", "--verbose", "--workdir", "--seeds", "--checkpoint_secs"):
        assert f"  {name}\n" in out
    assert "logtostderr" not in out


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_ends_with_the_same_numbers(tmp_path):
    flags = ["--mode=full", "--seeds=0", "--checkpoint_secs=0", "--sleep=0.02"]
    total = 2 * 40
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    reference = start(*flags, f"--workdir={whole}")

    kills = 0
    stops = {4: signal.SIGKILL, 25: signal.SIGINT, 47: signal.SIGKILL}
    for count, stop in stops.items():
        process = start(*flags, f"--workdir={parts}")
        deadline = time.monotonic() + 120
        while len(read_lines(parts / "metrics.jsonl")) < count:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(stop)
        _, err = process.communicate(timeout=60)
        kills += 1
        if stop == signal.SIGINT:
            assert process.returncode == 130
            assert err.startswith("interrupted; the same command goes on: ")
            assert err.count("\n") == 1
        else:
            assert process.returncode == -signal.SIGKILL
        assert not (parts / "results.json").exists()

    process = start(*flags, f"--workdir={parts}")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "stage slow-s0" not in out
    assert "stage fast-s0" in out
    assert reference.communicate(timeout=120)[1] == ""
    assert numbers(parts) == numbers(whole)
    assert read_lines(parts / "metrics.jsonl") == read_lines(whole / "metrics.jsonl")
    assert len(read_lines(whole / "metrics.jsonl")) == total
    # With a checkpoint after each step, a kill costs at most the step it fell into.
    assert len(read_lines(whole / "executed.log")) == total
    assert total <= len(read_lines(parts / "executed.log")) <= total + kills
