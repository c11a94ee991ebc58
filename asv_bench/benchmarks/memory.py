"""Peak memory of a process that calls a function: Python, the libraries, the arrays and what the call takes."""

from .common import having, ready

OPERATIONS = ["infer", "forward", "backward", "unfold"]


class Memory:
    param_names = ("implementation", "operation")
    params = (having("infer"), OPERATIONS)
    timeout = 120

    def setup_cache(self):
        """Compile in a process of its own, into fastpool's cache on disk: it takes memory that calls do not."""
        for operation in OPERATIONS:
            ready(operation, "fastpool", "vgg-pool3")

    setup_cache.timeout = 600

    def setup(self, implementation, operation):
        if implementation not in having(operation):
            raise NotImplementedError(f"{implementation} has no {operation}")

    def peakmem_process(self, implementation, operation):
        ready(operation, implementation, "vgg-pool3")

    peakmem_process.pretty_name = "peak memory of a process"
