"""Every argument refuses what it cannot be, by name and before anything is written."""

import re

import numpy as np
import pytest
from helpers import same_values, sentinel

NAN = float("nan")


class Thing:
    """No number, array or string. Its name is the same in every process, which names of tests must be."""

    def __repr__(self):
        return "Thing()"


X = np.arange(2 * 3 * 6 * 7, dtype=np.float32).reshape(2, 3, 6, 7)
DY = np.ones((2, 3, 3, 3), np.float32)
ARGMAX = np.zeros((2, 3, 3, 3), np.uint8)
COLS = np.ones((12, 18), np.float32)
UNFOLDED = np.ones((2, 12, 9), np.float32)

#: A call of every function that is right but for what a test puts in its place.
RIGHT = {
    "im2col": {"x": X, "kernel_size": 2, "stride": 2},
    "col2im": {"cols": COLS, "input_shape": X.shape, "kernel_size": 2, "stride": 2},
    "unfold": {"x": X, "kernel_size": 2, "stride": 2},
    "fold": {"cols": UNFOLDED, "output_size": (6, 7), "kernel_size": 2, "stride": 2},
    "max_pool2d": {"x": X, "kernel_size": 2},
    "max_pool2d_backward": {"dy": DY, "argmax": ARGMAX, "input_shape": X.shape, "kernel_size": 2},
    "avg_pool2d": {"x": X, "kernel_size": 2},
    "avg_pool2d_backward": {"dy": DY, "input_shape": X.shape, "kernel_size": 2},
}
SHAPES = {
    "im2col": COLS.shape,
    "col2im": X.shape,
    "unfold": UNFOLDED.shape,
    "fold": X.shape,
    "max_pool2d": DY.shape,
    "max_pool2d_backward": X.shape,
    "avg_pool2d": DY.shape,
    "avg_pool2d_backward": X.shape,
}
ARRAYS = [(name, key) for name, right in RIGHT.items() for key in right if isinstance(right[key], np.ndarray)]
MAXIMA, AVERAGES = ["max_pool2d", "max_pool2d_backward"], ["avg_pool2d", "avg_pool2d_backward"]
POOLS = MAXIMA + AVERAGES
BACKWARDS = ["max_pool2d_backward", "avg_pool2d_backward"]

NOT_INTS = [True, np.True_, 2.5, 2.0, np.float32(2), NAN, b"2", 2j, {2}, {}, Thing(), (2, True), (2, 2.0), (2, None)]
NOT_SHAPED = [(), (2,), (2, 2, 2), ((2, 2), 2), ((2, 2), (2, 2)), [[2]], np.ones((1, 2), int)]


def refuses(implementation, function, error, message, **changes):
    """The call with these changes raises this error, and leaves a given `out` as it was."""
    out = sentinel(SHAPES[function], np.float32)
    arguments = {**RIGHT[function], "out": out, **changes}
    with pytest.raises(error, match=message) as caught:
        getattr(implementation, function)(**arguments)
    assert caught.type is error  # nothing derived from it, as UnicodeError or Numba's own
    same_values(out, sentinel(SHAPES[function], np.float32))


@pytest.mark.parametrize("function", RIGHT)
def test_what_the_other_tests_start_from_is_right(implementation, function):
    out = sentinel(SHAPES[function], np.float32)
    assert getattr(implementation, function)(**RIGHT[function], out=out) is out


@pytest.mark.parametrize("function", RIGHT)
@pytest.mark.parametrize("argument", ["kernel_size", "stride", "dilation"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(v, TypeError) for v in ("a", *NOT_INTS)]
    + [(v, ValueError) for v in (0, -1, (2, 0), (-3, 2), 2**63, 2**80, (2, 2**80), *NOT_SHAPED)],
    ids=repr,
)
def test_sizes(implementation, function, argument, value, error):
    refuses(implementation, function, error, argument, **{argument: value})


@pytest.mark.parametrize("function", RIGHT)
def test_sizes_that_cannot_be_none(implementation, function):
    for argument in ("kernel_size", "dilation"):
        refuses(implementation, function, TypeError, argument, **{argument: None})


@pytest.mark.parametrize("function", RIGHT)
@pytest.mark.parametrize("value", [8, 2**31, (2, 8), (7, 2)], ids=repr)
def test_kernels_larger_than_the_input(implementation, function, value):
    refuses(implementation, function, ValueError, "kernel_size", kernel_size=value)


@pytest.mark.parametrize("function", RIGHT)
@pytest.mark.parametrize("value", [6, 2**31, (1, 7), (6, 1)], ids=repr)
def test_dilated_kernels_larger_than_the_input(implementation, function, value):
    refuses(implementation, function, ValueError, "kernel_size.*dilated", dilation=value)


@pytest.mark.parametrize("function", RIGHT)
@pytest.mark.parametrize(
    ("value", "error"),
    [(v, TypeError) for v in [*NOT_INTS, None, ((0, True), (0, 0)), ((0, 0.0), (0, 0)), ((0, "a"), (0, 0))]]
    + [
        (v, ValueError)
        for v in (-1, (0, -1), ((0, -1), (0, 0)), 2, (1, 2), ((0, 2), (0, 0)), ((0, 0), (2, 0)), 2**31, 2**63, 2**80)
    ]
    + [
        (v, ValueError)
        for v in ("", "full", "SAME", (), (1,), (1, 1, 1), ((0, 1),), ((0, 1, 0), (0, 1)), [[[0, 1]] * 2])
    ],
    ids=repr,
)
def test_padding(implementation, function, value, error):
    refuses(implementation, function, error, "padding", padding=value)


@pytest.mark.parametrize("function", RIGHT)
def test_padding_is_compared_with_the_dilated_kernel(implementation, function):
    refuses(implementation, function, ValueError, "padding", padding=(0, 4), dilation=(1, 3))
    window = {"kernel_size": (1, 2), "padding": ((0, 0), (3, 3)), "dilation": (9, 3)}
    assert implementation.max_pool2d(X, **window, stride=1).shape == (2, 3, 6, 10)


@pytest.mark.parametrize("function", POOLS)
def test_windows_of_padding_alone(implementation, function):
    refuses(implementation, function, ValueError, "padding", dilation=(8, 1), padding=(8, 0))


@pytest.mark.parametrize("function", POOLS)
@pytest.mark.parametrize("value", [None, 0, 1, 2.5, NAN, "a", [True], np.array(True), np.array([True])], ids=repr)
def test_ceil_mode(implementation, function, value):
    refuses(implementation, function, TypeError, "ceil_mode", ceil_mode=value)


@pytest.mark.parametrize("function", POOLS)
@pytest.mark.parametrize(
    ("value", "error"),
    [(v, TypeError) for v in (None, 1, True, b"channels_last", ["channels_last"], np.array("channels_last"), Thing())]
    + [(v, ValueError) for v in ("", "NCHW", "channels", "channels_Last", "channels_last ", np.str_("last"))],
    ids=repr,
)
def test_data_format(implementation, function, value, error):
    refuses(implementation, function, error, "data_format", data_format=value)


@pytest.mark.parametrize("function", AVERAGES)
@pytest.mark.parametrize("value", [None, 0, 1, 2.5, NAN, "a", [True], np.array(True), np.array([True])], ids=repr)
def test_count_include_pad(implementation, function, value):
    refuses(implementation, function, TypeError, "count_include_pad", count_include_pad=value)


@pytest.mark.parametrize("function", AVERAGES)
@pytest.mark.parametrize(
    ("value", "error"),
    [(v, TypeError) for v in ("a", *NOT_INTS, (), (2,), (2, 2), [[2]], np.ones((1, 2), int))]
    + [(v, ValueError) for v in (0, -1, -(2**80), 2**62, 2**80, 10**400)],
    ids=lambda value: repr(value)[:40],
)
def test_divisor_override(implementation, function, value, error):
    refuses(implementation, function, error, "divisor_override", divisor_override=value)


@pytest.mark.parametrize("function", ["im2col", "col2im"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(v, TypeError) for v in ("a", *NOT_INTS)]
    + [(v, ValueError) for v in (0, -1, (3, 0), 5, (4, 3), 2**31, 2**63, 2**80, *NOT_SHAPED)],
    ids=repr,
)
def test_output_size(implementation, function, value, error):
    refuses(implementation, function, error, "output_size", output_size=value)


@pytest.mark.parametrize("function", ["col2im", *BACKWARDS])
@pytest.mark.parametrize(
    "value",
    [None, 4, 2.5, NAN, "abcd", Thing(), (2, 3, 6, 7.0), (2, 3, 6, True), (2, 3, 6, None), (2, 3, (6, 7))],
    ids=repr,
)
def test_shapes_that_are_none(implementation, function, value):
    refuses(implementation, function, TypeError, "input_shape", input_shape=value)


@pytest.mark.parametrize("function", ["col2im", *BACKWARDS])
@pytest.mark.parametrize(
    "value", [(), (7,), (-2, 3, 6, 7), (2, 3, 6, -7), (2, 3, 0, 7), (2, 3, 6, 0), (0, 0, 0, 0)], ids=repr
)
def test_shapes_of_no_image(implementation, function, value):
    refuses(implementation, function, ValueError, "input_shape", input_shape=value)


@pytest.mark.parametrize(
    ("value", "error"),
    [(v, TypeError) for v in ("a", None, *NOT_INTS)]
    + [(v, ValueError) for v in (0, -1, (6, 0), (6, -7), 2**63, 2**80, (6, 2**80), *NOT_SHAPED)],
    ids=repr,
)
def test_size_that_fold_gives(implementation, value, error):
    refuses(implementation, "fold", error, "output_size", output_size=value)


@pytest.mark.parametrize("value", [5, (6, 5), (9, 7), (6, 2**61)], ids=repr)
def test_fold_to_another_size(implementation, value):
    # The columns are named, with the shape that they would need.
    refuses(implementation, "fold", ValueError, "^cols .*shape", output_size=value)


@pytest.mark.parametrize(
    "shape",
    [(), (12,), (12, 8), (2, 12, 10), (2, 12, 0), (11, 9), (2, 13, 9), (1, 2, 12, 9), (9, 12), (2, 9, 12)],
    ids=str,
)
def test_columns_that_are_none(implementation, shape):
    refuses(implementation, "fold", ValueError, "^cols .*shape", cols=np.ones(shape, np.float32))


@pytest.mark.parametrize("value", [(2, 3, 6), (1, 2, 3, 6, 7)], ids=repr)
def test_col2im_gives_images(implementation, value):
    refuses(implementation, "col2im", ValueError, "input_shape", input_shape=value)


@pytest.mark.parametrize("function", ["col2im", *BACKWARDS])
@pytest.mark.parametrize(
    "value", [(2, 3, 6, 5), (2, 3, 9, 7), (2, 4, 6, 7), (0, 3, 6, 7), (2, 3, 6, 2**80), (2**80, 3, 6, 7)], ids=repr
)
def test_shapes_of_another_image(implementation, function, value):
    # The given array is named, with the shape that it would need, which depends on every parameter.
    name = "cols" if function == "col2im" else "dy"
    refuses(implementation, function, ValueError, f"{name} .*shape", input_shape=value)


def test_arrays_of_another_shape(implementation):
    for function, argument in (("col2im", "cols"), *((f, "dy") for f in BACKWARDS), ("max_pool2d_backward", "argmax")):
        right = RIGHT[function][argument]
        for wrong in (right[:1], right[:0], right[0], right[..., :-1], right[None], right.reshape(-1)):
            refuses(implementation, function, ValueError, f"^{argument} ", **{argument: wrong})


@pytest.mark.parametrize(("function", "argument"), ARRAYS)
@pytest.mark.parametrize(
    "dtype",
    ["c8", "c16", "O", "U3", "S3", "M8[s]", "m8[s]", "g", "V4", [("a", "f4")]],
    ids=str,
)
def test_dtypes(implementation, function, argument, dtype):
    if dtype == "g" and np.dtype("g") == np.dtype("d"):
        pytest.skip("long double is double here")
    wrong = np.zeros(RIGHT[function][argument].shape, dtype)
    name = re.escape(str(wrong.dtype))
    refuses(implementation, function, TypeError, f"{argument} .*{name}", **{argument: wrong})


@pytest.mark.parametrize("function", BACKWARDS)
def test_gradients_are_numbers(implementation, function):
    refuses(implementation, function, TypeError, "dy .*bool", dy=DY > 0)


@pytest.mark.parametrize("dtype", ["?", "f4", "f8"])
def test_positions_are_integers(implementation, dtype):
    positions = ARGMAX.astype(dtype)
    refuses(implementation, "max_pool2d_backward", TypeError, f"argmax .*{positions.dtype}", argmax=positions)


@pytest.mark.parametrize(("function", "argument"), ARRAYS)
@pytest.mark.parametrize(
    ("value", "error"),
    [(v, TypeError) for v in (None, "abcd", Thing(), {}, [[1, "a"]])] + [([[1], [1, 2]], ValueError)],
    ids=repr,
)
def test_no_arrays(implementation, function, argument, value, error):
    refuses(implementation, function, error, argument, **{argument: value})


@pytest.mark.parametrize("function", ["im2col", "unfold", "max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize("shape", [(), (7,), (2, 3, 0, 7), (2, 3, 6, 0), (0, 0, 0, 0)], ids=str)
def test_inputs_without_planes(implementation, function, shape):
    refuses(implementation, function, ValueError, "^x", x=np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("function", "shape"),
    [("im2col", (6, 7)), ("im2col", (3, 6, 7)), ("im2col", (1, 2, 3, 6, 7)), ("unfold", (6, 7)), ("unfold", (1,) * 6)],
    ids=str,
)
def test_columns_are_of_images(implementation, function, shape):
    refuses(implementation, function, ValueError, "^x ", x=np.zeros(shape, np.float32))


@pytest.mark.parametrize("function", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize("shape", [(), (7,), (6, 7), (0, 7, 3), (2, 6, 0, 3), (2, 0, 7, 0)], ids=str)
def test_inputs_without_planes_before_the_channel(implementation, function, shape):
    x = np.zeros(shape, np.float32)
    refuses(implementation, function, ValueError, "^x", x=x, data_format="channels_last")


@pytest.mark.parametrize("function", BACKWARDS)
def test_shapes_in_the_other_format(implementation, function):
    # (2, 3, 6, 7) has planes of (3, 6) and 7 channels, of which (2, 3, 3, 3) is not the result.
    last = {"data_format": "channels_last"}
    refuses(implementation, function, ValueError, "^dy .*shape", **last)
    refuses(implementation, function, ValueError, "^input_shape ", input_shape=(6, 7), **last)
    refuses(implementation, function, ValueError, "^input_shape", input_shape=(0, 7, 3), **last)
    dy = np.ones((2, 1, 3, 7), np.float32)
    if function == "max_pool2d_backward":
        refuses(implementation, function, ValueError, "^argmax .*shape", dy=dy, **last)
    refuses(implementation, function, ValueError, "^dy .*shape", dy=dy)


def test_results_too_large_to_address(implementation):
    huge = np.broadcast_to(np.float32(1), (1, 1, 2**20, 2**20))
    message = "result .*shape.*addressed"
    refuses(implementation, "im2col", ValueError, message, x=huge, kernel_size=2**11, stride=1, out=None)
    window = {"kernel_size": 2**31, "stride": 1, "padding": 2**31 - 1}
    for function in ("max_pool2d", "avg_pool2d"):
        refuses(implementation, function, ValueError, message, x=[[1.0]], **window, out=None)
        last = {"x": [[[1.0]]], "data_format": "channels_last"}
        refuses(implementation, function, ValueError, message, **last, **window, out=None)
    refuses(implementation, "unfold", ValueError, message, x=huge, kernel_size=2**11, stride=1, out=None)
    nothing = {"cols": np.empty((0, 1, 2**60), bool), "output_size": 2**30, "kernel_size": 1, "stride": 1, "out": None}
    refuses(implementation, "fold", ValueError, message, **nothing)
    nothing = {"cols": np.empty((4, 0)), "input_shape": (0, 1, 2**40, 2**40), "kernel_size": 2, "out": None}
    refuses(implementation, "col2im", ValueError, message, **nothing)
    nothing = np.empty((0, 2**30, 2**30), np.float32), np.empty((0, 2**30, 2**30), np.uint8)
    shape = {"input_shape": (0, 2**31, 2**31), "out": None}
    refuses(implementation, "max_pool2d_backward", ValueError, message, dy=nothing[0], argmax=nothing[1], **shape)
    refuses(implementation, "avg_pool2d_backward", ValueError, message, dy=nothing[0], **shape)


def test_kernels_with_more_places_than_an_argmax_counts(implementation):
    window = {"x": [[1.0]], "kernel_size": 2**31, "stride": 1, "padding": ((2**31 - 1, 0),) * 2, "out": None}
    for flag in ("return_argmax", "return_indices"):
        refuses(implementation, "max_pool2d", ValueError, "kernel_size", **window, **{flag: True})


def test_argmax_or_indices(implementation):
    both = {"return_argmax": True, "return_indices": True}
    refuses(implementation, "max_pool2d", ValueError, "return_argmax.*return_indices", **both)


@pytest.mark.parametrize("function", RIGHT)
def test_out_that_is_no_array(implementation, function):
    for out in (sentinel(SHAPES[function], np.float32).tolist(), 0, "out", True, np.float32, memoryview(b"")):
        refuses(implementation, function, TypeError, "out", out=out)


@pytest.mark.parametrize("function", RIGHT)
def test_out_of_another_shape_or_dtype(implementation, function):
    shape = SHAPES[function]
    shapes = (), (1,), shape[1:], (1, *shape), shape[:-1] + (shape[-1] + 1,), (0, *shape[1:]), shape[::-1]
    dtypes = "f8", ">f4", "i4", "c8", "O", "?"
    for out in [sentinel(s, "f4") for s in shapes] + [np.zeros(shape, dtype) for dtype in dtypes]:
        before = out.copy()
        refuses(implementation, function, ValueError, "out .*shape.*dtype", out=out)
        same_values(out, before)


@pytest.mark.parametrize("function", RIGHT)
def test_out_that_is_read_only(implementation, function):
    out = sentinel(SHAPES[function], np.float32)
    out.flags.writeable = False
    refuses(implementation, function, ValueError, "out .*read-only", out=out)
    same_values(out, sentinel(SHAPES[function], np.float32))


@pytest.mark.parametrize(("function", "argument"), ARRAYS)
def test_out_that_shares_memory(implementation, function, argument):
    given, shape = RIGHT[function][argument], SHAPES[function]
    size = 4 * np.prod(shape) + given.nbytes
    # The last byte of one is the first of the other, in either order; or one is all of the other.
    for out_at, given_at in ((0, 4 * np.prod(shape) - given.itemsize), (given.nbytes - 4, 0), (0, 0)):
        memory = bytearray(size)
        out = np.ndarray(shape, np.float32, memory, out_at - out_at % 4)
        shared = np.ndarray(given.shape, given.dtype, memory, given_at)
        shared[...] = given
        before = bytes(memory)
        refuses(implementation, function, ValueError, "out .*memory", out=out, **{argument: shared})
        assert memory == before


def test_out_beside_the_input_in_one_array(implementation):
    # Interleaved, they share a range of memory but no byte.
    memory = np.zeros((2, 3, 6, 14), np.float32)
    memory[..., ::2] = X
    out = memory[:, :, :3, 1:7:2]
    assert implementation.max_pool2d(memory[..., ::2], 2, out=out) is out
    same_values(out, implementation.max_pool2d(X, 2))
    same_values(memory[..., ::2], X)


@pytest.mark.parametrize("pool", [None, "a", *NOT_INTS], ids=repr)
def test_pools_of_the_wrong_type(implementation, pool):
    with pytest.raises(TypeError, match="pool"):
        implementation.Pooling(pool).forward(X)


@pytest.mark.parametrize("pool", [0, -1, 2**63, 2**80, *NOT_SHAPED], ids=repr)
def test_pools_out_of_range(implementation, pool):
    with pytest.raises(ValueError, match="pool"):
        implementation.Pooling(pool).forward(X)


def test_what_a_layer_refuses(implementation):
    layer = implementation.Pooling(2)
    with pytest.raises(TypeError, match=r"x .*complex128"):
        layer.forward(X.astype(complex))
    for wrong in (X[0], X[0, 0], X[None], X[:, :, :0]):
        with pytest.raises(ValueError, match=r"^x"):
            layer.forward(wrong)
    layer.forward(X)
    with pytest.raises(TypeError, match=r"dy .*complex128"):
        layer.backward(np.ones((2, 3, 3, 4), complex))
    for wrong in (np.ones((2, 3, 3, 3)), np.ones((3, 4)), np.ones((2, 3, 3, 4))[None], 1.0):
        with pytest.raises(ValueError, match=r"^dy "):
            layer.backward(wrong)


@pytest.mark.parametrize("function", RIGHT)
def test_arguments_that_do_not_exist(implementation, function):
    refuses(implementation, function, TypeError, "pool_size", pool_size=2)
