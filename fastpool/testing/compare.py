"""Whether an implementation and the reference agree on a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastpool.testing.calls import Array, Call, Results


class Unsupported(Exception):
    """The implementation has no such thing: another dtype, layout or window."""


class Difference(NamedTuple):
    """A known difference of an implementation.

    Attributes
    ----------
    what : str
        In a line.
    explains : callable
        From a call, the results of the reference, and those of the implementation: whether this is why they differ.
    """

    what: str
    explains: Callable[[Call, Results, Results], bool]


class Verdict(NamedTuple):
    """What came of a call.

    Attributes
    ----------
    outcome : str
        One of `fastpool.testing.OUTCOMES`.
    why : str
        What is wrong, or the known difference.
    """

    outcome: str
    why: str = ""


def verdict(call: Call, implementation: Any, against: Any, exact: bool = False) -> Verdict:
    """Compare what an implementation gives with what is right; `exact` as in `check_conformance`."""
    with np.errstate(all="ignore"):  # sums of special values overflow
        return _verdict(call, implementation, against, exact)


def _verdict(call: Call, implementation: Any, against: Any, exact: bool) -> Verdict:
    expected: Results | ValueError
    try:
        expected = call.of(against)
    except ValueError as error:
        expected = error
    try:
        actual = call.of(implementation)
    except Unsupported as error:
        return Verdict("unsupported", str(error))
    except Exception as error:
        if isinstance(expected, ValueError):
            return Verdict("identical")
        return Verdict("raised", f"{type(error).__name__}: {error}")
    if isinstance(expected, ValueError):
        return Verdict("differed", f"a result instead of ValueError: {expected}")
    found = _compared(call, expected, actual, exact)
    if found.outcome == "differed":
        for difference in getattr(implementation, "differences", ()):
            if difference.explains(call, expected, actual):
                return Verdict("intended", difference.what)
    return found


def _compared(call: Call, expected: Results, actual: Results, exact: bool) -> Verdict:
    if len(actual) != len(expected):
        return Verdict("differed", f"{len(actual)} results instead of {len(expected)}")
    verdicts = [_of_result(call, *pair, place, exact) for place, pair in enumerate(zip(expected, actual))]
    return max(verdicts, key=lambda found: ("identical", "near", "differed").index(found.outcome))


def _of_result(call: Call, expected: Array, actual: Array, place: int, exact: bool) -> Verdict:
    for what in ("dtype", "shape"):
        if getattr(actual, what) != getattr(expected, what):
            return Verdict("differed", f"{what} {getattr(actual, what)} instead of {getattr(expected, what)}")
    bound = call.tolerance(place, expected)
    strict = exact and not call.averages
    if same(actual, expected, signs=bound is not None):
        return Verdict("identical")
    if bound is not None and not strict and near(actual, expected, bound):
        return Verdict("near")
    off = ~_equal(actual, expected)
    if bound is not None and not strict:
        off &= ~_within(actual, expected, bound)
    # Where all are equal, a zero has the other sign.
    wrong = off if off.any() else np.signbit(actual) != np.signbit(expected)
    where = tuple(np.argwhere(wrong)[0].tolist())
    return Verdict("differed", f"result {place} has {actual[where]} instead of {expected[where]} at {where}")


def same(actual: Array, expected: Array, signs: bool = False) -> bool:
    """Whether all values are equal, any NaN to any NaN, and zeros of either sign unless `signs` matter.

    Examples
    --------
    >>> same(np.array([0.0, np.nan]), np.array([-0.0, np.nan])), same(np.array([0.0]), np.array([-0.0]), signs=True)
    (True, False)
    """
    equal = bool(_equal(actual, expected).all())
    if equal and signs and expected.dtype.kind in "fV":
        number = expected == expected
        return bool((np.signbit(actual) == np.signbit(expected))[number].all())
    return equal


def _equal(actual: Array, expected: Array) -> Array:
    return np.asarray((actual == expected) | ((actual != actual) & (expected != expected)))


def near(actual: Array, expected: Array, bound: Array) -> bool:
    """Whether NaN and infinities are the same, and all else is off by at most `bound`.

    Examples
    --------
    >>> near(np.array([1.5, np.inf]), np.array([1.0, np.inf]), np.array([0.5, 0.5]))
    True
    """
    return bool(_within(actual, expected, bound).all())


def _within(actual: Array, expected: Array, bound: Array) -> Array:
    actual, expected = actual.astype(float), expected.astype(float)
    with np.errstate(invalid="ignore"):  # infinities
        return np.asarray(_equal(actual, expected) | (np.isfinite(expected) & (abs(actual - expected) <= bound)))
