"""Compaction of the networks that experiments train, at small sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import trees
from experiments.models import create
from experiments.models.mobilenet import MobileNetV2
from experiments.models.resnet import ResNet
from experiments.models.vgg import VGG
from gap import compact
from gap.masks import apply_masks

STAGES = ((1, 4, 1, 1), (3, 6, 2, 1), (3, 6, 1, 2))


def variables(model, x, seed=0):
    """Random parameters and statistics: nothing is zero that is not pruned."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x))

    def draw(path, leaf):
        name = path[-1].key
        if name == "var":
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        scale = 1 / np.sqrt(np.prod(leaf.shape[:-1]))
        return (scale * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def filters(params, names, share=0.5, seed=1):
    """Masks that prune a share of the filters of kernels, by a part of the path."""
    rng = np.random.default_rng(seed)

    def mask(path, w):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name.endswith("kernel") or not any(part in name for part in names):
            return None
        gone = rng.permutation(w.shape[-1])[: int(share * w.shape[-1])]
        found = np.ones(w.shape, bool)
        found[..., gone] = False
        return found

    return jax.tree_util.tree_map_with_path(mask, params)


def check(model, shape, names, **options):
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    params = variables(model, x)
    masks = filters(params, names)
    small = compact(model.apply, params, masks, x[:1], **options)
    want = jax.jit(model.apply)(apply_masks(params, masks), x)
    got = jax.jit(small.fn)(small.params, x)
    np.testing.assert_allclose(got, want, atol=1e-5 * max(1, np.abs(want).max()))
    return small, x, want


def width(small, path, axis=-1):
    return len(small.widths[path][axis])


def test_lenet5_gives_the_parameters_of_a_narrower_lenet5():
    small, x, want = check(create("lenet5"), (2, 28, 28, 1), ["conv1", "conv2", "fc1"])
    assert width(small, "params/conv1/kernel") == 10
    assert width(small, "params/conv2/kernel") == 25
    assert small.params["params"]["fc1"]["kernel"].shape == (16 * 25, 250)
    assert not small.offsets
    assert not small.kept_because
    narrow = create("lenet5", features=(10, 25), hidden=250)
    np.testing.assert_allclose(narrow.apply(small.params, x), want, atol=1e-4)


def test_resnet_loses_the_inner_filters_of_its_blocks_and_keeps_its_stream():
    model = ResNet(depth=8, width=4)
    small, _, _ = check(model, (3, 8, 8, 3), ["_0/conv1", "layer1_0/conv2"])
    for stage in (1, 2, 3):
        n = 2 * 2 ** (stage - 1)
        assert width(small, f"params/layer{stage}_0/conv1/kernel") == n
        assert width(small, f"params/layer{stage}_0/conv2/kernel", 2) == n
        assert width(small, f"params/layer{stage}_0/conv2/kernel") == 2 * n
        assert width(small, f"batch_stats/layer{stage}_0/bn1/var", 0) == n
    assert {s.path for s in small.kept_because} >= {"params/layer1_0/conv2/kernel"}


def test_a_stream_pruned_everywhere_goes_through_padded_shortcuts():
    model = ResNet(depth=8, width=4)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
    params = variables(model, x)
    masks = jax.tree.map(lambda w: np.ones(w.shape, bool), params)
    found = trees.by_path(masks)
    # Channel 1 of stage one is channel 3 of stage two, and 7 of stage three.
    for stage, at in ((1, 1), (2, 3), (3, 7)):
        found[f"params/layer{stage}_0/conv2/kernel"][..., at] = False
        found[f"params/layer{stage}_0/bn2/bias"][at] = False
        params["batch_stats"][f"layer{stage}_0"]["bn2"]["mean"][at] = 0
    found["params/conv1/kernel"][..., 1] = False
    small = compact(model.apply, params, masks, x)
    want = jax.jit(model.apply)(apply_masks(params, masks), x)
    got = jax.jit(small.fn)(small.params, x)
    np.testing.assert_allclose(got, want, atol=1e-5 * max(1, np.abs(want).max()))
    widths = [width(small, f"params/layer{s}_0/conv2/kernel") for s in (1, 2, 3)]
    assert widths == [3, 7, 15]
    assert width(small, "params/linear/kernel", 0) == 15


def test_mobilenet_loses_expanded_channels_with_their_depthwise_filters():
    model = MobileNetV2(stages=STAGES, stem=4, head=10)
    small, _, _ = check(model, (3, 8, 8, 3), ["layer3_0/conv1", "/conv2"])
    inner = width(small, "params/layer3_0/conv1/kernel")
    assert inner < 18
    assert width(small, "params/layer3_0/conv2/kernel") == inner
    assert width(small, "params/layer3_0/conv3/kernel", 2) == inner
    assert width(small, "params/conv2/kernel") == 5  # the head
    assert width(small, "params/linear/kernel", 0) == 5


@pytest.mark.parametrize("maps", [True, False])
def test_vgg_without_maps_is_a_narrower_vgg(maps):
    model = VGG(stages=((6, 4), (8,)))
    small, x, want = check(model, (3, 8, 8, 3), ["conv"], maps=maps)
    first = [width(small, f"params/conv{i}/kernel") for i in ("1_1", "1_2", "2_1")]
    if maps:
        assert first == [3, 2, 4]
        assert small.offsets
    else:
        assert not small.offsets
        narrow = VGG(stages=(tuple(first[:2]), tuple(first[2:])))
        np.testing.assert_allclose(
            narrow.apply(small.params, x), want, atol=1e-4 * np.abs(want).max()
        )


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_recurrent_networks_keep_what_a_loop_ties(name):
    model = create(name, hidden=(6,))
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    params = variables(model, x)
    # Nobody reads unit 2: neither the classes nor any gate.
    for path, w in trees.by_path(params).items():
        if path.endswith("kernel") and w.shape[0] == 6:
            w[2] = 0
    small = compact(model.apply, params, None, x)
    got = jax.jit(small.fn)(small.params, x)
    want = jax.jit(model.apply)(jax.tree.map(jnp.asarray, params), x)
    np.testing.assert_allclose(got, want, atol=1e-5 * max(1, np.abs(want).max()))
    hidden = [
        w.shape[0] for p, w in trees.by_path(small.params).items() if "kernel" in p
    ]
    assert sum(small.removed.values()) > 0, small.report()
    assert 5 in hidden
