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
from fastpool.reuse import Reusing
from fastpool.window import LIMIT, OutputSize, Padding, Sizes, adaptive_window, channels_last, window

Array = np.ndarray[Any, Any]


@dataclass(eq=False)
class Layer(Reusing):
    """What all layers share. A subclass of one kind, as `MaxPool`, sets `ndim` and `functions`.

    Large results are written to the memory of earlier ones, where nobody has these any more.

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
        return self.functions[1](dy, *self._kept, **self._parameters(), out=self._gradients)

    def _forward(self, x: Array) -> tuple[Array, tuple[Any, ...]]:
        """Return y, and the arguments of the backward function between dy and the parameters."""
        return self._pooled(x), (x.shape,)

    def _pooled(self, x: Array, **others: Any) -> Any:
        return self.functions[0](x, **self._parameters(), **others, out=self._outputs)

    def _parameters(self) -> dict[str, Any]:
        return {parameter.name: getattr(self, parameter.name) for parameter in fields(self)}


@dataclass(eq=False)
class MaxPool(Layer):
    """`max_poolNd` as a layer.

    It keeps the argmax for backward.

    Parameters
    ----------
    kernel_size : int or one int an axis
        The size of the window.
    stride : int or one int an axis, optional
        Elements from one window to the next; by default `kernel_size`.
    padding : int, one int or one (int, int) an axis, or str
        Padding, which is never the largest, as `max_poolNd` takes it.
    dilation : int or one int an axis
        Elements from one place of the window to the next.
    ceil_mode : bool
        Also take windows that hang over the end, if they start before the padding there.
    data_format : {"channels_first", "channels_last"}
        Whether the spatial axes of x are its last ones, or are followed by the channels.
    """

    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Padding = 0
    dilation: Sizes = 1
    ceil_mode: bool = False
    data_format: str = field(default="channels_first", kw_only=True)

    def __post_init__(self) -> None:
        _check_window(self)

    def _forward(self, x: Array) -> tuple[Array, tuple[Any, ...]]:
        y, argmax = self._pooled(x, return_argmax=True)
        return y, (argmax, x.shape)


@dataclass(eq=False)
class AvgPool(Layer):
    """`avg_poolNd` as a layer.

    It keeps the shape of x for backward.

    Parameters
    ----------
    kernel_size : int or one int an axis
        The size of the window.
    stride : int or one int an axis, optional
        Elements from one window to the next; by default `kernel_size`.
    padding : int, one int or one (int, int) an axis, or str
        Zeros around x, as `avg_poolNd` takes it.
    dilation : int or one int an axis
        Elements from one place of the window to the next.
    ceil_mode : bool
        Also take windows that hang over the end, if they start before the padding there.
    count_include_pad : bool
        Whether a sum is divided by how many places its window has on x and its padding, or on x alone.
    divisor_override : int, optional
        What to divide every sum by instead, at least 1.
    data_format : {"channels_first", "channels_last"}
        Whether the spatial axes of x are its last ones, or are followed by the channels.
    """

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
    """`lp_poolNd` as a layer.

    It keeps x and y for backward, and no copies: that is wrong where one is written to after forward.

    Parameters
    ----------
    norm_type : float
        The power, above 0 and finite: 1 sums magnitudes, 2 is the Euclidean norm.
    kernel_size : int or one int an axis
        The size of the window.
    stride : int or one int an axis, optional
        Elements from one window to the next; by default `kernel_size`.
    padding : int, one int or one (int, int) an axis, or str
        Zeros around x, as `lp_poolNd` takes it.
    dilation : int or one int an axis
        Elements from one place of the window to the next.
    ceil_mode : bool
        Also take windows that hang over the end, if they start before the padding there.
    data_format : {"channels_first", "channels_last"}
        Whether the spatial axes of x are its last ones, or are followed by the channels.
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
        y = self._pooled(x)
        return y, (x, y)


@dataclass(eq=False)
class AdaptiveAvgPool(Layer):
    """`adaptive_avg_poolNd` as a layer.

    It keeps the shape of x for backward.

    Parameters
    ----------
    output_size : int or None, or one of these an axis
        How many windows there are along an axis; None keeps the axis.
    data_format : {"channels_first", "channels_last"}
        Whether the spatial axes of x are its last ones, or are followed by the channels.
    """

    output_size: OutputSize
    data_format: str = field(default="channels_first", kw_only=True)

    def __post_init__(self) -> None:
        adaptive_window((1,) * self.ndim, self.output_size)
        channels_last(self.data_format)

    def _forward(self, x: Array) -> tuple[Array, tuple[Any, ...]]:
        return self._pooled(x, output_size=self.output_size), (x.shape,)

    def _parameters(self) -> dict[str, Any]:
        return {"data_format": self.data_format}  # the output size is that of dy


@dataclass(eq=False)
class AdaptiveMaxPool(AdaptiveAvgPool):
    """`adaptive_max_poolNd` as a layer.

    It keeps the argmax for backward.

    Parameters
    ----------
    output_size : int or None, or one of these an axis
        How many windows there are along an axis; None keeps the axis.
    data_format : {"channels_first", "channels_last"}
        Whether the spatial axes of x are its last ones, or are followed by the channels.
    """

    def _forward(self, x: Array) -> tuple[Array, tuple[Any, ...]]:
        y, argmax = self._pooled(x, output_size=self.output_size, return_argmax=True)
        return y, (argmax, x.shape)


def _check_window(layer: MaxPool | AvgPool | LPPool) -> None:
    """Raise what no input could make right."""
    spatial = (LIMIT,) * layer.ndim  # on which every window fits
    window(spatial, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode)
    channels_last(layer.data_format)
