"""The layers of every kind and rank."""

import copy
import inspect
import pickle
import threading
from functools import cache

import numpy as np
import pytest
from helpers import same_bits, same_values

import fastpool
from fastpool.testing.arrays import random_array

#: Of every kind of layer its parameters.
WINDOW = {"stride": 2, "padding": 1, "dilation": 1, "ceil_mode": True}
KINDS = {
    "MaxPool": {"kernel_size": 3, **WINDOW},
    "AvgPool": {"kernel_size": 3, **WINDOW, "count_include_pad": False, "divisor_override": None},
    "LPPool": {"norm_type": 2, "kernel_size": 3, **WINDOW},
    "AdaptiveMaxPool": {"output_size": 3},
    "AdaptiveAvgPool": {"output_size": None},
}
FUNCTIONS = {
    "MaxPool": "max_pool",
    "AvgPool": "avg_pool",
    "LPPool": "lp_pool",
    "AdaptiveMaxPool": "adaptive_max_pool",
    "AdaptiveAvgPool": "adaptive_avg_pool",
}
SHAPES = [(2, 1, 5, 6, 7), (0, 2, 3, 4, 5), (1, 3, 4, 4, 4), (1, 1, 9, 2, 5)]


@pytest.fixture(params=[(kind, ndim) for kind in KINDS for ndim in (1, 2, 3)], ids=lambda case: "{}{}d".format(*case))
def case(request):
    return request.param


def make(implementation, case, **changes):
    kind, ndim = case
    return getattr(implementation, f"{kind}{ndim}d")(**{**KINDS[kind], **changes})


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_forward_and_backward(implementation, case, data_format):
    kind, ndim = case
    parameters = {**KINDS[kind], "data_format": data_format}
    layer = make(implementation, case, data_format=data_format)
    name = f"{FUNCTIONS[kind]}{ndim}d"
    pool, backward = (getattr(implementation, name + end) for end in ("", "_backward"))
    for shape in SHAPES:  # one after the other
        x = random_array(shape, np.float64)
        y = layer.forward(x)
        if "Max" in kind:
            expected, argmax = pool(x, **parameters, return_argmax=True)
            given = argmax, x.shape
        else:
            expected = pool(x, **parameters)
            given = (x, expected) if kind == "LPPool" else (x.shape,)
        same_values(y, expected)
        same_values(layer(x), y)
        dy = random_array(y.shape, np.float64, 1)
        back = {"data_format": data_format} if kind.startswith("Adaptive") else parameters
        expected = backward(dy, *given, **back)
        same_bits(layer.backward(dy), expected)
        same_bits(layer.backward(dy), expected)  # nothing was forgotten


def test_signatures_are_those_of_the_functions(implementation, case):
    kind, ndim = case
    layer = inspect.signature(type(make(implementation, case)))
    function = inspect.signature(getattr(implementation, f"{FUNCTIONS[kind]}{ndim}d"))
    others = {"x", "out", "return_argmax", "return_indices"}
    expected = [p for name, p in function.parameters.items() if name not in others]
    assert list(layer.parameters.values()) == expected


def test_repr(implementation, case):
    kind, ndim = case
    layer = make(implementation, case)
    shown = ", ".join(f"{name}={value!r}" for name, value in KINDS[kind].items())
    assert repr(layer) == f"{kind}{ndim}d({shown}, data_format='channels_first')"
    same_way = eval(repr(layer), vars(implementation))
    assert type(same_way) is type(layer)
    assert repr(same_way) == repr(layer)


AGAIN = [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))]


@pytest.mark.parametrize("again", AGAIN, ids=["copy", "deepcopy", "pickle"])
def test_copies(implementation, case, again):
    layer = make(implementation, case)
    assert repr(again(layer)) == repr(layer)
    x = random_array((2, 5, 6, 7), np.float32)
    y = layer.forward(x)
    other = again(layer)
    expected = layer.backward(y)
    layer.forward(random_array((4, 4, 4, 4), np.float32))  # which the copy does not notice
    same_bits(other.backward(y), expected)


def test_what_it_keeps(implementation, case):
    """Nothing in a pickle but what backward takes."""
    kind, _ = case
    layer = make(implementation, case)
    x = np.zeros((1, 32, 32, 32), np.float32)
    y = layer.forward(x)
    size = len(pickle.dumps(layer))
    kept = {"MaxPool": y.size, "AdaptiveMaxPool": y.size, "LPPool": x.nbytes + y.nbytes}.get(kind, 0)
    if kind == "AdaptiveMaxPool":  # one or two bytes, as the largest window has places
        kept *= getattr(implementation, f"adaptive_max_pool{case[1]}d")(x, 3, return_argmax=True)[1].itemsize
    assert kept <= size <= kept + 1000


def test_backward_needs_a_forward(implementation, case):
    layer = make(implementation, case)
    with pytest.raises(RuntimeError, match=rf"^{type(layer).__name__}\.backward needs a forward"):
        layer.backward(np.ones((3, 3, 3)))


def test_a_failed_forward_leaves_the_last_one(implementation, case):
    layer = make(implementation, case)
    y = layer.forward(random_array((2, 5, 6, 7), np.float64))
    expected = layer.backward(y)
    for bad in (np.ones(()), np.ones((5, 6, 0)), np.ones((5, 6, 7), complex)):
        with pytest.raises((TypeError, ValueError), match=r"^x"):
            layer.forward(bad)
    same_bits(layer.backward(y), expected)
    for bad in (np.ones(()), y[..., :1, :1, :1, None], y.astype(complex), y > 0):
        with pytest.raises((TypeError, ValueError), match=r"^dy"):
            layer.backward(bad)


def test_what_its_constructor_refuses(implementation, case):
    kind, ndim = case
    longer = (2,) * (ndim + 1)
    for value, error in (
        (0, ValueError),
        (2.5, TypeError),
        (True, TypeError),
        (longer, ValueError),
        (2**80, ValueError),
    ):
        for name in {"kernel_size", "stride", "dilation", "output_size"} & KINDS[kind].keys():
            with pytest.raises(error, match=name):
                make(implementation, case, **{name: value})
    with pytest.raises(ValueError, match="data_format"):
        make(implementation, case, data_format="NCHW")
    if "ceil_mode" in KINDS[kind]:
        for name, value, error in (
            ("padding", 3, ValueError),
            ("padding", "full", ValueError),
            ("padding", 0.5, TypeError),
            ("ceil_mode", 1, TypeError),
        ):
            with pytest.raises(error, match=name):
                make(implementation, case, **{name: value})
    if kind == "AvgPool":
        with pytest.raises(ValueError, match="divisor_override"):
            make(implementation, case, divisor_override=0)
    if kind == "LPPool":
        with pytest.raises(ValueError, match="norm_type"):
            make(implementation, case, norm_type=np.inf)


#: Large enough that results are written to again, in either data format.
LARGE = (1, 9, 52, 50, 53)


@cache
def inputs(seed):
    return random_array(LARGE, np.float32, seed)


def passes(layer, seed):
    """Go forward and backward through a layer; return its results, which nobody else has."""
    y = layer.forward(inputs(seed))
    return y, layer.backward(random_array(y.shape, np.float32, seed + 1))


def large(case):
    """Return a layer of large results."""
    changes = {"output_size": 50} if case[0].startswith("Adaptive") else {"stride": 1}
    return make(fastpool, case, **changes)


def test_a_result_that_somebody_has_is_not_written_to_again(case):
    layer, held, expected = large(case), [], []

    def step(seed, keep):
        held.extend(keep(result) for result in passes(layer, seed))
        expected.extend(kept.copy() for kept in held[-2:])

    def in_a_thread(seed):
        thread = threading.Thread(target=step, args=(seed, lambda result: result))
        thread.start()
        thread.join()

    step(0, lambda result: result)
    step(1, lambda result: result[1:, ::2, 3:, ::-1])
    in_a_thread(2)
    step(3, lambda result: np.asarray(memoryview(result)))
    step(4, lambda result: result.reshape(-1).view(np.int32))
    for seed in range(5, 9):
        passes(layer, seed)
    for kept, copied in zip(held, expected):
        same_bits(kept, copied)


def test_a_large_result_that_nobody_has_is_written_to_again(case):
    """A loop has the last results until it is given the next ones."""
    layer, places = large(case), []
    for seed in range(6):
        results = passes(layer, seed)
        places.append([result.ctypes.data for result in results])
    for addresses in zip(*places):
        assert len(set(addresses)) == 2
        assert addresses[2:] == addresses[:-2]
    same_bits(results[0], large(case).forward(inputs(5)))
    # Another shape or dtype needs other memory.
    for x in (inputs(0)[:1], inputs(0).astype(np.float64)):
        same_bits(layer.forward(x), large(case).forward(x))


@pytest.mark.parametrize("again", AGAIN, ids=["copy", "deepcopy", "pickle"])
def test_a_copy_has_results_of_its_own(case, again):
    layer = large(case)
    y, dx = passes(layer, 0)
    dy, expected = random_array(y.shape, np.float32, 1), dx.copy()
    del y, dx
    other = again(layer)
    for seed in range(1, 4):
        passes(other, seed)
    same_bits(layer.backward(dy), expected)  # of what the layer kept
    layer = large(case)
    passes(layer, 0)
    other = again(layer)
    for seed in range(1, 4):
        passes(layer, seed)
    same_bits(other.backward(dy), expected)


def test_a_pickle_has_no_memory_for_results(case):
    layer = large(case)
    y, dx = passes(layer, 0)
    kept = {"MaxPool": y.size, "AdaptiveMaxPool": y.size, "LPPool": dx.nbytes + y.nbytes}.get(case[0], 0)
    assert kept <= len(pickle.dumps(layer)) <= kept + 1000


def test_two_threads_have_results_of_their_own():
    layer = fastpool.AvgPool2d(1)
    xs = [random_array((8, 64, 50, 50), np.float32, seed) for seed in range(4)]
    wrong = []

    def work(x):
        wrong.extend(turn for turn in range(30) if not np.array_equal(layer.forward(x), x))

    threads = [threading.Thread(target=work, args=(x,)) for x in xs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
