"""Average pooling, for small windows (see `fastpool.kernels.rows`), all others (`fastpool.kernels.tile`), and backward.

A window is summed slice by slice, down, then across, or each slice down, then these, then across: its error is at
most half a unit in the last place of the sum of the absolute values for each of depth + height + width additions,
where one sum after another would have depth * height * width of them. What is shared by neighbouring windows is not
added up once for all, but for whole slices: a running sum would carry its errors along the row.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastpool.kernels import rows, simd, tile
from fastpool.kernels.compiled import inline
from fastpool.kernels.fold import deal_out
from fastpool.kernels.geometry import ONE, axes, ceil_div, layout, meet, plane_offset
from fastpool.kernels.hold import HELD, hold_row, is_far, write_held
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
        d, heights, widths, lines, z, _, _ = more
        zero = simd.splat(simd.widened(d, many), 0)
        one = simd.splat(d, 1)
        # Of several vectors side by side, all windows are whole.
        width = simd.load_or(one, widths, part.first, 0, w.output - part.first)
        plane, out, into, ahead = part.plane, part.out, part.into, part.ahead
        base, _, count = rows.window_slices(source, z, h.input, plane)
        line = (plane * h.output + out) % lines
        step, slice_step = h.dilation * source.row_step, z.dilation * h.input * source.row_step
        remaining, behind = part.rows, rows.complete(h)
        while remaining > 0:
            first, last, alike, top = rows.rows_alike(h, out, remaining, behind)
            offset = base + part.column + top * source.row_step
            remaining -= alike
            out += alike
            for _ in range(alike):
                for j in range(part.vectors if long else 1):
                    simd.rolled()
                    for k in range(part.slices):
                        rows.ask(d, elements, ahead + k * slice_step, part.share)
                    ahead += part.share
                    at, target = offset + j * part.step * stride, into + j * part.step
                    if stride == 1:
                        simd.prefetch(values, target + rows.AHEAD)
                    total = zero
                    for i in range(count):
                        there = at + i * slice_step
                        down = simd.load_where(part.inside, part.all_inside, zero, elements, there)
                        for _ in range(first + 1, last):
                            simd.rolled()
                            there += step
                            down = down + simd.load_where(part.inside, part.all_inside, zero, elements, there)
                        total = down if i == 0 else total + down
                    result = across(d, total, w.kernel)
                    if not kept:
                        result = result / (width * simd.splat(d, heights[line]))
                    simd.store_first(values, target, result, part.outputs)
                into += w.output
                offset += h.stride * source.row_step
                line += 1 if lines > 1 else 0
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
            long, more[5], more[6],
        )  # fmt: skip

    @inline
    def merge(d, dp, kept, kept_at, slices, h, w, values, positions, careful, more):
        """Add up the sums of each slice, and divide them."""
        d, heights, widths, lines, _, _, _ = more
        one = simd.splat(d, 1)
        line = slices.into // w.output % lines
        into, shift = slices.into, 0
        for _ in range(slices.runs):
            for at in range(0, slices.size, w.output):
                height = simd.splat(d, heights[line])
                for i in range(0, w.output, simd.lanes(d)):
                    total = simd.load(d, kept, slices.offsets[0] + shift + at + i)
                    for k in range(1, slices.many):
                        simd.rolled()
                        total = total + simd.load(d, kept, slices.offsets[k] + shift + at + i)
                    width = simd.load_or(one, widths, i, 0, w.output - i)
                    simd.store_before(values, into + i, total / (width * height), into + w.output)
                into += w.output
                line += 1
            shift += slices.apart
            line = line if line < lines else 0

    def body(start, stop, geometry, x, heights, widths, y):
        """Average the windows of the output rows from start to stop, counted over all planes of x (N, C, D * H, W).

        Every window is divided by the product of the height of its row and the width of its column.
        """
        z, h, w = axes(geometry)
        d = simd.tag(x)
        source, tall = rows.stacked(layout(x), z, h, stop)
        # Of planes that are taken for one, all rows of windows have the same height.
        lines = 1 if tall.output > h.output and not kept else z.output * h.output
        far = is_far(geometry) and not kept
        held_array = np.empty(HELD + 2 * simd.BYTES if far else 0, y.dtype)
        held = None if kept else simd.pointer(held_array)
        more = (d, simd.pointer(heights), simd.pointer(widths), lines, z if deep else ONE, held, far)
        if kept:
            rows.sweep_slices(start, stop, z, h, w, d, x, y, None, pool_rows, more, merge, None)
        else:
            pool_rows(start, stop, tall, w, simd.pointer(x), source, simd.pointer(y), None, more)
        simd.keep((held_array,))

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


#: So many bytes of sums are kept at a time, of so many slices; in arrays of so many, what they go to is asked for.
SUMS, SLICES, ASKED = 1 << 14, 1 << 12, 1 << 21


class Phases(NamedTuple):
    """Which windows the elements of an axis have, by phases: those whose numbers agree modulo the stride.

    The windows of element number i of a phase are i and each of the phase's shifts. Phases that follow one another and
    have the same are of one kind.
    """

    shifts: Any  # as pointers
    begins: Any  # of each phase's shifts; behind the last, the end
    kinds: Any  # of each phase
    many: int  # kinds
    lowest: int  # of all shifts, and zero
    highest: int


@inline
def phases(a):
    """Return the phases of an axis, and the array that they are in."""
    table = np.empty(a.kernel + 2 * a.stride + 1, np.int64)
    shifts, begins = simd.pointer(table), simd.pointer(table[a.kernel :])
    kinds = simd.pointer(table[a.kernel + a.stride + 1 :])
    listed = many = lowest = highest = 0
    begins[0] = 0
    for phase in range(a.stride):
        begin = listed
        for k in range(a.kernel):
            at = phase + a.before - k * a.dilation
            if at % a.stride == 0:
                shifts[listed] = at // a.stride
                lowest, highest = min(lowest, shifts[listed]), max(highest, shifts[listed])
                listed += 1
        begins[phase + 1] = listed
        count = listed - begin
        same = phase > 0 and count == begin - begins[phase - 1]
        for k in range(begin, listed if same else begin):
            same = same and shifts[k] == shifts[k - count]
        if not same:
            many += 1
        kinds[phase] = many - 1
    return Phases(shifts, begins, kinds, many, lowest, highest), table


@inline
def list_lines(p, stride, out, first, last, pitch, size, targets):
    """List where sums of the lines from `first` to `last` are that a row of windows gives to; return how many.

    Those of a kind are `size` apart, and its lines a pitch.
    """
    met = 0
    for phase in range(stride):
        if phase == 0 or p.kinds[phase] != p.kinds[phase - 1]:
            for k in range(p.begins[phase], p.begins[phase + 1]):
                line = out - p.shifts[k]
                if first <= line < last:
                    targets[met] = p.kinds[phase] * size + (line - first) * pitch
                    met += 1
    return met


@inline
def give_vectors(d, gradients, at, by_column, height, count, sums, into, targets, met):
    """Add a row of gradients, divided, to every row of sums that it is listed for."""
    zero, one = simd.splat(d, 0), simd.splat(d, 1)
    share = simd.splat(d, height)
    for i in range(0, count, simd.lanes(d)):
        v = simd.load_or(zero, gradients, at + i, 0, count - i)
        v = v / (simd.load_or(one, by_column, i, 0, count - i) * share)
        for k in range(met):
            simd.rolled()
            to = into + targets[k] + i
            simd.store(sums, to, simd.load(d, sums, to) + v)


@inline
def give(d, few, gradients, at, by_column, height, count, sums, into, targets, met):
    """Do that by short vectors where others would run over rows: a load waits for both to be stored."""
    if count > 2 * simd.lanes(d):
        give_vectors(d, gradients, at, by_column, height, count, sums, into, targets, met)
    else:
        give_vectors(few, gradients, at, by_column, height, count, sums, into, targets, met)


@inline
def add_across(d, sums, p, stride, size, count, results):
    """Set the sums of every phase of columns to those of the shifts that it has."""
    for phase in range(stride):
        begin, end = p.begins[phase], p.begins[phase + 1]
        into = phase * size
        for i in range(0, count, simd.lanes(d)):
            total = simd.splat(d, 0)
            for k in range(begin, end):
                simd.rolled()
                total = total + simd.load(d, sums, i + p.shifts[k] - p.lowest)
            simd.store(results, into + i, total)


@inline
def spread(d, given, at, windows, w, result, into, end, limit):
    """Write what each window of a row gives to all of its elements, which are in no other: a vector and more for each.

    Behind the last are zeros, up to `end`. Vectors run over what follows, which is written next.
    """
    lanes, zero = simd.lanes(d), simd.splat(d, 0)
    for i in range(windows):
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

    A row of windows, divided, is added to a row of sums for each phase of rows that it gives to, of the planes that
    are computed at a time, or of a band of one. All of these rows are taken for one run, however short they are, and
    added up across for each phase of columns, and dealt out: small maps take a third to a half of what a row at a time
    takes. Rows of windows side by side are spread instead, and copied to those that have the same.
    """
    z, h, w = axes(geometry)
    d = simd.tag(dy)
    few = simd.narrowed(d, 2)
    lanes = simd.lanes(d)
    source = layout(dy)
    gradients, result = simd.pointer(dy), simd.pointer(dx)
    by_row, by_column = simd.pointer(heights), simd.pointer(widths)
    down, down_table = phases(h)
    across, across_table = phases(w)
    lines, places = ceil_div(h.input, h.stride), ceil_div(w.input, w.stride)
    side_by_side = w.kernel <= w.stride and w.before == 0 and (w.dilation == 1 or w.kernel == 1)
    apart = side_by_side and w.stride > 2
    # Where every column has one window, the next one, there is nothing to add across.
    columns = 0 if apart or (side_by_side and w.kernel == w.stride) else w.stride
    # Some planes at a time, or lines of one, or, of long ones, a piece of a line.
    halo = across.highest - across.lowest
    room = SUMS // (down.many * (1 + columns) * dx.itemsize)
    piece = min(places, max(4 * lanes, room - halo))
    pitch = ceil_div(piece + halo, simd.lanes(few)) * simd.lanes(few)
    band = min(lines, max(1, room // pitch))
    units = max(1, min(room // (lines * pitch), SLICES // z.kernel)) if band == lines and piece == places else 1
    size = units * band * pitch
    # Vectors run over the end of either.
    over = halo + lanes
    sums_scratch = simd.scratch(d, down.many * (1 + columns) * size + 2 * over)
    sums = simd.pointer(sums_scratch)
    added = simd.offset(sums, down.many * size + over) if columns else sums
    targets_table, slices_table = np.empty(h.kernel, np.int64), np.empty(z.kernel, np.int64)
    targets, slices = simd.pointer(targets_table), simd.pointer(slices_table)
    # Of every slice of windows that a unit has, where its gradients, its heights and the unit's sums are.
    units_table = np.empty((3, units * z.kernel), np.int64)
    froms, highs, tos = simd.pointer(units_table), simd.pointer(units_table[1]), simd.pointer(units_table[2])
    # What is far from any cache is held back, to be written past them in long runs; else it is asked for.
    far = is_far(geometry) and columns == 0 and piece == places and not apart
    room_held = max(HELD, w.input)
    held_array = np.empty(room_held + simd.BYTES + lanes if far else 0, dx.dtype)
    held, held_from, held_to = simd.pointer(held_array), 0, 0
    asking = columns > 0 and dx.nbytes >= ASKED
    row = start
    while row < stop:
        number, y = row // h.input, row % h.input
        first = y // h.stride
        many = max(1, min(units, (stop - row) // h.input)) if y == 0 else 1
        last = min(lines, first + band, ceil_div(y + stop - row, h.stride))
        bottom = min(h.input, last * h.stride, y + stop - row)
        given = 0
        for unit in range(many):
            base = plane_offset(source, (number + unit) // z.input)
            for i in range(meet(z, (number + unit) % z.input, 0, h.output, 0, slices, 0)):
                froms[given], highs[given] = base + slices[i] * source.row_step, slices[i]
                tos[given] = unit * band * pitch
                given += 1
        for left in range(0, places, piece):
            begin, end = max(0, left + across.lowest), min(w.output, left + piece + across.highest)
            for i in range(0, down.many * size + halo, lanes):
                simd.store(sums, i, simd.splat(d, 0))
            count, windows = min(w.input - left * w.stride, piece * w.stride), min(piece, w.output - left)
            for out in range(max(0, first + down.lowest), min(h.output, last + down.highest)):
                met = list_lines(down, h.stride, out, first, last, pitch, size, targets)
                at, into = out * source.row_step + begin, begin - left - across.lowest
                for unit in range(many if asking else 0):
                    for k in range(h.stride):
                        target = row + unit * h.input + (out - first) * h.stride + k
                        rows.ask(d, result, target * w.input + left * w.stride, count)
                for i in range(given):
                    give(
                        d, few, gradients, froms[i] + at, simd.offset(by_column, begin), by_row[highs[i] + out],
                        end - begin, sums, tos[i] + into, targets, met,
                    )  # fmt: skip
            for kind in range(down.many if columns else 0):
                from_sums, to = simd.offset(sums, kind * size), simd.offset(added, kind * columns * size)
                add_across(d, from_sums, across, columns, size, many * band * pitch, to)
            limit = stop * w.input
            for unit in range(many):
                into = (row + unit * h.input) * w.input + left * w.stride
                for line in range(first, last):
                    at = unit * band * pitch + (line - first) * pitch
                    for phase in range(h.stride):
                        if line * h.stride + phase < y or line * h.stride + phase >= bottom:
                            continue
                        kind = down.kinds[phase]
                        if piece < places:
                            limit = into - left * w.stride + w.input
                        to, end = result, limit
                        if far:
                            held_from = hold_row(result, held, held_from, held_to, into, count, room_held)
                            held_to = into + count
                            to, end = simd.offset(held, -held_from), held_to + lanes
                        if not apart:
                            from_sums = simd.offset(added, kind * max(1, columns) * size + at)
                            deal_out(d, from_sums, size if columns else 0, w.stride, to, into, count, end)
                        elif phase > 0 and line * h.stride + phase > y and down.kinds[phase - 1] == kind:
                            simd.copy(result, into, result, into - w.input, count)
                        else:
                            spread(d, sums, kind * size + at, windows, w, result, into, into + count, limit)
                        into += w.input
        row += many * (bottom - y)
    write_held(result, held_from, held, held_to - held_from, True)
    simd.keep((down_table, across_table, sums_scratch, targets_table, slices_table, units_table, held_array))
