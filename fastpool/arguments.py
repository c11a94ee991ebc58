"""Arrays as the public functions take them: checked, and turned into what NumPy and the kernels read."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastpool.window import LIMIT, Padding, Sizes, Window, flag, plain, sizes, window

FLOATS = "fd"
INTEGERS = "bBhHiIlLqQ"
NUMBERS = "?" + INTEGERS + FLOATS
GRADIENTS = INTEGERS + FLOATS
_NAMES = {
    INTEGERS: "integers",
    GRADIENTS: "integers, float32 or float64",
    NUMBERS: "bool, integers, float32 or float64",
}


def array(value: ArrayLike, name: str, chars: str = NUMBERS) -> np.ndarray[Any, Any]:
    """`value` as an aligned array in native byte order whose dtype is one of `chars`.

    A copy is made only of what is not an array, or has a foreign byte order or alignment.
    """
    try:
        x = value if type(value) is np.ndarray else np.asarray(value)
    except ValueError as error:  # ragged lists
        raise ValueError(f"{name} is not an array: {error}") from None
    dtype = x.dtype
    if dtype.char not in chars:
        raise TypeError(f"{name} must be an array of {_NAMES[chars]}; its dtype is {dtype}")
    if not (dtype.isnative and x.flags.aligned):
        x = x.astype(dtype.newbyteorder("="))
    return x


def spatial_array(value: ArrayLike, name: str, ndim: int, exact: int = 0) -> np.ndarray[Any, Any]:
    """`array`, with at least `ndim` axes, or with `exact` axes where that is given."""
    x = array(value, name)
    if x.ndim < ndim or (exact and x.ndim != exact):
        wanted = f"{exact} axes (N, C, H, W)" if exact else f"at least {ndim} axes, the spatial ones last"
        raise ValueError(f"{name} must have {wanted}; its shape is {x.shape}")
    return x


def split(
    shape: tuple[int, ...], data_format: str, ndim: int, name: str
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the leading axes of a shape, its `ndim` spatial ones, and the channel where that is last."""
    if not isinstance(data_format, str):  # before it is compared, as an array would be element by element
        raise TypeError(f"data_format must be a str; got {data_format!r} of type {type(data_format).__name__}")
    if data_format == "channels_first":
        stop = len(shape)
    elif data_format == "channels_last":
        stop = len(shape) - 1
    else:
        raise ValueError(f"data_format must be 'channels_first' or 'channels_last'; got {data_format!r}")
    start = stop - ndim
    if start < 0:
        least = ndim + len(shape) - stop
        raise ValueError(f"{name} must have at least {least} axes with data_format {data_format!r}; got {shape}")
    return shape[:start], shape[start:stop], shape[stop:]


def as_float(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return `x`, or float64 in place of bool and integers: what the notebook's functions compute with."""
    return x if x.dtype.char in FLOATS else x.astype(np.float64)


def float_dtype(x: np.ndarray[Any, Any]) -> np.dtype[Any]:
    """Return the dtype of `as_float(x)`."""
    return x.dtype if x.dtype.char in FLOATS else np.dtype(np.float64)


def shape(value: object, name: str, ndim: int | None = None) -> tuple[int, ...]:
    """`value`, the shape of an array, as a tuple of ints."""
    if type(value) is tuple and set(map(type, value)) == {int}:  # as almost always, and quick to see
        sizes = value
    else:
        try:
            sizes = tuple(n.__index__() for n in value if not isinstance(n, bool))  # type: ignore[attr-defined]
            whole = len(sizes) == len(value)  # type: ignore[arg-type]
        except (TypeError, AttributeError):
            whole = False
        if not whole:
            raise TypeError(f"{name} must be a tuple of ints; got {value!r}")
    if min(sizes, default=0) < 0 or (ndim is not None and len(sizes) != ndim):
        raise ValueError(f"{name} must be {'' if ndim is None else f'{ndim} '}sizes of at least 0; got {sizes}")
    return sizes


def same_shape(x: np.ndarray[Any, Any], name: str, expected: tuple[int, ...], why: str) -> None:
    """ValueError unless `x` has the shape `expected`."""
    if x.shape != expected:
        raise ValueError(f"{name} must have the shape {expected} ({why}); its shape is {x.shape}")


def result(
    out: np.ndarray[Any, Any] | None,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *inputs: np.ndarray[Any, Any],
) -> np.ndarray[Any, Any]:
    """`out`, checked, or a new array of this shape and dtype."""
    if out is None:
        try:
            return np.empty(shape, dtype)
        except ValueError:
            raise ValueError(f"the result would have the shape {shape} ({dtype}), more than can be addressed") from None
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array; got {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out must have the shape {shape} and dtype {dtype}; it has {out.shape} and {out.dtype}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    for x in inputs:
        if np.may_share_memory(out, x) and _shares_memory(out, x):
            raise ValueError("out shares memory with an input")
    return out


def _shares_memory(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:  # exotic strides: call it shared rather than search for ever
        return True


def columns_window(
    input_shape: tuple[int, ...],
    kernel_size: Sizes,
    output_size: Sizes | None,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
    source: str,
) -> tuple[Window, tuple[int, int]]:
    """Return the window of im2col and col2im, and the shape of their columns."""
    n, c, *spatial = input_shape
    w = window(tuple(spatial), kernel_size, stride, padding, dilation, False, output_size, source=source)
    return w, (c * w.taps, n * prod(w.output))


def fold_arguments(
    cols: ArrayLike, output_size: Sizes, ndim: int, *window_arguments: Any
) -> tuple[np.ndarray[Any, Any], tuple[int, ...], Window]:
    """Return cols, the shape that fold gives them, and the window, checked against one another."""
    columns = array(cols, "cols")
    spatial = sizes(plain(output_size, "output_size"), ndim, "output_size", 1)
    w = window(spatial, *window_arguments, source="output_size")
    *batch, rows, windows = columns.shape if columns.ndim in (2, 3) else (-1, -1)
    if rows % w.taps or windows != prod(w.output):
        raise ValueError(
            f"cols must have the shape (N, C * {w.taps}, {prod(w.output)}), or that without N "
            f"(kernel_size {w.kernel_size}, windows {w.output}); its shape is {columns.shape}"
        )
    return columns, (*batch, rows // w.taps, *spatial), w


def divisor_arguments(count_include_pad: object, divisor_override: object) -> tuple[bool, int | None]:
    """Return the two arguments that an average's divisor follows from, checked."""
    include_pad = flag(count_include_pad, "count_include_pad")
    if divisor_override is None:
        return include_pad, None
    override = plain(divisor_override, "divisor_override")
    if not isinstance(override, int):
        raise TypeError(f"divisor_override must be an int; got {divisor_override!r}")
    if not 1 <= override < LIMIT:
        raise ValueError(f"divisor_override must be at least 1 and less than 2**62; got {override}")
    return include_pad, override


def gradient_arguments(
    dy: ArrayLike,
    input_shape: object,
    ndim: int,
    *window_arguments: Any,
    data_format: str = "channels_first",
) -> tuple[np.ndarray[Any, Any], tuple[int, ...], Window]:
    """Return dy, input_shape and the window of a pooling's backward, checked against one another."""
    gradient = array(dy, "dy", GRADIENTS)
    full = shape(input_shape, "input_shape")
    leading, spatial, trailing = split(full, data_format, ndim, "input_shape")
    w = window(spatial, *window_arguments, elements=True, source="input_shape")
    same_shape(gradient, "dy", leading + w.output + trailing, "the result of pooling input_shape")
    return gradient, full, w


def backward_arguments(
    dy: ArrayLike,
    argmax: ArrayLike,
    input_shape: object,
    ndim: int,
    *window_arguments: Any,
    data_format: str = "channels_first",
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], tuple[int, ...], Window]:
    """Return what `gradient_arguments` does, and argmax after dy."""
    gradient, full, w = gradient_arguments(dy, input_shape, ndim, *window_arguments, data_format=data_format)
    positions = array(argmax, "argmax", INTEGERS)
    same_shape(positions, "argmax", gradient.shape, "that of dy")
    return gradient, positions, full, w


def argmax_error(w: Window) -> ValueError:
    """Return the error for an argmax that no maximum has."""
    return ValueError(
        f"argmax has a position outside of its window: each must be from 0 to {w.taps - 1} "
        f"(kernel_size {w.kernel_size})"
    )
