"""Nothing is read or written outside of the arrays: they lie flush against pages that must not be touched."""

import mmap

import pytest
from jobs import run

SCRIPT = """
import ctypes, mmap

libc = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
maps = []

def flush(array, at_end):
    '''A copy of the array that begins or ends where memory that may be touched begins or ends.'''
    pages = -(-array.nbytes // PAGE)
    block = mmap.mmap(-1, (pages + 2) * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    start = PAGE + (pages * PAGE - array.nbytes if at_end else 0)
    copy = np.frombuffer(block, array.dtype, array.size, start).reshape(array.shape)
    copy[...] = array
    for guard in (address, address + (pages + 1) * PAGE):
        assert libc.mprotect(ctypes.c_void_p(guard), PAGE, 0) == 0, ctypes.get_errno()
    maps.append(block)
    return copy

def check(name, *arguments, **window):
    '''The function gives what its reference gives, from flush arrays to a flush one.'''
    fast, expected = getattr(fastpool, name), getattr(reference, name)(*arguments, **window)
    for at_end in (False, True):
        given = [flush(a, at_end) if isinstance(a, np.ndarray) else a for a in arguments]
        out = flush(np.zeros_like(expected), at_end)
        fast(*given, **window, out=out)
        near = 1e-2 if out.dtype == np.float16 else 1e-5
        rounded = any(word in name for word in ("avg", "lp"))
        if rounded:
            assert np.allclose(out, expected, rtol=near, atol=near)
        else:
            assert np.array_equal(out, expected, equal_nan=True)
        if "max_pool" in name and not name.endswith("backward"):
            positions = getattr(reference, name)(*arguments, **window, return_argmax=True)[1]
            fastpool.plans.empty = lambda shape, dtype: flush(np.zeros(shape, dtype), at_end)
            assert np.array_equal(fast(*given, **window, return_argmax=True)[1], positions)
            fastpool.plans.empty = np.empty
        del given, out
    maps.clear()

def check_any_rank(ndim):
    dtype = rng.choice(["f2", "f4"]) if ndim == 1 else "f4"  # kernels are made of the same for all ranks
    spatial = tuple(int(rng.integers(1, most)) for most in (8, 9, 70)[-ndim:])
    kernel = tuple(int(rng.integers(1, min(size, 4) + 1)) for size in spatial)
    window = {
        "kernel_size": kernel,
        "stride": tuple(int(s) for s in rng.integers(1, 4, ndim)),
        "padding": tuple(tuple(int(p) for p in rng.integers(0, k, 2)) for k in kernel),
        "dilation": tuple(int(rng.integers(1, 3)) if (k - 1) * 2 < size else 1 for k, size in zip(kernel, spatial)),
    }
    if window["stride"][-1] > 2:
        dtype = "f4"  # not to compile all strides for all dtypes
    x = rng.integers(0, 99, (2, 2, *spatial)).astype(dtype)
    check("unfold", x, **window)
    size = spatial if ndim > 1 else list(spatial)
    check("fold", reference.unfold(x, **window), size, **window)
    named = {"data_format": "channels_first"}
    if rng.random() < 0.5:
        named = {"data_format": "channels_last"}
        x = rng.integers(0, 99, (2, *spatial, int(rng.integers(1, 40)))).astype(dtype)
    window |= named
    y, argmax = getattr(reference, f"max_pool{ndim}d")(x, **window, return_argmax=True)
    check(f"max_pool{ndim}d", x, **window)
    check(f"max_pool{ndim}d_backward", y, argmax, x.shape, **window)
    check(f"avg_pool{ndim}d", x, **window)
    check(f"avg_pool{ndim}d_backward", y, x.shape, **window)
    norm = int(rng.integers(1, 4))
    check(f"lp_pool{ndim}d", x, norm, **window)
    pooled = getattr(reference, f"lp_pool{ndim}d")(x, norm, **window)
    check(f"lp_pool{ndim}d_backward", y, x, pooled, norm, **window)
    output = tuple(int(n) for n in rng.integers(1, 12, ndim))
    y, argmax = getattr(reference, f"adaptive_max_pool{ndim}d")(x, output, **named, return_argmax=True)
    check(f"adaptive_max_pool{ndim}d", x, output, **named)
    check(f"adaptive_max_pool{ndim}d_backward", y, argmax, x.shape, **named)
    check(f"adaptive_avg_pool{ndim}d", x, output, **named)
    check(f"adaptive_avg_pool{ndim}d_backward", y, x.shape, **named)
    one = rng.integers(0, 99, (2, 2, *[1] * ndim)).astype(dtype)
    check(f"adaptive_max_pool{ndim}d", one, output)
    check(f"adaptive_avg_pool{ndim}d", one, output)
    x = rng.integers(0, 99, (2, 2, *(2 * n for n in spatial))).astype(dtype)
    y, indices = getattr(reference, f"max_pool{ndim}d")(x, 2, return_indices=True)
    check(f"max_unpool{ndim}d", y, indices, 2)

def outcome(function, *arguments, **others):
    try:
        return function(*arguments, **others)
    except ValueError as error:
        return str(error)

def check_untrusted(name, *arguments, target=None, **others):
    '''Positions of any bytes give what the reference gives, or the same error.'''
    expected = outcome(getattr(reference, name), *arguments, **others)
    for at_end in (False, True):
        given = [flush(a, at_end) if isinstance(a, np.ndarray) else a for a in arguments]
        if target is not None:
            others["out"] = flush(target, at_end)
        actual = outcome(getattr(fastpool, name), *given, **others)
        assert actual == expected if isinstance(expected, str) else np.array_equal(actual, expected)
    maps.clear()
    return not isinstance(expected, str)

def check_all_untrusted():
    ndim = int(rng.integers(1, 4))
    spatial = tuple(int(n) for n in rng.integers(3, 9, ndim))
    x = np.zeros((2, 2, *spatial), np.float32)
    kernel, padding = int(rng.integers(1, 4)), int(rng.integers(0, 2))
    window = kernel, 2, min(padding, kernel - 1)
    y, argmax = getattr(reference, f"max_pool{ndim}d")(x, *window, return_argmax=True)
    dtype = np.dtype(rng.choice(["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"]))
    def read(most):
        return np.frombuffer(rng.bytes(y.size * dtype.itemsize), dtype).reshape(y.shape) % dtype.type(most)
    fine = 0
    # Any bytes, and such as are nearly right.
    for most in (np.iinfo(dtype).max, min(kernel**ndim + (rng.random() < 0.3), 100)):
        places = read(most)
        fine += check_untrusted(f"max_pool{ndim}d_backward", y, places, x.shape, *window, target=x)
        fine += check_untrusted(f"adaptive_max_pool{ndim}d_backward", y, places, x.shape, target=x)
        fine += check_untrusted("argmax_to_indices", places, x.shape, *window, spatial_ndim=ndim)
    for most in (np.iinfo(dtype).max, min(int(np.prod(spatial)) + (rng.random() < 0.3), 100)):
        places = read(most)
        fine += check_untrusted("indices_to_argmax", places, x.shape, *window, spatial_ndim=ndim)
        fine += check_untrusted(f"max_unpool{ndim}d", y, places, 2, 2, 0, x.shape, target=x)
    return fine

rng = np.random.default_rng(0)
if FUNCTIONS == "untrusted":
    assert 0 < sum(check_all_untrusted() for case in range(60)) < 600
    raise SystemExit
if FUNCTIONS == 3:  # the last windows but one reach further than the last ones
    x = rng.integers(0, 99, (2, 3, 14, 14, 2)).astype("f4")
    for name in ("max_pool3d", "avg_pool3d"):
        check(name, x, (3, 3, 1), (3, 3, 1), (3, 3, 0), (2, 2, 1))
if isinstance(FUNCTIONS, int):
    for case in range(12):
        check_any_rank(FUNCTIONS)
    raise SystemExit
if FUNCTIONS == "one apart":
    fastpool.plans.FLATTENED = 0
    for case in range(40):
        x = rng.integers(0, 99, rng.integers(1, (4, 4, 20, 100))).astype(rng.choice(["f4", "f2"]))
        kernel = tuple(int(k) for k in rng.integers(1, 6, 2))
        check("max_pool2d", x, kernel, 1, "same")
        check("avg_pool2d", x, kernel, 1, "same")
    raise SystemExit
if FUNCTIONS == "long rows":
    for case in range(24):
        shape = 2, int(rng.integers(1, 5)), int(rng.integers(500, 1100))
        x = rng.integers(0, 99, shape).astype(np.float32)
        kernel, stride = int(rng.integers(1, 6)), int(rng.integers(1, 4))
        for name in ("max_pool1d", "avg_pool1d"):
            check(name, x, kernel, stride, kernel // 2)
    raise SystemExit
for case in range(100):
    dtype = rng.choice(["f4", "f8", "u1", "i2"])
    n, c = (int(size) for size in rng.integers(1, 4, 2))
    height, width = (int(rng.integers(1, most)) for most in (20, 100))
    kernel = tuple(int(rng.integers(1, min(size, 6) + 1)) for size in (height, width))
    window = {
        "kernel_size": kernel,
        "stride": tuple(int(s) for s in rng.integers(1, 6, 2)),
        "padding": tuple(tuple(int(p) for p in rng.integers(0, k, 2)) for k in kernel),
    }
    if window["stride"][1] > 3:
        dtype = "f4"  # as above
    x = rng.integers(0, 99, (n, c, height, width)).astype(dtype)
    if FUNCTIONS == "im2col":
        check("im2col", x, **window)
        check("col2im", reference.im2col(x, **window), x.shape, **window)
    elif FUNCTIONS == "unfold":
        check("unfold", x, **window)
        check("fold", reference.unfold(x, **window), (height, width), **window)
    else:
        window["ceil_mode"] = True
        if case % 2:
            window["data_format"] = "channels_last"
            x = rng.integers(0, 99, (n, height, width // 9 + kernel[1], rng.integers(1, 70))).astype(dtype)
        if FUNCTIONS == "max_pool2d":
            if dtype in ("f4", "f8") and case % 3 == 0:
                x.flat[int(rng.integers(x.size))] = np.nan
            y, argmax = reference.max_pool2d(x, **window, return_argmax=True)
            check("max_pool2d", x, **window)
            check("max_pool2d_backward", y, argmax, x.shape, **window)
        else:
            window["count_include_pad"] = bool(case // 2 % 2)
            check("avg_pool2d", x, **window)
            check("avg_pool2d_backward", reference.avg_pool2d(x, **window).astype(dtype), x.shape, **window)
"""


@pytest.mark.skipif(not hasattr(mmap, "PROT_READ"), reason="needs mprotect")
@pytest.mark.parametrize(
    "functions", ["im2col", "unfold", "max_pool2d", "avg_pool2d", 1, 2, 3, "one apart", "long rows", "untrusted"]
)
def test_pages_that_must_not_be_touched(functions):
    run(f"FUNCTIONS = {functions!r}\n{SCRIPT}", timeout=500)
