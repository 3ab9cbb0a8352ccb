"""Changed and cut bytes of a model: it loads, or a named error says why not."""

import contextlib

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from core.errors import DataFormatError, LatheError
from graph.onnx import describe, load
from tests.graph.onnx_models import model


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def _seed() -> bytes:
    nodes = [
        node("Conv", "x c.weight c.bias", "a", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", "a", "b"),
        node("Shape", "b", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Concat", "n minus", "target", axis=0),
        node("Reshape", "b target", "f"),
        node("Gemm", "f w", "g", transB=1, alpha=0.5),
        node("Clip", "g low high", "y"),
    ]
    weights = {
        "c.weight": np.ones((2, 1, 3, 3), np.float32),
        "c.bias": np.ones(2, np.float32),
        "zero": np.asarray([0]),
        "minus": np.asarray([-1]),
        "w": np.ones((3, 8), np.float32),
        "low": np.asarray(-1, np.float32),
        "high": np.asarray(1, np.float32),
    }
    proto = model(nodes, {"x": ["N", 1, 4, 4]}, ["y"], weights)
    return proto.SerializeToString()


_SEED = _seed()
_EDITS = st.lists(
    st.tuples(
        st.integers(0, len(_SEED) - 1),
        st.sampled_from(["flip", "set", "cut", "double", "drop"]),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=_EDITS)
def test_any_bytes_load_or_are_refused_by_name(edits, tmp_path):
    data = bytearray(_SEED)
    for place, kind, value in edits:
        place = min(place, len(data) - 1) if data else 0
        if kind == "flip" and data:
            data[place] ^= 1 << value % 8
        elif kind == "set" and data:
            data[place] = value
        elif kind == "cut":
            del data[place:]
        elif kind == "double":
            data[place:place] = data[place : place + value % 16]
        else:
            del data[place : place + value % 16]
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes(data))
    with contextlib.suppress(LatheError):
        describe(path)
        fn, params = load(path)
        fn(params, jnp.ones((2, 1, 4, 4)))


def test_the_untouched_seed_loads(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(_SEED)
    fn, params = load(path)
    assert fn(params, jnp.ones((2, 1, 4, 4))).shape == (2, 3)


@pytest.mark.parametrize("length", range(0, len(_SEED), 37))
def test_every_truncation_is_refused(length, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(_SEED[:length])
    with pytest.raises(DataFormatError):
        load(path)


def test_names_that_are_not_text_are_refused(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(_SEED.replace(b"c.weight", b"c.w\xffight"))
    with pytest.raises(DataFormatError, match="UTF-8"):
        load(path)
