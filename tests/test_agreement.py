"""All parameters drawn together: the kernels against the reference."""

import brute
import numpy as np
import pytest
from helpers import FLOATS, and_magnitude, near, same_bits, same_values, terms
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpool
from fastpool import reference
from fastpool.testing import strategies
from fastpool.testing.arrays import laid_out

#: Windows further apart in a row have kernels of their own to compile: they are drawn of float32 alone. Of every dtype,
#: tests/test_simd.py has elements at any distance.
NEAR = 3


@st.composite
def pools(draw, dtypes=strategies.dtypes, kinds=strategies.KINDS):
    """An input and the keyword arguments of its pooling."""
    spatial, window = draw(strategies.windows())
    _, stride = strategies.each(window["stride"] or window["kernel_size"], 2)
    dtype = draw(dtypes if stride <= NEAR else st.just(np.dtype("f")))
    shape = (*draw(strategies.leading_axes), *spatial)
    if draw(st.booleans()):
        window["data_format"] = "channels_last"
        shape = (*shape[:-2][:1], *spatial, draw(strategies.channels))
    return draw(strategies.arrays(shape, dtype, kinds)), window


@st.composite
def images(draw):
    """Images, a gradient of their columns, and the keyword arguments of im2col."""
    spatial, window = draw(strategies.windows(im2col=True))
    shape = (draw(st.integers(0, 3)), draw(st.integers(0, 3)), *spatial)
    dtype = draw(strategies.dtypes)
    cols = draw(strategies.arrays(brute.columns_shape(shape, **window), dtype))
    return draw(strategies.arrays(shape, dtype)), cols, window


@pytest.fixture(autouse=True)
def _quiet():
    """Sums of special values overflow, here and in NumPy."""
    with np.errstate(over="ignore", invalid="ignore"):
        yield


def outcome(function, *args, **kwargs):
    """Return the result, or what the error says: a window may have no element."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        return str(error)


@given(pools(), strategies.input_layouts)
@settings(max_examples=250)
def test_max_pool2d(case, layout):
    x, window = case
    result = outcome(reference.max_pool2d, x, **window, return_argmax=True)
    if isinstance(result, str):
        assert outcome(fastpool.max_pool2d, x, **window, return_argmax=True) == result
        return
    expected, argmax = result
    indices = reference.max_pool2d(x, **window, return_indices=True)[1]
    x = laid_out(x, layout)
    same_values(fastpool.max_pool2d(x, **window), expected)
    for name, positions in (("return_argmax", argmax), ("return_indices", indices)):
        y, found = fastpool.max_pool2d(x, **window, **{name: True})
        same_values(y, expected)
        same_values(found, positions)


@given(pools(st.sampled_from(strategies.NUMBERS)), st.data())
@settings(max_examples=250)
def test_max_pool2d_backward(case, data):
    x, window = case
    result = outcome(reference.max_pool2d, x, **window, return_argmax=True)
    if isinstance(result, str):
        return
    y, argmax = result
    dy = data.draw(strategies.arrays(y.shape, x.dtype))
    expected = reference.max_pool2d_backward(dy, argmax, x.shape, **window)
    dy, argmax = (laid_out(array, data.draw(strategies.input_layouts)) for array in (dy, argmax))
    same_bits(fastpool.max_pool2d_backward(dy, argmax, x.shape, **window), expected)


@given(pools(kinds=strategies.SUMMABLE), strategies.divisors, strategies.input_layouts)
@settings(max_examples=200)
def test_avg_pool2d(case, divisor, layout):
    x, window = case
    expected = outcome(reference.avg_pool2d, and_magnitude(x), **window, **divisor)
    if isinstance(expected, str):
        assert outcome(fastpool.avg_pool2d, x, **window, **divisor) == expected
        return
    y = fastpool.avg_pool2d(laid_out(x, layout), **window, **divisor)
    assert y.dtype == (x.dtype if x.dtype in FLOATS else float)
    near(y, *expected, terms(y.dtype, window["kernel_size"]))


@given(pools(st.sampled_from(strategies.NUMBERS)), strategies.divisors, st.data())
@settings(max_examples=200)
def test_avg_pool2d_backward(case, divisor, data):
    x, window = case
    y = outcome(reference.avg_pool2d, x, **window)
    if isinstance(y, str):
        return
    dy = data.draw(strategies.arrays(y.shape, x.dtype, strategies.SUMMABLE))
    dx = fastpool.avg_pool2d_backward(laid_out(dy, data.draw(strategies.input_layouts)), x.shape, **window, **divisor)
    assert dx.dtype == y.dtype
    expected = reference.avg_pool2d_backward(and_magnitude(dy), (2, *x.shape), **window, **divisor)
    windows = reference.avg_pool2d_backward(np.ones(y.shape), x.shape, **window, divisor_override=1)
    near(dx, *expected, windows * (1 if dx.dtype == np.float32 else 2))


@given(images(), strategies.input_layouts)
@settings(max_examples=200)
def test_columns(case, layout):
    x, cols, window = case
    columns = reference.im2col(x, **window)
    dx = reference.col2im(cols, x.shape, **window)
    given_x, given_cols = laid_out(x, layout), laid_out(cols, layout)
    same_bits(fastpool.im2col(given_x, **window), columns)
    same_bits(fastpool.col2im(given_cols, x.shape, **window), dx)
    if "output_size" not in window:
        same_bits(fastpool.unfold(given_x, **window), reference.unfold(x, **window))
        given_cols = laid_out(brute.by_image(cols, x.shape, **window), layout)
        same_bits(fastpool.fold(given_cols, x.shape[2:], **window), dx)


@given(st.data(), st.tuples(*[st.integers(1, 5)] * 2) | st.integers(1, 9))
@settings(max_examples=60)
def test_pooling(data, pool):
    few = st.integers(0, 3)
    dtype = data.draw(st.sampled_from(FLOATS if strategies.each(pool, 2)[1] <= NEAR else FLOATS[:1]))
    shape = tuple(data.draw(sizes) for sizes in (few, few, strategies.SHORT, strategies.LENGTHS))
    x = data.draw(strategies.arrays(shape, dtype))
    fast, slow = fastpool.Pooling(pool), reference.Pooling(pool)
    same_values(fast.forward(x), slow.forward(x))
    same_values(fast.max_index, slow.max_index)
    dy = data.draw(strategies.arrays(slow.y.shape, dtype))
    same_bits(fast.backward(dy), slow.backward(dy))
