"""The front door: the list, help, cite, resume, report and sweep."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import launch
from experiments import registry

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def toy_only(monkeypatch, tmp_path):
    toys = registry.Registry({"toy": "tests.experiments.toy_experiment"})
    monkeypatch.setattr(registry, "EXPERIMENTS", toys)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def door(monkeypatch, capsys):
    def knock(*argv):
        monkeypatch.setattr(sys, "argv", ["launch.py", *argv])
        code = launch.main()
        out, err = capsys.readouterr()
        return code, out, err

    return knock


def test_list(door):
    code, out, _ = door("--list")
    head, _, row = out.splitlines()
    assert code == 0
    assert head.split() == ["experiment", "paper", "minutes", "data", "claim"]
    for word in ("toy", "2001.00001 (2020)", "quick 0.1, full 1", "none (made up)"):
        assert word in row
    assert row.endswith("Descent descends.")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--help"], "python launch.py sweep NAME"),
        (["toy", "--help"], "flags of toy:"),
        (["resume", "--help"], "work folder"),
        (["sweep", "--help"], "--executor"),
        (["report", "--help"], "--results_md"),
        (["cite", "--help"], "BibTeX"),
    ],
)
def test_help(door, argv, words):
    code, out, err = door(*argv)
    assert (code, err) == (0, "")
    assert words in out


def test_cite(door):
    code, out, _ = door("cite", "toy")
    assert code == 0
    assert out.startswith("@misc{toy2020,")
    assert "author = {Ada Lovelace and Alan Turing}" in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["toi"], "unknown experiment 'toi'; did you mean toy"),
        (["cite", "toi"], "did you mean toy?"),
        (["cite"], "got none; expected one experiment"),
        (["sweep"], "expected an experiment first"),
        (["sweep", "toi", "--grid=rate=1"], "did you mean toy?"),
        (["sweep", "toy"], "--grid"),
        (["sweep", "toy", "--grid=rat=1"], "did you mean rate"),
        (["sweep", "toy", "--grid=rate=7"], "(0, 1]"),
        (["sweep", "toy", "--grid=rate=0.1", "--workers=0"], "--workers: got 0"),
        (
            ["sweep", "toy", "--grid=rate=0.1", "--executor=cloud"],
            "one of local, slurm",
        ),
        (["report"], "got no folder"),
        (["report", "nowhere"], "nowhere"),
        (["resume", "nowhere"], "nowhere/config.json: no such file"),
        (["resume"], "got none; expected one work folder"),
    ],
)
def test_mistakes(door, argv, words):
    code, _, err = door(*argv)
    assert code == 2
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1


def test_no_argument_runs_the_main_job(door, monkeypatch, tmp_path):
    monkeypatch.setattr(launch, "MAIN_JOB", ("toy", "--mode=quick"))
    code, out, _ = door()
    assert code == 0
    assert "runs/toy-quick/report.html" in out
    code, out, _ = door("--steps=3", "--workdir=other")
    assert code == 0
    found = json.loads((tmp_path / "other/results.json").read_text())
    assert found["config"]["steps"] == 3


def test_the_main_job_is_registered(monkeypatch):
    monkeypatch.undo()
    assert launch.MAIN_JOB[0] in registry.EXPERIMENTS


def test_resume_goes_on_with_the_stored_config(door, tmp_path):
    flags = ["--steps=3", "--seeds=4", "--layers=4,2", "--workdir=w"]
    assert door("toy", *flags)[0] == 0
    stored = json.loads((tmp_path / "w/results.json").read_text())
    code, out, _ = door("resume", "w", "--checkpoint_secs=1")
    assert code == 0
    assert "was finished before" in out
    again = json.loads((tmp_path / "w/results.json").read_text())
    assert again["config"] == stored["config"]
    assert again["seeds"] == [4]
    assert again["command"] == (
        "python launch.py toy --mode=quick --seeds=4 --steps=3 --layers=4,2"
    )


def test_report_rebuilds_the_page_and_the_table(door, tmp_path):
    assert door("toy", "--workdir=w")[0] == 0
    (tmp_path / "w/report.html").unlink()
    code, out, _ = door("report", "w", "--results_md=pages/RESULTS.md")
    assert code == 0
    assert (tmp_path / "w/report.html").exists()
    assert "toy" in (tmp_path / "pages/RESULTS.md").read_text()
    assert "pages/RESULTS.md" in out


def test_a_sweep_gets_its_flags(door, monkeypatch, tmp_path):
    from experiments import sweep as sweeps

    seen = {}

    def record(experiment, grid, **rest):
        seen.update(rest, experiment=experiment.name, grid=grid)
        return 0

    monkeypatch.setattr(sweeps, "sweep", record)
    grid = "--grid=rate=0.1,0.2;layers=3,2|4,4"
    flags = ["--seeds=0,1", "--workers=2", "--steps=4", "--checkpoint_secs=1"]
    assert door("sweep", "toy", grid, *flags)[0] == 0
    assert seen == {
        "experiment": "toy",
        "grid": {"rate": ["0.1", "0.2"], "layers": ["3,2", "4,4"]},
        "seeds": (0, 1),
        "mode": "quick",
        "extra_flags": {"steps": "4", "checkpoint_secs": "1"},
        "workdir": Path("runs/toy-quick-sweep"),
        "workers": 2,
        "executor": "local",
    }


def test_talk_and_mistakes_import_nothing_heavy():
    code = """
import sys, launch
from experiments import registry
registry.EXPERIMENTS = registry.Registry({"toy": "tests.experiments.toy_experiment"})
for argv in (["--list"], ["--help"], ["toy", "--help"], ["cite", "toy"], ["toi"],
             ["toy", "--rate=7"], ["toy", "--rat=7"]):
    sys.argv[1:] = argv
    launch.main()
heavy = {"jax", "orbax", "matplotlib", "tensorflow_datasets", "flax"} & set(sys.modules)
print("heavy:", sorted(heavy))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"
    assert done.stderr.count("\n") == 3
