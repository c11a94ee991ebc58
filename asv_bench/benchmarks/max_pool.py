"""max_pool2d, with and without argmax, and its backward."""

from functools import partial

import fastpool

from .common import LAYERS, Benchmark, case, cases, numbers, room


class Values(Benchmark):
    params = cases(*LAYERS)

    def setup(self, shape, implementation):
        library, layer = case(shape, implementation)
        self.call = partial(library.max_pool2d, numbers(layer.input), **layer.window, out=room(layer.output))
        self.call()  # compiles

    def time_max_pool2d(self, *_):
        self.call()

    time_max_pool2d.pretty_name = "max_pool2d"


class Argmax(Benchmark):
    params = cases(*LAYERS)

    def setup(self, shape, implementation):
        library, layer = case(shape, implementation)
        x, y = numbers(layer.input), room(layer.output)
        self.call = partial(library.max_pool2d, x, **layer.window, return_argmax=True, out=y)
        self.call()  # compiles

    def time_max_pool2d_argmax(self, *_):
        self.call()

    time_max_pool2d_argmax.pretty_name = "max_pool2d, return_argmax=True"


class Backward(Benchmark):
    params = cases(*LAYERS)

    def setup(self, shape, implementation):
        library, layer = case(shape, implementation)
        # The reference would find the same argmax, later and with more memory.
        _, argmax = fastpool.max_pool2d(numbers(layer.input), **layer.window, return_argmax=True)
        dy, dx = numbers(layer.output), room(layer.input)
        self.call = partial(library.max_pool2d_backward, dy, argmax, layer.input, **layer.window, out=dx)
        self.call()  # compiles

    def time_max_pool2d_backward(self, *_):
        self.call()

    time_max_pool2d_backward.pretty_name = "max_pool2d_backward"
