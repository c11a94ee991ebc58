"""Max pooling backward: every gradient goes to the element that its maximum came from.

`scatter` sets a plane, or a volume, to zero and adds to it, while it is in cache, one gradient at a time. Going
through the outputs backwards, an element gets its gradients in the order of the kernel's places, as the
notebook's col2im adds them. A position of one byte is looked up for its distance from the place of its
window; only windows that reach over an edge, or out of the rows that are being computed, check it. For
planes that are small, and many, it is listed where the gradient of every place of every window goes, so that
nothing is checked: `scatter_small` takes half to all of the time, `scatter_channels` a fifth to a half.

`route` is for windows side by side, two columns wide, where an element has one window at most: it asks every element
whether that window chose it, and writes the result once, in vectors: in .4 to .9 of the time. `collect_pairs` is for
windows three columns wide, two apart, where one of two elements side by side has two of them: in .6 to .9 of the time.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.geometry import axes, axis, ceil_div, layout, lines_meeting, plane_offset
from fastpool.kernels.hold import FAR, HELD, make_room, write_held
from fastpool.kernels.launch import Kernel, inline, kernel
from fastpool.kernels.rows import ask

#: So many vectors are looked up, at most.
STEPS = 1 << 8


@inline
def clear(d, x, first, last):
    """Set x[first:last] to zero, from the end."""
    zero = simd.splat(d, 0)
    lanes = simd.lanes(d)
    for i in range(last - lanes, first - 1, -lanes):
        simd.store(x, i, zero)
    simd.store_before(x, first, zero, min(last, first + (last - first) % lanes))


class Steps(NamedTuple):
    """Of every vector of gradients where it is, what it goes to, and its first place, as pointers."""

    froms: Any
    tos: Any
    places: Any


@inline
def route_vectors(d, dp, gradients, positions, result, steps, begin, end, first, channels):
    """Write to pairs of elements, or of pixels, the gradients whose positions are theirs, and zero to others."""
    lanes = simd.lanes(d)
    zero = simd.splat(d, 0)
    left, right = simd.splat(dp, first), simd.splat(dp, first + 1)
    for i in range(begin, end):
        simd.rolled()
        j, to = steps.froms[i], steps.tos[i]
        # Added, as it is everywhere else: -0.0 becomes 0.0.
        v = simd.load(d, gradients, j) + zero
        p = simd.load(dp, positions, j) + simd.splat(dp, steps.places[i])
        even, odd = simd.select(p == left, v, zero), simd.select(p == right, v, zero)
        if channels is None:
            even, odd = simd.zip_lower(even, odd), simd.zip_upper(even, odd)
        simd.store(result, to, even)
        simd.store(result, to + (lanes if channels is None else channels), odd)


@cache
def route(of_pixels: bool) -> Kernel:
    """Return the kernel for arrays whose channels are first, or for those whose few channels are last."""

    def body(start, stop, geometry, dy, argmax, dx):
        """Compute the rows of dx (A, B, D * H, W * channels) from start to stop, counted over its planes.

        Windows are two columns wide, and side by side from the first element on. Some lines of them have the same
        vectors as the next ones, and a long row is cut into pieces that have: where these are is looked up. The last
        vector of a row, or pixel, overlaps the one before; the only one of a short row, or of a pixel, runs over its
        end, into what is overwritten next. What is far from any cache is held back, to be written past them in long
        runs, as it need not be read then.
        """
        z, h, w = axes(geometry)
        d = simd.narrowed(simd.tag(dy), 2)  # one register: half of two would be empty in short rows
        dp = simd.position_tag(d, argmax)
        lanes = simd.lanes(d)
        given = layout(dy)
        gradients, positions, result = simd.pointer(dy), simd.pointer(argmax), simd.pointer(dx)
        nothing = simd.scalar(d, 0)
        channels = dx.shape[3] // w.input if of_pixels else None
        line, out_line = dx.shape[3], dy.shape[3]
        limit, end_at = stop * line, argmax.size
        # Of a pixel, there are vectors of its own.
        each = ceil_div(channels, lanes) if of_pixels else 1
        piece = out_line if of_pixels else min(out_line, STEPS * lanes)
        vectors = w.output * each if of_pixels else ceil_div(piece, lanes)
        high = min(h.places, h.stride)  # by a line of windows: a single one may be higher than the plane
        long = not of_pixels and h.stride * ceil_div(out_line, lanes) > STEPS
        most = max(1, min(h.output, STEPS // (h.stride * vectors))) if given.row_step == out_line and not long else 1
        count = vectors if long else high * vectors
        table = np.empty((3, most * count), np.int64)
        steps = Steps(simd.pointer(table), simd.pointer(table[1:]), simd.pointer(table[2:]))
        for i in range(most * count):
            number, phase, vector = i // count, i % count // vectors, i % vectors
            if of_pixels:
                pixel, j = vector // each * channels, max(0, min(vector % each * lanes, channels - lanes))
                steps.froms[i], to = number * out_line + pixel + j, 2 * pixel + j
            else:
                j = max(0, min(vector * lanes, piece - lanes))
                steps.froms[i], to = number * out_line + j, 2 * j
            steps.tos[i] = (number * h.stride + phase) * line + to
            steps.places[i] = -phase * w.places
        far = dx.size * dx.itemsize >= FAR
        # What is held back: all that is far, and the last rows, over whose end there is nothing to run.
        room = 2 * piece if long else max(HELD, most * h.stride * line)
        spare = 2 * max(lanes, channels) if of_pixels else 2 * lanes
        held_array = np.empty(room + spare, dx.dtype)
        held, holding, held_from = simd.pointer(held_array), far and not long, start * line
        # Counted on, as a division takes as long as a short row.
        number, y = start // h.input, start % h.input
        plane, deep = number // z.input, number % z.input
        out_slice, deep_phase = deep // z.stride, deep % z.stride
        out, phase = y // h.stride, y % h.stride
        row = start
        while row < stop:
            # The rows of a slice: those of some lines of windows at a time, and what is behind the last line.
            number = out_slice * h.output + out
            source = plane_offset(given, plane) + number * given.row_step
            at = (plane * z.output * h.output + number) * out_line
            lines = h.output if out_slice < z.output and deep_phase < z.places else 0
            behind = min(stop, row - y + h.input)
            first = deep_phase * h.places * w.places
            while row < behind and out < lines and long:
                into, covered = row * line, out_line if phase < h.places else 0
                for i in range(0, covered, piece):
                    j = min(i, out_line - piece)
                    route_vectors(
                        d, dp, simd.offset(gradients, source + j), simd.offset(positions, at + j), held, steps, 0,
                        vectors, first + phase * w.places, channels,
                    )  # fmt: skip
                    write_held(result, into + 2 * j, held, min(2 * piece, line - 2 * j), far)
                clear(d, result, into + min(2 * covered, line), into + line)
                row += 1
                phase += 1
                if phase == h.stride:
                    phase = 0
                    out += 1
                    source += given.row_step
                    at += out_line
            while row < behind and out < lines:
                some = min(most, lines - out)
                top = row - phase
                bottom = min(behind, top + some * h.stride)
                begin, end = min(phase, high) * vectors, some * count
                if bottom < top + some * h.stride:
                    end = ((bottom - top) // h.stride * high + min((bottom - top) % h.stride, high)) * vectors
                into = top * line
                if not holding and bottom * line + spare > limit:
                    holding, held_from = True, row * line
                if holding:
                    rest = (bottom - row) * line
                    held_from = make_room(result, held, held_from, row * line, rest, room, far)
                here = simd.offset(held, into - held_from) if holding else simd.offset(result, into)
                if max(source - given.end, at - end_at) + some * out_line + lanes <= 0 or lanes <= (
                    channels if of_pixels else w.output
                ):
                    route_vectors(
                        d,
                        dp,
                        simd.offset(gradients, source),
                        simd.offset(positions, at),
                        here,
                        steps,
                        begin,
                        end,
                        first,
                        channels,
                    )
                else:  # there is nothing behind the last row
                    for i in range(begin, end):
                        for k in range(channels if of_pixels else w.output):
                            j, place = steps.froms[i] + k, first - steps.places[i]
                            even, odd = (k, channels + k) if of_pixels else (2 * k, 2 * k + 1)
                            v, p = simd.load_scalar(gradients, source + j) + nothing, np.int64(positions[at + j])
                            simd.store_scalar(here, steps.tos[i] + even, v if p == place else nothing)
                            simd.store_scalar(here, steps.tos[i] + odd, v if p == place + 1 else nothing)
                # What no window covers.
                if 2 * w.output < w.input:
                    for i in range((phase + 1) * line, (bottom - top) * line + 1, line):
                        for k in range(i - (channels if of_pixels else 1), i):
                            simd.rolled()
                            simd.store_scalar(here, k, nothing)
                for i in range(h.places if h.places < h.stride else bottom - top, bottom - top, h.stride):
                    clear(d, here, max(phase, i) * line, min(bottom - top, i - h.places + h.stride) * line)
                row = bottom
                phase = 0
                out += some
                source += some * given.row_step
                at += some * out_line
            if holding and row < behind and behind * line - held_from <= room:
                clear(d, held, row * line - held_from, behind * line - held_from)
            else:
                if holding and row < behind:
                    write_held(result, held_from, held, row * line - held_from, far)
                    held_from = behind * line
                clear(d, result, row * line, behind * line)
            row, y, out, phase = behind, 0, 0, 0
            deep += 1
            deep_phase += 1
            if deep_phase == z.stride:
                deep_phase = 0
                out_slice += 1
            if deep == z.input:
                deep, deep_phase, out_slice = 0, 0, 0
                plane += 1
        if holding:
            write_held(result, held_from, held, limit - held_from, far)
        simd.keep((table, held_array))

    body.__name__ = "route_pixels" if of_pixels else "route"
    return Kernel(body, writes=1)


#: What no position is: asked for where there is no window.
NEVER = 128
#: The rows of windows that a plane's rows are in are listed, if they are so many, and so many columns taken at once.
LISTED, COLUMNS = 1 << 12, 1 << 10


@inline
def list_lines(z, h, row, row_step, width, met, places, lines):
    """List the rows of windows that a row of a plane is in: where gradients begin, and positions, and minus the place
    that is the row's first. Return how many.
    """
    count = lines_meeting(z, h, row // h.input, row % h.input, met, places)
    for i in range(count):
        lines[3 * i], lines[3 * i + 1], lines[3 * i + 2] = met[i] * row_step, met[i] * width, -3 * places[i]
    return count


@cache
def collect_pairs(odd: bool, long: bool) -> Kernel:
    """Return the kernel for windows that begin an odd number of elements before the first, or an even one."""
    step = 1 if odd else -1

    def body(start, stop, geometry, dy, argmax, dx):
        """Compute the rows of dx (A, B, D * H, W) from start to stop, counted over its planes.

        Windows are three columns wide, two apart. Of two elements side by side one is at two places of windows, and the
        other at one: all are asked whether they were chosen, in vectors of such pairs. That costs three comparisons a
        pair, and row of a window, and writes every element once: .6 to .9 of the time, but of short rows.
        """
        z, h, w = axes(geometry)
        d = simd.tag(dy)
        dp = simd.position_tag(d, argmax)
        lanes = simd.lanes(d)
        given = layout(dy)
        gradients, positions, result = simd.pointer(dy), simd.pointer(argmax), simd.pointer(dx)
        zero = simd.splat(d, 0)
        rows, outputs, most = z.input * h.input, z.output * h.output, z.kernel * h.kernel
        columns = ceil_div(w.input, 2 * lanes) * lanes
        # A pair is at two places of one window, which is so much further, and at one of the window a step from that.
        shift = w.before // 2
        # What pairs ask for: long rows are cut into pieces, and the same is asked in all but the first and the last,
        # which has two vectors or more: so many pairs at the end may be without one of their windows.
        piece = min(columns, COLUMNS) if long else columns
        inner = columns if piece == columns else piece + lanes
        final = max(0, columns - 2 * lanes) // piece * piece
        pitch = columns if piece == columns else inner + columns - final
        asked_scratch = simd.scratch(dp, 3 * pitch)
        asked = simd.pointer(asked_scratch)
        for k in range(3):
            further = shift + step if k == (0 if odd else 2) else shift
            for i in range(pitch):
                column = i if i < inner else i - inner + final
                simd.store_scalar(asked, k * pitch + i, k if 0 <= column + further < w.output else NEVER)
        listed = rows * most <= LISTED
        table = np.empty((6, (rows if listed else 1) * most), np.int64)
        counts, met, places = simd.pointer(table), simd.pointer(table[1]), simd.pointer(table[2])
        all_lines = simd.pointer(table[3])
        for i in range(rows if listed else 0):
            lines = simd.offset(all_lines, 3 * i * most)
            counts[i] = list_lines(z, h, i, given.row_step, w.output, met, places, lines)
        # Vectors run over the ends of rows of windows: copies of those at the end of everything have room for that.
        edge_pitch = shift + piece + 2 * lanes + 3
        edge_dy, edge_argmax = np.empty(most * edge_pitch, dy.dtype), np.zeros(most * edge_pitch, argmax.dtype)
        edge_table = np.empty(3 * most, np.int64)
        edges = simd.pointer(edge_table)
        # And over the ends of rows, into what is written next. What is far is held back, and the last rows are.
        far = dx.size * dx.itemsize >= FAR
        held_array = np.empty(HELD + 2 * (piece + 2 * lanes), dx.dtype)
        held, holding, held_from = simd.pointer(held_array), far, start * w.input
        into, limit = start * w.input, stop * w.input
        row, plane, y = start, start // rows, start % rows
        while row < stop:
            source, at = plane_offset(given, plane), plane * outputs * w.output
            down = (outputs - 1) * given.row_step
            inside = (
                min(source + min(0, down), at) > 0
                and max(source + max(0, down) - given.end, at + (outputs - 1) * w.output - argmax.size)
                + shift
                + columns
                + lanes
                < 0
            )
            of_plane, argmax_of_plane = simd.offset(gradients, source + shift), simd.offset(positions, at + shift)
            behind = min(rows, y + stop - row)
            for number in range(y, behind):
                of_row = simd.offset(all_lines, 3 * number * most if listed else 0)
                if listed:
                    count = counts[number]
                else:
                    count = list_lines(z, h, number, given.row_step, w.output, met, places, of_row)
                begin = 0
                while begin < columns:
                    end = begin + piece if long and begin < final else columns
                    from_dy, from_argmax, lines = of_plane, argmax_of_plane, of_row
                    if not inside:
                        lines = edges
                        first, last = max(0, begin + shift - 1), min(w.output, end + shift + 2)
                        for t in range(3 * count):
                            edges[t] = t // 3 * edge_pitch + 1 - begin if t % 3 < 2 else of_row[t]
                        for t in range(0, 3 * count, 3):
                            to, some = edges[t] + first, max(0, last - first)
                            simd.copy(simd.pointer(edge_dy), to, gradients, source + of_row[t] + first, some)
                            simd.copy(simd.pointer(edge_argmax), to, positions, at + of_row[t + 1] + first, some)
                        from_dy = simd.offset(simd.pointer(edge_dy), shift)
                        from_argmax = simd.offset(simd.pointer(edge_argmax), shift)
                    if not holding and into + 2 * end > limit:
                        holding, held_from = True, into + 2 * begin
                    if holding:
                        held_from = make_room(result, held, held_from, into + 2 * begin, 0, HELD, far)
                    to_dx = simd.offset(held, into - held_from) if holding else simd.offset(result, into)
                    asked_here = asked
                    if long and begin > 0:
                        asked_here = simd.offset(asked, inner - begin if begin == final else lanes - begin)
                    one = simd.offset(asked_here, pitch if odd else 0)
                    two = simd.offset(asked_here, 2 * pitch if odd else pitch)
                    other = simd.offset(asked_here, 0 if odd else 2 * pitch)
                    for j in range(begin, end, lanes):
                        even, odds = zero, zero
                        for t in range(0, 3 * count, 3):
                            simd.rolled()
                            first_place = simd.splat(dp, lines[t + 2])
                            p = simd.load(dp, from_argmax, lines[t + 1] + j) + first_place
                            q = simd.load(dp, from_argmax, lines[t + 1] + j + step) + first_place
                            v, u = simd.load(d, from_dy, lines[t] + j), simd.load(d, from_dy, lines[t] + j + step)
                            u = simd.select(q == simd.load(dp, other, j), u, zero)
                            # In the order of places: that in the other window is the first, or the last.
                            if odd:
                                odds = odds + u
                            even = even + simd.select(p == simd.load(dp, one, j), v, zero)
                            odds = odds + simd.select(p == simd.load(dp, two, j), v, zero)
                            if not odd:
                                even = even + u
                        simd.store(to_dx, 2 * j, simd.zip_lower(even, odds))
                        simd.store(to_dx, 2 * j + lanes, simd.zip_upper(even, odds))
                    begin = end
                into += w.input
            row += behind - y
            plane += 1
            y = 0
        if holding:
            write_held(result, held_from, held, limit - held_from, far)
        simd.keep((asked_scratch, table, edge_dy, edge_argmax, edge_table, held_array))

    body.__name__ = f"collect_pairs-{'odd' if odd else 'even'}{'-long' if long else ''}"
    return Kernel(body, writes=1)


#: Kernels of up to so many places have a table of them.
LOOKED_UP = 4096
#: So many bytes of a plane are added up in scratch, where halves are or where it is far.
BAND = 1 << 18
#: Of few channels that are last, it is listed where so many start.
PIECE = 1 << 10
#: So many bytes of a plane are set to zero at once: less would wait for memory, more would not stay in cache.
CLEARED = 1 << 19
#: Small planes have fewer elements, so that 16 bits tell where; vectors run over the end of what is listed.
SMALL, ROOM = 1 << 13, 32
#: Some are summed up at a time, if so many elements, and so many targets, are those of some.
SUMMED, ENTRIES = 1 << 11, 1 << 13
#: With so many gradients, the next elements are asked for, of arrays of so many bytes: others are in some cache.
BLOCK, ASKED = 16, 1 << 22
#: Of channels that are last, so many, in units of some, are summed up at a time.
SHARED, UNIT = 1 << 7, 1 << 4


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
    """Write what was summed up: halves rounded, what is far from any cache past them."""
    if simd.halves(result) is None:
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
    for i in range(last - 1, first - 1, -1):
        k = np.int64(argmax[at + i])
        if z.places * h.places * w.places <= LOOKED_UP:
            depth, row, column = table.slices[k], table.rows[k], table.columns[k]
        else:
            depth, row = k // w.places // h.places * z.dilation, k // w.places % h.places * h.dilation
            column = k % w.places * w.dilation
        depth += front
        row += y
        column += i // channels * w.stride - w.before
        if 0 <= depth < z.input and 0 <= row < h.input and 0 <= column < w.input:
            row += depth * h.input
            if top <= row < bottom:
                dx[into + (row * w.input + column) * channels + i % channels] += simd.load_scalar(dy, source + i)


@inline
def list_targets(z, h, w, channels, copies, pitch, count, targets):
    """List where the gradients of `count` planes go: one of a place on padding, to what is before the first plane.

    There are so many channels in a row, and a list for each of their first copies.
    """
    line, size, outputs = w.input * channels, z.input * h.input * w.input * channels, z.output * h.output * w.output
    columns_table = np.empty(w.output * w.places + ROOM, np.int16)
    table, columns = simd.pointer(targets), simd.pointer(columns_table)
    for i in range(w.output * w.places):
        x = i // w.places * w.stride - w.before + i % w.places * w.dilation
        columns[i] = x * channels if 0 <= x < w.input else -2 * SMALL
    d = simd.narrowed(simd.tag(targets), 4)
    lanes = simd.lanes(d)
    for i in range(outputs * copies):
        out, channel = i // copies, i % copies
        of_column = out % w.output * w.places
        front = out // (h.output * w.output) * z.stride - z.before
        top = out // w.output % h.output * h.stride - h.before
        lost = simd.splat(d, channel - channels)
        for k in range(z.places * h.places):
            deep, y = front + k // h.places * z.dilation, top + k % h.places * h.dilation
            inside = 0 <= deep < z.input and 0 <= y < h.input
            row = simd.splat(d, (deep * h.input + y) * line + channel if inside else -2 * SMALL)
            # Vectors run over the ends of rows, into what the next one overwrites.
            for j in range(0, w.places, lanes):
                simd.rolled()
                v = simd.maximum(row + simd.load(d, columns, of_column + j), lost)
                simd.store(table, i * pitch + k * w.places + j, v)
    entries = outputs * copies * pitch
    for i in range(entries, count * entries):
        before = table[i - entries]
        table[i] = before if before < 0 else before + size
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
    list_targets(z, h, w, channels, channels, pitch, many, targets)
    table = simd.pointer(targets)
    # Halves are summed in float32, and what is far from any cache near it, to be written past the caches.
    far = dx.nbytes >= FAR
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


@kernel()
def scatter_channels(start, stop, geometry, dy, argmax, dx):
    """Compute the rows of dx (A, B, D * H, W * channels) from start to stop, counted over its planes.

    Of planes as small, many channels are last. Some of them are summed up in scratch at a time, so that what windows
    reach over is in L1; their gradients, a pixel apart, are asked for before their turn: that spares a third of the
    time.
    """
    z, h, w = axes(geometry)
    d, dp = simd.tag(dy), simd.tag(argmax)
    gradients, positions, result = simd.pointer(dy), simd.pointer(argmax), simd.pointer(dx)
    channels, rows = dx.shape[3] // w.input, z.input * h.input
    # Targets are counted in units, so that 16 bits tell where.
    most = min(SHARED, BAND // (4 * rows * w.input)) // UNIT
    units = max(1, min(most, ceil_div(channels, UNIT)))
    shared = units * UNIT
    size, outputs, taps = rows * w.input * shared, z.output * h.output * w.output, z.places * h.places * w.places
    targets = np.empty(outputs * taps + ROOM, np.int16)
    list_targets(z, h, w, units, 1, taps, 1, targets)
    table = simd.pointer(targets)
    far = dx.nbytes >= FAR
    margin = simd.lanes(d) + shared
    sums_scratch = simd.scratch(d, margin + size + simd.lanes(d))
    sums = simd.offset(simd.pointer(sums_scratch), margin)
    row = stop
    while row > start:
        plane = (row - 1) // rows
        top, bottom = max(0, start - plane * rows), row - plane * rows
        row = plane * rows + top
        # The windows that reach into our rows.
        first, last = 0, outputs
        if z.input == z.output == 1:
            first = max(0, ceil_div(top + h.before - (h.places - 1) * h.dilation, h.stride)) * w.output
            last = min(h.output, (bottom - 1 + h.before) // h.stride + 1) * w.output
        for channel in range(0, channels, shared):
            count = min(shared, channels - channel)
            clear(d, sums, 0, size)
            for i in range(last - 1, first - 1, -1):
                at = (plane * outputs + i) * channels + channel
                g, a, t = simd.offset(gradients, at), simd.offset(positions, at), simd.offset(table, i * taps)
                ask(d, g, -2 * channels, count)
                ask(dp, a, -2 * channels, count)
                for j in range(0, count - 3, 4):
                    k, m, n, p = t[a[j]], t[a[j + 1]], t[a[j + 2]], t[a[j + 3]]
                    sums[k * UNIT + j] += simd.load_scalar(g, j)
                    sums[m * UNIT + j + 1] += simd.load_scalar(g, j + 1)
                    sums[n * UNIT + j + 2] += simd.load_scalar(g, j + 2)
                    sums[p * UNIT + j + 3] += simd.load_scalar(g, j + 3)
                for j in range(count - count % 4, count):
                    sums[t[a[j]] * UNIT + j] += simd.load_scalar(g, j)
            for i in range(top * w.input, bottom * w.input):
                into = (plane * rows * w.input + i) * channels + channel
                put_sums(d, result, into, sums, i * shared, count, far)
    simd.keep((targets, sums_scratch))


@cache
def scatter(of_pixels: bool) -> Kernel:
    """Return the kernel for arrays whose channels are first, or for those whose few channels are last."""

    def body(start, stop, geometry, dy, argmax, dx):
        """Compute the rows of dx (A, B, D * H, W * channels) from start to stop, counted over its planes."""
        z, h, w = axis(geometry, 0), axis(geometry, 1), axis(geometry, 2)
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
        far = dx.size * dx.itemsize >= FAR and (fitting == rows or (few and fitting > 0))
        kept = far or halves is not None
        margin = down if kept and few and band < rows else 0
        sums_scratch = simd.scratch(d, (band + 2 * margin) * line + lanes if kept else 0)
        sums = simd.pointer(sums_scratch)
        added_to = simd.sums(result, sums)
        if kept:
            added_to = sums

        # How many rows are set to zero at once, before they are added to.
        cleared_rows = CLEARED // (line * dx.itemsize)

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
                        behind, cleared = cleared, max(top, min(highest, cleared - cleared_rows))
                        clear(d, added_to, begins + cleared * line, begins + behind * line)
                    left, right = inner * channels, outer * channels
                    whole = deep and y >= 0 and y + down < h.input
                    if not whole or highest < top - margin or lowest >= bottom + margin:
                        left, right = out_line, out_line
                    out = out_slice * h.output + out_row
                    from_row, at_row = source + out * given.row_step, at + out * out_line
                    add_at_edge(
                        gradients, positions, from_row, at_row, right, out_line, table, z, h, w, channels,
                        front, y, top, bottom, added_to, begins,
                    )  # fmt: skip
                    place = begins + ((front * h.input + y) * w.input - w.before) * channels
                    if of_pixels:
                        add_pixels_inside(
                            gradients, positions, from_row, at_row, left, right, offsets, added_to, place, starts,
                            piece, piece * w.stride,
                        )  # fmt: skip
                    else:
                        add_inside(
                            gradients, positions, from_row, at_row, left, right, offsets, added_to, place, w.stride
                        )
                    add_at_edge(
                        gradients, positions, from_row, at_row, 0, left, table, z, h, w, channels,
                        front, y, top, bottom, added_to, begins,
                    )  # fmt: skip
            if kept:
                put_sums(d, result, into + top * line, sums, margin * line, (bottom - top) * line, far)
            else:
                clear(d, result, into + top * line, into + cleared * line)
        simd.keep((tables, starts_table, sums_scratch))

    body.__name__ = "scatter_pixels" if of_pixels else "scatter"
    return Kernel(body, writes=1)


@kernel()
def find_invalid(start, stop, geometry, argmax, found):
    """Set found[0] if, in the rows from start to stop, an argmax is outside of its window."""
    z, h, w = axis(geometry, 0), axis(geometry, 1), axis(geometry, 2)
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
