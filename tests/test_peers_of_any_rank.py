"""The same results from other libraries in 1, 2 and 3 dimensions, where they are installed."""

import brute
import numpy as np
import pytest
from helpers import FLOATS, and_magnitude, dtype_named, near, same_values
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpool
from fastpool import reference
from fastpool.testing import strategies
from fastpool.testing.arrays import random_array

LENGTHS = {1: 20, 2: 9, 3: 6}
KERNELS = {1: 6, 2: 4, 3: 3}


@pytest.fixture(scope="module", params=[reference, fastpool], ids=lambda module: module.__name__)
def implementation(request):
    return request.param


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch")
    module.set_num_threads(1)
    return module


def of_rank(module, name, ndim):
    return getattr(module, name.replace("Nd", f"{ndim}d"))


@st.composite
def pools(draw, most=3, ranks=(1, 2, 3)):
    """A shape, a dtype, and the arguments of a pooling that PyTorch has too: padding of at most half a kernel."""
    ndim = draw(st.sampled_from(ranks))
    spatial, window = draw(strategies.windows(KERNELS[ndim], 4, most, (st.integers(1, LENGTHS[ndim]),) * ndim))
    window = {key: value for key, value in window.items() if value is not None}
    window["padding"] = 0
    taps = brute.each(window["kernel_size"], ndim)
    window["padding"] = draw(st.integers(0, min(taps) // 2) | st.tuples(*(st.integers(0, k // 2) for k in taps)))
    spreads = brute.each(window["dilation"], ndim)
    margins = brute.each(window["padding"], ndim)
    reach = (d * (k - 1) + 1 for k, d in zip(taps, spreads))
    spatial = tuple(max(n, r - 2 * p) for n, r, p in zip(spatial, reach, margins))
    leading = draw(st.sampled_from([(2,), (1, 3), (2, 1)]))
    return ndim, (*leading, *spatial), window, np.float32


def distinct(shape, dtype):
    return np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape).astype(dtype)


def integers(shape, dtype):
    """Values whose sums are exact, in any order."""
    return np.random.default_rng(1).integers(-9, 9, shape).astype(dtype)


def gradient(torch, y, dy, given):
    y.backward(torch.tensor(dy))
    return given.grad.numpy()


@given(case=pools())
@settings(max_examples=75)
def test_max_pool_of_torch(implementation, torch, case):
    ndim, shape, window, dtype = case
    x = distinct(shape, dtype)
    given = torch.tensor(x, requires_grad=True)
    y, indices = of_rank(torch.nn.functional, "max_poolNd", ndim)(given, **window, return_indices=True)
    pool = of_rank(implementation, "max_poolNd", ndim)
    if np.isinf(y.detach().numpy()).any():  # a window of padding alone
        with pytest.raises(ValueError, match="covers no element"):
            pool(x, **window)
        return
    ours, argmax = pool(x, **window, return_argmax=True)
    same_values(ours, y.detach().numpy())
    same_values(pool(x, **window, return_indices=True)[1], indices.numpy())
    same_values(implementation.argmax_to_indices(argmax, shape, **window, spatial_ndim=ndim), indices.numpy())
    dy = integers(ours.shape, dtype)
    dx = of_rank(implementation, "max_poolNd_backward", ndim)(dy, argmax, shape, **window)
    same_values(dx, gradient(torch, y, dy, given))


@given(case=pools(most=1), divisor=strategies.divisors)
@settings(max_examples=75)
def test_avg_pool_of_torch(implementation, torch, case, divisor):
    ndim, shape, window, dtype = case
    window = {key: value for key, value in window.items() if key != "dilation"}
    if ndim == 1:
        divisor.pop("divisor_override", None)  # which only the others have there
    kernel = brute.each(window["kernel_size"], ndim)
    if ndim == 3:  # where PyTorch wants no kernel larger than the input, padded or not
        shape = (*shape[:-3], *map(max, shape[-3:], kernel))
    x = random_array(shape, dtype)
    given = torch.tensor(x, requires_grad=True)
    y = of_rank(torch.nn.functional, "avg_poolNd", ndim)(given, **window, **divisor)
    taps = np.prod(kernel)
    pool, backward = of_rank(implementation, "avg_poolNd", ndim), of_rank(implementation, "avg_poolNd_backward", ndim)
    magnitude = of_rank(reference, "avg_poolNd", ndim)(and_magnitude(x), **window, **divisor)[1]
    ours = pool(x, **window, **divisor)
    near(ours, y.detach().numpy(), magnitude, 2 * taps)  # both round
    dy = random_array(ours.shape, dtype, 1)
    back = of_rank(reference, "avg_poolNd_backward", ndim)
    magnitude = back(and_magnitude(dy), (2, *shape), **window, **divisor)[1]
    dx = backward(dy, shape, **window, **divisor)
    near(dx, gradient(torch, y, dy, given), magnitude, 2 * taps)


@given(case=pools(most=1), norm=st.sampled_from([1, 2, 3, 1.5, 4]))
@settings(max_examples=75)
def test_lp_pool_of_torch(implementation, torch, case, norm):
    # There is no padding and no dilation there, no abs(), and a ragged window in ceil mode is scaled up.
    ndim, shape, window, dtype = case
    window = {key: window[key] for key in ("kernel_size", "stride") if key in window}
    taps = brute.each(window["kernel_size"], ndim)
    if ndim == 1:
        window["kernel_size"] = taps[0]  # which has to be an int
    shape = (*shape[:-ndim], *map(max, shape[-ndim:], taps))
    x = abs(random_array(shape, dtype)) + dtype(0.1)
    given = torch.tensor(x, requires_grad=True)
    y = of_rank(torch.nn.functional, "lp_poolNd", ndim)(given, norm, **window)
    ours = of_rank(implementation, "lp_poolNd", ndim)(x, norm, **window)
    # Each power, sum and root of theirs rounds; a power multiplies what an average was off by.
    tolerance = (np.prod(taps) + 8) * np.finfo(dtype).eps
    np.testing.assert_allclose(ours, y.detach().numpy(), rtol=tolerance)
    dy = random_array(ours.shape, dtype, 1)
    dx = of_rank(implementation, "lp_poolNd_backward", ndim)(dy, x, ours, norm, **window)
    magnitude = of_rank(implementation, "lp_poolNd_backward", ndim)(abs(dy), x, ours, norm, **window)
    assert (abs(dx - gradient(torch, y, dy, given)) <= 4 * tolerance * magnitude).all()


@given(data=st.data(), dtype=st.sampled_from(FLOATS))
@settings(max_examples=75)
def test_adaptive_pools_of_torch(implementation, torch, data, dtype):
    ndim = data.draw(st.integers(1, 3))
    lengths = st.integers(1, LENGTHS[ndim])
    shape = (2, 3, *data.draw(st.tuples(*[lengths] * ndim)))
    size = data.draw(lengths | st.tuples(*[lengths | st.none()] * ndim) if ndim > 1 else lengths)
    x = distinct(shape, dtype)
    given = torch.tensor(x, requires_grad=True)
    y, indices = of_rank(torch.nn.functional, "adaptive_max_poolNd", ndim)(given, size, return_indices=True)
    pool, back = (of_rank(implementation, f"adaptive_max_poolNd{end}", ndim) for end in ("", "_backward"))
    ours, argmax = pool(x, size, return_argmax=True)
    same_values(ours, y.detach().numpy())
    same_values(pool(x, size, return_indices=True)[1], indices.numpy())
    dy = integers(ours.shape, dtype)
    same_values(back(dy, argmax, shape), gradient(torch, y, dy, given))

    given = torch.tensor(x, requires_grad=True)
    y = of_rank(torch.nn.functional, "adaptive_avg_poolNd", ndim)(given, size)
    pool, back = (of_rank(implementation, f"adaptive_avg_poolNd{end}", ndim) for end in ("", "_backward"))
    taps, windows = np.prod(shape[-ndim:]), np.prod(ours.shape[-ndim:])
    near(pool(x, size), y.detach().numpy(), pool(x, size).astype(float), 2 * taps)
    magnitude = of_rank(reference, "adaptive_avg_poolNd_backward", ndim)(abs(dy).astype(float), shape)
    near(back(dy, shape), gradient(torch, y, dy, given), magnitude, 2 * windows)


@given(data=st.data(), dtype=st.sampled_from(FLOATS))
@settings(max_examples=75)
def test_max_unpool_of_torch(implementation, torch, data, dtype):
    ndim = data.draw(st.integers(1, 3))
    pooled = data.draw(st.tuples(*[st.integers(1, 4)] * ndim))
    kernel = data.draw(st.tuples(*[st.integers(1, 3)] * ndim))
    stride = data.draw(st.none() | st.tuples(*[st.integers(1, 3)] * ndim))
    padding = data.draw(st.tuples(*(st.integers(0, k // 2) for k in kernel)))
    steps = kernel if stride is None else stride
    default = [(n - 1) * s + k - 2 * p for n, s, k, p in zip(pooled, steps, kernel, padding)]
    size = tuple(data.draw(st.integers(max(1, n - s + 1), max(n + s - 1, 1))) for n, s in zip(default, steps))
    y = distinct((2, 3, *pooled), dtype) + 1
    # Several have the same index: the last of them stays.
    indices = np.random.default_rng(0).integers(0, np.prod(size), y.shape)
    call = kernel, stride, padding, size
    unpool, theirs = (of_rank(module, "max_unpoolNd", ndim) for module in (implementation, torch.nn.functional))
    tensors = torch.tensor(y), torch.tensor(indices)
    if any(abs(n - given) >= s for n, given, s in zip(default, size, steps)):
        for function, arguments in ((unpool, (y, indices)), (theirs, tensors)):
            with pytest.raises(ValueError, match="output_size"):
                function(*arguments, *call)
    else:
        same_values(unpool(y, indices, *call), theirs(*tensors, *call).numpy())


@given(case=pools(ranks=(1, 2)))
@settings(max_examples=75)
def test_columns_of_torch(implementation, torch, case):
    ndim, shape, window, dtype = case
    window = {key: value for key, value in window.items() if key != "ceil_mode"}
    window.setdefault("stride", 1)
    x, wide = random_array((2, 3, *shape[-ndim:]), dtype), window
    if ndim == 1:  # as images of one row: PyTorch has no others
        one = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
        wide = {key: (one[key], *brute.each(value, 1)) for key, value in window.items()}
    flat = x if ndim == 2 else x[:, :, None]
    columns = implementation.unfold(x, **window)
    same_values(columns, torch.nn.functional.unfold(torch.tensor(flat), **wide).numpy())
    dcols = integers(columns.shape, dtype)
    folded = torch.nn.functional.fold(torch.tensor(dcols), flat.shape[2:], **wide).numpy().reshape(x.shape)
    same_values(implementation.fold(dcols, x.shape[2:], **window), folded)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_halves_of_torch(implementation, torch, ndim, name):
    dtype = dtype_named(name)
    x = random_array((2, 3, *(9, 8, 7)[:ndim]), np.float32).astype(dtype)
    given = torch.tensor(x.astype(np.float32)).to(getattr(torch, name))
    for window in ({"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}):
        y = of_rank(torch.nn.functional, "max_poolNd", ndim)(given, **window)
        ours = of_rank(implementation, "max_poolNd", ndim)(x, **window)
        assert ours.dtype == dtype
        same_values(ours.astype(np.float32), y.float().numpy())
        if ndim == 3:
            continue  # there are no such averages
        y = of_rank(torch.nn.functional, "avg_poolNd", ndim)(given, **window).double().numpy()
        ours = of_rank(implementation, "avg_poolNd", ndim)(x, **window)
        assert ours.dtype == dtype
        exact = of_rank(reference, "avg_poolNd", ndim)(x.astype(float), **window)
        # Both are of sums in float32 or better, and rounded once.
        half = 2.0**-11 if name == "float16" else 2.0**-8
        bound = half * abs(exact) + 2.0**-20
        assert (abs(ours.astype(float) - exact) <= bound).all()
        assert (abs(y - exact) <= bound).all()


def onnx_node(operator, x, ndim, outputs=1, **attributes):
    """Return what ONNX Runtime makes of x."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    names = ["y", "indices"][:outputs]
    node = onnx.helper.make_node(operator, ["x"], names, **attributes)
    tensor, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    results = [tensor(name, dtype, None) for name, dtype in zip(names, (types.FLOAT, types.INT64))]
    graph = onnx.helper.make_graph([node], "pool", [tensor("x", types.FLOAT, x.shape)], results)
    version = 18 if operator == "LpPool" else 19
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=9)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


ONNX = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": "same"},
    {"kernel_size": 3, "stride": 2, "padding": "same_lower"},
    {"kernel_size": 4, "stride": 1, "padding": "same"},
    {"kernel_size": 4, "stride": 3, "padding": "same_lower"},
    {"kernel_size": 3, "stride": 2, "padding": (0, 2)},
    {"kernel_size": 3, "stride": 1, "padding": (1, 0), "dilation": 2},
    {"kernel_size": 2, "stride": 2, "dilation": 3},
    {"kernel_size": 3, "stride": 2, "padding": (1, 1), "ceil_mode": True},
]


def onnx_attributes(ndim, kernel_size, stride=None, padding=(0, 0), dilation=1, ceil_mode=False):
    attributes = {
        "kernel_shape": [kernel_size] * ndim,
        "strides": [stride or kernel_size] * ndim,
        "dilations": [dilation] * ndim,
        "ceil_mode": int(ceil_mode),
    }
    if isinstance(padding, str):
        attributes["auto_pad"] = {"same": "SAME_UPPER", "same_lower": "SAME_LOWER"}[padding]
    else:
        before, after = padding
        attributes["pads"] = [before] * ndim + [after] * ndim
    return attributes


@pytest.mark.parametrize("length", [7, 8, 10])
@pytest.mark.parametrize("window", ONNX, ids=str)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_pools_of_onnx(implementation, ndim, window, length):
    x = distinct((1, 2, *range(length, length - ndim, -1)), np.float32)
    attributes, taps = onnx_attributes(ndim, **window), window["kernel_size"] ** ndim
    if isinstance(window.get("padding"), tuple):
        window = {**window, "padding": (window["padding"],) * ndim}

    y, indices = onnx_node("MaxPool", x, ndim, 2, **attributes)
    ours, found = of_rank(implementation, "max_poolNd", ndim)(x, **window, return_indices=True)
    same_values(ours, y)
    # There they count on from plane to plane.
    same_values(found + np.arange(2).reshape(2, *[1] * ndim) * np.prod(x.shape[-ndim:]), indices)

    for include_pad in (False, True):
        (y,) = onnx_node("AveragePool", x, ndim, **attributes, count_include_pad=int(include_pad))
        ours = of_rank(implementation, "avg_poolNd", ndim)(x, **window, count_include_pad=include_pad)
        near(ours, y, ours.astype(float), 2 * taps)

    for norm in (1, 2, 3):
        (y,) = onnx_node("LpPool", -x / 64, ndim, **attributes, p=norm)
        ours = of_rank(implementation, "lp_poolNd", ndim)(-x / 64, norm, **window)
        np.testing.assert_allclose(ours, y, rtol=(taps + 8) * np.finfo(np.float32).eps)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("pool", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["u1", np.float32])
def test_block_reduce_of_skimage(implementation, ndim, pool, dtype):
    measure = pytest.importorskip("skimage.measure")
    x = random_array((2, *(6,) * ndim), dtype)
    block = (1, *(pool,) * ndim)
    same_values(of_rank(implementation, "max_poolNd", ndim)(x, pool), measure.block_reduce(x, block, np.max))
    y = of_rank(implementation, "avg_poolNd", ndim)(x, pool)
    magnitude = of_rank(reference, "avg_poolNd", ndim)(and_magnitude(x), pool)[1]
    near(y, measure.block_reduce(x, block, np.mean), magnitude, 2 * pool**ndim)
