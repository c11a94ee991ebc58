"""The contract in plain Python loops. It shares no code with the package."""

import math
from fractions import Fraction
from itertools import product

import numpy as np


def windows(spatial, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, output_size=None):
    """Return the output shape, and of every window its (place, element) pairs in row-major order.

    A place is a position in the kernel and an element one in the plane, both counted row-major; places
    outside the input are left out.
    """
    kernel_size = both(kernel_size)
    stride = kernel_size if stride is None else both(stride)
    axes = [
        _axis(*axis, ceil_mode)
        for axis in zip(spatial, kernel_size, stride, both(padding), both(dilation), both(output_size))
    ]
    found = [
        [(p * kernel_size[1] + q, i * spatial[1] + j) for (p, i), (q, j) in product(row, column)]
        for row, column in product(*axes)
    ]
    return tuple(map(len, axes)), found


def both(value):
    return (value, value) if value is None or isinstance(value, (str, int)) else tuple(value)


def _axis(length, kernel, stride, padding, dilation, count, ceil_mode):
    reach = dilation * (kernel - 1) + 1
    if padding in ("same", "same_lower"):
        total = max(0, (math.ceil(Fraction(length, stride)) - 1) * stride + reach - length)
        before = total // 2 if padding == "same" else total - total // 2
        after = total - before
    else:
        before, after = (0, 0) if padding == "valid" else both(padding)
    if count is None:
        steps = Fraction(length + before + after - reach, stride)
        count = (math.ceil if ceil_mode else math.floor)(steps) + 1
        if ceil_mode and (count - 1) * stride >= length + before:
            count -= 1
    starts = [window * stride - before for window in range(count)]
    return [
        [(tap, start + tap * dilation) for tap in range(kernel) if 0 <= start + tap * dilation < length]
        for start in starts
    ]


def max_pool2d(x, *args, **kwargs):
    """Return y, argmax and indices; ValueError if a window has no element."""
    output, found = windows(x.shape[-2:], *args, **kwargs)
    if not all(found):
        raise ValueError("a window has no element")
    best = [[_best(plane, window) for window in found] for plane in _planes(x).tolist()]
    shape = x.shape[:-2] + output
    y, argmax, indices = np.moveaxis(np.array(best, object).reshape(*shape, 3), -1, 0)
    return y.astype(x.dtype), argmax.astype(np.int64), indices.astype(np.int64)


def _best(plane, window):
    (place, element), *others = window
    best = plane[element], place, element
    for place, element in others:
        value = plane[element]
        if best[0] == best[0] and (value > best[0] or value != value):
            best = value, place, element
    return best


def max_pool2d_backward(dy, argmax, input_shape, *args, **kwargs):
    _, found = windows(input_shape[-2:], *args, **kwargs)
    dx = np.zeros(input_shape, dy.dtype)
    terms = [(place, element, window) for window, pairs in enumerate(found) for place, element in pairs]
    for into, given, chosen in zip(_planes(dx), _planes(dy), _planes(argmax)):
        for place, element, window in sorted(terms):  # in kernel order
            if chosen[window] == place:
                into[element] += given[window]
    return dx


def columns_shape(input_shape, kernel_size, output_size=None, stride=1, padding=0, dilation=1):
    n, c, *spatial = input_shape
    output, _ = windows(spatial, kernel_size, stride, padding, dilation, output_size=output_size)
    return c * math.prod(both(kernel_size)), n * math.prod(output)


def im2col(x, kernel_size, output_size=None, stride=1, padding=0, dilation=1):
    n, c, *spatial = x.shape
    output, found = windows(spatial, kernel_size, stride, padding, dilation, output_size=output_size)
    dtype = x.dtype if x.dtype.kind == "f" else np.float64
    columns = np.zeros((c, math.prod(both(kernel_size)), n, len(found)), dtype)
    for image, channel in np.ndindex(n, c):
        plane = x[image, channel].reshape(-1)
        for window, pairs in enumerate(found):
            for place, element in pairs:
                columns[channel, place, image, window] = plane[element]
    return columns.reshape(c * columns.shape[1], n * math.prod(output))


def col2im(cols, input_shape, kernel_size, output_size=None, stride=1, padding=0, dilation=1):
    n, c, *spatial = input_shape
    output, found = windows(spatial, kernel_size, stride, padding, dilation, output_size=output_size)
    dtype = cols.dtype if cols.dtype.kind == "f" else np.float64
    columns = cols.astype(dtype).reshape(c, math.prod(both(kernel_size)), n, math.prod(output))
    dx = np.zeros((n, c, math.prod(spatial)), dtype)
    terms = [(place, element, window) for window, pairs in enumerate(found) for place, element in pairs]
    for image, channel in np.ndindex(n, c):
        for place, element, window in sorted(terms):  # in kernel order
            dx[image, channel, element] += columns[channel, place, image, window]
    return dx.reshape(input_shape)


def _planes(x):
    return x.reshape(math.prod(x.shape[:-2]), x.shape[-2] * x.shape[-1])
