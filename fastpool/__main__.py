"""The command line: ``python -m fastpool``.

A subcommand is a function from its parsed arguments to an exit code, and a few lines in `parser`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from pathlib import Path

import numba
import numpy as np

import fastpool
from fastpool.bench import CASES, QUICK, Case, Effort
from fastpool.peers import OPERATIONS
from fastpool.window import window

#: What `warmup` compiles for, and `verify` compares.
DTYPES = ("bool", *(f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)))
DTYPES += ("float16", "float32", "float64")


def demo(arguments: argparse.Namespace) -> int:
    """Train on the digits with `fastpool` and with its reference."""
    if not installed("demo", "matplotlib", "rich", "sklearn"):
        return 2
    from fastpool.demo import main

    return main(arguments.epochs, arguments.batch_size, arguments.seed, arguments.plot)


def bench(arguments: argparse.Namespace) -> int:
    """Time fastpool, its reference and other libraries."""
    cases = [CASES[name] for name in arguments.shapes]
    if arguments.shape is None:
        if arguments.kernel or arguments.stride or arguments.padding:
            arguments.error("--kernel, --stride and --padding need --shape")
    elif arguments.kernel is None:
        arguments.error("--shape needs --kernel")
    else:
        sizes = (arguments.kernel, arguments.stride or arguments.kernel, arguments.padding or (0, 0))
        cases = [Case("custom", arguments.shape, *sizes)]
        try:
            window(arguments.shape[2:], *sizes, 1, elements=True)
        except ValueError as error:
            arguments.error(str(error))
    if not installed("bench", "jinja2", "matplotlib", "rich"):
        return 2
    from fastpool.bench import main

    effort = QUICK if arguments.quick else Effort()
    if arguments.rounds is not None:
        effort = effort._replace(rounds=arguments.rounds)
    files = (arguments.json, arguments.plot, arguments.html)
    return main(cases, arguments.ops, arguments.dtype, arguments.threads, effort, *files)


def installed(extra: str, *packages: str) -> bool:
    """Whether the packages of a command are there; if not, say how to install its extra."""
    try:
        for package in packages:
            import_module(package)
    except ImportError as error:
        print(
            f"This command needs its extra ({error}). Install it with\n"
            f"    python -m pip install 'fastpool[{extra}]'\n"
            "or, in a clone of the repository, with\n"
            f"    python -m pip install '.[{extra}]'",
            file=sys.stderr,
        )
        return False
    return True


def info(arguments: argparse.Namespace) -> int:
    """Print the facts that a bug report needs."""
    from fastpool.system import facts

    for name, fact in facts().items():
        print(f"{name:<16} {fact}")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Compare fastpool, or another library, with the reference."""
    if not installed("verify", "hypothesis", "rich"):
        return 2
    from fastpool.verify import main

    return main(arguments.implementation, arguments.cases, arguments.seed, arguments.dtype, arguments.json)


def warmup(arguments: argparse.Namespace) -> int:
    """Fill the cache of compiled kernels."""
    from fastpool.kernels.cache import cache_directory
    from fastpool.warmup import warmup

    start = time.perf_counter()
    printed = set()
    for name in warmup([np.dtype(dtype) for dtype in arguments.dtype]):
        if name not in printed:
            print(name, flush=True)
            printed.add(name)
    where = cache_directory()
    kept = f"kept in {where}" if where else "not kept, for no directory can be written"
    print(f"compiled in {time.perf_counter() - start:.0f} s; {kept}")
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; every subcommand leaves its function in `run`."""
    top = argparse.ArgumentParser(
        prog="python -m fastpool", description="Pooling for NumPy arrays at the speed of the machine's memory."
    )
    top.add_argument("--version", action="version", version=f"fastpool {fastpool.__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND")

    command = commands.add_parser(
        "demo",
        help="train a small network on handwritten digits, with fastpool and with its NumPy reference",
        description="Train a small convolutional network on the handwritten digits that scikit-learn ships: once "
        "with fastpool, once with its NumPy reference. Shows the accuracy on digits held out and the time that "
        "each operation took, and checks that both trainings had the same losses, to the bit; exit code 1 if not.",
    )
    command.add_argument(
        "--epochs", type=at_least(1), default=15, metavar="N", help="passes over the digits (%(default)s)"
    )
    command.add_argument(
        "--batch-size", type=at_least(1), default=32, metavar="N", help="digits in each step (%(default)s)"
    )
    command.add_argument(
        "--seed",
        type=at_least(0),
        default=0,
        metavar="N",
        help="of the weights, the order of the digits, and which are held out (%(default)s)",
    )
    command.add_argument(
        "--plot",
        type=file_to_write(".png", ".svg", ".pdf"),
        metavar="FILE",
        help="also draw losses and times: a .png, .svg or .pdf file",
    )
    command.set_defaults(run=demo)

    cores: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    command = commands.add_parser(
        "bench",
        help="time fastpool, its NumPy reference and the other libraries that are installed",
        description="Time fastpool, its NumPy reference, PyTorch, ONNX Runtime, OpenVINO, JAX and scikit-image, as far "
        "as they are installed, in turn, round after round, on the pooling layers of known networks or on one that you "
        "describe. What takes long, as the reference does, is called only twice.",
    )
    command.add_argument(
        "--ops",
        type=names(OPERATIONS),
        default=[*OPERATIONS],
        metavar="NAME,...",
        help=f"some of {', '.join(OPERATIONS)}",
    )
    inputs = command.add_mutually_exclusive_group()
    inputs.add_argument(
        "--shapes",
        type=names(CASES),
        default=[*CASES],
        metavar="NAME,...",
        help=f"some of {', '.join(CASES)}",
    )
    inputs.add_argument("--shape", type=sizes(4), metavar="N,C,H,W", help="of one input, in place of the named shapes")
    command.add_argument("--kernel", type=sizes(1, 2), metavar="N or H,W", help="size of its windows")
    command.add_argument("--stride", type=sizes(1, 2), metavar="N or H,W", help="distance of its windows (the kernel)")
    command.add_argument("--padding", type=sizes(1, 2, least=0), metavar="N or H,W", help="on either side of it (0)")
    command.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="(%(default)s)")
    command.add_argument(
        "--threads",
        type=at_least(1, cores),
        default=1,
        metavar="N",
        help="of each library (%(default)s)",
    )
    command.add_argument("--rounds", type=at_least(1), metavar="N", help="times that each is timed (5)")
    command.add_argument("--quick", action="store_true", help="3 short rounds, the reference on small shapes alone")
    command.add_argument("--json", type=file_to_write(".json"), metavar="FILE", help="also write every figure")
    command.add_argument(
        "--plot",
        type=file_to_write(".png", ".svg", ".pdf"),
        metavar="FILE",
        help="also draw the times: .png, .svg or .pdf",
    )
    command.add_argument(
        "--html", type=file_to_write(".html"), metavar="FILE", help="also write a page with the tables and the picture"
    )
    command.set_defaults(run=bench, error=command.error)

    command = commands.add_parser(
        "verify",
        help="check that fastpool, or another library, gives what its NumPy reference gives",
        description="Draw calls of every function and layer at random, with ties, NaN, infinities and every memory "
        "layout, and compare the results with those of the NumPy reference; exit code 1 if something differs. The "
        "report has code that reproduces the smallest such call. fastpool must agree to the bit, but for averages and "
        "norms; another library may sum up in another order, and its known differences are named.",
    )
    command.add_argument(
        "implementation",
        nargs="?",
        choices=("fastpool", "torch", "onnxruntime", "jax", "skimage"),
        default="fastpool",
        help="what to compare (%(default)s)",
    )
    command.add_argument(
        "--cases", type=at_least(1), default=100, metavar="N", help="calls of each function (%(default)s)"
    )
    command.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of the calls (%(default)s)")
    command.add_argument(
        "--dtype",
        nargs="+",
        choices=DTYPES,
        default=["float32", "float64", "uint8"],
        metavar="DTYPE",
        help="of these dtypes (float32 float64 uint8)",
    )
    command.add_argument("--json", type=file_to_write(".json"), metavar="FILE", help="also write the report as JSON")
    command.set_defaults(run=verify)

    command = commands.add_parser(
        "warmup",
        help="compile the kernels now, so that the first calls need not",
        description="Compile the kernels of all functions for windows up to 8 wide, 1 to 3 columns apart, and keep "
        "them in the cache directory. Others are compiled when first called.",
    )
    command.add_argument(
        "--dtype", nargs="+", choices=DTYPES, default=["float32"], metavar="DTYPE", help="of these dtypes (%(default)s)"
    )
    command.set_defaults(run=warmup)

    command = commands.add_parser(
        "info",
        help="print versions, CPU, threads and cache directory, to paste into a bug report",
        description="Print the versions of fastpool and what it runs on, the CPU, Numba's threads, and the "
        "directory of compiled kernels: what a bug report needs.",
    )
    command.set_defaults(run=info)
    return top


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return the argparse type of an int of at least `least` and at most `most`."""
    limits = f"at least {least}" if most is None else f"at least {least} and at most {most}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"must be a whole number of {limits}, not {text!r}")
        return value

    return parse


def names(choices: Collection[str]) -> Callable[[str], list[str]]:
    """Return the argparse type of some of these names, with commas between them."""

    def parse(text: str) -> list[str]:
        found = text.split(",")
        for name in found:
            if name not in choices:
                raise argparse.ArgumentTypeError(f"invalid choice: {name!r} (choose from {', '.join(choices)})")
        return list(dict.fromkeys(found))

    return parse


def sizes(*counts: int, least: int = 1) -> Callable[[str], tuple[int, ...]]:
    """Return the argparse type of ints of at least `least`, with commas between them; one for two means both."""
    form = " or ".join(",".join("N" * count) for count in counts)

    def parse(text: str) -> tuple[int, ...]:
        try:
            found = tuple(map(int, text.split(",")))
        except ValueError:
            found = ()
        if len(found) not in counts or min(found) < least:
            raise argparse.ArgumentTypeError(f"must be {form}, each at least {least}; got {text!r}")
        return found * 2 if len(found) == 1 else found

    return parse


def file_to_write(*suffixes: str) -> Callable[[str], Path]:
    """Return the argparse type of a file to write; checked now, for it is written at the end."""
    *others, last = suffixes
    allowed = f"{', '.join(others)} or {last}" if others else last

    def parse(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"the suffix must be {allowed}; got {text!r}")
        if not path.parent.is_dir():
            raise argparse.ArgumentTypeError(f"the directory {str(path.parent)!r} does not exist")
        if not os.access(path if path.exists() else path.parent, os.W_OK) or path.is_dir():
            raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
        return path

    return parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    top = parser()
    arguments = top.parse_args(argv)
    if "run" not in arguments:
        top.print_help(sys.stderr)
        return 2
    try:
        code: int = arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
