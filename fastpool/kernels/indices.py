"""Positions in a window and positions in the plane of the input."""

from __future__ import annotations

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.geometry import axes
from fastpool.kernels.launch import kernel


@kernel()
def argmax_to_indices(start, stop, geometry, argmax, indices):
    """Turn the rows of argmax (N, C, OD * OH, OW * channels) from start to stop into positions in planes."""
    z, h, w = axes(geometry)
    positions, result = simd.pointer(argmax), simd.pointer(indices)
    channels = argmax.shape[3] // w.output
    for row in range(start, stop):
        deep, top = row // h.output % z.output * z.stride - z.before, row % h.output * h.stride - h.before
        for i in range(w.output):
            for at in range((row * w.output + i) * channels, (row * w.output + i + 1) * channels):
                k = np.int64(positions[at])
                slice_, y, x = k // w.places // h.places, k // w.places % h.places, k % w.places
                line = (deep + slice_ * z.dilation) * h.input + top + y * h.dilation
                result[at] = line * w.input + i * w.stride - w.before + x * w.dilation
