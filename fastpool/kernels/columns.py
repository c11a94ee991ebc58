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
from fastpool.kernels.geometry import axis, ceil_div, layout, plane_offset
from fastpool.kernels.launch import inline, kernel


@kernel()
def unfold(start, stop, geometry, x, cols):
    """Fill the rows from start to stop, counted over planes, places of the kernel and output rows.

    x has the shape (A, B, H, W), cols (A, B, taps, OH * OW), contiguous along the last axis.
    """
    h, w = axis(geometry, 0), axis(geometry, 1)
    d = simd.tag(x)
    lanes = simd.lanes(d)
    source, blocks = layout(x), layout(cols)
    end = source.end
    zero = simd.splat(d, 0)
    taps = h.places * w.places
    image, result = simd.pointer(x), simd.pointer(cols)

    row = start
    while row < stop:
        # One plane and place of the kernel: `count` rows from `first` on, written as one run.
        tap, first = row // h.output % taps, row % h.output
        plane = row // (h.output * taps)
        count = min(h.output - first, stop - row)
        base = plane_offset(source, plane)
        into = plane_offset(blocks, plane) + tap * blocks.row_step
        limit = into + (first + count) * w.output
        column = tap % w.places * w.dilation - w.before
        inside = min(w.output, max(0, ceil_div(-column, w.stride)))
        outside = max(inside, min(w.output, (w.input - 1 - column) // w.stride + 1))
        for out in range(first, first + count):
            at = into + out * w.output
            y = out * h.stride - h.before + tap // w.places * h.dilation
            last = outside if 0 <= y < h.input else inside
            for i in range(0, inside, lanes):
                simd.store_before(result, at + i, zero, limit)
            offset = base + y * source.row_step + column
            if w.stride == 1:
                for i in range(inside, last, lanes):
                    v = simd.load_between(d, image, offset + i, 0, end - offset - i)
                    simd.store_before(result, at + i, v, limit)
            elif w.stride == 2:
                for i in range(inside, last, lanes):
                    place = offset + 2 * i
                    v = simd.load_between(simd.widened(d, 2), image, place, 0, end - place)
                    simd.store_before(result, at + i, simd.every(d, v, 2, 0), limit)
            else:
                for i in range(inside, last):
                    result[at + i] = image[offset + i * w.stride]
            for i in range(last, w.output, lanes):
                simd.store_before(result, at + i, zero, limit)
        row += count


@inline
def interleave(d, phases, pitch, stride, result, into, count, limit):
    """Write a row of `count` elements whose phases are `pitch` apart; nothing to be done at stride 1."""
    lanes = simd.lanes(d)
    if stride == 2:
        for i in range(0, count, 2 * lanes):
            a, b = simd.load(d, phases, i // 2), simd.load(d, phases, pitch + i // 2)
            simd.store_before(result, into + i, simd.zip_lower(a, b), limit)
            if i + lanes < count:
                simd.store_before(result, into + i + lanes, simd.zip_upper(a, b), limit)
    elif stride > 2:
        for phase in range(stride):
            for i in range(ceil_div(count - phase, stride)):
                result[into + i * stride + phase] = phases[phase * pitch + i]


@kernel()
def accumulate(start, stop, geometry, cols, dx):
    """Sum up the rows of dx (A, B, H, W) from start to stop, counted over its planes.

    cols has the shape (A, B, taps, OH * OW), contiguous along the last axis.
    """
    h, w = axis(geometry, 0), axis(geometry, 1)
    d = simd.tag(cols)
    lanes = simd.lanes(d)
    blocks = layout(cols)
    end = blocks.end
    columns, result = simd.pointer(cols), simd.pointer(dx)
    places = ceil_div(w.input, w.stride)

    # Of every phase (column modulo stride) the places of the kernel that meet it, how far they shift it,
    # and the lane in which their row ends, if lanes of the result are past it.
    met = np.zeros(w.stride, np.int64)
    tables = np.empty((3, w.stride * w.kernel), np.int64)
    tap_of, shift_of, end_of = simd.pointer(tables), simd.pointer(tables[1]), simd.pointer(tables[2])
    for phase in range(w.stride):
        for k in range(w.kernel):
            column = phase + w.before - k * w.dilation
            if column % w.stride == 0:
                shift = column // w.stride
                t = phase * w.kernel + met[phase]
                tap_of[t], shift_of[t] = k, shift
                end_of[t] = w.output - shift if places + shift > w.output else places + lanes
                met[phase] += 1
    # The same of a row, made anew for each.
    row_tables = np.empty((2, h.kernel), np.int64)
    row_tap, row_at = simd.pointer(row_tables), simd.pointer(row_tables[1])
    pitch = places + lanes
    sums_scratch = simd.scratch(d, pitch * w.stride if w.stride > 1 else 0)
    sums = simd.pointer(sums_scratch)

    plane, y = start // h.input, start % h.input
    plane_at = plane_offset(blocks, plane)
    for row in range(start, stop):
        out, rest = (y + h.before) // h.stride, (y + h.before) % h.stride
        rows_met = 0
        for k in range(h.kernel):
            if rest == 0 and 0 <= out < h.output:
                row_tap[rows_met] = k * w.places
                row_at[rows_met] = out * w.output
                rows_met += 1
            rest -= h.dilation
            if rest < 0:
                steps = ceil_div(-rest, h.stride)
                rest += steps * h.stride
                out -= steps
        for phase in range(w.stride):
            for i in range(0, places, lanes):
                total = simd.splat(d, 0)
                for r in range(rows_met):
                    for t in range(phase * w.kernel, phase * w.kernel + met[phase]):
                        j = i + shift_of[t]
                        at = plane_at + (row_tap[r] + tap_of[t]) * blocks.row_step + row_at[r] + j
                        # A row's first and last lanes may be another's; past its result they do no harm.
                        total = total + simd.load_between(d, columns, at, -j, min(end_of[t] - i, end - at))
                if w.stride == 1:
                    simd.store_before(result, row * w.input + i, total, stop * w.input)
                else:
                    simd.store(sums, phase * pitch + i, total)
        interleave(d, sums, pitch, w.stride, result, row * w.input, w.input, stop * w.input)
        y += 1
        if y == h.input:
            y = 0
            plane += 1
            plane_at = plane_offset(blocks, plane)
    simd.keep((tables, row_tables, sums_scratch))
