"""float16 and bfloat16 as the kernels read and write them: every value there is, against NumPy and ml_dtypes."""

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import dtype_named, same_values

from fastpool.kernels import simd
from fastpool.kernels.launch import kernel

every_half = pytest.mark.parametrize("name", ["float16", "bfloat16"])


@kernel()
def copy_vectors(start, stop, geometry, x, y):
    """Copy x to y, of another type, by vectors."""
    d = simd.tag(x)
    for i in range(0, x.shape[3], simd.lanes(d)):
        simd.store(simd.pointer(y), i, simd.load(d, simd.pointer(x), i))


@kernel()
def copy_parts(start, stop, geometry, x, y):
    """The same by what has limits, and other lanes from elsewhere."""
    d = simd.tag(x)
    n, lanes = x.shape[3], simd.lanes(d)
    for i in range(0, n, lanes):
        mask = simd.between(d, 2, lanes)
        one = simd.splat(d, 1)
        v = simd.load_where(mask, False, one, simd.pointer(x), i)
        v = simd.select(mask, v, simd.load_or(one, simd.pointer(x), i, 0, 1))
        v = simd.select(simd.between(d, 1, 2), simd.load_between(d, simd.pointer(x), i, 1, 2), v)
        simd.store_first(simd.pointer(y), i, v, lanes - 1)
        simd.store_scalar(simd.pointer(y), i + lanes - 1, simd.load_scalar(simd.pointer(x), i + lanes - 1))
        simd.store_before(simd.pointer(y), i, v, i + 3)


@kernel()
def copy_scalars(start, stop, geometry, x, y):
    """The same one by one."""
    for i in range(x.shape[3]):
        simd.store_scalar(simd.pointer(y), i, simd.load_scalar(simd.pointer(x), i))


every_copy = pytest.mark.parametrize("copy", [copy_vectors, copy_parts, copy_scalars], ids=lambda k: k.__name__)
GEOMETRY = np.ones((3, 7), np.int64)


def copied(copy, x, dtype):
    GEOMETRY.flags.writeable = False
    y = np.zeros((1, 1, 1, x.size), dtype)
    copy(1, x.nbytes, GEOMETRY, x.reshape(1, 1, 1, -1), y)
    return y.reshape(-1)


def all_values(dtype):
    return np.arange(1 << 16, dtype=np.uint16).view(dtype)


def around(dtype):
    """Every half, the floats between two, those halfway between, and their neighbours; and some more."""
    halves = all_values(dtype).astype(np.float32)
    # Halfway to the next, in float64; that of the largest would be the next power of two.
    with np.errstate(over="ignore", invalid="ignore"):
        following = np.roll(np.sort(halves[np.isfinite(halves)]), -1)[:-1].astype(np.float64)
        middles = ((np.sort(halves[np.isfinite(halves)])[:-1].astype(np.float64) + following) / 2).astype(np.float32)
        near = [np.nextafter(middles, np.float32(np.inf)), np.nextafter(middles, np.float32(-np.inf))]
    more = np.array([65504, 65519.996, 65520, 65536, 3.4e38, 1e-45, 6e-8, 3e-8, 2.9e-8, np.nan], np.float32)
    values = np.concatenate([halves, middles, *near, more, -more])
    return values[: len(values) // 16 * 16]


@every_half
@every_copy
def test_every_half_is_read(name, copy):
    values = all_values(dtype_named(name))
    same_values(copied(copy, values, np.float32), values.astype(np.float32))


@every_half
@every_copy
def test_floats_are_rounded_to_the_nearest_half(name, copy):
    dtype = dtype_named(name)
    values = around(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(dtype)
    same_values(copied(copy, values, dtype).astype(np.float32), expected.astype(np.float32))


def test_on_a_processor_without_instructions_for_them(tmp_path):
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path), "FASTPOOL_GENERIC": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", __file__, "-k", "half"]
    if "FASTPOOL_GENERIC" not in os.environ:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
