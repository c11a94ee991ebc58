"""One operation on given arrays, by fastpool, by its reference, and by other libraries: to compare and to time.

A `Task` says what is asked for, `prepare` has one of `IMPLEMENTATIONS` made ready for it, and `compute` returns its
result. What is timed is what is compared: the call that `prepare` makes ready gives the result of `compute`, too.
A library is imported when it is first asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from math import prod
from types import ModuleType
from typing import Any, NamedTuple

import numba
import numpy as np

import fastpool
from fastpool import reference
from fastpool.window import Window, window

Array = np.ndarray[Any, Any]
Pair = tuple[int, int]

#: Every operation, and what it gives.
OPERATIONS = {
    "infer": "maxima",
    "forward": "maxima and argmax",
    "backward": "gradients of maxima",
    "infer-nhwc": "maxima, channels last",
    "forward-nhwc": "maxima and argmax, channels last",
    "backward-nhwc": "gradients of maxima, channels last",
    "avg": "averages",
    "avg-backward": "gradients of averages",
    "avg-nhwc": "averages, channels last",
    "avg-backward-nhwc": "gradients of averages, channels last",
    "unfold": "windows as columns",
    "fold": "columns added back",
    "im2col": "windows of all images as columns",
    "col2im": "columns of all images added back",
}


class Unsupported(Exception):
    """The library has no such operation, or means something else by it."""


@dataclass(frozen=True)
class Task:
    """One operation on given arrays.

    Attributes
    ----------
    operation : str
        One of `OPERATIONS`.
    kernel_size, stride, padding : pair of int
        Of the windows, along height and width.
    x : array
        The images, (N, C, H, W), or (N, H, W, C) if the operation's name ends in "-nhwc"; the columns for "fold"
        and "col2im".
    dy : array, optional
        The gradient of the maxima or averages, laid out as they are, for "backward" and "avg-backward".
    image_size : pair of int, optional
        Height and width of what "fold" and "col2im" return.
    """

    operation: str
    kernel_size: Pair
    stride: Pair
    padding: Pair
    x: Array
    dy: Array | None = None
    image_size: Pair | None = None

    @property
    def kind(self) -> str:
        """The operation, whatever the layout."""
        return self.operation.removesuffix("-nhwc")

    @property
    def channels_last(self) -> bool:
        """Whether arrays are (N, H, W, C)."""
        return self.operation.endswith("-nhwc")

    @cached_property
    def window(self) -> Window:
        """The checked geometry."""
        spatial = self.image_size or (self.x.shape[1:3] if self.channels_last else self.x.shape[2:4])
        return window(spatial, self.kernel_size, self.stride, self.padding, 1)

    def channels_first(self, x: Any) -> Any:
        """View an array or a tensor of the task's layout as (N, C, H, W)."""
        return x.swapaxes(1, 3).swapaxes(2, 3) if self.channels_last else x

    def laid_out(self, x: Array) -> Array:
        """View an array (N, C, H, W) in the task's layout."""
        return x.transpose(0, 2, 3, 1) if self.channels_last else x

    def argmax(self, indices: Array) -> Array:
        """Return the places in their windows of `indices`, (N, C, OH, OW), in planes of the input."""
        w = self.window
        rows, columns = np.divmod(indices, w.input[1])
        rows -= (np.arange(w.output[0]) * w.stride[0] - w.padding[0][0])[:, None]
        columns -= np.arange(w.output[1]) * w.stride[1] - w.padding[1][0]
        return (rows * w.kernel_size[1] + columns).astype(w.argmax_dtype)


@dataclass(frozen=True)
class Prepared:
    """A task made ready.

    Attributes
    ----------
    call : callable
        What is timed: computes the result, in the library's own form, and waits until it is there. It holds all that
        it needs.
    numpy : callable
        Turns what `call` returned into what fastpool returns for the task.
    """

    call: Callable[[], Any]
    numpy: Callable[[Any], Any] = lambda result: result


class Implementation(NamedTuple):
    """Something that can be asked for.

    Attributes
    ----------
    adapter : callable
        Makes a task ready.
    operations : collection of str
        Those of `OPERATIONS` that it has.
    modules : tuple of str
        What must be installed; empty for fastpool's own. The first one has the version.
    into_given : bool
        Whether the result goes into memory that is there already; otherwise every call makes a new array.
    """

    adapter: Callable[[Task], Prepared]
    operations: Collection[str] = frozenset(OPERATIONS)
    modules: tuple[str, ...] = ()
    into_given: bool = False


def prepare(name: str, task: Task) -> Prepared:
    """Make `task` ready for the implementation `name`, on as many threads as `numba.get_num_threads()`.

    Raises
    ------
    Unsupported
        The library has no such operation, or means something else by it.
    ImportError
        The library is not installed.
    Exception
        Whatever the library raises where it refuses the arguments.
    """
    implementation = IMPLEMENTATIONS[name]
    if task.operation not in implementation.operations:
        raise Unsupported(f"{name} has no {task.operation}")
    return implementation.adapter(task)


def compute(name: str, task: Task) -> Any:
    """Return what the implementation `name` gives for `task`: NumPy arrays in the form that fastpool's have.

    Raises what `prepare` raises.

    Examples
    --------
    >>> task = Task("forward", (2, 2), (2, 2), (0, 0), np.arange(16.0).reshape(1, 1, 4, 4))
    >>> compute("reference", task)
    (array([[[[ 5.,  7.],
             [13., 15.]]]]), array([[[[3, 3],
             [3, 3]]]], dtype=uint8))
    """
    prepared = prepare(name, task)
    return prepared.numpy(prepared.call())


def versions() -> tuple[dict[str, str], dict[str, str]]:
    """Import every peer; return the versions of those that are there, and for each other one what is wrong."""
    found, missing = {}, {}
    for name, implementation in IMPLEMENTATIONS.items():
        if implementation.modules:
            try:
                first, *_ = map(import_module, implementation.modules)
                found[name] = str(first.__version__)
            except ImportError as error:
                missing[name] = f"not installed ({error})"
            except Exception as error:  # its binaries may not suit this machine
                missing[name] = f"does not load ({type(error).__name__}: {error})"
    return found, missing


def set_threads(count: int) -> None:
    """Let fastpool and all peers use so many threads. JAX reads it once, when it first computes."""
    numba.set_num_threads(count)
    os.environ["NPROC"] = str(count)


def _of_module(module: ModuleType, into_given: bool, task: Task) -> Prepared:
    """Make a task ready for a module with fastpool's names."""
    sizes = {"kernel_size": task.kernel_size, "stride": task.stride, "padding": task.padding}
    # As most callers write it, which takes less time to check.
    window: dict[str, Any] = {name: n if n == m else (n, m) for name, (n, m) in sizes.items()}
    layout = {"data_format": "channels_last" if task.channels_last else "channels_first"}
    call: Callable[..., Any]
    match task.kind:
        case "infer":
            call = partial(module.max_pool2d, task.x, **window, **layout)
        case "forward":
            call = partial(module.max_pool2d, task.x, **window, **layout, return_argmax=True)
        case "backward":
            argmax = module.max_pool2d(task.x, **window, **layout, return_argmax=True)[1]
            call = partial(module.max_pool2d_backward, task.dy, argmax, task.x.shape, **window, **layout)
        case "avg":
            call = partial(module.avg_pool2d, task.x, **window, **layout)
        case "avg-backward":
            call = partial(module.avg_pool2d_backward, task.dy, task.x.shape, **window, **layout)
        case "unfold":
            call = partial(module.unfold, task.x, **window)
        case "fold":
            call = partial(module.fold, task.x, task.image_size, **window)
        case "im2col":
            call = partial(module.im2col, task.x, **window)
        case "col2im":
            (rows, columns), w = task.x.shape, task.window
            call = partial(module.col2im, task.x, (columns // prod(w.output), rows // w.taps, *w.input), **window)
    if into_given:
        out = call()
        call = partial(call, out=out[0] if isinstance(out, tuple) else out)
    return Prepared(call)


def _of_torch(task: Task) -> Prepared:
    import torch
    from torch.nn import functional

    torch.set_num_threads(numba.get_num_threads())
    k, s, p = task.kernel_size, task.stride, task.padding
    x = task.channels_first(torch.from_numpy(task.x))
    match task.kind:
        case "infer":
            return Prepared(lambda: functional.max_pool2d(x, k, s, p), lambda y: task.laid_out(y.numpy()))
        case "forward":
            return Prepared(
                lambda: torch.ops.aten.max_pool2d_with_indices(x, k, s, p),
                lambda found: (task.laid_out(found[0].numpy()), task.laid_out(task.argmax(found[1].numpy()))),
            )
        case "backward":
            dy = task.channels_first(torch.from_numpy(task.dy))
            indices = torch.ops.aten.max_pool2d_with_indices(x, k, s, p)[1]
            backward = torch.ops.aten.max_pool2d_with_indices_backward
            return Prepared(
                lambda: backward(dy, x, k, s, p, (1, 1), False, indices), lambda dx: task.laid_out(dx.numpy())
            )
        case "avg":
            return Prepared(lambda: functional.avg_pool2d(x, k, s, p), lambda y: task.laid_out(y.numpy()))
        case "avg-backward":
            dy = task.channels_first(torch.from_numpy(task.dy))
            backward = torch.ops.aten.avg_pool2d_backward
            return Prepared(lambda: backward(dy, x, k, s, p, False, True, None), lambda dx: task.laid_out(dx.numpy()))
        case "unfold":
            return Prepared(lambda: functional.unfold(x, k, padding=p, stride=s), lambda columns: columns.numpy())
        case "fold":
            size = task.image_size
            return Prepared(lambda: functional.fold(x, size, k, padding=p, stride=s), lambda image: image.numpy())
    raise Unsupported


def _of_onnxruntime(task: Task) -> Prepared:
    import onnx
    import onnxruntime

    if task.kind == "avg" and task.x.dtype != np.float32:
        raise Unsupported("it averages nothing but float32")
    kind, attributes = ("AveragePool", {"count_include_pad": 1}) if task.kind == "avg" else ("MaxPool", {})
    shape = (*task.x.shape[:2], *task.window.output)
    results = {"y": np.zeros(shape, task.x.dtype)}
    if task.kind == "forward":
        results["indices"] = np.zeros(shape, np.int64)

    def tensor(name: str, array: Array) -> Any:
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        return onnx.helper.make_tensor_value_info(name, kind, array.shape)

    pads = [*task.padding, *task.padding]
    node = onnx.helper.make_node(
        kind, ["x"], [*results], kernel_shape=task.kernel_size, strides=task.stride, pads=pads, **attributes
    )
    outputs = [tensor(name, array) for name, array in results.items()]
    graph = onnx.helper.make_graph([node], "pool", [tensor("x", task.x)], outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = numba.get_num_threads()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(task.x))
    for name, array in results.items():
        binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))

    def result(_: object) -> Any:
        y, *indices = binding.copy_outputs_to_cpu()
        # ONNX counts through the whole input, not through each plane.
        return (y, task.argmax(indices[0] % (task.x.shape[2] * task.x.shape[3]))) if indices else y

    return Prepared(lambda: session.run_with_iobinding(binding), result)


def _of_openvino(task: Task) -> Prepared:
    import openvino
    from openvino import opset8

    if task.x.dtype != np.float32:
        raise Unsupported("its CPU device computes float64 in float32")
    k, s, p = list(task.kernel_size), list(task.stride), list(task.padding)
    x = opset8.parameter(task.x.shape, np.float32)
    if task.kind == "avg":
        outputs = [opset8.avg_pool(x, s, p, p, k, exclude_pad=False).output(0)]
    else:
        node = opset8.max_pool(x, s, [1, 1], p, p, k, index_element_type="i64", axis=2)
        outputs = [node.output(i) for i in range(1 + (task.kind == "forward"))]
    settings = {
        "INFERENCE_NUM_THREADS": numba.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(openvino.Model(outputs, [x], "pool"), "CPU", settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(task.x, shared_memory=True))

    def result(_: object) -> Any:
        y, *indices = (request.get_output_tensor(i).data.copy() for i in range(len(outputs)))
        return (y, task.argmax(indices[0])) if indices else y

    def call(held: Array = task.x) -> None:  # whose memory the request shares
        request.infer()

    return Prepared(call, result)


def _of_jax(task: Task) -> Prepared:
    import jax
    from jax import lax

    if task.x.dtype == np.float64 and not jax.config.jax_enable_x64:
        raise ValueError("computes in float32 unless JAX_ENABLE_X64=1 is set")

    def spread(ends: Any, middle: tuple[Any, ...]) -> tuple[Any, ...]:
        return (ends, *middle, ends) if task.channels_last else (ends, ends, *middle)

    kernel, strides = spread(1, task.kernel_size), spread(1, task.stride)
    padding = spread((0, 0), task.window.padding)

    def maxima(x: Any) -> Any:
        return lax.reduce_window(x, -np.inf, lax.max, kernel, strides, padding)

    def averages(x: Any) -> Any:
        return lax.reduce_window(x, 0.0, lax.add, kernel, strides, padding) / task.window.taps

    pool = averages if task.kind.startswith("avg") else maxima

    def gradients(x: Any, dy: Any) -> Any:
        return jax.vjp(pool, x)[1](dy)[0]

    compiled = jax.jit(pool if task.dy is None else gradients)
    given = [jax.numpy.asarray(array) for array in (task.x, task.dy) if array is not None]
    return Prepared(lambda: compiled(*given).block_until_ready(), np.asarray)


def _of_skimage(task: Task) -> Prepared:
    from skimage.measure import block_reduce

    blocks = task.stride == task.kernel_size and not any(task.padding)
    if not blocks or any(n % k for n, k in zip(task.window.input, task.stride)):
        raise Unsupported("it has only blocks, and fills up with zeros what is left over")
    size = (1, *task.kernel_size, 1) if task.channels_last else (1, 1, *task.kernel_size)
    return Prepared(partial(block_reduce, task.x, size, np.max if task.kind == "infer" else np.mean))


#: What PyTorch has; inference engines; block_reduce; and JAX.
_TENSORS = frozenset({*OPERATIONS} - {"im2col", "col2im"})
_INFERENCE = frozenset({"infer", "forward", "avg"})
_BLOCKS = frozenset({"infer", "infer-nhwc", "avg", "avg-nhwc"})
_DIFFERENTIABLE = _BLOCKS | {"backward", "backward-nhwc", "avg-backward", "avg-backward-nhwc"}

#: By the name to print. A peer is what needs a module.
IMPLEMENTATIONS = {
    "fastpool": Implementation(partial(_of_module, fastpool, False)),
    "fastpool, out=": Implementation(partial(_of_module, fastpool, True), into_given=True),
    "reference": Implementation(partial(_of_module, reference, False)),
    "PyTorch": Implementation(_of_torch, _TENSORS, ("torch",)),
    "ONNX Runtime": Implementation(_of_onnxruntime, _INFERENCE, ("onnxruntime", "onnx"), into_given=True),
    "OpenVINO": Implementation(_of_openvino, _INFERENCE, ("openvino",), into_given=True),
    "JAX": Implementation(_of_jax, _DIFFERENTIABLE, ("jax",)),
    "scikit-image": Implementation(_of_skimage, _BLOCKS, ("skimage",)),
}
PEERS = [name for name, implementation in IMPLEMENTATIONS.items() if implementation.modules]
