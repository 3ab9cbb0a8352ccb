import copy
import dataclasses
import json
import math
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataFormatError, InputError, WorkdirError
from experiments import results
from experiments.results import Figure, Outcome, Row, Series
from tests.experiments.outcomes import EXPERIMENT, INFO, OUTCOME, outcomes


@pytest.fixture
def document(tmp_path):
    return results.write(tmp_path, EXPERIMENT, INFO, OUTCOME)


@settings(deadline=None, max_examples=60)
@given(outcomes())
def test_read_returns_what_write_stored(outcome):
    with tempfile.TemporaryDirectory() as folder:
        written = results.write(folder, EXPERIMENT, INFO, outcome)
        assert results.read(folder) == written
        assert [p.name for p in Path(folder).iterdir()] == ["results.json"]
    for row, stored in zip(outcome.rows, written["rows"], strict=True):
        if math.isfinite(row.measured):
            assert stored["measured"] == row.measured
            assert stored["holds"] is row.holds
        else:
            assert stored["measured"] is None
            assert not stored["holds"]
            assert "measured" in stored["not_finite"]


def test_the_file_has_the_documented_keys(document):
    wanted = "experiment paper mode seeds data device seconds config rows figures notes"
    assert set(wanted.split()) <= set(document)
    assert document["paper"]["arxiv"] == "1804.03294"
    assert document["config"] == {"rho": 1e-3, "keep": [0.04, 0.07], "model": "lenet"}
    assert document["command"] == "python launch.py toy --mode=quick --seeds=0,1,2"


def test_sources_that_were_used_go_before_registered_names(tmp_path):
    outcome = OUTCOME._replace(data=("tfds mnist 3.0.1",))
    found = results.write(tmp_path, EXPERIMENT, INFO, outcome)
    assert found["data"] == ["tfds mnist 3.0.1"]


def test_numpy_and_jax_numbers_are_stored_as_numbers(tmp_path):
    row = Row("a", "b", np.float32(0.5), jnp.float32(0.25), np.int64(3))
    series = Series("s", np.arange(3), jnp.ones(3), np.zeros(3, np.float32))
    figure = Figure("f", "line", "x", "y", (series,))
    row = row._replace(holds=np.bool_(True), simulated=np.bool_(False))
    results.write(tmp_path, EXPERIMENT, INFO, Outcome([row], [figure]))
    found = results.read(tmp_path)
    assert found["rows"][0]["measured"] == 0.5
    assert found["rows"][0]["std"] == 0.25
    assert found["rows"][0]["baseline"] == 3
    assert found["rows"][0]["holds"] is True
    assert found["figures"][0]["series"][0]["y"] == [1.0, 1.0, 1.0]


def test_a_config_dataclass_becomes_an_object():
    @dataclasses.dataclass(frozen=True)
    class Config:
        keep: tuple[float, ...] = (0.5,)
        name: str = "x"

    assert results.plain(Config()) == {"keep": [0.5], "name": "x"}


@pytest.mark.parametrize(
    ("outcome", "key"),
    [
        (Outcome([Row("a", "b", "98")]), r"rows\[0\].measured"),
        (Outcome([Row("a", 3, 98.0)]), r"rows\[0\].setting"),
        (Outcome([Row("a", "b", 98.0, holds="yes")]), r"rows\[0\].holds"),
        (Outcome([], [Figure("f", "pie", "x", "y", ())]), r"figures\[0\].kind"),
        (
            Outcome([], [Figure("f", "line", "x", "y", [Series("s", [1], [1, 2])])]),
            r"figures\[0\].series\[0\].x",
        ),
        (
            Outcome([], [Figure("f", "line", "x", "y", [Series("s", [1], [1], [])])]),
            r"figures\[0\].series\[0\].yerr",
        ),
    ],
)
def test_write_names_what_an_experiment_got_wrong(tmp_path, outcome, key):
    with pytest.raises(InputError, match=key):
        results.write(tmp_path, EXPERIMENT, INFO, outcome)
    assert not list(tmp_path.iterdir())


def test_every_missing_or_wrong_key_is_named(document, tmp_path):
    optional = {"claim", "command", "versions"}
    for key in document:
        for wrong in (None, {"wrong": object}):
            broken = copy.deepcopy(document)
            if wrong is None:
                del broken[key]
            else:
                broken[key] = 1.5j.real if key != "seconds" else "long"
            if wrong is None and key in optional:
                continue
            file = tmp_path / "broken.json"
            file.write_text(json.dumps(broken))
            with pytest.raises(DataFormatError, match=rf"broken.json: {key}: got"):
                results.read(file)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rows", 0, "measured"), "98"),
        (("rows", 0, "measured"), True),
        (("rows", 0, "holds"), 1),
        (("rows", 1, "holds"), True),
        (("rows", 0), 5),
        (("paper", "authors"), "Zhang"),
        (("seeds", 1), 0.5),
        (("figures", 0, "kind"), ["line"]),
        (("figures", 0, "series", 0, "y", 0), "high"),
        (("figures", 0, "series", 0, "x", 0), "mixed"),
        (("figures", 0, "series", 0, "label"), None),
    ],
)
def test_wrong_values_inside_are_refused(document, tmp_path, path, value):
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = tmp_path / "results.json"
    file.write_text(json.dumps(document))
    with pytest.raises(DataFormatError, match=rf"{path[0]}.*got .*expected"):
        results.read(tmp_path)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_file_cut_short_is_refused(data):
    with tempfile.TemporaryDirectory() as folder:
        results.write(folder, EXPERIMENT, INFO, OUTCOME)
        file = Path(folder) / "results.json"
        whole = file.read_bytes().rstrip()
        file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(DataFormatError, match=r"results.json: got .* expected"):
            results.read(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff\xfe", b"{'a': 1}", b'{"a": NaN}', b"[" * 100_000, b"null"],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(DataFormatError, match=r"results\.json"):
        results.read(tmp_path)


def test_numbers_past_float_are_refused(document, tmp_path):
    document["seconds"] = 10**400
    (tmp_path / "results.json").write_text(json.dumps(document))
    with pytest.raises(DataFormatError, match="seconds"):
        results.read(tmp_path)
    text = json.dumps({**document, "seconds": 7}).replace(": 7", ": 1e999")
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataFormatError, match="seconds"):
        results.read(tmp_path)


def test_a_folder_without_results_says_what_to_do(tmp_path):
    with pytest.raises(WorkdirError, match=r"results\.json.*Finish the run"):
        results.read(tmp_path)


def test_keys_of_a_newer_file_are_let_through(document, tmp_path):
    newer = {**document, "carbon": 3}
    (tmp_path / "results.json").write_text(json.dumps(newer))
    assert results.read(tmp_path) == newer


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8))
def test_mean_std_is_that_of_a_sample(values):
    mean, std = results.mean_std(values)
    assert mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-9)
    assert std == pytest.approx(np.std(values, ddof=1), rel=1e-6, abs=1e-9)


def test_mean_std_at_its_edges():
    assert results.mean_std([3]) == (3.0, 0.0)
    assert all(map(math.isnan, results.mean_std([1.0, math.inf])))
    with pytest.raises(InputError, match="one value for each seed"):
        results.mean_std([])


def test_the_device_and_versions_are_described():
    assert results.device_description().startswith("cpu")
    assert "cores" in results.device_description()
    assert {"python", "jax", "numpy"} <= set(results.versions())
