"""The files of VNN-COMP 2021 that the data folder holds."""

import csv
from collections import Counter

import numpy as np
import pytest

from verify import vnnlib

pytestmark = pytest.mark.data

SHAPES = {
    "acasxu": ((1, 1, 1, 5), 5),
    "mnistfc": ((1, 784, 1), 10),
    "oval21": ((1, 3, 32, 32), 10),
    "cifar10_resnet": ((1, 3, 32, 32), 10),
    "verivital": ((1, 1, 28, 28), 10),
}
COUNTS = {
    "acasxu": 10,
    "mnistfc": 30,
    "oval21": 10,
    "cifar10_resnet": 24,
    "verivital": 60,
    "test": 4,
}


@pytest.fixture(scope="module")
def folder(data_root):
    return data_root / "verify" / "vnncomp2021"


@pytest.mark.parametrize("benchmark", COUNTS)
def test_files_are_read(folder, benchmark):
    shape, outputs = SHAPES.get(benchmark, (None, None))
    paths = sorted((folder / benchmark).glob("*.vnnlib*"))
    assert len(paths) == COUNTS[benchmark]
    for path in paths if len(paths) < 20 else paths[::4]:  # large ones take seconds
        prop = vnnlib.load(path, shape, outputs)
        assert prop.clauses
        assert prop.notes == ()
        if benchmark not in ("acasxu", "test"):
            assert len(prop.clauses) == 9
            assert len({id(c.region) for c in prop.clauses}) == 1
            for clause in prop.clauses:  # y[label] <= y[j]
                assert sorted(clause.spec.C[0]) == [-1, *[0] * 8, 1]


def test_every_instance_has_its_file(folder):
    with open(folder / "instances.csv") as file:
        rows = list(csv.DictReader(file))
    assert Counter(r["verdict"] for r in rows).keys() <= {"sat", "unsat", "unknown"}
    missing = [
        r["vnnlib"]
        for r in rows
        if not any((folder / (r["vnnlib"] + end)).exists() for end in ("", ".gz"))
    ]
    assert missing == []


def test_acasxu_1_compares_an_output_with_a_constant(folder):
    prop = vnnlib.load(folder / "acasxu" / "prop_1.vnnlib", (1, 1, 1, 5), 5)
    (clause,) = prop.clauses
    np.testing.assert_array_equal(clause.spec.C, [[-1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(clause.spec.d, [3.991125645861615])
    np.testing.assert_array_equal(
        clause.region.lower.ravel(), [0.6, -0.5, -0.5, 0.45, -0.5]
    )
    np.testing.assert_array_equal(
        clause.region.upper.ravel(), [0.679857769, 0.5, 0.5, 0.5, -0.45]
    )


def test_acasxu_2_is_one_conjunction(folder):
    prop = vnnlib.load(folder / "acasxu" / "prop_2.vnnlib")
    (clause,) = prop.clauses
    expected = np.eye(5)[1:]
    expected[:, 0] = -1
    np.testing.assert_array_equal(clause.spec.C, expected)


def test_acasxu_6_has_two_boxes_times_four_outputs(folder):
    prop = vnnlib.load(folder / "acasxu" / "prop_6.vnnlib")
    assert len(prop.clauses) == 8
    boxes = {id(c.region): c.region for c in prop.clauses}
    assert [(b.lower[1], b.upper[1]) for b in boxes.values()] == [
        (0.11140846, 0.499999896),
        (-0.499999896, -0.11140846),
    ]


def test_acasxu_7_has_two_conjunctions(folder):
    prop = vnnlib.load(folder / "acasxu" / "prop_7.vnnlib")
    assert [c.spec.C.shape for c in prop.clauses] == [(3, 5), (3, 5)]
    np.testing.assert_array_equal(
        prop.clauses[1].spec.C, [[-1, 0, 0, 0, 1], [0, -1, 0, 0, 1], [0, 0, -1, 0, 1]]
    )


def test_a_file_of_3072_inputs_keeps_their_order(folder):
    path = next((folder / "oval21").glob("*img1598*"))
    prop = vnnlib.load(path, (1, 3, 32, 32), 10)
    region = prop.clauses[0].region
    wide = region.upper - region.lower
    assert region.shape == (1, 3, 32, 32)
    eps = 0.0026143790849673205
    stds = wide.max(axis=(0, 2, 3)) / 2  # eps / std of each channel
    np.testing.assert_allclose(eps / stds, [0.225, 0.225, 0.225], rtol=1e-4)
