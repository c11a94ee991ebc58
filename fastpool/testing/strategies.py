"""Hypothesis strategies that draw all the parameters of a call together: windows that fit, arrays, whole calls.

Examples
--------
>>> from hypothesis import given
>>> from fastpool import max_pool2d, reference
>>> @given(calls("max_pool2d"))
... def test(call):
...     expected = call.of(reference)
...     np.testing.assert_array_equal(max_pool2d(**call.arrays, **call.parameters), expected)
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from numpy.typing import DTypeLike

from fastpool import reference
from fastpool.testing.arrays import INPUT_LAYOUTS, LAYOUTS, Array, Shape, random_array
from fastpool.testing.calls import PERIOD, Call

Lengths = Sequence[st.SearchStrategy[int]]

#: Every length up to some vectors, and those around a whole number of vectors.
LENGTHS = st.integers(1, 70) | st.sampled_from([n + d for n in (8, 16, 32, 64, 128) for d in (-1, 0, 1)])
SHORT = st.integers(1, 9)

KINDS = st.sampled_from(["ties", "random", "specials", "lowest"])
SUMMABLE = st.sampled_from(["ties", "random", "gaps", "lowest"])  # of which no sum overflows
# Of every kind: each dtype has kernels of its own to compile, and all have their turn in other tests.
NUMBERS = [np.dtype(char) for char in "fdBi"]
dtypes = st.sampled_from([np.dtype("?"), *NUMBERS])
input_layouts = st.sampled_from(INPUT_LAYOUTS)
layouts = st.sampled_from(list(LAYOUTS))
leading_axes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
channels = st.integers(0, 9) | st.sampled_from([15, 16, 17, 33, 65])
divisors = st.fixed_dictionaries(
    {}, optional={"count_include_pad": st.booleans(), "divisor_override": st.none() | st.integers(1, 99)}
)


def arrays(shape: Shape, dtype: DTypeLike, kinds: st.SearchStrategy[str] = KINDS) -> st.SearchStrategy[Array]:
    """Draw an array of `shape` and `dtype`, of one of the kinds of `random_array`."""
    # From a seed: drawing every element would cost more than the test.
    return st.builds(random_array, st.just(shape), st.just(dtype), st.integers(0, 2**32 - 1), kinds)


def per_axis(sizes: st.SearchStrategy[Any], ndim: int = 2) -> st.SearchStrategy[Any]:
    """Draw one size for all axes, or one each."""
    return sizes | st.tuples(*[sizes] * ndim)


def each(value: Any, ndim: int) -> Any:
    """Return the value of each axis."""
    return value if isinstance(value, tuple) else (value,) * ndim


@st.composite
def windows(
    draw: st.DrawFn,
    kernels: int = 9,
    strides: int = 5,
    dilations: int = 3,
    lengths: Lengths = (SHORT, LENGTHS),
    im2col: bool = False,
) -> tuple[Shape, dict[str, Any]]:
    """Draw a spatial shape, of an axis for each of `lengths`, and the keyword arguments of a window that fits it.

    Padding and dilation may leave a window without an element.

    Parameters
    ----------
    draw
        Given by Hypothesis.
    kernels, strides, dilations : int
        The largest along an axis.
    lengths : sequence of strategies
        The length of each axis; it gets longer where the window does not fit.
    im2col : bool
        Whether the arguments are those of `im2col`: an output size, and no ceil mode.
    """
    ndim = len(lengths)
    kernel = draw(per_axis(st.integers(1, kernels), ndim))
    dilation = draw(per_axis(st.integers(1, dilations), ndim))
    reach = [d * (k - 1) + 1 for k, d in zip(each(kernel, ndim), each(dilation, ndim))]
    sides = [st.integers(0, r - 1) for r in reach]
    padding = draw(
        st.just(0)
        | st.sampled_from(["valid", "same", "same_lower"])
        | st.integers(0, min(reach) - 1)
        | st.tuples(*sides)
        | st.tuples(*(st.tuples(side, side) for side in sides))
    )
    arguments = {"kernel_size": kernel, "padding": padding, "dilation": dilation}
    arguments["stride"] = draw(st.none() | per_axis(st.integers(1, strides), ndim))
    if not im2col:
        arguments["ceil_mode"] = draw(st.booleans())
    least = [
        r - sum(each(p, 2)) if not isinstance(p, str) else r if p == "valid" else 1
        for r, p in zip(reach, each(padding, ndim))
    ]
    spatial = tuple(max(n, draw(axis)) for n, axis in zip(least, lengths))
    if im2col and draw(st.booleans()):
        padded = [n + (0 if isinstance(p, str) else sum(each(p, 2))) for n, p in zip(spatial, each(padding, ndim))]
        stride = each(arguments["stride"] or kernel, ndim)
        arguments["output_size"] = tuple(draw(st.integers(1, (n - 1) // s + 1)) for n, s in zip(padded, stride))
    return spatial, arguments


#: Of each number of spatial axes, their lengths and the largest kernel.
_RANKS: dict[int, tuple[Lengths, int]] = {
    1: ((LENGTHS,), 9),
    2: ((SHORT, LENGTHS), 9),
    3: ((st.integers(1, 6), st.integers(1, 6), SHORT | LENGTHS), 4),
}
#: Bytes beyond which threads share the work.
_LARGE = 4 << 20


@st.composite
def calls(draw: st.DrawFn, name: str, dtypes: Sequence[DTypeLike] = NUMBERS, large: bool = False) -> Call:
    """Draw a valid call of a function or layer, or one of which a window covers nothing but padding.

    Parameters
    ----------
    draw
        Given by Hypothesis.
    name : str
        One of `fastpool.testing.NAMES`.
    dtypes : sequence of dtype
        Of the arrays; of gradients as well.
    large : bool
        Whether x has more than 4 MiB, so that threads share it; not of `im2col` and `col2im`.
    """
    kind = re.sub(r"\dd|_backward", "", name).lower().replace("_", "")
    ndim = int((re.findall(r"(\d)d", name) or [draw(st.integers(1, 3))])[0])
    if kind in ("im2col", "col2im", "pooling"):
        ndim = 2
    dtype = np.dtype(draw(st.sampled_from([np.dtype(dtype) for dtype in dtypes])))
    spatial, window = draw(_geometry(kind, ndim))
    channels_last = "data_format" in window
    if kind in ("unfold", "fold", "im2col", "col2im"):
        leading = draw(st.tuples(*[st.integers(0, 3)] * 2))
    elif channels_last:
        leading = draw(st.lists(st.integers(0, 3), max_size=2).map(tuple))
    else:
        leading = draw(leading_axes) if not name[0].isupper() else draw(st.tuples(*[st.integers(0, 3)] * 2))
    if kind == "pooling":
        leading = (leading + (1, 1))[:2]
    shape = (*leading, *spatial, *([draw(channels)] if channels_last else []))
    sums = kind.startswith(("avg", "lp", "adaptiveavg", "globalavg"))
    kinds = SUMMABLE if sums else KINDS
    draw_array: Callable[..., st.SearchStrategy[Array]] = arrays
    if large and kind not in ("im2col", "col2im"):
        draw_array = _repeated
        shape = tuple(max(1, n) for n in (shape if leading else (1, *shape)))
        shape = (_LARGE // dtype.itemsize // int(np.prod(shape[1:])) + 1, *shape[1:])
    x = draw(draw_array(shape, dtype, kinds))
    layout = draw(input_layouts) if dtype.kind != "V" else "contiguous"
    with np.errstate(all="ignore"):
        given, parameters = _given(draw, draw_array, name, kind, ndim, x, window)
    return Call(name, given, parameters, layout)


def _repeated(shape: Shape, dtype: DTypeLike, kinds: st.SearchStrategy[str]) -> st.SearchStrategy[Array]:
    """Draw an array; many planes are a few, again and again."""
    return arrays((min(shape[0], PERIOD), *shape[1:]), dtype, kinds).map(lambda x: np.resize(x, shape))


@st.composite
def _geometry(draw: st.DrawFn, kind: str, ndim: int) -> tuple[Shape, dict[str, Any]]:
    """Draw a spatial shape and the arguments that have nothing to do with values."""
    lengths, most = _RANKS[ndim]
    window: dict[str, Any]
    if kind == "pooling":
        return draw(st.tuples(*lengths)), {"pool": draw(st.integers(1, 5))}
    if kind == "maxunpool":
        kernel = draw(per_axis(st.integers(1, 4), ndim))
        spatial = tuple(max(k, draw(axis)) for k, axis in zip(each(kernel, ndim), lengths))
        return spatial, {"kernel_size": kernel, "stride": draw(st.none() | per_axis(st.integers(1, 4), ndim))}
    if kind.startswith(("adaptive", "global")):
        spatial, window = draw(st.tuples(*lengths)), {}
        if kind.startswith("global"):
            window["spatial_ndim"] = ndim
        else:
            window["output_size"] = draw(per_axis(st.none() | SHORT, ndim))
    else:
        spatial, window = draw(windows(most, 3, 2, lengths, im2col=kind.endswith(("fold", "2col", "2im"))))
        if kind.endswith("fold"):
            window.pop("output_size", None)
        if kind.endswith(("fold", "2col", "2im")):
            window["stride"] = window["stride"] or 1
            return spatial, window
        if kind.startswith("lp"):
            window["norm_type"] = draw(st.sampled_from([2, 1, 3, 0.5, 2.5]))
        if kind.startswith("avg"):
            window |= draw(divisors)
        if kind.endswith(("indices", "argmax")):
            window["spatial_ndim"] = ndim
    if draw(st.booleans()):
        window["data_format"] = "channels_last"
    return spatial, window


def _given(
    draw: st.DrawFn,
    draw_array: Callable[..., st.SearchStrategy[Array]],
    name: str,
    kind: str,
    ndim: int,
    x: Array,
    window: dict[str, Any],
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays and the parameters of a call; what a backward takes, the reference gives for `x`."""

    def of_reference(function: str, *given: Any, **others: Any) -> Any:
        try:
            return getattr(reference, function.replace("Nd", f"{ndim}d"))(x, *given, **others)
        except ValueError:  # a window of padding alone
            return None

    def gradient(y: Array) -> Array:
        dtype = x.dtype if x.dtype.kind != "b" else np.uint8
        return draw(draw_array(y.shape, dtype, SUMMABLE))

    if name[0].isupper():
        forward: Callable[[], Any] = lambda: getattr(reference, name)(**window).forward(x)  # noqa: E731
        try:
            return {"x": x, "dy": gradient(forward())}, window
        except ValueError:
            return {"x": x, "dy": x}, window
    shaped = {"input_shape": x.shape, **window}
    if kind in ("fold", "col2im"):
        cols = of_reference("unfold" if kind == "fold" else "im2col", **window)
        size = {"output_size": list(x.shape[2:])} if kind == "fold" else {"input_shape": x.shape}
        return {"cols": gradient(cols)}, {**size, **window}
    if kind in ("argmaxtoindices", "indicestoargmax", "maxunpool"):
        pooled = {key: value for key, value in window.items() if key != "spatial_ndim"}
        wanted = "return_argmax" if kind == "argmaxtoindices" else "return_indices"
        found = of_reference("max_poolNd", **pooled, **{wanted: True})
        if found is None:
            found = x, np.zeros(x.shape, np.int64)
        if kind == "maxunpool":
            return {"y": found[0], "indices": found[1]}, {**window, "output_size": x.shape[-ndim:]}
        return {"argmax" if wanted == "return_argmax" else "indices": found[1]}, shaped
    if not name.endswith("_backward"):
        if "max" in kind and not kind.startswith("global"):
            window = window | draw(st.sampled_from([{}, {"return_argmax": True}, {"return_indices": True}]))
        return {"x": x}, window
    if "max" in kind:
        found = of_reference(name.removesuffix("_backward"), **window, return_argmax=True)
        found = found or (x, np.zeros(x.shape, np.uint8))
        shaped.pop("output_size", None)
        return {"dy": gradient(found[0]), "argmax": found[1]}, shaped
    y = of_reference(name.removesuffix("_backward"), **window)
    y = x if y is None else y
    if kind.startswith("lp"):
        return {"dy": gradient(y), "x": x, "y": y}, window
    shaped.pop("output_size", None)
    return {"dy": gradient(y)}, shaped


class _Wanted(Exception):
    """A call that shows what `smallest` looks for."""


def explore(strategy: st.SearchStrategy[Any], visit: Callable[[Any], object], cases: int, seed: int) -> None:
    """Call `visit` with so many values, which are the same for the same seed."""
    _run(strategy, visit, cases, seed, [Phase.generate])


def smallest(strategy: st.SearchStrategy[Any], shows: Callable[[Any], bool], cases: int, seed: int) -> Any:
    """Return the smallest value found of which `shows` is true; `explore` came by one with the same seed."""
    found = []

    def visit(value: Any) -> None:
        if shows(value):
            found.append(value)
            raise _Wanted

    # An implementation that does not always give the same is Flaky: what it last differed on has to do.
    with contextlib.suppress(_Wanted, Flaky):
        _run(strategy, visit, cases, seed, [Phase.generate, Phase.shrink])
    return found[-1]


def _run(
    strategy: st.SearchStrategy[Any], visit: Callable[[Any], object], cases: int, seed: int, phases: list[Phase]
) -> None:
    def test(value: Any) -> None:
        visit(value)

    quiet = settings(
        max_examples=cases,
        phases=phases,
        database=None,
        deadline=None,
        derandomize=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    hypothesis.seed(seed)(quiet(given(strategy)(test)))()
