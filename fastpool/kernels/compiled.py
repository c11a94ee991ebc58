"""Functions that Numba compiles: such as Python calls, kept on disk, and the parts that these are made of."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, NamedTuple

from numba import njit, types
from numba.core.compiler_lock import global_compiler_lock

from fastpool.garbage import collection_paused
from fastpool.kernels.cache import KernelCache
from fastpool.kernels.parts import PartCompiler


def compiled(name: str, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function lazily and keep it in `KernelCache` under `name`."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = njit(**{"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True} | options)(function)
        dispatcher._cache = KernelCache(name)  # where cache=True would put Numba's own
        return dispatcher

    return decorate


class Inlined:
    """A function that others are made of: part of the code that calls it.

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
    """Make a function `Inlined`."""
    return Inlined(function)


class Compiled(NamedTuple):
    """What is compiled of a function for some types: for Python to call, and the address of what this calls."""

    entry: Any
    address: int


def compile_for(dispatcher: Any, *signature: types.Type) -> Compiled:
    """Compile what `compiled` returned for these types, or find it on disk.

    To its end even if Ctrl-C is pressed, which raises KeyboardInterrupt at once: Numba that is interrupted while it
    compiles may not compile again. Signals come to the main thread: it is not that one which computes.
    """
    work = partial(_compile, dispatcher, signature)
    if threading.current_thread() is threading.main_thread():
        pool = ThreadPoolExecutor(1, "fastpool-compiler")
        try:
            future = pool.submit(work)
        except RuntimeError:  # the interpreter is shutting down
            return work()
        pool.shutdown(wait=False)
        return future.result()
    return work()


def _compile(dispatcher: Any, signature: tuple[types.Type, ...]) -> Compiled:
    """Do that. To look for garbage meanwhile took a tenth of the time."""
    with global_compiler_lock, collection_paused():  # no process is forked meanwhile
        entry = dispatcher.compile(signature)
        result = dispatcher.overloads[signature]
        return Compiled(entry, result.library.get_pointer_to_function(result.fndesc.llvm_func_name))
