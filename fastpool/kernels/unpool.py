"""Max unpooling: every value goes back to where it was the maximum."""

from __future__ import annotations

from fastpool.kernels import simd
from fastpool.kernels.launch import kernel


@kernel()
def max_unpool(start, stop, geometry, y, indices, x):
    """Set the planes from start to stop of x to zero but for y, whose indices are positions in a plane.

    All are contiguous (1, planes, 1, elements); of several values with the same index the last one stays.
    """
    d = simd.tag(x)
    count, size = y.shape[3], x.shape[3]
    values, positions, result = simd.pointer(y), simd.pointer(indices), simd.pointer(x)
    zero = simd.splat(d, 0)
    for plane in range(start, stop):
        into, end = plane * size, (plane + 1) * size
        for i in range(into, end, simd.lanes(d)):
            simd.store_before(result, i, zero, end)
        for i in range(plane * count, (plane + 1) * count):
            result[into + positions[i]] = values[i]
