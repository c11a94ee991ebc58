"""What a layer is: parameters, and between forward and backward what backward needs.

Every kind of layer is written here once, for any number of axes and whatever functions compute it.
A class says which: see `Layer`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fastpool import arguments
from fastpool.window import LIMIT, OutputSize, Padding, Sizes, adaptive_window, window

Array = np.ndarray[Any, Any]


@dataclass(eq=False)
class Layer:
    """What all layers share. A subclass of one kind, as `MaxPool`, sets `ndim` and `functions`.

    Attributes
    ----------
    ndim : int
        How many spatial axes there are.
    functions : (function, function)
        The pooling over so many axes and its backward.
    """

    ndim: ClassVar[int]
    functions: ClassVar[tuple[Callable[..., Any], Callable[..., Array]]]

    def __call__(self, x: ArrayLike) -> Array:
        """Return `forward(x)`."""
        return self.forward(x)

    def forward(self, x: ArrayLike) -> Array:
        """Pool x, of any shape, and keep what `backward` needs."""
        x = arguments.array(x, "x")
        y, self._kept = self._forward(x)
        return y

    def backward(self, dy: ArrayLike) -> Array:
        """Return the gradient of the last forward's x, given the gradient of its y.

        Raises
        ------
        RuntimeError
            There was no forward.
        """
        if not hasattr(self, "_kept"):
            raise RuntimeError(f"{type(self).__name__}.backward needs a forward first")
        return self.functions[1](dy, *self._kept, **self._parameters())

    def _forward(self, x: Array) -> tuple[Array, tuple[Any, ...]]:
        """Return y, and the arguments of the backward function between dy and the parameters."""
        return self.functions[0](x, **self._parameters()), (x.shape,)

    def _parameters(self) -> dict[str, Any]:
        return {parameter.name: getattr(self, parameter.name) for parameter in fields(self)}


@dataclass(eq=False)
class MaxPool(Layer):
    """Max pooling; the parameters are those of `max_poolNd`. It keeps the argmax."""

    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Padding = 0
    dilation: Sizes = 1
    ceil_mode: bool = False
    data_format: str = field(default="channels_first", kw_only=True)

    def __post_init__(self) -> None:
        _check_window(self)

    def _forward(self, x: Array) -> tuple[Array, tuple[Any, ...]]:
        y, argmax = self.functions[0](x, **self._parameters(), return_argmax=True)
        return y, (argmax, x.shape)


@dataclass(eq=False)
class AvgPool(Layer):
    """Average pooling; the parameters are those of `avg_poolNd`. It keeps the shape of x."""

    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Padding = 0
    dilation: Sizes = 1
    ceil_mode: bool = False
    count_include_pad: bool = field(default=True, kw_only=True)
    divisor_override: int | None = field(default=None, kw_only=True)
    data_format: str = field(default="channels_first", kw_only=True)

    def __post_init__(self) -> None:
        _check_window(self)
        arguments.divisor_arguments(self.count_include_pad, self.divisor_override)


@dataclass(eq=False)
class LPPool(Layer):
    """Pooling to the norm of each window; the parameters are those of `lp_poolNd`.

    It keeps x and y, and no copies: backward is wrong where one is written to after forward.
    """

    norm_type: float
    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Padding = 0
    dilation: Sizes = 1
    ceil_mode: bool = False
    data_format: str = field(default="channels_first", kw_only=True)

    def __post_init__(self) -> None:
        arguments.norm(self.norm_type)
        _check_window(self)

    def _forward(self, x: Array) -> tuple[Array, tuple[Any, ...]]:
        y = self.functions[0](x, **self._parameters())
        return y, (x, y)


@dataclass(eq=False)
class AdaptiveAvgPool(Layer):
    """Average pooling to a given size; the parameters are those of `adaptive_avg_poolNd`. It keeps the shape of x."""

    output_size: OutputSize
    data_format: str = field(default="channels_first", kw_only=True)

    def __post_init__(self) -> None:
        adaptive_window((1,) * self.ndim, self.output_size)
        arguments.channels_last(self.data_format)

    def _forward(self, x: Array) -> tuple[Array, tuple[Any, ...]]:
        return self.functions[0](x, self.output_size, **self._parameters()), (x.shape,)

    def _parameters(self) -> dict[str, Any]:
        return {"data_format": self.data_format}  # the output size is that of dy


@dataclass(eq=False)
class AdaptiveMaxPool(AdaptiveAvgPool):
    """Max pooling to a given size; the parameters are those of `adaptive_max_poolNd`. It keeps the argmax."""

    def _forward(self, x: Array) -> tuple[Array, tuple[Any, ...]]:
        y, argmax = self.functions[0](x, self.output_size, **self._parameters(), return_argmax=True)
        return y, (argmax, x.shape)


def _check_window(layer: MaxPool | AvgPool | LPPool) -> None:
    """Raise what no input could make right."""
    spatial = (LIMIT,) * layer.ndim  # on which every window fits
    window(spatial, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
    arguments.channels_last(layer.data_format)
