"""im2col and col2im."""

from functools import partial

from .common import Benchmark, case, cases, numbers, room

SHAPES = cases("vgg-pool3", "resnet-stem", "inception", "lenet", "notebook")


class Im2col(Benchmark):
    params = SHAPES

    def setup(self, shape, implementation):
        library, layer = case(shape, implementation)
        self.call = partial(library.im2col, numbers(layer.input), **layer.window, out=room(layer.columns))
        self.call()  # compiles

    def time_im2col(self, *_):
        self.call()

    time_im2col.pretty_name = "im2col"


class Col2im(Benchmark):
    params = SHAPES

    def setup(self, shape, implementation):
        library, layer = case(shape, implementation)
        cols, out = numbers(layer.columns), room(layer.input)
        self.call = partial(library.col2im, cols, layer.input, **layer.window, out=out)
        self.call()  # compiles

    def time_col2im(self, *_):
        self.call()

    time_col2im.pretty_name = "col2im"
