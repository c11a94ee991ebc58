"""Compile kernels before they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import fastpool

Array = np.ndarray[Any, Any]

#: Distances between windows, each of which has kernels of its own, and padding: one apart, they have two.
WINDOWS = ((1, 1), (1, 0), (2, 0), (3, 0))
#: Images that one thread is enough for, and such that more are used for, with rows of one vector, of two, and longer.
SHAPES = tuple((size // width // 64, 4, 16, width) for width in (16, 32, 256, 1024) for size in (1 << 16, 1 << 20))
#: What pools, or lays out, arrays of so many bytes is far from any cache, and has kernels of its own.
FAR = 1 << 26


def calls(dtype: np.dtype[Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield a name and a call of every function, in every variant that is compiled by itself."""
    gradients = dtype if dtype.kind != "b" else np.dtype(np.float32)
    for data_format in ("channels_first", "channels_last"):
        for stride, padding in WINDOWS if data_format == "channels_first" else WINDOWS[:1]:
            window: dict[str, Any] = {"stride": stride, "padding": padding, "data_format": data_format}
            name = f"{data_format}, stride {stride}" if data_format == "channels_first" else data_format
            for shape in SHAPES:
                x = np.zeros(shape, dtype)
                yield f"max_pool2d, {name}", partial(fastpool.max_pool2d, x, 3, **window)
                yield (
                    f"max_pool2d with argmax, {name}",
                    partial(fastpool.max_pool2d, x, 3, **window, return_argmax=True),
                )
                yield f"avg_pool2d, {name}", partial(fastpool.avg_pool2d, x, 3, **window)
    for data_format in ("channels_first", "channels_last"):
        for kernel_size, stride, padding in ((3, 1, 1), (2, 2, 0), (2, 3, 0)):
            window = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "data_format": data_format}
            for shape in SHAPES:
                dy, argmax = fastpool.max_pool2d(np.zeros(shape, gradients), **window, return_argmax=True)
                back = partial(fastpool.max_pool2d_backward, dy, argmax, shape, **window)
                yield f"max_pool2d_backward, {data_format}", back
                yield f"avg_pool2d_backward, {data_format}", partial(fastpool.avg_pool2d_backward, dy, shape, **window)
    for shape in SHAPES:
        x = np.zeros(shape, dtype)
        for kernel_size, stride in ((3, 1), (4, 4)):
            columns = partial(fastpool.unfold, x, kernel_size, stride)
            yield f"unfold and im2col, stride {stride}", columns
            yield f"fold and col2im, stride {stride}", partial(fastpool.fold, columns(), shape[2:], kernel_size, stride)
    x = np.zeros((FAR // (64**3 * dtype.itemsize), 64, 64, 64), dtype)
    yield "unfold of large arrays, stride 2", partial(fastpool.unfold, x, 2, 2)
    pixels: dict[str, Any] = {"stride": 2, "data_format": "channels_last"}
    name = "of large arrays, channels_last"
    yield f"max_pool2d {name}", partial(fastpool.max_pool2d, x, 2, **pixels)
    yield f"max_pool2d with argmax {name}", partial(fastpool.max_pool2d, x, 2, **pixels, return_argmax=True)
    yield f"avg_pool2d {name}", partial(fastpool.avg_pool2d, x, 2, **pixels)


def warmup(dtypes: list[np.dtype[Any]]) -> Iterator[str]:
    """Compile, for these dtypes, the kernels of all functions for small windows; yield the name of each before it."""
    for dtype in dtypes:
        for name, call in calls(dtype):
            yield f"{dtype}: {name}"
            call()
