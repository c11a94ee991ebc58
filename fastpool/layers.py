"""The layers: what a forward pass keeps for the backward pass."""

from __future__ import annotations

import sys
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastpool import arguments
from fastpool.functional import max_pool2d, scattered
from fastpool.window import Sizes, plain, sizes, window

Array = np.ndarray[Any, Any]


#: A new result of so many bytes costs page faults, at every step of a training loop.
LARGE = 1 << 22


def _references(layer: object, name: str) -> int:
    """Return how many references there are to the layer's attribute, one of them for the question."""
    return sys.getrefcount(getattr(layer, name, None))


_layer = SimpleNamespace(value=np.empty(0))
#: The references to what nobody else has, which depends on the version of Python.
_ALONE = _references(_layer, "value")


def _result(layer: object, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array | None:
    """Return the last result, `name` of the layer, to be written to again, if it is large and nobody else has it.

    A view of an array has it, too, as does whatever else shares its memory.
    """
    if prod(shape) * dtype.itemsize < LARGE or _references(layer, name) > _ALONE:
        return None
    last: Array = getattr(layer, name)
    return last if last.shape == shape and last.dtype == dtype and last.base is None else None


class Pooling:
    """Max pooling with windows side by side: the notebook's layer.

    Windows at a ragged edge take the largest of the elements that exist. Large results are written to the memory
    of the last ones, where nobody has these any more.

    Parameters
    ----------
    pool : int or (int, int)
        Height and width of the windows, and the distance between them.

    Attributes
    ----------
    y : ndarray, shape (N, C, OH, OW)
        The result of `forward`.
    max_index : ndarray of int64, shape (N * OH * OW * C,)
        Where in its window each maximum is, in the notebook's order: channels last.
    dx : ndarray, shape (N, C, H, W)
        The result of `backward`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.Pooling(2)
    >>> layer.forward(np.array([[[[1.0, 2.0, 5.0], [4.0, 3.0, 0.0]]]]))
    array([[[[4., 5.]]]])
    >>> layer.max_index
    array([2, 0])
    >>> layer.backward(np.array([[[[0.5, 0.25]]]]))
    array([[[[0.  , 0.  , 0.25],
             [0.5 , 0.  , 0.  ]]]])
    """

    y: Array
    dx: Array
    _argmax: Array

    def __init__(self, pool: Sizes) -> None:
        sizes(plain(pool, "pool"), 2, "pool", 1)
        self.pool = pool

    def __repr__(self) -> str:
        return f"Pooling({self.pool!r})"

    def __call__(self, x: ArrayLike) -> Array:
        """Return `forward(x)`."""
        return self.forward(x)

    def forward(self, x: ArrayLike) -> Array:
        """Pool a batch of images.

        Parameters
        ----------
        x : array_like, shape (N, C, H, W)
            Images of bool, integers, float32 or float64.

        Returns
        -------
        ndarray, shape (N, C, ceil(H / pool), ceil(W / pool))
            float32 and float64 are kept, everything else gives float64.
        """
        x = arguments.spatial_array(x, "x", 2, exact=4)
        if x.dtype.itemsize == 8:
            x = arguments.as_float(x)  # the notebook compares after it: int64 beyond 2**53 may tie
        w = window(x.shape[-2:], self.pool, None, 0, 1, True)
        out = _result(self, "y", x.shape[:2] + w.output, x.dtype)
        y, argmax = max_pool2d(x, self.pool, ceil_mode=True, return_argmax=True, out=out)
        self.y, self._argmax, self._input_shape, self._window = arguments.as_float(y), argmax, x.shape, w
        return self.y

    @property
    def max_index(self) -> Array:
        """Where in its window each maximum is, in the notebook's order: channels last."""
        return self._argmax.transpose(0, 2, 3, 1).reshape(-1).astype(np.int64)

    def backward(self, dy: ArrayLike) -> Array:
        """Return the gradient of the images, given the gradient of the result.

        Parameters
        ----------
        dy : array_like, shape (N, C, OH, OW)
            The gradient of y.

        Returns
        -------
        ndarray, shape (N, C, H, W)
            float32 and float64 are kept, everything else gives float64.

        Raises
        ------
        RuntimeError
            There was no forward.
        """
        if not hasattr(self, "_argmax"):
            raise RuntimeError("Pooling.backward needs a forward first")
        dy = arguments.as_float(arguments.array(dy, "dy"))
        arguments.same_shape(dy, "dy", self._argmax.shape, "that of y")
        dx = _result(self, "dx", self._input_shape, dy.dtype)
        if dx is None:
            dx = np.empty(self._input_shape, dy.dtype)
        self.dx = scattered(dy, self._argmax, self._window, dx)
        return self.dx
