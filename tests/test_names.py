"""The fast package and the reference are the same to a caller."""

import inspect

import pytest

import fastpool
from fastpool import reference


def test_both_have_the_same_names():
    assert set(fastpool.__all__) - {"__version__"} == set(reference.__all__)


@pytest.mark.parametrize("name", reference.__all__)
def test_both_have_the_same_signatures(name):
    fast, slow = getattr(fastpool, name), getattr(reference, name)
    assert inspect.signature(fast) == inspect.signature(slow)
    if inspect.isclass(fast):
        methods = {n for n in vars(fast) if inspect.isfunction(vars(fast)[n])}
        assert methods == {n for n in vars(slow) if inspect.isfunction(vars(slow)[n])}
        for method in methods:
            assert inspect.signature(getattr(fast, method)) == inspect.signature(getattr(slow, method))
