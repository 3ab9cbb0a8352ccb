import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gap
from core import trees
from core.errors import InputError, RuleError

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=8)


def network(sizes):
    return {f"layer{i}": {"kernel": jnp.ones(n)} for i, n in enumerate(sizes)}


RULES = [(".*/kernel", 0.5)]


@given(SIZES, st.integers(1, 8), st.sampled_from(["depth", "size", "random"]))
@settings(max_examples=40)
def test_groups_are_disjoint_complete_and_none_is_empty(sizes, kappa, by):
    kappa = min(kappa, len(sizes))
    params = network(sizes)
    found = gap.partition(params, RULES, kappa, by=by, key=jax.random.key(0))
    assert found.kappa == kappa
    names = [name for part in found.parts for name in part]
    assert all(found.parts)
    assert sorted(names) == sorted(trees.paths(params))
    if by != "random":
        assert names == [f"layer{i}/kernel" for i in range(len(sizes))]
    if by != "size":
        lengths = [len(part) for part in found.parts]
        assert max(lengths) - min(lengths) <= 1


@given(SIZES, st.integers(1, 8))
@settings(max_examples=40)
def test_by_size_no_other_cut_has_a_smaller_largest_group(sizes, kappa):
    kappa = min(kappa, len(sizes))
    parts = gap.partition(network(sizes), RULES, kappa, by="size").parts

    def largest(ends):
        edges = [0, *ends, len(sizes)]
        return max(sum(sizes[a:b]) for a, b in itertools.pairwise(edges))

    ends = np.cumsum([len(part) for part in parts])[:-1].tolist()
    cuts = itertools.combinations(range(1, len(sizes)), kappa - 1)
    assert largest(ends) == min(largest(cut) for cut in cuts)


def test_numbers_in_paths_count_as_numbers_and_an_order_goes_first():
    params = {name: jnp.ones(2) for name in ("fc10", "fc9", "conv1", "out")}
    rules = [(".*", 0.5)]
    found = gap.partition(params, rules, 4)
    assert found.parts == (("conv1",), ("fc9",), ("fc10",), ("out",))
    order = ["out", "fc.*", "conv1"]
    found = gap.partition(params, rules, 2, order=order)
    assert found.parts == (("out", "fc9"), ("fc10", "conv1"))
    with pytest.raises(InputError, match="matches out"):
        gap.partition(params, rules, 2, order=["fc.*", "conv1"])


def test_a_random_partition_depends_on_its_key_alone():
    params = network([4] * 8)
    draw = lambda seed: gap.partition(  # noqa: E731
        params, RULES, 3, by="random", key=jax.random.key(seed)
    )
    assert draw(0) == draw(0) != draw(1)
    with pytest.raises(InputError, match="key"):
        gap.partition(params, RULES, 3, by="random")


def test_leaves_outside_of_the_rules_are_in_no_group():
    params = network([3, 3, 3]) | {"bias": jnp.ones(3)}
    rules = [("layer1/.*", None), (".*/kernel", 0.5)]
    found = gap.partition(params, rules, 2)
    index = found.index(params)
    assert found.parts == (("layer0/kernel",), ("layer2/kernel",))
    assert index["layer1"]["kernel"] is None
    assert index["bias"] is None
    assert index["layer2"]["kernel"] == 1


def test_biases_and_norms_belong_to_the_group_of_their_block():
    layer = lambda: {"kernel": jnp.ones(2), "bias": jnp.ones(2)}  # noqa: E731
    block = lambda: {  # noqa: E731
        "conv1": {"kernel": jnp.ones(2)},
        "bn1": {"scale": jnp.ones(2)},
    }
    params = {"stem": layer(), "b1": block(), "b2": block(), "head": layer()}
    partition = gap.Partition(
        (("b1/conv1/kernel",), ("b2/conv1/kernel", "head/kernel"))
    )
    owners = trees.by_path(partition.owners(params))
    assert {name: own for name, own in owners.items() if own} == {
        "b2/bn1/scale": 1,
        "b2/conv1/kernel": 1,
        "head/bias": 1,
        "head/kernel": 1,
    }
    owners = partition.owners(params, [("stem/.*", 1), ("b2/bn1/.*", 0)])
    assert owners["stem"]["bias"] == 1
    assert owners["b2"]["bn1"]["scale"] == 0
    statistics = {"b2": {"bn1": {"mean": jnp.ones(2)}}}
    assert partition.owners(statistics)["b2"]["bn1"]["mean"] == 1


def test_statistics_go_with_their_layers_under_the_names_of_collections():
    """As flax gives them; from the first copy they would belong to other weights."""
    partition = gap.Partition((("b1/conv1/kernel",), ("b2/conv1/kernel",)))
    layers = {"b1": {"bn1": jnp.ones(2)}, "b2": {"bn1": jnp.ones(2)}}
    owners = partition.owners({"batch_stats": layers})["batch_stats"]
    assert (owners["b1"]["bn1"], owners["b2"]["bn1"]) == (0, 1)
    prefixed = gap.Partition((("params/b1/conv1",), ("params/b2/conv1",)))
    both = prefixed.owners({"params": layers, "batch_stats": layers})
    assert both["params"] == both["batch_stats"] == owners


@pytest.mark.parametrize("parts", [(), ((),), (("a",), ("a",))])
def test_parts_that_are_no_partition_are_refused(parts):
    with pytest.raises(InputError, match="parts"):
        gap.Partition(parts)


def test_a_path_without_a_leaf_and_too_many_groups_are_named():
    params = network([3, 3])
    with pytest.raises(RuleError, match="layer7"):
        gap.Partition((("layer7/kernel",),)).index(params)
    with pytest.raises(InputError, match="kappa"):
        gap.partition(params, RULES, 3)
    with pytest.raises(InputError, match="by"):
        gap.partition(params, RULES, 2, by="colour")
