import csv
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import pytest

from core.errors import InputError, UnknownNameError, WorkdirError
from experiments import sweep as room
from experiments.sweep import executors, grid, parse_grid, sweep, tables
from tests.experiments.toy_sweep import TOY

ROOT = Path(__file__).resolve().parents[2]


def toy_command(name, mode, seed, folder, flags):
    assert name == "toy"
    words = [sys.executable, ROOT / "tests" / "experiments" / "toy_sweep.py"]
    return [str(word) for word in (*words, mode, seed, folder, json.dumps(flags))]


@pytest.fixture
def run(tmp_path):
    def start(grid="rho=1e-3,1e-2", seeds=(0,), flags=None, workers=2, mode="quick"):
        flags = flags or {}
        place = tmp_path / "sweep"
        return sweep(TOY, grid, seeds, mode, flags, place, workers, command=toy_command)

    return start


def starts(tmp_path):
    return {
        str(file.parent.relative_to(tmp_path / "sweep")): len(file.read_text().split())
        for file in (tmp_path / "sweep").glob("*/*/starts")
    }


def read_csv(tmp_path):
    with (tmp_path / "sweep" / "sweep.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_a_sweep_measures_every_cell_and_runs_nothing_twice(run, tmp_path, capsys):
    assert run(seeds=(0, 1)) == 0
    cells = ("rho=0.001", "rho=0.01")
    assert starts(tmp_path) == {f"{c}/seed{s}": 1 for c in cells for s in (0, 1)}
    lines = {(r["rho"], r["metric"], r["setting"]): r for r in read_csv(tmp_path)}
    first = lines["0.001", "accuracy", "LeNet"]
    assert float(first["mean"]) == pytest.approx(92.49)
    assert float(first["std"]) == pytest.approx(0.5**0.5)
    assert first["n"] == "2"
    assert lines["0.01", "accuracy", "MLP"]["mean"] == "nan"
    assert lines["0.01", "energy", "chip"]["simulated"] == "true"
    assert len(lines) == 6
    shown = capsys.readouterr()
    assert re.search(r"0\.001 +92\.5 ± 0\.7 % +80\.00 ± 0 %", shown.out)
    assert re.search(r"0\.01 +92\.4 ± 0\.7 % +not finite", shown.out)
    assert "4 of 4 finished" in shown.out
    assert not shown.err

    files = ("sweep.md", "sweep.csv", "sweep.png", "report.html")
    before = {name: (tmp_path / "sweep" / name).read_bytes() for name in files}
    assert run(seeds=(0, 1)) == 0
    assert set(starts(tmp_path).values()) == {1}
    after = {name: (tmp_path / "sweep" / name).read_bytes() for name in files}
    assert after == before
    assert capsys.readouterr().out == shown.out


def test_a_grid_and_its_seeds_may_grow(run, tmp_path):
    assert run() == 0
    assert run("rho=0.01,0.001,0.1;epochs=2,3", seeds=(0, 7)) == 0
    assert len(starts(tmp_path)) == 2 + 12
    assert run("rho=1e-2", seeds=(7,)) == 0
    assert set(starts(tmp_path).values()) == {1}


def test_a_failing_cell_loses_no_other_and_is_reported(run, tmp_path, capsys):
    bad = {"model": "crash"}
    assert run("rho=0.1,0.001,0.2", flags=bad, workers=1) == 1
    assert len(starts(tmp_path)) == 3
    out = capsys.readouterr().out
    line = "FAILED rho=0.1 seed 0: exit code 1: ValueError: rho is too large"
    assert line in out
    assert "2 of 3 finished" in out
    assert re.search(r"^0\.1 +— +—$", out, re.MULTILINE)
    assert {r["rho"] for r in read_csv(tmp_path)} == {"0.001", "0.2"}
    for page in ("sweep.md", "report.html"):
        assert "rho is too large" in (tmp_path / "sweep" / page).read_text()
    assert run("rho=0.1,0.001,0.2", flags=bad, workers=1) == 1
    assert starts(tmp_path)["rho=0.1/seed0"] == 2
    assert starts(tmp_path)["rho=0.2/seed0"] == 1


def test_a_sweep_of_failures_still_ends_in_a_report(run, tmp_path):
    assert run("rho=0.1", flags={"model": "crash"}) == 1
    assert "Failed runs" in (tmp_path / "sweep" / "sweep.md").read_text()
    assert not (tmp_path / "sweep" / "sweep.png").exists()


def test_progress_is_a_line_for_each_run_on_a_terminal(run, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    flags = {"model": "crash"}
    assert run("rho=0.1,1", flags=flags) == 1
    lines = sorted(capsys.readouterr().err.splitlines(), key=lambda line: line[6:])
    assert re.fullmatch(r"\[\d/2\] rho=0.1 seed 0: FAILED after .*large", lines[0])
    assert re.fullmatch(r"\[\d/2\] rho=1.0 seed 0: done in \d+ s", lines[1])
    assert run("rho=1", flags=flags) == 0
    assert capsys.readouterr().err == "[1/1] rho=1.0 seed 0: finished before\n"


def test_a_run_that_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "GRACE_SECS", 0.2)
    code = (
        "import pathlib, signal, sys, time; signal.signal(signal.SIGINT, "
        "signal.SIG_IGN); pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    )
    ready = tmp_path / "ready"
    words = (sys.executable, "-c", code, str(ready))
    ended = executors.local([grid.Task("deaf", tmp_path / "a", words)], 1, tmp_path, 1)
    process = []
    start = executors._start
    monkeypatch.setattr(
        executors, "_start", lambda task: process.append(start(task)) or process[0]
    )
    monkeypatch.setattr(executors.time, "sleep", lambda _: _wait_for(ready))
    with pytest.raises(KeyboardInterrupt):
        next(ended)
    assert process[0].returncode == -signal.SIGKILL


def _wait_for(path):
    while not path.exists():
        pass
    raise KeyboardInterrupt


def test_a_cell_that_lacks_a_seed_says_so(run, tmp_path, capsys):
    assert run("rho=0.1,0.2", flags={"model": "die"}, seeds=(0, 1)) == 1
    folder = tmp_path / "sweep" / "rho=0.1"
    (folder / "seed1" / "starts").write_text("start\n")
    capsys.readouterr()
    (folder / "seed0" / "starts").unlink()
    assert run("rho=0.1,0.2", flags={"model": "die"}, seeds=(0, 1)) == 1
    assert "(1 of 2 seeds)" in capsys.readouterr().out


def test_a_killed_cell_is_run_again_in_its_folder(run, tmp_path, capsys):
    assert run("rho=0.1,0.2", flags={"model": "die"}) == 1
    assert "killed by SIGKILL" in capsys.readouterr().out
    assert run("rho=0.1,0.2", flags={"model": "die"}) == 0
    assert starts(tmp_path) == {"rho=0.1/seed0": 2, "rho=0.2/seed0": 1}


@pytest.mark.parametrize("change", ["gone", "cut", "config", "seeds"])
def test_results_that_are_not_this_cells_are_made_again(run, tmp_path, change):
    assert run() == 0
    file = tmp_path / "sweep" / "rho=0.01" / "seed0" / "results.json"
    document = json.loads(file.read_text())
    if change == "gone":
        file.unlink()
    elif change == "cut":
        file.write_text(file.read_text()[:100])
    else:
        document["config"]["epochs"] = 77
        document["seeds"] = [5] if change == "seeds" else document["seeds"]
        file.write_text(json.dumps(document))
    assert run() == 0
    assert starts(tmp_path) == {"rho=0.001/seed0": 1, "rho=0.01/seed0": 2}


def test_a_command_that_writes_no_results_has_failed(tmp_path, capsys):
    def nothing(*_):
        return [sys.executable, "-c", ""]

    assert sweep(TOY, "rho=1", (0,), "quick", {}, tmp_path, command=nothing) == 1
    assert "exit code 0, but" in capsys.readouterr().out


def test_flags_and_lists_reach_every_run(run, tmp_path):
    flags = {"data_dir": "/data", "epochs": "9"}
    assert run("keep=0.1,0.2|0.3,0.4", flags=flags) == 0
    assert set(starts(tmp_path)) == {"keep=0.1,0.2/seed0", "keep=0.3,0.4/seed0"}
    document = json.loads(
        (tmp_path / "sweep/keep=0.3,0.4/seed0/results.json").read_text()
    )
    assert document["config"]["keep"] == [0.3, 0.4]
    assert document["config"]["epochs"] == 9
    assert document["data"] == ["/data"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"--grid: got ''; expected 'name=value"),
        ("rho", r"got 'rho'; expected"),
        ("=3", r"got '=3'; expected"),
        ("rho=", r"no empty value"),
        ("rho=1,,2", r"'rho=1,,2'.*no empty value"),
        ("rho=1;rho=2", r"rho twice.*Put all its values"),
        ("rho=1e-3,0.001", r"rho=0.001 twice"),
        ("rho=0", r"--rho: got 0.*a number > 0"),
        ("keep=0.1,0.1,0.2", r"keep=0.1 twice.*put \| between"),
        ("rho=13;keep=0.1,0.2|0.3", r"cell rho=13.0 keep=0.1,0.2: an unlucky rho"),
        ("rho=fast", r"--rho: got fast"),
        ("epochs=2.5", r"--epochs"),
        ("model=lenett", r"Did you mean lenet"),
    ],
)
def test_a_bad_grid_is_refused_before_anything_runs(run, tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        run(text)
    assert not (tmp_path / "sweep").exists()


def test_names_that_do_not_exist_get_the_nearest(run, tmp_path):
    with pytest.raises(UnknownNameError, match="'epoch'; did you mean epochs"):
        run("epoch=2")
    with pytest.raises(UnknownNameError, match="'kep'; did you mean keep"):
        run(flags={"kep": "0.1"})
    with pytest.raises(UnknownNameError, match="mode of toy 'quik'"):
        run(mode="quik")
    with pytest.raises(UnknownNameError, match="'slrum'; did you mean slurm"):
        sweep(TOY, "rho=1", (0,), "quick", {}, tmp_path, executor="slrum")
    with pytest.raises(InputError, match="rho and --rho"):
        run(flags={"rho": "0.1"})
    with pytest.raises(InputError, match="--workers"):
        run(workers=0)
    for seeds in ((), (1, 1)):
        with pytest.raises(InputError, match="--seeds"):
            run(seeds=seeds)
    assert not (tmp_path / "sweep").exists()


def test_a_folder_belongs_to_one_sweep(run):
    assert run() == 0
    with pytest.raises(WorkdirError, match=r"epochs.*Give another --workdir"):
        run(flags={"epochs": "3"})
    with pytest.raises(WorkdirError, match="full"):
        run(mode="full")


@pytest.mark.parametrize("name", ["config.json", "thesis.tex"])
def test_folders_of_other_things_are_left_alone(run, tmp_path, name):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / name).write_text("{}")
    with pytest.raises(WorkdirError, match=rf"{name}.*Give another --workdir"):
        run()
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == [name]


def test_a_long_last_line_keeps_a_thousand_characters(tmp_path):
    code = "import sys; sys.exit('x' * 2000)"
    task = grid.Task("long", tmp_path / "a", (sys.executable, "-c", code))
    assert executors.run_task(task).message == "x" * 1000


def test_folder_names_are_safe_and_distinct():
    hostile = ["../up", "a/b", "a_b", "a\nb", "x" * 300, "1__b=2", "", "é"]
    points = [{"a": value} for value in hostile]
    points += [{"a": "1", "b": "2"}, {"b": "2", "a": "1"}]
    names = [grid.folder_name(point) for point in points]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][\w.+=,-]{1,140}", name) for name in names)
    assert grid.folder_name({"rho": "1e-05", "keep": "0.1,0.2"}) == (
        "rho=1e-05__keep=0.1,0.2"
    )


def test_the_command_of_a_run_is_the_front_doors(tmp_path):
    words = grid.launch("toy", "full", 3, tmp_path, {"rho": "0.1", "flag": "true"})
    assert words[:3] == [sys.executable, str(ROOT / "launch.py"), "toy"]
    assert set(words[3:]) == {
        *("--mode=full", f"--workdir={tmp_path}", "--seeds=3"),
        *("--rho=0.1", "--flag=true"),
    }


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_stops_its_runs(tmp_path, sign):
    code = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.experiments.test_sweep import TOY, toy_command
        from experiments.sweep import sweep
        sys.exit(sweep(TOY, "rho=1,2,3", (0,), "quick", {{"model": "slow"}},
                       {str(tmp_path)!r}, 2, command=toy_command))
    """)
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*/seed0/asleep"))) < 2:
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(sign)
    _, errors = parent.communicate(timeout=60)
    assert parent.returncode == 130
    assert b"the same command goes on" in errors
    assert len(list(tmp_path.glob("*/seed0/saved"))) == 2
    assert len(list(tmp_path.glob("*/seed0"))) == 2


def test_no_more_than_the_workers_run_at_a_time(tmp_path, monkeypatch):
    live, most = set(), []

    class Process:
        returncode = 0

        def __init__(self):
            self.polls = 0
            live.add(self)
            most.append(len(live))

        def poll(self):
            self.polls += 1
            if self.polls > 2:
                live.discard(self)
                return 0
            return None

        def wait(self, timeout=None):
            return 0

    monkeypatch.setattr(executors, "_start", lambda task: Process())
    monkeypatch.setattr(executors, "_last_line", lambda file: "")
    made = [grid.Task(str(i), tmp_path / str(i), ("true",)) for i in range(7)]
    ended = list(executors.local(made, 3, tmp_path, 1.0))
    assert {done.task for done in ended} == set(made)
    assert max(most) == 3


class FakeJob:
    def __init__(self, result):
        self._result = result
        self.cancelled = False

    def done(self):
        return True

    def result(self):
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    def cancel(self, check=True):
        self.cancelled = True


def fake_submitit(calls, lose=()):
    class AutoExecutor:
        def __init__(self, folder, cluster=None):
            calls.update(folder=Path(folder), cluster=cluster)

        def update_parameters(self, **given):
            calls.update(given)

        def map_array(self, fn, given):
            run = [
                RuntimeError("Job\nnode failed") if i in lose else fn(task)
                for i, task in enumerate(given)
            ]
            return [FakeJob(result) for result in run]

    module = types.ModuleType("submitit")
    module.AutoExecutor = AutoExecutor
    return module


def test_slurm_runs_the_same_tasks_through_submitit(tmp_path, monkeypatch, capsys):
    calls = {}
    monkeypatch.setitem(sys.modules, "submitit", fake_submitit(calls, lose={1}))
    arguments = (TOY, "rho=1e-3,1e-2,1", (0,), "quick", {}, tmp_path / "sweep", 5)
    assert sweep(*arguments, "slurm", command=toy_command) == 1
    assert calls["cluster"] == "slurm"
    assert calls["slurm_array_parallelism"] == 5
    assert calls["timeout_min"] >= 60
    assert calls["folder"] == tmp_path / "sweep" / "slurm"
    shown = capsys.readouterr().out
    assert "rho=0.01 seed 0: exit code 1: Slurm: node failed" in shown
    assert starts(tmp_path) == {"rho=0.001/seed0": 1, "rho=1.0/seed0": 1}
    monkeypatch.setitem(sys.modules, "submitit", fake_submitit(calls))
    assert sweep(*arguments, "slurm", command=toy_command) == 0
    assert set(starts(tmp_path).values()) == {1}


def test_slurm_without_submitit_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match="pip install submitit"):
        sweep(
            TOY, "rho=1", (0,), "quick", {}, tmp_path, 1, "slurm", command=toy_command
        )


def test_closing_an_executor_cancels_slurm_jobs(tmp_path, monkeypatch):
    calls = {}
    module = fake_submitit(calls)
    jobs = [FakeJob(None), FakeJob(None)]
    jobs[1].done = lambda: False
    module.AutoExecutor.map_array = lambda self, fn, given: jobs
    monkeypatch.setitem(sys.modules, "submitit", module)
    ended = executors.slurm([None, None], 2, tmp_path, 1.0)
    next(ended)
    ended.close()
    assert [job.cancelled for job in jobs] == [False, True]


def entry(values, setting="s", mean=1.0, n=3):
    cell = grid.Cell(values, Path(), {})
    return tables.Entry(cell, "accuracy", setting, "%", False, mean, 0.1, n)


def test_plots_have_the_first_axis_below_and_the_others_as_series():
    entries = [
        entry({"rho": rho, "epochs": epochs})
        for rho in ("0.1", "0.001", "0.01")
        for epochs in ("2", "3")
    ]
    (figure,) = tables.to_figures(entries, ["rho", "epochs"])
    assert figure["xlabel"] == "rho"
    assert figure["ylabel"] == "accuracy, %"
    assert figure["log_x"]
    assert [s["label"] for s in figure["series"]] == ["epochs=2", "epochs=3"]
    assert figure["series"][0]["x"] == [0.001, 0.01, 0.1]
    (figure,) = tables.to_figures([entry({"m": "a"}), entry({"m": "b"})], ["m"])
    assert figure["series"][0]["x"] == ["a", "b"]
    assert not figure["log_x"]


def test_many_series_are_split_over_settings_and_nothing_is_no_plot():
    entries = [
        entry({"a": "1", "b": str(b)}, f"setting {s}") for b in range(3) for s in "xyz"
    ]
    figures = tables.to_figures(entries, ["a", "b"])
    assert [f["title"] for f in figures] == [f"accuracy: setting {s}" for s in "xyz"]
    assert not tables.to_figures([entry({"a": "1"}, mean=float("nan"))], ["a"])


def curves(cells, labels="xy", kind="line"):
    series = [{"label": s, "x": [1, 2], "y": [3.0, 4.0], "yerr": None} for s in labels]
    figures = [{"title": "residual", "kind": kind, "series": series}]
    return tables.to_curves([
        (grid.Cell({"rho": str(c)}, Path(), {}), [{"figures": figures}] * n)
        for c, n in enumerate(cells)
    ])  # fmt: skip


def test_curves_of_the_cells_stand_in_one_plot():
    names = [grid.Cell({"rho": str(c)}, Path(), {}).name for c in range(3)]
    (figure,) = curves([2, 1, 0])  # the last has failed
    labels = [f"{name}, {s}" for name in names[:2] for s in "xy"]
    assert [s["label"] for s in figure["series"]] == labels
    figures = curves([1] * 3, "abc")  # nine curves
    assert [f["title"] for f in figures] == [f"residual: {s}" for s in "abc"]
    expected = [f"{name}, a" for name in names]
    assert [s["label"] for s in figures[0]["series"]] == expected
    assert not curves([1] * 9)
    assert not curves([1])
    assert not curves([1, 1], kind="bar")


def test_rows_that_a_run_gives_twice_stay_two():
    row = {"metric": "m", "setting": "s", "unit": "", "simulated": False}
    rows = [{**row, "measured": 1.0}, {**row, "measured": 3.0}]
    cell = grid.Cell({"a": "1"}, Path(), {})
    found = tables.collect([(cell, [{"rows": rows}, {"rows": rows}])])
    assert [(e.mean, e.n) for e in found] == [(1.0, 2), (3.0, 2)]


def test_parse_grid_takes_spaces_and_a_last_semicolon():
    assert parse_grid(" rho = 1 , 2 ; keep=1,2|3 ;") == {
        "rho": ["1", "2"],
        "keep": ["1,2", "3"],
    }


def test_the_room_names_its_public_things():
    assert all(hasattr(room, name) for name in room.__all__)
    assert os.path.exists(grid.LAUNCH.parent / "core")
