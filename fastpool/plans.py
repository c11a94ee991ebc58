"""Plans: which kernel a call takes, and all else that follows from its shapes, dtypes and parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from math import prod
from typing import Any

import numpy as np
from numpy import empty, ndarray  # found sooner than in NumPy's module

from fastpool import arguments, layout
from fastpool.kernels import (
    avg_pool,
    blocked,
    flat,
    fold,
    hold,
    max_pool,
    max_pool_backward,
    max_pool_large,
    pairs,
    pixels,
    rows,
    slide,
    small_columns,
    unfold,
    whole,
    wide,
)
from fastpool.kernels.launch import Bound, Given, Kernel
from fastpool.kernels.simd import BYTES
from fastpool.reuse import Results
from fastpool.window import Window, window

Array = np.ndarray[Any, Any]

#: Rows of so few windows fill vectors worse than scalar code takes for them.
NARROW = 4
#: Rows of so many windows, or elements, of lines, planes and volumes are sooner laid out one by one, if there are some.
NARROW_UNFOLDED, ALIKE = (64, 10, 10), 8
#: So are rows of so many elements if windows are next to each other, or, to add up, if there are gaps between them.
NARROW_JOINED, NARROW_APART = 10, 24
#: Rows of so many windows are short for `fold.accumulate`, if the strides are at most 4; and of so many, where an
#: element is in no more windows than that.
SHORT, SHORTER, IN_FEW = 32, 18, 4
#: Whole planes of fewer elements fill no vector: up to so many are a row, of which they are windows side by side;
#: backwards, up to so many.
WHOLE, IN_ROW, IN_ROW_BACK = 8, 1 << 12, 1 << 10
#: Of windows side by side, up to so many elements are put together in cache.
PATCH = 1 << 12
#: Columns of planes of so few elements, even side by side, are summed up in the blocked layout; of no smaller batches.
TINY, BATCH = 32, 4
#: So many elements may be one row of scratch.
FLAT = 1 << 12
#: Up to so many channels are one by one in lists of targets. From so many on, a row of a window that is side by side
#: with others, and more than two wide, is written at once; from so many on, any such, and pixels ask for gradients.
FEW, APART, MANY = 16, 32, 64
#: Arrays of fewer elements take less time than the tables of `fastpool.kernels.flat` do.
FLATTENED = 1 << 12
#: Elements of up to so many windows, as many as there are places, are asked for all of their gradients.
COLLECTED = 9
#: And pairs of elements in rows of so many windows a place down; rows longer than so many elements are cut.
PAIRS, LONG = 8, 2048
#: A pixel in more windows than so many is not asked for its gradients, but these are gone through, if sums of some of a
#: plane's channels fit a cache. Where those of an eighth do, and of so many, windows are sooner gone through: if they
#: have more places than so many times those from one to the next, and so many. And in any case, if those of so many
#: channels fit, and there are too few to be asked.
OVERLAP, ROOMY, ASKED, SUMMED = 32, 16, (4, 16), 48
#: Of small planes it is listed where so many gradients may go, if there are so many planes, or twice as many where
#: channels could be summed up.
TARGETS, REPEATED = 1 << 17, 12


@dataclass(frozen=True, eq=False)  # as a window: a hash takes no time
class Kernels:
    """Those of whole planes, of many small ones, of high windows, wide, one apart, small, all others, and of pixels."""

    whole: Kernel
    blocked: Kernel
    slide: Kernel
    wide: Kernel
    flat: Callable[..., Kernel]
    small: Callable[..., Kernel]
    large: Kernel
    pixels: Callable[..., Kernel]
    pixels_large: Kernel
    keeping: int  # see `fastpool.kernels.pixels.by_rows`


MAXIMA = Kernels(
    whole.max_pool_whole,
    blocked.max_pool_blocked,
    slide.max_pool_slide,
    wide.max_pool_wide,
    flat.max_pool_flat,
    max_pool.max_pool,
    max_pool_large.max_pool_large,
    pixels.max_pool_pixels,
    pixels.max_pool_pixels_large,
    2,
)
AVERAGES = Kernels(
    whole.avg_pool_whole,
    blocked.avg_pool_blocked,
    slide.avg_pool_slide,
    wide.avg_pool_wide,
    flat.avg_pool_flat,
    avg_pool.avg_pool,
    avg_pool.avg_pool_large,
    pixels.avg_pool_pixels,
    pixels.avg_pool_pixels_large,
    4,
)


@dataclass(eq=False)
class Plan:
    """What follows from a call's shapes, dtypes and parameters: all but the elements of its arrays."""

    w: Window
    shape: tuple[int, ...]  # of the result
    dtype: np.dtype[Any]
    pooled: tuple[int, ...]  # the shape that windows give the input
    trailing: tuple[int, ...]
    kernel: Kernel
    rows: int
    nbytes: int  # that are read, or written; see `_again`
    inputs: tuple[Given, ...]  # as the kernel takes them
    outputs: tuple[Given | None, ...]
    divisors: tuple[bool, int | None] | None = None  # of an average: arrays that come after the inputs
    part: int = 0  # how many channels a thread does of a plane, if rows are those of parts
    laid: Window | None = None  # the windows as the kernel takes them, if otherwise
    constants: tuple[Array, ...] = ()
    given: tuple[Given | None, ...] = ()  # all of these
    bound: tuple[Bound, Bound] | None = None  # to write to memory that is given, and to new memory
    usual: tuple[Bound, Bound] | None = None  # the same, once it is known that inputs are read as they are given

    def run(self, out: Array | Results | None, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        """Set `out`, or a new array, to what the kernel makes of the inputs; return it, and the positions of maxima.

        Compiled code sees by itself that the usual arrays are right, in a tenth of the time; others are looked at here.
        """
        usual, new = self.usual, out is None
        quick = usual is not None and new
        result = empty(self.shape, self.dtype) if quick else arguments.place(out, self.shape, self.dtype)
        writes: tuple[Any, ...] = (result,)
        if len(self.outputs) > 1:
            positions = self.outputs[1]
            writes = result, None if positions is None else empty(self.shape, positions.dtype)
        if usual is not None and type(result) is ndarray:
            launch, numbers, geometry = usual[new]
            if launch(numbers, geometry, inputs + self.constants, writes):
                return writes
        if result is out:
            arguments.require_apart(result, inputs)
        bound = self.bound or self._bound()
        launch, numbers, geometry = bound[new]
        if self.dtype.char not in arguments.FLOATS or inputs[0].dtype.char in arguments.FLOATS:
            self.usual = bound
        else:
            inputs = arguments.as_float(inputs[0]), *inputs[1:]
        written = layout.contiguous(result)
        reads, into = inputs + self.constants, writes if written is result else (written, *writes[1:])
        tried = usual is not None and written is result and type(result) is ndarray
        if self.rows and (tried or not launch(numbers, geometry, reads, into)):
            self.kernel(self.rows, self.nbytes, geometry, *map(_as_given, reads + into, self.given))
        if written is not result:
            result[...] = written
        return writes

    def _bound(self) -> tuple[Bound, Bound]:
        """Make what costs time or memory, now that all is checked and the arrays are there."""
        if self.divisors is not None:
            self.constants = _divisors(self.laid or self.w, *self.divisors, self.dtype)
        self.given = *self.inputs, *(Given(a.shape, a.dtype) for a in self.constants), *self.outputs
        nbytes, touched = prod(self.shape) * self.dtype.itemsize, sum(given.nbytes for given in self.given if given)
        far, new_far = hold.far(nbytes, touched, new=False), hold.far(nbytes, touched, new=True)
        bound = self._bound_to(far)
        self.bound = bound, bound if far == new_far else self._bound_to(new_far)
        return self.bound

    def _bound_to(self, far: bool) -> Bound:
        geometry = np.append((self.laid or self.w).geometry, (far, self.part))
        return self.kernel.bound(self.rows, self.nbytes, geometry, *self.given)


def _as_given(x: Array | None, given: Given | None) -> Array | None:
    """View x with these four axes and this dtype; a copy where there is no such view."""
    if x is None or given is None:
        return None
    x = x.view(given.dtype).reshape(given.shape)
    return layout.rows(x if given.order == (0, 1, 2, 3) else x.transpose(given.order))


@lru_cache(maxsize=1024)  # a plan may hold an average's divisors
def pooling(
    ndim: int,
    kernels: Kernels,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    wanted: bool,
    divisors: tuple[bool, int | None] | None,
    of_window: tuple[Any, ...],
) -> Plan:
    """Plan a pooling: that with divisors is an average, any other a maximum, the positions of which may be wanted."""
    *numbers, data_format = of_window
    leading, spatial, trailing = arguments.split(shape, data_format, ndim, "x")
    w = window(spatial, *numbers, elements=True)
    if ndim == 3 and not wanted and (w.kernel_size[0], w.stride[0], w.padding[0]) == (1, 1, (0, 0)):
        plane = w.kernel_size[1:], w.stride[1:], w.padding[1:], w.dilation[1:], *numbers[4:], data_format
        return pooling(2, kernels, shape, dtype, wanted, divisors, plane)  # of slices, each for itself
    pooled = leading + w.output + trailing
    single = w.taps == 1 and w.input == w.output  # of each element a window
    windows = prod(shape) // w.taps
    tiny = single or (w.whole and w.taps < WHOLE and not layout.by_pixels(trailing))
    many = _side_by_side(windows, IN_ROW) if tiny else 1
    line = windows // many, many * w.taps
    if many > 1 and line != shape:
        of_line = w.taps, None, 0, 1, False, "channels_first"
        plan = pooling(1, kernels, line, dtype, wanted, divisors, of_line)
        return replace(plan, w=w, shape=pooled, pooled=pooled, trailing=trailing, laid=plan.w)
    kernel, stride, _ = w.in_row
    result = dtype if divisors is None else arguments.floating(dtype)
    size = prod(pooled)
    far = hold.far(size * result.itemsize, (prod(shape) + size) * result.itemsize, new=False)
    if layout.by_pixels(trailing):
        by_rows = pixels.by_rows(w, kernels.keeping)
        chosen = kernels.pixels_large if by_rows else kernels.pixels(far and FEW < prod(trailing) <= hold.HELD)
    elif w.whole and w.taps >= WHOLE:
        chosen = kernels.whole
    elif prod(shape) >= FLATTENED and slide.suits(w):
        chosen = kernels.slide
    elif prod(shape) >= FLATTENED and flat.suits(w):
        chosen = kernels.flat(ndim == 3 and (not wanted or flat.by_slices(w)))
    elif blocked.suits(w, prod(leading), _computed(result)):
        chosen = kernels.blocked
    elif rows.suits(w, wanted):
        many = rows.vectors(kernel, stride, w.output[-1], _computed(result), wanted)
        kept = rows.keeps(w, wanted)
        deep = ndim == 3 and not kept
        sharing = wanted and not deep and w.rows_overlap
        long = rows.long(w, wanted, sharing, far)
        overlap = {"overlap": True} if sharing and not long else {}
        chosen = kernels.small(stride, many, deep, kept, long, **overlap)
    elif stride > 2:
        chosen = kernels.wide
    else:
        chosen = kernels.large
    axes, pooled_axes = layout.axes(shape, w, trailing), layout.axes(pooled, w, trailing)
    x, y = Given(axes, layout.element(result)), Given(pooled_axes, layout.element(result))
    more = (Given(pooled_axes, w.argmax_dtype) if wanted else None,) if divisors is None else ()
    return Plan(
        w,
        pooled,
        result,
        pooled,
        trailing,
        chosen,
        prod(leading) if chosen is kernels.blocked else prod(leading + w.output[:-1]),
        _again(w, shape, result, trailing),
        (x,),
        (y, *more),
        divisors,
    )


@lru_cache(maxsize=4096)
def scattering(
    ndim: int, shape: tuple[int, ...], dtype: np.dtype[Any], contiguous: bool, of_window: tuple[Any, ...]
) -> Plan:
    """Plan the backward of a max pooling of an array of this shape, given gradients of this dtype."""
    *numbers, data_format = of_window
    _, spatial, trailing = arguments.split(shape, data_format, ndim, "input_shape")
    w = window(spatial, *numbers, elements=True, source="input_shape")
    return scattering_of(w, shape, dtype, contiguous, trailing)


@lru_cache(maxsize=4096)
def scattering_of(
    w: Window, shape: tuple[int, ...], dtype: np.dtype[Any], contiguous: bool, trailing: tuple[int, ...]
) -> Plan:
    """Plan the backward of a max pooling of these windows."""
    channels = prod(trailing)
    tiny = w.whole and w.taps < WHOLE and channels == 1
    many = _side_by_side(prod(shape) // w.taps, IN_ROW_BACK) if tiny else 1
    if many > 1:
        of_line = window((many * w.taps,), w.taps, None, 0, 1)
        plan = scattering_of(of_line, (prod(shape) // of_line.input[0], *of_line.input), dtype, contiguous, ())
        pooled = shape[: len(shape) - len(trailing) - len(w.input)] + w.output + trailing
        return replace(plan, w=w, shape=shape, pooled=pooled, laid=of_line)
    apart = prod(w.stride)
    roomy = contiguous and max_pool_backward.fits(w, max(ROOMY, channels // 8))
    asked = w.taps <= (ASKED[0] * apart + ASKED[1] if roomy else OVERLAP * apart)
    summed = not asked and max_pool_backward.sums_channels(w)
    if FEW <= channels < MANY and not w.side_by_side:
        summed |= max_pool_backward.fits(w, SUMMED)
    summed &= contiguous and channels > 3
    small = contiguous and _small(w, shape, channels, 2 * REPEATED if summed else REPEATED)
    if channels == 1 and w.whole:
        kernel = whole.max_pool_whole_backward
    elif channels < MANY and w.input == w.output and max(w.stride) == 1 and w.taps <= COLLECTED and contiguous:
        kernel = flat.collect
    elif channels < MANY and contiguous and flat.spreads(w, channels):
        kernel = flat.collect_inside
    elif channels >= (max(APART, BYTES // dtype.itemsize) if w.kernel_size[-1] > 2 else MANY) and _apart(w):
        kernel = pixels.max_pool_pixels_apart_backward
    elif _in_route(w, channels):
        kernel = pairs.route(layout.by_pixels(trailing))
    elif asked and channels >= MANY:
        kernel = pixels.max_pool_pixels_backward
    elif channels == 1 and contiguous and max_pool_backward.pads(w, small):
        kernel = max_pool_backward.scatter_padded
    elif channels == 1 and _in_pairs(w):
        kernel = pairs.collect(w.padding[-1][0] % 2 == 1, w.input[-1] > LONG)
    elif small:
        kernel = max_pool_backward.scatter_small
    elif summed:
        plan = _backward(w, shape, dtype, trailing, max_pool_backward.scatter_channels, w.argmax_dtype)
        part = max_pool_backward.channels_at_once(w, channels, _computed(dtype))
        return replace(plan, rows=plan.rows * -(-channels // part), part=part)
    else:
        of_planes = len(w.input) < 3 and w.taps <= max_pool_backward.LOOKED_UP
        kernel = max_pool_backward.scatter(layout.by_pixels(trailing), of_planes)
    return _backward(w, shape, dtype, trailing, kernel, w.argmax_dtype)


@lru_cache(maxsize=1024)  # a plan may hold an average's divisors
def sharing(
    ndim: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    divisors: tuple[bool, int | None],
    of_window: tuple[Any, ...],
) -> Plan:
    """Plan the backward of an average of an array of this shape, given gradients of this dtype."""
    *numbers, data_format = of_window
    _, spatial, trailing = arguments.split(shape, data_format, ndim, "input_shape")
    w = window(spatial, *numbers, elements=True, source="input_shape")
    if w.whole and not layout.by_pixels(trailing):
        kernel = whole.avg_pool_whole_backward
        return _backward(w, shape, arguments.floating(dtype), trailing, kernel, None, divisors)
    fits = all(k <= n for k, n in zip(w.kernel_size, w.input))  # for windows are as long as they are, turned around
    if max(*w.stride, *w.dilation) == 1 and fits and _uniform(w, *divisors):
        # An element is in as many windows as a window has elements: what they give to it is again an average.
        pooled = shape[: len(shape) - len(trailing) - ndim] + w.output + trailing
        turned = tuple((k - 1 - before, k - 1 - after) for k, (before, after) in zip(w.kernel_size, w.padding))
        turned_window = w.kernel_size, 1, turned, 1, False, data_format
        plan = pooling(ndim, AVERAGES, pooled, dtype, False, (True, divisors[1]), turned_window)
        return replace(plan, pooled=pooled)
    if layout.by_pixels(trailing):
        kernel = pixels.avg_pool_pixels_backward if w.side_by_side else pixels.avg_pool_pixels_backward_large
    elif blocked.shares(w, prod(shape) // prod(w.input), _computed(dtype)):
        kernel = blocked.avg_pool_blocked_backward
    else:
        kernel = avg_pool.avg_pool_backward
    return _backward(w, shape, arguments.floating(dtype), trailing, kernel, None, divisors)


def _backward(
    w: Window,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    trailing: tuple[int, ...],
    kernel: Kernel,
    positions: np.dtype[Any] | None,
    divisors: tuple[bool, int | None] | None = None,
) -> Plan:
    """Plan a kernel that makes dx of dy, and of positions of this dtype or of divisors."""
    pooled = shape[: len(shape) - len(trailing) - len(w.input)] + w.output + trailing
    axes, given = layout.axes(shape, w, trailing), layout.axes(pooled, w, trailing)
    element = layout.summed(dtype)
    inputs = Given(given, element), *([] if positions is None else [Given(given, positions)])
    outputs = (Given(axes, element),)
    nbytes = _again(w, shape, dtype, trailing)
    by_planes = kernel is blocked.avg_pool_blocked_backward
    rows = prod(axes[: 2 if by_planes else 3]) if prod(shape) else 0  # there may be no channels
    return Plan(w, shape, dtype, pooled, trailing, kernel, rows, nbytes, inputs, outputs, divisors)


@lru_cache(maxsize=4096)
def unfolding(
    shape: tuple[int, ...], dtype: np.dtype[Any], batch: bool, windows: Any, of_window: tuple[Any, ...]
) -> Plan:
    """Plan `unfold` of an array of this shape and dtype, or, of a batch, `im2col`."""
    n, c, *spatial = shape
    kernel_size, stride, padding, dilation, *_ = of_window
    w = window(tuple(spatial), kernel_size, stride, padding, dilation, False, windows)
    dtype = arguments.floating(dtype)
    moved = np.dtype(f"u{dtype.itemsize}")  # to move floats they need not be read
    rows, length = c * w.taps, prod(w.output)
    x, cols = Given(layout.axes(shape, w), moved), Given((n, c, w.taps, length), moved)
    result: tuple[int, ...] = n, rows, length
    if batch:
        x, cols = Given(shape, moved, (1, 0, 2, 3)), Given((c, w.taps, n, length), moved, (0, 2, 1, 3))
        result = rows, n * length
    rows_out, nbytes = n * c * prod(w.output[:-1]), (prod(shape) + prod(result)) * dtype.itemsize
    small = _one_by_one(w, n * c) and w.output[-1] <= NARROW_UNFOLDED[len(w.output) - 1]
    if _from_first(w) and w.input[-1] > NARROW_JOINED and unfold.splits(w, dtype.itemsize):
        far = hold.far(prod(result) * dtype.itemsize, nbytes, new=False)
        kernel = unfold.split(far and len(spatial) < 3 and w.output[-1] >= unfold.ROWS_IN_ORDER)
    else:
        kernel = small_columns.unfold_small(batch) if small else unfold.unfold
    return Plan(w, result, dtype, result, (), kernel, rows_out, nbytes, (x,), (cols,))


@lru_cache(maxsize=4096)
def folding(shape: tuple[int, ...], dtype: np.dtype[Any], output_size: Any, of_window: tuple[Any, ...]) -> Plan:
    """Plan `fold` of an array of this shape and dtype."""
    ndim = arguments.fold_rank(output_size, of_window[0])
    result, w = arguments.fold_shape(shape, output_size, ndim, *of_window[:4])
    dtype = arguments.floating(dtype)
    image = layout.axes(result if len(result) > ndim + 1 else (1, *result), w)
    blocks, images = Given((*image[:2], w.taps, prod(w.output)), dtype), Given(image, dtype)
    nbytes = (prod(shape) + prod(result)) * dtype.itemsize
    planes = prod(image[:2])
    kernel = _sums(w, planes, dtype)
    rows_out = planes if kernel is blocked.accumulate_blocked else prod(image[:3])
    return Plan(w, result, dtype, shape, (), kernel, rows_out, nbytes, (blocks,), (images,))


@lru_cache(maxsize=4096)
def folding_batch(shape: tuple[int, ...], dtype: np.dtype[Any], windows: Any, of_window: tuple[Any, ...]) -> Plan:
    """Plan `col2im` to an array of this shape, of columns of this dtype."""
    n, c, *spatial = shape
    kernel_size, stride, padding, dilation, *_ = of_window
    w = window(tuple(spatial), kernel_size, stride, padding, dilation, False, windows, source="input_shape")
    dtype, length = arguments.floating(dtype), prod(w.output)
    cols = c * w.taps, n * length
    # In the order of the columns: image after image, channel by channel.
    blocks, images = Given((c, w.taps, n, length), dtype, (0, 2, 1, 3)), Given(shape, dtype, (1, 0, 2, 3))
    nbytes = (prod(shape) + prod(cols)) * dtype.itemsize
    kernel, rows_out = _sums(w, n * c, dtype, n), prod(shape[:3])
    if kernel is blocked.accumulate_blocked:
        rows_out = n * c  # planes
    return Plan(w, shape, dtype, cols, (), kernel, rows_out, nbytes, (blocks,), (images,))


@lru_cache(maxsize=4096)
def finding(w: Window, size: int) -> Bound:
    """Plan the search for what is outside of its window among so many positions."""
    rows, width = size // w.output[-1], w.output[-1]
    given, found = Given((1, 1, rows, width), w.argmax_dtype), Given((1, 1, 1, 1), np.dtype(np.uint8))
    return max_pool_backward.find_invalid.bound(rows, size * w.argmax_dtype.itemsize, w.geometry, given, found)


@lru_cache(maxsize=1024)
def _divisors(w: Window, include_pad: bool, override: int | None, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return what sums are divided by, as a number for each row of windows and one for each column, of four axes."""
    *others, widths = w.counts(include_pad)
    heights = reduce(np.multiply.outer, others, np.ones((), np.int64))
    if override is not None:
        heights, widths = np.full_like(heights, override), np.ones_like(widths)
    computed = np.dtype(np.float32) if dtype.char in arguments.HALVES else dtype
    return heights.astype(computed).reshape(1, 1, 1, -1), widths.astype(computed).reshape(1, 1, 1, -1)


def _uniform(w: Window, include_pad: bool, override: int | None) -> bool:
    """Whether all windows, none of which hangs over the padding, are divided by one number."""
    return include_pad or override is not None or not any(map(any, w.padding))


def _again(w: Window, shape: tuple[int, ...], dtype: np.dtype[Any], trailing: tuple[int, ...]) -> int:
    """Return the bytes of an array, again for every window along an axis: as long as a call takes.

    Half of them if channels are last: that takes less time, and rows of a plane that are another thread's more.
    """
    nbytes = prod(shape) * dtype.itemsize * w.overlap
    return nbytes // 2 if layout.by_pixels(trailing) else nbytes


def _computed(dtype: np.dtype[Any]) -> int:
    """Return how many bytes an element has in a kernel's vectors."""
    return 4 if dtype.char in arguments.HALVES else dtype.itemsize


def _side_by_side(planes: int, most: int) -> int:
    """Return how many of so many tiny planes make a row: at most so many, all rows alike."""
    return next(n for n in range(min(most, max(planes, 1)), 0, -1) if planes % n == 0)


def _from_first(w: Window) -> bool:
    """Whether windows are side by side from the first element on."""
    return w.side_by_side and not any(before for before, _ in w.padding)


def _one_by_one(w: Window, planes: int) -> bool:
    """Whether planes are so small, and so many, that short rows of them are sooner laid out one by one."""
    return prod(w.input) < small_columns.SMALL and prod(w.output) * w.taps < small_columns.SMALL and planes >= ALIKE


def _apart(w: Window) -> bool:
    """Whether no two windows have an element, and none is between the places of one."""
    axes = zip(w.kernel_size, w.stride, w.dilation, w.output)
    return all((k <= s or out == 1) and (k == 1 or d == 1) for k, s, d, out in axes)


def _in_route(w: Window, channels: int) -> bool:
    """Whether elements, or pixels, are asked for the only gradient that they may get."""
    suits = w.output[-1] > NARROW if channels == 1 else channels < MANY and w.input[-1] * channels <= 8 * FLAT
    return w.stride[-1] == w.kernel_size[-1] == 2 and suits and _from_first(w)


def _small(w: Window, shape: tuple[int, ...], channels: int, least: int) -> bool:
    """Whether planes of few channels are so small, and so many, that it is listed where gradients of each place go."""
    size, targets = prod(w.input) * channels, prod(w.output) * w.taps * channels  # the channels are in the list, too
    suits = channels <= FEW and size < max_pool_backward.SMALL and targets <= TARGETS
    return suits and prod(shape) >= size * least


def _in_pairs(w: Window) -> bool:
    """Whether elements are asked for their gradients in pairs, which is slower in rows that are short."""
    three = w.kernel_size[-1] == 3 and w.stride[-1] == 2 and w.dilation[-1] == 1
    return three and len(w.input) < 3 and w.taps <= COLLECTED and w.output[-1] >= PAIRS * (w.taps // 3)


def _sums(w: Window, planes: int, dtype: np.dtype[Any], batch: int | None = None) -> Kernel:
    """Return the kernel that adds columns up: in rows of so many images if it is that of a batch."""
    overlap, narrow = not _from_first(w) or prod(w.input) <= TINY, w.output[-1] <= NARROW
    if overlap and (narrow or batch is None or batch >= BATCH) and blocked.sums(w, planes, _computed(dtype)):
        return blocked.accumulate_blocked
    narrowest = NARROW_JOINED if w.stride[-1] <= w.kernel_size[-1] else NARROW_APART
    if _from_first(w) and w.input[-1] <= narrowest and _one_by_one(w, planes):
        return small_columns.join_small(batch is not None)
    if _from_first(w) and prod(w.stride[-2:]) <= PATCH:
        return fold.join
    short = w.output[-1] <= (SHORTER if w.taps <= IN_FEW * prod(w.stride) else SHORT) and max(w.stride[-2:]) <= 4
    return fold.accumulate_short if short else fold.accumulate
