"""The functions: check the arguments, allocate the result, run a kernel."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastpool import arguments
from fastpool.kernels import columns, indices, max_pool, max_pool_backward
from fastpool.window import Padding, Sizes, Window, window

Array = np.ndarray[Any, Any]

#: Rows of this length fill vectors well enough for them to beat scalar code that stays in cache.
WIDE = 32


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
    """Lay every window of a batch of images out as a column, so that a convolution is a matrix product.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W)
        Images of bool, integers, float32 or float64.
    kernel_size : int or (int, int)
        Height and width of the window.
    output_size : int or (int, int), optional
        How many windows there are down and across. Every one must start inside the padded
        input; what they cover beyond it is zero. By default as many as fit.
    stride : int or (int, int)
        Elements from one window to the next.
    padding : int, (int, int), ((int, int), (int, int)) or str
        Zeros around the image: for both axes, for each axis, or before and after each axis;
        or "valid" (none), "same" (output = ceil(input / stride), the odd one at the end) or
        "same_lower" (the odd one at the start).
    dilation : int or (int, int)
        Elements from one place of the window to the next.
    out : ndarray, optional
        Where to write the result: of its shape and dtype, sharing no memory with x.

    Returns
    -------
    ndarray, shape (C * KH * KW, N * OH * OW)
        Row (c, kh, kw), column (n, oh, ow) is ``x[n, c, oh * stride + kh * dilation - padding, ...]``.
        float32 and float64 are kept, everything else gives float64.

    Raises
    ------
    TypeError
        A dtype or a parameter of the wrong type.
    ValueError
        A shape or a parameter out of range.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> fastpool.im2col(x, 2)
    array([[0., 1., 3., 4.],
           [1., 2., 4., 5.],
           [3., 4., 6., 7.],
           [4., 5., 7., 8.]])
    """
    x = arguments.spatial_array(x, "x", 2, exact=4)
    w, shape = arguments.columns_window(x.shape, kernel_size, output_size, stride, padding, dilation, "x")
    result = arguments.result(out, shape, arguments.float_dtype(x), x)
    written = _contiguous(result)
    n, c = x.shape[:2]
    planes = _planes(arguments.as_float(x)).transpose(1, 0, 2, 3)
    cols = written.reshape(c, w.taps, n, prod(w.output)).transpose(0, 2, 1, 3)
    columns.unfold(n * c * w.taps * w.output[0], cols.nbytes, w.geometry, planes, cols)
    return _finished(result, written)


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
    """Add columns back to where `im2col` took them from: its adjoint, the gradient of its input.

    Parameters
    ----------
    cols : array_like, shape (C * KH * KW, N * OH * OW)
        Columns in the order of `im2col`.
    input_shape : (int, int, int, int)
        The shape (N, C, H, W) of the images.
    kernel_size, output_size, stride, padding, dilation
        As for `im2col`.
    out : ndarray, optional
        Where to write the result: of its shape and dtype, sharing no memory with cols.

    Returns
    -------
    ndarray, shape (N, C, H, W)
        Every element is the sum of its columns, added in the order of the kernel's places.
        float32 and float64 are kept, everything else gives float64.

    Raises
    ------
    TypeError
        A dtype or a parameter of the wrong type.
    ValueError
        A shape or a parameter out of range.

    Examples
    --------
    How many windows hold each element:

    >>> import numpy as np
    >>> import fastpool
    >>> fastpool.col2im(np.ones((4, 4)), (1, 1, 3, 3), 2)
    array([[[[1., 2., 1.],
             [2., 4., 2.],
             [1., 2., 1.]]]])
    """
    cols = arguments.array(cols, "cols")
    n, c, height, width = arguments.shape(input_shape, "input_shape", 4)
    w, shape = arguments.columns_window(
        (n, c, height, width), kernel_size, output_size, stride, padding, dilation, "input_shape"
    )
    arguments.same_shape(cols, "cols", shape, "what im2col makes of input_shape")
    result = arguments.result(out, (n, c, height, width), arguments.float_dtype(cols), cols)
    written = _contiguous(result)
    blocks = arguments.as_float(cols).reshape(c, w.taps, n, prod(w.output)).transpose(2, 0, 1, 3)
    columns.accumulate(n * c * height, cols.nbytes, w.geometry, _planes(blocks), written)
    return _finished(result, written)


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
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """Take the largest element of every window.

    Parameters
    ----------
    x : array_like, shape (..., H, W)
        Any number of planes of bool, integers, float32 or float64.
    kernel_size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int), optional
        Elements from one window to the next; by default `kernel_size`.
    padding : int, (int, int), ((int, int), (int, int)) or str
        Padding, which is never the largest: for both axes, for each axis, or before and after
        each axis, less than the dilated kernel; or "valid" (none), "same" (output =
        ceil(input / stride), the odd one at the end) or "same_lower" (the odd one at the start).
    dilation : int or (int, int)
        Elements from one place of the window to the next.
    ceil_mode : bool
        Also take windows that hang over the end, if they start before the padding there.
    return_argmax : bool
        Also return where in its window each maximum is: what `max_pool2d_backward` needs.
    return_indices : bool
        Also return where in its plane each maximum is.
    out : ndarray, optional
        Where to write y: of its shape and dtype, sharing no memory with x.

    Returns
    -------
    y : ndarray, shape (..., OH, OW), of the dtype of x
        OH = floor((H + padding before and after - dilation * (KH - 1) - 1) / stride) + 1. As in
        `numpy.max`, NaN where a window has one.
    argmax : ndarray, shape (..., OH, OW), if `return_argmax`
        kh * KW + kw of the first maximum, or of the first NaN, as in `numpy.argmax`; the
        smallest of uint8, uint16 and uint32 that holds KH * KW - 1.
    indices : ndarray of int64, shape (..., OH, OW), if `return_indices`
        The same element as h * W + w, as in PyTorch.

    Raises
    ------
    TypeError
        A dtype or a parameter of the wrong type.
    ValueError
        A shape or a parameter out of range; a window of nothing but padding.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> x = np.array([[1.0, 2.0, 5.0], [4.0, 3.0, 0.0]])
    >>> fastpool.max_pool2d(x, 2, stride=1, return_argmax=True)
    (array([[4., 5.]]), array([[2, 1]], dtype=uint8))
    """
    x = arguments.spatial_array(x, "x", 2)
    full = x.shape
    w = window(full[-2:], kernel_size, stride, padding, dilation, ceil_mode, elements=True)
    if return_argmax and return_indices:
        raise ValueError("return_argmax and return_indices cannot be asked for together")
    shape = full[:-2] + w.output
    y = arguments.result(out, shape, x.dtype, x)
    written = y if out is None else _contiguous(y)
    argmax = np.empty(shape, w.argmax_dtype) if return_argmax or return_indices else None
    planes = _planes(x)
    n, c, *_ = planes.shape
    rows = n * c * w.output[0]
    if planes is x:  # then the results are as they should be, too
        max_pool.max_pool(rows, x.nbytes, w.geometry, x, written, argmax)
    else:
        results = (_planes(written), None if argmax is None else _planes(argmax))
        max_pool.max_pool(rows, x.nbytes, w.geometry, planes, *results)
    y = y if out is None else _finished(y, written)
    if argmax is None:
        return y
    if return_argmax:
        return y, argmax
    positions = np.empty(shape, np.int64)
    indices.argmax_to_indices(rows, positions.nbytes, w.geometry, _planes(argmax), _planes(positions))
    return y, positions


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
    out: Array | None = None,
) -> Array:
    """Send every gradient to the element that its window's maximum came from.

    Parameters
    ----------
    dy : array_like, shape (..., OH, OW)
        The gradient of y: integers, float32 or float64.
    argmax : array_like of integers, shape (..., OH, OW)
        What `max_pool2d` returned with `return_argmax`.
    input_shape : tuple of int
        The shape (..., H, W) of x.
    kernel_size, stride, padding, dilation, ceil_mode
        As they were given to `max_pool2d`.
    out : ndarray, optional
        Where to write dx: of its shape and dtype, sharing no memory with dy and argmax.

    Returns
    -------
    ndarray, shape `input_shape`, of the dtype of dy
        Where windows overlap, gradients are added in the order of the kernel's places. What an
        argmax puts on padding is dropped, as `col2im` drops it.

    Raises
    ------
    TypeError
        A dtype or a parameter of the wrong type.
    ValueError
        A shape or a parameter out of range; an argmax outside of its window.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> x = np.array([[1.0, 2.0, 5.0], [4.0, 3.0, 0.0]])
    >>> y, argmax = fastpool.max_pool2d(x, 2, stride=1, return_argmax=True)
    >>> fastpool.max_pool2d_backward(np.array([[0.5, 0.25]]), argmax, x.shape, 2, stride=1)
    array([[0.  , 0.  , 0.25],
           [0.5 , 0.  , 0.  ]])
    """
    dy, argmax, shape, w = arguments.backward_arguments(
        dy, argmax, input_shape, 2, kernel_size, stride, padding, dilation, ceil_mode
    )
    dx = arguments.result(out, shape, dy.dtype, dy, argmax)
    return scattered(dy, checked_argmax(argmax, w), w, dx)


def scattered(dy: Array, argmax: Array, w: Window, dx: Array) -> Array:
    """Return dx, set to the gradients of a max pooling whose argmax is known to be valid."""
    written = _contiguous(dx)
    gradient, positions, target = _planes(dy), _planes(argmax), _planes(written)
    vectors = w.side_by_side and w.stride[1] == 2 and w.input[1] >= WIDE
    kernel = max_pool_backward.route if vectors else max_pool_backward.scatter
    kernel(target.shape[0] * target.shape[1] * w.input[0], dx.nbytes, w.geometry, gradient, positions, target)
    return _finished(dx, written)


def checked_argmax(argmax: Array, w: Window) -> Array:
    """Return argmax as max_pool2d makes it; ValueError unless each is in its window."""
    if argmax.dtype != w.argmax_dtype:
        if argmax.size and not 0 <= argmax.min() <= argmax.max() < w.taps:
            raise arguments.argmax_error(w)
        return argmax.astype(w.argmax_dtype, order="C")
    argmax = np.ascontiguousarray(argmax)
    planes, found = _planes(argmax), np.zeros((1, 1, 1, 1), np.uint8)
    max_pool_backward.find_invalid(
        planes.shape[0] * planes.shape[1] * w.output[0], argmax.nbytes, w.geometry, planes, found
    )
    if found[0, 0, 0, 0]:
        raise arguments.argmax_error(w)
    return argmax


def _planes(x: Array) -> Array:
    """View x as (A, B, height, width) with contiguous rows, bool as uint8; a copy where there is no such view."""
    if x.ndim < 4:
        x = x.reshape((1,) * (4 - x.ndim) + x.shape)
    elif x.ndim > 4:
        x = x.reshape(prod(x.shape[:-3]), *x.shape[-3:])
    if x.strides[3] != x.itemsize and x.shape[3] > 1:
        x = np.ascontiguousarray(x)
    return x.view(np.uint8) if x.dtype.char == "?" else x


def _contiguous(result: Array) -> Array:
    """Return what a kernel writes to: `result`, or a stand-in where that is strided."""
    return result if result.flags.carray else np.empty(result.shape, result.dtype)


def _finished(result: Array, written: Array) -> Array:
    """Return `result`, with what was written to a stand-in."""
    if written is not result:
        result[...] = written
    return result
