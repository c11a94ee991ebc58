"""Pooling to the norm of each window, (sum of abs(x)**p)**(1/p), and backward.

All is computed in float64, whatever floats are read and written: the square of a float32 may be beyond float32. A
tile (see `fastpool.kernels.tile`) is raised to the power once, however many windows share it, and summed as averages
are. The norms 1 and 2 have kernels of their own, of vectors; other powers are the C library's, at about
20 ns each, that of an element and that of a window.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from fastpool.kernels import simd, tile
from fastpool.kernels.avg_pool import plan_sums, sum_tile
from fastpool.kernels.compiled import inline
from fastpool.kernels.fold import deal_out
from fastpool.kernels.geometry import axes, ceil_div, layout, lines_meeting, plane_offset
from fastpool.kernels.launch import Kernel


@cache
def lp_pool(norm: int) -> Kernel:
    """Return the kernel for norm 1, norm 2, or, of 0, any norm."""

    @inline
    def raised(v, p):
        """Return the magnitudes of v to the power p."""
        if norm == 1:
            return simd.absolute(v)
        if norm == 2:
            return v * v
        return simd.power(simd.absolute(v), p)

    @inline
    def root(v, p):
        """Return v to the power 1 / p."""
        if norm == 1:
            return v
        if norm == 2:
            return simd.square_root(v)
        return simd.power(v, 1 / p)

    @inline
    def reduce(values, positions, t, used, careful, more):
        """Raise all elements to the power, and sum them."""
        d, offsets, h, w, p = more
        for phase in range(t.slices * t.row_phases * t.column_phases):
            for i in range(phase * t.size, phase * t.size + used, simd.lanes(d)):
                simd.store(values, i, raised(simd.load(d, values, i), p))
        sum_tile(d, values, offsets, h, w, t, used)

    @inline
    def finish(values, positions, at, number, out, column, outputs, more):
        """Take the roots of a row of sums."""
        d, _, _, _, p = more
        for i in range(0, outputs, simd.lanes(d)):
            simd.store_before(values, at + i, root(simd.load(d, values, at + i), p), at + outputs)

    def body(start, stop, geometry, x, power, y):
        """Pool the output rows from start to stop, counted over all planes of x (N, C, D * H, W)."""
        z, h, w = axes(geometry)
        d = simd.doubles()
        t = tile.tile(z, h, w, stop - start, simd.lanes(d), 1)
        table = np.empty(w.kernel + h.kernel + t.slices, np.int64)
        offsets = simd.pointer(table)
        plan_sums(z, h, w, t, offsets)
        more = (d, offsets, h, w, simd.load_scalar(simd.pointer(power), 0))
        tile.sweep(start, stop, z, h, w, t, d, x, y, None, 0, reduce, finish, None, more)
        simd.keep((table,))

    body.__name__ = f"lp_pool-{norm}"
    return Kernel(body, writes=1)


@cache
def lp_pool_backward(norm: int) -> Kernel:
    """Return the kernel for norm 1, norm 2, or, of 0, any norm."""

    @inline
    def slope(d, x, y, p):
        """Return sign(x) * (abs(x) / y)**(p - 1), and zero where x or y is."""
        zero, one = simd.splat(d, 0), simd.splat(d, 1)
        sign = simd.select(x > zero, one, simd.select(x < zero, simd.splat(d, -1), x))
        if norm == 1:
            result = sign
        elif norm == 2:
            result = sign * (simd.absolute(x) / y)
        else:
            result = sign * simd.power(simd.absolute(x) / y, p - 1)
        return simd.select((x == zero) | (y == zero), zero, result)

    def body(start, stop, geometry, dy, x, y, power, dx):
        """Compute the rows of dx (N, C, D * H, W) from start to stop, counted over its planes.

        The elements of a row whose columns agree modulo the stride are neighbours in what their windows have.
        """
        z, h, w = axes(geometry)
        d = simd.doubles()
        lanes = simd.lanes(d)
        zero = simd.splat(d, 0)
        given, taken, pooled = layout(dy), layout(x), layout(y)
        gradients, elements, norms, result = simd.pointer(dy), simd.pointer(x), simd.pointer(y), simd.pointer(dx)
        p = simd.load_scalar(simd.pointer(power), 0)
        places = ceil_div(w.input, w.stride)
        pitch = places + lanes
        lines_table = np.empty(z.kernel * h.kernel, np.int64)
        row_scratch, sums_scratch = simd.scratch(d, pitch * w.stride), simd.scratch(d, pitch * w.stride)
        lines, here, sums = simd.pointer(lines_table), simd.pointer(row_scratch), simd.pointer(sums_scratch)
        for i in range(row_scratch.size):
            here[i] = 0
        for row in range(start, stop):
            plane, number, at = row // h.input // z.input, row // h.input % z.input, row % h.input
            met = lines_meeting(z, h, number, at, lines, None)
            source = plane_offset(taken, plane) + (number * h.input + at) * taken.row_step
            for i in range(w.input):
                here[i % w.stride * pitch + i // w.stride] = simd.load_scalar(elements, source + i)
            from_dy, from_y = plane_offset(given, plane), plane_offset(pooled, plane)
            for phase in range(w.stride):
                for i in range(0, places, lanes):
                    v, total = simd.load(d, here, phase * pitch + i), zero
                    for line in range(met):
                        for k in range(w.kernel):
                            column = phase + w.before - k * w.dilation
                            if column % w.stride == 0:
                                j = i + column // w.stride
                                share = simd.load_or(
                                    zero, gradients, from_dy + lines[line] * given.row_step + j, -j, w.output - j
                                )
                                size = simd.load_or(
                                    zero, norms, from_y + lines[line] * pooled.row_step + j, -j, w.output - j
                                )
                                total = total + share * slope(d, v, size, p)
                    simd.store(sums, phase * pitch + i, total)
            deal_out(d, sums, pitch, w.stride, result, row * w.input, w.input, stop * w.input)
        simd.keep((lines_table, row_scratch, sums_scratch))

    body.__name__ = f"lp_pool_backward-{norm}"
    return Kernel(body, writes=1)
