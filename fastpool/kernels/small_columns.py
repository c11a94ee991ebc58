"""Columns of small planes, and back, an element at a time: a table says which one each is."""

from __future__ import annotations

from functools import cache

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import axes, layout, plane_offset
from fastpool.kernels.launch import Kernel
from fastpool.kernels.rows import ask

#: Small planes have fewer elements, so that 16 bits tell which; what is about so many ahead of them is asked for.
SMALL, PLANES_AHEAD = 1 << 15, 1 << 11
#: So many elements, and columns, of several small planes are listed.
LISTED = 1 << 13
#: Loops over fewer elements of small planes get slower where they are unrolled.
UNROLLED = 8


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
