"""The command line of an experiment: exit codes, one-line errors, kill and resume."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.errors import DataUnavailableError
from experiments import cli, interrupt, manual, options, registry, sweep
from experiments.checkpoints import Checkpoints
from experiments.registry import Mode
from tests.experiments.toy_experiment import EXPERIMENT as TOY

ROOT = Path(__file__).resolve().parents[2]
TOY_FILE = Path(__file__).with_name("toy_experiment.py")


def run(*argv):
    return cli.guard(lambda: cli.run_command(TOY, argv, "python toy"))


def front(*argv):
    return cli.front_door(argv, ("admm_pruning",))


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
        (["--rate=3"], "--rate: got 3.0; expected a number > 0 and <= 1"),
        (["--rate=x"], "--rate: got x; expected"),
        (["--rate"], "Missing value for flag --rate"),
        (["--steps=1.5"], "--steps: got 1.5; expected an integer >= 1"),
        (["--verbose=3"], "--verbose=3; expected true or false"),
        (["--noverbose=1"], "--noverbose=1 does not take an argument"),
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
    assert run(f"--workdir={tmp_path}") == 0
    capsys.readouterr()
    assert run(f"--workdir={tmp_path}", "--rate=0.3") == 2
    err = capsys.readouterr().err
    assert "rate 0.1 there and 0.3 now" in err
    assert "--rate=0.1" in err
    assert err.count("\n") == 1


def test_a_mistake_before_any_work_leaves_the_folder_free(tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(f"--workdir={folder}", "--fail=user") == 2
    assert list(folder.iterdir()) == []
    assert run(f"--workdir={folder}", "--rate=0.3") == 0
    # Not what a run has begun.
    (folder / "results.json").unlink()
    assert run(f"--workdir={folder}", "--rate=0.3", "--fail=user") == 2
    assert (folder / "config.json").exists()
    capsys.readouterr()


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
    assert "length of training [steps]; an integer >= 1" in out
    assert "(default 12; quick 6; full 40)" in out
    assert "raise this kind of error (default none)" in out
    assert "sizes to run; one of quick, full (default quick)" in out
    assert "empty means runs/NAME-MODE. A run that was stopped goes on\n" in out
    assert "quick: about 0.1 min on 2 CPU cores" in out
    assert max(map(len, out.splitlines())) <= 88
    for name in ("--rule", "--verbose", "--workdir", "--seeds", "--checkpoint_secs"):
        assert f"  {name}\n" in out
    assert "logtostderr" not in out


@pytest.mark.parametrize("fate", ["swallowed", "another error"])
def test_ctrl_c_that_a_library_swallows_still_stops_the_run(fate, tmp_path, capsys):
    def lose_it():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if fate == "another error":
                raise RuntimeError("INTERNAL") from None

    def work(run, config):
        run.stage("first", lambda: lose_it() or {})
        run.stage("second", dict)
        raise AssertionError("the run went on")

    toy = dataclasses.replace(TOY, run=work)
    argv = [f"--workdir={tmp_path}"]
    before = signal.getsignal(signal.SIGINT)
    assert cli.guard(lambda: cli.run_command(toy, argv, "python toy")) == 130
    assert signal.getsignal(signal.SIGINT) is before
    err = capsys.readouterr().err
    assert err == f"interrupted; the same command goes on: python toy {argv[0]}\n"
    assert not interrupt.asked()
    assert (tmp_path / "stages/first.json").exists() is (fate == "swallowed")


def test_after_ctrl_c_the_process_ends_without_pythons_way_out():
    code = (
        "import atexit; from experiments import cli; atexit.register(print, 'late'); "
        "print('said'); print(cli.leave(0)); cli.leave(130)"
    )
    words = [sys.executable, "-c", code]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (130, "said\n0\n")


def test_a_lost_ctrl_c_is_raised_again_by_log_and_save(tmp_path):
    folder = tmp_path / "c"
    with interrupt.listening():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # for the second one
        with pytest.raises(KeyboardInterrupt):
            Checkpoints(folder).save(1, {"x": 1}, force=True)
    assert Checkpoints(folder).steps() == []


def test_commands_that_are_words_and_what_they_refuse(capsys):
    assert front("list") == front("--list") == 0
    out = capsys.readouterr().out
    assert out == 2 * (manual.listing(registry.EXPERIMENTS.values()) + "\n")
    assert front("help", "sweep") == front("sweep", "--help") == 0
    out = capsys.readouterr().out
    assert "runs/NAME-MODE-sweep" in out
    assert front("help") == 0
    for argv in (["--list", "--foo"], ["list", "more"], ["cite", "--foo"]):
        assert front(*argv) == 2
        assert argv[-1] in capsys.readouterr().err


def test_the_list_names_a_device_that_is_not_the_usual_one():
    modes = {"quick": Mode(1), "paper": Mode(60, device="a GPU")}
    text = manual.listing([dataclasses.replace(TOY, modes=modes)])
    assert "quick 1, paper 60 (a GPU)" in text


def test_a_sweep_takes_its_name_anywhere_and_lists_the_axes(capsys):
    for argv in (["admm_pruning"], ["--grid", "rho=1,2", "admm_pruning"]):
        assert front("sweep", *argv, "--help") == 0
        out = capsys.readouterr().out
        assert "sweep admm_pruning --grid" in out
        assert "\n  --weight_decay\n" in out
    assert front("sweep", "--grid", "rho=-1", "admm_pruning") == 2
    assert "--rho: got -1.0" in capsys.readouterr().err


def test_the_examples_of_grids_are_real():
    known = options.options_of(registry.get("admm_pruning").config)
    text = manual.USAGE + options.options_of(cli.SweepFlags)["grid"].help
    examples = re.findall(r"'(?=\w+=)([^']*)'", text)
    assert len(examples) == 3
    for example in examples:
        for name, values in sweep.parse_grid(example).items():
            assert all(known[name].parse(value) for value in values) or name != "rho"


def test_a_report_skips_what_is_not_finished(tmp_path, monkeypatch, capsys):
    done, begun, swept = (tmp_path / name for name in ("done", "begun", "swept"))
    assert run(f"--workdir={done}") == 0
    assert run(f"--workdir={begun}", "--fail=interrupt") == 130
    swept.mkdir()
    (swept / "sweep.json").write_text("{}")
    monkeypatch.setattr(cli, "ROOT", tmp_path / "root")
    capsys.readouterr()
    assert front("report", str(begun), str(done), str(swept)) == 0
    out, err = capsys.readouterr()
    assert err == f"skipped {begun}: not finished\nskipped {swept}: a sweep\n"
    assert f"toy, mode quick, from {done}" in out
    assert "## toy, quick" in (tmp_path / "root/docs/RESULTS.md").read_text()
    assert front("report", str(begun), str(swept)) == 2
    assert "no folder of a finished run" in capsys.readouterr().err


def test_pages_that_cannot_be_written_are_named(tmp_path, capsys):
    assert run(f"--workdir={tmp_path / 'w'}") == 0
    file = tmp_path / "file"
    file.touch()
    for page in (tmp_path, file / "page.md"):
        assert front("report", str(tmp_path / "w"), f"--results_md={page}") == 2
        assert str(page) in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        *({"experiment": []}, {"mode": 3}, {"seeds": "0"}, {"seeds": [0.5]}),
        *({"config": 1}, {"config": {"rho": {}}}, {"config": {"networks": [[]]}}),
        {"versions": 3},
    ],
)
def test_resume_of_a_config_with_wrong_types(change, tmp_path, capsys):
    whole = {"experiment": "admm_pruning", "mode": "quick", "seeds": [0], "config": {}}
    (tmp_path / "config.json").write_text(json.dumps({**whole, **change}))
    assert front("resume", str(tmp_path)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_resume_without_a_run(tmp_path, capsys):
    assert front("resume", str(tmp_path / "none")) == 2
    assert "the work folder of a run that was started" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_ends_with_the_same_numbers(tmp_path):
    flags = ["--mode=full", "--seeds=0", "--checkpoint_secs=0", "--sleep=0.02"]
    total = 2 * 40
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    reference = start(*flags, f"--workdir={whole}")

    kills = 0
    stops = {25: signal.SIGINT, 47: signal.SIGKILL}  # one in either stage
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
