"""Run a kernel: serial or parallel, from any thread, in any process.

A kernel is a function ``body(start, stop, geometry, *inputs, *outputs)`` over a range of rows; its arrays have four
axes, and come to compiled code as objects (see `fastpool.kernels.data`). It is compiled when first needed, and runs
without the interpreter's lock. A parallel loop that gives every thread one range is compiled once for all kernels: it
calls the same code, by its address, for the same rows, so the bits are the same.

Numba's parallel loops cannot be launched everywhere: OpenMP ends a process that was forked after a
launch, and the workqueue layer aborts on two launches at once, be they ours or a user's. And GNU OpenMP's
threads go on spinning after each launch, unless OMP_WAIT_POLICY is set: the core that they hold is
missing where NumPy multiplies matrices between two calls, which made the demo five times as slow. So a
loop is launched where TBB runs it, or where OMP_WAIT_POLICY says what its threads shall do; elsewhere threads of
our own run the kernel (see `fastpool.kernels.workers`), which costs no more.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from functools import cache, cached_property, lru_cache, partial
from itertools import accumulate, chain
from math import prod
from operator import mul
from typing import Any, NamedTuple, TypeAlias

import numba
import numpy as np
from numba import prange, types
from numba.core.compiler_lock import global_compiler_lock

from fastpool.kernels import simd
from fastpool.kernels.compiled import Compiled, compile_for, compiled, inline
from fastpool.kernels.data import NUMBERS_OF_CALL, OBJECT, Tuple, call, views
from fastpool.kernels.parts import KernelCompiler
from fastpool.kernels.workers import Workers

Array = np.ndarray[Any, Any]
Arrays: TypeAlias = "tuple[Array | None, ...]"
Entry: TypeAlias = "Callable[[Array, Array, Arrays, Arrays], bool]"
Bound: TypeAlias = "tuple[Entry, Array, Array]"


class Given(NamedTuple):
    """A contiguous array as a kernel takes it, whatever its axes are: reshaped, and its new axes transposed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: tuple[int, ...] = (0, 1, 2, 3)

    @property
    def nbytes(self) -> int:
        """The bytes of all elements."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def layout(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and strides, transposed."""
        strides = tuple(accumulate((self.dtype.itemsize, *self.shape[:0:-1]), mul))[::-1]
        return tuple(self.shape[i] for i in self.order), tuple(strides[i] for i in self.order)


#: To read and write fewer bytes takes less than 50 microseconds, in which other threads cost more than they do.
PARALLEL_BYTES = 1 << 20


class Kernel:
    """A compiled function over a range of rows; see the module's documentation.

    Parameters
    ----------
    writes : int
        How many of the arrays, the last ones, the function writes to.
    """

    def __init__(self, body: Callable[..., None], writes: int) -> None:
        self.__name__ = body.__name__
        self.__doc__ = body.__doc__
        self._writes = writes
        self._body = body
        self._entries: dict[tuple[np.dtype[Any] | None, ...], Compiled] = {}

    @cached_property
    def _serial(self) -> Any:
        """Return Numba's dispatcher, which is made when it is first needed, as those of parts are."""
        part = inline(self._body)

        def rows(numbers, geometry, reads, writes):
            given = views(numbers, geometry, reads, writes)
            if given[0]:
                part(*given[1:])
            return given[0]

        return compiled(self.__name__, pipeline_class=KernelCompiler)(rows)

    def __call__(self, rows: int, nbytes: int, geometry: Array, *arrays: Array | None) -> None:
        """Run the rows from 0 to `rows`, on as many threads as `numba.get_num_threads()` where `nbytes` pay for that.

        The arrays have four axes, and contiguous rows.
        """
        layouts = [None if a is None else (a.shape, a.strides) for a in arrays]
        dtypes = tuple([None if a is None else a.dtype for a in arrays])
        numbers = _numbers(rows, False, *layouts)
        self._run(dtypes, rows, nbytes, numbers, geometry, arrays[: -self._writes], arrays[-self._writes :])

    def bound(self, rows: int, nbytes: int, geometry: Array, *given: Given | None) -> Bound:
        """Return the same call of contiguous arrays, which it takes as those that are given: with what to call what.

        The rest is two tuples, of the arrays that are read and of those that are written to. It returns whether it
        ran: not if it has no rows, or if the arrays are not as `views` wants them.
        """
        numbers = _numbers(rows, True, *[None if a is None else a.layout for a in given])
        dtypes = tuple([None if a is None else a.dtype for a in given])
        alone = rows > 0 and nbytes < PARALLEL_BYTES
        entry = self._compiled(dtypes).entry if alone else partial(self._run, dtypes, rows, nbytes)
        return entry, numbers, geometry

    def _run(
        self,
        dtypes: tuple[np.dtype[Any] | None, ...],
        rows: int,
        nbytes: int,
        numbers: Array,
        geometry: Array,
        reads: Arrays,
        writes: Arrays,
    ) -> bool:
        if rows == 0:
            return False
        threads, launch = 1, False
        if nbytes >= PARALLEL_BYTES:
            threads = min(rows, _threading.threads)
            launch = threads > 1 and _threading.launches
        made = self._compiled(dtypes)
        arguments = numbers, geometry, reads, writes
        if threads > 1:
            addresses = made.address, *map(id, arguments)
            if launch:
                job = np.array(addresses, np.int64)
                ranges, (done, failed) = threads, _launcher()(job.ctypes.data, threads, rows)
            else:
                ranges, done, failed = _threading.workers.run(threads, rows, addresses, arguments)
            if not failed:
                return bool(done == ranges)
        ran: bool = made.entry(*arguments)  # if ranges failed, it raises the error
        return ran

    def _compiled(self, dtypes: tuple[np.dtype[Any] | None, ...]) -> Compiled:
        """Return what is compiled for these dtypes, once: arrays are strided, and read-only if they are read."""
        try:
            return self._entries[dtypes]  # found without Numba's own dispatch, which takes longer
        except KeyError:
            pass
        if numba.config.DISABLE_JIT:
            raise RuntimeError("NUMBA_DISABLE_JIT is set: fastpool needs Numba's compiler, fastpool.reference does not")
        elements = tuple([types.none if d is None else simd.element(d) for d in dtypes])
        reads, writes = Tuple(elements[: -self._writes], True), Tuple(elements[-self._writes :], False)
        self._entries[dtypes] = compile_for(self._serial, NUMBERS_OF_CALL, OBJECT, reads, writes)
        return self._entries[dtypes]


@lru_cache(maxsize=4096)
def _numbers(rows: int, contiguous: bool, *layouts: tuple[tuple[int, ...], tuple[int, ...]] | None) -> Array:
    """Return the numbers of a call, as `views` reads them, of the rows from 0 to `rows`."""
    return np.array([0, rows, contiguous, *chain(*((0,) * 8 if a is None else a[0] + a[1] for a in layouts))], np.int64)


def kernel(writes: int = 1) -> Callable[[Callable[..., None]], Kernel]:
    """Make a `Kernel` of a function."""
    return lambda body: Kernel(body, writes)


@cache
def _launcher() -> Any:
    """Return a compiled function that does a job, a range of so many rows on each thread.

    It returns how many of these ran, and how many failed.
    """

    @compiled("ranges", parallel=True)
    def ranges(job, threads, rows):
        done = failed = 0
        for i in prange(threads):
            ran = call(job, rows * i // threads, rows * (i + 1) // threads)
            done += ran > 0
            failed += ran < 0
        return done, failed

    return compile_for(ranges, types.int64, types.int64, types.int64).entry


class _Threading:
    """How this process runs ranges side by side."""

    def __init__(self) -> None:
        self._forked = False
        self._lock = threading.Lock()
        self._waits = "OMP_WAIT_POLICY" in os.environ
        self.workers = Workers()

    def before_fork(self) -> None:
        # A fork while another thread compiles, or asks for the number of threads, would leave the child
        # a lock of Numba's taken for ever.
        global_compiler_lock.acquire()
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        self._lock.release()
        global_compiler_lock.release()

    def after_fork_in_child(self) -> None:
        self.after_fork_in_parent()
        self._forked, self.workers = True, Workers()

    @property
    def threads(self) -> int:
        with self._lock:
            return numba.get_num_threads()

    @property
    def launches(self) -> bool:
        """Whether Numba's own parallel loops are launched; see the module's documentation."""
        layer = numba.threading_layer()
        return not self._forked and (layer == "tbb" or (layer == "omp" and self._waits))


_threading = _Threading()
atexit.register(lambda: _threading.workers.stop())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_threading.before_fork,
        after_in_parent=_threading.after_fork_in_parent,
        after_in_child=_threading.after_fork_in_child,
    )
