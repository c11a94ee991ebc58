from itertools import product

import brute
import numpy as np
import pytest
from helpers import DTYPES, FLOATS, on_threads, same_bits, sentinel, surroundings, widths
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpool
from fastpool import reference
from fastpool.kernels import hold
from fastpool.testing import strategies
from fastpool.testing.arrays import INPUT_LAYOUTS, LAYOUTS, laid_out, random_array

WINDOWS = [
    {"kernel_size": 1},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": "same"},
    {"kernel_size": (3, 2), "stride": (1, 3), "padding": ((2, 0), (0, 1)), "dilation": (2, 1)},
    {"kernel_size": (2, 4), "stride": (2, 1), "padding": (0, 5), "dilation": (1, 2)},
    {"kernel_size": 3, "stride": 4, "dilation": (1, 2)},
]
#: Spatial shapes of one and three axes, and windows over them.
OTHER_RANKS = [
    ((37,), {"kernel_size": 2, "stride": 2}),
    ((90,), {"kernel_size": 3, "padding": 1}),
    ((41,), {"kernel_size": 4, "stride": 3, "padding": ((5, 0),), "dilation": 2}),
    ((4, 6, 9), {"kernel_size": 2, "stride": 2}),
    ((4, 5, 19), {"kernel_size": 3, "padding": 1}),
    ((5, 4, 37), {"kernel_size": 3, "stride": 2, "padding": "same"}),
    ((5, 4, 70), {"kernel_size": (2, 1, 3), "stride": (1, 2, 2), "padding": ((0, 1), (0, 0), (2, 0))}),
    ((7, 5, 9), {"kernel_size": (3, 2, 2), "stride": (2, 1, 3), "padding": (4, 0, 2), "dilation": (3, 2, 3)}),
    ((3, 2, 8), {"kernel_size": (1, 2, 3), "stride": (5, 1, 1)}),
]


def check(implementation, x, **window):
    """The columns are those of the plain loops, of all images together and of each by itself."""
    before = x.copy()
    same_bits(implementation.im2col(x, **window), brute.im2col(x, **window))
    if "output_size" not in window:
        same_bits(implementation.unfold(x, **window), brute.unfold(x, **window))
    same_bits(x, before)


def check_back(implementation, cols, shape, **window):
    before = cols.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        expected = brute.col2im(cols, shape, **window)
        same_bits(implementation.col2im(cols, shape, **window), expected)
        if "output_size" not in window:
            same_bits(implementation.fold(brute.by_image(cols, shape, **window), shape[2:], **window), expected)
    same_bits(cols, before)


def columns_of(shape, dtype, seed=0, kind="random", **window):
    """Random columns of images of this shape."""
    return random_array(brute.columns_shape(shape, **window), dtype, seed, kind)


def test_the_order_of_the_columns(implementation):
    x = np.arange(24.0).reshape(2, 3, 2, 2)
    columns = implementation.im2col(x, (1, 2)).reshape(3, 2, 2, 2)  # channel, place; image, window
    for channel, place, image, window in np.ndindex(columns.shape):
        assert columns[channel, place, image, window] == x[image, channel, window, place]


def test_the_order_of_unfolded_columns(implementation):
    x = np.arange(24.0).reshape(2, 3, 2, 2)
    columns = implementation.unfold(x, (1, 2)).reshape(2, 3, 2, 2)  # image, channel; place, window
    for image, channel, place, window in np.ndindex(columns.shape):
        assert columns[image, channel, place, window] == x[image, channel, window, place]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_fold_without_a_batch(implementation, window):
    for channels in (0, 1, 3):
        shape = (1, channels, 7, 13)
        cols = columns_of(shape, np.float32, **window)
        same_bits(implementation.fold(cols, (7, 13), **window), brute.col2im(cols, shape, **window)[0])


def test_fold_to_a_square(implementation):
    cols = columns_of((1, 3, 8, 8), np.float32, kernel_size=3)
    for size in (8, np.int16(8), [8, 8], np.array([8, 8])):
        same_bits(implementation.fold(cols, size, 3), brute.col2im(cols, (1, 3, 8, 8), 3)[0])


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_row_widths(implementation, window):
    for width in widths(implementation, 7):
        shape = (2, 1, 6, width)
        check(implementation, random_array(shape, np.float32, width), **window)
        check_back(implementation, columns_of(shape, np.float32, width, **window), shape, **window)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("kind", ["random", "specials"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(implementation, dtype, kind, window):
    shape = (2, 3, 7, 13)
    check(implementation, random_array(shape, dtype, kind=kind), **window)
    check_back(implementation, columns_of(shape, dtype, kind=kind, **window), shape, **window)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_integers_give_float64(implementation, dtype):
    expected = dtype if dtype.kind == "f" else np.float64
    assert implementation.im2col(np.ones((1, 1, 2, 2), dtype), 2).dtype == expected
    assert implementation.col2im(np.ones((4, 1), dtype), (1, 1, 2, 2), 2).dtype == expected
    assert implementation.unfold(np.ones((1, 1, 2, 2), dtype), 2).dtype == expected
    assert implementation.fold(np.ones((4, 1), dtype), 2, 2).dtype == expected


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_nothing(implementation, shape, window):
    shape = (*shape, 7, 9)
    check(implementation, np.empty(shape, np.float32), **window)
    check_back(implementation, columns_of(shape, np.float32, **window), shape, **window)


@pytest.mark.parametrize(
    ("spatial", "kernel_size"),
    [((1, 1), 1), ((1, 5), 1), ((7, 4), (7, 4)), ((1, 33), (1, 33)), ((40, 1), (40, 1)), ((17, 18), 17)],
)
def test_the_smallest_inputs(implementation, spatial, kernel_size):
    shape = (2, 3, *spatial)
    check(implementation, random_array(shape, np.float64), kernel_size=kernel_size)
    cols = columns_of(shape, np.float64, kernel_size=kernel_size)
    check_back(implementation, cols, shape, kernel_size=kernel_size)


@pytest.mark.parametrize("stride", range(1, 10))
def test_strides(stride):
    # Windows side by side, fewer and more places than elements between them, over widths around every vector's.
    for kernel in {1, max(1, stride - 1), stride, stride + 1, 9}:
        for width in (9, 7 * stride + 2, 8 * stride, 16 * stride, 17 * stride + 1):
            width = max(width, kernel)
            window = {"kernel_size": (min(kernel, 3), kernel), "stride": (min(stride, 3), stride)}
            for padding in (0, (0, kernel // 2)):
                for dtype in (np.float32, np.float16):
                    x = random_array((2, 3, 7, width), dtype, width)
                    columns = reference.unfold(x, **window, padding=padding)
                    same_bits(fastpool.unfold(x, **window, padding=padding), columns)
                    same_bits(
                        fastpool.unfold(x[::-1, ::2], **window, padding=padding),
                        columns[::-1].reshape(2, 3, -1, columns.shape[-1])[:, ::2].reshape(2, -1, columns.shape[-1]),
                    )
                    cols = random_array(columns.shape, dtype, width)
                    expected = reference.fold(cols, x.shape[2:], **window, padding=padding)
                    same_bits(fastpool.fold(cols, x.shape[2:], **window, padding=padding), expected)
                    if dtype == np.float32:
                        same_bits(
                            fastpool.im2col(x, **window, padding=padding),
                            reference.im2col(x, **window, padding=padding),
                        )
                        flat = random_array((3 * kernel * min(kernel, 3), 2 * columns.shape[-1]), dtype, width)
                        same_bits(
                            fastpool.col2im(flat, x.shape, **window, padding=padding),
                            reference.col2im(flat, x.shape, **window, padding=padding),
                        )


@pytest.mark.parametrize("size", [(7, 7), (14, 14), (28, 27), (5, 60), (1, 9), (3, 700)], ids=str)
@pytest.mark.parametrize("kernel", [2, 3, 5, 9])
def test_as_many_windows_as_elements(kernel, size):
    # Rows are one run; of small maps there are many in scratch, and of all so many that threads share them.
    x = random_array((3, 36_000 // np.prod(size), *size), np.float32)
    window = {"kernel_size": kernel, "padding": "same"}
    columns = reference.unfold(x, **window)
    same_bits(fastpool.unfold(x, **window), columns)
    same_bits(fastpool.unfold(np.broadcast_to(x[:1], x.shape), **window), np.broadcast_to(columns[:1], columns.shape))
    cols = random_array(columns.shape, np.float32)
    same_bits(fastpool.fold(cols, size, **window), reference.fold(cols, size, **window))
    for turned in (cols[::-1], cols[:, ::-1], cols[:, :, ::-1]):  # nothing is where a pointer to the first begins
        same_bits(fastpool.fold(turned, size, **window), reference.fold(turned, size, **window))
    flat = reference.im2col(x, **window)
    same_bits(fastpool.im2col(x, **window), flat)
    same_bits(fastpool.col2im(flat, x.shape, **window), reference.col2im(flat, x.shape, **window))


@given(st.data(), st.sampled_from(["f4", "f2"]), strategies.input_layouts)
@settings(max_examples=80)
def test_small_planes_of_a_batch(data, dtype, layout):
    """Some are taken at a time, as many as a table has room for; threads begin and end amid these, and amid one."""
    spatial = data.draw(st.tuples(*[st.integers(1, 9)] * 2))
    kernel = data.draw(st.just(spatial) | st.tuples(*[st.integers(1, size) for size in spatial]))
    stride = data.draw(st.just(kernel) | st.tuples(*[st.integers(1, 4)] * 2))
    padding = data.draw(st.sampled_from([0, tuple((k // 2, (k - 1) // 2) for k in kernel)]))
    window = {"kernel_size": kernel, "stride": stride, "padding": padding}
    x = random_array(
        (data.draw(st.sampled_from([1, 4, 7, 12, 64, 300])), data.draw(st.integers(1, 40)), *spatial), dtype
    )
    columns = reference.im2col(x, **window)
    cols = random_array(columns.shape, dtype)
    expected = reference.col2im(cols, x.shape, **window)
    with on_threads(data.draw(st.integers(1, 3))):
        same_bits(fastpool.im2col(laid_out(x, layout), **window), columns)
        same_bits(fastpool.col2im(laid_out(cols, layout), x.shape, **window), expected)


@pytest.mark.parametrize("window", WINDOWS[1:], ids=str)
@pytest.mark.parametrize("width", [2047, 2049, 4101])
def test_long_rows(width, window):
    # Of the kernels: for the reference, all lengths are alike.
    shape = (1, 1, 5, width)
    check(fastpool, random_array(shape, np.float32), **window)
    check_back(fastpool, columns_of(shape, np.float32, **window), shape, **window)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("spatial", "window"),
    [
        # More columns than are read at once, of planes and of volumes, in bands of rows and in pieces of a row.
        ((70, 70), {"kernel_size": 5, "padding": 2}),
        ((300, 45), {"kernel_size": (4, 13), "padding": ((0, 3), (12, 1)), "dilation": (2, 1)}),
        ((3, 9001), {"kernel_size": (2, 9), "stride": (1, 2), "padding": (1, 4)}),
        ((5, 40, 50), {"kernel_size": 3, "padding": 1}),
        ((7, 11, 70), {"kernel_size": (3, 4, 5), "stride": (2, 1, 3), "padding": (1, 3, 2), "dilation": (1, 2, 1)}),
        # Slices that are summed up together, all and some of a volume.
        ((12, 9, 9), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ((40, 13, 14), {"kernel_size": (3, 2, 3), "stride": (1, 2, 1), "padding": ((2, 0), (0, 1), (1, 1))}),
        ((50, 14, 15), {"kernel_size": 3, "padding": 1, "dilation": (2, 1, 1)}),
        # Windows side by side, in pieces of a row.
        ((20001,), {"kernel_size": 2, "stride": 2}),
        ((7, 6007), {"kernel_size": (2, 3), "stride": (3, 4)}),
        ((4, 5, 3005), {"kernel_size": (1, 2, 7), "stride": (2, 2, 7)}),
    ],
    ids=str,
)
def test_many_columns(spatial, window, dtype):
    shape = (2, 3, *spatial)
    columns = reference.unfold(random_array(shape, dtype), **window)
    cols = random_array(columns.shape, dtype, 1)
    size = list(spatial)
    expected = reference.fold(cols, size, **window)
    same_bits(fastpool.fold(cols, size, **window), expected)
    for turned in (cols[::-1], cols[:, ::-1], cols[:, :, ::-1]):
        same_bits(fastpool.fold(turned, size, **window), reference.fold(turned, size, **window))


@pytest.mark.parametrize("output_size", [1, 2, (5, 1), (1, 7), (5, 7)], ids=str)
@pytest.mark.parametrize("dilation", [1, 3])
def test_output_size(implementation, output_size, dilation):
    # As many windows as asked for; what they cover beyond the padded input is zero.
    window = {"kernel_size": 3, "output_size": output_size, "stride": 2, "padding": 1, "dilation": dilation}
    shape = (2, 3, 8, 12)
    check(implementation, random_array(shape, np.float32), **window)
    check_back(implementation, columns_of(shape, np.float32, **window), shape, **window)


@pytest.mark.parametrize(("spatial", "window"), OTHER_RANKS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_other_ranks(implementation, dtype, spatial, window):
    shape = (2, 3, *spatial)
    for kind in ("random", "specials"):
        x, cols = random_array(shape, dtype, kind=kind), columns_of(shape, dtype, kind=kind, **window)
        same_bits(implementation.unfold(x, **window), brute.unfold(x, **window))
        with np.errstate(over="ignore", invalid="ignore"):
            expected = brute.col2im(cols, shape, **window)
            same_bits(implementation.fold(brute.by_image(cols, shape, **window), spatial, **window), expected)


@pytest.mark.parametrize(("spatial", "window"), OTHER_RANKS, ids=str)
def test_fold_is_the_adjoint_of_unfold_in_other_ranks(implementation, spatial, window):
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, (2, 3, *spatial)).astype(float)
    columns = implementation.unfold(x, **window)
    g = rng.integers(-9, 9, columns.shape).astype(float)
    assert np.vdot(columns, g) == np.vdot(x, implementation.fold(g, spatial, **window)) != 0


@given(st.sampled_from([1, 3]), st.data(), st.sampled_from(FLOATS), strategies.input_layouts)
@settings(max_examples=250)
def test_other_ranks_agree(ndim, data, dtype, layout):
    lengths = (strategies.SHORT,) * (ndim - 1) + (strategies.LENGTHS,)
    spatial, window = data.draw(strategies.windows(kernels=5, lengths=lengths))
    del window["ceil_mode"]
    window["stride"] = 1 if window["stride"] is None else window["stride"]
    few = st.integers(0, 3)
    x = data.draw(strategies.arrays((data.draw(few), data.draw(few), *spatial), dtype))
    columns = reference.unfold(x, **window)
    same_bits(fastpool.unfold(laid_out(x, layout), **window), columns)
    cols = data.draw(strategies.arrays(columns.shape, dtype))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = reference.fold(cols, spatial, **window)
    same_bits(fastpool.fold(laid_out(cols, layout), spatial, **window), expected)


@given(st.data(), st.integers(1, 3), st.sampled_from(["f4", "f8", "f2", "i8"]), strategies.input_layouts)
@settings(max_examples=150)
def test_columns_of_windows_side_by_side(data, ndim, dtype, layout):
    # Kernels up to the stride, some places short of it, elements behind the last window, and windows over the end.
    sizes = [st.integers(1, 4), st.integers(1, 9)]
    stride = tuple(data.draw(sizes[i == ndim - 1]) for i in range(ndim))
    kernel = tuple(data.draw(st.just(s) | st.integers(1, s)) for s in stride)
    lengths = [strategies.SHORT, strategies.LENGTHS]
    spatial = tuple(k - 1 + data.draw(lengths[i == ndim - 1]) for i, k in enumerate(kernel))
    padding = tuple((0, data.draw(st.just(0) | st.integers(0, k - 1))) for k in kernel)
    over = [length + after - k for length, k, (_, after) in zip(spatial, kernel, padding, strict=True)]
    windows = [n // s + 1 for n, s in zip(over, stride, strict=True)]
    channels = data.draw(st.sampled_from([3, 5])) * int(np.prod(kernel))
    cols = random_array((2, channels, int(np.prod(windows))), dtype, data.draw(st.integers(0, 99)))
    cols[..., ::3] *= -0.0 if cols.dtype.kind == "f" else 0
    expected = reference.fold(cols, spatial, kernel, stride, padding)
    same_bits(fastpool.fold(laid_out(cols, layout), spatial, kernel, stride, padding), expected)
    x = random_array(expected.shape, dtype)
    columns = reference.unfold(x, kernel, stride, padding)
    same_bits(fastpool.unfold(laid_out(x, layout), kernel, stride, padding), columns)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("stride", range(2, 8))
def test_any_number_of_windows_side_by_side(stride, dtype):
    # Fewer than there is room for, and the last ones over the end of a row and of a plane, and behind both.
    x = random_array((2, 3, 9, 60), dtype)
    most = [(n + stride - 2) // stride + 1 for n in x.shape[2:]]
    for size in product(range(1, most[0] + 1), range(1, most[1] + 1)):
        window = stride, size, stride, ((0, stride - 1), (0, stride - 1))
        columns = reference.im2col(x, *window)
        same_bits(fastpool.im2col(x, *window), columns)
        cols = random_array(columns.shape, dtype, 1)
        same_bits(fastpool.col2im(cols, x.shape, *window), reference.col2im(cols, x.shape, *window))


@pytest.mark.parametrize(
    ("spatial", "window"),
    [
        ((13, 19, 21), {"kernel_size": 3, "padding": 1}),
        ((13, 21, 61), {"kernel_size": (3, 2, 3), "stride": (2, 3, 1), "padding": (1, 1, 0), "dilation": (2, 1, 1)}),
        ((40001,), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ],
    ids=str,
)
def test_threads_share_volumes(spatial, window):
    # Volumes of more bytes than one thread is given, so that ranges of rows begin anywhere in one.
    x = random_array((5, 23, *spatial), np.float32)
    columns = reference.unfold(x, **window)
    cols = random_array(columns.shape, np.float32)
    with on_threads(3):
        same_bits(fastpool.unfold(x, **window), columns)
        same_bits(fastpool.fold(cols, spatial, **window), reference.fold(cols, spatial, **window))


def test_windows_of_padding_are_zero(implementation):
    window = {"kernel_size": 2, "stride": 1, "padding": 2, "dilation": 4}
    check(implementation, np.ones((1, 1, 1, 1)), **window)
    check_back(implementation, columns_of((1, 1, 1, 1), np.float64, **window), (1, 1, 1, 1), **window)


def test_columns_add_up_in_kernel_order(implementation):
    # The element in the middle is at place 3 of the first window and at place 0 of the last.
    cols = np.zeros((4, 4), np.float32)
    cols[[0, 1, 2, 3], [3, 2, 1, 0]] = [1, 1e8, -1e8, 1]
    middle = implementation.col2im(cols, (1, 1, 3, 3), 2)[0, 0, 1, 1]
    assert middle == np.float32(1) + np.float32(1e8) + np.float32(-1e8) + np.float32(1) == 1
    cols[[0, 1, 2, 3], [3, 2, 1, 0]] = [1e8, -1e8, 1, 1]
    assert implementation.col2im(cols, (1, 1, 3, 3), 2)[0, 0, 1, 1] == 2
    assert implementation.fold(cols, 3, 2)[0, 1, 1] == 2


@pytest.mark.parametrize("depth", [3, 40])
@pytest.mark.parametrize("width", [3, 40])
def test_columns_of_volumes_add_up_in_kernel_order(implementation, depth, width):
    # Of every element but those at the edges, the places ascend while the windows descend.
    shape = (depth, 3, width)
    terms = np.array([1, 1e8, -1e8, 1, 3, -1e8, 1e8, 5], np.float32)
    cols = np.broadcast_to(terms[:, None], (8, np.prod([n - 1 for n in shape])))
    expected = np.float32(0)
    for term in terms:
        expected += term
    assert expected == 5 != terms.astype(float).sum()
    assert (implementation.fold(cols, shape, 2)[0, 1:-1, 1:-1, 1:-1] == expected).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_col2im_is_the_adjoint_of_im2col(implementation, window, dtype):
    # Of integers held in floats, so that no sum is rounded.
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, (2, 3, 11, 14)).astype(dtype)
    columns = implementation.im2col(x, **window)
    g = rng.integers(-9, 9, columns.shape).astype(dtype)
    assert np.vdot(columns, g) == np.vdot(x, implementation.col2im(g, x.shape, **window)) != 0


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_fold_is_the_adjoint_of_unfold(implementation, window):
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, (2, 3, 11, 14)).astype(float)
    columns = implementation.unfold(x, **window)
    g = rng.integers(-9, 9, columns.shape).astype(float)
    assert np.vdot(columns, g) == np.vdot(x, implementation.fold(g, (11, 14), **window)) != 0


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
@pytest.mark.parametrize("dtype", [*FLOATS, "?", "i2"])
def test_layouts(implementation, layout, dtype):
    shape = (2, 3, 7, 19)
    for window in WINDOWS:
        x, cols = random_array(shape, dtype), columns_of(shape, dtype, **window)
        for function, argument, arguments in (
            (implementation.im2col, x, ()),
            (implementation.col2im, cols, (shape,)),
            (implementation.unfold, x, ()),
            (implementation.fold, brute.by_image(cols, shape, **window), (shape[2:],)),
        ):
            given = laid_out(argument, layout)
            same_bits(function(given, *arguments, **window), function(argument, *arguments, **window))
            np.testing.assert_array_equal(given, argument)


@pytest.mark.parametrize("axes", [(1, 0, 2, 3), (0, 1, 3, 2), (3, 1, 2, 0), (2, 3, 0, 1)], ids=str)
def test_transposed_axes(implementation, axes):
    x = random_array((4, 7, 8, 9), np.float32).transpose(axes)
    for window in WINDOWS[:4]:
        check(implementation, x, **window)
        cols = columns_of(x.shape, np.float32, **window)
        check_back(implementation, np.ascontiguousarray(cols.T).T, x.shape, **window)


def test_broadcast_axes(implementation):
    shape = (2, 3, 7, 19)
    for window in WINDOWS:
        check(implementation, np.broadcast_to(random_array(shape[1:], np.float32), shape), **window)
        check(implementation, np.broadcast_to(random_array((7, 1), np.float32), shape), **window)
        check(implementation, np.broadcast_to(np.float32(5), shape), **window)
        cols = columns_of(shape, np.float32, **window)
        check_back(implementation, np.broadcast_to(cols[:1], cols.shape), shape, **window)
        check_back(implementation, np.broadcast_to(cols[:, :1], cols.shape), shape, **window)
        cols = brute.by_image(cols, shape, **window)
        for some in (cols[:1], cols[:, :1], cols[:, :, :1]):
            given = np.broadcast_to(some, cols.shape)
            same_bits(implementation.fold(given, shape[2:], **window), brute.fold(given, shape[2:], **window))


def test_lists(implementation):
    same_bits(implementation.im2col([[[[1, 2], [3, 4]]]], [1, 2], stride=[1, 1]), np.array([[1.0, 3], [2, 4]]))
    same_bits(implementation.col2im([[1, 3], [2, 4]], [1, 1, 2, 2], [1, 2]), np.array([[[[1.0, 2], [3, 4]]]]))
    same_bits(implementation.unfold([[[[1, 2], [3, 4]]]], [1, 2], stride=[1, 1]), np.array([[[1.0, 3], [2, 4]]]))
    same_bits(implementation.fold([[1, 3], [2, 4]], [2, 2], [1, 2]), np.array([[[1.0, 2], [3, 4]]]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*FLOATS, "?", "u4"])
def test_out(implementation, layout, dtype):
    shape = (2, 3, 7, 19)
    for window in WINDOWS:
        x, cols = random_array(shape, dtype), columns_of(shape, dtype, **window)
        for function, arguments in (
            (implementation.im2col, (x,)),
            (implementation.col2im, (cols, shape)),
            (implementation.unfold, (x,)),
            (implementation.fold, (brute.by_image(cols, shape, **window), shape[2:])),
        ):
            expected = function(*arguments, **window)
            out = sentinel(expected.shape, expected.dtype, layout)
            around = surroundings(out)
            assert function(*arguments, **window, out=out) is out
            np.testing.assert_array_equal(out, expected)
            assert surroundings(out) == around


def test_steps_longer_than_any_array(implementation):
    x = random_array((1, 1, 4, 5), np.float32)
    check(implementation, x, kernel_size=2, stride=2**60)
    check(implementation, x, kernel_size=1, dilation=2**60)
    check_back(implementation, random_array((4, 1), np.float32), x.shape, kernel_size=2, stride=2**60)
    # Places that are far apart share no rows, however many windows they make of padding.
    check(implementation, x, kernel_size=(2, 1), padding=((2**40, 0), (0, 0)), dilation=(2**40, 1))
    check(implementation, x, kernel_size=2, stride=2**40, padding=((2**40 - 1, 2**40 - 1), (0, 0)), dilation=(2**40, 1))


@pytest.mark.parametrize(
    ("spatial", "window"),
    [
        ((7, 7), {"kernel_size": 2, "stride": 2}),
        ((7, 7), {"kernel_size": 7, "stride": 7}),
        ((11, 10), {"kernel_size": 3, "stride": 2, "padding": ((0, 2), (1, 1))}),
        ((14, 15), {"kernel_size": 3, "stride": 3}),
        ((13,), {"kernel_size": 3, "stride": 2, "padding": 1}),
        ((64,), {"kernel_size": 2, "stride": 2}),
        ((8, 7, 9), {"kernel_size": 2, "stride": 2}),
        ((5, 6, 8), {"kernel_size": (2, 3, 2), "stride": 2, "padding": 1, "dilation": 2}),
    ],
    ids=str,
)
def test_short_rows(spatial, window):
    # Of as many planes as threads share, so that ranges of rows begin anywhere in one.
    channels = 3 + (5 << 18) // int(3 * np.prod(spatial))
    x = random_array((3, channels, *spatial), np.float32, kind="ties")
    cols = reference.unfold(x, **window)
    flat = np.moveaxis(cols, 0, 1).reshape(cols.shape[1], -1)
    size = list(spatial)
    with on_threads(3):
        same_bits(fastpool.unfold(x, **window), cols)
        same_bits(
            fastpool.unfold(x[::-1, ::-1, ..., ::-1], **window), reference.unfold(x[::-1, ::-1, ..., ::-1], **window)
        )
        same_bits(fastpool.fold(cols, size, **window), reference.fold(cols, size, **window))
        if len(spatial) == 2:
            same_bits(fastpool.im2col(x, **window), flat)
            same_bits(fastpool.col2im(flat, x.shape, **window), reference.fold(cols, size, **window))


@pytest.mark.parametrize(
    ("spatial", "window"),
    [
        ((224, 225), {"kernel_size": 2, "stride": 2}),
        ((100, 66), {"kernel_size": 2, "stride": 3}),
        ((20, 30, 64), {"kernel_size": 2, "stride": 2}),
        ((40, 4099), {"kernel_size": 2, "stride": 2}),
    ],
    ids=str,
)
@pytest.mark.parametrize("mebibytes", [9, 33])
def test_results_that_no_cache_holds(spatial, window, mebibytes):
    # The larger ones are new memory that the system clears, but where they are given.
    channels = 1 + (mebibytes << 20) // int(8 * np.prod(spatial))
    x = random_array((2, channels, *spatial), np.float32, kind="ties")
    cols = reference.unfold(x, **window)
    same_bits(fastpool.unfold(x, **window), cols)
    same_bits(fastpool.unfold(x, **window, out=np.empty_like(cols)), cols)
    expected = reference.fold(cols, spatial, **window)
    same_bits(fastpool.fold(cols, spatial, **window), expected)
    same_bits(fastpool.fold(cols, spatial, **window, out=np.empty_like(expected)), expected)
    if len(spatial) == 2:
        flat = np.moveaxis(cols, 0, 1).reshape(cols.shape[1], -1)
        same_bits(fastpool.col2im(flat, x.shape, **window), expected)


def test_which_results_are_written_past_the_caches(monkeypatch):
    monkeypatch.setattr(hold, "SHARE", 4 * hold.FAR)
    small, large = 2 * hold.FAR, hold.CLEARED
    assert not hold.far(small, 4 * hold.FAR - 1, new=False)  # there is room for the call in the last cache
    assert hold.far(small, 4 * hold.FAR, new=False)
    assert hold.far(small, 4 * hold.FAR, new=True)
    assert hold.far(large, 4 * hold.FAR, new=False)
    assert not hold.far(large, 4 * hold.FAR, new=True)  # its pages are cleared, into a cache
    assert not hold.far(hold.FAR - 1, 9 * hold.FAR, new=False)
