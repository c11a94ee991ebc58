"""Windows that are whole planes: one run of elements each, or rows that do not follow each other."""

import numpy as np
import pytest
from helpers import FLOATS, and_magnitude, near, same_values, terms
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpool
from fastpool import reference
from fastpool.testing import strategies
from fastpool.testing.arrays import laid_out, random_array


def compare(x, ndim, kind="random"):
    kernel_size = x.shape[-ndim:]
    for name in (f"max_pool{ndim}d", f"adaptive_max_pool{ndim}d"):
        size = kernel_size if name.startswith("max") else 1
        expected, positions = getattr(reference, name)(x, size, return_argmax=True)
        y, argmax = getattr(fastpool, name)(x, size, return_argmax=True)
        same_values(y, expected)
        same_values(argmax, positions)
        same_values(getattr(fastpool, name)(x, size), expected)
    same_values(fastpool.global_max_pool(x, ndim), expected)
    if x.dtype.kind == "f" and kind == "specials":  # sums overflow in one order and not in another
        return
    with np.errstate(invalid="ignore", over="ignore"):
        expected, magnitude = getattr(reference, f"avg_pool{ndim}d")(and_magnitude(x), kernel_size)
    for y in (getattr(fastpool, f"avg_pool{ndim}d")(x, kernel_size), fastpool.global_avg_pool(x, ndim)):
        near(y, expected, magnitude, terms(y.dtype, kernel_size))


@given(st.data(), st.integers(1, 3), st.sampled_from(["f4", "f8", "f2", "i1"]), strategies.input_layouts)
@settings(max_examples=300)
def test_any(data, ndim, dtype, layout):
    # Infinities and NaN anywhere, all elements the same, rows that are one run or not.
    spatial = data.draw(st.tuples(*[st.integers(1, {1: 300, 2: 20, 3: 7}[ndim])] * ndim))
    shape = (*data.draw(st.lists(st.integers(1, 4), max_size=2)), *spatial)
    kind = data.draw(strategies.KINDS | st.just("gaps"))
    compare(laid_out(data.draw(strategies.arrays(shape, dtype, st.just(kind))), layout), ndim, kind)


@pytest.mark.parametrize("dtype", ["u1", "i8", *FLOATS], ids=str)
def test_dtypes(dtype):
    for kind in ("random", "ties", "gaps", "specials"):
        compare(random_array((3, 5, 7, 7), dtype, kind=kind), 2, kind)


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_planes(dtype):
    for spatial in ((90, 101), (1, 9001), (9001, 1)):
        compare(random_array((2, *spatial), dtype), 2)
    compare(random_array((2, 200, 90), dtype)[:, ::2, :], 2)
