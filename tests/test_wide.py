"""Windows that are wide, or far apart: runs of every length, long rows in parts, rows of threads."""

import numpy as np
import pytest
from helpers import (
    compare_pools,
    drawn_paddings,
    few_numbers,
    on_threads,
    planes,
    same_bits,
    same_values,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpool
from fastpool import plans, reference
from fastpool.kernels import wide
from fastpool.testing.arrays import INPUT_LAYOUTS, laid_out
from fastpool.window import window


def taken(shape, kernel_size, stride, **others):
    """Whether such windows are taken by the kernels that are tested here."""
    args = (kernel_size, stride, 0, 1, False, "channels_first")
    plan = plans.pooling(len(kernel_size), plans.MAXIMA, shape, np.dtype("f4"), False, None, args)
    return plan.kernel is wide.max_pool_wide


@pytest.mark.parametrize("kernel", range(9, 34))
def test_widths(kernel):
    for stride in (3, 4, 6, 8, kernel, kernel + 1):
        assert taken((9, 99), (2, kernel), (2, stride))
        for width in range(max(kernel, stride), 131, 7):
            compare_pools(planes((9, width), width), (2, kernel), (2, stride), ((1, 0), (kernel // 2, kernel // 3)))


@pytest.mark.parametrize("width", [2047, 2048, 2049, 5000, 40_000])
@pytest.mark.parametrize(("kernel", "stride"), [(16, 16), (12, 4), (9, 9), (31, 5), (2048, 1024), (3001, 900)])
def test_long_rows(width, kernel, stride):
    if kernel <= width:
        compare_pools(planes((width,), width), (kernel,), (stride,), ((kernel // 2, kernel // 2),))
        compare_pools(planes((3, width), width), (2, kernel), (1, stride))


@given(data=st.data())
@settings(max_examples=60)
def test_all_together(data):
    ndim = data.draw(st.integers(1, 3))
    shape = data.draw(
        st.tuples(*[st.integers(1, most) for most in (3, 3, *((400,), (40, 60), (12, 20, 30))[ndim - 1])])
    )
    sizes, strides = st.integers(1, (40, 20, 9)[ndim - 1]), st.integers(1, 20)
    kernel_size = (*[data.draw(sizes) for _ in range(ndim - 1)], data.draw(st.integers(9, 24)))
    stride = (*[data.draw(strides) for _ in range(ndim - 1)], data.draw(st.integers(3, 24)))
    dilation = data.draw(st.tuples(*[st.integers(1, 3) for _ in range(ndim)]))
    parameters = (kernel_size, stride, drawn_paddings(data, kernel_size, dilation), dilation, data.draw(st.booleans()))
    try:
        window(shape[2:], *parameters, elements=True)
    except ValueError:  # a window that does not fit, or of nothing but padding
        return
    x = few_numbers(data, shape)
    compare_pools(laid_out(x, data.draw(st.sampled_from(INPUT_LAYOUTS))), *parameters)


@pytest.mark.parametrize(("height", "width", "stride"), [(40, 16, 3), (33, 90, 10), (9, 3000, 12)])
def test_any_ranges_of_rows(height, width, stride):
    """Threads begin and end amid planes."""
    x = planes((3, height, width), 5)
    w = window((height, width), (3, 12), (2, stride), 0, 1)
    shape = (*x.shape[:2], *w.output)
    argmax, y, averages = np.empty(shape, np.uint8), np.empty(shape, x.dtype), np.empty(shape, x.dtype)
    divisors = tuple(np.full((1, 1, 1, n), k, x.dtype) for n, k in zip(w.output, w.kernel_size))
    with on_threads(2):
        wide.max_pool_wide(y.size // shape[-1], 1 << 40, w.geometry, x, y, argmax)
        wide.avg_pool_wide(y.size // shape[-1], 1 << 40, w.geometry, x, *divisors, averages)
    expected = reference.max_pool2d(x, (3, 12), (2, stride), return_argmax=True)
    same_values(y, expected[0])
    same_values(argmax, expected[1])
    same_bits(averages, fastpool.avg_pool2d(x, (3, 12), (2, stride)))


def test_the_first_of_equal_elements():
    """Columns are reduced in another order than that of positions."""
    x = np.zeros((2, 3, 32), np.float32)
    x[0, 2, 1], x[0, 1, 15] = 1, 1  # the higher row first, though it is further right
    x[1, 1, 15], x[1, 1, 3], x[1, 2, 0] = np.nan, np.nan, np.nan
    _, argmax = fastpool.max_pool2d(x, (3, 16), return_argmax=True)
    np.testing.assert_array_equal(argmax, [[[16 + 15, 0]], [[16 + 3, 0]]])
