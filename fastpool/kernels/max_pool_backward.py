"""Max pooling backward: every gradient goes to the element that its maximum came from.

`scatter` sets a plane, or a volume, to zero and adds to it, while it is in cache, one gradient at a time. Going
through the outputs backwards, an element gets its gradients in the order of the kernel's places, as the
notebook's col2im adds them. A position of one byte is looked up for its distance from the place of its
window; only windows that reach over an edge, or out of the rows that are being computed, check it. For
planes that are small, and many, it is listed where the gradient of every place of every window goes, so that
nothing is checked: `scatter_small` takes half to all of the time, `scatter_channels` a fifth to a half. Where such a
list would be long, or windows are large, sums with padding around do as well: `scatter_padded`.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import PART, axes, ceil_div, layout, plane_offset
from fastpool.kernels.hold import is_far, write_held
from fastpool.kernels.launch import Kernel, kernel
from fastpool.kernels.pairs import clear
from fastpool.kernels.rows import ask
from fastpool.window import Window

#: Kernels of up to so many places have a table of them.
LOOKED_UP = 4096
#: So many bytes of a plane are added up in scratch, where halves are or where it is far, or where there are edges.
BAND = 1 << 18
#: So many bytes of planes, or less, are summed up side by side.
SIDE_BY_SIDE = 1 << 15
#: From so many places on, a window's gradients are taken to be for few elements; there are edges if fewer are inside.
CHAINED, INNER = 64, 0.85
#: Of few channels that are last, it is listed where so many start.
PIECE = 1 << 10
#: Small planes have fewer elements, so that 16 bits tell where; vectors run over the end of what is listed.
SMALL, ROOM = 1 << 13, 32
#: Some are summed up at a time, if so many elements, and so many targets, are those of some.
SUMMED, ENTRIES = 1 << 11, 1 << 13
#: With so many gradients, the next elements are asked for, of arrays of so many bytes: others are in some cache.
BLOCK, ASKED = 16, 1 << 20
#: Of channels that are last, up to so many are summed up at a time: of a plane at least so many, of a band a vector.
SHARED, LEAST = 1 << 7, 12


@inline
def add_inside(dy, argmax, source, at, first, last, offsets, dx, into, stride):
    """Add the gradients of a row of outputs, last to first, whose windows are all in our rows."""
    for i in range(last - 1, first - 1, -1):
        dx[into + i * stride + offsets[argmax[at + i]]] += simd.load_scalar(dy, source + i)


@inline
def add_pixels_inside(dy, argmax, source, at, first, last, offsets, dx, into, starts, piece, step):
    """The same of channels that are last: it is listed where those of a piece start, a step after those before it."""
    while last > first:
        begin = max(first, (last - 1) // piece * piece)
        count, base = last - begin, into + begin // piece * step
        g, a, t = simd.offset(dy, source + begin), simd.offset(argmax, at + begin), simd.offset(starts, begin % piece)
        rest = count % 4
        for i in range(count - 4, rest - 1, -4):
            # Four are looked up before the first is written to: a load may wait for where earlier stores go.
            k, m = t[i + 3] + offsets[a[i + 3]], t[i + 2] + offsets[a[i + 2]]
            n, p = t[i + 1] + offsets[a[i + 1]], t[i] + offsets[a[i]]
            dx[base + k] += simd.load_scalar(g, i + 3)
            dx[base + m] += simd.load_scalar(g, i + 2)
            dx[base + n] += simd.load_scalar(g, i + 1)
            dx[base + p] += simd.load_scalar(g, i)
        for i in range(rest - 1, -1, -1):
            dx[base + t[i] + offsets[a[i]]] += simd.load_scalar(g, i)
        last = begin


@inline
def put_sums(d, result, to, sums, at, count, far):
    """Write what was summed up: halves rounded, what is far from any cache past them.

    To have the C library copy the channels of a pixel takes two to three times as long.
    """
    if simd.halves(result) is None and (far or count > SHARED):
        write_held(result, to, simd.offset(sums, at), count, far)
    else:
        for i in range(0, count, simd.lanes(d)):
            simd.store_before(result, to + i, simd.load(d, sums, at + i), to + count)


class Table(NamedTuple):
    """Of every place of a window how far it is from the first one, as pointers."""

    slices: Any
    rows: Any
    columns: Any


@inline
def add_at_edge(dy, argmax, source, at, first, last, table, z, h, w, channels, front, y, top, bottom, dx, into):
    """The same, leaving out what is on padding or in rows other than those from top to bottom."""
    for out in range(last // channels - 1, first // channels - 1, -1):
        left = out * w.stride - w.before
        for i in range(out * channels, (out + 1) * channels):
            k = np.int64(argmax[at + i])
            if z.places * h.places * w.places <= LOOKED_UP:
                depth, row, column = table.slices[k], table.rows[k], table.columns[k]
            else:
                depth, row = k // w.places // h.places * z.dilation, k // w.places % h.places * h.dilation
                column = k % w.places * w.dilation
            depth += front
            row += y
            column += left
            if 0 <= depth < z.input and 0 <= row < h.input and 0 <= column < w.input:
                row += depth * h.input
                if top <= row < bottom:
                    to = into + (row * w.input + column - out) * channels + i
                    dx[to] += simd.load_scalar(dy, source + i)


@inline
def places_between(h, w, y, top, bottom):
    """Return the first place of a window of a plane, whose first row is y, from row `top` on, and that of `bottom`."""
    first, last = top - y, bottom - y
    if h.dilation > 1:  # divisions take long, where rows are short
        first, last = ceil_div(first, h.dilation), ceil_div(last, h.dilation)
    return max(0, first) * w.places, min(h.places, last) * w.places


@inline
def add_in_rows(dy, argmax, source, at, first, last, table, offsets, w, channels, low, high, dx, into):
    """The same of a plane, whose places from low to high are in these rows: that is seen sooner."""
    for out in range(last // channels - 1, first // channels - 1, -1):
        left, place = out * w.stride - w.before, into + out * (w.stride - 1) * channels
        for i in range(out * channels, (out + 1) * channels):
            k = np.int64(argmax[at + i])
            if low <= k < high and 0 <= left + table.columns[k] < w.input:
                dx[place + i + offsets[k]] += simd.load_scalar(dy, source + i)


@inline
def list_again(d, table, at, before, count, further):
    """List what is listed `before`, so much further on, but for what is on padding."""
    zero, shift = simd.splat(d, 0), simd.splat(d, further)
    for i in range(0, count, simd.lanes(d)):
        v = simd.load(d, table, before + i)
        simd.store(table, at + i, simd.select(v < zero, v, v + shift))


@inline
def list_targets(z, h, w, channels, pitch, count, targets):
    """List where the gradients of `count` planes go: one of a place on padding, to what is before the first plane.

    There are so many channels in a row, and a list for each. Vectors run over what is listed next.
    """
    line, size = w.input * channels, z.input * h.input * w.input * channels
    columns_table = np.empty(w.output * w.places + ROOM, np.int16)
    table, columns = simd.pointer(targets), simd.pointer(columns_table)
    for i in range(w.output * w.places):
        x = i // w.places * w.stride - w.before + i % w.places * w.dilation
        columns[i] = x * channels if 0 <= x < w.input else -2 * SMALL
    whole = simd.tag(targets)
    d = simd.narrowed(whole, 4)
    row, at, met = w.output * channels * pitch, 0, False
    for number in range(z.output):
        front = number * z.stride - z.before
        for out in range(h.output):
            top = out * h.stride - h.before
            inside = top >= 0 and top + (h.places - 1) * h.dilation < h.input
            if inside and met and out > 0:  # as the row before was
                list_again(whole, table, at, at - row, row, h.stride * line)
                at += row
                continue
            met = inside
            for i in range(w.output * channels):
                lost = simd.splat(d, i % channels - channels)
                for k in range(z.places * h.places):
                    deep, y = front + k // h.places * z.dilation, top + k % h.places * h.dilation
                    there = 0 <= deep < z.input and 0 <= y < h.input
                    first = simd.splat(d, (deep * h.input + y) * line + i % channels if there else -2 * SMALL)
                    for j in range(0, w.places, simd.lanes(d)):
                        simd.rolled()
                        v = simd.maximum(first + simd.load(d, columns, i // channels * w.places + j), lost)
                        simd.store(table, at + i * pitch + k * w.places + j, v)
            at += row
    for i in range(1, count):
        list_again(whole, table, i * at, (i - 1) * at, at, size)
    simd.keep((columns_table,))


@inline
def add_listed(d, dy, argmax, count, table, pitch, sums, result, ahead, share):
    """Add gradients, last to first, to where the table says; ask for a share of other memory with every block."""
    rest = count % BLOCK
    for block in range(count - BLOCK, rest - 1, -BLOCK):
        ask(d, result, ahead + block // BLOCK * share, share)
        for i in range(block + BLOCK - 4, block - 1, -4):
            # Four are looked up before the first is written to: a load may wait for where earlier stores go.
            g, a, t = simd.offset(dy, i), simd.offset(argmax, i), simd.offset(table, i * pitch)
            k, m, n, p = t[3 * pitch + a[3]], t[2 * pitch + a[2]], t[pitch + a[1]], t[a[0]]
            sums[k] += simd.load_scalar(g, 3)
            sums[m] += simd.load_scalar(g, 2)
            sums[n] += simd.load_scalar(g, 1)
            sums[p] += simd.load_scalar(g, 0)
    for i in range(rest - 1, -1, -1):
        sums[table[i * pitch + argmax[i]]] += simd.load_scalar(dy, i)


@kernel()
def scatter_small(start, stop, geometry, dy, argmax, dx):
    """Compute the rows of dx (A, B, D * H, W * channels) from start to stop, counted over its planes.

    Planes are so small that a table says where the gradient of each place of each window goes. Some are set to zero at
    a time, while those before them are asked for, and added to. What is on padding goes to an element before them,
    whose turn comes later; where there is none that is ours, sums are in scratch. All arrays are contiguous.
    """
    z, h, w = axes(geometry)
    d = simd.tag(dy)
    gradients, positions, result = simd.pointer(dy), simd.pointer(argmax), simd.pointer(dx)
    line, rows = dx.shape[3], z.input * h.input
    channels = line // w.input
    size, outputs, taps = rows * line, z.output * h.output * w.output * channels, z.places * h.places * w.places
    pitch = 16 if 4 < taps <= 16 else 32 if 16 < taps <= 32 else taps
    many = max(1, min(SUMMED // size, ENTRIES // (outputs * pitch), (stop - start) // rows))
    targets = np.empty(many * outputs * pitch + ROOM, np.int16)
    list_targets(z, h, w, channels, pitch, many, targets)
    table = simd.pointer(targets)
    # Halves are summed in float32, and what is far from any cache near it, to be written past the caches.
    far = is_far(geometry)
    kept = far or simd.halves(result) is not None
    margin = simd.lanes(d) + channels
    sums_scratch = simd.scratch(d, margin + many * size + simd.lanes(d))
    sums = simd.offset(simd.pointer(sums_scratch), margin)
    share = 0 if kept or dx.nbytes < ASKED else ceil_div(BLOCK * size, outputs)
    row = stop
    while row > start:
        plane = (row - 1) // rows
        top, bottom = max(0, start - plane * rows), row - plane * rows
        count = max(1, min(many, (row - start) // rows)) if bottom == rows else 1
        plane -= count - 1
        row = plane * rows + top
        into, ahead, some = plane * size, (plane - count) * size, count * outputs
        there = not kept and row > start and bottom - top == rows
        to = simd.sums(simd.offset(result, into), sums) if there else sums
        from_dy, from_argmax = simd.offset(gradients, plane * outputs), simd.offset(positions, plane * outputs)
        clear(d, to, 0, count * size)
        # A constant pitch spares a tenth.
        if pitch == 16:
            add_listed(d, from_dy, from_argmax, some, table, 16, to, result, ahead, share)
        elif pitch == 32:
            add_listed(d, from_dy, from_argmax, some, table, 32, to, result, ahead, share)
        else:
            add_listed(d, from_dy, from_argmax, some, table, taps, to, result, ahead, share)
        if not there:
            rest = (bottom - top) * line + (count - 1) * size
            put_sums(d, result, into + top * line, sums, top * line, rest, far)
    simd.keep((targets, sums_scratch))


@inline
def reach(h, top, bottom):
    """Return the first window with an element from top to bottom of an axis, and the one past the last."""
    first = max(0, ceil_div(top + h.before - (h.places - 1) * h.dilation, h.stride))
    return first, min(h.output, (bottom - 1 + h.before) // h.stride + 1)


def _spans(w: Window) -> list[int]:
    return [(k - 1) * dilation + 1 for k, dilation in zip(w.kernel_size, w.dilation)]


def _padded(w: Window) -> list[int]:
    axes = zip(w.input, _spans(w), w.output, w.stride, w.padding)
    return [max(before + n, (out - 1) * stride + span) for n, span, out, stride, (before, _) in axes]


def fits(w: Window, channels: int) -> bool:
    """Return whether scratch has room for so many channels of a plane, with its padding as far as windows reach."""
    return w.taps <= LOOKED_UP and 4 * prod(_padded(w)) * channels <= BAND


def sums_channels(w: Window) -> bool:
    """Return whether scratch has room for some channels of a plane, or of a band of one whose rows all have windows."""
    if fits(w, LEAST):
        return True
    span, stride = _spans(w)[-2:][0], w.stride[-2:][0]
    return len(w.input) == 2 and stride <= span and w.taps <= LOOKED_UP and simd.BYTES * span * _padded(w)[-1] <= BAND


def channels_at_once(w: Window, channels: int, itemsize: int) -> int:
    """Return how many channels `scatter_channels` sums up at a time: about as many each time, which are threads' parts.

    As few images have fewer planes than there are threads, and the windows of a plane's rows reach over many others.
    """
    sizes = _padded(w)
    if fits(w, LEAST):
        most = BAND // (4 * prod(sizes)) // 4 * 4
    else:
        most = BAND // (simd.BYTES * _spans(w)[0] * sizes[-1]) * (simd.BYTES // itemsize)
    parts = -(-channels // min(SHARED, most))
    return -(-channels // (4 * parts)) * 4


def pads(w: Window, small: bool) -> bool:
    """Return whether `scatter_padded` is fastest: windows are many, and large, or at edges, and these not listed."""
    inner = prod(max(0, n - span + 1) / out for n, span, out in zip(w.input, _spans(w), w.output))
    many = max(w.stride) == 1 and 4 * prod(w.output) >= prod(w.input)
    return many and (w.taps >= CHAINED or (not small and inner < INNER)) and fits(w, 1)


@inline
def padded(a):
    """Return how many elements an axis has with its padding, as far as windows reach."""
    return max(a.before + a.input, (a.output - 1) * a.stride + (a.places - 1) * a.dilation + 1)


@inline
def list_offsets(z, h, w, high, line, step, offsets):
    """List how far the places of a window are from its first, in padded slices of so many rows, and these of so many
    elements that are a step apart.
    """
    for k in range(z.places * h.places * w.places):
        depth, row = k // w.places // h.places * z.dilation, k // w.places % h.places * h.dilation
        offsets[k] = ((depth * high + row) * line + k % w.places * w.dilation) * step


@inline
def add_row(dy, argmax, count, offsets, sums):
    """Add the gradients of a row of outputs, last to first."""
    rest = count % 4
    for i in range(count - 4, rest - 1, -4):
        # Four are looked up before the first is written to: a load may wait for where earlier stores go.
        g, a, s = simd.offset(dy, i), simd.offset(argmax, i), simd.offset(sums, i)
        k, m, n, p = 3 + offsets[a[3]], 2 + offsets[a[2]], 1 + offsets[a[1]], offsets[a[0]]
        s[k] += simd.load_scalar(g, 3)
        s[m] += simd.load_scalar(g, 2)
        s[n] += simd.load_scalar(g, 1)
        s[p] += simd.load_scalar(g, 0)
    for i in range(rest - 1, -1, -1):
        sums[i + offsets[argmax[i]]] += simd.load_scalar(dy, i)


@inline
def add_four_rows(dy, argmax, count, step, offsets, sums):
    """The same of a row of each of four planes, whose gradients are a step apart.

    The four offsets of a place are side by side, and tell which plane's sums, too: four addresses fewer to keep in
    registers, or to load again and again, spare a tenth.
    """
    for i in range(count - 1, -1, -1):
        g, a, s = simd.offset(dy, i), simd.offset(argmax, i), simd.offset(sums, i)
        k, m = offsets[4 * np.int64(a[0])], offsets[4 * np.int64(a[step]) + 1]
        n, p = offsets[4 * np.int64(a[2 * step]) + 2], offsets[4 * np.int64(a[3 * step]) + 3]
        s[k] += simd.load_scalar(g, 0)
        s[m] += simd.load_scalar(g, step)
        s[n] += simd.load_scalar(g, 2 * step)
        s[p] += simd.load_scalar(g, 3 * step)


@inline
def above(slice_, y, rows):
    """Return the slice and the row in it before this one: a division for each row would take as long as its sums."""
    return (slice_, y - 1) if y > 0 else (slice_ - 1, rows - 1)


@kernel()
def scatter_padded(start, stop, geometry, dy, argmax, dx):
    """Compute the rows of dx (A, B, D * H, W) from start to stop, counted over its planes.

    Windows are one apart. Sums are in scratch that has padding around, so that no window has an edge. The gradients of
    large windows go to few elements, and an addition waits for the one before it to the same: four planes are summed
    up side by side, where they fit. That takes a third to all of the time. All arrays are contiguous.
    """
    z, h, w = axes(geometry)
    d, dp = simd.narrowed(simd.tag(dy), 2), simd.tag(argmax)
    lanes = simd.lanes(d)
    gradients, positions, result = simd.pointer(dy), simd.pointer(argmax), simd.pointer(dx)
    rows, lines = z.input * h.input, z.output * h.output
    size, outputs, taps = rows * w.input, lines * w.output, z.places * h.places * w.places
    high, line = padded(h), padded(w)
    pitch = padded(z) * high * line
    table = np.empty(taps, np.int64)
    offsets = simd.pointer(table)
    list_offsets(z, h, w, high, line, 1, offsets)
    most = 4 if 16 * pitch <= SIDE_BY_SIDE else 1
    entries = most * taps if most > 1 else 0
    table_of_four = np.empty(entries, np.int16)
    of_four = simd.pointer(table_of_four)
    for i in range(entries):
        of_four[i] = offsets[i // most] + i % most * pitch
    # Vectors are read before the first row.
    sums_scratch = simd.scratch(d, lanes + most * pitch)
    sums = simd.offset(simd.pointer(sums_scratch), lanes)
    row = stop
    while row > start:
        plane = (row - 1) // rows
        top, bottom = max(0, start - plane * rows), row - plane * rows
        count = most if bottom == rows and row - most * rows >= start else 1
        plane -= count - 1
        first, last = 0, lines
        if z.input == z.output == 1 and count == 1:
            first, last = reach(h, top, bottom)
        clear(d, sums, 0, count * pitch)
        slice_, y = (last - 1) // h.output, (last - 1) % h.output
        for out in range(last - 1, first - 1, -1):
            at = plane * outputs + out * w.output
            from_dy, from_argmax = simd.offset(gradients, at), simd.offset(positions, at)
            to = simd.offset(sums, (slice_ * high + y) * line)
            slice_, y = above(slice_, y, h.output)
            if count > 1:
                # Four rows of the planes before these.
                before = (plane - count) * outputs + count * out * w.output
                ask(d, gradients, before, count * w.output)
                ask(dp, positions, before, count * w.output)
                add_four_rows(from_dy, from_argmax, w.output, outputs, of_four, to)
            else:
                add_row(from_dy, from_argmax, w.output, offsets, to)
        for i in range(count - 1, -1, -1):
            last = (bottom if i == count - 1 else rows) - 1
            slice_, y = last // h.input, last % h.input
            for number in range(last, (top if i == 0 else 0) - 1, -1):
                inside = i * pitch + ((z.before + slice_) * high + h.before + y) * line + w.before
                slice_, y = above(slice_, y, h.input)
                from_sums, into = simd.offset(sums, inside), (plane + i) * size + number * w.input
                to = simd.offset(result, into)
                # Vectors run over the beginnings of rows, into what is written next.
                if into - lanes >= start * w.input:
                    for j in range(w.input - lanes, -lanes, -lanes):
                        simd.rolled()
                        simd.store(to, j, simd.load(d, from_sums, j))
                else:
                    for j in range(0, w.input, lanes):
                        simd.rolled()
                        simd.store_before(to, j, simd.load(d, from_sums, j), w.input)
        row = max(start, plane * rows)
    simd.keep((table, table_of_four, sums_scratch))


@inline
def band_origin(h, begin, first, top):
    """Return which row, with its padding, is the first of a band: of window `begin`, or of our first one."""
    return min(begin * h.stride, h.before + top) if begin == first else begin * h.stride


@inline
def add_channels(d, dp, gradients, positions, result, at, count, channels, w, offsets, sums, shared, under):
    """Add some channels' gradients of a row of outputs, last to first; ask for the next ones', and for dx."""
    for i in range(w.output - 1, -1, -1):
        g, a = simd.offset(gradients, at + i * channels), simd.offset(positions, at + i * channels)
        s = simd.offset(sums, i * w.stride * shared)
        ask(d, g, -2 * channels, count)
        ask(dp, a, -2 * channels, count)
        ask(d, result, under + i * w.stride * channels, count)
        rest = count % 4
        for j in range(0, count - rest, 4):
            k, m, n, p = offsets[a[j]], offsets[a[j + 1]], offsets[a[j + 2]], offsets[a[j + 3]]
            s[k + j] += simd.load_scalar(g, j)
            s[m + j + 1] += simd.load_scalar(g, j + 1)
            s[n + j + 2] += simd.load_scalar(g, j + 2)
            s[p + j + 3] += simd.load_scalar(g, j + 3)
        for j in range(count - rest, count):
            s[offsets[a[j]] + j] += simd.load_scalar(g, j)


@inline
def move_behind(d, x, count, by):
    """Move the first elements of x on, over what is behind them, and set those before to zero."""
    lanes = simd.lanes(d)
    for i in range(count - lanes, -1, -lanes):
        simd.store(x, by + i, simd.load(d, x, i))
    simd.store_before(x, by, simd.load(d, x, 0), by + count % lanes)
    clear(d, x, 0, by)


@kernel()
def scatter_channels(start, stop, geometry, dy, argmax, dx):
    """Compute the rows of dx (A, B, D * H, W * channels) from start to stop, counted over the parts of its planes.

    Channels are last, and a part has some of them. They are summed up at a time, so that what windows reach over is
    near, in scratch that has padding around; their gradients, a pixel apart, and what will be written are asked for
    before their turn: that spares a third of the time. Of a large plane scratch has a band of rows, which goes up the
    plane: those that no window before reaches are written, and the others moved. All arrays are contiguous.
    """
    z, h, w = axes(geometry)
    d, dp = simd.tag(dy), simd.tag(argmax)
    gradients, positions, result = simd.pointer(dy), simd.pointer(argmax), simd.pointer(dx)
    channels, rows, lines = dx.shape[3] // w.input, z.input * h.input, z.output * h.output
    high, line, span = padded(h), padded(w), (h.places - 1) * h.dilation + 1
    most = lines
    if 4 * padded(z) * high * line * LEAST > BAND:
        high, most = 2 * span, span // h.stride
    shared = geometry[PART]
    parts = ceil_div(channels, shared)
    pixels = padded(z) * high * line
    table = np.empty(z.places * h.places * w.places, np.int64)
    offsets = simd.pointer(table)
    list_offsets(z, h, w, high, line, shared, offsets)
    far = is_far(geometry)
    sums_scratch = simd.scratch(d, pixels * shared + simd.lanes(d))
    sums = simd.pointer(sums_scratch)
    row = stop
    while row > start:
        part = (row - 1) // rows
        top, bottom = max(0, start - part * rows), row - part * rows
        row = part * rows + top
        plane, channel = part // parts, part % parts * shared
        count = min(shared, channels - channel)
        # The windows that reach into our rows.
        first, last = 0, lines
        if z.input == z.output == 1:
            first, last = reach(h, top, bottom)
        clear(d, sums, 0, pixels * shared)
        begin, low = max(first, last - most), bottom
        origin = band_origin(h, begin, first, top)
        behind = last
        while low > top:
            for out in range(behind - 1, begin - 1, -1):
                number, y = out // h.output * z.stride, out % h.output * h.stride
                add_channels(
                    d, dp, gradients, positions, result,
                    (plane * lines + out) * w.output * channels + channel, count, channels, w, offsets,
                    simd.offset(sums, (number * high + y - origin) * line * shared), shared,
                    (plane * rows + number * h.input + y) * w.input * channels + channel,
                )  # fmt: skip
            upper = top if begin == first else min(low, max(top, (begin - 1) * h.stride + span - h.before))
            for y in range(upper, low):
                inside = (z.before + y // h.input) * high + h.before + y % h.input - origin
                into = (plane * rows + y) * w.input * channels + channel
                for x in range(w.input):
                    at = (inside * line + w.before + x) * shared
                    put_sums(d, result, into + x * channels, sums, at, count, far)
            low, behind = upper, begin
            if low > top:
                begin, before = max(first, begin - most), origin
                origin = band_origin(h, begin, first, top)
                move_behind(d, sums, (span - h.stride) * line * shared, (before - origin) * line * shared)
    simd.keep((table, sums_scratch))


@cache
def scatter(of_pixels: bool, of_planes: bool) -> Kernel:
    """Return the kernel for arrays whose channels are first, or for those whose few channels are last.

    That of planes looks all places up; others are of volumes, or of windows that have more.
    """

    def body(start, stop, geometry, dy, argmax, dx):
        """Compute the rows of dx (A, B, D * H, W * channels) from start to stop, counted over its planes."""
        z, h, w = axes(geometry)
        d = simd.tag(dy)
        lanes = simd.lanes(d)
        given = layout(dy)
        gradients, positions, result = simd.pointer(dy), simd.pointer(argmax), simd.pointer(dx)
        # From the first place of a window to the last.
        back, down, across = (z.places - 1) * z.dilation, (h.places - 1) * h.dilation, (w.places - 1) * w.dilation
        channels = dx.shape[3] // w.input if of_pixels else 1  # as a constant it spares a tenth
        line, out_line = w.input * channels, w.output * channels
        rows, out_rows = z.input * h.input, z.output * h.output
        outputs = out_rows * out_line
        taps = z.places * h.places * w.places
        looked_up = taps <= LOOKED_UP
        # The columns of outputs whose windows are inside the input.
        inner = min(w.output, ceil_div(w.before, w.stride))
        outer = max(inner, min(w.output, (w.input - 1 - across + w.before) // w.stride + 1))
        if not looked_up:
            inner, outer = w.output, w.output

        tables = np.empty((4, taps if looked_up else 0), np.int64)
        table = Table(simd.pointer(tables), simd.pointer(tables[1:]), simd.pointer(tables[2:]))
        offsets = simd.pointer(tables[3:])
        for k in range(taps if looked_up else 0):
            table.slices[k] = k // w.places // h.places * z.dilation
            table.rows[k] = k // w.places % h.places * h.dilation
            table.columns[k] = k % w.places * w.dilation
            offsets[k] = ((table.slices[k] * h.input + table.rows[k]) * w.input + table.columns[k]) * channels
        piece = max(1, min(w.output, PIECE // channels)) * channels
        starts_table = np.empty(piece if of_pixels else 0, np.int64)
        starts = simd.pointer(starts_table)
        for i in range(piece if of_pixels else 0):
            starts[i] = i // channels * w.stride * channels + i % channels
        # Halves are summed in float32, and what is far from any cache is summed near it: some rows at a time, with
        # those that their windows reach, where these are few. It is written past the caches, as it need not be read.
        halves = simd.halves(result)
        fitting = min(rows, BAND // (line * max(4, dx.itemsize)))
        band = max(1, fitting)
        few = z.input == 1 and 16 * down <= fitting
        far = is_far(geometry) and (fitting == rows or (few and fitting > 0))
        kept = far or halves is not None
        margin = down if kept and few and band < rows else 0
        sums_scratch = simd.scratch(d, (band + 2 * margin) * line + lanes if kept else 0)
        sums = simd.pointer(sums_scratch)
        added_to = simd.sums(result, sums)
        if kept:
            added_to = sums

        # The rows of a window are set to zero just before they are added to, in L1, and those of the next asked for
        # meanwhile: .8 to .9 of the time of windows three and more apart.
        share = 0 if kept or dx.nbytes < ASKED else h.stride * line

        # Planes backwards too, and what is written from their ends: memory is read and written in one direction.
        row = stop
        while row > start:
            # The rows of one plane that are ours, and the windows that touch them.
            plane = (row - 1) // rows
            top, bottom = max(0, start - plane * rows), row - plane * rows
            if kept:
                top = max(top, bottom - band)
            row = plane * rows + top
            into = plane * rows * line
            begins = (margin - top) * line if kept else into
            source, at = plane_offset(given, plane), plane * outputs
            cleared = bottom
            if kept:
                clear(d, sums, 0, (bottom - top + 2 * margin) * line)
                cleared = top
            first = max(0, ceil_div(top // h.input + z.before - back, z.stride))
            last = min(z.output - 1, ((bottom - 1) // h.input + z.before) // z.stride)
            for out_slice in range(last, first - 1, -1):
                front = out_slice * z.stride - z.before
                # The first rows of the slices that windows begin and end in, as far as those are there.
                begin, end = max(0, front) * h.input, min(z.input - 1, front + back) * h.input
                deep = front >= 0 and front + back < z.input
                for out_row in range(h.output - 1, -1, -1):
                    y = out_row * h.stride - h.before
                    highest, lowest = begin + max(0, y), end + min(h.input - 1, y + down)
                    if lowest < top or highest >= bottom:
                        continue
                    if highest < cleared:
                        behind, cleared = cleared, max(top, highest)
                        ask(d, added_to, begins + (cleared - h.stride) * line, share)
                        clear(d, added_to, begins + cleared * line, begins + behind * line)
                    left, right = inner * channels, outer * channels
                    whole = deep and y >= 0 and y + down < h.input
                    if not whole or highest < top - margin or lowest >= bottom + margin:
                        left, right = out_line, out_line
                    out = out_slice * h.output + out_row
                    from_row, at_row = source + out * given.row_step, at + out * out_line
                    place = begins + ((front * h.input + y) * w.input - w.before) * channels
                    if of_planes:
                        low, high = places_between(h, w, y, max(0, top), min(h.input, bottom))
                        add_in_rows(
                            gradients, positions, from_row, at_row, right, out_line, table, offsets, w, channels, low,
                            high, added_to, place,
                        )  # fmt: skip
                    else:
                        add_at_edge(
                            gradients, positions, from_row, at_row, right, out_line, table, z, h, w, channels,
                            front, y, top, bottom, added_to, begins,
                        )  # fmt: skip
                    if of_pixels:
                        add_pixels_inside(
                            gradients, positions, from_row, at_row, left, right, offsets, added_to, place, starts,
                            piece, piece * w.stride,
                        )  # fmt: skip
                    else:
                        add_inside(
                            gradients, positions, from_row, at_row, left, right, offsets, added_to, place, w.stride
                        )
                    if of_planes:
                        add_in_rows(
                            gradients, positions, from_row, at_row, 0, left, table, offsets, w, channels, low, high,
                            added_to, place,
                        )  # fmt: skip
                    else:
                        add_at_edge(
                            gradients, positions, from_row, at_row, 0, left, table, z, h, w, channels,
                            front, y, top, bottom, added_to, begins,
                        )  # fmt: skip
            if kept:
                put_sums(d, result, into + top * line, sums, margin * line, (bottom - top) * line, far)
            else:
                clear(d, result, into + top * line, into + cleared * line)
        simd.keep((tables, starts_table, sums_scratch))

    body.__name__ = f"scatter{'_pixels' * of_pixels}{'-planes' * of_planes}"
    return Kernel(body, writes=1)


@kernel()
def find_invalid(start, stop, geometry, argmax, found):
    """Set found[0] if, in the rows from start to stop, an argmax is outside of its window."""
    z, h, w = axes(geometry)
    d = simd.tag(argmax)
    positions = simd.pointer(argmax)
    first, last = start * w.output, stop * w.output
    taps = z.places * h.places * w.places
    if taps - 1 < simd.highest(d):
        most = simd.splat(d, taps - 1)
        worst = most
        for i in range(first, last, simd.lanes(d)):
            worst = simd.maximum(simd.load_between(d, positions, i, 0, last - i), worst)
        if simd.any_lane(worst > most):
            simd.pointer(found)[0] = 1
