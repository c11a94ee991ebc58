"""Positions in a window and positions in the plane of the input."""

from __future__ import annotations

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.geometry import axis
from fastpool.kernels.launch import kernel


@kernel()
def argmax_to_indices(start, stop, geometry, argmax, indices):
    """Turn the rows of argmax (N, C, OH, OW * channels) from start to stop into positions in planes of H * W."""
    h, w = axis(geometry, 1), axis(geometry, 2)
    positions, result = simd.pointer(argmax), simd.pointer(indices)
    channels = argmax.shape[3] // w.output
    for row in range(start, stop):
        top = row % h.output * h.stride - h.before
        for i in range(w.output):
            for at in range((row * w.output + i) * channels, (row * w.output + i + 1) * channels):
                k = np.int64(positions[at])
                y, x = k // w.places, k % w.places
                result[at] = (top + y * h.dilation) * w.input + i * w.stride - w.before + x * w.dilation
