"""One call of a function or a layer by its name: what it gives, how near another result may be, and its code."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from fastpool import reference
from fastpool.testing.arrays import laid_out

Array = np.ndarray[Any, Any]
Results = tuple[Array, ...]

#: Every function and layer, in the order of a report: by the number of spatial axes, and what has no such number.
NAMES = sorted(
    (name for name in reference.__all__), key=lambda name: (name[0].isupper(), *re.findall(r"(\d)d", name), name)
)

#: Large arrays repeat so many planes, so that code can be written for them.
PERIOD = 7


@dataclass(frozen=True, eq=False)
class Call:
    """A call that implementations are compared on.

    Attributes
    ----------
    name : str
        One of `NAMES`.
    arrays : dict
        Arrays by the name of their parameter, in order. Of a layer x and dy, for `forward` and `backward`.
    parameters : dict
        All other arguments by name. Of a layer those of its constructor.
    layout : str
        How the arrays lie in memory, one of `fastpool.testing.arrays.INPUT_LAYOUTS`.
    """

    name: str
    arrays: dict[str, Array]
    parameters: dict[str, Any] = field(default_factory=dict)
    layout: str = "contiguous"

    @property
    def is_layer(self) -> bool:
        """Whether `name` is a class."""
        return self.name[0].isupper()

    def of(self, implementation: Any) -> Results:
        """Return what `implementation` gives, a tuple of arrays. It raises what the implementation raises."""
        return self._of(implementation, {name: laid_out(x, self.layout) for name, x in self.arrays.items()})

    def _of(self, implementation: Any, arrays: dict[str, Array]) -> Results:
        called = getattr(implementation, self.name)
        if self.is_layer:
            layer = called(**self.parameters)
            results = layer.forward(arrays["x"]), layer.backward(arrays["dy"])
        else:
            result = called(**arrays, **self.parameters)
            results = result if isinstance(result, tuple) else (result,)
        return tuple(np.asarray(result) for result in results)

    @property
    def averages(self) -> bool:
        """Whether it is an average or a norm, of which fastpool promises no bits."""
        return bool(re.match("avg|lp|adaptive_avg|global_avg|AdaptiveAvg|Avg|LP", self.name))

    def tolerance(self, place: int, expected: Array) -> Array | None:
        """Return how far the result number `place` may be off `expected`; None where only the same bits are right.

        A sum of n floats, in any order, is off by at most (n - 1) / 2 epsilons of the sum of their magnitudes [1]_.
        Both results may be, and round a quotient and a root more.

        References
        ----------
        .. [1] N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., SIAM 2002, section 4.2.
        """
        gives = ("y", "dx")[place] if self.is_layer else self.name
        sums = self.averages or (re.search("dx|backward|fold|col2im", gives) and gives != "unfold")
        if not sums or expected.dtype.kind not in "fV":
            return None
        eps = np.finfo(np.float32 if expected.dtype.itemsize == 2 else expected.dtype).eps
        # What says where the maxima are stays: dx is linear in dy alone.
        places = ("argmax", "indices") if self.averages else ("argmax", "indices", "x")
        wide = {name: x if name in places else abs(x.astype(float)) for name, x in self.arrays.items()}
        with np.errstate(all="ignore"):
            magnitude = self._of(reference, wide)[place]
        norm = self.parameters.get("norm_type", 1)
        bound = eps * (self._terms(place, expected) + 4) * max(norm, 1 / norm) * magnitude
        if expected.dtype.itemsize == 2:  # what is near is rounded once more, and so is the norm that a layer keeps
            info = np.finfo(np.float16) if expected.dtype.kind == "f" else None
            half, least = (info.eps, info.smallest_subnormal) if info else (2.0**-7, 2.0**-133)
            bound = bound + half * (1 + self.is_layer * abs(norm - 1)) * magnitude + float(least)
        return np.asarray(bound)

    def _terms(self, place: int, expected: Array) -> int:
        """Return how many numbers a sum has at most."""
        window = self.parameters.get("kernel_size", self.parameters.get("pool"))
        if window is not None:
            ndim = int((re.findall(r"(\d)d", self.name) or [2])[0])
            if self.name == "fold":
                ndim = len(self.parameters["output_size"])
            return int(prod(np.broadcast_to(window, ndim).tolist()))
        given = self.arrays["dy" if self.name.endswith("backward") or place else "x"]
        pairs = (sorted(pair) for pair in zip(given.shape, expected.shape))
        return prod(high // max(low, 1) + 2 for low, high in pairs if low != high)

    def code(self, implementation: str) -> str:
        """Return Python code that runs the call, given the code of the object that has the function."""
        lines = [f"{name} = {self._literal(x)}" for name, x in self.arrays.items()]
        parameters = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        if self.is_layer:
            call = "layer = {}." + f"{self.name}({parameters})\nprint(layer.forward(x), layer.backward(dy), sep='\\n')"
        else:
            given = ", ".join(f"{name}={name}" for name in self.arrays)
            call = "print({}." + f"{self.name}({', '.join(filter(None, (given, parameters)))}))"
        used = "\n".join(lines)
        imports = ["import numpy as np"]
        if re.search(r"\b(nan|inf)\b", used):
            imports.append("from numpy import inf, nan")
        imports.append("from fastpool import reference")
        if self.layout != "contiguous":
            imports.append("from fastpool.testing.arrays import laid_out")
        if "bfloat16" in used:
            imports.insert(0, "import ml_dtypes  # which NumPy then knows by name")
        *imported, expression = implementation.rsplit("\n", 1)
        return "\n".join([*imports, *imported, "", used, call.format("reference"), call.format(expression), ""])

    def _literal(self, x: Array) -> str:
        made = f"np.array({x.tolist()}, {x.dtype.name!r})" if x.size else f"np.empty({x.shape}, {x.dtype.name!r})"
        if x.shape and len(x) > PERIOD and np.resize(x[:PERIOD], x.shape).tobytes() == x.tobytes():
            made = f"np.resize(np.array({x[:PERIOD].tolist()}, {x.dtype.name!r}), {x.shape})"
        return made if self.layout == "contiguous" else f"laid_out({made}, {self.layout!r})"
