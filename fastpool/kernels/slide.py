"""Windows one apart, as many as elements, of many rows: how many these are costs nothing.

As in `fastpool.kernels.flat`, rows of some planes, or of a band of one, are copied to scratch; here with room between
them, so that no lane needs to be asked whether it has a place. They are reduced across, place by place, and then down
in three steps an element (van Herk, 1992; Gil and Werman, 1993). Of windows above one another, as many as they have
rows, the places of the first end where those of the last begin. So each is the rest of the first one, reduced upwards
from that end, and the beginning of what is behind it, reduced downwards; and no sum is one of more than its window, as
running sums are. Windows of 9 x 9 on rows of 28 take .8 of the time that `flat` takes, of 13 x 13 on rows of 19 .65 to
.95.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastpool.kernels import flat, simd
from fastpool.kernels.avg_pool import add
from fastpool.kernels.compiled import inline
from fastpool.kernels.flat import BAND, RUN, in_bands, sweep
from fastpool.kernels.geometry import ONE, axes, ceil_div, layout, places_inside
from fastpool.kernels.launch import kernel
from fastpool.kernels.max_pool import larger, outranks
from fastpool.kernels.rows import ask_vector, high
from fastpool.kernels.tile import fill
from fastpool.window import Window

#: Places across are as many loads: so many take less time than tiles.
WIDE = 48
#: Rows of so many elements, times the rows and columns of windows, take less time by `fastpool.kernels.flat`.
NARROW = 1 << 8
#: Bands have so many times the rows of those of `fastpool.kernels.flat`, as high windows have more of them in common.
HIGHER = 2
#: So many vectors are reduced at a time: more would be emptier behind the ends of rows.
VECTORS = 2


def suits(w: Window) -> bool:
    """Return whether pooling these windows is fastest, and works, by `max_pool_slide` and `avg_pool_slide`."""
    if not high(w) or w.input != w.output or w.stride[1] > 1:
        return False
    if w.input[1] * sum(w.kernel_size) <= NARROW and flat.suits(w):
        return False
    reach = (w.kernel_size[0] - 1) * w.dilation[0]
    return w.kernel_size[1] <= WIDE and reach * w.input[1] <= BAND // 2


class Scratch(NamedTuple):
    """What some planes, or a band of one's rows, are copied to and reduced in."""

    height: int  # rows of the planes, or of the band
    band: bool
    taken: Any  # as pointers
    spread: Any  # with room between rows
    kept: Any  # as are these
    kept_at: Any
    pitch: int  # from one of those rows to the next
    near: int  # the places across that some window has: the first, and behind the last
    far: int
    firsts: Any  # the first place that each column's window has
    rest: Any  # of a group's first window, from each place on
    rest_at: Any
    least: Any  # joined to anything, it changes nothing


class Group(NamedTuple):
    """Windows above one another, as many as they have rows, or some of these."""

    row: int  # of the first one's outputs, counted over all planes
    out: int  # and in its own
    begin: int  # which of the windows to compute
    end: int


@inline
def scratch(h, w, d, dp, size, wanted, least):
    """Make scratch for reducing an array of so many elements; return that, and its arrays."""
    lanes, line = simd.lanes(d), w.input
    band = in_bands(ONE, h, w)
    height = HIGHER * BAND // line if band else max(1, min(RUN, size) // (h.input * line)) * h.input
    rows = height + ((h.places - 1) * h.dilation if band else 0)
    # Places as far away as rows are long, no column has.
    near = max(0, ceil_div(w.before - line + 1, w.dilation))
    far = min(w.places, (w.before + line - 1) // w.dilation + 1)
    room = max(w.before - near * w.dilation, (far - 1) * w.dilation - w.before)
    pitch = line + room
    values = simd.scratch(d, rows * line + 2 * (room + rows * pitch) + 6 * lanes)
    taken = simd.aligned(simd.pointer(values))
    start = simd.aligned(simd.offset(taken, rows * line + lanes))
    spread = simd.offset(start, room)
    kept = simd.aligned(simd.offset(spread, rows * pitch + room + lanes))
    fill(d, start, 0, 2 * room + rows * pitch, simd.splat(d, least))
    positions = simd.scratch(dp, rows * pitch + 2 * lanes if wanted else 0)
    first_scratch = simd.scratch(dp, line + lanes)
    firsts = simd.pointer(first_scratch)
    for i in range(line):
        firsts[i] = max(0, ceil_div(w.before - i, w.dilation))
    rest, rest_at = simd.scratch(d, (h.places + 1) * lanes), simd.scratch(dp, (h.places + 1) * lanes if wanted else 0)
    return (
        Scratch(
            height, band, taken, spread, kept, simd.aligned(simd.pointer(positions)), pitch, near, far, firsts,
            simd.aligned(simd.pointer(rest)), simd.aligned(simd.pointer(rest_at)), least,
        ),
        (values, positions, first_scratch, rest, rest_at),
    )  # fmt: skip


@inline
def passes(d, dp, s, run, h, w, values, positions, careful, join, finish, more):
    """Reduce across all rows that were taken, then down.

    `join(v, at, other, other_at, positions, careful)` returns what two vectors are reduced to, and, if positions are
    wanted, the position of that; `finish(d, v, i, row, more)` what is written of it, in column i of a plane's row.
    """
    reduce_across(d, dp, s, run, w, values, positions, careful, join)
    row, size = run.begin, h.places * h.dilation
    while row < run.end:
        out = row % h.input
        before = out % size  # so groups begin where they would in one thread, and sums are the same
        count = min(run.end - row, h.input - out, size - before)
        for phase in range(min(h.dilation, before + count)):
            begin, end = ceil_div(before - phase, h.dilation), ceil_div(before + count - phase, h.dilation)
            group = Group(row - before + phase, out - before + phase, begin, end)
            reduce_down(d, dp, s, run, group, h, w, values, positions, careful, join, finish, more)
        row += count


@inline
def reduce_across(d, dp, s, run, w, values, positions, careful, join):
    """Spread rows, and reduce them across. Those that come next, and the results, are asked for."""
    lanes, line = simd.lanes(d), w.input
    first, last, shift = run.low // line, run.high // line, run.begin * line - run.low
    for row in range(first, last):
        into = row * s.pitch
        for i in range(0, line, lanes):
            ask_vector(d, run.ahead, row * line + i - run.low)
            ask_vector(d, values, shift + row * line + i)
            simd.store_before(s.spread, into + i, simd.load(d, s.taken, row * line + i), into + line)
    for i in range(first * s.pitch, (last - 1) * s.pitch + line, lanes):
        source = i - w.before + s.near * w.dilation
        v, at = simd.load(d, s.spread, source), simd.splat(dp, s.near)
        for k in range(s.near + 1, s.far):
            simd.rolled()
            source += w.dilation
            v, at = join(v, at, simd.load(d, s.spread, source), simd.splat(dp, k), positions, careful)
        store(s.kept, s.kept_at, i, v, at, positions)


@inline
def reduce_down(d, dp, s, run, group, h, w, values, positions, careful, join, finish, more):
    """Reduce a group of windows down, a vector of columns at a time."""
    lanes, line = simd.lanes(d), w.input
    start = group.out - h.before
    first, last = places_inside(h, start)
    behind = ceil_div(h.input - start, h.dilation)
    top = (group.row - run.first - (0 if run.band else h.before)) * s.pitch
    step = h.dilation * s.pitch
    for i in range(0, line, lanes):
        first_at = simd.load(dp, s.firsts, i)
        v, at = place_down(d, dp, s, top + i, step, last - 1, first_at, w, positions)
        store(s.rest, s.rest_at, (last - 1) * lanes, v, at, positions)
        for k in range(last - 2, max(first, group.begin) - 1, -1):
            simd.rolled()
            above, above_at = place_down(d, dp, s, top + i, step, k, first_at, w, positions)
            v, at = join(above, above_at, v, at, positions, careful)
            store(s.rest, s.rest_at, k * lanes, v, at, positions)
        begun, begun_at = simd.splat(d, s.least), simd.splat(dp, 0)
        for k in range(group.end):
            simd.rolled()
            place = h.places - 1 + k
            if k > 0 and place < behind:
                v, at = place_down(d, dp, s, top + i, step, place, first_at, w, positions)
                begun, begun_at = join(begun, begun_at, v, at, positions, careful)
            if k >= group.begin:
                v, at = load(d, dp, s.rest, s.rest_at, max(first, k) * lanes, positions)
                v, at = join(v, at, begun, begun_at, positions, careful)
                into, out = (group.row + k * h.dilation) * line, group.out + k * h.dilation
                simd.store_before(values, into + i, finish(d, v, i, out, more), into + line)
                if positions is not None:
                    simd.store_before(positions, into + i, at + simd.splat(dp, -k * w.places), into + line)


@inline
def place_down(d, dp, s, i, step, place, first_at, w, positions):
    """Return what was kept of a place down.

    Of the lowest values, the first may have been one between rows.
    """
    v, at = load(d, dp, s.kept, s.kept_at, i + place * step, positions)
    if positions is not None:
        at = simd.select(at < first_at, first_at, at) + simd.splat(dp, place * w.places)
    return v, at


@inline
def load(d, dp, values, found, i, positions):
    """Return values, and, if wanted, their positions."""
    at = simd.splat(dp, 0)
    if positions is not None:
        at = simd.load(dp, found, i)
    return simd.load(d, values, i), at


@inline
def store(values, found, i, v, at, positions):
    """Store values, and, if wanted, their positions."""
    simd.store(values, i, v)
    if positions is not None:
        simd.store(found, i, at)


@inline
def first_largest(v, at, other, other_at, positions, careful):
    """Return the larger of two, and, if wanted, the position of it: the first one if they are equal."""
    better = outranks(other, v, careful)
    if positions is not None:
        at = simd.select(better, other_at, at)
    return simd.select(better, other, v), at


@inline
def unchanged(d, v, i, row, more):
    """Return v."""
    return v


@inline
def total(v, at, other, other_at, positions, careful):
    """Return the sum of two."""
    return v + other, at


@inline
def divide(d, v, i, row, more):
    """Divide sums by the widths and the height of their windows."""
    heights, widths = more
    return v / (simd.load(d, widths, i) * simd.splat(d, heights[row]))


@inline
def take_maxima(s, run, h, w, values, positions, careful, more):
    """Take the maxima of windows."""
    d, dp = more
    passes(d, dp, s, run, h, w, values, positions, careful, first_largest, unchanged, None)


@inline
def average(s, run, h, w, values, positions, careful, more):
    """Average windows."""
    d, dp, shares = more
    passes(d, dp, s, run, h, w, values, positions, careful, total, divide, shares)


@kernel(writes=2)
def max_pool_slide(start, stop, geometry, x, y, argmax):
    """Pool the rows of x (A, B, H, W) from start to stop, counted over its planes."""
    _, h, w = axes(geometry)
    d = simd.widened(simd.tag(x), VECTORS)
    dp = simd.mask_tag(d, argmax)
    s, arrays = scratch(h, w, d, dp, x.size, argmax is not None, simd.lowest(d))
    sweep(
        start, stop, ONE, ONE, h, w, d, simd.pointer(x), layout(x), s, simd.pointer(y), simd.pointer(argmax),
        simd.nans(d), larger, take_maxima, (d, dp),
    )  # fmt: skip
    simd.keep(arrays)


@kernel()
def avg_pool_slide(start, stop, geometry, x, heights, widths, y):
    """Average the windows of the rows of x from start to stop, counted over its planes."""
    _, h, w = axes(geometry)
    d = simd.widened(simd.tag(x), VECTORS)
    dp = simd.position_tag(d, None)
    s, arrays = scratch(h, w, d, dp, x.size, False, 0)
    width_scratch = simd.scratch(d, w.input + simd.lanes(d))
    fill(d, simd.pointer(width_scratch), 0, w.input, simd.splat(d, 1))  # for lanes behind a row, too, are divided
    simd.copy(simd.pointer(width_scratch), 0, simd.pointer(widths), 0, w.input)
    sweep(
        start, stop, ONE, ONE, h, w, d, simd.pointer(x), layout(x), s, simd.pointer(y), None, None, add, average,
        (d, dp, (simd.pointer(heights), simd.pointer(width_scratch))),
    )  # fmt: skip
    simd.keep((arrays, width_scratch))
