"""The same names in pure NumPy, written to be obviously right.

Every function has the signature and the meaning of its twin in `fastpool`; results are compared
bit for bit. `Pooling` is the notebook's: im2col, argmax, col2im.

Every operation is written once, for any number of spatial axes; see `fastpool.ranks`. A window is
laid out as in im2col: `_gather` makes columns of an array, `_scatter_add` adds them back. Averages and
norms are computed in float64 and rounded once; gradients of float16 and bfloat16 add up in float32.

Examples
--------
>>> import numpy as np
>>> from fastpool import reference
>>> reference.max_pool2d(np.arange(16.0).reshape(4, 4), 2)
array([[ 5.,  7.],
       [13., 15.]])
"""

from __future__ import annotations

from functools import reduce
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastpool import arguments, layer
from fastpool.ranks import ranks
from fastpool.window import (
    AdaptiveWindow,
    OutputSize,
    Padding,
    Sizes,
    Window,
    adaptive_window,
    plain,
    sizes,
    spatial_rank,
    window,
)

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "Pooling",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool1d_backward",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool3d",
    "adaptive_avg_pool3d_backward",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_backward",
    "argmax_to_indices",
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
    "col2im",
    "fold",
    "global_avg_pool",
    "global_max_pool",
    "im2col",
    "indices_to_argmax",
    "lp_pool1d",
    "lp_pool1d_backward",
    "lp_pool2d",
    "lp_pool2d_backward",
    "lp_pool3d",
    "lp_pool3d_backward",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool3d",
    "max_pool3d_backward",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "unfold",
]

Array = np.ndarray[Any, Any]


def _gather(x: Array, w: Window | AdaptiveWindow, fill: object) -> Array:
    """Every window's elements, (taps, ..., *output); those outside the input are `fill`."""
    leading = x.shape[: x.ndim - len(w.input)]
    columns: Array = np.full((w.taps, *leading, *w.output), fill, x.dtype)
    for column, (windows, elements) in zip(columns, w.meetings()):
        column[windows] = x[elements]
    return columns


def _scatter_add(columns: Array, w: Window) -> Array:
    """Return the adjoint of `_gather`: every element's sum over its windows, in kernel order."""
    dx = np.zeros((*columns.shape[1 : columns.ndim - len(w.input)], *w.input), columns.dtype)
    for column, (windows, elements) in zip(columns, w.meetings()):
        dx[elements] += column[windows]
    return dx


def _spatial_last(x: Array, w: Window | AdaptiveWindow, data_format: str) -> Array:
    """View x with the spatial axes last."""
    return x if data_format == "channels_first" else np.moveaxis(x, -1, -1 - len(w.input))


def im2col(
    x: ArrayLike,
    kernel_size: Sizes,
    output_size: Sizes | None = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Lay every window of a batch of images out as a column; see `fastpool.im2col`."""
    x = arguments.spatial_array(x, "x", 2, exact=4)
    w, shape = arguments.columns_window(x.shape, kernel_size, output_size, stride, padding, dilation, "x")
    result = arguments.result(out, shape, arguments.float_dtype(x), x)
    columns = _gather(arguments.as_float(x), w, 0)  # (taps, N, C, OH, OW)
    result[...] = columns.transpose(2, 0, 1, 3, 4).reshape(shape)
    return result


def col2im(
    cols: ArrayLike,
    input_shape: tuple[int, ...],
    kernel_size: Sizes,
    output_size: Sizes | None = None,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Add the columns of `im2col` back to where they came from; see `fastpool.col2im`."""
    cols = arguments.array(cols, "cols")
    n, c, h, w_ = arguments.shape(input_shape, "input_shape", 4)
    w, shape = arguments.columns_window(
        (n, c, h, w_), kernel_size, output_size, stride, padding, dilation, "input_shape"
    )
    arguments.same_shape(cols, "cols", shape, "what im2col makes of input_shape")
    result = arguments.result(out, (n, c, h, w_), arguments.float_dtype(cols), cols)
    columns = arguments.wide(arguments.as_float(cols)).reshape(c, w.taps, n, *w.output).transpose(1, 2, 0, 3, 4)
    result[...] = _scatter_add(columns, w)
    return result


def unfold(
    x: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Lay the windows of every image, of 1 to 3 axes, out as columns of their own; see `fastpool.unfold`."""
    x = arguments.images(x, "x")
    n, c, *spatial = x.shape
    w = window(tuple(spatial), kernel_size, stride, padding, dilation)
    shape = (n, c * w.taps, prod(w.output))
    result = arguments.result(out, shape, arguments.float_dtype(x), x)
    columns = _gather(arguments.as_float(x), w, 0)  # (taps, N, C, *output)
    result[...] = np.moveaxis(columns, 0, 2).reshape(shape)
    return result


def fold(
    cols: ArrayLike,
    output_size: Sizes,
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Add the columns of `unfold` back to where they came from; see `fastpool.fold`.

    There are as many spatial axes as output_size has entries; where it is an int, as many as kernel_size
    has; where both are ints, 2.
    """
    ndim = arguments.fold_rank(output_size, kernel_size)
    cols, shape, w = arguments.fold_arguments(cols, output_size, ndim, kernel_size, stride, padding, dilation)
    result = arguments.result(out, shape, arguments.float_dtype(cols), cols)
    columns = arguments.wide(arguments.as_float(cols)).reshape(*shape[:-ndim], w.taps, *w.output)
    result[...] = _scatter_add(np.moveaxis(columns, -1 - ndim, 0), w)
    return result


def _max_pool(
    ndim: int,
    x: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    *,
    return_argmax: bool = False,
    return_indices: bool = False,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """Take the largest element of every window; see `fastpool.max_poolNd`."""
    x = arguments.array(x, "x")
    _, spatial, _ = arguments.split(x.shape, data_format, ndim, "x")
    w = window(spatial, kernel_size, stride, padding, dilation, ceil_mode, elements=True)
    return _maxima(x, w, return_argmax, return_indices, data_format, out)


max_pool1d, max_pool2d, max_pool3d = ranks(_max_pool)


def _max_pool_backward(
    ndim: int,
    dy: ArrayLike,
    argmax: ArrayLike,
    input_shape: tuple[int, ...],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Send every gradient to the element that its window's maximum came from; see `fastpool.max_poolNd_backward`."""
    dy, argmax, input_shape, w = arguments.backward_arguments(
        dy, argmax, input_shape, ndim, kernel_size, stride, padding, dilation, ceil_mode, data_format=data_format
    )
    result = arguments.result(out, input_shape, dy.dtype, dy, argmax)
    if not arguments.within(argmax, w.taps):
        raise arguments.argmax_error(w)
    gradient, place = (_spatial_last(given, w, data_format) for given in (arguments.wide(dy), argmax))
    columns = np.zeros((w.taps, *gradient.shape), gradient.dtype)
    np.put_along_axis(columns, place.astype(np.intp)[None], gradient[None], axis=0)
    _spatial_last(result, w, data_format)[...] = _scatter_add(columns, w)
    return result


max_pool1d_backward, max_pool2d_backward, max_pool3d_backward = ranks(_max_pool_backward)


def _avg_pool(
    ndim: int,
    x: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    *,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Take the average of every window; see `fastpool.avg_poolNd`."""
    x = arguments.array(x, "x")
    leading, spatial, trailing = arguments.split(x.shape, data_format, ndim, "x")
    w = window(spatial, kernel_size, stride, padding, dilation, ceil_mode, elements=True)
    include_pad, override = arguments.divisor_arguments(count_include_pad, divisor_override)
    result = arguments.result(out, leading + w.output + trailing, arguments.float_dtype(x), x)
    columns = _gather(_spatial_last(x.astype(np.float64), w, data_format), w, 0)
    _spatial_last(result, w, data_format)[...] = columns.sum(axis=0) / _divisor(w, include_pad, override)
    return result


avg_pool1d, avg_pool2d, avg_pool3d = ranks(_avg_pool)


def _avg_pool_backward(
    ndim: int,
    dy: ArrayLike,
    input_shape: tuple[int, ...],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    *,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Share every gradient out among the elements of its window; see `fastpool.avg_poolNd_backward`."""
    dy, input_shape, w = arguments.gradient_arguments(
        dy, input_shape, ndim, kernel_size, stride, padding, dilation, ceil_mode, data_format=data_format
    )
    include_pad, override = arguments.divisor_arguments(count_include_pad, divisor_override)
    result = arguments.result(out, input_shape, arguments.float_dtype(dy), dy)
    share = _spatial_last(dy.astype(np.float64), w, data_format) / _divisor(w, include_pad, override)
    columns = np.broadcast_to(share, (w.taps, *share.shape))
    _spatial_last(result, w, data_format)[...] = _scatter_add(columns, w)
    return result


avg_pool1d_backward, avg_pool2d_backward, avg_pool3d_backward = ranks(_avg_pool_backward)


def _lp_pool(
    ndim: int,
    x: ArrayLike,
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Take the norm of every window, (sum of abs(x)**norm_type)**(1/norm_type); see `fastpool.lp_poolNd`.

    Padding is zeros. A norm_type that is infinite, 0 or less is a ValueError. NaN and what overflows follow
    arithmetic: a sum of powers beyond float64 is infinite.
    """
    x = arguments.array(x, "x")
    leading, spatial, trailing = arguments.split(x.shape, data_format, ndim, "x")
    w = window(spatial, kernel_size, stride, padding, dilation, ceil_mode, elements=True)
    norm = arguments.norm(norm_type)
    result = arguments.result(out, leading + w.output + trailing, arguments.float_dtype(x), x)
    powers = abs(_spatial_last(x.astype(np.float64), w, data_format)) ** norm
    _spatial_last(result, w, data_format)[...] = _gather(powers, w, 0).sum(axis=0) ** (1 / norm)
    return result


lp_pool1d, lp_pool2d, lp_pool3d = ranks(_lp_pool)


def _lp_pool_backward(
    ndim: int,
    dy: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    norm_type: float,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Return the gradient dy * sign(x) * (abs(x) / y)**(norm_type - 1); see `fastpool.lp_poolNd_backward`.

    Where x or y is 0 it is 0, one of the slopes there, and an infinite x has NaN where the norm is not 1.
    """
    dy, x, y, w = arguments.lp_gradient_arguments(
        dy, x, y, ndim, kernel_size, stride, padding, dilation, ceil_mode, data_format=data_format
    )
    norm = arguments.norm(norm_type)
    result = arguments.result(out, x.shape, arguments.float_dtype(dy), dy, x, y)
    dy, x, y = (_spatial_last(given.astype(np.float64), w, data_format) for given in (dy, x, y))
    columns = _gather(x, w, 0)
    with np.errstate(all="ignore"):  # where x or y is 0 or infinite
        slopes = np.sign(columns) * (abs(columns) / y) ** (norm - 1)
        shares = dy * np.where((columns == 0) | (y == 0), 0, slopes)
    _spatial_last(result, w, data_format)[...] = _scatter_add(shares, w)
    return result


lp_pool1d_backward, lp_pool2d_backward, lp_pool3d_backward = ranks(_lp_pool_backward)


def _adaptive_max_pool(
    ndim: int,
    x: ArrayLike,
    output_size: OutputSize,
    *,
    return_indices: bool = False,
    return_argmax: bool = False,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """Take the largest element of each of so many windows; see `fastpool.adaptive_max_poolNd`.

    Windows are those of `fastpool.window.AdaptiveWindow`; an argmax counts row-major over the largest.
    """
    x = arguments.array(x, "x")
    _, spatial, _ = arguments.split(x.shape, data_format, ndim, "x")
    return _maxima(x, adaptive_window(spatial, output_size), return_argmax, return_indices, data_format, out)


adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = ranks(_adaptive_max_pool)


def _adaptive_max_pool_backward(
    ndim: int,
    dy: ArrayLike,
    argmax: ArrayLike,
    input_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Send every gradient to where its window's maximum came from; see `fastpool.adaptive_max_poolNd_backward`.

    Where windows overlap, gradients are added in the order of the windows.
    """
    dy, input_shape, w = arguments.adaptive_gradient_arguments(dy, input_shape, ndim, data_format)
    argmax = arguments.array(argmax, "argmax", arguments.INTEGERS)
    arguments.same_shape(argmax, "argmax", dy.shape, "that of dy")
    result = arguments.result(out, input_shape, dy.dtype, dy, argmax)
    place = _spatial_last(argmax, w, data_format)
    if not arguments.within(argmax, w.taps) or not _pick(_elements(w), place).all():
        raise arguments.argmax_error(w)
    gradient = _spatial_last(arguments.wide(dy), w, data_format)
    dx = np.zeros((*gradient.shape[:-ndim], *w.input), gradient.dtype)
    planes, indices = dx.reshape(-1, prod(w.input)), _indices(place, w)
    for plane, values, elements in zip(planes, *(a.reshape(-1, prod(w.output)) for a in (gradient, indices))):
        np.add.at(plane, elements, values)
    _spatial_last(result, w, data_format)[...] = dx
    return result


adaptive_max_pool1d_backward, adaptive_max_pool2d_backward, adaptive_max_pool3d_backward = ranks(
    _adaptive_max_pool_backward
)


def _adaptive_avg_pool(
    ndim: int,
    x: ArrayLike,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Take the average of each of so many windows; see `fastpool.adaptive_avg_poolNd`."""
    x = arguments.array(x, "x")
    leading, spatial, trailing = arguments.split(x.shape, data_format, ndim, "x")
    w = adaptive_window(spatial, output_size)
    result = arguments.result(out, leading + w.output + trailing, arguments.float_dtype(x), x)
    columns = _gather(_spatial_last(x.astype(np.float64), w, data_format), w, 0)
    _spatial_last(result, w, data_format)[...] = columns.sum(axis=0) / _elements(w).sum(axis=0)
    return result


adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = ranks(_adaptive_avg_pool)


def _adaptive_avg_pool_backward(
    ndim: int,
    dy: ArrayLike,
    input_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Share every gradient out among the elements of its window; see `fastpool.adaptive_avg_poolNd_backward`."""
    dy, input_shape, w = arguments.adaptive_gradient_arguments(dy, input_shape, ndim, data_format)
    result = arguments.result(out, input_shape, arguments.float_dtype(dy), dy)
    share = _spatial_last(dy.astype(np.float64), w, data_format) / _elements(w).sum(axis=0)
    dx = np.zeros((*share.shape[:-ndim], *w.input))
    for o in np.ndindex(*w.output):
        block: tuple[Any, ...] = tuple(slice(start[i], stop[i]) for start, stop, i in zip(w.starts, w.stops, o))
        one: tuple[Any, ...] = tuple(slice(i, i + 1) for i in o)
        dx[(..., *block)] += share[(..., *one)]
    _spatial_last(result, w, data_format)[...] = dx
    return result


adaptive_avg_pool1d_backward, adaptive_avg_pool2d_backward, adaptive_avg_pool3d_backward = ranks(
    _adaptive_avg_pool_backward
)


def global_max_pool(x: ArrayLike, spatial_ndim: int = 2, *, data_format: str = "channels_first") -> Array:
    """Take the largest element of every plane; see `fastpool.global_max_pool`."""
    y = _adaptive_max_pool(spatial_rank(spatial_ndim, "spatial_ndim"), x, 1, data_format=data_format)
    assert isinstance(y, np.ndarray)
    return y


def global_avg_pool(x: ArrayLike, spatial_ndim: int = 2, *, data_format: str = "channels_first") -> Array:
    """Take the average of every plane; see `fastpool.global_avg_pool`."""
    return _adaptive_avg_pool(spatial_rank(spatial_ndim, "spatial_ndim"), x, 1, data_format=data_format)


def _max_unpool(
    ndim: int,
    y: ArrayLike,
    indices: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Padding = 0,
    output_size: Sizes | None = None,
    *,
    out: Array | None = None,
) -> Array:
    """Put every maximum back where it was, and 0 elsewhere; see `fastpool.max_unpoolNd`.

    Of several with the same index the last stays. output_size is one size an axis, or the shape of all of x;
    it may be less than a stride from the smallest that kernel_size, stride and padding pool to y.
    """
    y, indices, shape = arguments.unpool_arguments(y, indices, ndim, kernel_size, stride, padding, output_size)
    result = arguments.result(out, shape, y.dtype, y, indices)
    plane = prod(shape[-ndim:])
    if not arguments.within(indices, plane):
        raise arguments.indices_error(shape[-ndim:])
    x = np.zeros((prod(shape[:-ndim]), plane), y.dtype)
    for into, values, elements in zip(x, *(a.reshape(len(x), prod(a.shape[-ndim:])) for a in (y, indices))):
        into[elements.astype(np.intp)] = values
    result[...] = x.reshape(shape)
    return result


max_unpool1d, max_unpool2d, max_unpool3d = ranks(_max_unpool)


def argmax_to_indices(
    argmax: ArrayLike,
    input_shape: tuple[int, ...],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    *,
    spatial_ndim: int = 2,
    data_format: str = "channels_first",
) -> Array:
    """Turn positions in windows into positions in planes of the input; see `fastpool.argmax_to_indices`."""
    parameters = kernel_size, stride, padding, dilation, ceil_mode
    argmax, w = arguments.positions_arguments(
        argmax, "argmax", input_shape, spatial_ndim, *parameters, data_format=data_format
    )
    place = _spatial_last(argmax, w, data_format)
    if not arguments.within(argmax, w.taps) or not _pick(_elements(w), place).all():
        raise arguments.argmax_error(w)
    result = np.empty(argmax.shape, np.int64)
    _spatial_last(result, w, data_format)[...] = _indices(place, w)
    return result


def indices_to_argmax(
    indices: ArrayLike,
    input_shape: tuple[int, ...],
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Padding = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    *,
    spatial_ndim: int = 2,
    data_format: str = "channels_first",
) -> Array:
    """Turn positions in planes of the input into positions in windows; see `fastpool.indices_to_argmax`."""
    parameters = kernel_size, stride, padding, dilation, ceil_mode
    indices, w = arguments.positions_arguments(
        indices, "indices", input_shape, spatial_ndim, *parameters, data_format=data_format
    )
    result = np.empty(indices.shape, w.argmax_dtype)
    if not arguments.within(indices, prod(w.input)):
        raise arguments.indices_error(w.input)
    element = _unraveled(_spatial_last(indices, w, data_format), w.input)
    place = []
    for at, start, kernel, dilation_ in zip(element, np.ix_(*w.starts), w.kernel_size, w.dilation):
        tap, between = np.divmod(at - start, dilation_)
        if ((between != 0) | (tap < 0) | (tap >= kernel)).any():
            raise ValueError("indices has a position outside of its window")
        place.append(tap)
    _spatial_last(result, w, data_format)[...] = np.ravel_multi_index(place, w.kernel_size)
    return result


def _maxima(
    x: Array,
    w: Window | AdaptiveWindow,
    return_argmax: bool,
    return_indices: bool,
    data_format: str,
    out: Array | None,
) -> Array | tuple[Array, Array]:
    """Return the largest element of every window, and where it is if that is asked for."""
    leading, _, trailing = arguments.split(x.shape, data_format, len(w.input), "x")
    positions = arguments.wants_positions(return_argmax, return_indices)
    result = arguments.result(out, leading + w.output + trailing, x.dtype, x)
    if positions:
        dtype = w.argmax_dtype  # refuses windows with too many places
    x = arguments.wide(x)
    columns = _gather(_spatial_last(x, w, data_format), w, _lowest(x.dtype))
    argmax = columns.argmax(axis=0)
    # Where all are as low as the padding, argmax names the first of both: take the first element.
    real = _elements(w)
    argmax = np.where(_pick(real, argmax), argmax, real.argmax(axis=0))
    _spatial_last(result, w, data_format)[...] = _pick(columns, argmax)
    if not positions:
        return result
    found = argmax.astype(dtype) if return_argmax else _indices(argmax, w)
    where = np.empty(result.shape, found.dtype)
    _spatial_last(where, w, data_format)[...] = found
    return result, where


def _divisor(w: Window, include_pad: bool, override: int | None) -> Array | int:
    """Return what the sum of each window is divided by: (*output), or one for all."""
    if override is not None:
        return override
    divisor: Array = reduce(np.multiply.outer, w.counts(include_pad))
    return divisor


def _lowest(dtype: np.dtype[Any]) -> object:
    """Return what no element is smaller than."""
    if dtype.kind == "b":
        return False
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _elements(w: Window | AdaptiveWindow) -> Array:
    """Whether each place of each window is an element of the input: bool, (taps, *output)."""
    return _gather(np.ones(w.input, bool), w, False)


def _pick(columns: Array, argmax: Array) -> Array:
    """Of every window in (taps, ..., *output), the element at `argmax`."""
    columns = columns.reshape(len(columns), *(1,) * (argmax.ndim + 1 - columns.ndim), *columns.shape[1:])
    columns = np.broadcast_to(columns, (len(columns), *argmax.shape))
    picked: Array = np.take_along_axis(columns, argmax.astype(np.intp)[None], axis=0)[0]
    return picked


def _unraveled(positions: Array, shape: tuple[int, ...]) -> list[Array]:
    """Return `numpy.unravel_index`, which takes flat arrays only: a last axis of length 1 misleads it (numpy#31980)."""
    flat = positions.astype(np.intp).reshape(-1)
    return [axis.reshape(positions.shape) for axis in np.unravel_index(flat, shape)]


def _indices(argmax: Array, w: Window | AdaptiveWindow) -> Array:
    """Positions within windows as positions in the plane of the input, int64."""
    taps = _unraveled(argmax, w.kernel_size)
    place = [start + tap * dilation for start, tap, dilation in zip(np.ix_(*w.starts), taps, w.dilation)]
    indices: Array = np.ravel_multi_index(place, w.input).astype(np.int64)
    return indices


class Pooling:
    """Max pooling as the notebook does it: im2col, argmax, col2im; see `fastpool.Pooling`."""

    y: Array
    dx: Array
    max_index: Array

    def __init__(self, pool: Sizes) -> None:
        sizes(plain(pool, "pool"), 2, "pool", 1)
        self.pool = pool

    def __repr__(self) -> str:
        return f"Pooling({self.pool!r})"

    def __call__(self, x: ArrayLike) -> Array:
        """Return `forward(x)`."""
        return self.forward(x)

    def forward(self, x: ArrayLike) -> Array:
        """Pool a batch of images (N, C, H, W)."""
        x = arguments.as_float(arguments.spatial_array(x, "x", 2, exact=4))
        w = window(x.shape[-2:], self.pool, None, 0, 1, True)
        # Fill the ragged edge, so that the pool divides the image; no maximum lies there.
        edges = [(0, o * k - n) for o, k, n in zip(w.output, w.kernel_size, w.input)]
        padded = np.pad(x, [(0, 0), (0, 0), *edges], constant_values=-np.inf)
        b, c = x.shape[:2]
        columns = im2col(padded, self.pool, None, w.kernel_size).T.reshape(-1, w.taps)
        self.max_index = np.argmax(arguments.wide(columns), axis=1)
        y = columns[np.arange(len(columns)), self.max_index]
        self.y = y.reshape(b, *w.output, c).transpose(0, 3, 1, 2)
        self._window, self._padded = w, padded.shape
        return self.y

    def backward(self, dy: ArrayLike) -> Array:
        """Return the gradient of the input, given the gradient `dy` of the output."""
        if not hasattr(self, "y"):
            raise RuntimeError("Pooling.backward needs a forward first")
        w, (b, c, *_) = self._window, self._padded
        dy = arguments.as_float(arguments.array(dy, "dy"))
        arguments.same_shape(dy, "dy", self.y.shape, "that of y")
        columns = np.zeros((w.taps, dy.size), dy.dtype)
        columns[self.max_index, np.arange(dy.size)] = dy.transpose(0, 2, 3, 1).reshape(-1)
        columns = columns.reshape(w.taps, b, *w.output, c).transpose(4, 0, 1, 2, 3)
        dx = col2im(columns.reshape(c * w.taps, b * prod(w.output)), self._padded, self.pool, None, w.kernel_size)
        self.dx = dx[:, :, : w.input[0], : w.input[1]]
        return self.dx


class MaxPool1d(layer.MaxPool):
    """`max_pool1d` as a layer; see `fastpool.MaxPool1d`."""

    ndim, functions = 1, (max_pool1d, max_pool1d_backward)


class MaxPool2d(layer.MaxPool):
    """`max_pool2d` as a layer; see `fastpool.MaxPool2d`."""

    ndim, functions = 2, (max_pool2d, max_pool2d_backward)


class MaxPool3d(layer.MaxPool):
    """`max_pool3d` as a layer; see `fastpool.MaxPool3d`."""

    ndim, functions = 3, (max_pool3d, max_pool3d_backward)


class AvgPool1d(layer.AvgPool):
    """`avg_pool1d` as a layer; see `fastpool.AvgPool1d`."""

    ndim, functions = 1, (avg_pool1d, avg_pool1d_backward)


class AvgPool2d(layer.AvgPool):
    """`avg_pool2d` as a layer; see `fastpool.AvgPool2d`."""

    ndim, functions = 2, (avg_pool2d, avg_pool2d_backward)


class AvgPool3d(layer.AvgPool):
    """`avg_pool3d` as a layer; see `fastpool.AvgPool3d`."""

    ndim, functions = 3, (avg_pool3d, avg_pool3d_backward)


class LPPool1d(layer.LPPool):
    """`lp_pool1d` as a layer; see `fastpool.LPPool1d`."""

    ndim, functions = 1, (lp_pool1d, lp_pool1d_backward)


class LPPool2d(layer.LPPool):
    """`lp_pool2d` as a layer; see `fastpool.LPPool2d`."""

    ndim, functions = 2, (lp_pool2d, lp_pool2d_backward)


class LPPool3d(layer.LPPool):
    """`lp_pool3d` as a layer; see `fastpool.LPPool3d`."""

    ndim, functions = 3, (lp_pool3d, lp_pool3d_backward)


class AdaptiveMaxPool1d(layer.AdaptiveMaxPool):
    """`adaptive_max_pool1d` as a layer; see `fastpool.AdaptiveMaxPool1d`."""

    ndim, functions = 1, (adaptive_max_pool1d, adaptive_max_pool1d_backward)


class AdaptiveMaxPool2d(layer.AdaptiveMaxPool):
    """`adaptive_max_pool2d` as a layer; see `fastpool.AdaptiveMaxPool2d`."""

    ndim, functions = 2, (adaptive_max_pool2d, adaptive_max_pool2d_backward)


class AdaptiveMaxPool3d(layer.AdaptiveMaxPool):
    """`adaptive_max_pool3d` as a layer; see `fastpool.AdaptiveMaxPool3d`."""

    ndim, functions = 3, (adaptive_max_pool3d, adaptive_max_pool3d_backward)


class AdaptiveAvgPool1d(layer.AdaptiveAvgPool):
    """`adaptive_avg_pool1d` as a layer; see `fastpool.AdaptiveAvgPool1d`."""

    ndim, functions = 1, (adaptive_avg_pool1d, adaptive_avg_pool1d_backward)


class AdaptiveAvgPool2d(layer.AdaptiveAvgPool):
    """`adaptive_avg_pool2d` as a layer; see `fastpool.AdaptiveAvgPool2d`."""

    ndim, functions = 2, (adaptive_avg_pool2d, adaptive_avg_pool2d_backward)


class AdaptiveAvgPool3d(layer.AdaptiveAvgPool):
    """`adaptive_avg_pool3d` as a layer; see `fastpool.AdaptiveAvgPool3d`."""

    ndim, functions = 3, (adaptive_avg_pool3d, adaptive_avg_pool3d_backward)
