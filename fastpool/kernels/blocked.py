"""Small planes with few windows in a row: some planes are laid out element by element, and pooled as channels are.

A vector of the windows of such a row has most of its lanes empty, and strides cost shuffles. In the blocked layout
(nChw16c of oneDNN, https://uxlfoundation.github.io/oneDNN/dev_guide_understanding_memory_formats.html) a vector has the
same element of as many planes as there are lanes: none is empty, and nothing is shuffled, whatever the windows are.
Some planes at a time are brought into it in scratch, and their results out of it, which costs as much as two or three
places of a window. It takes .15 to .6 of the time of `fastpool.kernels.rows`, of integers of one byte .1 to .5.
Columns of such planes are summed up so, too: a table says which come from an element, in .02 to .8 of the time. Going
backwards, averages are shared among the elements so, in .07 to .95 of the time.
"""

from __future__ import annotations

from math import prod, sqrt

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import ONE, axes, ceil_div, layout, meet, places_inside, plane_offset
from fastpool.kernels.hold import is_far, write_held
from fastpool.kernels.launch import kernel
from fastpool.kernels.max_pool import larger
from fastpool.kernels.pixels import PAIR, SHARED, Ahead, meeting, take, total
from fastpool.kernels.rows import ask_vector, gather
from fastpool.kernels.tile import fill
from fastpool.window import Window

#: There is room for so many elements of a plane, and so many places of all of its windows.
ELEMENTS, PLACES = 1 << 9, 1 << 12
#: There is room for so many columns; where rows have so few windows, for more.
COLUMNS, WINDOWS, MANY = 640, 10, 2560
#: If the columns of some vectors of planes have more bytes, one vector is summed up at a time: .6 to .9 of the time,
#: but for those of `col2im`, whose planes are side by side.
NEAR = 1 << 15
#: Averages of planes of so many elements are shared among these so, if rows have no more windows than that.
SHARES, SHORT = 216, 32
#: Windows of so many places have positions of a byte, that are no wider than elements are.
BYTE = 1 << 8


def suits(w: Window, planes: int, itemsize: int) -> bool:
    """Return whether pooling so many planes, in elements of so many bytes, is fastest, and works, this way.

    What it costs for a row of windows is to move elements, and to reduce places; else it is to reduce rows, however
    few windows they have. The numbers are fitted to measured times.
    """
    moved = 0.3 * prod(w.input) / prod(w.output[:-1])
    reduced = w.output[-1] * (0.16 * w.taps + 0.5)
    others = 5 + (3 if w.side_by_side else 5) * prod(w.kernel_size[:-1])
    fits = prod(w.input) <= ELEMENTS and prod(w.output) * w.taps <= PLACES and w.taps <= BYTE
    return fits and planes * itemsize >= SHARED * simd.BYTES and (moved + reduced) * sqrt(itemsize / 4) < others


def sums(w: Window, planes: int, itemsize: int) -> bool:
    """Return whether summing up the columns of so many planes, in elements of so many bytes, is fastest this way."""
    room = MANY if w.output[-1] <= WINDOWS / sqrt(itemsize / 4) else COLUMNS
    return prod(w.output) * w.taps <= room and planes * itemsize >= SHARED * simd.BYTES


def shares(w: Window, planes: int, itemsize: int) -> bool:
    """Return whether sharing averages of so many planes, in elements of so many bytes, is fastest this way."""
    fits = prod(w.input) <= SHARES / sqrt(itemsize / 4) and w.output[-1] <= SHORT
    return fits and planes * itemsize >= SHARED * simd.BYTES


@inline
def list_places(z, h, w, channels, taps, offsets, steps, counts):
    """List, for all windows of a plane, where the elements are that they have, and which places these are in them."""
    row_step = w.input * channels
    for line in range(z.output * h.output):
        deep, top = line // h.output * z.stride - z.before, line % h.output * h.stride - h.before
        lines = (*places_inside(z, deep), *places_inside(h, top))
        for column in range(w.output):
            out, side = line * w.output + column, column * w.stride - w.before
            left, right = places_inside(w, side)
            places, of_window = simd.offset(steps, out * taps), simd.offset(offsets, out * taps)
            counts[out] = meeting(z, h, w, lines, left, right, row_step, channels, of_window, places)
            for k in range(counts[out]):
                of_window[k] += ((deep * h.input + top) * w.input + side) * channels


@inline
def lay_out(d, planes, at, size, count, pitch, blocked):
    """Bring `count` planes of so many elements into the blocked layout: with longer vectors, addresses would spill.

    Those behind them are asked for: .55 to 1.0 of the time.
    """
    d2, run = simd.narrowed(d, 2), simd.lanes(simd.narrowed(d, 4))
    for plane in range(0, count, simd.lanes(d2)):
        for i in range(0, size, run):
            simd.rolled()
            ask_vector(simd.widened(d, 2), planes, at + (count + plane) * size + simd.lanes(d2) * i)
            simd.interleave(blocked, i * pitch + plane, pitch, d2, planes, at + plane * size + i, size)


@inline
def contiguous(source, line, size):
    """Return whether planes of so many elements, in rows of so many, are one run."""
    return source.row_step == line and source.inner_step == size and source.outer_step == source.inner * size


@inline
def bring(d, elements, source, straight, rows, line, plane, stop, count, planes, blocked):
    """Bring planes of so many rows of so many elements into the blocked layout: `count` from one on, before `stop`.

    They go by way of scratch, `planes`, if not straight, or where there is no more to read behind them.
    """
    size = rows * line
    if straight and plane + count <= stop and (plane + count) * size + simd.lanes(d) <= source.end:
        lay_out(d, simd.sums(elements, planes), plane * size, size, count, count, blocked)
    else:
        last = min(stop, plane + count)
        gather(d, elements, source, ONE, rows, line, plane * rows, last * rows, larger, None, planes)
        lay_out(d, planes, 0, size, count, count, blocked)


@inline
def bring_back(d, blocked, size, count, planes, at):
    """Bring `count` planes of so many elements out of the blocked layout, a quarter of a vector of each at a time."""
    d4 = simd.narrowed(d, 4)
    run = simd.lanes(d4)
    # Runs reach over the end of their plane: the next one's first elements are written after that.
    for i in range((size - 1) // run * run, -1, -run):
        for plane in range(0, count, run):
            simd.rolled()
            simd.deinterleave(planes, at + plane * size + i, size, d4, blocked, i * count + plane, count)


@inline
def write(d, blocked, size, count, planes, result, first, stop, far):
    """Write `count` planes from the first on to a result: by way of scratch, `planes`, near the end of what is ours, or
    what is far from any cache, which takes .6 to .9 of the time, and of what is near 1.0 to 1.1.
    """
    at, end = first * size, stop * size
    if not far and simd.alike(result, planes) is not None and at + count * size + simd.lanes(d) <= end:
        bring_back(d, blocked, size, count, simd.sums(result, planes), at)
    else:
        write_held_back(d, blocked, size, count, planes, result, first, stop, far)


@inline
def write_held_back(d, blocked, size, count, planes, result, first, stop, far):
    """Write them always so, in one run, past the caches if that is far from them.

    Of planes as large as their gradients', with dx, that takes .3 to 1.0 of the time.
    """
    at, end = first * size, stop * size
    bring_back(d, blocked, size, count, planes, 0)
    count = min(count * size, end - at)
    if simd.alike(result, planes) is not None:
        write_held(simd.sums(result, planes), at, planes, count, far)
    else:
        for i in range(0, count, simd.lanes(d)):
            simd.rolled()
            simd.store_before(result, at + i, simd.load(d, planes, i), end)


@inline
def sweep(start, stop, geometry, x, y, argmax, d, dp, reduce, more):
    """Pool planes from start to stop, as many at a time as some vectors have lanes.

    `reduce(0, offsets, steps, count, line, column, into, channels, given)` writes what a window's elements are reduced
    to, as those of `fastpool.kernels.pixels` do; `given` is (d, dp, blocked, result, result_at, w, more).
    """
    z, h, w = axes(geometry)
    source, elements = layout(x), simd.pointer(x)
    lanes, rows = simd.lanes(d), z.input * h.input
    count, size = SHARED * lanes, rows * w.input
    outputs, taps = z.output * h.output * w.output, z.kernel * h.kernel * w.kernel
    tables, counts_table = np.empty((2, outputs * taps), np.int64), np.empty(outputs, np.int64)
    offsets, steps, counts = simd.pointer(tables), simd.pointer(tables[1]), simd.pointer(counts_table)
    list_places(z, h, w, count, taps, offsets, steps, counts)
    # Runs of elements are read, and written, over the end of a plane.
    room, result_room = (size + lanes) * count, (outputs + lanes) * count
    positions_room = 0 if argmax is None else result_room
    scratch, blocked_scratch = simd.scratch(d, max(room, result_room)), simd.scratch(d, room)
    result_scratch = simd.scratch(d, result_room)
    at_scratch, planes_at_scratch = simd.scratch(dp, positions_room), simd.scratch(dp, positions_room)
    planes, blocked = simd.pointer(scratch), simd.aligned(simd.pointer(blocked_scratch))
    result, result_at = simd.aligned(simd.pointer(result_scratch)), simd.aligned(simd.pointer(at_scratch))
    given = (d, dp, blocked, result, simd.beside(argmax, result_at), w, more)
    one = contiguous(source, w.input, size) and simd.alike(elements, planes) is not None
    fill(d, planes, 0, room - lanes, simd.splat(d, 0))  # where there are no planes, it is divided, too
    for plane in range(start, stop, count):
        bring(d, elements, source, one, rows, w.input, plane, stop, count, planes, blocked)
        out = 0
        for line in range(z.output * h.output):
            for column in range(w.output):
                at = out * taps
                reduce(
                    0, simd.offset(offsets, at), simd.offset(steps, at), counts[out], line, column, out * count, count,
                    given,
                )  # fmt: skip
                out += 1
        write(d, result, outputs, count, planes, simd.pointer(y), plane, stop, is_far(geometry))
        if argmax is not None:
            planes_at = simd.pointer(planes_at_scratch)
            write(dp, result_at, outputs, count, planes_at, simd.pointer(argmax), plane, stop, False)
    simd.keep((tables, counts_table, scratch, blocked_scratch, result_scratch, at_scratch, planes_at_scratch))


@inline
def take_maxima(base, offsets, steps, count, line, column, into, channels, given):
    """Write a window's maxima, and where they are."""
    d, dp, blocked, result, result_at, _, _ = given
    nothing = Ahead(blocked, offsets, 0, 0, 0)
    take(d, dp, blocked, None, base, offsets, steps, count, into, channels, nothing, result, result_at)


@inline
def average(base, offsets, steps, count, line, column, into, channels, given):
    """Write a window's averages: sums of as many elements as a row has are added up, to round as little as those."""
    d, _, blocked, result, _, w, (heights, widths) = given
    d4 = simd.widened(d, SHARED)
    whole = simd.between(d4, 0, channels)
    v = total(d4, blocked, base, offsets, min(w.kernel, count), whole, True)
    for k in range(w.kernel, count, w.kernel):
        v = v + total(d4, blocked, base, simd.offset(offsets, k), min(w.kernel, count - k), whole, True)
    simd.store(result, into, v / simd.splat(d4, heights[line] * widths[column]))


@inline
def list_given(z, h, w, place, window, entries, starts, scratch):
    """List, for all elements of a plane, what their windows give to them, in the order of the kernel's places.

    That of the next place of a window is `place` further, that of the next window `window`. `starts` gets where the
    list of each element begins, and the last one ends.
    """
    slices, rows = scratch, simd.offset(scratch, z.kernel)
    met = 0
    for element in range(z.input * h.input * w.input):
        starts[element] = met
        line, column = element // w.input, element % w.input
        number, y = line // h.input, line % h.input
        of_slices = meet(z, number, h.places * w.places * place, h.output * w.output * window, 0, slices, 0)
        for i in range(of_slices):
            of_rows = meet(h, y, w.places * place, w.output * window, slices[i], rows, 0)
            for j in range(of_rows):
                met = meet(w, column, place, window, rows[j], entries, met)
    starts[z.input * h.input * w.input] = met


@inline
def listed_sum(d, blocked, entries, first, last, c):
    """Return the sum of what is listed, from 0 on, of some planes."""
    v = simd.splat(d, 0)
    for k in range(first, last):
        simd.rolled()
        v = v + simd.load(d, blocked, entries[k] + c)
    return v


@inline
def bring_rows(d, elements, base, row_step, rows, line, planes, straight, end, count, pitch, into, blocked):
    """Bring planes, of which each row of so many is in one run, into the blocked layout: up to `count` of so many.

    They go by way of scratch, `into`, if not straight, or where there is no more to read behind them.
    """
    for row in range(rows):
        at, to = base + row * row_step, simd.offset(blocked, row * line * pitch)
        if straight and at + count * line + simd.lanes(d) <= end:
            lay_out(d, simd.sums(elements, into), at, line, count, pitch, to)
        else:
            for i in range(0, planes * line, simd.lanes(d)):
                simd.store(into, i, simd.load_between(d, elements, at + i, 0, planes * line - i))
            lay_out(d, into, 0, line, count, pitch, to)


@kernel()
def accumulate_blocked(start, stop, geometry, cols, dx):
    """Sum up planes of dx (A, B, D * H, W) from start to stop, of cols (A, B, taps, OD * OH * OW).

    Sums of columns are in the order of the kernel's places, from 0 on. Those of `col2im` have a row of all planes B
    in one run: as many of these as there are, at most, are taken at a time, and those of some A, if these are few.
    """
    z, h, w = axes(geometry)
    d = simd.tag(cols)
    d2 = simd.widened(d, PAIR)
    source, placed = layout(cols), layout(dx)
    columns, image = simd.pointer(cols), simd.pointer(dx)
    lanes, pair = simd.lanes(d), simd.lanes(d2)
    outputs, taps = z.output * h.output * w.output, z.places * h.places * w.places
    given, size, rows = taps * outputs, z.input * h.input * w.input, z.input * h.input
    abreast = source.inner_step == outputs and source.row_step > outputs
    one_vector = given > COLUMNS or (not abreast and given * SHARED * simd.BYTES > NEAR)
    count, at_once = (lanes, lanes) if one_vector else (SHARED * lanes, pair)
    apart = count
    if abreast:  # so many lanes are of planes in one run: as few as are brought into the layout at a time
        apart = min(count, ceil_div(source.inner, lanes // 2) * (lanes // 2))
        count = min(max(1, at_once // apart), ceil_div(stop - start, source.inner)) * apart
        count = ceil_div(count, at_once) * at_once
    tables = np.empty(given + size + 1 + z.kernel + h.kernel, np.int64)
    entries = simd.pointer(tables)
    starts = simd.offset(entries, given)
    list_given(z, h, w, outputs * count, count, entries, starts, simd.offset(starts, size + 1))
    room, result_room = (given + lanes) * count, (size + lanes) * count
    scratch, blocked_scratch = simd.scratch(d, max(room, result_room)), simd.scratch(d, room)
    result_scratch = simd.scratch(d, result_room)
    planes, blocked = simd.pointer(scratch), simd.aligned(simd.pointer(blocked_scratch))
    result = simd.aligned(simd.pointer(result_scratch))
    alike = simd.alike(columns, planes) is not None
    one, one_image = contiguous(source, outputs, given) and alike, contiguous(placed, w.input, size)
    fill(d, planes, 0, room - lanes, simd.splat(d, 0))
    plane = start
    while plane < stop:
        many, runs = min(count, stop - plane), 1
        if abreast:
            many = min(many, source.inner - plane % source.inner)
            if many == source.inner:
                runs = max(1, min(count // apart, (stop - plane) // source.inner))
            for i in range(runs):
                base = plane_offset(source, plane + i * many)
                bring_rows(
                    d, columns, base, source.row_step, taps, outputs, many, alike, source.end, apart, count, planes,
                    simd.offset(blocked, i * apart),
                )  # fmt: skip
        else:
            bring(d, columns, source, one, taps, outputs, plane, stop, count, planes, blocked)
        for element in range(size):
            first, last = starts[element], starts[element + 1]
            if one_vector:
                simd.store(result, element * count, listed_sum(d, blocked, entries, first, last, 0))
            for c in range(0, 0 if one_vector else count, pair):
                simd.store(result, element * count + c, listed_sum(d2, blocked, entries, first, last, c))
        if one_image and runs == 1:
            behind = plane + many if abreast else stop
            write_held_back(d, result, size, count, planes, image, plane, behind, is_far(geometry))
        else:
            bring_back(d, result, size, count, planes, 0)
            for i in range(runs):
                for number in range(many):
                    base = plane_offset(placed, plane + i * many + number)
                    for row in range(rows):
                        at, into = (i * apart + number) * size + row * w.input, base + row * placed.row_step
                        for j in range(0, w.input, lanes):
                            simd.store_before(image, into + j, simd.load(d, planes, at + j), into + w.input)
        plane += runs * many
    simd.keep((tables, scratch, blocked_scratch, result_scratch))


@kernel(writes=2)
def max_pool_blocked(start, stop, geometry, x, y, argmax):
    """Pool planes from start to stop of x (A, B, D * H, W)."""
    d = simd.tag(x)
    sweep(start, stop, geometry, x, y, argmax, d, simd.position_tag(d, argmax), take_maxima, None)


@kernel()
def avg_pool_blocked(start, stop, geometry, x, heights, widths, y):
    """Average the windows of planes from start to stop of x (A, B, D * H, W)."""
    d = simd.tag(x)
    divisors = simd.pointer(heights), simd.pointer(widths)
    sweep(start, stop, geometry, x, y, None, d, simd.position_tag(d, None), average, divisors)


@kernel()
def avg_pool_blocked_backward(start, stop, geometry, dy, heights, widths, dx):
    """Compute planes of dx (A, B, D * H, W) from start to stop; heights and widths are as in the forward pass."""
    z, h, w = axes(geometry)
    d = simd.tag(dy)
    d4 = simd.widened(d, SHARED)
    source, lanes, count = layout(dy), simd.lanes(d), simd.lanes(d4)
    gradients, image = simd.pointer(dy), simd.pointer(dx)
    by_row, by_column = simd.pointer(heights), simd.pointer(widths)
    lines, size = z.output * h.output, z.input * h.input * w.input
    outputs = lines * w.output
    most = outputs * min(size, z.kernel * h.kernel * w.kernel)
    tables = np.empty(most + size + 1 + z.kernel + h.kernel, np.int64)
    entries = simd.pointer(tables)
    starts = simd.offset(entries, most)
    list_given(z, h, w, 0, count, entries, starts, simd.offset(starts, size + 1))
    room, result_room = (outputs + lanes) * count, (size + lanes) * count
    scratch, blocked_scratch = simd.scratch(d, max(room, result_room)), simd.scratch(d, room)
    result_scratch = simd.scratch(d, result_room)
    planes, blocked = simd.pointer(scratch), simd.aligned(simd.pointer(blocked_scratch))
    result = simd.aligned(simd.pointer(result_scratch))
    one = contiguous(source, w.output, outputs) and simd.alike(gradients, planes) is not None
    fill(d, planes, 0, room - lanes, simd.splat(d, 0))
    for plane in range(start, stop, count):
        bring(d, gradients, source, one, lines, w.output, plane, stop, count, planes, blocked)
        for out in range(outputs):
            divisor = by_row[out // w.output] * by_column[out % w.output]
            simd.store(blocked, out * count, simd.load(d4, blocked, out * count) / simd.splat(d4, divisor))
        for element in range(size):
            v = listed_sum(d4, blocked, entries, starts[element], starts[element + 1], 0)
            simd.store(result, element * count, v)
        write_held_back(d, result, size, count, planes, image, plane, stop, is_far(geometry))
    simd.keep((tables, scratch, blocked_scratch, result_scratch))
