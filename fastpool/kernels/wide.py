"""Windows that are wide, or far apart: reduced down first, and then across by doubling.

An output row's windows are reduced down to one row in scratch, which reads the input once where windows are side by
side. There, runs of one, two, four and more neighbours are reduced to their first one's place, each from two of half
the length; a window is those runs that its width is the sum of. That takes two vectors for every bit of the width
where reading all places would take one for each, on the few rows that are left. Then one of so many elements is picked.

Of maxima, columns are not come to in the order of positions: these are compared where values are equal.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import axes, ceil_div, layout, places_inside
from fastpool.kernels.launch import kernel
from fastpool.kernels.max_pool import outranks
from fastpool.kernels.rows import window_slices
from fastpool.kernels.slide import first_largest, load, store, total
from fastpool.kernels.tile import fill

#: About so many elements are in scratch at a time: some short rows, or a part of a long one.
ROOM = 1 << 11
#: So many vectors are reduced at a time.
VECTORS = 2


class Scratch(NamedTuple):
    """Rows that were reduced down, and what they are reduced to across."""

    outputs: int  # of a row, at most
    span: int  # columns that these reach over
    rows: int
    halved: int  # how many times neighbours are put together before windows are
    runs: Any  # as pointers
    runs_at: Any
    wholes: Any
    wholes_at: Any
    picked: Any
    picked_at: Any
    firsts: Any  # the first place that each column's window has
    least: Any  # joined to anything, it changes nothing


@inline
def scratch(w, d, dp, wanted, least):
    """Make scratch; return that, and its arrays."""
    lanes, reach = simd.lanes(d), (w.kernel - 1) * w.dilation + 1
    outputs = min(w.output, max(1, (ROOM - reach) // w.stride))
    outputs = ceil_div(w.output, ceil_div(w.output, outputs))
    halved = 0
    while w.dilation == 1 and w.kernel >> halved & 1 == w.stride >> halved & 1 == 0:
        halved += 1
    span = ceil_div((outputs - 1) * w.stride + reach, 1 << halved) << halved
    rows = max(1, ROOM // span)
    size = rows * span + 4 * lanes
    values, positions = simd.scratch(d, 2 * size), simd.scratch(dp, 2 * size if wanted else 0)
    picked, picked_at = simd.scratch(d, outputs + lanes), simd.scratch(dp, outputs + lanes)
    first_scratch = simd.scratch(dp, w.output + lanes)
    firsts, runs, runs_at = simd.pointer(first_scratch), simd.pointer(values), simd.pointer(positions)
    # For lanes behind a row, too, are added, and divided, which takes long of what is not a number.
    fill(d, runs, 0, 2 * size - simd.lanes(d), simd.splat(d, least))
    fill(d, simd.pointer(picked), 0, outputs, simd.splat(d, least))
    for i in range(w.output):
        firsts[i] = max(0, ceil_div(w.before - i * w.stride, w.dilation))
    return (
        Scratch(
            outputs, span, rows, halved, runs, runs_at, simd.offset(runs, size), simd.offset(runs_at, size),
            simd.pointer(picked), simd.pointer(picked_at), firsts, least,
        ),
        (values, positions, picked, picked_at, first_scratch),
    )  # fmt: skip


@inline
def sweep(start, stop, z, h, w, d, dp, elements, source, s, values, positions, nans, join, meet, finish, more):
    """Reduce the output rows from start to stop, counted over all planes.

    `join(v, at, other, other_at, positions, careful)` returns what two vectors are reduced to, and, if positions are
    wanted, the position of that, of which those of the first come before those of the other; `meet` if they do not.
    `finish(d, dp, v, at, column, number, out, positions, more)` returns what is written of windows from a column on.
    """
    for row in range(start, stop, s.rows):
        last = min(stop, row + s.rows)
        for column in range(0, w.output, s.outputs):
            outputs = min(s.outputs, w.output - column)
            careful = reduce_down(d, dp, elements, source, s, row, last, column, z, h, w, positions, False, join)
            if nans is None:
                reduce_across(d, dp, s, last - row, outputs, w, positions, False, meet)
            elif careful:
                reduce_down(d, dp, elements, source, s, row, last, column, z, h, w, positions, True, join)
                reduce_across(d, dp, s, last - row, outputs, w, positions, True, meet)
            else:
                reduce_across(d, dp, s, last - row, outputs, w, positions, False, meet)
            number, out = row // h.output % z.output, row % h.output
            for r in range(row, last):
                at, into = (r - row) * (s.span >> s.halved), r * w.output + column
                pick(d, dp, s, at, into, column, outputs, number, out, w, values, positions, finish, more)
                out += 1
                if out == h.output:
                    number, out = (number + 1) % z.output, 0


@inline
def reduce_down(d, dp, elements, source, s, row, last, column, z, h, w, positions, careful, join):
    """Reduce the windows of some output rows down; return whether there was a NaN."""
    lanes, left = simd.lanes(d), column * w.stride - w.before
    first, behind = max(0, -left), min(s.span, w.input - left)
    step, slice_step = h.dilation * source.row_step, z.dilation * h.input * source.row_step
    seen, into = simd.splat(d, 0), 0
    plane, out = row // h.output, row % h.output
    base, near, slices = window_slices(source, z, h.input, plane)
    for _ in range(row, last):
        top = out * h.stride - h.before
        begin, end = places_inside(h, top)
        offset = base + (top + begin * h.dilation) * source.row_step + left
        place = (near * h.places + begin) * w.places
        fill(d, s.runs, into, first, simd.splat(d, s.least))
        for i in range(first, behind, lanes):
            v, at = simd.splat(d, s.least), simd.splat(dp, place)
            for j in range(slices):
                for k in range(end - begin):
                    simd.rolled()
                    there = offset + j * slice_step + k * step + i
                    other = simd.load_between(d, elements, there, 0, behind - i)
                    seen = seen + other
                    other_at = simd.splat(dp, place + (j * h.places + k) * w.places)
                    v, at = join(v, at, other, other_at, positions, careful)
            store(s.runs, s.runs_at, into + i, v, at, positions)
        fill(d, s.runs, into + behind, s.span - behind, simd.splat(d, s.least))
        into += s.span
        out += 1
        if out == h.output:
            plane, out = plane + 1, 0
            base, near, slices = window_slices(source, z, h.input, plane)
    return simd.any_lane(simd.is_nan(seen))


@inline
def reduce_across(d, dp, s, rows, outputs, w, positions, careful, meet):
    """Reduce rows across, to where their windows begin."""
    lanes, d2, dp2 = simd.lanes(d), simd.widened(d, 2), simd.widened(dp, 2)
    end = rows * s.span
    for i in range(1, s.halved + 1):
        end //= 2
        shift = simd.splat(dp, 1 << (i - 1))
        for at in range(0, end, lanes):
            simd.rolled()
            v2, at2 = load(d2, dp2, s.runs, s.runs_at, 2 * at, positions)
            v, v_at = simd.every(d, v2, 2, 0), simd.every(dp, at2, 2, 0)
            other, other_at = simd.every(d, v2, 2, 1), simd.every(dp, at2, 2, 1)
            v, v_at = meet(v, v_at, other, other_at + shift, positions, careful)
            store(s.runs, s.runs_at, at, v, v_at, positions)
    kernel = w.kernel >> s.halved
    end += (outputs - 1) * (w.stride >> s.halved) + 1 - (s.span >> s.halved)
    length, reduced = 1, 0
    while length <= kernel:
        if kernel & length:
            shift = simd.splat(dp, reduced << s.halved)
            for i in range(0, end, lanes):
                simd.rolled()
                v, at = load(d, dp, s.runs, s.runs_at, i + reduced * w.dilation, positions)
                if reduced > 0:
                    whole, whole_at = load(d, dp, s.wholes, s.wholes_at, i, positions)
                    v, at = meet(whole, whole_at, v, at + shift, positions, careful)
                store(s.wholes, s.wholes_at, i, v, at, positions)
            reduced += length
        if 2 * length <= kernel:
            shift = simd.splat(dp, length << s.halved)
            for i in range(0, end + (kernel - 2 * length) * w.dilation, lanes):
                simd.rolled()
                v, at = load(d, dp, s.runs, s.runs_at, i, positions)
                other, other_at = load(d, dp, s.runs, s.runs_at, i + length * w.dilation, positions)
                v, at = meet(v, at, other, other_at + shift, positions, careful)
                store(s.runs, s.runs_at, i, v, at, positions)
        length *= 2


@inline
def pick(d, dp, s, at, into, column, outputs, number, out, w, values, positions, finish, more):
    """Write the outputs of a row from a column on, which are so far apart in scratch."""
    for i in range(outputs):
        simd.rolled()
        s.picked[i] = s.wholes[at + i * (w.stride >> s.halved)]
        if positions is not None:
            s.picked_at[i] = s.wholes_at[at + i * (w.stride >> s.halved)]
    for i in range(0, outputs, simd.lanes(d)):
        v, found = load(d, dp, s.picked, s.picked_at, i, positions)
        v, found = finish(d, dp, v, found, column + i, outputs - i, number, out, positions, more)
        simd.store_before(values, into + i, v, into + outputs)
        if positions is not None:
            simd.store_before(positions, into + i, found, into + outputs)


@inline
def sooner(v, at, other, other_at, positions, careful):
    """Return the larger of two, and, if wanted, its position: the lower one if they are equal."""
    better = outranks(other, v, careful)
    if positions is not None:
        same = other == v
        if careful:
            same = same | (simd.is_nan(other) & simd.is_nan(v))
        better = better | (same & (other_at < at))
        at = simd.select(better, other_at, at)
    return simd.select(better, other, v), at


@inline
def named(d, dp, v, at, column, outputs, number, out, positions, more):
    """Where even the maximum is the lowest value, as padding is, name the window's first element."""
    firsts, z, h, w = more
    if positions is not None:
        near, _ = places_inside(z, number * z.stride - z.before)
        begin, _ = places_inside(h, out * h.stride - h.before)
        first_at = simd.load(dp, firsts, column) + simd.splat(dp, (near * h.places + begin) * w.places)
        at = simd.select(v == simd.splat(d, simd.lowest(d)), first_at, at)
    return v, at


@inline
def divided(d, dp, v, at, column, outputs, number, out, positions, more):
    """Divide sums by the widths and the height of their windows."""
    heights, widths, h = more
    width = simd.load_or(simd.splat(d, 1), widths, column, 0, outputs)
    return v / (width * simd.splat(d, heights[number * h.output + out])), at


@kernel(writes=2)
def max_pool_wide(start, stop, geometry, x, y, argmax):
    """Pool the output rows from start to stop, counted over all planes of x (N, C, D * H, W)."""
    z, h, w = axes(geometry)
    d = simd.widened(simd.tag(x), VECTORS)
    dp = simd.mask_tag(d, argmax)
    s, arrays = scratch(w, d, dp, argmax is not None, simd.lowest(d))
    sweep(
        start, stop, z, h, w, d, dp, simd.pointer(x), layout(x), s, simd.pointer(y), simd.pointer(argmax),
        simd.nans(d), first_largest, sooner, named, (s.firsts, z, h, w),
    )  # fmt: skip
    simd.keep(arrays)


@kernel()
def avg_pool_wide(start, stop, geometry, x, heights, widths, y):
    """Average the windows of the output rows from start to stop, counted over all planes of x."""
    z, h, w = axes(geometry)
    d = simd.widened(simd.tag(x), VECTORS)
    dp = simd.position_tag(d, None)
    s, arrays = scratch(w, d, dp, False, 0)
    sweep(
        start, stop, z, h, w, d, dp, simd.pointer(x), layout(x), s, simd.pointer(y), None, None, total, total,
        divided, (simd.pointer(heights), simd.pointer(widths), h),
    )  # fmt: skip
    simd.keep(arrays)
