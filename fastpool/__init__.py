"""Pooling for NumPy arrays at the speed of the machine's memory.

Examples
--------
>>> import numpy as np
>>> import fastpool
>>> fastpool.max_pool2d(np.arange(16.0).reshape(4, 4), 2)
array([[ 5.,  7.],
       [13., 15.]])
"""

from fastpool.functional import (
    argmax_to_indices,
    avg_pool1d,
    avg_pool1d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool3d,
    avg_pool3d_backward,
    col2im,
    fold,
    im2col,
    indices_to_argmax,
    lp_pool1d,
    lp_pool1d_backward,
    lp_pool2d,
    lp_pool2d_backward,
    lp_pool3d,
    lp_pool3d_backward,
    max_pool1d,
    max_pool1d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_pool3d,
    max_pool3d_backward,
    unfold,
)
from fastpool.layers import Pooling

__version__ = "0.1.0"
__all__ = [
    "Pooling",
    "__version__",
    "argmax_to_indices",
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
    "col2im",
    "fold",
    "im2col",
    "indices_to_argmax",
    "lp_pool1d",
    "lp_pool1d_backward",
    "lp_pool2d",
    "lp_pool2d_backward",
    "lp_pool3d",
    "lp_pool3d_backward",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool3d",
    "max_pool3d_backward",
    "unfold",
]
