"""Adaptive and global pooling: the kernels against the reference, which is compared with plain loops elsewhere."""

import brute
import numpy as np
import pytest
from helpers import and_magnitude, near, on_threads, same_bits, same_values, sentinel, surroundings
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ranks import HALVES, LENGTHS, drawn, of, same

import fastpool
from fastpool import reference
from fastpool.testing import strategies
from fastpool.testing.arrays import LAYOUTS, laid_out, random_array
from fastpool.window import adaptive_window

#: Ranks and dtypes together: each pair has kernels of its own to compile, and all meet.
PAIRS = st.sampled_from(
    [(1, np.dtype("f")), (2, np.dtype("d")), (3, np.dtype("f")), (3, HALVES[0]), (2, HALVES[1]), (2, np.dtype("B"))]
)
LAST = {"data_format": "channels_last"}


@st.composite
def pools(draw, kinds=strategies.KINDS):
    """The rank, an input, an output size and the data format: sizes that divide the input and sizes that do not."""
    ndim, dtype = draw(PAIRS)
    spatial = tuple(draw(lengths) for lengths in LENGTHS[ndim])
    output_size = tuple(
        draw(
            st.none() | st.just(1) | st.integers(1, 2 * n) | st.sampled_from([k for k in range(1, n + 1) if n % k == 0])
        )
        for n in spatial
    )
    shape = (*draw(st.lists(st.integers(0, 3), max_size=2).map(tuple)), *spatial)
    data_format = "channels_first"
    if draw(st.booleans()):
        data_format = "channels_last"
        shape = (*shape, draw(st.sampled_from([0, 1, 2, 3, 5, 16, 17, 33])))
    return ndim, draw(strategies.arrays(shape, dtype, kinds)), output_size, {"data_format": data_format}


@pytest.fixture(autouse=True)
def _quiet():
    """Sums of special values overflow, here and in NumPy."""
    with np.errstate(over="ignore", invalid="ignore"):
        yield


def sums(x, ndim, output_size, data_format):
    """Return by how many `terms` averages of fastpool and of the reference in float64 differ, at most."""
    _, spatial, _ = fastpool.arguments.split(x.shape, data_format, ndim, "x")
    *others, columns = adaptive_window(spatial, output_size).kernel_size
    rows = int(np.prod(others))
    return rows + columns + (rows * columns if x.dtype in (np.float64, np.uint8) else 0)


@given(pools(), strategies.input_layouts)
@settings(max_examples=60)
def test_max(case, layout):
    ndim, x, output_size, form = case
    slow, fast = (of(module, "adaptive_max_poolNd", ndim) for module in (reference, fastpool))
    expected, argmax = slow(x, output_size, **form, return_argmax=True)
    _, indices = slow(x, output_size, **form, return_indices=True)
    given_x = laid_out(x, layout) if x.dtype.kind != "V" else x
    same(fast(given_x, output_size, **form), expected)
    for name, positions in (("return_argmax", argmax), ("return_indices", indices)):
        y, found = fast(given_x, output_size, **form, **{name: True})
        same(y, expected)
        same_values(found, positions)


@given(pools(), st.sampled_from([None, np.int8, np.int64, np.uint64]))
@settings(max_examples=60)
def test_max_backward(case, integer):
    ndim, x, output_size, form = case
    y, argmax = of(reference, "adaptive_max_poolNd", ndim)(x, output_size, **form, return_argmax=True)
    slow, fast = (of(module, "adaptive_max_poolNd_backward", ndim) for module in (reference, fastpool))
    dy = drawn(y.shape, x.dtype)
    expected = slow(dy, argmax, x.shape, **form)
    if integer and (not argmax.size or argmax.max() <= np.iinfo(integer).max):
        argmax = argmax.astype(integer)
    dx = fast(dy, argmax, x.shape, **form)
    same(dx, expected)
    same_values(np.signbit(dx), np.signbit(expected))


@given(pools(strategies.SUMMABLE), strategies.input_layouts)
@settings(max_examples=60)
def test_avg(case, layout):
    ndim, x, output_size, form = case
    expected = of(reference, "adaptive_avg_poolNd", ndim)(and_magnitude(x), output_size, **form)
    y = of(fastpool, "adaptive_avg_poolNd", ndim)(
        laid_out(x, layout) if x.dtype.kind != "V" else x, output_size, **form
    )
    assert y.dtype == (x.dtype if x.dtype.kind in "fV" else float)
    near(y, *expected, sums(x, ndim, output_size, **form))


@given(pools())
@settings(max_examples=60)
def test_avg_backward(case):
    ndim, x, output_size, form = case
    shape = of(reference, "adaptive_avg_poolNd", ndim)(np.ones(x.shape), output_size, **form).shape
    dy = drawn(shape, x.dtype, "gaps" if x.dtype.kind == "f" and x.dtype not in HALVES else "random")
    dx = of(fastpool, "adaptive_avg_poolNd_backward", ndim)(dy, x.shape, **form)
    assert dx.dtype == (x.dtype if x.dtype.kind in "fV" else float)
    expected = of(reference, "adaptive_avg_poolNd_backward", ndim)(and_magnitude(dy), (2, *x.shape), **form)
    _, spatial, _ = fastpool.arguments.split(x.shape, form["data_format"], ndim, "x")
    windows = np.prod(adaptive_window(adaptive_window(spatial, output_size).output, spatial).kernel_size)
    near(dx, *expected, 2 * windows + 1)  # a quotient on either side, and their sums


def planes(shape, dtype):
    """Numbers; ties; nothing but the lowest value; special values among ties, at every place of vectors in turn."""
    kinds = ["random", "ties", "lowest", "specials"]
    mixed = np.where(random_array((40, *shape), "u1") < 6, random_array((40, *shape), dtype, 1, "specials"),
                     random_array((40, *shape), dtype, 2, "ties"))  # fmt: skip
    return np.concatenate([[random_array(shape, dtype, 3, kind) for kind in kinds], mixed]).astype(dtype)


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "i2"])
@pytest.mark.parametrize("width", [*range(1, 36), 47, 48, 49, 63, 64, 65, 66, 127, 128, 129, 257, 300])
def test_every_width(dtype, width):
    """One window, wide and narrow ones, and more than there are columns: every tail of every vector."""
    x = planes((2, width), dtype)
    for columns in {1, 2, 3, width // 9 + 1, width // 2 + 1, width, width + 1}:
        if dtype != "f4" and width % columns == 0 and width // columns < 9:
            continue  # ordinary windows, of which each size has kernels of its own to compile
        for rows in (1, 2):
            y, argmax = reference.adaptive_max_pool2d(x, (rows, columns), return_argmax=True)
            values, found = fastpool.adaptive_max_pool2d(x, (rows, columns), return_argmax=True)
            same_values(values, y)
            same_values(found, argmax)
            same_values(fastpool.adaptive_max_pool2d(x, (rows, columns)), y)
    for rows in (1, 2):
        whole = np.nan_to_num(x.astype(float), posinf=9, neginf=-9) % 100
        near(
            fastpool.adaptive_avg_pool2d(whole, (rows, 1)),
            *reference.adaptive_avg_pool2d(and_magnitude(whole), (rows, 1)),
            2 * 2 * width,
        )


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("form", [{}, LAST], ids=["first", "last"])
def test_global_pools(implementation, ndim, form):
    for shape in ((2, 3, 4, 5, 6), (2, 70, 70, 3, 2), (0, 2, 3, 4, 5)):
        x = random_array(shape, np.float64)
        stop = len(shape) - bool(form)
        axes = tuple(range(stop - ndim, stop))
        same_values(implementation.global_max_pool(x, ndim, **form), x.max(axis=axes, keepdims=True))
        average = implementation.global_avg_pool(x, ndim, **form)
        near(average, x.mean(axes, keepdims=True), abs(x).mean(axes, keepdims=True), 2 * np.prod(shape))
    same_values(implementation.global_max_pool([[1, 2], [4, 3]]), np.array([[4]]))
    same_values(implementation.global_avg_pool([[1, 2], [4, 3]]), np.array([[2.5]]))
    for wrong, error in ((0, ValueError), (4, ValueError), (True, TypeError), (2.0, TypeError)):
        for pool in (implementation.global_max_pool, implementation.global_avg_pool):
            with pytest.raises(error, match="spatial_ndim"):
                pool(np.ones((2, 2, 2, 2, 2)), wrong)


@pytest.mark.parametrize("size", [(3, 4), (2, 5), (11, 13), 1], ids=str)  # (2, 5) divide the input
@pytest.mark.parametrize("form", [{}, LAST], ids=["first", "last"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_out(layout, form, size):
    x = random_array((2, 3, 6, 10), np.float32) if not form else random_array((2, 6, 10, 3), np.float32)
    y, argmax = fastpool.adaptive_max_pool2d(x, size, return_argmax=True, **form)
    calls = [
        (fastpool.adaptive_max_pool2d, (x, size)),
        (fastpool.adaptive_avg_pool2d, (x, size)),
        (fastpool.adaptive_max_pool2d_backward, (y, argmax, x.shape)),
        (fastpool.adaptive_avg_pool2d_backward, (y, x.shape)),
    ]
    for function, arguments in calls:
        expected = function(*arguments, **form)
        out = sentinel(expected.shape, expected.dtype, layout)
        around = surroundings(out)
        assert function(*arguments, **form, out=out) is out
        same_bits(np.asarray(out), expected)
        assert surroundings(out) == around


@pytest.mark.parametrize("size", [(3, 4), (2, 5), (4, 10)], ids=str)
@pytest.mark.parametrize("form", [{}, LAST], ids=["first", "last"])
@pytest.mark.parametrize("wrong", [-1, -(2**40), 2**40, 2**63 - 1, "taps"])
def test_an_argmax_outside_of_the_largest_window(implementation, form, size, wrong):
    x = random_array((2, 3, 6, 10), np.float64) if not form else random_array((2, 6, 10, 3), np.float64)
    y, argmax = implementation.adaptive_max_pool2d(x, size, return_argmax=True, **form)
    argmax = argmax.astype(np.int64)
    argmax.reshape(-1)[7] = np.prod(adaptive_window((6, 10), size).kernel_size) if wrong == "taps" else wrong
    out = np.full(x.shape, 77.0)
    with pytest.raises(ValueError, match="argmax has a position outside of its window"):
        implementation.adaptive_max_pool2d_backward(y, argmax, x.shape, out=out, **form)
    assert (out == 77).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_argmax_outside_of_a_smaller_window(implementation, axis):
    # Of 8 elements, 5 windows have 2, 3, 2, 3 and 2.
    shape, output = [2, 2, 2], [1, 1, 1]
    shape[axis], output[axis] = 8, 5
    largest = [3 if i == axis else 2 for i in range(3)]
    place = 2 * (largest[1] * largest[2], largest[2], 1)[axis]
    argmax = np.zeros(output, np.uint8)
    argmax.reshape(-1)[1] = place
    assert implementation.adaptive_max_pool3d_backward(np.ones(output), argmax, tuple(shape)).sum() == 5
    for window in (0, 2, 4):
        argmax = np.zeros(output, np.uint8)
        argmax.reshape(-1)[window] = place
        with pytest.raises(ValueError, match="argmax has a position outside of its window"):
            implementation.adaptive_max_pool3d_backward(np.ones(output), argmax, tuple(shape))


@pytest.mark.parametrize("integer", [np.uint8, np.int8, np.uint16, np.int64])
def test_an_argmax_of_a_type_that_does_not_hold_all_positions(implementation, integer):
    # Of 8 columns, 5 windows have 2, 3, 2, 3 and 2, and here 300 places.
    argmax = np.zeros((1, 5), integer)
    argmax[0, 1] = 2
    assert implementation.adaptive_max_pool2d_backward(np.ones((1, 5)), argmax, (100, 8)).sum() == 5
    argmax[0, 0] = 2
    with pytest.raises(ValueError, match="argmax has a position outside of its window"):
        implementation.adaptive_max_pool2d_backward(np.ones((1, 5)), argmax, (100, 8))


@pytest.mark.parametrize(
    ("shape", "size", "form"),
    [((9, 30000), 7, {}), ((2, 9000), 2501, {}), ((3, 70, 70), (50, 60), {}), ((900, 5, 7), (3, 4), {}),
     ((2, 9, 9, 300), 4, LAST), ((7, 9, 6, 5, 33), (4, 4, 3), LAST), ((5, 4, 30, 41), (3, 7, 9), {})], ids=str,
)  # fmt: skip
def test_gradients_of_many_planes_and_of_parts_of_one(shape, size, form):
    """Where windows start is listed for many at once; and large windows have too many places to list."""
    ndim = len(shape) - 1 - len(form)
    slow, fast = (of(module, "adaptive_max_poolNd_backward", ndim) for module in (reference, fastpool))
    for dtype in (np.float32, np.float16):
        x = random_array(shape, dtype, 0, "ties")
        y, argmax = of(reference, "adaptive_max_poolNd", ndim)(x, size, return_argmax=True, **form)
        dy = random_array(y.shape, dtype, 1)
        same_bits(fast(dy, argmax, shape, **form), slow(dy, argmax, shape, **form))
    argmax.reshape(-1)[-1] = adaptive_window(shape[1 : 1 + ndim], size).taps
    with pytest.raises(ValueError, match="argmax has a position outside of its window"):
        fast(dy, argmax, shape, **form)


def test_positions_are_those_of_many_planes_of_one_window():
    """numpy.unravel_index is wrong for these shapes."""
    x = random_array((9000, 7), np.float32)
    for implementation in (fastpool, reference):
        y, indices = implementation.adaptive_max_pool1d(x, 1, return_indices=True)
        same_values(indices, x.argmax(axis=1)[:, None])
        same_values(y, x.max(axis=1, keepdims=True))


@pytest.mark.parametrize("form", [{}, LAST], ids=["first", "last"])
def test_threads_give_the_same_bits(form):
    """Ranges of rows begin and end amid planes."""
    shape = (3, 41, 101, 103) if not form else (3, 101, 103, 41)
    x = random_array(shape, np.float32)
    sizes = [(7, 11), (50, 60), (1, 1), (120, 5)]

    def everything():
        results = []
        for size in sizes:
            y, argmax = fastpool.adaptive_max_pool2d(x, size, return_argmax=True, **form)
            _, indices = fastpool.adaptive_max_pool2d(x, size, return_indices=True, **form)
            average = fastpool.adaptive_avg_pool2d(x, size, **form)
            back = fastpool.adaptive_max_pool2d_backward(y, argmax, shape, **form)
            share = fastpool.adaptive_avg_pool2d_backward(y, shape, **form)
            results += [y, argmax, indices, average, back, share]
        return results

    with on_threads(1):
        alone = everything()
    with on_threads(3):
        for one, several in zip(alone, everything(), strict=True):
            same_bits(several, one)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_gradients_are_adjoint(ndim):
    rng = np.random.default_rng(0)
    for size in (3, 4, 9):
        x = rng.integers(-9, 9, (2, *(8, 5, 7)[:ndim])).astype(float)
        pool, back = (of(fastpool, f"adaptive_avg_poolNd{end}", ndim) for end in ("", "_backward"))
        dy = rng.integers(-9, 9, (2, *(size,) * ndim)).astype(float)
        np.testing.assert_allclose(np.vdot(pool(x, size), dy), np.vdot(x, back(dy, x.shape)), rtol=1e-12, atol=1e-12)
        pool, back = (of(fastpool, f"adaptive_max_poolNd{end}", ndim) for end in ("", "_backward"))
        y, argmax = pool(x, size, return_argmax=True)
        _, indices = pool(x, size, return_indices=True)
        picked = np.take_along_axis(x.reshape(2, -1), indices.reshape(2, -1), axis=1)
        same_values(picked.reshape(y.shape), y)
        assert np.vdot(y, dy) == np.vdot(x, back(dy, argmax, x.shape))


def test_brute_windows_are_the_kernels():
    """The windows of plain loops, on a shape that the reference is not asked for."""
    x = random_array((2, 5, 11), np.float64)
    values, argmax, indices = brute.adaptive_max_pool(2, x, (3, 4))
    y, found = fastpool.adaptive_max_pool2d(x, (3, 4), return_argmax=True)
    same_values(y, values)
    same_values(found, argmax.astype(np.uint8))
    same_values(fastpool.adaptive_max_pool2d(x, (3, 4), return_indices=True)[1], indices)
