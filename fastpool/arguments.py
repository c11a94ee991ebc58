"""Arrays as the public functions take them: checked, and turned into what NumPy and the kernels read."""

from __future__ import annotations

from math import inf, prod
from typing import Any

import numpy as np
from numpy import empty, ndarray  # found sooner than in NumPy's module
from numpy.typing import ArrayLike

from fastpool.reuse import Results
from fastpool.window import (
    LIMIT,
    AdaptiveWindow,
    Padding,
    Sizes,
    Window,
    adaptive_window,
    channels_last,
    flag,
    is_sequence,
    plain,
    sizes,
    spatial_rank,
    unpooled_shape,
    window,
)

#: float16 and ml_dtypes' bfloat16.
HALVES = "eE"
FLOATS = HALVES + "fd"
INTEGERS = "bBhHiIlLqQ"
NUMBERS = "?" + INTEGERS + FLOATS
GRADIENTS = INTEGERS + FLOATS
_NAMES = {
    INTEGERS: "integers",
    GRADIENTS: "integers, float16, bfloat16, float32 or float64",
    NUMBERS: "bool, integers, float16, bfloat16, float32 or float64",
}
_NATIVE = {chars: frozenset(map(np.dtype, chars.replace("E", ""))) for chars in _NAMES}


def array(value: ArrayLike, name: str, chars: str = NUMBERS) -> np.ndarray[Any, Any]:
    """`value` as an aligned array in native byte order whose dtype is one of `chars`.

    A copy is made only of what is not an array, or has a foreign byte order or alignment.
    """
    if type(value) is ndarray and value.dtype in _NATIVE[chars] and value.flags.aligned:
        return value  # as almost always, and quick to see
    try:
        x = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise ValueError(f"{name} is not an array: {error}") from None
    dtype = x.dtype
    # Dtypes that are not NumPy's may share a character with one that is: those of ml_dtypes do.
    if dtype.char not in chars or (dtype.kind == "V" and dtype.name != "bfloat16"):
        raise TypeError(f"{name} must be an array of {_NAMES[chars]}; its dtype is {dtype}")
    if not (dtype.isnative and x.flags.aligned):
        x = x.astype(dtype.newbyteorder("="))
    return x


def images(value: ArrayLike, name: str) -> np.ndarray[Any, Any]:
    """`array`, with a batch, channels and 1 to 3 spatial axes."""
    x = array(value, name)
    if not 3 <= x.ndim <= 5:
        raise ValueError(f"{name} must have 3 to 5 axes (N, C, 1 to 3 spatial ones); its shape is {x.shape}")
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
    first = type(data_format) is str and data_format == "channels_first"  # as almost always, and quick to see
    stop = len(shape) if first else len(shape) - channels_last(data_format)
    start = stop - ndim
    if start < 0:
        least = ndim + len(shape) - stop
        raise ValueError(f"{name} must have at least {least} axes with data_format {data_format!r}; got {shape}")
    return shape[:start], shape[start:stop], shape[stop:]


def as_float(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return `x`, or float64 in place of bool and integers: what the notebook's functions compute with."""
    return x if x.dtype.char in FLOATS else x.astype(np.float64)


def wide(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return `x`, or float32 in place of float16 and bfloat16: what these are compared and added up in."""
    return x.astype(np.float32) if x.dtype.char in HALVES else x


def float_dtype(x: np.ndarray[Any, Any]) -> np.dtype[Any]:
    """Return the dtype of `as_float(x)`."""
    return floating(x.dtype)


def floating(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype, or float64 in place of bool and integers."""
    return dtype if dtype.char in FLOATS else np.dtype(np.float64)


def shape(value: object, name: str, ndim: int | None = None) -> tuple[int, ...]:
    """`value`, the shape of an array, as a tuple of ints."""
    if type(value) is tuple and (ndim is None or len(value) == ndim):
        for n in value:
            if type(n) is not int or n < 0:
                break
        else:
            return value  # as almost always, and quick to see
    entries = plain(value, name) if is_sequence(value) else None
    sizes = tuple(n for n in entries if isinstance(n, int)) if isinstance(entries, tuple) else ()
    if not isinstance(entries, tuple) or len(sizes) < len(entries):
        raise TypeError(f"{name} must be a tuple of ints; got {value!r}")
    if min(sizes, default=0) < 0 or (ndim is not None and len(sizes) != ndim):
        raise ValueError(f"{name} must be {'' if ndim is None else f'{ndim} '}sizes of at least 0; got {sizes}")
    return sizes


def same_shape(x: np.ndarray[Any, Any], name: str, expected: tuple[int, ...], why: str) -> None:
    """ValueError unless `x` has the shape `expected`."""
    if x.shape != expected:
        raise ValueError(f"{name} must have the shape {expected} ({why}); its shape is {x.shape}")


def result(
    out: np.ndarray[Any, Any] | Results | None,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *inputs: np.ndarray[Any, Any],
) -> np.ndarray[Any, Any]:
    """`out`, checked, or a new array of this shape and dtype: of a layer, from its `Results`."""
    made = place(out, shape, dtype)
    if made is out:
        require_apart(made, inputs)
    return made


def place(
    out: np.ndarray[Any, Any] | Results | None, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> np.ndarray[Any, Any]:
    """`result`, before it is known that it can be written to and shares no memory with an input."""
    if out is None or isinstance(out, Results):
        try:
            return empty(shape, dtype) if out is None else out.empty(shape, dtype)
        except ValueError:
            raise ValueError(f"the result would have the shape {shape} ({dtype}), more than can be addressed") from None
    if not isinstance(out, ndarray):
        raise TypeError(f"out must be a NumPy array; got {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"out must have the shape {shape} and dtype {dtype}; it has {out.shape} and {out.dtype}")
    return out


def require_apart(out: np.ndarray[Any, Any], inputs: tuple[np.ndarray[Any, Any], ...]) -> None:
    """ValueError unless `out` can be written to and shares no memory with an input."""
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    if _owned(out, inputs):
        return  # as almost always, and quick to see
    for x in inputs:
        if np.may_share_memory(out, x) and _shares_memory(out, x):
            raise ValueError("out shares memory with an input")


def _owned(out: np.ndarray[Any, Any], inputs: tuple[np.ndarray[Any, Any], ...]) -> bool:
    """Whether `out` and the inputs are arrays with memory of their own, each: it takes long to compare addresses."""
    for x in inputs:
        if x is out or not x.flags.owndata:
            return False
    return out.flags.owndata


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


def fold_rank(output_size: Sizes, kernel_size: Sizes) -> int:
    """Return how many spatial axes fold has: as many as output_size has entries, else kernel_size; else 2."""
    for name, value in (("output_size", output_size), ("kernel_size", kernel_size)):
        entries = plain(value, name)
        if isinstance(entries, tuple):
            if not 1 <= len(entries) <= 3:
                raise ValueError(f"{name} must be an int or 1 to 3 ints, one per spatial axis; got {entries}")
            return len(entries)
    return 2


def fold_arguments(
    cols: ArrayLike, output_size: Sizes, ndim: int, *window_arguments: Any
) -> tuple[np.ndarray[Any, Any], tuple[int, ...], Window]:
    """Return cols, the shape that fold gives them, and the window, checked against one another."""
    columns = array(cols, "cols")
    return columns, *fold_shape(columns.shape, output_size, ndim, *window_arguments)


def fold_shape(
    shape: tuple[int, ...], output_size: Sizes, ndim: int, *window_arguments: Any
) -> tuple[tuple[int, ...], Window]:
    """Return the shape that fold gives columns of this shape, and the window, checked against one another."""
    spatial = sizes(plain(output_size, "output_size"), ndim, "output_size", 1)
    w = window(spatial, *window_arguments, source="output_size")
    *batch, rows, windows = shape if len(shape) in (2, 3) else (-1, -1)
    if rows % w.taps or windows != prod(w.output):
        raise ValueError(
            f"cols must have the shape (N, C * {w.taps}, {prod(w.output)}), or that without N (output_size "
            f"{spatial}, kernel_size {w.kernel_size}, windows {w.output}); its shape is {shape}"
        )
    return (*batch, rows // w.taps, *spatial), w


def divisor_arguments(count_include_pad: object, divisor_override: object) -> tuple[bool, int | None]:
    """Return the two arguments that an average's divisor follows from, checked."""
    include_pad = count_include_pad if type(count_include_pad) is bool else flag(count_include_pad, "count_include_pad")
    if divisor_override is None:
        return include_pad, None
    override = plain(divisor_override, "divisor_override")
    if not isinstance(override, int):
        raise TypeError(f"divisor_override must be an int; got {divisor_override!r}")
    if not 1 <= override < LIMIT:
        raise ValueError(f"divisor_override must be at least 1 and less than 2**62; got {override}")
    return include_pad, override


def wants_positions(return_argmax: object, return_indices: object) -> bool:
    """Whether one of the two is asked for; both are a ValueError."""
    if return_argmax is True and return_indices is False:
        return True  # as almost always, and quick to see
    argmax, indices = flag(return_argmax, "return_argmax"), flag(return_indices, "return_indices")
    if argmax and indices:
        raise ValueError("return_argmax and return_indices cannot be asked for together")
    return argmax or indices


def norm(norm_type: object) -> float:
    """Return the power of a norm, checked."""
    if isinstance(norm_type, (bool, np.bool_)) or not isinstance(norm_type, (int, float, np.integer, np.floating)):
        raise TypeError(f"norm_type must be a number; got {norm_type!r} of type {type(norm_type).__name__}")
    try:
        power = float(norm_type)
    except OverflowError:
        power = inf
    if not 0 < power < inf:
        raise ValueError(
            f"norm_type must be above 0 and finite (that of inf is max pooling of abs(x)); got {norm_type}"
        )
    return power


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


def lp_gradient_arguments(
    dy: ArrayLike, x: ArrayLike, y: ArrayLike, ndim: int, *window_arguments: Any, data_format: str
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any], Window]:
    """Return dy, x, y and the window of an lp pooling's backward, checked against one another."""
    given = array(x, "x")
    leading, spatial, trailing = split(given.shape, data_format, ndim, "x")
    w = window(spatial, *window_arguments, elements=True)
    gradient, pooled = array(dy, "dy", GRADIENTS), array(y, "y")
    for value, name in ((gradient, "dy"), (pooled, "y")):
        same_shape(value, name, leading + w.output + trailing, "the result of pooling x")
    return gradient, given, pooled, w


def adaptive_gradient_arguments(
    dy: ArrayLike, input_shape: object, ndim: int, data_format: str
) -> tuple[np.ndarray[Any, Any], tuple[int, ...], AdaptiveWindow]:
    """Return dy, input_shape and the windows of an adaptive pooling's backward, checked against one another."""
    gradient = array(dy, "dy", GRADIENTS)
    full = shape(input_shape, "input_shape")
    leading, spatial, trailing = split(full, data_format, ndim, "input_shape")
    before, output, after = split(gradient.shape, data_format, ndim, "dy")
    if (before, after) != (leading, trailing):
        raise ValueError(
            f"dy must have the shape {full} of the input but for the spatial axes; its shape is {gradient.shape}"
        )
    if 0 in output:
        raise ValueError(f"dy: a spatial axis is empty (spatial shape {output})")
    return gradient, full, adaptive_window(spatial, output, "input_shape")


def positions_arguments(
    given: ArrayLike, name: str, input_shape: object, ndim: object, *window_arguments: Any, data_format: str
) -> tuple[np.ndarray[Any, Any], Window]:
    """Return argmax or indices, and the window that they are of, checked against one another."""
    found = array(given, name, INTEGERS)
    full = shape(input_shape, "input_shape")
    leading, spatial, trailing = split(full, data_format, spatial_rank(ndim, "spatial_ndim"), "input_shape")
    w = window(spatial, *window_arguments, elements=True, source="input_shape")
    same_shape(found, name, leading + w.output + trailing, "the result of pooling input_shape")
    return found, w


def unpool_arguments(
    y: ArrayLike,
    indices: ArrayLike,
    ndim: int,
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Padding,
    output_size: Sizes | None,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], tuple[int, ...]]:
    """Return y, indices and the shape of what was pooled, checked against one another."""
    values, places = array(y, "y"), array(indices, "indices", INTEGERS)
    leading, pooled, _ = split(values.shape, "channels_first", ndim, "y")
    same_shape(places, "indices", values.shape, "that of y")
    spatial = None if output_size is None else plain(output_size, "output_size")
    if isinstance(spatial, tuple) and len(spatial) == values.ndim:  # the shape of x, as in PyTorch
        if spatial[: len(leading)] != leading:
            raise ValueError(f"output_size must begin with {leading}, as the shape of y does; got {output_size}")
        spatial = spatial[len(leading) :]
    return values, places, leading + unpooled_shape(pooled, kernel_size, stride, padding, spatial)


def within(positions: np.ndarray[Any, Any], stop: int) -> bool:
    """Whether every position is from 0 to stop - 1."""
    return not positions.size or 0 <= positions.min() <= positions.max() < stop


def indices_error(spatial: tuple[int, ...]) -> ValueError:
    """Return the error for an index that no element has."""
    return ValueError(
        f"indices has a position outside of its plane: each must be from 0 to {prod(spatial) - 1} "
        f"(spatial shape {spatial})"
    )


def argmax_error(w: Window | AdaptiveWindow) -> ValueError:
    """Return the error for an argmax that no maximum has."""
    return ValueError(
        f"argmax has a position outside of its window: each must be from 0 to {w.taps - 1} "
        f"(kernel_size {w.kernel_size})"
    )
