"""Every argument of every function, in turn, as what it must not be: refused by name, with nothing written."""

import inspect
import itertools
import re
from functools import cache

import numpy as np
import pytest
from helpers import call, outcome, raised, same_result, sentinel

import fastpool
from fastpool import reference

NAN, INF = float("nan"), float("inf")


class Thing:
    """No number, array or string. Its name is the same in every process, which names of tests must be."""

    def __repr__(self):
        return "Thing()"


class NoIndex(Thing):
    def __index__(self):
        raise TypeError("not to be counted")


#: No int is any of these, however like one some are.
NOT_INTS = [True, np.True_, 2.0, 2.5, -0.0, NAN, INF, 1e38, np.float32(2), np.longdouble(2), np.array(2.0), b"2", 2j]
NOT_INTS += [np.array(True), np.timedelta64(2), np.str_("2"), {2}, {}, {2: 2}, slice(2), int, Thing(), NoIndex()]
TOO_LOW = [-1, -(2**31), -(2**63), -(2**80), -(10**400), np.int8(-1)]
NOT_IN_RANGE = [*TOO_LOW, 2**62, 2**63, 2**80, 10**400, np.uint64(2**63)]
NOT_NUMBERS = ["c8", "c16", "O", "U3", "S3", "M8[s]", "m8[s]", "V4", [("a", "f4")]]
if np.dtype("g") != np.dtype("d"):
    NOT_NUMBERS.append("g")


@cache
def given(ndim):
    """Return an argument of every name, right for `ndim` spatial axes: windows of two places, side by side.

    Sums are of so few bits that nothing is rounded.
    """
    spatial, pooled = (2, 4, 6)[-ndim:], (1, 2, 3)[-ndim:]
    x = (np.arange(6 * np.prod(spatial)) % 7 + 1).astype(np.float32).reshape(2, 3, *spatial)
    y, indices = getattr(reference, f"max_pool{ndim}d")(x, 2, return_indices=True)
    sizes = {"pool": 2, "kernel_size": 2, "stride": 2, "padding": 0, "dilation": 1, "spatial_ndim": ndim}
    flags = {"ceil_mode": False, "return_argmax": False, "return_indices": False, "count_include_pad": True}
    others = {"norm_type": 1, "divisor_override": None, "data_format": "channels_first"}
    arrays = {"x": x, "y": y, "dy": y, "argmax": np.zeros(y.shape, np.uint8), "indices": indices}
    return {**sizes, **flags, **others, **arrays, "input_shape": x.shape, "output_size": pooled}


@cache
def right(name, ndim):
    """Return the arguments of a right call of a function or layer, and the shape and dtype of its result.

    Those of a layer's constructor are followed by those of its forward and backward.
    """
    function = getattr(fastpool, name)
    parameters = [*inspect.signature(function).parameters, *(["x", "dy"] if inspect.isclass(function) else [])]
    every = dict(given(ndim))
    if name == "fold" or name.startswith("max_unpool"):
        every["output_size"] = every["x"].shape[2:]
    if "cols" in parameters:
        every["cols"] = (reference.im2col if name == "col2im" else reference.unfold)(every["x"], 2, stride=2)
    arguments = {parameter: every[parameter] for parameter in parameters if parameter != "out"}
    result = call(reference, name, arguments)
    if "out" in parameters:
        arguments["out"] = None
    return arguments, result.shape, result.dtype


def refuses(name, ndim, error, argument, value, also="", **others):
    """The call with this argument raises this error, and names it, or one in `also`; as the reference does."""
    arguments, shape, dtype = right(name, ndim)
    arguments = arguments | ({"out": sentinel(shape, dtype, "amid others")} if "out" in arguments else {}) | others
    arguments[argument] = value
    found = outcome(fastpool, name, arguments)
    case = f"{argument}={value!r:.99}"
    assert raised(found), case
    assert found[0] is error, f"{case} {found}"
    assert re.search(rf"\b({argument}{also})\b", found[1]), f"{case} {found}"
    assert outcome(reference, name, arguments) == found, case


def agrees(name, ndim, argument, value):
    """The call with this argument has the result of the reference, or its error, which names an argument."""
    arguments = right(name, ndim)[0] | {argument: value}
    expected, found = (outcome(module, name, arguments) for module in (reference, fastpool))
    same_result(found, expected)
    if raised(expected):
        assert expected[0] in (TypeError, ValueError), f"{argument}={value!r:.99} {found}"
        names = "|".join(arguments)
        assert re.search(rf"\b({names}|result)\b", expected[1]), f"{argument}={value!r:.99} {found}"


RANKS = {"im2col": [2], "col2im": [2], "Pooling": [2]}
CALLS = [
    (name, ndim)
    for name in reference.__all__
    for ndim in RANKS.get(name, [int(d) for d in re.findall(r"(\d)d", name)] or [1, 2, 3])
]


def cases(*names):
    """Calls that have one of these arguments, each with that."""
    return [(name, ndim, key) for name, ndim in CALLS for key in right(name, ndim)[0] if key in names]


def named(*names):
    return pytest.mark.parametrize(("name", "ndim", "argument"), cases(*names))


SIZES = "pool", "kernel_size", "stride", "dilation", "output_size"
FLAGS = "ceil_mode", "return_argmax", "return_indices", "count_include_pad"
ARRAYS = "x", "y", "dy", "cols", "argmax", "indices"
OTHERS = "padding", "input_shape", "spatial_ndim", "norm_type", "divisor_override", "data_format", "out"


def test_every_argument_is_tested():
    for name, ndim in CALLS:
        assert set(right(name, ndim)[0]) <= {*SIZES, *FLAGS, *ARRAYS, *OTHERS}


def may_be_none(name, argument):
    return argument == "stride" or (argument == "output_size" and name != "fold")


@named(*SIZES)
def test_sizes(name, ndim, argument):
    for value in ["a", "2", *NOT_INTS, *([w] * ndim for w in NOT_INTS), (2,) * (ndim - 1) + ("2",)]:
        refuses(name, ndim, TypeError, argument, value)
    lengths = [(2,) * n for n in range(5) if n != ndim]
    nested = [
        [[2]],
        ((2, 2), *(2,) * (ndim - 1)),
        ((2,) * ndim,) * ndim,
        np.full((1, ndim), 2),
        [[2, 2]] * 4,
        [[]] * ndim,
    ]
    for value in [0, *NOT_IN_RANGE, *((2,) * (ndim - 1) + (n,) for n in (0, *NOT_IN_RANGE)), *lengths, *nested]:
        refuses(name, ndim, ValueError, argument, value)
    if not may_be_none(name, argument):
        refuses(name, ndim, TypeError, argument, None)


@named(*SIZES)
def test_sizes_that_may_be_right(name, ndim, argument):
    values = [1, 3, np.int8(2), np.uint64(2), np.array(2), [2] * ndim, np.full(ndim, 2), range(2, 2 + ndim)]
    if may_be_none(name, argument):
        values.append(None)
    if argument not in ("output_size", "pool"):  # of which a result, or the reference's padding, would be as large
        values += [2**31, 2**61, 2**62 - 1]
    for value in values:
        agrees(name, ndim, argument, value)


@pytest.mark.parametrize(("name", "ndim", "argument"), cases("padding"))
def test_padding(name, ndim, argument):
    nested = [((0, wrong),) * ndim for wrong in (True, 0.0, None, "0")]
    for value in [None, *(w for w in NOT_INTS if not isinstance(w, str)), *([w] * ndim for w in NOT_INTS), *nested]:
        refuses(name, ndim, TypeError, argument, value)
    names = ["", "full", "SAME", "same ", np.str_("2")]
    wide = [2, 2**31, 2**61, (0,) * (ndim - 1) + (2,), ((0, 0),) * (ndim - 1) + ((0, 2),)]
    lengths = [(0,) * n for n in range(5) if n != ndim] + [((0, 0),) * n for n in range(1, 5) if n != ndim]
    nested = [((0,),) * ndim, ((0, 0, 0),) * ndim, [[[0, 0]] * ndim] * ndim, [[]] * ndim, np.zeros((ndim, 3), int)]
    for value in [*names, *wide, *NOT_IN_RANGE, *([w] * ndim for w in NOT_IN_RANGE), *lengths, *nested]:
        refuses(name, ndim, ValueError, argument, value)
    for value in ["valid", "same", "same_lower", 1, [1] * ndim, np.int8(1), np.array(1), np.ones((ndim, 2), int)]:
        agrees(name, ndim, argument, value)


@named("input_shape")
def test_input_shapes(name, ndim, argument):
    shape = right(name, ndim)[0]["input_shape"]
    for value in [None, 4, "2346", *NOT_INTS, *((*shape[:-1], w) for w in (*NOT_INTS, None, "6", (6,)))]:
        refuses(name, ndim, TypeError, argument, value)
    for value in [(), (6,), shape[1:], (1, *shape), (*shape, 1), (0,) * len(shape)]:
        agrees(name, ndim, argument, value)
    for axis, n in itertools.product(range(len(shape)), [0, -1, -(2**80), 2**31, 2**62, 2**63, 2**80, 10**400]):
        # Of sizes that some image has, it is the other arrays that are not of that image.
        also = "" if n < 0 else "|dy|out"
        refuses(name, ndim, ValueError, argument, (*shape[:axis], n, *shape[axis + 1 :]), also)
    agrees(name, ndim, argument, list(shape))
    agrees(name, ndim, argument, np.array(shape))


@named(*FLAGS)
def test_flags(name, ndim, argument):
    for value in [None, 0, 1, 2**80, NAN, INF, "a", "", (), [True], {}, np.array(True), np.array([True]), Thing()]:
        refuses(name, ndim, TypeError, argument, value)
    for value in [True, np.True_, np.False_]:
        agrees(name, ndim, argument, value)


@named("data_format")
def test_data_formats(name, ndim, argument):
    for value in [None, 1, True, NAN, b"channels_last", ["channels_last"], np.array("channels_last"), Thing()]:
        refuses(name, ndim, TypeError, argument, value)
    for value in ["", "NCHW", "channels", "channels_Last", "channels_last ", np.str_("last")]:
        refuses(name, ndim, ValueError, argument, value)
    for value in ["channels_last", np.str_("channels_first"), np.str_("channels_last")]:
        agrees(name, ndim, argument, value)


@named("norm_type")
def test_norms(name, ndim, argument):
    for value in [None, True, np.True_, "2", b"2", 2j, (2,), [2], {}, np.array(2), np.array([2.0]), Thing(), NoIndex()]:
        refuses(name, ndim, TypeError, argument, value)
    for value in [0, -1, -0.0, NAN, INF, -INF, -(2**80), 10**400, np.float32(NAN), np.longdouble(INF), np.int8(-1)]:
        refuses(name, ndim, ValueError, argument, value)
    for value in [5e-324, 1e38, 2**31, 2**63, 2**80, np.float16(2), np.uint64(2**63), np.longdouble(2)]:
        agrees(name, ndim, argument, value)


@named("divisor_override")
def test_divisors(name, ndim, argument):
    for value in ["a", *NOT_INTS, (), (2,), [2, 2], [[2]], np.ones((1, 2), int)]:
        refuses(name, ndim, TypeError, argument, value)
    for value in [0, *NOT_IN_RANGE]:
        refuses(name, ndim, ValueError, argument, value)
    for value in [None, 1, 2**31, 2**61, np.uint8(4), np.array(4)]:
        agrees(name, ndim, argument, value)


@named("spatial_ndim")
def test_ranks(name, ndim, argument):
    for value in [None, "2", *NOT_INTS, [2.0]]:
        refuses(name, ndim, TypeError, argument, value)
    for value in [0, 4, 2**31, *NOT_IN_RANGE, (), (ndim,), [[2]], np.array([ndim])]:
        refuses(name, ndim, ValueError, argument, value)
    for value in [1, 2, 3, np.int8(ndim), np.array(ndim)]:
        agrees(name, ndim, argument, value)


@named(*ARRAYS)
def test_arrays(name, ndim, argument):
    x = right(name, ndim)[0][argument]
    for value in [None, "abcd", b"abcd", {}, {1}, Thing(), [[1, "a"]], [None], object, iter([1]), slice(2)]:
        refuses(name, ndim, TypeError, argument, value)
    wrong = {"argmax": "?fd", "indices": "?fd", "dy": "?" if name != "Pooling" else ""}.get(argument, "")
    for dtype in [*NOT_NUMBERS, *wrong]:
        refuses(name, ndim, TypeError, argument, np.zeros(x.shape, dtype))
    for value in [2**31, [[1], [1, 2]], x[(0,) * x.ndim]]:
        refuses(name, ndim, ValueError, argument, value)
    for axis in range(x.ndim):
        agrees(name, ndim, argument, x[(slice(None),) * axis + (slice(0),)])
        agrees(name, ndim, argument, x[(slice(None),) * axis + (slice(2, None),)])
    for value in [x[0], x[None], x.reshape(-1), x.T, np.ma.array(x, mask=True), x.tolist(), memoryview(x)]:
        agrees(name, ndim, argument, value)
    foreign, read_only = x.astype(x.dtype.newbyteorder()), x.copy()
    read_only.flags.writeable = False
    for value in [foreign, read_only, np.broadcast_to(x[:1], x.shape), x[::-1]]:
        agrees(name, ndim, argument, value)


@named("argmax", "indices")
def test_positions_that_are_none(name, ndim, argument):
    right_ones = right(name, ndim)[0][argument]
    stop = 2**ndim if argument == "argmax" else np.prod(given(ndim)["x"].shape[2:])
    for dtype, n in itertools.product("bBhHiIlLqQ", [-1, -128, stop, 255, 2**31, 2**32 + 1, 2**63, 2**64 - 1]):
        info = np.iinfo(dtype)
        if info.min <= n <= info.max:
            wrong = right_ones.astype(dtype)
            wrong.flat[-1] = n
            refuses(name, ndim, ValueError, argument, wrong)


@named("out")
def test_out(name, ndim, argument):
    _, shape, dtype = right(name, ndim)
    in_lists = sentinel(shape, dtype).tolist()
    for value in [1.0, "out", b"", True, [], in_lists, np.float32, memoryview(b""), Thing(), dtype.type(1)]:
        refuses(name, ndim, TypeError, argument, value)
    shapes = (), (1,), shape[1:], (1, *shape), shape[:-1] + (shape[-1] + 1,), (0, *shape[1:]), shape[:-1] + (0,)
    for wrong in shapes:
        refuses(name, ndim, ValueError, argument, sentinel(wrong, dtype))
    for other in ["f2", "f8", dtype.newbyteorder(), "i4", "c8", "O", "?", "V4", [("a", "f4")]]:
        refuses(name, ndim, ValueError, argument, np.zeros(shape, other))
    read_only = sentinel(shape, dtype)
    read_only.flags.writeable = False
    refuses(name, ndim, ValueError, argument, read_only)
    refuses(name, ndim, ValueError, argument, np.broadcast_to(dtype.type(77), shape))


@named("out")
def test_out_that_shares_memory(name, ndim, argument):
    arguments, shape, dtype = right(name, ndim)
    for key in arguments.keys() & set(ARRAYS):
        x = arguments[key]
        size = dtype.itemsize * np.prod(shape)
        # The last element of one lies in the first of the other, in either order; or one is all of the other.
        last = (x.nbytes - 1) // dtype.itemsize * dtype.itemsize
        for out_at, x_at in ((0, size - x.itemsize), (last, 0), (0, 0)):
            buffer = np.zeros(size + x.nbytes, np.uint8)
            out, shared = np.ndarray(shape, dtype, buffer, out_at), np.ndarray(x.shape, x.dtype, buffer, x_at)
            shared[...] = x
            refuses(name, ndim, ValueError, argument, out, **{key: shared})


class Refusal(Exception):
    """An error of the caller's own."""


class Refusing(Thing):
    def refuse(self, *args, **kwargs):
        raise Refusal

    __index__ = __array__ = refuse


class RefusingList(list):
    def __iter__(self):
        raise Refusal


@pytest.mark.parametrize(("name", "ndim", "argument"), cases(*SIZES, *ARRAYS, "padding", "input_shape", "spatial_ndim"))
def test_errors_of_the_caller_reach_the_caller(name, ndim, argument):
    values = [Refusing()] if argument != "input_shape" else []
    if argument not in ARRAYS:
        values += [[Refusing()] * ndim, RefusingList([2] * ndim)]
    arguments, shape, dtype = right(name, ndim)
    for module, value in itertools.product((fastpool, reference), values):
        out = {"out": sentinel(shape, dtype)} if "out" in arguments else {}
        assert outcome(module, name, arguments | {argument: value} | out) == (Refusal, "")


@pytest.mark.parametrize(("name", "ndim"), [case for case in CALLS if "out" in right(*case)[0]])
def test_out_of_another_class(name, ndim):
    class Matrix(np.ndarray):
        """Of two axes whatever is made of it, as `numpy.matrix`, which warns."""

        def reshape(self, *shape):
            return super().reshape(-1, 1)

    arguments, shape, dtype = right(name, ndim)
    out = sentinel(shape, dtype).view(Matrix)
    assert call(fastpool, name, arguments | {"out": out}) is out
    same_result(np.asarray(out), call(reference, name, arguments))


@named(*SIZES, "padding", "input_shape")
def test_sequences_without_end(name, ndim, argument):
    itself = []
    itself.append(itself)
    refuses(name, ndim, TypeError, argument, itself)
    for value in (range(2**62), range(1, 2**80)):
        refuses(name, ndim, ValueError, argument, value, "|dy|argmax|indices|cols")
