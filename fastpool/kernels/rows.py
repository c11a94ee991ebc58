"""Small windows over rows: what max and average pooling share.

A vector holds neighbouring elements of a row. A window's rows are reduced to one such vector, and the lanes of
that to outputs, by shuffles: nothing but input and result is read or written, and a row of any length costs as
many vectors as it fills. Lanes on padding are masked, with one mask for all rows of a group.

What lies in memory is asked for a group ahead, in the order of its addresses: a window's rows side by side,
where they are wide, would be read with half the bandwidth on Zen 4.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastpool.kernels import simd
from fastpool.kernels.geometry import ceil_div, layout, places_inside, plane_offset
from fastpool.kernels.launch import inline

#: The widest windows, and distances between windows, that shuffles are written for.
WIDEST, FURTHEST = 8, 8
#: Groups have about so many bytes.
GROUP = 1 << 13
#: Arrays of fewer bytes are in some cache, where asking ahead costs more than it gains.
FAR = 1 << 22


def vectors(stride: int) -> int:
    """Return how many vectors of a row make one of outputs: a power of two, for shuffles are lowered well from that."""
    return 1 << (stride - 1).bit_length()


class Part(NamedTuple):
    """One vector of the outputs of each row of a group: what to read and where to write."""

    plane: int
    slice: int  # of the plane
    out: int  # the first row, in its slice
    rows: int
    first: int  # the first output of the vector
    column: int  # where the windows of that output begin
    inside: Any  # the mask of the columns that are elements, and whether all are
    all_inside: bool
    outputs: Any  # the mask of the outputs, and whether there is room for more
    all_outputs: bool
    into: int  # the offset of the first row's vector in the result
    ahead: int  # the offset of what to ask for meanwhile, and how much of it with every row
    share: int


@inline
def ask(d, source, offset, count):
    """Ask for `count` elements of memory from `offset` on, which need not exist."""
    for i in range(offset, offset + count, simd.lanes(d)):
        simd.rolled()
        simd.prefetch(source, i)


@inline
def place_of(z, h, row):
    """Return the plane of a row of outputs, the slice in that, and the row in that; z is None where all are flat."""
    if z is None:
        return row // h.output, 0, row % h.output
    return row // h.output // z.output, row // h.output % z.output, row % h.output


@inline
def next_slice(z, plane, number):
    """Return the plane and the number of the slice behind another."""
    if z is None or number + 1 == z.output:
        return plane + 1, 0
    return plane, number + 1


@inline
def slice_places(z, h, of, plane, number):
    """Return which places of a window's depth are elements for a slice of outputs, and the offset of the first."""
    if z is None:
        return 0, 1, plane_offset(of, plane)
    top = number * z.stride - z.before
    near, far = places_inside(z, top)
    return near, far, plane_offset(of, plane) + (top + near * z.dilation) * h.input * of.row_step


@inline
def following(z, h, of, row, count):
    """Return the offset of what follows `count` rows of outputs in memory: rows, or all of the next slices."""
    if z is None:
        plane, _, out = place_of(z, h, row + count)
        return plane_offset(of, plane) + (out * h.stride - h.before) * of.row_step
    plane, number, out = place_of(z, h, row)
    return plane_offset(of, plane) + ((number + 1) * h.input + out * h.stride) * z.stride * of.row_step


@inline
def pool_group(pool, source, z, h, w, part, values, positions, nans, more):
    """Call `pool`, and if it met one of the `nans`, which cost it more, again, to be careful with them."""
    if nans is None:
        pool(source, z, h, w, part, values, positions, False, more)
    elif pool(source, z, h, w, part, values, positions, False, more):
        pool(source, z, h, w, part, values, positions, True, more)


@inline
def sweep(start, stop, z, h, w, d, wide, x, y, argmax, pool, nans, more):
    """Call `pool(source, z, h, w, part, values, positions, careful, more)` for the rows from start to stop.

    It reads vectors of the tag `wide` and writes such of the tag `d`, to `values`, and to `positions` if `argmax`
    is not None, from `part.into` on and every further row after w.output elements. It returns whether it met a NaN,
    unless `nans` is None.
    """
    lanes, wide_lanes = simd.lanes(d), simd.lanes(wide)
    item = x.itemsize
    source = layout(x)
    values, positions = simd.pointer(y), simd.pointer(argmax)
    rows = max(1, GROUP // (h.stride * w.input * item))
    outputs = min(lanes, (wide_lanes - w.kernel) // w.stride + 1)
    share = 0
    if x.size * item >= FAR:
        share = ceil_div(h.stride * source.row_step, ceil_div(w.output, outputs)) * (1 if z is None else z.stride)
    for row in range(start, stop, rows):
        count = min(rows, stop - row)
        plane, number, out = place_of(z, h, row)
        ahead = following(z, h, source, row, count)
        into = row * w.output
        for i in range(0, w.output, outputs):
            column = i * w.stride - w.before
            part = Part(
                plane,
                number,
                out,
                count,
                i,
                column,
                simd.between(wide, -column, w.input - column),
                column >= 0 and column + wide_lanes <= w.input,
                simd.between(d, 0, min(outputs, w.output - i)),
                i + lanes <= w.output,
                into + i,
                ahead,
                share,
            )
            pool_group(pool, source, z, h, w, part, values, positions, nans, more)
            ahead += share * count
