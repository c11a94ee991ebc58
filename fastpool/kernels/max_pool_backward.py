"""Max pooling backward: every gradient goes to the element that its maximum came from.

`scatter` sets a plane, or a volume, to zero and adds to it, while it is in cache, one gradient at a time. Going
through the outputs backwards, an element gets its gradients in the order of the kernel's places, as the
notebook's col2im adds them. A position of one byte is looked up for its distance from the place of its
window; only windows that reach over an edge, or out of the rows that are being computed, check it.

`route` is for windows side by side, two columns apart, where an element has one window at most: it asks every element
whether that window chose it, and writes the result once, in vectors: of long rows in half of the time.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.geometry import axis, ceil_div, layout, plane_offset
from fastpool.kernels.launch import Kernel, inline, kernel


@kernel()
def route(start, stop, geometry, dy, argmax, dx):
    """Compute the rows of dx (N, C, H, W) from start to stop, counted over its planes.

    Windows are side by side from the first element on, two columns apart. Vectors run over the ends of rows, into what
    the next one overwrites.
    """
    h, w = axis(geometry, 1), axis(geometry, 2)
    d = simd.tag(dy)
    dp = simd.position_tag(d, argmax)
    lanes = simd.lanes(d)
    given = layout(dy)
    gradients, positions, result = simd.pointer(dy), simd.pointer(argmax), simd.pointer(dx)
    zero, nothing = simd.splat(d, 0), simd.scalar(d, 0)
    limit, end_at = stop * w.input, argmax.size
    row = start
    while row < stop:
        plane, y = row // h.input, row % h.input
        out, place = y // h.stride, y % h.stride
        source, at = plane_offset(given, plane) + out * given.row_step, (plane * h.output + out) * w.output
        for row in range(row, min(stop, (plane + 1) * h.input)):  # noqa: B020
            into = row * w.input
            outputs = w.output if out < h.output and place < h.places else 0
            left, right = simd.splat(dp, place * w.places), simd.splat(dp, place * w.places + 1)
            for j in range(0, outputs, lanes):
                simd.rolled()
                p = simd.load_between(dp, positions, at + j, 0, end_at - at - j)
                # Added, as it is everywhere else: -0.0 becomes 0.0.
                v = simd.load_between(d, gradients, source + j, 0, given.end - source - j) + zero
                even, odd = simd.select(p == left, v, zero), zero
                if w.places > 1:
                    odd = simd.select(p == right, v, zero)
                simd.store_before(result, into + 2 * j, simd.zip_lower(even, odd), limit)
                if 2 * j + lanes < w.input:
                    simd.store_before(result, into + 2 * j + lanes, simd.zip_upper(even, odd), limit)
            for i in range(into + 2 * outputs, into + w.input):
                simd.rolled()
                simd.store_scalar(result, i, nothing)
            place += 1
            if place == h.stride:
                place = 0
                out += 1
                source += given.row_step
                at += w.output
        row += 1


#: Kernels of up to so many places have a table of them.
LOOKED_UP = 4096
#: Planes of up to so many elements, with their padding, are added up in scratch; or volumes, more of which is edge, and
#: pixels of some channels, whose rows cost more.
PLANE, VOLUME = 1 << 12, 1 << 14
#: So many elements of a plane are added up in scratch, where halves are.
BAND = 1 << 14
#: So many bytes of a plane are set to zero at once: less would wait for memory, more would not stay in cache.
CLEARED = 1 << 19


@inline
def clear(d, x, first, last):
    """Set x[first:last] to zero, from the end."""
    zero = simd.splat(d, 0)
    lanes = simd.lanes(d)
    for i in range(last - lanes, first - 1, -lanes):
        simd.store(x, i, zero)
    simd.store_before(x, first, zero, min(last, first + (last - first) % lanes))


@inline
def target(argmax, at, starts, offsets, i):
    """Return where gradient number i goes."""
    return starts[i] + offsets[argmax[at + i]]


@inline
def add_planes(d, dy, argmax, source, at, count, starts, offsets, sums, alone):
    """Add the gradients of some planes, last to first, to planes of zeros that have room for all of every window.

    Where every window is `alone`, what an element gets is written: an addition would wait for the last one. Four places
    are looked up before the first is written to: a load may wait until the CPU knows where earlier stores go.
    """
    zero = simd.scalar(d, 0)
    rest = count % 4
    for i in range(count - 4, rest - 1, -4):
        e, c = target(argmax, at, starts, offsets, i + 3), target(argmax, at, starts, offsets, i + 2)
        b, a = target(argmax, at, starts, offsets, i + 1), target(argmax, at, starts, offsets, i)
        if alone:
            sums[e] = simd.load_scalar(dy, source + i + 3) + zero
            sums[c] = simd.load_scalar(dy, source + i + 2) + zero
            sums[b] = simd.load_scalar(dy, source + i + 1) + zero
            sums[a] = simd.load_scalar(dy, source + i) + zero
        else:
            sums[e] += simd.load_scalar(dy, source + i + 3)
            sums[c] += simd.load_scalar(dy, source + i + 2)
            sums[b] += simd.load_scalar(dy, source + i + 1)
            sums[a] += simd.load_scalar(dy, source + i)
    for i in range(rest - 1, -1, -1):
        sums[target(argmax, at, starts, offsets, i)] += simd.load_scalar(dy, source + i)


@inline
def add_inside(dy, argmax, source, at, first, last, offsets, dx, into, stride, channels):
    """Add the gradients of a row of outputs, last to first, whose windows are all in our rows."""
    if channels == 1:
        for i in range(last - 1, first - 1, -1):
            dx[into + i * stride + offsets[argmax[at + i]]] += simd.load_scalar(dy, source + i)
    else:
        for i in range(last // channels - 1, first // channels - 1, -1):
            for j in range(i * channels, (i + 1) * channels):
                dx[into + i * (stride - 1) * channels + j + offsets[argmax[at + j]]] += simd.load_scalar(dy, source + j)


class Table(NamedTuple):
    """Of every place of a window how far it is from the first one, as pointers."""

    slices: Any
    rows: Any
    columns: Any


@inline
def add_at_edge(dy, argmax, source, at, first, last, table, z, h, w, channels, front, y, top, bottom, dx, into):
    """The same, leaving out what is on padding or in rows other than those from top to bottom."""
    for i in range(last - 1, first - 1, -1):
        k = np.int64(argmax[at + i])
        if z.places * h.places * w.places <= LOOKED_UP:
            depth, row, column = table.slices[k], table.rows[k], table.columns[k]
        else:
            depth, row = k // w.places // h.places * z.dilation, k // w.places % h.places * h.dilation
            column = k % w.places * w.dilation
        depth += front
        row += y
        column += i // channels * w.stride - w.before
        if 0 <= depth < z.input and 0 <= row < h.input and 0 <= column < w.input:
            row += depth * h.input
            if top <= row < bottom:
                dx[into + (row * w.input + column) * channels + i % channels] += simd.load_scalar(dy, source + i)


@cache
def scatter(of_pixels: bool) -> Kernel:
    """Return the kernel for arrays whose channels are first, or for those whose few channels are last."""

    def body(start, stop, geometry, dy, argmax, dx):
        """Compute the rows of dx (A, B, D * H, W * channels) from start to stop, counted over its planes."""
        z, h, w = axis(geometry, 0), axis(geometry, 1), axis(geometry, 2)
        d = simd.tag(dy)
        lanes = simd.lanes(d)
        given = layout(dy)
        gradients, positions, result = simd.pointer(dy), simd.pointer(argmax), simd.pointer(dx)
        zero = simd.splat(d, 0)
        # From the first place of a window to the last.
        back, down, across = (z.places - 1) * z.dilation, (h.places - 1) * h.dilation, (w.places - 1) * w.dilation
        channels = dx.shape[3] // w.input if of_pixels else 1  # as a constant it spares a tenth
        line, out_line = w.input * channels, w.output * channels
        rows, out_rows = z.input * h.input, z.output * h.output
        outputs = out_rows * out_line
        # A plane with all that its windows cover, if that is small.
        depth = max(z.input + z.before, (z.output - 1) * z.stride + back + 1)
        height = max(h.input + h.before, (h.output - 1) * h.stride + down + 1)
        width = max(w.input + w.before, (w.output - 1) * w.stride + across + 1)
        taps = z.places * h.places * w.places
        looked_up = taps <= LOOKED_UP
        alone = z.places <= z.stride and h.places <= h.stride and w.places <= w.stride
        alone = alone and z.dilation == h.dilation == w.dilation == 1
        small = PLANE if z.input == 1 and channels == 1 else VOLUME
        padded = looked_up and given.row_step == out_line
        padded = padded and depth <= small and height <= small // depth
        padded = padded and width * channels <= small // (depth * height)
        # Otherwise, the columns of outputs whose windows are inside the input.
        inner = min(w.output, ceil_div(w.before, w.stride))
        outer = max(inner, min(w.output, (w.input - 1 - across + w.before) // w.stride + 1))
        if not looked_up:
            inner, outer = w.output, w.output

        tables = np.empty((4, taps if looked_up else 0), np.int64)
        table = Table(simd.pointer(tables), simd.pointer(tables[1:]), simd.pointer(tables[2:]))
        offsets = simd.pointer(tables[3:])
        wide, high = (width, height) if padded else (w.input, h.input)
        for k in range(taps if looked_up else 0):
            table.slices[k] = k // w.places // h.places * z.dilation
            table.rows[k] = k // w.places % h.places * h.dilation
            table.columns[k] = k % w.places * w.dilation
            offsets[k] = ((table.slices[k] * high + table.rows[k]) * wide + table.columns[k]) * channels
        size = depth * height * width * channels
        exact = padded and depth == z.input and height == h.input and width == w.input
        # Halves are summed in float32, some rows at a time.
        halves = simd.halves(result)
        band = rows
        if halves is not None:
            exact = False
            band = max(1, BAND // line)
        # Small planes are taken some at a time.
        many = 1
        if padded and given.inner_step == outputs and given.outer_step == given.inner * given.inner_step:
            many = max(1, small // max(size, outputs))
        starts_table = np.empty(many * outputs if padded else 0, np.int32)
        kept = many * size if padded else 0 if halves is None else band * line
        sums_scratch = simd.scratch(d, 0 if exact else kept + lanes)
        starts, sums = simd.pointer(starts_table), simd.pointer(sums_scratch)
        added_to = simd.sums(result, sums)
        for out in range(many * out_rows if padded else 0):
            place = out // out_rows * depth * height
            place += out % out_rows // h.output * z.stride * height + out % h.output * h.stride
            for j in range(w.output):
                for channel in range(channels):
                    starts[(out * w.output + j) * channels + channel] = (
                        place * width + j * w.stride
                    ) * channels + channel

        # How many rows are set to zero at once, before they are added to.
        cleared_rows = CLEARED // (line * dx.itemsize)

        # Planes backwards too, and what is written from their ends: memory is read and written in one direction.
        row = stop
        while row > start:
            # The rows of one plane that are ours, and the windows that touch them.
            plane = (row - 1) // rows
            top, bottom = max(0, start - plane * rows), row - plane * rows
            if not padded:
                top = max(top, bottom - band)
            count = max(1, min(many, (row - start) // rows)) if padded and bottom == rows else 1
            if count > 1:
                top, plane = 0, plane - count + 1
            row = plane * rows + top
            into = plane * rows * line
            begins = into if halves is None else -top * line
            source, at = plane_offset(given, plane), plane * outputs
            if exact and bottom - top == rows:
                clear(d, added_to, into, into + count * rows * line)
                add_planes(
                    d, gradients, positions, source, at, count * outputs, starts, offsets,
                    simd.offset(added_to, into), alone,
                )  # fmt: skip
                continue
            if padded and not exact:
                for i in range(0, count * size, lanes):
                    simd.store(sums, i, zero)
                add_planes(d, gradients, positions, source, at, count * outputs, starts, offsets, sums, alone)
                # Vectors run over the ends of rows, into what the next one overwrites.
                behind = into + (bottom + (count - 1) * rows) * line
                for i in range(top // h.input, count * z.input if count > 1 else ceil_div(bottom, h.input)):
                    above = i // z.input * depth + i % z.input + z.before
                    above = (above * height + h.before - i * h.input) * width + w.before
                    for y in range(max(top, i * h.input), min(bottom + (count - 1) * rows, (i + 1) * h.input)):
                        for j in range(0, line, lanes):
                            simd.rolled()
                            v = simd.load(d, sums, (above + y * width) * channels + j)
                            simd.store_before(result, into + y * line + j, v, behind)
                continue
            cleared = bottom
            first = max(0, ceil_div(top // h.input + z.before - back, z.stride))
            last = min(z.output - 1, ((bottom - 1) // h.input + z.before) // z.stride)
            for out_slice in range(last, first - 1, -1):
                front = out_slice * z.stride - z.before
                # The first rows of the slices that windows begin and end in, as far as those are there.
                begin, end = max(0, front) * h.input, min(z.input - 1, front + back) * h.input
                whole = front >= 0 and front + back < z.input
                for out_row in range(h.output - 1, -1, -1):
                    y = out_row * h.stride - h.before
                    highest, lowest = begin + max(0, y), end + min(h.input - 1, y + down)
                    if lowest < top or highest >= bottom:
                        continue
                    if highest < cleared:
                        behind, cleared = cleared, max(top, min(highest, cleared - cleared_rows))
                        clear(d, added_to, begins + cleared * line, begins + behind * line)
                    left, right = inner * channels, outer * channels
                    if not whole or y < 0 or y + down >= h.input or highest < top or lowest >= bottom:
                        left, right = out_line, out_line
                    out = out_slice * h.output + out_row
                    from_row, at_row = source + out * given.row_step, at + out * out_line
                    add_at_edge(
                        gradients, positions, from_row, at_row, right, out_line, table, z, h, w, channels,
                        front, y, top, bottom, added_to, begins,
                    )  # fmt: skip
                    place = begins + ((front * h.input + y) * w.input - w.before) * channels
                    add_inside(
                        gradients, positions, from_row, at_row, left, right, offsets, added_to, place, w.stride,
                        channels,
                    )  # fmt: skip
                    add_at_edge(
                        gradients, positions, from_row, at_row, 0, left, table, z, h, w, channels,
                        front, y, top, bottom, added_to, begins,
                    )  # fmt: skip
            clear(d, added_to, begins + top * line, begins + cleared * line)
            if halves is not None:
                for i in range(0, (bottom - top) * line, lanes):
                    v = simd.load(d, sums, i)
                    simd.store_before(result, into + top * line + i, v, into + bottom * line)
        simd.keep((tables, starts_table, sums_scratch))

    body.__name__ = "scatter_pixels" if of_pixels else "scatter"
    return Kernel(body, writes=1)


@kernel()
def find_invalid(start, stop, geometry, argmax, found):
    """Set found[0] if, in the rows from start to stop, an argmax is outside of its window."""
    z, h, w = axis(geometry, 0), axis(geometry, 1), axis(geometry, 2)
    d = simd.tag(argmax)
    positions = simd.pointer(argmax)
    first, last = start * w.output, stop * w.output
    taps = z.places * h.places * w.places
    if taps - 1 < simd.highest(d):
        most = simd.splat(d, taps - 1)
        worst = most
        for i in range(first, last, simd.lanes(d)):
            worst = simd.maximum(simd.load_between(d, positions, i, 0, last - i), worst)
        if simd.any_lane(worst > most):
            simd.pointer(found)[0] = 1
