"""The conformance kit: check that an implementation of pooling is right.

`check_conformance` runs a battery of calls over anything that has some of fastpool's names: a module, an object, or a
class with the notebook's interface as the attribute ``Pooling``. Hypothesis, which comes with ``fastpool[verify]``,
draws windows, dtypes, memory layouts, NaN, infinities and ties. A test file needs three lines::

    import mine
    from fastpool.testing import check_conformance
    def test_conformance(): check_conformance(mine).raise_for_differences()

`fastpool.testing.adapters` makes other libraries look like such implementations, and
`fastpool.testing.strategies` has the strategies, for tests of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastpool import reference
from fastpool.system import facts
from fastpool.testing.arrays import INPUT_LAYOUTS, laid_out, random_array
from fastpool.testing.calls import NAMES, Call
from fastpool.testing.compare import Difference, Unsupported, verdict
from fastpool.testing.report import OUTCOMES, Finding, Report

__all__ = [
    "INPUT_LAYOUTS",
    "NAMES",
    "OUTCOMES",
    "Call",
    "Difference",
    "Finding",
    "Report",
    "Unsupported",
    "check_conformance",
    "laid_out",
    "random_array",
]


def check_conformance(
    implementation: Any,
    *,
    against: Any = reference,
    names: Collection[str] | None = None,
    cases: int = 100,
    seed: int = 0,
    dtypes: Sequence[DTypeLike] = ("float32", "float64", "uint8"),
    exact: bool = False,
    large: bool = False,
    progress: Callable[[str], None] = lambda name: None,
) -> Report:
    """Compare an implementation of pooling with the reference, on calls drawn at random.

    Parameters
    ----------
    implementation : object
        Has some of `NAMES`, as functions and layers with fastpool's parameters. What it lacks is reported as
        missing. Where it raises `Unsupported`, it says that it has no such thing. Its attributes
        ``differences``, a sequence of `Difference` that are known, ``label``, what to call it, and ``code``, Python
        code that gives it, need not be there.
    against : object
        What is right.
    names : collection of str, optional
        Those of `NAMES` to compare; by default all.
    cases : int
        How many calls of each name.
    seed : int
        Of the calls.
    dtypes : sequence of dtype
        Of the arrays.
    exact : bool
        Whether the sums that fastpool promises to the bit, those of the gradients of maxima and of columns, must be
        the same to the bit. Otherwise the rounding of another order of summation is allowed.
    large : bool
        Whether, for every 20 calls, there is one more of more than 4 MiB, which threads share.
    progress : callable
        Is called after every call, with its name.

    Returns
    -------
    Report
        Of each name how many calls agreed to the bit, agreed within tolerance, differed, raised; and the first
        one that differed, reduced by Hypothesis to its smallest form, as code.

    Raises
    ------
    ImportError
        Hypothesis is not installed.
    ValueError
        One of `names` is none of `NAMES`, or `cases` is not positive.

    Examples
    --------
    >>> import fastpool
    >>> from types import SimpleNamespace
    >>> def floor_mode(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, **others):
    ...     return fastpool.max_pool2d(x, kernel_size, stride, padding, dilation, **others)
    >>> report = check_conformance(SimpleNamespace(max_pool2d=floor_mode), cases=50)
    >>> report.agreed
    False
    >>> "implementation.max_pool2d(x=x" in report.findings[0].code
    True
    """
    from fastpool.testing import strategies  # which needs Hypothesis

    if unknown := set(names or ()) - set(NAMES):
        raise ValueError(f"names must be some of fastpool.testing.NAMES, not {sorted(unknown)}")
    if cases < 1:
        raise ValueError(f"cases must be positive, not {cases}")
    wanted = [name for name in NAMES if names is None or name in names]
    there = [name for name in wanted if hasattr(implementation, name)]
    label, expression = _called(implementation)
    report = Report(label, {**facts(), "dtypes": ", ".join(str(np.dtype(d)) for d in dtypes), "seed": seed})
    report.missing = [name for name in wanted if name not in there]
    for name in there:
        finding = Finding(name)

        def look(call: Call, finding: Finding = finding) -> None:
            found = verdict(call, implementation, against, exact)
            finding.count(found)
            progress(finding.name)

        def fails(call: Call) -> bool:
            return verdict(call, implementation, against, exact).outcome in ("differed", "raised")

        batches = [(strategies.calls(name, dtypes), cases)]
        if large:
            batches.append((strategies.calls(name, dtypes, large=True), -(-cases // 20)))
        for drawn, count in batches:
            strategies.explore(drawn, look, count, seed)
            if finding.code is None and not finding.agreed:
                call = strategies.smallest(drawn, fails, count, seed)
                finding.why = verdict(call, implementation, against, exact).why
                finding.code = call.code(expression)
        report.findings.append(finding)
    return report


def _called(implementation: Any) -> tuple[str, str]:
    """Return what to call an implementation in a report, and code that gives it."""
    if isinstance(implementation, ModuleType):
        return implementation.__name__, f"import {implementation.__name__}\n{implementation.__name__}"
    label = getattr(implementation, "label", type(implementation).__name__)
    return label, getattr(implementation, "code", "implementation")
