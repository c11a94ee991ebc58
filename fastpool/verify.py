"""The command ``python -m fastpool verify``: fastpool, or another library, against the reference on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import fastpool
from fastpool.testing import NAMES, check_conformance
from fastpool.testing.adapters import ADAPTERS


def main(name: str, cases: int, seed: int, dtypes: Sequence[str], json: Path | None) -> int:
    """Compare, print the report, write it to `json`; return 1 if something differed."""
    console = Console(stderr=True)
    try:
        implementation: Any = fastpool if name == "fastpool" else ADAPTERS[name]()
    except ImportError as error:
        console.print(f"{name} is not installed ({error}).", markup=False)
        return 2
    large = implementation is fastpool
    total = (cases + large * -(-cases // 20)) * sum(hasattr(implementation, each) for each in NAMES)
    columns = TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        report = check_conformance(
            implementation,
            cases=cases,
            seed=seed,
            dtypes=dtypes,
            exact=implementation is fastpool,
            large=large,
            progress=lambda name: bar.update(task, advance=1, description=name),
        )
    print(report)
    if json is not None:
        json.write_text(report.to_json() + "\n")
    return 0 if report.agreed else 1
