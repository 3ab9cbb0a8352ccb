"""The real experiment through the real front door, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "admm_pruning",
    "--lenet300_epochs=3,2,1",
    "--examples=1000",
    "--methods=admm",
    "--lenet300_interval=7",
]


def launch(*argv, cwd=ROOT, **variables):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment |= variables
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *argv],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def results(folder):
    found = json.loads((folder / "results.json").read_text())
    return {key: found[key] for key in ("rows", "figures", "notes", "config", "data")}


def lines(folder):
    path = folder / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(stage, process, folder):
    """Waits until a run has logged an epoch of a stage."""
    deadline = time.monotonic() + 600
    while not any(stage in line for line in lines(folder)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing stops."""
    folder = tmp_path_factory.mktemp("launch") / "whole"
    process = launch(*SMALL, f"--workdir={folder}")
    _, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    return folder


@pytest.mark.slow
def test_killed_in_the_middle_of_admm_a_run_ends_with_the_same_numbers(whole, tmp_path):
    parts = tmp_path / "parts"
    process = launch(*SMALL, f"--workdir={parts}", "--checkpoint_secs=0")
    wait_for("admm-22.9x-prune", process, parts)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert not (parts / "results.json").exists()

    resumed = launch(*SMALL, f"--workdir={parts}", "--checkpoint_secs=0")
    out, err = resumed.communicate(timeout=900)
    assert resumed.returncode == 0, err
    assert "lenet300-s0-pretrain" not in out
    assert results(parts) == results(whole)
    assert lines(parts) == lines(whole)
    names = {json.loads(line)["stage"] for line in lines(whole)}
    assert "lenet300-s0-admm-22.9x-retrain" in names
    # Equal budgets: the method and the dense control run as many epochs.
    counts = Counter(json.loads(line)["stage"] for line in lines(whole))
    for trial in ("dense-1x", "admm-22.9x"):
        assert counts[f"lenet300-s0-{trial}-prune"] == 2
        assert counts[f"lenet300-s0-{trial}-retrain"] == 1


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["adm_pruning"], "admm_pruning"),
        (["admm_pruning", "--keep_ratio=1.5"], "keep_ratio"),
        (["admm_pruning", "--keep_rato=0.5"], "keep_ratio"),
        (["admm_pruning", "--mode=huge"], "full"),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(argv, word, tmp_path):
    process = launch(*argv, cwd=tmp_path)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert word in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_list_names_paper_claim_modes_and_data():
    out, _ = launch("--list").communicate(timeout=300)
    for word in ("admm_pruning", "1804.03294", "2018", "quick", "full", "mnist_5k"):
        assert word in out
