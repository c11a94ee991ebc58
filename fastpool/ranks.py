"""One function for any number of spatial axes, as a function for each: 1, 2 and 3."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def ranks(
    function: Callable[Concatenate[int, P], R], *examples: str
) -> tuple[Callable[P, R], Callable[P, R], Callable[P, R]]:
    """Return `function`, whose first argument is the number of spatial axes, for 1, 2 and 3 of them.

    From ``_max_pool`` come ``max_pool1d``, ``max_pool2d`` and ``max_pool3d``, from ``_max_pool_backward``
    ``max_pool1d_backward`` and so on: functions with its signature but for that argument, and with its
    docstring, in which "Nd" is what the function's name has in its place, and at whose end are the
    `examples`, one for each.
    """
    one, two, three = examples or ("", "", "")
    return _of_rank(function, 1, one), _of_rank(function, 2, two), _of_rank(function, 3, three)


def _of_rank(function: Callable[Concatenate[int, P], R], ndim: int, examples: str) -> Callable[P, R]:
    signature = inspect.signature(function)
    first, *others = signature.parameters.values()
    # Made as dataclasses make theirs: to hand on *args and **kwargs takes a tenth of the time of a small call.
    bare = inspect.Signature([parameter.replace(annotation=parameter.empty) for parameter in others])
    handed = ", ".join(f"{p.name}={p.name}" if p.kind is p.KEYWORD_ONLY else p.name for p in others)
    made: Callable[P, R] = eval(f"lambda {str(bare)[1:-1]}: function({ndim}, {handed})", {"function": function})
    of_rank = wraps(function)(made)
    name, backward, _ = function.__name__.removeprefix("_").partition("_backward")
    of_rank.__name__ = of_rank.__qualname__ = f"{name}{ndim}d{backward}"
    of_rank.__doc__ = inspect.cleandoc(function.__doc__ or "").replace("Nd", f"{ndim}d") + examples
    of_rank.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
    of_rank.__annotations__ = {key: value for key, value in function.__annotations__.items() if key != first.name}
    return of_rank
