"""One, two and three axes, and every dtype: all parameters drawn together, the kernels against the reference."""

import numpy as np
import pytest
from helpers import and_magnitude, near, same_values, terms
from hypothesis import given, settings
from hypothesis import strategies as st
from test_agreement import outcome

import fastpool
from fastpool import reference
from fastpool.testing import strategies
from fastpool.testing.arrays import laid_out, random_array
from fastpool.window import window

ml_dtypes = pytest.importorskip("ml_dtypes")

FEW = st.integers(1, 6)
#: Of each rank, the lengths of its axes: the last one is what fills vectors.
LENGTHS = {
    1: (strategies.LENGTHS,),
    2: (strategies.SHORT, strategies.LENGTHS),
    3: (FEW, FEW, strategies.SHORT | strategies.LENGTHS),
}
HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
#: Ranks and dtypes together: each pair has kernels of its own to compile, and all meet in other tests.
PAIRS = st.sampled_from([(1, np.dtype("f")), (3, np.dtype("f")), (3, HALVES[0]), (2, HALVES[1]), (1, HALVES[0])])


@st.composite
def pools(draw, kinds=strategies.KINDS):
    """The rank, an input and the keyword arguments of its pooling."""
    ndim, dtype = draw(PAIRS)
    spatial, arguments = draw(strategies.windows(kernels=5 if ndim == 3 else 9, strides=3, lengths=LENGTHS[ndim]))
    if dtype in HALVES and strategies.each(arguments["stride"] or arguments["kernel_size"], ndim)[-1] > 2:
        dtype = np.dtype("f")  # for kernels of other strides differ in nothing but which lanes are taken
    shape = (*draw(st.lists(st.integers(0, 3), max_size=2).map(tuple)), *spatial)
    if draw(st.booleans()):
        arguments["data_format"] = "channels_last"
        shape = (*shape, draw(st.sampled_from([0, 1, 2, 3, 5, 16, 17, 33])))
    return ndim, draw(strategies.arrays(shape, dtype, kinds)), arguments


@pytest.fixture(autouse=True)
def _quiet():
    """Sums of special values overflow, here and in NumPy."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        yield


def of(module, name, ndim):
    """Return a function by its name and rank."""
    return getattr(module, name.replace("Nd", f"{ndim}d"))


def same(actual, expected):
    """Equal in shape, dtype and values, which NumPy compares of bfloat16 only in another type."""
    assert actual.dtype == expected.dtype
    same_values(actual.astype(float) if actual.dtype in HALVES else actual, expected.astype(actual.dtype).astype(float)
                if actual.dtype in HALVES else expected)  # fmt: skip


def drawn(shape, dtype, kind="random"):
    """Numbers that are the same for the same shape."""
    return random_array(shape, dtype, 7, kind)


@given(pools(), strategies.input_layouts)
@settings(max_examples=70)
def test_max(case, layout):
    ndim, x, arguments = case
    result = outcome(of(reference, "max_poolNd", ndim), x, **arguments, return_argmax=True)
    fast = of(fastpool, "max_poolNd", ndim)
    if isinstance(result, str):
        assert outcome(fast, x, **arguments) == result
        return
    expected, argmax = result
    given_x = laid_out(x, layout) if x.dtype.kind != "V" else x
    same(fast(given_x, **arguments), expected)
    indices = of(reference, "max_poolNd", ndim)(x, **arguments, return_indices=True)[1]
    for name, positions in (("return_argmax", argmax), ("return_indices", indices)):
        y, found = fast(given_x, **arguments, **{name: True})
        same(y, expected)
        same_values(found, positions)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 7, 190, 180), (5, 13, 30, 40), (2, 3, 5, 5500)], ids=["bands", "ring", "long"])
def test_slices_that_are_kept(shape, stride):
    """More than is kept of pooled slices at a time; NaN in a slice, and ranges of rows that end amid one."""
    x = drawn(shape, np.dtype("f"), "ties")
    x[1, 2, 1:3, 5::50] = np.nan
    arguments = {"kernel_size": (3, 2, 3), "stride": stride, "padding": 1}
    y, argmax = reference.max_pool3d(x, **arguments, return_argmax=True)
    fast, positions = fastpool.max_pool3d(x, **arguments, return_argmax=True)
    same(fast, y)
    same_values(positions, argmax)
    same(fastpool.max_pool3d(x, **arguments), y)
    x = drawn(shape, np.dtype("f"))
    expected = reference.avg_pool3d(and_magnitude(x), **arguments)
    near(fastpool.avg_pool3d(x, **arguments), *expected, 3 + 2 + 3)


@pytest.mark.parametrize(("stride", "dilation"), [((2, 2, 2), 1), ((3, 1, 2), (2, 2, 1)), ((1, 2, 2), (3, 1, 1))])
@pytest.mark.parametrize("shape", [(2, 9, 14, 15), (3, 2, 5, 6, 41), (2, 4, 7, 33)])
def test_slices_side_by_side(shape, stride, dilation):
    """Windows that begin and end in the padding, over slices and rows of several volumes; ties and NaN."""
    x = drawn(shape, np.dtype("f"), "ties")
    for bad in (x, np.where(drawn(shape, np.dtype("f")) > 1.5, np.float32(np.nan), x)):
        for kernel_size in ((2, 2, 2), (3, 3, 3), (4, 3, 3), (2, 3, 1)):
            before = tuple(k - 1 for k in kernel_size)
            arguments = {"kernel_size": kernel_size, "stride": stride, "padding": before, "dilation": dilation}
            y, argmax = reference.max_pool3d(bad, **arguments, return_argmax=True)
            fast, positions = fastpool.max_pool3d(bad, **arguments, return_argmax=True)
            same(fast, y)
            same_values(positions, argmax)
            same(fastpool.max_pool3d(bad, **arguments), y)
            for pad in (True, False):
                expected = reference.avg_pool3d(and_magnitude(bad), **arguments, count_include_pad=pad)
                y = fastpool.avg_pool3d(bad, **arguments, count_include_pad=pad)
                near(y, *expected, sum(kernel_size))


@pytest.mark.parametrize("kernel_size", [3, (4, 3, 2)])
def test_volumes_in_any_order(kernel_size):
    """Volumes that do not follow one another as they lie in memory, and slices that lie backwards."""
    x = drawn((3, 4, 5, 6, 19), np.dtype("f"), "ties")
    for volumes in (x.swapaxes(0, 1), x[:, ::2], x[:, :, ::-1], x[::-1, :, 1:]):
        arguments = {"kernel_size": kernel_size, "stride": 2, "padding": 1}
        expected, positions = reference.max_pool3d(volumes, **arguments, return_argmax=True)
        y, argmax = fastpool.max_pool3d(volumes, **arguments, return_argmax=True)
        same(y, expected)
        same_values(argmax, positions)
        same(fastpool.max_pool3d(volumes, **arguments), expected)
        averages = fastpool.avg_pool3d(volumes, **arguments)
        near(averages, *reference.avg_pool3d(and_magnitude(volumes), **arguments), 4 + 3 + 3)


@pytest.mark.parametrize(
    ("plane", "arguments"),
    [
        ((3, 5), {"kernel_size": (4, 4, 1), "stride": (3, 2, 2), "padding": (3, 1, 0)}),
        ((28, 28), {"kernel_size": (3, 2, 2), "stride": 1, "padding": (2, (0, 1), 1), "dilation": (2, 1, 2)}),
        ((28, 40), {"kernel_size": 3, "stride": 1, "padding": 1}),
    ],
)
def test_volumes_of_one_slice(plane, arguments):
    """Windows that have more slices, all but one in the padding."""
    x = drawn((2, 5, 1, *plane), np.dtype("f"), "ties")
    y, argmax = reference.max_pool3d(x, **arguments, return_argmax=True)
    fast, positions = fastpool.max_pool3d(x, **arguments, return_argmax=True)
    same(fast, y)
    same_values(positions, argmax)
    same(fastpool.max_pool3d(x, **arguments), y)
    near(fastpool.avg_pool3d(x, **arguments), *reference.avg_pool3d(and_magnitude(x), **arguments), 3 + 2 + 3)


@pytest.mark.parametrize("width", [(3, 1), (9, 1), (9, 3), (3, 2)])
@pytest.mark.parametrize("before", range(9))
def test_one_slice_amid_padding(width, before):
    """Which place of its windows the only slice is, depends on the dilation."""
    x = random_array((2, 1, 9, 40), np.float32)
    for dilation in (1, 2, 4):
        if before % dilation == 0:
            kernel, stride = (9 // dilation + 1, 2, width[0]), (1, 1, width[1])
            reach = kernel[0] * dilation - dilation
            padding = ((before, reach - before), (0, 0), (0, 0))
            arguments = (x, kernel, stride, padding, (dilation, 1, 1))
            expected, positions = reference.max_pool3d(*arguments, return_argmax=True)
            y, argmax = fastpool.max_pool3d(*arguments, return_argmax=True)
            same_values(y, expected)
            same_values(argmax, positions)


@given(pools())
@settings(max_examples=70)
def test_max_backward(case):
    ndim, x, arguments = case
    result = outcome(of(reference, "max_poolNd", ndim), x, **arguments, return_argmax=True)
    if isinstance(result, str):
        return
    y, argmax = result
    dy = drawn(y.shape, x.dtype)
    expected = of(reference, "max_poolNd_backward", ndim)(dy, argmax, x.shape, **arguments)
    same(of(fastpool, "max_poolNd_backward", ndim)(dy, argmax, x.shape, **arguments), expected)


@given(pools(kinds=strategies.SUMMABLE), strategies.divisors)
@settings(max_examples=70)
def test_avg(case, divisor):
    ndim, x, arguments = case
    expected = outcome(of(reference, "avg_poolNd", ndim), and_magnitude(x), **arguments, **divisor)
    fast = of(fastpool, "avg_poolNd", ndim)
    if isinstance(expected, str):
        assert outcome(fast, x, **arguments, **divisor) == expected
        return
    y = fast(x, **arguments, **divisor)
    assert y.dtype == (x.dtype if x.dtype.kind in "fV" else float)
    kernel = strategies.each(arguments["kernel_size"], ndim)
    near(y, *expected, terms(y.dtype, kernel if ndim > 1 else (1, *kernel)))


@given(pools(strategies.SUMMABLE), strategies.divisors)
@settings(max_examples=70)
def test_avg_backward(case, divisor):
    ndim, x, arguments = case
    y = outcome(of(reference, "avg_poolNd", ndim), x, **arguments)
    if isinstance(y, str):
        return
    dy = drawn(y.shape, x.dtype)
    dx = of(fastpool, "avg_poolNd_backward", ndim)(dy, x.shape, **arguments, **divisor)
    assert dx.dtype == x.dtype
    back = of(reference, "avg_poolNd_backward", ndim)
    expected = back(and_magnitude(dy), (2, *x.shape), **arguments, **divisor)
    windows = back(np.ones(y.shape), x.shape, **arguments, divisor_override=1)
    near(dx, *expected, windows * (2 if dx.dtype == np.float64 else 1))


@given(pools(kinds=strategies.SUMMABLE), st.sampled_from([1, 2, 3, 0.5, 2.5]))
@settings(max_examples=70)
def test_lp(case, norm):
    ndim, x, arguments = case
    expected = outcome(of(reference, "lp_poolNd", ndim), x.astype(float), norm, **arguments)
    fast = of(fastpool, "lp_poolNd", ndim)
    if isinstance(expected, str):
        assert outcome(fast, x, norm, **arguments) == expected
        return
    y = fast(x, norm, **arguments)
    assert y.dtype == (x.dtype if x.dtype.kind in "fV" else float)
    # A sum's error shrinks, or grows, with the root; pow is off by less than a unit on either side.
    count = int(np.prod(strategies.each(arguments["kernel_size"], ndim)))
    near(y, expected, abs(np.nan_to_num(expected, posinf=0)), (count + 4) * (1 + 1 / norm))


@given(pools(st.sampled_from(["random", "ties"])), st.sampled_from([1, 2, 3, 1.5]))
@settings(max_examples=70)
def test_lp_backward(case, norm):
    ndim, x, arguments = case
    y = outcome(of(reference, "lp_poolNd", ndim), x, norm, **arguments)
    if isinstance(y, str):
        return
    dy = drawn(y.shape, x.dtype)
    dx = of(fastpool, "lp_poolNd_backward", ndim)(dy, x, y, norm, **arguments)
    assert dx.dtype == x.dtype
    back = of(reference, "lp_poolNd_backward", ndim)
    wide = (a.astype(float) for a in (dy, x, y))
    expected = back(*wide, norm, **arguments)
    wide = (abs(a.astype(float)) for a in (dy, x, y))
    magnitude = back(*wide, norm, **arguments)
    windows = of(reference, "avg_poolNd_backward", ndim)(np.ones(y.shape), x.shape, **arguments, divisor_override=1)
    near(dx, expected, magnitude, windows + 8)


@st.composite
def images(draw):
    """An image of 1 to 3 axes, and the keyword arguments of its unfolding."""
    ndim, dtype = draw(PAIRS)
    spatial, arguments = draw(strategies.windows(kernels=4 if ndim == 3 else 9, lengths=LENGTHS[ndim]))
    del arguments["ceil_mode"]
    arguments["stride"] = arguments["stride"] or 1
    shape = (draw(st.integers(0, 3)), draw(st.integers(0, 3)), *spatial)
    return draw(strategies.arrays(shape, dtype)), arguments


@given(images())
@settings(max_examples=70)
def test_columns(case):
    x, arguments = case
    cols = reference.unfold(x, **arguments)
    same(fastpool.unfold(x, **arguments), cols)
    given_cols = drawn(cols.shape, x.dtype)
    size = x.shape[2:] if x.ndim > 3 else [x.shape[2]]
    same(fastpool.fold(given_cols, size, **arguments), reference.fold(given_cols, size, **arguments))


def test_a_window_of_each_rank_has_three_axes_for_kernels():
    assert window((5,), 2, None, 0, 1).geometry.tolist()[:2] == [[1, 1, 1, 1, 1, 0, 1]] * 2
    assert window((4, 5, 6), 2, None, 0, 1).geometry[:, 0].tolist() == [4, 5, 6]
