"""Threads that help to run a kernel, without the interpreter's lock.

To hand work to a pool of Python's threads, and to be handed the lock back by them, takes 0.1 ms a call, in which 1 MB
is copied; this takes a tenth. A thread runs compiled code that waits for a job for a moment, as it may be the next call
of a loop, and sleeps only then. The job is a few numbers in memory; whoever has time takes the next range of rows. A
thread that wakes up when there is nothing left to do is not waited for: the job is taken back from it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from fastpool.kernels.atomics import GIVE_WAY, add, exchange, give_way, load, replace
from fastpool.kernels.compiled import compile_for, compiled, inline
from fastpool.kernels.data import call
from fastpool.kernels.parts import KernelCompiler

#: What a worker does, and which job it is to do, in its memory.
STATE, JOB = range(2)
WAITING, ASLEEP, POSTED, RUNNING, STOPPED = range(5)
#: Of a job, behind what is called: the rows, of how many ranges, and how many were begun, from either end; how many
#: ran, and how many failed.
ROWS, RANGES, BEGUN, LOW, HIGH, RAN, FAILED = range(5, 12)
#: So often a worker looks for a job, between other threads on its core, if there are: for 50 to 100 microseconds.
SPINS = 1 << 7
#: Ranges a thread, of which some take longer than others, or begin later.
A_THREAD = 2


@inline
def work(job, end):
    """Run ranges, the next from an end, until there is none left: a loop finds in cache what this core had before."""
    rows, ranges = load(job, ROWS), load(job, RANGES)
    while add(job, BEGUN, 1) < ranges:
        i = add(job, LOW, 1) if end == LOW else add(job, HIGH, -1)
        ran = call(job, rows * i // ranges, rows * (i + 1) // ranges)
        add(job, FAILED if ran < 0 else RAN, abs(ran))


def serve(box, yielding):
    """Do the jobs that come, until none did for a moment."""
    left = SPINS
    while left > 0:
        left -= 1
        state = load(box, STATE)
        if state == STOPPED:
            return
        if state == POSTED and replace(box, STATE, POSTED, RUNNING):
            work(load(box, JOB), HIGH)
            exchange(box, STATE, WAITING)
            left = SPINS
        elif left == 0 and not replace(box, STATE, WAITING, ASLEEP):
            left = SPINS
        give_way(yielding)


def post(box, state, job):
    """Set what a worker has to do; return whether it sleeps."""
    exchange(box, JOB, job)
    return exchange(box, STATE, state) == ASLEEP


def settle(box, yielding):
    """Take a job back that was not begun; return whether the worker has nothing to do with it any more."""
    if replace(box, STATE, POSTED, WAITING):
        return True
    left = SPINS
    while left > 0 and load(box, STATE) == RUNNING:
        left -= 1
        give_way(yielding)
    return left > 0


class _Functions(NamedTuple):
    work: Any
    serve: Any
    post: Any
    settle: Any


@cache
def _functions() -> _Functions:
    """Return them compiled."""

    def of(function: Any, arguments: int, **options: Any) -> Any:
        dispatcher = compiled(function.__name__, pipeline_class=KernelCompiler, **options)(function)
        return compile_for(dispatcher, *[types.int64] * arguments).entry

    def share(job):
        work(job, LOW)

    return _Functions(of(share, 1), of(serve, 2), of(post, 3, nogil=False), of(settle, 2))


class _Worker(threading.Thread):
    """A thread, and the memory in which it is told what to do."""

    def __init__(self) -> None:
        super().__init__(name="fastpool", daemon=True)
        self._memory = np.zeros(1 + JOB, np.int64)
        self.box = self._memory.ctypes.data
        self.kept: Any = None
        self._awake = threading.Lock()
        self._awake.acquire()

    def run(self) -> None:
        """Wait for jobs."""
        serve = _functions().serve
        while True:
            serve(self.box, GIVE_WAY)
            if self._memory[STATE] == STOPPED:
                return
            self._awake.acquire()

    def post(self, job: int) -> None:
        """Set what to do."""
        if _functions().post(self.box, POSTED, job):
            self._awake.release()

    def stop(self) -> None:
        """End the thread."""
        _functions().post(self.box, STOPPED, 0)
        with suppress(RuntimeError):  # it is awake
            self._awake.release()
        self.join()


class Workers:
    """Those of a process."""

    def __init__(self) -> None:
        self._idle: deque[_Worker] = deque()
        self._count = 0
        self._lock = threading.Lock()

    def run(self, threads: int, rows: int, call: tuple[int, ...], kept: Any) -> tuple[int, int, int]:
        """Make a call for ranges of all rows, on this thread and up to threads - 1 more, and keep something meanwhile.

        Return how many ranges there were, how many ran, and how many failed.
        """
        functions = _functions()  # before there is a thread that would compile them, too
        ranges = min(rows, A_THREAD * threads)
        job = np.array([*call, rows, ranges, 0, 0, ranges - 1, 0, 0], np.int64)
        address = job.ctypes.data
        workers = self._take(threads - 1)
        try:
            for worker in workers:
                worker.kept = job, kept  # even if Ctrl-C ends this call
                worker.post(address)
            functions.work(address)
        finally:
            for worker in workers:
                while not functions.settle(worker.box, GIVE_WAY):
                    time.sleep(0)
                worker.kept = None
            self._idle.extend(workers)
        return ranges, job[RAN], job[FAILED]

    def _take(self, count: int) -> list[_Worker]:
        """Return so many that are idle, or fewer."""
        taken: list[_Worker] = []
        while len(taken) < count and (worker := self._pop() or self._start()):
            taken.append(worker)
        return taken

    def _pop(self) -> _Worker | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _start(self) -> _Worker | None:
        """Return a new one, if there may be one more."""
        with self._lock:
            if self._count >= numba.config.NUMBA_NUM_THREADS:
                return None
            worker = _Worker()
            try:
                worker.start()
            except RuntimeError:  # the interpreter is shutting down
                return None
            self._count += 1
        return worker

    def stop(self) -> None:
        """End those that are idle, and start none any more: compiled code goes with the interpreter."""
        with self._lock:
            self._count = numba.config.NUMBA_NUM_THREADS
        while (worker := self._pop()) is not None:
            worker.stop()
