"""Other libraries, made to look like implementations of fastpool's names.

Each adapter imports its library when it is made. What the library does not have, it refuses as `Unsupported`; where
the library means something else, its `differences` say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from importlib import import_module
from math import prod
from typing import Any, ClassVar

import numpy as np

import fastpool
from fastpool.testing.calls import Array, Call, Results
from fastpool.testing.compare import Difference, Unsupported, same
from fastpool.window import Window, window


class Adapter:
    """Has the functions of a library under fastpool's names, for any number of spatial axes.

    A subclass has ``maxima``, ``averages`` or ``norms`` of an array (N, C, *spatial), or some of them, and a method
    for each other function of a rank, as ``max_unpool_of_rank``, which takes the number of spatial axes first.

    Attributes
    ----------
    label : str
        What the library is called.
    code : str
        Python code that makes the adapter.
    differences : tuple of Difference
        Those that are known.
    """

    label: ClassVar[str]
    code: ClassVar[str]
    differences: ClassVar[tuple[Difference, ...]] = ()
    #: What a subclass needs for the functions that are written here.
    needs: ClassVar[dict[str, str]] = {"max_pool": "maxima", "avg_pool": "averages", "lp_pool": "norms"}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        found = re.fullmatch(r"([a-z_]+)([123])d(_backward)?", name)
        if found is None or name.startswith("_"):
            raise AttributeError(name)
        stem, ndim, backward = found.groups()
        function = f"{stem}{backward or ''}"
        if not hasattr(type(self), self.needs.get(function, "__init__")):
            raise AttributeError(name)
        return partial(getattr(self, f"{function}_of_rank"), int(ndim))

    def max_pool_of_rank(
        self,
        ndim: int,
        x: Array,
        return_argmax: bool = False,
        return_indices: bool = False,
        data_format: str = "channels_first",
        ceil_mode: bool = False,
        **window: Any,
    ) -> Any:
        """Return the maxima, and where they are if asked for."""
        w = checked(x, ndim, data_format, ceil_mode=ceil_mode, **window)
        wanted = return_argmax or return_indices
        y, indices = self.maxima(planes(x, ndim, data_format), w, ceil_mode, wanted)
        y = like(y, x, ndim, data_format)
        if not wanted:
            return y
        indices = like(indices, x, ndim, data_format)
        if return_argmax:
            layout: dict[str, Any] = {"spatial_ndim": ndim, "data_format": data_format}
            indices = fastpool.indices_to_argmax(indices, x.shape, **window, ceil_mode=ceil_mode, **layout)
        return y, indices

    def avg_pool_of_rank(
        self,
        ndim: int,
        x: Array,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        data_format: str = "channels_first",
        ceil_mode: bool = False,
        **window: Any,
    ) -> Array:
        """Return averages."""
        w = checked(x, ndim, data_format, ceil_mode=ceil_mode, **window)
        how = ceil_mode, count_include_pad, divisor_override
        y = self.averages(planes(x, ndim, data_format), w, *how)
        return like(y, x, ndim, data_format)

    def lp_pool_of_rank(
        self,
        ndim: int,
        x: Array,
        norm_type: float,
        data_format: str = "channels_first",
        ceil_mode: bool = False,
        **window: Any,
    ) -> Array:
        """Return norms."""
        w = checked(x, ndim, data_format, ceil_mode=ceil_mode, **window)
        y = self.norms(planes(x, ndim, data_format), w, ceil_mode, norm_type)
        return like(y, x, ndim, data_format)


def plain(x: Array) -> Array:
    """Return x as an ndarray of its own: contiguous, aligned, writable, in the machine's byte order."""
    return np.array(x, x.dtype.newbyteorder("="), order="C", subok=False)


def planes(x: Array, ndim: int, data_format: str) -> Array:
    """Return x as (N, C, *spatial), whatever its layout and leading axes."""
    x = plain(np.moveaxis(x, -1, -1 - ndim) if data_format == "channels_last" else x)
    if x.size == 0:
        raise Unsupported("empty arrays")
    return x.reshape(1, prod(x.shape[:-ndim]), *x.shape[-ndim:])


def like(y: Array, x: Array, ndim: int, data_format: str) -> Array:
    """Return y, (N, C, *spatial), with the leading axes and the layout of x."""
    if data_format == "channels_last":
        leading = (*x.shape[: -ndim - 1], x.shape[-1])
        return np.moveaxis(y.reshape(*leading, *y.shape[-ndim:]), -1 - ndim, -1)
    return y.reshape(*x.shape[:-ndim], *y.shape[-ndim:])


def checked(x: Array, ndim: int, data_format: str, elements: bool = True, **arguments: Any) -> Window:
    """Return the window of a call; of a pooling each has `elements`."""
    spatial = x.shape[-1 - ndim : -1] if data_format == "channels_last" else x.shape[-ndim:]
    arguments = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, **arguments}
    return window(spatial, **arguments, elements=elements)


def _last_nan(call: Call, expected: Results, actual: Results) -> bool:
    """Whether the results differ only in where the maxima that are NaN are."""
    if "max" not in call.name or len(expected) != 2 or not same(actual[0], expected[0]):
        return False
    number = expected[0] == expected[0]
    return same(actual[1][number], expected[1][number])


def _negative(call: Call, expected: Results, actual: Results) -> bool:
    return call.name.startswith("lp") and bool((call.arrays["x"] < 0).any())


def _ragged(call: Call, expected: Results, actual: Results) -> bool:
    return call.name.startswith("lp") and bool(call.parameters.get("ceil_mode"))


def _no_subnormals(call: Call, expected: Results, actual: Results) -> bool:
    """Whether the results differ only in what is a subnormal number in one of them."""
    if expected[0].dtype.kind not in "fV" or expected[0].shape != actual[0].shape:
        return False
    least = np.finfo(expected[0].dtype).smallest_normal
    ours, theirs = (np.where(abs(found[0]) < least, 0, found[0]) for found in (actual, expected))
    return same(ours, theirs)


def _lowest_finite(call: Call, expected: Results, actual: Results) -> bool:
    """Whether the results differ only in maxima that are NaN or -inf, and where these are."""
    if "max" not in call.name or expected[0].dtype.kind not in "fV" or expected[0].shape != actual[0].shape:
        return False
    number = expected[0] > -np.inf
    return all(same(ours[number], theirs[number]) for theirs, ours in zip(expected, actual))


def floats(x: Array, what: str) -> None:
    """Refuse integers, of which libraries make integers, or nothing."""
    if x.dtype.kind not in "fV":
        raise Unsupported(f"{what} of integers in float64")


def spread(w: Window) -> bool:
    """Whether a window's places lie apart."""
    return any(d != 1 for d, k in zip(w.dilation, w.kernel_size) if k > 1)


def symmetric(w: Window) -> tuple[int, ...]:
    """Return the padding of each axis where both sides have the same."""
    if any(before != after for before, after in w.padding):
        raise Unsupported("padding that differs on the two sides of an axis")
    return tuple(before for before, _ in w.padding)


class Torch(Adapter):
    """PyTorch, `torch.nn.functional`."""

    label, code = "PyTorch", "from fastpool.testing import adapters\nadapters.Torch()"
    differences = (
        Difference("of several NaN, the last one is where the maximum is", _last_nan),
        Difference("a norm is of x, not of its absolute value", _negative),
        Difference("the norm of a ragged window is scaled up to a whole one", _ragged),
    )

    def __init__(self) -> None:
        self.torch = import_module("torch")
        self.functional = self.torch.nn.functional

    def _function(self, name: str, ndim: int) -> Callable[..., Any]:
        function = getattr(self.functional, f"{name}{ndim}d")

        def refused_dtypes(*arguments: Any, **others: Any) -> Any:
            try:
                return function(*arguments, **others)
            except (RuntimeError, NotImplementedError) as error:
                if "not implemented for" in str(error):
                    raise Unsupported(str(error)) from None
                raise

        return refused_dtypes

    def _tensor(self, x: Array) -> Any:
        try:
            return self.torch.tensor(x)
        except TypeError as error:
            raise Unsupported(str(error)) from None

    def _window(self, w: Window, ceil_mode: bool) -> dict[str, Any]:
        padding = symmetric(w)
        if any(p > k // 2 for p, k in zip(padding, w.kernel_size)):
            raise Unsupported("padding of more than half a kernel")
        return {"kernel_size": w.kernel_size, "stride": w.stride, "padding": padding, "ceil_mode": ceil_mode}

    def _gradient(self, function: Callable[[Any], Any], x: Array, dy: Array, ndim: int, data_format: str) -> Array:
        """Return the gradient of a function from (N, C, *spatial) to one such tensor."""
        given = self._tensor(planes(x, ndim, data_format))
        if not given.is_floating_point():
            raise Unsupported("gradients of integers")
        given.requires_grad_()
        function(given).backward(self._tensor(planes(dy, ndim, data_format)))
        return like(given.grad.numpy(), x, ndim, data_format)

    def maxima(self, x: Array, w: Window, ceil_mode: bool, positions: bool) -> Any:
        """Return maxima, and where they are in their planes."""
        pool = self._function("max_pool", len(w.input))
        found = pool(self._tensor(x), **self._window(w, ceil_mode), dilation=w.dilation, return_indices=True)
        return tuple(result.numpy() for result in found)

    def max_pool_backward_of_rank(
        self,
        ndim: int,
        dy: Array,
        argmax: Array,
        input_shape: tuple[int, ...],
        data_format: str = "channels_first",
        ceil_mode: bool = False,
        **window: Any,
    ) -> Array:
        """Return the gradient of maxima."""
        if ndim == 1:
            raise Unsupported("a gradient of maxima in one dimension from where they are")
        x = np.zeros(input_shape, dy.dtype)
        w = checked(x, ndim, data_format, ceil_mode=ceil_mode, **window)
        sizes = self._window(w, ceil_mode)
        layout: dict[str, Any] = {"spatial_ndim": ndim, "data_format": data_format}
        indices = fastpool.argmax_to_indices(argmax, input_shape, **window, ceil_mode=ceil_mode, **layout)
        given, tensor, places = (self._tensor(planes(array, ndim, data_format)) for array in (dy, x, indices))
        if not given.is_floating_point():
            raise Unsupported("gradients of integers")
        backward = getattr(self.torch.ops.aten, f"max_pool{ndim}d_with_indices_backward")
        settings = sizes["kernel_size"], sizes["stride"], sizes["padding"], w.dilation, ceil_mode
        return like(backward(given, tensor, *settings, places).numpy(), x, ndim, data_format)

    def _average(self, w: Window, ceil_mode: bool, count_include_pad: bool, divisor_override: int | None) -> Any:
        """Return the averaging of a tensor."""
        ndim = len(w.input)
        if spread(w):
            raise Unsupported("averages with dilation")
        if ndim == 1 and divisor_override is not None:
            raise Unsupported("a divisor in one dimension")
        if ndim == 3 and any(n < k for n, k in zip(w.input, w.kernel_size)):
            raise Unsupported("kernels larger than the input in three dimensions")
        others = {"divisor_override": divisor_override} if ndim > 1 else {}
        window = self._window(w, ceil_mode)
        return partial(self._function("avg_pool", ndim), **window, count_include_pad=count_include_pad, **others)

    def averages(self, x: Array, w: Window, *how: Any) -> Any:
        """Return averages."""
        floats(x, "averages")
        return self._average(w, *how)(self._tensor(x)).numpy()

    def avg_pool_backward_of_rank(
        self,
        ndim: int,
        dy: Array,
        input_shape: tuple[int, ...],
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        data_format: str = "channels_first",
        ceil_mode: bool = False,
        **window: Any,
    ) -> Array:
        """Return the gradient of averages."""
        x = np.zeros(input_shape, dy.dtype)
        w = checked(x, ndim, data_format, ceil_mode=ceil_mode, **window)
        average = self._average(w, ceil_mode, count_include_pad, divisor_override)
        return self._gradient(average, x, dy, ndim, data_format)

    def norms(self, x: Array, w: Window, ceil_mode: bool, norm_type: float) -> Any:
        """Return norms."""
        if any(map(any, w.padding)) or spread(w):
            raise Unsupported("norms with padding or dilation")
        floats(x, "norms")
        sizes = (w.kernel_size, w.stride) if len(w.input) > 1 else (w.kernel_size[0], w.stride[0])
        return self._function("lp_pool", len(w.input))(self._tensor(x), norm_type, *sizes, ceil_mode).numpy()

    def adaptive_max_pool_of_rank(
        self,
        ndim: int,
        x: Array,
        output_size: Any,
        return_argmax: bool = False,
        return_indices: bool = False,
        data_format: str = "channels_first",
    ) -> Any:
        """Return maxima, and where they are if asked for."""
        if return_argmax:
            raise Unsupported("places in windows of several sizes")
        size = self._size(x, ndim, output_size, data_format)
        pooled = self._function("adaptive_max_pool", ndim)(
            self._tensor(planes(x, ndim, data_format)), size, return_indices=True
        )
        y, indices = (like(found.numpy(), x, ndim, data_format) for found in pooled)
        return (y, indices) if return_indices else y

    def adaptive_avg_pool_of_rank(
        self, ndim: int, x: Array, output_size: Any, data_format: str = "channels_first"
    ) -> Array:
        """Return averages."""
        floats(x, "averages")
        size = self._size(x, ndim, output_size, data_format)
        y = self._function("adaptive_avg_pool", ndim)(self._tensor(planes(x, ndim, data_format)), size)
        return like(y.numpy(), x, ndim, data_format)

    def adaptive_avg_pool_backward_of_rank(
        self, ndim: int, dy: Array, input_shape: tuple[int, ...], data_format: str = "channels_first"
    ) -> Array:
        """Return the gradient of averages."""
        size = self._size(dy, ndim, None, data_format)
        average = partial(self._function("adaptive_avg_pool", ndim), output_size=size)
        return self._gradient(average, np.zeros(input_shape, dy.dtype), dy, ndim, data_format)

    def _size(self, x: Array, ndim: int, output_size: Any, data_format: str) -> tuple[int, ...]:
        """Return the output size with the lengths of x for None."""
        spatial = x.shape[-1 - ndim : -1] if data_format == "channels_last" else x.shape[-ndim:]
        sizes = output_size if isinstance(output_size, tuple) else (output_size,) * ndim
        return tuple(n if size is None else size for size, n in zip(sizes, spatial))

    def max_unpool_of_rank(
        self, ndim: int, y: Array, indices: Array, kernel_size: Any, stride: Any, output_size: tuple[int, ...]
    ) -> Array:
        """Return the values at their places."""
        sizes = np.broadcast_to(kernel_size, ndim).tolist(), np.broadcast_to(stride or kernel_size, ndim).tolist()
        given = (self._tensor(planes(array, ndim, "channels_first")) for array in (y, indices))
        unpooled = self._function("max_unpool", ndim)(*given, *sizes, 0, output_size)
        return like(unpooled.numpy(), y, ndim, "channels_first")

    def unfold(self, x: Array, stride: Any = 1, padding: Any = 0, dilation: Any = 1, **window: Any) -> Array:
        """Return the windows of images as columns."""
        if x.ndim != 4 or x.size == 0:
            raise Unsupported("columns of other than images")
        w = checked(x, 2, "channels_first", False, stride=stride, padding=padding, dilation=dilation, **window)
        settings = {"dilation": w.dilation, "padding": symmetric(w), "stride": w.stride}
        if x.dtype.kind not in "fV":
            raise Unsupported("columns of integers")
        return np.asarray(self.functional.unfold(self.torch.tensor(plain(x)), w.kernel_size, **settings).numpy())

    def fold(
        self, cols: Array, output_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, **window: Any
    ) -> Array:
        """Return the sums of columns as images."""
        if len(output_size) != 2 or cols.size == 0:
            raise Unsupported("columns of other than images")
        image = np.empty((1, 1, *output_size))
        w = checked(image, 2, "channels_first", False, stride=stride, padding=padding, dilation=dilation, **window)
        settings = {"dilation": w.dilation, "padding": symmetric(w), "stride": w.stride}
        if cols.dtype.kind not in "fV":
            raise Unsupported("columns of integers")
        folded = self.functional.fold(self.torch.tensor(plain(cols)), tuple(output_size), w.kernel_size, **settings)
        return np.asarray(folded.numpy())

    def global_max_pool(self, x: Array, spatial_ndim: int, data_format: str = "channels_first") -> Array:
        """Return the maximum of each plane."""
        pooled = self._tensor(planes(x, spatial_ndim, data_format)).amax(tuple(range(-spatial_ndim, 0)), keepdim=True)
        return like(pooled.numpy(), x, spatial_ndim, data_format)

    def global_avg_pool(self, x: Array, spatial_ndim: int, data_format: str = "channels_first") -> Array:
        """Return the average of each plane."""
        floats(x, "averages")
        pooled = self._tensor(planes(x, spatial_ndim, data_format)).mean(tuple(range(-spatial_ndim, 0)), keepdim=True)
        return like(pooled.numpy(), x, spatial_ndim, data_format)


class OnnxRuntime(Adapter):
    """ONNX Runtime, the operators of ONNX opset 22, on one thread."""

    label, code = "ONNX Runtime", "from fastpool.testing import adapters\nadapters.OnnxRuntime()"
    differences = (Difference("maxima start from the lowest finite number, and may pass over NaN", _lowest_finite),)

    def __init__(self) -> None:
        self.onnx, self.runtime = import_module("onnx"), import_module("onnxruntime")

    def _run(self, operator: str, x: Array, outputs: int = 1, **attributes: Any) -> Any:
        """Return the outputs of an operator."""
        helper = self.onnx.helper
        results = {"y": x.dtype, "indices": np.dtype(np.int64)}
        names = [*results][:outputs]
        node = helper.make_node(operator, ["x"], names, **attributes)

        def tensor(name: str, dtype: np.dtype[Any], shape: tuple[int, ...] | None) -> Any:
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)

        declared = [tensor(name, results[name], None) for name in names]
        graph = helper.make_graph([node], "pool", [tensor("x", x.dtype, x.shape)], declared)
        opset = helper.make_opsetid("", 22)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            session = self.runtime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            if "NOT_IMPLEMENTED" in str(error) or "INVALID_GRAPH" in str(error):
                raise Unsupported(f"{operator} of {x.dtype}") from None
            raise
        return session.run(None, {"x": x})

    def _attributes(self, w: Window, ceil_mode: bool) -> dict[str, Any]:
        if any(max(sides) >= k for sides, k in zip(w.padding, w.kernel_size)):
            raise Unsupported("padding of a kernel and more")
        before, after = zip(*w.padding)
        return {
            "kernel_shape": w.kernel_size,
            "strides": w.stride,
            "dilations": w.dilation,
            "pads": [*before, *after],
            "ceil_mode": int(ceil_mode),
        }

    def maxima(self, x: Array, w: Window, ceil_mode: bool, positions: bool) -> Any:
        """Return maxima, and where they are in their planes."""
        y, *indices = self._run("MaxPool", x, 1 + positions, **self._attributes(w, ceil_mode))
        return y, indices[0] % prod(w.input) if indices else None  # ONNX counts on from plane to plane

    def averages(self, x: Array, w: Window, ceil_mode: bool, include_pad: bool, divisor: int | None) -> Any:
        """Return averages."""
        if divisor is not None:
            raise Unsupported("another divisor")
        floats(x, "averages")
        attributes = self._attributes(w, ceil_mode)
        return self._run("AveragePool", x, **attributes, count_include_pad=int(include_pad))[0]

    def norms(self, x: Array, w: Window, ceil_mode: bool, norm_type: float) -> Any:
        """Return norms."""
        if norm_type != int(norm_type):
            raise Unsupported("norms that are no integer")
        floats(x, "norms")
        return self._run("LpPool", x, p=int(norm_type), **self._attributes(w, ceil_mode))[0]

    def global_max_pool(self, x: Array, spatial_ndim: int, data_format: str = "channels_first") -> Any:
        """Return the maximum of each plane."""
        y = self._run("GlobalMaxPool", planes(x, spatial_ndim, data_format))[0]
        return like(y, x, spatial_ndim, data_format)

    def global_avg_pool(self, x: Array, spatial_ndim: int, data_format: str = "channels_first") -> Any:
        """Return the average of each plane."""
        y = self._run("GlobalAveragePool", planes(x, spatial_ndim, data_format))[0]
        return like(y, x, spatial_ndim, data_format)


class Jax(Adapter):
    """JAX, `jax.lax.reduce_window`."""

    label, code = "JAX", "from fastpool.testing import adapters\nadapters.Jax()"
    differences = (Difference("subnormal numbers are zero", _no_subnormals),)

    def __init__(self) -> None:
        self.jax = import_module("jax")

    def _reduce(self, x: Array, w: Window, start: Any, reduce: str) -> Any:
        if x.dtype == np.float64 and not self.jax.config.jax_enable_x64:
            raise Unsupported("float64 unless JAX_ENABLE_X64=1 is set")
        # In ceil mode the last window reaches beyond the padding, or ends before it.
        ends = [
            (before, (o - 1) * s + d * (k - 1) + 1 - n - before)
            for (before, _), n, o, s, d, k in zip(w.padding, w.input, w.output, w.stride, w.dilation, w.kernel_size)
        ]
        lax = self.jax.lax
        reduced = lax.reduce_window(
            self.jax.numpy.asarray(x),
            x.dtype.type(start),
            getattr(lax, reduce),
            (1, 1, *w.kernel_size),
            (1, 1, *w.stride),
            ((0, 0), (0, 0), *ends),
            window_dilation=(1, 1, *w.dilation),
        )
        return np.asarray(reduced)

    def maxima(self, x: Array, w: Window, ceil_mode: bool, positions: bool) -> Any:
        """Return maxima."""
        if positions:
            raise Unsupported("where maxima are")
        return self._reduce(x, w, _lowest(x), "max"), None

    def averages(self, x: Array, w: Window, ceil_mode: bool, include_pad: bool, divisor: int | None) -> Any:
        """Return averages: sums by JAX, over what NumPy counts."""
        floats(x, "averages")
        sums = self._reduce(x, w, 0, "add")
        if divisor is not None:
            return sums / x.dtype.type(divisor)
        counts = np.ones(w.output)
        for axis, count in enumerate(w.counts(include_pad)):
            counts *= np.expand_dims(count, [other for other in range(len(w.input)) if other != axis])
        return sums / counts.astype(x.dtype)


class SkImage(Adapter):
    """scikit-image, `skimage.measure.block_reduce`."""

    label, code = "scikit-image", "from fastpool.testing import adapters\nadapters.SkImage()"

    def __init__(self) -> None:
        self.block_reduce = import_module("skimage.measure").block_reduce

    def _blocks(self, x: Array, w: Window, reduce: Any, fill: Any) -> Any:
        """Reduce blocks; `fill` is for what the last ones lack, None where nothing would do."""
        if w.stride != w.kernel_size or any(map(any, w.padding)) or spread(w):
            raise Unsupported("windows that are no blocks")
        ragged = any(n % k for n, k in zip(w.input, w.kernel_size))
        if ragged and (fill is None or any(o * k < n for o, k, n in zip(w.output, w.kernel_size, w.input))):
            raise Unsupported("blocks that do not fill the input")
        return self.block_reduce(x, (1, 1, *w.kernel_size), reduce, cval=fill or 0)

    def maxima(self, x: Array, w: Window, ceil_mode: bool, positions: bool) -> Any:
        """Return the maxima of blocks."""
        if positions:
            raise Unsupported("where maxima are")
        return self._blocks(x, w, np.max, _lowest(x)), None

    def averages(self, x: Array, w: Window, ceil_mode: bool, include_pad: bool, divisor: int | None) -> Any:
        """Return the averages of blocks."""
        if divisor is not None:
            raise Unsupported("another divisor")
        return self._blocks(x, w, np.mean, None)

    def global_max_pool(self, x: Array, spatial_ndim: int, data_format: str = "channels_first") -> Any:
        """Return the maximum of each plane."""
        return self.max_pool_of_rank(spatial_ndim, x, **_whole(x, spatial_ndim, data_format))

    def global_avg_pool(self, x: Array, spatial_ndim: int, data_format: str = "channels_first") -> Any:
        """Return the average of each plane."""
        return self.avg_pool_of_rank(spatial_ndim, x, **_whole(x, spatial_ndim, data_format))


def _lowest(x: Array) -> Any:
    """Return what is below all numbers of a dtype."""
    return -np.inf if x.dtype.kind in "fV" else np.iinfo(x.dtype).min


def _whole(x: Array, ndim: int, data_format: str) -> dict[str, Any]:
    """Return a window over the whole planes of x."""
    spatial = x.shape[-1 - ndim : -1] if data_format == "channels_last" else x.shape[-ndim:]
    return {"kernel_size": spatial, "data_format": data_format}


#: By the name of the package.
ADAPTERS: dict[str, Callable[[], Adapter]] = {
    "torch": Torch,
    "onnxruntime": OnnxRuntime,
    "jax": Jax,
    "skimage": SkImage,
}
