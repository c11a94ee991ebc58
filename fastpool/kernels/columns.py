"""Windows laid out as columns, and back: the linear map under im2col and unfold, and its adjoint.

Either way a sum has the order of the kernel's places, as in the notebook's col2im.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import NOWHERE, axes, axis, beginning, ceil_div, layout, meet, plane_offset
from fastpool.kernels.hold import FAR, HELD, hold_row, is_far, write_held
from fastpool.kernels.launch import Kernel, kernel
from fastpool.kernels.pairs import clear
from fastpool.kernels.rows import ask, ask_vector
from fastpool.kernels.tile import fill
from fastpool.window import Window

#: Sheets have about so many bytes, or twice as many if they are all columns of a plane; of what is far from any cache,
#: half of that: to write it shall not keep from reading on.
SHEET = 1 << 15
#: Sums of short rows have about so many bytes.
SUMS = 1 << 14
#: So many columns are read at a time: each is a stream, and more than a CPU follows take three times as long.
STREAMS = 12
#: So many elements are asked for ahead, or a plane that is no further, and so many more of a batch's, in .4 to .9 of
#: the time: CPUs begin too late to do it by themselves.
AHEAD, FURTHEST, BESIDE = 1 << 9, 1 << 13, 1 << 7
#: Small planes have fewer elements, so that 16 bits tell which; what is about so many ahead of them is asked for.
SMALL, PLANES_AHEAD = 1 << 15, 1 << 11
#: So many elements, and columns, of several small planes are listed.
LISTED = 1 << 13
#: Of kernels so wide, the masks of all columns fit L2.
MASKS = 16
#: Masks of all columns of a row of the kernel may have so many bytes, or else edges take longer.
CUTS = 1 << 17
#: Loops over fewer elements of small planes get slower where they are unrolled.
UNROLLED = 8
#: Runs of so many elements are long.
LONG = 1 << 8
#: A sheet of rows that are longer is at most so large.
WIDE_SHEET = 1 << 17


def _deal_every(stride: int) -> Any:
    """Return `deal` for columns that are so far apart, which the compiler has to know."""

    @inline
    def deal_every(d, x, offset, row_step, rows, width, into, at):
        for _ in range(rows):
            for i in range(0, width, simd.lanes(d)):
                simd.rolled()
                simd.store(into, at + i, simd.load_every(d, x, offset + stride * i, stride))
            offset += row_step
            at += width

    return deal_every


deal_2, deal_3, deal_4, deal_5, deal_6, deal_7 = map(_deal_every, range(2, 8))


@inline
def deal(d, x, offset, row_step, stride, rows, width, left, right, end, into, at):
    """Write `rows` rows of `width` elements, `stride` apart, one after the other to `into` from `at` on.

    The first is at `offset`. Outside of columns `left` to `right`, and after the last row, anything may be written.
    Nothing that is from `end` on, or before 0, is read but for what must be.
    """
    lanes, few = simd.lanes(d), simd.narrowed(d, 2)
    step = lanes if stride == 1 else simd.lanes(few)
    last = offset + max(0, rows - 1) * row_step
    if min(offset, last) < 0 or max(offset, last) + (width + step) * stride > end or stride > 7:
        for _ in range(rows):
            for i in range(left, right):
                into[at + i] = x[offset + i * stride]
            offset += row_step
            at += width
    elif stride == 1:
        if row_step == width:  # one run
            rows, width = 1, rows * width
        for _ in range(rows):
            for i in range(0, width, lanes):
                simd.rolled()
                simd.store(into, at + i, simd.load(d, x, offset + i))
            offset += row_step
            at += width
    elif stride == 2:
        deal_2(few, x, offset, row_step, rows, width, into, at)
    elif stride == 3:
        deal_3(few, x, offset, row_step, rows, width, into, at)
    elif stride == 4:
        deal_4(few, x, offset, row_step, rows, width, into, at)
    elif stride == 5:
        deal_5(few, x, offset, row_step, rows, width, into, at)
    elif stride == 6:
        deal_6(few, x, offset, row_step, rows, width, into, at)
    else:
        deal_7(few, x, offset, row_step, rows, width, into, at)


@inline
def clear_few(d, into, first, last):
    """Set some elements to zero, from `first` to before `last`."""
    for i in range(first, last):
        simd.rolled()
        into[i] = simd.scalar(d, 0)


@inline
def put(d, result, to, sheet, at, length, far):
    """Copy a run, past the caches where it is long and what it is part of is `far`."""
    lanes, few = simd.lanes(d), simd.narrowed(d, 2)
    if length >= LONG and far:
        simd.stream(result, to, sheet, at, length)
    elif length >= LONG or length < simd.lanes(few):
        simd.copy(result, to, sheet, at, length)
    elif length < lanes:
        last = length - simd.lanes(few)
        simd.store(result, to, simd.load(few, sheet, at))
        simd.store(result, to + last, simd.load(few, sheet, at + last))
    else:
        for i in range(0, length - lanes, lanes):
            simd.rolled()
            simd.store(result, to + i, simd.load(d, sheet, at + i))
        last = length - lanes
        simd.store(result, to + last, simd.load(d, sheet, at + last))


@kernel()
def unfold(start, stop, geometry, x, cols):
    """Fill the columns of the output rows from start to stop, counted over the planes of x.

    x has the shape (A, B, D * H, W), cols (A, B, taps, OD * OH * OW), contiguous along the last axis.

    Each place across is dealt to a sheet in cache, row after row, so that vectors may run over the ends of rows, and
    once for all places down that share rows of the input. From there the places down are runs, however short the rows
    are; where none share rows, and the sheet is of a plane, all of them are one: windows side by side take .5 to .85 of
    the time. This costs a load and a store of every column in L1. A sheet is of one slice of the input, or of many
    small.
    """
    z, h, w = axes(geometry)
    d = simd.tag(x)
    lanes = simd.lanes(d)
    source, blocks = layout(x), layout(cols)
    image, result = simd.pointer(x), simd.pointer(cols)
    far = is_far(geometry)
    elements = (SHEET // 2 if far else SHEET) // (x.itemsize * w.places)
    reach = (h.places - 1) * h.dilation
    extra, phases = reach // h.stride, min(h.stride, reach + 1)
    # Rows that places down share are dealt once, others for each place.
    shared = phases < h.places and phases * (min(h.output, 4 * (extra + 1)) + extra) < h.places * h.output
    slots, apart, more = (phases, 1, extra) if shared else (h.places, h.dilation, 0)
    least = min(h.output, 4 * (more + 1))
    piece = min(w.output, max(4 * lanes, WIDE_SHEET // (x.itemsize * w.places * slots * (least + more))))
    most = min(h.output, max(elements // (slots * piece) - more, least))
    if slots * (h.output + more) * piece <= 2 * elements:
        most = h.output
    units = 1
    if most == h.output and piece == w.output:
        units = max(1, elements // (slots * (most + more) * piece))
    sheet_scratch = simd.scratch(d, w.places * units * slots * (most + more) * piece + 2 * lanes)
    sheet = simd.pointer(sheet_scratch)
    tables = np.empty((3, units), np.int64)  # of every slice of windows: where it is, how deep, where its columns are
    slice_at, depth_of, into_of = simd.pointer(tables), simd.pointer(tables[1]), simd.pointer(tables[2])
    taps = h.places * w.places
    runs_table = np.empty(taps, np.int64)  # where the columns of a place are in the sheet
    run_of = simd.pointer(runs_table)
    edges = np.empty((2, w.places), np.int64)  # the first column of a place that is inside, and the one past the last
    lefts, rights = simd.pointer(edges), simd.pointer(edges[1])
    # Of short runs, those that are side by side in the result are written one after the other.
    beside = LONG if blocks.row_step > blocks.inner_step else LONG // 2 if z.output > 1 else 0
    by_taps = h.output * w.output < beside
    asking = blocks.nbytes >= FAR
    slice_step = h.input * source.row_step
    row = start
    while row < stop:
        number, out = row // h.output, row % h.output
        count = min(most, h.output - out, stop - row)
        many = min(units, (stop - row) // count) if count == h.output else 1
        plane, deep = number // z.output, number % z.output
        inner = plane % source.inner
        at, into = plane_offset(source, plane), plane_offset(blocks, plane)
        for u in range(many):
            depth_of[u] = deep * z.stride - z.before
            slice_at[u] = at + depth_of[u] * slice_step
            into_of[u] = into + (deep * h.output + out) * w.output
            deep += 1
            if deep == z.output:
                deep = 0
                inner += 1
                at += source.inner_step
                into += blocks.inner_step
                if inner == source.inner:
                    inner = 0
                    at += source.outer_step - source.inner * source.inner_step
                    into += blocks.outer_step - source.inner * blocks.inner_step
        row += many * count
        y = out * h.stride - h.before
        ahead, total = 0, 0
        if asking:
            ahead = plane_offset(source, row // h.output // z.output)
            ahead += (row // h.output % z.output * z.stride - z.before) * slice_step
            ahead += (row % h.output * h.stride - h.before) * source.row_step
            total = many * count * min(h.stride, h.input) * source.row_step
        share = ceil_div(total, many * slots * w.places * lanes) * lanes
        for first in range(0, w.output, piece):
            width = min(piece, w.output - first)
            size = (count + more) * width
            runs, length = (1, count * width) if width == w.output else (count, width)
            for k in range(w.places):
                column = first * w.stride + k * w.dilation - w.before
                left = min(width, max(0, ceil_div(-column, w.stride)))
                lefts[k], rights[k] = left, max(left, min(width, (w.input - 1 - column) // w.stride + 1))
            for kz in range(z.places):
                deeper = kz * z.dilation
                into, asked = 0, total if first > 0 else 0
                for u in range(many):
                    inside = 0 <= depth_of[u] + deeper < z.input
                    for slot in range(slots):
                        line = y + slot * apart
                        top = min(count + more, max(0, ceil_div(-line, h.stride))) if inside else count + more
                        bottom = max(top, min(count + more, (h.input - 1 - line) // h.stride + 1))
                        at = slice_at[u] + deeper * slice_step + (line + top * h.stride) * source.row_step
                        at += first * w.stride - w.before
                        rows = bottom - top
                        for k in range(w.places):
                            ask(d, image, ahead + deeper * slice_step + asked, min(share, total - asked))
                            asked += share
                            behind = into + size
                            left, right = lefts[k], rights[k]
                            fill(d, sheet, into, top * width, simd.splat(d, 0))
                            into += top * width
                            deal(
                                d, image, at + k * w.dilation, h.stride * source.row_step, w.stride, rows, width,
                                left, right, source.end, sheet, into,
                            )  # fmt: skip
                            for _ in range(rows if left > 0 or right < width else 0):
                                clear_few(d, sheet, into, into + left)
                                clear_few(d, sheet, into + right, into + width)
                                into += width
                            into = behind - (count + more - bottom) * width
                            fill(d, sheet, into, (count + more - bottom) * width, simd.splat(d, 0))
                            into = behind
                if not shared and length == blocks.row_step:  # in the order of the result
                    for u in range(many):
                        put(d, result, into_of[u] + kz * taps * length, sheet, u * taps * size, taps * size, far)
                    continue
                for i in range(h.places):
                    line = i * w.places * size
                    if shared:
                        line = i * h.dilation % h.stride * w.places * size + i * h.dilation // h.stride * width
                    for k in range(w.places):
                        run_of[i * w.places + k] = line + k * size
                u, tap = 0, 0
                for _ in range(many * taps):
                    to = into_of[u] + (kz * taps + tap) * blocks.row_step + first
                    at = u * slots * w.places * size + run_of[tap]
                    for _ in range(runs):
                        put(d, result, to, sheet, at, length, far)
                        to += w.output
                        at += width
                    if by_taps:
                        u += 1
                        if u == many:
                            u, tap = 0, tap + 1
                    else:
                        tap += 1
                        if tap == taps:
                            u, tap = u + 1, 0
    simd.keep((sheet_scratch, tables, runs_table, edges))


def _of_places(make: Callable[[int], Any]) -> Any:
    """Return a function that shuffles some rows: for each number of places, which the compiler has to know, `make`
    makes it, with vectors that a row has room for, if only a quarter of one.
    """

    def of_width(runs: Any) -> Any:
        @inline
        def shuffle(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead):
            half, quarter = simd.narrowed(d, 2), simd.narrowed(d, 4)
            if count >= simd.lanes(d):
                runs(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead)
            elif count >= simd.lanes(half):
                runs(half, source, offset, source_line, to, into, line, pitch, lines, count, ahead)
            else:
                runs(quarter, source, offset, source_line, to, into, line, pitch, lines, count, ahead)

        return shuffle

    two, three, four, five, six, seven = (of_width(make(places)) for places in range(2, 8))

    @inline
    def shuffle(d, places, source, offset, source_line, to, into, line, pitch, lines, count, ahead):
        if places == 2:
            two(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead)
        elif places == 3:
            three(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead)
        elif places == 4:
            four(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead)
        elif places == 5:
            five(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead)
        elif places == 6:
            six(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead)
        else:
            seven(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead)

    return shuffle


def _separate(places: int) -> Any:
    """Return what writes a row's elements to as many runs as there are places, `pitch` apart, in turn."""

    @inline
    def separate_rows(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead):
        last = count - simd.lanes(d)
        for _ in range(lines):
            for i in range(0, count, simd.lanes(d)):
                simd.rolled()
                j = min(i, last)  # the last vector overlaps the one before: nothing is read or written behind the row
                for k in range(places):
                    simd.prefetch(source, offset + ahead + places * j + k * simd.lanes(d))
                simd.store_apart(to, into + j, pitch, d, source, offset + places * j, places)
            offset += source_line
            into += line

    return separate_rows


def _interleave(places: int) -> Any:
    """Return what writes a row of an element of each of so many runs, `pitch` apart, in turn."""

    @inline
    def interleave_rows(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead):
        zero, last = simd.splat(d, 0), count - simd.lanes(d)
        for _ in range(lines):
            for i in range(0, count, simd.lanes(d)):
                simd.rolled()
                j = min(i, last)  # as above
                for k in range(places):
                    simd.prefetch(source, offset + ahead + k * pitch + j)
                simd.store_in_turn(to, into + places * j, d, source, offset + j, pitch, places, zero)
            offset += source_line
            into += line

    return interleave_rows


separate, interleave = _of_places(_separate), _of_places(_interleave)


def splits(w: Window, itemsize: int) -> bool:
    """Return whether `split` is for such windows: next to each other, and in rows of a quarter of a vector or more."""
    return 1 < w.kernel_size[-1] == w.stride[-1] <= 7 and w.input[-1] // w.stride[-1] >= simd.BYTES // (4 * itemsize)


@kernel()
def split(start, stop, geometry, x, cols):
    """Fill the columns of the output rows from start to stop, as `unfold` does.

    This is for windows side by side from the first element on: every element is in one. A row's elements are shuffled
    apart to where they belong; its last vector overlaps the one before. What is far from any cache is put together
    near it, some rows of windows at a time, to be written past them in long runs. This costs a load, a shuffle and a
    store of every element.
    """
    z, h, w = axes(geometry)
    d = simd.tag(x)
    source, blocks = layout(x), layout(cols)
    image, result, far = simd.pointer(x), simd.pointer(cols), is_far(geometry)
    taps, slice_step = z.places * h.places * w.places, h.input * source.row_step
    # The last window of a row may reach over its end.
    whole = min(w.output, w.input // w.places)
    most = max(1, JOINED // (h.places * w.places * w.output))
    sheet_array = np.empty(taps * most * w.output if far else 0, cols.dtype)
    sheet = simd.pointer(sheet_array)
    line = h.stride * source.row_step
    row, number, out = start, start // h.output, start % h.output
    plane, out_slice = number // z.output, number % z.output
    while row < stop:
        many = min(most, h.output - out, stop - row)
        base = plane_offset(source, plane) + out * line
        begin = plane_offset(blocks, plane) + (out_slice * h.output + out) * w.output
        to, into, pitch, length = result, begin, blocks.row_step, many * w.output
        if far:
            to, into, pitch = sheet, 0, length
        ahead = many * line if source.nbytes >= FAR else 0
        for r in range(z.places * h.places):
            deep, y = out_slice * z.stride, r
            if z.places > 1:
                deep, y = deep + r // h.places, r % h.places
            lines = many
            if deep >= z.input:
                lines = 0
            elif (out + many - 1) * h.stride + y >= h.input:
                lines = max(0, ceil_div(h.input - y, h.stride) - out)
            at, to_row = base + deep * slice_step + y * source.row_step, into + r * w.places * pitch
            separate(d, w.places, image, at, line, to, to_row, w.output, pitch, lines, whole, ahead)
            for k in range(w.places if lines < many or whole < w.output else 0):
                column = whole * w.places + k
                for i in range(lines if whole < w.output else 0):
                    last = to_row + k * pitch + i * w.output + whole
                    to[last] = image[at + i * line + column] if column < w.input else simd.scalar(d, 0)
                clear(d, to, to_row + k * pitch + lines * w.output, to_row + k * pitch + length)
        for tap in range(taps if far else 0):
            put(d, result, begin + tap * blocks.row_step, sheet, tap * length, length, True)
        row += many
        out += many
        if out == h.output:
            out, out_slice = 0, out_slice + 1
        if out_slice == z.output:
            out_slice, plane = 0, plane + 1
    simd.keep((sheet_array,))


@inline
def take(elements, count, run, memory, at, step):
    """Copy `count` elements, in runs that are a step apart, to scratch behind a first element."""
    if step == run:  # one run
        run = count
    into = 1
    while into <= count:
        simd.copy(elements, into, memory, at, run)
        into += run
        at += step


@inline
def planes_in_a_table(blocks, outputs, entries):
    """Return how many planes there is room for, of so many entries each, whose columns follow one another."""
    return max(1, min(blocks.inner, LISTED // entries)) if blocks.inner_step == outputs else 1


@inline
def planes_abreast(blocks, plane, begun, rest, rows, most):
    """Return how many planes of so many rows to take from one on, of the rest of rows: of one that is begun, one."""
    return 1 if begun else max(1, min(most, blocks.inner - plane % blocks.inner, rest // rows))


@cache
def unfold_small(abreast: bool) -> Kernel:
    """Return the kernel for one plane at a time, or, for im2col, some: each of their columns is in one run with others.

    It does what `unfold` does where planes are so small that a table says which element each column is. That costs two
    loads and a store an element, however short the rows of windows are: rows of three take a third of the time, and
    single windows a thirtieth. For im2col, that of some planes takes .2 to .9 of the time of one by one.
    """

    def body(start, stop, geometry, x, cols):
        """Fill the columns of the output rows from start to stop, as `unfold` does."""
        z, h, w = axes(geometry)
        d = simd.tag(x)
        source, blocks = layout(x), layout(cols)
        image, result = simd.pointer(x), simd.pointer(cols)
        size, taps, lines = z.input * h.input * w.input, z.places * h.places * w.places, z.output * h.output
        outputs = lines * w.output
        most = planes_in_a_table(blocks, outputs, max(taps * outputs, 1 + size)) if abreast else 1
        pitch, later = most * outputs, max(1, PLANES_AHEAD // size)
        # What is on padding is the element before the first, which is zero.
        plane_scratch, table = np.zeros(most * (1 + size), x.dtype), np.zeros(taps * pitch, np.int16)
        elements, elements_of = simd.pointer(plane_scratch), simd.pointer(table)
        t = 0
        for k in range(taps):
            across = k % w.places * w.dilation - w.before
            for of_plane in range(0, most * (1 + size), 1 + size):
                for line in range(lines):
                    deep = line // h.output * z.stride - z.before + k // w.places // h.places * z.dilation
                    y = line % h.output * h.stride - h.before + k // w.places % h.places * h.dilation
                    inside = 0 <= deep < z.input and 0 <= y < h.input
                    for column in range(across, across + w.output * w.stride, w.stride):
                        if inside and 0 <= column < w.input:
                            elements_of[t] = of_plane + 1 + (deep * h.input + y) * w.input + column
                        t += 1
        row = start
        while row < stop:
            plane, first = row // lines, row % lines * w.output
            count = planes_abreast(blocks, plane, first > 0, stop - row, lines, most) if abreast else 1
            last = min(count * outputs, first + (stop - row) * w.output)
            row += count * lines - row % lines
            into = plane_offset(blocks, plane)
            for i in range(count):
                at = plane_offset(source, plane + i)
                take(simd.offset(elements, i * (1 + size)), size, w.input, image, at, source.row_step)
                ask(d, image, plane_offset(source, plane + i + later), size)
            if last - first == blocks.row_step == pitch:
                for i in range(taps * pitch):
                    result[into + i] = elements[elements_of[i]]
            elif last - first >= UNROLLED:
                for k in range(taps):
                    for i in range(first, last):
                        result[into + k * blocks.row_step + i] = elements[elements_of[k * pitch + i]]
            else:
                for k in range(taps):
                    for i in range(first, last):
                        simd.rolled()
                        result[into + k * blocks.row_step + i] = elements[elements_of[k * pitch + i]]
        simd.keep((plane_scratch, table))

    body.__name__ = f"unfold_small{'-abreast' * abreast}"
    return Kernel(body, writes=1)


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
    if places == step and 1 < places <= 7 and count >= simd.lanes(simd.narrowed(d, 4)):
        interleave(d, places, source, offset, apart, to, into, line, pitch, lines, count, ahead)
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


#: Rows of windows are joined some at a time, of so many elements; longer rows are not held back.
JOINED = 1 << 12


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
            ahead *= max(1, PLANES_AHEAD // max(1, ahead))
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


@cache
def join_small(abreast: bool) -> Kernel:
    """Return the kernel for one plane at a time, or, for col2im, some: each of their columns is in one run with others.

    It does what `join` does where planes are so small that a table says which column each element is. That costs two
    loads and a store an element: of maps of 7 x 7, windows of 2 x 2 take a quarter of the time. For col2im, that of
    some planes takes .15 to .9 of the time of one by one. What is asked for ahead takes half the time, from memory.
    """

    def body(start, stop, geometry, cols, dx):
        """Put together the rows of dx from start to stop, as `join` does."""
        z, h, w = axes(geometry)
        blocks, placed = layout(cols), layout(dx)
        columns, result = simd.pointer(cols), simd.pointer(dx)
        d = simd.tag(cols)
        nothing = simd.scalar(d, 0)
        size, taps = z.input * h.input * w.input, z.places * h.places * w.places
        outputs = z.output * h.output * w.output
        most = planes_in_a_table(blocks, outputs, (taps + 1) * outputs) if abreast else 1
        pitch, later = most * outputs, max(1, PLANES_AHEAD // size)
        # What no window covers is in a column behind the last, which is zero.
        block_scratch, table = np.zeros((taps + 1) * pitch, cols.dtype), np.full(size, taps * pitch, np.int16)
        elements, elements_of = simd.pointer(block_scratch), simd.pointer(table)
        for i in range(taps * outputs):
            simd.rolled()
            k, line, column = i // outputs, i % outputs // w.output, i % w.output * w.stride + i // outputs % w.places
            deep = line // h.output * z.stride + k // w.places // h.places
            y = line % h.output * h.stride + k // w.places % h.places
            if deep < z.input and y < h.input and column < w.input:
                elements_of[(deep * h.input + y) * w.input + column] = k * pitch + i % outputs
        rows = z.input * h.input
        row = start
        while row < stop:
            plane, first = row // rows, row % rows * w.input
            count = planes_abreast(blocks, plane, first > 0, stop - row, rows, most) if abreast else 1
            last = min(size, first + (stop - row) * w.input)
            row += count * rows - row % rows
            at, run = plane_offset(blocks, plane), count * outputs
            runs, length = (1, taps * run) if run == blocks.row_step == pitch else (taps, run)
            for k in range(runs):
                simd.copy(elements, k * pitch, columns, at + k * blocks.row_step, length)
                ask(d, columns, plane_offset(blocks, plane + later) + k * blocks.row_step, length)
            for i in range(count):
                into, from_plane = plane_offset(placed, plane + i), simd.offset(elements, i * outputs)
                for j in range(first, last):
                    simd.store_scalar(result, into + j, simd.load_scalar(from_plane, elements_of[j]) + nothing)
        simd.keep((block_scratch, table))

    body.__name__ = f"join_small{'-abreast' * abreast}"
    return Kernel(body, writes=1)


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
