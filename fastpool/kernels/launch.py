"""Run a kernel: serial or parallel, from any thread, in any process.

A kernel is a function ``body(start, stop, geometry, *inputs, *outputs)`` over a range of rows. It is
compiled twice, when first needed: as it is, without the interpreter's lock, and under a parallel loop
that gives every thread one range. Both run the same code on the same rows, so the bits are the same.

Numba's parallel loops cannot be launched everywhere: OpenMP ends a process that was forked after a
launch, and the workqueue layer aborts on two launches at once, be they ours or a user's. And GNU OpenMP's
threads go on spinning after each launch, unless OMP_WAIT_POLICY is set: the core that they hold is
missing where NumPy multiplies matrices between two calls, which made the demo five times as slow. So a
loop is launched where TBB runs it, or where OMP_WAIT_POLICY says what its threads shall do; elsewhere a
pool of Python threads runs the serial kernel over small ranges, as long as there are any. That costs about
0.1 ms a call; a thread that wakes up late only takes fewer ranges.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from numba import njit, prange, types
from numba.core.compiler_lock import global_compiler_lock

from fastpool.kernels import simd
from fastpool.kernels.cache import KernelCache
from fastpool.kernels.parts import PartCompiler

Array = np.ndarray[Any, Any]

#: Below so many bytes, launching a loop costs more than a second thread does; and waking Python's threads.
PARALLEL_BYTES, POOL_BYTES = 1 << 20, 4 << 20
#: Ranges a thread, where threads take them one by one.
RANGES = 2


def compiled(name: str, **options: bool) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function lazily and keep it in `KernelCache` under `name`."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, **options)(function)
        dispatcher._cache = KernelCache(name)  # where cache=True would put Numba's own
        return dispatcher

    return decorate


#: Functions that kernels are made of: part of the code that calls them.
inline = njit(
    error_model="numpy", forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=PartCompiler
)


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
        serial = self._serial = compiled(body.__name__)(body)

        def ranges(threads, rows, args):
            for i in prange(threads):
                serial(rows * i // threads, rows * (i + 1) // threads, *args)

        self._parallel = compiled(f"{body.__name__}-parallel", parallel=True)(ranges)
        self._entries: dict[tuple[int | None, ...], Callable[..., None]] = {}

    def __call__(self, rows: int, nbytes: int, geometry: Array, *arrays: Array | None) -> None:
        """Run the rows from 0 to `rows`, on as many threads as `numba.get_num_threads()` where `nbytes` pay for that.

        The arrays have four axes.
        """
        if rows == 0:
            return
        threads, launch = 1, False
        if nbytes >= PARALLEL_BYTES:
            threads = min(rows, _threading.threads)
            launch = threads > 1 and _threading.launches
            if not launch and nbytes < POOL_BYTES:
                threads = 1
        # Found without Numba's own dispatch, which takes longer.
        key = (launch, *[a if a is None else a.dtype.num for a in arrays])
        try:
            entry = self._entries[key]
        except KeyError:
            entry = self._compile(key, arrays)
        if launch:
            entry(threads, rows, (geometry, *arrays))
        elif threads == 1:
            entry(0, rows, geometry, *arrays)
        else:
            _threading.run(entry, threads, rows, geometry, *arrays)

    def _compile(self, key: tuple[int | None, ...], arrays: tuple[Array | None, ...]) -> Callable[..., None]:
        """Compile for these dtypes, once: every array is typed as strided, and as read-only if it is read."""
        if numba.config.DISABLE_JIT:
            raise RuntimeError("NUMBA_DISABLE_JIT is set: fastpool needs Numba's compiler, fastpool.reference does not")
        reads = len(arrays) - self._writes
        types_ = (
            types.Array(types.int64, 2, "C", readonly=True),
            *(
                types.none if a is None else types.Array(simd.element(a.dtype), a.ndim, "A", readonly=i < reads)
                for i, a in enumerate(arrays)
            ),
        )
        if key[0]:
            entry = _uninterrupted(self._parallel.compile, (types.int64, types.int64, types.Tuple(types_)))
        else:
            entry = _uninterrupted(self._serial.compile, (types.int64, types.int64, *types_))
        self._entries[key] = entry
        return entry


def _uninterrupted(function: Callable[[Any], Any], argument: Any) -> Any:
    """Return function(argument), computed to its end even if Ctrl-C is pressed, which raises KeyboardInterrupt at once.

    Numba that is interrupted while it compiles may not compile again. Signals come to the main thread: it is not that
    one which computes.
    """
    if threading.current_thread() is threading.main_thread():
        pool = ThreadPoolExecutor(1, "fastpool-compiler")
        try:
            future = pool.submit(function, argument)
        except RuntimeError:  # the interpreter is shutting down
            return function(argument)
        pool.shutdown(wait=False)
        return future.result()
    return function(argument)


def kernel(writes: int = 1) -> Callable[[Callable[..., None]], Kernel]:
    """Make a `Kernel` of a function."""
    return lambda body: Kernel(body, writes)


class _Threading:
    """How this process runs ranges side by side."""

    def __init__(self) -> None:
        self._forked = False
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

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
        self._forked, self._pool = True, None

    @property
    def threads(self) -> int:
        with self._lock:
            return numba.get_num_threads()

    @property
    def launches(self) -> bool:
        """Whether Numba's own parallel loops are launched; see the module's documentation."""
        layer = numba.threading_layer()
        return not self._forked and (layer == "tbb" or (layer == "omp" and "OMP_WAIT_POLICY" in os.environ))

    def run(self, entry: Callable[..., None], threads: int, rows: int, *arguments: Array | None) -> None:
        """Call entry(start, stop, *arguments) for ranges of all rows, on this thread and up to threads - 1 more."""
        pieces = min(rows, RANGES * threads)
        ranges = iter([(rows * i // pieces, rows * (i + 1) // pieces) for i in range(pieces)])

        def work() -> None:
            for start, stop in ranges:
                entry(start, stop, *arguments)

        helpers: list[Future[None]] = []
        with contextlib.suppress(RuntimeError), self._lock:  # the interpreter may be shutting down
            if self._pool is None:
                self._pool = ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS, "fastpool")
            helpers = [self._pool.submit(work) for _ in range(threads - 1)]
        work()
        for helper in helpers:
            if not helper.cancel():
                helper.result()


_threading = _Threading()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_threading.before_fork,
        after_in_parent=_threading.after_fork_in_parent,
        after_in_child=_threading.after_fork_in_child,
    )
