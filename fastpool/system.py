"""Facts of the installation and of the machine, for bug reports."""

from __future__ import annotations

import os
import platform

import llvmlite
import llvmlite.binding
import numba
import numpy as np

import fastpool

#: Vector extensions that decide how wide the kernels' vectors are and how floats are converted.
FEATURES = ("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512bf16", "avx512fp16", "neon", "sve")


def facts() -> dict[str, str]:
    """Return every fact by its name, in the order in which to print them."""
    from fastpool.kernels.cache import cache_directory

    threads, layer = numba_threads()
    return {
        "fastpool": fastpool.__version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "CPU": llvmlite.binding.get_host_cpu_name(),
        "CPU features": cpu_features(),
        "CPU cores": cpu_cores(),
        "Numba threads": threads,
        "threading layer": layer,
        "cache directory": str(cache_directory() or "none: kernels are compiled anew in every process"),
    }


def cpu_features() -> str:
    """Return those of `FEATURES` that LLVM finds in this CPU."""
    found = llvmlite.binding.get_host_cpu_features()
    return " ".join(name for name in FEATURES if found.get(name)) or f"none of {' '.join(FEATURES)}"


def cpu_cores() -> str:
    """Return the number of logical cores, and how many of them this process may use where the system tells."""
    count = str(os.cpu_count())
    if hasattr(os, "sched_getaffinity"):
        count += f" ({len(os.sched_getaffinity(0))} for this process)"
    return count


def numba_threads() -> tuple[str, str]:
    """Return the number of Numba's threads, and its threading layer or why there is none."""
    try:
        return str(numba.get_num_threads()), numba.threading_layer()  # type: ignore[attr-defined]
    except ValueError as error:  # no layer loads: what a bug report has to say
        return "none", str(error).replace("\n", " ")
