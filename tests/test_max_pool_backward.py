import brute
import numpy as np
import pytest
from helpers import FLOATS, INTEGERS, NUMBERS, SIZES, on_threads, same_bits, sentinel, surroundings, widths
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fastpool
from fastpool import reference
from fastpool.testing import strategies
from fastpool.testing.arrays import INPUT_LAYOUTS, LAYOUTS, laid_out, random_array

WINDOWS = [
    {"kernel_size": 2},
    {"kernel_size": 2, "stride": 3},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": "same"},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": (5, 4), "stride": (2, 3), "padding": (1, 2), "dilation": (1, 2), "ceil_mode": True},
    {"kernel_size": (3, 6), "stride": 1, "padding": (2, 0)},
]


def case(shape, dtype, seed=0, kind="random", **window):
    """A gradient, and an argmax anywhere on the elements of each window."""
    output, found = brute.windows(shape[-2:], **window)
    rng = np.random.default_rng(seed)
    places = [[pairs[rng.integers(len(pairs))][0] for pairs in found] for _ in range(np.prod(shape[:-2], dtype=int))]
    argmax = np.array(places, np.uint8).reshape(*shape[:-2], *output)
    return random_array(argmax.shape, dtype, seed, kind), argmax


def check(implementation, dy, argmax, shape, **window):
    dy_before, argmax_before = dy.copy(), argmax.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        expected = brute.max_pool2d_backward(dy, argmax, shape, **window)
        same_bits(implementation.max_pool2d_backward(dy, argmax, shape, **window), expected)
    same_bits(dy, dy_before)
    same_bits(argmax, argmax_before)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_row_widths(implementation, window, dtype):
    for width in widths(implementation, 8):
        shape = (5, width)
        check(implementation, *case(shape, dtype, width, **window), shape, **window)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("kind", ["random", "ties", "specials"])
@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_dtypes(implementation, dtype, kind, window):
    shape = (2, 10, 37)
    check(implementation, *case(shape, dtype, kind=kind, **window), shape, **window)


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3), (2, 1, 3), (0,), (0, 3), (2, 0), (2, 0, 3)], ids=str)
@pytest.mark.parametrize("window", WINDOWS[:4], ids=str)
def test_leading_axes(implementation, leading, window):
    shape = (*leading, 6, 11)
    check(implementation, *case(shape, np.float32, **window), shape, **window)


@pytest.mark.parametrize("window", WINDOWS[:5], ids=str)
@pytest.mark.parametrize("width", [2047, 2049, 4101])
def test_long_rows(width, window):
    # Of the kernels: for the reference, all lengths are alike.
    shape = (4, width)
    check(fastpool, *case(shape, np.float32, **window), shape, **window)


@pytest.mark.parametrize(
    ("dtype", "window"),
    [(dtype, window) for dtype in NUMBERS for window in (WINDOWS if dtype in SIZES else WINDOWS[:1])],
    ids=str,
)
def test_after_the_forward(implementation, dtype, window):
    x = random_array((3, 12, 23), dtype, kind="ties")
    y, argmax = implementation.max_pool2d(x, **window, return_argmax=True)
    check(implementation, random_array(y.shape, dtype), argmax, x.shape, **window)


@pytest.mark.parametrize("rows", [255, 256, 257])
@pytest.mark.parametrize("dtype", ["i1", "f4"])
def test_windows_of_one_column_send_nothing_to_the_next(implementation, dtype, rows):
    """Not even where a byte counts as many places as the window has."""
    shape, window = (2, rows, 41), {"kernel_size": (rows, 1), "stride": (rows, 2)}
    argmax = np.arange(2 * 21).reshape(2, 1, 21) % rows
    check(implementation, np.ones(argmax.shape, dtype), argmax, shape, **window)


def test_gradients_add_up_in_kernel_order(implementation):
    # All four windows chose the element in the middle. In kernel order its last place, of the first
    # window, comes last: ((1 + 1e8) - 1e8) + 1 loses one of the ones, other orders lose none or both.
    dy = np.array([[1, -1e8], [1e8, 1]], np.float32)
    argmax = np.array([[3, 2], [1, 0]], np.uint8)
    dx = implementation.max_pool2d_backward(dy, argmax, (3, 3), 2, 1)
    expected = np.zeros((3, 3), np.float32)
    expected[1, 1] = ((dy[1, 1] + dy[1, 0]) + dy[0, 1]) + dy[0, 0]
    assert expected[1, 1] == 1
    same_bits(dx, expected)


def test_a_gradient_of_negative_zero(implementation):
    # It is added to zero, which makes it a positive one, with or without overlap.
    for stride in (1, 2):
        dy, argmax = case((8, 34), np.float64, kernel_size=2, stride=stride)
        dy[...] = -0.0
        same_bits(implementation.max_pool2d_backward(dy, argmax, (8, 34), 2, stride), np.zeros((8, 34)))


@pytest.mark.parametrize("dtype", [*INTEGERS, ">i4", ">u2"])
def test_an_argmax_of_any_integer_dtype(implementation, dtype):
    for window in WINDOWS:
        dy, argmax = case((3, 12, 23), np.float32, **window)
        expected = implementation.max_pool2d_backward(dy, argmax, (3, 12, 23), **window)
        same_bits(implementation.max_pool2d_backward(dy, argmax.astype(dtype), (3, 12, 23), **window), expected)


@pytest.mark.parametrize("kernel_size", [(16, 16), (257, 1), (1, 257), (65537, 1), (1, 65537)], ids=str)
@pytest.mark.parametrize("stride", [1, 70000])
def test_wide_kernels(implementation, kernel_size, stride):
    taps = np.prod(kernel_size)
    shape = (kernel_size[0] + 1, kernel_size[1] + 1)
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    y, argmax = implementation.max_pool2d(x, kernel_size, stride, return_argmax=True)
    assert (argmax == taps - 1).all()
    dy = random_array(y.shape, np.float32)
    expected = np.zeros(shape, np.float32)
    expected[kernel_size[0] - 1 :, kernel_size[1] - 1 :][: y.shape[0], : y.shape[1]] = dy
    same_bits(implementation.max_pool2d_backward(dy, argmax, shape, kernel_size, stride), expected)


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("dtype", [*FLOATS, "i2"])
def test_layouts(implementation, layout, dtype):
    shape = (2, 3, 8, 19)
    for window in WINDOWS[:4]:
        dy, argmax = case(shape, dtype, **window)
        expected = implementation.max_pool2d_backward(dy, argmax, shape, **window)
        for pair in ((laid_out(dy, layout), argmax), (dy, laid_out(argmax, layout))):
            same_bits(implementation.max_pool2d_backward(*pair, shape, **window), expected)
            np.testing.assert_array_equal(pair, (dy, argmax))


def test_steps_longer_than_any_array(implementation):
    dy, argmax = case((4, 5), np.float32, kernel_size=2, stride=2**60)
    check(implementation, dy, argmax, (4, 5), kernel_size=2, stride=2**60)
    dy, argmax = case((4, 5), np.float32, kernel_size=1, dilation=2**60)
    check(implementation, dy, argmax, (4, 5), kernel_size=1, dilation=2**60)


def test_broadcast_gradients(implementation):
    shape = (2, 3, 8, 19)
    for window in WINDOWS[:4]:
        dy, argmax = case(shape, np.float32, **window)
        check(implementation, np.broadcast_to(np.float32(3), dy.shape), argmax, shape, **window)
        argmax = np.broadcast_to(argmax[:1, :1], argmax.shape)
        check(implementation, dy, argmax, shape, **window)


def test_lists(implementation):
    dx = implementation.max_pool2d_backward([[2.5, 3.5]], [[1, 2]], [2, 4], [2, 2])
    same_bits(dx, np.array([[0, 2.5, 0, 0], [0, 0, 3.5, 0]]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", SIZES, ids=str)
def test_out(implementation, layout, dtype):
    shape = (2, 3, 8, 19)
    for window in WINDOWS:
        dy, argmax = case(shape, dtype, **window)
        expected = implementation.max_pool2d_backward(dy, argmax, shape, **window)
        out = sentinel(shape, dtype, layout)
        around = surroundings(out)
        assert implementation.max_pool2d_backward(dy, argmax, shape, **window, out=out) is out
        np.testing.assert_array_equal(out, expected)
        assert surroundings(out) == around


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("window", [{"kernel_size": 3}, {"kernel_size": 3, "stride": 1, "padding": 2}], ids=str)
def test_an_argmax_outside_its_window(implementation, dtype, window):
    shape = (2, 9, 41)
    dy, argmax = case(shape, np.float32, **window)
    info = np.iinfo(dtype)
    out = sentinel(shape, np.float32)
    for bad in sorted({9, 10, 255, 256 + 4, 2**32 + 4, 2**63, info.max, -1, -9, info.min}):
        if not (info.min <= bad <= info.max and (bad < 0 or bad >= 9)):
            continue
        for place in ((0, 0, 0), (0, 1, 7), (1, -1, -1), (1, -1, 2)):
            positions = argmax.astype(dtype)
            positions[place] = bad
            with pytest.raises(ValueError, match="argmax"):
                implementation.max_pool2d_backward(dy, positions, shape, **window, out=out)
    same_bits(out, sentinel(shape, np.float32))


@pytest.mark.parametrize(
    "window",
    [
        {"kernel_size": 2, "stride": 1, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": ((0, 2), (1, 0))},
        {"kernel_size": (4, 5), "stride": (2, 3), "padding": "same", "dilation": 2},
        {"kernel_size": 3, "stride": 3, "ceil_mode": True},
        {"kernel_size": (2, 3), "stride": 1, "padding": (0, 2)},
        {"kernel_size": (3, 2), "stride": 4, "padding": (2, 0)},
    ],
    ids=str,
)
def test_an_argmax_on_padding_sends_nothing(implementation, window):
    # What col2im does with it. Nothing may be written outside of the result.
    shape = (3, 7, 20)
    dy, argmax = case(shape, np.float32, **window)
    taps = np.prod(brute.both(window["kernel_size"]))
    argmax = np.random.default_rng(0).integers(0, taps, argmax.shape).astype(np.uint8)
    check(implementation, dy, argmax, shape, **window)
    for place in range(taps):
        out = sentinel(shape, np.float32, "amid others")
        around = surroundings(out)
        everywhere = np.full_like(argmax, place)
        implementation.max_pool2d_backward(dy, everywhere, shape, **window, out=out)
        same_bits(out, brute.max_pool2d_backward(dy, everywhere, shape, **window))
        assert surroundings(out) == around


def backward(module, ndim, *args, **kwargs):
    return getattr(module, f"max_pool{ndim}d_backward")(*args, **kwargs)


#: Spatial shapes of one and three axes, and windows over them.
OTHER_RANKS = [
    ((37,), {"kernel_size": 2}),
    ((5000,), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((41,), {"kernel_size": 4, "stride": 3, "padding": ((5, 0),), "dilation": 2, "ceil_mode": True}),
    ((4, 6, 8), {"kernel_size": 2}),
    ((4, 5, 19), {"kernel_size": 3, "stride": 1, "padding": 1}),
    ((5, 4, 37), {"kernel_size": 3, "stride": 2, "padding": "same"}),
    ((7, 6, 9), {"kernel_size": (3, 2, 2), "stride": (2, 1, 3), "padding": (4, 0, 1), "dilation": (3, 2, 1)}),
    ((11, 40, 41), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    ((11, 40, 41), {"kernel_size": (2, 1, 3), "stride": (3, 2, 1), "padding": ((1, 0), (0, 0), (0, 2))}),
    ((18, 17, 17), {"kernel_size": (17, 16, 16), "stride": 1, "padding": ((0, 3), (2, 0), (0, 0))}),
]


def anywhere(spatial, dtype, leading=(2, 3), trailing=(), data_format="channels_first", **window):
    """A shape to pool, a gradient, and an argmax at any place of each window, on padding too."""
    output, _ = brute.windows(spatial, **window)
    taps = np.prod(brute.each(window["kernel_size"], len(spatial)))
    dy = random_array((*leading, *output, *trailing), dtype)
    argmax = np.random.default_rng(1).integers(0, taps, dy.shape).astype(np.min_scalar_type(taps - 1))
    return (*leading, *spatial, *trailing), dy, argmax


@pytest.mark.parametrize(("spatial", "window"), OTHER_RANKS, ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2"])
def test_other_ranks(implementation, dtype, spatial, window):
    shape, dy, argmax = anywhere(spatial, dtype, **window)
    with np.errstate(over="ignore"):
        expected = brute.max_pool_backward(len(spatial), dy, argmax, shape, **window)
    same_bits(backward(implementation, len(spatial), dy, argmax, shape, **window), expected)


@pytest.mark.parametrize("channels", [1, 3, 16])
@pytest.mark.parametrize(("spatial", "window"), OTHER_RANKS[:-1], ids=str)
def test_other_ranks_with_channels_last(implementation, spatial, window, channels):
    window = {**window, "data_format": "channels_last"}
    shape, dy, argmax = anywhere(spatial, np.float32, (2,), (channels,), **window)
    expected = brute.max_pool_backward(len(spatial), dy, argmax, shape, **window)
    same_bits(backward(implementation, len(spatial), dy, argmax, shape, **window), expected)


@pytest.mark.parametrize(("spatial", "window"), OTHER_RANKS, ids=str)
def test_an_argmax_outside_its_window_in_other_ranks(implementation, spatial, window):
    shape, dy, argmax = anywhere(spatial, np.float32, **window)
    argmax = argmax.astype(np.uint16)
    argmax[1, 2, ..., -1] = np.prod(brute.each(window["kernel_size"], len(spatial)))
    for positions in (argmax, argmax.astype(np.uint8)):
        if (positions == argmax).all():
            with pytest.raises(ValueError, match="argmax"):
                backward(implementation, len(spatial), dy, positions, shape, **window)


def test_gradients_of_volumes_add_up_in_kernel_order(implementation):
    # All eight windows chose the element in the middle: in kernel order the last of them comes first.
    dy = np.array([1, 1e8, -1e8, 1, 3, -1e8, 1e8, 5], np.float32)[::-1].reshape(2, 2, 2)
    argmax = np.arange(8, dtype=np.uint8)[::-1].reshape(2, 2, 2)
    for large in (3, 40):  # summed up in scratch, or in place
        shape = (large, 3, 3 * large)
        some, chosen = np.zeros([n - 1 for n in shape], np.float32), np.zeros([n - 1 for n in shape], np.uint8)
        some[:2, :, :2], chosen[:2, :, :2] = dy, argmax
        dx = implementation.max_pool3d_backward(some, chosen, shape, 2, 1)
        assert dx[1, 1, 1] == 5 != dy.astype(float).sum()


@given(st.sampled_from([1, 3]), st.data(), st.sampled_from(["f4", "f8", "i2"]), strategies.input_layouts)
@settings(max_examples=250)
def test_other_ranks_agree(ndim, data, dtype, layout):
    lengths = (strategies.SHORT,) * (ndim - 1) + (strategies.LENGTHS,)
    spatial, window = data.draw(strategies.windows(kernels=5, lengths=lengths))
    trailing = data.draw(st.sampled_from([(), (1,), (3,), (16,)]))
    if trailing:
        window["data_format"] = "channels_last"
    shape, dy, argmax = anywhere(spatial, dtype, data.draw(strategies.leading_axes), trailing, **window)
    _, found = brute.windows(spatial, **{name: window[name] for name in window.keys() - {"data_format"}})
    if not all(found):  # a window of nothing but padding, in either implementation
        for module in (fastpool, reference):
            with pytest.raises(ValueError, match="covers no element"):
                backward(module, ndim, dy, argmax, shape, **window)
        return
    with np.errstate(over="ignore", invalid="ignore"):
        expected = backward(reference, ndim, dy, argmax, shape, **window)
    same_bits(backward(fastpool, ndim, laid_out(dy, layout), laid_out(argmax, layout), shape, **window), expected)


@given(st.data(), st.integers(1, 3), st.sampled_from(["f4", "f8", "f2", "i8"]))
@settings(max_examples=150)
def test_as_many_windows_as_elements(data, ndim, dtype):
    # Padding of any share of what keeps the size, rows of any length: for kernels, those few places may be anywhere.
    sizes = st.tuples(*[st.integers(1, 9 if ndim == 1 else 3)] * ndim).filter(lambda sizes: np.prod(sizes) <= 9)
    kernel, dilation = data.draw(sizes), data.draw(st.tuples(*[st.integers(1, 3)] * ndim))
    reaches = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    rows = st.integers(1, 12), st.integers(1, 80) | st.sampled_from([255, 1000, 4099])
    spatial = tuple(data.draw(rows[i == ndim - 1]) for i in range(ndim))
    befores = [data.draw(st.integers(0, reach)) for reach in reaches]
    window = {
        "kernel_size": kernel,
        "stride": 1,
        "dilation": dilation,
        "padding": tuple((before, reach - before) for before, reach in zip(befores, reaches, strict=True)),
    }
    trailing = data.draw(st.sampled_from([(), (1,), (3,)]))
    if trailing:
        window["data_format"] = "channels_last"
    shape = (data.draw(st.integers(1, 3)), *spatial, *trailing)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    argmax = rng.integers(0, np.prod(window["kernel_size"]), shape).astype(np.uint8)
    dy = random_array(shape, dtype, int(rng.integers(99)))
    try:
        expected = backward(reference, ndim, dy, argmax, shape, **window)
    except ValueError:  # a window of nothing but padding
        return
    same_bits(backward(fastpool, ndim, dy, argmax, shape, **window), expected)


@pytest.mark.parametrize("channels", [1, 3, 33])
@pytest.mark.parametrize(
    ("spatial", "kernel_size", "dilation"),
    [
        ((70,), 2, 1),
        ((9001,), 3, 700),
        ((19,), 1, 1),
        ((17, 33), 2, 1),
        ((17, 34), (3, 5), (2, 1)),
        ((3, 4500), 2, 1),
        ((40, 41), 4, 1),
        ((5, 4, 36), (3, 2, 2), (1, 2, 1)),
        ((4, 90, 70), (2, 1, 3), 1),
    ],
    ids=str,
)
def test_windows_inside(spatial, kernel_size, dilation, channels):
    """One apart, without padding: fewer than elements, in planes, bands of one and pieces of a row."""
    window = {"kernel_size": kernel_size, "stride": 1, "dilation": dilation}
    trailing = () if channels == 1 else (channels,)
    if trailing:
        window["data_format"] = "channels_last"
    ndim = len(spatial)
    for dtype in ("f4", "f8", "f2"):
        x = random_array((3, *spatial, *trailing), dtype, kind="ties")
        y, argmax = getattr(reference, f"max_pool{ndim}d")(x, **window, return_argmax=True)
        dy = random_array(y.shape, dtype, kind="gaps")
        with np.errstate(over="ignore", invalid="ignore"):
            expected = backward(reference, ndim, dy, argmax, x.shape, **window)
            same_bits(backward(fastpool, ndim, dy, argmax, x.shape, **window), expected)


@pytest.mark.parametrize(
    ("spatial", "window"),
    [
        ((13, 31, 40), {"kernel_size": 3, "stride": 1, "padding": 1}),
        ((9, 9, 9), {"kernel_size": 2, "stride": 1, "padding": 1}),
        ((13, 31, 40), {"kernel_size": 2, "stride": 1}),
        ((15, 23, 70), {"kernel_size": (2, 3, 2), "stride": (1, 2, 2), "padding": (2, 0, 0), "dilation": (3, 1, 1)}),
        ((23, 150, 150), {"kernel_size": 3, "stride": 2}),
    ],
    ids=str,
)
def test_threads_share_volumes(spatial, window):
    # Volumes that are no multiple of what one thread is given, so that ranges of rows begin anywhere in one.
    shape, dy, argmax = anywhere(spatial, np.float32, (1 + (5 << 18) // np.prod(spatial),), **window)
    with on_threads(3):
        dx = fastpool.max_pool3d_backward(dy, argmax, shape, **window)
    same_bits(dx, reference.max_pool3d_backward(dy, argmax, shape, **window))


@pytest.mark.parametrize(
    ("spatial", "window"),
    [
        ((28, 28), {"kernel_size": 2}),
        ((27, 45), {"kernel_size": 2, "ceil_mode": True}),
        ((14, 13), {"kernel_size": (2, 2), "stride": (5, 2)}),
        ((5, 9001), {"kernel_size": 2}),
        ((3, 13, 30), {"kernel_size": 2}),
        ((7, 7), {"kernel_size": 2}),
        ((13, 13), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ((9, 10), {"kernel_size": 3}),
        ((20, 19), {"kernel_size": 5, "stride": 1, "padding": 2}),
        ((33, 34), {"kernel_size": 2, "stride": 1}),
        ((13, 11), {"kernel_size": 9, "stride": 1, "padding": 4}),
        ((150, 151), {"kernel_size": 9, "stride": 1, "padding": 4}),
        ((112, 113), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ((601, 300), {"kernel_size": 3, "stride": 2}),
        ((300, 601), {"kernel_size": 5, "stride": 1, "padding": 2}),
        ((10, 30, 31), {"kernel_size": 3, "stride": 2}),
    ],
    ids=str,
)
@pytest.mark.parametrize(("dtype", "mebibytes"), [("f4", 5), ("f4", 9), ("f2", 9), ("f4", 33)])
def test_threads_share_planes(dtype, mebibytes, spatial, window):
    # The same three planes over and over, so that ranges of rows begin anywhere in one; 9 MiB are held back, 33
    # where they are given: new memory the system clears.
    size = np.prod(spatial) * np.dtype(dtype).itemsize
    repeats = -(-(mebibytes << 20) // int(3 * size))
    shape, dy, argmax = anywhere(spatial, dtype, (3,), **window)
    ndim = len(spatial)
    expected = backward(reference, ndim, dy, argmax, shape, **window)
    dy, argmax = (np.concatenate([a] * repeats) for a in (dy, argmax))
    with on_threads(3):
        dx = backward(fastpool, ndim, dy, argmax, (3 * repeats, *spatial), **window)
        out = backward(fastpool, ndim, dy, argmax, dx.shape, **window, out=np.empty_like(dx))
    same_bits(dx, np.concatenate([expected] * repeats))
    same_bits(out, dx)


@given(st.data(), st.sampled_from(["f4", "f2"]), st.sampled_from([4, 17, 50]))
@settings(max_examples=25)
def test_bands_of_planes_with_channels_last(data, dtype, channels):
    # Sums go up a plane that they have no room for, and threads begin and end anywhere in one.
    spatial = data.draw(st.tuples(st.integers(80, 100), st.integers(60, 80)))
    kernel_size = data.draw(st.tuples(st.integers(5, 13), st.integers(9, 13)))
    padding = tuple((data.draw(st.integers(0, k - 1)), data.draw(st.integers(0, k - 1))) for k in kernel_size)
    window = {"kernel_size": kernel_size, "stride": data.draw(st.tuples(st.integers(1, 5), st.just(1)))}
    window |= {"padding": padding, "ceil_mode": data.draw(st.booleans()), "data_format": "channels_last"}
    shape, dy, argmax = anywhere(spatial, dtype, (2,), (channels,), **window)
    with on_threads(data.draw(st.integers(1, 3))):
        dx = fastpool.max_pool2d_backward(dy, argmax, shape, **window)
    same_bits(dx, reference.max_pool2d_backward(dy, argmax, shape, **window))


def test_a_band_of_windows_that_hang_over_the_end():
    # Those of the band before reach over it, too.
    window = {"kernel_size": (11, 13), "stride": (3, 1), "padding": ((0, 8), (6, 1)), "ceil_mode": True}
    window["data_format"] = "channels_last"
    shape, dy, argmax = anywhere((100, 80), "f4", (2,), (17,), **window)
    dx, expected = (m.max_pool2d_backward(dy, argmax, shape, **window) for m in (fastpool, reference))
    same_bits(dx, expected)


@given(st.data(), st.integers(1, 3), st.sampled_from(["f4", "f2", "i1"]), st.sampled_from([1, 3, 17]))
@settings(max_examples=150)
def test_many_small_planes(data, ndim, dtype, channels):
    # It is listed where the gradient of each place of each window goes, on padding, too.
    spatial, window = data.draw(strategies.windows(kernels=6, lengths=(strategies.SHORT,) * ndim))
    _, found = brute.windows(spatial, **window)
    assume(all(found))
    trailing = () if channels == 1 else (channels,)
    if trailing:
        window["data_format"] = "channels_last"
    shape, dy, argmax = anywhere(spatial, dtype, (data.draw(st.integers(24, 160)),), trailing, **window)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = backward(reference, ndim, dy, argmax, shape, **window)
    memory = np.full(expected.size + 512, 77, dtype)
    out = memory[256:-256].reshape(shape)
    around = surroundings(out)
    backward(fastpool, ndim, dy, argmax, shape, **window, out=out)
    same_bits(out.copy(), expected)
    assert surroundings(out) == around


@given(st.data(), st.integers(1, 3), st.sampled_from(["f4", "f2", "i1"]))
@settings(max_examples=120)
def test_large_windows_one_apart(data, ndim, dtype):
    # Summed up with padding around, one plane, or four, at a time: of any number, to the ends of the memory.
    sizes, lengths, dilations = ((1, 300), (2, 20), (2, 7))[ndim - 1], ((1, 400), (1, 30), (1, 12))[ndim - 1], (1, 2)
    kernel, dilation, spatial = (
        data.draw(st.tuples(*[st.integers(*bounds)] * ndim)) for bounds in (sizes, dilations, lengths)
    )
    halves = [((k - 1) * d + 1) // 2 for k, d in zip(kernel, dilation, strict=True)]
    padding = tuple((data.draw(st.integers(0, half)), data.draw(st.integers(0, half))) for half in halves)
    window = {"kernel_size": kernel, "stride": 1, "padding": padding, "dilation": dilation}
    assume(all(n + sum(p) > (k - 1) * d for n, p, k, d in zip(spatial, padding, kernel, dilation, strict=True)))
    _, found = brute.windows(spatial, **window)
    assume(all(found))
    shape, dy, argmax = anywhere(spatial, dtype, (data.draw(st.integers(1, 9)),), **window)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = backward(reference, ndim, dy, argmax, shape, **window)
    memory = np.full(expected.size + 512, 77, dtype)
    out = memory[256:-256].reshape(shape)
    around = surroundings(out)
    backward(fastpool, ndim, dy, argmax, shape, **window, out=out)
    same_bits(out.copy(), expected)
    assert surroundings(out) == around


@pytest.mark.parametrize("channels", [17, 130, 512])
@pytest.mark.parametrize(
    ("spatial", "window"),
    [
        ((20, 21), {"kernel_size": 5, "stride": 1, "padding": 2}),
        ((40, 41), {"kernel_size": (5, 9), "stride": (2, 1), "padding": ((4, 1), (3, 8)), "dilation": (2, 1)}),
        ((5, 6, 7), {"kernel_size": 3, "stride": 1, "padding": 1}),
        ((90,), {"kernel_size": 30, "stride": 1, "padding": ((29, 3),)}),
    ],
    ids=str,
)
def test_large_windows_of_many_channels(spatial, window, channels):
    # Small planes of some channels, in turn; ranges of rows begin anywhere in one.
    repeats = 1 + (5 << 18) // int(np.prod(spatial) * channels)
    window = {**window, "data_format": "channels_last"}
    shape, dy, argmax = anywhere(spatial, np.float32, (repeats,), (channels,), **window)
    with on_threads(3):
        dx = backward(fastpool, len(spatial), dy, argmax, shape, **window)
    same_bits(dx, backward(reference, len(spatial), dy, argmax, shape, **window))


@pytest.mark.parametrize("margins", [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 2)], ids=str)
@pytest.mark.parametrize("width", [2049, 2051, 2081, 4095, 4096, 4097, 4098, 4099, 4129, 6145])
def test_long_rows_of_pairs(width, margins):
    # For kernels these are cut into pieces, the last of which may have few windows, or less than all.
    window = {"kernel_size": (2, 3), "stride": (1, 2), "padding": ((1, 0), margins)}
    shape, dy, argmax = anywhere((3, width), np.float32, (2,), **window)
    expected = backward(reference, 2, dy, argmax, shape, **window)
    same_bits(backward(fastpool, 2, dy, argmax, shape, **window), expected)


@given(
    st.data(),
    st.integers(1, 3),
    st.sampled_from(["f4", "f8", "f2"]),
    strategies.input_layouts,
    st.just(1) | st.integers(2, 17) | st.sampled_from([24, 64, 100, 130]),
)
@settings(max_examples=150)
def test_windows_two_columns_apart(data, ndim, dtype, layout, channels):
    # Two or three columns wide, any number of rows: for kernels, pairs of elements.
    across = data.draw(st.sampled_from([2, 3]))
    kernel = (*data.draw(st.tuples(*[st.integers(1, 3)] * (ndim - 1))), across)
    stride = (*(k + data.draw(st.integers(1 - k, 2)) for k in kernel[:-1]), 2)
    lengths = [data.draw(st.integers(1, 9)) for _ in kernel[:-1]]
    long = st.sampled_from([255, 2049, 4098, 4099, 8200])
    spatial = (*lengths, data.draw(st.integers(across, 130) | long if channels == 1 else st.integers(across, 40)))
    trailing = () if channels == 1 else (channels,)
    befores = [data.draw(st.integers(0, min(across - 2, k - 1))) for k in kernel]
    window = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": tuple((before, data.draw(st.integers(0, k - 1))) for before, k in zip(befores, kernel)),
        "ceil_mode": data.draw(st.booleans()),
    }
    # A single window may be higher than what it is over, but for padding.
    missing = [k - n - sum(m) for n, m, k in zip(spatial, window["padding"], kernel)]
    assume(all(n < (s if window["ceil_mode"] else 1) for n, s in zip(missing, stride)))
    if trailing:
        window["data_format"] = "channels_last"
    shape, dy, argmax = anywhere(spatial, dtype, data.draw(strategies.leading_axes), trailing, **window)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = backward(reference, ndim, dy, argmax, shape, **window)
    memory = np.full(expected.size + 512, 77, dtype)
    out = memory[256:-256].reshape(shape)
    around = surroundings(out)
    backward(fastpool, ndim, laid_out(dy, layout), laid_out(argmax, layout), shape, **window, out=out)
    same_bits(out.copy(), expected)
    assert surroundings(out) == around
