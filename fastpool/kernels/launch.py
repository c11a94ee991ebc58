"""Run a kernel: serial or parallel, from any thread, in any process.

A kernel is a function ``body(start, stop, geometry, *inputs, *outputs)`` over a range of rows; its arrays have four
axes, and come to compiled code as objects (see `fastpool.kernels.data`). It is compiled when first needed, and runs
without the interpreter's lock. A parallel loop that gives every thread one range is compiled once for all kernels: it
calls the same code, by its address, for the same rows, so the bits are the same.

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
import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, cached_property, lru_cache, partial
from itertools import accumulate, chain
from operator import mul
from typing import Any, NamedTuple, TypeAlias

import numba
import numpy as np
from numba import njit, prange, types
from numba.core.compiler_lock import global_compiler_lock

from fastpool.kernels import simd
from fastpool.kernels.cache import KernelCache
from fastpool.kernels.data import NUMBERS_OF_CALL, OBJECT, Tuple, call, views
from fastpool.kernels.parts import KernelCompiler, PartCompiler

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
    def layout(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and strides, transposed."""
        strides = tuple(accumulate((self.dtype.itemsize, *self.shape[:0:-1]), mul))[::-1]
        return tuple(self.shape[i] for i in self.order), tuple(strides[i] for i in self.order)


#: Below so many bytes, launching a loop costs more than a second thread does; and waking Python's threads.
PARALLEL_BYTES, POOL_BYTES = 1 << 20, 4 << 20
#: Ranges a thread, where threads take them one by one.
RANGES = 2


def compiled(name: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function lazily and keep it in `KernelCache` under `name`."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True, **options)(function)
        dispatcher._cache = KernelCache(name)  # where cache=True would put Numba's own
        return dispatcher

    return decorate


class Part:
    """A function that kernels are made of: part of the code that calls it.

    Numba's dispatcher, of which there would be hundreds, is made of it when some code does.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @cached_property
    def _dispatcher(self) -> Any:
        options = {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        return njit(error_model="numpy", pipeline_class=PartCompiler, **options)(self._function)

    @property
    def _numba_type_(self) -> types.Dispatcher:
        return types.Dispatcher(self._dispatcher)


def inline(function: Callable[..., Any]) -> Any:
    """Make a `Part` of a function."""
    return Part(function)


class Compiled(NamedTuple):
    """A kernel for some dtypes: for Python to call, and the address of the function that this calls."""

    entry: Entry
    address: int


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
            if not launch and nbytes < POOL_BYTES:
                threads = 1
        entry, address = self._compiled(dtypes)
        if launch:
            return _launcher()(address, threads, rows, numbers, geometry, reads, writes)
        if threads == 1:
            return entry(numbers, geometry, reads, writes)
        return _threading.run(entry, threads, rows, numbers, geometry, reads, writes)

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
        compiled = _uninterrupted(partial(_compile, self._serial), (NUMBERS_OF_CALL, OBJECT, reads, writes))
        self._entries[dtypes] = compiled
        return compiled


@cache
def _launcher() -> Any:
    """Return a compiled function that calls what is compiled of a kernel, at an address, for a range on each thread."""

    @compiled("ranges", parallel=True)
    def ranges(function, threads, rows, numbers, geometry, reads, writes):
        ran = 0
        for i in prange(threads):
            ran += call(function, rows * i // threads, rows * (i + 1) // threads, numbers, geometry, reads, writes)
        return ran > 0

    signature = types.int64, types.int64, types.int64, NUMBERS_OF_CALL, OBJECT, OBJECT, OBJECT
    return _uninterrupted(partial(_compile, ranges), signature).entry


@lru_cache(maxsize=4096)
def _numbers(rows: int, contiguous: bool, *layouts: tuple[tuple[int, ...], tuple[int, ...]] | None) -> Array:
    """Return the numbers of a call, as `views` reads them, of the rows from 0 to `rows`."""
    return np.array([0, rows, contiguous, *chain(*((0,) * 8 if a is None else a[0] + a[1] for a in layouts))], np.int64)


def _range(numbers: Array, start: int, stop: int) -> Array:
    """Return the numbers of the same call, of these rows alone."""
    numbers = numbers.copy()
    numbers[:2] = start, stop
    return numbers


def _compile(dispatcher: Any, signature: Any) -> Compiled:
    """Return what is compiled, or on disk. Meanwhile garbage is not looked for: a tenth of the time went into that."""
    with global_compiler_lock:  # no process is forked meanwhile
        collects = gc.isenabled()
        gc.disable()
        try:
            entry = dispatcher.compile(signature)
        finally:
            if collects:
                gc.enable()
        result = dispatcher.overloads[signature]
        return Compiled(entry, result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


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

    def run(self, entry: Entry, threads: int, rows: int, numbers: Array, *others: Any) -> bool:
        """Call entry(numbers, *others) for ranges of all rows, on this thread and up to threads - 1 more."""
        pieces = min(rows, RANGES * threads)
        ranges = iter([_range(numbers, rows * i // pieces, rows * (i + 1) // pieces) for i in range(pieces)])
        ran: list[bool] = []

        def work() -> None:
            ran.extend(entry(piece, *others) for piece in ranges)

        helpers: list[Future[None]] = []
        with contextlib.suppress(RuntimeError), self._lock:  # the interpreter may be shutting down
            if self._pool is None:
                self._pool = ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS, "fastpool")
            helpers = [self._pool.submit(work) for _ in range(threads - 1)]
        work()
        for helper in helpers:
            if not helper.cancel():
                helper.result()
        others = ()  # or a helper that wakes up late would hold the arrays till then: results would not be freed
        return all(ran)


_threading = _Threading()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_threading.before_fork,
        after_in_parent=_threading.after_fork_in_parent,
        after_in_child=_threading.after_fork_in_child,
    )
