"""An experiment without a run, and strategies for what runs return."""

import math
from types import SimpleNamespace

from hypothesis import strategies as st

from experiments.results import Figure, Outcome, Row, RunInfo, Series
from tests.experiments.toy_sweep import PAPER

HOSTILE = """</td><script src="http://evil">alert('1')</script>&amp;|`*_$x$\\"""

EXPERIMENT = SimpleNamespace(name="toy", paper=PAPER, claim="Pruning costs nothing.")
INFO = RunInfo(
    mode="quick",
    seeds=(0, 1, 2),
    config={"rho": 1e-3, "keep": (0.04, 0.07), "model": "lenet"},
    seconds=61.5,
    data=("mnist_5k",),
    device="cpu: test",
)
ROWS = (
    Row("accuracy", "LeNet", 98.31, 0.05, 98.01, 98.4, "%", holds=True),
    Row("accuracy", "rho=10", math.nan, math.nan, math.inf, 98.4, "%", holds=True),
    Row("energy", "Eyeriss", 1.5e-5, None, None, None, "J", simulated=True),
    Row("weights left", "fc1", 3600, None, None, 3600, "", holds=False),
)
FIGURES = (
    Figure(
        "accuracy",
        "line",
        "epoch",
        "accuracy, %",
        [
            Series("ADMM", [1, 2, 3], [90.0, math.nan, 98.0], [1.0, 1.0, 0.5]),
            Series("one-shot", [1, 2, 3], [80.0, 90.0, 95.0]),
        ],
    ),
    Figure(
        "residual", "errorbar", "rho", "W - Z", [Series("", [1], [0.1])], True, True
    ),
    Figure("kept", "bar", "layer", "%", [Series("ADMM", ["a", "b"], [1, 2], [0, 1])]),
    Figure("weights", "hist", "w", "count", [Series("ADMM", [0, 1, 2], [4, 5])]),
)
OUTCOME = Outcome(ROWS, FIGURES, ("Gradual pruning is ahead at 126x.",))

texts = st.text(max_size=12) | st.sampled_from(
    [HOSTILE, "_x", "$", "漢字", "\x00\ud800"]
)
numbers = st.floats() | st.integers(-(2**60), 2**60)


def rows():
    maybe = st.none() | numbers
    truth = st.sampled_from([None, False, True])
    return st.builds(
        Row, texts, texts, numbers, maybe, maybe, maybe, texts, st.booleans(), truth
    )


@st.composite
def figures(draw):
    kind = draw(st.sampled_from(["line", "errorbar", "bar", "hist"]))
    return Figure(
        draw(texts),
        kind,
        draw(texts),
        draw(texts),
        draw(st.lists(_series(kind), max_size=3)),
        draw(st.booleans()),
        draw(st.booleans()),
    )


@st.composite
def _series(draw, kind):
    n = draw(st.integers(0, 4))
    if kind == "hist":
        x = [float(edge) for edge in range(n + 1)]
    elif kind == "bar":
        x = draw(st.lists(texts, min_size=n, max_size=n))
    else:
        finite = st.floats(allow_nan=False, allow_infinity=False)
        x = draw(st.lists(finite, min_size=n, max_size=n))
    values = st.lists(numbers, min_size=n, max_size=n)
    return Series(draw(texts), x, draw(values), draw(st.none() | values))


def outcomes():
    return st.builds(
        Outcome,
        st.lists(rows(), max_size=4),
        st.lists(figures(), max_size=2),
        st.lists(texts, max_size=2),
    )
