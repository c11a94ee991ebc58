"""Windows laid out as columns, and back: the linear map under im2col and unfold, and its adjoint.

`unfold` copies: a row of one place of the kernel is a run of the input, every stride-th element. It
writes in order and reads a plane again for every place of the kernel while it is in cache.

`accumulate` is the adjoint turned inside out: not "add every column where it came from", which reads
and writes the result once a place, but "add up, for every element, the columns that came from it".
Every element is written once, nothing needs to be zeroed, and the sum has the order of the kernel. The
elements of a row whose columns agree modulo the stride are neighbours in every column, so that
they are vectors; only a stride of 3 or more deals them out one by one.
"""

from __future__ import annotations

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.geometry import axis, ceil_div, plane_offset, readable_end
from fastpool.kernels.launch import Kernel, inline


@Kernel
def unfold(start, stop, geometry, x, cols):
    """Fill the rows from start to stop, counted over planes, places of the kernel and output rows.

    x has the shape (A, B, H, W), cols (A, B, taps, OH * OW), contiguous along the last axis.
    """
    h, w = axis(geometry, 0), axis(geometry, 1)
    d = simd.tag(x)
    lanes = simd.lanes(d)
    item = x.itemsize
    row_step = x.strides[2] // item
    end = readable_end(x, item)
    zero = simd.splat(d, 0)
    taps = h.places * w.places

    row = start
    while row < stop:
        # One plane and place of the kernel: `count` rows from `first` on, written as one run.
        tap, first = row // h.output % taps, row % h.output
        plane = row // (h.output * taps)
        count = min(h.output - first, stop - row)
        source = plane_offset(x, plane, item)
        into = plane_offset(cols, plane, item) + tap * (cols.strides[2] // item)
        limit = into + (first + count) * w.output
        column = tap % w.places * w.dilation - w.before
        inside = min(w.output, max(0, ceil_div(-column, w.stride)))
        outside = max(inside, min(w.output, (w.input - 1 - column) // w.stride + 1))
        for out in range(first, first + count):
            at = into + out * w.output
            y = out * h.stride - h.before + tap // w.places * h.dilation
            last = outside if 0 <= y < h.input else inside
            for i in range(0, inside, lanes):
                simd.store_before(cols, at + i, zero, limit)
            offset = source + y * row_step + column
            if w.stride == 1:
                for i in range(inside, last, lanes):
                    v = simd.load_between(d, x, offset + i, 0, end - offset - i)
                    simd.store_before(cols, at + i, v, limit)
            elif w.stride == 2:
                for i in range(inside, last, lanes):
                    place = offset + 2 * i
                    a = simd.load_between(d, x, place, 0, end - place)
                    b = simd.load_between(d, x, place + lanes, 0, end - place - lanes)
                    simd.store_before(cols, at + i, simd.even(a, b), limit)
            else:
                for i in range(inside, last):
                    simd.put(cols, at + i, simd.get(x, offset + i * w.stride))
            for i in range(last, w.output, lanes):
                simd.store_before(cols, at + i, zero, limit)
        row += count


@inline
def sent(d, dp, cols, at, argmax, argmax_at, k, column, columns):
    """What place k of the kernel sends to a vector of elements: a row of cols from `column` on.

    With an argmax, cols is the gradient of the output, sent where the argmax is k. What lies outside
    of the row is zero.
    """
    v = simd.load_between(d, cols, at + column, -column, columns - column)
    if argmax is None:
        return v
    chosen = simd.load_between(dp, argmax, argmax_at + column, -column, columns - column)
    return simd.select(chosen == simd.splat(dp, k), v, simd.splat(d, 0))


@Kernel
def accumulate(start, stop, geometry, cols, argmax, dx):
    """Sum up the rows of dx (A, B, H, W) from start to stop, counted over its planes.

    cols has the shape (A, B, taps, OH * OW); or, with an argmax, both have (A, B, OH, OW).
    """
    h, w = axis(geometry, 0), axis(geometry, 1)
    d = simd.tag(cols)
    dp = simd.position_tag(d, argmax)
    lanes = simd.lanes(d)
    item = cols.itemsize
    tap_step = cols.strides[2] // item if argmax is None else 0
    plane_size = h.output * w.output
    places = ceil_div(w.input, w.stride)

    # Of every phase (column modulo stride) the places of the kernel that meet it, and how far they shift it.
    met = np.zeros(w.stride, np.int64)
    tap_of = np.empty((w.stride, w.kernel), np.int64)
    shift_of = np.empty((w.stride, w.kernel), np.int64)
    for k in range(w.kernel):
        for phase in range(w.stride):
            column = phase + w.before - k * w.dilation
            if column % w.stride == 0:
                tap_of[phase, met[phase]] = k
                shift_of[phase, met[phase]] = column // w.stride
                met[phase] += 1
    # The same of a row, made anew for each.
    row_tap = np.empty(h.kernel, np.int64)
    row_at = np.empty(h.kernel, np.int64)
    pitch = places + lanes
    sums = simd.scratch(d, pitch * w.stride if w.stride > 1 else 0)

    for row in range(start, stop):
        plane = row // h.input
        cols_at = plane_offset(cols, plane, item)
        out, rest = divmod(row - plane * h.input + h.before, h.stride)
        rows_met = 0
        for k in range(h.kernel):
            if rest == 0 and 0 <= out < h.output:
                row_tap[rows_met] = k * w.places
                row_at[rows_met] = out * w.output
                rows_met += 1
            rest -= h.dilation
            while rest < 0:
                rest += h.stride
                out -= 1
        for phase in range(w.stride):
            for i in range(0, places, lanes):
                total = simd.splat(d, 0)
                for r in range(rows_met):
                    for t in range(met[phase]):
                        k = row_tap[r] + tap_of[phase, t]
                        total = total + sent(
                            d, dp, cols, cols_at + k * tap_step + row_at[r],
                            argmax, plane * plane_size + row_at[r], k, i + shift_of[phase, t], w.output,
                        )  # fmt: skip
                if w.stride == 1:
                    simd.store_before(dx, row * w.input + i, total, stop * w.input)
                else:
                    simd.store(sums, phase * pitch + i, total)
        if w.stride == 2:
            for i in range(0, places, lanes):
                a, b = simd.load(d, sums, i), simd.load(d, sums, pitch + i)
                at = row * w.input + 2 * i
                simd.store_before(dx, at, simd.zip_lower(a, b), stop * w.input)
                if 2 * i + lanes < w.input:
                    simd.store_before(dx, at + lanes, simd.zip_upper(a, b), stop * w.input)
        elif w.stride > 2:
            for i in range(w.input):
                simd.put(dx, row * w.input + i, sums[i % w.stride * pitch + i // w.stride])
