"""Windows that are whole planes: one run of elements each, or rows that do not follow each other."""

from itertools import product

import numpy as np
import pytest
from helpers import FLOATS, and_magnitude, dtype_named, near, on_threads, same_bits, same_values, terms
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpool
from fastpool import reference
from fastpool.kernels import whole
from fastpool.testing import strategies
from fastpool.testing.arrays import laid_out, random_array
from fastpool.window import window


def compare(x, ndim, kind="random"):
    kernel_size = x.shape[-ndim:]
    for name in (f"max_pool{ndim}d", f"adaptive_max_pool{ndim}d"):
        size = kernel_size if name.startswith("max") else 1
        expected, positions = getattr(reference, name)(x, size, return_argmax=True)
        y, argmax = getattr(fastpool, name)(x, size, return_argmax=True)
        same_values(y, expected)
        same_values(argmax, positions)
        same_values(getattr(fastpool, name)(x, size), expected)
    same_values(fastpool.global_max_pool(x, ndim), expected)
    if x.dtype.kind == "f" and kind == "specials":  # sums overflow in one order and not in another
        return
    with np.errstate(invalid="ignore", over="ignore"):
        expected, magnitude = getattr(reference, f"avg_pool{ndim}d")(and_magnitude(x), kernel_size)
    for y in (getattr(fastpool, f"avg_pool{ndim}d")(x, kernel_size), fastpool.global_avg_pool(x, ndim)):
        near(y, expected, magnitude, terms(y.dtype, kernel_size))


@pytest.mark.parametrize("spatial", [(2, 2), (2, 3), (7,), (1, 5), (2, 1, 3)], ids=str)
def test_tiny_planes_are_windows_of_a_row(spatial):
    """As many as divide how many there are; indices are those in planes; strided arrays have no such row."""
    ndim = len(spatial)
    for leading in ((6, 5), (127,), (40, 60), (2053, 1), (1, 1), ()):
        x = random_array((*leading, *spatial), "f4", 0, "specials")
        for given_x in (x, laid_out(x, "every second")):
            compare(given_x, ndim, "specials")
            pools = (getattr(module, f"max_pool{ndim}d") for module in (fastpool, reference))
            same_values(*(pool(given_x, spatial, return_indices=True)[1] for pool in pools))
        same_bits(*(getattr(m, f"avg_pool{ndim}d")(np.ones_like(x), spatial) for m in (fastpool, reference)))
        compare_backward(random_array((*leading, *[1] * ndim), "f4"), spatial)


def test_a_dilated_window_is_not_whole(implementation):
    # In ceil mode it hangs over: of 2 and 16 places one and 8 are elements.
    for size in (2, 16):
        x = np.arange(float(size)).reshape(1, 1, size)
        window = {"kernel_size": size, "dilation": 2, "ceil_mode": True}
        y, argmax = implementation.max_pool1d(x, **window, return_argmax=True)
        np.testing.assert_array_equal(y, [[[size - 2]]])
        np.testing.assert_array_equal(argmax, [[[size // 2 - 1]]])
        np.testing.assert_array_equal(implementation.avg_pool1d(x, **window), [[[size / 2 - 1]]])
        dx = implementation.max_pool1d_backward(y, argmax, x.shape, **window)
        np.testing.assert_array_equal(dx, np.where(x == size - 2, x, 0))


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_windows_of_one_element_are_those_of_a_row(data_format):
    for shape in ((3, 5, 40, 7), (4099, 1), (1, 1), (0, 3, 3), (5, 2, 2, 2, 2)):
        ndim = max(1, len(shape) - 2)
        x = random_array(shape, "f4", 0, "specials")
        for given_x in (x, laid_out(x, "every second")):
            for others in ({"stride": 1}, {"stride": 1, "dilation": 3, "ceil_mode": True}):
                for wanted in ({}, {"return_argmax": True}, {"return_indices": True}):
                    parameters = {"data_format": data_format, **others, **wanted}
                    y, expected = (
                        getattr(m, f"max_pool{ndim}d")(given_x, 1, **parameters) for m in (fastpool, reference)
                    )
                    for one, other in zip(y, expected, strict=True) if wanted else [(y, expected)]:
                        same_values(one, other)
            y = getattr(fastpool, f"avg_pool{ndim}d")(given_x, 1, data_format=data_format, divisor_override=2)
            same_values(y, given_x / np.float32(2))


@pytest.mark.parametrize("name", ["float16", "bfloat16", "f4", "f8", "u1", "i2", "i8"])
def test_nothing_is_written_behind_the_results(name):
    x = random_array((5, 7, 6, 9), "f4", 0, "ties").astype(dtype_named(name))
    for pool in (fastpool.max_pool2d, fastpool.avg_pool2d):
        expected = pool(x, (6, 9))
        memory = np.full(5 * 7 + 9, 77, expected.dtype)
        pool(x, (6, 9), out=memory[:-9].reshape(expected.shape))
        same_bits(memory[:-9], expected.ravel())
        assert (memory[-9:].astype(float) == 77).all()


def compare_backward(dy, spatial):
    """Compare the gradients of maxima and averages, of as many planes as dy has elements, with the reference's."""
    ndim = len(spatial)
    shape = (*dy.shape[:-ndim], *spatial)
    argmax = np.random.default_rng(0).integers(0, np.prod(spatial), dy.shape)
    name = f"max_pool{ndim}d_backward"
    same_bits(*(getattr(m, name)(dy, argmax, shape, spatial) for m in (fastpool, reference)))
    if dy.dtype.kind == "f":
        for name, size in ((f"avg_pool{ndim}d_backward", (spatial,)), (f"adaptive_avg_pool{ndim}d_backward", ())):
            dx, expected = (getattr(m, name)(dy, shape, *size) for m in (fastpool, reference))
            near(dx, expected, np.abs(expected), 1)


@given(st.data(), st.integers(1, 3), st.sampled_from(["f4", "f8", "f2", "i2"]), strategies.input_layouts)
@settings(max_examples=120)
def test_any_backward(data, ndim, dtype, layout):
    spatial = data.draw(st.tuples(*[st.integers(1, {1: 300, 2: 20, 3: 7}[ndim])] * ndim))
    shape = (*data.draw(st.lists(st.integers(1, 4), max_size=2)), *[1] * ndim)
    compare_backward(laid_out(data.draw(strategies.arrays(shape, dtype, st.just("random"))), layout), spatial)


@pytest.mark.parametrize("spatial", [(7, 7), (5, 33), (300, 17)])
def test_ranges_that_begin_amid_a_plane(spatial):
    dy = random_array((1, 5, 1, 1), "f4")
    w = window(spatial, spatial, 1, 0, 1)
    argmax = np.arange(5, dtype=w.argmax_dtype).reshape(dy.shape) * (np.prod(spatial) // 5)
    shape = (1, 5, *spatial)
    maxima, averages, divisor = np.empty(shape, "f4"), np.empty(shape, "f4"), np.full((1, 1, 1, 1), 3, "f4")
    with on_threads(2):
        whole.max_pool_whole_backward(5 * spatial[0], 1 << 40, w.geometry, dy, argmax.astype(w.argmax_dtype), maxima)
        whole.avg_pool_whole_backward(5 * spatial[0], 1 << 40, w.geometry, dy, divisor, divisor, averages)
    same_bits(maxima, reference.max_pool2d_backward(dy, argmax, shape, spatial))
    same_bits(averages, np.broadcast_to(dy / np.float32(9), shape))


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i1"])
@pytest.mark.parametrize("layout", ["contiguous", "cropped", "reversed"])
def test_groups_of_small_planes(dtype, layout):
    """As many as a vector has lanes, and some more or fewer; of any of them, NaN."""
    for planes, size in product((1, 16, 65, 131), (8, 9, 15, 16, 17, 31, 33, 47, 64, 65, 129, 257)):
        for kind in ("gaps", "ties", "lowest"):
            compare(laid_out(random_array((planes, size), dtype, planes + size, kind), layout), 1, kind)
    x = random_array((64, 49), dtype)
    for place in range(49 if x.dtype.kind == "f" else 0):
        x[place % 64, place] = np.nan
        compare(x, 1)


@given(st.data(), st.integers(1, 3), st.sampled_from(["f4", "f8", "f2", "i1"]), strategies.input_layouts)
@settings(max_examples=120)
def test_any(data, ndim, dtype, layout):
    # Infinities and NaN anywhere, all elements the same, rows that are one run or not.
    spatial = data.draw(st.tuples(*[st.integers(1, {1: 300, 2: 20, 3: 7}[ndim])] * ndim))
    shape = (*data.draw(st.lists(st.integers(1, 4), max_size=2)), *spatial)
    kind = data.draw(strategies.KINDS | st.just("gaps"))
    compare(laid_out(data.draw(strategies.arrays(shape, dtype, st.just(kind))), layout), ndim, kind)


@pytest.mark.parametrize("dtype", ["u1", "i8", *FLOATS], ids=str)
def test_dtypes(dtype):
    for kind in ("random", "ties", "gaps", "specials"):
        compare(random_array((3, 5, 7, 7), dtype, kind=kind), 2, kind)


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_planes(dtype):
    for spatial in ((90, 101), (1, 9001), (9001, 1)):
        compare(random_array((2, *spatial), dtype), 2)
    compare(random_array((2, 200, 90), dtype)[:, ::2, :], 2)
