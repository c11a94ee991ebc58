"""Arguments that do not fit each other are refused, by name and before anything is written; see also `test_hostile`."""

import re

import numpy as np
import pytest
from helpers import same_values, sentinel

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
BACKWARDS = ["max_pool2d_backward", "avg_pool2d_backward"]
POOLS = ["max_pool2d", "avg_pool2d", *BACKWARDS]


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
@pytest.mark.parametrize("value", [8, 2**31, (2, 8), (7, 2)], ids=repr)
def test_kernels_larger_than_the_input(implementation, function, value):
    refuses(implementation, function, ValueError, "kernel_size", kernel_size=value)


@pytest.mark.parametrize("function", RIGHT)
@pytest.mark.parametrize("value", [6, 2**31, (1, 7), (6, 1)], ids=repr)
def test_dilated_kernels_larger_than_the_input(implementation, function, value):
    refuses(implementation, function, ValueError, "kernel_size.*dilated", dilation=value)


@pytest.mark.parametrize("function", RIGHT)
def test_padding_is_compared_with_the_dilated_kernel(implementation, function):
    refuses(implementation, function, ValueError, "padding", padding=(0, 4), dilation=(1, 3))
    window = {"kernel_size": (1, 2), "padding": ((0, 0), (3, 3)), "dilation": (9, 3)}
    assert implementation.max_pool2d(X, **window, stride=1).shape == (2, 3, 6, 10)


@pytest.mark.parametrize("function", POOLS)
def test_windows_of_padding_alone(implementation, function):
    refuses(implementation, function, ValueError, "padding", dilation=(8, 1), padding=(8, 0))


@pytest.mark.parametrize("function", ["im2col", "col2im"])
@pytest.mark.parametrize("value", [5, (4, 3), 2**31], ids=repr)
def test_windows_behind_the_input(implementation, function, value):
    refuses(implementation, function, ValueError, "output_size", output_size=value)


@pytest.mark.parametrize("function", ["col2im", *BACKWARDS])
@pytest.mark.parametrize(
    "value", [(), (7,), (-2, 3, 6, 7), (2, 3, 6, -7), (2, 3, 0, 7), (2, 3, 6, 0), (0, 0, 0, 0)], ids=repr
)
def test_shapes_of_no_image(implementation, function, value):
    refuses(implementation, function, ValueError, "input_shape", input_shape=value)


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


def test_out_beside_the_input_in_one_array(implementation):
    # Interleaved, they share a range of memory but no byte.
    memory = np.zeros((2, 3, 6, 14), np.float32)
    memory[..., ::2] = X
    out = memory[:, :, :3, 1:7:2]
    assert implementation.max_pool2d(memory[..., ::2], 2, out=out) is out
    same_values(out, implementation.max_pool2d(X, 2))
    same_values(memory[..., ::2], X)


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
