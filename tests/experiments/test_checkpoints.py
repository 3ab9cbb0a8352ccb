"""Checkpoints: every bit comes back; damage is found and survived."""

import resource
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core.errors import CheckpointError, WorkdirError
from experiments import checkpoints as module
from experiments import leaves
from experiments.checkpoints import Checkpoints, Hooks


class State(NamedTuple):
    step: Any
    params: Any
    opt_state: Any
    masks: Any
    keys: Any
    odd: Any


def make_state(seed=0):
    key = jax.random.key(seed)
    params = {
        "fc1": {"kernel": jax.random.normal(key, (3, 4)), "bias": jnp.zeros((4,))},
        "half": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3) / 3,
    }
    return State(
        step=jnp.asarray(seed, jnp.int32),
        params=params,
        opt_state=optax.adam(1e-3).init(params),
        masks={"fc1": {"kernel": params["fc1"]["kernel"] > 0, "bias": None}},
        keys=[key, jax.random.key(seed, impl="rbg"), jax.random.PRNGKey(seed)],
        odd={
            "weak": jnp.asarray(1.5),
            "weak_int": jnp.asarray(3),
            "weak_row": jnp.broadcast_to(jnp.asarray(2.5), (3,)),
            "empty": jnp.zeros((0, 3)),
            "host": np.arange(5, dtype=np.int64),
            "python": (7, 0.1, True),
            "nan": jnp.asarray([jnp.nan, -0.0, jnp.inf]),
        },
    )


def bits(leaf):
    data = leaves.pack(leaf)
    return data.dtype, data.shape, data.tobytes()


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert type(one) is type(other)
        assert getattr(one, "dtype", None) == getattr(other, "dtype", None)
        assert getattr(one, "weak_type", None) == getattr(other, "weak_type", None)
        assert bits(one) == bits(other)


@pytest.fixture
def notes():
    return []


@pytest.fixture
def store(tmp_path, notes):
    return Checkpoints(tmp_path / "train", hooks=Hooks(note=notes.append))


def damage(store, step, keep_bytes=10):
    path = max((store.folder / str(step) / "arrays").rglob("*"), key=_size)
    path.write_bytes(path.read_bytes()[:keep_bytes])


def _size(path):
    return path.stat().st_size if path.is_file() else 0


def test_round_trip_of_every_kind_of_leaf(store):
    state = make_state(3)
    assert store.save(7, state, force=True)
    step, found = store.restore(make_state(0))
    assert step == 7
    assert_same(found, state)


def test_a_jitted_step_is_not_traced_again_after_a_restore(store):
    optimizer, traces = optax.sgd(1e-2, momentum=0.9), []

    @jax.jit
    def update(params, state):
        traces.append(1)
        grads = jax.tree.map(lambda x: 2 * x, params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = {"w": jnp.ones((3,))}
    state = optimizer.init(params)
    for _ in range(2):
        params, state = update(params, state)
    before = len(traces)
    store.save(2, (params, state), force=True)
    _, restored = store.restore((params, state))
    assert_same(update(*restored), update(params, state))
    assert len(traces) == before


def test_restored_arrays_can_be_donated_and_leave_the_files_alone(store):
    shared = jnp.arange(1024.0)
    store.save(1, {"a": shared, "b": shared}, force=True)
    _, found = store.restore({"a": shared, "b": shared})
    double = jax.jit(lambda t: jax.tree.map(lambda x: 2 * x, t), donate_argnums=0)
    np.testing.assert_array_equal(double(found)["b"], 2 * np.arange(1024.0))
    assert found["a"].is_deleted()
    _, again = store.restore({"a": shared, "b": shared})
    np.testing.assert_array_equal(again["a"], np.arange(1024.0))


def test_like_may_be_shapes_only(store):
    state = {"w": jnp.ones((2,)), "key": jax.random.key(1)}
    store.save(1, state, force=True)
    _, found = store.restore(jax.eval_shape(lambda: state))
    assert_same(found, state)


def test_trees_without_arrays(store):
    store.save(1, {"a": None}, force=True)
    assert store.restore({"a": None}) == (1, {"a": None})


def test_nothing_saved_is_none(store):
    assert store.restore({"a": jnp.ones(())}) is None


def test_the_last_two_are_kept_and_the_newest_is_restored(store):
    for step in (1, 5, 20, 100):
        store.save(step, {"x": jnp.asarray(step)}, force=True)
    assert store.steps() == [20, 100]
    assert int(store.restore({"x": jnp.asarray(0)})[1]["x"]) == 100


def test_the_same_step_can_be_saved_again(store):
    for value in (1, 2):
        store.save(4, {"x": jnp.asarray(value)}, force=True)
    assert store.steps() == [4]
    assert int(store.restore({"x": jnp.asarray(0)})[1]["x"]) == 2


def test_saves_keep_their_distance_unless_forced(tmp_path):
    store = Checkpoints(tmp_path / "s", every=3600.0)
    tree = {"x": jnp.ones(())}
    assert not store.save(1, tree)
    assert store.save(2, tree, force=True)
    assert not store.save(3, tree)
    always = Checkpoints(tmp_path / "t", every=0.0)
    assert always.save(1, tree)
    assert always.save(2, tree)


@pytest.mark.parametrize("how", ["cut", "gone", "manifest", "no manifest"])
def test_a_damaged_checkpoint_falls_back_and_says_so(store, notes, how):
    like = {"x": jnp.arange(1000.0)}
    for step in (1, 2):
        store.save(step, {"x": like["x"] + step}, force=True)
    newest = store.folder / "2"
    if how == "cut":
        damage(store, 2)
    elif how == "gone":
        next(p for p in (newest / "arrays").rglob("*") if p.is_file()).unlink()
    elif how == "manifest":
        (newest / module.MANIFEST).write_text('{"files": ')
    else:
        (newest / module.MANIFEST).unlink()
    step, found = store.restore(like)
    assert step == 1
    np.testing.assert_array_equal(found["x"], np.arange(1000.0) + 1)
    assert len(notes) == 1
    assert "train/2 is damaged" in notes[0]
    assert "going back to step 1" in notes[0]
    assert store.steps() == [1]


def test_with_all_damaged_the_stage_starts_again(store, notes):
    for step in (1, 2):
        store.save(step, {"x": jnp.arange(1000.0)}, force=True)
        damage(store, step)
    assert store.restore({"x": jnp.arange(1000.0)}) is None
    assert "starting the stage again" in notes[-1]


def test_a_flipped_bit_is_found(store):
    store.save(1, {"x": jnp.arange(1000.0)}, force=True)
    path = max((store.folder / "1" / "arrays").rglob("*"), key=_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "checksum" in store.damage(1)


@pytest.mark.parametrize(
    ("like", "words"),
    [
        ({"x": jnp.ones((2,))}, "got x float32[3]; expected x float32[2]"),
        ({"x": jnp.ones((3,), jnp.bfloat16)}, "expected x bfloat16[3]"),
        ({"y": jnp.ones((3,))}, "got no leaf y; expected y float32[3]"),
        ({"x": jnp.ones((3,)), "z": jnp.ones(())}, "got no leaf z"),
        ({"x": None}, "expected no leaf x"),
        ({"x": jax.random.key(0)}, "key threefry2x32"),
    ],
)
def test_another_structure_is_an_error_with_a_remedy(store, like, words):
    store.save(1, {"x": jnp.ones((3,))}, force=True)
    with pytest.raises(CheckpointError) as caught:
        store.restore(like)
    assert words in str(caught.value)
    assert "--workdir" in str(caught.value)


def test_a_kill_inside_of_a_save_leaves_the_older_checkpoint(store, monkeypatch):
    store.save(1, {"x": jnp.asarray(1)}, force=True)

    def killed(*_, **__):
        raise KeyboardInterrupt

    for name in ("_orbax_save", "_digests"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, killed)
            with pytest.raises(KeyboardInterrupt):
                store.save(2, {"x": jnp.asarray(2)}, force=True)
        assert store.steps() == [1]
    assert store.restore({"x": jnp.asarray(0)})[0] == 1
    store.save(3, {"x": jnp.asarray(3)}, force=True)
    assert sorted(p.name for p in store.folder.iterdir()) == ["1", "3"]


def test_only_a_forced_newest_checkpoint_is_a_result(tmp_path):
    store = Checkpoints(tmp_path / "s", every=0.0)
    tree = {"x": jnp.ones(())}
    assert store.result() is None
    store.save(1, tree, force=True)
    assert store.result() == 1
    store.save(2, tree)
    assert store.result() is None
    store.save(3, tree, force=True)
    store.tidy(store.result())
    assert store.steps() == [3]
    store.tidy(None)
    assert store.steps() == []


def test_what_a_checkpoint_cannot_hold_is_refused(store):
    with pytest.raises(TypeError, match="x/0: a checkpoint cannot hold a str"):
        store.save(1, {"x": ["text"]}, force=True)
    with pytest.raises(ValueError, match="negative"):
        store.save(-1, {}, force=True)


def test_a_full_disk_is_named_and_costs_no_older_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path / "s")
    checkpoints.save(1, {"x": np.ones(3)}, force=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).random(1_000_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(
            WorkdirError, match=r"s: cannot be written \(File too large"
        ):
            checkpoints.save(2, {"x": noise}, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.steps() == [1]
    checkpoints.save(2, {"x": noise}, force=True)
    assert checkpoints.steps() == [1, 2]
