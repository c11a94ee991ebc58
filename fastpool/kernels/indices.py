"""Positions in a window and positions in the plane of the input."""

from __future__ import annotations

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.geometry import axis
from fastpool.kernels.launch import kernel


@kernel()
def argmax_to_indices(start, stop, geometry, argmax, indices):
    """Turn the rows of argmax (N, C, OH, OW) from start to stop into positions in planes of H * W elements."""
    h, w = axis(geometry, 0), axis(geometry, 1)
    positions, result = simd.pointer(argmax), simd.pointer(indices)
    for row in range(start, stop):
        top = row % h.output * h.stride - h.before
        for i in range(w.output):
            k = np.int64(positions[row * w.output + i])
            y, x = k // w.places, k % w.places
            column = i * w.stride - w.before + x * w.dilation
            result[row * w.output + i] = (top + y * h.dilation) * w.input + column
