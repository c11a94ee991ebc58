"""Average pooling, for small windows (see `fastpool.kernels.rows`), all others (`fastpool.kernels.tile`), and backward.

A window is summed through its slices, down and across, or each slice down, then these, then across: its error is at
most half a unit in the last place of the sum of the absolute values for each of depth + height + width additions,
where one sum after another would have depth * height * width of them. What is shared by neighbouring windows is not
added up once for all, but for whole slices: a running sum would carry its errors along the row.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from fastpool.kernels import rows, simd, tile
from fastpool.kernels.columns import deal_out
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import ONE, axes, ceil_div, layout, meet, places_inside, plane_offset
from fastpool.kernels.launch import Kernel, kernel
from fastpool.kernels.tile import SHARED


@inline
def add(a, b, careful):
    """Return a + b."""
    return a + b


@cache
def avg_pool(stride: int, many: int, deep: bool, kept: bool, long: bool) -> Kernel:
    """Return the kernel for windows `stride` columns apart, over three axes if deep or kept, in long rows if long.

    It reads `many` vectors at a time. See `fastpool.kernels.rows`.
    """

    @inline
    def across(d, row, taps):
        """Return the sums of neighbouring lanes."""
        total = simd.every(d, row, stride, 0)
        if taps > 1:
            total = total + simd.every(d, row, stride, 1)
        if taps > 2:
            total = total + simd.every(d, row, stride, 2)
        if taps > 3:
            total = total + simd.every(d, row, stride, 3)
        if taps > 4:
            total = total + simd.every(d, row, stride, 4)
        if taps > 5:
            total = total + simd.every(d, row, stride, 5)
        if taps > 6:
            total = total + simd.every(d, row, stride, 6)
        if taps > 7:
            total = total + simd.every(d, row, stride, 7)
        return total

    @inline
    def pool(elements, source, h, w, part, values, positions, careful, more):
        """Pool one vector of each row of a group."""
        d, heights, widths, lines, z = more
        zero = simd.splat(simd.widened(d, many), 0)
        one = simd.splat(d, 1)
        width = simd.load_or(one, widths, part.first, 0, w.output - part.first)
        plane, out, into, ahead = part.plane, part.out, part.into, part.ahead
        base, _, count = rows.window_slices(source, z, h.input, plane)
        line = (plane * h.output + out) % lines
        step, slice_step = h.dilation * source.row_step, z.dilation * h.input * source.row_step
        for _ in range(part.rows):
            for k in range(count):
                rows.ask(d, elements, ahead + k * slice_step, part.share)
            ahead += part.share
            top = out * h.stride - h.before
            first, last = places_inside(h, top)
            offset = base + part.column + (top + first * h.dilation) * source.row_step
            for j in range(part.vectors if long else 1):
                simd.rolled()
                at, target, column = offset + j * part.step * stride, into + j * part.step, part.first + j * part.step
                total = zero
                for i in range(count):
                    there = at + i * slice_step
                    rows_total = simd.load_where(part.inside, part.all_inside, zero, elements, there)
                    for _ in range(first + 1, last):
                        simd.rolled()
                        there += step
                        rows_total = rows_total + simd.load_where(part.inside, part.all_inside, zero, elements, there)
                    total = rows_total if i == 0 else total + rows_total
                if long:
                    width = simd.load_or(one, widths, column, 0, w.output - column)
                result = across(d, total, w.kernel) / (width * simd.splat(d, heights[line]))
                simd.store_first(values, target, result, part.outputs)
            into += w.output
            out += 1
            line += 1
            if out == h.output:
                out = 0
                plane += 1
                base, _, count = rows.window_slices(source, z, h.input, plane)
                line = line if line < lines else 0

    @inline
    def pool_rows(start, stop, h, w, elements, source, values, positions, more):
        """Pool rows of planes."""
        d = more[0]
        return rows.sweep(
            start, stop, more[4], h, w, d, simd.widened(d, many), elements, source, values, positions, pool, None, more,
            long,
        )  # fmt: skip

    def body(start, stop, geometry, x, heights, widths, y):
        """Average the windows of the output rows from start to stop, counted over all planes of x (N, C, D * H, W).

        Every window is divided by the product of the height of its row and the width of its column.
        """
        z, h, w = axes(geometry)
        d = simd.tag(x)
        more = (d, simd.pointer(heights), simd.pointer(widths), z.output * h.output, z if deep else ONE)
        if kept:
            rows.sweep_reduced(start, stop, z, h, w, d, x, y, pool_rows, more, add, None)
        else:
            pool_rows(start, stop, h, w, simd.pointer(x), layout(x), simd.pointer(y), None, more)

    body.__name__ = f"avg_pool-{stride}-{many}{'-deep' * deep}{'-kept' * kept}{'-long' * long}"
    return Kernel(body, writes=1)


@inline
def add_up(d, values, base, count, offsets, taps):
    """Add up the elements at `offsets` from each of `count` places, in place."""
    d = simd.widened(d, SHARED)
    end = base + count
    for i in range(base, end, simd.lanes(d)):
        total = simd.load(d, values, i + offsets[0])
        for k in range(1, taps):
            simd.rolled()
            total = total + simd.load(d, values, i + offsets[k])
        simd.store_before(values, i, total, end)


@inline
def plan_sums(z, h, w, t, offsets):
    """List how far the places of a window are apart in a tile: across, down and through the slices."""
    for k in range(w.kernel):
        offsets[k] = tile.distance(w, k, t.size, 1)
    for k in range(h.kernel):
        offsets[w.kernel + k] = tile.distance(h, k, t.column_phases * t.size, t.pitch)
    for k in range(t.slices):
        offsets[w.kernel + h.kernel + k] = k * t.slice_size


@inline
def sum_tile(d, values, offsets, h, w, t, used):
    """Add up across, for each phase of rows, then down, then through the slices."""
    count = used - (t.span - t.outputs)
    for phase in range(t.slices * t.row_phases):
        add_up(d, values, phase * t.column_phases * t.size, count, offsets, w.kernel)
    count -= t.extra * t.pitch
    for number in range(t.slices):
        add_up(d, values, number * t.slice_size, count, simd.offset(offsets, w.kernel), h.kernel)
    if t.slices > 1:
        add_up(d, values, 0, count, simd.offset(offsets, w.kernel + h.kernel), t.slices)


@inline
def reduce(values, positions, t, used, careful, more):
    """Add up all windows."""
    d, offsets, h, w, _, _ = more
    sum_tile(d, values, offsets, h, w, t, used)


@inline
def finish(values, positions, at, number, out, column, outputs, more):
    """Divide a row of sums."""
    d, _, h, _, heights, widths = more
    height = simd.splat(d, heights[number * h.output + out])
    one = simd.splat(d, 1)
    for i in range(0, outputs, simd.lanes(d)):
        width = simd.load_or(one, widths, column + i, 0, outputs - i)
        simd.store_before(values, at + i, simd.load(d, values, at + i) / (width * height), at + outputs)


@kernel()
def avg_pool_large(start, stop, geometry, x, heights, widths, y):
    """Do what `avg_pool` does for windows of any kind."""
    z, h, w = axes(geometry)
    d = simd.tag(x)
    t = tile.tile(z, h, w, stop - start, simd.lanes(d), 1)
    table = np.empty(w.kernel + h.kernel + t.slices, np.int64)
    offsets = simd.pointer(table)
    plan_sums(z, h, w, t, offsets)
    more = (d, offsets, h, w, simd.pointer(heights), simd.pointer(widths))
    tile.sweep(start, stop, z, h, w, t, d, x, y, None, 0, reduce, finish, None, more)
    simd.keep((table,))


#: So many different rows are added up at a time.
BAND = 8


@inline
def alike(a, element):
    """Return how many elements of an axis, from this one on, have the same windows, as far as that is easily seen."""
    if a.dilation > 1 and a.kernel > 1:
        return 1
    rest, last = (element + a.before) % a.stride, a.kernel % a.stride
    return last - rest if rest < last else a.stride - rest


@inline
def add_lines(d, gradients, source, base, lines, met, w, by_row, by_column, given, margin):
    """Add up what these rows of windows give to every element of theirs."""
    lanes = simd.lanes(d)
    zero, one = simd.splat(d, 0), simd.splat(d, 1)
    equal = 1
    while equal < met and by_row[lines[equal]] == by_row[lines[0]]:
        equal += 1
    for i in range(0, w.output, lanes):
        total = zero
        share = simd.load_or(one, by_column, i, 0, w.output - i)
        if equal >= met:
            for k in range(met):
                simd.rolled()
                at = base + lines[k] * source.row_step + i
                total = total + simd.load_or(zero, gradients, at, 0, w.output - i)
            if met:
                share = share * simd.splat(d, by_row[lines[0]])
        else:
            for k in range(met):
                simd.rolled()
                at = base + lines[k] * source.row_step + i
                v = simd.load_or(zero, gradients, at, 0, w.output - i)
                total = total + v / simd.splat(d, by_row[lines[k]])
        simd.store_before(given, margin + i, total / share, margin + w.output)


@inline
def spread(d, given, at, w, result, into, limit):
    """Write what each window of a row gives to all of its elements, which are in no other: a vector and more for each.

    Vectors run over what follows, which is written next.
    """
    lanes, zero = simd.lanes(d), simd.splat(d, 0)
    end = into + w.input
    for i in range(w.output):
        v = simd.splat(d, given[at + i])
        for k in range(into, into + w.kernel, lanes):
            simd.rolled()
            simd.store_before(result, k, v, limit)
        for k in range(into + w.kernel, into + w.stride, lanes):
            simd.rolled()
            simd.store_before(result, k, zero, limit)
        into += w.stride
    for k in range(into, end, lanes):
        simd.rolled()
        simd.store_before(result, k, zero, limit)


@kernel()
def avg_pool_backward(start, stop, geometry, dy, heights, widths, dx):
    """Compute the rows of dx (N, C, D * H, W) from start to stop, counted over its planes.

    What the windows that hold a row give to it is added up in a padded row of scratch. The elements whose columns
    agree modulo the stride are sums of such rows, shifted. Some rows are added up before the first is shifted, which
    would wait for its stores; rows of the same windows are copied.
    """
    z, h, w = axes(geometry)
    d = simd.tag(dy)
    lanes = simd.lanes(d)
    source = layout(dy)
    gradients, result = simd.pointer(dy), simd.pointer(dx)
    by_row, by_column = simd.pointer(heights), simd.pointer(widths)
    places = ceil_div(w.input, w.stride)
    margin = (w.kernel - 1) * w.dilation // w.stride + 1
    size = margin + max(w.output, places + w.before // w.stride) + 2 * lanes
    given_scratch = simd.scratch(d, BAND * size)
    pitch = places + lanes
    sums_scratch = simd.scratch(d, pitch * w.stride)
    given, sums = simd.pointer(given_scratch), simd.pointer(sums_scratch)
    for i in range(given_scratch.size):
        given[i] = 0
    # How far the windows of each phase of columns are away, and where their list ends.
    shift_table, end_table = np.empty(w.kernel, np.int64), np.zeros(w.stride + 1, np.int64)
    shifts, ends = simd.pointer(shift_table), simd.pointer(end_table)
    listed = 0
    for phase in range(w.stride):
        for k in range(w.kernel):
            column = phase + w.before - k * w.dilation
            if column % w.stride == 0:
                shifts[listed] = margin + column // w.stride
                listed += 1
        ends[phase + 1] = listed
    lines_table, slices_table = np.empty(z.kernel * h.kernel, np.int64), np.empty(z.kernel, np.int64)
    lines, slices = simd.pointer(lines_table), simd.pointer(slices_table)
    repeats_table = np.empty(BAND, np.int64)
    repeats = simd.pointer(repeats_table)
    apart = w.before == 0 and w.kernel <= w.stride > 2 and (w.dilation == 1 or w.kernel == 1)
    row = start
    while row < stop:
        y, base = row % h.input, plane_offset(source, row // h.input // z.input)
        behind = min(stop, row - y + h.input)
        deep = meet(z, row // h.input % z.input, 0, h.output, 0, slices, 0)
        while row < behind:
            count, first = 0, row
            while count < BAND and row < behind:
                met = 0
                for i in range(deep):
                    met = meet(h, y, 0, 1, slices[i], lines, met)
                into = simd.offset(given, count * size)
                add_lines(d, gradients, source, base, lines, met, w, by_row, by_column, into, margin)
                repeats[count] = min(behind - row, alike(h, y))
                row += repeats[count]
                y += repeats[count]
                count += 1
            row = first
            for r in range(count):
                if apart:
                    spread(d, given, r * size + margin, w, result, row * w.input, stop * w.input)
                for phase in range(0 if apart else w.stride):
                    for i in range(0, places, lanes):
                        total = simd.splat(d, 0)
                        for k in range(ends[phase], ends[phase + 1]):
                            simd.rolled()
                            total = total + simd.load(d, given, r * size + i + shifts[k])
                        simd.store(sums, phase * pitch + i, total)
                if not apart:
                    deal_out(d, sums, pitch, w.stride, result, row * w.input, w.input, stop * w.input)
                copied = 1
                while copied < repeats[r]:
                    more = min(copied, repeats[r] - copied)
                    simd.copy(result, (row + copied) * w.input, result, row * w.input, more * w.input)
                    copied += more
                row += repeats[r]
    simd.keep((given_scratch, sums_scratch, shift_table, end_table, lines_table, slices_table, repeats_table))
