"""Max pooling backward of windows whose elements come in pairs: two columns wide, side by side, or three, two apart.

Every element asks the windows that hold it whether it was their maximum, and is written once. Two elements that are
side by side are at the same places of the same windows, but for one: they are computed in vectors of the one and of
the other, which are zipped together, so that no lane is idle.

`route` is for windows side by side, where an element has one window at most: it takes .4 to .9 of the time of
`fastpool.kernels.max_pool_backward.scatter`. `collect` is for windows three wide, two apart, where one of a pair has
two of them: .6 to .9, but of short rows.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import axes, ceil_div, layout, lines_meeting, plane_offset
from fastpool.kernels.hold import HELD, is_far, make_room, write_held
from fastpool.kernels.launch import Kernel

#: So many vectors are looked up, at most; or, of what is held back, so many.
STEPS, HELD_STEPS = 1 << 8, 1 << 6


@inline
def clear(d, x, first, last):
    """Set x[first:last] to zero, from the end."""
    zero = simd.splat(d, 0)
    lanes = simd.lanes(d)
    for i in range(last - lanes, first - 1, -lanes):
        simd.rolled()  # a call of memset may write past the caches, which takes four times as long
        simd.store(x, i, zero)
    rest = (last - first) % lanes
    if rest > 0:  # a store of nothing waits for its line as any other does
        simd.store_before(x, first, zero, first + rest)


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
        # A pixel has vectors of its own.
        width = channels if of_pixels else w.output
        each = ceil_div(channels, lanes) if of_pixels else 1
        piece = out_line if of_pixels else min(out_line, STEPS * lanes)
        vectors = w.output * each if of_pixels else ceil_div(piece, lanes)
        high = min(h.places, h.stride)  # by a line of windows: a single one may be higher than the plane
        long = not of_pixels and h.stride * ceil_div(out_line, lanes) > STEPS
        far = is_far(geometry)
        most = max(1, min(h.output, (HELD_STEPS if far else STEPS) // (h.stride * vectors)))
        if long or given.row_step != out_line:
            most = 1
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
        # What is held back: all that is far, and the last rows, over whose end there is nothing to run.
        room = 2 * piece if long else max(HELD, most * h.stride * line)
        spare = 2 * max(lanes, channels) if of_pixels else 2 * lanes
        held_array = np.empty(room + spare + 2 * simd.BYTES, dx.dtype)
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
                behind_rows = max(source - given.end, at - end_at) + some * out_line
                if lanes <= width or behind_rows + lanes <= 0:
                    from_dy, from_argmax = simd.offset(gradients, source), simd.offset(positions, at)
                    route_vectors(d, dp, from_dy, from_argmax, here, steps, begin, end, first, channels)
                else:  # there is nothing behind the last row
                    for i in range(begin, end):
                        for k in range(width):
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
def collect(odd: bool, long: bool) -> Kernel:
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
        dp = simd.mask_tag(d, argmax)
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
        far = is_far(geometry)
        held_array = np.empty(HELD + 2 * (piece + 2 * lanes) + 2 * simd.BYTES, dx.dtype)
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
                            in_other = q == simd.load(dp, other, j)
                            # In the order of places: that in the other window is the first, or the last.
                            if odd:
                                odds = simd.add_where(in_other, odds, u)
                            even = simd.add_where(p == simd.load(dp, one, j), even, v)
                            odds = simd.add_where(p == simd.load(dp, two, j), odds, v)
                            if not odd:
                                even = simd.add_where(in_other, even, u)
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
