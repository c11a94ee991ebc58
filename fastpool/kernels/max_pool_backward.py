"""Max pooling backward: every gradient goes to the element that its maximum came from.

Where few windows hold an element, `fastpool.kernels.columns.accumulate` asks every element which of
its windows chose it; that is vectors all the way. `scatter` is for the rest, large windows that
overlap much and strides that leave most of the input without a gradient: it sets a plane to zero and
adds to it one gradient at a time. Going through the outputs backwards, an element gets its gradients in
the order of the kernel's places, as the notebook's col2im adds them.
"""

from __future__ import annotations

import numpy as np

from fastpool.kernels import simd
from fastpool.kernels.geometry import axis, ceil_div, places_inside, plane_offset
from fastpool.kernels.launch import Kernel, inline


@Kernel
def scatter(start, stop, geometry, dy, argmax, dx):
    """Compute the rows of dx (N, C, H, W) from start to stop, counted over its planes; argmax must be valid."""
    h, w = axis(geometry, 0), axis(geometry, 1)
    d = simd.tag(dy)
    item = dy.itemsize
    zero = simd.splat(d, 0)
    reach = (h.kernel - 1) * h.dilation
    row = start
    while row < stop:
        # The rows of one plane that are ours, and the windows that touch them.
        plane, top = row // h.input, row % h.input
        bottom = min(h.input, top + stop - row)
        into = plane * h.input * w.input
        for i in range(into + top * w.input, into + bottom * w.input, simd.lanes(d)):
            simd.store_before(dx, i, zero, into + bottom * w.input)
        source = plane_offset(dy, plane, item)
        first = max(0, ceil_div(top + h.before - reach, h.stride))
        last = min(h.output - 1, (bottom - 1 + h.before) // h.stride)
        for out in range(last, first - 1, -1):
            for i in range(w.output - 1, -1, -1):
                at = out * w.output + i
                k = np.uint32(simd.get(argmax, plane * h.output * w.output + at))
                k_row = np.int64(k // np.uint32(w.places))
                y = out * h.stride - h.before + k_row * h.dilation
                if top <= y < bottom:
                    column = i * w.stride - w.before + (np.int64(k) - k_row * w.places) * w.dilation
                    place = into + y * w.input + column
                    simd.put(dx, place, simd.get(dx, place) + simd.get(dy, source + at))
        row += bottom - top


@inline
def in_padding(argmax, row, h, w, top, bottom, first, last):
    """Whether an argmax of this row, from column first to last, is outside of the places that are on an element."""
    for i in range(first, last):
        left, right = places_inside(w, i * w.stride - w.before)
        k = np.int64(simd.get(argmax, row * w.output + i))
        y = k // w.places
        if not (top <= y < bottom and left <= k - y * w.places < right):
            return True
    return False


@Kernel
def find_invalid(start, stop, geometry, argmax, found):
    """Set found[0] if, in the rows from start to stop, an argmax is not on an element of the input."""
    h, w = axis(geometry, 0), axis(geometry, 1)
    d = simd.tag(argmax)
    first, last = start * w.output, stop * w.output
    if h.places * w.places - 1 < simd.highest(d):
        most = simd.splat(d, h.places * w.places - 1)
        worse = most > most
        for i in range(first, last, simd.lanes(d)):
            worse = worse | (simd.load_between(d, argmax, i, 0, last - i) > most)
        if simd.any_lane(worse):
            found[0] = 1
    # What is within the window can still be padding, where the window reaches over an edge.
    inner = min(w.output, ceil_div(w.before, w.stride))
    outer = max(inner, min(w.output, (w.input - 1 - (w.places - 1) * w.dilation + w.before) // w.stride + 1))
    for row in range(start, stop):
        top, bottom = places_inside(h, row % h.output * h.stride - h.before)
        whole = bottom - top == h.places
        if (whole and in_padding(argmax, row, h, w, top, bottom, 0, inner)) or in_padding(
            argmax, row, h, w, top, bottom, outer if whole else 0, w.output
        ):
            found[0] = 1
