"""Arrays to try: values that pooling goes wrong on, and the ways in which an array can lie in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


def specials(dtype: DTypeLike) -> Array:
    """Return the values of a dtype that arithmetic and comparisons go wrong on.

    Examples
    --------
    >>> specials(np.uint8)
    array([  0,   0,   1, 255], dtype=uint8)
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "V":  # bfloat16
        return np.array([np.nan, -np.inf, np.inf, -0.0, 0.0, 1, -3.39e38, 3.39e38, 1e-40, -1.2e-38], dtype)
    if dtype.kind == "f":
        info = np.finfo(dtype)
        ends = [info.min, info.max, info.smallest_subnormal, -info.smallest_normal]
        return np.array([np.nan, -np.inf, np.inf, -0.0, 0.0, 1, *ends], dtype)
    if dtype.kind == "b":
        return np.array([False, True])
    return np.array([np.iinfo(dtype).min, 0, 1, np.iinfo(dtype).max], dtype)


def random_array(shape: Shape, dtype: DTypeLike, seed: int = 0, kind: str = "random") -> Array:
    """Return an array that is the same for the same arguments.

    Parameters
    ----------
    shape : tuple of int
        Of the array.
    dtype : dtype
        bool, an integer, a float, or bfloat16.
    seed : int
        Another array for every seed.
    kind : str
        "random": values over the whole dtype. "ties": nothing but zeros and ones. "specials": those of `specials`.
        "lowest": the lowest value only, for floats -inf. "gaps": random, some floats NaN or infinite, and no sum of
        them overflows.

    Examples
    --------
    >>> random_array((2, 3), np.float32, kind="ties")
    array([[1., 1., 1.],
           [0., 0., 0.]], dtype=float32)
    """
    rng, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if kind == "gaps" and dtype.kind in "fV":
        gaps = rng.choice(np.array([np.nan, np.inf, -np.inf], dtype), shape)
        return np.where(rng.random(shape) < 0.04, gaps, random_array(shape, dtype, seed))
    if kind == "specials":
        return rng.choice(specials(dtype), shape)
    if kind == "ties" or dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if kind == "lowest":
        return np.full(shape, -np.inf if dtype.kind in "fV" else np.iinfo(dtype).min, dtype)
    if dtype.kind in "fV":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def _view(shape: Shape, dtype: np.dtype[Any], margin: Callable[[Array], Any], index: slice) -> Array:
    """Return the part `index` of a larger array; what surrounds it would win every maximum and spoil every sum."""
    fill: Any = np.nan if dtype.kind in "fV" else True if dtype.kind == "b" else np.iinfo(dtype).max
    return np.full(margin(np.array(shape, int)), fill, dtype)[(index,) * len(shape)]


def _amid(shape: Shape, dtype: np.dtype[Any]) -> Array:
    return _view((int(np.prod(shape)),), dtype, lambda n: n + 500, slice(200, -300)).reshape(shape)


def _unaligned(shape: Shape, dtype: np.dtype[Any]) -> Array:
    return np.ndarray(shape, dtype, bytearray(int(np.prod(shape)) * dtype.itemsize + 1), offset=1)


def _channels_last(shape: Shape, dtype: np.dtype[Any]) -> Array:
    channel = max(0, len(shape) - 3)
    in_memory = shape[:channel] + shape[channel + 1 :] + shape[channel : channel + 1]
    return np.moveaxis(np.empty(in_memory, dtype), -1, channel)


class Subclass(np.ndarray[Any, Any]):
    """An array of another class."""


#: Ways that an array of a shape and dtype can lie in memory, each as a function that makes an empty one.
LAYOUTS: dict[str, Callable[[Shape, np.dtype[Any]], Array]] = {
    "contiguous": np.empty,
    "fortran": lambda shape, dtype: np.empty(shape, dtype, order="F"),
    "channels last": _channels_last,
    "reversed": lambda shape, dtype: np.flip(np.empty(shape, dtype)),
    "every second": lambda shape, dtype: _view(shape, dtype, lambda n: 2 * n + 1, slice(1, None, 2)),
    "cropped": lambda shape, dtype: _view(shape, dtype, lambda n: n + 5, slice(2, -3)),
    "amid others": _amid,
    "unaligned": _unaligned,
    "subclass": lambda shape, dtype: np.empty(shape, dtype).view(Subclass),
}
INPUT_LAYOUTS = [*LAYOUTS, "big-endian", "read-only"]


def laid_out(x: Array, layout: str) -> Array:
    """Return a copy of `x` that lies in memory as `layout`, one of `INPUT_LAYOUTS`, says.

    Examples
    --------
    >>> laid_out(np.arange(3.0), "reversed").strides
    (-8,)
    """
    if layout == "big-endian":
        return x.astype(x.dtype.newbyteorder(">"))
    if layout == "read-only":
        copy = x.copy()
        copy.flags.writeable = False
        return copy
    copy = LAYOUTS[layout](x.shape, x.dtype)
    copy[...] = x
    return copy
