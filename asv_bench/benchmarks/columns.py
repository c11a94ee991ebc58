"""im2col and unfold, col2im and fold."""

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


class Unfold(Benchmark):
    params = SHAPES

    def setup(self, shape, implementation):
        library, layer = case(shape, implementation)
        self.call = partial(library.unfold, numbers(layer.input), **layer.window, out=room(layer.unfolded))
        self.call()  # compiles

    def time_unfold(self, *_):
        self.call()

    time_unfold.pretty_name = "unfold"


class Fold(Benchmark):
    params = SHAPES

    def setup(self, shape, implementation):
        library, layer = case(shape, implementation)
        cols, out = numbers(layer.unfolded), room(layer.input)
        self.call = partial(library.fold, cols, layer.input[2:], **layer.window, out=out)
        self.call()  # compiles

    def time_fold(self, *_):
        self.call()

    time_fold.pretty_name = "fold"
