"""The training loop: it learns, repeats itself, and is one program per epoch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from core.errors import InputError, NonFiniteError, ShapeError
from experiments.data import Split
from experiments.models.layers import Conv, global_avg_pool, max_pool
from experiments.models.norm import BatchNorm
from experiments.training import (
    TrainState,
    check_metrics,
    copy_state,
    crop_and_flip,
    data_mesh,
    init_state,
    l2_penalty,
    make_epoch,
    make_evaluate,
    make_train_step,
    put,
    restart,
)
from tests.devices import xla_flags
from tests.relaxed import relaxed

ROOT = Path(__file__).resolve().parents[2]
PIXELS = {"mean": 0.5, "std": 0.25}
TRACES = []


class Tiny(nn.Module):
    """A convolution, batch norm, dropout and a linear layer; notes every trace."""

    dropout_rate: float = 0.25
    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False):
        TRACES.append(train)
        x = Conv(8, (3, 3), name="conv", dtype=self.dtype)(x.astype(self.dtype))
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn")(x, train))
        x = global_avg_pool(max_pool(x, 2))
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        return nn.Dense(3, name="fc", dtype=self.dtype)(x).astype(jnp.float32)


def stripes(n, seed=0):
    """Horizontal stripes, vertical stripes, or neither: separable, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = rng.integers(60, 100, (n, 8, 8, 1))
    images[labels == 0, ::2] += 120
    images[labels == 1, :, ::2] += 120
    return Split(images.astype(np.uint8), labels.astype(np.int32))


def adam(rate=1e-2, eps=1e-8):
    return relaxed(optax.adam(rate, eps=eps))


def start(optimizer=None, model=None, **kwargs):
    model, optimizer = model or Tiny(), optimizer or adam()
    state = init_state(model, optimizer, jax.random.key(0), (8, 8, 1))
    epoch = make_epoch(model, optimizer, **{"batch_size": 16, **PIXELS, **kwargs})
    return model, state, epoch


def equal(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_learns_a_separable_problem(key):
    model, state, epoch = start()
    train, test = put(stripes(320)), put(stripes(100, seed=1))
    evaluate = make_evaluate(model, batch_size=64, **PIXELS)
    losses = []
    for i in range(6):
        state, metrics = epoch(state, train, jax.random.fold_in(key, i))
        losses.append(check_metrics(metrics, stage="tiny", epoch=i)["loss"])
    assert losses[-1] < losses[0] / 2
    assert int(state.step) == 6 * (320 // 16)
    assert evaluate(state.params, state.model_state, test)["accuracy"] > 0.95


def test_epochs_and_stages_compile_once_and_donate_the_state(key):
    _, state, epoch = start()
    train = put(stripes(70))
    state, _ = epoch(state, train, key)
    TRACES.clear()
    for i in range(3):
        old = state
        state, metrics = epoch(state, train, jax.random.fold_in(key, i))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert not TRACES
    for value in metrics.values():
        assert value.shape == ()
        assert value.dtype == jnp.float32
    # A second stage starts from parameters that the first one still holds.
    fresh = restart(state, adam())
    state, _ = epoch(state, train, key)
    assert int(fresh.step) == 0
    epoch(fresh, train, key)
    assert not TRACES


def test_an_epoch_repeats_itself_from_its_key(key):
    train, results = put(stripes(70)), []
    for which in (key, key, jax.random.key(1)):
        _, state, epoch = start(augment=crop_and_flip)
        results.append(epoch(state, train, which))
    equal(results[0], results[1])
    assert results[0][1]["loss"] != results[2][1]["loss"]


def test_an_epoch_visits_every_example_once_but_for_the_rest(key):
    """With SGD at rate 0 the mean of the batches' losses is that of the examples."""
    model = Tiny(dropout_rate=0.0)
    still, state, epoch = start(relaxed(optax.sgd(0.0)), model, loss=as_index)
    train = put(Split(stripes(48).images, np.arange(48, dtype=np.int32)))
    _, metrics = epoch(copy_state(state), train, key)
    assert metrics["loss"] == np.arange(48).mean()
    short = put(Split(train.images[:40], np.full(40, 7, np.int32)))
    assert epoch(state, short, key)[1]["loss"] == 7  # two steps, eight left out
    del still


def test_an_epoch_of_some_examples_draws_them_without_repeats(key):
    """Their sum has as many bits as there are examples if no power of two is twice."""
    model = Tiny(dropout_rate=0.0)
    options = {"loss": as_index, "batch_size": 8, "examples": 16}
    _, state, epoch = start(relaxed(optax.sgd(0.0)), model, **options)
    powers = put(Split(stripes(24).images, 2 ** np.arange(24, dtype=np.int32)))
    sums = set()
    for i in range(3):
        state, metrics = epoch(state, powers, jax.random.fold_in(key, i))
        assert int(state.step) == 2 * (i + 1)
        sums.add(int(metrics["loss"] * 16))
        assert int(metrics["loss"] * 16).bit_count() == 16
    assert len(sums) == 3
    with pytest.raises(InputError, match="examples: got 16; expected at most the 8"):
        epoch(state, put(stripes(8)), key)
    with pytest.raises(InputError, match=r"examples: got 4; expected .*8"):
        start(adam(), model, batch_size=8, examples=4)


def as_index(logits, labels):
    return labels.astype(jnp.float32) + 0 * logits[:, 0]


def test_a_step_is_the_gradient_of_loss_and_penalty(key):
    model = Tiny(dropout_rate=0.0)
    optimizer = relaxed(optax.sgd(1.0))
    state = init_state(model, optimizer, key, (8, 8, 1))
    data = stripes(16)
    step = make_train_step(model, optimizer, weight_decay=0.1, **PIXELS)
    new, metrics = step(state, jnp.asarray(data.images), jnp.asarray(data.labels), key)

    def objective(params):
        x = (jnp.asarray(data.images).astype(jnp.float32) / 255 - 0.5) / 0.25
        logits, _ = model.apply(
            {"params": params, **state.model_state},
            x,
            train=True,
            mutable="batch_stats",
        )
        rows = jax.nn.log_softmax(logits)[jnp.arange(16), data.labels]
        kernels = [params["conv"]["kernel"], params["fc"]["kernel"]]
        penalty = 0.05 * sum((k**2).sum() for k in kernels)
        return -rows.mean() + penalty, -rows.mean()

    grads, loss = jax.jit(jax.grad(objective, has_aux=True))(state.params)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    for name in ("conv", "bn", "fc"):
        moved = jax.tree.map(jnp.subtract, state.params[name], new.params[name])
        for a, b in zip(
            jax.tree.leaves(moved), jax.tree.leaves(grads[name]), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert int(new.step) == 1


def test_the_penalty_leaves_biases_and_norms_alone():
    params = {
        "kernel": jnp.full((2, 2), 3.0),
        "bias": jnp.ones(2),
        "scale": jnp.ones(2),
    }
    assert l2_penalty(params) == 18


@pytest.mark.parametrize("batch_size", [1, 7, 50, 64])
def test_evaluation_counts_every_example_once(batch_size, key):
    model, data = Tiny(), stripes(50)
    state = init_state(model, adam(), key, (8, 8, 1))
    evaluate = make_evaluate(model, batch_size=batch_size, **PIXELS)
    got = evaluate(state.params, state.model_state, put(data))
    x = (data.images.astype(np.float32) / 255 - np.float32(0.5)) / np.float32(0.25)
    variables = {"params": state.params, **state.model_state}
    logits = np.asarray(jax.jit(model.apply)(variables, x), np.float64)
    rows = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert got["accuracy"] == np.float32((logits.argmax(-1) == data.labels).mean())
    loss = -rows[np.arange(50), data.labels].mean()
    np.testing.assert_allclose(got["loss"], loss, rtol=1e-5)


def test_bfloat16_computes_and_float32_remembers(key):
    model, state, epoch = start(compute_dtype=jnp.bfloat16)
    train, before = put(stripes(320)), copy_state(state)
    for i in range(4):
        state, metrics = epoch(state, train, jax.random.fold_in(key, i))
    assert jax.tree.map(jnp.result_type, state) == jax.tree.map(jnp.result_type, before)
    assert check_metrics(metrics, stage="half", epoch=0)["accuracy"] > 0.8
    exact = make_evaluate(model, batch_size=50, **PIXELS)
    half = make_evaluate(model, batch_size=50, compute_dtype=jnp.bfloat16, **PIXELS)
    a, b = (f(state.params, state.model_state, train)["loss"] for f in (exact, half))
    assert a != b
    np.testing.assert_allclose(a, b, rtol=0.1)


def test_dropout_can_be_switched_off(key):
    train, results = put(stripes(32)), []
    for model, dropout in [(Tiny(), True), (Tiny(), False), (Tiny(0.0), True)]:
        _, state, epoch = start(model=model, dropout=dropout)
        results.append(epoch(state, train, key)[1]["loss"])
    assert results[0] != results[1]
    assert results[1] == results[2]


def test_crop_and_flip_cuts_windows_of_the_padded_image():
    images = np.random.default_rng(0).integers(1, 255, (40, 6, 5, 3)).astype(np.uint8)
    moved = np.asarray(crop_and_flip(jax.random.key(0), jnp.asarray(images), pixels=2))
    assert moved.dtype == np.uint8
    seen = set()
    for image, got in zip(images, moved, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        found = [
            (i, j, flip)
            for i in range(5)
            for j in range(5)
            for flip in (1, -1)
            if (padded[i : i + 6, j : j + 5][:, ::flip] == got).all()
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 20


def test_metrics_that_are_not_finite_stop_the_stage():
    good, bad = jnp.float32(1.5), jnp.float32(np.nan)
    assert check_metrics({"loss": good}, stage="dense", epoch=3) == {"loss": 1.5}
    with pytest.raises(NonFiniteError, match=r"'dense', epoch 3.*loss = nan.*rate"):
        check_metrics({"loss": bad, "accuracy": good}, stage="dense", epoch=3)


def test_divergence_reaches_the_metrics(key):
    _, state, epoch = start(relaxed(optax.sgd(1e30)))
    _, metrics = epoch(state, put(stripes(64)), key)
    with pytest.raises(NonFiniteError):
        check_metrics(metrics, stage="dense", epoch=0)


def test_wrong_arguments_are_named(key):
    _, state, epoch = start(batch_size=64)
    with pytest.raises(InputError, match=r"batch_size: got 64.*at most the 20"):
        epoch(state, put(stripes(20)), key)
    with pytest.raises(InputError, match="batch_size"):
        start(batch_size=0)
    with pytest.raises(InputError, match="weight_decay"):
        start(weight_decay=-1.0)
    with pytest.raises(ShapeError, match="float32"):
        put(Split(np.zeros((4, 8, 8, 1), np.float32), np.zeros(4, np.int32)))
    with pytest.raises(ShapeError, match="labels"):
        put(Split(np.zeros((4, 8, 8, 1), np.uint8), np.zeros(3, np.int32)))


def test_the_state_is_a_tuple_of_arrays(key):
    state = init_state(Tiny(), adam(), key, (8, 8, 1))
    assert isinstance(state, TrainState)
    assert set(state.model_state) == {"batch_stats"}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(pointers)) == len(pointers)


def main():
    """Trains on one device and on all; run in a process that has four."""
    key, data, report = jax.random.key(3), stripes(70), {}
    for name, mesh in [("one", None), ("all", data_mesh())]:
        # A large eps: otherwise first steps are signs, and rounding decides some.
        optimizer, model = adam(eps=1e-3), Tiny()
        settings = {"mesh": mesh, **PIXELS}
        state = init_state(model, optimizer, key, (8, 8, 1), mesh=mesh)
        epoch = make_epoch(
            model, optimizer, batch_size=16, augment=crop_and_flip, **settings
        )
        evaluate = make_evaluate(model, batch_size=16, **settings)
        train, losses = put(data, mesh), []
        for i in range(4):
            state, metrics = epoch(state, train, jax.random.fold_in(key, i))
            losses.append(float(metrics["loss"]))
            if i == 0:
                TRACES.clear()
        traces = len(TRACES)
        state = restart(state, optimizer)
        state, _ = epoch(state, train, key)
        result = evaluate(state.params, state.model_state, train)
        report[name] = {
            "losses": losses,
            "loss": float(result["loss"]),
            "devices": len(state.params["fc"]["kernel"].sharding.device_set),
            "traces": traces,
        }
    try:
        make_epoch(Tiny(), adam(), batch_size=15, mesh=data_mesh(), **PIXELS)
    except InputError as error:
        report["error"] = str(error)
    print(json.dumps(report))


def test_four_devices_train_like_one():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(4),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.experiments.test_training"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    one, every = report["one"], report["all"]
    assert (one["devices"], every["devices"]) == (1, 4)
    assert (one["traces"], every["traces"]) == (0, 0)
    np.testing.assert_allclose(every["losses"], one["losses"], rtol=2e-4)
    np.testing.assert_allclose(every["loss"], one["loss"], rtol=2e-4)
    assert "multiple of the 4 devices" in report["error"]


if __name__ == "__main__":
    main()
