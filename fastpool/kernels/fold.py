"""Columns added up where they came from: the linear map under col2im and fold, adjoint to that under unfold.

A sum has the order of the kernel's places, as in the notebook's col2im.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastpool.kernels import shuffle, simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import NOWHERE, axes, axis, beginning, ceil_div, layout, meet, plane_offset
from fastpool.kernels.hold import FAR, HELD, hold_row, is_far, write_held
from fastpool.kernels.launch import kernel
from fastpool.kernels.pairs import clear
from fastpool.kernels.rows import ask, ask_vector
from fastpool.kernels.tile import fill

#: Sums of short rows have about so many bytes.
SUMS = 1 << 14
#: So many columns are read at a time: each is a stream, and more than a CPU follows take three times as long.
STREAMS = 12
#: So many elements are asked for ahead, or a plane that is no further, and so many more of a batch's, in .4 to .9 of
#: the time: CPUs begin too late to do it by themselves. Of small planes, one that is at least so far.
AHEAD, FURTHEST, BESIDE, LEAST = 1 << 9, 1 << 13, 1 << 7, 1 << 11
#: Of kernels so wide, the masks of all columns fit L2.
MASKS = 16
#: Masks of all columns of a row of the kernel may have so many bytes, or else edges take longer.
CUTS = 1 << 17
#: Rows of windows are joined some at a time, of so many elements; longer rows are not held back.
JOINED = 1 << 12


@inline
def result_of(placed, plane, lines, stop):
    """Return where row 0 would be if all planes lay as `plane` does, and the end of what may be written from there."""
    width = placed.row_step
    base = plane_offset(placed, plane) - plane * lines * width
    if placed.inner_step == lines * width and placed.outer_step == placed.inner * placed.inner_step:
        return base, stop * width  # planes follow one another, and are written in that order
    return base, base + min(stop, (plane + 1) * lines) * width


@inline
def deal_out(d, phases, pitch, stride, result, into, count, limit):
    """Write a row of `count` elements, column c of which is element c // stride of phase c % stride; those are `pitch`
    apart. Vectors may run over the end, not over `limit`.

    Three and four phases are shuffled into each other, half a vector of each, as rows are short: averages backward
    take .7 to .9 of the time.
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
        few, done = simd.narrowed(d, 2), 0
        some = simd.lanes(few)
        while stride <= 4 and done * stride < count and into + (done + some) * stride <= limit:
            if stride == 3:
                simd.store_in_turn(result, into + 3 * done, few, phases, done, pitch, 3, None)
            else:
                simd.store_in_turn(result, into + 4 * done, few, phases, done, pitch, 4, None)
            done += some
        for phase in range(stride):
            for i in range(done, ceil_div(count - phase, stride)):
                simd.rolled()
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


@inline
def put_in_turn(d, source, offset, pitch, places, step, apart, lines, count, to, into, line, ahead):
    """Write `lines` rows, a line apart: `count` elements of each of `places` runs, `pitch` apart, in turn.

    Those of one run get `step` apart, nothing is written between them, and the next line's are `apart` from them. What
    is `ahead` is asked for.
    """
    if places == step and 1 < places <= shuffle.MOST and count >= simd.lanes(simd.narrowed(d, 4)):
        shuffle.interleave(d, places, source, offset, apart, to, into, line, pitch, lines, count, ahead)
        return
    nothing = simd.scalar(d, 0)
    for _ in range(lines):
        for k in range(places):
            for i in range(count):
                simd.rolled()
                v = simd.load_scalar(source, offset + k * pitch + i) + nothing
                simd.store_scalar(to, into + i * step + k, v)
        offset += apart
        into += line


@inline
def add_run(d, columns, at, shift, sums, into, count, mask, ahead):
    """Add `count` elements, `shift` further right, or zero where the mask has none, to the sums, in which vectors are
    aligned as always. The mask begins a vector before the first element. What is so far ahead is asked for.
    """
    lanes = simd.lanes(d)
    first, last = max(0, shift), count + min(0, shift)
    for j in range(into // lanes * lanes, into + count, lanes):
        i = j - into
        simd.prefetch(columns, at - shift + i + ahead)
        v = simd.load_between(d, columns, at - shift + i, first - i, last - i)
        simd.store(sums, j, simd.load(d, sums, j) + simd.cut(v, simd.load(d, mask, i + lanes)))


@kernel()
def join(start, stop, geometry, cols, dx):
    """Put together the rows of dx (A, B, D * H, W) from start to stop, counted over its planes.

    cols has the shape (A, B, taps, OD * OH * OW), contiguous along the last axis.

    This is for windows side by side from the first element on: every element has one. The places of a row are shuffled
    into each other, to where they belong; a row's last vector overlaps the one before, so that there is nothing left
    over. This costs a load and a shuffle of every column and a store of every element.
    """
    z, h, w = axes(geometry)
    d = simd.tag(cols)
    blocks, placed = layout(cols), layout(dx)
    columns, result = simd.pointer(cols), simd.pointer(dx)
    step = max(w.stride, w.places)  # a single window has no stride
    wide, nothing = w.places * blocks.row_step, simd.scalar(d, 0)
    # The last window of a row may reach over its end.
    whole = min(w.output, w.input // step)
    rest = min(w.places, w.input - whole * step) if whole < w.output else 0
    covered = whole * step + rest if w.places == step else 0
    # The columns of one of the next planes are asked for, or of large ones what is so far ahead.
    ahead = 0
    if blocks.nbytes >= FAR:
        ahead = plane_offset(blocks, 1)
        if blocks.inner_step > blocks.row_step:
            ahead *= max(1, LEAST // max(1, ahead))
        if ahead > FURTHEST:
            ahead = AHEAD
    # What is far from any cache is held back, to be written past them in long runs, as it need not be read then.
    far = h.places * w.input <= JOINED and is_far(geometry)
    room_held = max(HELD, h.places * w.input) if far else 0
    held_array = np.empty(room_held + simd.BYTES, dx.dtype)
    held, held_from, held_to = simd.pointer(held_array), 0, 0
    most = max(1, (HELD if far else JOINED) // (h.places * w.input)) if h.places == h.stride else 0
    row, slice_, y = start, start // h.input, start % h.input
    plane, number = slice_ // z.input, slice_ % z.input
    while row < stop:
        into = plane_offset(placed, plane) + (number * h.input + y) * w.input
        behind = min(stop, row - y + h.input)
        line, phase = y // h.stride, y % h.stride
        lines = h.output if number < z.output * z.stride and number % z.stride < z.places else 0
        source = plane_offset(blocks, plane) + number % z.stride * h.places * wide
        source += number // z.stride * h.output * w.output
        while row < behind:
            # Some rows of windows, or one of elements.
            many, high = 1 if line < lines and phase < h.places else 0, 1
            if phase == 0 and many * most > 0 and h.places <= behind - row:
                many, high = min(most, lines - line), h.places
                if many * high > behind - row:
                    many = (behind - row) // high
            rows, to, at = max(1, many * high), result, into
            if far:
                held_from = hold_row(result, held, held_from, held_to, into, rows * w.input, room_held)
                held_to = into + rows * w.input
                to, at = held, into - held_from
            if many == 0 or covered < w.input:
                for i in range(rows):
                    clear(d, to, at + i * w.input + (covered if many > 0 else 0), at + (i + 1) * w.input)
            if many > 0:
                offset = source + phase * wide + line * w.output
                for k in range(high):
                    put_in_turn(
                        d, columns, offset + k * wide, blocks.row_step, w.places, step, w.output, many, whole,
                        to, at + k * w.input, high * w.input, ahead,
                    )  # fmt: skip
                for i in range(rows if rest > 0 else 0):
                    last = offset + i % high * wide + i // high * w.output + whole
                    for k in range(rest):
                        simd.rolled()
                        v = simd.load_scalar(columns, last + k * blocks.row_step) + nothing
                        simd.store_scalar(to, at + i * w.input + whole * step + k, v)
            row += rows
            into += rows * w.input
            phase += 1
            if high > 1 or phase == h.stride:
                phase, line = 0, line + max(1, many)
        y, number = 0, number + 1
        if number == z.input:
            plane, number = plane + 1, 0
    write_held(result, held_from, held, held_to - held_from, True)
    simd.keep((held_array,))


@kernel()
def accumulate_short(start, stop, geometry, cols, dx):
    """Sum up the rows of dx (A, B, D * H, W) from start to stop, counted over its planes.

    cols has the shape (A, B, taps, OD * OH * OW), contiguous along the last axis.

    This is for rows of few windows, which fill no vectors: some rows at a time are summed up in cache, place by
    place of the kernel, and dealt out by phases (rows and columns modulo the strides), in which what windows side
    by side give to is side by side. Where there are as many windows as elements of a phase across, one apart or few,
    rows are one run: 14 x 14 maps by 3 x 3 two apart take .7 of the time. Of a batch, some planes are summed up
    together, so that columns are read as they are in memory: .4 to .9 of the time.
    """
    z, h, w = axis(geometry, 0), axis(geometry, 1), axis(geometry, 2)
    d = simd.tag(cols)
    lanes = simd.lanes(d)
    item = cols.itemsize
    blocks, placed = layout(cols), layout(dx)
    columns, result = simd.pointer(cols), simd.pointer(dx)
    places, lines = ceil_div(w.input, w.stride), ceil_div(h.input, h.stride)
    one = w.stride == h.stride == 1
    joined = w.output == places and w.kernel <= MASKS and (one or 2 * places <= lanes)
    pitch = places if joined else (places + lanes - 1) // lanes * lanes
    room = max(1, SUMS // (h.stride * w.stride * pitch * item))
    most = min(room, lines)
    # Slices are summed up together, and planes the columns of which follow one another, as those of a batch's do.
    abreast = blocks.inner > 1 and blocks.inner_step == z.output * h.output * w.output
    slices = z.input * (blocks.inner if abreast else 1)
    units = min(slices, (2 * room if abreast else room) // most) if most == lines else 1
    unit = most * pitch
    size = units * unit
    sums_scratch = simd.scratch(d, h.stride * w.stride * size + 3 * lanes)
    sums = simd.aligned(simd.pointer(sums_scratch))
    zero = simd.splat(d, 0)
    asking = blocks.nbytes >= FAR
    # Of a batch, the columns of planes are beside each other: CPUs ask for the nearest by themselves.
    beside = BESIDE if blocks.inner_step < blocks.row_step else 0
    # The places of the kernel that some window has on the input.
    above = max(0, ceil_div(h.before - (h.output - 1) * h.stride, h.dilation))
    tall = max(0, h.kernel - above)
    left = max(0, ceil_div(w.before - (w.output - 1) * w.stride, w.dilation))
    # Of joined rows, the windows that have a place on the input, and none before the first.
    line = unit + 2 * lanes if joined else 0
    masks_scratch = simd.scratch(d, w.kernel * line + lanes)
    masks = simd.pointer(masks_scratch)
    for j in range(left, w.kernel if joined else left):
        shift = (j * w.dilation - w.before) // w.stride
        begin, behind = max(0, shift), min(places, w.output + shift)
        fill(d, masks, j * line, line, zero)
        for i in range(j * line + lanes, j * line + lanes + unit, pitch):
            # Row by row, so that vectors may run over the ends of those before.
            fill(d, masks, i + begin, behind - begin, simd.all_bits(d))
            fill(d, masks, i + behind, places - behind + begin, zero)
        fill(d, masks, j * line + lanes + unit, lanes, zero)
    slice_step = h.places * w.places * blocks.row_step
    # For every slice of the kernel, where the columns that a unit gets from it are, if it gets any.
    units_table = np.empty(z.kernel * units, np.int64)
    units_at = simd.pointer(units_table)
    # What is far from any cache is held back, to be written past them in long runs, as it need not be read then.
    room = max(HELD, w.input) if is_far(geometry) else 0
    held_array = np.empty(room + 5 * simd.BYTES, dx.dtype)
    held, held_from, held_to = simd.pointer(held_array), 0, 0
    row = start
    while row < stop:
        number, y = row // h.input, row % h.input
        first = y // h.stride
        bottom = min(h.input, (first + most) * h.stride, y + stop - row)
        last = ceil_div(bottom, h.stride)
        plane, deep = number // z.input, number % z.input
        plane_at = plane_offset(blocks, plane)
        many = 1
        if units > 1 and y == 0:
            many = max(1, min(units, slices - number % slices, (stop - row) // h.input))
        in_plane, at_plane = deep, plane_at
        for u in range(many):
            at = at_plane
            for k in range(z.kernel):
                out = in_plane + z.before - k * z.dilation
                met = 0 <= out < z.output * z.stride and out % z.stride == 0
                units_at[k * units + u] = at + out // z.stride * h.output * w.output if met else NOWHERE
                at += slice_step
            in_plane += 1
            if in_plane == z.input:
                in_plane, at_plane = 0, at_plane + blocks.inner_step
        # Meanwhile the columns of the next planes are asked for, or, if these are cut, the next place's; of a batch,
        # what is in memory next.
        ahead = blocks.row_step
        if abreast and units > 1:
            ahead = 4 * AHEAD
        elif many % z.input == 0 and bottom - y == h.input:
            ahead = plane_offset(blocks, plane + many // z.input) - plane_at
        clear(d, sums, 0, h.stride * w.stride * size)
        for r in range(z.kernel * tall):  # one loop over both axes: two are slower, even where there is one slice
            slice_at, i = simd.offset(units_at, r // tall * units), above + r % tall
            down = i * h.dilation - h.before
            top, end = max(0, first - down // h.stride), min(h.output, last - down // h.stride)
            phase = down % h.stride * w.stride * size + (top + down // h.stride - first) * pitch
            for j in range(left, w.kernel):
                across = j * w.dilation - w.before
                shift = across // w.stride
                at = (i * w.places + j) * blocks.row_step + top * w.output
                into = phase + across % w.stride * size
                begin, behind = max(0, shift), min(places, w.output + shift)
                for u in range(many):
                    if slice_at[u] == NOWHERE:
                        into += unit
                        continue
                    at_unit = slice_at[u] + at
                    if joined:
                        mask = simd.offset(masks, j * line)
                        beyond = ahead + beside if asking else 0
                        add_run(d, columns, at_unit, shift, sums, into, (end - top) * pitch, mask, beyond)
                    else:
                        if asking:
                            ask(d, columns, at_unit + ahead, (end - top) * w.output)
                        add_rows(d, columns, at_unit - shift, w.output, sums, into, pitch, end - top, begin, behind)
                    into += unit
        for u in range(many):
            base, limit = result_of(placed, (number + u) // z.input, z.input * h.input, stop)
            row_at = simd.offset(sums, u * unit)
            if joined and one and room == 0:
                deal_out(d, row_at, 0, 1, result, base + row * w.input, (bottom - y) * pitch, limit)
                row += bottom - y
                continue
            for k in range(y, bottom):
                line_at = simd.offset(row_at, k % h.stride * w.stride * size + (k // h.stride - first) * pitch)
                into, to, at, end = base + row * w.input, result, base + row * w.input, limit
                if room > 0:
                    held_from = hold_row(result, held, held_from, held_to, into, w.input, room)
                    held_to, to, at, end = into + w.input, held, into - held_from, room + simd.BYTES
                deal_out(d, line_at, size, w.stride, to, at, w.input, end)
                row += 1
    write_held(result, held_from, held, held_to - held_from, True)
    simd.keep((sums_scratch, masks_scratch, units_table, held_array))


class Sources(NamedTuple):
    """Columns that are added up, and what they are cut with: vectors of memory, and where each of a list begins."""

    memory: Any
    begins: Any
    shifts: Any  # how far its windows are from the elements
    masks: Any
    cuts: Any


@inline
def list_met(a, places, shifts, starts):
    """List the places of the kernel by the phase of an axis that they meet, and how far their windows are from there.

    Those of a phase are listed from its start to that of the next, without places that no window has on the input.
    """
    met, elements = 0, ceil_div(a.input, a.stride)
    for phase in range(a.stride):
        starts[phase] = met
        for k in range(a.kernel):
            element = phase + a.before - k * a.dilation
            shift = element // a.stride
            if element % a.stride == 0 and max(0, -shift) < min(elements, a.output - shift):
                places[met], shifts[met] = k, shift
                met += 1
    starts[a.stride] = met


@inline
def list_cuts(d, a, elements, shifts, met, line, pitch, masks):
    """List masks of the elements of a row that have a window, for each of the shifts.

    Of a long row, which has more elements than a line, the middle is left out, where all have one.
    """
    zero, ones = simd.splat(d, 0), simd.all_bits(d)
    for t in range(met):
        first, last = max(0, -shifts[t]), min(elements, a.output - shifts[t]) - (elements - line)
        # Vectors run over the ends, into what comes next.
        fill(d, masks, t * pitch, first, zero)
        fill(d, masks, t * pitch + first, last - first, ones)
        fill(d, masks, t * pitch + last, line - last, zero)
    fill(d, masks, met * pitch, pitch, ones)


@inline
def add_vectors(d, sources, count, i, cut, sums, into, more, ahead):
    """Add vectors of some columns, `i` from where they begin, to the sums, if these are there already."""
    total = simd.load(d, sums, into) if more else simd.splat(d, 0)
    for t in range(count):
        simd.rolled()
        at = sources.begins[t] + i
        ask_vector(d, sources.memory, at + ahead)
        v = simd.load(d, sources.memory, at)
        total = total + simd.cut(v, simd.load(d, sources.masks, sources.cuts[t] + cut))
    simd.store(sums, into, total)


@inline
def add_edge(d, sources, count, i, column, outputs, begin, end, sums, into, more):
    """Do so at an edge, where no mask is listed, or where a vector reaches over that of the memory."""
    total = simd.load(d, sums, into) if more else simd.splat(d, 0)
    for t in range(count):
        simd.rolled()
        at, window = sources.begins[t] + i, column + sources.shifts[t]
        v = simd.load_between(d, sources.memory, at, max(-window, begin - at), min(outputs - window, end - at))
        total = total + v
    simd.store(sums, into, total)


@kernel()
def accumulate(start, stop, geometry, cols, dx):
    """Sum up the rows of dx (A, B, D * H, W) from start to stop, counted over its planes.

    cols has the shape (A, B, taps, OD * OH * OW), contiguous along the last axis.

    This is "add every column where it came from" turned inside out, "add up, for every element, the columns that
    came from it". The elements of a row whose columns agree modulo the stride, a phase, are neighbours in every column,
    so that they are vectors; those rows of a phase that have the same windows share one list of columns, and some
    vectors side by side share one walk through it. Columns that are not there at the ends of a row are cut away by
    masks, which costs a load, in L1, of every vector. From there the phases are dealt out.
    """
    z, h, w = axis(geometry, 0), axis(geometry, 1), axis(geometry, 2)
    d = simd.tag(cols)
    d2, d4, lanes = simd.widened(d, 2), simd.widened(d, 4), simd.lanes(d)
    blocks, placed = layout(cols), layout(dx)
    columns, result = simd.pointer(cols), simd.pointer(dx)
    asking, begin, end = blocks.nbytes >= FAR, beginning(cols), blocks.end
    elements, room = ceil_div(w.input, w.stride), SUMS // cols.itemsize
    # Of each of so many phases of rows, and of all across, so many rows are summed up at a time: of long rows, a piece.
    # Vectors run over the end of a row, to the next multiple of two.
    piece = min(elements, max(4 * lanes, room // w.stride))
    pitch = ceil_div(piece, 2 * lanes) * 2 * lanes
    most = max(1, room // (w.stride * pitch))
    phases, height = min(h.stride, most), min(ceil_div(h.input, h.stride), max(1, most // h.stride))
    most, size = phases * height, height * pitch
    sums_scratch = simd.scratch(d, phases * w.stride * size + lanes)
    sums = simd.aligned(simd.pointer(sums_scratch))

    tables = np.empty(2 * (h.kernel + w.kernel) + h.stride + w.stride + 2, np.int64)
    row_places = simd.pointer(tables)
    row_shifts, row_starts = simd.offset(row_places, h.kernel), simd.offset(row_places, 2 * h.kernel)
    places = simd.offset(row_starts, h.stride + 1)
    shifts, starts = simd.offset(places, w.kernel), simd.offset(places, 2 * w.kernel)
    list_met(h, row_places, row_shifts, row_starts)
    list_met(w, places, shifts, starts)
    left_edge, right_edge = 0, 0
    for t in range(starts[w.stride]):
        left_edge = max(left_edge, -shifts[t])
        right_edge = max(right_edge, shifts[t] + elements - w.output)
    line = min(elements, left_edge + right_edge + 8 * lanes)
    cut_pitch = line + 4 * lanes
    masked = starts[w.stride] * cut_pitch * cols.itemsize <= CUTS
    listed = starts[w.stride] if masked else 0
    masks_scratch = simd.scratch(d, (listed + 1) * cut_pitch + lanes)
    masks = simd.pointer(masks_scratch)
    list_cuts(d, w, elements, shifts, listed, line, cut_pitch, masks)

    slice_step, row_step = h.places * w.places * blocks.row_step, w.places * blocks.row_step
    slice_table = np.empty(z.kernel, np.int64)  # where the columns of a slice are, made anew for each
    slice_at = simd.pointer(slice_table)
    lists = np.empty((3, STREAMS), np.int64)
    sources = Sources(columns, simd.pointer(lists), simd.pointer(lists[1]), masks, simd.pointer(lists[2]))
    # What is far from any cache is held back, to be written past them in long runs, as it need not be read then.
    holding = w.input <= HELD and is_far(geometry)
    held_array = np.empty((HELD if holding else 0) + 5 * simd.BYTES, dx.dtype)
    held, held_from, held_to = simd.pointer(held_array), 0, 0
    row = start
    while row < stop:
        plane, top = row // (z.input * h.input), row % h.input
        plane_at = plane_offset(blocks, plane)
        base, limit = result_of(placed, plane, z.input * h.input, stop)
        slices = meet(z, row // h.input % z.input, slice_step, h.output * w.output, plane_at, slice_at, 0)
        bottom = min(h.input, top + most, top + stop - row)
        ahead = 0
        if asking:
            ahead = max(AHEAD, (bottom - top) // h.stride * w.output)
            if bottom == h.input:
                ahead = plane_offset(blocks, plane + 1) - plane_at - top // h.stride * w.output
        for left in range(0, elements, piece):
            width = min(elements - left, piece)
            for of_rows in range(min(phases, bottom - top)):
                phase, window = (top + of_rows) % h.stride, (top + of_rows) // h.stride
                rows, done = ceil_div(bottom - top - of_rows, h.stride), 0
                while done < rows:
                    # As many rows as have windows at the same places.
                    first, last, until = 0, 0, rows
                    for k in range(row_starts[phase], row_starts[phase + 1]):
                        out = window + done + row_shifts[k]
                        if out < 0:
                            until = min(until, done - out)
                        elif out < h.output:
                            first, last = k if last == 0 else first, k + 1
                            until = min(until, done + h.output - out)
                    for across in range(w.stride):
                        into = (of_rows * w.stride + across) * size + done * pitch
                        # A list has so many columns as can be read side by side; the next is added to the same sums.
                        s, k, t, more = 0, first, starts[across], False
                        rest = slices * (last - first) * (starts[across + 1] - starts[across])
                        while rest > 0 or not more:
                            count, lowest, highest = min(rest, STREAMS), end, begin
                            for i in range(count):
                                at = slice_at[s] + row_places[k] * row_step + places[t] * blocks.row_step
                                at += (window + done + row_shifts[k]) * w.output + left + shifts[t]
                                sources.begins[i], sources.shifts[i] = at, shifts[t]
                                sources.cuts[i] = t * cut_pitch if masked else 0
                                lowest, highest = min(lowest, at), max(highest, at)
                                t += 1
                                if t == starts[across + 1]:
                                    t, k = starts[across], k + 1
                                    if k == last:
                                        s, k = s + 1, first
                            for i in range(until - done):
                                at, to, x = i * w.output, into + i * pitch, 0
                                while x < width:
                                    column, many = left + x, 4 if x + 2 * lanes < width else 2
                                    cut = min(column, max(left_edge, column - elements + line)) if masked else 0
                                    inner = left_edge <= column and column + many * lanes <= elements - right_edge
                                    inside = at + lowest >= begin and at + highest + many * lanes <= end
                                    if not (inside and (masked or inner)):
                                        add_edge(
                                            d2, sources, count, at, column, w.output, begin, end, sums, to + x, more
                                        )
                                        many = 2
                                    elif many == 4:
                                        add_vectors(d4, sources, count, at, cut, sums, to + x, more, ahead)
                                    else:
                                        add_vectors(d2, sources, count, at, cut, sums, to + x, more, ahead)
                                    at += many * lanes
                                    x += many * lanes
                            rest, more = rest - count, True
                    done = until
            into, count = base + row * w.input + left * w.stride, min(w.input - left * w.stride, piece * w.stride)
            of_rows, line_at = 0, 0
            for _ in range(top, bottom):
                to, at, behind = result, into, limit
                if holding:
                    held_from = hold_row(result, held, held_from, held_to, into, count, HELD)
                    held_to, to, at, behind = into + count, held, into - held_from, HELD + simd.BYTES
                else:
                    ask(d, result, into + 2 * AHEAD, count if asking else 0)
                from_sums = simd.offset(sums, of_rows * w.stride * size + line_at)
                deal_out(d, from_sums, size, w.stride, to, at, count, behind)
                into += w.input
                of_rows += 1
                if of_rows == h.stride:
                    of_rows, line_at = 0, line_at + pitch
        row += bottom - top
    write_held(result, held_from, held, held_to - held_from, True)
    simd.keep((sums_scratch, tables, masks_scratch, slice_table, lists, held_array))
