"""The margins of auto_LiRPA on the provided networks, by interval and CROWN."""

import json

import jax
import numpy as np
import pytest

import graph.onnx
from verify import alpha, crown, network, vnnlib
from verify.properties import Spec
from verify.regions import Region

PIXELS = {
    **dict.fromkeys(("mnist_cnn_a_adv", "cifar_cnn_a_adv", "cifar_cnn_a_mix"), "sdp"),
    **dict.fromkeys(("mnist_6_100", "mnist_9_100", "mnist_conv_small"), "eran"),
}
FILES = {
    "mnistfc_256x2": "mnistfc/mnist-net_256x2.onnx",
    "oval_base": "oval21/cifar_base_kw.onnx",
    "resnet_2b": "cifar10_resnet/resnet_2b.onnx",
}


def pixel_case(root, name, k):
    """Network file, region and rows of the k-th image."""
    folder = root / "verify" / PIXELS[name]
    table = json.loads((folder / f"{PIXELS[name]}.json").read_text())["networks"][name]
    found = np.load(root / "verify/reference_bounds" / f"{name}.npz")
    images = np.load(folder / table["inputs"])
    kind = "x_nhwc_01" if "x_nhwc_01" in images else "x_nchw_01"
    x = images[kind][found["index"][k]][None].astype(np.float64)
    x = x.transpose(0, 3, 1, 2) if kind == "x_nhwc_01" else x
    channel = lambda v: np.asarray(v, np.float64).reshape(1, -1, 1, 1)  # noqa: E731
    x = (x - channel(table["mean"])) / channel(table["std"])
    eps = channel(table["eps_network"])
    low = np.maximum(x - eps, channel(table["clip_min"]))
    high = np.minimum(x + eps, channel(table["clip_max"]))
    label = int(found["labels"][k])
    C = np.delete(np.eye(10)[label] - np.eye(10), label, axis=0)
    shape = graph.onnx.describe(folder / table["file"]).inputs[0].concrete()
    region = [np.float32(end.reshape(shape)) for end in (low, high)]
    return folder / table["file"], region, C


def file_case(root, name, k):
    folder = root / "verify/vnncomp2021"
    file = folder / FILES[name]
    found = np.load(root / "verify/reference_bounds" / f"{name}.npz")
    shape = graph.onnx.describe(file).inputs[0].concrete()
    prop = folder / str(found["vnnlib"][k])
    box = vnnlib.load(prop, shape, 10).clauses[0].region
    return file, [np.float32(box.lower), np.float32(box.upper)], found["C"][k]


# These are of the kinds of others.
TWINS = ("mnist_cnn_a_adv", "cifar_cnn_a_mix", "mnist_9_100", "oval_base")
NAMES = [n for n in (*PIXELS, *FILES) if n not in TWINS]


@pytest.mark.parametrize("name", NAMES)
def test_margins_equal_those_of_auto_lirpa(name, data_root):
    count = 2 if name in ("mnist_6_100", "mnist_conv_small") else 1
    reference = np.load(data_root / "verify/reference_bounds" / f"{name}.npz")
    case = pixel_case if name in PIXELS else file_case
    file, region, C = case(data_root, name, 0)
    fn, params = graph.onnx.load(file)
    net = network(fn, params, region[0])
    weights = jax.jit(net.prepare)(params)
    plain = crown.CrownConfig(intersect=False)
    meets = name != "resnet_2b"  # as the others, and it compiles for long

    @jax.jit
    def bounds(weights, region, spec):
        hidden = crown.hidden_bounds(net, weights, region, plain)
        margins = crown.spec_bound(net, weights, region, spec, hidden)
        closer = None
        if meets:
            hidden = crown.hidden_bounds(net, weights, region)
            closer = crown.spec_bound(net, weights, region, spec, hidden)
        interval = crown.interval_bound(net, weights, region, spec)
        return interval, margins, closer

    for k in range(count):
        _, ends, C = case(data_root, name, k)
        spec = Spec(np.float32(C), np.zeros(len(C), np.float32))
        interval, margins, closer = bounds(weights, Region(*ends), spec)
        for found, wanted in ((interval, "IBP"), (margins, "CROWN")):
            np.testing.assert_allclose(
                found, reference[wanted][k], rtol=2e-5, atol=3e-4, err_msg=wanted
            )
        if closer is not None:
            assert (np.asarray(closer) >= np.asarray(margins) - 1e-3).all()


def test_alpha_crown_is_never_below_crown(data_root):
    file, ends, C = file_case(data_root, "mnistfc_256x2", 0)
    fn, params = graph.onnx.load(file)
    net = network(fn, params, ends[0])
    config = alpha.AlphaConfig(steps=5, hidden=False)

    @jax.jit
    def bounds(weights, region, spec):
        hidden = crown.hidden_bounds(net, weights, region)
        least = crown.spec_bound(net, weights, region, spec, hidden)
        return least, alpha.optimize(net, weights, region, spec, hidden, config).lower

    spec = Spec(np.float32(C), np.zeros(9, np.float32))
    least, best = bounds(jax.jit(net.prepare)(params), Region(*ends), spec)
    assert (np.asarray(best) >= np.asarray(least) - 1e-4).all()
