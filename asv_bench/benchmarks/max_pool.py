"""max_pool2d, with and without argmax, and its backward, in both data formats."""

from functools import partial

import fastpool

from .common import FORMATS, LAYERS, Benchmark, case, cases, laid_out, numbers, room


class MaxPool(Benchmark):
    param_names = (*Benchmark.param_names, "data_format")
    params = (*cases(*LAYERS), FORMATS)


class Values(MaxPool):
    def setup(self, shape, implementation, data_format):
        library, layer = case(shape, implementation)
        x, y = numbers(laid_out(layer.input, data_format)), room(laid_out(layer.output, data_format))
        self.call = partial(library.max_pool2d, x, **layer.window, data_format=data_format, out=y)
        self.call()  # compiles

    def time_max_pool2d(self, *_):
        self.call()

    time_max_pool2d.pretty_name = "max_pool2d"


class Argmax(MaxPool):
    def setup(self, shape, implementation, data_format):
        library, layer = case(shape, implementation)
        x, y = numbers(laid_out(layer.input, data_format)), room(laid_out(layer.output, data_format))
        self.call = partial(library.max_pool2d, x, **layer.window, return_argmax=True, data_format=data_format, out=y)
        self.call()  # compiles

    def time_max_pool2d_argmax(self, *_):
        self.call()

    time_max_pool2d_argmax.pretty_name = "max_pool2d, return_argmax=True"


class Backward(MaxPool):
    def setup(self, shape, implementation, data_format):
        library, layer = case(shape, implementation)
        x = numbers(laid_out(layer.input, data_format))
        window = {**layer.window, "data_format": data_format}
        # The reference would find the same argmax, later and with more memory.
        y, argmax = fastpool.max_pool2d(x, **window, return_argmax=True)
        self.call = partial(library.max_pool2d_backward, numbers(y.shape), argmax, x.shape, **window, out=room(x.shape))
        self.call()  # compiles

    def time_max_pool2d_backward(self, *_):
        self.call()

    time_max_pool2d_backward.pretty_name = "max_pool2d_backward"
