import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DataFormatError
from verify import vnnlib

pytest.importorskip("vnnlib")

HEADER = """(vnnlib-version <2.0>)
(declare-network N
  (declare-input X {t} [1,2])
  (declare-output Y {t} [1,3]))
"""
BOX = (
    HEADER.format(t="real")
    + """(assert (<= X[0,0] 1.0)) ; a comment (
(assert (>= X[0,0] -1.0))
(assert (and (<= X[0,1] 5.0e-1) (>= X[0,1] 0.0)))
"""
)

NAMES = ["X_0", "X_1", "Y_0", "Y_1", "Y_2"]


def _rows(prop):
    return [(c.spec.C.tolist(), c.spec.d.tolist()) for c in prop.clauses]


def test_both_versions_give_the_same_property():
    new = BOX + "(assert (or (<= Y[0,0] (+ (* 2.0 Y[0,2]) 0.5)) (> Y[0,1] 1.0)))"
    old = "".join(f"(declare-const {n} Real)" for n in NAMES)
    old += "(assert (<= -1 X_0 1))(assert (<= 0 X_1 0.5))"
    old += "(assert (or (<= Y_0 (+ (* 2.0 Y_2) 0.5)) (> Y_1 1.0)))"
    ours, theirs = vnnlib.loads(new, (1, 2), 3), vnnlib.loads(old, (1, 2), 3)
    assert _rows(ours) == _rows(theirs)
    assert ours.notes == theirs.notes
    for side in ("lower", "upper"):
        np.testing.assert_array_equal(
            getattr(ours.clauses[0].region, side),
            getattr(theirs.clauses[0].region, side),
        )


def test_subtraction_keeps_its_order():
    prop = vnnlib.loads(BOX + "(assert (<= (- (- Y[0,0]) Y[0,1] 1.0) Y[0,2]))")
    assert _rows(prop) == [([[-1, -1, -1]], [-1])]


def test_floats_of_a_width_are_read_too():
    text = HEADER.format(t="float32") + "(assert (and (<= X[0,0] 1.0) (>= X[0,0] 0.0)))"
    text += "(assert (and (<= X[0,1] 1.0) (>= X[0,1] 0.0)))(assert (== Y[0,0] 1.0))"
    assert len(vnnlib.loads(text).clauses[0].spec.d) == 2


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("(vnnlib-version <2.0>)", "line 1"),
        (BOX + "(assert (<= Z[0] 1.0))", "line 8.*Undeclared.*Z"),
        (BOX + "(assert (<= X[0,7] 1.0))", "line 8.*X"),
        (BOX + "(assert (<= X[0,0] 1))", "line 8.*mismatch"),
        (BOX + "(assert (<= (* Y[0,0] Y[0,1]) 1.0))", "line 8.*product"),
        (BOX + "(assert (!= Y[0,0] 1.0))", "line 8.*!="),
        (BOX + "(assert", "line 8"),
        (HEADER.format(t="real") + "(assert (<= X[0,0] 1.0))", "no lower or no upper"),
        (
            BOX.replace(
                "(declare-output", "(declare-input Z real [1])\n(declare-output"
            ),
            "one network with one input",
        ),
        (BOX + "(assert " + "(or " * 2000 + ")" * 2001, "levels"),
    ],
)
def test_mistakes_are_named(text, match):
    with pytest.raises(DataFormatError, match=match):
        vnnlib.loads(text)


WORDS = ["(", ")", "(assert", "<=", "and", "(or", "X[0,0]", "Y[0,9]", "1.0", "1.0e-3"]
WORDS += ["declare-network", "==", "(- ", "[", "]", ",", "\n", ";"]


@given(
    st.one_of(
        st.text(max_size=40),
        st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join),
    )
)
def test_any_text_is_read_or_refused_by_name(text):
    try:
        vnnlib.loads(BOX + text)
    except DataFormatError as error:
        assert str(error)  # noqa: PT017
