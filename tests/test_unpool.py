"""Max unpooling: the kernel against the reference, which is compared with plain loops elsewhere."""

import numpy as np
import pytest
from helpers import DTYPES, on_threads, same_bits, same_values, sentinel, surroundings
from hypothesis import given, settings
from hypothesis import strategies as st
from test_agreement import outcome
from test_ranks import HALVES, of, same

import fastpool
from fastpool import reference
from fastpool.testing import strategies
from fastpool.testing.arrays import LAYOUTS, laid_out, random_array


@given(st.data(), st.sampled_from([*DTYPES, *HALVES]), st.sampled_from(["i1", "u2", "i4", "i8", "u8"]))
@settings(max_examples=150)
def test_unpool(data, dtype, integer):
    ndim = data.draw(st.integers(1, 3))
    lengths = st.integers(1, 5) if ndim > 1 else st.integers(1, 70)
    shape = (*data.draw(strategies.leading_axes), *data.draw(st.tuples(*[lengths] * ndim)))
    kernel, stride = (data.draw(strategies.per_axis(st.integers(1, 4), ndim)) for _ in range(2))
    y = data.draw(strategies.arrays(shape, dtype))
    # Few, so that several are the same.
    indices = np.random.default_rng(0).integers(0, data.draw(st.integers(1, 100)), shape).astype(integer)
    size = data.draw(st.none() | st.tuples(*[st.integers(1, 9)] * ndim))
    slow, fast = (of(module, "max_unpoolNd", ndim) for module in (reference, fastpool))
    expected = outcome(slow, y, indices, kernel, stride, output_size=size)
    if y.dtype.kind != "V":
        y = laid_out(y, data.draw(strategies.input_layouts))
    result = outcome(fast, y, laid_out(indices, data.draw(strategies.input_layouts)), kernel, stride, output_size=size)
    if isinstance(expected, str):
        assert result == expected
    else:
        same(result, expected)


@pytest.mark.parametrize("dtype", [*DTYPES, *HALVES], ids=str)
def test_unpooling_undoes_pooling(implementation, dtype):
    # Every value once, and no zero: what is not a maximum becomes one.
    x = (np.random.default_rng(0).permutation(2 * 5 * 7) + 1).reshape(2, 5, 7).astype(dtype)
    for padding in (0, 1):
        y, indices = reference.max_pool2d(x, 3, 2, padding, return_indices=True)
        unpooled = implementation.max_unpool2d(y, indices, 3, 2, padding, output_size=x.shape)
        chosen = np.zeros((2, 35), bool)
        np.put_along_axis(chosen, indices.reshape(2, -1), True, axis=1)
        same(unpooled, np.where(chosen.reshape(x.shape), x, np.zeros((), dtype)))


def test_of_the_same_index_the_last_stays(implementation):
    same_values(implementation.max_unpool1d([1.0, 2.0, 3.0], [4, 0, 4], 2), np.array([2.0, 0, 0, 0, 3, 0]))


def test_bits_are_moved_as_they_are(implementation):
    y = np.array([-0.0, np.nan, np.inf, -np.inf, 5e-324])
    same_bits(implementation.max_unpool1d(y, range(0, 10, 2), 2)[::2], y)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_out(layout):
    y, indices = fastpool.max_pool2d(random_array((2, 3, 6, 10), np.float32), 2, return_indices=True)
    expected = fastpool.max_unpool2d(y, indices, 2)
    out = sentinel(expected.shape, np.float32, layout)
    around = surroundings(out)
    assert fastpool.max_unpool2d(y, indices, 2, out=out) is out
    same_bits(np.asarray(out), expected)
    assert surroundings(out) == around


@pytest.mark.parametrize("wrong", [-1, 24, -(2**63), 2**63 - 1])
def test_an_index_outside_of_its_plane(implementation, wrong):
    indices = np.arange(0, 24, 4).reshape(1, 2, 3)
    indices[0, 1, 1] = wrong
    out = np.full((1, 4, 6), 77.0)
    with pytest.raises(ValueError, match=r"indices has a position outside of its plane.*from 0 to 23"):
        implementation.max_unpool2d(np.ones((1, 2, 3)), indices, 2, out=out)
    assert (out == 77).all()


def test_a_huge_unsigned_index(implementation):
    with pytest.raises(ValueError, match="indices has a position outside of its plane"):
        implementation.max_unpool1d([1.0], np.array([2**64 - 1], np.uint64), 2)


def test_threads_give_the_same_bits():
    y, indices = fastpool.max_pool2d(random_array((5, 7, 250, 252), np.float32), 2, return_indices=True)
    with on_threads(1):
        alone = fastpool.max_unpool2d(y, indices, 2)
    with on_threads(3):
        same_bits(fastpool.max_unpool2d(y, indices, 2), alone)
    same_bits(alone, reference.max_unpool2d(y, indices, 2))
