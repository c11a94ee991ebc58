"""Arrays with the channel last: the same results as with the spatial axes last, moved."""

from itertools import product

import brute
import numpy as np
import pytest
from helpers import (
    FLOATS,
    SIZES,
    and_magnitude,
    near,
    on_threads,
    same_bits,
    same_values,
    sentinel,
    surroundings,
    terms,
)

import fastpool
from fastpool import reference
from fastpool.testing.arrays import INPUT_LAYOUTS, LAYOUTS, laid_out, random_array

LAST = {"data_format": "channels_last"}
WINDOWS = [
    {"kernel_size": 2},
    {"kernel_size": 2, "stride": 1, "padding": ((1, 0), (0, 1))},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": "same"},
    {"kernel_size": 3, "ceil_mode": True},
    {"kernel_size": (5, 4), "stride": (2, 3), "padding": (1, 2), "dilation": (1, 2), "ceil_mode": True},
]
DIVISORS = [{}, {"count_include_pad": False}, {"divisor_override": 3}]


@pytest.fixture(autouse=True)
def _quiet():
    """Sums of special values overflow, here and in NumPy."""
    with np.errstate(over="ignore", invalid="ignore"):
        yield


def output_shape(shape, **window):
    output, _ = brute.windows(shape[-3:-1], **window)
    return (*shape[:-3], *output, shape[-1])


def check_max(implementation, x, **window):
    """Values, argmax, indices and gradients are those of the plain loops."""
    before = x.copy()
    values, argmax, indices = brute.max_pool2d(x, **window, **LAST)
    argmax = argmax.astype(np.uint8)
    same_values(implementation.max_pool2d(x, **window, **LAST), values)
    for name, expected in (("return_argmax", argmax), ("return_indices", indices)):
        y, positions = implementation.max_pool2d(x, **window, **LAST, **{name: True})
        same_values(y, values)
        same_values(positions, expected)
    same_bits(x, before)
    if x.dtype.kind != "b":
        dx = implementation.max_pool2d_backward(values, argmax, x.shape, **window, **LAST)
        same_bits(dx, brute.max_pool2d_backward(values, argmax, x.shape, **window, **LAST))


def check_avg(implementation, x, **window):
    """Averages and gradients are those of the plain loops, but for rounding."""
    before = x.copy()
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype(float)
    taps = np.prod(brute.both(window["kernel_size"]))
    y = implementation.avg_pool2d(x, **window, **LAST)
    near(y, *brute.avg_pool2d(and_magnitude(x), **window, **LAST), taps)
    dx = implementation.avg_pool2d_backward(y, x.shape, **window, **LAST)
    near(dx, *brute.avg_pool2d_backward(and_magnitude(y), (2, *x.shape), **window, **LAST), taps)
    assert y.dtype == dx.dtype == dtype
    same_bits(x, before)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_numbers_of_channels(implementation, window, dtype):
    for channels in [*range(36), *range(47, 50), *range(63, 68), *range(79, 82), *range(95, 98), *range(127, 131)]:
        x = random_array((4, 4, channels), dtype, channels, "gaps" if channels % 2 else "ties")
        check_max(implementation, x, **window)
        check_avg(implementation, x, **window, **DIVISORS[channels % 3])


@pytest.mark.parametrize("kind", ["gaps", "ties", "specials", "lowest"])
@pytest.mark.parametrize(
    ("dtype", "window"),
    [*product(SIZES, WINDOWS), *((np.dtype(dtype), WINDOWS[0]) for dtype in ("?", "i1", "u4"))],
    ids=str,
)
def test_dtypes(implementation, dtype, kind, window):
    x = random_array((7, 9, 5), dtype, kind=kind)
    check_max(implementation, x, **window)
    if dtype.kind != "f" or kind != "specials":  # sums overflow in one order and not in another
        for divisor in DIVISORS:
            check_avg(implementation, x, **window, **divisor)


@pytest.mark.parametrize(
    "shape",
    [(6, 11, 3), (1, 6, 11, 3), (2, 6, 11, 1), (2, 3, 6, 11, 4), (0, 6, 11, 3), (2, 6, 11, 0), (2, 0, 6, 11, 3)],
    ids=str,
)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_shapes(implementation, shape, window):
    x = random_array(shape, np.float32)
    check_max(implementation, x, **window)
    check_avg(implementation, x, **window)


@pytest.mark.parametrize("spatial", [(1, 1), (1, 40), (40, 1), (2, 700)], ids=str)
@pytest.mark.parametrize("channels", [1, 2, 33])
def test_planes_of_any_size(implementation, spatial, channels):
    x = random_array((*spatial, channels), np.float64)
    for window in ({"kernel_size": 1}, {"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": spatial}):
        if np.prod(brute.both(window["kernel_size"])) <= 256:
            check_max(implementation, x, **window)
            check_avg(implementation, x, **window)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_special_in_every_place(implementation, value, dtype):
    shape = (4, 5, 35)
    for window in WINDOWS[:4]:
        x = np.repeat(random_array(shape, dtype)[None], 35, axis=0)
        x[np.arange(35), np.arange(35) % 4, np.arange(35) % 5, np.arange(35)] = value  # in every channel
        check_max(implementation, x, **window)
        check_avg(implementation, x, **window)


def test_a_window_is_of_one_channel(implementation):
    x = np.array([[[1, 8], [2, 7]], [[3, 6], [4, 5]]])  # (H, W, C)
    y, argmax = implementation.max_pool2d(x, 2, **LAST, return_argmax=True)
    same_values(y, np.array([[[4, 8]]]))
    same_values(argmax, np.array([[[3, 0]]], np.uint8))
    same_values(implementation.max_pool2d(x, 2, **LAST, return_indices=True)[1], np.array([[[3, 0]]]))
    same_values(implementation.avg_pool2d(x, 2, **LAST), np.array([[[2.5, 6.5]]]))
    dx = implementation.max_pool2d_backward([[[5, 9]]], argmax, x.shape, 2, **LAST)
    same_values(dx, np.array([[[0, 9], [0, 0]], [[0, 0], [5, 0]]]))
    same_values(implementation.avg_pool2d_backward([[[4, 8]]], x.shape, 2, **LAST), np.full((2, 2, 2), [1.0, 2]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_that_are_kept_of_some_channels_at_a_time(dtype):
    window = {"kernel_size": 5, "stride": 1, "padding": 2, **LAST}
    x = random_array((2, 7, 190, 150), dtype, kind="gaps")
    y, argmax = reference.max_pool2d(x, **window, return_argmax=True)
    fast, positions = fastpool.max_pool2d(x, **window, return_argmax=True)
    same_values(fast, y)
    same_values(positions, argmax)
    same_values(fastpool.max_pool2d(x, **window), y)
    near(fastpool.avg_pool2d(x, **window), *reference.avg_pool2d(and_magnitude(x), **window), terms(x.dtype, 5))


@pytest.mark.parametrize("function", ["max_pool2d", "avg_pool2d"])
def test_channels_first_is_the_default(implementation, function):
    x = random_array((2, 5, 6, 7), np.float32)
    pool = getattr(implementation, function)
    same_bits(pool(x, 2, data_format="channels_first"), pool(x, 2))
    assert pool(x, 2).shape == (2, 5, 3, 3)
    assert pool(x, 2, data_format=np.str_("channels_last")).shape == (2, 2, 3, 7)


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("dtype", [*FLOATS, "i2"])
def test_layouts(implementation, layout, dtype):
    # Among them spatial axes that lie last, in memory.
    x = random_array((2, 8, 9, 19), dtype)
    for window in WINDOWS:
        y, argmax = implementation.max_pool2d(x, **window, **LAST, return_argmax=True)
        dy = random_array(y.shape, dtype, seed=1)
        given_x, given_dy, given_argmax = (laid_out(array, layout) for array in (x, dy, argmax))
        same_values(implementation.max_pool2d(given_x, **window, **LAST), y)
        same_values(implementation.max_pool2d(given_x, **window, **LAST, return_argmax=True)[1], argmax)
        expected = implementation.max_pool2d_backward(dy, argmax, x.shape, **window, **LAST)
        for given in ((given_dy, argmax), (dy, given_argmax)):
            same_bits(implementation.max_pool2d_backward(*given, x.shape, **window, **LAST), expected)
        expected = implementation.avg_pool2d(x, **window, **LAST)
        same_bits(implementation.avg_pool2d(given_x, **window, **LAST), expected)
        expected = implementation.avg_pool2d_backward(dy, x.shape, **window, **LAST)
        same_bits(implementation.avg_pool2d_backward(given_dy, x.shape, **window, **LAST), expected)
        for given, before in ((given_x, x), (given_dy, dy), (given_argmax, argmax)):
            np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((1, 3, 2100, 2), {"kernel_size": 3, "stride": 1, "padding": 1}),  # pieces of a row
        ((1, 12, 900, 17), {"kernel_size": 9, "stride": (1, 2), "padding": 4}),
        ((1, 9, 40, 600), {"kernel_size": 5, "stride": 2, "padding": 2}),  # some of the channels
        ((2, 9, 30, 70), {"kernel_size": (2, 4), "stride": (3, 2), "dilation": (2, 3)}),  # rows that no window has
        ((1, 5, 7, 200), {"kernel_size": 9, "stride": 1, "padding": 4}),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_shares_of_windows_that_overlap(shape, window, threads):
    dy = random_array(fastpool.avg_pool2d(np.zeros(shape, np.float32), **window, **LAST).shape, np.float32, kind="gaps")
    with on_threads(threads):
        dx = fastpool.avg_pool2d_backward(dy, shape, **window, **LAST, count_include_pad=False)
    expected = reference.avg_pool2d_backward(and_magnitude(dy), (2, *shape), **window, **LAST, count_include_pad=False)
    windows = reference.avg_pool2d_backward(np.ones(dy.shape), shape, **window, **LAST, divisor_override=1)
    near(dx, *expected, windows)


@pytest.mark.parametrize("axes", [(0, 2, 3, 1), (2, 1, 0, 3), (3, 2, 1, 0), (1, 3, 0, 2)], ids=str)
def test_transposed_axes(implementation, axes):
    x = random_array((4, 5, 6, 7), np.float32).transpose(axes)
    for window in WINDOWS[:4]:
        check_max(implementation, x, **window)
        check_avg(implementation, x, **window)


@pytest.mark.parametrize("shape", [(1, 8, 1, 3), (2, 1, 9, 1), (1, 1, 1, 1)], ids=str)
def test_broadcast_axes(implementation, shape):
    x = np.broadcast_to(random_array(shape, np.float32), (2, 8, 9, 3))
    for window in WINDOWS[:4]:
        check_max(implementation, x, **window)
        check_avg(implementation, x, **window)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", SIZES, ids=str)
def test_out(implementation, layout, dtype):
    x = random_array((2, 8, 9, 19), dtype)
    for window in WINDOWS[1:4]:
        y, argmax = implementation.max_pool2d(x, **window, **LAST, return_argmax=True)
        for function, arguments in (
            (implementation.max_pool2d, (x,)),
            (implementation.max_pool2d_backward, (y, argmax, x.shape)),
            (implementation.avg_pool2d, (x,)),
            (implementation.avg_pool2d_backward, (y, x.shape)),
        ):
            expected = function(*arguments, **window, **LAST)
            out = sentinel(expected.shape, expected.dtype, layout)
            around = surroundings(out)
            assert function(*arguments, **window, **LAST, out=out) is out
            np.testing.assert_array_equal(out, expected)
            assert surroundings(out) == around


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_an_argmax_outside_its_window(implementation, dtype):
    shape = (2, 9, 12, 41)
    argmax = np.zeros(output_shape(shape, kernel_size=3), dtype)
    out = sentinel(shape, np.float32)
    for place in ((0, 0, 0, 0), (0, 2, 1, 37), (1, -1, -1, -1)):
        positions = argmax.copy()
        positions[place] = 9
        with pytest.raises(ValueError, match="argmax"):
            implementation.max_pool2d_backward(np.ones(argmax.shape, "f4"), positions, shape, 3, **LAST, out=out)
    same_bits(out, sentinel(shape, np.float32))


def test_an_argmax_on_padding_sends_nothing(implementation):
    shape = (2, 5, 6, 19)
    for window in WINDOWS[1:]:
        dy = random_array(output_shape(shape, **window), np.float32)
        for place in range(np.prod(brute.both(window["kernel_size"]))):
            argmax = np.full(dy.shape, place, np.uint8)
            out = sentinel(shape, np.float32, "amid others")
            around = surroundings(out)
            implementation.max_pool2d_backward(dy, argmax, shape, **window, **LAST, out=out)
            same_bits(out, brute.max_pool2d_backward(dy, argmax, shape, **window, **LAST))
            assert surroundings(out) == around


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_add_up_in_kernel_order(implementation, dtype):
    # The bits of channels_first, where windows overlap.
    for channels in (1, 3, 16, 40):
        x = random_array((2, 9, 10, channels), dtype)
        for window in WINDOWS[1:4]:
            y, argmax = implementation.max_pool2d(x, **window, **LAST, return_argmax=True)
            dy = random_array(y.shape, dtype, seed=1)
            dx = implementation.max_pool2d_backward(dy, argmax, x.shape, **window, **LAST)
            moved = brute.first(dy), brute.first(argmax), brute.first(x.shape)
            same_bits(dx, brute.last(implementation.max_pool2d_backward(*moved, **window)))


@pytest.mark.parametrize("channels", [16, 31, 32, 47, 64, 65, 130])
@pytest.mark.parametrize(
    ("spatial", "window"),
    [
        ((12, 15), {"kernel_size": 3}),
        ((13, 17), {"kernel_size": (2, 4), "stride": (3, 4), "padding": ((1, 0), (2, 3))}),
        ((9, 12), {"kernel_size": 2, "stride": 5, "padding": 1}),
        ((7, 6), {"kernel_size": (7, 6), "stride": 1}),
        ((5, 4), {"kernel_size": (2, 5), "stride": (2, 1), "padding": ((0, 1), (1, 0))}),
        ((4, 6, 9), {"kernel_size": (2, 3, 3), "stride": (2, 4, 3)}),
        ((50,), {"kernel_size": 7, "stride": 9, "padding": 3}),
    ],
    ids=str,
)
def test_gradients_of_windows_side_by_side(spatial, window, channels):
    ndim, window = len(spatial), window | LAST
    for dtype in (np.float32, np.float16):
        shape = (2, *spatial, channels)
        y, argmax = getattr(reference, f"max_pool{ndim}d")(random_array(shape, dtype), **window, return_argmax=True)
        dy = random_array(y.shape, dtype, seed=1)
        dy.flat[::5] = -0.0
        backward, arguments = f"max_pool{ndim}d_backward", (dy, argmax, shape)
        same_bits(getattr(fastpool, backward)(*arguments, **window), getattr(reference, backward)(*arguments, **window))
        shares = getattr(reference, f"avg_pool{ndim}d_backward")(dy, shape, **window)
        near(getattr(fastpool, f"avg_pool{ndim}d_backward")(dy, shape, **window), shares, np.abs(shares), 1)
