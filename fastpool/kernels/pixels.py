"""Pooling of arrays whose channels are last: a pixel's channels are neighbours, and so are the lanes.

Nothing has to be moved between lanes here. A pixel of the result is made from a few pixels at constant distances,
listed once for all pixels whose windows meet the edges alike; the list is walked for some vectors of channels at a
time, so that its cost is shared. Of larger windows every row is reduced by itself and kept, while there are windows
that it is in: width + height places in place of width * height. All arrays are (1, N, depth * height, width * channels)
with contiguous rows.

Going backwards, an element's list has the windows that hold it, in the order of the kernel's places. Each element
is written once, nothing is set to zero first. Averages that overlap are shared in two steps, too: their gradients are
divided, once, and a row of windows is added up for every column, and kept. That takes .04 to .7 of the time.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import (
    Axis,
    axes,
    ceil_div,
    layout,
    lines_meeting,
    meet,
    places_inside,
    plane_offset,
)
from fastpool.kernels.hold import FAR, HELD, is_far, make_room, write_held
from fastpool.kernels.launch import Kernel, kernel
from fastpool.kernels.pairs import clear
from fastpool.kernels.rows import ask, ask_vector
from fastpool.window import Window

#: Vectors of channels that share one walk through the list; fewer, where each has one of positions beside it, which
#: have to fit the registers of AVX2, too.
SHARED, PAIR = 4, 2
#: So many bytes of reduced rows are kept, and their positions.
KEPT = 1 << 19
#: So many rows are read side by side, at most: CPUs read more with half the bandwidth.
ROWS = 4
#: Of arrays that are far, what the next row of windows is the first to read is asked for, if so many elements are from
#: one to the next, which leaves some of L2; of longer rows, what is so many elements ahead: .4 to .9 of the time.
NEXT, AHEAD = 1 << 15, 1 << 10
#: Where rows are kept, and of gradients, what is so many elements ahead; and what will be written so many elements
#: later: .3 to .9 of the time.
AHEAD_ROWS, AHEAD_BACK = 1 << 11, 1 << 10


#: Pixels are held back if those of a window, and of the gap behind it, have no more elements.
LONGEST = 1 << 12


class Ahead(NamedTuple):
    """What is asked for with a pixel, which later ones need: for each of its channels some elements of some rows."""

    memory: Any  # as a pointer
    rows: Any  # where they begin, as a pointer
    many: int
    at: int  # how far they are done
    times: int  # so many elements for each channel


@inline
def ask_ahead(d, ahead, c, count):
    """Ask for what is due with `count` channels from c on."""
    for i in range(ahead.many):
        simd.rolled()
        ask(d, ahead.memory, ahead.rows[i] + ahead.at + c * ahead.times, count * ahead.times)


@inline
def list_first_read(z, h, source, row, rows):
    """List where the rows of x begin that a row of windows is the first to read; return how many there are."""
    plane, number, out = row // h.output // z.output, row // h.output % z.output, row % h.output
    deep, top = number * z.stride - z.before, out * h.stride - h.before
    near, far = places_inside(z, deep)
    first, last = places_inside(h, top)
    base = plane_offset(source, plane) + (deep * h.input + top) * source.row_step
    count = 0
    for i in range(near if number == 0 else max(near, far - z.stride), far):
        for j in range(first if out == 0 else max(first, last - h.stride), last):
            rows[count] = base + (i * z.dilation * h.input + j * h.dilation) * source.row_step
            count += 1
    return count


@inline
def meeting(z, h, w, lines, left, right, row_step, channels, offsets, steps):
    """List the places of a window in the slices and rows of `lines`, from column left to right.

    `offsets` are their distances from the window's first, `steps` their positions.
    """
    near, far, first, last = lines
    count = 0
    for i in range(near, far):
        for j in range(first, last):
            for k in range(left, right):
                row = i * z.dilation * h.input + j * h.dilation
                offsets[count] = row * row_step + k * w.dilation * channels
                steps[count] = (i * h.places + j) * w.places + k
                count += 1
    return count


@inline
def sweep(start, stop, geometry, x, y, reduce, more, far):
    """Call `reduce(base, offsets, steps, count, line, column, into, channels, ahead, result, more)` for every pixel of
    some rows. The window's elements are at `base` plus `offsets`, the pixel at `into` of the result, in row `line` of
    its plane. What is `far` from any cache is held back.
    """
    z, h, w = axes(geometry)
    source = layout(x)
    channels = x.shape[3] // w.input
    tables = np.empty((2, z.kernel * h.kernel * w.kernel), np.int64)
    offsets, steps = simd.pointer(tables), simd.pointer(tables[1])
    elements, asking = simd.pointer(x), source.nbytes >= FAR
    read_table = np.empty(z.kernel * h.kernel, np.int64)
    first_read = simd.pointer(read_table)
    soon = h.stride * source.row_step <= NEXT
    times = max(w.stride, w.input // w.output) if soon else w.stride
    listed, listed_across = (0, 0, 0, 0), (0, 0)
    holding = far and channels <= HELD  # a pixel has room
    held_array = np.empty(HELD + 2 * simd.BYTES if holding else 0, y.dtype)
    held, held_from = simd.pointer(held_array), start * w.output * channels
    result = to = simd.pointer(y)
    count = 0
    for row in range(start, stop):
        line = row % (z.output * h.output)
        deep, top = line // h.output * z.stride - z.before, line % h.output * h.stride - h.before
        near, far_end = places_inside(z, deep)
        first, last = places_inside(h, top)
        if listed != (near, far_end, first, last):
            listed, listed_across = (near, far_end, first, last), (0, 0)
        base = plane_offset(source, row // (z.output * h.output)) + (deep * h.input + top) * source.row_step
        asks = 0
        if asking:
            asks = list_first_read(z, h, source, row + soon, first_read)
        for column in range(w.output):
            side = column * w.stride - w.before
            left, right = places_inside(w, side)
            if listed_across != (left, right):
                listed_across = (left, right)
                count = meeting(z, h, w, listed, left, right, source.row_step, channels, offsets, steps)
            into = (row * w.output + column) * channels
            if holding:
                held_from = make_room(result, held, held_from, into, channels, HELD, True)
                to = simd.offset(held, -held_from)
            due = column * times * channels if soon else side * channels + AHEAD
            ahead = Ahead(elements, first_read, asks, due, times)
            reduce(base + side * channels, offsets, steps, count, line, column, into, channels, ahead, to, more)
    if holding:
        write_held(result, held_from, held, stop * w.output * channels - held_from, True)
    simd.keep((tables, read_table, held_array))


def by_rows(w: Window, keeping: int) -> bool:
    """Return whether `sweep_rows` is faster than `sweep`, and the rows of one vector of channels can be kept.

    To keep a row, and to read it again, costs as much as `keeping` places of a window. Without, all of its rows are
    read side by side.
    """
    z, h, across = (Axis(*numbers) for numbers in w.geometry.tolist())
    span = (h.kernel - 1) * h.dilation + 1
    reduced = min(h.input, (h.output - 1) * min(h.stride, span) + span)
    places = reduced * across.kernel + h.output * (h.kernel + keeping)
    fits = z.kernel * span * across.output * simd.BYTES <= KEPT
    return fits and (places < h.output * h.kernel * across.kernel or h.kernel > ROWS)


@inline
def sweep_rows(start, stop, geometry, d, dp, x, result, argmax, across, down, more):
    """Do for the outputs of some rows what `sweep` does, in two steps, of some channels at a time.

    `across(base, offsets, steps, count, 0, 0, into, channels, ahead, kept, kept_at, more)` writes what one row of a
    window is reduced to, and `down(base, offsets, steps, count, line, column, into, channels, ahead, kept, kept_at,
    result, more)` the pixel, from what is kept of all of its rows. Those of a window's slices are reduced again for the
    next slice.
    """
    z, h, w = axes(geometry)
    source = layout(x)
    elements, asking = simd.pointer(x), source.nbytes >= FAR
    channels, lanes = x.shape[3] // w.input, simd.lanes(d)
    span = (h.kernel - 1) * h.dilation + 1
    room = KEPT // simd.BYTES * lanes // (z.kernel * span * w.output)
    block = max(1, min(channels, room // lanes * lanes))
    size = w.output * block
    kept_scratch = simd.scratch(d, z.kernel * span * size + SHARED * lanes)
    kept_at_scratch = simd.scratch(dp, 0 if argmax is None else z.kernel * span * size + SHARED * lanes)
    kept, kept_at = simd.pointer(kept_scratch), simd.beside(argmax, simd.pointer(kept_at_scratch))
    tables = np.empty((4, max(w.kernel, z.kernel * h.kernel)), np.int64)
    columns, places = simd.pointer(tables), simd.pointer(tables[1])
    lines, steps = simd.pointer(tables[2]), simd.pointer(tables[3])
    for k in range(w.kernel):
        columns[k], places[k] = k * w.dilation * channels, k
    here_table = np.zeros(1, np.int64)
    here, asks, times = simd.pointer(here_table), 1 if asking else 0, max(w.stride, w.input // w.output)
    row = start
    while row < stop:
        # Our rows of one slice of outputs.
        plane, number, begin = row // h.output // z.output, row // h.output % z.output, row % h.output
        end = min(h.output, begin + stop - row)
        front = number * z.stride - z.before
        near, far = places_inside(z, front)
        base = plane_offset(source, plane)
        for channel in range(0, channels, block):
            count = min(block, channels - channel)
            reduced = 0
            for out in range(begin, end):
                top = out * h.stride - h.before
                first, last = places_inside(h, top)
                behind = top + (last - 1) * h.dilation + 1
                for y in range(max(reduced, top), behind):
                    for k in range(near, far):
                        line = base + ((front + k * z.dilation) * h.input + y) * source.row_step + channel
                        into = (k * span + y % span) * size
                        for j in range(w.output):
                            side = j * w.stride - w.before
                            left, right = places_inside(w, side)
                            ahead = Ahead(elements, here, asks, line + j * times * channels + AHEAD_ROWS, times)
                            across(
                                line + side * channels, simd.offset(columns, left), simd.offset(places, left),
                                right - left, 0, 0, into + j * block, count, ahead, kept, kept_at, more,
                            )  # fmt: skip
                reduced = max(reduced, behind)
                met = 0
                for k in range(near, far):
                    for i in range(first, last):
                        lines[met] = (k * span + (top + i * h.dilation) % span) * size
                        steps[met] = (k * h.places + i) * w.places
                        met += 1
                into = (row + out - begin) * w.output * channels + channel
                for j in range(w.output):
                    line = number * h.output + out
                    later = Ahead(result, here, asks, into + j * channels + AHEAD_BACK, 1)
                    down(
                        j * block, lines, steps, met, line, j, into + j * channels, count, later, kept, kept_at, result,
                        more,
                    )  # fmt: skip
        row += end - begin
    simd.keep((kept_scratch, kept_at_scratch, tables, here_table))


@inline
def largest(d, dp, source, source_at, base, offsets, steps, count, mask, whole, result_at):
    """Return the maxima of some channels, and their positions, in np.argmax's order.

    Positions are `steps`, on top of those at `source_at`, if that is not None.
    """
    zero = simd.splat(d, 0)
    best = simd.load_where(mask, whole, zero, source, base + offsets[0])
    at = simd.splat(dp, steps[0])
    if source_at is not None:
        at = at + simd.load(dp, source_at, base + offsets[0])
    for k in range(1, count):
        simd.rolled()
        v = simd.load_where(mask, whole, zero, source, base + offsets[k])
        if result_at is None:
            best = simd.maximum(v, best)
        else:
            better = simd.greater_or_nan(v, best) & simd.is_number(best)
            best = simd.select(better, v, best)
            other_at = simd.splat(dp, steps[k])
            if source_at is not None:
                other_at = other_at + simd.load(dp, source_at, base + offsets[k])
            at = simd.select(better, other_at, at)
    return best, at


@inline
def put(positions, into, at, count):
    """Write some pixels' positions, if there is an argmax."""
    if positions is not None:
        simd.store_first(positions, into, at, count)


@inline
def take(d, dp, source, source_at, base, offsets, steps, count, into, channels, ahead, result, result_at):
    """Write one pixel's maxima and positions."""
    d4, dp4 = simd.widened(d, PAIR), simd.widened(dp, PAIR)
    lanes = simd.lanes(d)
    whole4 = simd.between(d4, 0, PAIR * lanes)
    shared = channels // (PAIR * lanes) * (PAIR * lanes)
    for c in range(0, shared, PAIR * lanes):
        ask_ahead(d, ahead, c, PAIR * lanes)
        best, at = largest(d4, dp4, source, source_at, base + c, offsets, steps, count, whole4, True, result_at)
        simd.store(result, into + c, best)
        put(result_at, into + c, at, PAIR * lanes)
    for c in range(shared, channels, lanes):
        ask_ahead(d, ahead, c, min(lanes, channels - c))
        mask, whole = simd.between(d, 0, channels - c), channels - c >= lanes
        best, at = largest(d, dp, source, source_at, base + c, offsets, steps, count, mask, whole, result_at)
        simd.store_first(result, into + c, best, channels - c)
        put(result_at, into + c, at, channels - c)


@inline
def maximum(base, offsets, steps, count, line, column, into, channels, ahead, result, more):
    """Write one pixel's maxima and positions."""
    d, dp, source, result_at = more
    take(d, dp, source, None, base, offsets, steps, count, into, channels, ahead, result, result_at)


@inline
def maximum_across(base, offsets, steps, count, line, column, into, channels, ahead, kept, kept_at, more):
    """Keep the maxima of a row of a window, and their columns."""
    d, dp, source, _ = more
    take(d, dp, source, None, base, offsets, steps, count, into, channels, ahead, kept, kept_at)


@inline
def maximum_down(base, offsets, steps, count, line, column, into, channels, ahead, kept, kept_at, result, more):
    """Write one pixel's maxima and positions, from those of its rows."""
    d, dp, _, result_at = more
    take(d, dp, kept, kept_at, base, offsets, steps, count, into, channels, ahead, result, result_at)


@cache
def max_pool_pixels(holding: bool) -> Kernel:
    """Return the kernel that goes through all places of a window at once. If `holding`, it holds back what is far.

    That takes .8 to .95 of the time. What is near would take 1.03 to 1.1 if the same kernel did both.
    """

    def body(start, stop, geometry, x, y, argmax):
        """Pool the output rows from start to stop, counted over all planes of x."""
        d = simd.tag(x)
        more = (d, simd.position_tag(d, argmax), simd.pointer(x), simd.pointer(argmax))
        sweep(start, stop, geometry, x, y, maximum, more, holding and is_far(geometry))

    body.__name__ = f"max_pool_pixels{'-holding' * holding}"
    return Kernel(body, writes=2)


@kernel(writes=2)
def max_pool_pixels_large(start, stop, geometry, x, y, argmax):
    """Do what `max_pool_pixels` does, a window's rows one by one.

    Positions are kept as bytes, where CPUs have masks of their own: 3 x 3 takes .8 to .9 of the time.
    """
    d = simd.tag(x)
    dp = simd.mask_tag(d, argmax)
    more = (d, dp, simd.pointer(x), simd.pointer(argmax))
    sweep_rows(start, stop, geometry, d, dp, x, simd.pointer(y), argmax, maximum_across, maximum_down, more)


@inline
def total(d, source, base, offsets, count, mask, whole):
    """Return the sums of some channels."""
    zero = simd.splat(d, 0)
    result = simd.load_where(mask, whole, zero, source, base + offsets[0])
    for k in range(1, count):
        simd.rolled()
        result = result + simd.load_where(mask, whole, zero, source, base + offsets[k])
    return result


@inline
def divided(d, v, divisor):
    """Return v / divisor, or v if that is None."""
    return v if divisor is None else v / simd.splat(d, divisor)


@inline
def add_up(d, source, base, offsets, count, into, channels, ahead, result, divisor):
    """Write one pixel's sums, divided."""
    d4 = simd.widened(d, SHARED)
    lanes = simd.lanes(d)
    whole4 = simd.between(d4, 0, SHARED * lanes)
    shared = channels // (SHARED * lanes) * (SHARED * lanes)
    for c in range(0, shared, SHARED * lanes):
        ask_ahead(d, ahead, c, SHARED * lanes)
        v = total(d4, source, base + c, offsets, count, whole4, True)
        simd.store(result, into + c, divided(d4, v, divisor))
    for c in range(shared, channels, lanes):
        ask_ahead(d, ahead, c, min(lanes, channels - c))
        mask, whole = simd.between(d, 0, channels - c), channels - c >= lanes
        v = total(d, source, base + c, offsets, count, mask, whole)
        simd.store_first(result, into + c, divided(d, v, divisor), channels - c)


@inline
def average(base, offsets, steps, count, line, column, into, channels, ahead, result, more):
    """Write one pixel's averages."""
    d, source, heights, widths = more
    add_up(d, source, base, offsets, count, into, channels, ahead, result, heights[line] * widths[column])


@inline
def sum_across(base, offsets, steps, count, line, column, into, channels, ahead, kept, kept_at, more):
    """Keep the sums of a row of a window."""
    d, source, _, _ = more
    add_up(d, source, base, offsets, count, into, channels, ahead, kept, None)


@inline
def average_down(base, offsets, steps, count, line, column, into, channels, ahead, kept, kept_at, result, more):
    """Write one pixel's averages, from the sums of its rows."""
    d, _, heights, widths = more
    add_up(d, kept, base, offsets, count, into, channels, ahead, result, heights[line] * widths[column])


@cache
def avg_pool_pixels(holding: bool) -> Kernel:
    """Return the same for averages."""

    def body(start, stop, geometry, x, heights, widths, y):
        """Average the windows of the output rows from start to stop, counted over all planes of x.

        Every window is divided by the product of the height of its row and the width of its column.
        """
        d = simd.tag(x)
        more = (d, simd.pointer(x), simd.pointer(heights), simd.pointer(widths))
        sweep(start, stop, geometry, x, y, average, more, holding and is_far(geometry))

    body.__name__ = f"avg_pool_pixels{'-holding' * holding}"
    return Kernel(body, writes=1)


@kernel()
def avg_pool_pixels_large(start, stop, geometry, x, heights, widths, y):
    """Do what `avg_pool_pixels` does, a window's rows one by one."""
    d = simd.tag(x)
    more = (d, simd.pointer(x), simd.pointer(heights), simd.pointer(widths))
    sweep_rows(start, stop, geometry, d, d, x, simd.pointer(y), None, sum_across, average_down, more)


@inline
def sweep_back(start, stop, geometry, dy, argmax, dx, more):
    """Write each pixel of dx in the rows from start to stop.

    The windows that hold a pixel are listed for each of its axes: where their gradients and positions are along it, and
    the pixel's places in them. What is far from any cache is held back, to be written past them in long runs, as it
    need not be read then; what is not near, either, is asked for ahead.
    """
    z, h, w = axes(geometry)
    given = layout(dy)
    channels = dx.shape[3] // w.input
    # Every column's windows, in the order of the kernel's places.
    most = min(w.output, w.kernel)
    counts_table, columns_table = np.zeros(w.input, np.int64), np.empty((2, w.input * most), np.int64)
    counts, windows, places = simd.pointer(counts_table), simd.pointer(columns_table), simd.pointer(columns_table[1])
    for k in range(w.kernel):
        for o in range(w.output):
            column = o * w.stride - w.before + k * w.dilation
            if 0 <= column < w.input:
                t = column * most + counts[column]
                windows[t], places[t] = o * channels, k
                counts[column] += 1
    rows_table = np.empty((3, z.kernel * h.kernel), np.int64)
    row_windows, row_places, row_at = simd.pointer(rows_table), simd.pointer(rows_table[1]), simd.pointer(rows_table[2])
    result, holding = simd.pointer(dx), is_far(geometry) and channels <= HELD
    held_array = np.empty(HELD + 2 * simd.BYTES if holding else 0, dx.dtype)
    held, held_from, into = simd.pointer(held_array), start * dx.shape[3], start * dx.shape[3]
    d, share = simd.tag(dx), 0 if holding or dx.nbytes < FAR else channels
    gradients, positions = simd.pointer(dy), simd.pointer(argmax)
    given_share, asked = channels * w.output // w.input if dx.nbytes >= FAR else 0, -1
    for row in range(start, stop):
        plane, number, y = row // h.input // z.input, row // h.input % z.input, row % h.input
        met = lines_meeting(z, h, number, y, row_windows, row_places)
        base, base_at = plane_offset(given, plane), plane * z.output * h.output * w.output * channels
        # Of the windows that no row before was in, later ones are asked for.
        newest = row_windows[0] if met > 0 else 0
        line, line_at = base + newest * given.row_step, base_at + newest * w.output * channels
        due = 0
        if met > 0 and line_at != asked:
            asked, due = line_at, given_share
        for i in range(met):
            out = row_windows[i]
            row_windows[i], row_at[i] = base + out * given.row_step, base_at + out * w.output * channels
            row_places[i] *= w.places
        for column in range(w.input):
            t = column * most
            columns = (simd.offset(windows, t), simd.offset(places, t), counts[column])
            if holding:
                held_from = make_room(result, held, held_from, into, channels, HELD, True)
            pixel = simd.offset(held, into - held_from) if holding else simd.offset(result, into)
            ask(d, result, into + AHEAD_BACK, share)
            ask(d, gradients, line + column * due + AHEAD_ROWS, due)
            ask(simd.tag(argmax), positions, line_at + column * due + AHEAD_ROWS, due)
            scatter((row_windows, row_at, row_places, met), columns, pixel, channels, more)
            into += channels
    if holding:
        write_held(result, held_from, held, into - held_from, True)
    simd.keep((counts_table, columns_table, rows_table, held_array))


@inline
def received(d, dp, gradients, positions, c, rows, columns, mask, whole):
    """Return the sums, for channels from c on of a pixel, of the gradients of the windows whose argmax it is."""
    zero, nowhere = simd.splat(d, 0), simd.splat(dp, 0)
    result = zero
    for i in range(rows[3]):
        line, line_at, first = rows[0][i] + c, rows[1][i] + c, rows[2][i]
        for j in range(columns[2]):
            simd.rolled()
            pixel = columns[0][j]
            at = simd.load_where(mask, whole, nowhere, positions, line_at + pixel)
            v = simd.load_where(mask, whole, zero, gradients, line + pixel)
            result = simd.add_where(at == simd.splat(dp, first + columns[1][j]), result, v)
    return result


@inline
def scatter(rows, columns, pixel, channels, more):
    """Write one pixel's gradients of a max pooling."""
    d, dp, gradients, positions = more
    d4, dp4 = simd.widened(d, SHARED), simd.widened(dp, SHARED)
    lanes = simd.lanes(d)
    whole4 = simd.between(d4, 0, SHARED * lanes)
    block = SHARED * lanes
    shared = channels // block * block
    # What is left is more of the same, if it is more than two vectors; it overlaps what was before.
    if shared > 0 and channels - shared > 2 * lanes:
        shared = channels
    for i in range(0, shared, block):
        c = min(i, channels - block)
        v = received(d4, dp4, gradients, positions, c, rows, columns, whole4, True)
        simd.store(pixel, c, v)
    if shared > 0 and channels - shared > lanes:
        d2, dp2, c = simd.widened(d, 2), simd.widened(dp, 2), channels - 2 * lanes
        whole2 = simd.between(d2, 0, 2 * lanes)
        v = received(d2, dp2, gradients, positions, c, rows, columns, whole2, True)
        simd.store(pixel, c, v)
        shared = channels
    for i in range(shared, channels, lanes):
        c = max(0, min(i, channels - lanes))  # the last vector overlaps the one before
        mask, whole = simd.between(d, 0, channels), channels >= lanes
        v = received(d, dp, gradients, positions, c, rows, columns, mask, whole)
        simd.store_first(pixel, c, v, channels - c)


@kernel()
def max_pool_pixels_backward(start, stop, geometry, dy, argmax, dx):
    """Compute the rows of dx from start to stop, counted over its planes."""
    d = simd.tag(dy)
    # Compared as bytes, positions need not be widened: of windows one apart, that takes .8 to .9 of the time.
    more = (d, simd.mask_tag(d, argmax), simd.pointer(dy), simd.pointer(argmax))
    sweep_back(start, stop, geometry, dy, argmax, dx, more)


@inline
def window_of(a, element):
    """Return which window has an element, of windows side by side, and at which place; there may be no such."""
    step = a.stride if a.output > 1 else a.before + a.input  # a single window has no stride
    return (element + a.before) // step, (element + a.before) % step


@inline
def sweep_apart(start, stop, geometry, dy, positions, dx, write, more):
    """Call `write` for each row of a window in the rows of dx from start to stop, of windows side by side.

    It writes the pixels there one after the other. What no window has is set to zero.
    """
    z, h, w = axes(geometry)
    d, given, channels = simd.tag(dy), layout(dy), dx.shape[3] // w.input
    gradients, result, line = simd.pointer(dy), simd.pointer(dx), dx.shape[3]
    step = w.stride if w.output > 1 else 0
    # What is far from any cache is held back, to be written past them in long runs, as it need not be read then.
    room = max(HELD, min(w.input, max(step, w.places)) * channels)
    holding, asking = is_far(geometry) and room <= LONGEST, dx.nbytes >= FAR
    held_array = np.empty(room + 2 * simd.BYTES if holding else 0, dx.dtype)
    held, held_from = simd.pointer(held_array), start * line
    ahead = AHEAD_BACK if asking and not holding else 0
    for row in range(start, stop):
        slice_ = row // h.input
        plane = slice_ // z.input
        out_slice, deep = window_of(z, slice_ % z.input)
        out, y = window_of(h, row % h.input)
        inside = out_slice < z.output and deep < z.places and out < h.output and y < h.places
        number, first = out_slice * h.output + out, (deep * h.places + y) * w.places
        source = plane_offset(given, plane) + number * given.row_step
        at = (plane * z.output * h.output + number) * w.output * channels
        # Of windows that no row before was in, later ones are asked for.
        due = channels if asking and y == 0 else 0
        x, into = 0, row * line
        for o in range(w.output if inside else 0):
            left = o * step - w.before
            begin, end = max(0, left), min(w.input, left + w.places)
            if holding:
                held_from = make_room(result, held, held_from, into, (end - x) * channels, room, True)
            to, here = (held, into - held_from) if holding else (result, into)
            ask(d, gradients, source + AHEAD_ROWS, due)
            if positions is not None:
                ask(simd.tag(positions), simd.pointer(positions), at + AHEAD_ROWS, due)
            clear(d, to, here, here + (begin - x) * channels)
            here += (begin - x) * channels
            places = first + begin - left, first + end - left
            write(source, at, number, o, places, channels, to, here, ahead, more)
            into += (end - x) * channels
            x = end
            source += channels
            at += channels
        rest = (w.input - x) * channels
        if holding and rest > 0:
            write_held(result, held_from, held, into - held_from, True)
            held_from = into + rest
        clear(d, result, into, into + rest)
    if holding:
        write_held(result, held_from, held, stop * line - held_from, True)
    simd.keep((held_array,))


@inline
def hand_out(d, dp, gradients, positions, source, at, places, channels, result, into, ahead):
    """Write some pixels of a row of a window: the gradients whose argmax they are."""
    lanes, zero = simd.lanes(d), simd.splat(d, 0)
    for i in range(0, channels, lanes):
        c = min(i, channels - lanes)  # the last vector overlaps the one before
        # Added, as it is everywhere else: -0.0 becomes 0.0.
        v, p = simd.load(d, gradients, source + c) + zero, simd.load(dp, positions, at + c)
        to = into + c
        for k in range(places[0], places[1]):
            simd.rolled()
            simd.store(result, to, simd.select(p == simd.splat(dp, k), v, zero))
            if ahead > 0:
                ask_vector(d, result, to + ahead)
            to += channels


@inline
def write_chosen(source, at, number, o, places, channels, result, into, ahead, more):
    """Write some pixels' gradients of a max pooling."""
    d, dp, gradients, positions = more
    if channels >= SHARED * simd.lanes(d):
        d4, dp4 = simd.widened(d, SHARED), simd.widened(dp, SHARED)
        hand_out(d4, dp4, gradients, positions, source, at, places, channels, result, into, ahead)
    else:
        hand_out(d, dp, gradients, positions, source, at, places, channels, result, into, ahead)


@kernel()
def max_pool_pixels_apart_backward(start, stop, geometry, dy, argmax, dx):
    """Do what `max_pool_pixels_backward` does where windows are side by side, of a vector of channels or more.

    Every pixel of a row of a window is written while its gradients are in registers: that costs a comparison and a
    store of every element, and takes .45 to .8 of the time.
    """
    d = simd.tag(dy)
    more = d, simd.mask_tag(d, argmax), simd.pointer(dy), simd.pointer(argmax)
    sweep_apart(start, stop, geometry, dy, argmax, dx, write_chosen, more)


@inline
def share_out(d, gradients, source, divisor, count, channels, result, into, ahead):
    """Write some pixels of a row of a window: the same share of its gradients each."""
    lanes = simd.lanes(d)
    for c in range(0, channels, lanes):
        v = simd.load_between(d, gradients, source + c, 0, channels - c) / simd.splat(d, divisor)
        for to in range(into + c, into + c + count * channels, channels):
            simd.rolled()
            simd.store_first(result, to, v, channels - c)
            if ahead > 0:
                ask_vector(d, result, to + ahead)


@inline
def write_shares(source, at, number, o, places, channels, result, into, ahead, more):
    """Write some pixels' gradients of an average pooling."""
    d, gradients, heights, widths = more
    divisor, count = heights[number] * widths[o], places[1] - places[0]
    if channels % (SHARED * simd.lanes(d)) == 0:
        share_out(simd.widened(d, SHARED), gradients, source, divisor, count, channels, result, into, ahead)
    else:
        share_out(d, gradients, source, divisor, count, channels, result, into, ahead)


@kernel()
def avg_pool_pixels_backward(start, stop, geometry, dy, heights, widths, dx):
    """Compute the rows of dx from start to stop, counted over its planes; heights and widths as in the forward pass.

    Of windows that do not overlap: an element has the share of one of them, or of none.
    """
    more = simd.tag(dy), simd.pointer(dy), simd.pointer(heights), simd.pointer(widths)
    sweep_apart(start, stop, geometry, dy, None, dx, write_shares, more)


@inline
def divide_row(d, gradients, at, step, height, by_column, windows, channels, quotients, block):
    """Divide some channels' gradients of a row of windows."""
    for i in range(windows):
        divisor = simd.splat(d, height * by_column[i])
        for c in range(0, channels, simd.lanes(d)):
            v = simd.load_between(d, gradients, at + i * step + c, 0, channels - c)
            simd.store(quotients, i * block + c, v / divisor)


@inline
def give(d, source, base, offsets, count, into, channels, ahead, result):
    """Write the sums of some channels of a list of pixels, which may have none."""
    if count > 0:
        add_up(d, source, base, offsets, count, into, channels, ahead, result, None)
    else:
        clear(d, result, into, into + channels)


@kernel()
def avg_pool_pixels_backward_large(start, stop, geometry, dy, heights, widths, dx):
    """Do what `avg_pool_pixels_backward` does, a row of windows at a time, of some channels and columns.

    What is added up of it for each of the columns is kept while there are rows of dx in its windows: these cost
    width + height additions in place of width * height.
    """
    z, h, w = axes(geometry)
    d = simd.tag(dy)
    source, lanes = layout(dy), simd.lanes(d)
    gradients, result = simd.pointer(dy), simd.pointer(dx)
    by_row, by_column = simd.pointer(heights), simd.pointer(widths)
    channels, asking = dx.shape[3] // w.input, dx.nbytes >= FAR
    # So many rows of windows are kept; so far do those of a column reach.
    most, reach = min(h.output, (h.kernel - 1) * h.dilation // h.stride + 1), (w.kernel - 1) * w.dilation
    room, at_once = KEPT // simd.BYTES, z.kernel * most + 1
    piece = min(w.input, max(lanes, room // at_once - reach))
    windows = min(w.output, (piece + reach) // w.stride + 1)
    block = min(channels, max(1, room // (z.kernel * most * piece + windows)) * lanes)
    size, over = piece * block, SHARED * lanes
    quotients_scratch = simd.scratch(d, windows * block + over)
    kept_scratch = simd.scratch(d, z.kernel * most * size + over)
    quotients, kept = simd.pointer(quotients_scratch), simd.pointer(kept_scratch)
    # Of every column the windows that it is in; of a row of dx the slices, the rows, and what is kept of these.
    across = min(w.output, w.kernel)
    tables = np.empty(w.input * (1 + across) + z.kernel + h.kernel + z.kernel * h.kernel, np.int64)
    counts = simd.pointer(tables)
    columns = simd.offset(counts, w.input)
    slices = simd.offset(columns, w.input * across)
    rows = simd.offset(slices, z.kernel)
    lines = simd.offset(rows, h.kernel)
    here_table = np.zeros(1, np.int64)
    here, nothing = simd.pointer(here_table), Ahead(result, simd.pointer(here_table), 0, 0, 0)
    for x in range(w.input):
        counts[x] = meet(w, x, 0, block, 0, simd.offset(columns, x * across), 0)
    row = start
    while row < stop:
        # Our rows of one slice of dx.
        plane, number, begin = row // h.input // z.input, row // h.input % z.input, row % h.input
        end = min(h.input, begin + stop - row)
        base = plane_offset(source, plane)
        deep = meet(z, number, 0, h.output, 0, slices, 0)
        for channel in range(0, channels, block):
            count = min(block, channels - channel)
            for left in range(0, w.input, piece):
                right, added = min(w.input, left + piece), 0
                first_column = max(0, ceil_div(left + w.before - reach, w.stride))
                met_columns = min(w.output, (right - 1 + w.before) // w.stride + 1) - first_column
                for y in range(begin, end):
                    first = max(0, ceil_div(y + h.before - (h.kernel - 1) * h.dilation, h.stride))
                    last = min(h.output, (y + h.before) // h.stride + 1)
                    for out in range(max(added, first), last):
                        for i in range(deep):
                            line = slices[i] + out
                            at = base + line * source.row_step + first_column * channels + channel
                            divide_row(
                                d, gradients, at, channels, by_row[line], simd.offset(by_column, first_column),
                                met_columns, count, quotients, block,
                            )  # fmt: skip
                            into = (i * most + out % most) * size
                            for x in range(left, right):
                                listed = simd.offset(columns, x * across)
                                give(d, quotients, -first_column * block, listed, counts[x], into, count, nothing, kept)
                                into += block
                    added = max(added, last)
                    met = 0
                    for i in range(deep):
                        for k in range(meet(h, y, 0, 1, 0, rows, 0)):
                            lines[met] = (i * most + rows[k] % most) * size
                            met += 1
                    into = ((row + y - begin) * w.input + left) * channels + channel
                    for x in range(right - left):
                        later = Ahead(result, here, 1 if asking else 0, into + AHEAD_BACK, 1)
                        give(d, kept, x * block, lines, met, into, count, later, result)
                        into += channels
        row += end - begin
    simd.keep((quotients_scratch, kept_scratch, tables, here_table))
