"""Small planes of few windows in a row: as many at a time as vectors have lanes, and those that are left."""

import numpy as np
import pytest
from helpers import (
    and_magnitude,
    compare_pools,
    drawn_paddings,
    few_numbers,
    near,
    on_threads,
    same_bits,
    same_values,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpool
from fastpool import plans, reference
from fastpool.kernels import blocked
from fastpool.testing.arrays import INPUT_LAYOUTS, laid_out, random_array
from fastpool.window import window

SUITS = blocked.suits


@pytest.fixture(autouse=True, scope="module")
def _however_few():
    """Any planes that there is room for take this way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked, "suits", lambda w, planes, itemsize: fits(w))
        patch.setattr(plans, "FLATTENED", 1 << 60)
        plans.pooling.cache_clear()
        yield
    plans.pooling.cache_clear()


def fits(w):
    places = w.taps <= blocked.BYTE and np.prod(w.output) * w.taps <= blocked.PLACES
    return np.prod(w.input) <= blocked.ELEMENTS and places


@given(data=st.data())
@settings(max_examples=60)
def test_all_together(data):
    ndim = data.draw(st.integers(1, 3))
    leading = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 60)))
    shape = leading + data.draw(st.tuples(*[st.integers(1, most) for most in ((60,), (12, 9), (5, 6, 7))[ndim - 1]]))
    kernel_size, stride = data.draw(st.tuples(*[st.tuples(*[st.integers(1, 5)] * ndim)] * 2))
    dilation = data.draw(st.tuples(*[st.integers(1, 2)] * ndim))
    parameters = (kernel_size, stride, drawn_paddings(data, kernel_size, dilation), dilation, data.draw(st.booleans()))
    try:
        window(shape[2:], *parameters, elements=True)
    except ValueError:  # a window that does not fit, or of nothing but padding
        return
    x = laid_out(few_numbers(data, shape), data.draw(st.sampled_from(INPUT_LAYOUTS)))
    compare_pools(x, *parameters, count_include_pad=data.draw(st.booleans()))


@pytest.mark.parametrize("dtype", ["u1", "i2", "f2", "f4", "f8"])
def test_any_number_of_planes(dtype):
    """Runs of 16 bytes reach over the ends of planes of one, two and three windows, but not of the last one."""
    group = blocked.SHARED * (32 if dtype == "f2" else 64) // np.dtype(dtype).itemsize
    for count in (1, 2, 15, group - 1, group, group + 1, 2 * group, 2 * group + 2):
        for width in (4, 6, 8):
            compare_pools(random_array((count, 3, width), dtype, kind="gaps"), (3, 3), (1, 2))


@pytest.mark.parametrize("spatial", [(5, 4), (7, 7), (4, 7, 7), (9,)])
def test_nothing_is_written_behind_the_results(spatial):
    kernel_size = (3,) * len(spatial)
    for count in (63, 64, 65, 131):
        x = random_array((count, *spatial), "f4")
        for name in ("max", "avg"):
            pool = getattr(fastpool, f"{name}_pool{len(spatial)}d")
            y = pool(x, kernel_size, 2)
            around = np.full(y.size + 64, 77, y.dtype)
            pool(x, kernel_size, 2, out=around[32:-32].reshape(y.shape))
            same_bits(around[32:-32].reshape(y.shape), y)
            assert (np.delete(around, np.s_[32:-32]) == 77).all()


def test_any_ranges_of_planes():
    """Threads begin and end amid what is taken at a time."""
    x = random_array((1, 333, 7, 7), "f4", kind="gaps")
    w = window((7, 7), (3, 3), (2, 2), 1, 1)
    shape = (*x.shape[:2], *w.output)
    argmax, y, averages = np.empty(shape, np.uint8), np.empty(shape, x.dtype), np.empty(shape, x.dtype)
    divisors = tuple(np.full((1, 1, 1, n), k, x.dtype) for n, k in zip(w.output, w.kernel_size))
    with on_threads(2):
        blocked.max_pool_blocked(333, 1 << 40, w.geometry, x, y, argmax)
        blocked.avg_pool_blocked(333, 1 << 40, w.geometry, x, *divisors, averages)
    expected = reference.max_pool2d(x, 3, 2, 1, return_argmax=True)
    same_values(y, expected[0])
    same_values(argmax, expected[1])
    same_bits(averages, fastpool.avg_pool2d(x, 3, 2, 1))


def test_positions_wider_than_elements():
    """Such windows are not for this way, in which they would be moved in other runs than elements."""
    assert not SUITS(window((20, 19), 17, 1, 0, 1), 300, 1)
    x = random_array((300, 20, 19), "u1")
    _, argmax = fastpool.max_pool2d(x, 17, 1, return_argmax=True)
    same_values(argmax, reference.max_pool2d(x, 17, 1, return_argmax=True)[1])


def test_what_it_is_for():
    assert SUITS(window((7, 7), 3, 2, 1, 1), 64, 4)
    assert not SUITS(window((7, 7), 3, 2, 1, 1), 63, 4)  # too few
    assert not SUITS(window((14, 14), 2, 2, 0, 1), 999, 4)  # rows of seven windows
    assert SUITS(window((14, 14), 3, 2, 1, 1), 999, 1)


@given(data=st.data(), dtype=st.sampled_from(["f4", "f2"]))
@settings(max_examples=60)
def test_columns(data, dtype):
    """Of images one by one, and of batches, in which the same row of all has one run; of any that there is room for."""
    ndim = data.draw(st.integers(1, 3))
    images = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9))
    spatial = data.draw(st.tuples(*[st.integers(1, most) for most in ((30,), (9, 9), (4, 5, 5))[ndim - 1]]))
    kernel_size, stride = data.draw(st.tuples(*[st.tuples(*[st.integers(1, 4)] * ndim)] * 2))
    dilation = data.draw(st.tuples(*[st.integers(1, 2)] * ndim))
    parameters = (kernel_size, stride, drawn_paddings(data, kernel_size, dilation), dilation)
    try:
        w = window(spatial, *parameters)
    except ValueError:
        return
    cols = random_array((images[0], images[1] * w.taps, int(np.prod(w.output))), dtype, 0, "specials")
    with pytest.MonkeyPatch.context() as patch, np.errstate(invalid="ignore", over="ignore"):
        patch.setattr(blocked, "sums", lambda w, planes, itemsize: np.prod(w.output) * w.taps <= blocked.MANY)
        patch.setattr(plans, "BATCH", 0)
        same_bits(*(m.fold(cols, list(spatial), *parameters) for m in (fastpool, reference)))
        if ndim == 2 and dtype == "f4":
            cols = random_array((images[1] * w.taps, images[0] * int(np.prod(w.output))), dtype, 0, "specials")
            shape = (*images, *spatial)
            folded = [m.col2im(cols, shape, kernel_size, None, *parameters[1:]) for m in (fastpool, reference)]
            same_bits(*folded)
    plans.folding.cache_clear()
    plans.folding_batch.cache_clear()


def test_threads_share_columns():
    cols = random_array((65, 64 * 9, 16), "f4")
    batch = np.ascontiguousarray(cols.transpose(1, 0, 2)).reshape(64 * 9, -1)
    expected = reference.fold(cols, 7, 3, 2, 1)
    for threads in (1, 2):
        with on_threads(threads):
            same_bits(fastpool.fold(cols, 7, 3, 2, 1), expected)
            same_bits(fastpool.col2im(batch, expected.shape, 3, None, 2, 1), expected)


@given(data=st.data(), dtype=st.sampled_from(["f2", "f4", "f8"]))
@settings(max_examples=60)
def test_shares_of_averages(data, dtype):
    ndim = data.draw(st.integers(1, 3))
    leading = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 60)))
    spatial = data.draw(st.tuples(*[st.integers(1, most) for most in ((216,), (14, 15), (6, 6, 6))[ndim - 1]]))
    kernel_size, stride = data.draw(st.tuples(*[st.tuples(*[st.integers(1, 5)] * ndim)] * 2))
    dilation = data.draw(st.tuples(*[st.integers(1, 2)] * ndim))
    parameters = (kernel_size, stride, drawn_paddings(data, kernel_size, dilation), dilation, data.draw(st.booleans()))
    divisor = {
        "count_include_pad": data.draw(st.booleans()),
        "divisor_override": data.draw(st.none() | st.integers(1, 9)),
    }
    try:
        w = window(spatial, *parameters, elements=True)
    except ValueError:
        return
    dy = random_array(leading + w.output, dtype, 0, "gaps")
    given_dy = laid_out(dy, data.draw(st.sampled_from(INPUT_LAYOUTS)))
    fast, back = (getattr(module, f"avg_pool{ndim}d_backward") for module in (fastpool, reference))
    shape = leading + spatial
    with pytest.MonkeyPatch.context() as patch, np.errstate(invalid="ignore"):
        patch.setattr(blocked, "shares", lambda w, planes, itemsize: np.prod(w.input) <= blocked.SHARES)
        dx = fast(given_dy, shape, *parameters, **divisor)
        expected = back(and_magnitude(dy), (2, *shape), *parameters, **divisor)
    windows = back(np.ones(dy.shape), shape, *parameters, divisor_override=1)
    near(dx, *expected, windows * (1 if dtype == "f4" else 2))
    plans.sharing.cache_clear()


def test_any_ranges_of_shares():
    """Threads begin and end amid what is taken at a time, and write nothing else."""
    dy, expected = random_array((1, 333, 4, 4), "f4"), np.empty((1, 333, 7, 7), np.float32)
    w = window((7, 7), 3, 2, 1, 1)
    divisors = tuple(np.full((1, 1, 1, 4), 3, np.float32) for _ in range(2))
    blocked.avg_pool_blocked_backward(333, 1 << 40, w.geometry, dy, *divisors, expected)
    near(expected, *reference.avg_pool2d_backward(and_magnitude(dy), (2, *expected.shape), 3, 2, 1), 4)
    with on_threads(2):
        dx = np.empty_like(expected)
        blocked.avg_pool_blocked_backward(333, 1 << 40, w.geometry, dy, *divisors, dx)
    same_bits(dx, expected)
