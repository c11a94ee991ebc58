"""Arrays as kernels take them: four axes, the last of which is contiguous; and results as kernels can write to them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from fastpool.window import AdaptiveWindow, Window

Array = np.ndarray[Any, Any]


def planes(x: Array, w: Window | AdaptiveWindow, trailing: tuple[int, ...] = ()) -> Array:
    """View x as (A, B, depth * height, width), as kernels take it; a copy where there is no such view.

    The axes are those of the window, before which there are others, and behind which the channels may be: these
    are part of the row. Rows are contiguous. bool is uint8.
    """
    return rows(x.reshape(axes(x.shape, w, trailing)))


def axes(
    shape: tuple[int, ...], w: Window | AdaptiveWindow, trailing: tuple[int, ...] = ()
) -> tuple[int, int, int, int]:
    """Return the four axes as which kernels take an array of this shape."""
    start, stop = len(shape) - len(trailing) - len(w.input), len(shape) - len(trailing)
    outer = (1, 1, *shape[:start])
    return prod(outer[:-1]), outer[-1], prod(shape[start : stop - 1]), prod(shape[stop - 1 :])


def element(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that kernels take for this one: uint8 for bool."""
    return np.dtype(np.uint8) if dtype.char == "?" else dtype


def summed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that kernels add numbers of this one up in: unsigned integers have the bits of signed ones."""
    return np.dtype(f"i{dtype.itemsize}") if dtype.kind == "u" else dtype


def spatial_last(x: Array, ndim: int, trailing: tuple[int, ...]) -> Array:
    """View x with the spatial axes last."""
    return np.moveaxis(x, -1, -1 - ndim) if trailing else x


def rows(x: Array) -> Array:
    """Return x with contiguous rows, and bool as uint8."""
    if x.strides[3] != x.itemsize and x.shape[3] > 1:
        x = np.ascontiguousarray(x)
    return x.view(np.uint8) if x.dtype.char == "?" else x


def contiguous(result: Array) -> Array:
    """Return what a kernel writes to: `result`, or a stand-in where that is strided."""
    plain = type(result) is np.ndarray or type(result) is np.memmap  # others, as matrices, have rules of their own
    return result if plain and result.flags.carray else np.empty(result.shape, result.dtype)


def finished(result: Array, written: Array) -> Array:
    """Return `result`, with what was written to a stand-in."""
    if written is not result:
        result[...] = written
    return result


def by_pixels(trailing: tuple[int, ...]) -> bool:
    """Whether neighbours are the channels of a pixel: one channel that is last could as well be first."""
    return trailing != () and trailing != (1,)
