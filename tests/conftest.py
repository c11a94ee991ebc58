import os

import pytest
from hypothesis import settings

import fastpool
from fastpool import reference

#: A program, which needs atheris: doctests are looked for in every module.
collect_ignore = ["fuzz.py"]

# No deadline: the first call of a dtype compiles.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


#: Files whose tests are few and long: they come first, or all would wait for the last of them.
NAMES = "memory", "faults", "processes", "cache", "lowering", "widths", "columns", "ranks", "testing"
LONG = {f"test_{name}" for name in NAMES}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session", params=[fastpool, reference], ids=lambda module: module.__name__)
def implementation(request):
    return request.param
