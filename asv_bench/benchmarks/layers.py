"""The layers, which write to new arrays: their page faults are part of a training step."""

from functools import partial

from .common import Benchmark, case, cases, numbers

#: Windows side by side, as Pooling has them.
SHAPES = cases("vgg-pool3", "vgg-pool5", "lenet", "notebook")


class PoolingForward(Benchmark):
    params = SHAPES

    def setup(self, shape, implementation):
        library, layer = case(shape, implementation)
        self.call = partial(library.Pooling(layer.kernel_size).forward, numbers(layer.input))
        self.call()  # compiles

    def time_pooling_forward(self, *_):
        self.call()

    time_pooling_forward.pretty_name = "Pooling.forward"


class PoolingBackward(Benchmark):
    params = SHAPES

    def setup(self, shape, implementation):
        library, layer = case(shape, implementation)
        pooling = library.Pooling(layer.kernel_size)
        self.call = partial(pooling.backward, numbers(pooling.forward(numbers(layer.input)).shape))
        self.call()  # compiles

    def time_pooling_backward(self, *_):
        self.call()

    time_pooling_backward.pretty_name = "Pooling.backward"
