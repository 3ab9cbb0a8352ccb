"""The contract of every network in MODELS: counts, shapes, modes, types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core.errors import InputError, ShapeError, UnknownNameError
from experiments import models
from experiments.models import MODELS, create

# Published parameter counts, with ten classes.
PUBLISHED = {
    # LeCun et al. 1998; Han et al. (arXiv 1510.00149, table 2): 266K weights.
    "lenet_300_100": 784 * 300 + 300 * 100 + 100 * 10 + 410,
    # ADMM pruning (arXiv 1804.03294): 430.5K weights; Caffe's lenet has 580 biases.
    "lenet5": 430_500 + 580,
    # tensorflow.org/tutorials/images/cnn, model.summary(): Total params: 122,570.
    "convnet": 122_570,
    # He et al. (arXiv 1512.03385, table 6): 0.27M, 0.46M, 0.85M; the exact numbers of
    # the released networks, github.com/akamaster/pytorch_resnet_cifar10.
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet56": 853_018,
    # Both as printed for github.com/kuangliu/pytorch-cifar by torchsummary and thop,
    # and in NeuralFuse (arXiv 2306.16869, table 7, VGG16).
    "vgg16": 14_728_266,
    "mobilenetv2": 2_296_922,
    # Hochreiter and Schmidhuber 1997 with a forget gate, one bias a gate as in Keras:
    # 4h(d + h + 1), and the linear layer.
    "lstm": 4 * 128 * (28 + 128 + 1) + 1_290,
    # Cho et al. (arXiv 1406.1078): 3h(d + h), one bias a gate and one inside reset.
    "gru": 3 * 128 * (28 + 128) + 4 * 128 + 1_290,
}


# Deeper networks of a family differ from these by their number of equal blocks.
RUN = [name for name in MODELS if name not in ("resnet32", "resnet56")]
# One block of each kind: what runs below compiles for seconds with every further one.
SHORT = {
    "resnet20": {"depth": 8},
    "vgg16": {"stages": ((64, 64), (128,), (256,), (512,), (512,))},
    "mobilenetv2": {"stages": ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 1, 2))},
}
# A training step of mobilenetv2 compiles for long; test_layers has its layers.
TRAIN = [name for name in RUN if name != "mobilenetv2"]


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes_of(name: str, **attributes):
    model = create(name, **attributes)
    x = jax.ShapeDtypeStruct((2, *MODELS[name].input_shape), jnp.float32)
    return model, x, jax.eval_shape(model.init, jax.random.key(0), x)


@functools.cache
def ready(name: str):
    """Returns module, short where the network is deep, variables and four inputs."""
    # Threefry compiles for seconds in networks of this many shapes; rbg does not.
    model, key = create(name), jax.random.key(0, impl="rbg")
    model = model.clone(**SHORT.get(name, {}))
    x = jax.random.normal(key, (4, *MODELS[name].input_shape))
    return model, jax.jit(model.init)(key, x), x


def paths_of(tree) -> set[str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(key.key for key in path) for path, _ in leaves}


@pytest.mark.parametrize("name", MODELS)
def test_parameter_count_is_the_published_one(name):
    _, _, variables = shapes_of(name)
    assert count(variables["params"]) == PUBLISHED[name] == MODELS[name].parameters


def test_every_network_is_counted_and_in_the_manual():
    assert set(PUBLISHED) == set(MODELS)
    for name, info in MODELS.items():
        assert name in models.__doc__
        assert f"{info.parameters:,}" in models.__doc__
        assert info.summary
        assert info.source


@pytest.mark.parametrize("name", RUN)
def test_parameters_are_float32_and_logits_too(name):
    for dtype in (jnp.float32, jnp.bfloat16):
        model, x, variables = shapes_of(name, num_classes=7, dtype=dtype)
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(variables)}
        assert dtypes == {np.dtype("float32")}
        for train in (False, True):
            rngs = {"dropout": jax.random.key(0)}
            apply = functools.partial(
                model.apply, train=train, rngs=rngs, mutable=["batch_stats"]
            )
            logits, _ = jax.eval_shape(apply, variables, x)
            assert logits.shape == (2, 7)
            assert logits.dtype == jnp.float32


@pytest.mark.parametrize("name", MODELS)
def test_equal_networks_are_equal_keys(name):
    assert create(name) == create(name)
    assert hash(create(name)) == hash(create(name))
    assert create(name) != create(name, num_classes=3)


@pytest.mark.parametrize("name", RUN)
def test_evaluation(name):
    model, variables, x = ready(name)
    traces = []

    @jax.jit
    def evaluate(variables, x):
        traces.append(None)
        return model.apply(variables, x)

    logits = evaluate(variables, x)
    assert np.isfinite(logits).all()
    np.testing.assert_array_equal(logits, evaluate(variables, x))
    # An image's logits do not depend on its batch.
    np.testing.assert_allclose(logits[::-1], evaluate(variables, x[::-1]), rtol=1e-4)
    assert len(traces) == 1
    half = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, x)
    error = jnp.linalg.norm(half - logits) / jnp.linalg.norm(logits)
    assert 0 < error < 0.05


@pytest.mark.parametrize("name", TRAIN)
def test_training(name):
    model, variables, x = ready(name)
    labels = jnp.arange(len(x))
    traces = []

    @jax.jit
    def step(variables, key):
        traces.append(None)

        def loss(params):
            logits, updates = model.apply(
                {**variables, "params": params},
                x,
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updates

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    (loss, updates), grads = step(variables, jax.random.key(2))
    again, _ = step(variables, jax.random.key(2))
    other, _ = step(variables, jax.random.key(3))
    assert len(traces) == 1
    assert loss == again[0]
    assert (loss != other[0]) == (getattr(model, "dropout_rate", 0.0) > 0)
    for path, grad in jax.tree_util.tree_flatten_with_path(grads)[0]:
        assert np.isfinite(grad).all(), path
        assert (jnp.abs(grad).max() > 0) or "conv" in path[0].key, path
    assert set(updates) == set(variables) - {"params"}
    old, new = variables.get("batch_stats", {}), updates.get("batch_stats", {})
    assert all(
        (a != b).any() and np.isfinite(b).all()
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
    )


@pytest.mark.parametrize("name", ["lenet_300_100", "lenet5", "convnet", "lstm", "gru"])
def test_default_initialisers_train(name):
    """Forty steps of Adam tell 20 random inputs apart better than chance."""
    model, variables, _ = ready(name)
    x = jax.random.normal(jax.random.key(5), (20, *MODELS[name].input_shape))
    labels = jnp.arange(20) % 10
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, state):
        def loss(params):
            logits = model.apply({"params": params}, x)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    params, losses = variables["params"], []
    state = optimizer.init(params)
    with jax.numpy_dtype_promotion("standard"):  # optax.adam needs it
        for _ in range(40):
            params, state, value = step(params, state)
            losses.append(float(value))
    assert losses[0] < 4 * np.log(10)
    assert losses[-1] < 0.5 * np.log(10)


def test_paths_read_like_the_architecture():
    _, _, lenet = shapes_of("lenet5")
    assert paths_of(lenet["params"]) == {
        f"{layer}/{leaf}"
        for layer in ("conv1", "conv2", "fc1", "fc2")
        for leaf in ("kernel", "bias")
    }
    _, _, resnet = shapes_of("resnet20")
    assert {"conv1/kernel", "layer1_0/conv1/kernel", "layer3_2/bn2/scale"} <= paths_of(
        resnet["params"]
    )
    assert {"bn1/mean", "layer2_0/bn1/var"} <= paths_of(resnet["batch_stats"])
    _, _, vgg = shapes_of("vgg16")
    assert {"conv1_1/kernel", "conv5_3/bias", "linear/kernel"} <= paths_of(
        vgg["params"]
    )
    _, _, lstm = shapes_of("lstm")
    assert {"lstm1/if/kernel", "lstm1/hf/bias"} <= paths_of(lstm["params"])


def test_create_says_what_it_expected():
    with pytest.raises(UnknownNameError, match="did you mean resnet"):
        create("resnet21")
    with pytest.raises(InputError, match="dropout_rate"):
        create("lenet5", dropout=0.1)
    with pytest.raises(InputError, match="no attribute 'depth'"):
        create("resnet20", depth=32)
    with pytest.raises(InputError, match="num_classes"):
        create("lenet5", num_classes=0)
    with pytest.raises(InputError, match="6n \\+ 2"):
        models.ResNet(depth=21).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def test_inputs_are_checked(key):
    model = create("lenet_300_100")
    with pytest.raises(InputError, match="normalize"):
        model.init(key, jnp.zeros((1, 28, 28, 1), jnp.uint8))
    with pytest.raises(ShapeError, match="height"):
        model.init(key, jnp.zeros((28, 28, 1)))
    with pytest.raises(ShapeError, match="time"):
        create("gru").init(key, jnp.zeros((28, 28)))
