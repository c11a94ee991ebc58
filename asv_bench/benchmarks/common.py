"""What benchmarks share: layers of real networks, both implementations, arrays to run them on."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import fastpool
from fastpool import reference

Array = np.ndarray[Any, Any]


class Layer(NamedTuple):
    """The input of a pooling layer and its window."""

    input: tuple[int, int, int, int]
    kernel_size: int
    stride: int
    padding: int = 0

    @property
    def window(self) -> dict[str, int]:
        """The arguments that all functions take."""
        return {"kernel_size": self.kernel_size, "stride": self.stride, "padding": self.padding}

    @property
    def output(self) -> tuple[int, int, int, int]:
        """The shape of what is pooled."""
        n, c, *spatial = self.input
        height, width = ((size + 2 * self.padding - self.kernel_size) // self.stride + 1 for size in spatial)
        return n, c, height, width

    @property
    def unfolded(self) -> tuple[int, int, int]:
        """The shape of what unfold returns."""
        n, c, height, width = self.output
        return n, c * self.kernel_size**2, height * width

    @property
    def columns(self) -> tuple[int, int]:
        """The shape of what im2col returns."""
        n, c, height, width = self.output
        return c * self.kernel_size**2, n * height * width


#: Results are kept by name: a layer of another shape needs another name.
LAYERS = {
    "vgg-pool1": Layer((8, 64, 224, 224), 2, 2),
    "vgg-pool3": Layer((8, 256, 56, 56), 2, 2),
    "vgg-pool5": Layer((8, 512, 14, 14), 2, 2),
    "resnet-stem": Layer((8, 64, 112, 112), 3, 2, 1),
    "alexnet-1": Layer((8, 64, 55, 55), 3, 2),
    "inception": Layer((8, 192, 28, 28), 3, 1, 1),
    "yolo-spp5": Layer((8, 512, 20, 20), 5, 1, 2),
    "lenet": Layer((64, 6, 28, 28), 2, 2),
    "notebook": Layer((2, 3, 4, 4), 2, 2),
}

IMPLEMENTATIONS = {"fastpool": fastpool, "reference": reference}

#: The reference copies every window's elements: here that takes seconds a call.
TOO_LARGE_FOR_REFERENCE = {"vgg-pool1"}


class Benchmark:
    """Every benchmark is one function, on layers of networks, in both implementations."""

    param_names = ("shape", "implementation")
    timeout = 120
    #: A sample is one call, with a setup before it: many of the short ones, 5 or more of the long ones.
    repeat = (5, 1000, 1.0)


def cases(*shapes: str) -> list[list[str]]:
    """Return the `params` of a benchmark: these shapes, each in both implementations."""
    return [list(shapes), list(IMPLEMENTATIONS)]


#: For benchmarks of a data format, too.
FORMATS = ["channels_first", "channels_last"]


def laid_out(shape: tuple[int, int, int, int], data_format: str) -> tuple[int, int, int, int]:
    """Return the shape (N, C, H, W) in this format."""
    n, c, h, w = shape
    return shape if data_format == "channels_first" else (n, h, w, c)


def case(shape: str, implementation: str) -> tuple[ModuleType, Layer]:
    """Look up a case; NotImplementedError, by which asv skips it, if it is too large."""
    if implementation == "reference" and shape in TOO_LARGE_FOR_REFERENCE:
        raise NotImplementedError(f"{shape} is too large for the reference")
    return IMPLEMENTATIONS[implementation], LAYERS[shape]


def numbers(shape: tuple[int, ...]) -> Array:
    """Return the same random numbers each time."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def room(shape: tuple[int, ...]) -> Array:
    """Return an array to write to whose pages exist: np.empty and np.zeros leave them to the first write."""
    return np.full(shape, np.nan, np.float32)
