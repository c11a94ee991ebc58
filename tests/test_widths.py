"""Every width, or number of channels, from 1 to 130 with every kernel from 1 to 9 and every stride from 1 to 5.

That takes every tail of every vector through NaN, ties and infinities in every lane. The reference is
compared with plain loops elsewhere; here the kernels are compared with it.
"""

import brute
import numpy as np
import pytest
from helpers import and_magnitude, near, planes, same_bits, same_values, terms

import fastpool
from fastpool import reference

STRIDES = range(1, 6)
FORMATS = [("channels_first", np.asarray), ("channels_last", lambda x: np.ascontiguousarray(brute.last(x)))]


@pytest.fixture(autouse=True)
def _quiet():
    """Infinities of both signs add up to NaN."""
    with np.errstate(invalid="ignore"):
        yield


def cases(kernel):
    """Rows of every width, and short rows of every number of channels."""
    for size in range(1, 131):
        for stride in STRIDES:
            turn = size * len(STRIDES) + stride
            # Across, every padding there is, all of it where the row is shorter than the kernel.
            down, across = min(stride, kernel) - 1, size % kernel if size >= kernel else kernel - 1
            window = {"kernel_size": kernel, "stride": stride, "ceil_mode": bool(size // kernel % 2)}
            yield planes((kernel + 1, size), turn), {**window, "padding": (down, across)}
            yield planes((size, kernel, kernel + 1), turn), {**window, "padding": (0, down)}


@pytest.mark.parametrize("kernel", range(1, 10))
def test_maxima(kernel):
    for x, window in cases(kernel):
        expected, positions = reference.max_pool2d(x, **window, return_argmax=True)
        gradient = reference.max_pool2d_backward(expected, positions, x.shape, **window)
        for data_format, laid in FORMATS:
            window["data_format"], given = data_format, laid(x)
            y, argmax = fastpool.max_pool2d(given, **window, return_argmax=True)
            same_values(y, laid(expected))
            same_values(argmax, laid(positions))
            same_values(fastpool.max_pool2d(given, **window), y)
            same_bits(fastpool.max_pool2d_backward(y, argmax, given.shape, **window), laid(gradient))


@pytest.mark.parametrize("kernel", range(1, 10))
def test_averages(kernel):
    for turn, (x, window) in enumerate(cases(kernel)):
        window["count_include_pad"] = bool(turn // 2 % 2)
        expected, magnitude = reference.avg_pool2d(and_magnitude(x), **window)
        dy = expected.astype(np.float32)
        back = reference.avg_pool2d_backward(and_magnitude(dy), (2, *x.shape), **window)
        windows = (-(-kernel // window["stride"])) ** 2  # no element is in more
        for data_format, laid in FORMATS:
            window["data_format"], given = data_format, laid(x)
            y = fastpool.avg_pool2d(given, **window)
            near(y, laid(expected), laid(magnitude), terms(x.dtype, kernel))
            dx = fastpool.avg_pool2d_backward(laid(dy), given.shape, **window)
            near(dx, *map(laid, back), windows)
            assert y.dtype == dx.dtype == np.float32
