"""What benchmarks share: their axes, and the call that each of their combinations makes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numba
import numpy as np

from fastpool import bench, peers

# JAX reads it when it is imported, which is later; without it, it computes float64 in float32.
os.environ.setdefault("JAX_ENABLE_X64", "1")

#: Pooling layers of known networks, in `fastpool.bench.CASES`. Results are kept by name: another layer, another name.
SHAPES = ["resnet-stem", "vgg-pool3", "inception", "notebook"]

#: Along which axes an operation is timed: shapes, layouts, dtypes and threads. A page shows the first ones first.
GROUPS: dict[str, list[list[Any]]] = {
    "shape": [SHAPES, ["NCHW"], ["float32"], [1]],
    "layout_and_dtype": [["vgg-pool3"], ["NCHW", "NHWC"], ["float32", "float64"], [1]],
    "threads": [["resnet-stem"], ["NCHW"], ["float32"], [1, 2]],
}


def having(operation: str) -> list[str]:
    """Return the implementations that have an operation; on a page its series come in this order."""
    return [name for name, implementation in peers.IMPLEMENTATIONS.items() if operation in implementation.operations]


@cache
def ready(
    operation: str, implementation: str, shape: str, layout: str = "NCHW", dtype: str = "float32", threads: int = 1
) -> tuple[Callable[[], object], int]:
    """Return a call that has been made once, which compiled it, and how many bytes it must at least read and write.

    asv sets up before every sample, which the cache makes cheap, and takes NotImplementedError for "not here".
    """
    if threads > numba.config.NUMBA_NUM_THREADS:
        raise NotImplementedError(f"there are no {threads} threads")
    peers.set_threads(threads)
    task, nbytes = bench.task(f"{operation}{'-nhwc' * (layout == 'NHWC')}", bench.CASES[shape], np.dtype(dtype))
    try:
        call = peers.prepare(implementation, task).call
    except (peers.Unsupported, ImportError) as error:
        raise NotImplementedError(str(error)) from error
    call()
    return call, nbytes


class Timed:
    """Time of an operation: a subclass names it, and some of `GROUPS`."""

    param_names = ("implementation", "shape", "layout", "dtype", "threads")
    timeout = 120
    #: A sample is one call: many of the short ones, 5 or more of the long ones.
    repeat = (5, 1000, 0.5)

    def __init_subclass__(cls, operation: str, name: str, groups: Iterable[str] = GROUPS) -> None:
        cls.operation = operation
        for group in groups:

            def time(self: Timed, *_: Any) -> None:
                self.call()

            time.params = [having(operation), *GROUPS[group]]
            time.pretty_name = f"{name}, by {group.replace('_', ' ')}"
            setattr(cls, f"time_by_{group}", time)

    def setup(self, *case: Any) -> None:
        self.call, _ = ready(self.operation, *case)
