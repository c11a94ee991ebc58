"""Small windows over rows: what max and average pooling share.

A vector holds neighbouring elements of a row. A window's rows are reduced to one such vector, and the lanes of
that to outputs, by shuffles: nothing but input and result is read or written, and a row of any length costs as
many vectors as it fills. Lanes on padding are masked, with one mask for all rows of a group.

Before a group of rows is pooled, its elements are read in order, which is what prefetchers know: a window's
rows side by side, where they are wide, are read with half the bandwidth on Zen 4. The reading also tells whether
there is a NaN, for which a maximum takes three times the instructions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastpool.kernels import simd
from fastpool.kernels.geometry import plane_offset
from fastpool.kernels.launch import inline

#: The widest windows, and distances between windows, that shuffles are written for.
WIDEST, FURTHEST = 8, 8
#: Groups have about so many bytes.
GROUP = 1 << 13


def vectors(stride: int) -> int:
    """Return how many vectors of a row make one of outputs: a power of two, for shuffles are lowered well from that."""
    return 1 << (stride - 1).bit_length()


@inline
def scan(d, x, source, first, last, flat, h, w, row_step, item, nans):
    """Read the rows from first to last, counted over the planes of x; return whether they have one of the `nans`."""
    lanes = simd.lanes(d)
    zero = simd.splat(d, 0)
    nan = simd.is_nan(zero)
    rows, length = (1, (last - first) * w.input) if flat else (last - first, w.input)
    for r in range(first, first + rows):
        offset = plane_offset(x, r // h.input, item) + r % h.input * row_step
        if nans is None:
            for i in range(offset, offset + length, lanes):
                simd.touch(source, i)
        else:
            for i in range(offset, offset + length - 2 * lanes + 1, 2 * lanes):
                nan = nan | simd.either_nan(simd.load(d, source, i), simd.load(d, source, i + lanes))
            for i in range(length // (2 * lanes) * 2 * lanes, length, lanes):
                nan = nan | simd.is_nan(simd.load_or(zero, source, offset + i, 0, length - i))
    return simd.any_lane(nan)


@inline
def pool_group(pool, x, row_step, h, w, part, values, positions, nans, careful, more):
    """Call `pool` with `careful` as a literal, and as False where nothing is known of `nans`: it is compiled once then."""
    if nans is None:
        pool(x, row_step, h, w, part, values, positions, False, more)
    elif careful:
        pool(x, row_step, h, w, part, values, positions, True, more)
    else:
        pool(x, row_step, h, w, part, values, positions, False, more)


class Part(NamedTuple):
    """One vector of the outputs of each row of a group: what to read and where to write."""

    plane: int
    out: int  # the first row, in its plane
    rows: int
    first: int  # the first output of the vector
    column: int  # where the windows of that output begin
    inside: Any  # the mask of the columns that are elements, and whether all are
    all_inside: bool
    outputs: Any  # the mask of the outputs, and whether there is room for more
    all_outputs: bool
    into: int  # the offset of the first row's vector in the result


@inline
def sweep(start, stop, h, w, d, wide, x, y, argmax, pool, nans, more):
    """Call `pool(x, row_step, h, w, part, values, positions, careful, *more)` for the rows from start to stop.

    It reads vectors of the tag `wide` and writes such of the tag `d`, to `values`, and to `positions` if `argmax`
    is not None, from `part.into` on and every further row after w.output elements. It is told to be `careful` where
    there may be a NaN; never if `nans` is None.
    """
    lanes, wide_lanes = simd.lanes(d), simd.lanes(wide)
    item = x.itemsize
    row_step = x.strides[2] // item
    flat = row_step == w.input and (x.shape[1] == 1 or x.strides[1] == h.input * x.strides[2])
    flat = flat and (x.shape[0] == 1 or x.strides[0] == x.shape[1] * h.input * x.strides[2])
    source, values, positions = simd.pointer(x), simd.pointer(y), simd.pointer(argmax)
    rows = max(1, GROUP // (h.stride * w.input * item))
    outputs = min(lanes, (wide_lanes - w.kernel) // w.stride + 1)
    scanned, nan_until = 0, 0
    for row in range(start, stop, rows):
        count = min(rows, stop - row)
        plane, out = row // h.output, row % h.output
        first = plane * h.input + max(0, out * h.stride - h.before)
        bottom = (row + count - 1) % h.output * h.stride - h.before + (h.kernel - 1) * h.dilation + 1
        last = (row + count - 1) // h.output * h.input + min(h.input, bottom)
        if scan(d, x, source, max(first, scanned), last, flat, h, w, row_step, item, nans):
            nan_until = last
        scanned = last
        into = row * w.output
        for i in range(0, w.output, outputs):
            column = i * w.stride - w.before
            part = Part(
                plane,
                out,
                count,
                i,
                column,
                simd.between(wide, -column, w.input - column),
                column >= 0 and column + wide_lanes <= w.input,
                simd.between(d, 0, min(outputs, w.output - i)),
                i + lanes <= w.output,
                into + i,
            )
            pool_group(pool, x, row_step, h, w, part, values, positions, nans, first < nan_until, more)
