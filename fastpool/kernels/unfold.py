"""Windows laid out as columns: the linear map under im2col and unfold."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from fastpool.kernels import shuffle, simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import axes, ceil_div, layout, plane_offset
from fastpool.kernels.hold import FAR, is_far
from fastpool.kernels.launch import Kernel, kernel
from fastpool.kernels.pairs import clear
from fastpool.kernels.rows import ask
from fastpool.kernels.tile import fill
from fastpool.window import Window

#: Sheets have about so many bytes, or twice as many if they are all columns of a plane; of what is far from any cache,
#: half of that: to write it shall not keep from reading on.
SHEET = 1 << 15
#: Runs of so many elements are long.
LONG = 1 << 8
#: A sheet of rows that are longer is at most so large.
WIDE_SHEET = 1 << 17
#: Rows of windows are split some at a time, of so many elements; longer ones are not put together first.
SPLIT, LONGEST = 1 << 12, 1 << 15
#: From memory, rows of so many windows are split in the order in which they lie there.
ROWS_IN_ORDER = 32


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


def splits(w: Window, itemsize: int) -> bool:
    """Return whether `split` is for such windows: next to each other, and in rows of a quarter of a vector or more."""
    whole = min(w.output[-1], w.input[-1] // w.stride[-1])
    return 1 < w.kernel_size[-1] == w.stride[-1] <= shuffle.MOST and whole >= simd.BYTES // (4 * itemsize)


@cache
def split(in_order: bool) -> Kernel:
    """Return the kernel for windows side by side from the first element on: every element is in one.

    A row's elements are shuffled apart to where they belong; its last vector overlaps the one before. What is far from
    any cache is put together near it, some rows of windows at a time, to be written past them in long runs. This costs
    a load, a shuffle and a store of every element. Rows are taken in order, or all first ones of some rows of windows,
    then all second ones: of 32 windows and more, the former takes .8 to .9 of the time from memory, 1.1 from a cache.
    """

    def body(start, stop, geometry, x, cols):
        """Fill the columns of the output rows from start to stop, as `unfold` does."""
        z, h, w = axes(geometry)
        d = simd.tag(x)
        source, blocks = layout(x), layout(cols)
        image, result = simd.pointer(x), simd.pointer(cols)
        places, slice_step = z.places * h.places, h.input * source.row_step
        taps = places * w.places
        far = is_far(geometry) and taps * w.output <= LONGEST
        # A window of a row may reach over its end, and the next one be behind it.
        whole = min(w.output, w.input // w.places)
        most = max(1, SPLIT // (h.places * w.places * w.output))
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
            for part in range(many * places if in_order else places):
                first, r = (part // places, part % places) if in_order else (0, part)
                deep, y = out_slice * z.stride, r
                if z.places > 1:
                    deep, y = deep + r // h.places, r % h.places
                lines = many
                if deep >= z.input:
                    lines = 0
                elif (out + many - 1) * h.stride + y >= h.input:
                    lines = max(0, ceil_div(h.input - y, h.stride) - out)
                at = base + deep * slice_step + y * source.row_step + first * line
                to_row = into + r * w.places * pitch + first * w.output
                size = length
                if in_order:
                    lines, size = min(max(0, lines - first), 1), w.output
                shuffle.separate(d, w.places, image, at, line, to, to_row, w.output, pitch, lines, whole, ahead)
                for k in range(w.places if lines * w.output < size or whole < w.output else 0):
                    column = whole * w.places + k
                    for i in range(lines if whole < w.output else 0):
                        ends = to_row + k * pitch + i * w.output
                        clear(d, to, ends + whole, ends + w.output)
                        if column < w.input:
                            to[ends + whole] = image[at + i * line + column]
                    clear(d, to, to_row + k * pitch + lines * w.output, to_row + k * pitch + size)
            for tap in range(taps if far else 0):
                put(d, result, begin + tap * blocks.row_step, sheet, tap * length, length, True)
            row += many
            out += many
            if out == h.output:
                out, out_slice = 0, out_slice + 1
            if out_slice == z.output:
                out_slice, plane = 0, plane + 1
        simd.keep((sheet_array,))

    body.__name__ = f"split{'-in-order' * in_order}"
    return Kernel(body, writes=1)
