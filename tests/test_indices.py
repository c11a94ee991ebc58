"""Positions in windows and positions in planes, turned into one another."""

import numpy as np
import pytest
from helpers import same_values
from hypothesis import given, settings
from hypothesis import strategies as st
from test_agreement import outcome

import fastpool
from fastpool import reference
from fastpool.testing import strategies

BOTH = pytest.mark.parametrize("module", [fastpool, reference], ids=["fastpool", "reference"])


@given(st.data(), st.integers(1, 3))
@settings(max_examples=150)
def test_there_and_back(data, ndim):
    lengths = [st.integers(1, 6)] * (ndim - 1) + [strategies.SHORT]
    spatial, window = data.draw(strategies.windows(kernels=4, lengths=lengths))
    shape = (*data.draw(strategies.leading_axes), *spatial)
    if data.draw(st.booleans()):
        window["data_format"] = "channels_last"
        shape += (data.draw(st.integers(0, 5)),)
    x = data.draw(strategies.arrays(shape, np.dtype("f")))
    found = outcome(getattr(reference, f"max_pool{ndim}d"), x, **window, return_argmax=True)
    if isinstance(found, str):
        return
    argmax, indices = found[1], getattr(reference, f"max_pool{ndim}d")(x, **window, return_indices=True)[1]
    window["spatial_ndim"] = ndim
    same_values(fastpool.argmax_to_indices(argmax, shape, **window), indices)
    same_values(fastpool.indices_to_argmax(indices, shape, **window), argmax)
    same_values(reference.indices_to_argmax(indices, shape, **window), argmax)
    # Any position: both refuse the same ones.
    anything = np.random.default_rng(0).integers(-1, 5, argmax.shape)
    for name in ("argmax_to_indices", "indices_to_argmax"):
        expected = outcome(getattr(reference, name), anything, shape, **window)
        actual = outcome(getattr(fastpool, name), anything, shape, **window)
        same_values(actual, expected)


@BOTH
@pytest.mark.parametrize("bad", [-1, 4, 2**40, np.iinfo(np.uint64).max])
def test_no_position_of_a_window(module, bad):
    with pytest.raises(ValueError, match="argmax has a position outside of its window"):
        module.argmax_to_indices(np.full((1, 1), bad), (2, 2), 2)


@BOTH
@pytest.mark.parametrize("bad", [-1, 16, 2**40, np.iinfo(np.uint64).max])
def test_no_position_of_a_plane(module, bad):
    with pytest.raises(ValueError, match="indices has a position outside of its plane"):
        module.indices_to_argmax(np.full((2, 2), bad), (4, 4), 2)


@BOTH
def test_a_position_of_another_window(module):
    with pytest.raises(ValueError, match="indices has a position outside of its window"):
        module.indices_to_argmax([[0, 1]], (2, 4), 2)
    with pytest.raises(ValueError, match="indices has a position outside of its window"):
        module.indices_to_argmax([[1]], (3, 3), 2, dilation=2)


@BOTH
def test_a_position_on_padding(module):
    with pytest.raises(ValueError, match="argmax has a position outside of its window"):
        module.argmax_to_indices(np.zeros((2, 2), int), (2, 2), 2, padding=1)
