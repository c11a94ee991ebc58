import os

import pytest
from hypothesis import settings

import fastpool
from fastpool import reference

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# TODO: drop this switch when functional.py is there
FAST = [fastpool] if hasattr(fastpool, "Pooling") else []


@pytest.fixture(scope="session", params=[*FAST, reference], ids=lambda module: module.__name__)
def implementation(request):
    return request.param
