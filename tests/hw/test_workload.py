"""Operator tables against hand counts, published counts and XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gap
import graph
import hw
import quant
from core import trees
from core.errors import GraphError, InputError, RuleError, UnknownNameError
from experiments.hardware import networks
from experiments.models import MODELS, create
from tests.hw.networks import model, published

STRUCT = jax.ShapeDtypeStruct


def rows(table):
    return {path: i for i, path in enumerate(table.paths) if path}


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_published_counts(name):
    table, network = published(name), networks.NETWORKS[name]
    shapes, _ = networks.shapes(name)
    assert network.macs in (None, table.total_macs)
    assert network.parameters in (None, table.total_parameters)
    assert table.total_parameters == sum(np.prod(s.shape) for s in shapes.values())
    assert table.unknown == ()
    kernels = [p for p, s in shapes.items() if p.endswith("kernel") or "gru" in p]
    kernels = [p for p in kernels if not p.endswith("bias")]
    found = [path for path in table.paths if path]
    assert sorted(found) == sorted(kernels)  # each exactly once


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        # 24*24*25*20 + 8*8*500*50 + 800*500 + 500*10
        ("lenet5", 288_000 + 1_600_000 + 400_000 + 5_000),
        # 27*16 and 18 times 144*16 positions of 1024, halved where maps shrink
        ("resnet20", 442_368 + 16 * 2_359_296 + 2 * 1_179_648 + 640),
        ("vgg16", 313_201_664),  # as counted by hand from 1409.1556, table 1
        ("mobilenetv2", 91_154_944),
        # gates of 28 + 128 inputs, 28 steps; the first state is known to be 0
        ("gru", 28 * 3 * 28 * 128 + 27 * 3 * 128 * 128 + 1280),
    ],
)
def test_counts_of_the_registry(name, macs):
    table = model(name)
    assert table.total_macs == macs
    # Moments of norms are data here, not parameters.
    assert table.total_parameters == MODELS[name].parameters
    assert table.unknown == ()


def test_hand_counts_of_a_row():
    table = model("lenet5")
    at = rows(table)["conv2/kernel"]
    first = {f: float(getattr(table, f)[at]) for f in ("m", "k", "n", "window")}
    assert first == {"m": 64, "k": 500, "n": 50, "window": 25}
    assert table.kinds[at] == "conv"
    assert float(table.weight_bytes[at]) == 4 * 25_000
    assert float(table.input_bytes[at]) == 4 * 12 * 12 * 20
    assert float(table.output_bytes[at]) == 4 * 64 * 50
    size = 4 * (25_000 + 2_880 + 3_200)
    assert float(table.bytes[at]) == size
    assert float(table.reuse[at]) == pytest.approx(1_600_000 / size)


def test_depthwise_groups_and_attention():
    table = published("mobilenet_v1")
    at = rows(table)["conv2/depthwise/kernel"]
    assert table.kinds[at] == "depthwise"
    shape = [float(getattr(table, f)[at]) for f in ("groups", "m", "k", "n")]
    assert shape == [32, 112 * 112, 9, 1]
    table = published("alexnet")
    at = rows(table)["conv2/kernel"]
    shape = [float(getattr(table, f)[at]) for f in ("groups", "m", "k", "n")]
    assert shape == [2, 27 * 27, 48 * 25, 128]
    assert table.kinds[at] == "conv"
    table = published("transformer")
    scores = [i for i, kind in enumerate(table.kinds) if kind == "attention"]
    assert len(scores) == 2
    assert float(table.groups[scores[0]]) == 12
    assert float(table.weights[scores[0]]) == 0


def test_loops_are_calls_of_one_row():
    table = published("gru")
    at = rows(table)["gru0/hidden"]
    assert float(table.calls[at]) == 30
    assert float(table.parameters[at]) == 1024 * 3072
    assert float(table.m[at]) == 1


def test_chains_are_fused_and_end_at_reductions():
    def fn(p, x):
        y = jnp.tanh(x @ p["w"] + p["b"][None]) * 2
        z = y - y.sum(axis=1, keepdims=True)
        return jnp.sqrt(z + 1)

    shapes = {"w": STRUCT((6, 4), jnp.float32), "b": STRUCT((4,), jnp.float32)}
    table = hw.workload(fn, shapes, STRUCT((5, 6), jnp.float32))
    assert table.kinds == ("matmul", "chain", "chain")
    first, second = 1, 2
    assert float(table.inputs[first]) == 20 + 1  # the product and the constant 2
    assert float(table.weights[first]) == 4  # the bias
    assert float(table.outputs[first]) == 20 + 5
    assert float(table.functions[first]) == 20
    assert float(table.elements[first]) == 20 + 20 + 20  # add, mul, the sum
    assert float(table.functions[second]) == 20
    assert table.total_parameters == 28


def test_what_depends_on_parameters_alone_is_free():
    def fn(p, x):
        return x @ (p["w"] * jnp.exp(p["s"])[None]).T

    shapes = {"w": STRUCT((3, 4), jnp.float32), "s": STRUCT((4,), jnp.float32)}
    table = hw.workload(fn, shapes, STRUCT((2, 4), jnp.float32))
    assert table.paths == ("w",)
    assert table.total_macs == 24
    assert table.total_parameters == 16
    assert float(table.n[0]) == 3


def test_shared_kernels_stand_in_one_row():
    def fn(p, x):
        first = x @ p["w"]
        return (first[:2] @ p["w"]).sum()

    shapes = {"w": STRUCT((4, 4), jnp.float32)}
    table = hw.workload(fn, shapes, STRUCT((6, 4), jnp.float32))
    assert table.paths.count("w") == 1
    at = rows(table)["w"]
    assert float(table.calls[at]) == 2
    assert table.total_macs == 6 * 16 + 2 * 16


def test_unknown_primitives_are_named_and_counted():
    def fn(p, x):
        return jnp.linalg.cholesky(x @ p["w"]) + jnp.fft.rfft(x).real[:, :1]

    shapes = {"w": STRUCT((4, 4), jnp.float32)}
    table = hw.workload(fn, shapes, STRUCT((4, 4), jnp.float32))
    names = dict(table.unknown)
    assert names["cholesky"] == 1
    assert names["fft"] == 1
    assert "cholesky x1" in str(table)
    assert float(table.elements.sum()) >= 16


def test_xla_counts_the_same_work():
    def fn(p, x):
        y = lax.conv_general_dilated(
            x, p["c"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = jax.nn.relu(y).reshape(x.shape[0], -1)
        return y @ p["w"] + p["b"][None]

    shapes = {"c": (3, 3, 4, 8), "w": (6 * 6 * 8, 10), "b": (10,)}
    params = {k: STRUCT(s, jnp.float32) for k, s in shapes.items()}
    x = STRUCT((2, 8, 8, 4), jnp.float32)
    table = hw.workload(fn, params, x)
    found = jax.jit(fn).lower(params, x).compile().cost_analysis()
    ours = 2 * table.total_macs + float((table.elements + table.functions).sum())
    assert found["flops"] == pytest.approx(ours, rel=0.02)
    assert found["bytes accessed"] == pytest.approx(float(table.bytes.sum()), rel=0.35)


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_xla_counts_the_operations_of_whole_networks(name):
    module = create(name)
    x = STRUCT((1, *MODELS[name].input_shape), jnp.float32)
    like = jax.eval_shape(module.init, jax.random.key(0), x)
    found = jax.jit(module.apply).lower(like, x).cost_analysis()
    table = model(name)
    # XLA leaves out products with padded zeros, an edge of each side of 3 x 3.
    side = 3 * np.asarray(table.width)
    padded = np.asarray(table.window) == 9
    inside = np.where(padded, ((side - 2) / side) ** 2, 1.0)
    ours = 2 * (table.macs * inside).sum() + (table.elements + table.functions).sum()
    assert found["flops"] == pytest.approx(float(ours), rel=0.01)


def test_paths_join_numbers_with_rows():
    fn, (params, x) = networks.apply_of("resnet18"), networks.shapes("resnet18")
    traced = graph.trace(fn, params, x)
    table = hw.workload(
        traced,
        density={"conv1/kernel": 0.25, "fc/kernel": 0.1},
        bits={"conv1/kernel": 4},
        pattern={"fc/kernel": "block"},
        input_bits=8,
    )
    at = rows(table)
    first, last = at["conv1/kernel"], at["fc/kernel"]
    assert float(table.density[first]) == 0.25
    assert hw.PATTERNS[int(table.pattern[first])] == "unstructured"
    assert hw.PATTERNS[int(table.pattern[last])] == "block"
    assert float(table.weight_bits[first]) == 4
    assert float(table.weight_bits[last]) == 32
    assert np.all(np.asarray(table.input_bits) == 8)
    kept, total = 0.25 * 9408, 9408
    assert float(table.weight_bytes[first]) == kept * (4 + 8) / 8
    assert float(table.index_bytes[last]) == pytest.approx(512_000 * 24 / 128 / 8)
    assert float(table.weights[first]) == total
    assert set(at) <= set(trees.paths(params))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"density": {"w/kernels": 0.5}}, RuleError, "w/kernel"),
        ({"density": 0.0}, InputError, "density"),
        ({"density": 1.5}, InputError, "density"),
        ({"bits": float("nan")}, InputError, "bits"),
        ({"pattern": "blocks"}, UnknownNameError, "block"),
        ({"pattern": 3}, InputError, "name"),
    ],
)
def test_bad_input_says_what_to_do(given, error, words):
    shapes = {"w": {"kernel": STRUCT((3, 4), jnp.float32)}}
    with pytest.raises(error, match=words):
        hw.workload(
            lambda p, x: x @ p["w"]["kernel"],
            shapes,
            STRUCT((2, 3), jnp.float32),
            **given,
        )


def test_a_function_without_data_is_refused():
    with pytest.raises(GraphError, match="data"):
        hw.workload(lambda x: x * 2, jnp.ones(3))


def test_summaries_join_on_paths():
    params = {
        "a": {"kernel": np.ones((6, 8), np.float32), "bias": np.ones(8, np.float32)},
        "b": {"kernel": np.eye(8, 4, dtype=np.float32)},
    }

    def fn(p, x):
        y = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"][None])
        return y @ p["b"]["kernel"]

    x = STRUCT((5, 6), jnp.float32)
    table = hw.workload(fn, params, x, density=gap.summary(params))
    at = rows(table)
    assert float(table.density[at["a/kernel"]]) == 1
    assert float(table.density[at["b/kernel"]]) == 0.125
    assert table.names == ("a/kernel", "a/kernel: add+relu", "b/kernel")
    layer = quant.Layer(weights=quant.RowMix(4, 0.5))
    table = hw.workload(
        fn, params, x, bits=quant.summary(params, [("b/kernel", layer)])
    )
    assert float(table.weight_bits[at["a/kernel"]]) == 32
    assert float(table.weight_bits[at["b/kernel"]]) == 4
    other = gap.summary({"c": {"kernel": np.ones((2, 2))}})
    with pytest.raises(RuleError, match="b/kernel"):
        hw.workload(fn, params, x, density=other)
    with pytest.raises(InputError, match="rows with a path"):
        hw.workload(fn, params, x, density=[0.5, 0.5])


def test_widths_are_those_of_what_is_read_and_written():
    def fn(p, x):
        y = jax.lax.dot_general(
            x, p["w"], (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32
        )
        z = jnp.where(y > 0, y, 0.1 * y)  # the first result is of booleans
        return z @ (p["q"].astype(jnp.float32) * p["s"][None])

    half, byte = jnp.bfloat16, jnp.int8
    shapes = {"w": STRUCT((6, 8), half), "q": STRUCT((8, 4), byte)}
    shapes["s"] = STRUCT((4,), jnp.float32)
    table = hw.workload(fn, shapes, STRUCT((5, 6), half))
    widths = [
        (float(a), float(b), float(c))
        for a, b, c in zip(
            table.weight_bits, table.input_bits, table.output_bits, strict=True
        )
    ]
    assert table.paths == ("w", "", "q")
    assert widths == [(16, 16, 32), (32, 32, 32), (8, 32, 32)]
    eight = hw.workload(lambda p, x: x.astype(jnp.float32) @ p, *(
        STRUCT((6, 8), jnp.float32), STRUCT((5, 6), byte)
    ))  # fmt: skip
    assert float(eight.input_bits[0]) == 8


def test_products_of_data_have_the_bits_of_data():
    table = published("transformer")
    scores = table.mask("attention")
    given = hw.workload(
        networks.apply_of("transformer"),
        *networks.shapes("transformer"),
        bits=4,
        input_bits=8,
    )
    made = hw.design(table, bits=4.0, input_bits=8.0)
    for each in (given, made):
        assert np.all(np.asarray(each.weight_bits)[scores] == 8)
    sizes = np.asarray(made.weight_bytes + made.input_bytes)[scores]
    full = np.asarray(table.weight_bytes + table.input_bytes)[scores]
    np.testing.assert_allclose(4 * sizes, full)


def test_transposed_convolutions_multiply_no_inserted_zeros():
    def fn(p, x):
        return lax.conv_transpose(x, p["k"], (2, 2), "SAME")

    shapes = {"k": STRUCT((4, 4, 16, 16), jnp.float32)}
    table = hw.workload(fn, shapes, STRUCT((1, 32, 32, 16), jnp.float32))
    assert table.total_macs == 32 * 32 * 16 * 16 * 16  # input by input
    assert table.kinds == ("conv",)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"density": float("nan")}, "density"),
        ({"density": 1.5}, "density"),
        ({"bits": -4.0}, "bits"),
        ({"bits": np.array([4.0, np.inf, 4.0])}, "bits"),
        ({"input_bits": 0.0}, "input_bits"),
        ({"input_density": 2.0}, "input_density"),
        ({"pattern": 17}, "pattern"),
    ],
)
def test_designs_that_cannot_be_are_refused(given, words):
    with pytest.raises(InputError, match=words):
        hw.design(model("lenet5"), **given)


def test_a_dense_row_with_a_density_is_a_list():
    table = model("lenet5")
    kernel = np.array([bool(p) for p in table.paths])
    for density in (0.1, jnp.float32(0.1)):
        made = hw.design(table, density=density)
        codes = np.asarray(made.pattern)
        assert np.all(codes[kernel] == hw.PATTERNS.index("unstructured"))
        assert np.all(codes[~kernel] == hw.PATTERNS.index("dense"))
    assert np.all(np.asarray(hw.design(table, density=1.0).pattern) == 0)
    made = hw.design(table, density=0.1, pattern="block")
    assert np.all(np.asarray(made.pattern)[kernel] == hw.PATTERNS.index("block"))
    with pytest.raises(UnknownNameError, match="block"):
        hw.design(table, pattern="blocks")


def test_distinct_rows_keep_totals():
    table = published("resnet50")
    small = hw.distinct(table)
    assert len(small) < 0.6 * len(table)
    assert small.total_macs == table.total_macs
    assert small.total_parameters == table.total_parameters
    np.testing.assert_allclose(small.bytes.sum(), table.bytes.sum(), rtol=1e-6)
    target = hw.get("fpga_zcu102")
    a, b = hw.cost(table, target), hw.cost(small, target)
    np.testing.assert_allclose(a.latency_s, b.latency_s, rtol=1e-5)
    np.testing.assert_allclose(a.energy_j, b.energy_j, rtol=1e-5)


def test_design_changes_kernels_alone_and_take_keeps_names():
    table = model("lenet5")
    new = jax.jit(lambda b: hw.design(table, bits=b, density=0.5, input_bits=8.0))(4.0)
    kernel = np.array([bool(p) for p in table.paths])
    assert np.all(np.asarray(new.weight_bits)[kernel] == 4)
    assert np.all(np.asarray(new.weight_bits)[~kernel] == 8)  # data by data
    assert np.all(np.asarray(new.input_bits) == 8)
    products = table.take(table.is_product)
    assert products.total_macs == table.total_macs
    assert all(products.paths)
    lines = str(products).splitlines()
    assert len(lines) == len(products) + 2


def layers_of(p, x):
    return jnp.tanh(x @ p["kernel"] + p["bias"][None])


def test_a_scan_over_layers_has_the_weights_of_all():
    def scanned(p, x):
        return lax.scan(lambda x, w: (layers_of(w, x), None), x, p)[0]

    def written(p, x):
        for name in sorted(p):
            x = layers_of(p[name], x)
        return x

    layer = {"kernel": STRUCT((128, 128), jnp.float32), "bias": STRUCT((128,), "f4")}
    stacked = jax.tree.map(lambda s: STRUCT((12, *s.shape), s.dtype), layer)
    x = STRUCT((4, 128), jnp.float32)
    one = hw.workload(scanned, stacked, x, bits=2, input_bits=3)
    many = hw.workload(
        written, {str(i): layer for i in range(12)}, x, bits=2, input_bits=3
    )
    at = rows(one)["kernel"]
    assert (float(one.calls[at]), float(one.copies[at])) == (12, 12)
    assert one.total_parameters == many.total_parameters
    for name, resource in (("capram", "cells"), ("memristor", "arrays")):
        found, wanted = (hw.cost(t, hw.get(name)) for t in (one, many))
        assert float(found.resources[resource]) == float(wanted.resources[resource])
        assert bool(found.feasible) == bool(wanted.feasible)
    # One kernel that every step reads is one set of weights.
    fixed = hw.workload(
        lambda p, x: lax.scan(lambda x, _: (layers_of(p, x), None), x, None, 12)[0],
        layer,
        x,
    )
    assert [float(v) for v in (fixed.calls[0], fixed.copies[0])] == [12, 1]
    assert float(published("gru").copies[rows(published("gru"))["gru0/hidden"]]) == 1


def test_chains_of_different_layers_stay_apart():
    def fn(p, x):
        for name in ("a", "b", "c"):
            x = jax.nn.relu(x @ p[name])
        return x

    shapes = {name: STRUCT((8, 8), jnp.float32) for name in "abc"}
    table = hw.workload(fn, shapes, STRUCT((4, 8), jnp.float32))
    chains = [n for n, k in zip(table.names, table.kinds, strict=True) if k == "chain"]
    assert [name.split(":")[0] for name in chains] == ["a", "b", "c"]
    assert np.all(np.asarray(table.calls) == 1)


def test_summaries_may_have_tables_and_biases_of_heads():
    params = {
        "kernel": np.eye(8, dtype=np.float32),
        "bias": np.ones((2, 4), np.float32),
        "embedding": np.ones((16, 8), np.float32),
    }

    def fn(p, x):
        y = p["embedding"][x] @ p["kernel"]
        return y.reshape(-1, 2, 4) + p["bias"][None]

    x = STRUCT((5,), jnp.int32)
    table = hw.workload(fn, params, x, density=gap.summary(params))
    assert float(table.density[rows(table)["kernel"]]) == 0.125
    params["bias"][0] = 0  # zeros that nothing can skip are no mistake to hide
    with pytest.raises(RuleError, match="bias"):
        hw.workload(fn, params, x, density=gap.summary(params))


@pytest.mark.parametrize("eight", [8, np.int32(8), jnp.asarray(8), np.array(8.0)])
def test_one_width_of_data_holds_for_all(eight):
    shapes = {"w": STRUCT((3, 4), jnp.float32)}
    table = hw.workload(
        lambda p, x: x @ p["w"], shapes, STRUCT((2, 3), jnp.float32), input_bits=eight
    )
    assert float(table.input_bits[0]) == float(table.output_bits[0]) == 8


def test_who_reads_says_how_wide_a_value_is_written():
    def fn(p, x):
        return jax.nn.relu(x @ p["a"]) @ p["b"]

    shapes = {name: STRUCT((8, 8), jnp.float32) for name in "ab"}
    table = hw.workload(fn, shapes, STRUCT((4, 8), jnp.float32), input_bits={"b": 8.0})
    assert np.asarray(table.input_bits).tolist() == [32, 32, 8]
    assert np.asarray(table.output_bits).tolist() == [32, 8, 32]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_kernel_stands_in_one_row(name):
    module = create(name)
    x = STRUCT((1, *MODELS[name].input_shape), jnp.float32)
    like = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    sizes = zip(trees.paths(like), map(np.size, jax.tree.leaves(like)), strict=True)
    kernels = {path: size for path, size in sizes if path.endswith("kernel")}
    table = model(name)
    found = [path for path in table.paths if path]
    if name == "lstm":  # its gates are one product, which has the first one's name
        firsts = ["lstm1/hf/kernel", "lstm1/if/kernel"]
        assert sorted(found) == sorted(["linear/kernel", *firsts])
    else:
        assert sorted(found) == sorted(kernels)
    own = np.array([bool(path) for path in table.paths])
    assert (table.weights * table.copies)[own].sum() == sum(kernels.values())
