"""Hypothesis strategies that draw all the parameters of a call together."""

import numpy as np
from helpers import INPUT_LAYOUTS, LAYOUTS, random_array
from hypothesis import strategies as st

#: Every length up to some vectors, and those around a whole number of vectors.
LENGTHS = st.integers(1, 70) | st.sampled_from([n + d for n in (8, 16, 32, 64, 128) for d in (-1, 0, 1)])
SHORT = st.integers(1, 9)

KINDS = st.sampled_from(["random", "ties", "specials", "lowest"])
SUMMABLE = st.sampled_from(["random", "ties", "gaps", "lowest"])  # of which no sum overflows
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


def arrays(shape, dtype, kinds=KINDS):
    # From a seed: drawing every element would cost more than the test.
    return st.builds(random_array, st.just(shape), st.just(dtype), st.integers(0, 2**32 - 1), kinds)


def per_axis(sizes, ndim=2):
    """One size for all axes, or one each."""
    return sizes | st.tuples(*[sizes] * ndim)


@st.composite
def windows(draw, kernels=9, strides=5, dilations=3, lengths=(SHORT, LENGTHS), im2col=False):
    """A spatial shape, of an axis for each of `lengths`, and the keyword arguments of a window that fits it.

    Padding and dilation may leave a window without an element.
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


def each(value, ndim):
    return value if isinstance(value, tuple) else (value,) * ndim
