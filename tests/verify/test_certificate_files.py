"""Certificates on disk: what is written is read, what is damaged is refused."""

import contextlib
import dataclasses
import io
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import DataFormatError
from tests.verify import certificate_cases as cases
from verify.certificate import check, load, save
from verify.certificate import files as certificate_files

QUIET = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def relu():
    params = cases.dense_params(1, (3, 5, 4, 2))
    problem, certificate = cases.split_search(params, cases.UNIT_BOX, (1.0, -1.0), 1e-6)
    slopes = (
        (np.arange(5), np.linspace(0, 1, 5).astype(np.float16)),
        (np.arange(0), np.zeros(0)),
    )
    leaves = tuple(
        dataclasses.replace(leaf, slopes=slopes) for leaf in certificate.leaves
    )
    return problem, dataclasses.replace(certificate, leaves=leaves)


@pytest.fixture(scope="module")
def boxes():
    params = cases.dense_params(0, (3, 6, 6, 2))
    problem = cases.margin_problem(cases.dense, params, cases.UNIT_BOX, 0.1)
    certificate = cases.box_search(problem, 1)
    first = dataclasses.replace(certificate.leaves[0], weights=None)
    leaves = (first, *certificate.leaves[1:])
    return problem, dataclasses.replace(certificate, leaves=leaves)


@pytest.mark.parametrize("kind", ["relu", "boxes"])
def test_what_is_written_is_read(kind, request, tmp_path):
    problem, certificate = request.getfixturevalue(kind)
    save(certificate, tmp_path / "proof")
    found = load(tmp_path / "proof")
    assert (tmp_path / "proof").is_file()
    for name in ("kind", "digest", "version"):
        assert getattr(found, name) == getattr(certificate, name)
    for a, b in zip(found.leaves, certificate.leaves, strict=True):
        assert (a.clause, a.path) == (b.clause, b.path)
        for name in ("beta", "weights"):
            np.testing.assert_array_equal(getattr(a, name, 0), getattr(b, name, 0))
        for one, two in zip(
            getattr(a, "slopes", ()), getattr(b, "slopes", ()), strict=True
        ):
            np.testing.assert_array_equal(one[0], two[0])
            np.testing.assert_array_equal(one[1], two[1])
    before, after = check(problem, certificate), check(problem, found)
    assert before.ok == after.ok
    assert before.least_margin == after.least_margin


def test_an_empty_certificate_is_a_file_too(relu, tmp_path):
    _, certificate = relu
    for roots in ((), ((),)):
        empty = dataclasses.replace(certificate, leaves=(), roots=roots)
        save(empty, tmp_path / "proof.npz")
        assert load(tmp_path / "proof.npz").leaves == ()


@pytest.fixture(scope="module")
def arrays(relu, tmp_path_factory):
    path = tmp_path_factory.mktemp("proof") / "proof.npz"
    save(relu[1], path)
    with np.load(path) as file:
        return path.read_bytes(), {name: file[name] for name in file.files}


@QUIET
@given(st.data())
def test_a_damaged_file_is_refused_or_read_but_never_crashes(arrays, tmp_path, data):
    content = bytearray(arrays[0])
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 8))):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.npz"
    path.write_bytes(bytes(content))
    with contextlib.suppress(DataFormatError):
        load(path)


@QUIET
@given(st.data())
def test_hostile_arrays_are_refused_or_judged(relu, arrays, tmp_path, data):
    """Whatever an array holds, `load` names the fault or `check` decides."""
    changed = dict(arrays[1])
    name = data.draw(st.sampled_from(sorted(changed)))
    old = changed[name]
    choices = [
        None,
        np.zeros((2, 2)),
        np.asarray(-1),
        np.full(old.shape, 10**9) if old.dtype.kind in "iuf" else np.asarray("x"),
        old[..., :-1] if old.ndim else np.asarray(7),
        np.full(old.shape, np.nan),
    ]
    new = data.draw(st.sampled_from(range(len(choices))))
    if choices[new] is None:
        del changed[name]
    else:
        changed[name] = choices[new]
    path = tmp_path / "hostile.npz"
    np.savez(path, **changed)
    try:
        certificate = load(path)
    except DataFormatError:
        return
    found = check(relu[0], certificate)
    assert found.ok or found.why


def test_nothing_is_unpickled_or_made_larger_than_the_file(
    arrays, tmp_path, monkeypatch
):
    path = tmp_path / "proof.npz"
    np.savez(path, **(arrays[1] | {"beta": np.array([{}], dtype=object)}))
    with pytest.raises(DataFormatError, match="array of object"):
        load(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("beta.npy", header.getvalue() + b"\0" * 64)
    with pytest.raises(DataFormatError, match="bytes"):
        load(path)
    path.write_bytes(arrays[0])
    monkeypatch.setattr(certificate_files, "MAX_BYTES", 100)
    with pytest.raises(DataFormatError, match="more than 100 bytes"):
        load(path)


def test_no_file_and_no_archive(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataFormatError):
            load(path)
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(DataFormatError, match="text"):
        load(tmp_path / "text")
