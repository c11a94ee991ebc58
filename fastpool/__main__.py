"""The command line: ``python -m fastpool``.

A subcommand is a function from its parsed arguments to an exit code, and a few lines in `parser`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

import fastpool

#: What `warmup` compiles for.
DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")


def demo(arguments: argparse.Namespace) -> int:
    """Train on the digits with `fastpool` and with its reference."""
    try:
        for package in ("matplotlib", "rich", "sklearn"):
            import_module(package)
    except ImportError as error:
        print(
            f"The demo needs its extra ({error}). Install it with\n"
            "    python -m pip install 'fastpool[demo]'\n"
            "or, in a clone of the repository, with\n"
            "    python -m pip install '.[demo]'",
            file=sys.stderr,
        )
        return 2
    from fastpool.demo import main

    return main(arguments.epochs, arguments.batch_size, arguments.seed, arguments.plot)


def info(arguments: argparse.Namespace) -> int:
    """Print the facts that a bug report needs."""
    from fastpool.system import facts

    for name, fact in facts().items():
        print(f"{name:<16} {fact}")
    return 0


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
        "--plot", type=plot_file, metavar="FILE", help="also draw losses and times: a .png, .svg or .pdf file"
    )
    command.set_defaults(run=demo)

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


def at_least(least: int) -> Callable[[str], int]:
    """Return the argparse type of an int of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text!r}")
        return value

    return parse


def plot_file(text: str) -> Path:
    """Argparse type of a file to write a plot to; checked now, for the plot comes after the training."""
    path = Path(text)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise argparse.ArgumentTypeError(f"the suffix must be .png, .svg or .pdf; got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the directory {str(path.parent)!r} does not exist")
    if not os.access(path if path.exists() else path.parent, os.W_OK) or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return path


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
