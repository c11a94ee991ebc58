"""What came out of a comparison: how often an implementation agreed, and the smallest call on which it did not."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fastpool.testing.compare import Verdict

#: What may come of a call, in the order of a report's columns.
OUTCOMES = {
    "identical": "the same to the bit; or both refused the arguments",
    "near": "within the rounding of a sum of floats in another order",
    "intended": "a known difference",
    "differed": "anything else",
    "raised": "the implementation raised an error where the reference gave a result",
    "unsupported": "the implementation says that it has no such thing",
}


@dataclass
class Finding:
    """How one function or layer compared.

    Attributes
    ----------
    name : str
        Of the function or layer.
    outcomes : Counter
        How many calls had each of `OUTCOMES`.
    intended : Counter
        How many calls showed each known difference.
    code : str, optional
        Python code that reproduces the smallest call that differed or raised.
    why : str, optional
        What was wrong with that call.
    """

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    intended: Counter[str] = field(default_factory=Counter)
    code: str | None = None
    why: str | None = None

    def count(self, verdict: Verdict) -> None:
        """Add what came of a call."""
        self.outcomes[verdict.outcome] += 1
        if verdict.outcome == "intended":
            self.intended[verdict.why] += 1

    @property
    def agreed(self) -> bool:
        """Whether no call differed or raised."""
        return not (self.outcomes["differed"] or self.outcomes["raised"])


@dataclass
class Report:
    """What `check_conformance` found.

    Attributes
    ----------
    implementation : str
        What was compared.
    facts : dict
        Of the machine, and the parameters of the comparison.
    findings : list of Finding
        One for each name that the implementation has.
    missing : list of str
        The names that it does not have.
    """

    implementation: str
    facts: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def agreed(self) -> bool:
        """Whether no call of any function differed or raised, and there was one at all."""
        return bool(self.findings) and all(finding.agreed for finding in self.findings)

    def raise_for_differences(self) -> None:
        """Raise an AssertionError with the report's text unless all agreed."""
        if not self.agreed:
            raise AssertionError(f"\n{self}")

    def __str__(self) -> str:
        """Return the report as text: a table, the known differences, what is missing, and code that reproduces."""
        width = max([len(finding.name) for finding in self.findings], default=4)
        lines = [f"{self.implementation} against the reference", ""]
        lines += [f"{name}: {value}" for name, value in self.facts.items()]
        lines += ["", " ".join([f"{'':{width}}", *(f"{outcome:>11}" for outcome in OUTCOMES)])]
        for finding in self.findings:
            counts = (f"{finding.outcomes[outcome] or '':>11}" for outcome in OUTCOMES)
            lines.append(" ".join([f"{finding.name:{width}}", *counts]).rstrip())
        known = sum((finding.intended for finding in self.findings), Counter[str]())
        lines += ["", *(f"intended: {what} ({count} calls)" for what, count in sorted(known.items()))]
        if self.missing:
            lines.append(f"missing: {', '.join(self.missing)}")
        for finding in self.findings:
            if finding.code is not None:
                lines += [
                    "",
                    f"{finding.name}: {finding.why}",
                    "",
                    *(f"    {line}" for line in finding.code.split("\n")),
                ]
        return "\n".join(lines).rstrip()

    def to_json(self) -> str:
        """Return the report as JSON."""
        findings = [
            {
                "name": finding.name,
                "outcomes": {outcome: finding.outcomes[outcome] for outcome in OUTCOMES},
                "intended": dict(finding.intended),
                "why": finding.why,
                "code": finding.code,
            }
            for finding in self.findings
        ]
        return json.dumps(
            {
                "implementation": self.implementation,
                "agreed": self.agreed,
                "facts": self.facts,
                "findings": findings,
                "missing": self.missing,
            },
            indent=2,
        )
