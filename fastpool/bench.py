"""Time fastpool, its reference and every installed peer side by side: ``python -m fastpool bench``.

The implementations of a case run in turn, round after round, so that whatever else the machine does hits them all
alike; beside them runs a copy, which measures the machine. Ratios are taken within a round, then their median.
What needs the extra is imported where it is used: this file imports without it.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from io import BytesIO
from itertools import groupby
from math import prod
from pathlib import Path
from statistics import geometric_mean, median
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from fastpool import peers
from fastpool.peers import IMPLEMENTATIONS, OPERATIONS, PEERS, Array, Pair, Task
from fastpool.system import facts
from fastpool.window import window

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: A copy of so many bytes is timed in every round: more than a core's own caches hold.
COPY_BYTES = 64 << 20
#: Seconds; what takes longer is called twice, not in every round.
SLOW = 0.25
#: Elements of the input; with fewer, the time is that of a call, and a share of bandwidth says nothing.
SMALL = 1 << 16


class Effort(NamedTuple):
    """How much to measure.

    Attributes
    ----------
    rounds : int
        How many times each implementation has its turn.
    seconds : float
        How long a turn is.
    reference : int
        The reference, which takes time and memory, is left out where all windows have more elements than this.
    """

    rounds: int = 5
    seconds: float = 0.03
    reference: int = 1 << 27


#: For a first look.
QUICK = Effort(3, 0.005, 1 << 20)


class Case(NamedTuple):
    """A pooling layer: the shape of its input, (N, C, H, W), and its window."""

    name: str
    shape: tuple[int, int, int, int]
    kernel_size: Pair
    stride: Pair
    padding: Pair

    def __str__(self) -> str:
        k, s, p = (str(n) if n == m else f"{n},{m}" for n, m in (self.kernel_size, self.stride, self.padding))
        return f"{'x'.join(map(str, self.shape))} k{k} s{s} p{p}"


#: The pooling layers of known networks, and the notebook's.
CASES = {
    name: Case(name, shape, (kernel, kernel), (stride, stride), (padding, padding))
    for name, shape, kernel, stride, padding in (
        ("vgg-pool1", (8, 64, 224, 224), 2, 2, 0),
        ("vgg-pool3", (8, 256, 56, 56), 2, 2, 0),
        ("vgg-pool5", (8, 512, 14, 14), 2, 2, 0),
        ("resnet-stem", (8, 64, 112, 112), 3, 2, 1),
        ("alexnet-1", (8, 64, 55, 55), 3, 2, 0),
        ("inception", (8, 192, 28, 28), 3, 1, 1),
        ("yolo-spp5", (8, 512, 20, 20), 5, 1, 2),
        ("yolo-spp13", (8, 512, 20, 20), 13, 1, 6),
        ("resnet-head", (8, 2048, 7, 7), 7, 7, 0),
        ("vit-patch16", (16, 3, 224, 224), 16, 16, 0),
        ("lenet", (64, 6, 28, 28), 2, 2, 0),
        ("notebook", (2, 3, 4, 4), 2, 2, 0),
    )
}


def task(operation: str, case: Case, dtype: np.dtype[Any]) -> tuple[Task, int]:
    """Return the task of random numbers, and how many bytes it must at least read and write."""
    w = window(case.shape[2:], case.kernel_size, case.stride, case.padding, 1)
    n, c, *_ = case.shape
    pooled = (n, c, *w.output)
    unfolded = (n, c * w.taps, prod(w.output))
    columns = (c * w.taps, n * prod(w.output))
    rng = np.random.default_rng(0)

    def numbers(shape: tuple[int, ...]) -> Array:
        if operation.endswith("-nhwc"):
            shape = (shape[0], *shape[2:], shape[1])
        return rng.standard_normal(shape, dtype.type)

    made = partial(Task, operation, case.kernel_size, case.stride, case.padding)
    read, argmax = prod(case.shape) * dtype.itemsize, prod(pooled) * w.argmax_dtype.itemsize
    match operation.removesuffix("-nhwc"):
        case "forward":
            return made(numbers(case.shape)), read + prod(pooled) * dtype.itemsize + argmax
        case "backward":
            given = made(numbers(case.shape), dy=numbers(pooled))
            return given, read + prod(pooled) * dtype.itemsize + argmax
        case "avg-backward":
            return made(numbers(case.shape), dy=numbers(pooled)), read + prod(pooled) * dtype.itemsize
        case "unfold" | "im2col":
            return made(numbers(case.shape)), read + prod(columns) * dtype.itemsize
        case "fold" | "col2im" as kind:
            given = made(numbers(unfolded if kind == "fold" else columns), image_size=case.shape[2:])
            return given, read + prod(columns) * dtype.itemsize
        case _:
            return made(numbers(case.shape)), read + prod(pooled) * dtype.itemsize


@dataclass(frozen=True)
class Result:
    """The seconds that one operation took on one case.

    Attributes
    ----------
    operation : str
        One of `OPERATIONS`.
    case : Case
        What it ran on.
    nbytes : int
        How many bytes it must at least read and write.
    copy : list of float
        Round by round, the seconds that a copy takes to read and write so many bytes together.
    seconds : dict
        By implementation, the seconds of a call, round by round; of what is `SLOW`, once.
    left_out : list of str
        Implementations that would have taken too long.
    """

    operation: str
    case: Case
    nbytes: int
    copy: list[float]
    seconds: dict[str, list[float]]
    left_out: list[str]

    def spread(self, name: str) -> tuple[float, float]:
        """Return how far the quartiles of an implementation's seconds are from the median, as shares of it."""
        low, middle, high = np.percentile(self.seconds[name], [25, 50, 75])
        return low / middle - 1, high / middle - 1

    def ratio(self, name: str) -> float:
        """Return how many times as long as fastpool an implementation takes; like is compared with like.

        What writes its result into memory that is there already is compared with fastpool's `out=`.
        """
        ours = "fastpool, out=" if IMPLEMENTATIONS[name].into_given else "fastpool"
        # Of what is slow, the one sample is divided by that of every round.
        return float(np.median(np.divide(self.seconds[name], self.seconds[ours])))

    def share(self, name: str) -> float | None:
        """Return the share of the copy's bandwidth that an implementation reaches; None where that says nothing."""
        if prod(self.case.shape) < SMALL:
            return None
        return float(np.median(np.divide(self.copy, self.seconds[name])))

    @property
    def best_peer(self) -> str | None:
        """The peer that comes nearest to fastpool, or passes it; None where there is none."""
        return min((name for name in self.seconds if name in PEERS), key=self.ratio, default=None)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells of a table, the fastest implementation first."""
        rows: list[tuple[str, ...]] = []
        for name in sorted(self.seconds, key=lambda name: median(self.seconds[name])):
            samples, share = self.seconds[name], self.share(name)
            low, high = self.spread(name)
            alone = "of 2 calls" if samples[0] >= SLOW else ""
            quartiles = f"{low:+.0%} {high:+.0%}" if len(samples) > 1 else alone
            shared = "" if share is None else f"{share:.2f}"
            rows.append((name, microseconds(median(samples)), quartiles, f"{self.ratio(name):.2f}", shared))
        return rows + [(name, "", "left out", "", "") for name in self.left_out]

    def summary(self) -> dict[str, Any]:
        """Return what the tables show, for JSON."""
        best = self.best_peer
        return {
            "median": {name: median(samples) for name, samples in self.seconds.items()},
            "quartiles": {name: np.percentile(samples, [25, 75]).tolist() for name, samples in self.seconds.items()},
            "ratio": {name: self.ratio(name) for name in self.seconds},
            "copy_share": {name: self.share(name) for name in self.seconds},
            "best_peer": best,
            "best_peer_ratio": None if best is None else self.ratio(best),
        }


HEADINGS = ("implementation", "median, µs", "quartiles", "/ fastpool", "of copy")
SUMMARY_TITLE = "time of the best peer / time of fastpool"
SUMMARY_HEADINGS = ("operation", "geometric mean", "lowest", "where", "peer")
EXPLANATION = {
    "quartiles": "how far they are from the median; of what is slow, the shorter of 2 calls counts, and the reference "
    "is left out where it would take long",
    "/ fastpool": "the time over that of fastpool, or of fastpool with out= where the result goes into memory that is "
    "there already (ONNX Runtime, OpenVINO): above 1, fastpool is faster; the best peer, in bold, has the lowest",
    "of copy": "the bytes that must be read and written, over the time, as a share of the bandwidth of a large copy: "
    "above 1, caches hold some of them",
}


def microseconds(seconds: float) -> str:
    """Return a time to print, in µs."""
    return f"{seconds * 1e6:,.{2 if seconds < 1e-4 else 0}f}"


@dataclass
class Report:
    """All that a run found out."""

    dtype: str
    threads: int
    rounds: int
    versions: dict[str, str]
    skipped: dict[str, str]
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    # A directory of the user's is nobody else's business.
    system: dict[str, str] = field(
        default_factory=lambda: {name: fact for name, fact in facts().items() if name != "cache directory"}
    )

    @property
    def operations(self) -> list[tuple[str, list[Result]]]:
        """The results of each operation."""
        return [(operation, list(results)) for operation, results in groupby(self.results, lambda r: r.operation)]

    @property
    def bandwidth(self) -> float:
        """Bytes a second that the copies read and wrote together."""
        return median(result.nbytes / seconds for result in self.results for seconds in result.copy)

    def heading(self) -> str:
        """Return what all figures have in common."""
        counts = (f"{n} {name}{'s' if n > 1 else ''}" for n, name in ((self.threads, "thread"), (self.rounds, "round")))
        return f"{self.dtype}, {', '.join(counts)}; a large copy: {self.bandwidth / 1e9:.1f} GB/s"

    def summary(self) -> list[tuple[str, ...]]:
        """Return, for every operation that a peer has, the ratios of the best peer: their mean and the lowest."""
        rows: list[tuple[str, ...]] = []
        for operation, results in self.operations:
            ratios = [(r.ratio(r.best_peer), r.case.name, r.best_peer) for r in results if r.best_peer]
            if ratios:
                lowest, case, peer = min(ratios)
                mean = geometric_mean(ratio for ratio, *_ in ratios)
                rows.append((operation, f"{mean:.2f}", f"{lowest:.2f}", case, peer))
        return rows

    def remarks(self) -> list[str]:
        """Return which peers are missing, and what the others refused."""
        return [f"{name}: {reason}" for name, reason in self.skipped.items()] + self.notes


def copying(threads: int) -> Callable[[], object]:
    """Return a copy of `COPY_BYTES` to be timed, by so many threads."""
    source = np.ones((threads, COPY_BYTES // threads // 8))
    target = np.zeros_like(source)

    @numba.njit(nogil=True)
    def copy(a: Array, b: Array) -> None:  # faster than NumPy's
        for i in range(len(a)):
            b[i] = a[i]

    copy(source[0], target[0])
    pool = ThreadPoolExecutor(threads)
    return lambda: list(pool.map(copy, source, target))


def timed(call: Callable[[], object], count: int = 1) -> float:
    """Return the seconds of one of `count` calls."""
    start = perf_counter()
    for _ in range(count):
        call()
    return (perf_counter() - start) / count


def measure(
    calls: dict[str, Callable[[], object]], rounds: int, seconds_each: float, progress: Callable[[], object]
) -> dict[str, list[float]]:
    """Return the seconds of each call, round by round; of those that are `SLOW`, the shorter of two.

    Every call has been called before, which compiled it. In a round each is repeated for `seconds_each`.
    """
    seconds: dict[str, list[float]] = {}
    counts = {}
    for name, call in calls.items():
        once = timed(call)
        if once >= SLOW:
            once = min(once, timed(call))  # the machine may have paused
        seconds[name] = [once] if once >= SLOW else []
        if once < SLOW:
            counts[name] = max(1, int(seconds_each / max(once, 1e-7)))
    for _ in range(rounds):
        for name, count in counts.items():
            calls[name]()  # so that it finds caches and threads as its own calls leave them
            seconds[name].append(timed(calls[name], count))
        progress()
    return seconds


def run(
    operation: str,
    case: Case,
    report: Report,
    effort: Effort,
    copy: Callable[[], object],
    progress: Callable[[], object],
) -> None:
    """Time one operation on one case and add the result to the report."""
    given, nbytes = task(operation, case, np.dtype(report.dtype))
    calls: dict[str, Callable[[], object]] = {"copy": copy}
    elements = prod((*case.shape[:2], *given.window.output, given.window.taps))
    left_out = []
    for name in IMPLEMENTATIONS:
        if name in report.skipped:
            continue
        if name == "reference" and elements > effort.reference:
            left_out.append(name)
            continue
        try:
            call = peers.prepare(name, given).call
            call()
        except peers.Unsupported:
            continue
        except Exception as error:
            if name not in PEERS:
                raise
            reason = (str(error).splitlines() or [""])[0][:120]
            report.notes.append(f"{name}, {operation}, {case.name}: {type(error).__name__}: {reason}")
            continue
        calls[name] = call
    seconds = measure(calls, report.rounds, effort.seconds, progress)
    copied = [once * nbytes / (2 * COPY_BYTES) for once in seconds.pop("copy")]
    report.results.append(Result(operation, case, nbytes, copied, seconds, left_out))


def main(
    cases: Sequence[Case],
    operations: Sequence[str],
    dtype: str,
    threads: int,
    effort: Effort,
    json_file: Path | None,
    plot: Path | None,
    html: Path | None,
) -> int:
    """Run the benchmarks, print their tables, write the files asked for, and return the exit code."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(highlight=False, markup=False)
    peers.set_threads(threads)
    with console.status("importing peers"):
        report = Report(dtype, threads, effort.rounds, *peers.versions())
    copy = copying(threads)
    for case in cases:
        console.print(f"{case.name:<12} {case}")
    columns = (TextColumn("{task.description:<25}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        steps = bar.add_task("", total=len(operations) * len(cases) * effort.rounds)
        for operation in operations:
            for case in cases:
                bar.update(steps, description=f"{operation} {case.name}")
                run(operation, case, report, effort, copy, partial(bar.advance, steps))
            console.print(table(operation, report.operations[-1][1]))
    print_summary(console, report)
    if json_file is not None:
        json_file.write_text(as_json(report), encoding="utf-8")
        console.print(f"Figures written to {json_file}")
    if plot is not None:
        draw(report, plot, plot.suffix[1:])
        console.print(f"Plot written to {plot}")
    if html is not None:
        html.write_text(as_html(report), encoding="utf-8")
        console.print(f"Page written to {html}")
    return 0


def table(operation: str, results: Sequence[Result]) -> Table:
    """Return the times of one operation."""
    from rich import box
    from rich.table import Table

    made = Table(title=f"{operation}: {OPERATIONS[operation]}", title_justify="left", box=box.SIMPLE)
    made.add_column("shape", no_wrap=True)
    for heading in HEADINGS:
        made.add_column(heading, justify="left" if heading == "implementation" else "right", no_wrap=True)
    for result in results:
        for i, row in enumerate(result.rows()):
            made.add_row(result.case.name if i == 0 else "", *row, style="bold" if row[0] == result.best_peer else None)
        made.add_section()
    return made


def print_summary(console: Console, report: Report) -> None:
    """Print what the tables amount to, and what they leave unsaid."""
    from rich import box
    from rich.table import Table

    made = Table(*SUMMARY_HEADINGS, title=SUMMARY_TITLE, title_justify="left", box=box.SIMPLE)
    for row in report.summary():
        made.add_row(*row)
    if made.rows:
        console.print(made)
    console.print(report.heading())
    for term, meaning in EXPLANATION.items():
        console.print(f"{term}: {meaning}")
    for remark in report.remarks():
        console.print(remark)


def as_json(report: Report) -> str:
    """Return every figure as JSON; times are in seconds."""
    content = asdict(report)
    content["bandwidth"] = report.bandwidth
    for entry, result in zip(content["results"], report.results):
        entry["case"] = result.case._asdict()
        entry.update(result.summary())
    return json.dumps(content, indent=1) + "\n"


#: How bars are filled, so that they can be told apart in black and white.
FILLS = dict(
    zip(
        IMPLEMENTATIONS,
        [
            ("black", ""),
            ("dimgray", ""),
            ("white", ""),
            *[("white", h) for h in ("////", "xxxx", "....", "----", "++++")],
        ],
    )
)


def draw(report: Report, file: Path | IO[bytes], format: str) -> None:
    """Write the median times as bars, one panel an operation."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    operations = report.operations
    figure = Figure(figsize=(11, 0.6 + 2.6 * len(operations)), layout="constrained")
    labelled: dict[str, Any] = {}
    for axes, (operation, results) in zip(figure.subplots(len(operations), squeeze=False)[:, 0], operations):
        shown = [name for name in IMPLEMENTATIONS if any(name in result.seconds for result in results)]
        width = 0.85 / len(shown)
        for i, name in enumerate(shown):
            color, hatch = FILLS[name]
            times = [median(result.seconds[name]) * 1e6 if name in result.seconds else np.nan for result in results]
            places = np.arange(len(results)) + (i - (len(shown) - 1) / 2) * width
            bars = axes.bar(places, times, width, color=color, hatch=hatch, edgecolor="black", linewidth=0.6)
            labelled.setdefault(name, bars)
        axes.set_yscale("log")
        # Bars stand on a power of ten, below them all.
        axes.set_ylim(bottom=10 ** np.floor(np.log10(min(patch.get_height() for patch in axes.patches) * 0.9)))
        axes.yaxis.set_major_formatter("{x:,.10g}")
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="lightgray", linewidth=0.6)
        axes.set_xticks(range(len(results)), [result.case.name for result in results])
        axes.set_ylabel("µs a call")
        axes.set_title(f"{operation}: {OPERATIONS[operation]}", loc="left", fontsize="medium")
    order = [name for name in IMPLEMENTATIONS if name in labelled]
    figure.legend([labelled[name] for name in order], order, loc="outside upper center", ncols=len(order))
    figure.supxlabel(f"{report.heading()}; shorter bars are faster", fontsize="small")
    figure.savefig(file, format=format)


def as_html(report: Report) -> str:
    """Return a page of tables and picture that needs no other file."""
    from jinja2 import Template

    picture = BytesIO()
    draw(report, picture, "svg")
    page = Template(Path(__file__).with_name("bench.html").read_text(encoding="utf-8"), autoescape=True)
    rendered: str = page.render(
        report=report,
        picture=b64encode(picture.getvalue()).decode(),
        operations=OPERATIONS,
        headings=HEADINGS,
        summary_title=SUMMARY_TITLE,
        summary_headings=SUMMARY_HEADINGS,
        explanation=EXPLANATION,
        facts={**report.system, **report.versions},
    )
    return rendered
