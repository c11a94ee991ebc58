"""The reference in 1, 2 and 3 dimensions: against plain loops, against arithmetic, and what it refuses."""

import inspect
import pickle

import brute
import numpy as np
import pytest
from helpers import FLOATS, INTEGERS, same_bits, same_values, sentinel, surroundings
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpool import reference
from fastpool.testing import strategies
from fastpool.testing.arrays import LAYOUTS, laid_out, random_array

try:
    from ml_dtypes import bfloat16
except ImportError:
    HALVES = [np.dtype(np.float16)]
else:
    HALVES = [np.dtype(np.float16), np.dtype(bfloat16)]

ALL_FLOATS = [*HALVES, *map(np.dtype, FLOATS)]
NUMBERS = [*ALL_FLOATS, *map(np.dtype, INTEGERS)]
#: Half a unit in the last place of a number of 1, and the smallest number above 0.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 5e-324}

dtypes = st.sampled_from([np.dtype("?"), *NUMBERS])
numbers = st.sampled_from(NUMBERS)
ranks = st.integers(1, 3)
leading_axes = st.lists(st.integers(0, 2), max_size=2).map(tuple)
#: The longest axis: a plain loop over all windows of three axes takes its time.
LONGEST = {1: 12, 2: 7, 3: 4}
LARGEST = {1: 5, 2: 4, 3: 3}


@pytest.fixture(autouse=True)
def _quiet():
    """Sums overflow, and infinities of both signs add up to NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        yield


def of_rank(name, ndim):
    """The function of the reference: `name` has "Nd" for the number of axes."""
    return getattr(reference, name.replace("Nd", f"{ndim}d"))


def array(shape, dtype, seed=0, kind="random"):
    """`random_array`, also of float16 and bfloat16."""
    return random_array(shape, np.float32 if dtype in HALVES else dtype, seed, kind).astype(dtype)


def arrays(shape, dtype, kinds=strategies.KINDS):
    return st.builds(array, st.just(shape), st.just(dtype), st.integers(0, 2**32 - 1), kinds)


def result_dtype(dtype):
    """The dtype of averages, norms and columns."""
    return dtype if dtype in ALL_FLOATS else np.dtype(float)


def wide(x):
    """Floats and bool as float64, without loss; so that every test tool knows the dtype."""
    return x.astype(float) if x.dtype in HALVES else x


def same(actual, expected):
    """`same_values`, whatever the dtype."""
    assert actual.dtype == expected.dtype
    same_values(wide(actual), wide(expected))


def rounded_once(actual, expected, magnitude, terms):
    """`actual` is `expected`, computed in float64 in any order and rounded to its dtype.

    A sum of `terms` numbers in float64 is off by less than as many roundings of the sum of their magnitudes;
    four more are for quotients and roots.
    """
    assert actual.shape == expected.shape
    name = actual.dtype.name
    actual, number = actual.astype(float), np.isfinite(expected)
    same_values(actual[~number], expected[~number])
    exact = np.broadcast_to(magnitude, number.shape)[number] * (terms + 4) * ROUNDING["float64"]
    bound = exact + abs(expected[number]) * ROUNDING[name] + SMALLEST[name]
    error = abs(actual[number] - expected[number])
    assert (error <= bound).all(), f"{np.max(error - bound)} beyond the bound"


def outcome(function, *args, **kwargs):
    """Return the result, or what the error says: a window may have no element."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        return str(error)


@st.composite
def windows(draw, dilations=2, **kwargs):
    """How many spatial axes there are, their lengths, and the keyword arguments of a window that fits them."""
    ndim = draw(ranks)
    lengths = (st.integers(1, LONGEST[ndim]),) * ndim
    return ndim, *draw(strategies.windows(LARGEST[ndim], 4, dilations, lengths, **kwargs))


@st.composite
def pools(draw, dtypes=dtypes, kinds=strategies.KINDS):
    """An input, and the keyword arguments of its pooling."""
    ndim, spatial, window = draw(windows())
    shape = (*draw(leading_axes), *spatial)
    if draw(st.booleans()):
        window["data_format"] = "channels_last"
        shape = (*shape, draw(st.integers(0, 2)))
    return ndim, draw(arrays(shape, draw(dtypes), kinds)), window


@st.composite
def adaptive_pools(draw, dtypes=dtypes, kinds=strategies.KINDS):
    """An input, the output size of its pooling, and whether the channels are the last axis."""
    ndim = draw(ranks)
    lengths = st.integers(1, LONGEST[ndim])
    spatial = draw(st.tuples(*[lengths] * ndim))
    output_size = draw(lengths | st.none() | st.tuples(*[lengths | st.none()] * ndim))
    x = draw(arrays((*draw(leading_axes), *spatial), draw(dtypes), kinds))
    return ndim, x, output_size, draw(st.booleans())


@given(pools())
@settings(max_examples=100)
def test_max_pool(case):
    ndim, x, window = case
    pool, backward = of_rank("max_poolNd", ndim), of_rank("max_poolNd_backward", ndim)
    expected = outcome(brute.max_pool, ndim, wide(x), **window)
    if isinstance(expected, str):
        assert "covers no element" in outcome(pool, x, **window)
        return
    values, argmax, indices = expected
    same(pool(x, **window), values.astype(x.dtype))
    y, found = pool(x, **window, return_indices=True)
    same(y, values.astype(x.dtype))
    same_values(found, indices)
    y, positions = pool(x, **window, return_argmax=True)
    same(y, values.astype(x.dtype))
    same_values(positions, argmax.astype(np.uint8))
    same_values(reference.argmax_to_indices(positions, x.shape, **window, spatial_ndim=ndim), indices)
    same_values(reference.indices_to_argmax(indices, x.shape, **window, spatial_ndim=ndim), positions)
    if x.dtype.kind != "b":
        dx = backward(y, positions, x.shape, **window)
        added = y.astype(np.float32) if x.dtype in HALVES else y
        expected = brute.max_pool_backward(ndim, added, argmax, x.shape, **window).astype(x.dtype)
        same(dx, expected)
        same_bits(wide(dx), wide(expected))


@given(pools(numbers, strategies.SUMMABLE), strategies.divisors)
@settings(max_examples=100)
def test_avg_pool(case, divisor):
    ndim, x, window = case
    pool, backward = of_rank("avg_poolNd", ndim), of_rank("avg_poolNd_backward", ndim)
    exact = x.astype(float)
    expected = outcome(brute.avg_pool, ndim, exact, **window, **divisor)
    if isinstance(expected, str):
        assert "covers no element" in outcome(pool, x, **window, **divisor)
        return
    taps = np.prod(brute.each(window["kernel_size"], ndim))
    y = pool(x, **window, **divisor)
    assert y.dtype == result_dtype(x.dtype)
    rounded_once(y, expected, brute.avg_pool(ndim, abs(exact), **window, **divisor), taps)
    dx = backward(y, x.shape, **window, **divisor)
    assert dx.dtype == y.dtype
    exact, window = y.astype(float), {**window, **divisor}
    magnitude = brute.avg_pool_backward(ndim, abs(exact), x.shape, **window)
    rounded_once(dx, brute.avg_pool_backward(ndim, exact, x.shape, **window), magnitude, taps)


@given(pools(numbers, strategies.SUMMABLE), st.sampled_from([1, 2, 3, 0.5, 1.5, np.float32(4), np.int8(2)]))
@settings(max_examples=100)
def test_lp_pool(case, norm):
    ndim, x, window = case
    pool, backward = of_rank("lp_poolNd", ndim), of_rank("lp_poolNd_backward", ndim)
    last = window.pop("data_format", None) == "channels_last"
    exact = brute.first(x, ndim).astype(float) if last else x.astype(float)
    expected = outcome(brute.lp_pool, ndim, exact, norm, **window)
    taps = np.prod(brute.each(window["kernel_size"], ndim))
    if last:
        window["data_format"] = "channels_last"
    if isinstance(expected, str):
        assert "covers no element" in outcome(pool, x, norm, **window)
        return
    y = pool(x, norm, **window)
    assert y.dtype == result_dtype(x.dtype)
    # The relative error of a sum of powers, and of a root, which divides it by the power.
    rounded_once(brute.first(y, ndim) if last else y, expected, expected, (taps + 4) / min(1, norm))
    dy = array(y.shape, y.dtype, 1)
    dx = backward(dy, x, y, norm, **window)
    assert dx.dtype == dy.dtype
    assert dx.shape == x.shape


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("norm", [0.5, 1, 1.5, 2, 3])
def test_lp_pool_backward(ndim, norm):
    for window in (
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": ((1, 0),) * ndim, "ceil_mode": True},
        {"kernel_size": 2, "stride": 1, "padding": "same", "dilation": 2},
    ):
        x = array((2, *(5, 4, 3)[:ndim]), np.dtype(float), kind="random")
        x[x < -1] = 0
        y = of_rank("lp_poolNd", ndim)(x, norm, **window)
        y[0], x[0] = 0, 0  # of a plane of zeros
        dy = array(y.shape, np.dtype(float), 1)
        dx = of_rank("lp_poolNd_backward", ndim)(dy, x, y, norm, **window)
        np.testing.assert_allclose(dx, brute.lp_pool_backward(ndim, dy, x, norm, **window), rtol=1e-13, atol=1e-15)


@given(adaptive_pools())
@settings(max_examples=100)
def test_adaptive_max_pool(case):
    ndim, x, output_size, last = case
    pool, backward = of_rank("adaptive_max_poolNd", ndim), of_rank("adaptive_max_poolNd_backward", ndim)
    values, argmax, indices = brute.adaptive_max_pool(ndim, wide(x), output_size)
    given_x, form = (brute.last(x[None], ndim), {"data_format": "channels_last"}) if last else (x, {})
    if last:
        values, argmax, indices = (brute.last(part[None], ndim) for part in (values, argmax, indices))
    same(pool(given_x, output_size, **form), values.astype(x.dtype))
    same_values(pool(given_x, output_size, **form, return_indices=True)[1], indices)
    y, positions = pool(given_x, output_size, **form, return_argmax=True)
    same_values(positions, argmax.astype(np.uint8))
    if x.dtype.kind != "b":
        added = np.zeros(x.shape, np.float32 if x.dtype in HALVES else x.dtype)
        planes, dy = added.reshape(-1, np.prod(x.shape[-ndim:])), array(y.shape, x.dtype, 1)
        parts = (brute.first(part, ndim)[0] if last else part for part in (dy, indices))
        for plane, gradients, places in zip(
            planes, *(part.reshape(len(planes), -1) for part in parts) if planes.size else ()
        ):
            for gradient, place in zip(gradients.astype(added.dtype), places):  # in the order of the windows
                plane[place] += gradient
        dx = backward(dy, positions, given_x.shape, **form)
        same(dx, (brute.last(added[None], ndim) if last else added).astype(x.dtype))


@given(adaptive_pools(numbers, strategies.SUMMABLE))
@settings(max_examples=100)
def test_adaptive_avg_pool(case):
    ndim, x, output_size, last = case
    pool, backward = of_rank("adaptive_avg_poolNd", ndim), of_rank("adaptive_avg_poolNd_backward", ndim)
    given_x, form = (brute.last(x[None], ndim), {"data_format": "channels_last"}) if last else (x, {})
    exact, taps = x.astype(float), np.prod(x.shape[-ndim:])
    y = pool(given_x, output_size, **form)
    assert y.dtype == result_dtype(x.dtype)
    first = brute.first(y, ndim)[0] if last else y
    magnitude = brute.adaptive_avg_pool(ndim, abs(exact), output_size)
    rounded_once(first, brute.adaptive_avg_pool(ndim, exact, output_size), magnitude, taps)
    dx = backward(y, given_x.shape, **form)
    assert dx.dtype == y.dtype
    exact = first.astype(float)
    magnitude = brute.adaptive_avg_pool_backward(ndim, abs(exact), x.shape)
    expected = brute.adaptive_avg_pool_backward(ndim, exact, x.shape)
    rounded_once(brute.first(dx, ndim)[0] if last else dx, expected, magnitude, np.prod(first.shape[-ndim:]))


@given(windows(im2col=True), st.tuples(*[st.integers(0, 2)] * 2), dtypes, st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_columns(case, batch, dtype, seed):
    ndim, spatial, window = case
    shape, wider = (*batch, *spatial), np.float32 if dtype in HALVES else dtype
    x = array(shape, dtype, seed)
    cols = array(brute.columns_shape(shape, **window), dtype, seed)
    columns, dx = brute.im2col(wide(x), **window), brute.col2im(cols.astype(wider), shape, **window)
    columns, dx = (part.astype(result_dtype(dtype)) for part in (columns, dx))
    if ndim == 2:
        same(reference.im2col(x, **window), columns)
        same(reference.col2im(cols, shape, **window), dx)
    if "output_size" not in window:
        window["stride"] = window["stride"] or 1
        cols = array(brute.columns_shape(shape, **window), dtype, seed)
        dx = brute.col2im(cols.astype(wider), shape, **window).astype(result_dtype(dtype))
        by_image = brute.by_image(cols, shape, **window)
        same(reference.unfold(x, **window), brute.unfold(wide(x), **window).astype(result_dtype(dtype)))
        folded = reference.fold(by_image, spatial, **window)
        same(folded, dx)
        same_bits(wide(folded), wide(dx))
        for image, expected in zip(by_image, dx):
            same(reference.fold(image, spatial, **window), expected)


def test_the_rank_of_fold():
    for ndim in (1, 2, 3):
        cols = np.ones((2**ndim, 2**ndim))
        expected = reference.fold(cols, (3,) * ndim, 2)
        assert expected.shape == (1, *(3,) * ndim)
        same_values(reference.fold(cols, 3, [2] * ndim), expected)
    same_values(reference.fold(np.ones((4, 4)), 3, 2), reference.fold(np.ones((4, 4)), (3, 3), 2))


@given(windows(dilations=1), leading_axes, dtypes, st.data())
@settings(max_examples=100)
def test_max_unpool(case, leading, dtype, data):
    ndim, _, window = case
    kernel, stride = window["kernel_size"], window["stride"]
    padding = window["padding"] if window["padding"] not in ("same", "same_lower") else 0
    pooled = data.draw(st.tuples(*[st.integers(1, 3)] * ndim))
    y = array((*leading, *pooled), dtype)
    steps = brute.each(kernel if stride is None else stride, ndim)
    margins = [brute.both(0 if p == "valid" else p) for p in brute.each(padding, ndim)]
    axes = list(zip(pooled, steps, brute.each(kernel, ndim), margins))
    default = [(n - 1) * s + k - sum(m) for n, s, k, m in axes]
    size = tuple(data.draw(st.integers(max(1, n - s + 1), max(1, n + s - 1))) for n, s in zip(default, steps))
    unpool = of_rank("max_unpoolNd", ndim)
    call = y, np.zeros(y.shape, int), kernel, stride, padding
    if all(abs(given_size - n) < s for given_size, n, s in zip(size, default, steps)):
        indices = np.random.default_rng(0).integers(0, np.prod(size), y.shape)
        expected = brute.max_unpool(ndim, y, indices, size)
        for given_size in (size, leading + size):
            same(unpool(y, indices, kernel, stride, padding, given_size), expected)
        few = indices % 128
        expected = brute.max_unpool(ndim, y, few, size)
        for integer in ("i1", "u8"):
            same(unpool(y, few.astype(integer), kernel, stride, padding, size), expected)
    if min(default) > 0:
        same(unpool(*call), brute.max_unpool(ndim, y, call[1], default))
    for axis, (n, s) in enumerate(zip(default, steps)):
        for wrong in (n - s, n + s):
            with pytest.raises(ValueError, match="output_size"):
                unpool(*call, (*size[:axis], wrong, *size[axis + 1 :]))


def test_unpooling_undoes_pooling():
    x = np.arange(2 * 5 * 7.0).reshape(2, 5, 7)
    y, indices = reference.max_pool2d(x, 2, return_indices=True)
    unpooled = reference.max_unpool2d(y, indices, 2, output_size=x.shape)
    assert unpooled.shape == x.shape
    same_values(unpooled, np.where(np.isin(x, y), x, 0))
    same_values(reference.max_unpool1d([1.0, 2.0], [0, 0], 2), np.array([2.0, 0, 0, 0]))


LINEAR = [
    ({"kernel_size": 2}),
    ({"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    ({"kernel_size": 3, "stride": 1, "padding": "same_lower", "dilation": 2, "count_include_pad": False}),
]


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("last", [False, True])
def test_backward_is_the_adjoint(ndim, last):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *(7, 6, 5)[:ndim], 2) if last else (2, *(7, 6, 5)[:ndim]))
    form = {"data_format": "channels_last"} if last else {}
    cases = [("avg_poolNd", {**window, **form}, {**window, **form}) for window in LINEAR]
    cases += [("adaptive_avg_poolNd", {"output_size": size, **form}, form) for size in (1, 3, 4, None, 9)]
    for name, forward, back in cases:
        y = of_rank(name, ndim)(x, **forward)
        dy = rng.standard_normal(y.shape)
        dx = of_rank(f"{name}_backward", ndim)(dy, x.shape, **back)
        np.testing.assert_allclose(np.vdot(y, dy), np.vdot(x, dx), rtol=1e-12)
    if not last:
        x, window = x[None], {"kernel_size": 3, "stride": 2, "padding": ((0, 1),) * ndim, "dilation": 2}
        cols = reference.unfold(x, **window)
        dcols = rng.standard_normal(cols.shape)
        dx = reference.fold(dcols, x.shape[2:], **window)
        np.testing.assert_allclose(np.vdot(cols, dcols), np.vdot(x, dx), rtol=1e-12)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_gradients_by_finite_differences(ndim):
    rng = np.random.default_rng(0)
    shape = (2, *(6, 5, 4)[:ndim])
    far = rng.permutation(np.prod(shape)).reshape(shape) + 1.0  # from ties and from 0
    window = {"kernel_size": 3, "stride": 2, "padding": ((1, 0),) * ndim, "ceil_mode": True}

    def check(x, forward, backward, step, tolerance):
        y = forward(x)
        weights = rng.standard_normal(y.shape)
        differences = np.empty(x.shape)
        for place in np.ndindex(x.shape):
            along = np.zeros(x.shape)
            along[place] = step
            differences[place] = np.vdot(weights, forward(x + along) - forward(x - along)) / (2 * step)
        np.testing.assert_allclose(backward(weights, y), differences, rtol=tolerance, atol=tolerance)

    pool, back = of_rank("max_poolNd", ndim), of_rank("max_poolNd_backward", ndim)
    argmax = pool(far, **window, return_argmax=True)[1]
    check(far, lambda x: pool(x, **window), lambda dy, y: back(dy, argmax, shape, **window), 0.25, 1e-12)
    adapt, adapt_back = of_rank("adaptive_max_poolNd", ndim), of_rank("adaptive_max_poolNd_backward", ndim)
    positions = adapt(far, 4, return_argmax=True)[1]
    check(far, lambda x: adapt(x, 4), lambda dy, y: adapt_back(dy, positions, shape), 0.25, 1e-12)
    lp, lp_back = of_rank("lp_poolNd", ndim), of_rank("lp_poolNd_backward", ndim)
    for norm in (1, 2, 3, 0.5):
        signs = far * rng.choice([-1, 1], shape) / far.max() + rng.choice([-0.1, 0.1])
        signs[abs(signs) < 0.05] = 0.5
        # The error of a central difference is the square of its step, and what the subtraction cancels over the step.
        check(
            signs,
            lambda x, norm=norm: lp(x, norm, **window),
            lambda dy, y, norm=norm, x=signs: lp_back(dy, x, y, norm, **window),
            1e-5,
            1e-5,
        )


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_global_pools(ndim):
    x = array((2, 3, 4, 5), np.dtype(np.float32), kind="gaps")
    axes = tuple(range(-ndim, 0))
    same_values(reference.global_max_pool(x, ndim), x.max(axes, keepdims=True))
    rounded_once(
        reference.global_avg_pool(x, ndim),
        x.mean(axes, float, keepdims=True),
        10,
        60,
    )
    last = {"data_format": "channels_last"}
    axes = tuple(range(-1 - ndim, -1))
    same_values(reference.global_max_pool(x, ndim, **last), x.max(axes, keepdims=True))
    same_values(reference.global_max_pool(x), reference.global_max_pool(x, 2))
    if ndim < 3:
        assert reference.global_avg_pool(x[:0], ndim, **last).shape == (0, *x[:0].max(axes, keepdims=True).shape[1:])


def line(name, x, *args, **window):
    """The result over one axis, which is also that over the last of 2 and of 3."""
    x = np.asarray(x)
    y = of_rank(name, 1)(x, *args, **window)
    for axes in (1, 2):  # before it, with windows of one element
        wider = dict(window)
        for key, one in (("kernel_size", 1), ("stride", 1), ("dilation", 1), ("padding", 0)):
            if key in window and not isinstance(window[key], str):
                value = window[key]
                wider[key] = [*[one] * axes, *(value if isinstance(value, list) else [value])]
        ones = (1,) * axes
        same_values(of_rank(name, 1 + axes)(x.reshape(ones + x.shape), *args, **wider), y.reshape(ones + y.shape))
    return y.tolist()


def test_the_last_window_in_ceil_mode():
    x, ragged = [1.0, 2, 3, 4, 5], {"kernel_size": 2, "ceil_mode": True}
    assert line("max_poolNd", x, **ragged) == [2, 4, 5]
    assert line("avg_poolNd", x, **ragged) == [1.5, 3.5, 5]  # what overhangs counts in no divisor
    assert line("lp_poolNd", x, 1, **ragged) == [3, 7, 5]
    # It would start in the padding after the data, and is dropped.
    assert line("max_poolNd", [1.0, 2, 3], kernel_size=2, padding=1, ceil_mode=True) == [1, 3]
    # The last starts on the last element: it has a place on it, one on padding, and one that overhangs.
    window = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}
    assert line("avg_poolNd", [3.0, 6, 9, 12], **window) == [3, 9, 6]
    assert line("avg_poolNd", [3.0, 6, 9, 12], **window, count_include_pad=False) == [4.5, 9, 12]
    assert line("avg_poolNd", [3.0, 6, 9, 12], **window, divisor_override=6) == [1.5, 4.5, 2]


@pytest.mark.parametrize(
    ("length", "window", "expected"),
    [
        # The odd one of the padding is at the end, or with same_lower at the start.
        (4, {"kernel_size": 2, "stride": 1, "padding": "same"}, [3, 5, 7, 4]),
        (4, {"kernel_size": 2, "stride": 1, "padding": "same_lower"}, [1, 3, 5, 7]),
        (5, {"kernel_size": 3, "stride": 2, "padding": "same"}, [3, 9, 9]),
        (4, {"kernel_size": 3, "stride": 2, "padding": "same"}, [6, 7]),
        (4, {"kernel_size": 3, "stride": 2, "padding": "same_lower"}, [3, 9]),
        # Places are three apart: one element of padding before, two after.
        (5, {"kernel_size": 2, "stride": 1, "padding": "same", "dilation": 3}, [3, 5, 7, 3, 4]),
        (5, {"kernel_size": 2, "stride": 1, "padding": "same_lower", "dilation": 3}, [2, 3, 5, 7, 3]),
        (5, {"kernel_size": 2, "stride": 2, "padding": "same", "dilation": 3}, [3, 7, 4]),
        (4, {"kernel_size": 1, "stride": 3, "padding": "same"}, [1, 4]),
        (4, {"kernel_size": 2, "stride": 1, "padding": [(1, 0)]}, [1, 3, 5, 7]),
        (4, {"kernel_size": 2, "stride": 1, "padding": [(0, 1)]}, [3, 5, 7, 4]),
        # Larger than the input, but not than the padded input.
        (2, {"kernel_size": 4, "stride": 1, "padding": 1}, [3]),
        (2, {"kernel_size": 4, "stride": 1, "padding": [(3, 1)]}, [1, 3, 3]),
    ],
    ids=str,
)
def test_padding(length, window, expected):
    x = np.arange(1.0, length + 1)
    assert line("lp_poolNd", x, 1, **window) == expected


@pytest.mark.parametrize("name", ["max_poolNd", "avg_poolNd", "lp_poolNd"])
def test_windows_of_padding_alone(name):
    norm = (2,) if name.startswith("lp") else ()
    for ndim in (1, 2, 3):
        x = np.ones((2,) * ndim)
        for axis in range(ndim):
            window = {key: [1] * ndim for key in ("kernel_size", "stride", "dilation")}
            window["padding"] = [0] * ndim
            for key, value in {"kernel_size": 2, "dilation": 4, "padding": 4}.items():
                window[key][axis] = value
            with pytest.raises(ValueError, match=f"padding.* on spatial axis {axis} that covers no element"):
                of_rank(name, ndim)(x, *norm, **window)


def test_infinities_and_nan():
    nan, inf = np.nan, np.inf
    x = [inf, inf, -inf, 1, nan, 1]
    for name, args, expected in (
        ("max_poolNd", (), [inf, inf, 1, nan, nan]),
        ("avg_poolNd", (), [inf, nan, -inf, nan, nan]),
        ("lp_poolNd", (2,), [inf, inf, inf, nan, nan]),
        ("lp_poolNd", (1,), [inf, inf, inf, nan, nan]),
    ):
        np.testing.assert_equal(line(name, x, *args, kernel_size=2, stride=1), expected)
    # abs(x) / y of infinities is NaN; to the power of 0 it is 1.
    y = reference.lp_pool1d([3.0, inf, nan], 2, 1)
    same_values(reference.lp_pool1d_backward([1.0] * 3, [3.0, inf, nan], y, 2, 1), np.array([1, nan, nan]))
    y = reference.lp_pool1d([3.0, inf, -inf], 1, 3)
    same_values(reference.lp_pool1d_backward([2.0], [3.0, inf, -inf], y, 1, 3), np.array([2.0, 2, -2]))


def test_norms():
    assert line("lp_poolNd", [-3.0, 4, 0, 0], 2, kernel_size=2) == [5, 0]
    assert line("lp_poolNd", [-3.0, 4, 0, 1], 1, kernel_size=2) == [7, 1]
    np.testing.assert_allclose(line("lp_poolNd", [-3.0, 4, 5, 1], 3, kernel_size=4), [217 ** (1 / 3)], rtol=1e-15)
    same_values(reference.lp_pool1d(np.array([3, 4], np.int8), 2, 2), np.array([5.0]))
    zero = np.zeros(2)
    for norm in (0.5, 1, 2, 3):
        same_values(reference.lp_pool1d_backward([7.0], zero, [0.0], norm, 2), zero)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_sums_of_halves(dtype):
    # One by one in their own dtype they would stay at 2048, those of bfloat16 at 256.
    ones = np.ones((70, 70), dtype)
    same(reference.avg_pool2d(ones, 70), np.ones((1, 1), dtype))
    same(reference.adaptive_avg_pool2d(ones, 1), np.ones((1, 1), dtype))
    same(reference.lp_pool2d(ones, 2, 64), np.full((1, 1), 64, dtype))
    count, pad = 2100, {"stride": 1, "padding": 2099}  # every window has the one element
    total = np.full(1, count, dtype)
    same(reference.fold(np.ones((count, count), dtype), 1, (count,), **pad), total[None])
    dy, argmax = np.ones(count, dtype), np.arange(count)[::-1]
    same(reference.max_pool1d_backward(dy, argmax, (1,), count, **pad), total)
    same(reference.adaptive_max_pool1d_backward(dy, 0 * argmax, (1,)), total)
    same(reference.avg_pool1d_backward(dy, (1,), count, **pad, divisor_override=1), total)
    same(reference.adaptive_avg_pool1d_backward(dy, (1,)), total)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_layouts_of_halves(dtype):
    x = array((3, 6, 7), dtype)
    y, argmax = reference.max_pool2d(x, 2, return_argmax=True)
    average, columns = reference.avg_pool2d(x, 2), reference.unfold(x[None], 2)
    layouts = [*LAYOUTS, "read-only"] + (["big-endian"] if dtype.kind == "f" else [])
    for given_x, given_y in ((laid_out(x, layout), laid_out(y, layout)) for layout in layouts):
        same(reference.max_pool2d(given_x, 2), y)
        same(reference.avg_pool2d(given_x, 2), average)
        same(reference.unfold(given_x[None], 2), columns)
        dx = reference.max_pool2d_backward(given_y, argmax, x.shape, 2)
        same(dx, reference.max_pool2d_backward(y, argmax, x.shape, 2))


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz", "int1", "uint1", "int4"])
def test_other_dtypes_of_ml_dtypes(name):
    # Some have the character of float16, bfloat16 or unsigned long.
    x = np.zeros((1, 1, 2, 2), getattr(pytest.importorskip("ml_dtypes"), name))
    for function in (reference.max_pool1d, reference.avg_pool3d, reference.im2col):
        with pytest.raises(TypeError, match=rf"^x .*{name}"):
            function(x, 1)
    with pytest.raises(TypeError, match=rf"^indices .*{name}"):
        reference.max_unpool2d(np.zeros(x.shape), x, 2)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_pooling_of_halves(dtype):
    x = array((2, 3, 5, 7), dtype, kind="gaps")
    layer, wider = reference.Pooling(2), reference.Pooling(2)
    y = layer(x)
    same(y, wider(x.astype(np.float32)).astype(dtype))
    same_values(layer.max_index, wider.max_index)
    same(layer.backward(y), wider.backward(y.astype(np.float32)).astype(dtype))


def test_overflow_of_float16():
    x = np.full((2, 2), 60000, np.float16)
    same_values(reference.avg_pool2d(x, 2), np.array([[60000]], np.float16))
    same_values(reference.avg_pool2d(x, 2, divisor_override=1), np.array([[np.inf]], np.float16))
    same_values(reference.lp_pool2d(x / 256, 2, 2), np.array([[468.75]], np.float16))
    same_values(reference.lp_pool2d(x, 2, 2), np.array([[np.inf]], np.float16))
    assert reference.avg_pool2d_backward(x, (3, 3), 2, 1)[1, 1] == 60000


def test_averages_of_integers():
    same_values(reference.avg_pool1d(np.array([255, 254], np.uint8), 2), np.array([254.5]))
    same_values(reference.adaptive_avg_pool3d(np.full((2, 2, 2), 2**62), 1), np.full((1, 1, 1), 2.0**62))
    same_values(reference.avg_pool1d([True, False], 2), np.array([0.5]))


@pytest.mark.parametrize("shape", [(0,), (2, 0)], ids=str)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_an_empty_batch(ndim, shape):
    x, empty = np.empty((*shape, *(4,) * ndim)), np.empty((*shape, *(2,) * ndim))
    y, argmax = of_rank("max_poolNd", ndim)(x, 2, return_argmax=True)
    same_values(y, empty)
    same_values(of_rank("max_poolNd_backward", ndim)(y, argmax, x.shape, 2), x)
    same_values(of_rank("max_unpoolNd", ndim)(y, argmax, 2), x)
    same_values(of_rank("avg_poolNd", ndim)(x, 2), empty)
    same_values(of_rank("avg_poolNd_backward", ndim)(y, x.shape, 2), x)
    same_values(of_rank("lp_poolNd", ndim)(x, 2, 2), empty)
    same_values(of_rank("lp_poolNd_backward", ndim)(y, x, y, 2, 2), x)
    same_values(of_rank("adaptive_avg_poolNd", ndim)(x, 2), empty)
    same_values(of_rank("adaptive_avg_poolNd_backward", ndim)(y, x.shape), x)
    y, argmax = of_rank("adaptive_max_poolNd", ndim)(x, 2, return_argmax=True)
    same_values(y, empty)
    same_values(of_rank("adaptive_max_poolNd_backward", ndim)(y, argmax, x.shape), x)
    assert reference.global_max_pool(x, ndim).shape == (*shape, *(1,) * ndim)


X = np.arange(1.0, 2 * 3 * 4 * 5 * 6 + 1).reshape(2, 3, 4, 5, 6)
NOT_INTS = [True, 2.5, np.float32(2), float("nan"), 1e38, "a", 2j, {2}]
OUT_OF_RANGE = [0, -1, 2**63, 2**80, (), (2,) * 4, (2, 2, 0), ((2, 2), 2)]


def right(name, ndim):
    """The arguments of a call that is right, and the shape of its result."""
    leading, spatial = X.shape[:-ndim], X.shape[-ndim:]
    pooled, adapted = (*leading, *(n // 2 for n in spatial)), (*leading, *(2,) * ndim)
    shape = adapted if name.startswith("adaptive") else pooled
    arguments = {"dy": np.ones(shape), "argmax": np.zeros(shape, np.uint8), "input_shape": X.shape}
    arguments |= {"x": X, "y": np.ones(shape), "indices": np.zeros(shape, int), "norm_type": 2}
    arguments |= {"kernel_size": 2, "output_size": 2, "spatial_ndim": ndim}
    takes = [key for key, p in inspect.signature(of_rank(name, ndim)).parameters.items() if p.default is p.empty]
    takes += ["spatial_ndim"] if "_to_" in name else []
    if name == "max_unpoolNd":
        result = (*leading, *(n // 2 * 2 for n in spatial))
    else:
        result = X.shape if name.endswith("backward") else shape
    return {key: arguments[key] for key in takes}, result


def refuses(name, ndim, error, message, **changes):
    """The call with these changes raises this error, and leaves a given `out` as it was."""
    arguments, shape = right(name, ndim)
    out = sentinel(shape, float)
    arguments |= {} if "_to_" in name else {"out": out}
    with pytest.raises(error, match=message) as caught:
        of_rank(name, ndim)(**{**arguments, **changes})
    assert caught.type is error
    same_values(out, sentinel(shape, float))


POOLS = [f"{name}_poolNd{back}" for name in ("max", "avg", "lp") for back in ("", "_backward")]
ADAPTIVE = [f"adaptive_{name}_poolNd{back}" for name in ("max", "avg") for back in ("", "_backward")]
CONVERSIONS = ["argmax_to_indices", "indices_to_argmax"]
each_rank = pytest.mark.parametrize("ndim", [1, 2, 3])


@each_rank
@pytest.mark.parametrize("name", [*POOLS, *ADAPTIVE, "max_unpoolNd"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_out(name, ndim, layout):
    arguments, shape = right(name, ndim)
    expected = of_rank(name, ndim)(**arguments)
    out = sentinel(shape, expected.dtype, layout)
    around = surroundings(out)
    arguments = {key: laid_out(v, layout) if isinstance(v, np.ndarray) else v for key, v in arguments.items()}
    assert of_rank(name, ndim)(**arguments, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert surroundings(out) == around


@each_rank
@pytest.mark.parametrize("name", [*POOLS, *ADAPTIVE, "max_unpoolNd"])
def test_outs_that_are_refused(name, ndim):
    arguments, shape = right(name, ndim)
    given = next(v for v in arguments.values() if isinstance(v, np.ndarray))
    memory = np.empty(given.size + np.prod(shape) - 1)
    memory[: given.size] = given.ravel()
    shared = {next(iter(arguments)): memory[: given.size].reshape(given.shape)}
    refuses(name, ndim, ValueError, "memory", **shared, out=memory[given.size - 1 :].reshape(shape))
    read_only = np.empty(shape)
    read_only.flags.writeable = False
    refuses(name, ndim, ValueError, "out is read-only", out=read_only)
    refuses(name, ndim, ValueError, "^out .*shape", out=np.empty(shape[1:]))
    refuses(name, ndim, ValueError, "^out .*dtype", out=np.empty(shape, np.float16))
    refuses(name, ndim, TypeError, "^out ", out=np.empty(shape).tolist())


@each_rank
@pytest.mark.parametrize("name", [*POOLS, *CONVERSIONS, "max_unpoolNd"])
def test_sizes(name, ndim):
    for key in ("kernel_size", "stride", "dilation"):
        if key in inspect.signature(of_rank(name, ndim)).parameters:
            for value in [*NOT_INTS, (2, None, 2)]:
                refuses(name, ndim, TypeError, key, **{key: value})
            for value in OUT_OF_RANGE:
                refuses(name, ndim, ValueError, key, **{key: value})
    for value in (-1, 2, 2**31, 2**80, (), (0,) * 4, ((0, 2),) * ndim, ((0, 0, 0),) * ndim, "full"):
        refuses(name, ndim, ValueError, "padding", padding=value)
    for value in (True, 0.5, float("nan"), 1e38, None):
        refuses(name, ndim, TypeError, "padding", padding=value)
    if name != "max_unpoolNd":
        refuses(name, ndim, ValueError, "kernel_size.*larger than", kernel_size=2**31)


@each_rank
def test_output_sizes(ndim):
    for name in ("adaptive_max_poolNd", "adaptive_avg_poolNd"):
        for value in NOT_INTS:
            refuses(name, ndim, TypeError, "output_size", output_size=value)
        for value in [*OUT_OF_RANGE, 2**61]:
            refuses(name, ndim, ValueError, "output_size", output_size=value)
        refuses(name, ndim, ValueError, "^out .*shape", output_size=2**31)
        kept = of_rank(name, ndim)(X, (None,) * ndim)
        same_values(kept, X)
        same_values(of_rank(name, ndim)(X, None), X)
    for value in NOT_INTS:
        refuses("max_unpoolNd", ndim, TypeError, "output_size", output_size=value)
    for value in [*OUT_OF_RANGE, 2**31, (7, *X.shape[1:])]:
        refuses("max_unpoolNd", ndim, ValueError, "output_size", output_size=value)
    for value in ("same", "same_lower"):
        refuses("max_unpoolNd", ndim, ValueError, f"^padding .*{value}", padding=value)
    one = np.ones((1,) * ndim)
    with pytest.raises(ValueError, match=r"^padding .*output_size"):  # where there is no smallest size
        of_rank("max_unpoolNd", ndim)(one, one.astype(int) - 1, 2, 2, 1)


@each_rank
def test_norms_that_are_refused(ndim):
    for name in ("lp_poolNd", "lp_poolNd_backward"):
        for value in (0, -1, -0.5, np.inf, -np.inf, np.nan, 10**400):
            refuses(name, ndim, ValueError, "^norm_type", norm_type=value)
        for value in (True, "2", None, 2j, (2,), [2]):
            refuses(name, ndim, TypeError, "^norm_type", norm_type=value)


@each_rank
def test_arrays_that_are_refused(ndim):
    names = [*POOLS, *ADAPTIVE, *CONVERSIONS, "max_unpoolNd"]
    for name in names:
        arguments, _ = right(name, ndim)
        for key in [key for key in arguments if isinstance(arguments[key], np.ndarray)]:
            value = arguments[key]
            refuses(name, ndim, TypeError, f"^{key} .*complex", **{key: value.astype(complex)})
            refuses(name, ndim, ValueError, f"^{key}|shape", **{key: value[..., :0]})
            refuses(name, ndim, ValueError, f"^{key}", **{key: np.ones((), value.dtype)})
            if key != "x":
                refuses(name, ndim, ValueError, "shape", **{key: value[:1]})
            if key in ("argmax", "indices"):
                refuses(name, ndim, TypeError, f"^{key} .*float", **{key: value.astype(float)})
                for wrong in (-1, 100000):
                    bad = value.astype(int)
                    bad[(-1,) * bad.ndim] = wrong
                    refuses(name, ndim, ValueError, f"^{key} .*outside", **{key: bad})
        if "input_shape" in arguments:
            for value in (None, 4, (2, 3, 4, 5, 6.0), (2, 3, 4, 5, True)):
                refuses(name, ndim, TypeError, "input_shape", input_shape=value)
            for value in ((), (2, 3, 4, 5, -6), (2, 3, 4, 5, 0)):
                refuses(name, ndim, ValueError, "input_shape", input_shape=value)
            refuses(name, ndim, ValueError, "shape", input_shape=(7, *X.shape[1:]))
        if "data_format" in inspect.signature(of_rank(name, ndim)).parameters:
            refuses(name, ndim, ValueError, "data_format", data_format="NCHW")
            refuses(name, ndim, TypeError, "data_format", data_format=1)


def test_positions_that_no_window_has():
    # Of the windows (0, 1), (1, 2) the largest has two elements; of (0), (0, 1), (1) some have one.
    with pytest.raises(ValueError, match=r"argmax .*outside"):
        reference.adaptive_max_pool1d_backward([1.0, 1, 1], [1, 0, 0], (2,))
    same_values(reference.adaptive_max_pool1d_backward([1.0, 1, 1], [0, 1, 0], (2,)), np.array([1.0, 2]))
    window = {"kernel_size": 2, "stride": 2, "padding": 1, "spatial_ndim": 1}
    same_values(reference.argmax_to_indices([1, 0], (3,), **window), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"argmax .*outside"):  # on padding
        reference.argmax_to_indices([0, 0], (3,), **window)
    for indices in ([0, 0], [1, 1]):
        with pytest.raises(ValueError, match=r"indices .*outside of its window"):
            reference.indices_to_argmax(indices, (3,), **window)
    with pytest.raises(ValueError, match=r"indices .*outside of its window"):  # between its places
        reference.indices_to_argmax([1], (3,), 2, dilation=2, spatial_ndim=1)


def test_numbers_of_axes_that_are_refused():
    for function in (reference.global_max_pool, reference.global_avg_pool):
        for value in (0, 4, 2**80, True, 2.0, float("nan")):
            error = ValueError if type(value) is int else TypeError
            with pytest.raises(error, match=r"^spatial_ndim"):
                function(X, value)
    for shape in ((3, 4), (1,) * 6):
        with pytest.raises(ValueError, match=r"^x must have 3 to 5 axes"):
            reference.unfold(np.ones(shape), 1)
    with pytest.raises(ValueError, match=r"^kernel_size must be an int or 1 to 3"):
        reference.fold(np.ones((1, 1)), 1, (1,) * 4)


def test_argmax_or_indices():
    for name in ("max_poolNd", "adaptive_max_poolNd"):
        refuses(name, 3, ValueError, "return_argmax.*return_indices", return_argmax=True, return_indices=True)
        for flag in ("return_argmax", "return_indices"):
            refuses(name, 3, TypeError, flag, **{flag: 1})


@pytest.mark.parametrize("name", [name for name in reference.__all__ if name[-2:-1].isdigit() or "d_" in name])
def test_what_a_function_of_one_rank_says_of_itself(name):
    function = getattr(reference, name)
    assert function.__name__ == name
    assert function.__module__ == "fastpool.reference"
    assert f"fastpool.{name}" in function.__doc__
    if inspect.isfunction(function):
        assert pickle.loads(pickle.dumps(function)) is function
        signature = inspect.signature(function)
        assert "ndim" not in signature.parameters
        assert set(function.__annotations__) == {*signature.parameters, "return"}
