"""The layers: what a forward pass keeps for the backward pass."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fastpool import arguments, layer
from fastpool.functional import (
    adaptive_avg_pool1d,
    adaptive_avg_pool1d_backward,
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_avg_pool3d,
    adaptive_avg_pool3d_backward,
    adaptive_max_pool1d,
    adaptive_max_pool1d_backward,
    adaptive_max_pool2d,
    adaptive_max_pool2d_backward,
    adaptive_max_pool3d,
    adaptive_max_pool3d_backward,
    avg_pool1d,
    avg_pool1d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool3d,
    avg_pool3d_backward,
    lp_pool1d,
    lp_pool1d_backward,
    lp_pool2d,
    lp_pool2d_backward,
    lp_pool3d,
    lp_pool3d_backward,
    max_pool1d,
    max_pool1d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_pool3d,
    max_pool3d_backward,
    scattered,
)
from fastpool.reuse import Reusing
from fastpool.window import Sizes, plain, sizes, window

Array = np.ndarray[Any, Any]


Kind = TypeVar("Kind", bound=type[layer.Layer])


def documented(kind: Kind) -> Kind:
    """Put what the docstring of a class's base says after its first line there in the docstring of the class, too."""
    title, examples = inspect.cleandoc(kind.__doc__ or "").split("\n\n", 1)
    _, general = inspect.cleandoc(kind.__base__.__doc__ or "").split("\n\n", 1)
    kind.__doc__ = f"{title}\n\n{general.replace('Nd', f'{kind.ndim}d')}\n\n{examples}\n"
    return kind


class Pooling(Reusing):
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
        vars(self).pop("y", None)  # whose memory may be the next one's; all that can fail is past
        y, argmax = max_pool2d(x, self.pool, ceil_mode=True, return_argmax=True, out=self._outputs)  # type: ignore[arg-type]
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
        vars(self).pop("dx", None)
        self.dx = scattered(dy, self._argmax, self._window, self._input_shape, self._gradients)
        return self.dx


@documented
class MaxPool1d(layer.MaxPool):
    """Max pooling over one axis, as `max_pool1d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.MaxPool1d(2)
    >>> layer.forward(np.array([1.0, 2.0, 5.0, 4.0]))
    array([2., 5.])
    >>> layer.backward(np.array([0.5, 0.25]))
    array([0.  , 0.5 , 0.25, 0.  ])
    """

    ndim, functions = 1, (max_pool1d, max_pool1d_backward)


@documented
class MaxPool2d(layer.MaxPool):
    """Max pooling over two axes, as `max_pool2d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.MaxPool2d(2)
    >>> layer.forward(np.array([[1.0, 2.0], [4.0, 3.0]]))
    array([[4.]])
    >>> layer.backward(np.array([[0.5]]))
    array([[0. , 0. ],
           [0.5, 0. ]])
    """

    ndim, functions = 2, (max_pool2d, max_pool2d_backward)


@documented
class MaxPool3d(layer.MaxPool):
    """Max pooling over three axes, as `max_pool3d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.MaxPool3d(2)
    >>> layer.forward(np.arange(8.0).reshape(2, 2, 2))
    array([[[7.]]])
    >>> layer.backward(np.array([[[0.5]]]))
    array([[[0. , 0. ],
            [0. , 0. ]],
    <BLANKLINE>
           [[0. , 0. ],
            [0. , 0.5]]])
    """

    ndim, functions = 3, (max_pool3d, max_pool3d_backward)


@documented
class AvgPool1d(layer.AvgPool):
    """Average pooling over one axis, as `avg_pool1d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.AvgPool1d(2)
    >>> layer.forward(np.array([1.0, 2.0, 6.0, 4.0]))
    array([1.5, 5. ])
    >>> layer.backward(np.array([0.5, 0.25]))
    array([0.25 , 0.25 , 0.125, 0.125])
    """

    ndim, functions = 1, (avg_pool1d, avg_pool1d_backward)


@documented
class AvgPool2d(layer.AvgPool):
    """Average pooling over two axes, as `avg_pool2d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.AvgPool2d(2)
    >>> layer.forward(np.array([[1.0, 2.0], [6.0, 3.0]]))
    array([[3.]])
    >>> layer.backward(np.array([[2.0]]))
    array([[0.5, 0.5],
           [0.5, 0.5]])
    """

    ndim, functions = 2, (avg_pool2d, avg_pool2d_backward)


@documented
class AvgPool3d(layer.AvgPool):
    """Average pooling over three axes, as `avg_pool3d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.AvgPool3d(2)
    >>> layer.forward(np.arange(8.0).reshape(2, 2, 2))
    array([[[3.5]]])
    >>> layer.backward(np.array([[[4.0]]]))
    array([[[0.5, 0.5],
            [0.5, 0.5]],
    <BLANKLINE>
           [[0.5, 0.5],
            [0.5, 0.5]]])
    """

    ndim, functions = 3, (avg_pool3d, avg_pool3d_backward)


@documented
class LPPool1d(layer.LPPool):
    """Pooling over one axis to the norm of each window, as `lp_pool1d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.LPPool1d(2, 2)
    >>> layer.forward(np.array([3.0, 4.0, 0.0, -5.0]))
    array([5., 5.])
    >>> layer.backward(np.array([1.0, 2.0]))
    array([ 0.6,  0.8,  0. , -2. ])
    """

    ndim, functions = 1, (lp_pool1d, lp_pool1d_backward)


@documented
class LPPool2d(layer.LPPool):
    """Pooling over two axes to the norm of each window, as `lp_pool2d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.LPPool2d(2, 2)
    >>> layer.forward(np.array([[3.0, 0.0], [0.0, -4.0]]))
    array([[5.]])
    >>> layer.backward(np.array([[1.0]]))
    array([[ 0.6,  0. ],
           [ 0. , -0.8]])
    """

    ndim, functions = 2, (lp_pool2d, lp_pool2d_backward)


@documented
class LPPool3d(layer.LPPool):
    """Pooling over three axes to the norm of each window, as `lp_pool3d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.LPPool3d(2, 2)
    >>> layer.forward(np.array([[[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, -4.0]]]))
    array([[[5.]]])
    >>> layer.backward(np.array([[[1.0]]]))
    array([[[ 0.6,  0. ],
            [ 0. ,  0. ]],
    <BLANKLINE>
           [[ 0. ,  0. ],
            [ 0. , -0.8]]])
    """

    ndim, functions = 3, (lp_pool3d, lp_pool3d_backward)


@documented
class AdaptiveMaxPool1d(layer.AdaptiveMaxPool):
    """Max pooling of one axis to a given size, as `adaptive_max_pool1d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.AdaptiveMaxPool1d(2)
    >>> layer.forward(np.array([1.0, 5.0, 4.0]))
    array([5., 5.])
    >>> layer.backward(np.array([0.5, 0.25]))
    array([0.  , 0.75, 0.  ])
    """

    ndim, functions = 1, (adaptive_max_pool1d, adaptive_max_pool1d_backward)


@documented
class AdaptiveMaxPool2d(layer.AdaptiveMaxPool):
    """Max pooling of two axes to a given size, as `adaptive_max_pool2d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.AdaptiveMaxPool2d((1, 2))
    >>> layer.forward(np.array([[1.0, 2.0, 5.0], [4.0, 3.0, 0.0]]))
    array([[4., 5.]])
    >>> layer.backward(np.array([[0.5, 0.25]]))
    array([[0.  , 0.  , 0.25],
           [0.5 , 0.  , 0.  ]])
    """

    ndim, functions = 2, (adaptive_max_pool2d, adaptive_max_pool2d_backward)


@documented
class AdaptiveMaxPool3d(layer.AdaptiveMaxPool):
    """Max pooling of three axes to a given size, as `adaptive_max_pool3d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.AdaptiveMaxPool3d((1, 1, 2))
    >>> layer.forward(np.arange(12.0).reshape(2, 2, 3))
    array([[[10., 11.]]])
    >>> layer.backward(np.array([[[0.5, 0.25]]]))
    array([[[0.  , 0.  , 0.  ],
            [0.  , 0.  , 0.  ]],
    <BLANKLINE>
           [[0.  , 0.  , 0.  ],
            [0.  , 0.5 , 0.25]]])
    """

    ndim, functions = 3, (adaptive_max_pool3d, adaptive_max_pool3d_backward)


@documented
class AdaptiveAvgPool1d(layer.AdaptiveAvgPool):
    """Average pooling of one axis to a given size, as `adaptive_avg_pool1d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.AdaptiveAvgPool1d(2)
    >>> layer.forward(np.array([1.0, 5.0, 4.0]))
    array([3. , 4.5])
    >>> layer.backward(np.array([0.5, 0.25]))
    array([0.25 , 0.375, 0.125])
    """

    ndim, functions = 1, (adaptive_avg_pool1d, adaptive_avg_pool1d_backward)


@documented
class AdaptiveAvgPool2d(layer.AdaptiveAvgPool):
    """Average pooling of two axes to a given size, as `adaptive_avg_pool2d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.AdaptiveAvgPool2d((1, 2))
    >>> layer.forward(np.array([[1.0, 2.0, 5.0], [4.0, 3.0, 0.0]]))
    array([[2.5, 2.5]])
    >>> layer.backward(np.array([[4.0, 8.0]]))
    array([[1., 3., 2.],
           [1., 3., 2.]])
    """

    ndim, functions = 2, (adaptive_avg_pool2d, adaptive_avg_pool2d_backward)


@documented
class AdaptiveAvgPool3d(layer.AdaptiveAvgPool):
    """Average pooling of three axes to a given size, as `adaptive_avg_pool3d` does it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastpool
    >>> layer = fastpool.AdaptiveAvgPool3d((1, 1, 2))
    >>> layer.forward(np.arange(12.0).reshape(2, 2, 3))
    array([[[5., 6.]]])
    >>> layer.backward(np.array([[[8.0, 16.0]]]))
    array([[[1., 3., 2.],
            [1., 3., 2.]],
    <BLANKLINE>
           [[1., 3., 2.],
            [1., 3., 2.]]])
    """

    ndim, functions = 3, (adaptive_avg_pool3d, adaptive_avg_pool3d_backward)
