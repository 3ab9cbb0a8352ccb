"""Small networks to compact, and the check that nothing changes."""

import jax
import numpy as np
from jax import lax

import graph
from core import trees
from gap import compact
from gap.masks import apply_masks

NHWC = ("NHWC", "HWIO", "NHWC")


def conv(x, kernel, stride=1, padding="SAME", groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=NHWC,
        feature_group_count=groups,
    )


def norm(x, p):
    shape = (1, 1, 1, -1)
    scale = (p["scale"] * lax.rsqrt(p["var"] + 1e-5)).reshape(shape)
    return (x - p["mean"].reshape(shape)) * scale + p["bias"].reshape(shape)


def norm_params(rng, n):
    draw = lambda: rng.normal(size=n).astype(np.float32)  # noqa: E731
    var = rng.uniform(0.5, 2, n).astype(np.float32)
    return {"scale": draw(), "bias": draw(), "mean": draw(), "var": var}


def weight(rng, *shape):
    scale = 1 / np.sqrt(np.prod(shape[:-1]))
    return (scale * rng.normal(size=shape)).astype(np.float32)


def filter_mask(w, gone, axis=-1):
    mask = np.ones(w.shape, bool)
    np.moveaxis(mask, axis, -1)[..., list(gone)] = False
    return mask


def reference(fn, params, masks, *args):
    """The masked network in numpy and float64."""
    masked = params if masks is None else apply_masks(params, masks)
    return graph.evaluate_numpy(graph.trace(fn, masked, *args), masked, *args)


def check(fn, params, masks, *args, **options):
    """Compacts, compares with the masked network, and returns the smaller one."""
    small = compact(fn, params, masks, *args, **options)
    want = reference(fn, params, masks, *args)
    got = jax.jit(small.fn)(small.params, *args)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max())
        ),
        got,
        want,
    )
    masked = params if masks is None else apply_masks(params, masks)
    before, after = trees.by_path(masked), trees.by_path(small.params)
    for path, indices in small.widths.items():
        assert after[path].shape == tuple(map(len, indices))
        assert after[path].dtype == before[path].dtype
        assert small.removed[path] == before[path].size - after[path].size
    return small


def mlp(p, x):
    h = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"][None])
    return h @ p["b"]["kernel"] + p["b"]["bias"][None]


def mlp_params(rng, sizes=(5, 7, 3)):
    return {
        name: {"kernel": weight(rng, m, n), "bias": weight(rng, n)}
        for name, m, n in zip("abc", sizes, sizes[1:], strict=False)
    }


def residual(p, x):
    x = jax.nn.relu(norm(conv(x, p["stem"]), p["bn"]))
    y = jax.nn.relu(norm(conv(x, p["conv1"]), p["bn1"]))
    x = jax.nn.relu(x + norm(conv(y, p["conv2"]), p["bn2"]))
    return x.mean((1, 2)) @ p["head"]


def residual_params(rng, c=4, inner=5):
    kernels = {
        "stem": weight(rng, 3, 3, 2, c),
        "conv1": weight(rng, 3, 3, c, inner),
        "conv2": weight(rng, 3, 3, inner, c),
        "head": weight(rng, c, 3),
    }
    norms = {"bn": c, "bn1": inner, "bn2": c}
    return kernels | {k: norm_params(rng, n) for k, n in norms.items()}


def none_but(params, **masks):
    return {k: masks.get(k, jax.tree.map(lambda _: None, v)) for k, v in params.items()}
