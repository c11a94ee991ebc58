"""The contract in plain Python loops. It shares no code with the package."""

import math
from fractions import Fraction
from functools import lru_cache, partial
from itertools import product

import numpy as np


def windows(spatial, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, output_size=None):
    """Return the output shape, and of every window its (place, element) pairs in row-major order.

    A place is a position in the kernel and an element one in the input, both counted row-major; places
    outside the input are left out.
    """
    ndim = len(spatial)
    kernel_size = each(kernel_size, ndim)
    stride = kernel_size if stride is None else each(stride, ndim)
    others = (each(value, ndim) for value in (padding, dilation, output_size))
    return _windows(kernel_size, tuple(spatial), tuple(zip(spatial, kernel_size, stride, *others)), ceil_mode)


@lru_cache(maxsize=64)  # of the same windows many arrays are pooled
def _windows(kernel_size, spatial, axes, ceil_mode):
    return _pairs(kernel_size, spatial, [_axis(*axis, ceil_mode) for axis in axes])


def adaptive_windows(spatial, output_size):
    """`windows` of an adaptive pooling; places are counted row-major over the largest window."""
    axes = []
    for length, count in zip(spatial, each(output_size, len(spatial))):
        count = length if count is None else count
        ends = [(i * length // count, math.ceil(Fraction((i + 1) * length, count))) for i in range(count)]
        axes.append([list(enumerate(range(start, stop))) for start, stop in ends])
    return _pairs([max(map(len, axis)) for axis in axes], spatial, axes)


def _pairs(kernel_size, spatial, axes):
    """Return what `windows` does from the pairs of each window along each axis."""
    found = []
    for window in product(*axes):
        pairs = [tuple(zip(*pair)) for pair in product(*window)]
        found.append([(_row_major(place, kernel_size), _row_major(element, spatial)) for place, element in pairs])
    return tuple(map(len, axes)), found


def _row_major(at, shape):
    position = 0
    for i, n in zip(at, shape):
        position = position * n + i
    return position


def each(value, ndim):
    """`value` as one value an axis."""
    return (value,) * ndim if value is None or isinstance(value, (str, int)) else tuple(value)


def both(value):
    return each(value, 2)


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


def first(x, ndim=2):
    """View an array (..., *spatial, C), or turn its shape, to (..., C, *spatial)."""
    at = -1 - ndim
    return (*x[:at], x[-1], *x[at:-1]) if isinstance(x, tuple) else np.moveaxis(x, -1, at)


def last(x, ndim=2):
    """View an array (..., C, *spatial) as (..., *spatial, C)."""
    return np.moveaxis(x, -1 - ndim, -1)


def max_pool(ndim, x, *args, data_format="channels_first", **kwargs):
    """Return y, argmax and indices; ValueError if a window has no element."""
    if data_format == "channels_last":
        return tuple(last(part, ndim) for part in max_pool(ndim, first(x, ndim), *args, **kwargs))
    return _maxima(ndim, x, windows(x.shape[-ndim:], *args, **kwargs))


def adaptive_max_pool(ndim, x, output_size):
    return _maxima(ndim, x, adaptive_windows(x.shape[-ndim:], output_size))


def _maxima(ndim, x, found):
    output, found = found
    if not all(found):
        raise ValueError("a window has no element")
    best = [[_best(plane, window) for window in found] for plane in _planes(x, ndim).tolist()]
    shape = x.shape[:-ndim] + output
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


def max_pool_backward(ndim, dy, argmax, input_shape, *args, data_format="channels_first", **kwargs):
    if data_format == "channels_last":
        given = (first(part, ndim) for part in (dy, argmax, input_shape))
        return last(max_pool_backward(ndim, *given, *args, **kwargs), ndim)
    _, found = windows(input_shape[-ndim:], *args, **kwargs)
    dx = np.zeros(input_shape, dy.dtype)
    terms = [(place, element, window) for window, pairs in enumerate(found) for place, element in pairs]
    for into, given, chosen in zip(*(_planes(part, ndim) for part in (dx, dy, argmax))):
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
        ndim = len(spatial)
        reach = [d * (k - 1) + 1 for k, d in zip(each(kernel_size, ndim), each(dilation, ndim))]
        step = each(kernel_size if stride is None else stride, ndim)
        padded = [n + sum(_margins(n, *axis)) for n, *axis in zip(spatial, reach, step, each(padding, ndim))]
        _, found = windows(padded, kernel_size, stride, 0, dilation, output_size=output)
    return [divisor_override or len(window) for window in found]


def avg_pool(ndim, x, *args, data_format="channels_first", count_include_pad=True, divisor_override=None, **kwargs):
    """Return the averages in float64, from exact sums; ValueError as in `max_pool`."""
    by = {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    if data_format == "channels_last":
        return last(avg_pool(ndim, first(x, ndim), *args, **by, **kwargs), ndim)
    found = windows(x.shape[-ndim:], *args, **kwargs)
    return _reduced(ndim, x, found, divisors(x.shape[-ndim:], *args, **by, **kwargs))


def adaptive_avg_pool(ndim, x, output_size):
    output, found = adaptive_windows(x.shape[-ndim:], output_size)
    return _reduced(ndim, x, (output, found), list(map(len, found)))


def _reduced(ndim, x, found, parts):
    output, found = found
    if not all(found):
        raise ValueError("a window has no element")
    y = [
        [_sum(plane[element] for _, element in window) / part for window, part in zip(found, parts)]
        for plane in _planes(x, ndim).tolist()
    ]
    return np.array(y, float).reshape(x.shape[:-ndim] + output)


def avg_pool_backward(ndim, dy, input_shape, *args, data_format="channels_first", **kwargs):
    """Return the gradient in float64, from exact sums."""
    if data_format == "channels_last":
        return last(avg_pool_backward(ndim, first(dy, ndim), first(input_shape, ndim), *args, **kwargs), ndim)
    parts = divisors(input_shape[-ndim:], *args, **kwargs)
    by = {"count_include_pad", "divisor_override"}
    found = windows(input_shape[-ndim:], *args, **{name: kwargs[name] for name in kwargs.keys() - by})
    return _shared(ndim, dy, input_shape, found, parts)


def adaptive_avg_pool_backward(ndim, dy, input_shape):
    output, found = adaptive_windows(input_shape[-ndim:], dy.shape[-ndim:])
    return _shared(ndim, dy, input_shape, (output, found), list(map(len, found)))


def _shared(ndim, dy, input_shape, found, parts):
    dx = np.zeros(input_shape)
    for into, given in zip(_planes(dx, ndim), _planes(dy, ndim).tolist()):
        shares = [[] for _ in into]
        for window, part, value in zip(found[1], parts, given):
            for _, element in window:
                shares[element].append(value / part)
        into[:] = list(map(_sum, shares))
    return dx


def lp_pool(ndim, x, norm_type, *args, **kwargs):
    """Return the norms in float64; ValueError as in `max_pool`."""
    powers = abs(x.astype(float)) ** norm_type
    found = windows(x.shape[-ndim:], *args, **kwargs)
    return _reduced(ndim, powers, found, [1] * len(found[1])) ** (1 / norm_type)


def lp_pool_backward(ndim, dy, x, norm_type, *args, **kwargs):
    """Return the gradient in float64: no slope where x or y is 0."""
    y = lp_pool(ndim, x, norm_type, *args, **kwargs)
    _, found = windows(x.shape[-ndim:], *args, **kwargs)
    dx = np.zeros(x.shape)
    for into, *given in zip(*(_planes(part, ndim) for part in (dx, dy, x, y))):
        gradients, values, norms = (part.tolist() for part in given)
        for window, gradient, norm in zip(found, gradients, norms):
            for _, element in window:
                value = values[element]
                if value and norm:
                    into[element] += gradient * math.copysign((abs(value) / norm) ** (norm_type - 1), value)
    return dx


def max_unpool(ndim, y, indices, spatial):
    x = np.zeros((*y.shape[:-ndim], *spatial), y.dtype)
    for into, *given in zip(*(_planes(part, ndim) for part in (x, y, indices))):
        for value, index in zip(*given):
            into[index] = value
    return x


max_pool2d, max_pool2d_backward = partial(max_pool, 2), partial(max_pool_backward, 2)
avg_pool2d, avg_pool2d_backward = partial(avg_pool, 2), partial(avg_pool_backward, 2)


def _sum(values):
    values = list(values)
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(map(float, values))


def columns_shape(input_shape, kernel_size, output_size=None, stride=1, padding=0, dilation=1):
    n, c, *spatial = input_shape
    output, _ = windows(spatial, kernel_size, stride, padding, dilation, output_size=output_size)
    return c * math.prod(each(kernel_size, len(spatial))), n * math.prod(output)


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
    columns = np.zeros((c, math.prod(each(kernel_size, len(spatial))), n, len(found)), dtype)
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
    columns = cols.astype(dtype).reshape(c, math.prod(each(kernel_size, len(spatial))), n, math.prod(output))
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
    spatial = both(output_size)
    shape = (n, rows // math.prod(each(kernel_size, len(spatial))), *spatial)
    columns = cols.transpose(1, 0, 2).reshape(rows, n * count)
    return col2im(columns, shape, kernel_size, None, stride, padding, dilation)


def by_image(cols, input_shape, **window):
    """Columns of `im2col` as those of `unfold`."""
    rows, count = columns_shape((1, *input_shape[1:]), **window)
    return np.ascontiguousarray(cols.reshape(rows, input_shape[0], count).transpose(1, 0, 2))


def _planes(x, ndim):
    return x.reshape(math.prod(x.shape[:-ndim]), math.prod(x.shape[-ndim:]))
