"""The layer of a training step: it keeps what backward needs, and writes to its last results where it may."""

from functools import cache

import numpy as np

import fastpool
from fastpool import reference
from fastpool.bench import CASES

MODULES = {"fastpool": fastpool, "reference": reference}


@cache
def layer(implementation, shape):
    """Return a layer that has gone forward and backward once, its input and the gradient of its output."""
    case = CASES[shape]
    pooling = MODULES[implementation].Pooling(case.kernel_size)
    x = np.random.default_rng(0).standard_normal(case.shape, np.float32)
    dy = np.ones_like(pooling.forward(x))
    pooling.backward(dy)
    return pooling, x, dy


class Pooling:
    param_names = ("implementation", "shape")
    #: Windows side by side, as the layer has them.
    params = ([*MODULES], ["vgg-pool3", "vgg-pool5", "lenet", "notebook"])
    timeout = 120
    repeat = (5, 1000, 0.5)

    def setup(self, *case):
        self.layer, self.x, self.dy = layer(*case)

    def time_forward(self, *_):
        self.layer.forward(self.x)

    def time_backward(self, *_):
        self.layer.backward(self.dy)

    time_forward.pretty_name = "Pooling.forward"
    time_backward.pretty_name = "Pooling.backward"
