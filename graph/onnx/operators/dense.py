"""Matrix products: Gemm and MatMul."""

from typing import Any

import jax
import jax.numpy as jnp

from graph.onnx.registry import Apply, Call, Site, is_static, operator

# What the file says is float32; TF32 or bfloat16 passes of an accelerator are not.
PRECISION = jax.lax.Precision.HIGHEST


def transposed(x: Any) -> Any:
    """Returns a matrix with its axes swapped; other ranks are left alone."""
    return x.T if x.ndim == 2 else x


def _flat_row(x: Any) -> Any:
    """A bias of shape [1, N] as flax has it, [N]."""
    return x.reshape(x.shape[1:]) if x.ndim == 2 and x.shape[0] == 1 else x


@operator("Gemm", inputs=(2, 3), rows="first")
def gemm(site: Site) -> Apply:
    """`alpha A' B' + beta C`; a constant B is a kernel [in, out]."""
    alpha, beta = site.real("alpha", 1.0), site.real("beta", 1.0)
    left, right = site.flag("transA"), site.flag("transB")
    if site.opset < 7:
        site.flag("broadcast", True)
    site.param(1, "kernel", transposed if right else None, f"gemm{int(right)}")
    site.param(2, "bias", _flat_row, "row")

    def apply(call: Call, a: Any, b: Any, c: Any) -> Any:
        if a.ndim != 2 or b.ndim != 2:
            raise call.bad(f"operands of rank {a.ndim} and {b.ndim}", "matrices")
        call.mix(left)
        a, b = (call.like(x, _typed(call, a, b)) for x in (a, b))
        y = jnp.matmul(a.T if left else a, b, precision=PRECISION)
        y = y if alpha == 1.0 else alpha * y
        if c is None or beta == 0.0:
            return y
        # A C with rows of its own could only fit one batch.
        call.mix(c.ndim == 2 and c.shape[0] != 1)
        y, c = call.align(y, c)
        return y + (c if beta == 1.0 else beta * c)

    return apply


@operator("MatMul", inputs=(2, 2), rows="own")
def matmul(site: Site) -> Apply:
    """Matmul as in numpy; a constant matrix, on either side, is a kernel [in, out].

    So the W of `W x`, with a vector x or columns x, is a kernel transposed.
    """
    left, right = (site.constant(i) is not None for i in (0, 1))
    if right:
        site.param(1, "kernel")
    elif left:
        site.param(0, "kernel", transposed, "left")

    def apply(call: Call, a: Any, b: Any) -> Any:
        a, b = (call.like(x, _typed(call, a, b)) for x in (a, b))
        if right:
            call.mix(a.ndim < 2 or b.ndim > 2)
        elif left:
            call.mix(b.ndim < 3 or a.ndim > 2)
            if b.ndim == 1 and a.ndim == 2:
                return jnp.matmul(b, a, precision=PRECISION)
            a = transposed(a)
        else:
            call.mix(a.ndim < 3 or a.ndim != b.ndim or a.shape[0] != b.shape[0])
        return jnp.matmul(a, b, precision=PRECISION)

    return apply


def _typed(call: Call, *operands: Any) -> Any:
    """The operand whose type the result has."""
    traced = [x for x in operands if not is_static(x)]
    return traced[0] if traced else jax.ShapeDtypeStruct((), call.dtype)
