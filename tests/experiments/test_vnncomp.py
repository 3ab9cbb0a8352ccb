"""The `vnncomp` experiment: tables of instances, verdicts compared, claims judged."""

import dataclasses
import json
import time

import pytest

from core.errors import DataFormatError, InputError
from experiments import cli, options, vnncomp
from experiments.verification import competition, instances
from experiments.verification.instances import Instance
from tests.experiments.verify_stub import PROPERTY, Stub, verdict

HEADER = "benchmark,onnx,vnnlib,timeout_s,verdict\n"


def front(*argv):
    return cli.front_door(("vnncomp", *map(str, argv)), ("admm_pruning",))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "comp"
    made.mkdir()
    for name in ("a", "b", "broken"):
        (made / f"{name}.onnx").touch()
    for name in ("p", "q"):
        (made / f"{name}.vnnlib").write_text(PROPERTY)
    text = (
        "acasxu,a.onnx,p.vnnlib,9,unsat\nacasxu,b.onnx,p.vnnlib,9,sat\n"
        "other,b.onnx,q.vnnlib,30,unknown\n"
    )
    (made / "instances.csv").write_text(HEADER + text)
    return made


@pytest.fixture
def stub(monkeypatch):
    return Stub(monkeypatch)


def results(folder):
    return json.loads((folder / "results.json").read_text())


def row(found, metric, start=""):
    rows = [r for r in found["rows"] if r["metric"] == metric]
    (one,) = [r for r in rows if r["setting"].startswith(start)]
    return one


def test_tables_with_and_without_a_header(tmp_path):
    path = tmp_path / "instances.csv"
    path.write_text("onnx/a.onnx, vnnlib/p.vnnlib, 116\n\n./b.onnx,q.vnnlib,6e1\n")
    found = instances.read_instances(path)
    assert found[0] == Instance("", "onnx/a.onnx", "vnnlib/p.vnnlib", 116.0)
    assert found[1] == Instance("", "./b.onnx", "q.vnnlib", 60.0)
    path.write_text("vnnlib,timeout,onnx,verdict\np,5,a,sat\n")
    assert instances.read_instances(path) == [Instance("", "a", "p", 5.0, "sat")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no instance"),
        ("a.onnx,p.vnnlib", "instance 1: got a.onnx,p.vnnlib"),
        ("a.onnx,p.vnnlib,-3", "seconds above 0"),
        ("a.onnx,p.vnnlib,inf", "seconds above 0"),
        ("a.onnx,p.vnnlib,3\n,p.vnnlib,3", "instance 2"),
        ("onnx,vnnlib\na,p", "instance 1"),
    ],
)
def test_a_row_that_is_no_instance_is_named(text, words, tmp_path):
    path = tmp_path / "instances.csv"
    path.write_text(text)
    with pytest.raises(DataFormatError, match=words):
        instances.read_instances(path)


def test_what_is_chosen_goes_network_by_network():
    every = [
        Instance("x", onnx, f"{n}", 10.0 * n)
        for n, onnx in enumerate(["a", "b", "a", "b", "a"], 1)
    ]
    every.append(Instance("y", "c", "1", 99.0))
    words = [one.onnx for one in instances.chosen(every)]
    assert words == ["a", "a", "a", "b", "b", "c"]
    some = instances.chosen(every, ("y", "x"), (0, 3), (50.0, 20.0))
    assert [(one.onnx, one.timeout_s) for one in some] == [
        ("c", 50.0),
        ("a", 10.0),
        ("a", 20.0),
        ("b", 20.0),
    ]
    with pytest.raises(InputError, match="one for each benchmark"):
        instances.chosen(every, ("x", "y"), (1, 2, 3))


def test_the_provided_table_is_read(data_root):
    path = data_root / "verify/vnncomp2021/instances.csv"
    if not path.exists():
        pytest.skip(f"no {path}")
    found = instances.read_instances(path)
    assert len(found) == 175
    assert {one.official for one in found} == {"sat", "unsat", "unknown"}
    assert all((path.parent / one.onnx).exists() for one in found)
    assert all((path.parent / one.vnnlib).exists() for one in found)


def test_claims_are_judged_at_the_official_limits(stub, folder, tmp_path, capsys):
    stub.answers["b p"] = verdict("sat")
    stub.answers["b q"] = verdict("timeout", why="over")
    flags = [f"--folder={folder}", "--mode=full", "--workdir=w"]
    assert front(*flags) == 0
    assert "3 of 3 claims reproduced" in capsys.readouterr().out
    found = results(tmp_path / "w")
    solved = row(found, "solved", "acasxu, 2 instances, 9 s")
    assert (solved["measured"], solved["baseline"], solved["holds"]) == (2, 2, True)
    other = row(found, "solved", "other")
    assert (other["measured"], other["baseline"], other["holds"]) == (0, 0, None)
    assert row(found, "contradictions")["holds"] is True
    assert row(found, "contradictions")["setting"] == "2 official verdicts"
    assert row(found, "latest verdict after its limit")["holds"] is True
    assert row(found, "violated", "acasxu")["measured"] == 1
    assert any(note.startswith("timeout: b.onnx q.vnnlib") for note in found["notes"])
    assert found["data"] == ["VNN-COMP 2021"]
    assert (tmp_path / "w/results.csv").read_text().count("\n") == 4
    # Again: from the stages, the same numbers.
    stub.decided.clear()
    assert front(*flags) == 0
    assert stub.decided == []
    assert results(tmp_path / "w")["rows"] == found["rows"]


def test_a_contradiction_a_cap_and_an_error_are_told(stub, folder, tmp_path, capsys):
    with (folder / "instances.csv").open("a") as file:
        file.write("other,broken.onnx,q.vnnlib,30,unsat\n")
    flags = [f"--folder={folder}", "--workdir=w", "--caps=5"]
    assert front(*flags) == 0
    found = results(tmp_path / "w")
    assert row(found, "solved", "acasxu, 2 instances, 5 s")["holds"] is None
    wrong = row(found, "contradictions")
    assert (wrong["measured"], wrong["holds"]) == (1, False)
    assert any("contradicted: b.onnx p.vnnlib is unsat" in n for n in found["notes"])
    assert any("error: broken.onnx" in n for n in found["notes"])
    assert stub.configs[0].timeout_s <= 5


def test_a_late_verdict_is_told():
    late = {
        **{"benchmark": "x", "onnx": "a", "vnnlib": "p", "timeout_s": 5.0},
        **{"status": "timeout", "seconds": 7.5, "official": "", "official_s": 5.0},
    }
    outcome = competition.outcome([late])
    metrics = {r.metric: r for r in outcome.rows}
    assert metrics["latest verdict after its limit"].holds is False
    assert "contradictions" not in metrics
    assert metrics["solved"].baseline is None


def test_modes_name_benchmarks_of_the_provided_folder_only():
    modes = vnncomp.EXPERIMENT.modes
    quick, full = (options.build(vnncomp.Config, modes[m].overrides) for m in modes)
    assert vnncomp.fitted(quick, "quick") == quick
    own = vnncomp.fitted(dataclasses.replace(quick, folder="x"), "quick")
    assert own == vnncomp.Config("x", (), (4,), (10.0,))
    own = vnncomp.fitted(dataclasses.replace(full, folder="x"), "full")
    assert (own.benchmarks, own.limits, own.caps) == ((), (0,), (0.0,))
    named = dataclasses.replace(full, folder="x", benchmarks=("a", "b"))
    assert vnncomp.fitted(named, "full").benchmarks == ("a", "b")


def test_without_the_data_it_is_said_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATHE_DATA", str(tmp_path / "none"))
    start = time.monotonic()
    assert front() == 2
    assert time.monotonic() - start < 1
    err = capsys.readouterr().err
    assert "LATHE_DATA" in err
    assert "--folder" in err
    assert front("--folder=none", "--workdir=other") == 2
    assert "--folder: got no file none/instances.csv" in capsys.readouterr().err
