"""Multiplications of decomposed networks, with the strides of their layers."""

import math
import types

import jax.numpy as jnp
import pytest

from experiments import models
from experiments.constrained import rank


def test_strides_of_layers_are_found():
    found = rank.strides_of(models.ResNet(depth=8), (16, 16, 3))
    twice = {path for path, strides in found.items() if strides == (2, 2)}
    assert twice == {"layer2_0/conv1", "layer3_0/conv1"}
    assert set(found.values()) == {(1, 1), (2, 2)}
    dense = rank.strides_of(models.create("lenet_300_100"), (28, 28, 1))
    assert dense["fc1"] == (1, 1)


@pytest.mark.parametrize(
    ("scheme", "work"),
    [
        ("channel", 64 * (9 * 16 * 4 + 4 * 32)),
        ("spatial", 128 * (3 * 16 * 4) + 64 * (3 * 4 * 32)),
    ],
)
def test_factors_of_a_strided_layer_are_counted_where_they_run(scheme, work):
    # 16 x 16 x 16 images to 8 x 8 x 32, and a layer that stays whole.
    shape, rest = (3, 3, 16, 32), (3, 3, 32, 32)
    protocol = types.SimpleNamespace(
        config=types.SimpleNamespace(scheme=scheme),
        positions={"a": 64, "b": 64},
        strides={"a": (2, 2), "b": (1, 1)},
    )
    params = {"a": {"kernel": jnp.ones(shape)}, "b": {"kernel": jnp.ones(rest)}}
    macs, weights = rank.Protocol.cost(protocol, params, {"a/kernel": 4})
    size, other = math.prod(shape), math.prod(rest)
    assert macs == 64 * (size + other) / (work + 64 * other)
    stored = {"channel": 9 * 16 * 4 + 4 * 32, "spatial": 3 * 4 * (16 + 32)}[scheme]
    assert weights == (size + other) / (stored + other)
