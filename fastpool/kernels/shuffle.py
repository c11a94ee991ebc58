"""Rows shuffled apart, an element in turn to each of some runs, and runs shuffled together to rows.

That is what windows side by side are to their columns. A row's last vector overlaps the one before, so that there is
nothing left over: neither is read or written behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastpool.kernels import simd
from fastpool.kernels.compiled import inline

#: The compiler makes code for each number of runs up to so many.
MOST = 7


def _of_places(make: Callable[[int], Any]) -> Any:
    """Return a function that shuffles some rows: for each number of places, which the compiler has to know, `make`
    makes it, with vectors that a row has room for, if only a quarter of one.
    """

    def of_width(runs: Any) -> Any:
        @inline
        def shuffle(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead):
            half, quarter = simd.narrowed(d, 2), simd.narrowed(d, 4)
            if count >= simd.lanes(d):
                runs(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead)
            elif count >= simd.lanes(half):
                runs(half, source, offset, source_line, to, into, line, pitch, lines, count, ahead)
            else:
                runs(quarter, source, offset, source_line, to, into, line, pitch, lines, count, ahead)

        return shuffle

    two, three, four, five, six, seven = (of_width(make(places)) for places in range(2, MOST + 1))

    @inline
    def shuffle(d, places, source, offset, source_line, to, into, line, pitch, lines, count, ahead):
        if places == 2:
            two(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead)
        elif places == 3:
            three(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead)
        elif places == 4:
            four(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead)
        elif places == 5:
            five(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead)
        elif places == 6:
            six(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead)
        else:
            seven(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead)

    return shuffle


def _separate(places: int) -> Any:
    """Return what writes a row's elements to as many runs as there are places, `pitch` apart, in turn."""

    @inline
    def separate_rows(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead):
        last = count - simd.lanes(d)
        for _ in range(lines):
            for i in range(0, count, simd.lanes(d)):
                simd.rolled()
                j = min(i, last)  # the last vector overlaps the one before: nothing is read or written behind the row
                for k in range(places):
                    simd.prefetch(source, offset + ahead + places * j + k * simd.lanes(d))
                simd.store_apart(to, into + j, pitch, d, source, offset + places * j, places)
            offset += source_line
            into += line

    return separate_rows


def _interleave(places: int) -> Any:
    """Return what writes a row of an element of each of so many runs, `pitch` apart, in turn."""

    @inline
    def interleave_rows(d, source, offset, source_line, to, into, line, pitch, lines, count, ahead):
        zero, last = simd.splat(d, 0), count - simd.lanes(d)
        for _ in range(lines):
            for i in range(0, count, simd.lanes(d)):
                simd.rolled()
                j = min(i, last)  # as above
                for k in range(places):
                    simd.prefetch(source, offset + ahead + k * pitch + j)
                simd.store_in_turn(to, into + places * j, d, source, offset + j, pitch, places, zero)
            offset += source_line
            into += line

    return interleave_rows


separate, interleave = _of_places(_separate), _of_places(_interleave)
