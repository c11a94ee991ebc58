"""Every value that the notebook prints, from its calls as they stand there."""

import numpy as np
import pytest
from helpers import same_bits

# fmt: off
X = np.array(
    [
        [
            [[5, 8, 9, 5], [0, 0, 1, 7], [6, 9, 2, 4], [5, 2, 4, 2]],
            [[4, 7, 7, 9], [1, 7, 0, 6], [9, 9, 7, 6], [9, 1, 0, 1]],
            [[8, 8, 3, 9], [8, 7, 3, 6], [5, 1, 9, 3], [4, 8, 1, 4]],
        ],
        [
            [[0, 3, 9, 2], [0, 4, 9, 2], [7, 7, 9, 8], [6, 9, 3, 7]],
            [[7, 4, 5, 9], [3, 6, 8, 0], [2, 7, 7, 9], [7, 3, 0, 8]],
            [[7, 7, 1, 1], [3, 0, 8, 6], [4, 5, 6, 2], [5, 7, 8, 4]],
        ],
    ]
)
X_COL = np.array(
    [
        [5, 8, 0, 0],
        [4, 7, 1, 7],
        [8, 8, 8, 7],
        [9, 5, 1, 7],
        [7, 9, 0, 6],
        [3, 9, 3, 6],
        [6, 9, 5, 2],
        [9, 9, 9, 1],
        [5, 1, 4, 8],
        [2, 4, 4, 2],
        [7, 6, 0, 1],
        [9, 3, 1, 4],
        [0, 3, 0, 4],
        [7, 4, 3, 6],
        [7, 7, 3, 0],
        [9, 2, 9, 2],
        [5, 9, 8, 0],
        [1, 1, 8, 6],
        [7, 7, 6, 9],
        [2, 7, 7, 3],
        [4, 5, 5, 7],
        [9, 8, 3, 7],
        [7, 9, 0, 8],
        [6, 2, 8, 4],
    ]
)
Y_FLAT = np.array([8, 7, 8, 9, 9, 9, 9, 9, 8, 4, 7, 9, 4, 7, 7, 9, 9, 8, 9, 7, 7, 9, 9, 8])
Y = np.array(
    [
        [
            [[8, 9], [9, 4]],
            [[7, 9], [9, 7]],
            [[8, 9], [8, 9]],
        ],
        [
            [[4, 9], [9, 9]],
            [[7, 9], [7, 9]],
            [[7, 8], [7, 8]],
        ],
    ]
)
MAX_INDEX = np.array([1, 1, 0, 0, 1, 1, 1, 0, 3, 1, 0, 0, 3, 0, 0, 0, 1, 2, 3, 1, 3, 0, 1, 2])
DX_TAPS = np.array(
    [
        [0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0],
    ]
)
DX_COLUMNS = np.array(
    [
        [0, 1, 0, 0, 0, 1, 0, 1],
        [1, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 1, 0],
        [0, 0, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 1, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 1],
        [0, 0, 1, 0, 0, 0, 1, 0],
    ]
)
DX = np.array(
    [
        [
            [[0, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]],
            [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]],
            [[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]],
        ],
        [
            [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]],
            [[1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]],
            [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0]],
        ],
    ]
)
# fmt: on


def test_im2col(implementation):
    x_col = implementation.im2col(X, 2, 2, 2, 0).T.reshape(-1, 4)
    same_bits(x_col, X_COL.astype(float))


def test_values_of_the_columns(implementation):
    x_col = implementation.im2col(X, 2, 2, 2, 0).T.reshape(-1, 4)
    y = np.max(x_col, axis=1)
    same_bits(y, Y_FLAT.astype(float))
    same_bits(y.reshape(2, 2, 2, 3).transpose(0, 3, 1, 2), Y.astype(float))
    same_bits(np.argmax(x_col, axis=1), MAX_INDEX)


def test_col2im(implementation):
    pool = implementation.Pooling(2)
    y = pool.forward(X)
    dy = np.ones(y.shape).transpose(0, 2, 3, 1)
    dx = np.zeros((2 * 2, dy.size))
    dx[pool.max_index.reshape(-1), np.arange(dy.size)] = dy.reshape(-1)
    same_bits(dx, DX_TAPS.astype(float))
    dx = dx.reshape(2, 2, 2, 2, 2, 3).transpose(5, 0, 1, 2, 3, 4).reshape(3 * 2 * 2, 2 * 2 * 2)
    same_bits(dx, DX_COLUMNS.astype(float))
    same_bits(implementation.col2im(dx, X.shape, 2, 2, 2, 0), DX.astype(float))


def test_pooling(implementation):
    pool = implementation.Pooling(2)
    y = pool.forward(X)
    same_bits(y, Y.astype(float))
    same_bits(pool.y, y)
    same_bits(pool.max_index, MAX_INDEX)
    dx = pool.backward(np.ones(y.shape))
    same_bits(dx, DX.astype(float))
    same_bits(pool.dx, dx)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_max_pool2d_says_the_same(implementation, dtype):
    y, argmax = implementation.max_pool2d(X.astype(dtype), 2, return_argmax=True)
    same_bits(y, Y.astype(dtype))
    same_bits(argmax.transpose(0, 2, 3, 1).reshape(-1), MAX_INDEX.astype(np.uint8))
    same_bits(implementation.max_pool2d_backward(np.ones_like(y), argmax, X.shape, 2), DX.astype(dtype))
