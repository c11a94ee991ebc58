"""Small windows over rows: what max and average pooling share.

A vector holds neighbouring elements of a row. A window's rows are reduced to one such vector, and the lanes of
that to outputs, by shuffles: nothing but input and result is read or written, and a row of any length costs as
many vectors as it fills. Lanes on padding are masked, with one mask for all rows of a group.

What lies in memory is asked for ahead, in the order of its addresses: a window's rows side by side,
where they are wide, would be read with half the bandwidth on Zen 4.

In long rows, those vectors are taken one after the other that need no mask: rows of a hundred take .7 to .8 of the
time, of thousands half.

Windows of three axes have the rows of some slices, and are deep: they go through all of these. Small slices are asked
for one after the other, as they lie in memory: .4 to .6 of the time. Where slices are in several windows, each is
sooner pooled once, and windows are merged from that, which costs a store and some loads in L2; but for values of few
places and short rows, of which deep ones take .75 to .9 of the time.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import Axis, Layout, ceil_div, layout, places_inside, plane_offset
from fastpool.kernels.hold import HELD, make_room, write_held
from fastpool.window import Window

#: The widest windows, and distances between windows, that shuffles are written for.
WIDEST, FURTHEST = 8, 8
#: Windows of so many rows, and twice as many rows and columns, are high; so many places, up to two apart, are many.
HIGH, MANY = 8, 40
#: Rows of so many outputs are long, of so many if rows are in several windows, or values come from memory, of so many
#: if windows use what those before did, or values are one apart.
LONG, LONG_FAR, LONGER = 32, 64, 256
#: Volumes' windows of so many rows have few, and rows of so many outputs are short.
FEW, SHORT = 9, 24
#: Groups have about so many bytes, those of long rows so many: what is worked out for each takes as long as 4 KB in L2.
GROUP, LONG_GROUP = 3 << 12, 1 << 14
#: So many bytes of pooled slices are kept, and their positions. Of shorter rows there are some in it.
KEPT = 1 << 18
#: Arrays of fewer bytes are in some cache, where asking ahead costs more than it gains.
FAR = 1 << 21
#: What lies in memory is asked for so many bytes ahead, in the last cache, and from so many bytes on.
LEAD, LEAD_FAR, FARTHER = 1 << 13, 1 << 14, 1 << 24
#: Slices are asked for one after the other if those that windows have side by side are so many bytes.
SLICES = 1 << 17
#: Of windows one apart, results are asked for so many elements ahead: .55 to .9 of the time, from memory.
AHEAD = 1 << 11


def keeps(w: Window, wanted: bool) -> bool:
    """Return whether slices are kept for windows of three axes: some are in two, and positions of maxima are wanted, or
    these are too many rows to go through for each.
    """
    few = prod(w.kernel_size[:-1]) <= FEW and w.output[-1] <= SHORT and not wanted
    return len(w.input) == 3 and w.kernel_size[0] > w.stride[0] and not few


def fits(w: Window) -> bool:
    """Return whether some rows of all slices that windows of three axes reach over can be kept; of fewer, always."""
    return len(w.input) < 3 or ((w.kernel_size[0] - 1) * w.dilation[0] + 1) * w.output[-1] <= KEPT // 16


def high(w: Window) -> bool:
    """Return whether each row is in so many windows that it is sooner reduced across once: tiles take .3 to .9."""
    return len(w.input) == 2 and w.stride[0] == 1 and w.kernel_size[0] >= HIGH and sum(w.kernel_size) >= 2 * HIGH


def suits(w: Window, wanted: bool) -> bool:
    """Return whether the kernels work for these windows, and are the fastest; positions of maxima may be wanted."""
    kernel, stride, dilation = w.in_row
    many = wanted and len(w.input) == 2 and w.taps >= MANY and max(w.stride) <= 2
    slow = high(w) or many  # where each row is reduced across for every window that has it
    return kernel <= WIDEST and stride <= FURTHEST and dilation == 1 and not slow and (not keeps(w, wanted) or fits(w))


def long(w: Window, wanted: bool, shared: bool, far: bool) -> bool:
    """Return whether rows are long: positions of maxima may be wanted, and shared, and results far from any cache."""
    if shared or (w.stride[-1] == 1 and not wanted):
        least = LONGER
    elif len(w.input) < 3 and (w.rows_overlap or (far and not wanted)):
        least = LONG_FAR
    else:
        least = LONG
    return w.output[-1] >= least


def vectors(kernel: int, stride: int, outputs: int, itemsize: int, wanted: bool) -> int:
    """Return how many vectors of a row to read for one of outputs: those that make one, or that all windows span.

    It is a power of two, for shuffles are lowered well from that, and as if vectors were of float32. Where so many lack
    columns of the last outputs, twice as many are read if so a row has two thirds of the parts, or half, where shuffles
    are more of the work: .55 to .9 of the time. CPUs without masks would take 1.1 to 1.35 of it for those.
    """
    many = 1 << (min(stride, -(-((outputs - 1) * stride + kernel) * 4 // simd.BYTES)) - 1).bit_length()
    lanes = simd.BYTES // itemsize
    parts, fewer = (-(-outputs // min(lanes, max(1, (n * lanes - kernel) // stride + 1))) for n in (many, 2 * many))
    if wanted or stride == 1:
        return 2 * many if 3 * fewer <= 2 * parts else many
    return 2 * many if 2 * fewer <= parts and simd.has_masks() else many


class Part(NamedTuple):
    """One vector of the outputs of each row of a group, or some side by side: what to read and where to write."""

    plane: int
    out: int  # the first row, in its plane
    rows: int
    first: int  # the first output of the vector
    vectors: int  # how many there are; of several, all lanes are read and written
    step: int  # outputs from one to the next
    column: int  # where the windows of that output begin
    inside: Any  # the mask of the columns that are elements, and whether all can be read and no window has others
    all_inside: bool
    outputs: int  # how many lanes to write: all, where those behind the outputs are overwritten
    into: int  # the offset of the first row's vector in the result
    ahead: int  # the offset of what to ask for meanwhile, how much of it with every vector, and of how many slices
    share: int
    slices: int


@inline
def window_slices(source, z, rows, plane):
    """Return, of a slice of outputs, where the first slice of its windows is, which place that is, how many they have.

    Slices have so many rows. Of planes, there is one.
    """
    if z.input == z.output == 1 and z.before == 0:  # spares divisions, which take longer than all else of small planes
        return plane_offset(source, plane), 0, 1
    start = plane % z.output * z.stride - z.before
    near, far = places_inside(z, start)
    first = (start + near * z.dilation) * rows
    return plane_offset(source, plane // z.output) + first * source.row_step, near, far - near


@inline
def stacked(source, z, h, stop):
    """Return the layout and the height of all planes as one, where each is windows side by side, and these of all.

    Others are returned as they are. So small planes are no more than rows.
    """
    side_by_side = h.before == 0 and (h.kernel - 1) * h.dilation < h.stride and h.output * h.stride == h.input
    size = h.input * source.row_step
    one = source.inner_step == size and source.outer_step == source.inner * size
    if not (side_by_side and one and z.input == z.output == 1 and z.before == 0):
        return source, h
    rows = stop * h.stride
    all_of_it = Layout(1, rows * source.row_step, rows * source.row_step, source.row_step, source.end, source.item,
                       source.nbytes)  # fmt: skip
    return all_of_it, Axis(rows, stop, h.kernel, h.places, h.stride, 0, h.dilation)


@inline
def complete(h):
    """Return how many rows of windows there are up to the last one that has no place behind the input."""
    return min(h.output, (h.input - (h.kernel - 1) * h.dilation - 1 + h.before) // h.stride + 1)


@inline
def rows_alike(h, out, most, behind):
    """Return the first place and the last of a row of windows, how many have the same, with those after it, and the row
    of the input that the first place is.

    These are at most so many, and of one plane, which has no complete one from `behind` on. What they have in common
    takes as long as one of them, where they are short.
    """
    top = out * h.stride - h.before
    first, last = places_inside(h, top)
    alike = min(most, max(1, behind - out)) if last - first == h.kernel else 1
    return first, last, alike, top + first * h.dilation


@inline
def ask(d, source, offset, count):
    """Ask for `count` elements of memory from `offset` on, which need not exist.

    Two lines at a time, be the last one too many: what counts the lines takes as long as asking for them.
    """
    for i in range(offset, offset + count, 2 * simd.lanes(d)):
        simd.rolled()
        simd.prefetch(source, i)
        simd.prefetch(source, i + simd.lanes(d))


@inline
def ask_vector(d, memory, offset):
    """Ask for as many elements of memory as such a vector has, which need not exist."""
    for i in range(0, simd.lanes(d), simd.lanes(simd.single(d))):
        simd.prefetch(memory, offset + i)


@inline
def sweep(start, stop, z, h, w, d, wide, elements, source, values, positions, pool, nans, more, long, held, far):
    """Call `pool(elements, source, h, w, part, values, positions, careful, more)` for the rows from start to stop.

    It reads vectors of the tag `wide` and writes such of the tag `d`, to `values`, and to `positions` if that is not
    None, from `part.into` on and every further row after w.output elements. It returns whether it met one of the
    `nans`, which cost it more: then it is called again, to be careful with them. None are met where `nans` is None.
    `sweep` returns whether any was. Values that are far from any cache are held back in `held`, unless that is None,
    or there are as many as elements, or positions beside rows of one vector: that takes 1.1 to 1.3 times as long.
    """
    lanes, wide_lanes = simd.lanes(d), simd.lanes(wide)
    line = z.stride * h.stride * w.input * source.item
    rows = max(1, (LONG_GROUP if long else GROUP) // line)
    lead = max(1, (LEAD_FAR if source.nbytes >= FARTHER else LEAD) // line)
    to, held_from = values, start * w.output
    holding = far and w.output <= HELD and h.stride * w.stride > 1 and (positions is None or w.output > lanes)
    if holding:
        rows = min(rows, HELD // w.output)
    outputs = min(lanes, (wide_lanes - w.kernel) // w.stride + 1)
    # What is written behind the only vector of a row, the next row overwrites.
    alone = w.output <= outputs
    ascending = 0 <= z.input * h.input * source.row_step <= source.inner_step
    ascending = ascending and source.inner * source.inner_step <= source.outer_step
    met = False
    share, slices, down, later = 0, 1, h.stride, 0
    if z.input > 1:
        # The slices that windows before have not are asked for one after the other, or, if large, side by side.
        slices = min(z.kernel, z.stride)
        later = (z.kernel - slices) * z.dilation * h.input
        if slices * h.input * source.row_step * source.item <= SLICES:
            lead += ceil_div((slices - 1) * h.output, slices)
            down, slices = slices * h.stride, 1
    if source.nbytes >= FAR:
        share = ceil_div(down * source.row_step, ceil_div(w.output, outputs))
    for row in range(start, stop, rows):
        behind = min(stop, row + rows)
        if held is not None:  # noqa: SIM102 (the compiler's question, that the next one is not mixed into)
            if holding:
                held_from = make_room(values, held, held_from, row * w.output, (behind - row) * w.output, HELD, True)
                to = simd.offset(held, -held_from)
        plane, out = (behind - 1) // h.output, (behind - 1) % h.output
        last_row = min(h.input - 1, out * h.stride - h.before + (h.kernel - 1) * h.dilation)
        if z.input > 1:  # the last slice that this window might have, and all of its rows: those before may
            last_slice = min(z.input - 1, plane % z.output * z.stride - z.before + (z.kernel - 1) * z.dilation)
            last_row = last_slice * h.input + h.input - 1
        readable = source.end - plane_offset(source, plane // z.output) - last_row * source.row_step
        base, _, _ = window_slices(source, z, h.input, (row + lead) // h.output)
        ahead = base + ((row + lead) % h.output * down - h.before + later) * source.row_step
        into = row * w.output
        i = 0
        while i < w.output:
            column, many = i * w.stride - w.before, min(outputs, w.output - i)
            end = readable if ascending else w.input
            within = column >= 0 and column + (many - 1) * w.stride + w.kernel <= w.input
            within = within and column + wide_lanes <= end
            vectors = 1
            if long and within:
                # Those that have all lanes inside, too.
                reach = max((outputs - 1) * w.stride + w.kernel, w.input - end + wide_lanes)
                vectors = min((w.output - i - lanes) // outputs, (w.input - column - reach) // (outputs * w.stride)) + 1
                vectors = max(1, vectors)
            part = Part(
                row // h.output,
                row % h.output,
                behind - row,
                i,
                vectors,
                outputs,
                column,
                simd.between(wide, -column, w.input - column),
                within,
                lanes if alone and behind * w.output + lanes <= (stop + 1) * w.output else min(lanes, w.output - i),
                into + i,
                ahead,
                share,
                slices,
            )
            if nans is None:
                pool(elements, source, h, w, part, to, positions, False, more)
            elif pool(elements, source, h, w, part, to, positions, False, more):
                pool(elements, source, h, w, part, to, positions, True, more)
                met = True
            ahead += share * vectors * (behind - row)
            i += vectors * outputs
    if held is not None:  # noqa: SIM102
        if holding:
            write_held(values, held_from, held, stop * w.output - held_from, True)
    return met


class Slices(NamedTuple):
    """The pooled slices that windows are merged from, and where these go: one after the other."""

    offsets: Any  # of the first element in each slice, as a pointer
    many: int
    first: int  # which place of the windows the first slice is
    runs: int
    size: int  # of a run
    apart: int  # from one to the next
    into: int  # the offset of the first in the result


@inline
def sweep_slices(start, stop, z, h, w, d, x, y, argmax, pool, more, merge, nans):
    """Pool the rows of x from start to stop by windows of three axes: each slice once, kept and merged to windows.

    `pool(start, stop, h, w, elements, source, values, positions, more)` does so with the rows of slices, and returns
    whether it met one of the `nans`; then `merge(d, dp, kept, kept_at, slices, h, w, values, positions, careful,
    more)` is careful until it comes to later slices. Kept are as many rows of as many slices as fill a part of L2, in a
    ring. A range that begins amid a plane pools the slices before it once more; so do bands of rows with the few that
    they share.
    """
    given = layout(x)
    lines, span = z.output * h.output, (z.kernel - 1) * z.dilation + 1
    room = KEPT // simd.BYTES * simd.lanes(d)
    band = min(h.output, max(1, room // (span * w.output)))
    size = band * w.output
    # The slices of all volumes are counted on, where these follow one another as they do.
    one = band == h.output and given.outer_step == given.inner * given.inner_step
    group = lines * (ceil_div(stop, lines) if one else 1)
    # Of small slices, many are pooled at a time, unless there are some between windows.
    ring = max(span, min(group // lines * z.input, room // size)) if band == h.output and z.stride <= span else span
    wide = simd.several(d)
    dp = simd.tag_beside(wide, argmax)
    most = ring * size + simd.lanes(wide)
    kept_scratch, kept_at_scratch = simd.scratch(d, most), simd.scratch(dp, 0 if argmax is None else most)
    kept, kept_at = simd.pointer(kept_scratch), simd.beside(argmax, simd.pointer(kept_at_scratch))
    offsets_table = np.empty(z.kernel, np.int64)
    offsets = simd.pointer(offsets_table)
    values, positions = simd.pointer(y), simd.pointer(argmax)
    for origin in range(start - start % lines, stop, group):
        first, last = max(0, start - origin), min(group, stop - origin)
        base = plane_offset(given, origin // lines)
        elements = simd.offset(simd.pointer(x), base)
        source = Layout(
            z.input, given.inner_step, h.input * given.row_step, given.row_step, given.end - base, given.item,
            given.nbytes,
        )  # fmt: skip
        begin, end = first // h.output, ceil_div(last, h.output)
        limit = (end - 1) // z.output * z.input
        limit += min(z.input, (end - 1) % z.output * z.stride - z.before + span)
        for top in range(0, h.output, band):
            bottom = min(h.output, top + band)
            pooled, doubtful = 0, -1
            out = begin
            while out < end:
                upper, lower = max(top, first - out * h.output), min(bottom, last - out * h.output)
                number, front, behind = out, out % z.output * z.stride - z.before, (out // z.output + 1) * z.input
                near, far = places_inside(z, front)
                front += behind - z.input
                oldest = max(front, behind - z.input)
                out += 1
                if upper >= lower:
                    continue
                if pooled < front + (far - 1) * z.dilation + 1:
                    pooled = max(pooled, oldest)
                    until = min(limit, oldest + ring)
                    while pooled < until:
                        slot = pooled % ring
                        count = min(until - pooled, ring - slot) if band == h.output else 1
                        shift = (slot * band - top - pooled * h.output) * w.output
                        met = pool(
                            pooled * h.output + top, (pooled + count - 1) * h.output + bottom, h, w, elements, source,
                            simd.offset(kept, shift), simd.offset(kept_at, shift), more,
                        )  # fmt: skip
                        pooled += count
                        if met:
                            doubtful = pooled - 1
                # What windows that follow each other have is so far apart in the ring, up to its end.
                newest, runs = front + span - 1, 1
                if band == h.output and upper == 0 and lower == h.output and near == 0:
                    while (
                        last >= (out + 1) * h.output
                        and newest + z.stride < min(pooled, behind)
                        and (newest + z.stride) % ring >= span - 1 + z.stride
                    ):
                        newest += z.stride
                        out += 1
                        runs += 1
                for k in range(near, far):
                    offsets[k - near] = (front + k * z.dilation) % ring * size + (upper - top) * w.output
                into = (origin + number * h.output + upper) * w.output
                count = (lower - upper) * w.output
                if z.stride == 1:
                    runs, count = 1, runs * count
                slices = Slices(offsets, far - near, near, runs, count, z.stride * size, into)
                if nans is None:
                    merge(wide, dp, kept, kept_at, slices, h, w, values, positions, False, more)
                elif oldest <= doubtful:
                    merge(wide, dp, kept, kept_at, slices, h, w, values, positions, True, more)
                else:
                    merge(wide, dp, kept, kept_at, slices, h, w, values, positions, False, more)
    simd.keep((kept_scratch, kept_at_scratch, offsets_table))


@inline
def gather(d, elements, source, z, rows, line, row, last, combine, nans, into):
    """Copy rows to scratch, of slices with so many, counted over all slices of windows.

    Such a slice is reduced from those of the input that its windows have, by `combine(a, b, careful)`. Return whether
    there may be one of the `nans`, with which that is careful.
    """
    if nans is None:
        return gather_by(d, elements, source, z, rows, line, row, last, combine, False, into)
    if gather_by(d, elements, source, z, rows, line, row, last, combine, False, into):
        return gather_by(d, elements, source, z, rows, line, row, last, combine, True, into)
    return False


@inline
def gather_by(d, elements, source, z, rows, line, row, last, combine, careful, into):
    """Do that; return whether there was a NaN."""
    seen = simd.splat(d, 0)
    step = z.dilation * rows * source.row_step
    # Where rows follow each other in memory, there is but one.
    joined = source.row_step == line
    one = joined and z.input == z.output == 1 and source.inner_step == rows * line
    one = one and source.outer_step == source.inner * source.inner_step
    ahead = z.stride * rows * source.row_step
    at = 0
    while row < last:
        plane, y = row // rows, row % rows
        base, _, slices = window_slices(source, z, rows, plane)
        first = base + y * source.row_step
        count = last - row if one else min(last - row, rows - y) if joined else 1
        size = count * line
        for i in range(0, size, simd.lanes(d)):
            for k in range(slices if z.input > 1 else 0):
                simd.rolled()
                there = first + ahead + k * step + i
                for j in range(there, there + simd.lanes(d), simd.BYTES // source.item):
                    simd.rolled()
                    simd.prefetch(elements, j)
            # A sum is NaN if an element is, or infinities are.
            v = simd.load_between(d, elements, first + i, 0, size - i)
            seen = seen + v
            for k in range(1, slices):
                simd.rolled()
                other = simd.load_between(d, elements, first + k * step + i, 0, size - i)
                seen = seen + other
                v = combine(v, other, careful)
            simd.store(into, at + i, v)
        at += size
        row += count
    return simd.any_lane(simd.is_nan(seen))
