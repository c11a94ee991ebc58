"""Positions in a window and positions in the plane of the input."""

from __future__ import annotations

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.geometry import axes
from fastpool.kernels.launch import kernel


@kernel()
def argmax_to_indices(start, stop, geometry, argmax, indices):
    """Turn the rows of argmax (A, B, OD * OH, OW * channels) from start to stop into positions in planes.

    What is on padding, or outside of the window, becomes -1.
    """
    z, h, w = axes(geometry)
    positions, result = simd.pointer(argmax), simd.pointer(indices)
    channels = argmax.shape[3] // w.output
    places = z.places * h.places * w.places
    for row in range(start, stop):
        deep, top = row // h.output % z.output * z.stride - z.before, row % h.output * h.stride - h.before
        for i in range(w.output):
            side = i * w.stride - w.before
            for at in range((row * w.output + i) * channels, (row * w.output + i + 1) * channels):
                k = np.int64(positions[at])
                number = deep + k // w.places // h.places * z.dilation
                line = top + k // w.places % h.places * h.dilation
                column = side + k % w.places * w.dilation
                inside = 0 <= k < places and 0 <= number < z.input and 0 <= line < h.input and 0 <= column < w.input
                result[at] = (number * h.input + line) * w.input + column if inside else -1


@kernel(writes=2)
def indices_to_argmax(start, stop, geometry, indices, argmax, found):
    """Turn the rows of indices (A, B, OD * OH, OW * channels) from start to stop into positions in windows.

    Set found[0] if one is outside of its plane, found[1] if one is outside of its window.
    """
    z, h, w = axes(geometry)
    positions, result, flags = simd.pointer(indices), simd.pointer(argmax), simd.pointer(found)
    channels = argmax.shape[3] // w.output
    for row in range(start, stop):
        deep, top = row // h.output % z.output * z.stride - z.before, row % h.output * h.stride - h.before
        for i in range(w.output):
            side = i * w.stride - w.before
            for at in range((row * w.output + i) * channels, (row * w.output + i + 1) * channels):
                k = positions[at]
                number, line, column = k // w.input // h.input - deep, k // w.input % h.input - top, k % w.input - side
                if not 0 <= k < z.input * h.input * w.input:
                    flags[0] = 1
                elif (
                    number % z.dilation == line % h.dilation == column % w.dilation == 0
                    and 0 <= number // z.dilation < z.places
                    and 0 <= line // h.dilation < h.places
                    and 0 <= column // w.dilation < w.places
                ):
                    place = number // z.dilation * h.places + line // h.dilation
                    result[at] = place * w.places + column // w.dilation
                else:
                    flags[1] = 1
