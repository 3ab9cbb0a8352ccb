import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataFormatError, DataUnavailableError
from verify import properties, vnnlib


def _declare(inputs=2, outputs=2):
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    return "".join(f"(declare-const {n} Real)\n" for n in names)


BOX = (
    _declare()
    + """; the box [-1, 1] x [0, 0.5]
(assert (and (<= X_0 1) (>= X_0 -1)))
(assert (<= 0 X_1 0.5))
"""
)


def _rows(prop):
    return [(c.spec.C.tolist(), c.spec.d.tolist()) for c in prop.clauses]


def test_a_conjunction_is_one_clause():
    prop = vnnlib.loads(BOX + "(assert (<= Y_0 Y_1))(assert (>= Y_0 1.5e0))", (1, 2))
    assert _rows(prop) == [([[1, -1], [-1, 0]], [0, 1.5])]
    region = prop.clauses[0].region
    assert region.lower.tolist() == [[-1, 0]]
    assert region.upper.tolist() == [[1, 0.5]]
    assert prop.notes == ()


def test_outputs_in_or_share_one_region():
    prop = vnnlib.loads(BOX + "(assert (or (and (<= Y_0 Y_1)) (>= Y_0 3)))")
    assert _rows(prop) == [([[1, -1]], [0]), ([[-1, 0]], [3])]
    assert prop.clauses[0].region is prop.clauses[1].region


def test_boxes_and_outputs_in_or_are_multiplied_in_order():
    text = BOX + (
        "(assert (or (<= X_0 0) (>= X_0 0.5)))(assert (or (<= Y_0 0) (<= Y_1 0)))"
    )
    prop = vnnlib.loads(text)
    first, second, third, fourth = prop.clauses
    assert first.region is second.region
    assert third.region is fourth.region
    assert first.region.upper.tolist() == [0, 0.5]
    assert third.region.lower.tolist() == [0.5, 0]
    assert _rows(prop)[2:] == [([[1, 0]], [0]), ([[0, 1]], [0])]


def test_a_disjunct_may_mix_inputs_and_outputs():
    text = BOX + "(assert (or (and (<= X_0 0) (<= Y_0 1)) (and (>= X_0 0) (<= Y_1 2))))"
    prop = vnnlib.loads(text)
    assert _rows(prop) == [([[1, 0]], [-1]), ([[0, 1]], [-2])]
    assert prop.clauses[0].region.upper.tolist() == [0, 0.5]
    assert prop.clauses[1].region.lower.tolist() == [0, 0]


def test_arithmetic_is_collected_into_rows():
    text = BOX + (
        "(assert (<= (+ (* 2 Y_0) (- Y_1) (* (- 3 1) (- Y_0 Y_1 1))) (/ Y_0 2)))"
    )
    # 2 y0 - y1 + 2 y0 - 2 y1 - 2 - 0.5 y0
    assert _rows(vnnlib.loads(text)) == [([[3.5, -3]], [-2])]


def test_scaled_bounds_of_inputs_are_divided_out():
    prop = vnnlib.loads(BOX + "(assert (<= (* -2 X_0) 1))(assert (<= Y_0 0))")
    assert prop.clauses[0].region.lower.tolist() == [-0.5, 0]


def test_equality_is_two_rows():
    assert _rows(vnnlib.loads(BOX + "(assert (= Y_0 1))")) == [
        ([[1, 0], [-1, 0]], [-1, 1])
    ]


def test_strict_comparisons_are_closed_with_a_note():
    prop = vnnlib.loads(BOX + "(assert (or (< Y_0 Y_1) (> Y_0 2)))")
    assert _rows(prop) == [([[1, -1]], [0]), ([[-1, 0]], [2])]
    assert "2 strict comparisons" in prop.notes[0]


def test_empty_boxes_are_dropped_with_a_note():
    text = BOX + "(assert (or (and (>= X_0 2) (<= Y_0 0)) (<= Y_0 1)))"
    prop = vnnlib.loads(text)
    assert len(prop.clauses) == 1
    assert "1 disjuncts" in prop.notes[0]


def test_constants_decide_disjuncts():
    prop = vnnlib.loads(BOX + "(assert (or (<= 1 0) (and (<= 0 1) (<= Y_0 0))))")
    assert _rows(prop) == [([[1, 0]], [0])]
    assert vnnlib.loads(BOX + "(assert false)").clauses == ()
    anything = vnnlib.loads(BOX + "(assert true)")
    assert properties.violates(anything, [0.0, 0.0], [9.0, 9.0])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no variable X_0"),
        (_declare(0, 1), "no variable X_0"),
        (_declare() + "(assert (<= X_0 1))(assert (<= Y_0 0))", "X_0, X_1"),
        (BOX + "(assert (<= (+ X_0 X_1) 1))", "line 8.*several inputs"),
        (BOX + "(assert (<= X_0 Y_1))", "line 8.*input with an output"),
        (BOX + "(assert (<= Y_0 Z_1))", "line 8.*Z_1"),
        (BOX + "(assert (<= Y_0 Y_9))", "line 8.*Y_9"),
        (BOX + "(assert (<= (* Y_0 Y_1) 0))", "line 8.*product"),
        (BOX + "(assert (<= (/ 1 Y_1) 0))", "line 8.*division"),
        (BOX + "(assert (<= Y_0 nan))", "line 8.*nan"),
        (BOX + "(assert (<= Y_0 1e999))", "line 8.*finite"),
        (BOX + "(assert (<= (* 1e300 1e300) Y_0))", "line 8.*overflow"),
        (BOX + "(assert (<= Y_0 1_0))", "line 8.*1_0"),
        (BOX + "(assert (<= Y_0))", "line 8.*2 or more"),
        (BOX + "(assert (not (<= Y_0 0)))", "line 8.*not"),
        (BOX + "(assert (and Y_0))", "line 8.*comparisons"),
        (BOX + "(assert (+ (and) 1))", "line 8.*arithmetic terms"),
        (BOX + "(assert (+ Y_0 1))", "line 8.*arithmetic term"),
        (BOX + "(assert)", "line 8.*0 expressions"),
        (BOX + "(assert Y_0)", "line 8"),
        (BOX + "(assert ())", "line 8.*without operator"),
        (BOX + "()", "line 8.*empty command"),
        (BOX + "(assume (<= Y_0 0))", "line 8.*assume"),
        (BOX + "(assert (<= Y_0 0)", "line 8.*never closed"),
        (BOX + "(assert (<= Y_0 0)))", "line 8.*open"),
        (BOX + "assert", "line 8.*parentheses"),
        (BOX + '(assert " )', "line 8.*quote"),
        (BOX + "(declare-const X_0 Real)", "line 8.*second declaration"),
        (BOX + "(declare-const X_9 Real)", "X_9 but no X_2"),
        (BOX + "(declare-const Y_02 Real)", "Y_02"),
        (BOX + "(declare-const A Real)", "line 8.*'A'"),
        (BOX + "(declare-const X_2 Bool)", "line 8.*declaration"),
        ("(vnnlib-version <3.0>)" + BOX, "line 1.*version"),
        (BOX + "(assert " + "(or " * 2000 + ")" * 2001, "line 8.*levels"),
    ],
)
def test_mistakes_are_named_with_their_line(text, match):
    with pytest.raises(DataFormatError, match=match):
        vnnlib.loads(text)


def test_the_file_must_fit_the_network():
    with pytest.raises(DataFormatError, match="2 inputs and 2 outputs"):
        vnnlib.loads(BOX, (1, 3))
    with pytest.raises(DataFormatError, match="the network's"):
        vnnlib.loads(BOX, output_size=5)


def test_too_many_disjuncts_are_refused_quickly():
    clause = "(assert (or (<= Y_0 0) (<= Y_1 0)))"
    with pytest.raises(DataFormatError, match="disjuncts"):
        vnnlib.loads(BOX + clause * 64)
    nested = "(or (and " + " ".join(["(or (<= Y_0 0) (<= Y_1 0))"] * 64) + "))"
    with pytest.raises(DataFormatError, match="disjuncts"):
        vnnlib.loads(BOX + f"(assert {nested})")


def test_ten_thousand_inputs_and_a_deep_term_are_read():
    many = _declare(10_000, 1)
    many += "".join(f"(assert (<= {i} X_{i} {i + 1}))\n" for i in range(10_000))
    prop = vnnlib.loads(many + "(assert (<= Y_0 0))")
    np.testing.assert_array_equal(prop.clauses[0].region.lower, np.arange(10_000))
    deep = "(+ 1 " * 900 + "Y_0" + ")" * 900
    prop = vnnlib.loads(BOX + f"(assert (<= {deep} 0))")
    assert _rows(prop) == [([[1, 0]], [900])]


@pytest.mark.parametrize("suffix", ["vnnlib", "vnnlib.gz"])
def test_files_are_read_and_named(tmp_path, suffix):
    path = tmp_path / f"prop_1.{suffix}"
    content = (BOX + "(assert (<= Y_0 0))").encode()
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    prop = vnnlib.load(path, (1, 2), 2)
    assert (prop.name, prop.input_shape) == ("prop_1", (1, 2))


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(DataUnavailableError, match="absent"):
        vnnlib.load(tmp_path / "absent.vnnlib")
    for name, content in {
        "a.vnnlib": b"\xff\xfe\x00",
        "b.vnnlib.gz": b"not gzip",
        "c.vnnlib.gz": gzip.compress(BOX.encode())[:-20],
        "d.vnnlib": b"(assert",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataFormatError, match=name):
            vnnlib.load(tmp_path / name)


WORDS = ["(", ")", "(assert", "<=", ">", "and", "(or", "+", "*", "X_0", "X_1", "Y_0"]
WORDS += ["1", "-0.5", "1e400", "nan", "(declare-const", "Real)", ";", "\n", '"', "|"]
TEXTS = st.one_of(
    st.text(max_size=80),
    st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join),
)


@settings(max_examples=300)
@given(TEXTS, st.booleans())
def test_any_text_is_read_or_refused_by_name(text, declared):
    try:
        prop = vnnlib.loads((BOX if declared else "") + text)
    except DataFormatError:
        return
    assert all(np.isfinite(c.spec.C).all() for c in prop.clauses)


@settings(max_examples=100)
@given(st.data())
def test_a_file_with_one_character_changed_is_read_or_refused(data):
    text = BOX + "(assert (or (and (<= Y_0 Y_1) (>= X_0 0.5)) (< 1 Y_0)))"
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from('()<=;"|XY_01.- \n\0é'))
    try:
        vnnlib.loads(text[:at] + new + text[at + 1 :])
    except DataFormatError as error:
        assert "got" in str(error)  # noqa: PT017


def _terms(draw, depth):
    if depth == 0 or draw(st.booleans()):
        name = draw(st.sampled_from(["Y_0", "Y_1", "2", "-0.5"]))
        return name, lambda y: {"Y_0": y[0], "Y_1": y[1]}.get(name) or _number(name)
    op = draw(st.sampled_from("+-"))
    (a, f), (b, g) = _terms(draw, depth - 1), _terms(draw, depth - 1)
    sign = 1 if op == "+" else -1
    return f"({op} {a} {b})", lambda y: f(y) + sign * g(y)


def _number(name):
    return 0.0 if name.startswith("Y") else float(name)


@st.composite
def _formulas(draw, depth=3):
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        op = draw(st.sampled_from(["<=", ">="]))
        (a, f), (b, g) = _terms(draw, 2), _terms(draw, 2)
        if op == "<=":
            return f"({op} {a} {b})", lambda y: f(y) <= g(y)
        return f"({op} {a} {b})", lambda y: f(y) >= g(y)
    op = draw(st.sampled_from(["and", "or"]))
    parts = draw(st.lists(_formulas(depth - 1), max_size=3))
    fold = all if op == "and" else any
    text = f"({op} {' '.join(p[0] for p in parts)})"
    return text, lambda y: fold(p[1](y) for p in parts)


@settings(max_examples=100)
@given(_formulas(), st.lists(st.tuples(*[st.integers(-3, 3)] * 2), min_size=5))
def test_normal_form_means_what_the_formula_means(formula, outputs):
    text, meaning = formula
    prop = vnnlib.loads(BOX + f"(assert {text})")
    for y in outputs:
        assert properties.violates(prop, [0.0, 0.0], np.array(y)) == meaning(y)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1),
)
def test_witnesses_round_trip_exactly(x, y):
    text = vnnlib.format_witness(np.array(x).reshape(1, -1), y)
    again = vnnlib.parse_witness("sat\n" + text)
    np.testing.assert_array_equal(again[0], x)
    np.testing.assert_array_equal(again[1], y)


def test_a_witness_has_the_competitions_form():
    text = vnnlib.format_witness([0.5, -1.0], [2.0])
    assert text == "((X_0 0.5)\n (X_1 -1.0)\n (Y_0 2.0))"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "no value of X_0"),
        ("((X_0 1))", "no value of Y_0"),
        ("((X_1 1)(Y_0 1))", "no value of X_0"),
        ("((X_0 1)(X_0 2)(Y_0 1))", "second value"),
        ("((X_0 1)(Z_0 2))", "Z_0"),
        ("((X_0 inf)(Y_0 1))", "inf"),
        ("((X_0 1)(Y_0 1)", "never closed"),
    ],
)
def test_broken_witnesses_are_named(text, match):
    with pytest.raises(DataFormatError, match=match):
        vnnlib.parse_witness(text)
