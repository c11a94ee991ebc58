"""Windows one apart, as many as elements: rows are taken for one run of elements.

A vector may begin anywhere and reach over the ends of rows and planes, so that no row is too short for vectors. Which
places of its window each lane has comes from tables: of bytes where CPUs have masks of their own, elsewhere of integers
as wide as elements.

Pooling copies some planes, or a band of one's rows, to scratch, where vectors can be read beyond them, and reduces that
across and then down; volumes are reduced through their slices by being copied. Rows whose windows have all places, or
the same, need no table for the latter. In place of k * k elements k + k are read, of a kernel of 3 x 3 in the time of
copying twice: half to all of the time of the kernels for other small windows (`fastpool.kernels.rows`), and a third
over maps of 7 x 7.

`collect` asks all windows of every element for its gradient. A kernel of 3 x 3 takes .7 of the time of
`max_pool_backward.scatter_small`; one of 5 x 5 would take more. `collect_inside` does so where fewer windows than
elements are one apart, as none hangs over an edge.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.avg_pool import add
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import ONE, axes, ceil_div, layout, places_inside
from fastpool.kernels.hold import HELD, is_far, write_held
from fastpool.kernels.launch import Kernel, kernel
from fastpool.kernels.max_pool import larger, merge, outranks
from fastpool.kernels.rows import ask_vector, fits, gather, sweep_slices, window_slices
from fastpool.kernels.tile import fill
from fastpool.window import Window

#: This is the fastest way for so many places along all axes of lines, planes and volumes, of which so many are across,
#: unless rows are so short.
MOST, WIDEST, NARROW = (26, 26, 40), 8, 64
#: What no position is: asked for where there is no window.
NEVER = 255
#: So many elements of small planes are taken at a time, and of others, which have more than SMALL, in a band of rows.
RUN, SMALL, BAND = 1 << 10, 1 << 9, 1 << 13
#: Planes are small if a table of so many bytes holds what to ask for.
ASKED = 1 << 15
#: Backwards, all three arrays are asked for so many elements ahead.
AHEAD = 1 << 9
#: So many elements are spread at a time, or as many as are before them: at most so many, of windows of so many places.
SPREAD, BEFORE, PLACES = 1 << 12, 1 << 14, 16


@inline
def ask_row(d, asked, at, first, last, end, place):
    """Ask for `place` in the columns of a row from `first` to `last`, and for nothing in the others up to `end`."""
    never = simd.splat(d, NEVER)
    fill(d, asked, at, first, never)
    fill(d, asked, at + first, last - first, simd.splat(d, place))
    fill(d, asked, at + last, end - last, never)


@inline
def ask_planes(d, asked, at, pitch, run, slices, rows, line, deep, down, across, place):
    """Ask for `place` in those elements of planes that are so far down and across from one of the same plane."""
    begin, plane = at, slices * rows * line
    first, last = max(0, min(line, across)), max(0, min(line, line + across))
    for i in range(slices * rows):
        met = 0 <= i // rows - deep < slices and 0 <= i % rows - down < rows
        ask_row(d, asked, at, first if met else line, last if met else line, line, place)
        at += line
    while at < begin + run:
        simd.copy(asked, at, asked, begin, plane)
        at += plane
    fill(d, asked, at, begin + pitch - simd.lanes(d) - at, simd.splat(d, NEVER))


@kernel()
def collect(start, stop, geometry, dy, argmax, dx):
    """Compute the rows of dx (A, B, D * H, W * channels) from start to stop, counted over its planes.

    There are as many windows as elements, one apart, and less than 255 places. All arrays are contiguous. Positions
    are compared as bytes, and masks widened: so the table fits L1, which takes .8 of the time. All that is read and
    written is asked for ahead: .4 to .9 of the time, but in L2.
    """
    z, h, w = axes(geometry)
    d = simd.several(simd.tag(dy))
    dp = simd.tag_beside(d, argmax)
    lanes, zero = simd.lanes(d), simd.splat(d, 0)
    gradients, positions, result = simd.pointer(dy), simd.pointer(argmax), simd.pointer(dx)
    end, line = dy.size, dx.shape[3]
    channels = line // w.input
    taps = z.places * h.places * w.places
    rows = z.input * h.input
    small = rows * line * taps <= ASKED
    planes = max(1, min(RUN, dx.size) // (rows * line))
    run = planes * rows * line if small else line
    # Columns that have all windows ask for the same: of wide rows, the table has not all of them.
    left, right = ((w.places - 1) * w.dilation - w.before) * channels, line - w.before * channels
    cut = 0 if small else max(0, right - left - 2 * lanes)
    pitch = run - cut + 2 * lanes
    table = np.empty((4, taps), np.int64)
    distances, asked_at = simd.pointer(table), simd.pointer(table[1])
    fronts, tops = simd.pointer(table[2]), simd.pointer(table[3])
    asked_scratch = simd.scratch(dp, (taps + 1) * pitch)
    asked = simd.pointer(asked_scratch)
    never = taps * pitch
    fill(dp, asked, never, pitch - lanes, simd.splat(dp, NEVER))
    for k in range(taps):
        deep = k // w.places // h.places * z.dilation - z.before
        down = k // w.places % h.places * h.dilation - h.before
        across = (k % w.places * w.dilation - w.before) * channels
        distances[k], fronts[k], tops[k] = (deep * h.input + down) * line + across, deep, down
        asked_at[k] = k * pitch
        if small:
            ask_planes(dp, asked, k * pitch, pitch, run, z.input, h.input, line, deep, down, across, k)
        else:
            first, last = max(0, min(line, across)), max(0, min(line, line + across))
            ask_row(dp, asked, k * pitch, first, last - cut, pitch - lanes, k)
    most, least = distances[taps - 1], distances[0]
    first, last = start * line, stop * line
    while first < last:
        begin = first % run
        if not small:
            number, y = first // line % rows // h.input, first // line % h.input
            for k in range(taps):
                simd.rolled()
                met = 0 <= number - fronts[k] < z.input and 0 <= y - tops[k] < h.input
                asked_at[k] = k * pitch if met else never
        behind = min(last, first - begin + run)
        for i in range(first, behind, lanes):
            ask_vector(d, result, i + AHEAD)
            ask_vector(d, gradients, i - least + AHEAD)
            ask_vector(dp, positions, i - least + AHEAD)
            at = begin + i - first
            at = min(at, max(left, at - cut))
            total = zero
            if i >= most and i - least + lanes <= end:
                for k in range(taps):
                    simd.rolled()
                    source = i - distances[k]
                    chosen = simd.load(dp, positions, source) == simd.load(dp, asked, asked_at[k] + at)
                    total = simd.add_where(chosen, total, simd.load(d, gradients, source))
            else:
                for k in range(taps):
                    simd.rolled()
                    source = i - distances[k]
                    here = simd.load_between(dp, positions, source, -source, end - source)
                    chosen = here == simd.load(dp, asked, asked_at[k] + at)
                    v = simd.load_between(d, gradients, source, -source, end - source)
                    total = simd.add_where(chosen, total, v)
            simd.store_before(result, i, total, last)
        first = behind
    simd.keep((table, asked_scratch))


@inline
def spread(first, last, z, h, line, out_line, d, dp, dy, gradients, positions, to, to_at, at):
    """Copy what there is of windows for the elements of dx from first to last to scratch.

    There, a row of windows is as long as one of elements, and there are as many; what no window is at has a position
    that no place has. Return up to where gradients were copied.
    """
    never = simd.splat(dp, NEVER)
    row, column = first // line, first % line
    y, number, plane = row % h.input, row // h.input % z.input, row // h.input // z.input
    # How many rows of windows begin before.
    before = min(number, z.output) * h.output + (min(y, h.output) if number < z.output else 0)
    source = (plane * z.output * h.output + before) * out_line
    alike = z.input * h.input == z.output * h.output
    reached = source
    while first < last:
        count, there, rows = min(line - column, last - first), 0, 1
        met = y < h.output and number < z.output
        if count == line:
            rows = (last - first) // line
            if not alike:
                rows = min((h.output if met else h.input) - y, rows)
        if met:
            there = max(0, min(count, out_line - column))
            if source + column + (rows - 1) * out_line + there + simd.lanes(dp) <= dy.size:
                for _ in range(rows):
                    # Vectors run over the ends of rows, into what is written next.
                    for i in range(0, there, simd.lanes(d)):
                        simd.rolled()
                        simd.store(to, at + i, simd.load(d, gradients, source + column + i))
                    for i in range(0, there, simd.lanes(dp)):
                        simd.rolled()
                        simd.store(to_at, at + i, simd.load(dp, positions, source + column + i))
                    fill(dp, to_at, at + there, count - there, never)
                    source += out_line
                    at += count
            else:
                for _ in range(rows):
                    simd.copy(to, at, gradients, source + column, there)
                    simd.copy(to_at, at, positions, source + column, there)
                    fill(dp, to_at, at + there, count - there, never)
                    source += out_line
                    at += count
            reached = source - out_line + column + there
        else:
            fill(dp, to_at, at, rows * count, never)
            at += rows * count
        first += rows * count
        column = 0
        y += 0 if alike else rows
        if y == h.input:
            y = 0
            number = number + 1 if number + 1 < z.input else 0
    return reached


@kernel()
def collect_inside(start, stop, geometry, dy, argmax, dx):
    """Compute the rows of dx (A, B, D * H, W * channels) from start to stop, counted over its planes.

    Windows are one apart, and nothing is padding: rows of windows, which are shorter than those of elements, are copied
    to scratch that is like dx, and what no window is at has no position, so that no table tells where windows end.
    That takes .25 to 1.0 of the time of scattering. What is far from any cache is held back, to be written past them.
    All arrays are contiguous.
    """
    z, h, w = axes(geometry)
    d = simd.several(simd.tag(dy))
    dp = simd.tag_beside(d, argmax)
    one, one_at = simd.tag(dy), simd.single(dp)
    lanes, zero = simd.lanes(d), simd.splat(d, 0)
    gradients, positions, result = simd.pointer(dy), simd.pointer(argmax), simd.pointer(dx)
    line = dx.shape[3]
    channels = line // w.input
    out_line, taps = w.output * channels, z.places * h.places * w.places
    distances_table = np.empty(taps, np.int64)
    distances = simd.pointer(distances_table)
    for k in range(taps):
        deep, down = k // w.places // h.places * z.dilation, k // w.places % h.places * h.dilation
        distances[k] = (deep * h.input + down) * line + k % w.places * w.dilation * channels
    # So many elements before those that are computed have windows that reach them.
    before = distances[taps - 1]
    size = max(before, SPREAD)
    room = before + size + lanes + simd.lanes(one_at)  # vectors run over the end
    spread_dy, spread_argmax = np.zeros(room, dy.dtype), np.full(room, NEVER, argmax.dtype)
    from_dy, from_argmax = simd.pointer(spread_dy), simd.pointer(spread_argmax)
    far = is_far(geometry)
    held_array = np.empty(HELD + simd.BYTES if far else 0, dx.dtype)
    held = simd.pointer(held_array)
    end = stop * line
    first = max(0, start * line - before)
    at = first - start * line + before
    for begin in range(start * line, end, size):
        behind = min(end, begin + size)
        next_ = spread(
            first, behind, z, h, line, out_line, one, one_at, dy, gradients, positions, from_dy, from_argmax, at
        )  # fmt: skip
        for into in range(begin, behind, HELD):
            limit = min(behind, into + HELD)
            to = simd.offset(held, -into) if far else result
            for i in range(into, limit, lanes):
                ask_vector(d, gradients, next_ + i - begin)
                ask_vector(dp, positions, next_ + i - begin)
                if not far:
                    ask_vector(d, result, i + AHEAD)
                total = zero
                for k in range(taps):
                    simd.rolled()
                    here = before + i - begin - distances[k]
                    chosen = simd.load(dp, from_argmax, here) == simd.splat(dp, k)
                    total = simd.add_where(chosen, total, simd.load(d, from_dy, here))
                simd.store_before(to, i, total, limit)
            if far:
                write_held(result, into, held, limit - into, True)
        simd.copy(from_dy, 0, from_dy, size, before)
        simd.copy(from_argmax, 0, from_argmax, size, before)
        first, at = behind, before
    simd.keep((spread_dy, spread_argmax, distances_table, held_array))


def spreads(w: Window, channels: int) -> bool:
    """Return whether `collect_inside` works, and is fastest: planes are not small, nor windows large."""
    spans = [(k - 1) * dilation for k, dilation in zip(w.kernel_size, w.dilation)]
    inside = all(n - span == out for n, span, out in zip(w.input, spans, w.output)) and not any(map(any, w.padding))
    before = channels * sum(span * prod(w.input[i + 1 :]) for i, span in enumerate(spans))
    # Picoseconds: of an element, of a row of them, and of a window whose gradient is scattered.
    line = w.input[-1] * channels
    fast = prod(w.input) * ((50 + 15 * w.taps) * line + 4000) < prod(w.output) * 600 * line
    return inside and max(w.stride) == 1 and w.taps <= PLACES and before <= BEFORE and fast


def suits(w: Window) -> bool:
    """Return whether pooling these windows is fastest, and works, by `max_pool_flat` and `avg_pool_flat`."""
    *downs, across = w.kernel_size
    line = w.input[-1]
    long = across > WIDEST and line > NARROW and prod(downs[:-1]) == 1
    if w.input != w.output or max(w.stride) > 1 or sum(w.kernel_size) > MOST[len(downs)] or long:
        return False
    reach = (downs[-1] - 1) * w.dilation[-2] if downs else 0
    return max(1, reach) * line <= BAND // 4 and (not by_slices(w) or fits(w))


def by_slices(w: Window) -> bool:
    """Return whether each slice of a volume is pooled once, which a small one is not worth."""
    return len(w.input) == 3 and prod(w.input) > RUN


class Places(NamedTuple):
    """Where along an axis, or two, the places of a window are, and which of them elements ask for."""

    number: int  # of places
    distances: Any  # as pointers
    asked: Any
    firsts: Any  # the position of the first place that is there, if wanted
    pitch: int  # from what is asked of one place to that of the next
    period: int  # elements so far apart ask for the same
    worth: int  # what a place counts for in positions


@inline
def further(places, at, lanes):
    """Return where what is asked for by the next vector is."""
    at += lanes
    return at - places.period if at >= places.period else at


@inline
def ask_first(d, places, others):
    """List the position of the first place that each lane has, with that among others."""
    at = 0
    for i in range(0, places.pitch - simd.lanes(d), simd.lanes(d)):
        first = simd.load(d, places.asked, i)
        for k in range(1, places.number):
            simd.rolled()
            place = simd.load(d, places.asked, k * places.pitch + i)
            first = simd.select(place < first, place, first)
        first = first * simd.splat(d, places.worth)
        if others is not None:
            first = first + simd.load(d, others.firsts, at)
            at = further(others, at, simd.lanes(d))
        simd.store(places.firsts, i, first)


class Run(NamedTuple):
    """Some rows that are computed at a time, of those counted over all planes: whole planes, or a band of one."""

    first: int  # the row whose window's first row is that in the middle of scratch
    begin: int  # the rows to compute
    end: int
    low: int  # the elements of scratch that there are
    high: int
    band: bool
    number: int  # which slice of a volume the first plane is
    ahead: Any  # the rows that come next, as a pointer


class Scratch(NamedTuple):
    """What some planes, or a band of one's rows, are copied to and reduced in, and what is asked for."""

    across: Places
    down: Places
    height: int  # rows of the planes, or of the band
    band: bool
    taken: Any  # as pointers
    kept: Any
    kept_at: Any


@inline
def alike(a, first_row, most):
    """Return the first place and how many places windows have inside, of a row of windows and of so many more."""
    start = first_row - a.before
    first, last = places_inside(a, start)
    whole = last - first == a.kernel
    return first, last - first, min(most, a.input - (a.kernel - 1) * a.dilation - start) if whole else 1


@inline
def passes(d, dp, s, run, h, w, values, positions, careful, asked_for, all_of, finish, more):
    """Reduce across, all rows that were taken, then down, and meanwhile ask for what comes next, and for the result.

    From the last cache, or from memory, that takes .45 to .9 of the time: the more evenly it is asked for, the less.

    `asked_for(d, dp, values, found, i, places, at, positions, careful)` and `all_of(d, dp, values, found, i, step,
    first, count, worth, positions, careful)` return what a vector of windows is reduced to, and the positions of that;
    `finish(d, v, i, row, more)` what is written.
    """
    lanes, line = simd.lanes(d), w.input
    asked, into = 0, run.begin * line - run.low
    for i in range(run.low, run.high, lanes):
        ask_vector(d, run.ahead, i - run.low)
        ask_vector(d, values, into + i)
        v, at = asked_for(d, dp, s.taken, None, i, s.across, asked, positions, careful)
        asked = further(s.across, asked, lanes)
        simd.store(s.kept, i, v)
        if positions is not None:
            simd.store(s.kept_at, i, at)
    if not run.band:
        shift, end = run.first * line, run.end * line
        for i in range(run.begin * line - shift, end - shift, lanes):
            v, at = asked_for(d, dp, s.kept, s.kept_at, i, s.down, i, positions, careful)
            simd.store_before(values, shift + i, finish(d, v, run.number * h.input * line + i, -1, more), end)
            if positions is not None:
                simd.store_before(positions, shift + i, at, end)
    else:
        reduce_band(d, dp, s, run, h, w, values, positions, careful, all_of, finish, more)


@inline
def reduce_band(d, dp, s, run, h, w, values, positions, careful, all_of, finish, more):
    """Reduce a band of rows down."""
    lanes, line = simd.lanes(d), w.input
    row = run.begin
    while row < run.end:
        first, count, size = alike(h, row % h.input, run.end - row)
        shift, end = row * line, (row + size) * line
        top = (row - run.first + first * h.dilation) * line
        for i in range(0, size * line, lanes):
            v, at = all_of(
                d, dp, s.kept, s.kept_at, top + i, h.dilation * line, first, count, w.places, positions, careful
            )
            simd.store_before(values, shift + i, finish(d, v, i, run.number * h.input + row % h.input, more), end)
            if positions is not None:
                simd.store_before(positions, shift + i, at, end)
        row += size


@inline
def scratch(z, h, w, d, dp, size, wanted):
    """Make scratch for reducing an array of so many elements, and fill its tables; return that, and its arrays."""
    lanes, line, rows, downs = simd.lanes(d), w.input, z.input * h.input, z.places * h.places
    band = in_bands(z, h, w)
    halo = (h.places - 1) * h.dilation if band else 0
    height = BAND // line if band else max(1, min(RUN, size) // (rows * line)) * rows
    margin = line if band else rows * line
    # Across, rows ask for the same: of those of which some fill vectors, the table has some.
    period = line * ceil_div(lanes, line)
    while period % lanes > 0 and period < RUN:
        period += line
    run = period + line * ceil_div(lanes, line)
    across_pitch, pitch = run + 2 * lanes, (height + halo) * line + 2 * lanes
    table = np.empty(w.places + downs, np.int64)
    # As bytes, what is asked for fits L1: large windows of small planes take .6 to .9 of the time.
    da = simd.mask_tag(d, None)
    asked_scratch = simd.scratch(da, w.places * across_pitch + (0 if band else downs * pitch))
    first_scratch = simd.scratch(dp, across_pitch + pitch if wanted else 0)
    asked, firsts = simd.pointer(asked_scratch), simd.pointer(first_scratch)
    across = Places(w.places, simd.pointer(table), asked, firsts, across_pitch, period, 1)
    down_asked, down_firsts = simd.offset(asked, w.places * across_pitch), simd.offset(firsts, across_pitch)
    down = Places(downs, simd.pointer(table[w.places :]), down_asked, down_firsts, pitch, pitch, w.places)
    ask_all(z, h, w, da, dp, across, down, run, height, band, wanted)
    copies = simd.scratch(d, 2 * (pitch + 2 * margin))
    kept_at_scratch = simd.scratch(dp, pitch + 2 * margin if wanted else 0)
    taken = simd.offset(simd.pointer(copies), margin)
    kept = simd.offset(taken, pitch + 2 * margin)
    kept_at = simd.offset(simd.pointer(kept_at_scratch), margin)
    arrays = table, asked_scratch, first_scratch, copies, kept_at_scratch
    return Scratch(across, down, height, band, taken, kept, kept_at), arrays


@inline
def ask_all(z, h, w, d, dp, across, down, run, height, band, wanted):
    """Fill the tables of what is asked for, and, if wanted, of what comes first."""
    line, rows, across_pitch, pitch = w.input, z.input * h.input, across.pitch, down.pitch
    # Places that no window has are read, too.
    for k in range(w.places):
        distance = k * w.dilation - w.before
        ask_planes(d, across.asked, k * across_pitch, across_pitch, run, 1, 1, line, 0, 0, -distance, k)
        across.distances[k] = distance if abs(distance) < line else 0
    if wanted:
        ask_first(dp, across, None)
    if not band:
        for k in range(down.number):
            deep, low = k // h.places * z.dilation - z.before, k % h.places * h.dilation - h.before
            ask_planes(d, down.asked, k * pitch, pitch, height * line, z.input, h.input, line, -deep, -low, 0, k)
            distance = (deep * h.input + low) * line
            down.distances[k] = distance if abs(distance) < rows * line else 0
        if wanted:
            ask_first(dp, down, across)


@inline
def sweep(start, stop, through, z, h, w, d, elements, source, s, values, positions, nans, combine, reduce, more):
    """Reduce the windows of the rows from start to stop, counted over the planes.

    These are what `fastpool.kernels.rows.gather` makes of x, `through` an axis, by `combine(a, b, careful)`, and
    `reduce(s, run, h, w, values, positions, careful, more)` of that. Where there may be one of the `nans`, they are
    `careful`. Return whether there may be any.
    """
    line, rows = w.input, z.input * h.input
    above, below = (h.before, (h.places - 1) * h.dilation - h.before) if s.band else (0, 0)
    row, met = start, False
    while row < stop:
        top = row - row % rows
        if s.band:
            first, end = row, min(stop, row + s.height, top + rows)
            upper, lower = max(top, row - above), min(top + rows, end + below)
        else:
            first = upper = top
            end, lower = min(stop, top + s.height), min(ceil_div(stop, rows) * rows, top + s.height)
        into = (upper - first + above) * line
        taken = simd.offset(s.taken, into)
        careful = gather(d, elements, source, through, rows, line, upper, lower, combine, nans, taken)
        base, _, slices = window_slices(source, through, rows, end // rows)
        base += ((slices - 1) * through.dilation * rows + end % rows) * source.row_step
        run = Run(
            first, row, end, into, into + (lower - upper) * line, s.band, first // rows % through.output,
            simd.offset(elements, base),
        )  # fmt: skip
        if nans is None:
            reduce(s, run, h, w, values, positions, False, more)
        elif careful:
            reduce(s, run, h, w, values, positions, True, more)
        else:
            reduce(s, run, h, w, values, positions, False, more)
        row = end
        met = met or careful
    return met


@inline
def in_bands(z, h, w):
    """Return whether planes are taken in bands of rows: not slices, of which positions count those in the padding."""
    return z.input == z.places == 1 and h.input * w.input > SMALL


@inline
def largest_asked(d, dp, values, found, i, places, at, positions, careful):
    """Return the largest of the values around i that are asked for, at `at`, and, if wanted, the position of it.

    That is what was `found` of it before, if anything was, and what its place counts for.
    """
    best, best_at = simd.splat(d, simd.lowest(d)), simd.splat(dp, 0)
    if positions is not None:
        best_at = simd.load(dp, places.firsts, at)
    da = simd.mask_tag(d, None)
    for k in range(places.number):
        simd.rolled()
        source = i + places.distances[k]
        v = simd.load(d, values, source)
        asked = simd.load(da, places.asked, k * places.pitch + at) == simd.splat(da, k)
        better = outranks(v, best, careful) & asked
        best = simd.select(better, v, best)
        if positions is not None:
            position = simd.splat(dp, k * places.worth)
            if found is not None:
                position = position + simd.load(dp, found, source)
            best_at = simd.select(better, position, best_at)
    return best, best_at


@inline
def largest(d, dp, values, found, i, step, first, count, worth, positions, careful):
    """Return the same of `count` values, a step apart, from i on, which is place number `first`."""
    best, best_at = simd.load(d, values, i), simd.splat(dp, 0)
    if positions is not None:
        best_at = simd.load(dp, found, i) + simd.splat(dp, first * worth)
    for k in range(first + 1, first + count):
        simd.rolled()
        i += step
        v = simd.load(d, values, i)
        better = outranks(v, best, careful)
        best = simd.select(better, v, best)
        if positions is not None:
            best_at = simd.select(better, simd.load(dp, found, i) + simd.splat(dp, k * worth), best_at)
    return best, best_at


@inline
def unchanged(d, v, i, row, more):
    """Return v."""
    return v


@cache
def max_pool_flat(deep: bool) -> Kernel:
    """Return the kernel: if deep, for volumes: slices are reduced first, or, for an argmax, each is pooled once."""

    @inline
    def reduce(s, run, h, w, values, positions, careful, more):
        """Take the maxima of windows."""
        d, dp, _, _, _ = more
        passes(d, dp, s, run, h, w, values, positions, careful, largest_asked, largest, unchanged, None)

    @inline
    def pool_rows(start, stop, h, w, elements, source, values, positions, more):
        """Pool rows of planes; return whether there was a NaN."""
        d, _, through, z, s = more
        return sweep(
            start, stop, through, z, h, w, d, elements, source, s, values, positions, simd.nans(d), larger, reduce, more
        )

    def body(start, stop, geometry, x, y, argmax):
        """Pool the rows of x (A, B, D * H, W) from start to stop, counted over its planes."""
        z, h, w = axes(geometry)
        d = simd.tag(x)
        dp = simd.mask_tag(d, argmax)
        wide, wide_dp = simd.several(d), simd.several(dp)
        planes = ONE if deep else z
        through = z if deep and argmax is None else ONE
        s, arrays = scratch(planes, h, w, wide, wide_dp, x.size, argmax is not None)
        more = (wide, wide_dp, through, planes, s)
        if deep and argmax is not None:
            sweep_slices(start, stop, z, h, w, d, x, y, argmax, pool_rows, more, merge, simd.nans(d))
        else:
            pool_rows(start, stop, h, w, simd.pointer(x), layout(x), simd.pointer(y), simd.pointer(argmax), more)
        simd.keep(arrays)

    body.__name__ = f"max_pool_flat{'-deep' * deep}"
    return Kernel(body, writes=2)


@inline
def sum_asked(d, dp, values, found, i, places, at, positions, careful):
    """Return the sum of the values around i that are asked for, at `at`."""
    total, da = simd.splat(d, 0), simd.mask_tag(d, None)
    for k in range(places.number):
        simd.rolled()
        asked = simd.load(da, places.asked, k * places.pitch + at) == simd.splat(da, k)
        total = simd.select(asked, total + simd.load(d, values, i + places.distances[k]), total)
    return total, None


@inline
def sum_all(d, dp, values, found, i, step, first, count, worth, positions, careful):
    """Return the sum of `count` values, a step apart, from i on."""
    total = simd.load(d, values, i)
    for _ in range(1, count):
        simd.rolled()
        i += step
        total = total + simd.load(d, values, i)
    return total, None


@inline
def divide(d, v, i, row, more):
    """Divide a vector of sums by what is shared out at i, times, in a band, the height of its rows."""
    shares, heights = more
    share = simd.load(d, shares, i)
    return v / (share if row < 0 else share * simd.splat(d, heights[row]))


@cache
def avg_pool_flat(deep: bool) -> Kernel:
    """Return the kernel that does what `fastpool.kernels.avg_pool.avg_pool` does."""

    @inline
    def reduce(s, run, h, w, values, positions, careful, more):
        """Average windows."""
        d, dp, shares = more
        passes(d, dp, s, run, h, w, values, positions, careful, sum_asked, sum_all, divide, shares)

    def body(start, stop, geometry, x, heights, widths, y):
        """Average the windows of the rows of x from start to stop, counted over its planes."""
        z, h, w = axes(geometry)
        d = simd.several(simd.tag(x))
        dp = simd.position_tag(d, None)
        by_row, by_column = simd.pointer(heights), simd.pointer(widths)
        through, planes = (z, ONE) if deep else (ONE, z)
        s, arrays = scratch(planes, h, w, d, dp, x.size, False)
        share_scratch = shared(through, planes, h, w, d, by_row, by_column)
        more = (d, dp, (simd.pointer(share_scratch), by_row))
        sweep(
            start, stop, through, planes, h, w, d, simd.pointer(x), layout(x), s, simd.pointer(y), None, None, add,
            reduce, more,
        )  # fmt: skip
        simd.keep((arrays, share_scratch))

    body.__name__ = f"avg_pool_flat{'-deep' * deep}"
    return Kernel(body, writes=1)


@inline
def shared(through, z, h, w, d, heights, widths):
    """Return, as scratch, what the sums of a volume are divided by, or, in a band, those of rows but for the height."""
    lanes, line, rows = simd.lanes(d), w.input, through.output * z.input * h.input
    band = in_bands(z, h, w)
    volume = line if band else rows * line
    size = BAND if band else volume + RUN
    scratch = simd.scratch(d, size + lanes)
    shares = simd.pointer(scratch)
    for at in range(0, volume, line):
        height = simd.splat(d, 1 if band else heights[at // line])
        for i in range(0, line, lanes):
            v = simd.load_between(d, widths, i, 0, line - i)
            simd.store_before(shares, at + i, v * height, scratch.size)
    at = volume
    while at < size:
        simd.copy(shares, at, shares, 0, min(volume, size - at))
        at += volume
    return scratch
