"""The geometry of one call: kernel, stride, padding and dilation, checked once.

Everything here is Python ints, so nothing overflows, and nothing is allocated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain, islice, product, repeat
from math import gcd, prod
from operator import index
from typing import Any, SupportsIndex, TypeAlias, TypeGuard

import numpy as np

Sizes: TypeAlias = "SupportsIndex | Sequence[SupportsIndex]"
Padding: TypeAlias = "str | SupportsIndex | Sequence[SupportsIndex | Sequence[SupportsIndex]]"
OutputSize: TypeAlias = "SupportsIndex | Sequence[SupportsIndex | None] | None"
Plain: TypeAlias = "int | tuple[Plain, ...]"

#: Kernels hold positions in int64: every size and distance stays below this.
LIMIT = 2**62
#: Arrays have at most so many axes, and parameters fewer levels: padding is pairs in a sequence.
AXES, DEPTH = 64, 4


class Places(ABC):
    """The places of a window, counted row-major over the kernel."""

    kernel_size: tuple[int, ...]

    @cached_property
    def taps(self) -> int:
        """How many elements one window has."""
        return prod(self.kernel_size)

    @cached_property
    def positions(self) -> bytes:
        """Every position in the window that a byte holds."""
        return bytes(range(min(self.taps, 256)))

    @cached_property
    def argmax_dtype(self) -> np.dtype[Any]:
        """The smallest unsigned dtype that holds a position in the window."""
        for dtype in (np.uint8, np.uint16, np.uint32):
            if self.taps - 1 <= np.iinfo(dtype).max:
                return np.dtype(dtype)
        raise ValueError(f"kernel_size {self.kernel_size} has {self.taps} positions; an argmax counts at most 2**32")

    def meetings(self) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """Yield of every place an index of the windows that have it on the input, and of what they have there."""
        for meeting in product(*map(self._meeting, range(len(self.kernel_size)))):
            windows, elements = zip(*meeting)
            yield (..., *windows), (..., *elements)

    @abstractmethod
    def _meeting(self, axis: int) -> list[tuple[Any, Any]]:
        """Return the same along one axis."""


@dataclass(frozen=True, eq=False)  # equal is the same: there is one for the same arguments, and a hash takes no time
class Window(Places):
    """A checked window over the spatial axes of an array; every field has one entry an axis."""

    input: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    output: tuple[int, ...]

    @cached_property
    def side_by_side(self) -> bool:
        """Whether no element is in two windows, and none between the places of one."""
        axes = zip(self.kernel_size, self.stride, self.dilation)
        return all(k <= s and (k == 1 or d == 1) for k, s, d in axes)

    @cached_property
    def whole(self) -> bool:
        """Whether the only window has all elements, and nothing else."""
        one = self.kernel_size == self.input and prod(self.output) == 1 and not any(map(any, self.padding))
        return one and all(k == 1 or d == 1 for k, d in zip(self.kernel_size, self.dilation))

    @cached_property
    def geometry(self) -> np.ndarray:
        """The same numbers as int64, for three axes: what kernels read (see `fastpool.kernels.geometry`).

        Axes that the input does not have, the first ones, are of length 1. A kernel is cut to the
        places that some window has on the input, and the stride of a single window to the input, so
        that 2**40 of either over a small image cost what the image costs.
        """
        geometry = np.empty((3, 7), np.int64)
        geometry[:] = 1, 1, 1, 1, 1, 0, 1
        missing = 3 - len(self.input)
        for axis, length in enumerate(self.input):
            before, dilation = self.padding[axis][0], self.dilation[axis]
            kernel = min(self.kernel_size[axis], (length - 1 + before) // dilation + 1)
            stride = self.stride[axis] if self.output[axis] > 1 else min(self.stride[axis], length + before)
            geometry[missing + axis] = (
                length,
                self.output[axis],
                kernel,
                self.kernel_size[axis],
                stride,
                before,
                dilation,
            )
        if self.output[-1] == 1:
            geometry[-1, 4] = 1  # so that a row is taken as it is
        geometry.flags.writeable = False
        return geometry

    @cached_property
    def in_row(self) -> tuple[int, int, int]:
        """Kernel size, stride and dilation along the last axis, as in `geometry`."""
        _, _, kernel, _, stride, _, dilation = self.geometry[-1].tolist()
        return kernel, stride, dilation

    @cached_property
    def rows_overlap(self) -> bool:
        """Whether the last row of a window is the first one of the next."""
        return len(self.input) > 1 and (self.kernel_size[-2] - 1) * self.dilation[-2] == self.stride[-2]

    @cached_property
    def overlap(self) -> int:
        """In how many windows an element is, along the axis where these are the most."""
        return max(-(-k // stride) for k, stride in zip(self.kernel_size, self.stride))

    @cached_property
    def starts(self) -> tuple[np.ndarray, ...]:
        """Where in the input the first place of each window is: one int64 array an axis, below zero on padding."""
        axes = zip(self.output, self.stride, self.padding)
        return tuple(np.arange(output, dtype=np.int64) * stride - before for output, stride, (before, _) in axes)

    def counts(self, include_pad: bool) -> tuple[np.ndarray, ...]:
        """How many places the windows along each axis have on the input, or on it and its padding.

        One int64 array an axis, with an entry a window; a window has the product of its axes'.
        What hangs over the padding counts in neither.
        """
        return self._padded_counts if include_pad else self._element_counts

    @cached_property
    def _padded_counts(self) -> tuple[np.ndarray, ...]:
        return tuple(self._counts(axis, *self.padding[axis]) for axis in range(len(self.input)))

    @cached_property
    def _element_counts(self) -> tuple[np.ndarray, ...]:
        return tuple(self._counts(axis, 0, 0) for axis in range(len(self.input)))

    def _counts(self, axis: int, before: int, after: int) -> np.ndarray:
        """How many places each window along an axis has from -before to the input's length + after."""
        dilation = self.dilation[axis]
        start = self.starts[axis]
        first = np.maximum(start, -before) - start
        reach = dilation * (self.kernel_size[axis] - 1) + 1
        stop = np.minimum(start + reach, self.input[axis] + after) - start
        counts: np.ndarray = first // -dilation - stop // -dilation  # -(n // -d) is n / d, rounded up
        counts.flags.writeable = False
        return counts

    def _meeting(self, axis: int) -> list[tuple[slice, slice]]:
        output, stride, result = self.output[axis], self.stride[axis], []
        for place in range(self.kernel_size[axis]):
            offset = place * self.dilation[axis] - self.padding[axis][0]
            first = min(max(0, -(offset // stride)), output)
            stop = max(first, min(output, (self.input[axis] - 1 - offset) // stride + 1))
            start = first * stride + offset if stop > first else 0
            result.append((slice(first, stop), slice(start, start + (stop - first) * stride, stride)))
        return result


@dataclass(frozen=True)
class AdaptiveWindow(Places):
    """Windows that share an input out: the first starts at its start, the last stops at its stop.

    Along an axis window i goes from floor(i * input / output) to ceil((i + 1) * input / output), as
    PyTorch's do. Windows may overlap by one element, and where the output is longer than the input,
    several are over the same one. `kernel_size` is that of the largest.
    """

    input: tuple[int, ...]
    kernel_size: tuple[int, ...]
    output: tuple[int, ...]

    @cached_property
    def starts(self) -> tuple[np.ndarray, ...]:
        """The first element of each window: one int64 array an axis."""
        return tuple(np.arange(o, dtype=np.int64) * n // o for n, o in zip(self.input, self.output))

    @cached_property
    def stops(self) -> tuple[np.ndarray, ...]:
        """Where each window ends: one int64 array an axis."""
        return tuple(-(np.arange(1, o + 1, dtype=np.int64) * -n // o) for n, o in zip(self.input, self.output))

    @cached_property
    def divides(self) -> bool:
        """Whether the windows are of one size and side by side, as those of an ordinary pooling."""
        return all(n % o == 0 for n, o in zip(self.input, self.output))

    @cached_property
    def geometry(self) -> np.ndarray:
        """What kernels read, as of a `Window`; the starts of windows follow from input and output."""
        geometry = np.ones((3, 7), np.int64)
        for axis, sizes_ in enumerate(zip(self.input, self.output, self.kernel_size, self.kernel_size)):
            geometry[3 - len(self.input) + axis, :4] = sizes_
        geometry.flags.writeable = False
        return geometry

    @property
    def dilation(self) -> tuple[int, ...]:
        """No element is left out."""
        return (1,) * len(self.input)

    def _meeting(self, axis: int) -> list[tuple[np.ndarray, np.ndarray]]:
        result = []
        for place in range(self.kernel_size[axis]):
            having = np.flatnonzero(self.stops[axis] - self.starts[axis] > place)
            index = having.reshape(-1, *(1,) * (len(self.input) - 1 - axis))  # as numpy.ix_ makes them
            result.append((index, self.starts[axis][index] + place))
        return result


def window(
    spatial: tuple[int, ...],
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Padding,
    dilation: Sizes,
    ceil_mode: bool = False,
    output_size: Sizes | None = None,
    *,
    elements: bool = False,
    source: str = "x",
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
    elements : bool
        Whether every window must have an element of the input, as one must that has a maximum.
    source : str
        The argument that `spatial` comes from, for messages.

    Raises
    ------
    TypeError
        A parameter that is not made of integers (bool is none).
    ValueError
        A parameter out of its range, or windows that do not fit.
    """
    numbers = parameters(kernel_size, stride, padding, dilation, ceil_mode)
    windows = None if output_size is None else plain(output_size, "output_size")
    return _window(spatial, numbers, windows, elements, source)


def parameters(
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Padding,
    dilation: Sizes,
    ceil_mode: bool = False,
    data_format: str = "channels_first",
) -> tuple[Plain, Plain | None, Plain | str, Plain, bool, str]:
    """Return what describes windows, made of ints and hashable: as it mostly is, which is quick to see."""
    if not isinstance(data_format, str):
        channels_last(data_format)  # raises
    return (
        kernel_size if type(kernel_size) is int else plain(kernel_size, "kernel_size"),
        stride if stride is None or type(stride) is int else plain(stride, "stride"),
        padding if type(padding) is int or isinstance(padding, str) else plain(padding, "padding"),
        dilation if type(dilation) is int else plain(dilation, "dilation"),
        ceil_mode if type(ceil_mode) is bool else flag(ceil_mode, "ceil_mode"),
        data_format,
    )


def channels_last(data_format: object) -> bool:
    """Whether the channel is the last axis, which `data_format` says."""
    if not isinstance(data_format, str):  # before it is compared, as an array would be element by element
        raise TypeError(f"data_format must be a str; got {data_format!r} of type {type(data_format).__name__}")
    if data_format not in ("channels_first", "channels_last"):
        raise ValueError(f"data_format must be 'channels_first' or 'channels_last'; got {data_format!r}")
    return data_format == "channels_last"


def adaptive_window(spatial: tuple[int, ...], output_size: OutputSize, source: str = "x") -> AdaptiveWindow:
    """Check the output size of an adaptive pooling and return its windows; None is an axis to keep."""
    _require_axes(spatial, source)
    if output_size is None:
        output_size = spatial
    elif is_sequence(output_size):
        lengths = islice(chain(spatial, repeat(None)), AXES + 1)
        output_size = tuple(n if given is None else given for given, n in zip(output_size, lengths))
    return _adaptive_window(spatial, plain(output_size, "output_size"), source)


@lru_cache(maxsize=4096)
def _adaptive_window(spatial: tuple[int, ...], output_size: Plain, source: str) -> AdaptiveWindow:
    output = sizes(output_size, len(spatial), "output_size", 1)
    for n, o in zip(spatial, output):
        if n * o >= LIMIT:  # where a window starts is a quotient of such products
            raise ValueError(f"output_size {output} times the spatial shape {spatial} of {source} is 2**62 or more")
    # Windows start every multiple of gcd / output behind an element; the longest starts just before the next one.
    kernel = tuple(-(-(n - gcd(n, o)) // o) + 1 for n, o in zip(spatial, output))
    return AdaptiveWindow(spatial, kernel, output)


def unpooled_shape(
    pooled: tuple[int, ...],
    kernel_size: Sizes,
    stride: Sizes | None,
    padding: Padding,
    output_size: Plain | None,
    source: str = "y",
) -> tuple[int, ...]:
    """Return the spatial shape that was pooled to `pooled`: the smallest, or one that is less than a stride away."""
    _require_axes(pooled, source)
    kernel = sizes(plain(kernel_size, "kernel_size"), len(pooled), "kernel_size", 1)
    step = kernel if stride is None else sizes(plain(stride, "stride"), len(pooled), "stride", 1)
    if isinstance(padding, str) and padding in ("same", "same_lower"):
        raise ValueError(f"padding must be in numbers, or 'valid', to unpool: {padding!r} follows from what was pooled")
    margins = pads(padding if isinstance(padding, str) else plain(padding, "padding"), pooled, kernel, step)
    default = tuple((n - 1) * s + k - sum(m) for n, k, s, m in zip(pooled, kernel, step, margins))
    if output_size is None:
        if min(default) < 1:
            raise ValueError(f"padding {margins} leaves nothing of an unpooled shape {default}; give an output_size")
        return default
    result = sizes(output_size, len(pooled), "output_size", 1)
    for axis, (given, n, s) in enumerate(zip(result, default, step)):
        if not n - s < given < n + s:
            raise ValueError(
                f"output_size {given} on spatial axis {axis} must be from {max(1, n - s + 1)} to {n + s - 1}: "
                f"less than a stride of {s} from {n}"
            )
    return result


def spatial_rank(value: object, name: str) -> int:
    """`value` as a number of spatial axes: 1, 2 or 3."""
    rank = plain(value, name)
    if not isinstance(rank, int) or not 1 <= rank <= 3:
        raise ValueError(f"{name} must be 1, 2 or 3; got {value!r}")
    return rank


def flag(value: object, name: str) -> bool:
    """`value` as a bool: no 1 passes for True."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; got {value!r} of type {type(value).__name__}")
    return bool(value)


def is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether `value` has an entry for each of several axes."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def plain(value: object, name: str, depth: int = DEPTH) -> Plain:
    """`value` as an int, or as nested tuples of ints: hashable, and no 1.0 or True passes for 1.

    Of a sequence no more is read than could be right, as one may be endless, or hold itself.
    """
    if type(value) is int:
        return value  # as almost always, and quick to see
    if type(value) is tuple and len(value) <= AXES:
        for v in value:
            if type(v) is not int:
                break
        else:
            return value  # as mostly otherwise
    if depth and is_sequence(value):
        return tuple(plain(v, name, depth - 1) for v in islice(value, AXES + 1))
    if not isinstance(value, (bool, np.bool_)):
        try:
            return index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"{name} must be made of ints; got {value!r} of type {type(value).__name__}")


@lru_cache(maxsize=4096)
def _window(
    spatial: tuple[int, ...],
    numbers: tuple[Plain, Plain | None, Plain | str, Plain, bool, str],
    output_size: Plain | None,
    elements: bool,
    source: str,
) -> Window:
    kernel_size, stride, padding, dilation, ceil_mode, _ = numbers
    axes = range(len(spatial))
    _require_axes(spatial, source)
    kernel = sizes(kernel_size, len(spatial), "kernel_size", 1)
    step = kernel if stride is None else sizes(stride, len(spatial), "stride", 1)
    spread = sizes(dilation, len(spatial), "dilation", 1)
    reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, spread))
    if max(reach) >= LIMIT:
        raise ValueError(f"kernel_size {kernel} with dilation {spread} covers 2**62 elements or more")
    margins = pads(padding, spatial, reach, step)
    if output_size is None:
        output = tuple(
            _windows(i, spatial[i], kernel[i], reach[i], step[i], margins[i], ceil_mode=ceil_mode) for i in axes
        )
    else:
        output = sizes(output_size, len(spatial), "output_size", 1)
        for i in axes:
            padded = spatial[i] + sum(margins[i])
            if (output[i] - 1) * step[i] >= padded:
                raise ValueError(
                    f"output_size {output[i]} on spatial axis {i} puts the last window behind the padded "
                    f"input of size {padded} (stride {step[i]}); at most {(padded - 1) // step[i] + 1}"
                )
    if elements:
        for i in axes:
            _require_elements(i, spatial[i], step[i], margins[i], spread[i], output[i])
    return Window(spatial, kernel, step, margins, spread, output)


def _require_axes(spatial: tuple[int, ...], source: str) -> None:
    """ValueError if a spatial axis is empty."""
    for axis, length in enumerate(spatial):
        if length == 0:
            raise ValueError(f"{source}: spatial axis {axis} is empty (spatial shape {spatial})")


def _windows(
    axis: int, length: int, kernel: int, reach: int, stride: int, padding: tuple[int, int], *, ceil_mode: bool
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


def _require_elements(
    axis: int, length: int, stride: int, padding: tuple[int, int], dilation: int, output: int
) -> None:
    """ValueError if some window covers padding alone."""
    # Only a step wider than the whole input can pass over it. The first tap at or after the input's
    # start is then at (o * stride - before) mod dilation.
    starts = range(-padding[0], min(0, output * stride - padding[0]), stride)
    starts = starts[: dilation // gcd(stride, dilation)]  # where the next one starts is as good as the first
    if dilation > length and any(start % dilation >= length for start in starts):
        raise ValueError(
            f"padding {padding} with dilation {dilation} leaves a window on spatial axis {axis} "
            f"that covers no element of the input of size {length}"
        )


def sizes(value: Plain, ndim: int, name: str, least: int) -> tuple[int, ...]:
    """`value` as `ndim` ints, each at least `least`: one for all axes, or one an axis."""
    entries = value if isinstance(value, tuple) else (value,) * ndim
    result = tuple([n for n in entries if isinstance(n, int)])
    if not len(entries) == len(result) == ndim:
        raise ValueError(f"{name} must be an int or {ndim} ints, one per spatial axis; got {value}")
    if not least <= min(result) <= max(result) < LIMIT:
        raise ValueError(f"{name} must be at least {least} and less than 2**62; got {value}")
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
    result = []
    for axis, (entry, size) in enumerate(zip(entries, reach)):
        pair = [n for n in (entry if isinstance(entry, tuple) else (entry, entry)) if isinstance(n, int)]
        if len(pair) != 2 or (isinstance(entry, tuple) and len(entry) != 2) or not all(0 <= n < size for n in pair):
            raise ValueError(
                f"padding on spatial axis {axis} must be an int or a (before, after) pair, each from 0 to "
                f"{size - 1}: smaller than the dilated kernel; got {entry}"
            )
        result.append((pair[0], pair[1]))
    return tuple(result)
