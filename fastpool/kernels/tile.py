"""Tiles: the part of the input that is in scratch at a time, laid out so that a window is a list of offsets.

A tile holds some output rows' worth of input rows, of one plane or of many small ones. Its rows are padded,
so that nothing after `lay` knows of edges, and dealt out: column c goes to place c // stride of phase
c % stride, and rows likewise. Each phase is an array of `pitch` places a row in which neighbours are the
elements that neighbouring outputs meet, so that

- every place of the window is a constant distance from where its output is,
- all outputs of a tile, over all its rows and planes, are one run of vectors, with a few superfluous ones
  where rows and planes meet: no row is too short for vectors, and there are no tails.

The input is read once, in order, which is what prefetchers know; a window's rows side by side halved the
bandwidth of wide images on Zen 4. All of this costs one load and store of every input element, in L1.
"""

from __future__ import annotations

from typing import NamedTuple

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import ceil_div, layout, plane_offset

#: A tile has about so many bytes, half of the smallest L1.
BYTES = 1 << 14
#: And, with its positions, at most so many, which fit L2, where windows are high: rows that are cut are read with less
#: of the bandwidth.
MOST = 1 << 18
#: Vectors that are reduced at a time, in one walk through a list of offsets.
SHARED = 2


class Tile(NamedTuple):
    """How the outputs of an array lie in scratch."""

    outputs: int  # of a row, at most
    rows: int  # of a phase
    pitch: int  # places from one row to the next
    span: int  # places of a row, of which the last ones may be the next row's first: where both are padding
    size: int  # of a phase, with room for vectors that run over its end
    row_phases: int
    column_phases: int
    slices: int  # of the input, of which those that a window has are side by side in scratch
    slice_size: int
    extra: int  # rows that a plane has beyond its output rows
    shared: int  # of them, rows that are the next plane's first, too


@inline
def phases(a):
    """Return how many phases of an axis windows meet: where these do not overlap, not all."""
    return min(a.stride, (a.kernel - 1) * a.dilation + 1)


@inline
def shared(a, places):
    """Return how many places of padding at the end of an axis of so many are at its start, too."""
    return max(0, min(a.before // a.stride, places - ceil_div(a.before + a.input, a.stride)))


@inline
def tile(z, h, w, rows, lanes, arrays):
    """Plan tiles for `rows` output rows, in so many arrays of scratch, a vector of which has so many lanes."""
    item = simd.BYTES // lanes
    extra = (h.kernel - 1) * h.dilation // h.stride
    more = (w.kernel - 1) * w.dilation // w.stride
    row_phases, column_phases = phases(h), phases(w)
    count = z.kernel * row_phases * column_phases
    # The rows that two tiles share shall be few.
    least = 4 * (extra + 1)
    # Rows are cut where so few of them are too much, into parts as long.
    outputs = min(w.output, max(256, MOST // (arrays * item * count * least) - more))
    outputs = ceil_div(w.output, ceil_div(w.output, outputs))
    span = outputs + more
    pitch = span - (shared(w, span) if outputs == w.output else 0)
    height = min(max(BYTES // (item * count * pitch), least), rows * (extra + 1))
    size = height * pitch + (span - pitch) + SHARED * lanes
    slice_size = row_phases * column_phases * size
    rows_shared = shared(h, h.output + extra)
    return Tile(outputs, height, pitch, span, size, row_phases, column_phases, z.kernel, slice_size, extra, rows_shared)


@inline
def fill(d, into, at, count, v):
    """Set `count` elements, and some after them, to the lanes of v."""
    for i in range(at, at + count, simd.lanes(d)):
        simd.rolled()
        simd.store(into, i, v)


@inline
def lay_row(d, x, offset, first, last, padding, stride, t, into, at, nan):
    """Deal one row out to `into`, with `padding` left of column `first` and from column `last` on.

    Return the mask `nan`, with the lanes added in which there was a NaN.
    """
    lanes = simd.lanes(d)
    if stride == 1:
        other = simd.splat(d, padding)
        for i in range(0, t.span, lanes):
            simd.rolled()
            v = simd.load_or(other, x, offset + i, first - i, last - i)
            simd.store(into, at + i, v)
            nan = nan | simd.is_nan(v)
    elif stride == 2:
        other2 = simd.splat(simd.widened(d, 2), padding)
        for i in range(0, t.span, lanes):
            simd.rolled()
            v2 = simd.load_or(other2, x, offset + 2 * i, first - 2 * i, last - 2 * i)
            a, b = simd.every(d, v2, 2, 0), simd.every(d, v2, 2, 1)
            simd.store(into, at + i, a)
            if t.column_phases > 1:
                simd.store(into, at + i + t.size, b)
            nan = nan | simd.either_nan(a, b)
    else:
        # One by one: strides this large are rare.
        for phase in range(t.column_phases):
            for i in range(t.span):
                simd.rolled()
                column = i * stride + phase
                inside = first <= column < last
                into[at + phase * t.size + i] = simd.load_scalar(x, offset + column) if inside else padding
            for i in range(at + phase * t.size, at + phase * t.size + t.span, lanes):
                simd.rolled()
                nan = nan | simd.is_nan(simd.load(d, into, i))
    return nan


@inline
def lay(d, x, plane, row_step, z, h, w, t, number, out, count, column, padding, into, row, nan):
    """Lay the rows that `count` output rows need, from row `out` of slice `number` and output column `column` on.

    They go to rows `row` and following of every phase. Return `nan` as `lay_row` does.
    """
    start = column * w.stride - w.before
    first = max(0, -start)
    # No further than the tile's windows reach: columns beyond are not ours to wait for.
    last = max(first, min(w.input - start, (t.span - 1) * w.stride + t.column_phases))
    for k in range(t.slices):
        deep = number * z.stride - z.before + k * z.dilation
        y = out * h.stride - h.before
        source = plane + (deep * h.input + y) * row_step + start
        for r in range(row, row + count + t.extra):
            for phase in range(h.stride):
                if phase < t.row_phases:
                    at = k * t.slice_size + phase * t.column_phases * t.size + r * t.pitch
                    if 0 <= y < h.input and 0 <= deep < z.input:
                        nan = lay_row(d, x, source, first, last, padding, w.stride, t, into, at, nan)
                    else:
                        for i in range(t.column_phases):
                            fill(d, into, at + i * t.size, t.span, simd.splat(d, padding))
                y += 1
                source += row_step
    return nan


@inline
def reduce_tile(reduce, values, positions, t, used, nans, careful, more):
    """Call `reduce` with `careful` as a constant: where there are no `nans`, it is compiled once."""
    if nans is None:
        reduce(values, positions, t, used, False, more)
    elif careful:
        reduce(values, positions, t, used, True, more)
    else:
        reduce(values, positions, t, used, False, more)


@inline
def sweep(start, stop, z, h, w, t, d, x, y, argmax, padding, reduce, finish, nans, more):
    """Tile the output rows from start to stop: lay, reduce, finish, and write.

    `reduce(values, positions, t, used, careful, more)` puts outputs where the first elements of their windows were,
    in phase 0, of which so many places are `used`; `finish(values, positions, at, number, out, column, outputs, more)`
    is called for each row of outputs, which is at values[at:], and is row `out` of slice `number`, from `column` on.
    """
    dp = simd.mask_tag(d, argmax)
    source = layout(x)
    elements, result, result_at = simd.pointer(x), simd.pointer(y), simd.pointer(argmax)
    size = t.slices * t.slice_size
    values_scratch = simd.scratch(d, size)
    positions_scratch = simd.scratch(dp, 0 if argmax is None else size)
    values, positions = simd.pointer(values_scratch), simd.beside(argmax, simd.pointer(positions_scratch))
    block = start
    while block < stop:
        # As many rows as a tile takes, of as many slices.
        rows, used = 0, 0
        while block + rows < stop:
            room = t.rows - used - t.extra
            count = min(h.output - (block + rows) % h.output, stop - block - rows)
            if room < count and rows > 0:
                break
            count = min(count, room)
            rows += count
            used += count + t.extra - t.shared
        used = (used + t.shared) * t.pitch + t.span - t.pitch
        for column in range(0, w.output, t.outputs):
            outputs = min(t.outputs, w.output - column)
            nan = simd.is_nan(simd.splat(d, padding))
            done, row = 0, 0
            while done < rows:
                number, out = (block + done) // h.output, (block + done) % h.output
                count = min(h.output - out, rows - done)
                base = plane_offset(source, number // z.output)
                nan = lay(
                    d, elements, base, source.row_step, z, h, w, t, number % z.output, out, count, column, padding,
                    values, row, nan,
                )  # fmt: skip
                done += count
                row += count + t.extra - t.shared
            reduce_tile(reduce, values, positions, t, used, nans, simd.any_lane(nan), more)
            done, row = 0, 0
            while done < rows:
                number, out = (block + done) // h.output % z.output, (block + done) % h.output
                count = min(h.output - out, rows - done)
                for r in range(count):
                    at, offset = (row + r) * t.pitch, (block + done + r) * w.output + column
                    finish(values, positions, at, number, out + r, column, outputs, more)
                    copy(d, values, at, outputs, result, offset)
                    if argmax is not None:
                        copy(dp, positions, at, outputs, result_at, offset)
                done += count
                row += count + t.extra - t.shared
        block += rows
    simd.keep((values_scratch, positions_scratch))


@inline
def copy(d, values, start, count, result, offset):
    """Copy `count` elements of scratch to the result."""
    for i in range(0, count, simd.lanes(d)):
        simd.rolled()
        simd.store_before(result, offset + i, simd.load(d, values, start + i), offset + count)


@inline
def distance(a, place, phase, unit):
    """Return how far a place of the window is along an axis, whose phases and elements are so far apart."""
    at = place * a.dilation
    return at % a.stride * phase + at // a.stride * unit
