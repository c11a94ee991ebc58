"""The notebook's layer beyond the notebook: ragged edges, shapes that are not square, dtypes, its state."""

import copy
import pickle
import threading

import brute
import numpy as np
import pytest
from helpers import DTYPES, same_bits, same_values

import fastpool
from fastpool.testing.arrays import INPUT_LAYOUTS, laid_out, random_array

SHAPES = [(2, 3, 4, 4), (1, 1, 1, 1), (2, 3, 5, 7), (3, 1, 33, 70), (2, 2, 1, 9), (0, 3, 5, 7), (2, 0, 5, 7)]


@pytest.mark.parametrize("pool", [1, 2, 3, (3, 2), (1, 8), 40], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["random", "ties", "specials", "lowest"])
def test_forward_and_backward(implementation, shape, pool, kind):
    x = random_array(shape, np.float64, kind=kind)
    layer = implementation.Pooling(pool)
    y = layer.forward(x)
    expected, argmax, _ = brute.max_pool2d(x, pool, ceil_mode=True)
    same_values(y, expected)
    same_values(layer.max_index, argmax.transpose(0, 2, 3, 1).reshape(-1))
    dy = random_array(y.shape, np.float64, seed=1)
    same_bits(layer.backward(dy), brute.max_pool2d_backward(dy, argmax, shape, pool, ceil_mode=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(implementation, dtype):
    x = random_array((2, 3, 5, 7), dtype)
    layer = implementation.Pooling(2)
    y = layer.forward(x)
    expected, argmax, _ = brute.max_pool2d(x, 2, ceil_mode=True)
    result = dtype if dtype.kind == "f" else np.dtype(float)
    same_values(y, expected.astype(result))
    dx = layer.backward(np.ones(y.shape, dtype))
    same_bits(dx, brute.max_pool2d_backward(np.ones(y.shape, result), argmax, x.shape, 2, ceil_mode=True))


@pytest.mark.parametrize("dtype", ["i8", "u8"])
def test_integers_that_float64_cannot_tell_apart_tie(implementation, dtype):
    layer = implementation.Pooling(2)
    layer.forward(np.array([[[[2**60, 2**60 + 1], [2**60 - 1, 0]]]], dtype))
    same_values(layer.max_index, np.array([0]))


@pytest.mark.parametrize("layout", INPUT_LAYOUTS)
def test_layouts(implementation, layout):
    x, dy = random_array((2, 3, 5, 7), np.float32), random_array((2, 3, 3, 4), np.float32)
    plain, layer = implementation.Pooling(2), implementation.Pooling(2)
    same_values(layer.forward(laid_out(x, layout)), plain.forward(x))
    same_bits(layer.backward(laid_out(dy, layout)), plain.backward(dy))


def test_the_gradient_by_finite_differences(implementation):
    # Far from ties y is linear in x, so the differences are exact but for rounding.
    rng = np.random.default_rng(0)
    x = rng.permutation(2 * 3 * 5 * 7).reshape(2, 3, 5, 7).astype(float)
    layer = implementation.Pooling((2, 3))
    weights = rng.integers(-9, 9, layer.forward(x).shape).astype(float)
    differences = np.empty(x.shape)
    for place in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[place] = 0.25
        differences[place] = np.vdot(weights, layer.forward(x + step) - layer.forward(x - step)) / 0.5
    layer.forward(x)
    same_values(layer.backward(weights), differences + 0.0)


def test_backward_needs_a_forward(implementation):
    with pytest.raises(RuntimeError, match="forward"):
        implementation.Pooling(2).backward(np.ones((1, 1, 2, 2)))


def test_backward_forgets_nothing(implementation):
    x = random_array((2, 3, 5, 7), np.float64)
    layer = implementation.Pooling(2)
    dy = np.ones(layer.forward(x).shape)
    expected = layer.backward(dy).copy()
    x[...] = 0  # the layer does not look at it again
    same_bits(layer.backward(dy), expected)


def test_results_outlive_the_next_pass(implementation):
    layer = implementation.Pooling(2)
    passes = []
    for seed in range(4):
        y = layer.forward(random_array((2, 3, 6, 8), np.float64, seed))
        dx = layer.backward(y)
        parts = y[1:, :, ::2], layer.max_index, dx[0].T
        passes.append((parts, [part.copy() for part in parts]))
        del y, dx
    for parts, copies in passes:
        for part, copied in zip(parts, copies):
            same_bits(part, copied)


def test_one_layer_takes_any_shape(implementation):
    layer = implementation.Pooling(3)
    for shape in SHAPES:
        x = random_array(shape, np.float32)
        y = layer.forward(x)
        same_values(y, implementation.max_pool2d(x, 3, ceil_mode=True))
        assert layer.backward(y).shape == shape


def test_a_failed_forward_leaves_the_last_one(implementation):
    layer = implementation.Pooling(2)
    y = layer.forward(random_array((2, 3, 5, 7), np.float64))
    expected = layer.backward(y)
    for bad in (np.ones((5, 7)), np.ones((1, 1, 0, 4)), np.ones((1, 1, 4, 4), complex)):
        with pytest.raises((TypeError, ValueError)):
            layer.forward(bad)
    same_bits(layer.y, y)
    same_bits(layer.backward(y), expected)


def test_a_layer_is_picklable(implementation):
    layer = implementation.Pooling((2, 3))
    assert repr(layer) == repr(pickle.loads(pickle.dumps(layer))) == "Pooling((2, 3))"
    y = layer.forward(random_array((2, 3, 5, 7), np.float32))
    other = pickle.loads(pickle.dumps(layer))
    same_bits(other.y, y)
    same_bits(other.max_index, layer.max_index)
    same_bits(other.backward(y), layer.backward(y))


def test_a_result_that_somebody_has_is_not_written_to_again():
    layer, shape = fastpool.Pooling(2), (2, 8, 300, 302)
    held, expected = [], []

    def step(seed, keep):
        x = random_array(shape, np.float32, seed)
        held.append(keep(layer.forward(x)))
        held.append(keep(layer.backward(layer.y)))
        expected.extend(kept.copy() for kept in held[-2:])

    def in_a_thread(seed):
        thread = threading.Thread(target=step, args=(seed, lambda result: result))
        thread.start()
        thread.join()

    step(0, lambda result: result)
    step(1, lambda result: result[1:, ::2, 3:, ::-1])
    in_a_thread(2)
    step(3, lambda result: np.asarray(memoryview(result)))
    step(4, lambda result: result.reshape(-1).view(np.int32))
    for seed in range(5, 9):
        layer.backward(layer.forward(random_array(shape, np.float32, seed)))
    for kept, copied in zip(held, expected):
        same_values(kept, copied)


def test_a_large_result_that_nobody_has_is_written_to_again():
    layer, x = fastpool.Pooling(2), random_array((2, 8, 600, 602), np.float32)
    layer.backward(layer.forward(x))
    y, dx = layer.y.ctypes.data, layer.dx.ctypes.data
    layer.backward(layer.forward(-x))
    assert (layer.y.ctypes.data, layer.dx.ctypes.data) == (y, dx)
    same_bits(layer.y, fastpool.max_pool2d(-x, 2))
    # Another shape or dtype needs other memory.
    for other in (x[:, :4], x.astype(np.float64)):
        same_bits(layer.forward(other), fastpool.max_pool2d(other, 2))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copy_has_results_of_its_own(again):
    layer, shape = fastpool.Pooling(2), (2, 8, 600, 602)
    layer.backward(layer.forward(random_array(shape, np.float32)))
    other = again(layer)
    expected = other.y.copy(), other.dx.copy()
    for seed in range(1, 4):
        layer.backward(layer.forward(random_array(shape, np.float32, seed)))
    for result, copied in zip((other.y, other.dx), expected):
        same_bits(result, copied)


def test_a_loop_that_has_the_last_results_writes_to_the_ones_before():
    layer, places = fastpool.Pooling(2), []
    for seed in range(6):
        y = layer.forward(random_array((2, 8, 600, 602), np.float32, seed))
        dx = layer.backward(y)
        places.append((y.ctypes.data, dx.ctypes.data))
    assert places[2:] == places[:-2]
    assert all(len(set(addresses)) == 2 for addresses in zip(*places))
