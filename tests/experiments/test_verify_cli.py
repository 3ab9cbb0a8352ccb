"""`launch.py verify`: three forms, exit codes, tables that survive a kill."""

import csv
import dataclasses
import gzip
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli, manual, options
from experiments.verification import cases, command, images, networks, search
from experiments.verification.networks import Network
from tests.experiments.verify_stub import PROPERTY, Stub, provided, verdict
from verify import timing, vnnlib
from verify.problem import Config
from verify.properties import violates

ROOT = Path(__file__).resolve().parents[2]


def front(*argv):
    return cli.front_door(("verify", *map(str, argv)), ("admm_pruning",))


@pytest.fixture
def stub(monkeypatch):
    return Stub(monkeypatch)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "broken"):
        (tmp_path / f"{name}.onnx").touch()
    for name in ("p", "q"):
        (tmp_path / f"{name}.vnnlib").write_text(PROPERTY)
    return tmp_path


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_searchs_flags_are_those_of_the_config():
    flags = options.options_of(search.SearchFlags)
    fields = {field.name: field for field in dataclasses.fields(Config)}
    assert set(fields) - set(flags) == {"timeout_s", "certificate"}
    assert set(flags) <= set(fields)
    for name, flag in flags.items():
        assert (flag.default, flag.kind) == (
            fields[name].default,
            type(fields[name].default),
        ), name
    built = search.search_config(search.SearchFlags(batch=7), 3.0, certificate=True)
    assert built == Config(timeout_s=3.0, batch=7, certificate=True)


@pytest.mark.parametrize("status", ["unsat", "sat", "timeout", "unknown"])
def test_one_property_prints_the_competitions_line(status, stub, folder, capsys):
    witness = (np.array([[0.25, 0.5]]), np.array([[0.25, 0.5]]))
    found = verdict(
        status,
        witness=witness if status == "sat" else None,
        why="try more" if status == "unknown" else "",
        info={"unstable": [3, 1]},
    )
    stub.answers["a p"] = found
    assert front("--onnx=a.onnx", "--vnnlib=p.vnnlib", "--timeout=9", "--batch=32") == 0
    out, err = capsys.readouterr()
    assert out == f"{status}\n"
    assert "3 sub-domains" in err
    assert "unstable: [3, 1]" in err
    assert ("try more" in err) is (status == "unknown")
    config = stub.configs[-1]
    assert 5 < config.timeout_s <= 9
    assert config.batch == 32
    file = folder / "runs/verify/a-p.witness"
    assert file.exists() is (status == "sat")
    if status == "sat":
        x, y = vnnlib.parse_witness(file.read_text())
        np.testing.assert_array_equal(x, [0.25, 0.5])
        np.testing.assert_array_equal(y, [0.25, 0.5])
        assert str(file.relative_to(folder)) in err


def test_a_witness_goes_where_it_is_wanted_and_gz_is_found(stub, folder, capsys):
    (folder / "z.vnnlib.gz").write_bytes(gzip.compress(PROPERTY.encode()))
    point = np.zeros((1, 2))
    stub.answers["a z"] = verdict("sat", witness=(point, point))
    argv = ["--onnx", "a.onnx", "--vnnlib", "z.vnnlib", "--witness=deep/w.txt"]
    assert front(*argv) == 0
    assert capsys.readouterr().out == "sat\n"
    assert (folder / "deep/w.txt").read_text().startswith("((X_0 0.0)")


def test_a_proof_is_written_and_checked_again(stub, folder, monkeypatch, capsys):
    from verify import certificate

    kept = {}
    monkeypatch.setattr(certificate, "save", lambda c, path: kept.update({path: c}))
    monkeypatch.setattr(certificate, "load", lambda path: kept[path])
    argv = ["--onnx=a.onnx", "--vnnlib=p.vnnlib"]
    stub.answers["a p"] = verdict("unsat", certificate="a proof")
    for ok in (False, True):  # what does not hold is not written
        assert not kept
        found = certificate.Check(ok, "" if ok else "a leaf is open", 3, 0.5, 0.1)
        monkeypatch.setattr(certificate, "check", lambda problem, proof, f=found: f)
        assert front(*argv, "--certificate=c/proof.npz") == 0
        out, err = capsys.readouterr()
        assert out == "unsat\n"
        assert ("does not hold in float64 arithmetic: a leaf is open" in err) is not ok
    assert stub.configs[-1].certificate
    stub.answers["a p"] = verdict("timeout")
    assert front(*argv, "--certificate=none.npz") == 0
    assert "only an unsat verdict" in capsys.readouterr().err
    assert list(kept.values()) == ["a proof"]

    (folder / "c/proof.npz").touch()
    for ok, code, word in ((True, 0, "valid\n"), (False, 1, "invalid\n")):
        found = certificate.Check(ok, "" if ok else "a leaf is missing", 3, 0.5, 0.1)
        monkeypatch.setattr(certificate, "check", lambda problem, proof, f=found: f)
        assert front(*argv, "--check=c/proof.npz") == code
        out, err = capsys.readouterr()
        assert out == word
        assert ("a leaf is missing" in err) is not ok
    assert len(stub.decided) == 3


def test_what_is_late_ends_before_the_next_is_timed(stub):
    free, done = threading.Event(), []

    def work():
        free.wait()
        time.sleep(0.1)
        done.append("late")

    assert timing.within(0.01, work, lambda: "timeout") == "timeout"
    free.set()

    def load():
        done.append("next")
        return types.SimpleNamespace(name="")

    search.judged(load, search.SearchFlags(), 1.0)
    assert done == ["late", "next"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "got verify with nothing to verify; expected one of --onnx, --instances"),
        (["--timeout=3"], "nothing to verify"),
        (["--onnx=a.onnx", "--net=b"], "got verify with --onnx and --net"),
        (["--onnx=a.onnx"], "--vnnlib: got no file"),
        (["--onnx=no.onnx", "--vnnlib=p.vnnlib"], "--onnx: got no file no.onnx"),
        (["--onnx=a.onnx", "--vnnlib=no.vnnlib"], "--vnnlib: got no file no.vnnlib"),
        (["--onnx=a.onnx", "--vnnlib=p.vnnlib", "--check=no"], "--check: got no file"),
        (["--onnx=a.onnx", "--vnnlib=p.vnnlib", "--timeout=0"], "--timeout: got 0.0"),
        (["--onnx=a.onnx", "--vnnlib=p.vnnlib", "--witness=."], "--witness: got fold"),
        (["--onnx=a.onnx", "--vnnlib=p.vnnlib", "--methd=1"], "did you mean --method"),
        (["--onnx=a.onnx", "--vnnlib=p.vnnlib", "--method=bet"], "Did you mean beta?"),
        (["--onnx=a.onnx", "--vnnlib=bad.vnnlib"], "bad.vnnlib: "),
        (["--onnx=a.onnx", "p.vnnlib"], "got argument 'p.vnnlib'"),
        (["--instances=no.csv"], "--instances: got no file no.csv"),
        (["--instances=bad.csv"], "bad.csv, instance 2: got a.onnx,p.vnnlib,soon"),
        (["--instances=one.csv", "--benchmark=x"], "unknown benchmark 'x'"),
        (["--instances=one.csv", "--eps=1"], "unknown flag '--eps'"),
        (["--net=no.onnx", "--eps=1"], "--net: got no file no.onnx"),
        (["--net=a.onnx", "--data=mnist_5k"], "--eps: got nothing"),
        (["--net=a.onnx", "--eps=0.1"], "got --data=sdp with an ONNX file"),
        (["--net=a.onnx", "--eps=0.1", "--data=mnist_5k"], "got images of 28x28x1"),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(argv, words, stub, folder, capsys):
    (folder / "bad.vnnlib").write_text("(assert (<= Y_0")
    (folder / "one.csv").write_text("a.onnx,p.vnnlib,10\n")
    (folder / "bad.csv").write_text("a.onnx,p.vnnlib,10\na.onnx,p.vnnlib,soon\n")
    assert front(*argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1


def test_without_the_data_it_is_said_at_once(folder, monkeypatch, capsys):
    monkeypatch.setenv("LATHE_DATA", str(folder / "none"))
    start = time.monotonic()
    assert front("--net=mnist_cnn_a_adv") == 2
    assert time.monotonic() - start < 1
    assert "LATHE_DATA" in capsys.readouterr().err


def test_help_explains_every_flag_without_loading_jax(folder):
    code = (
        "import sys; from experiments import cli; "
        "cli.front_door(['verify', '--help'], []); print('jax' in sys.modules)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    flags = [form.flags for form in command.FORMS.values()]
    for name in {n for each in flags for n in options.options_of(each)}:
        assert f"  --{name}\n" in done.stdout, name
    assert "time limit of reading and search [seconds]" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= manual.WIDTH
    assert "python launch.py verify --instances" in manual.USAGE


def benchmark(folder, text="a.onnx,p.vnnlib,10\nb.onnx,p.vnnlib,20\na.onnx,q.vnnlib,5"):
    path = folder / "instances.csv"
    path.write_text(text)
    return path


def test_a_benchmark_becomes_a_table_network_by_network(stub, folder, capsys):
    stub.answers["b p"] = verdict("timeout", why="time is\nover")
    path = benchmark(folder)
    assert front(f"--instances={path}", "--timeout=8", "--workdir=w") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "3 instances: solved 2 (unsat 2, sat 0), open 1, errors 0" in out
    assert "no official verdicts to compare with" in out
    assert "results  w/results.csv" in out
    assert stub.decided == ["a p", "a q", "b p"]
    assert stub.loaded == ["a.onnx", "b.onnx"]
    rows = table(folder / "w/results.csv")
    assert [row["status"] for row in rows] == ["unsat", "unsat", "timeout"]
    assert [float(row["timeout_s"]) for row in rows] == [8, 5, 8]
    assert list(rows[0]) == [
        *("benchmark", "onnx", "vnnlib", "timeout_s", "status", "seconds"),
        *("domains", "phase", "lower", "official", "why"),
    ]
    assert rows[2]["why"] == "time is over"
    limits = [config.timeout_s for config in stub.configs]
    assert all(a <= b for a, b in zip(limits, [8, 5, 8], strict=True))


def test_official_verdicts_are_compared(stub, folder, capsys):
    path = benchmark(
        folder,
        "benchmark,onnx,vnnlib,timeout_s,verdict,more\n"
        "x,a.onnx,p.vnnlib,10,unsat,1\nx,b.onnx,p.vnnlib,20,sat,1\n"
        "y,a.onnx,q.vnnlib,5,unknown,1\n",
    )
    assert front(f"--instances={path}") == 0
    out = capsys.readouterr().out
    assert "contradicted 1 of 2 official verdicts" in out
    assert "  b.onnx p.vnnlib: unsat, official sat" in out
    assert "CONTRADICTS" in out
    assert front(f"--instances={path}", "--benchmark=y,x", "--limit=1") == 0
    assert "2 instances" in capsys.readouterr().out
    assert stub.decided[3:] == ["a q", "a p"]


def test_a_failing_instance_is_a_row_and_is_tried_again(stub, folder, capsys):
    path = benchmark(
        folder, "broken.onnx,p.vnnlib,9\nb.onnx,no.vnnlib,9\na.onnx,p.vnnlib,9"
    )
    stub.answers["a p"] = MemoryError("no memory")
    assert front(f"--instances={path}", "--workdir=w") == 0
    out = capsys.readouterr().out
    assert "solved 0 (unsat 0, sat 0), open 0, errors 3" in out
    rows = table(folder / "w/results.csv")
    assert [row["status"] for row in rows] == ["error"] * 3
    assert "a bug in a network" in rows[0]["why"]
    assert "no.vnnlib" in rows[1]["why"]
    assert "no memory" in rows[2]["why"]
    del stub.answers["a p"]
    assert front(f"--instances={path}", "--workdir=w") == 0
    assert "solved 1 (unsat 1, sat 0), open 0, errors 2" in capsys.readouterr().out


def test_stopped_a_benchmark_goes_on_where_it_was(stub, folder, capsys):
    path = benchmark(folder)
    stub.answers["a q"] = KeyboardInterrupt()
    argv = [f"--instances={path}", "--workdir=w"]
    assert front(*argv) == 130
    err = capsys.readouterr().err
    assert "the same command goes on: python launch.py verify --instances" in err
    assert [row["status"] for row in table(folder / "w/results.csv")] == ["unsat"]
    del stub.answers["a q"]
    stub.decided.clear()
    assert cli.front_door(["resume", "w"], []) == 0
    assert "3 instances: solved 3" in capsys.readouterr().out
    assert stub.decided == ["a q", "b p"]
    stub.decided.clear()
    assert front(*argv) == 0
    assert stub.decided == []
    assert "3 instances: solved 3" in capsys.readouterr().out
    assert front(*argv, "--batch=8") == 2
    assert "batch 256 there and 8 now" in capsys.readouterr().err


def test_networks_that_differ_in_parameters_only_share_a_function(monkeypatch):
    big = np.arange(50_000.0, dtype=np.float32)
    other = big.copy()
    other[31_234] = 1.0

    def network(constant, scale=1.0):
        params = {"w": jnp.full((2,), scale)}
        fn = lambda p, x: x + p["w"].sum() * jnp.asarray(constant).sum()  # noqa: E731
        return Network(fn, params, (2,), 2, "n")

    made = {
        "a": network(big),
        "b": network(big, 2.0),
        "c": network(other),
        "d": network(big)._replace(input_shape=(1, 2)),
    }
    monkeypatch.setattr(networks, "load_network", lambda path: made[path.name])
    loaded = networks.Networks()
    found = {name: loaded.get(Path(name)) for name in made}
    assert found["a"].fn is found["b"].fn
    assert found["b"].params is made["b"].params
    assert len({id(net.fn) for net in found.values()}) == 3


def test_stages_have_readable_names_that_differ():
    name = cases.stage_name("nets/a b.onnx.gz", "p.vnnlib", "10")
    assert name.startswith("a_b-p-10-")
    assert name != cases.stage_name("other/a b.onnx.gz", "p.vnnlib", "10")
    assert len(cases.stage_name("é" * 300, "x")) < 100


def test_robustness_over_the_images_of_a_provided_network(
    stub, folder, monkeypatch, capsys
):
    provided(folder, monkeypatch)
    seen = []

    def answer(problem, config):
        seen.append(problem.property)
        return verdict(["unsat", "sat", "timeout"][len(seen) - 1])

    stub.answers["tiny"] = answer
    assert front("--net=tiny", "--timeout=4") == 0
    out = capsys.readouterr().out
    rows = table(folder / "runs/verify-tiny-sdp-linf-0.1/results.csv")
    fates = ["verified", "falsified", "misclassified", "open"]
    assert [row["status"] for row in rows] == fates
    assert [row["image"] for row in rows] == ["0", "1", "2", "3"]
    for fate in fates:
        assert f"{fate:13}     1   25.00 %" in out
    region = seen[0].clauses[0].region
    np.testing.assert_allclose(region.lower, [[(0.8 - 0.5) / 0.25, -2.0]])
    np.testing.assert_allclose(region.upper, [[2.0, (0.2 - 0.5) / 0.25]])
    np.testing.assert_array_equal(seen[0].clauses[0].spec.C, [[1.0, -1.0]])
    # Again: nothing is decided twice; some of the images, another radius and norm.
    assert front("--net=tiny", "--timeout=4") == 0
    assert len(seen) == 3
    del stub.answers["tiny"]
    more = ["--first=1", "--images=1", "--eps=0.2", "--norm=l2", "--workdir=other"]
    assert front("--net=tiny", *more) == 0
    assert ": 1 image\n" in capsys.readouterr().out
    assert front("--net=tiny", "--first=9") == 2
    assert "--first=9" in capsys.readouterr().err
    assert front("--net=tny") == 2
    assert "did you mean tiny" in capsys.readouterr().err


def test_images_are_decided_together(stub, folder, monkeypatch):
    provided(folder, monkeypatch)
    groups = []

    def verify_all(problems, config):
        groups.append(len(problems))
        fates = ["unsat", "sat", "timeout"][: len(problems)]
        return [verdict(fate) for fate in fates]

    monkeypatch.setattr("verify.several.verify_all", verify_all)
    assert front("--net=tiny", "--together=3", "--workdir=all") == 0
    rows = table(folder / "all/results.csv")
    # The third image is misclassified, so it is not asked about.
    assert groups == [2, 1]
    fates = ["verified", "falsified", "misclassified", "verified"]
    assert [row["status"] for row in rows] == fates
    assert not stub.decided
    assert front("--net=tiny", "--together=3", "--workdir=all") == 0
    assert groups == [2, 1]  # nothing is decided twice


def test_images_are_laid_out_as_networks_want_them():
    pixels = np.arange(24.0).reshape(2, 3, 4)
    planes = images.laid_out(pixels, (1, 4, 2, 3))
    np.testing.assert_array_equal(planes[0, 1], pixels[:, :, 1])
    np.testing.assert_array_equal(images.laid_out(pixels, (1, 2, 3, 4))[0], pixels)
    for flat in ((24,), (1, 24), (1, 24, 1)):
        found = images.laid_out(pixels, flat)
        assert found.shape == flat
        np.testing.assert_array_equal(found.ravel(), planes.ravel())
    for wrong in ((1, 2, 4, 3), (25,)):
        with pytest.raises(ValueError, match="2x3x4"):
            images.laid_out(pixels, wrong)


def test_the_competitions_small_instances_for_real(data_root, tmp_path, capsys):
    path = data_root / "verify/vnncomp2021/instances.csv"
    if not path.exists():
        pytest.skip(f"no {path}")
    argv = [f"--instances={path}", "--benchmark=test", "--timeout=30"]
    assert front(*argv, f"--workdir={tmp_path / 'w'}") == 0
    assert "contradicted 0 of 5 official verdicts" in capsys.readouterr().out
    rows = table(tmp_path / "w/results.csv")
    assert [row["status"] for row in rows] == [row["official"] for row in rows]

    net, prop = (path.parent / rows[3][name] for name in ("onnx", "vnnlib"))
    written = tmp_path / "witness"
    argv = [f"--onnx={net}", f"--vnnlib={prop}", f"--witness={written}"]
    assert front(*argv) == 0
    assert capsys.readouterr().out == "sat\n"
    x, y = vnnlib.parse_witness(written.read_text())
    problem = networks.Networks().problem(net, prop)
    shaped = x.reshape(problem.property.input_shape)
    assert violates(problem.property, shaped, y)
    again = problem.fn(problem.params, shaped.astype(np.float32))
    np.testing.assert_allclose(np.ravel(again), y, rtol=1e-4, atol=1e-6)
