"""Max pooling forward: the values and, where asked for, the argmax; for small windows, see `fastpool.kernels.rows`.

Order makes ties right: of lower and higher positions, the higher must be strictly larger. For that, an argmax
is taken across every row of a window first, then down; values are, which is less work, first down.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import NOWHERE, ONE, axes, layout
from fastpool.kernels.hold import HELD, is_far
from fastpool.kernels.launch import Kernel
from fastpool.kernels.rows import (
    AHEAD,
    ask,
    complete,
    rows_alike,
    stacked,
    sweep,
    sweep_slices,
    window_slices,
)


@inline
def outranks(v, best, careful):
    """Where v comes before best in np.argmax's order: it is larger, or, if there may be NaN, the first of them."""
    if careful:
        return simd.greater_or_nan(v, best) & simd.is_number(best)
    return v > best


@inline
def larger(best, v, careful):
    """Return the larger of two."""
    return simd.select(outranks(v, best, careful), v, best)


@inline
def merge(d, dp, kept, kept_at, slices, h, w, values, positions, careful, more):
    """Take the maxima of what was pooled of each slice."""
    into, shift, size = slices.into, 0, h.places * w.places
    for _ in range(slices.runs):
        for i in range(0, slices.size, simd.lanes(d)):
            best = simd.load(d, kept, slices.offsets[0] + shift + i)
            if positions is None:
                for k in range(1, slices.many):
                    simd.rolled()
                    best = larger(best, simd.load(d, kept, slices.offsets[k] + shift + i), careful)
            else:
                at = simd.load(dp, kept_at, slices.offsets[0] + shift + i) + simd.splat(dp, slices.first * size)
                for k in range(1, slices.many):
                    simd.rolled()
                    other = simd.load(d, kept, slices.offsets[k] + shift + i)
                    better = outranks(other, best, careful)
                    best = simd.select(better, other, best)
                    other_at = simd.load(dp, kept_at, slices.offsets[k] + shift + i)
                    at = simd.select(better, other_at + simd.splat(dp, (slices.first + k) * size), at)
                simd.store_before(positions, into + i, at, into + slices.size)
            simd.store_before(values, into + i, best, into + slices.size)
        into += slices.size
        shift += slices.apart


@cache
def max_pool(stride: int, many: int, deep: bool, kept: bool, long: bool, overlap: bool = False) -> Kernel:
    """Return the kernel for windows `stride` columns apart, over three axes if deep or kept, in long rows if long.

    It reads `many` vectors at a time. See `fastpool.kernels.rows`. Where the last row of a window is the first one of
    the next, its maxima and their positions are used twice, as `overlap` says, in planes or slices whose rows are not
    long: of windows of 3 x 3 two apart that spares a fifth of the time. For others, it would cost a tenth to ask.
    """

    @inline
    def across(d, dp, row, taps, first_at, careful):
        """Return the maxima of neighbouring lanes, and which of them these are."""
        best, at = simd.every(d, row, stride, 0), first_at
        if taps > 1:
            v = simd.every(d, row, stride, 1)
            better = outranks(v, best, careful)
            best, at = simd.select(better, v, best), simd.select(better, simd.splat(dp, 1), at)
        if taps > 2:
            v = simd.every(d, row, stride, 2)
            better = outranks(v, best, careful)
            best, at = simd.select(better, v, best), simd.select(better, simd.splat(dp, 2), at)
        if taps > 3:
            v = simd.every(d, row, stride, 3)
            better = outranks(v, best, careful)
            best, at = simd.select(better, v, best), simd.select(better, simd.splat(dp, 3), at)
        if taps > 4:
            v = simd.every(d, row, stride, 4)
            better = outranks(v, best, careful)
            best, at = simd.select(better, v, best), simd.select(better, simd.splat(dp, 4), at)
        if taps > 5:
            v = simd.every(d, row, stride, 5)
            better = outranks(v, best, careful)
            best, at = simd.select(better, v, best), simd.select(better, simd.splat(dp, 5), at)
        if taps > 6:
            v = simd.every(d, row, stride, 6)
            better = outranks(v, best, careful)
            best, at = simd.select(better, v, best), simd.select(better, simd.splat(dp, 6), at)
        if taps > 7:
            v = simd.every(d, row, stride, 7)
            better = outranks(v, best, careful)
            best, at = simd.select(better, v, best), simd.select(better, simd.splat(dp, 7), at)
        return best, at

    @inline
    def pool(elements, source, h, w, part, values, positions, careful, more):
        """Pool one vector of each row of a group; return whether there was a NaN."""
        d, dp, firsts, z, _, _ = more
        lowest = simd.splat(simd.widened(d, many), simd.lowest(d))
        first_at = simd.splat(dp, 0)
        if part.column < 0:
            first_at = simd.load(dp, firsts, part.first)
        plane, out, into, ahead = part.plane, part.out, part.into, part.ahead
        base, near, count = window_slices(source, z, h.input, plane)
        step, slice_step = h.dilation * source.row_step, z.dilation * h.input * source.row_step
        # A mask takes .85 to .95 of the time of a sum, 1.1 in short rows, where there is nothing else to wait for: what
        # is added waits for what was, and a window's first row does not wait for others.
        seen = seen_others = simd.no_nan(d) if long else simd.splat(simd.widened(d, many), 0)
        shared, shared_best, shared_at = NOWHERE, simd.splat(d, 0), first_at
        remaining, behind = part.rows, complete(h)
        while remaining > 0:
            first, last, alike, top = rows_alike(h, out, remaining, behind)
            offset = base + part.column + top * source.row_step
            remaining -= alike
            out += alike
            for _ in range(alike):
                for j in range(part.vectors if long else 1):
                    simd.rolled()
                    for k in range(part.slices):
                        ask(d, elements, ahead + k * slice_step, part.share)
                    ahead += part.share
                    at, target = offset + j * part.step * stride, into + j * part.step
                    if positions is None:
                        if stride == 1:
                            simd.prefetch(values, target + AHEAD)
                        v = simd.load_where(part.inside, part.all_inside, lowest, elements, at)
                        seen = simd.see(seen, v)
                        for i in range(count):
                            for k in range(1 if i == 0 else 0, last - first):
                                simd.rolled()
                                there = at + i * slice_step + k * step
                                other = simd.load_where(part.inside, part.all_inside, lowest, elements, there)
                                if long:
                                    seen_others = simd.see(seen_others, other)
                                else:
                                    seen = simd.see(seen, other)
                                v = simd.select(outranks(other, v, careful), other, v)
                        best, _ = across(d, dp, v, w.kernel, first_at, careful)
                    else:
                        place = (near * h.places + first) * w.places
                        best, best_at = simd.splat(d, simd.lowest(d)), first_at + simd.splat(dp, place)
                        begin = 0
                        if overlap and at == shared:
                            best, best_at = shared_best, shared_at + simd.splat(dp, place)
                            place += w.places
                            begin = 1
                        for i in range(count):
                            for k in range(begin, last - first):
                                simd.rolled()
                                there = at + i * slice_step + k * step
                                v = simd.load_where(part.inside, part.all_inside, lowest, elements, there)
                                seen = simd.see(seen, v)
                                other, other_at = across(d, dp, v, w.kernel, first_at, careful)
                                better = outranks(other, best, careful)
                                best = simd.select(better, other, best)
                                best_at = simd.select(better, other_at + simd.splat(dp, place), best_at)
                                place += w.places
                                if overlap:
                                    shared_best, shared_at = other, other_at
                            place += (h.places - last + first) * w.places
                        if overlap:
                            shared = at + (last - first - 1) * step
                        simd.store_first(positions, target, best_at, part.outputs)
                    simd.store_first(values, target, best, part.outputs)
                into += w.output
                offset += h.stride * source.row_step
            if out == h.output:
                out = 0
                plane += 1
                base, near, count = window_slices(source, z, h.input, plane)
        return simd.saw_nan(seen) or simd.saw_nan(seen_others)

    @inline
    def pool_rows(start, stop, h, w, elements, source, values, positions, more):
        """Pool rows of planes; return whether there was a NaN."""
        d = more[0]
        wide = simd.widened(d, many)
        return sweep(
            start, stop, more[3], h, w, d, wide, elements, source, values, positions, pool, simd.nans(d), more, long,
            more[4], more[5],
        )  # fmt: skip

    def body(start, stop, geometry, x, y, argmax):
        """Pool the output rows from start to stop, counted over all planes of x (N, C, D * H, W)."""
        z, h, w = axes(geometry)
        d = simd.tag(x)
        dp = simd.mask_tag(d, argmax)
        # Of each window that may begin in the padding, the first place that is an element.
        first_scratch = simd.scratch(dp, w.before + simd.lanes(d))
        firsts = simd.pointer(first_scratch)
        for i in range(first_scratch.size):
            firsts[i] = max(0, w.before - i * w.stride)
        far = is_far(geometry) and not kept
        held_array = np.empty(HELD + 2 * simd.BYTES if far else 0, y.dtype)
        more = (d, dp, firsts, z if deep else ONE, None if kept else simd.pointer(held_array), far)
        if kept:
            sweep_slices(start, stop, z, h, w, d, x, y, argmax, pool_rows, more, merge, simd.nans(d))
        else:
            source, h = stacked(layout(x), z, h, stop)
            pool_rows(start, stop, h, w, simd.pointer(x), source, simd.pointer(y), simd.pointer(argmax), more)
        simd.keep((first_scratch, held_array))

    variant = f"{'-deep' * deep}{'-kept' * kept}{'-long' * long}{'-overlap' * overlap}"
    body.__name__ = f"max_pool-{stride}-{many}{variant}"
    return Kernel(body, writes=2)
