"""avg_pool2d and its backward, in both data formats."""

from functools import partial

from .common import FORMATS, LAYERS, Benchmark, case, cases, laid_out, numbers, room


class AvgPool(Benchmark):
    param_names = (*Benchmark.param_names, "data_format")
    params = (*cases(*LAYERS), FORMATS)


class Forward(AvgPool):
    def setup(self, shape, implementation, data_format):
        library, layer = case(shape, implementation)
        x, y = numbers(laid_out(layer.input, data_format)), room(laid_out(layer.output, data_format))
        self.call = partial(library.avg_pool2d, x, **layer.window, data_format=data_format, out=y)
        self.call()  # compiles

    def time_avg_pool2d(self, *_):
        self.call()

    time_avg_pool2d.pretty_name = "avg_pool2d"


class Backward(AvgPool):
    def setup(self, shape, implementation, data_format):
        library, layer = case(shape, implementation)
        dy, dx = numbers(laid_out(layer.output, data_format)), room(laid_out(layer.input, data_format))
        self.call = partial(library.avg_pool2d_backward, dy, dx.shape, **layer.window, data_format=data_format, out=dx)
        self.call()  # compiles

    def time_avg_pool2d_backward(self, *_):
        self.call()

    time_avg_pool2d_backward.pretty_name = "avg_pool2d_backward"
