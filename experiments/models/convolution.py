"""A convolution whose gradients are fast on CPU, also inside `lax.scan`.

Values are those of `lax.conv_general_dilated`, and the primal is that very operation,
so a jaxpr still shows one convolution. Only the derivative rule differs: it is written
so that JAX's own transposition of it gives operations that XLA's CPU backend runs
fast. Every mode of differentiation, `vmap` and sharding work as for the original.

What XLA (jax 0.10, CPU) does with the derivatives of the original, and the remedy here:

- The gradients come out as convolutions with permuted dimension numbers. XLA brings
  them into the one order that its library kernels take (NHWC, HWIO) in the entry
  computation only: in a loop body they run as naive loops, 20 to 100 times slower.
  Here the operands are transposed explicitly and the order is always that one.
- The transpose of the activations, which the kernel's gradient needs, is fused with
  whatever produced them (a whole chain of residual blocks, computed again). Here the
  kernel's gradient is a call that XLA does not inline, so nothing can be fused into it.
- The kernel's gradient reads all activations once for every few of its entries. Here
  columns and channels are one axis, which makes the tiles large, and a few images at a
  time are taken, which stay in cache.
- The input's gradient of a 5x5 kernel without padding, or of one with strides, has no
  library kernel. Here it is one matrix product and shifted sums.
- Depthwise gradients have none either (the kernel's takes seconds). Here they are
  shifted products.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.experimental.xla_metadata import set_xla_metadata

from core.types import Array

Pair = tuple[int, int]
_NHWC = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def conv2d(images: Array, kernel: Array, strides: Pair, pads: tuple[Pair, Pair]):
    """Convolves images with a kernel (a correlation, as everywhere in the field).

    y[n, p, q, f] = sum over i, j, c of
    x[n, p * strides[0] + i - pads[0][0], q * strides[1] + j - pads[1][0], c] *
    kernel[i, j, c, f], with x = 0 outside of the image.

    Args:
      images: x, float [n, h, w, c].
      kernel: float [kh, kw, c, f], of the type of `images`; or depthwise,
        [kh, kw, 1, c] for c > 1, where channel f of y comes from channel f of x.
      strides: steps of the window, rows and columns.
      pads: zeros before and after, for rows and for columns.

    Returns:
      y, float [n, h', w', f].
    """
    return _conv(images, kernel, strides, pads)


def _jvp(strides, pads, primals, tangents):
    images, kernel = primals
    d_images, d_kernel = tangents
    parts = []
    if not isinstance(d_images, SymbolicZero):  # images of a first layer have none
        fast = functools.partial(_along_images, strides=strides, pads=pads)
        plain = functools.partial(_conv, strides=strides, pads=pads)
        parts.append(_on_cpu(fast, plain, d_images, kernel))
    if not isinstance(d_kernel, SymbolicZero):
        fast = functools.partial(_along_kernel, strides=strides, pads=pads)
        plain = functools.partial(_conv, strides=strides, pads=pads)
        parts.append(_on_cpu(fast, plain, images, d_kernel))
    out = conv2d(images, kernel, strides, pads)
    return out, sum(parts[1:], start=parts[0]) if parts else jnp.zeros_like(out)


conv2d.defjvp(_jvp, symbolic_zeros=True)


def _on_cpu(fast: Callable, plain: Callable, *args: Array) -> Array:
    return lax.platform_dependent(*args, cpu=fast, default=plain)


def _conv(images: Array, kernel: Array, strides: Pair, pads: tuple[Pair, Pair]):
    return lax.conv_general_dilated(
        images,
        kernel,
        strides,
        pads,
        dimension_numbers=_NHWC,
        feature_group_count=images.shape[-1] // kernel.shape[2],
    )


def _along_images(images: Array, kernel: Array, *, strides: Pair, pads):
    """The convolution, linear in `images`; its transpose is the images' gradient."""
    kh, kw, c, f = kernel.shape
    if c < images.shape[-1]:
        return _depthwise(images, kernel, strides, pads)
    if kh * kw == 1 or max(kh, kw) > 3 or max(strides) > 1:
        # Transpose: matrix product, then shifted sums.
        return _patches(images, (kh, kw), strides, pads) @ kernel.reshape(-1, f)
    # Transpose: convolution with the flipped kernel in the order NHWC, HWIO.
    return lax.conv_general_dilated(
        images,
        kernel.transpose(0, 1, 3, 2),
        strides,
        pads,
        dimension_numbers=("NHWC", "HWOI", "NHWC"),
    )


def _along_kernel(images: Array, kernel: Array, *, strides: Pair, pads):
    """The convolution, linear in `kernel`; its transpose is the kernel's gradient."""
    kh, kw, c, f = kernel.shape
    if c < images.shape[-1]:
        return _depthwise(images, kernel, strides, pads)
    if kh * kw == 1:
        return _patches(images, (1, 1), strides, pads) @ kernel[0, 0]
    if c == 1:  # too few rows for that: matrix product with the taps as rows
        taps = jnp.stack(_taps(images, (kh, kw), strides, pads))
        out = taps.reshape(kh * kw, -1).T @ kernel.reshape(-1, f)
        return out.reshape(*taps.shape[1:4], f)

    @functools.partial(jax.checkpoint, prevent_cse=False)  # keep images, not a copy
    def chunk(images: Array, kernel: Array) -> Array:
        # Transpose: one image of h rows, w * c columns and n channels, convolved with
        # the incoming gradient as a kernel (dilated by c), in the order NHWC, HWIO.
        n, h, w, _ = images.shape
        return lax.conv_general_dilated(
            images.reshape(n, -1).T.reshape(1, h, w * c, n),
            kernel.reshape(1, kh, kw * c, f),
            (strides[0], strides[1] * c),
            (pads[0], (pads[1][0] * c, pads[1][1] * c)),
            dimension_numbers=("CHWN", "IHWO", "HWNC"),
        ).transpose(2, 0, 1, 3)

    def conv(images: Array, kernel: Array) -> Array:
        n, *rest = images.shape
        size = _chunk(n, images[0].size // c // strides[0] // strides[1] * f, f)
        if size == n:
            return chunk(images, kernel)
        chunks = images.reshape(n // size, size, *rest)
        out = lax.map(lambda part: chunk(part, kernel), chunks)
        return out.reshape(n, *out.shape[2:])

    return alone(conv, images, kernel)


def alone(fn: Callable[..., Array], *args: Array) -> Array:
    """Calls what XLA must neither inline nor fuse with what is around it."""
    with set_xla_metadata(inlineable="false"):
        return jax.jit(fn)(*args)


def _chunk(n: int, size: int, features: int) -> int:
    """Returns how many of n images to take at once, a divisor of n.

    As many as keep the incoming gradient, `size` numbers an image, in a core's second
    cache; but not fewer than the library's kernels are worth calling for.
    """
    least = 16 if features > 16 else 32
    fits = [m for m in range(1, n + 1) if n % m == 0 and m * size <= 2**17]
    larger = [m for m in range(least, n + 1) if n % m == 0]
    if n * size <= 2**18 or not larger:
        return n
    return max(max(fits, default=1), larger[0])


def _depthwise(images: Array, kernel: Array, strides: Pair, pads) -> Array:
    kh, kw, _, c = kernel.shape
    taps = _taps(images, (kh, kw), strides, pads)
    weights = kernel.reshape(kh * kw, 1, 1, 1, c)
    products = [tap * w for tap, w in zip(taps, weights, strict=True)]
    return functools.reduce(jnp.add, products)


def _patches(images: Array, window: Pair, strides: Pair, pads) -> Array:
    """Returns the windows of the images, [n, h', w', kh * kw * c]."""
    taps = _taps(images, window, strides, pads)
    return taps[0] if len(taps) == 1 else jnp.concatenate(taps, axis=-1)


def _taps(images: Array, window: Pair, strides: Pair, pads) -> list[Array]:
    """Returns what each entry of a window sees: kh * kw arrays [n, h', w', c]."""
    if any(map(any, pads)):
        images = jnp.pad(images, ((0, 0), *pads, (0, 0)))
    n, h, w, c = images.shape
    rows = (h - window[0]) // strides[0] * strides[0] + 1
    columns = (w - window[1]) // strides[1] * strides[1] + 1
    return [
        lax.slice(images, (0, i, j, 0), (n, i + rows, j + columns, c), (1, *strides, 1))
        for i in range(window[0])
        for j in range(window[1])
    ]
