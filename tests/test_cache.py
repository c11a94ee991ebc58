"""Kernels on disk: found again, never stale, never in the way."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from jobs import run

import fastpool

#: Print how many functions were compiled on the way to the right result.
SCRIPT = """
import numba.core.event
y, indices = reference.max_pool2d(X[:1, :8], 2, return_indices=True)  # what compiles soon
with numba.core.event.install_recorder("numba:compile") as recorder:
    x = fastpool.max_unpool2d(y, indices, 2)
assert x.tobytes() == reference.max_unpool2d(y, indices, 2).tobytes()
print(sum(event.is_start for _, event in recorder.buffer))
"""


def files(directory):
    """Name, time and content of every kernel."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.rglob("*.nbc")}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A directory that one process has filled."""
    directory = tmp_path_factory.mktemp("cache") / "missing" / "directory"
    assert int(run(SCRIPT, NUMBA_CACHE_DIR=directory)) > 0
    assert files(directory)
    return directory


@pytest.fixture
def cache(filled, tmp_path):
    return shutil.copytree(filled, tmp_path / "cache")


@pytest.fixture
def package(tmp_path):
    """A copy of the package, to edit."""
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(Path(fastpool.__file__).parent, tmp_path / "source" / "fastpool", ignore=ignored)


def test_a_second_process_compiles_nothing(cache):
    before = files(cache)
    assert int(run(SCRIPT, NUMBA_CACHE_DIR=cache)) == 0
    assert files(cache) == before


def test_a_process_that_imports_the_package_twice(tmp_path):
    """What the first copy writes has types that no later process knows: it is compiled anew, and kept."""
    twice = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] == "fastpool"]:
    del sys.modules[name]
"""
    run(twice + SCRIPT, NUMBA_CACHE_DIR=tmp_path)
    assert int(run(SCRIPT, NUMBA_CACHE_DIR=tmp_path)) > 0
    assert int(run(SCRIPT, NUMBA_CACHE_DIR=tmp_path)) == 0


def test_one_parallel_loop_for_all_kernels(tmp_path):
    # It is given addresses of machine code, which are others in every process.
    always = "from fastpool.kernels import launch\nlaunch.PARALLEL_BYTES = 0\n"
    script = always + SCRIPT + SCRIPT.replace("X[", "X.astype(float)[")
    environment = {"NUMBA_CACHE_DIR": tmp_path, "NUMBA_NUM_THREADS": 2, "OMP_WAIT_POLICY": "passive"}
    assert all(int(count) > 0 for count in run(script, **environment).split())
    names = sorted(path.name.rsplit("-", 2)[0] for path in files(tmp_path))
    if "ranges" not in names:
        pytest.skip("Numba has no OpenMP here: fastpool's own threads run ranges, and no loop is compiled")
    assert names == ["max_unpool", "max_unpool", "ranges"]
    assert run(script, **environment).split() == ["0", "0"]


@pytest.mark.parametrize("below", ["/dev/null", "a file"])
def test_a_directory_that_cannot_be(tmp_path, below):
    if below == "a file":
        below = tmp_path / "file"
        below.write_text("")
    elif not Path(below).exists():
        pytest.skip("not on this system")
    assert int(run(SCRIPT, NUMBA_CACHE_DIR=Path(below) / "cache")) > 0


def test_no_directory_at_all(package, tmp_path):
    file = tmp_path / "file"
    for place in (file, package / "__pycache__", package / "kernels" / "__pycache__"):
        place.write_text("")
    environment = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE"), file)
    assert int(run(SCRIPT, package=package, NUMBA_CACHE_DIR=None, **environment)) > 0


def test_without_the_variable_kernels_are_kept_as_well(package, tmp_path):
    home = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE"), tmp_path / "home")
    assert int(run(SCRIPT, package=package, NUMBA_CACHE_DIR=None, **home)) > 0
    assert int(run(SCRIPT, package=package, NUMBA_CACHE_DIR=None, **home)) == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
    ],
    ids=["empty", "half", "one bit"],
)
def test_a_damaged_file_is_compiled_again(cache, damage):
    for path, (_, content) in files(cache).items():
        path.write_bytes(damage(content))
    assert int(run(SCRIPT, NUMBA_CACHE_DIR=cache)) > 0
    assert int(run(SCRIPT, NUMBA_CACHE_DIR=cache)) == 0


def test_a_file_that_is_a_directory(cache):
    for path in files(cache):
        path.unlink()
        path.mkdir()
    assert int(run(SCRIPT, NUMBA_CACHE_DIR=cache)) > 0


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_many_processes_fill_one_directory(tmp_path, times):
    for time in range(times):
        directory = tmp_path / str(time)
        with ThreadPoolExecutor(8) as pool:
            for process in [pool.submit(run, SCRIPT, NUMBA_CACHE_DIR=directory) for _ in range(8)]:
                process.result()
        assert int(run(SCRIPT, NUMBA_CACHE_DIR=directory)) == 0
        assert {path.suffix for path in directory.rglob("*") if path.is_file()} == {".nbc"}


def test_code_for_another_processor_is_not_run(cache):
    environment = {"NUMBA_CACHE_DIR": cache, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    assert int(run(SCRIPT, **environment)) > 0
    assert int(run(SCRIPT, **environment)) == 0
    assert int(run(SCRIPT, NUMBA_CACHE_DIR=cache)) == 0  # each finds its own


def test_an_edited_callee_is_compiled_anew(package, tmp_path):
    # With it every window is on the first element.
    callee = package / "kernels" / "geometry.py"
    source = callee.read_text()
    assert "def axes(geometry):" in source
    script = "print(fastpool.argmax_to_indices(np.zeros((1, 2), np.uint8), (2, 4), 2).tolist())"
    environment = {"package": package, "NUMBA_CACHE_DIR": tmp_path / "cache"}
    assert run(script, **environment) == "[[0, 2]]\n"
    callee.write_text(source + "\n\n@inline\ndef axes(geometry):\n    return ONE, ONE, ONE\n")
    assert run(script, **environment) == "[[0, 0]]\n"
    callee.write_text(source)
    assert run(script, **environment) == "[[0, 2]]\n"
