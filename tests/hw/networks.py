"""Workloads that several tests share, made once."""

import functools

import jax
import jax.numpy as jnp

import hw
from experiments.hardware import networks
from experiments.models import MODELS, create


@functools.cache
def published(name: str, batch: int = 1) -> hw.Workload:
    """The workload of a network of the hardware papers."""
    return hw.workload(networks.apply_of(name), *networks.shapes(name, batch))


@functools.cache
def model(name: str) -> hw.Workload:
    """The workload of a network of the registry, batch 1."""
    module = create(name)
    x = jax.ShapeDtypeStruct((1, *MODELS[name].input_shape), jnp.float32)
    like = jax.eval_shape(module.init, jax.random.key(0), x)

    def fn(params, state, x):
        return module.apply({"params": params, **state}, x)

    state = {key: value for key, value in like.items() if key != "params"}
    return hw.workload(fn, like["params"], state, x)
