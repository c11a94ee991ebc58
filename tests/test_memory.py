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

rng = np.random.default_rng(SEED)
for case in range(CASES):
    dtype = rng.choice(["f4", "f8", "u1", "i4"])
    n, c = rng.integers(1, 4, 2)
    height, width = rng.integers(1, 20), rng.integers(1, 100)
    kernel = tuple(int(rng.integers(1, min(size, 6) + 1)) for size in (height, width))
    window = (
        tuple(int(s) for s in rng.integers(1, 6, 2)),
        tuple(tuple(int(p) for p in rng.integers(0, k, 2)) for k in kernel),
        1,
    )
    shape = (int(n), int(c), int(height), int(width))
    x = rng.integers(0, 99, shape).astype(dtype)
    for at_end in (False, True):
        image = flush(x, at_end)
        y, argmax = reference.max_pool2d(x, kernel, *window, True, return_argmax=True)
        out = flush(np.zeros_like(y), at_end)
        fastpool.max_pool2d(image, kernel, *window, True, out=out)
        assert np.array_equal(out, y)
        positions = fastpool.max_pool2d(image, kernel, *window, True, return_argmax=True)[1]
        assert np.array_equal(positions, argmax)
        dy, argmax, dx = flush(y, at_end), flush(argmax, at_end), flush(np.zeros_like(x), at_end)
        fastpool.max_pool2d_backward(dy, argmax, shape, kernel, *window, True, out=dx)
        assert np.array_equal(dx, reference.max_pool2d_backward(y, argmax, shape, kernel, *window, True))
        columns = reference.im2col(x, kernel, None, *window)
        cols = flush(np.zeros_like(columns), at_end)
        fastpool.im2col(image, kernel, None, *window, out=cols)
        assert np.array_equal(cols, columns)
        back = flush(np.zeros(shape, columns.dtype), at_end)
        fastpool.col2im(cols, shape, kernel, None, *window, out=back)
        assert np.array_equal(back, reference.col2im(columns, shape, kernel, None, *window))
    del image, out, dy, argmax, dx, cols, back
    maps.clear()
"""


@pytest.mark.skipif(not hasattr(mmap, "PROT_READ"), reason="needs mprotect")
@pytest.mark.parametrize("seed", range(3))
def test_pages_that_must_not_be_touched(seed):
    run(f"SEED, CASES = {seed}, 60\n{SCRIPT}", timeout=180)
