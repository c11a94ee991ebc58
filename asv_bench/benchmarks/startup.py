"""What a process pays before its first result: the import, and compiling kernels or loading them from disk."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from fastpool.peers import IMPLEMENTATIONS, PEERS

#: "backward" is a forward, and then its backward.
OPERATIONS = ["forward", "backward", "unfold"]

IMPORT = """
from time import perf_counter
start = perf_counter()
import {}
print(perf_counter() - start)
"""

FIRST_CALL = """
from time import perf_counter
import numpy as np
from fastpool import bench, peers
task, _ = bench.task({!r}, bench.CASES["lenet"], np.dtype("float32"))
start = perf_counter()
peers.compute("fastpool", task)
print(perf_counter() - start)
"""


def printed(script, **environment):
    """Run a script in a process of its own and return the number that it prints."""
    command = [sys.executable, "-c", script]
    return float(subprocess.run(command, env={**os.environ, **environment}, check=True, stdout=subprocess.PIPE).stdout)


class Import:
    param_names = ("implementation",)
    params = (["fastpool", *PEERS],)

    def setup(self, implementation):
        self.module, *_ = IMPLEMENTATIONS[implementation].modules or ("fastpool",)
        if find_spec(self.module) is None:
            raise NotImplementedError(f"{implementation} is not installed")

    def track_import(self, implementation):
        return median(printed(IMPORT.format(self.module)) for _ in range(3))

    track_import.unit = "seconds"
    track_import.pretty_name = "time of the import"


class Kernels:
    """With an empty cache, and again with what that left in it."""

    param_names = ("operation",)
    params = (OPERATIONS,)

    def setup_cache(self):
        measured = {}
        for operation in OPERATIONS:
            with TemporaryDirectory() as directory:
                script = FIRST_CALL.format(operation)
                cold, *warm = (printed(script, NUMBA_CACHE_DIR=directory) for _ in range(4))
                size = sum(path.stat().st_size for path in Path(directory).rglob("*.nbc"))
                measured[operation] = {"cold": cold, "warm": median(warm), "size": size}
        return measured

    setup_cache.timeout = 300

    def track_first_call_cold(self, measured, operation):
        return measured[operation]["cold"]

    def track_first_call_warm(self, measured, operation):
        return measured[operation]["warm"]

    def track_cache_size(self, measured, operation):
        return measured[operation]["size"]

    track_first_call_cold.unit = track_first_call_warm.unit = "seconds"
    track_cache_size.unit = "bytes"
    track_first_call_cold.pretty_name = "first call, kernels to be compiled"
    track_first_call_warm.pretty_name = "first call, kernels on disk"
    track_cache_size.pretty_name = "size of the kernels on disk"
