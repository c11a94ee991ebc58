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
    before, after = _margins(length, reach, stride, padding)
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


def _margins(length, reach, stride, padding):
    if padding in ("same", "same_lower"):
        total = max(0, (math.ceil(Fraction(length, stride)) - 1) * stride + reach - length)
        half = total // 2
        return (half, total - half) if padding == "same" else (total - half, half)
    return (0, 0) if padding == "valid" else both(padding)


def first(x):
    """View an array (..., H, W, C), or turn its shape, to (..., C, H, W)."""
    return (*x[:-3], x[-1], *x[-3:-1]) if isinstance(x, tuple) else np.moveaxis(x, -1, -3)


def last(x):
    """View an array (..., C, H, W) as (..., H, W, C)."""
    return np.moveaxis(x, -3, -1)


def max_pool2d(x, *args, data_format="channels_first", **kwargs):
    """Return y, argmax and indices; ValueError if a window has no element."""
    if data_format == "channels_last":
        return tuple(map(last, max_pool2d(first(x), *args, **kwargs)))
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


def max_pool2d_backward(dy, argmax, input_shape, *args, data_format="channels_first", **kwargs):
    if data_format == "channels_last":
        return last(max_pool2d_backward(first(dy), first(argmax), first(input_shape), *args, **kwargs))
    _, found = windows(input_shape[-2:], *args, **kwargs)
    dx = np.zeros(input_shape, dy.dtype)
    terms = [(place, element, window) for window, pairs in enumerate(found) for place, element in pairs]
    for into, given, chosen in zip(_planes(dx), _planes(dy), _planes(argmax)):
        for place, element, window in sorted(terms):  # in kernel order
            if chosen[window] == place:
                into[element] += given[window]
    return dx


def divisors(
    spatial,
    kernel_size,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode=False,
    count_include_pad=True,
    divisor_override=None,
):
    """Of every window what its sum is divided by."""
    output, found = windows(spatial, kernel_size, stride, padding, dilation, ceil_mode)
    if count_include_pad:  # padding are elements of the padded input
        reach = [d * (k - 1) + 1 for k, d in zip(both(kernel_size), both(dilation))]
        step = both(kernel_size if stride is None else stride)
        padded = [n + sum(_margins(n, *axis)) for n, *axis in zip(spatial, reach, step, both(padding))]
        _, found = windows(padded, kernel_size, stride, 0, dilation, output_size=output)
    return [divisor_override or len(window) for window in found]


def avg_pool2d(x, *args, data_format="channels_first", count_include_pad=True, divisor_override=None, **kwargs):
    """Return the averages in float64, from exact sums; ValueError as in `max_pool2d`."""
    by = {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    if data_format == "channels_last":
        return last(avg_pool2d(first(x), *args, **by, **kwargs))
    output, found = windows(x.shape[-2:], *args, **kwargs)
    if not all(found):
        raise ValueError("a window has no element")
    parts = divisors(x.shape[-2:], *args, **by, **kwargs)
    y = [
        [_sum(plane[element] for _, element in window) / part for window, part in zip(found, parts)]
        for plane in _planes(x).tolist()
    ]
    return np.array(y, float).reshape(x.shape[:-2] + output)


def avg_pool2d_backward(dy, input_shape, *args, data_format="channels_first", **kwargs):
    """Return the gradient in float64, from exact sums."""
    if data_format == "channels_last":
        return last(avg_pool2d_backward(first(dy), first(input_shape), *args, **kwargs))
    parts = divisors(input_shape[-2:], *args, **kwargs)
    by = {"count_include_pad", "divisor_override"}
    _, found = windows(input_shape[-2:], *args, **{name: kwargs[name] for name in kwargs.keys() - by})
    dx = np.zeros(input_shape)
    for into, given in zip(_planes(dx), _planes(dy).tolist()):
        shares = [[] for _ in into]
        for window, part, value in zip(found, parts, given):
            for _, element in window:
                shares[element].append(value / part)
        into[:] = list(map(_sum, shares))
    return dx


def _sum(values):
    values = list(values)
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(map(float, values))


def columns_shape(input_shape, kernel_size, output_size=None, stride=1, padding=0, dilation=1):
    n, c, *spatial = input_shape
    output, _ = windows(spatial, kernel_size, stride, padding, dilation, output_size=output_size)
    return c * math.prod(both(kernel_size)), n * math.prod(output)


def im2col(x, kernel_size, output_size=None, stride=1, padding=0, dilation=1):
    columns = _columns(x, kernel_size, stride, padding, dilation, output_size)
    c, taps, n, count = columns.shape
    return columns.reshape(c * taps, n * count)


def unfold(x, kernel_size, stride=1, padding=0, dilation=1):
    columns = _columns(x, kernel_size, stride, padding, dilation)
    c, taps, n, count = columns.shape
    return columns.transpose(2, 0, 1, 3).reshape(n, c * taps, count)


def _columns(x, kernel_size, stride, padding, dilation, output_size=None):
    n, c, *spatial = x.shape
    _, found = windows(spatial, kernel_size, stride, padding, dilation, output_size=output_size)
    dtype = x.dtype if x.dtype.kind == "f" else np.float64
    columns = np.zeros((c, math.prod(both(kernel_size)), n, len(found)), dtype)
    for image, channel in np.ndindex(n, c):
        plane = x[image, channel].reshape(-1)
        for window, pairs in enumerate(found):
            for place, element in pairs:
                columns[channel, place, image, window] = plane[element]
    return columns


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


def fold(cols, output_size, kernel_size, stride=1, padding=0, dilation=1):
    if cols.ndim == 2:
        return fold(cols[None], output_size, kernel_size, stride, padding, dilation)[0]
    n, rows, count = cols.shape
    shape = (n, rows // math.prod(both(kernel_size)), *both(output_size))
    columns = cols.transpose(1, 0, 2).reshape(rows, n * count)
    return col2im(columns, shape, kernel_size, None, stride, padding, dilation)


def by_image(cols, input_shape, **window):
    """Columns of `im2col` as those of `unfold`."""
    rows, count = columns_shape((1, *input_shape[1:]), **window)
    return np.ascontiguousarray(cols.reshape(rows, input_shape[0], count).transpose(1, 0, 2))


def _planes(x):
    return x.reshape(math.prod(x.shape[:-2]), x.shape[-2] * x.shape[-1])
