"""Memory of large results that is written to again: a new one costs page faults, at every step of a training loop."""

from __future__ import annotations

import sys
from collections import deque
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: Results of fewer bytes are not worth it.
LARGE = 1 << 22


class Results:
    """The last two large results of a function, each given out again when nobody else has it.

    Two, because a loop has the last result at least until it is given the next one. A view of an array has it, too,
    as does whatever else shares its memory. An array is in one place or the other, so two threads never get the same.
    """

    def __init__(self) -> None:
        self._last: deque[Array] = deque(maxlen=2)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array that is not filled, of memory that nobody has."""
        if prod(shape) * dtype.itemsize < LARGE:
            return np.empty(shape, dtype)
        for _ in range(len(self._last)):
            last, references = self._taken()
            if last is None or last.shape != shape or last.dtype != dtype:
                continue  # dropped
            self._last.append(last)
            if references <= _ALONE:
                return last
        result = np.empty(shape, dtype)
        self._last.append(result)
        return result

    def _taken(self) -> tuple[Array | None, int]:
        """Take the older result out; return it and how many references there are to it."""
        try:
            last = self._last.popleft()
        except IndexError:  # another thread has taken it
            return None, 0
        return last, sys.getrefcount(last)


def _references_when_alone() -> int:
    """Return the references to what nobody else has, which depends on the version of Python."""
    results = Results()
    results._last.append(np.empty(0))
    return results._taken()[1]


_ALONE = _references_when_alone()


class Reusing:
    """A layer that writes its results to the memory of earlier ones. Its copies and pickles begin with none."""

    @cached_property
    def _outputs(self) -> Results:
        return Results()

    @cached_property
    def _gradients(self) -> Results:
        return Results()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, Results)}
