"""What the tests share: dtypes, memory layouts, and what it means to be the same."""

import numpy as np

FLOATS = [np.float32, np.float64]
INTEGERS = [f"{sign}{size}" for sign in "iu" for size in (1, 2, 4, 8)]
NUMBERS = [np.dtype(dtype) for dtype in (*INTEGERS, *FLOATS)]
DTYPES = [np.dtype("?"), *NUMBERS]


def same_values(actual, expected):
    """Equal in shape, dtype and values; any NaN is NaN, and zeros of either sign are equal."""
    np.testing.assert_array_equal(actual, expected, strict=True)


def same_bits(actual, expected):
    """Equal in shape, dtype and every bit; only what a NaN carries is free."""
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


def specials(dtype):
    """The values of a dtype that arithmetic and comparisons go wrong on."""
    dtype = np.dtype(dtype)
    if dtype.kind == "V":  # bfloat16
        return np.array([np.nan, -np.inf, np.inf, -0.0, 0.0, 1, -3.39e38, 3.39e38, 1e-40, -1.2e-38], dtype)
    if dtype.kind == "f":
        info = np.finfo(dtype)
        ends = [info.min, info.max, info.smallest_subnormal, -info.smallest_normal]
        return np.array([np.nan, -np.inf, np.inf, -0.0, 0.0, 1, *ends], dtype)
    if dtype.kind == "b":
        return np.array([False, True])
    return np.array([np.iinfo(dtype).min, 0, 1, np.iinfo(dtype).max], dtype)


def random_array(shape, dtype, seed=0, kind="random"):
    """Values over the whole dtype; or few values ("ties"); or `specials`; or nothing but the lowest value.

    "gaps" are values among which some floats are NaN or infinite, and no sum overflows.
    """
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if kind == "gaps" and dtype.kind in "fV":
        gaps = rng.choice(np.array([np.nan, np.inf, -np.inf], dtype), shape)
        return np.where(rng.random(shape) < 0.04, gaps, random_array(shape, dtype, seed))
    if kind == "specials":
        return rng.choice(specials(dtype), shape)
    if kind == "ties" or dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if kind == "lowest":
        return np.full(shape, -np.inf if dtype.kind in "fV" else np.iinfo(dtype).min, dtype)
    if dtype.kind in "fV":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def _view(shape, dtype, margin, index):
    """Return the part `index` of a larger array; what surrounds it would win every maximum and spoil every sum."""
    fill = np.nan if dtype.kind in "fV" else True if dtype.kind == "b" else np.iinfo(dtype).max
    return np.full(margin(np.array(shape, int)), fill, dtype)[(index,) * len(shape)]


def _amid(shape, dtype):
    return _view((int(np.prod(shape)),), dtype, lambda n: n + 500, slice(200, -300)).reshape(shape)


def _unaligned(shape, dtype):
    return np.ndarray(shape, dtype, bytearray(int(np.prod(shape)) * dtype.itemsize + 1), offset=1)


def _channels_last(shape, dtype):
    channel = max(0, len(shape) - 3)
    in_memory = shape[:channel] + shape[channel + 1 :] + shape[channel : channel + 1]
    return np.moveaxis(np.empty(in_memory, dtype), -1, channel)


class Subclass(np.ndarray):
    pass


#: Ways that an array of a shape and dtype can lie in memory, each as a function that makes an empty one.
LAYOUTS = {
    "contiguous": np.empty,
    "fortran": lambda shape, dtype: np.empty(shape, dtype, order="F"),
    "channels last": _channels_last,
    "reversed": lambda shape, dtype: np.flip(np.empty(shape, dtype)),
    "every second": lambda shape, dtype: _view(shape, dtype, lambda n: 2 * n + 1, slice(1, None, 2)),
    "cropped": lambda shape, dtype: _view(shape, dtype, lambda n: n + 5, slice(2, -3)),
    "amid others": _amid,
    "unaligned": _unaligned,
    "subclass": lambda shape, dtype: np.empty(shape, dtype).view(Subclass),
}


def laid_out(x, layout):
    """Return a copy of `x` that lies in memory as `layout` says."""
    if layout == "big-endian":
        return x.astype(x.dtype.newbyteorder(">"))
    if layout == "read-only":
        copy = x.copy()
        copy.flags.writeable = False
        return copy
    copy = LAYOUTS[layout](x.shape, x.dtype)
    copy[...] = x
    return copy


INPUT_LAYOUTS = [*LAYOUTS, "big-endian", "read-only"]


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
