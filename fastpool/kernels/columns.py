"""Windows laid out as columns, and back: the linear map under im2col and unfold, and its adjoint.

Either way a sum has the order of the kernel's places, as in the notebook's col2im.
"""

from __future__ import annotations

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.geometry import axes, axis, ceil_div, layout, meet, plane_offset
from fastpool.kernels.launch import inline, kernel
from fastpool.kernels.rows import ask

#: Sheets have about so many bytes.
SHEET = 1 << 14
#: Results of so many bytes are not kept in cache.
FAR = 1 << 23


@inline
def deal(d, x, w, column, y, step, height, row_step, into, at, rows, limit):
    """Write one place of `rows` rows of windows, from row y of the input on, every `step`-th, to into[at:limit].

    `column` is where the first window has the place. Going from the right to the left, vectors may run over the
    ends of rows.
    """
    lanes = simd.lanes(d)
    zero = simd.splat(d, 0)
    inside = min(w.output, max(0, ceil_div(-column, w.stride)))
    outside = max(inside, min(w.output, (w.input - 1 - column) // w.stride + 1))
    if w.stride <= 2 and w.output > lanes:
        for r in range(rows):
            line, j = y + r * step, at + r * w.output
            offset = line * row_step + column
            left, right = (inside, outside) if 0 <= line < height else (0, 0)
            for i in range(0, w.output, lanes):
                v = zero
                if w.stride == 1:
                    v = simd.load_or(zero, x, offset + i, left - i, right - i)
                else:
                    v2 = simd.load_or(
                        simd.splat(simd.widened(d, 2), 0), x, offset + 2 * i, 2 * (left - i), 2 * (right - i) - 1
                    )
                    v = simd.every(d, v2, 2, 0)
                simd.store_before(into, j + i, v, limit)
    elif w.stride <= 2:
        for i in range((w.output - 1) // lanes * lanes, -1, -lanes):
            first, last = inside - i, outside - i
            mask, whole = simd.between(d, first, last), first <= 0 and last >= lanes
            mask2 = simd.between(simd.widened(d, 2), 2 * first, 2 * last - 1)
            whole2 = first <= 0 and last > lanes
            offset, j = y * row_step + column + i * w.stride, at + i
            for r in range(y, y + rows * step, step):
                simd.rolled()
                v = zero
                if 0 <= r < height:
                    if w.stride == 1:
                        v = simd.load_where(mask, whole, zero, x, offset)
                    else:
                        v2 = simd.load_where(mask2, whole2, simd.splat(simd.widened(d, 2), 0), x, offset)
                        v = simd.every(d, v2, 2, 0)
                simd.store_before(into, j, v, limit)
                offset += step * row_step
                j += w.output
    else:
        for r in range(rows):
            line, j = y + r * step, at + r * w.output
            left, right = (inside, outside) if 0 <= line < height else (w.output, w.output)
            for i in range(left):
                into[j + i] = 0
            for i in range(left, right):
                into[j + i] = x[line * row_step + column + i * w.stride]
            for i in range(right, w.output):
                into[j + i] = 0


@kernel()
def unfold(start, stop, geometry, x, cols):
    """Fill the columns of the output rows from start to stop, counted over the planes of x.

    x has the shape (A, B, D * H, W), cols (A, B, taps, OD * OH * OW), contiguous along the last axis.

    Where the rows of windows share rows of the input, each place across is dealt once, to a sheet in cache from
    which the places down are runs, however short the rows are. A sheet is of one slice of the input.
    """
    z, h, w = axis(geometry, 0), axis(geometry, 1), axis(geometry, 2)
    d = simd.tag(x)
    source, blocks = layout(x), layout(cols)
    image, result = simd.pointer(x), simd.pointer(cols)
    reach = (h.places - 1) * h.dilation
    extra = reach // h.stride
    phases = min(h.stride, reach + 1)
    most = max(SHEET // (phases * w.output * x.itemsize) - extra, 4 * (min(extra, h.output) + 1))
    most = min(most, h.output)
    size = (most + extra) * w.output
    far = cols.size * cols.itemsize >= FAR
    # A sheet is dealt all of its rows, without it every place down those of its windows.
    in_sheets = phases < h.places and phases * (most + extra) < h.places * most
    sheet_scratch = simd.scratch(d, phases * size if in_sheets else 0)
    sheet = simd.pointer(sheet_scratch)
    volume, slice_step = z.output * h.output, h.input * source.row_step
    row = start
    while row < stop:
        plane, out = row // volume, row % h.output
        depth = row % volume // h.output * z.stride - z.before
        count = min(most, h.output - out, stop - row)
        plane_at = simd.offset(image, plane_offset(source, plane))
        y = out * h.stride - h.before
        into = plane_offset(blocks, plane) + row % volume * w.output
        run = count * w.output
        row += count
        ahead = plane_offset(source, row // volume) + (row % volume // h.output * z.stride - z.before) * slice_step
        ahead += (row % h.output * h.stride - h.before) * source.row_step
        share = ceil_div(count * min(h.stride, h.input) * source.row_step, w.places) if far else 0
        for _ in range(z.places):
            at_slice = simd.offset(plane_at, depth * slice_step)
            height = h.input if 0 <= depth < z.input else 0
            for k in range(w.places):
                column = k * w.dilation - w.before
                ask(d, image, ahead + k * share, share)
                if in_sheets:
                    for phase in range(phases):
                        deal(
                            d, at_slice, w, column, y + phase, h.stride, height, source.row_step,
                            sheet, phase * size, count + extra, (phase + 1) * size,
                        )  # fmt: skip
                for i in range(h.places):
                    at = into + (i * w.places + k) * blocks.row_step
                    down = i * h.dilation
                    if not in_sheets:
                        deal(
                            d, at_slice, w, column, y + down, h.stride, height, source.row_step,
                            result, at, count, at + run,
                        )  # fmt: skip
                    else:
                        from_at = down % h.stride * size + down // h.stride * w.output
                        if far:
                            simd.stream(result, at, sheet, from_at, run)
                        else:
                            simd.copy(result, at, sheet, from_at, run)
            into += h.places * w.places * blocks.row_step
            ahead += z.dilation * slice_step
            depth += z.dilation
    simd.keep((sheet_scratch,))


@inline
def deal_out(d, phases, pitch, stride, result, into, count, limit):
    """Write a row of `count` elements, column c of which is element c // stride of phase c % stride; those are `pitch`
    apart. Vectors may run over the end, not over `limit`.
    """
    lanes = simd.lanes(d)
    if stride == 1:
        for i in range(0, count, lanes):
            simd.store_before(result, into + i, simd.load(d, phases, i), limit)
    elif stride == 2:
        for i in range(0, count, 2 * lanes):
            a, b = simd.load(d, phases, i // 2), simd.load(d, phases, pitch + i // 2)
            simd.store_before(result, into + i, simd.zip_lower(a, b), limit)
            if i + lanes < count:
                simd.store_before(result, into + i + lanes, simd.zip_upper(a, b), limit)
    else:
        for phase in range(stride):
            for i in range(ceil_div(count - phase, stride)):
                simd.store_scalar(result, into + i * stride + phase, phases[phase * pitch + i])


@inline
def add_rows(d, columns, at, step, sums, into, pitch, rows, first, last):
    """Add the elements from `first` to before `last` of `rows` rows, `step` apart, to rows that are `pitch` apart.

    Vectors are aligned in the sums, which the next place of the kernel reads again: a load that straddles what two
    stores have yet to write waits for both.
    """
    lanes = simd.lanes(d)
    zero = simd.splat(d, 0)
    for i in range(0, last, lanes):
        mask, whole = simd.between(d, first - i, last - i), first <= i and i + lanes <= last
        j, offset = into + i, at + i
        for _ in range(rows):
            simd.rolled()
            v = simd.load_where(mask, whole, zero, columns, offset)
            simd.store(sums, j, simd.load(d, sums, j) + v)
            offset += step
            j += pitch


#: So many elements are joined at a time.
JOINED = 1 << 12


@kernel()
def join(start, stop, geometry, cols, dx):
    """Put together the rows of dx (A, B, D * H, W) from start to stop, counted over its planes.

    cols has the shape (A, B, taps, OD * OH * OW), contiguous along the last axis.

    This is for windows side by side from the first element on: every element has one. Some rows of windows are joined
    as if they were one, however short they are, and copied to their places from cache.
    """
    z, h, w = axes(geometry)
    d = simd.tag(cols)
    lanes = simd.lanes(d)
    blocks = layout(cols)
    columns, result = simd.pointer(cols), simd.pointer(dx)
    zero, nothing = simd.splat(d, 0), simd.scalar(d, 0)
    limit = stop * w.input
    step = max(w.stride, w.places)  # a single window has no stride
    width = w.output * step
    most = max(1, JOINED // (h.places * width))
    room = (most * w.output + 2 * lanes) * step
    joined_scratch = simd.scratch(d, h.places * room)
    joined = simd.pointer(joined_scratch)
    for i in range(0, h.places * room - lanes, lanes):
        simd.store(joined, i, zero)
    row = start
    while row < stop:
        number, y = row // h.input % z.input, row % h.input
        line, phase = y // h.stride, y % h.stride
        count = 0
        if line < h.output and number < z.output * z.stride and number % z.stride < z.places:
            count = min(most, h.output - line, ceil_div(phase + stop - row, h.stride))
            at = plane_offset(blocks, row // h.input // z.input)
            at += number % z.stride * h.places * w.places * blocks.row_step
            at += (number // z.stride * h.output + line) * w.output
            for i in range(h.places):
                if step == w.places == 2:
                    for j in range(0, count * w.output, lanes):
                        even_at, odd_at = at + j, at + blocks.row_step + j
                        even = simd.load_between(d, columns, even_at, 0, blocks.end - even_at) + zero
                        odd = simd.load_between(d, columns, odd_at, 0, blocks.end - odd_at) + zero
                        simd.store(joined, i * room + 2 * j, simd.zip_lower(even, odd))
                        simd.store(joined, i * room + 2 * j + lanes, simd.zip_upper(even, odd))
                else:
                    for k in range(w.places):
                        into = i * room + k
                        for j in range(at + k * blocks.row_step, at + k * blocks.row_step + count * w.output):
                            simd.rolled()
                            joined[into] = simd.load_scalar(columns, j) + nothing
                            into += step
                at += w.places * blocks.row_step
        behind = min(stop, row - y + h.input)
        if line + count < h.output and count:
            behind = min(behind, row - phase + count * h.stride)
        place = 0
        for row in range(row, behind):  # noqa: B020
            into = row * w.input
            if phase < h.places and count > 0:
                for i in range(0, width, lanes):
                    simd.rolled()
                    v = simd.load(d, joined, phase * room + place + i)
                    simd.store_before(result, into + i, v, limit)
                for i in range(into + width, into + w.input):
                    simd.rolled()
                    simd.store_scalar(result, i, nothing)
            else:
                for i in range(into, into + w.input, lanes):
                    simd.rolled()
                    simd.store_before(result, i, zero, limit)
            phase += 1
            if phase == h.stride:
                phase = 0
                place += width
                count -= 1
        row += 1
    simd.keep((joined_scratch,))


@kernel()
def accumulate_short(start, stop, geometry, cols, dx):
    """Sum up the rows of dx (A, B, D * H, W) from start to stop, counted over its planes.

    cols has the shape (A, B, taps, OD * OH * OW), contiguous along the last axis.

    This is for rows of few windows, which fill no vectors: some rows at a time are summed up in cache, place by
    place of the kernel, and dealt out by phases (rows and columns modulo the strides), in which what windows side
    by side give to is side by side.
    """
    z, h, w = axis(geometry, 0), axis(geometry, 1), axis(geometry, 2)
    d = simd.tag(cols)
    lanes = simd.lanes(d)
    item = cols.itemsize
    blocks = layout(cols)
    columns, result = simd.pointer(cols), simd.pointer(dx)
    places = ceil_div(w.input, w.stride)
    pitch = (places + lanes - 1) // lanes * lanes
    most = min(max(1, SHEET // (h.stride * w.stride * pitch * item)), ceil_div(h.input, h.stride))
    size = most * pitch
    sums_scratch = simd.scratch(d, h.stride * w.stride * size + 2 * lanes)
    sums = simd.aligned(simd.pointer(sums_scratch))
    zero = simd.splat(d, 0)
    far = cols.size * item >= FAR
    # The places of the kernel that some window has on the input.
    above = max(0, ceil_div(h.before - (h.output - 1) * h.stride, h.dilation))
    tall = max(0, h.kernel - above)
    left = max(0, ceil_div(w.before - (w.output - 1) * w.stride, w.dilation))
    slice_step = h.places * w.places * blocks.row_step
    slice_table = np.empty(z.kernel, np.int64)  # where the columns of a slice are, made anew for each
    slice_at = simd.pointer(slice_table)
    row = start
    while row < stop:
        plane, y = row // (z.input * h.input), row % h.input
        first = y // h.stride
        bottom = min(h.input, (first + most) * h.stride, y + stop - row)
        last = ceil_div(bottom, h.stride)
        plane_at = plane_offset(blocks, plane)
        for i in range(0, h.stride * w.stride * size, lanes):
            simd.store(sums, i, zero)
        slices = meet(z, row // h.input % z.input, slice_step, h.output * w.output, plane_at, slice_at, 0)
        for r in range(slices * tall):  # one loop over both axes: two are slower, even where there is one slice
            at_slice, i = slice_at[r // tall], above + r % tall
            down = i * h.dilation - h.before
            top, end = max(0, first - down // h.stride), min(h.output, last - down // h.stride)
            phase = down % h.stride * w.stride * size + (top + down // h.stride - first) * pitch
            for j in range(left, w.kernel):
                across = j * w.dilation - w.before
                shift = across // w.stride
                at = at_slice + (i * w.places + j) * blocks.row_step + top * w.output
                if far:
                    ask(d, columns, at + blocks.row_step, (end - top) * w.output)
                into = phase + across % w.stride * size
                begin, behind = max(0, shift), min(places, w.output + shift)
                add_rows(d, columns, at - shift, w.output, sums, into, pitch, end - top, begin, behind)
        for y in range(y, bottom):  # noqa: B020
            line = simd.offset(sums, y % h.stride * w.stride * size + (y // h.stride - first) * pitch)
            deal_out(d, line, size, w.stride, result, row * w.input, w.input, stop * w.input)
            row += 1
    simd.keep((sums_scratch, slice_table))


@kernel()
def accumulate(start, stop, geometry, cols, dx):
    """Sum up the rows of dx (A, B, D * H, W) from start to stop, counted over its planes.

    cols has the shape (A, B, taps, OD * OH * OW), contiguous along the last axis.

    This is "add every column where it came from" turned inside out, "add up, for every element, the columns that
    came from it": every element is written once. The elements of a row whose columns agree modulo the stride are
    neighbours in every column, so that they are vectors.
    """
    z, h, w = axis(geometry, 0), axis(geometry, 1), axis(geometry, 2)
    d = simd.tag(cols)
    lanes = simd.lanes(d)
    blocks = layout(cols)
    end = blocks.end
    columns, result = simd.pointer(cols), simd.pointer(dx)
    places = ceil_div(w.input, w.stride)

    # Of every phase (column modulo stride) the places of the kernel that meet it, how far they shift it,
    # and the lane in which their row ends, if lanes of the result are past it.
    met = np.zeros(w.stride, np.int64)
    tables = np.empty((3, w.stride * w.kernel), np.int64)
    tap_of, shift_of, end_of = simd.pointer(tables), simd.pointer(tables[1]), simd.pointer(tables[2])
    for phase in range(w.stride):
        for k in range(w.kernel):
            column = phase + w.before - k * w.dilation
            if column % w.stride == 0:
                shift = column // w.stride
                t = phase * w.kernel + met[phase]
                tap_of[t], shift_of[t] = k, shift
                end_of[t] = w.output - shift if places + shift > w.output else places + lanes
                met[phase] += 1
    # Where the columns of a slice are, and of a row, made anew for each.
    slice_step, row_step = h.places * w.places * blocks.row_step, w.places * blocks.row_step
    slice_table, row_table = np.empty(z.kernel, np.int64), np.empty(z.kernel * h.kernel, np.int64)
    slice_at, row_at = simd.pointer(slice_table), simd.pointer(row_table)
    pitch = places + lanes
    sums_scratch = simd.scratch(d, pitch * w.stride)
    sums = simd.pointer(sums_scratch)

    row = start
    while row < stop:
        plane_at = plane_offset(blocks, row // (z.input * h.input))
        slices = meet(z, row // h.input % z.input, slice_step, h.output * w.output, plane_at, slice_at, 0)
        first = row % h.input
        for y in range(first, min(h.input, first + stop - row)):
            rows_met = 0
            for i in range(slices):
                rows_met = meet(h, y, row_step, w.output, slice_at[i], row_at, rows_met)
            for phase in range(w.stride):
                for i in range(0, places, lanes):
                    total = simd.splat(d, 0)
                    for r in range(rows_met):
                        for t in range(phase * w.kernel, phase * w.kernel + met[phase]):
                            j = i + shift_of[t]
                            at = row_at[r] + tap_of[t] * blocks.row_step + j
                            # A row's first and last lanes may be another's; past its result they do no harm.
                            total = total + simd.load_between(d, columns, at, -j, min(end_of[t] - i, end - at))
                    simd.store(sums, phase * pitch + i, total)
            deal_out(d, sums, pitch, w.stride, result, row * w.input, w.input, stop * w.input)
            row += 1
    simd.keep((tables, slice_table, row_table, sums_scratch))
