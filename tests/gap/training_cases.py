"""Small trainings that the tests of sparse training share."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from core import trees
from tests.relaxed import relaxed
from tests.strategies import floats


def adam(rate=0.05):
    return relaxed(optax.adam(rate))


INNERS = {
    "momentum": optax.sgd(0.1, momentum=0.9),
    "adam": adam(),
    "adamw": relaxed(optax.adamw(0.05, weight_decay=0.1)),
}


def valued_trees():
    """Trees of one structure with any values, ties among them: one compilation."""
    shapes = {"fc1/kernel": (6, 5), "fc1/bias": (4,), "head/kernel": (2, 3, 4)}
    return st.fixed_dictionaries(
        {k: hnp.arrays(np.float32, s, elements=floats()) for k, s in shapes.items()}
    )


def problem(key, shapes=((6, 8), (8, 8), (8, 4))):
    """Parameters fc1, fc2, ... with biases, and a loss with a gradient everywhere."""
    keys = jax.random.split(key, 2 * len(shapes))
    params, goal = (
        {
            f"fc{i + 1}": {
                "kernel": jax.random.normal(keys[2 * i + part], shape),
                "bias": jnp.full(shape[-1:], 0.5 - part, jnp.float32),
            }
            for i, shape in enumerate(shapes)
        }
        for part in (0, 1)
    )

    def loss(params):
        gaps = jax.tree.map(lambda w, g: jnp.sum((w - g) ** 2), params, goal)
        return sum(jax.tree.leaves(gaps))

    return params, loss


def stepper(tx, loss):
    """A compiled step, and the list that grows with every trace of it."""
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(1)
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return step, traces


def history(tx, params, loss, steps):
    """(parameters, state) after each step, with one compilation."""
    step, traces = stepper(tx, loss)
    state, found = jax.jit(tx.init)(params), []
    for _ in range(steps):
        params, state = step(params, state)
        found.append((params, state))
    assert len(traces) == 1
    return found


def counts(masks):
    return {name: int(m.sum()) for name, m in trees.by_path(masks).items()}


def assert_zero_where_pruned(params, state):
    """Pruned weights and their moments are exactly 0."""
    for name, mask in trees.by_path(state.masks).items():
        off = ~np.asarray(mask)
        assert np.all(np.asarray(trees.by_path(params)[name])[off] == 0.0)
        for path, leaf in trees.by_path(state.inner).items():
            if path.endswith(f"/{name}") and leaf.shape == mask.shape:
                assert np.all(np.asarray(leaf)[off] == 0.0), path


def assert_resumes_exactly(tx, params, loss, steps=9, cut=4):
    """A state stored by numpy and read back goes on to the same numbers."""
    step, _ = stepper(tx, loss)
    state = jax.jit(tx.init)(params)
    for i in range(steps):
        if i == cut:
            file = io.BytesIO()
            flat, treedef = jax.tree.flatten((params, state))
            np.savez(file, *flat)
            file.seek(0)
            with np.load(file) as stored:
                arrays = [jnp.asarray(stored[f"arr_{j}"]) for j in range(len(flat))]
            again = jax.tree.unflatten(treedef, arrays)
        params, state = step(params, state)
        if i >= cut:
            again = step(*again)
    jax.tree.map(np.testing.assert_array_equal, again, (params, state))
