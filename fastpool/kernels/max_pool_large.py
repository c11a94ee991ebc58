"""Max pooling forward for windows that `fastpool.kernels.max_pool` is not for: wide, or dilated in a row.

Of a tile (see `fastpool.kernels.tile`) the maximum of every window is taken in passes, all of them the same
loop: the largest of some elements at constant distances, in place. First across, then down, which costs width +
height in place of width * height; and a long axis at stride 1 in two passes of about the square root of its
length, the first over neighbours, the second over every so-manieth of their maxima. Order makes ties right: a
pass goes from lower to higher positions and takes what is strictly larger. Only tiles that have a NaN pay for
its order.
"""

from __future__ import annotations

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import axes, ceil_div
from fastpool.kernels.launch import kernel
from fastpool.kernels.max_pool import outranks
from fastpool.kernels.tile import SHARED, distance, sweep, tile

#: Axes of so many places, at stride 1, are reduced in two passes.
LONG = 8


@inline
def take(d, dp, values, positions, base, count, offsets, steps, taps, careful, first):
    """Take the maxima of the elements at `offsets` from each of `count` places, in place.

    The position of the element at offsets[k] is steps[k], plus, except in a `first` pass, what it was.
    """
    d, dp = simd.widened(d, SHARED), simd.widened(dp, SHARED)
    end = base + count
    for i in range(base, end, simd.lanes(d)):
        best = simd.load(d, values, i + offsets[0])
        best_at = simd.splat(dp, 0)
        if positions is not None:  # noqa: SIM102 (the compiler's question, that the next one is not mixed into)
            if not first:
                best_at = simd.load(dp, positions, i + offsets[0])
        for k in range(1, taps):
            simd.rolled()
            v = simd.load(d, values, i + offsets[k])
            better = outranks(v, best, careful)
            best = simd.select(better, v, best)
            if positions is not None:
                at = simd.splat(dp, steps[k])
                if not first:
                    at = at + simd.load(dp, positions, i + offsets[k])
                best_at = simd.select(better, at, best_at)
        simd.store_before(values, i, best, end)
        if positions is not None:
            simd.store_before(positions, i, best_at, end)


@inline
def plan(a, phase, unit, step, offsets, steps, taps, reaches, first):
    """Plan the passes along one axis, from pass `first` on; return how many passes and taps there are then."""
    into = 0
    for i in range(first):
        simd.rolled()
        into += taps[i]
    near = a.kernel
    if a.kernel >= LONG and a.stride == 1:
        near = int(np.ceil(np.sqrt(a.kernel)))
    for k in range(near):
        simd.rolled()
        offsets[into + k], steps[into + k] = distance(a, k, phase, unit), k * step
    taps[first], reaches[first] = near, (near - 1) * a.dilation // a.stride * unit
    if near == a.kernel:
        return first + 1
    into += near
    for k in range(ceil_div(a.kernel, near)):
        simd.rolled()
        place = min(k * near, a.kernel - near)
        offsets[into + k], steps[into + k] = distance(a, place, phase, unit), place * step
    taps[first + 1], reaches[first + 1] = ceil_div(a.kernel, near), (a.kernel - near) * a.dilation * unit
    return first + 2


@inline
def reduce(values, positions, t, used, careful, more):
    """Run all passes: those across for each phase of rows, then those down, then the one through the slices."""
    d, dp, offsets, steps, taps, reaches, across, passes, _, _, _, _ = more
    at, count = 0, used
    for i in range(passes + (t.slices > 1)):
        count -= reaches[i]
        here, added = simd.offset(offsets, at), simd.offset(steps, at)
        for phase in range(0, t.slices * t.row_phases if i < passes else 1, 1 if i < across else t.row_phases):
            base = phase * t.column_phases * t.size
            if i == 0:
                take(d, dp, values, positions, base, count, here, added, taps[i], careful, True)
            else:
                take(d, dp, values, positions, base, count, here, added, taps[i], careful, False)
        at += taps[i]


@inline
def first_place(a, output):
    """Return the first place inside of a window, which is not behind the padding in most: so these divide nothing."""
    outside = a.before - output * a.stride
    return ceil_div(outside, a.dilation) if outside > 0 else 0


@inline
def finish(values, positions, at, number, out, column, outputs, more):
    """Where even the maximum is the lowest value, as padding is, name the window's first element."""
    d, dp, _, _, _, _, _, _, firsts, z, h, w = more
    if positions is not None:
        row = first_place(z, number) * h.places + first_place(h, out)
        end = at + (outputs if row > 0 else min(outputs, ceil_div(w.before, w.stride) - column))
        row_at, lowest = simd.splat(dp, row * w.places), simd.splat(d, simd.lowest(d))
        for i in range(at, end, simd.lanes(d)):
            first_at = row_at + simd.load(dp, firsts, column + i - at)
            found_at = simd.load(dp, positions, i)
            found_at = simd.select(simd.load(d, values, i) == lowest, first_at, found_at)
            simd.store_before(positions, i, found_at, end)


@kernel(writes=2)
def max_pool_large(start, stop, geometry, x, y, argmax):
    """Pool the output rows from start to stop, counted over all planes of x (N, C, D * H, W)."""
    z, h, w = axes(geometry)
    d = simd.tag(x)
    dp = simd.mask_tag(d, argmax)
    t = tile(z, h, w, stop - start, simd.lanes(d), 1 if argmax is None else 2)
    plans = np.empty((2, 2 * (h.kernel + w.kernel) + t.slices), np.int64)
    passes_of = np.zeros((2, 5), np.int64)
    offsets, steps = simd.pointer(plans), simd.pointer(plans[1])
    taps, reaches = simd.pointer(passes_of), simd.pointer(passes_of[1])
    across = plan(w, t.size, 1, 1, offsets, steps, taps, reaches, 0)
    passes = plan(h, t.column_phases * t.size, t.pitch, w.places, offsets, steps, taps, reaches, across)
    planned = 0
    for i in range(passes):
        simd.rolled()
        planned += taps[i]
    for k in range(t.slices):
        simd.rolled()
        offsets[planned + k], steps[planned + k] = k * t.slice_size, k * h.places * w.places
    taps[passes] = t.slices
    first_scratch = simd.scratch(dp, 0 if argmax is None else w.output + simd.lanes(d))
    firsts = simd.pointer(first_scratch)
    for i in range(0 if argmax is None else w.output):
        firsts[i] = first_place(w, i)
    more = (d, dp, offsets, steps, taps, reaches, across, passes, firsts, z, h, w)
    sweep(start, stop, z, h, w, t, d, x, y, argmax, simd.lowest(d), reduce, finish, simd.nans(d), more)
    simd.keep((plans, passes_of, first_scratch))
