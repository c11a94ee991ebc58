"""Peak memory of a process that calls a function once: Python, Numba, the arrays and what the call takes.

The setup of the function's benchmark of time makes the arrays and calls it, which is all there is to measure.
"""

from . import avg_pool, columns, layers, max_pool
from .common import Benchmark, cases


class Memory(Benchmark):
    #: Small arrays would vanish beside Python and Numba, which take 150 MB.
    params = cases("vgg-pool3", "resnet-stem")

    def setup_cache(self):
        """Compile in a process of its own, into fastpool's cache on disk: it takes memory that calls do not."""
        for measure in (getattr(self, name) for name in dir(self) if name.startswith("peakmem_")):
            for shape in self.params[0]:
                measure(shape, "fastpool")

    setup_cache.timeout = 600

    def peakmem_im2col(self, *case):
        columns.Im2col().setup(*case)

    def peakmem_col2im(self, *case):
        columns.Col2im().setup(*case)

    def peakmem_unfold(self, *case):
        columns.Unfold().setup(*case)

    def peakmem_fold(self, *case):
        columns.Fold().setup(*case)

    def peakmem_avg_pool2d(self, *case):
        avg_pool.Forward().setup(*case, "channels_first")

    def peakmem_avg_pool2d_backward(self, *case):
        avg_pool.Backward().setup(*case, "channels_first")

    def peakmem_max_pool2d(self, *case):
        max_pool.Values().setup(*case, "channels_first")

    def peakmem_max_pool2d_argmax(self, *case):
        max_pool.Argmax().setup(*case, "channels_first")

    def peakmem_max_pool2d_backward(self, *case):
        max_pool.Backward().setup(*case, "channels_first")

    def peakmem_pooling_forward(self, *case):
        layers.PoolingForward().setup(*case)

    def peakmem_pooling_backward(self, *case):
        layers.PoolingBackward().setup(*case)
