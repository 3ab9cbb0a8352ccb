import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from core import gemm
from core.errors import ShapeError


@given(
    hnp.array_shapes(min_dims=2, max_dims=5, max_side=4), st.integers(1, 2), st.data()
)
def test_view_and_inverse_round_trip(shape, out_axes, data):
    if len(shape) < out_axes + 1:
        out_axes = 1
    kernel = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    matrix = gemm.to_matrix(jnp.asarray(kernel), out_axes)
    view = gemm.gemm_shape(shape, out_axes)
    assert matrix.shape == (view.rows, view.cols)
    assert view.shape == shape
    back = gemm.from_matrix(matrix, shape, out_axes)
    np.testing.assert_array_equal(back, kernel)


@pytest.mark.parametrize("depthwise", [False, True])
def test_the_matrix_multiplies_unfolded_patches(key, depthwise):
    groups = 3 if depthwise else 1
    shape = (2, 2, 3 // groups, 3 if depthwise else 5)
    x = jax.random.normal(key, (1, 4, 4, 3))
    w = jax.random.normal(key, shape)
    dims = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(
        x, w, (1, 1), "VALID", dimension_numbers=dims, feature_group_count=groups
    )
    # Patches in the order of the view's rows: window first, then input feature.
    window = [x[:, i : i + 3, j : j + 3, :] for i in range(2) for j in range(2)]
    patches = jnp.stack(window, axis=-2)
    matrix = gemm.to_matrix(w)
    if depthwise:
        got = jnp.einsum("nhwpc,pc->nhwc", patches, matrix)
    else:
        got = patches.reshape(1, 3, 3, -1) @ matrix
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_fused_recurrent_gates_are_outputs():
    assert gemm.gemm_shape((7, 4, 5), out_axes=2).cols == 20
    assert gemm.gemm_shape((7, 4, 5), out_axes=2).rows == 7


@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_bias_has_no_view(shape):
    with pytest.raises(ShapeError, match="leave them out of the rules"):
        gemm.gemm_shape(shape)


def test_a_matrix_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"\(6, 4\)"):
        gemm.from_matrix(jnp.zeros((4, 6)), (2, 3, 4))
