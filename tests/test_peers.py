"""The same results from other libraries, where they are installed."""

import brute
import numpy as np
import pytest
from helpers import FLOATS, and_magnitude, near, same_bits, same_values

from fastpool import reference
from fastpool.testing.arrays import random_array

MAX_POOLS = [
    {"kernel_size": 2},
    {"kernel_size": 2, "stride": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
    {"kernel_size": (5, 3), "stride": (2, 1), "padding": (2, 0), "dilation": (1, 2)},
    {"kernel_size": (2, 5), "stride": (3, 4), "padding": (1, 2), "dilation": (4, 1), "ceil_mode": True},
]
AVG_POOLS = [
    {"kernel_size": 2},
    {"kernel_size": 2, "stride": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
    {"kernel_size": (5, 3), "stride": (4, 1), "padding": (2, 0), "ceil_mode": True},
    {"kernel_size": (2, 5), "stride": (3, 4), "padding": (1, 2), "ceil_mode": True},
]
SPATIAL = [(9, 9), (10, 37), (17, 8), (13, 64)]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("window", MAX_POOLS, ids=str)
@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_max_pool2d_of_torch(implementation, torch, spatial, window, dtype):
    # All values differ, so that there is one right answer.
    x = np.random.default_rng(0).permutation(6 * spatial[0] * spatial[1]).reshape(2, 3, *spatial).astype(dtype)
    given = torch.tensor(x, requires_grad=True)
    y, indices = torch.nn.functional.max_pool2d(given, **window, return_indices=True)
    same_values(implementation.max_pool2d(x, **window, return_indices=True)[1], indices.numpy())
    ours, argmax = implementation.max_pool2d(x, **window, return_argmax=True)
    same_values(ours, y.detach().numpy())

    # Of integers, so that the order of a sum does not matter.
    dy = np.random.default_rng(1).integers(-9, 9, ours.shape).astype(dtype)
    y.backward(torch.tensor(dy))
    same_values(implementation.max_pool2d_backward(dy, argmax, x.shape, **window), given.grad.numpy())


@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_of_gradients_of_torch(implementation, torch, dtype):
    # Nine windows hold an element: the sums, in another order, differ by less than nine roundings.
    x, window = random_array((2, 3, 12, 15), dtype), {"kernel_size": 3, "stride": 1, "padding": 1}
    given = torch.tensor(x, requires_grad=True)
    y = torch.nn.functional.max_pool2d(given, **window)
    dy = random_array(y.shape, dtype, seed=1)
    y.backward(torch.tensor(dy))
    argmax = implementation.max_pool2d(x, **window, return_argmax=True)[1]
    dx = implementation.max_pool2d_backward(dy, argmax, x.shape, **window)
    most = implementation.max_pool2d_backward(abs(dy), argmax, x.shape, **window)
    assert (abs(dx - given.grad.numpy()) <= 9 * np.finfo(dtype).eps * most).all()


@pytest.mark.parametrize("window", MAX_POOLS, ids=str)
@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
def test_special_values_of_torch(implementation, torch, spatial, window):
    x = random_array((2, 3, *spatial), np.float32)
    places = np.random.default_rng(0).random(x.shape)
    for low, value in ((0, np.nan), (0.03, np.inf), (0.06, -np.inf)):
        x[(low <= places) & (places < low + 0.03)] = value
    y = torch.nn.functional.max_pool2d(torch.tensor(x), **window)
    same_values(implementation.max_pool2d(x, **window), y.numpy())


@pytest.mark.parametrize("window", MAX_POOLS, ids=str)
@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
def test_channels_last_of_torch(implementation, torch, spatial, window):
    # There a way for (N, C, H, W) to lie in memory.
    x = np.random.default_rng(0).permutation(10 * spatial[0] * spatial[1]).reshape(2, *spatial, 5).astype(np.float32)
    given = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    assert given.is_contiguous(memory_format=torch.channels_last)
    y, indices = torch.nn.functional.max_pool2d(given, **window, return_indices=True)
    window = {**window, "data_format": "channels_last"}
    found = implementation.max_pool2d(x, **window, return_indices=True)[1]
    same_values(found, indices.permute(0, 2, 3, 1).numpy())
    ours, argmax = implementation.max_pool2d(x, **window, return_argmax=True)
    same_values(ours, y.detach().permute(0, 2, 3, 1).numpy())
    dy = np.random.default_rng(1).integers(-9, 9, ours.shape).astype(np.float32)
    y.backward(torch.tensor(dy).permute(0, 3, 1, 2))
    dx = given.grad.permute(0, 2, 3, 1).numpy()
    same_values(implementation.max_pool2d_backward(dy, argmax, x.shape, **window), dx)


@pytest.mark.parametrize("window", AVG_POOLS, ids=str)
@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_avg_pool2d_of_torch(implementation, torch, spatial, window, dtype):
    x = random_array((2, 3, *spatial), dtype)
    taps = np.prod(brute.both(window["kernel_size"]))
    for divisor in ({}, {"count_include_pad": False}, {"divisor_override": 5}):
        given = torch.tensor(x, requires_grad=True)
        y = torch.nn.functional.avg_pool2d(given, **window, **divisor)
        _, magnitude = reference.avg_pool2d(and_magnitude(x), **window, **divisor)
        ours = implementation.avg_pool2d(x, **window, **divisor)
        near(ours, y.detach().numpy(), magnitude, 2 * taps)  # both round

        dy = random_array(ours.shape, dtype, seed=1)
        y.backward(torch.tensor(dy))
        _, magnitude = reference.avg_pool2d_backward(and_magnitude(dy), (2, *x.shape), **window, **divisor)
        dx = implementation.avg_pool2d_backward(dy, x.shape, **window, **divisor)
        near(dx, given.grad.numpy(), magnitude, 2 * taps)


@pytest.mark.parametrize(
    "window",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (2, 4), "stride": (1, 3), "padding": (1, 2), "dilation": (3, 1)},
    ],
    ids=str,
)
@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
def test_unfold_and_fold_of_torch(implementation, torch, spatial, window):
    x = random_array((2, 3, *spatial), np.float32)
    unfolded = torch.nn.functional.unfold(torch.tensor(x), **window).numpy()  # (N, C * K, L)
    columns = implementation.im2col(x, **window)
    same_bits(columns.reshape(len(columns), 2, -1).transpose(1, 0, 2), unfolded)
    same_bits(implementation.unfold(x, **window), unfolded)

    integers = np.random.default_rng(0).integers(-9, 9, columns.shape).astype(np.float32)
    given = integers.reshape(len(columns), 2, -1).transpose(1, 0, 2).copy()
    folded = torch.nn.functional.fold(torch.tensor(given), spatial, **window).numpy()
    same_values(implementation.col2im(integers, x.shape, **window), folded)
    same_values(implementation.fold(given, spatial, **window), folded)
    same_values(implementation.fold(given[0], spatial, **window), folded[0])


@pytest.mark.parametrize(
    ("window", "attributes"),
    [
        ({"kernel_size": 2}, {}),
        ({"kernel_size": 3, "stride": 2, "padding": 1}, {"pads": [1, 1, 1, 1]}),
        ({"kernel_size": (3, 2), "padding": ((0, 2), (1, 0))}, {"pads": [0, 1, 2, 0]}),
        ({"kernel_size": (2, 3), "stride": 1, "dilation": (3, 2)}, {"dilations": [3, 2]}),
        (
            {"kernel_size": 3, "stride": (3, 2), "padding": ((1, 0), (2, 1)), "dilation": (1, 2)},
            {"pads": [1, 2, 0, 1], "dilations": [1, 2]},
        ),
        ({"kernel_size": 3, "stride": 2, "padding": "same"}, {"auto_pad": "SAME_UPPER"}),
        ({"kernel_size": 3, "stride": 2, "padding": "same_lower"}, {"auto_pad": "SAME_LOWER"}),
        ({"kernel_size": (4, 5), "stride": 1, "padding": "same"}, {"auto_pad": "SAME_UPPER"}),
        ({"kernel_size": (4, 5), "stride": 1, "padding": "same_lower"}, {"auto_pad": "SAME_LOWER"}),
        ({"kernel_size": 2, "stride": 3, "padding": "valid"}, {"auto_pad": "VALID"}),
        ({"kernel_size": 3, "stride": 2, "ceil_mode": True}, {"ceil_mode": 1}),
        (
            {"kernel_size": (5, 3), "stride": (4, 2), "padding": (2, 1), "ceil_mode": True},
            {"ceil_mode": 1, "pads": [2, 1, 2, 1]},
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("spatial", SPATIAL, ids=str)
@pytest.mark.parametrize("include_pad", [False, True])
def test_average_pool_of_onnx(implementation, spatial, window, attributes, include_pad):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    x = random_array((2, 3, *spatial), np.float32)
    kernel = brute.both(window["kernel_size"])
    node = onnx.helper.make_node(
        "AveragePool",
        ["x"],
        ["y"],
        kernel_shape=kernel,
        strides=brute.both(window.get("stride", kernel)),
        count_include_pad=int(include_pad),
        **attributes,
    )
    tensor = onnx.helper.make_tensor_value_info
    given = tensor("x", onnx.TensorProto.FLOAT, x.shape)
    graph = onnx.helper.make_graph([node], "pool", [given], [tensor("y", onnx.TensorProto.FLOAT, None)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})

    window = {**window, "count_include_pad": include_pad}
    _, magnitude = reference.avg_pool2d(and_magnitude(x), **window)
    near(implementation.avg_pool2d(x, **window), y, magnitude, 2 * np.prod(kernel))


@pytest.mark.parametrize(("pool", "spatial"), [(1, (3, 5)), (2, (6, 34)), (3, (9, 33)), ((4, 3), (8, 39))])
@pytest.mark.parametrize("dtype", ["u1", "i2", *FLOATS])
def test_block_reduce_of_skimage(implementation, pool, spatial, dtype):
    measure = pytest.importorskip("skimage.measure")
    x = random_array((2, 3, *spatial), dtype)
    blocks = pool if isinstance(pool, tuple) else (pool, pool)
    y = measure.block_reduce(x, (1, 1, *blocks), np.max)
    same_values(implementation.max_pool2d(x, pool), y)
    same_values(implementation.Pooling(pool).forward(x), y if y.dtype.kind == "f" else y.astype(float))


@pytest.mark.parametrize(("pool", "spatial"), [(1, (3, 5)), (2, (6, 34)), (3, (9, 33)), ((4, 3), (8, 39))])
@pytest.mark.parametrize("dtype", ["u1", "i2", *FLOATS])
def test_block_averages_of_skimage(implementation, pool, spatial, dtype):
    measure = pytest.importorskip("skimage.measure")
    x = random_array((2, 3, *spatial), dtype)
    blocks = pool if isinstance(pool, tuple) else (pool, pool)
    y = measure.block_reduce(x, (1, 1, *blocks), np.mean)
    _, magnitude = reference.avg_pool2d(and_magnitude(x), pool)
    near(implementation.avg_pool2d(x, pool), y, magnitude, 2 * np.prod(blocks))
