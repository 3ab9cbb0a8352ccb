import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError, NonFiniteError, ShapeError
from verify import properties, regions

X = np.full((1, 2), 0.5)


def test_robustness_has_a_clause_per_other_class_over_one_region():
    prop = properties.robustness(X, label=1, eps=0.6, classes=4, name="image 0")
    assert len(prop.clauses) == 3
    assert len({id(c.region) for c in prop.clauses}) == 1
    np.testing.assert_array_equal(prop.clauses[0].region.lower, [[0.0, 0.0]])
    np.testing.assert_array_equal(prop.clauses[2].spec.C, [[0, 1, 0, -1]])
    assert prop.input_shape == (1, 2)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_robustness_is_violated_by_another_argmax(y):
    prop = properties.robustness(X, label=0, eps=0.1, classes=3)
    assert properties.violates(prop, X, [y]) == (y[0] <= max(y[1:]))
    assert not properties.violates(prop, X + 0.2, [y])


def test_eps_and_clip_may_differ_by_channel():
    prop = properties.robustness(
        np.zeros((1, 2, 1, 1)),
        0,
        np.array([0.1, 0.2]).reshape(1, 2, 1, 1),
        clip=(np.array([-0.05, -1.0]).reshape(1, 2, 1, 1), 1.0),
        classes=2,
    )
    region = prop.clauses[0].region
    np.testing.assert_allclose(region.lower.ravel(), [-0.05, -0.2])
    np.testing.assert_allclose(region.upper.ravel(), [0.1, 0.2])


def test_linear_has_a_clause_per_row():
    region = regions.ball(np.zeros(2), 1.0, "l2")
    prop = properties.linear(region, [[1.0, 0.0], [0.0, -1.0]], [0.5, 2.0])
    assert len(prop.clauses) == 2
    assert properties.violates(prop, np.zeros(2), [-0.5, 0.0])
    assert properties.violates(prop, np.zeros(2), [1.0, 2.0])
    assert not properties.violates(prop, np.zeros(2), [-0.49, 0.0])


def test_a_conjunction_needs_all_rows():
    spec = properties.Spec(np.eye(2), np.zeros(2))
    prop = properties.Property(
        (properties.Clause(regions.box([0.0], [1.0]), spec),), (1,), 2
    )
    assert properties.violates(prop, [0.5], [-1.0, 0.0])
    assert not properties.violates(prop, [0.5], [-1.0, 0.1])
    assert not properties.violates(prop, [0.5], [-1.0, np.nan])
    assert not properties.violates(prop, [np.nan], [-1.0, -1.0])


def test_a_property_without_clauses_is_never_violated():
    assert not properties.violates(properties.Property((), (1,), 1), [0.0], [0.0])


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: properties.robustness(X, 10, 0.1), InputError, "label 10"),
        (lambda: properties.robustness(X, True, 0.1), InputError, "label"),
        (lambda: properties.robustness(X, 0, -0.1), InputError, "radius"),
        (lambda: properties.robustness(X * np.nan, 0, 0.1), NonFiniteError, "center"),
        (
            lambda: properties.linear(regions.box([0.0], [1.0]), [1.0], [0.0]),
            ShapeError,
            "C of shape",
        ),
        (
            lambda: properties.linear(regions.box([0.0], [1.0]), [[np.inf]], [0.0]),
            NonFiniteError,
            "C or d",
        ),
        (
            lambda: properties.Property(
                (
                    properties.Clause(
                        regions.box([0.0], [1.0]),
                        properties.Spec(np.zeros((0, 2)), np.zeros(0)),
                    ),
                ),
                (1,),
                2,
            ),
            ShapeError,
            "at least 1",
        ),
        (
            lambda: properties.Property(
                properties.robustness(X, 0, 0.1).clauses, (2, 1), 10
            ),
            ShapeError,
            "region of shape",
        ),
        (
            lambda: properties.violates(properties.robustness(X, 0, 0.1), X, [0.0]),
            ShapeError,
            "1 outputs",
        ),
    ],
)
def test_mistakes_are_named(make, error, match):
    with pytest.raises(error, match=match):
        make()
