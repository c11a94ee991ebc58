"""Adaptive pooling: windows that share an input out, of any length.

Along an axis, window i goes from floor(i * input / output) to ceil((i + 1) * input / output). The rows of a row of
windows are reduced to one row of scratch, a vector of neighbours at a time, and that to windows: of channels that
are last by vectors again; else a wide window by vectors whose lanes are reduced at the end, a
narrow one column by column.

An element is in the windows from floor(i * output / input) to ceil((i + 1) * output / input). So the sum of what it
has of its windows' gradients is such a pooling itself, with input and output exchanged. The gradient of a maximum is
added to where its window starts, as is listed, and so much further as is listed for its place.
"""

from __future__ import annotations

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import axes, ceil_div, layout, plane_offset
from fastpool.kernels.launch import kernel
from fastpool.kernels.max_pool import outranks
from fastpool.kernels.max_pool_backward import LOOKED_UP, SUMMED, put_sums
from fastpool.kernels.pairs import clear
from fastpool.kernels.tile import fill

#: Windows of so many columns are wide.
WIDE = 8
#: Of so many windows' gradients it is listed at once where they go.
PIECE = 1 << 11


@inline
def span(a, i):
    """Return where window `i` along an axis starts and stops."""
    return i * a.input // a.output, ceil_div((i + 1) * a.input, a.output)


@inline
def spans(a):
    """Return where all windows along an axis start and stop, and the next window that is over something else."""
    table = np.empty((3, a.output), np.int64)
    for i in range(a.output - 1, -1, -1):
        table[0, i], table[1, i] = span(a, i)
        table[2, i] = i + 1
        if i + 1 < a.output and table[0, i] == table[0, i + 1] and table[1, i] == table[1, i + 1]:
            table[2, i] = table[2, i + 1]
    return table


@inline
def offset_of(k, h, w):
    """Return how far place `k` of a window is from its first one."""
    return ((k // w.places // h.places) * h.input + k // w.places % h.places) * w.input + k % w.places


@inline
def rows_below(z, h):
    """Return, of every row of windows, the first slice, how many there are, the first row of each, and how many."""
    deep, high = spans(z), spans(h)
    table = np.empty((4, z.output * h.output), np.int64)
    for out in range(z.output * h.output):
        i, j = out // h.output, out % h.output
        table[0, out], table[1, out] = deep[0, i], deep[1, i] - deep[0, i]
        table[2, out], table[3, out] = high[0, j], high[1, j] - high[0, j]
    return table


@inline
def better(v, v_at, best, best_at, places):
    """Return what is first in np.argmax's order, and where it is: positions need not be in order."""
    if places is None:
        return simd.select(outranks(v, best, True), v, best), best_at
    same = (v == best) | (simd.is_nan(v) & simd.is_nan(best))
    chosen = outranks(v, best, True) | (same & (v_at < best_at))
    return simd.select(chosen, v, best), simd.select(chosen, v_at, best_at)


@inline
def max_down(d, dp, elements, source, base, slices, rows, h, w, length, maxima, places):
    """Take the first maximum of each column, and where in its window it would be if the column were the first."""
    for i in range(0, length, simd.lanes(d)):
        simd.store(maxima, i, simd.load_between(d, elements, base + i, 0, source.end - base - i))
        if places is not None:
            simd.store(places, i, simd.splat(dp, 0))
    for slice_ in range(slices):
        for k in range(1 if slice_ == 0 else 0, rows):
            row = base + (slice_ * h.input + k) * source.row_step
            at = simd.splat(dp, (slice_ * h.places + k) * w.places)
            for i in range(0, length, simd.lanes(d)):
                simd.rolled()
                best = simd.load(d, maxima, i)
                v = simd.load_between(d, elements, row + i, 0, source.end - row - i)
                chosen = outranks(v, best, True)
                simd.store(maxima, i, simd.select(chosen, v, best))
                if places is not None:
                    simd.store(places, i, simd.select(chosen, at, simd.load(dp, places, i)))


@inline
def column(d, dp, maxima, places, numbers, first, k):
    """Return the maxima of columns from `first + k` on, where k is the place of the first column."""
    v, v_at = simd.load(d, maxima, first + k), simd.splat(dp, k)
    if places is not None:
        v_at = v_at + simd.load(dp, numbers, 0) + simd.load(dp, places, first + k)
    return v, v_at


@inline
def max_of_wide(d, dp, maxima, places, numbers, first, columns):
    """Return the first maximum of neighbouring columns, and its place, in the first lane."""
    lanes = simd.lanes(d)
    a = b = c = e = simd.splat(d, simd.lowest(d))
    a_at = b_at = c_at = e_at = simd.splat(dp, simd.highest(dp))
    bulk = columns - columns % (4 * lanes)
    for k in range(0, bulk, 4 * lanes):  # four side by side: each waits for its last comparison
        v, v_at = column(d, dp, maxima, places, numbers, first, k)
        a, a_at = better(v, v_at, a, a_at, places)
        v, v_at = column(d, dp, maxima, places, numbers, first, k + lanes)
        b, b_at = better(v, v_at, b, b_at, places)
        v, v_at = column(d, dp, maxima, places, numbers, first, k + 2 * lanes)
        c, c_at = better(v, v_at, c, c_at, places)
        v, v_at = column(d, dp, maxima, places, numbers, first, k + 3 * lanes)
        e, e_at = better(v, v_at, e, e_at, places)
    for k in range(bulk, columns, lanes):
        simd.rolled()
        inside = simd.between(d, 0, columns - k)
        v, v_at = column(d, dp, maxima, places, numbers, first, k)
        v, v_at = better(v, v_at, a, a_at, places)
        a, a_at = simd.select(inside, v, a), simd.select(inside, v_at, a_at)
    a, a_at = better(b, b_at, a, a_at, places)
    c, c_at = better(e, e_at, c, c_at, places)
    a, a_at = better(c, c_at, a, a_at, places)
    if lanes > 32:
        a, a_at = better(simd.every(d, a, 1, 32), simd.every(dp, a_at, 1, 32), a, a_at, places)
    if lanes > 16:
        a, a_at = better(simd.every(d, a, 1, 16), simd.every(dp, a_at, 1, 16), a, a_at, places)
    if lanes > 8:
        a, a_at = better(simd.every(d, a, 1, 8), simd.every(dp, a_at, 1, 8), a, a_at, places)
    a, a_at = better(simd.every(d, a, 1, 4), simd.every(dp, a_at, 1, 4), a, a_at, places)
    a, a_at = better(simd.every(d, a, 1, 2), simd.every(dp, a_at, 1, 2), a, a_at, places)
    return better(simd.every(d, a, 1, 1), simd.every(dp, a_at, 1, 1), a, a_at, places)


@inline
def max_of_columns(d, dp, maxima, places, at, columns, channels):
    """Return the first maximum of columns so many channels apart, and its place, lane by lane."""
    best, best_at = simd.load(d, maxima, at), simd.splat(dp, 0)
    if places is not None:
        best_at = simd.load(dp, places, at)
    for k in range(1, columns):
        simd.rolled()
        at += channels
        v, v_at = simd.load(d, maxima, at), simd.splat(dp, k)
        if places is not None:
            v_at = v_at + simd.load(dp, places, at)
        best, best_at = better(v, v_at, best, best_at, places)
    return best, best_at


@inline
def put(values, positions, at, best, best_at, limit):
    """Write maxima and places."""
    simd.store_before(values, at, best, limit)
    if positions is not None:
        simd.store_before(positions, at, best_at, limit)


@kernel(writes=2)
def adaptive_max_pool(start, stop, geometry, x, y, argmax):
    """Pool the output rows from start to stop, counted over all planes of x (A, B, D * H, W * channels)."""
    z, h, w = axes(geometry)
    d = simd.tag(x)
    dp = simd.position_tag(d, argmax)
    lanes = simd.lanes(d)
    source = layout(x)
    length = x.shape[3]
    channels = length // w.input
    elements, values, positions = simd.pointer(x), simd.pointer(y), simd.pointer(argmax)
    # Room for a vector behind the last element.
    maxima_scratch = simd.scratch(d, length + lanes)
    places_scratch, numbers_scratch = simd.scratch(dp, length + lanes), simd.scratch(dp, lanes)
    maxima, places = simd.pointer(maxima_scratch), simd.beside(argmax, simd.pointer(places_scratch))
    numbers = simd.pointer(numbers_scratch)
    for i in range(lanes):
        numbers[i] = i
    table = spans(w)
    firsts, lasts = simd.pointer(table), simd.pointer(table[1])
    into, limit = start * w.output * channels, stop * w.output * channels
    below = rows_below(z, h)
    rows_out = z.output * h.output
    plane, out = start // rows_out, start % rows_out
    origin = plane_offset(source, plane)
    for _ in range(start, stop):
        front, slices, top, rows = below[0, out], below[1, out], below[2, out], below[3, out]
        base = origin + (front * h.input + top) * source.row_step
        max_down(d, dp, elements, source, base, slices, rows, h, w, length, maxima, places)
        # What a vector has too many is written over by the next one.
        for i in range(w.output):
            first, columns = firsts[i], lasts[i] - firsts[i]
            if channels == 1 and columns >= WIDE:
                best, best_at = max_of_wide(d, dp, maxima, places, numbers, first, columns)
                put(values, positions, into, best, best_at, limit)
            else:
                for k in range(0, channels, lanes):
                    at = first * channels + k
                    best, best_at = max_of_columns(d, dp, maxima, places, at, columns, channels)
                    put(values, positions, into + k, best, best_at, limit)
            into += channels
        out += 1
        if out == rows_out:
            out = 0
            plane += 1
            origin = plane_offset(source, plane)
    simd.keep((maxima_scratch, places_scratch, numbers_scratch, table))


@inline
def sum_down(d, elements, source, base, slices, rows, h, length, sums):
    """Add each column up."""
    for i in range(0, length, simd.lanes(d)):
        total = simd.splat(d, 0)
        for slice_ in range(slices):
            at = base + slice_ * h.input * source.row_step + i
            for _ in range(rows):
                simd.rolled()
                total = total + simd.load_between(d, elements, at, 0, source.end - at)
                at += source.row_step
        simd.store(sums, i, total)


@inline
def sum_of_wide(d, columns, first, last):
    """Return the sum of neighbouring columns, in the first lane."""
    lanes = simd.lanes(d)
    a = b = c = e = simd.splat(d, 0)
    while first + 4 * lanes <= last:  # four sums side by side: each waits for its last addition
        a = a + simd.load(d, columns, first)
        b = b + simd.load(d, columns, first + lanes)
        c = c + simd.load(d, columns, first + 2 * lanes)
        e = e + simd.load(d, columns, first + 3 * lanes)
        first += 4 * lanes
    for k in range(first, last, lanes):
        simd.rolled()
        a = a + simd.load_between(d, columns, k, 0, last - k)
    total = (a + b) + (c + e)
    if lanes > 8:
        total = total + simd.every(d, total, 1, 8)
    total = total + simd.every(d, total, 1, 4)
    total = total + simd.every(d, total, 1, 2)
    return total + simd.every(d, total, 1, 1)


@kernel()
def adaptive_avg_pool(start, stop, geometry, x, heights, widths, y):
    """Sum the windows of the output rows from start to stop, counted over all planes of x (A, B, D * H, W * channels).

    Every sum is divided by the product of the height of its row and the width of its column. There is a width for
    each channel of a column. Windows over the same rows, or columns, are summed once.
    """
    z, h, w = axes(geometry)
    d = simd.tag(x)
    lanes = simd.lanes(d)
    source = layout(x)
    length, outputs = x.shape[3], widths.shape[3]
    channels = length // w.input
    columns_scratch, sums_scratch = simd.scratch(d, length + lanes), simd.scratch(d, outputs + lanes)
    table = spans(w)
    elements, averages = simd.pointer(x), simd.pointer(y)
    by_row, by_column = simd.pointer(heights), simd.pointer(widths)
    columns, sums = simd.pointer(columns_scratch), simd.pointer(sums_scratch)
    # What is behind the last sum is divided, too: if it happened to be subnormal, that would take three times as long.
    fill(d, sums, 0, outputs, simd.splat(d, 0))
    firsts, lasts, others = simd.pointer(table), simd.pointer(table[1]), simd.pointer(table[2])
    one = simd.splat(d, 1)
    below = rows_below(z, h)
    rows_out = z.output * h.output
    plane, out = start // rows_out, start % rows_out
    origin = plane_offset(source, plane)
    high = spans(h)
    fresh = start  # the first row that is not the same sums as the last one
    for row in range(start, stop):
        if row >= fresh:
            front, slices, top, rows = below[0, out], below[1, out], below[2, out], below[3, out]
            base = origin + (front * h.input + top) * source.row_step
            fresh = row + high[2, out % h.output] - out % h.output
            sum_down(d, elements, source, base, slices, rows, h, length, columns)
            i = 0
            while i < w.output:
                first, last = firsts[i], lasts[i]
                if channels != 1:
                    for into in range(i * channels, (i + 1) * channels, lanes):
                        total = simd.splat(d, 0)
                        at = into + (first - i) * channels
                        for _ in range(first, last):
                            simd.rolled()
                            total = total + simd.load(d, columns, at)
                            at += channels
                        simd.store(sums, into, total)
                    i += 1
                else:
                    if last - first >= WIDE:
                        simd.store(sums, i, sum_of_wide(d, columns, first, last))
                    else:
                        total = columns[first]
                        for k in range(first + 1, last):
                            simd.rolled()
                            total += columns[k]
                        sums[i] = total
                    for k in range(i + 1, others[i], lanes):
                        simd.store(sums, k, simd.splat(d, sums[i]))
                    i = others[i]
        height = simd.splat(d, by_row[out])
        for i in range(0, outputs, lanes):
            width = simd.load_or(one, by_column, i, 0, outputs - i)
            average = simd.load(d, sums, i) / (width * height)
            simd.store_before(averages, row * outputs + i, average, (row + 1) * outputs)
        out += 1
        if out == rows_out:
            out = 0
            plane += 1
            origin = plane_offset(source, plane)
    simd.keep((columns_scratch, sums_scratch, table))


@kernel()
def adaptive_indices(start, stop, geometry, argmax, indices):
    """Turn the rows of argmax (A, B, OD * OH, OW * channels) from start to stop into positions in planes."""
    z, h, w = axes(geometry)
    table = spans(w)
    source = layout(argmax)
    channels = argmax.shape[3] // w.output
    positions, result, firsts = simd.pointer(argmax), simd.pointer(indices), simd.pointer(table)
    below = rows_below(z, h)
    # Of a position in a window, a half is more than what these products may be off by, and no division is as fast.
    by_width, by_height = 1.0 / w.places, 1.0 / h.places
    into = start * w.output * channels
    rows_out = z.output * h.output
    plane, out = start // rows_out, start % rows_out
    for _ in range(start, stop):
        front, top = below[0, out], below[2, out]
        at = plane_offset(source, plane) + out * source.row_step
        out += 1
        if out == rows_out:
            plane, out = plane + 1, 0
        for window in range(w.output):
            for i in range(window * channels, (window + 1) * channels):
                k = np.int64(positions[at + i])
                line = np.int64((k + 0.5) * by_width)
                column = firsts[window] + k - line * w.places
                deep = np.int64((line + 0.5) * by_height) if z.places > 1 else 0
                line -= deep * h.places
                result[into] = ((front + deep) * h.input + top + line) * w.input + column
                into += 1
    simd.keep((table,))


@inline
def piece_of(rows, length):
    """Return how many rows of windows are listed at once: those of whole planes, of so many rows, or a part of one."""
    if rows * length <= PIECE:
        return PIECE // (rows * length) * rows
    return max(1, PIECE // length)


@inline
def remainder(v, d, divisor, times):
    """Return the remainders of a vector of what is less than so many times the divisor; of more, it says nothing.

    Less than zero is more than any: integers are unsigned.
    """
    smallest = v
    for k in range(1, times):
        simd.rolled()
        less = v + simd.splat(d, -k * divisor)
        smallest = simd.select(smallest > less, less, smallest)
    return smallest


@kernel()
def find_misplaced(start, stop, geometry, argmax, found):
    """Set found[0] if, in the planes from start to stop, an argmax is outside of its window.

    argmax is contiguous, (A, B, OD * OH, OW * channels), of unsigned integers. It is listed which column, row and slice
    of the windows of a piece is the last, and compared by vectors.
    """
    z, h, w = axes(geometry)
    d = simd.tag(argmax)
    lanes = simd.lanes(d)
    length, rows_out = argmax.shape[3], argmax.shape[2]
    channels, piece = length // w.output, piece_of(rows_out, length)
    positions = simd.pointer(argmax)
    room = piece * length + lanes
    scratch = simd.scratch(d, 3 * room)
    columns, lines, places = simd.pointer(scratch), simd.pointer(scratch[room:]), simd.pointer(scratch[2 * room :])
    table, below = spans(w), rows_below(z, h)
    wrong = simd.splat(d, 0) > simd.splat(d, 0)
    first, last = start * rows_out, stop * rows_out
    for begin in range(first, last, piece):
        rows = min(piece, last - begin)
        if begin == first or rows_out > piece:
            for row in range(rows):
                out = (begin + row) % rows_out
                line = (below[3, out] - 1) * w.places
                place = (below[1, out] - 1) * h.places * w.places + line
                for window in range(w.output):
                    column = table[1, window] - table[0, window] - 1
                    at = row * length + window * channels
                    for i in range(at, at + channels):
                        columns[i], lines[i], places[i] = column, line + column, place + column
        for i in range(0, rows * length, lanes):
            simd.rolled()
            place = simd.load_between(d, positions, begin * length + i, 0, rows * length - i)
            line = remainder(place, d, h.places * w.places, z.places)
            column = remainder(line, d, w.places, h.places)
            wrong = wrong | (place > simd.load(d, places, i))
            wrong = wrong | (line > simd.load(d, lines, i)) | (column > simd.load(d, columns, i))
    if simd.any_lane(wrong):
        simd.pointer(found)[0] = 1
    simd.keep((scratch, table))


@kernel()
def adaptive_max_pool_backward(start, stop, geometry, dy, argmax, dx):
    """Add the gradients of the planes from start to stop up, in the order of the windows.

    dy is (A, B, OD * OH, OW * channels), and so is argmax, all of whose positions are in their windows; all arrays are
    contiguous. It is listed where the windows of a piece start, and how far from there each place of one is, if these
    are not many. Halves are summed up in float32.
    """
    z, h, w = axes(geometry)
    d = simd.tag(dy)
    length, rows_out, size = dy.shape[3], dy.shape[2], dx.shape[2] * dx.shape[3]
    channels, piece = length // w.output, piece_of(rows_out, length)
    taps = z.places * h.places * w.places
    table, below = spans(w), rows_below(z, h)
    offsets_table, starts_table = np.empty(min(taps, LOOKED_UP), np.int64), np.empty(piece * length, np.int64)
    offsets, starts = simd.pointer(offsets_table), simd.pointer(starts_table)
    for k in range(offsets_table.size):
        offsets[k] = offset_of(k, h, w) * channels
    gradients, positions, result = simd.pointer(dy), simd.pointer(argmax), simd.pointer(dx)
    many = max(1, min(piece // rows_out, SUMMED // size))
    halves = simd.halves(result) is not None
    sums_scratch = simd.scratch(d, many * size + simd.lanes(d) if halves else 0)
    sums = simd.pointer(sums_scratch)
    for plane in range(start, stop, many):
        some = min(many, stop - plane)
        to = simd.sums(simd.offset(result, plane * size), sums)
        clear(d, to, 0, some * size)
        for begin in range(0, some * rows_out, piece):
            rows = min(piece, some * rows_out - begin)
            if plane == start or rows_out > piece:
                for row in range(rows):
                    out = (begin + row) % rows_out
                    line = (begin + row) // rows_out * size
                    line += (below[0, out] * h.input + below[2, out]) * w.input * channels
                    for window in range(w.output):
                        at, into = row * length + window * channels, line + table[0, window] * channels
                        for i in range(channels):
                            starts[at + i] = into + i
            g = simd.offset(gradients, (plane * rows_out + begin) * length)
            a = simd.offset(positions, (plane * rows_out + begin) * length)
            count = rows * length
            bulk = count - count % 4 if taps <= LOOKED_UP else 0
            for i in range(0, bulk, 4):
                # Four are looked up before the first is written to: a load may wait for where earlier stores go.
                k, m = starts[i] + offsets[a[i]], starts[i + 1] + offsets[a[i + 1]]
                n, p = starts[i + 2] + offsets[a[i + 2]], starts[i + 3] + offsets[a[i + 3]]
                to[k] += simd.load_scalar(g, i)
                to[m] += simd.load_scalar(g, i + 1)
                to[n] += simd.load_scalar(g, i + 2)
                to[p] += simd.load_scalar(g, i + 3)
            for i in range(bulk, count):
                k = np.int64(a[i])
                to[starts[i] + offset_of(k, h, w) * channels] += simd.load_scalar(g, i)
        if halves:
            put_sums(d, result, plane * size, sums, 0, some * size, False)
    simd.keep((offsets_table, starts_table, table, sums_scratch))
