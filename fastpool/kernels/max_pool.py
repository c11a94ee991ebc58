"""Max pooling forward: the values and, where asked for, the argmax.

An output row is reduced in two steps. Down: the kernel's rows of the input are reduced, a vector at a
time, into one scratch row, padded so that nothing after it needs to know of edges. Across: the kernel's
columns are shifted loads of that row; a stride first deals the row out to one scratch row per phase
(column modulo stride), so that every shifted load is contiguous. Per input element this costs
kernel height / stride height vector steps down and per output element kernel width steps across,
in place of their product, all in L1 beside one pass over the memory.

No tail is computed apart: the last vector of a row runs over its end, into scratch, into the input's
next row, or into the output's next row, which is written later. Only at the end of the arrays, and of
the range of rows, loads and stores are limited.
"""

from __future__ import annotations

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.geometry import axis, places_inside, plane_offset, readable_end
from fastpool.kernels.launch import inline, kernel

#: Columns of the input that are in scratch at a time: 8 KiB of float32, twice if dealt out, and positions.
TILE = 1024


@inline
def outranks(v, best):
    """Where v comes before best in np.argmax's order: it is larger, or the first NaN."""
    return simd.greater_or_nan(v, best) & simd.is_number(best)


@inline
def outranks_or_ties(v, at, best, best_at):
    """Where v comes before best, or is as good and its position is lower."""
    return outranks(v, best) | (((v == best) | simd.is_nan(v)) & (at < best_at))


@inline
def down(
    d, dp, x, source, out_step, outputs, row_step, rows, columns, end, row, into, pitch, at, at_step, row_at, argmax
):
    """Reduce `rows` rows of x, `columns` of each, to row[into:] and their positions to row_at[into:].

    Do so for `outputs` output rows, each out_step further in x and pitch further in the scratch row. The
    elements of the first row have position `at`, those of every next one `at_step` more.
    """
    for _ in range(outputs):
        for i in range(0, columns, simd.lanes(d)):
            offset = source + i
            best = simd.load_between(d, x, offset, 0, end - offset)
            best_at = simd.splat(dp, at)
            nan = simd.is_nan(best)
            for r in range(1, rows):
                offset += row_step
                v = simd.load_between(d, x, offset, 0, end - offset)
                if argmax is None:
                    # One instruction, and wrong about NaN: that is kept apart, off the chain of maxima.
                    nan = nan | simd.is_nan(v)
                    best = simd.select(best > v, best, v)
                else:
                    better = outranks(v, best)
                    best = simd.select(better, v, best)
                    best_at = simd.select(better, simd.splat(dp, at + r * at_step), best_at)
            if argmax is None:
                best = simd.select(nan, simd.splat(d, simd.nan(d)), best)
            simd.store(row, into + i, best)
            if argmax is not None:
                simd.store(row_at, into + i, best_at)
        source += out_step
        into += pitch


@inline
def fill(row, start, stop, v, lanes):
    """Set row[start:stop] to the lanes of v."""
    for i in range(start, stop, lanes):
        simd.store_before(row, i, v, stop)


@inline
def deal(d, row, places, stride, dealt, pitch):
    """Deal a row out: column c to place c // stride of phase c % stride; a phase has `pitch` places."""
    lanes = simd.lanes(d)
    if stride == 2:
        for i in range(0, places, lanes):
            simd.store(dealt, i, simd.load_every(d, row, 2 * i, 2, 0))
            simd.store(dealt, pitch + i, simd.load_every(d, row, 2 * i, 2, 1))
    elif stride == 3:
        for i in range(0, places, lanes):
            simd.store(dealt, i, simd.load_every(d, row, 3 * i, 3, 0))
            simd.store(dealt, pitch + i, simd.load_every(d, row, 3 * i, 3, 1))
            simd.store(dealt, 2 * pitch + i, simd.load_every(d, row, 3 * i, 3, 2))
    elif stride == 4:
        for i in range(0, places, lanes):
            simd.store(dealt, i, simd.load_every(d, row, 4 * i, 4, 0))
            simd.store(dealt, pitch + i, simd.load_every(d, row, 4 * i, 4, 1))
            simd.store(dealt, 2 * pitch + i, simd.load_every(d, row, 4 * i, 4, 2))
            simd.store(dealt, 3 * pitch + i, simd.load_every(d, row, 4 * i, 4, 3))
    else:
        for i in range(places):
            for phase in range(stride):
                dealt[phase * pitch + i] = row[i * stride + phase]


@inline
def across(d, dp, row, row_at, start, shifts, taps, count, y, argmax, y_at, offset, end):
    """Reduce the shifted loads of a dealt row, from place `start`, into y and argmax[offset : offset + count]."""
    for i in range(0, count, simd.lanes(d)):
        best = simd.load(d, row, shifts[0] + start + i)
        best_at = simd.load(dp, row_at, shifts[0] + start + i)
        nan = simd.is_nan(best)
        for k in range(1, taps):
            v = simd.load(d, row, shifts[k] + start + i)
            if argmax is None:
                # One instruction, and wrong about NaN: that is kept apart, off the chain of maxima.
                nan = nan | simd.is_nan(v)
                best = simd.select(best > v, best, v)
            else:
                at = simd.load(dp, row_at, shifts[k] + start + i) + simd.splat(dp, k)
                better = outranks_or_ties(v, at, best, best_at)
                best = simd.select(better, v, best)
                best_at = simd.select(better, at, best_at)
        if argmax is None:
            best = simd.select(nan, simd.splat(d, simd.nan(d)), best)
        simd.store_before(y, offset + i, best, end)
        if argmax is not None:
            simd.store_before(y_at, offset + i, best_at, end)


@kernel(writes=2)
def max_pool(start, stop, geometry, x, y, argmax):
    """Pool the output rows from start to stop, counted over all planes of x (N, C, H, W)."""
    h, w = axis(geometry, 0), axis(geometry, 1)
    d = simd.tag(x)
    dp = simd.position_tag(d, argmax)
    lanes = simd.lanes(d)
    item = x.itemsize
    row_step = x.strides[2] // item
    end = readable_end(x, item)
    source, result, result_at = simd.pointer(x), simd.pointer(y), simd.pointer(argmax)

    # A tile is as many outputs of a row as scratch takes. Its places run from `left`, before its first
    # output, to `right`, after its last one; as many rows as scratch takes are laid end to end.
    reach = (w.kernel - 1) * w.dilation
    left = -w.before // w.stride
    right = (reach - w.before) // w.stride
    tile = max(1, min(w.output, TILE // w.stride))
    places = tile - left + right
    rows = max(1, TILE // (places * w.stride)) if tile == w.output else 1
    pitch = rows * places + lanes
    taps = np.empty(w.kernel, np.int64)
    shifts = simd.pointer(taps)
    for k in range(w.kernel):
        column = k * w.dilation - w.before
        taps[k] = column % w.stride * pitch + column // w.stride - left

    size = (pitch + places + lanes) * w.stride
    size_at = 0 if argmax is None else size
    rows_scratch, rows_at_scratch = simd.scratch(d, 2 * size), simd.scratch(dp, 2 * size_at)
    row, row_at = simd.pointer(rows_scratch), simd.pointer(rows_at_scratch)
    dealt, dealt_at = row, row_at
    if w.stride > 1:
        dealt, dealt_at = simd.pointer(rows_scratch[size:]), simd.pointer(rows_at_scratch[size_at:])
    low = simd.splat(d, simd.lowest(d))
    nowhere = simd.splat(dp, 0 if argmax is None else 1 << (8 * argmax.itemsize))

    # The last output row whose window is inside the input.
    inside = (h.input - 1 - (h.kernel - 1) * h.dilation + h.before) // h.stride
    # Whether a plane's first row is as far from the last plane's last one as any two rows: all are alike.
    seamless = (
        h.before == 0
        and inside >= h.output - 1
        and x.strides[1] == h.output * h.stride * x.strides[2]
        and (x.shape[0] == 1 or x.strides[0] == x.shape[1] * x.strides[1])
    )
    for block in range(start, stop, rows):
        block_rows = min(rows, stop - block)
        for o in range(0, w.output, tile):
            outputs = min(tile, w.output - o)
            places = outputs - left + right
            width = places * w.stride
            column = max(0, o + left) * w.stride
            margin = max(0, -o - left) * w.stride
            columns = min(w.input, (o + outputs - 1) * w.stride - w.before + reach + 1) - column
            plane, out = block // h.output, block % h.output
            done = 0
            while done < block_rows:
                # Output rows of one plane whose windows have the same rows.
                top = out * h.stride - h.before
                first, last = places_inside(h, top)
                alike = 1
                if seamless:
                    alike = block_rows - done
                elif top >= 0 and out <= inside:
                    alike = min(block_rows - done, min(h.output - 1, inside) - out + 1)
                first_row = plane_offset(x, plane, item) + (top + first * h.dilation) * row_step + column
                down(
                    d, dp, source, first_row, h.stride * row_step, alike, h.dilation * row_step, last - first,
                    columns, end, row, done * width + margin, width, first * w.places, w.places, row_at, argmax,
                )  # fmt: skip
                done += alike
                out += alike
                if out >= h.output:
                    out = 0
                    plane += 1
            if columns < width:
                # What is before, between and behind the rows is padding.
                fill(row, 0, margin, low, lanes)
                if argmax is not None:
                    fill(row_at, 0, margin, nowhere, lanes)
                for r in range(block_rows):
                    gap = r * width + margin + columns
                    next_row = (r + 1) * width + margin
                    fill(row, gap, next_row, low, lanes)
                    if argmax is not None:
                        fill(row_at, gap, next_row, nowhere, lanes)
            if w.stride > 1:
                deal(d, row, block_rows * places, w.stride, dealt, pitch)
                if argmax is not None:
                    deal(dp, row_at, block_rows * places, w.stride, dealt_at, pitch)
            offset = block * w.output + o
            # Rows without padding or overlap, end to end, are one long row.
            runs, run = (1, block_rows * places) if places == w.output else (block_rows, outputs)
            for r in range(runs):
                across(
                    d, dp, dealt, dealt_at, r * places, shifts, w.kernel, run, result, argmax, result_at,
                    offset + r * w.output, stop * w.output,
                )  # fmt: skip
    simd.keep((taps, rows_scratch, rows_at_scratch))
