"""The functions: check the arguments, allocate the result, run a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastpool import arguments, layout, plans
from fastpool.kernels import adaptive, lp_pool, unpool, wide
from fastpool.kernels import indices as positions
from fastpool.ranks import ranks
from fastpool.reuse import Results
from fastpool.window import (
    AdaptiveWindow,
    OutputSize,
    Padding,
    Sizes,
    Window,
    adaptive_window,
    parameters,
    plain,
    spatial_rank,
    window,
)

Array = np.ndarray[Any, Any]

#: So many bytes are compared sooner with all that are valid than a kernel is called.
LISTED = 1 << 9


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
    windows = None if output_size is None else plain(output_size, "output_size")
    plan = plans.unfolding(x.shape, x.dtype, True, windows, parameters(kernel_size, stride, padding, dilation))
    return plan.run(out, (x,))[0]


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
    cols, shape = arguments.array(cols, "cols"), arguments.shape(input_shape, "input_shape", 4)
    windows = None if output_size is None else plain(output_size, "output_size")
    plan = plans.folding_batch(shape, cols.dtype, windows, parameters(kernel_size, stride, padding, dilation))
    arguments.same_shape(cols, "cols", plan.pooled, "what im2col makes of input_shape")
    return plan.run(out, (cols,))[0]


def unfold(
    x: ArrayLike,
    kernel_size: Sizes,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    *,
    out: Array | None = None,
) -> Array:
    """Lay the windows of every image out as columns of their own: `im2col`, image by image, as PyTorch does it.

    Parameters
    ----------
    x : array_like, shape (N, C, *spatial)
        Images of 1 to 3 spatial axes, of any dtype that `max_pool2d` takes.
    kernel_size, stride, padding, dilation
        As for `im2col`, for as many axes as x has.
    out : ndarray, optional
        Where to write the result: of its shape and dtype, sharing no memory with x.

    Returns
    -------
    ndarray, shape (N, C * K, L)
        K is the product of the kernel size, L how many windows an image has. Row (c, *k), column (*o) of
        image n is ``x[n, c, o * stride + k * dilation - padding]``, on every axis. Floats are kept, everything else
        gives float64.

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
    >>> fastpool.unfold(np.arange(6.0).reshape(1, 1, 2, 3), 2)
    array([[[0., 1.],
            [1., 2.],
            [3., 4.],
            [4., 5.]]])
    >>> fastpool.unfold(np.arange(4.0).reshape(1, 1, 4), 3)
    array([[[0., 1.],
            [1., 2.],
            [2., 3.]]])
    """
    x = arguments.images(x, "x")
    plan = plans.unfolding(x.shape, x.dtype, False, None, parameters(kernel_size, stride, padding, dilation))
    return plan.run(out, (x,))[0]


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
    """Add columns back to where `unfold` took them from: its adjoint, the gradient of its input.

    Parameters
    ----------
    cols : array_like, shape (N, C * K, L) or (C * K, L)
        Columns in the order of `unfold`, of a batch of images or of one.
    output_size : int or sequence of int
        The spatial shape of the images. There are as many spatial axes as it has entries; where it is an
        int, as many as kernel_size has; where both are ints, 2.
    kernel_size, stride, padding, dilation
        As for `unfold`.
    out : ndarray, optional
        Where to write the result: of its shape and dtype, sharing no memory with cols.

    Returns
    -------
    ndarray, shape (N, C, *output_size) or (C, *output_size)
        Every element is the sum of its columns, added in the order of the kernel's places; of float16 and
        bfloat16 it is rounded once. Floats are kept, everything else gives float64.

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
    >>> fastpool.fold(np.ones((4, 2)), (2, 3), 2)
    array([[[1., 2., 1.],
            [1., 2., 1.]]])
    >>> fastpool.fold(np.ones((3, 2)), [4], 3)
    array([[1., 2., 2., 1.]])
    """
    cols, spatial = arguments.array(cols, "cols"), plain(output_size, "output_size")
    plan = plans.folding(cols.shape, cols.dtype, spatial, parameters(kernel_size, stride, padding, dilation))
    return plan.run(out, (cols,))[0]


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
    """Take the largest element of every window.

    Parameters
    ----------
    x : array_like, shape (..., *spatial), or (..., *spatial, C) with channels last
        Any number of planes of bool, integers, float16, bfloat16 (of ml_dtypes), float32 or float64.
    kernel_size : int or one int an axis
        The size of the window.
    stride : int or one int an axis, optional
        Elements from one window to the next; by default `kernel_size`.
    padding : int, one int or one (int, int) an axis, or str
        Padding, which is never the largest: for all axes, for each axis, or before and after
        each axis, less than the dilated kernel; or "valid" (none), "same" (output =
        ceil(input / stride), the odd one at the end) or "same_lower" (the odd one at the start).
    dilation : int or one int an axis
        Elements from one place of the window to the next.
    ceil_mode : bool
        Also take windows that hang over the end, if they start before the padding there.
    return_argmax : bool
        Also return where in its window each maximum is: what `max_pool2d_backward` needs.
    return_indices : bool
        Also return where in its plane each maximum is.
    data_format : {"channels_first", "channels_last"}
        Whether the spatial axes of x are its last ones, or are followed by the channels.
    out : ndarray, optional
        Where to write y: of its shape and dtype, sharing no memory with x.

    Returns
    -------
    y : ndarray, shape (..., *output) or (..., *output, C), of the dtype of x
        An axis of length L becomes floor((L + padding before and after - dilation * (K - 1) - 1) / stride) + 1.
        As in `numpy.max`, NaN where a window has one.
    argmax : ndarray, of the shape of y, if `return_argmax`
        The position in the window, row-major over the kernel, of the first maximum, or of the first NaN, as in
        `numpy.argmax`; the smallest of uint8, uint16 and uint32 that holds every position.
    indices : ndarray of int64, of the shape of y, if `return_indices`
        The same element's position in the plane, row-major over the spatial axes of x, as in PyTorch.

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
    """
    x = arguments.array(x, "x")
    neither = return_argmax is return_indices is False  # as almost always, and quick to see
    wanted = not neither and arguments.wants_positions(return_argmax, return_indices)
    of_window = parameters(kernel_size, stride, padding, dilation, ceil_mode, data_format)
    plan = plans.pooling(ndim, plans.MAXIMA, x.shape, x.dtype, wanted, None, of_window)
    y, argmax = plan.run(out, (x,))
    if not wanted:
        return y
    if return_argmax:
        return y, argmax
    found = np.empty(plan.shape, np.int64)
    given, result = (layout.planes(a, plan.w, plan.trailing) for a in (argmax, found))
    positions.argmax_to_indices(prod(result.shape[:3]), found.nbytes, plan.w.geometry, given, result)
    return y, found


max_pool1d, max_pool2d, max_pool3d = ranks(
    _max_pool,
    """
>>> fastpool.max_pool1d(np.array([1.0, 2.0, 5.0, 4.0]), 2, stride=1, return_argmax=True)
(array([2., 5., 5.]), array([1, 1, 0], dtype=uint8))
""",
    """
>>> x = np.array([[1.0, 2.0, 5.0], [4.0, 3.0, 0.0]])
>>> fastpool.max_pool2d(x, 2, stride=1, return_argmax=True)
(array([[4., 5.]]), array([[2, 1]], dtype=uint8))
""",
    """
>>> fastpool.max_pool3d(np.arange(8.0).reshape(2, 2, 2), 2, return_argmax=True)
(array([[[7.]]]), array([[[7]]], dtype=uint8))
""",
)


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
    """Send every gradient to the element that its window's maximum came from.

    Parameters
    ----------
    dy : array_like, shape (..., *output) or (..., *output, C)
        The gradient of y: integers or floats.
    argmax : array_like of integers, of the shape of dy
        What `max_poolNd` returned with `return_argmax`.
    input_shape : tuple of int
        The shape (..., *spatial) or (..., *spatial, C) of x.
    kernel_size, stride, padding, dilation, ceil_mode, data_format
        As they were given to `max_poolNd`.
    out : ndarray, optional
        Where to write dx: of its shape and dtype, sharing no memory with dy and argmax.

    Returns
    -------
    ndarray, shape `input_shape`, of the dtype of dy
        Where windows overlap, gradients are added in the order of the kernel's places; of float16
        and bfloat16 the sum is rounded once. What an argmax puts on padding is dropped, as `col2im` drops it.

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
    """
    dy, shape = arguments.array(dy, "dy", arguments.GRADIENTS), arguments.shape(input_shape, "input_shape")
    of_window = parameters(kernel_size, stride, padding, dilation, ceil_mode, data_format)
    plan = plans.scattering(ndim, shape, dy.dtype, dy.flags.c_contiguous, of_window)
    arguments.same_shape(dy, "dy", plan.pooled, "the result of pooling input_shape")
    argmax = arguments.array(argmax, "argmax", arguments.INTEGERS)
    arguments.same_shape(argmax, "argmax", plan.pooled, "that of dy")
    if out is not None and not isinstance(out, Results):
        arguments.result(out, plan.shape, plan.dtype, dy, argmax)  # of which a copy may be what is read
    return plan.run(out, (dy, checked_argmax(argmax, plan.w)))[0]


max_pool1d_backward, max_pool2d_backward, max_pool3d_backward = ranks(
    _max_pool_backward,
    """
>>> y, argmax = fastpool.max_pool1d(np.array([1.0, 2.0, 5.0, 4.0]), 2, stride=1, return_argmax=True)
>>> fastpool.max_pool1d_backward(np.array([0.5, 0.25, 1.0]), argmax, (4,), 2, stride=1)
array([0.  , 0.5 , 1.25, 0.  ])
""",
    """
>>> x = np.array([[1.0, 2.0, 5.0], [4.0, 3.0, 0.0]])
>>> y, argmax = fastpool.max_pool2d(x, 2, stride=1, return_argmax=True)
>>> fastpool.max_pool2d_backward(np.array([[0.5, 0.25]]), argmax, x.shape, 2, stride=1)
array([[0.  , 0.  , 0.25],
       [0.5 , 0.  , 0.  ]])
""",
    """
>>> y, argmax = fastpool.max_pool3d(np.arange(8.0).reshape(2, 2, 2), 2, return_argmax=True)
>>> fastpool.max_pool3d_backward(np.array([[[0.5]]]), argmax, (2, 2, 2), 2)
array([[[0. , 0. ],
        [0. , 0. ]],
<BLANKLINE>
       [[0. , 0. ],
        [0. , 0.5]]])
""",
)


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
    """Take the average of every window.

    Parameters
    ----------
    x : array_like, shape (..., *spatial), or (..., *spatial, C) with channels last
        Any number of planes of bool, integers, float16, bfloat16 (of ml_dtypes), float32 or float64.
    kernel_size, stride, padding, dilation, ceil_mode, data_format
        As for `max_poolNd`; padding is zeros.
    count_include_pad : bool
        Whether a sum is divided by how many places its window has on x and its padding, or on x alone.
        What hangs over the padding in ceil mode counts in neither.
    divisor_override : int, optional
        What to divide every sum by instead, at least 1.
    out : ndarray, optional
        Where to write the result: of its shape and dtype, sharing no memory with x.

    Returns
    -------
    ndarray, shape (..., *output) or (..., *output, C)
        Floats are kept and summed in at least float32, everything else gives float64. An element is off by at most
        (KD * KH + KW + 1) / 2 units in the last place of the average of the absolute values: a window's
        columns are added up first, then their sums.

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
    """
    x = arguments.array(x, "x")
    divisors = arguments.divisor_arguments(count_include_pad, divisor_override)
    of_window = parameters(kernel_size, stride, padding, dilation, ceil_mode, data_format)
    plan = plans.pooling(ndim, plans.AVERAGES, x.shape, x.dtype, False, divisors, of_window)
    return plan.run(out, (x,))[0]


avg_pool1d, avg_pool2d, avg_pool3d = ranks(
    _avg_pool,
    """
>>> fastpool.avg_pool1d(np.array([1.0, 2.0, 6.0, 4.0]), 2, padding=1)
array([0.5, 4. , 2. ])
""",
    """
>>> x = np.array([[1.0, 2.0, 6.0], [4.0, 3.0, 0.0]])
>>> fastpool.avg_pool2d(x, 2, stride=1)
array([[2.5 , 2.75]])
>>> fastpool.avg_pool2d(x, 2, padding=1, count_include_pad=False)
array([[1. , 4. ],
       [4. , 1.5]])
""",
    """
>>> fastpool.avg_pool3d(np.arange(8.0).reshape(2, 2, 2), (2, 1, 2))
array([[[2.5],
        [4.5]]])
""",
)


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
    """Share every gradient out among the elements of its window.

    Parameters
    ----------
    dy : array_like, shape (..., *output) or (..., *output, C)
        The gradient of y: integers or floats.
    input_shape : tuple of int
        The shape (..., *spatial) or (..., *spatial, C) of x.
    kernel_size, stride, padding, dilation, ceil_mode, count_include_pad, divisor_override, data_format
        As they were given to `avg_poolNd`.
    out : ndarray, optional
        Where to write dx: of its shape and dtype, sharing no memory with dy.

    Returns
    -------
    ndarray, shape `input_shape`
        The sum, for every element, of what it has of the gradients of its windows. Floats are
        kept, everything else gives float64.

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
    """
    dy, shape = arguments.array(dy, "dy", arguments.GRADIENTS), arguments.shape(input_shape, "input_shape")
    divisors = arguments.divisor_arguments(count_include_pad, divisor_override)
    of_window = parameters(kernel_size, stride, padding, dilation, ceil_mode, data_format)
    plan = plans.sharing(ndim, shape, dy.dtype, divisors, of_window)
    arguments.same_shape(dy, "dy", plan.pooled, "the result of pooling input_shape")
    return plan.run(out, (dy,))[0]


avg_pool1d_backward, avg_pool2d_backward, avg_pool3d_backward = ranks(
    _avg_pool_backward,
    """
>>> fastpool.avg_pool1d_backward(np.array([4.0, 8.0]), (3,), 2, stride=1)
array([2., 6., 4.])
""",
    """
>>> fastpool.avg_pool2d_backward(np.array([[4.0, 8.0]]), (2, 3), 2, stride=1)
array([[1., 3., 2.],
       [1., 3., 2.]])
""",
    """
>>> fastpool.avg_pool3d_backward(np.array([[[4.0], [8.0]]]), (1, 2, 2), (1, 1, 2))
array([[[2., 2.],
        [4., 4.]]])
""",
)


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
    """Turn positions in windows, as `return_argmax` gives them, into positions in planes, as `return_indices` does.

    Parameters
    ----------
    argmax : array_like of integers, shape (..., *output) or (..., *output, C)
        Of every window, a position row-major over the kernel.
    input_shape : tuple of int
        The shape (..., *spatial) or (..., *spatial, C) of what was pooled.
    kernel_size, stride, padding, dilation, ceil_mode, data_format
        As they were given to the pooling.
    spatial_ndim : int
        How many spatial axes there are: 1, 2 or 3.

    Returns
    -------
    ndarray of int64, of the shape of argmax
        The same elements' positions in the plane, row-major over the spatial axes.

    Raises
    ------
    TypeError
        A dtype or a parameter of the wrong type.
    ValueError
        A shape or a parameter out of range; a position on padding or outside of its window.

    Examples
    --------
    >>> import fastpool
    >>> fastpool.argmax_to_indices([[2, 1]], (2, 3), 2, stride=1)
    array([[3, 2]])
    """
    parameters = kernel_size, stride, padding, dilation, ceil_mode
    argmax, w = arguments.positions_arguments(
        argmax, "argmax", input_shape, spatial_ndim, *parameters, data_format=data_format
    )
    found = np.empty(argmax.shape, np.int64)
    trailing = argmax.shape[-1:] if data_format == "channels_last" else ()
    given, result = layout.planes(np.ascontiguousarray(argmax), w, trailing), layout.planes(found, w, trailing)
    positions.argmax_to_indices(prod(result.shape[:3]), found.nbytes, w.geometry, given, result)
    if found.size and found.min() < 0:
        raise arguments.argmax_error(w)
    return found


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
    """Turn positions in planes, as PyTorch returns them, into positions in windows, as backward functions take them.

    Parameters
    ----------
    indices : array_like of integers, shape (..., *output) or (..., *output, C)
        Of every window, a position in the plane of the input, row-major over the spatial axes.
    input_shape, kernel_size, stride, padding, dilation, ceil_mode, spatial_ndim, data_format
        As for `argmax_to_indices`.

    Returns
    -------
    ndarray of uint8, uint16 or uint32, of the shape of indices
        The same elements' positions in their windows.

    Raises
    ------
    TypeError
        A dtype or a parameter of the wrong type.
    ValueError
        A shape or a parameter out of range; a position outside of its plane or its window.

    Examples
    --------
    >>> import fastpool
    >>> fastpool.indices_to_argmax([[3, 2]], (2, 3), 2, stride=1)
    array([[2, 1]], dtype=uint8)
    """
    parameters = kernel_size, stride, padding, dilation, ceil_mode
    indices, w = arguments.positions_arguments(
        indices, "indices", input_shape, spatial_ndim, *parameters, data_format=data_format
    )
    result, found = np.empty(indices.shape, w.argmax_dtype), np.zeros((1, 1, 1, 2), np.uint8)
    trailing = indices.shape[-1:] if data_format == "channels_last" else ()
    given = layout.planes(np.ascontiguousarray(indices, np.int64), w, trailing)
    target = layout.planes(result, w, trailing)
    positions.indices_to_argmax(prod(target.shape[:3]), given.nbytes, w.geometry, given, target, found)
    if found[0, 0, 0, 0]:
        raise arguments.indices_error(w.input)
    if found[0, 0, 0, 1]:
        raise ValueError("indices has a position outside of its window")
    return result


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
    """Take the norm of every window, ``(sum of abs(x)**norm_type)**(1/norm_type)``.

    Parameters
    ----------
    x : array_like, shape (..., *spatial), or (..., *spatial, C) with channels last
        Any number of planes, of any dtype that `max_poolNd` takes.
    norm_type : float
        The power, above 0 and finite: 1 sums magnitudes, 2 is the Euclidean norm.
    kernel_size, stride, padding, dilation, ceil_mode, data_format
        As for `max_poolNd`; padding is zeros.
    out : ndarray, optional
        Where to write the result: of its shape and dtype, sharing no memory with x.

    Returns
    -------
    ndarray, shape (..., *output) or (..., *output, C)
        Floats are kept, everything else gives float64. It is computed in float64 and rounded once; a sum of powers
        beyond float64 is infinite, and NaN follows arithmetic.

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
    """
    x = arguments.array(x, "x")
    leading, spatial, trailing = arguments.split(x.shape, data_format, ndim, "x")
    w = window(spatial, kernel_size, stride, padding, dilation, ceil_mode, elements=True)
    norm = arguments.norm(norm_type)
    y = arguments.result(out, leading + w.output + trailing, arguments.float_dtype(x), x)
    planes = layout.spatial_last(arguments.as_float(x), ndim, trailing)
    written = np.empty(planes.shape[: planes.ndim - ndim] + w.output, y.dtype)
    kernel = lp_pool.lp_pool(_special(norm))
    rows_out = prod(written.shape[:-1])
    kernel(rows_out, planes.nbytes, w.geometry, layout.planes(planes, w), _power(norm), layout.planes(written, w))
    layout.spatial_last(y, ndim, trailing)[...] = written
    return y


lp_pool1d, lp_pool2d, lp_pool3d = ranks(
    _lp_pool,
    """
>>> fastpool.lp_pool1d(np.array([3.0, 4.0, 0.0, -5.0]), 2, 2)
array([5., 5.])
""",
    """
>>> fastpool.lp_pool2d(np.array([[3.0, 4.0], [0.0, -5.0]]), 1, (1, 2))
array([[7.],
       [5.]])
""",
    """
>>> fastpool.lp_pool3d(np.ones((2, 2, 4)), 3, 2)
array([[[2., 2.]]])
""",
)


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
    """Return the gradient of x, ``dy * sign(x) * (abs(x) / y)**(norm_type - 1)`` summed over its windows.

    Parameters
    ----------
    dy : array_like, shape (..., *output) or (..., *output, C)
        The gradient of y: integers or floats.
    x : array_like, shape (..., *spatial) or (..., *spatial, C)
        What was pooled.
    y : array_like, of the shape of dy
        What `lp_poolNd` made of it.
    norm_type, kernel_size, stride, padding, dilation, ceil_mode, data_format
        As they were given to `lp_poolNd`.
    out : ndarray, optional
        Where to write dx: of its shape and dtype, sharing no memory with dy, x and y.

    Returns
    -------
    ndarray, of the shape of x
        Where x or y is 0 it is 0, one of the slopes there; an infinite x has NaN where the norm is not 1. The floats
        of dy are kept, everything else gives float64; it is computed in float64 and rounded once.

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
    """
    dy, x, y, w = arguments.lp_gradient_arguments(
        dy, x, y, ndim, kernel_size, stride, padding, dilation, ceil_mode, data_format=data_format
    )
    norm = arguments.norm(norm_type)
    dx = arguments.result(out, x.shape, arguments.float_dtype(dy), dy, x, y)
    trailing = x.shape[-1:] if data_format == "channels_last" else ()
    given = [layout.spatial_last(arguments.as_float(a), ndim, trailing) for a in (dy, x, y)]
    written = np.empty(given[1].shape, dx.dtype)
    kernel = lp_pool.lp_pool_backward(_special(norm))
    rows_in = prod(written.shape[:-1])
    planes = [layout.planes(a, w) for a in (*given, written)]
    kernel(rows_in, written.nbytes, w.geometry, *planes[:3], _power(norm), planes[3])
    layout.spatial_last(dx, ndim, trailing)[...] = written
    return dx


lp_pool1d_backward, lp_pool2d_backward, lp_pool3d_backward = ranks(
    _lp_pool_backward,
    """
>>> x = np.array([3.0, 4.0, 0.0, -5.0])
>>> fastpool.lp_pool1d_backward(np.array([1.0, 2.0]), x, fastpool.lp_pool1d(x, 2, 2), 2, 2)
array([ 0.6,  0.8,  0. , -2. ])
""",
    """
>>> x = np.array([[3.0, 4.0], [0.0, -5.0]])
>>> fastpool.lp_pool2d_backward(np.array([[1.0], [2.0]]), x, fastpool.lp_pool2d(x, 1, (1, 2)), 1, (1, 2))
array([[ 1.,  1.],
       [ 0., -2.]])
""",
    """
>>> x = np.array([[[3.0, 4.0]]])
>>> fastpool.lp_pool3d_backward(np.array([[[1.0]]]), x, fastpool.lp_pool3d(x, 2, (1, 1, 2)), 2, (1, 1, 2))
array([[[0.6, 0.8]]])
""",
)


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
    """Take the largest element of each of so many windows, which share the input out.

    Along an axis of length L with O windows, window i goes from floor(i * L / O) to ceil((i + 1) * L / O), as in
    PyTorch: they overlap by one element, or are of one size and side by side where O divides L.

    Parameters
    ----------
    x : array_like, shape (..., *spatial), or (..., *spatial, C) with channels last
        Any number of planes, of any dtype that `max_poolNd` takes.
    output_size : int or None, or one of these an axis
        How many windows there are along an axis, which may be more than there are elements; None keeps the axis.
    return_indices : bool
        Also return where in its plane each maximum is.
    return_argmax : bool
        Also return where in its window each maximum is: what `adaptive_max_poolNd_backward` needs.
    data_format : {"channels_first", "channels_last"}
        Whether the spatial axes of x are its last ones, or are followed by the channels.
    out : ndarray, optional
        Where to write y: of its shape and dtype, sharing no memory with x.

    Returns
    -------
    y : ndarray, shape (..., *output) or (..., *output, C), of the dtype of x
        As in `numpy.max`, NaN where a window has one.
    indices : ndarray of int64, of the shape of y, if `return_indices`
        The position in the plane, row-major over the spatial axes of x, of the first maximum, or of the first NaN.
    argmax : ndarray, of the shape of y, if `return_argmax`
        The same element's position in its window, row-major over the size of the largest window; the smallest of
        uint8, uint16 and uint32 that holds every position.

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
    """
    x = arguments.array(x, "x")
    leading, spatial, trailing = arguments.split(x.shape, data_format, ndim, "x")
    w = adaptive_window(spatial, output_size)
    wanted = arguments.wants_positions(return_argmax, return_indices)
    if _ordinary(w, trailing):
        asked = {"return_argmax": return_argmax, "return_indices": return_indices}
        return _max_pool(ndim, x, w.kernel_size, **asked, data_format=data_format, out=out)
    shape = leading + w.output + trailing
    y = arguments.result(out, shape, x.dtype, x)
    written = layout.contiguous(y)
    argmax = np.empty(shape, w.argmax_dtype) if wanted else None
    over = _flattened(w, trailing)
    planes = layout.planes(x.reshape(leading + over.input + trailing), over, trailing)
    flat = leading + over.output + trailing
    results = (None if a is None else layout.planes(a.reshape(flat), over, trailing) for a in (written, argmax))
    adaptive.adaptive_max_pool(prod(leading + over.output[:-1]), x.nbytes, over.geometry, planes, *results)
    y = layout.finished(y, written)
    if argmax is None:
        return y
    return y, argmax if return_argmax else _adaptive_indices(argmax, w, trailing)


adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = ranks(
    _adaptive_max_pool,
    """
>>> fastpool.adaptive_max_pool1d(np.array([1.0, 2.0, 5.0, 4.0]), 3, return_argmax=True)
(array([2., 5., 5.]), array([1, 1, 0], dtype=uint8))
""",
    """
>>> x = np.array([[1.0, 2.0, 5.0], [4.0, 3.0, 0.0]])
>>> fastpool.adaptive_max_pool2d(x, (None, 2))
array([[2., 5.],
       [4., 3.]])
""",
    """
>>> fastpool.adaptive_max_pool3d(np.arange(8.0).reshape(2, 2, 2), 1, return_indices=True)
(array([[[7.]]]), array([[[7]]]))
""",
)


def _adaptive_max_pool_backward(
    ndim: int,
    dy: ArrayLike,
    argmax: ArrayLike,
    input_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Send every gradient to the element that its window's maximum came from.

    Parameters
    ----------
    dy : array_like, shape (..., *output) or (..., *output, C)
        The gradient of y: integers or floats.
    argmax : array_like of integers, of the shape of dy
        What `adaptive_max_poolNd` returned with `return_argmax`.
    input_shape : tuple of int
        The shape (..., *spatial) or (..., *spatial, C) of x.
    data_format : {"channels_first", "channels_last"}
        As it was given to `adaptive_max_poolNd`.
    out : ndarray, optional
        Where to write dx: of its shape and dtype, sharing no memory with dy and argmax.

    Returns
    -------
    ndarray, shape `input_shape`, of the dtype of dy
        Where windows overlap, gradients are added in the order of the windows; of float16 and bfloat16 the sum is
        rounded once.

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
    """
    dy, shape, w = arguments.adaptive_gradient_arguments(dy, input_shape, ndim, data_format)
    argmax = arguments.array(argmax, "argmax", arguments.INTEGERS)
    arguments.same_shape(argmax, "argmax", dy.shape, "that of dy")
    dx = arguments.result(out, shape, dy.dtype, dy, argmax)
    trailing = shape[-1:] if data_format == "channels_last" else ()
    if w.divides:
        side_by_side = window(w.input, w.kernel_size, None, 0, 1)
        return scattered(dy, checked_argmax(argmax, side_by_side), side_by_side, shape, dx, trailing)
    if argmax.dtype != w.argmax_dtype:
        argmax = argmax.astype(np.uint64)  # negative ones are beyond any window
    written, element = layout.contiguous(dx), layout.summed(dy.dtype)
    given = (np.ascontiguousarray(dy).view(element), np.ascontiguousarray(argmax), written.view(element))
    gradient, positions, target = (layout.planes(a, w, trailing) for a in given)
    found = np.zeros((1, 1, 1, 1), np.uint8)
    planes = prod(target.shape[:2]) if dx.size else 0
    adaptive.find_misplaced(planes, argmax.nbytes, w.geometry, positions, found)
    if found.any():
        raise arguments.argmax_error(w)
    adaptive.adaptive_max_pool_backward(planes, dx.nbytes, w.geometry, gradient, positions, target)
    return layout.finished(dx, written)


adaptive_max_pool1d_backward, adaptive_max_pool2d_backward, adaptive_max_pool3d_backward = ranks(
    _adaptive_max_pool_backward,
    """
>>> y, argmax = fastpool.adaptive_max_pool1d(np.array([1.0, 2.0, 5.0, 4.0]), 3, return_argmax=True)
>>> fastpool.adaptive_max_pool1d_backward(np.array([0.5, 0.25, 1.0]), argmax, (4,))
array([0.  , 0.5 , 1.25, 0.  ])
""",
    """
>>> x = np.array([[1.0, 2.0, 5.0], [4.0, 3.0, 0.0]])
>>> y, argmax = fastpool.adaptive_max_pool2d(x, (1, 2), return_argmax=True)
>>> fastpool.adaptive_max_pool2d_backward(np.array([[0.5, 0.25]]), argmax, x.shape)
array([[0.  , 0.  , 0.25],
       [0.5 , 0.  , 0.  ]])
""",
    """
>>> y, argmax = fastpool.adaptive_max_pool3d(np.arange(8.0).reshape(2, 2, 2), 1, return_argmax=True)
>>> fastpool.adaptive_max_pool3d_backward(np.array([[[0.5]]]), argmax, (2, 2, 2))
array([[[0. , 0. ],
        [0. , 0. ]],
<BLANKLINE>
       [[0. , 0. ],
        [0. , 0.5]]])
""",
)


def _adaptive_avg_pool(
    ndim: int,
    x: ArrayLike,
    output_size: OutputSize,
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Take the average of each of so many windows, which share the input out as those of `adaptive_max_poolNd`.

    Parameters
    ----------
    x : array_like, shape (..., *spatial), or (..., *spatial, C) with channels last
        Any number of planes, of any dtype that `max_poolNd` takes.
    output_size, data_format
        As for `adaptive_max_poolNd`.
    out : ndarray, optional
        Where to write the result: of its shape and dtype, sharing no memory with x.

    Returns
    -------
    ndarray, shape (..., *output) or (..., *output, C)
        Floats are kept and summed in at least float32, everything else gives float64. Sums are as exact as those of
        `avg_poolNd`.

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
    """
    x = arguments.array(x, "x")
    leading, spatial, trailing = arguments.split(x.shape, data_format, ndim, "x")
    w = adaptive_window(spatial, output_size)
    if _ordinary(w, trailing):
        return _avg_pool(ndim, x, w.kernel_size, data_format=data_format, out=out)
    y = arguments.result(out, leading + w.output + trailing, arguments.float_dtype(x), x)
    w = _flattened(w, trailing)
    sizes = [stops - starts for starts, stops in zip(w.starts, w.stops)]
    _adaptive_sums(arguments.as_float(x), w, leading, sizes, y, trailing)
    return y


adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = ranks(
    _adaptive_avg_pool,
    """
>>> fastpool.adaptive_avg_pool1d(np.array([1.0, 2.0, 6.0, 4.0]), 3)
array([1.5, 4. , 5. ])
""",
    """
>>> x = np.array([[1.0, 2.0, 6.0], [4.0, 3.0, 0.0]])
>>> fastpool.adaptive_avg_pool2d(x, (1, 2))
array([[2.5 , 2.75]])
""",
    """
>>> fastpool.adaptive_avg_pool3d(np.arange(8.0).reshape(2, 2, 2), (None, 2, 1))
array([[[0.5],
        [2.5]],
<BLANKLINE>
       [[4.5],
        [6.5]]])
""",
)


def _adaptive_avg_pool_backward(
    ndim: int,
    dy: ArrayLike,
    input_shape: tuple[int, ...],
    *,
    data_format: str = "channels_first",
    out: Array | None = None,
) -> Array:
    """Share every gradient out among the elements of its window.

    Parameters
    ----------
    dy : array_like, shape (..., *output) or (..., *output, C)
        The gradient of y: integers or floats.
    input_shape : tuple of int
        The shape (..., *spatial) or (..., *spatial, C) of x.
    data_format : {"channels_first", "channels_last"}
        As it was given to `adaptive_avg_poolNd`.
    out : ndarray, optional
        Where to write dx: of its shape and dtype, sharing no memory with dy.

    Returns
    -------
    ndarray, shape `input_shape`
        The sum, for every element, of what it has of the gradients of its windows. Floats are kept, everything else
        gives float64.

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
    """
    dy, shape, w = arguments.adaptive_gradient_arguments(dy, input_shape, ndim, data_format)
    trailing = shape[-1:] if data_format == "channels_last" else ()
    if w.divides and (layout.by_pixels(trailing) or prod(w.output) == 1):
        return _avg_pool_backward(ndim, dy, shape, w.kernel_size, data_format=data_format, out=out)
    dx = arguments.result(out, shape, arguments.float_dtype(dy), dy)
    share = arguments.wide(arguments.as_float(dy))
    sizes = [stops - starts for starts, stops in zip(w.starts, w.stops)]
    share = share / reduce(np.multiply.outer, sizes).astype(share.dtype).reshape(w.output + (1,) * len(trailing))
    # Of an element's windows, again the windows of an adaptive pooling, it takes the sum.
    meeting = _flattened(adaptive_window(w.output, w.input), trailing)
    leading = shape[: len(shape) - len(trailing) - ndim]
    _adaptive_sums(share, meeting, leading, [np.ones_like(starts) for starts in meeting.starts], dx, trailing)
    return dx


adaptive_avg_pool1d_backward, adaptive_avg_pool2d_backward, adaptive_avg_pool3d_backward = ranks(
    _adaptive_avg_pool_backward,
    """
>>> fastpool.adaptive_avg_pool1d_backward(np.array([4.0, 8.0]), (3,))
array([2., 6., 4.])
""",
    """
>>> fastpool.adaptive_avg_pool2d_backward(np.array([[4.0, 8.0]]), (2, 3))
array([[1., 3., 2.],
       [1., 3., 2.]])
""",
    """
>>> fastpool.adaptive_avg_pool3d_backward(np.array([[[4.0], [8.0]]]), (1, 2, 2))
array([[[2., 2.],
        [4., 4.]]])
""",
)


def global_max_pool(x: ArrayLike, spatial_ndim: int = 2, *, data_format: str = "channels_first") -> Array:
    """Take the largest element of every plane.

    Parameters
    ----------
    x : array_like, shape (..., *spatial), or (..., *spatial, C) with channels last
        Any number of planes, of any dtype that `max_pool2d` takes.
    spatial_ndim : int
        How many spatial axes there are: 1, 2 or 3.
    data_format : {"channels_first", "channels_last"}
        Whether the spatial axes of x are its last ones, or are followed by the channels.

    Returns
    -------
    ndarray, of the dtype of x
        x with spatial axes of length 1.

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
    >>> fastpool.global_max_pool(np.arange(12.0).reshape(3, 2, 2)).reshape(-1)
    array([ 3.,  7., 11.])
    >>> fastpool.global_max_pool(np.arange(12.0).reshape(3, 2, 2), 3)
    array([[[11.]]])
    """
    y = _adaptive_max_pool(spatial_rank(spatial_ndim, "spatial_ndim"), x, 1, data_format=data_format)
    assert isinstance(y, np.ndarray)
    return y


def global_avg_pool(x: ArrayLike, spatial_ndim: int = 2, *, data_format: str = "channels_first") -> Array:
    """Take the average of every plane.

    Parameters
    ----------
    x, spatial_ndim, data_format
        As for `global_max_pool`.

    Returns
    -------
    ndarray
        The averages, with spatial axes of length 1. Floats are kept, everything else gives float64.

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
    >>> fastpool.global_avg_pool(np.arange(12.0).reshape(3, 2, 2)).reshape(-1)
    array([1.5, 5.5, 9.5])
    """
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
    """Put every maximum back where it was, and 0 elsewhere.

    Parameters
    ----------
    y : array_like, shape (..., *pooled)
        Any number of planes, of any dtype that `max_poolNd` takes.
    indices : array_like of integers, of the shape of y
        Where each value goes: what `max_poolNd` returned with `return_indices`.
    kernel_size, stride, padding
        As they were given to `max_poolNd`; padding in numbers, or "valid".
    output_size : int or sequence of int, optional
        The size of each spatial axis of the result, or its whole shape: less than a stride from the smallest that
        kernel_size, stride and padding pool to y, which is the default.
    out : ndarray, optional
        Where to write the result: of its shape and dtype, sharing no memory with y and indices.

    Returns
    -------
    ndarray, shape (..., *spatial), of the dtype of y
        Of several values with the same index the last one stays.

    Raises
    ------
    TypeError
        A dtype or a parameter of the wrong type.
    ValueError
        A shape or a parameter out of range; an index outside of its plane.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    """
    y, indices, shape = arguments.unpool_arguments(y, indices, ndim, kernel_size, stride, padding, output_size)
    x = arguments.result(out, shape, y.dtype, y, indices)
    planes, spatial = prod(shape[:-ndim]), shape[-ndim:]
    if not arguments.within(indices, prod(spatial)):
        raise arguments.indices_error(spatial)
    written = layout.contiguous(x)
    bits = f"u{y.itemsize}"  # to move them they need not be read
    values, places, target = (
        np.ascontiguousarray(a).view(dtype).reshape(1, planes, 1, -1 if a.size else 0)
        for a, dtype in ((y, bits), (indices.astype(np.int64, copy=False), np.int64), (written, bits))
    )
    unpool.max_unpool(planes, x.nbytes, _NO_GEOMETRY, values, places, target)
    return layout.finished(x, written)


#: What a kernel gets that has no windows.
_NO_GEOMETRY = np.empty((0, 7), np.int64)

max_unpool1d, max_unpool2d, max_unpool3d = ranks(
    _max_unpool,
    """
>>> y, indices = fastpool.max_pool1d(np.array([1.0, 2.0, 5.0, 4.0]), 2, return_indices=True)
>>> fastpool.max_unpool1d(y, indices, 2)
array([0., 2., 5., 0.])
""",
    """
>>> x = np.array([[1.0, 2.0, 5.0], [4.0, 3.0, 0.0]])
>>> y, indices = fastpool.max_pool2d(x, 2, return_indices=True)
>>> fastpool.max_unpool2d(y, indices, 2, output_size=x.shape)
array([[0., 0., 0.],
       [4., 0., 0.]])
""",
    """
>>> fastpool.max_unpool3d(np.array([[[5.0]]]), np.array([[[6]]]), 2)
array([[[0., 0.],
        [0., 0.]],
<BLANKLINE>
       [[0., 0.],
        [5., 0.]]])
""",
)


def _ordinary(w: AdaptiveWindow, trailing: tuple[int, ...]) -> bool:
    """Whether the windows are those of an ordinary pooling, and so small that its kernels are faster."""
    if layout.by_pixels(trailing):
        return w.divides and w.taps <= 4
    return w.divides and (prod(w.output) == 1 or w.kernel_size[-1] <= wide.ROOM)


def _flattened(w: AdaptiveWindow, trailing: tuple[int, ...]) -> AdaptiveWindow:
    """Return the same windows along one axis, which fills vectors, if they are all, or of all, of a small plane."""
    size = prod(w.input), prod(w.output)
    if trailing or min(size) > 1 or max(size) > plans.FLAT:
        return w
    return adaptive_window(size[:1], size[1:])


def _adaptive_indices(argmax: Array, w: AdaptiveWindow, trailing: tuple[int, ...]) -> Array:
    """Return positions in windows as positions in planes of x."""
    indices = np.empty(argmax.shape, np.int64)
    planes, written = layout.planes(argmax, w, trailing), layout.planes(indices, w, trailing)
    adaptive.adaptive_indices(prod(written.shape[:3]), indices.nbytes, w.geometry, planes, written)
    return indices


def _adaptive_sums(
    x: Array,
    w: AdaptiveWindow,
    leading: tuple[int, ...],
    divisors: Sequence[Array],
    result: Array,
    trailing: tuple[int, ...],
) -> None:
    """Set `result` to the sums of the windows of x, divided by their divisors along each axis."""
    written = layout.contiguous(result)
    planes = layout.planes(x.reshape(leading + w.input + trailing), w, trailing)
    target = layout.planes(written.reshape(leading + w.output + trailing), w, trailing)
    *others, widths = divisors
    dtype = arguments.wide(np.empty(0, x.dtype)).dtype
    heights = reduce(np.multiply.outer, others, np.ones((), np.int64)).astype(dtype).reshape(1, 1, 1, -1)
    widths = np.repeat(widths, prod(trailing)).astype(dtype).reshape(1, 1, 1, -1)
    count = prod(target.shape[:3])
    adaptive.adaptive_avg_pool(count, max(x.nbytes, result.nbytes), w.geometry, planes, heights, widths, target)
    layout.finished(result, written)


def _special(norm: float) -> int:
    """Return the norm for which there is a kernel, or 0."""
    return int(norm) if norm in (1, 2) else 0


def _power(norm: float) -> Array:
    """Return the norm as an array of four axes, as kernels take it."""
    return np.full((1, 1, 1, 1), norm)


def scattered(
    dy: Array,
    argmax: Array,
    w: Window,
    shape: tuple[int, ...],
    out: Array | Results | None,
    trailing: tuple[int, ...] = (),
) -> Array:
    """Return the gradients, of this shape, of a max pooling whose argmax is known to be valid."""
    return plans.scattering_of(w, shape, dy.dtype, dy.flags.c_contiguous, trailing).run(out, (dy, argmax))[0]


def checked_argmax(argmax: Array, w: Window) -> Array:
    """Return argmax as max_pool2d makes it; ValueError unless each is in its window."""
    if argmax.dtype != w.argmax_dtype:
        if argmax.size and not 0 <= argmax.min() <= argmax.max() < w.taps:
            raise arguments.argmax_error(w)
        return argmax.astype(w.argmax_dtype, order="C")
    if argmax.size <= LISTED and argmax.itemsize == 1:
        if argmax.tobytes().translate(None, w.positions):
            raise arguments.argmax_error(w)
        return argmax if argmax.flags.c_contiguous else argmax.copy()
    argmax = np.ascontiguousarray(argmax)
    found = np.zeros(1, np.uint8)
    launch, numbers, geometry = plans.finding(w, argmax.size)
    launch(numbers, geometry, (argmax,), (found,))
    if found[0]:
        raise arguments.argmax_error(w)
    return argmax
