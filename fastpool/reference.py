"""The same names in pure NumPy, written to be obviously right.

Every function has the signature and the meaning of its twin in `fastpool`; results are compared
bit for bit. `Pooling` is the notebook's: im2col, argmax, col2im.

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

from fastpool import arguments
from fastpool.window import Padding, Sizes, Window, plain, sizes, window

__all__ = [
    "Pooling",
    "avg_pool2d",
    "avg_pool2d_backward",
    "col2im",
    "fold",
    "im2col",
    "max_pool2d",
    "max_pool2d_backward",
    "unfold",
]

Array = np.ndarray[Any, Any]


def _gather(x: Array, w: Window, fill: object) -> Array:
    """Every window's elements, (taps, ..., *output); those outside the input are `fill`."""
    leading = x.shape[: x.ndim - len(w.input)]
    columns: Array = np.full((w.taps, *leading, *w.output), fill, x.dtype)
    for tap, place in enumerate(np.ndindex(*w.kernel_size)):
        columns[tap][w.outputs(place)] = x[w.elements(place)]
    return columns


def _scatter_add(columns: Array, w: Window) -> Array:
    """Return the adjoint of `_gather`: every element's sum over its windows, in kernel order."""
    dx = np.zeros((*columns.shape[1 : columns.ndim - len(w.input)], *w.input), columns.dtype)
    for tap, place in enumerate(np.ndindex(*w.kernel_size)):
        dx[w.elements(place)] += columns[tap][w.outputs(place)]
    return dx


def _spatial_last(x: Array, w: Window, data_format: str) -> Array:
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
    columns = arguments.as_float(cols).reshape(c, w.taps, n, *w.output).transpose(1, 2, 0, 3, 4)
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
    """Lay the windows of every image out as columns of their own; see `fastpool.unfold`."""
    x = arguments.spatial_array(x, "x", 2, exact=4)
    n, c, *spatial = x.shape
    w = window(tuple(spatial), kernel_size, stride, padding, dilation)
    shape = (n, c * w.taps, prod(w.output))
    result = arguments.result(out, shape, arguments.float_dtype(x), x)
    columns = _gather(arguments.as_float(x), w, 0)
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
    """Add the columns of `unfold` back to where they came from; see `fastpool.fold`."""
    cols, shape, w = arguments.fold_arguments(cols, output_size, 2, kernel_size, stride, padding, dilation)
    result = arguments.result(out, shape, arguments.float_dtype(cols), cols)
    columns = arguments.as_float(cols).reshape(*shape[:-2], w.taps, *w.output)
    result[...] = _scatter_add(np.moveaxis(columns, -3, 0), w)
    return result


def max_pool2d(
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
    """Take the largest element of every window; see `fastpool.max_pool2d`."""
    x = arguments.array(x, "x")
    leading, spatial, trailing = arguments.split(x.shape, data_format, 2, "x")
    w = window(spatial, kernel_size, stride, padding, dilation, ceil_mode, elements=True)
    if return_argmax and return_indices:
        raise ValueError("return_argmax and return_indices cannot be asked for together")
    result = arguments.result(out, leading + w.output + trailing, x.dtype, x)
    if return_argmax or return_indices:
        dtype = w.argmax_dtype  # refuses windows with too many places
    columns = _gather(_spatial_last(x, w, data_format), w, _lowest(x.dtype))
    argmax = columns.argmax(axis=0)
    # Where all are as low as the padding, argmax names the first of both: take the first element.
    real = _elements(w)
    argmax = np.where(_pick(real, argmax), argmax, real.argmax(axis=0))
    _spatial_last(result, w, data_format)[...] = _pick(columns, argmax)
    if not (return_argmax or return_indices):
        return result
    found = argmax.astype(dtype) if return_argmax else _indices(argmax, w)
    positions = np.empty(result.shape, found.dtype)
    _spatial_last(positions, w, data_format)[...] = found
    return result, positions


def max_pool2d_backward(
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
    """Send every gradient to the element that its window's maximum came from; see `fastpool.max_pool2d_backward`."""
    dy, argmax, input_shape, w = arguments.backward_arguments(
        dy, argmax, input_shape, 2, kernel_size, stride, padding, dilation, ceil_mode, data_format=data_format
    )
    result = arguments.result(out, input_shape, dy.dtype, dy, argmax)
    if argmax.size and not 0 <= argmax.min() <= argmax.max() < w.taps:
        raise arguments.argmax_error(w)
    gradient, place = (_spatial_last(given, w, data_format) for given in (dy, argmax))
    columns = np.zeros((w.taps, *gradient.shape), dy.dtype)
    np.put_along_axis(columns, place.astype(np.intp)[None], gradient[None], axis=0)
    _spatial_last(result, w, data_format)[...] = _scatter_add(columns, w)
    return result


def avg_pool2d(
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
    """Take the average of every window; see `fastpool.avg_pool2d`."""
    x = arguments.array(x, "x")
    leading, spatial, trailing = arguments.split(x.shape, data_format, 2, "x")
    w = window(spatial, kernel_size, stride, padding, dilation, ceil_mode, elements=True)
    include_pad, override = arguments.divisor_arguments(count_include_pad, divisor_override)
    result = arguments.result(out, leading + w.output + trailing, arguments.float_dtype(x), x)
    columns = _gather(_spatial_last(arguments.as_float(x), w, data_format), w, 0)
    _spatial_last(result, w, data_format)[...] = columns.sum(axis=0) / _divisor(w, include_pad, override)
    return result


def avg_pool2d_backward(
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
    """Share every gradient out among the elements of its window; see `fastpool.avg_pool2d_backward`."""
    dy, input_shape, w = arguments.gradient_arguments(
        dy, input_shape, 2, kernel_size, stride, padding, dilation, ceil_mode, data_format=data_format
    )
    include_pad, override = arguments.divisor_arguments(count_include_pad, divisor_override)
    result = arguments.result(out, input_shape, arguments.float_dtype(dy), dy)
    share = _spatial_last(arguments.as_float(dy), w, data_format) / _divisor(w, include_pad, override)
    columns = np.broadcast_to(share.astype(result.dtype), (w.taps, *share.shape))
    _spatial_last(result, w, data_format)[...] = _scatter_add(columns, w)
    return result


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


def _elements(w: Window) -> Array:
    """Whether each place of each window is an element of the input: bool, (taps, *output)."""
    return _gather(np.ones(w.input, bool), w, False)


def _pick(columns: Array, argmax: Array) -> Array:
    """Of every window in (taps, ..., *output), the element at `argmax`."""
    columns = columns.reshape(len(columns), *(1,) * (argmax.ndim + 1 - columns.ndim), *columns.shape[1:])
    columns = np.broadcast_to(columns, (len(columns), *argmax.shape))
    picked: Array = np.take_along_axis(columns, argmax[None], axis=0)[0]
    return picked


def _indices(argmax: Array, w: Window) -> Array:
    """Positions within windows as positions in the plane of the input, int64."""
    tap = np.unravel_index(argmax, w.kernel_size)
    start = np.meshgrid(*(np.arange(n) for n in w.output), indexing="ij")
    place = [
        start[axis] * w.stride[axis] - w.padding[axis][0] + tap[axis] * w.dilation[axis] for axis in range(len(w.input))
    ]
    return np.ravel_multi_index(place, w.input).astype(np.int64)


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
        self.max_index = np.argmax(columns, axis=1)
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
