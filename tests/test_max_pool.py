import brute
import numpy as np
import pytest
from helpers import DTYPES, FLOATS, SIZES, same_bits, same_values, sentinel, surroundings, widths

import fastpool
from fastpool.testing.arrays import INPUT_LAYOUTS, LAYOUTS, laid_out, random_array

#: The windows that networks use, and some that no kernel is written for.
WINDOWS = [
    {"kernel_size": 2},
    {"kernel_size": 2, "stride": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": "same"},
    {"kernel_size": 3, "ceil_mode": True},
    {"kernel_size": (5, 4), "stride": (2, 3), "padding": (1, 2), "dilation": (1, 2), "ceil_mode": True},
]
EVERY = [(dtype, window) for dtype in DTYPES for window in (WINDOWS if dtype in SIZES else WINDOWS[:1])]
every_dtype = pytest.mark.parametrize(("dtype", "window"), EVERY, ids=str)


def check(implementation, x, same=same_values, **window):
    """Values, argmax and indices are those of the plain loops, and x is as it was."""
    before = x.copy()
    values, argmax, indices = brute.max_pool2d(x, **window)
    taps = np.prod(window["kernel_size"]) ** (1 if isinstance(window["kernel_size"], tuple) else 2)
    assert taps <= 256
    same(implementation.max_pool2d(x, **window), values)
    for name, expected in (("return_argmax", argmax.astype(np.uint8)), ("return_indices", indices)):
        y, positions = implementation.max_pool2d(x, **window, **{name: True})
        same(y, values)
        same_values(positions, expected)
    same_bits(x, before)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_row_widths(implementation, window, dtype):
    for width in widths(implementation, 1):
        if width == 1 and window["kernel_size"] in (2, 3) and not window.keys() & {"padding", "ceil_mode"}:
            continue  # narrower than the kernel
        check(implementation, random_array((5, width), dtype, width), **window)


@every_dtype
@pytest.mark.parametrize("kind", ["random", "ties", "specials", "lowest"])
def test_dtypes(implementation, dtype, kind, window):
    check(implementation, random_array((2, 9, 37), dtype, kind=kind), **window)


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3), (2, 1, 3), (0,), (0, 3), (2, 0), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_leading_axes(implementation, leading, window):
    check(implementation, random_array((*leading, 6, 11), np.float32), **window)


@pytest.mark.parametrize(
    ("spatial", "kernel_size"), [((1, 1), 1), ((1, 5), 1), ((7, 4), (7, 4)), ((1, 33), (1, 33)), ((40, 1), (40, 1))]
)
def test_the_smallest_inputs(implementation, spatial, kernel_size):
    check(implementation, random_array((3, *spatial), np.float64), kernel_size=kernel_size)


@pytest.mark.parametrize(
    ("length", "kernel", "stride", "padding", "dilation", "floor", "ceil"),
    [
        (5, 2, 2, 0, 1, 2, 3),
        (6, 2, 2, 0, 1, 3, 3),
        (1, 2, 2, 0, 1, None, 1),
        (7, 3, 2, 1, 1, 4, 4),
        (8, 3, 2, 1, 1, 4, 5),
        (6, 3, 3, 1, 1, 2, 3),
        (2, 2, 3, 1, 1, 1, 1),  # the second window would start at 3, which is padding
        (4, 3, 5, (2, 0), 1, 1, 2),  # the second starts at 5, on the last element
        (3, 3, 5, (2, 0), 1, 1, 1),
        (9, 3, 2, 0, 3, 2, 2),
        (10, 3, 2, 0, 3, 2, 3),
    ],
)
def test_output_sizes(implementation, length, kernel, stride, padding, dilation, floor, ceil):
    for ceil_mode, size in ((False, floor), (True, ceil)):
        x = np.arange(length * 3.0).reshape(length, 3)
        pair = padding if isinstance(padding, tuple) else (padding, padding)
        window = ((kernel, 1), (stride, 1), (pair, (0, 0)), (dilation, 1), ceil_mode)
        if size is None:
            with pytest.raises(ValueError, match="kernel_size"):
                implementation.max_pool2d(x, *window)
        else:
            assert implementation.max_pool2d(x, *window).shape == (size, 3)
            transposed = ((1, kernel), (1, stride), ((0, 0), pair), (1, dilation), ceil_mode)
            assert implementation.max_pool2d(x.T, *transposed).shape == (3, size)


@pytest.mark.parametrize(
    ("padding", "stride", "expected"),
    [
        ("valid", 1, [3, 2, 4]),
        ("same", 1, [3, 2, 4, 4]),
        ("same_lower", 1, [3, 3, 2, 4]),
        ("valid", 3, [3]),
        ("same", 3, [3, 4]),
        ("same_lower", 3, [3, 4]),
        (((0, 0), (1, 0)), 3, [3, 4]),
        (((0, 0), (0, 1)), 2, [3, 4]),
        (((0, 0), (1, 1)), 2, [3, 2, 4]),
    ],
    ids=str,
)
def test_paddings(implementation, padding, stride, expected):
    x = np.array([[3, 1, 2, 4]], np.int16)
    y = implementation.max_pool2d(x, (1, 2), (1, stride), padding)
    same_values(y, np.array([expected], np.int16))


def test_a_mixture_of_ints_and_pairs_pads(implementation):
    x = random_array((5, 6), np.float32)
    same_values(implementation.max_pool2d(x, 3, 1, (1, (0, 2))), implementation.max_pool2d(x, 3, 1, ((1, 1), (0, 2))))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_special_in_every_place(implementation, value, window, dtype):
    for shape in ((6, 6), (3, 41)):  # planes, one for every place
        planes = np.repeat(random_array(shape, dtype)[None], np.prod(shape), axis=0)
        planes[(np.arange(len(planes)), *np.indices(shape).reshape(2, -1))] = value
        check(implementation, planes, **window)


@pytest.mark.parametrize("width", [5, 6, 7, 8])
def test_specials_in_wide_windows(implementation, width):
    # Kernels that are careful with NaN, and short of registers where a double has two or more of these to itself.
    for kind in ("specials", "ties"):
        x = random_array((3, 33, 70), np.float64, width, kind)
        check(implementation, x, kernel_size=(1, width), ceil_mode=True)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("width", [2, 7, 16, 35, 64])
def test_the_first_nan_is_the_argmax(implementation, width, dtype):
    x = np.full((4, width), np.inf, dtype)
    x[1:, 1:] = np.nan
    y, argmax = implementation.max_pool2d(x, (4, width), return_argmax=True)
    assert np.isnan(y).all()
    assert argmax.item() == width + 1


@pytest.mark.parametrize("dtype", [np.dtype("?"), np.dtype("i1"), *SIZES], ids=str)
def test_padding_never_wins(implementation, dtype):
    x = random_array((20, 35), dtype, kind="lowest" if dtype.kind != "b" else "random")
    if dtype.kind == "b":
        x[...] = False
    window = {"kernel_size": 4, "stride": (1, 2), "padding": 3}
    y, argmax = implementation.max_pool2d(x, **window, return_argmax=True)
    same_values(y, np.full((23, 19), x[0, 0]))
    # The first element of a window is the first that is not padding.
    row, column = np.maximum(3 - np.arange(23), 0), np.maximum(3 - 2 * np.arange(19), 0)
    same_values(argmax, (row[:, None] * 4 + column).astype(np.uint8))
    _, indices = implementation.max_pool2d(x, **window, return_indices=True)
    row, column = np.maximum(np.arange(23) - 3, 0), np.maximum(2 * np.arange(19) - 3, 0)
    same_values(indices, row[:, None] * 35 + column)


@pytest.mark.parametrize("dtype", SIZES, ids=str)
def test_the_first_of_ties_wins(implementation, dtype):
    x = np.ones((9, 45), dtype)
    for window in ({"kernel_size": 2}, {"kernel_size": 3, "stride": (3, 2)}, {"kernel_size": 4, "stride": (1, 2)}):
        y, argmax = implementation.max_pool2d(x, **window, return_argmax=True)
        same_values(argmax, np.zeros(y.shape, np.uint8))


@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_tie_whatever_their_sign(implementation, dtype):
    x = np.array([[-0.0, 0.0] * 21, [0.0, -0.0] * 21], dtype)
    _, argmax = implementation.max_pool2d(x, 2, 1, return_argmax=True)
    same_values(argmax, np.zeros((1, 41), np.uint8))


@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_large_integers_are_not_rounded(implementation, dtype):
    top = np.iinfo(dtype).max
    x = np.array([[top - 1, top], [top - 3, top - 2]], dtype)
    y, argmax = implementation.max_pool2d(x, 2, return_argmax=True)
    assert y.item() == top
    assert argmax.item() == 1


@pytest.mark.parametrize(
    ("kernel_size", "dtype"),
    [
        ((1, 256), np.uint8),
        ((16, 16), np.uint8),
        ((257, 1), np.uint16),
        ((1, 257), np.uint16),
        ((256, 256), np.uint16),
        ((65537, 1), np.uint32),
        ((1, 65537), np.uint32),
    ],
    ids=str,
)
def test_argmax_dtype_grows_with_the_kernel(implementation, kernel_size, dtype):
    taps = np.prod(kernel_size)
    places = np.array([0, 254, 255, taps // 2, taps - 2, taps - 1])
    x = np.zeros((len(places), taps), np.float32)
    x[np.arange(len(places)), places] = 1
    y, argmax = implementation.max_pool2d(x.reshape(-1, *kernel_size), kernel_size, return_argmax=True)
    same_values(argmax, places.astype(dtype)[:, None, None])
    same_values(y, np.ones(y.shape, np.float32))


@pytest.mark.parametrize(
    "window", [{"kernel_size": (2, 150), "stride": 1}, {"kernel_size": (20, 15), "stride": (3, 9)}]
)
@pytest.mark.parametrize("kind", ["random", "ties", "specials"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_wide_kernels(implementation, window, kind, dtype):
    x = random_array((24, 190), dtype, kind=kind)
    values, argmax, indices = brute.max_pool2d(x, **window)
    y, positions = implementation.max_pool2d(x, **window, return_argmax=True)
    same_values(y, values)
    same_values(positions, argmax.astype(np.uint16))
    same_values(implementation.max_pool2d(x, **window, return_indices=True)[1], indices)
    same_values(implementation.max_pool2d(x, **window), values)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("width", [2047, 2048, 2049, 4101])
@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_long_rows(width, window, dtype):
    # Of the kernels: for the reference, all lengths are alike.
    check(fastpool, random_array((6, width), dtype, width), **window)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_specials_in_long_rows(implementation, stride):
    """Of vectors that are taken together, each may have the only NaN."""
    for width in (768, 801):
        for i in range(0, width, 37):
            x = random_array((2, width), np.float32, width + i)
            x[1, i], x[0, (i * i) % width] = np.nan, np.inf
            check(implementation, x, kernel_size=(1, 3), stride=(1, stride), padding=(0, 1))


@pytest.mark.parametrize(
    ("spatial", "window"),
    [
        ((2, 20001), {"kernel_size": (1, 3), "stride": (1, 10000), "padding": (0, 1)}),
        ((20001, 2), {"kernel_size": (3, 1), "stride": (10000, 1), "padding": (1, 0)}),
        ((3, 5000), {"kernel_size": 2, "stride": 1, "dilation": (2, 4000)}),
        ((1, 5), {"kernel_size": (1, 240), "stride": 1, "padding": (0, 239)}),
        ((5, 1), {"kernel_size": (240, 1), "stride": 1, "padding": (239, 0)}),
        ((1, 9000), {"kernel_size": (1, 2), "stride": 4500, "padding": (0, 4499), "dilation": (1, 4500)}),
    ],
    ids=str,
)
def test_long_steps(implementation, spatial, window):
    check(implementation, random_array((2, *spatial), np.float32), **window)


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@every_dtype
def test_layouts(implementation, layout, dtype, window):
    x = random_array((2, 3, 7, 37), dtype)
    y, argmax = implementation.max_pool2d(x, **window, return_argmax=True)
    given = laid_out(x, layout)
    again, positions = implementation.max_pool2d(given, **window, return_argmax=True)
    same_values(again, y)
    same_values(positions, argmax)
    np.testing.assert_array_equal(given, x)


@pytest.mark.parametrize("axes", [(1, 0, 2, 3), (0, 1, 3, 2), (3, 1, 2, 0), (2, 3, 0, 1)], ids=str)
def test_transposed_axes(implementation, axes):
    x = random_array((4, 5, 6, 7), np.float32).transpose(axes)
    for window in WINDOWS[:4]:
        check(implementation, x, **window)


@pytest.mark.parametrize("shape", [(1, 3, 1, 19), (2, 1, 8, 1), (1, 1, 1, 1)], ids=str)
def test_broadcast_axes(implementation, shape):
    x = np.broadcast_to(random_array(shape, np.float32), (2, 3, 8, 19))
    for window in WINDOWS[:4]:
        check(implementation, x, **window)


def test_overlapping_rows(implementation):
    x = np.lib.stride_tricks.sliding_window_view(random_array((4, 60), np.float32), 40, axis=1)
    for window in WINDOWS[:4]:
        check(implementation, x, **window)


@pytest.mark.parametrize("x", [[[1, 5], [4, 3]], [[1.0, 5.0], [4.0, 3.0]], ((True, False), (False, False))])
def test_lists(implementation, x):
    y = implementation.max_pool2d(x, 2)
    same_values(y, np.max(x, keepdims=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@every_dtype
def test_out(implementation, layout, dtype, window):
    x = random_array((2, 3, 7, 37), dtype)
    expected, argmax = implementation.max_pool2d(x, **window, return_argmax=True)
    out = sentinel(expected.shape, dtype, layout)
    around = surroundings(out)
    assert implementation.max_pool2d(x, **window, out=out) is out
    np.testing.assert_array_equal(out, expected)
    out[...] = 77
    y, positions = implementation.max_pool2d(x, **window, return_argmax=True, out=out)
    assert y is out
    np.testing.assert_array_equal(out, expected)
    same_values(positions, argmax)
    assert surroundings(out) == around


def test_numpy_sizes_are_sizes(implementation):
    x = random_array((9, 11), np.float32)
    same_values(
        implementation.max_pool2d(x, np.int64(3), np.array([1, 2]), [np.uint8(1), 0], np.array(2), np.True_),
        implementation.max_pool2d(x, 3, (1, 2), (1, 0), 2, True),
    )


def test_steps_longer_than_any_array(implementation):
    x = random_array((4, 5), np.float32)
    same_values(implementation.max_pool2d(x, 2, stride=2**60), x[:2, :2].max(keepdims=True))
    same_values(implementation.max_pool2d(x, 1, 1, dilation=2**60), x)
    # The kernel's second place is padding in every window but the last.
    window = {"kernel_size": (1, 2), "stride": (1, 2**60), "padding": ((0, 0), (0, 2**60)), "dilation": (1, 2**60)}
    same_values(implementation.max_pool2d(x, **window), x[:, :1])


@pytest.mark.parametrize(
    ("spatial", "window"),
    [
        ((1, 1), {"kernel_size": 2, "stride": 1, "padding": 2, "dilation": 4}),
        ((9, 3), {"kernel_size": (1, 3), "stride": 1, "padding": (0, 5), "dilation": (1, 4)}),
        ((2, 9), {"kernel_size": (2, 1), "stride": 1, "padding": (2, 0), "dilation": (3, 1), "ceil_mode": True}),
    ],
)
def test_a_window_without_an_element(implementation, spatial, window):
    with pytest.raises(ValueError, match=r"padding.*covers no element"):
        implementation.max_pool2d(np.zeros(spatial), **window)
