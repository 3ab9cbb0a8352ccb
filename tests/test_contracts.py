"""The contract of every room, and of every optax transform of every room."""

import collections
import collections.abc
import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import admm
import core
import gap
import graph
import hw
import quant
import verify
import zo
from core.errors import InputError
from tests.relaxed import relaxed

KEY = jax.random.key(1)
MASKS = {"w": jnp.arange(20).reshape(4, 5) % 3 == 0, "b": None}


def inner():
    return relaxed(optax.adam(0.1))


TRANSFORMS = {
    "masked": lambda: gap.masked(inner(), MASKS),
    "prune": lambda: gap.prune(inner(), [("w", 0.3)], gap.Cubic(0, 4)),
    "add_l1": lambda: gap.add_l1(0.01, [("w", 1.0)]),
    "static_random": lambda: gap.static_random(inner(), [("w", 0.3)], KEY),
    "at_init": lambda: gap.at_init(inner(), [("w", gap.Target(0.5, None, gap.NM()))]),
    "snip": lambda: gap.snip(inner(), [("w", 0.3), ("b", 0.8)], at=1),
    "rewire": lambda: gap.rewire(
        inner(), [("w", 0.5)], KEY, fraction=0.5, every=2, grow="random"
    ),
    "rigl": lambda: gap.rigl(inner(), [("w", 0.5)], KEY, until=9, every=2),
    "set_": lambda: gap.set_(
        inner(), [("w", gap.Target(0.5, None, gap.NM()))], KEY, every=2
    ),
    "cyclic": lambda: gap.cyclic(
        inner(),
        [(".*", 0.4)],
        KEY,
        gap.Partition((("w",), ("b",))),
        interval=1,
        rounds=2,
        grow_to=0.8,
    ),
    "track_explored": lambda: gap.track_explored(gap.masked(inner(), MASKS)),
    "admm": lambda: admm.admm(inner(), [("w", 0.3)], interval=2, rho=0.1),
    "hold": lambda: admm.hold(inner(), {"w": MASKS["w"], "b": None}),
    "trp": lambda: admm.trp(inner(), [("w", admm.LowRank(rank=2))], period=2),
    "adamm": lambda: zo.adamm(0.1, projection=zo.l2_ball(3.0)),
    "projected": lambda: zo.projected(inner(), zo.box(-1.0, 1.0)),
    "proximal": lambda: zo.proximal(inner(), zo.l1(0.1), 0.1),
}


def test_every_transform_has_a_row():
    assert set(TRANSFORMS) == {*gap.TRANSFORMS, *admm.TRANSFORMS, *zo.TRANSFORMS}
    made = {
        name
        for room in (gap, admm, zo)
        for name in room.__all__
        if inspect.isfunction(f := getattr(room, name))
        and isinstance(f.__annotations__.get("return"), type)
        and issubclass(f.__annotations__["return"], optax.GradientTransformation)
    }
    assert made <= set(TRANSFORMS), "a public transform is in no registry"
    assert made, "annotations of transforms are not found any more"


@pytest.mark.parametrize(
    ("room", "protocol", "registry"),
    [
        (gap, gap.Pattern, gap.PATTERNS),
        (gap, gap.DensitySchedule, gap.SCHEDULES),
        (admm, admm.ConstraintSet, admm.SETS),
    ],
    ids=["patterns", "schedules", "sets"],
)
def test_every_public_value_of_a_kind_is_registered(room, protocol, registry):
    methods = [m for m in vars(protocol) if not m.startswith("_")]
    public = [getattr(room, name) for name in room.__all__]
    found = {
        item
        for item in public
        if dataclasses.is_dataclass(item) and all(hasattr(item, m) for m in methods)
    }
    assert found == set(registry.values())


def test_registered_transforms_are_public():
    for room in (gap, admm, zo):
        assert {f.__name__ for f in room.TRANSFORMS.values()} <= set(room.__all__)


@pytest.mark.parametrize(
    "room", [graph, gap, quant, zo, hw, admm, verify], ids=lambda m: m.__name__
)
def test_public_names_exist_in_order(room):
    assert list(room.__all__) == sorted(set(room.__all__), key=_as_ruff_sorts)
    assert all(hasattr(room, name) for name in room.__all__)


def _as_ruff_sorts(name):
    return not name.isupper(), not name[0].isupper(), name


@pytest.mark.parametrize(
    ("registry", "kind"),
    [
        (verify.RULES, verify.relaxations.Relaxation),
        (verify.EXPANSIONS, collections.abc.Callable),
        (graph.COMPOSITES, collections.abc.Callable),
        (hw.TARGETS, hw.Target),
    ],
    ids=["relaxations", "expansions", "composites", "targets"],
)
def test_a_registry_holds_one_kind_by_name(registry, kind):
    assert registry
    assert all(isinstance(item, kind) for item in registry.values())
    assert all(isinstance(name, str) for name in registry)


def test_an_expansion_has_no_relaxation_that_it_hides():
    both = set(verify.RULES) & set(verify.EXPANSIONS)
    assert both <= {"abs", "mul"}  # an exact relu; a square where both operands are one


def test_library_rooms_load_nothing_heavy():
    heavy = "flax tensorflow_datasets orbax matplotlib tqdm torch PIL scipy onnx "
    heavy += "onnxruntime vnnlib experiments"
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, core, graph, gap, quant, zo, hw, admm, verify\n"
            f"print(*set(sys.modules).intersection({heavy.split()!r}))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == []


@pytest.mark.parametrize(
    "room", [core, gap, hw, admm, verify], ids=lambda m: m.__name__
)
def test_docstring_examples_run(room):
    modules = [room] + [
        importlib.import_module(m.name)
        for m in pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
    ]
    with jax.numpy_rank_promotion("allow"):  # examples are a user's own code
        results = [doctest.testmod(module) for module in modules]
    assert not any(r.failed for r in results)
    assert any(r.attempted for r in results)


class Program:
    """A transform, compiled once for the tests that share it."""

    def __init__(self, transform):
        self.transform = transform
        self.traces = collections.Counter()
        self.init = jax.jit(transform.init)
        self.update = jax.jit(self._update)

    def _update(self, grads, state, params):
        self.traces[params["w"].dtype] += 1
        return self.transform.update(grads, state, params)


@pytest.fixture(scope="module", params=sorted(TRANSFORMS))
def program(request):
    return Program(TRANSFORMS[request.param]())


def parameters(key, dtype=jnp.float32):
    return {
        "w": jax.random.normal(key, (4, 5), dtype),
        "b": jnp.ones((5,), dtype),
    }


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def check_updates(program, params):
    """Five updates: shapes and dtypes of updates and state never change."""
    grads = jax.tree.map(lambda x: 0.1 * x, params)
    state = program.init(params)
    for _ in range(5):
        updates, new = program.update(grads, state, params)
        assert shapes(updates) == shapes(params)
        assert shapes(new) == shapes(state)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        state, params = new, optax.apply_updates(params, updates)
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(params))
    assert program.traces[params["w"].dtype] == 1


def test_shapes_dtypes_and_one_trace(program, key):
    check_updates(program, parameters(key))


def test_in_float64(program, key):
    with jax.enable_x64(True):
        check_updates(program, parameters(key, jnp.float64))


def test_unknown_extra_arguments_are_let_through(program, key):
    params = parameters(key)
    state = jax.eval_shape(program.init, params)
    value = jnp.float32(1.0)
    jax.eval_shape(program.transform.update, params, state, params, value=value)


def test_params_are_asked_for_by_name(program, key):
    params = parameters(key)
    with pytest.raises(InputError, match="current parameters"):
        program.transform.update(params, program.init(params))


def test_chained_and_vmapped_replicas_equal_single_runs(program, key):
    # Transforms come last: one that holds masks or projects ends at its own values.
    chained = optax.chain(optax.scale(0.5), program.transform)
    params = jax.vmap(parameters)(jax.random.split(key, 3))

    def run(params):
        return chained.update(params, chained.init(params), params)[0]

    together = jax.jit(jax.vmap(run))(params)
    for i in range(3):
        alone = jax.tree.map(lambda x, i=i: x[i], params)
        half = jax.tree.map(lambda x: 0.5 * x, alone)
        updates, _ = program.update(half, program.init(alone), alone)
        for name in params:
            np.testing.assert_allclose(together[name][i], updates[name], rtol=1e-5)


def test_parameters_and_state_may_be_donated(program, key):
    params = jax.tree.map(jnp.copy, parameters(key))
    state = jax.tree.map(jnp.copy, program.init(params))

    def step(params, state):
        updates, state = program.transform.update(params, state, params)
        return optax.apply_updates(params, updates), state

    updates, after = program.update(params, state, params)
    expected = optax.apply_updates(params, updates), after
    donating = jax.jit(step, donate_argnums=(0, 1))
    got = donating(params, state)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    donating(*got)


def test_bfloat16_parameters_with_float32_gradients(program, key):
    params = parameters(key, jnp.bfloat16)
    grads = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    state = program.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(4):
            updates, state = program.update(grads, state, params)
            params = optax.apply_updates(params, updates)
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(params))
