"""What the tests share: dtypes, and what it means to be the same."""

import inspect
from contextlib import contextmanager

import numba
import numpy as np
import pytest
from hypothesis import strategies as st

import fastpool
from fastpool import reference
from fastpool.testing.arrays import LAYOUTS

FLOATS = [np.float32, np.float64]
INTEGERS = [f"{sign}{size}" for sign in "iu" for size in (1, 2, 4, 8)]
NUMBERS = [np.dtype(dtype) for dtype in (*INTEGERS, *FLOATS)]
DTYPES = [np.dtype("?"), *NUMBERS]
#: A dtype of each size, of all kinds: they have every kernel, others that of small windows, for it is in nothing but
#: comparisons that dtypes of one size differ, and these have tests of their own for every dtype.
SIZES = [np.dtype(dtype) for dtype in ("u1", "i2", "f4", "f8")]


def identical(actual, expected):
    """Whether arrays are equal in shape, dtype and every byte: most are, and NumPy's assertions take much longer."""
    return (
        type(actual) is type(expected) is np.ndarray
        and actual.shape == expected.shape
        and actual.dtype == expected.dtype
        and actual.tobytes() == expected.tobytes()
    )


def same_values(actual, expected):
    """Equal in shape, dtype and values; any NaN is NaN, and zeros of either sign are equal."""
    if not identical(actual, expected):
        np.testing.assert_array_equal(actual, expected, strict=True)


def same_bits(actual, expected):
    """Equal in shape, dtype and every bit; only what a NaN carries is free."""
    if identical(actual, expected):
        return
    same_values(actual, expected)
    if actual.dtype.kind == "f":
        number = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(actual)[number], np.signbit(expected)[number])


def near(actual, expected, magnitude, terms):
    """Equal in shape, NaN and infinities, and elsewhere as near as sums of `terms` numbers come in any order.

    `magnitude` is what the sums of the numbers' magnitudes are. Of a tree of terms - 1 additions each rounds
    by at most half an eps of that; four more roundings are a quotient on either side and an inverse to multiply by.
    """
    assert actual.shape == expected.shape
    number = np.isfinite(expected)
    same_values(actual[~number].astype(float), expected[~number].astype(actual.dtype).astype(float))
    half = actual.dtype.itemsize == 2
    eps = np.finfo(np.float32 if half else actual.dtype).eps
    bound = np.broadcast_to(eps / 2 * (terms + 3) * magnitude, number.shape)[number]
    actual, expected = actual[number], expected[number]
    if half:  # what is near is rounded once more
        low, high = ((expected + error).astype(actual.dtype).astype(float) for error in (-bound, bound))
        assert ((low <= actual.astype(float)) & (actual.astype(float) <= high)).all()
        return
    error = abs(actual - expected)
    assert (error <= bound).all(), f"{np.max(error - bound)} beyond the bound"


@contextmanager
def on_threads(most):
    """Run on so many threads, or as many as there may be."""
    before = numba.get_num_threads()
    numba.set_num_threads(min(most, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)


def compare_pools(x, kernel_size, *parameters, count_include_pad=True):
    """Compare the maxima, their positions and the averages with those of the reference."""
    parameters = (kernel_size, *parameters)
    maxima, averages = (f"{name}_pool{len(kernel_size)}d" for name in ("max", "avg"))
    expected, positions = getattr(reference, maxima)(x, *parameters, return_argmax=True)
    y, argmax = getattr(fastpool, maxima)(x, *parameters, return_argmax=True)
    same_values(y, expected)
    same_values(argmax, positions)
    same_values(getattr(fastpool, maxima)(x, *parameters), expected)
    average = getattr(reference, averages)
    with np.errstate(invalid="ignore"):  # infinities of both signs add up to NaN
        y = getattr(fastpool, averages)(x, *parameters, count_include_pad=count_include_pad)
        expected, magnitude = average(and_magnitude(x), *parameters, count_include_pad=count_include_pad)
    near(y, expected, magnitude, terms(y.dtype, kernel_size))


def drawn_paddings(data, kernel_size, dilation):
    """Draw a padding before and after each axis, as much as may be."""
    reach = [(k - 1) * step for k, step in zip(kernel_size, dilation)]
    return tuple((data.draw(st.integers(0, r)), data.draw(st.integers(0, r))) for r in reach)


def widths(implementation, first):
    """Return lengths of rows from `first` to 130: all for kernels; some for the reference, which has no vectors."""
    return range(first, 131, 9 if implementation is reference else 1)


def planes(shape, turn):
    """Five planes: numbers; ties; nothing but -inf; infinities among ties; NaN and infinities among numbers.

    From turn to turn the special values go on by an element.
    """
    rng = np.random.default_rng(turn)
    numbers, ties = rng.standard_normal(shape), rng.integers(0, 3, shape)
    at = (np.arange(np.prod(shape)).reshape(shape) + turn) % 23
    infinite = np.select([at == 0, at < 12], [np.inf, -np.inf], ties)
    gaps = np.select([at == 0, at == 1, at == 9], [np.nan, -np.inf, np.inf], numbers)
    return np.stack([numbers, ties, np.full(shape, -np.inf), infinite, gaps]).astype(np.float32)


def and_magnitude(x):
    """Return x in float64, and beside it its magnitude: what the `expected` and `magnitude` of `near` come from."""
    x = x.astype(float)
    return np.stack([x, abs(x)])


def terms(dtype, kernel_size):
    """Return the `terms` by which averages of fastpool and of the reference in float64 differ.

    Kernels add a window's rows up and then across; the reference, exact for all but float64, its places.
    """
    *others, columns = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    rows = int(np.prod(others))
    return rows + columns + (rows * columns if dtype == np.float64 else 0)


def sentinel(shape, dtype, layout="contiguous"):
    """Return an array to write a result to that is full of 77."""
    out = LAYOUTS[layout](shape, np.dtype(dtype))
    out[...] = 77
    return out


def surroundings(out):
    """Return a copy of all memory that `out` is a view of, with `out` itself blanked."""
    base = out
    while isinstance(base.base, np.ndarray):
        base = base.base
    copy = out.copy()
    out[...] = 0
    around = base.tobytes()
    out[...] = copy
    return around


def call(module, name, arguments):
    """Return what a function returns, or a layer's forward and backward in one array."""
    function = getattr(module, name)
    with np.errstate(all="ignore"):  # powers overflow
        if not inspect.isclass(function):
            return function(**arguments)
        layer = function(**{key: value for key, value in arguments.items() if key not in ("x", "dy")})
        return np.concatenate([layer.forward(arguments["x"]), layer.backward(arguments["dy"])], axis=None)


def memory(arguments):
    """Return the bytes of the arrays, and of those that they are parts of."""
    arrays = [value for value in arguments.values() if type(value) is np.ndarray]
    return [np.asarray(a if a.base is None else a.base).tobytes() for a in arrays if a.dtype != object]


def outcome(module, name, arguments):
    """Return the result; or the type and message of the error, before which nothing was written."""
    before = memory(arguments)
    try:
        return call(module, name, arguments)
    except Exception as error:
        assert memory(arguments) == before
        return type(error), str(error)


def raised(result):
    """Whether what `outcome` returned is an error."""
    return type(result) is tuple and type(result[0]) is type


def same_result(found, expected):
    """`same_values` of what `outcome` returned: an array, two, or an error."""
    if type(expected) is tuple:
        assert type(found) is tuple
        for one, other in zip(found, expected, strict=True):
            same_result(one, other)
    elif isinstance(expected, np.ndarray):
        same_values(found, expected)
    else:
        assert found == expected


def few_numbers(data, shape):
    """Draw an array in which many are equal, of vectors' dtypes, some of it NaN or an infinity."""
    dtype = np.dtype(data.draw(st.sampled_from(["f4", "f8", "f2", "u1", "i2"])))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = rng.integers(0 if dtype.kind == "u" else -5, 6, shape).astype(dtype)
    if dtype.kind == "f":
        special = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
        x[rng.random(shape) < data.draw(st.sampled_from([0, 0.02, 0.5, 0.9]))] = special
    return x


def dtype_named(name):
    """Return a dtype, or skip: bfloat16 is one of ml_dtypes, which fastpool works without."""
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)
