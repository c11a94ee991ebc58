"""The geometry of one call: kernel, stride, padding and dilation, checked once.

Everything here is Python ints, so nothing overflows, and nothing is allocated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from operator import index
from typing import SupportsIndex, TypeAlias

import numpy as np

Sizes: TypeAlias = "SupportsIndex | Sequence[SupportsIndex]"
Padding: TypeAlias = "str | SupportsIndex | Sequence[SupportsIndex | Sequence[SupportsIndex]]"
Plain: TypeAlias = "int | tuple[Plain, ...]"

#: Kernels hold positions in int64: every size and distance stays below this.
LIMIT = 2**62


@dataclass(frozen=True)
class Window:
    """A checked window over the spatial axes of an array; every field has one entry an axis."""

    input: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    output: tuple[int, ...]

    @cached_property
    def taps(self) -> int:
        """How many elements one window has."""
        return prod(self.kernel_size)

    @cached_property
    def argmax_dtype(self) -> np.dtype:
        """The smallest unsigned dtype that holds a position in the window."""
        for dtype in (np.uint8, np.uint16, np.uint32):
            if self.taps - 1 <= np.iinfo(dtype).max:
                return np.dtype(dtype)
        raise ValueError(f"kernel_size {self.kernel_size} has {self.taps} positions; an argmax counts at most 2**32")

    @cached_property
    def geometry(self) -> np.ndarray:
        """The same numbers as int64, axis by axis: what kernels read (see `fastpool.kernels.geometry`).

        A kernel is cut to the places that some window has on the input, so that one of 2**40 places
        over a small image costs what the image costs.
        """
        axes = zip(self.input, self.output, self.kernel_size, self.stride, self.padding, self.dilation)
        geometry = np.array(
            [
                (length, output, min(kernel, (length - 1 + before) // dilation + 1), kernel, stride, before, dilation)
                for length, output, kernel, stride, (before, _), dilation in axes
            ],
            np.int64,
        ).ravel()
        geometry.flags.writeable = False
        return geometry

    def require_elements(self) -> Window:
        """Return self; ValueError if some window covers padding alone, so that it has no maximum."""
        for axis, (length, stride, pad, dilation) in enumerate(
            zip(self.input, self.stride, self.padding, self.dilation)
        ):
            # Only a step wider than the whole input can pass over it. The first tap at or after
            # the input's start is then at (o * stride - before) mod dilation.
            starts = range(-pad[0], min(0, self.output[axis] * stride - pad[0]), stride)
            if dilation > length and any(start % dilation >= length for start in starts):
                raise ValueError(
                    f"padding {pad} with dilation {dilation} leaves a window on spatial axis {axis} "
                    f"that covers no element of the input of size {length}"
                )
        return self

    def outputs(self, tap: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the windows, axis by axis, whose place `tap` of the kernel lies on an element of the input."""
        return tuple(slice(first, first + count) for first, count, _ in self._meeting(tap))

    def elements(self, tap: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the elements of the input that those windows have there."""
        starts = self._meeting(tap)
        return tuple(
            slice(start, start + count * stride, stride) for (_, count, start), stride in zip(starts, self.stride)
        )

    def _meeting(self, tap: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """Axis by axis, the first window whose place `tap` is in the input, how many have it, and where the first is."""
        result = []
        for axis, place in enumerate(tap):
            stride = self.stride[axis]
            offset = place * self.dilation[axis] - self.padding[axis][0]
            first = min(max(0, -(offset // stride)), self.output[axis])
            stop = min(self.output[axis], (self.input[axis] - 1 - offset) // stride + 1)
            count = max(0, stop - first)
            result.append((first, count, first * stride + offset if count else 0))
        return result


def window(
    spatial: tuple[int, ...],
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Padding,
    dilation: Sizes,
    ceil_mode: bool = False,
    output_size: Sizes | None = None,
) -> Window:
    """Check one call's parameters against the spatial shape and return its `Window`.

    Parameters
    ----------
    spatial : tuple of int
        Lengths of the spatial axes of the input.
    kernel_size, stride, padding, dilation, ceil_mode
        As the public functions take them; `stride` None means `kernel_size`.
    output_size : int or sequence of int, optional
        How many windows an axis has; every one must start inside the padded input.
        None: as many as fit.

    Raises
    ------
    TypeError
        A parameter that is not made of integers (bool is none).
    ValueError
        A parameter out of its range, or windows that do not fit.
    """
    return _window(
        spatial,
        _plain(kernel_size, "kernel_size"),
        None if stride is None else _plain(stride, "stride"),
        padding if isinstance(padding, str) else _plain(padding, "padding"),
        _plain(dilation, "dilation"),
        ceil_mode,
        None if output_size is None else _plain(output_size, "output_size"),
    )


def _plain(value: object, name: str) -> Plain:
    """`value` as an int, or as nested tuples of ints: hashable, and no 1.0 or True passes for 1."""
    if type(value) is int:
        return value
    if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes)) and np.shape(value) != ():
        return tuple(_plain(v, name) for v in value)
    if not isinstance(value, (bool, np.bool_)):
        try:
            return index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"{name} must be made of ints; got {value!r} of type {type(value).__name__}")


# typed, for the sake of ceil_mode: 1 is not True.
@lru_cache(maxsize=4096, typed=True)
def _window(
    spatial: tuple[int, ...],
    kernel_size: Plain,
    stride: Plain | None,
    padding: Plain | str,
    dilation: Plain,
    ceil_mode: bool,
    output_size: Plain | None,
) -> Window:
    ndim = len(spatial)
    for axis, length in enumerate(spatial):
        if length == 0:
            raise ValueError(f"x: spatial axis {axis} is empty (spatial shape {spatial})")
    kernel_size = sizes(kernel_size, ndim, "kernel_size", 1)
    stride = kernel_size if stride is None else sizes(stride, ndim, "stride", 1)
    dilation = sizes(dilation, ndim, "dilation", 1)
    if not isinstance(ceil_mode, (bool, np.bool_)):
        raise TypeError(f"ceil_mode must be True or False, not {ceil_mode!r}")
    reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel_size, dilation))
    for name, values in (("kernel_size and dilation", reach), ("stride", stride)):
        if max(values) >= LIMIT:
            raise ValueError(f"{name} reach {max(values)}, more than an array can hold")
    padding = pads(padding, spatial, reach, stride)
    if output_size is None:
        output = tuple(
            _windows(*axis, ceil_mode) for axis in zip(range(ndim), spatial, kernel_size, reach, stride, padding)
        )
    else:
        output = sizes(output_size, ndim, "output_size", 1)
        for axis in range(ndim):
            padded = spatial[axis] + sum(padding[axis])
            if (output[axis] - 1) * stride[axis] >= padded:
                raise ValueError(
                    f"output_size {output[axis]} on spatial axis {axis} puts the last window behind the padded "
                    f"input of size {padded} (stride {stride[axis]}); at most {(padded - 1) // stride[axis] + 1}"
                )
    return Window(spatial, kernel_size, stride, padding, dilation, output)


def _windows(
    axis: int, length: int, kernel: int, reach: int, stride: int, padding: tuple[int, int], ceil_mode: bool
) -> int:
    """How many windows an axis has."""
    before, after = padding
    room = length + before + after - reach
    if not ceil_mode:
        count = room // stride + 1
    else:
        count = -(-room // stride) + 1
        if (count - 1) * stride >= length + before:  # it would start in the padding after the data
            count -= 1
    if count < 1:
        raise ValueError(
            f"kernel_size {kernel} (dilated: {reach}) on spatial axis {axis} is larger than "
            f"the padded input of size {length + before + after}"
        )
    return count


def sizes(value: Plain, ndim: int, name: str, least: int) -> tuple[int, ...]:
    """`value` as `ndim` ints, each at least `least`: one for all axes, or one an axis."""
    result = value if isinstance(value, tuple) else (value,) * ndim
    if len(result) != ndim or not all(isinstance(n, int) for n in result):
        raise ValueError(f"{name} must be an int or {ndim} ints, one per spatial axis; got {value}")
    if min(result) < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")
    return result


def pads(
    value: Plain | str, spatial: tuple[int, ...], reach: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    """`value` as one (before, after) pair an axis."""
    if value == "valid":
        return ((0, 0),) * len(spatial)
    if value in ("same", "same_lower"):
        totals = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(spatial, stride, reach)]
        halves = [(total // 2, total - total // 2) for total in totals]
        return tuple(halves if value == "same" else [(b, a) for a, b in halves])
    entries = value if isinstance(value, tuple) else (value,) * len(spatial)
    if len(entries) != len(spatial) or isinstance(value, str):
        raise ValueError(
            f"padding must be an int, one int or (before, after) pair per spatial axis ({len(spatial)}), "
            f"'valid', 'same' or 'same_lower'; got {value!r}"
        )
    pairs = []
    for axis, (entry, size) in enumerate(zip(entries, reach)):
        pair = entry if isinstance(entry, tuple) else (entry, entry)
        if len(pair) != 2 or not all(isinstance(n, int) and 0 <= n < size for n in pair):
            raise ValueError(
                f"padding on spatial axis {axis} must be an int or a (before, after) pair, each from 0 to "
                f"{size - 1}: smaller than the dilated kernel; got {entry}"
            )
        pairs.append(pair)
    return tuple(pairs)


