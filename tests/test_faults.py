"""No memory, no disk, Ctrl-C, other people's workers, untrusted files: a call may fail, and the next one works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import run

#: Print how many calls of every function, drawn by the conformance kit, gave other bits with more threads.
SAME_BITS = """
from fastpool.kernels import launch
from fastpool.testing import NAMES, strategies
launch.PARALLEL_BYTES = 0  # every call is parallel, however small
different, count = [], 0
def compare(call):
    global count
    count += 1
    results = []
    for threads in (1, 2, 4):
        numba.set_num_threads(threads)
        try:
            results.append([result.tobytes() for result in call.of(fastpool)])
        except ValueError as error:
            results.append(str(error))
    if results[0] != results[1] or results[0] != results[2]:
        different.append(call.name)
for name in NAMES:
    strategies.explore(strategies.calls(name, ["float32"]), compare, 25, seed=0)
print(count, different)
"""


@pytest.mark.parametrize(
    "layer", [None, *(pytest.param(layer, marks=pytest.mark.slow) for layer in ("workqueue", "omp", "tbb"))]
)
def test_the_same_bits_at_every_number_of_threads(layer):
    policy = "passive" if layer == "omp" else None
    environment = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": 4, "OMP_WAIT_POLICY": policy}
    try:
        printed = run(SAME_BITS, timeout=1200, **environment)
    except AssertionError as error:
        if "No threading layer could be loaded" in str(error):
            pytest.skip(f"Numba has no {layer} here")
        raise
    assert printed == "1425 []\n"


def test_a_thousand_calls_from_each_of_eight_threads():
    run(
        """
        x, volume = X[0, :2, :12, :21], X[0, :2, :6, :12].reshape(1, 2, 3, 4, 6)
        y, indices = reference.max_pool2d(x, 2, return_indices=True)
        argmax = reference.max_pool2d(x, 2, return_argmax=True)[1]
        calls = [
            ("max_pool2d", (x, 3, 2, 1)),
            ("max_pool2d_backward", (y, argmax, x.shape, 2)),
            ("max_unpool2d", (y, indices, 2, None, 0, x.shape[1:])),
            ("max_pool3d", (volume, 2)),
            ("unfold", (x[None], 2)),
        ]
        expected = [getattr(reference, name)(*given) for name, given in calls]
        barrier = threading.Barrier(8)
        def work(_):
            barrier.wait()
            right = 0
            for _ in range(200):
                for (name, given), result in zip(calls, expected):
                    right += np.array_equal(getattr(fastpool, name)(*given), result)
            return right
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [1000] * 8
        """
    )


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_joblib(backend, tmp_path):
    pytest.importorskip("joblib")
    (tmp_path / "work.py").write_text(
        "import numpy as np\n"
        "import fastpool\n"
        "def pooled(seed):\n"
        "    x = np.random.default_rng(seed).standard_normal((4, 64, 60, 60)).astype(np.float32)\n"
        "    return fastpool.max_pool2d(x, 3, 2, 1)\n"
    )
    run(
        f"""
        sys.path.insert(0, {str(tmp_path)!r})
        import warnings
        import joblib
        from work import pooled
        expected = [pooled(seed) for seed in range(4)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a fork while threads run, which is what is tested
            for _ in range(2):
                results = joblib.Parallel(2, backend={backend!r})(joblib.delayed(pooled)(seed) for seed in range(4))
                assert all(map(np.array_equal, results, expected))
        """,
        PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
def test_out_of_memory():
    output = run(
        """
        import resource
        small = X[:1, :1]
        expected = fastpool.max_pool2d(small, 2)
        fastpool.max_pool2d_backward(expected, np.zeros(expected.shape, np.uint8), small.shape, 2)
        fastpool.unfold(small, 2)
        fastpool.adaptive_avg_pool2d(small, 3)
        large = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (4096, 4096, 32, 32), (0, 0, 0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
        calls = [
            lambda: fastpool.max_pool2d(large, 2),
            lambda: fastpool.max_pool2d(large, 2, return_argmax=True),
            lambda: fastpool.max_pool2d_backward(
                large[..., ::2, ::2], np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (4096, 4096, 16, 16),
                (0, 0, 0, 0)), large.shape, 2),
            lambda: fastpool.unfold(large, 2),
            lambda: fastpool.adaptive_avg_pool2d(large, 3),
        ]
        for call in calls:
            try:
                call()
            except MemoryError:
                print("MemoryError")
            assert np.array_equal(fastpool.max_pool2d(small, 2), expected)
        """
    )
    assert output == "MemoryError\n" * 5


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
@pytest.mark.parametrize("threads", [1, 4])
def test_interrupted_calls(threads):
    # Some signals arrive in a kernel, some between two, some while one is compiled.
    run(
        """
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in what runs in the background
        x = X[:4]
        expected = reference.max_pool2d(x, 3, 1, 1).tobytes()
        fastpool.max_pool2d(x, 3, 1, 1)
        interrupted = 0
        for delay in np.linspace(0.01, 0.06, 20):
            timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                while True:
                    fastpool.max_pool2d(x, 3, 1, 1)
                    fastpool.max_pool2d(x, 3, 1, 1, return_argmax=True)
            except KeyboardInterrupt:
                interrupted += 1
            timer.join()
            assert fastpool.max_pool2d(x, 3, 1, 1).tobytes() == expected
        assert interrupted == 20
        """,
        NUMBA_NUM_THREADS=threads,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
def test_interrupted_compilation(tmp_path):
    run(
        """
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in what runs in the background
        x = X[:1, :2]
        expected = reference.unfold(x, 2)
        for delay in (0.05, 0.2, 0.5, 1):
            timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                while True:
                    fastpool.unfold(x, 2)
            except KeyboardInterrupt:
                pass
            timer.join()
        assert np.array_equal(fastpool.unfold(x, 2), expected)
        """,
        NUMBA_CACHE_DIR=tmp_path,
    )


@pytest.mark.skipif(not Path("/proc/mounts").exists() or os.geteuid() != 0, reason="only root mounts a disk")
def test_a_full_disk(tmp_path):
    # What is compiled has more than 8 KiB.
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(tmp_path)], capture_output=True
    ).returncode:
        pytest.skip("may not mount a disk")
    try:
        for _ in range(2):
            run(
                """
                y, indices = reference.max_pool2d(X[:1], 2, return_indices=True)
                assert np.array_equal(fastpool.max_unpool2d(y, indices, 2), reference.max_unpool2d(y, indices, 2))
                """,
                NUMBA_CACHE_DIR=tmp_path,
            )
        assert [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size] == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_under_numbas_check_of_bounds(tmp_path):
    # What is no vector is indexed as an array, and then checked.
    run(
        """
        x = X[:1, :2, :9, :13]
        y, argmax = reference.max_pool2d(x, 3, 2, 1, return_argmax=True)
        _, indices = reference.max_pool2d(x, 2, return_indices=True)
        for name, given in [
            ("max_pool2d", (x, 3, 2, 1)),
            ("max_pool2d_backward", (y, argmax, x.shape, 3, 2, 1)),
            ("max_unpool2d", (reference.max_pool2d(x, 2), indices, 2, None, 0, x.shape)),
            ("fold", (reference.unfold(x, 2), (9, 13), 2)),
            ("argmax_to_indices", (argmax, x.shape, 3, 2, 1)),
        ]:
            assert np.array_equal(getattr(fastpool, name)(*given), getattr(reference, name)(*given))
        """,
        NUMBA_BOUNDSCHECK=1,
        NUMBA_CACHE_DIR=tmp_path,
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform == "win32", reason="reads the use of memory")
def test_more_elements_than_an_int32_counts():
    # Four planes of 2**29 + 2**14 bytes and more; maxima are planted where they must be found.
    output = run(
        """
        import resource
        height, width = 16385, 32770
        x = np.zeros((4, height, width), np.uint8)
        assert x.size > 2**31
        places = [(0, 0, 0), (1, 8000, 31111), (3, height - 1, width - 1), (3, 16384, 5)]
        for place in places:
            x[place] = 200
        y, argmax = fastpool.max_pool2d(x, 3, 2, 1, return_argmax=True)
        assert y.sum(dtype=np.int64) == 200 * sum(
            len({(i + 1) // 2, i // 2} & set(range(y.shape[1]))) * len({(j + 1) // 2, j // 2} & set(range(y.shape[2])))
            for _, i, j in places
        )
        for plane, i, j in places:
            out = plane, i // 2, j // 2
            assert y[out] == 200 and argmax[out] == (i + 1 - i // 2 * 2) * 3 + j + 1 - j // 2 * 2
        dx = fastpool.max_pool2d_backward(y, argmax, x.shape, 3, 2, 1)
        for place in places:
            assert dx[place] and x[place]
        assert np.count_nonzero(dx) == len(places)
        del dx, argmax
        assert fastpool.max_pool1d(x.reshape(-1), 2**20, 2**20).max() == 200
        assert fastpool.global_max_pool(x).ravel().tolist() == [200, 200, 0, 200]
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20, "GiB")
        """,
        timeout=1800,
    )
    print(output)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_training_for_ten_minutes():
    output = run(
        """
        def state():
            with open("/proc/self/statm") as file:
                resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            return resident, threading.active_count(), len(os.listdir("/proc/self/fd"))
        layers = [fastpool.MaxPool2d(3, 2, 1), fastpool.AvgPool2d(2), fastpool.LPPool2d(2, 2), fastpool.Pooling(2)]
        layers += [fastpool.AdaptiveMaxPool2d(7), fastpool.AdaptiveAvgPool2d((5, None))]
        rng = np.random.default_rng(0)
        def step():
            x = rng.standard_normal((rng.integers(1, 9), 64, *rng.integers(20, 90, 2)), np.float32)
            for layer in layers:
                layer.backward(layer.forward(x))
        for _ in range(200):
            step()
        states, steps, end = [], 0, time.monotonic() + 600
        while time.monotonic() < end:
            for _ in range(100):
                step()
            steps += 100
            states.append(state())
        resident, threads, files = zip(*states)
        half = len(resident) // 2
        # The largest batch takes some 100 MiB, and comes early.
        assert max(resident[half:]) <= max(resident[:half]) + (8 << 20), resident
        assert len(set(threads)) == len(set(files)) == 1
        print(steps, min(resident) >> 20, max(resident) >> 20, threads[0], files[0])
        """,
        timeout=900,
    )
    print(output)
