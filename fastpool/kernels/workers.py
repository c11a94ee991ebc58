"""Threads that help to run a kernel, without the interpreter's lock.

To hand work to a pool of Python's threads, and to be handed the lock back by them, takes 0.1 ms a call, in which 1 MB
is copied; this takes a tenth. A thread runs compiled code that waits for a job for a moment, as it may be the next call
of a loop, and sleeps only then. The job is a few numbers in memory; whoever has time takes the next range of rows. A
thread that wakes up when there is nothing left to do is not waited for: the job is taken back from it.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from fastpool.kernels.atomics import GIVE_WAY, add, exchange, give_way, load, replace
from fastpool.kernels.compiled import compile_for, compiled, inline
from fastpool.kernels.data import call
from fastpool.kernels.parts import KernelCompiler

#: What a worker does, what it did before it was given a job, and which that is, in its memory.
STATE, BEFORE, JOB = range(3)
WAITING, ASLEEP, POSTED, RUNNING, STOPPED = range(5)
#: Of a job, behind what is called: the rows, of how many ranges, and how many were begun, from either end; how many
#: ran, and how many failed; where the memory of each worker is that helps.
ROWS, RANGES, BEGUN, LOW, HIGH, RAN, FAILED, HELPERS = range(5, 13)
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
    replace(box, STATE, ASLEEP, WAITING)
    left = SPINS
    while left > 0:
        left -= 1
        state = load(box, STATE)
        if state in (STOPPED, ASLEEP):  # as its last job found it, which was taken back
            return
        if state == POSTED and replace(box, STATE, POSTED, RUNNING):
            work(load(box, JOB), HIGH)
            exchange(box, STATE, WAITING)
            left = SPINS
        elif left == 0 and not replace(box, STATE, WAITING, ASLEEP):
            left = SPINS
        give_way(yielding)


def post(box, job):
    """Give a worker a job, unless it has one; return whether it is to be woken up."""
    state = load(box, STATE)
    while state in (WAITING, ASLEEP):
        exchange(box, JOB, job)
        exchange(box, BEFORE, state)
        if replace(box, STATE, state, POSTED):
            return state == ASLEEP
        state = load(box, STATE)
    return False


def finish(job, helpers, yielding):
    """Run ranges until there is none left; take the job back from those who have not begun, and wait for the others.

    Ctrl-C does not come between.
    """
    work(job, LOW)
    for i in range(helpers):
        box = load(job, HELPERS + i)
        if not replace(box, STATE, POSTED, load(box, BEFORE)):
            while load(box, STATE) == RUNNING:
                give_way(yielding)


class _Functions(NamedTuple):
    serve: Any
    post: Any
    finish: Any


@cache
def _functions() -> _Functions:
    """Return them compiled."""

    def of(function: Any, arguments: int, **options: Any) -> Any:
        dispatcher = compiled(function.__name__, pipeline_class=KernelCompiler, **options)(function)
        return compile_for(dispatcher, *[types.int64] * arguments).entry

    return _Functions(of(serve, 2), of(post, 2, nogil=False), of(finish, 3))


class _Worker(threading.Thread):
    """A thread, and the memory in which it is told what to do."""

    def __init__(self) -> None:
        super().__init__(name="fastpool", daemon=True)
        self._memory = np.zeros(1 + JOB, np.int64)
        self.box = self._memory.ctypes.data
        self._kept: list[Any] = []
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

    def post(self, job: int, kept: Any) -> None:
        """Give it a job, and keep something for that."""
        self._kept.append(kept)
        if _functions().post(self.box, job):
            self._wake()

    def rest(self) -> None:
        """Let go of what is kept, unless Ctrl-C came where the job was not finished."""
        if self._memory[STATE] in (WAITING, ASLEEP):
            self._kept.clear()

    def stop(self) -> None:
        """End the thread."""
        self._memory[STATE] = STOPPED
        self._wake()
        self.join()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it was woken up before, for a job that was taken back
            self._awake.release()


class Workers:
    """Those of a process."""

    def __init__(self) -> None:
        self._idle: deque[_Worker] = deque()
        self._count = 0
        self._lock = threading.Lock()

    def run(self, threads: int, rows: int, addresses: tuple[int, ...], kept: Any) -> tuple[int, int, int]:
        """Make a call for ranges of all rows, on this thread and up to threads - 1 more, and keep something meanwhile.

        Return how many ranges there were, how many ran, and how many failed.
        """
        functions = _functions()  # before there is a thread that would compile them, too
        ranges = min(rows, A_THREAD * threads)
        workers: list[_Worker] = []
        try:
            self._take(workers, threads - 1)
            boxes = [worker.box for worker in workers]
            job = np.array([*addresses, rows, ranges, 0, 0, ranges - 1, 0, 0, *boxes], np.int64)
            at, helpers = job.ctypes.data, len(boxes)
            try:
                for worker in workers:
                    worker.post(at, (job, kept))
            finally:
                functions.finish(at, helpers, GIVE_WAY)
        finally:
            self._idle.extend(workers)
            for worker in workers:
                worker.rest()
        return ranges, job[RAN], job[FAILED]

    def _take(self, taken: list[_Worker], count: int) -> None:
        """Append so many that are idle, or fewer; Ctrl-C does not come where one is in neither list."""
        with suppress(IndexError):
            taken.extend(islice(iter(self._idle.pop, None), count))
        while len(taken) < count and self._start(taken):
            pass

    def _start(self, taken: list[_Worker]) -> bool:
        """Append a new one, if there may be one more; return whether there is."""
        with self._lock:
            if self._count >= numba.config.NUMBA_NUM_THREADS:
                return False
            self._count += 1
            taken.append(_Worker())
            try:
                taken[-1].start()
            except RuntimeError:  # there may be no more threads, or the interpreter is shutting down
                self._count -= 1
                taken.pop()
                return False
        return True

    def stop(self) -> None:
        """End those that are idle, and start none any more: compiled code goes with the interpreter."""
        with self._lock:
            self._count = numba.config.NUMBA_NUM_THREADS
        idle: list[_Worker] = []
        self._take(idle, numba.config.NUMBA_NUM_THREADS)
        for worker in idle:
            worker.stop()
