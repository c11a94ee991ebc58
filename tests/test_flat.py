"""Windows one apart, as many as elements, of few rows and of many: in whole planes, and in bands of rows."""

import numpy as np
import pytest
from helpers import (
    compare_pools,
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
from fastpool.kernels import flat, slide
from fastpool.testing.arrays import INPUT_LAYOUTS, laid_out
from fastpool.window import window


@pytest.fixture(autouse=True, scope="module")
def _whatever_the_size():
    """Small arrays take this way, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "FLATTENED", 0)
        plans.pooling.cache_clear()
        yield
    plans.pooling.cache_clear()


@pytest.fixture(autouse=True)
def _quiet():
    """Infinities of both signs add up to NaN."""
    with np.errstate(invalid="ignore"):
        yield


def suit(w):
    """Whether windows are taken by one of the two ways that are tested here."""
    return flat.suits(w) or slide.suits(w)


def compare(x, kernel_size, padding, dilation=1, count_include_pad=True):
    """Compare the maxima, their positions and the averages with those of the reference."""
    assert suit(window(x.shape[-len(kernel_size) :], kernel_size, 1, padding, dilation))
    compare_pools(x, kernel_size, 1, padding, dilation, count_include_pad=count_include_pad)


def paddings(kernel_size, turn):
    """Return paddings that leave as many windows as elements, from turn to turn with more of it before."""
    return tuple((turn % k, k - 1 - turn % k) for k in kernel_size)


@pytest.mark.parametrize("kernel", range(1, 10))
def test_widths(kernel):
    for width in range(1, 131):
        # Many planes at a time, and one in bands.
        for height in (1 + width % 3, flat.SMALL // width + 1):
            size = (kernel, kernel)
            compare(planes((height, width), width), size, paddings(size, width))


@pytest.mark.parametrize("width", [130, 300, 511, 1000, 2048])
def test_long_rows(width):
    height = flat.BAND // width + 3
    for kernel_size in ((1, 3), (2, 5), (3, 2), (5, 1)):
        if (kernel_size[0] - 1) * width <= flat.BAND // 4:
            compare(planes((height, width), width), kernel_size, paddings(kernel_size, width))
            compare(planes((width,), width), kernel_size[1:], paddings(kernel_size[1:], width))


@given(data=st.data())
@settings(max_examples=60)
def test_all_together(data):
    ndim = data.draw(st.integers(1, 3))
    shape = data.draw(st.tuples(*[st.integers(1, most) for most in (3, 3, *(9, 40, 70)[-ndim:])]))
    if ndim == 3:
        shape = (*shape[:-2], *(min(n, 10) for n in shape[-2:]))
    kernel_size = data.draw(st.tuples(*[st.integers(1, (13, 14, 4)[ndim - 1]) for _ in range(ndim)]))
    dilation = data.draw(st.tuples(*[st.integers(1, 3) for _ in range(ndim)]))
    reach = [(k - 1) * step for k, step in zip(kernel_size, dilation)]
    before = [data.draw(st.integers(0, r)) for r in reach]
    padding = tuple((b, r - b) for b, r in zip(before, reach))
    try:
        w = window(shape[2:], kernel_size, 1, padding, dilation, elements=True)
    except ValueError:  # a window of nothing but padding
        return
    if not suit(w):
        return
    x = few_numbers(data, shape)
    x = laid_out(x, data.draw(st.sampled_from(INPUT_LAYOUTS)))
    compare(x, kernel_size, padding, dilation, data.draw(st.booleans()))


@given(data=st.data())
@settings(max_examples=60)
def test_high_windows(data):
    shape = data.draw(st.tuples(*[st.integers(1, most) for most in (4, 70, 70)]))
    kernel_size = data.draw(st.tuples(st.integers(8, 30), st.integers(1, slide.WIDE)))
    dilation = data.draw(st.tuples(*[st.integers(1, 3) for _ in kernel_size]))
    before = [data.draw(st.integers(0, k - 1)) * step for k, step in zip(kernel_size, dilation)]
    padding = tuple((b, (k - 1) * step - b) for b, k, step in zip(before, kernel_size, dilation))
    parameters = (kernel_size, 1, padding, dilation)
    w = window(shape[1:], *parameters)  # every window has the element that it is of
    if not slide.suits(w):
        return
    x = few_numbers(data, shape)
    compare(x, kernel_size, padding, dilation, data.draw(st.booleans()))


@pytest.mark.parametrize(
    ("height", "width", "kernel"), [(9, 7, 15), (9, 15, 9), (40, 13, 15), (40, 17, 9), (70, 120, 9)]
)
@pytest.mark.parametrize("dilation", [1, 2])
def test_groups_of_high_windows_are_cut(height, width, kernel, dilation):
    """Threads begin and end amid planes, and amid windows that share what is computed: of sums, too, no bit changes."""
    x, padding = planes((3, height, width), 5), kernel // 2 * dilation
    w = window((height, width), kernel, 1, padding, dilation)
    assert slide.suits(w)
    argmax, y, averages = np.empty(x.shape, np.uint8), np.empty_like(x), np.empty_like(x)
    divisors = tuple(np.full((1, 1, 1, n), kernel, x.dtype) for n in (height, width))
    with on_threads(2):
        slide.max_pool_slide(x.size // width, 1 << 40, w.geometry, x, y, argmax)
        slide.avg_pool_slide(x.size // width, 1 << 40, w.geometry, x, *divisors, averages)
    expected = reference.max_pool2d(x, kernel, 1, padding, dilation, return_argmax=True)
    same_values(y, expected[0])
    same_values(argmax, expected[1])
    same_bits(averages, fastpool.avg_pool2d(x, kernel, 1, padding, dilation))


@pytest.mark.parametrize("kernel_size", [(3, 3, 3), (2, 3, 1), (5, 1, 3)])
@pytest.mark.parametrize("shape", [(6, 14, 15), (9, 12, 10), (3, 40, 30), (70, 8, 130), (3, 130, 170)])
def test_volumes(shape, kernel_size):
    """Slices of small planes and in bands, as many as are kept at a time, and more."""
    for turn, dilation in enumerate([(1, 1, 1), (2, 2, 3)]):
        reach = [(k - 1) * step for k, step in zip(kernel_size, dilation)]
        if all(r < n for r, n in zip(reach, shape)):
            padding = tuple(((r + turn) // 2, r - (r + turn) // 2) for r in reach)
            compare(planes(shape, turn), kernel_size, padding, dilation, bool(turn))


@pytest.mark.parametrize("axes", [(1, 0, 2, 3), (0, 1, 3, 2), (3, 2, 1, 0)])
@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 3, 30, 31)])
def test_transposed_axes(shape, axes):
    compare(planes(shape, 3)[0].transpose(axes), (3, 3), 1)


def test_broadcast_axes():
    x = planes((9, 9), 0)
    compare(np.broadcast_to(x[:, None], (5, 4, 9, 9)), (3, 3), 1)
    compare(np.broadcast_to(x[:1], (4, 9, 9)), (3, 3), 1)
    compare(np.broadcast_to(x[:, :1], (5, 70, 9)), (3, 3), 1)


@pytest.mark.parametrize(("height", "width"), [(9, 7), (41, 13), (50, 300)])
def test_any_ranges_of_rows(height, width):
    """Threads begin and end amid planes, and amid what is computed at a time."""
    x = planes((3, height, width), 5)
    w = window((height, width), 3, 1, 1, 1)
    argmax = np.empty(x.shape, np.uint8)
    y, averages, ones = np.empty_like(x), np.empty_like(x), (np.full(height, 3.0), np.full(width, 3.0))
    divisors = tuple(one.astype(x.dtype).reshape(1, 1, 1, -1) for one in ones)
    with on_threads(2):
        flat.max_pool_flat(False)(x.size // width, 1 << 40, w.geometry, x, y, argmax)
        flat.avg_pool_flat(False)(x.size // width, 1 << 40, w.geometry, x, *divisors, averages)
    expected = reference.max_pool2d(x, 3, 1, 1, return_argmax=True)
    same_values(y, expected[0])
    same_values(argmax, expected[1])
    same_bits(averages, fastpool.avg_pool2d(x, 3, 1, 1))


def test_ranges_that_begin_amid_a_volume():
    x = planes((11, 13, 14), 5)[:3]
    expected = fastpool.max_pool3d(x, 3, 1, 1, return_argmax=True), fastpool.avg_pool3d(x, 3, 1, 1)
    w = window((11, 13, 14), 3, 1, 1, 1)
    given = x.reshape(1, 3, 11 * 13, 14)
    argmax = np.empty(given.shape, np.uint8)
    y, averages = np.empty_like(given), np.empty_like(given)
    divisors = np.full((1, 1, 1, 143), 9.0, x.dtype), np.full((1, 1, 1, 14), 3.0, x.dtype)
    with on_threads(2):
        flat.max_pool_flat(True)(3 * 143, 1 << 40, w.geometry, given, y, argmax)
        flat.avg_pool_flat(True)(3 * 143, 1 << 40, w.geometry, given, *divisors, averages)
    same_values(y.reshape(x.shape), expected[0][0])
    same_values(argmax.reshape(x.shape), expected[0][1])
    same_bits(averages.reshape(x.shape), expected[1])
