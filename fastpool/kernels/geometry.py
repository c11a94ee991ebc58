"""How kernels read `fastpool.window.Window.geometry`: seven numbers an axis.

Behind these is, where a kernel asks for it, whether the result is far from any cache (see `fastpool.kernels.hold`),
and how many channels are a part of a plane.
"""

from __future__ import annotations

from typing import NamedTuple

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline

#: So many numbers there are for three axes.
AXES = 21
#: How many channels are a part of a plane, if planes have parts.
PART = AXES + 1
#: An offset that nothing is at.
NOWHERE = -(1 << 62)


class Axis(NamedTuple):
    """One spatial axis of a window."""

    input: int
    output: int
    kernel: int  # the places that some window has on the input
    places: int  # all of them, by which positions count
    stride: int
    before: int
    dilation: int


#: The first axis of a plane.
ONE = Axis(1, 1, 1, 1, 1, 0, 1)


@inline
def axis(geometry, i):
    """Return axis number `i`."""
    g = simd.offset(geometry, 7 * i)
    return Axis(g[0], g[1], g[2], g[3], g[4], g[5], g[6])


@inline
def axes(geometry):
    """Return all three axes: depth, height and width."""
    return axis(geometry, 0), axis(geometry, 1), axis(geometry, 2)


@inline
def ceil_div(a, b):
    """Return a / b, rounded up."""
    return -(-a // b)


@inline
def places_inside(a, start):
    """Return the first place, of a window from `start` on, that is an element, and the one past the last."""
    first, last = -start, a.input - start
    if first <= 0 and (a.kernel - 1) * a.dilation < last:  # as for most, of which nothing waits for this
        return 0, a.kernel
    if a.dilation > 1:  # divisions take long, where windows are small
        first, last = ceil_div(first, a.dilation), ceil_div(last, a.dilation)
    first = max(0, first)
    return first, max(first, min(a.kernel, last))


@inline
def meet(a, element, place_step, window_step, at, table, met):
    """Append to the `met` entries of a table an entry for every window of an axis that has an element.

    They come in the order of the window's places: `at`, and so many steps more as that place and that window have
    before them. Return how many there are.
    """
    out, rest = (element + a.before) // a.stride, (element + a.before) % a.stride
    for k in range(a.kernel):
        if rest == 0 and 0 <= out < a.output:
            table[met] = at + k * place_step + out * window_step
            met += 1
        rest -= a.dilation
        if rest < 0:
            steps = 1 if a.dilation <= a.stride else ceil_div(-rest, a.stride)  # spares a division
            rest += steps * a.stride
            out -= steps
    return met


@inline
def lines_meeting(z, h, number, y, lines, places):
    """List the rows of windows that hold row `y` of slice `number`, as they are counted in a plane; return how many.

    They come in the order of the kernel's places. `places`, if it is not None, gets which of these it is in them.
    """
    met = 0
    for i in range(z.kernel):
        deep = number + z.before - i * z.dilation
        if deep >= 0 and deep % z.stride == 0 and deep // z.stride < z.output:
            for k in range(h.kernel):
                at = y + h.before - k * h.dilation
                if at >= 0 and at % h.stride == 0 and at // h.stride < h.output:
                    lines[met] = deep // z.stride * h.output + at // h.stride
                    if places is not None:
                        places[met] = i * h.places + k
                    met += 1
    return met


class Layout(NamedTuple):
    """Where the planes and rows of an array (planes, planes, depth * height, width) are, counted in elements.

    Functions are handed this and a pointer, never the array, which costs two atomic operations.
    """

    inner: int  # how many planes the second axis has
    outer_step: int
    inner_step: int
    row_step: int
    end: int  # behind the last element, even one before others: what may be read without harm
    item: int  # bytes of an element
    nbytes: int  # of all elements


@inline
def layout(x):
    """Return the layout of `x`; an axis of one has the step that it would have if `x` were contiguous."""
    item = x.itemsize
    outer, inner, rows, columns = x.shape
    outer_stride, inner_stride, stride, _ = x.strides
    row_step = stride // item if rows > 1 else columns
    inner_step = inner_stride // item if inner > 1 else rows * row_step
    outer_step = outer_stride // item if outer > 1 else inner * inner_step
    end = max(0, (outer - 1) * outer_step) + max(0, (inner - 1) * inner_step) + max(0, (rows - 1) * row_step) + columns
    return Layout(inner, outer_step, inner_step, row_step, end, item, outer * inner * rows * columns * item)


@inline
def beginning(x):
    """Return the offset of the first element in memory: less than 0 where others are after it."""
    outer, inner, rows, _ = x.shape
    outer_stride, inner_stride, stride, _ = x.strides
    lowest = min(0, (outer - 1) * outer_stride) + min(0, (inner - 1) * inner_stride) + min(0, (rows - 1) * stride)
    return lowest // x.itemsize


@inline
def plane_offset(of, plane):
    """Return the offset of plane number `plane`."""
    if of.outer_step == of.inner * of.inner_step:  # spares two divisions
        return plane * of.inner_step
    return plane // of.inner * of.outer_step + plane % of.inner * of.inner_step
