"""All parameters drawn together: the reference against plain loops, and the kernels against the reference."""

import brute
import numpy as np
import pytest
import strategies
from helpers import FLOATS, NUMBERS, laid_out, same_bits, same_values
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpool
from fastpool import reference

SMALL = {"kernels": 4, "strides": 4, "widths": strategies.SHORT}


@st.composite
def max_pools(draw, dtypes=strategies.dtypes, **limits):
    """An input and the keyword arguments of its pooling."""
    spatial, window = draw(strategies.windows(**limits))
    x = draw(strategies.arrays((*draw(strategies.leading_axes), *spatial), draw(dtypes)))
    return x, window


@st.composite
def images(draw, **limits):
    """Images, a gradient of their columns, and the keyword arguments of im2col."""
    spatial, window = draw(strategies.windows(**limits, im2col=True))
    shape = (draw(st.integers(0, 3)), draw(st.integers(0, 3)), *spatial)
    dtype = draw(strategies.dtypes)
    cols = draw(strategies.arrays(brute.columns_shape(shape, **window), dtype))
    return draw(strategies.arrays(shape, dtype)), cols, window


@pytest.fixture(autouse=True)
def _quiet():
    """Sums of special values overflow, here and in NumPy."""
    with np.errstate(over="ignore", invalid="ignore"):
        yield


@given(max_pools(**SMALL))
@settings(max_examples=300)
def test_the_reference_is_the_plain_loop(case):
    x, window = case
    if not all(brute.windows(x.shape[-2:], **window)[1]):
        with pytest.raises(ValueError, match="covers no element"):
            reference.max_pool2d(x, **window)
        return
    values, argmax, indices = brute.max_pool2d(x, **window)
    same_values(reference.max_pool2d(x, **window), values)
    same_values(reference.max_pool2d(x, **window, return_indices=True)[1], indices)
    positions = reference.max_pool2d(x, **window, return_argmax=True)[1]
    same_values(positions, argmax.astype(np.uint8))
    dy = values if values.dtype.kind != "b" else values.astype(np.float32)
    dx = reference.max_pool2d_backward(dy, positions, x.shape, **window)
    same_bits(dx, brute.max_pool2d_backward(dy, argmax, x.shape, **window))


@given(images(**SMALL))
@settings(max_examples=150)
def test_the_reference_columns_are_the_plain_loop(case):
    x, cols, window = case
    same_bits(reference.im2col(x, **window), brute.im2col(x, **window))
    same_bits(reference.col2im(cols, x.shape, **window), brute.col2im(cols, x.shape, **window))


def outcome(module, x, window):
    """Return y and argmax, or what the error says: a window may have no element."""
    try:
        return module.max_pool2d(x, **window, return_argmax=True)
    except ValueError as error:
        return str(error)


@given(max_pools(), strategies.input_layouts)
@settings(max_examples=1000)
def test_max_pool2d(case, layout):
    x, window = case
    if isinstance(result := outcome(reference, x, window), str):
        assert outcome(fastpool, x, window) == result
        return
    expected, argmax = result
    indices = reference.max_pool2d(x, **window, return_indices=True)[1]
    x = laid_out(x, layout)
    same_values(fastpool.max_pool2d(x, **window), expected)
    for name, positions in (("return_argmax", argmax), ("return_indices", indices)):
        y, found = fastpool.max_pool2d(x, **window, **{name: True})
        same_values(y, expected)
        same_values(found, positions)


@given(max_pools(st.sampled_from(NUMBERS)), st.data())
@settings(max_examples=1000)
def test_max_pool2d_backward(case, data):
    x, window = case
    if isinstance(result := outcome(reference, x, window), str):
        return
    y, argmax = result
    dy = data.draw(strategies.arrays(y.shape, x.dtype))
    expected = reference.max_pool2d_backward(dy, argmax, x.shape, **window)
    dy, argmax = (laid_out(array, data.draw(strategies.input_layouts)) for array in (dy, argmax))
    same_bits(fastpool.max_pool2d_backward(dy, argmax, x.shape, **window), expected)


@given(images(), strategies.input_layouts)
@settings(max_examples=700)
def test_columns(case, layout):
    x, cols, window = case
    columns = reference.im2col(x, **window)
    dx = reference.col2im(cols, x.shape, **window)
    x, cols = laid_out(x, layout), laid_out(cols, layout)
    same_bits(fastpool.im2col(x, **window), columns)
    same_bits(fastpool.col2im(cols, x.shape, **window), dx)


@given(st.data(), st.tuples(*[st.integers(1, 5)] * 2) | st.integers(1, 9), st.sampled_from(FLOATS))
@settings(max_examples=100)
def test_pooling(data, pool, dtype):
    few = st.integers(0, 3)
    shape = tuple(data.draw(sizes) for sizes in (few, few, strategies.SHORT, strategies.LENGTHS))
    x = data.draw(strategies.arrays(shape, dtype))
    fast, slow = fastpool.Pooling(pool), reference.Pooling(pool)
    same_values(fast.forward(x), slow.forward(x))
    same_values(fast.max_index, slow.max_index)
    dy = data.draw(strategies.arrays(slow.y.shape, dtype))
    same_bits(fast.backward(dy), slow.backward(dy))
