"""Results that are written past the caches: wherever they begin in a cache line, and in parts of any length."""

from functools import partial

import numpy as np
import pytest
from helpers import same_bits

import fastpool
from fastpool import plans, reference
from fastpool.kernels import hold, simd
from fastpool.testing.arrays import random_array

#: So many elements around a result shall stay what they are.
AROUND = 128


@pytest.fixture
def all_far(monkeypatch):
    """Have every result, however small, be far from any cache."""
    planned = (
        plans.pooling, plans.scattering, plans.scattering_of, plans.sharing, plans.unfolding, plans.folding,
        plans.folding_batch,
    )  # fmt: skip
    monkeypatch.setattr(hold, "FAR", 0)
    for plan in planned:
        plan.cache_clear()
    yield
    for plan in planned:
        plan.cache_clear()


def check(call, expected):
    """Compare what `call(out=...)` writes to memory that begins at some places of a cache line, and nowhere else."""
    dtype = expected.dtype
    for shift in range(0, simd.BYTES // dtype.itemsize, 3):
        memory = np.full(expected.size + 2 * AROUND, 7, dtype)
        first = AROUND - memory.ctypes.data % simd.BYTES // dtype.itemsize + shift
        out = memory[first : first + expected.size].reshape(expected.shape)
        call(out=out)
        same_bits(out, expected)
        assert (memory[:first] == 7).all()
        assert (memory[first + expected.size :] == 7).all()


#: Shapes and windows that have kernels of their own.
CASES = [
    ((3, 9, 14, 14), {"kernel_size": 2, "stride": 2}),
    ((2, 3, 31, 65), {"kernel_size": 2, "stride": 2}),
    ((1, 2, 9, 1100), {"kernel_size": 2, "stride": 2}),
    ((2, 2, 24, 150), {"kernel_size": 2, "stride": 2}),
    ((2, 3, 40, 57), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((1, 2, 25, 530), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((40, 2, 13, 13), {"kernel_size": 3, "stride": 2}),
    ((2, 5, 24, 36), {"kernel_size": 3, "stride": 3}),
    ((70, 2, 6, 6), {"kernel_size": 2, "stride": 1}),
    ((3, 5, 20, 37), {"kernel_size": 2, "stride": 1}),
    ((2, 3, 20, 20), {"kernel_size": 5, "stride": 1, "padding": 2}),
    ((2, 3, 21, 38), {"kernel_size": (3, 4), "stride": (4, 5)}),
    ((2, 2, 23, 140), {"kernel_size": (4, 3), "stride": (4, 3), "padding": ((0, 1), (0, 1))}),
    ((2, 3, 20, 37), {"kernel_size": (3, 4), "stride": (3, 4), "padding": ((0, 2), (0, 3))}),
    ((1, 3, 6, 8, 34), {"kernel_size": 2, "stride": 2}),
    ((3, 5, 700), {"kernel_size": 3, "stride": 2, "padding": 1}),
]


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@pytest.mark.parametrize(("shape", "window"), CASES, ids=str)
def test_pooling(all_far, shape, window, data_format):
    if data_format == "channels_last":
        shape = (shape[0], *shape[2:], 11 * shape[1])
    ndim, window = len(shape) - 2, window | {"data_format": data_format}
    x = random_array(shape, "f4", kind="ties")
    forward, backward = f"max_pool{ndim}d", f"max_pool{ndim}d_backward"
    y, argmax = getattr(reference, forward)(x, **window, return_argmax=True)
    dy = random_array(y.shape, "f4")
    dx = getattr(reference, backward)(dy, argmax, shape, **window)
    check(partial(getattr(fastpool, forward), x, **window), y)
    check(partial(getattr(fastpool, backward), dy, argmax, shape, **window), dx)
    # Sums of zeros and ones are the same in any order.
    ones, window = random_array(y.shape, "f4", kind="ties"), window | {"divisor_override": 1}
    forward, backward = f"avg_pool{ndim}d", f"avg_pool{ndim}d_backward"
    y = getattr(reference, forward)(x, **window)
    dx = getattr(reference, backward)(ones, shape, **window)
    check(partial(getattr(fastpool, forward), x, **window), y)
    check(partial(getattr(fastpool, backward), ones, shape, **window), dx)


@pytest.mark.parametrize("dtype", ["f2", "f8", "u1"])
@pytest.mark.parametrize(("shape", "window"), CASES, ids=str)
def test_maxima_beside_their_positions(all_far, shape, window, dtype):
    x, pool = random_array(shape, dtype, kind="ties"), f"max_pool{len(shape) - 2}d"
    y, argmax = getattr(fastpool, pool)(x, **window, return_argmax=True)
    expected, expected_argmax = getattr(reference, pool)(x, **window, return_argmax=True)
    same_bits(y, expected)
    same_bits(argmax, expected_argmax)
    check(partial(getattr(fastpool, pool), x, **window), expected)


@pytest.mark.parametrize(("shape", "window"), CASES, ids=str)
def test_columns(all_far, shape, window):
    x, size = random_array(shape, "f4"), shape[2:]
    columns = reference.unfold(x, **window)
    check(partial(fastpool.unfold, x, **window), columns)
    check(partial(fastpool.fold, columns, size, **window), reference.fold(columns, size, **window))
