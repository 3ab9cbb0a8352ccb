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

import gap
from core import trees
from tests.devices import xla_flags
from tests.gap.training_cases import adam, counts, problem

RULES = [("fc.*/kernel", 0.25)]
NAMES = [f"fc{i}/kernel" for i in (1, 2, 3)]
SPARSE = {"fc1/kernel": 12, "fc2/kernel": 16, "fc3/kernel": 8}
GROUPS = gap.Partition(tuple((name,) for name in NAMES))


def start(key):
    params, loss = problem(key)
    masks = gap.random_masks(key, params, RULES)
    return params, masks, loss


def trainer(loss, steps=5):
    tx = gap.masked(adam(), {})

    def train(params, masks):
        state = gap.masked(adam(), masks).init(params)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), length=steps)[0][0]

    return train


def test_copy_i_is_dense_in_group_i_and_grows_from_zeros(key):
    params, masks, _ = start(key)
    copies, grown = gap.grow_copies(params, masks, GROUPS)
    pruned = gap.apply_masks(params, masks)
    for i in range(3):
        mine = jax.tree.map(lambda x, i=i: x[i], (copies, grown))
        jax.tree.map(np.testing.assert_array_equal, mine[0], pruned)
        for j, name in enumerate(NAMES):
            mask = trees.by_path(mine[1])[name]
            expected = jnp.ones_like(mask) if i == j else trees.by_path(masks)[name]
            np.testing.assert_array_equal(mask, expected)
    assert grown["fc1"]["bias"] is None


def test_a_mask_of_no_group_is_the_same_in_all_copies(key):
    params, masks, _ = start(key)
    _, grown = gap.grow_copies(params, masks, gap.Partition((NAMES[:1], NAMES[1:2])))
    for i in range(2):
        np.testing.assert_array_equal(grown["fc3"]["kernel"][i], masks["fc3"]["kernel"])


def test_identical_copies_combine_to_the_network_itself(key):
    params, _, _ = start(key)
    copies = jax.tree.map(lambda w: jnp.stack([w] * 3), params)
    combined = gap.combine_copies(copies, GROUPS)
    jax.tree.map(np.testing.assert_array_equal, combined, params)


def test_every_leaf_comes_from_the_copy_of_its_group_biases_too(key):
    params, _, _ = start(key)
    params["scale"] = jnp.ones(())
    copies = jax.tree.map(
        lambda w: jnp.stack([jnp.full_like(w, i) for i in range(3)]), params
    )
    combined = gap.combine_copies(copies, GROUPS)
    for path, leaf in trees.by_path(combined).items():
        expected = 0 if path == "scale" else int(path[2]) - 1
        assert np.all(np.asarray(leaf) == expected), path
    other = jax.tree.map(lambda _: 2, params)
    assert float(gap.combine_copies(copies, GROUPS, other)["fc1"]["bias"][0]) == 2


def test_groups_are_disjoint_and_complete_after_combination(key):
    params, masks, _ = start(key)
    _, grown = gap.grow_copies(params, masks, GROUPS)
    for name in NAMES:
        dense = trees.by_path(grown)[name].all(axis=(1, 2))
        assert int(dense.sum()) == 1
    everything = gap.combine_copies(grown, GROUPS)
    assert all(bool(m.all()) for m in jax.tree.leaves(everything))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_pruning_back_keeps_exact_counts_of_the_largest(scope, key):
    params, _, _ = start(key)
    pruned, masks = gap.prune_back(params, RULES, scope=scope)
    if scope == "layer":
        assert counts(masks) == SPARSE
        expected = gap.magnitude_masks(params, RULES)
    else:
        everything = [(name, True) for name in NAMES]
        expected = gap.global_magnitude_masks(params, 0.25, everything)
        assert sum(counts(masks).values()) == 36
    jax.tree.map(np.testing.assert_array_equal, masks, expected)
    jax.tree.map(np.testing.assert_array_equal, pruned, gap.apply_masks(params, masks))


def test_a_round_equals_copies_that_were_trained_one_by_one(key):
    params, masks, loss = start(key)
    train = trainer(loss)
    together = jax.jit(lambda p, m: gap.parallel_round(train, p, m, GROUPS, RULES))(
        params, masks
    )
    copies = gap.grow_copies(params, masks, GROUPS)
    alone = [
        jax.jit(train)(*jax.tree.map(lambda x, i=i: x[i], copies)) for i in range(3)
    ]
    expected = {name: alone[int(name[2]) - 1][name] for name in params}
    pruned, kept = gap.prune_back(expected, RULES)
    jax.tree.map(np.testing.assert_array_equal, together[1], kept)
    for a, b in zip(jax.tree.leaves(together[0]), jax.tree.leaves(pruned), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert float(loss(together[0])) < float(loss(gap.apply_masks(params, masks)))


def test_a_round_takes_leaves_from_the_copies_that_owners_name(key):
    """A train that marks its copy: every bias from copy 2, kernels from their own."""
    params, masks, _ = start(key)

    def mark(params, masks, number):
        return jax.tree.map(lambda w: jnp.full_like(w, number), params)

    owners = GROUPS.owners(params, [(".*/bias", 2)])
    found, _ = gap.parallel_round(
        mark, params, masks, GROUPS, RULES, jnp.array([1.0, 2.0, 3.0]), owners=owners
    )
    for i in range(3):
        layer = found[f"fc{i + 1}"]
        assert float(layer["kernel"].max()) == i + 1
        assert np.all(np.asarray(layer["bias"]) == 3)


SHARDED = """
import json, sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import gap
from core import trees
from tests.gap.test_parallel import trainer
from tests.gap.training_cases import problem

shapes = ((6, 8), (8, 8), (8, 8), (8, 4))
params, loss = problem(jax.random.key(0), shapes)
rules = [("fc.*/kernel", 0.25)]
groups = gap.partition(params, rules, 4)
masks = jax.jit(lambda k: gap.random_masks(k, params, rules))(jax.random.key(0))
mesh = jax.make_mesh((4,), ("copy",), axis_types=(AxisType.Auto,))
lead = NamedSharding(mesh, PartitionSpec("copy"))
copies = jax.jit(lambda p, m: gap.grow_copies(p, m, groups))(params, masks)
copies = jax.device_put(copies, lead)
trained = jax.jit(jax.vmap(trainer(loss)), out_shardings=lead)(*copies)
owner = {len(x.sharding.device_set) for x in jax.tree.leaves(trained)}
shards = [s for x in jax.tree.leaves(trained) for s in x.addressable_shards]
local = {s.data.shape[0] for s in shards}
pruned, kept = jax.jit(
    lambda c: gap.prune_back(gap.combine_copies(c, groups), rules)
)(trained)
one, single = jax.jit(
    lambda p, m: gap.parallel_round(trainer(loss), p, m, groups, rules)
)(params, masks)
near = [np.allclose(a, b, rtol=1e-4, atol=1e-5)
        for a, b in zip(jax.tree.leaves(pruned), jax.tree.leaves(one), strict=True)]
same = [bool((np.asarray(a) == np.asarray(b)).all())
        for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(single), strict=True)]
print(json.dumps({"devices": sorted(owner), "local": sorted(local),
                  "near": all(near), "same": all(same)}))
"""


def test_copies_train_on_four_devices_as_on_one():
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {
        "XLA_FLAGS": xla_flags(4),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(root),
    }
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=env,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"devices": [4], "local": [1], "near": True, "same": True}
