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
    signature, doc = inspect.signature(function), inspect.cleandoc(function.__doc__ or "")
    first, *others = signature.parameters.values()
    signature = signature.replace(parameters=others)
    annotations = {key: value for key, value in function.__annotations__.items() if key != first.name}
    name, backward, _ = function.__name__.removeprefix("_").partition("_backward")
    # Made as dataclasses make theirs: to hand on *args and **kwargs takes a tenth of the time of a small call.
    bare = inspect.Signature([parameter.replace(annotation=parameter.empty) for parameter in others])
    handed = ", ".join(f"{p.name}={p.name}" if p.kind is p.KEYWORD_ONLY else p.name for p in others)
    make = eval(f"lambda ndim: lambda {str(bare)[1:-1]}: function(ndim, {handed})", {"function": function})

    def of_rank(ndim: int, example: str) -> Callable[P, R]:
        made: Callable[P, R] = wraps(function)(make(ndim))
        made.__name__ = made.__qualname__ = f"{name}{ndim}d{backward}"
        made.__doc__ = doc.replace("Nd", f"{ndim}d") + example
        made.__signature__ = signature  # type: ignore[attr-defined]  # `inspect` reads it, typeshed has it not
        made.__annotations__ = annotations.copy()
        return made

    one, two, three = examples or ("", "", "")
    return of_rank(1, one), of_rank(2, two), of_rank(3, three)
