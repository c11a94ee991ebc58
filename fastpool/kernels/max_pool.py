"""Max pooling forward: the values and, where asked for, the argmax; for small windows, see `fastpool.kernels.rows`.

Order makes ties right: of lower and higher positions, the higher must be strictly larger. For that, an argmax
is taken across every row of a window first, then down; values are, which is less work, first down.
"""

from __future__ import annotations

from functools import cache

from fastpool.kernels import simd
from fastpool.kernels.geometry import axis, places_inside
from fastpool.kernels.launch import Kernel, inline
from fastpool.kernels.rows import ask, next_slice, slice_places, sweep, vectors


@inline
def outranks(v, best, careful):
    """Where v comes before best in np.argmax's order: it is larger, or, if there may be NaN, the first of them."""
    if careful:
        return simd.greater_or_nan(v, best) & simd.is_number(best)
    return v > best


@cache
def max_pool(stride: int, deep: bool) -> Kernel:
    """Return the kernel for windows that are `stride` columns apart; deep ones are over three axes."""
    many = vectors(stride)

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
    def pool(source, z, h, w, part, values, positions, careful, more):
        """Pool one vector of each row of a group; return whether there was a NaN."""
        d, dp, elements, firsts = more
        lowest = simd.splat(simd.widened(d, many), simd.lowest(d))
        first_at = simd.splat(dp, 0)
        if part.column < 0:
            first_at = simd.load(dp, firsts, part.first)
        plane, number, out, into, ahead = part.plane, part.slice, part.out, part.into, part.ahead
        near, far, base = slice_places(z, h, source, plane, number)
        base += part.column
        step = h.dilation * source.row_step
        nan = False
        for _ in range(part.rows):
            ask(d, elements, ahead, part.share)
            ahead += part.share
            top = out * h.stride - h.before
            first, last = places_inside(h, top)
            # The rows of the window, slice by slice.
            inner = last - first
            count = (far - near) * inner
            offset, left = base + (top + first * h.dilation) * source.row_step, inner
            if positions is None:
                v = simd.load_where(part.inside, part.all_inside, lowest, elements, offset)
                if count < 2:
                    nan |= simd.any_lane(simd.is_nan(v))
                for _ in range(1, count):
                    simd.rolled()
                    offset += step
                    if z is not None:
                        left -= 1
                        if left == 0:
                            offset += z.dilation * h.input * source.row_step - inner * step
                            left = inner
                    other = simd.load_where(part.inside, part.all_inside, lowest, elements, offset)
                    nan |= simd.any_lane(simd.either_nan(v, other))
                    v = simd.select(outranks(other, v, careful), other, v)
                best, _ = across(d, dp, v, w.kernel, first_at, careful)
            else:
                place = (near * h.places + first) * w.places
                best, at = simd.splat(d, simd.lowest(d)), first_at + simd.splat(dp, place)
                for _ in range(count):
                    simd.rolled()
                    v = simd.load_where(part.inside, part.all_inside, lowest, elements, offset)
                    nan |= simd.any_lane(simd.is_nan(v))
                    offset += step
                    other, other_at = across(d, dp, v, w.kernel, first_at, careful)
                    better = outranks(other, best, careful)
                    best = simd.select(better, other, best)
                    at = simd.select(better, other_at + simd.splat(dp, place), at)
                    place += w.places
                    if z is not None:
                        left -= 1
                        if left == 0:
                            offset += z.dilation * h.input * source.row_step - inner * step
                            place += (h.places - inner) * w.places
                            left = inner
                simd.store_where(part.outputs, part.all_outputs, positions, into, at)
            simd.store_where(part.outputs, part.all_outputs, values, into, best)
            into += w.output
            out += 1
            if out == h.output:
                out = 0
                plane, number = next_slice(z, plane, number)
                near, far, base = slice_places(z, h, source, plane, number)
                base += part.column
        return nan

    def body(start, stop, geometry, x, y, argmax):
        """Pool the output rows from start to stop, counted over all planes of x (N, C, D * H, W)."""
        h, w = axis(geometry, 1), axis(geometry, 2)
        z = axis(geometry, 0) if deep else None
        d = simd.tag(x)
        dp = simd.position_tag(d, argmax)
        # Of each window that may begin in the padding, the first place that is an element.
        first_scratch = simd.scratch(dp, w.before + simd.lanes(d))
        firsts = simd.pointer(first_scratch)
        for i in range(first_scratch.size):
            firsts[i] = max(0, w.before - i * w.stride)
        more = (d, dp, simd.pointer(x), firsts)
        sweep(start, stop, z, h, w, d, simd.widened(d, many), x, y, argmax, pool, simd.nans(d), more)
        simd.keep((first_scratch,))

    body.__name__ = f"max_pool-{stride}{'-deep' * deep}"
    return Kernel(body, writes=2)
