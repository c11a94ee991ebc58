"""Coverage-guided fuzzing: whatever bytes say, a call does what the reference does.

Run it as long as you like::

    python tests/fuzz.py -max_total_time=600

Atheris (``pip install atheris``) changes bytes so that they reach new branches of what checks, plans and dispatches a
call: fastpool's modules but the kernels, which are compiled. The options are libFuzzer's. Bytes that fail are written
to a file ``crash-...``; ``python tests/fuzz.py crash-...`` runs them alone.
"""

import inspect
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import atheris
import numpy as np
from helpers import call, near, outcome, raised, same_result, sentinel

from fastpool.testing.arrays import INPUT_LAYOUTS, LAYOUTS, laid_out

kernels = Path(find_spec("fastpool").origin).with_name("kernels").glob("*.py")
with atheris.instrument_imports(include=["fastpool"], exclude=[f"fastpool.kernels.{file.stem}" for file in kernels]):
    import fastpool
    from fastpool import reference

#: No sum of these is rounded.
VALUES = np.array([*range(-9, 10), -0.0, np.nan, np.inf, -np.inf])
HOSTILE = [0, -1, 2**62, 2**80, -(2**80), 2.0, np.nan, True, None, "2", (), (1, 2), (2,) * 4, [[2]], np.int8(2)]
#: So many windows, at most, share an axis out: as many may have one element.
MOST = 7
WINDOW = ["kernel_size", "stride", "padding", "dilation"]


class Bytes(atheris.FuzzedDataProvider):
    """Bytes, as what a call is made of."""

    def one_of(self, *values):
        return self.PickValueInList(list(values))

    def rarely(self):
        return self.ConsumeIntInRange(0, 255) > 247

    def size(self, ndim, *values):
        """One of the values, or one an axis; rarely one that may be refused."""
        if self.rarely():
            return self.one_of(*HOSTILE)
        return tuple(self.one_of(*values) for _ in range(ndim)) if self.ConsumeBool() else self.one_of(*values)

    def flag(self):
        return self.one_of(*HOSTILE) if self.rarely() else self.ConsumeBool()

    def padding(self, ndim):
        if self.ConsumeBool():
            return self.size(ndim, 0, 1, 2)
        return self.one_of("valid", "same", "same_lower", ((0, 1),) * ndim, ((2, 1),) * ndim, "SAME", 2**61)

    def array(self, shape, dtype):
        """An array of this shape, in some layout; rarely of another shape."""
        if shape and self.rarely():
            longer, shorter = (*shape[:-1], shape[-1] + 1), (*shape[:-1], shape[-1] // 2)
            shape = self.one_of(shape[1:], (1, *shape), longer, shorter, (0, *shape[1:]))
        given = np.frombuffer(self.ConsumeBytes(self.ConsumeIntInRange(1, 64)) or b"\0", np.uint8)
        values = np.resize(given, shape)
        x = values.astype(dtype) if np.dtype(dtype).kind in "iu" else VALUES.astype(dtype)[values % len(VALUES)]
        return laid_out(x, self.layout(x.ndim, INPUT_LAYOUTS))

    def layout(self, ndim, layouts):
        return self.one_of(*layouts) if 0 < ndim < 5 else "contiguous"  # margins on many axes would fill the memory


def arguments_of(data, name, parameters, ndim):
    """Return the arguments of a call: arrays that belong together as those of a right call do, or nearly so."""
    dtype = data.one_of(np.float32, np.float64, np.uint8)
    leading = 2 if re.match("im2col|col2im|unfold|fold|Pooling", name) else data.one_of(0, 1, 2)
    long = [16, 17, 33, 70]  # on the last axis, which fills vectors
    shape = [data.one_of(1, 2, 3, 0) for _ in range(leading)]
    shape += [data.one_of(*range(1, 8), *(long if axis == ndim - 1 else [])) for axis in range(ndim)]
    every = {"data_format": "channels_first"}
    if "data_format" in parameters and data.ConsumeBool():
        every["data_format"] = "channels_last"
        shape.append(data.one_of(1, 2, 3, 17))
    every["x"] = x = data.array(tuple(shape), dtype)
    every["input_shape"] = x.shape
    every["pool"] = every["kernel_size"] = data.size(ndim, 1, 2, 3, 4, 5)
    every["stride"] = data.size(ndim, 1, 2, 3, 2**61)
    if not re.search("fold|col", name) and data.ConsumeBool():
        every["stride"] = None
    every["padding"] = data.padding(ndim)
    every["dilation"] = data.size(ndim, 1, 1, 1, 2, 3, 2**61)
    every["ceil_mode"] = name == "Pooling" or data.flag()
    every["count_include_pad"] = data.flag()
    every["divisor_override"] = data.one_of(None, 1, 3, 64, *HOSTILE)
    every["norm_type"] = data.one_of(1, 2, 3, 0.5, 2.5, *HOSTILE)
    every["spatial_ndim"] = data.one_of(ndim, ndim, ndim, *HOSTILE)
    every["return_argmax"], every["return_indices"] = data.flag(), data.one_of(False, data.flag())
    every["output_size"] = data.size(ndim, 1, 2, 3, 4, MOST, None)
    if re.match("fold|max_unpool", name):
        every["output_size"] = x.shape[-ndim:]
    every["y"], every["argmax"], every["indices"] = pooled(every, name, ndim)
    every["dy"] = data.array(every["y"].shape, dtype)
    for positions in ("argmax", "indices"):
        if data.rarely():
            every[positions] = data.array(every["y"].shape, every[positions].dtype)
    if "cols" in parameters:
        every["cols"] = data.array(columns_of(every, name).shape, dtype)
    return {key: every[key] for key in parameters if key != "out"}


def pooled(every, name, ndim):
    """Return the maxima, argmax and indices of the pooling that a function belongs to; x, where that is refused."""
    adaptive = re.match("(?i)adaptive", name)
    function = f"{'adaptive_' if adaptive else ''}max_pool{ndim}d"
    keys = ["x", "data_format", *(["output_size"] if adaptive else [*WINDOW, "ceil_mode"])]
    if name == "Pooling":
        keys = "x", "kernel_size", "ceil_mode"
    arguments = {key: every[key] for key in keys}
    with_argmax, with_indices = (
        outcome(reference, function, arguments | {key: True}) for key in ("return_argmax", "return_indices")
    )
    if raised(with_argmax):
        return every["x"], *(np.zeros(every["x"].shape, dtype) for dtype in (np.uint8, np.int64))
    return *with_argmax, with_indices[1]


def columns_of(every, name):
    """Return the columns of x; x, where they are refused."""
    function, keys = ("im2col", ["x", "output_size", *WINDOW]) if name == "col2im" else ("unfold", ["x", *WINDOW])
    columns = outcome(reference, function, {key: every[key] for key in keys})
    return every["x"] if raised(columns) else columns


def check(given):
    """Make the call that bytes stand for; what comes of it is what comes of the reference."""
    data = Bytes(given)
    name = data.one_of(*reference.__all__)
    function = getattr(reference, name)
    parameters = [*inspect.signature(function).parameters, *(["x", "dy"] if inspect.isclass(function) else [])]
    digit = re.search(r"(\d)d|2col|2im", name)
    ndim = int(digit[1] or 2) if digit else 2 if name == "Pooling" else data.one_of(1, 2, 3)
    arguments = arguments_of(data, name, parameters, ndim)
    expected = outcome(reference, name, arguments)
    out = None
    if "out" in parameters and isinstance(expected, np.ndarray) and data.ConsumeBool():
        out = sentinel(expected.shape, expected.dtype, data.layout(expected.ndim, LAYOUTS))
    try:
        found = outcome(fastpool, name, arguments | ({} if out is None else {"out": out}))
        assert out is None or found is out
        if re.search("(?i)avg|lp", name) and not raised(expected):
            assert found.dtype == expected.dtype
            numbers = {key: abs(arguments[key].astype(float)) for key in ("x", "y", "dy") if key in parameters}
            magnitude = call(reference, name, arguments | numbers)
            # Added up are as many powers as a window has places, or shares as an element has windows.
            count = np.prod(np.broadcast_to(arguments.get("kernel_size", MOST), ndim))
            norm = arguments.get("norm_type")
            near(found, expected, magnitude, count if norm is None else (count + 4) * (1 + 1 / norm))
        else:
            same_result(found, expected)
    except Exception as error:
        raise AssertionError(f"fastpool.{name} with {arguments}, out {out}") from error


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], "-len_control=0", "-max_len=256", *sys.argv[1:]], check)
    atheris.Fuzz()
