"""Windows that are whole planes, as of global pooling, and back: one run of elements each.

Kernels for windows of a plane fill a lane with each; here a vector has neighbouring elements of one window, and lanes
are reduced at the end: 7 x 7 maps take .7 of their time, with argmax .4. Sums are taken in as many blocks as these have
additions one after the other, so that their error is at most that of adding rows and columns up (see
`fastpool.kernels.avg_pool`). Back, maps of 7 x 7 to 28 x 28 take .05 to .6 of the time.

Of small planes, as many as there are lanes are a group: each leaves a vector in scratch, and these are combined, two at
a time, until one vector has the results of all. So lanes do not wait for others, and nothing is branched on: planes of
3 x 3 to 13 x 13 take .6 to .9 of the time, with argmax .35 to .65.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline
from fastpool.kernels.geometry import axes, layout, plane_offset
from fastpool.kernels.launch import kernel
from fastpool.kernels.rows import FAR, ask

#: Planes of up to so many vectors are small: sums have no more additions one after the other than rows and columns.
SMALL = 16
#: What is only written is asked for so many elements ahead: planes of 7 x 7 take .65 to .95 of the time, planes of one
#: vector 1.05 to 1.09.
AHEAD = 1 << 10


class Planes(NamedTuple):
    """What all planes have in common: the pointer to all elements, and how one lies."""

    elements: Any
    size: int
    block: int  # so many elements are one run, and summed up by themselves
    step: int  # from one block to the next
    width: int
    row_step: int


class Group(NamedTuple):
    """As many planes as there are lanes, and scratch for a vector of each."""

    apart: int
    share: int  # of each plane of the next group, what is asked for
    vectors: Any


@inline
def larger(a, b):
    """Return the larger of two elements, lane by lane; of NaN and another one, any."""
    return simd.select(b > a, b, a)


@inline
def added(a, b):
    """Return the sum."""
    return a + b


@inline
def lanes_reduced(d, v, combine):
    """Combine all lanes; return that in the first one."""
    lanes = simd.lanes(d)
    if lanes > 16:
        v = combine(v, simd.every(d, v, 1, 16))
    if lanes > 8:
        v = combine(v, simd.every(d, v, 1, 8))
    if lanes > 4:
        v = combine(v, simd.every(d, v, 1, 4))
    v = combine(v, simd.every(d, v, 1, 2))
    return combine(v, simd.every(d, v, 1, 1))


@inline
def rest_reduced(d, elements, at, count, other, v, seen, combine, again):
    """Combine a run of elements, some `again`, with v; add them to `seen`. Return both."""
    lanes = simd.lanes(d)
    for k in range(at, at + count - lanes + 1, lanes):
        simd.rolled()
        p = simd.load(d, elements, k)
        seen = seen + p
        v = combine(v, p)
    if count % lanes > 0:
        if again and count >= lanes:
            p = simd.load(d, elements, at + count - lanes)
        else:
            p = simd.load_or(other, elements, at + count - count % lanes, 0, count % lanes)
        seen = seen + p
        v = combine(v, p)
    return v, seen


@inline
def run_reduced(d, elements, at, count, other, combine, again):
    """Combine a run of elements, some `again`; return that as a vector, and another that is NaN if an element is."""
    lanes = simd.lanes(d)
    a = b = c = e = other
    seen = simd.splat(d, 0)
    bulk = count - count % (4 * lanes)
    for k in range(at, at + bulk, 4 * lanes):  # four side by side: each waits for its last one
        p, q = simd.load(d, elements, k), simd.load(d, elements, k + lanes)
        r, s = simd.load(d, elements, k + 2 * lanes), simd.load(d, elements, k + 3 * lanes)
        seen = seen + ((p + q) + (r + s))
        a, b, c, e = combine(a, p), combine(b, q), combine(c, r), combine(e, s)
    a, seen = rest_reduced(d, elements, at + bulk, count - bulk, other, a, seen, combine, again)
    return combine(combine(a, b), combine(c, e)), seen


@inline
def blocks(d, source, w, size):
    """Return how many elements a block has, and how far it is to the next: rows of a plane need not be one run."""
    if source.row_step == w.input or size == w.input:
        step = 4 * simd.lanes(d)
        block = (int(np.sqrt(size / step)) + 1) * step
        return block, block
    return w.input, source.row_step


@inline
def plane_reduced(d, planes, base, other, combine, again):
    """Combine the elements of a plane; return that in all lanes, and whether there may be a NaN."""
    total, seen = other, simd.splat(d, 0)
    for first in range(0, planes.size, planes.block):
        count = min(planes.block, planes.size - first)
        v, met = run_reduced(d, planes.elements, base, count, other, combine, again)
        total, seen = combine(total, v), seen + met
        base += planes.step
    return simd.every(d, lanes_reduced(d, total, combine), 0, 0), simd.any_lane(simd.is_nan(seen))


@inline
def first_of(d, planes, base, best, nan):
    """Return where the first element of a plane is that is NaN, or that is the best; -1 if there is none."""
    lanes = simd.lanes(d)
    for first in range(0, planes.size, planes.block):
        count = min(planes.block, planes.size - first)
        for k in range(0, count, lanes):
            if count >= lanes:
                k = min(k, count - lanes)  # again lanes in which there was none
                v = simd.load(d, planes.elements, base + k)
                found = simd.is_nan(v) if nan else v == best
            else:
                v = simd.load_between(d, planes.elements, base, 0, count)
                found = simd.between(d, 0, count) & (simd.is_nan(v) if nan else v == best)
            if simd.any_lane(found):
                return first + k + simd.first_lane(found)
        base += planes.step
    return -1


@inline
def smaller(a, b):
    """Return the smaller of two positions, lane by lane."""
    return simd.select(a < b, a, b)


@inline
def group_reduced(d, vectors, combine):
    """Combine the lanes of as many vectors as there are lanes, in place; return the results of all in one."""
    lanes = simd.lanes(d)
    pair = simd.widened(d, 2)
    many = lanes
    while many > 1:
        many //= 2
        for i in range(many):
            simd.rolled()
            v = simd.load(pair, vectors, 2 * i * lanes)
            simd.store(vectors, i * lanes, combine(simd.every(d, v, 2, 0), simd.every(d, v, 2, 1)))
    return simd.load(d, vectors, 0)


@inline
def combined(d, planes, group, base, other, combine, again):
    """Combine the elements of each plane of a group; return that, and whether there may be a NaN.

    Meanwhile a share of each of the next group's is asked for.
    """
    lanes = simd.lanes(d)
    seen = simd.splat(d, 0)
    for i in range(lanes):
        at = base + i * group.apart
        ask(d, planes.elements, at + lanes * group.apart, group.share)
        v, seen = rest_reduced(d, planes.elements, at, planes.size, other, other, seen, combine, again)
        simd.store(group.vectors, i * lanes, v)
    return group_reduced(d, group.vectors, combine), simd.any_lane(simd.is_nan(seen))


@inline
def first_of_each(d, dp, planes, group, base, values, plane, numbers, vectors):
    """Return where the first element of each plane of a group is that is its value."""
    lanes, size = simd.lanes(d), planes.size
    lowest, ascending = simd.splat(d, simd.lowest(d)), simd.load(dp, numbers, 0)
    for i in range(lanes):
        at = base + i * group.apart
        best = simd.splat(d, simd.load_scalar(values, plane + i))
        found = simd.splat(dp, simd.highest(dp))
        if size % lanes > 0:
            last = max(0, size - lanes)
            v = simd.load_or(lowest, planes.elements, at + last, 0, size)
            found = simd.select(v == best, ascending + simd.splat(dp, last), found)
        for k in range(size // lanes * lanes - lanes, -1, -lanes):  # what comes first is written last
            simd.rolled()
            v = simd.load(d, planes.elements, at + k)
            found = simd.select(v == best, ascending + simd.splat(dp, k), found)
        simd.store(vectors, i * lanes, found)
    return group_reduced(dp, vectors, smaller)


@inline
def sweep(start, stop, source, group, reduce_group, reduce, values, positions, more):
    """Call `reduce(base, plane, values, positions, more)` for the planes from start to stop, with where each begins.

    That is counted on, as the divisions of `plane_offset` take as long as a small plane. Of small ones, so many at a
    time are a group, for which `reduce_group` is called. It returns whether it did not do what is to be done.
    """
    one = source.outer_step == source.inner * source.inner_step
    plane, outer = start, start // source.inner
    while plane < stop:
        behind = stop if one else min(stop, (outer + 1) * source.inner)
        base = plane_offset(source, plane)
        while plane < behind:
            many = 1
            if group > 0 and plane + group <= behind:
                many = group
            if many == 1 or reduce_group(base, plane, values, positions, more):
                for number in range(plane, plane + many):
                    reduce(base, number, values, positions, more)
                    base += source.inner_step
            else:
                base += many * source.inner_step
            plane += many
        outer += 1


@inline
def put_largest(base, plane, values, positions, more):
    """Write the first maximum of a plane, and where it is."""
    d, planes, _, _ = more
    best, nan = plane_reduced(d, planes, base, simd.splat(d, simd.lowest(d)), larger, True)
    at = -1
    if nan:  # or infinities of either sign
        at = first_of(d, planes, base, best, True)
        if at >= 0:
            there = base + at // planes.width * planes.row_step + at % planes.width
            best = simd.splat(d, simd.load_scalar(planes.elements, there))
    if positions is not None:
        if at < 0:
            at = first_of(d, planes, base, best, False)
        simd.store_scalar(positions, plane, at)
    simd.store_one(values, plane, best)


@inline
def put_largest_of_each(base, plane, values, positions, more):
    """Write the first maximum of each plane of a group, and where it is; return whether there may be a NaN."""
    _, planes, group, (d, dp, numbers, vectors) = more
    best, nan = combined(d, planes, group, base, simd.splat(d, simd.lowest(d)), larger, True)
    simd.store(values, plane, best)
    if positions is not None and not nan:
        at = first_of_each(d, dp, planes, group, base, values, plane, numbers, vectors)
        simd.store(positions, plane, at)
    return nan


@inline
def put_average(base, plane, values, positions, more):
    """Write the average of a plane."""
    d, planes, _, (_, divisor) = more
    total, _ = plane_reduced(d, planes, base, simd.splat(d, 0), added, False)
    simd.store_one(values, plane, total / simd.splat(d, divisor))


@inline
def put_average_of_each(base, plane, values, positions, more):
    """Write the average of each plane of a group."""
    _, planes, group, (d, divisor) = more
    total, _ = combined(d, planes, group, base, simd.splat(d, 0), added, False)
    simd.store(values, plane, total / simd.splat(d, divisor))
    return False


@inline
def lie(d, x, z, h, w):
    """Return the layout of x, what its planes have in common, and how many of these are a group.

    Those are as many as there are lanes, or none, where planes are large, or not one run.
    """
    source = layout(x)
    size = z.input * h.input * w.input
    block, step = blocks(simd.narrowed(d, 2), source, w, size)
    one = source.row_step == w.input or size == w.input
    many = simd.lanes(d) if one and size <= SMALL * simd.lanes(d) else 0
    return source, Planes(simd.pointer(x), size, block, step, w.input, source.row_step), many


@kernel(writes=2)
def max_pool_whole(start, stop, geometry, x, y, argmax):
    """Take the first maximum of the planes from start to stop of x (A, B, D * H, W), and where it is."""
    z, h, w = axes(geometry)
    d = simd.tag(x)
    dp, lanes = simd.mask_tag(d, argmax), simd.lanes(d)
    source, planes, many = lie(d, x, z, h, w)
    scratch, numbers_scratch = simd.scratch(d, many * lanes), simd.scratch(dp, lanes)
    at_scratch = simd.scratch(dp, 0 if argmax is None else many * lanes)
    numbers = simd.pointer(numbers_scratch)
    for i in range(lanes):
        numbers[i] = i
    group = Group(source.inner_step, planes.size if source.nbytes >= FAR else 0, simd.pointer(scratch))
    more = (simd.narrowed(d, 2), planes, group, (d, dp, numbers, simd.pointer(at_scratch)))
    sweep(start, stop, source, many, put_largest_of_each, put_largest, simd.pointer(y), simd.pointer(argmax), more)
    simd.keep((scratch, numbers_scratch, at_scratch))


@kernel()
def avg_pool_whole(start, stop, geometry, x, heights, widths, y):
    """Average the planes from start to stop of x (A, B, D * H, W)."""
    z, h, w = axes(geometry)
    d = simd.tag(x)
    source, planes, many = lie(d, x, z, h, w)
    scratch = simd.scratch(d, many * simd.lanes(d))
    group = Group(source.inner_step, planes.size if source.nbytes >= FAR else 0, simd.pointer(scratch))
    more = (simd.narrowed(d, 2), planes, group, (d, simd.pointer(heights)[0] * simd.pointer(widths)[0]))
    sweep(start, stop, source, many, put_average_of_each, put_average, simd.pointer(y), None, more)
    simd.keep((scratch,))


@kernel()
def max_pool_whole_backward(start, stop, geometry, dy, argmax, dx):
    """Set the rows of dx (A, B, D * H, W) from start to stop to zero but for what each plane's maximum gets."""
    z, h, w = axes(geometry)
    d, source = simd.tag(dy), layout(dy)
    gradients, positions, result = simd.pointer(dy), simd.pointer(argmax), simd.pointer(dx)
    size, at, end = z.input * h.input * w.input, start * w.input, stop * w.input
    zero, nothing = simd.splat(d, 0), simd.scalar(d, 0)
    plane = at // size
    while at < end:
        behind = min(end, (plane + 1) * size)
        for i in range(at, behind, simd.lanes(d)):  # what is behind is the next plane
            simd.prefetch(result, i + AHEAD)
            simd.store_before(result, i, zero, end)
        chosen = plane * size + positions[plane]
        if at <= chosen < behind:
            simd.store_scalar(result, chosen, simd.load_scalar(gradients, plane_offset(source, plane)) + nothing)
        plane += 1
        at = behind


@kernel()
def avg_pool_whole_backward(start, stop, geometry, dy, heights, widths, dx):
    """Set the rows of dx (A, B, D * H, W) from start to stop to what every element of a plane gets."""
    z, h, w = axes(geometry)
    d, source = simd.tag(dy), layout(dy)
    gradients, result = simd.pointer(dy), simd.pointer(dx)
    size, at, end = z.input * h.input * w.input, start * w.input, stop * w.input
    divisor = simd.pointer(heights)[0] * simd.pointer(widths)[0]
    plane = at // size
    while at < end:
        behind = min(end, (plane + 1) * size)
        share = simd.splat(d, simd.load_scalar(gradients, plane_offset(source, plane)) / divisor)
        for i in range(at, behind, simd.lanes(d)):  # what is behind is the next plane
            simd.prefetch(result, i + AHEAD)
            simd.store_before(result, i, share, end)
        plane += 1
        at = behind
