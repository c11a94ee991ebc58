"""The vectors that kernels are written in, operation by operation, against NumPy."""

import mmap
from functools import cache, partial
from typing import NamedTuple

import numba
import numpy as np
import pytest
from helpers import FLOATS, INTEGERS, NUMBERS, same_bits, same_values
from jobs import run

from fastpool.kernels import simd
from fastpool.kernels.parts import KernelCompiler
from fastpool.testing.arrays import specials

#: Compile as kernels are.
njit = partial(numba.njit, no_cfunc_wrapper=True, pipeline_class=KernelCompiler)

every_number = pytest.mark.parametrize("dtype", NUMBERS, ids=str)
every_integer = pytest.mark.parametrize("dtype", [np.dtype(name) for name in INTEGERS], ids=str)

#: Lanes that no vector has; taken modulo a smaller integer they would be some.
FAR = [np.iinfo(np.int64).min, -(2**32), -256, 1 << 16, 1 << 32, np.iinfo(np.int64).max]


def lanes_of(dtype):
    return simd.BYTES // dtype.itemsize


def memory(dtype, size):
    """Specials, then any bits."""
    start = specials(dtype)
    rest = np.random.default_rng(0).bytes((size - len(start)) * dtype.itemsize)
    return np.concatenate([start, np.frombuffer(rest, dtype)])


def same_bytes(actual, expected):
    """What is only moved keeps every bit, those of a NaN too."""
    unsigned = f"u{actual.dtype.itemsize}"
    same_values(actual.view(unsigned), expected.view(unsigned))


def odd_specials(dtype):
    """Specials, and one more where that makes their number odd: repeated, each of them gets to every lane."""
    values = specials(dtype)
    return values if len(values) % 2 else np.append(values, dtype.type(77))


def every_pair(dtype):
    """Two arrays, with every pair of specials in every lane."""
    return [np.tile(grid.ravel(), lanes_of(dtype)) for grid in np.meshgrid(*[odd_specials(dtype)] * 2)]


# ---------------------------------------------------------------- tags


@every_number
def test_tag(dtype):
    @njit
    def ask(array):
        d = simd.tag(array)
        return simd.lanes(d), simd.lanes(simd.widened(d, 3)), simd.scratch(d, 5)

    lanes, three_times, scratch = ask(np.zeros((1, 2), dtype))
    assert (lanes, three_times) == (lanes_of(dtype), 3 * lanes_of(dtype))
    assert (scratch.dtype, scratch.shape) == (dtype, (5,))


def test_several():
    """Some vectors are two or four, as the CPU has registers: of them all."""

    @njit
    def ask(array):
        d = simd.tag(array)
        return simd.lanes(simd.several(d)) // simd.lanes(d), simd.scratch(simd.several(d), 0)

    times, scratch = ask(np.zeros(1, "f4"))
    assert times in (2, 4)
    assert scratch.dtype == np.float32
    assert ask(np.zeros(1, "u1"))[0] == times


@every_number
def test_single(dtype):
    """However many lanes a tag has, one vector has as many as it is known for."""

    @njit
    def ask(array):
        d = simd.tag(array)
        one, of_more, of_fewer = simd.single(d), simd.single(simd.widened(d, 3)), simd.single(simd.narrowed(d, 2))
        return (simd.lanes(one), simd.lanes(of_more), simd.lanes(of_fewer)), simd.scratch(of_more, 0)

    lanes, scratch = ask(np.zeros(1, dtype))
    assert lanes == (lanes_of(dtype),) * 3
    assert scratch.dtype == dtype


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
@pytest.mark.parametrize("element", ["u1", "u2", "u4", None])
def test_position_tag(element, dtype):
    @njit
    def ask(array, argmax):
        d = simd.position_tag(simd.tag(array), argmax)
        return simd.lanes(d), simd.scratch(d, 0)

    lanes, scratch = ask(np.zeros(1, dtype), None if element is None else np.zeros((1, 2), element))
    assert lanes == lanes_of(np.dtype(dtype))
    assert scratch.dtype == f"u{max(np.dtype(element or 'u1').itemsize, np.dtype(dtype).itemsize)}"


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
@pytest.mark.parametrize("element", ["u1", "u2", "u4", None])
def test_mask_tag(element, dtype):
    """Whatever the integers are that a mask is made of, it is one for as many lanes, of any elements."""

    @njit
    def choose(array, argmax, out):
        d = simd.tag(array)
        da = simd.mask_tag(d, argmax)
        scratch = simd.scratch(da, simd.lanes(d))
        for i in range(scratch.size):
            scratch[i] = i % 3
        mask = simd.load(da, simd.pointer(scratch), 0) == simd.splat(da, 2)
        simd.store(simd.pointer(out), 0, simd.select(mask, simd.load(d, simd.pointer(array), 0), simd.splat(d, 77)))
        return scratch

    array = np.arange(lanes_of(np.dtype(dtype)), dtype=dtype)
    out = np.zeros_like(array)
    given = np.dtype(element or "u1").itemsize
    scratch = choose(array, None if element is None else np.zeros((1, 2), element), out)
    assert scratch.dtype in (f"u{given}", f"u{max(given, array.itemsize)}")
    same_values(out, np.where(np.arange(array.size) % 3 == 2, array, np.asarray(77, dtype)))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("element", ["u1", "u2", "u4"])
def test_positions_widen_and_narrow(element, dtype):
    """Where lanes are wider than the argmax in memory, a sum in them is as one in memory."""

    @njit
    def add(like, argmax, out):
        d = simd.position_tag(simd.tag(like), argmax)
        v = simd.load(d, simd.pointer(argmax), 0)
        simd.store(simd.pointer(out), 0, v + v)

    argmax = memory(np.dtype(element), 16)
    out = np.full(16, 77, element)
    add(np.zeros(1, dtype), argmax, out)
    lanes = lanes_of(np.dtype(dtype))
    same_values(out[:lanes], (argmax + argmax)[:lanes])
    assert (out[lanes:] == 77).all()


@every_number
def test_constants(dtype):
    @njit
    def ask(out):
        d = simd.tag(out)
        out[0] = simd.lowest(d)

    out = np.ones(1, dtype)
    ask(out)
    same_bits(out, np.array([-np.inf if dtype.kind == "f" else np.iinfo(dtype).min], dtype))


@every_number
def test_nans(dtype):
    known = njit(lambda array: simd.nans(simd.tag(array)))(np.zeros(1, dtype))
    assert known is (True if dtype.kind == "f" else None)


@every_number
def test_scalar(dtype):
    @njit
    def ask(out):
        out[0] = simd.scalar(simd.tag(out), 3)

    out = np.zeros(1, dtype)
    ask(out)
    same_bits(out, np.array([3], dtype))


@every_integer
def test_highest(dtype):
    assert njit(lambda array: simd.highest(simd.tag(array)))(np.zeros(1, dtype)) == np.iinfo(dtype).max


# ---------------------------------------------------------------- memory


@every_number
def test_load_and_store(dtype):
    @njit
    def copy(source, out):
        d = simd.tag(source)
        for i in range(len(out)):
            simd.store(simd.offset(simd.pointer(out[i]), 7), -2, simd.load(d, simd.pointer(source), i))

    lanes = lanes_of(dtype)
    source = memory(dtype, 2 * lanes + 20)
    vectors = np.lib.stride_tricks.sliding_window_view(source, lanes)
    out = np.full((len(vectors), lanes + 9), 77, dtype)
    expected = out.copy()
    expected[:, 5:-4] = vectors
    copy(source, out)
    same_bytes(out, expected)


@njit
def load_between(d, memory, at, first, last, other):
    return simd.load_between(d, memory, at, first, last)


@njit
def load_or(d, memory, at, first, last, other):
    return simd.load_or(other, memory, at, first, last)


@njit
def load_where(d, memory, at, first, last, other):
    return simd.load_where(simd.between(d, first, last), first <= 0 and last >= simd.lanes(d), other, memory, at)


@every_number
@pytest.mark.parametrize("operation", [load_between, load_or, load_where], ids=lambda operation: operation.__name__)
def test_limited_loads(operation, dtype):
    def load(times):
        @njit
        def load(source, other, limits, out):
            d = simd.widened(simd.tag(source), times)
            v = simd.load(d, simd.pointer(other), 0)
            for i, first in enumerate(limits):
                for j, last in enumerate(limits):
                    simd.store(simd.pointer(out[i, j]), 0, operation(d, simd.pointer(source), 3, first, last, v))

        return load

    # Lanes that are no power of two; or that a byte does not count.
    for times in (1, 3 if dtype.itemsize > 1 else 4):
        lanes = times * lanes_of(dtype)
        near = range(-2, lanes + 3) if times == 1 else [-1, 0, 1, lanes // 2, lanes - 1, lanes, lanes + 1]
        limits = np.array([*near, *FAR])
        source, other = memory(dtype, 2 * lanes + 6).reshape(2, -1)
        out = np.full((len(limits), len(limits), lanes), 77, dtype)
        load(times)(source, other, limits, out)
        lane = np.arange(lanes)
        inside = (limits[:, None, None] <= lane) & (lane < limits[:, None])
        otherwise = dtype.type(0) if operation is load_between else other[:lanes]
        same_bytes(out, np.where(inside, source[3:], otherwise))


@njit
def store_before(memory, at, v, end, d):
    simd.store_before(memory, at, v, end)


@njit
def store_first(memory, at, v, end, d):
    simd.store_first(memory, at, v, end - at)


@every_number
@pytest.mark.parametrize("operation", [store_before, store_first], ids=lambda operation: operation.__name__)
def test_limited_stores(operation, dtype):
    @njit
    def store(source, out, limits):
        d = simd.tag(source)
        v = simd.load(d, simd.pointer(source), 0)
        for i in range(len(limits)):
            operation(simd.pointer(out[i]), 3, v, limits[i], d)

    lanes = lanes_of(dtype)
    source = memory(dtype, lanes + 20)[:lanes]
    limits = np.array([*range(lanes + 6), *(limit for limit in FAR if limit > FAR[0])])
    out = np.full((len(limits), lanes + 9), 77, dtype)
    expected = out.copy()
    expected[:, 3:-6] = np.where(np.arange(3, lanes + 3) < limits[:, None], source, out[:, 3:-6])
    store(source, out, limits)
    same_bytes(out, expected)


@every_number
def test_one_lane_is_stored(dtype):
    @njit
    def store(source, out):
        simd.store_one(simd.pointer(out), 3, simd.load(simd.tag(source), simd.pointer(source), 0))

    source = memory(dtype, lanes_of(dtype) + 20)
    out = np.full(9, 77, dtype)
    store(source, out)
    same_bytes(out, np.array([77] * 3 + [source[0]] + [77] * 5, dtype))


@njit
def copy(memory, at, source, first, count):
    simd.copy(memory, at, source, first, count)


@njit
def stream(memory, at, source, first, count):
    simd.stream(memory, at, source, first, count)


@every_number
@pytest.mark.parametrize("operation", [copy, stream], ids=lambda operation: operation.__name__)
def test_copies(operation, dtype):
    """From anywhere to anywhere: every distance from where a vector is aligned."""

    @njit
    def run(source, out):
        for at in range(out.shape[0]):
            for count in range(out.shape[1]):
                operation(simd.pointer(out[at, count]), 1 + at, simd.pointer(source), 3, count)

    lanes = lanes_of(dtype)
    source = memory(dtype, 2 * lanes + 20)
    out = np.full((lanes, 2 * lanes + 3, 4 * lanes), 77, dtype)
    place = np.arange(4 * lanes) - 1 - np.arange(lanes)[:, None, None]
    copied = (place >= 0) & (place < np.arange(2 * lanes + 3)[:, None])
    expected = np.where(copied, source[np.clip(place + 3, 0, len(source) - 1)], out)
    run(source, out)
    same_bytes(out, expected)


@every_number
def test_to_front(dtype):
    @njit
    def run(out):
        for i in range(len(out)):
            simd.to_front(simd.pointer(out[i]), i)

    lanes = lanes_of(dtype)
    row = memory(dtype, 2 * lanes + 3)
    out = np.tile(row, (lanes + 2, 1))
    expected = out.copy()
    for i in range(len(out)):
        expected[i, :lanes] = row[i : i + lanes]
    run(out)
    same_bytes(out, expected)


@every_number
def test_aligned(dtype):
    @njit
    def ask(out, marked):
        for i in range(len(marked)):
            simd.aligned(simd.pointer(out[i:]))[0] = 1
            marked[i] = np.flatnonzero(out)[0]
            out[:] = 0

    lanes = lanes_of(dtype)
    out, marked = np.zeros(3 * lanes, dtype), np.zeros(lanes, np.int64)
    ask(out, marked)
    address = out.ctypes.data + np.arange(lanes) * dtype.itemsize
    same_values((out.ctypes.data + marked * dtype.itemsize) % simd.BYTES, np.zeros(lanes, np.int64))
    distance = out.ctypes.data + marked * dtype.itemsize - address
    assert ((distance >= 0) & (distance < simd.BYTES)).all()


@every_number
def test_within_line(dtype):
    @njit
    def ask(out, found):
        for i in range(len(found)):
            found[i] = simd.within_line(simd.pointer(out[i:]))

    lanes = lanes_of(dtype)
    out, found = np.zeros(3 * lanes, dtype), np.zeros(2 * lanes, np.int64)
    ask(out, found)
    address = out.ctypes.data + np.arange(2 * lanes) * dtype.itemsize
    same_values(found, address % simd.BYTES // dtype.itemsize)


def test_what_is_asked_for_need_not_be_there():
    """And stays as it is, where it is."""

    @njit
    def ask(out, offsets):
        for i in offsets:
            simd.prefetch(simd.pointer(out), i)

    out = np.arange(3.0)
    ask(out, np.array([0, 1, 2, 3, -1, 1 << 20, -(1 << 20), 1 << 40, -(1 << 40), *FAR]))
    same_bits(out, np.arange(3.0))


GUARDED = """
import ctypes, mmap
from numba import njit
from fastpool.kernels import simd

libc = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
block = mmap.mmap(-1, 3 * PAGE)
address = ctypes.addressof(ctypes.c_char.from_buffer(block))
for guard in (address, address + 2 * PAGE):
    assert libc.mprotect(ctypes.c_void_p(guard), PAGE, 0) == 0, ctypes.get_errno()

@njit
def touch(page, at, first, last, out):
    d, memory = simd.tag(page), simd.pointer(page)
    mask = simd.between(d, first, last)
    v = simd.load_between(d, memory, at, first, last)
    v = simd.load_or(v, memory, at, first, last)
    v = simd.load_where(mask, False, v, memory, at)
    simd.store(simd.pointer(out), 0, v)
    if first <= 0:
        simd.store_before(memory, at, v, at + last)

@njit
def move(page, at, source, count):
    simd.copy(simd.pointer(page), at, simd.pointer(source), 0, count)
    simd.stream(simd.pointer(page), at, simd.pointer(source), 0, count)
    simd.stream(simd.pointer(source), 0, simd.pointer(page), at, count)

for dtype in ("i1", "u2", "i4", "f4", "f8"):
    page = np.frombuffer(block, dtype, PAGE // np.dtype(dtype).itemsize, PAGE)
    page[...] = np.arange(1, len(page) + 1) % 99
    lanes = simd.BYTES // page.itemsize
    out = np.zeros(lanes, dtype)
    for count in range(lanes + 1):
        touch(page, len(page) - count, 0, count, out)
        assert np.array_equal(out[:count], page[len(page) - count :]) and not out[count:].any()
        touch(page, count - lanes, lanes - count, lanes, out)
        assert np.array_equal(out[lanes - count :], page[:count]) and not out[: lanes - count].any()
    for count in range(3 * lanes):
        move(page, len(page) - count, page[:count].copy(), count)
        move(page, 0, page[len(page) - count :].copy(), count)
    touch(page, len(page) + 5, 3, 2, out)
    touch(page, -5 - lanes, -3, -2, out)
    assert not out.any()
"""


@pytest.mark.skipif(not hasattr(mmap, "PROT_READ"), reason="needs mprotect")
def test_only_lanes_within_limits_are_touched():
    run(GUARDED)


def test_none_has_no_pointer():
    @njit
    def ask(array):
        return simd.pointer(None), simd.beside(None, simd.pointer(array))

    assert ask(np.zeros(1)) == (None, None)


def test_a_pointer_beside_an_array():
    @njit
    def ask(array):
        return simd.beside(array, simd.pointer(array))[2]

    assert ask(np.arange(3.0)) == 2


def test_scratch_lives_as_long_as_it_is_kept():
    @njit
    def total(like, size):
        d = simd.tag(like)
        first = simd.scratch(d, size)
        counted = simd.pointer(first)
        second = simd.scratch(d, size)
        zeros = simd.pointer(second)
        for i in range(size):
            counted[i] = i
        for i in range(size):
            zeros[i] = 0
        total = 0
        for i in range(size):
            total += counted[i]
        simd.keep((first, second))
        return total

    assert total(np.zeros(1), 100) == 4950


# ---------------------------------------------------------------- lanes


class Lanes(NamedTuple):
    """What becomes of vectors a and b; masks as ones and zeros."""

    plus: np.ndarray
    times: np.ndarray
    greater: np.ndarray
    less: np.ndarray
    equal: np.ndarray
    greater_or_nan: np.ndarray
    maximum: np.ndarray
    either_nan: np.ndarray
    is_nan: np.ndarray
    is_number: np.ndarray
    both: np.ndarray
    either: np.ndarray
    select: np.ndarray
    zip_lower: np.ndarray
    zip_upper: np.ndarray


@njit
def combine(a, b, out):
    d = simd.tag(a)
    zero, one = simd.splat(d, 0), simd.splat(d, 1)
    for i in range(0, a.size, simd.lanes(d)):
        v, w = simd.load(d, simd.pointer(a), i), simd.load(d, simd.pointer(b), i)
        simd.store(simd.pointer(out.plus), i, v + w)
        simd.store(simd.pointer(out.times), i, v * w)
        simd.store(simd.pointer(out.greater), i, simd.select(v > w, one, zero))
        simd.store(simd.pointer(out.less), i, simd.select(v < w, one, zero))
        simd.store(simd.pointer(out.equal), i, simd.select(v == w, one, zero))
        simd.store(simd.pointer(out.greater_or_nan), i, simd.select(simd.greater_or_nan(v, w), one, zero))
        simd.store(simd.pointer(out.maximum), i, simd.maximum(v, w))
        simd.store(simd.pointer(out.either_nan), i, simd.select(simd.either_nan(v, w), one, zero))
        simd.store(simd.pointer(out.is_nan), i, simd.select(simd.is_nan(v), one, zero))
        simd.store(simd.pointer(out.is_number), i, simd.select(simd.is_number(v), one, zero))
        simd.store(simd.pointer(out.both), i, simd.select((v > zero) & (w > zero), one, zero))
        simd.store(simd.pointer(out.either), i, simd.select((v > zero) | (w > zero), one, zero))
        simd.store(simd.pointer(out.select), i, simd.select(v > w, v, w))
        simd.store(simd.pointer(out.zip_lower), i, simd.zip_lower(v, w))
        simd.store(simd.pointer(out.zip_upper), i, simd.zip_upper(v, w))


@cache
def combined(dtype):
    """What `combine` makes of every pair of specials, and what it should."""
    a, b = every_pair(dtype)
    actual = Lanes(*(np.full_like(a, 77) for _ in Lanes._fields))
    combine(a, b, actual)
    zipped = np.stack([a, b], axis=-1).reshape(-1, 2, lanes_of(dtype))
    with np.errstate(all="ignore"):
        expected = Lanes(
            plus=a + b,
            times=a * b,
            greater=a > b,
            less=a < b,
            equal=a == b,
            greater_or_nan=(a > b) | (a != a) | (b != b),
            maximum=np.where((a > b) | (a != a), a, b),
            either_nan=(a != a) | (b != b),
            is_nan=a != a,
            is_number=a == a,
            both=(a > 0) & (b > 0),
            either=(a > 0) | (b > 0),
            select=np.where(a > b, a, b),
            zip_lower=zipped[:, 0].ravel(),
            zip_upper=zipped[:, 1].ravel(),
        )
    return actual, expected


@every_number
@pytest.mark.parametrize("name", Lanes._fields)
def test_lanes(name, dtype):
    actual, expected = (getattr(lanes, name) for lanes in combined(dtype))
    same_bits(actual, expected.astype(dtype))


@every_number
@pytest.mark.parametrize("times", [1, 2, 8])
@pytest.mark.parametrize("start", ["mask", "sum", "wide sum"])
def test_see(dtype, times, start):
    width = times if start == "wide sum" else 1

    @njit
    def nothing(d):
        return simd.no_nan(d) if start == "mask" else simd.splat(simd.widened(d, width), 0)

    @njit
    def run(x, found):
        d = simd.tag(x)
        for i in range(len(found)):
            seen = nothing(d)
            for at in range(2):
                seen = simd.see(seen, simd.load(simd.widened(d, times), simd.pointer(x[i, at]), 0))
            found[i] = simd.saw_nan(seen)

    size = times * lanes_of(dtype)
    x = np.ones((2 * size + 1, 2, size), dtype)
    if dtype.kind == "f":  # in every lane of the first one, or of the second
        x[:-1].reshape(2 * size, -1)[np.diag_indices(2 * size)] = np.nan
        x[-1, 0, 0], x[-1, 1, 1] = np.inf, -0.0
    found = np.empty(len(x), bool)
    run(x, found)
    same_values(found, np.isnan(x).any(axis=(1, 2)))


@every_integer
def test_bitwise(dtype):
    @njit
    def combine(a, b, out):
        d = simd.tag(a)
        v, w = simd.load(d, simd.pointer(a), 0), simd.load(d, simd.pointer(b), 0)
        simd.store(simd.pointer(out[0]), 0, v & w)
        simd.store(simd.pointer(out[1]), 0, v | w)

    a, b = memory(dtype, 2 * lanes_of(dtype)).reshape(2, -1)
    out = np.full((2, a.size), 77, dtype)
    combine(a, b, out)
    same_values(out, np.stack([a & b, a | b]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_division(dtype):
    @njit
    def divide(a, b, out):
        d = simd.tag(a)
        for i in range(0, a.size, simd.lanes(d)):
            v, w = simd.load(d, simd.pointer(a), i), simd.load(d, simd.pointer(b), i)
            simd.store(simd.pointer(out), i, v / w)

    a, b = every_pair(np.dtype(dtype))
    out = np.full_like(a, 77)
    divide(a, b, out)
    with np.errstate(all="ignore"):
        same_bits(out, a / b)


@every_number
def test_splat(dtype):
    @njit
    def splat(values, out, integer, integers):
        d = simd.tag(values)
        for i in range(len(values)):
            simd.store(simd.pointer(out[i]), 0, simd.splat(d, values[i]))
        simd.store(simd.pointer(integers), 0, simd.splat(d, integer))

    values = specials(dtype)
    out, integers = np.full((len(values) + 1, lanes_of(dtype)), 77, dtype)[1:], np.zeros(lanes_of(dtype), dtype)
    splat(values, out, -300, integers)
    same_bits(out, np.repeat(values[:, None], lanes_of(dtype), axis=1))
    same_values(integers, np.full_like(integers, np.array(-300).astype(dtype)))


@every_number
def test_any_lane_and_the_first(dtype):
    @njit
    def ask(rows, some, first):
        d = simd.tag(rows)
        for i in range(len(rows)):
            mask = simd.load(d, simd.pointer(rows[i]), 0) > simd.splat(d, 0)
            some[i] = simd.any_lane(mask)
            if some[i]:
                first[i] = simd.first_lane(mask)

    lanes = lanes_of(dtype)
    rows = np.concatenate([np.eye(lanes, dtype=dtype), np.tri(lanes, dtype=dtype).T, np.zeros((1, lanes), dtype)])
    some, first = np.zeros(len(rows), bool), np.zeros(len(rows), np.int64)
    ask(rows, some, first)
    same_values(some, rows.any(axis=1))
    same_values(first, rows.argmax(axis=1))


@every_number
def test_every(dtype):
    @njit
    def deal(source, out):
        d, memory = simd.tag(source), simd.pointer(source)
        v = simd.load(simd.widened(d, 2), memory, 0)
        simd.store(simd.pointer(out[0]), 0, simd.every(d, v, 2, 0))
        simd.store(simd.pointer(out[1]), 0, simd.every(d, v, 2, 1))
        v = simd.load(simd.widened(d, 3), memory, 0)
        simd.store(simd.pointer(out[2]), 0, simd.every(d, v, 3, 0))
        simd.store(simd.pointer(out[3]), 0, simd.every(d, v, 3, 1))
        simd.store(simd.pointer(out[4]), 0, simd.every(d, v, 3, 2))
        v = simd.load(simd.widened(d, 4), memory, 0)
        simd.store(simd.pointer(out[5]), 0, simd.every(d, v, 4, 0))
        simd.store(simd.pointer(out[6]), 0, simd.every(d, v, 4, 1))
        simd.store(simd.pointer(out[7]), 0, simd.every(d, v, 4, 2))
        simd.store(simd.pointer(out[8]), 0, simd.every(d, v, 4, 3))
        v = simd.load(simd.widened(d, 8), memory, 0)
        simd.store(simd.pointer(out[9]), 0, simd.every(d, v, 8, 7))
        simd.store(simd.pointer(out[10]), 0, simd.every(d, v, 8, 9))

    lanes = lanes_of(dtype)
    source = memory(dtype, 8 * lanes)
    out = np.full((11, lanes), 77, dtype)
    deal(source, out)
    strides = [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2), (4, 3), (8, 7), (8, 9)]
    for row, (stride, phase) in zip(out, strides, strict=True):
        expected = source[phase : stride * lanes : stride]
        same_bytes(row[: len(expected)], expected)


@pytest.mark.parametrize("stride", range(2, 8))
@every_number
def test_elements_apart(dtype, stride):
    # Every so many elements, and elements of so many runs in turn, and back: one undoes the other.
    @njit
    def apart(array, result):
        d = simd.narrowed(simd.tag(array), 2)
        simd.store(simd.pointer(result), 0, simd.load_every(d, simd.pointer(array), 1, stride))

    @njit
    def in_turn(array, pitch, result):
        d = simd.narrowed(simd.tag(array), 2)
        simd.store_in_turn(simd.pointer(result), 1, d, simd.pointer(array), 1, pitch, stride, None)

    @njit
    def out_of_turn(array, result, pitch):
        d = simd.narrowed(simd.tag(array), 2)
        simd.store_apart(simd.pointer(result), 1, pitch, d, simd.pointer(array), 1, stride)

    lanes = lanes_of(dtype) // 2
    array = memory(dtype, stride * lanes + 64)
    result = np.zeros(lanes, dtype)
    apart(array, result)
    same_bytes(result, array[1 : 1 + stride * lanes : stride])
    runs = memory(dtype, stride * (lanes + 5) + 64)
    result = np.zeros(stride * lanes + 2, dtype)
    in_turn(runs, lanes + 5, result)
    expected = [runs[1 + p * (lanes + 5) :][:lanes] for p in range(stride)]
    same_bytes(result[1:-1], np.stack(expected, axis=1).ravel())
    assert result[0] == result[-1] == 0
    back = np.zeros((stride, lanes + 5), dtype)
    out_of_turn(result, back.ravel(), lanes + 5)
    same_bytes(back[:, 1 : lanes + 1], np.stack(expected))
    assert not back[:, 0].any()
    assert not back[:, lanes + 1 :].any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_elements_of_runs_are_added_to_zero_in_turn(dtype):
    @njit
    def in_turn(array, result):
        d = simd.narrowed(simd.tag(array), 4)
        simd.store_in_turn(simd.pointer(result), 0, d, simd.pointer(array), 0, simd.lanes(d), 3, simd.splat(d, 0))

    runs = np.full((3, lanes_of(np.dtype(dtype)) // 4), -0.0, dtype)
    runs[:, 0] = 1, 2, 3
    result = np.full(runs.size, 77, dtype)
    in_turn(runs.ravel(), result)
    same_bytes(result, (runs + np.zeros_like(runs)).T.ravel())


@pytest.mark.parametrize("part", [1, 2, 4])
@every_number
def test_elements_of_places_side_by_side(dtype, part):
    @njit
    def side_by_side(array, stride, result, step):
        d = simd.narrowed(simd.tag(array), part)
        simd.interleave(simd.pointer(result), 1, step, d, simd.pointer(array), 1, stride)

    @njit
    def apart(array, step, result, stride):
        d = simd.narrowed(simd.tag(array), part)
        simd.deinterleave(simd.pointer(result), 1, stride, d, simd.pointer(array), 1, step)

    lanes, run = lanes_of(dtype) // part, lanes_of(dtype) // 4
    stride, step = run + 3, lanes + 5
    array = memory(dtype, 1 + lanes * stride)
    places = array[1:].reshape(lanes, stride)
    result = np.zeros(1 + run * step, dtype)
    side_by_side(array, stride, result, step)
    same_bytes(result[1:].reshape(run, step)[:, :lanes], places[:, :run].T)
    back = np.zeros_like(array)
    apart(result, step, back, stride)
    same_bytes(back[1:].reshape(lanes, stride)[:, :run], places[:, :run])
    for written, number, length in ((result, run, lanes), (back, lanes, run)):
        assert not written[0]
        assert not written[1:].reshape(number, -1)[:, length:].any()
    # A run is written after those of places before it, where they overlap.
    back = np.zeros(lanes + run, dtype)
    apart(result, step, back, 1)
    same_bytes(back[1 : 1 + lanes], places[:, 0])


@every_number
def test_cut(dtype):
    @njit
    def cut(array, keep, result):
        d = simd.tag(array)
        v = simd.load(d, simd.pointer(array), 0)
        bits = simd.select(simd.between(d, 1, keep), simd.all_bits(d), simd.splat(d, 0))
        simd.store(simd.pointer(result), 0, simd.cut(v, bits))

    lanes = lanes_of(dtype)
    array = memory(dtype, lanes + 64)
    result = np.empty(lanes, dtype)
    cut(array, lanes - 1, result)
    expected = array[:lanes].copy()
    expected[[0, -1]] = 0
    same_bytes(result, expected)


@every_number
def test_add_where(dtype):
    @njit
    def add(a, b, result):
        d = simd.tag(a)
        v, w = simd.load(d, simd.pointer(a), 0), simd.load(d, simd.pointer(b), 0)
        simd.store(simd.pointer(result), 0, simd.add_where(v > w, v, w))

    lanes = lanes_of(dtype)
    pairs = every_pair(dtype)
    for i in range(0, pairs[0].size - lanes + 1, lanes):
        a, b = (pair[i : i + lanes].copy() for pair in pairs)
        a[a == 0] = 0  # not -0.0
        result = np.empty(lanes, dtype)
        add(a, b, result)
        with np.errstate(all="ignore"):
            same_bits(result, np.where(a > b, a + b, a))


def test_rolled_loops_are_not_unrolled():
    def add(rolled):
        @njit
        def add(x, out):
            d = simd.tag(x)
            total = simd.splat(d, 0)
            for i in range(0, len(x), simd.lanes(d)):
                if rolled:
                    simd.rolled()
                total = total + simd.load(d, simd.pointer(x), i)
            simd.store(simd.pointer(out), 0, total)

        x, out = np.arange(80, dtype=np.float32), np.zeros(16, np.float32)
        add(x, out)
        same_values(out, x.reshape(-1, 16).sum(axis=0))
        (code,) = add.inspect_llvm().values()
        return code.count("fadd <16 x float>")

    assert add(rolled=False) > add(rolled=True) == 1
