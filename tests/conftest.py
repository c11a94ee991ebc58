import os

import pytest
from hypothesis import settings

import fastpool
from fastpool import reference
from fastpool.kernels import hold

#: A program, which needs atheris: doctests are looked for in every module.
collect_ignore = ["fuzz.py"]

# What is far from any cache is the same on every machine.
hold.SHARE = 0

# No deadline: the first call of a dtype compiles.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


#: Files that take longest: short ones come last, or one process would wait for the other. Beside the first of these
#: there are three that share no kernels with it, or both processes would compile the same at the same time.
LONG = (
    "memory", "testing", "simd", "lowering", "max_pool", "widths", "max_pool_backward", "channels_last", "whole",
    "flat", "agreement", "blocked", "wide", "ranks", "adaptive", "faults", "processes", "columns", "avg_pool", "cache",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    places = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session", params=[fastpool, reference], ids=lambda module: module.__name__)
def implementation(request):
    return request.param
