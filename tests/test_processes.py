"""Many threads, forked children and other parallel code, under every threading layer of Numba."""

import os
from functools import cache

import pytest
from jobs import run

#: Where every layer but the workqueue goes the same way.
two_ways = pytest.mark.parametrize("environment", [None, "workqueue"], indirect=True)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")


@cache
def loads(layer):
    """Whether Numba has the layer: it looks for it, and whether it is new enough, when a loop is first launched."""
    try:
        run("numba.np.ufunc.parallel._launch_threads()", NUMBA_THREADING_LAYER=layer)
    except AssertionError as error:
        if "No threading layer could be loaded" not in str(error):
            raise
        return False
    return True


@pytest.fixture(params=[None, "omp", "workqueue", "tbb"], ids=lambda layer: layer or "default")
def environment(request):
    layer = request.param
    if layer is not None and not loads(layer):
        pytest.skip(f"Numba has no {layer} here")
    # OpenMP's loops are launched where the policy is set.
    policy = "passive" if layer == "omp" else None
    return {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": 4, "OMP_WAIT_POLICY": policy}


def test_many_threads_at_once(environment):
    run(
        """
        expected = everything(reference)
        barrier = threading.Barrier(8)
        def work(_):
            barrier.wait()
            return all(everything() == expected for _ in range(3))
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))
        """,
        **environment,
    )


def test_the_first_call_from_many_threads(tmp_path):
    run(
        """
        x = X[:2]
        expected = reference.max_pool2d(x, 3, 2, 1)
        barrier = threading.Barrier(8)
        def work(_):
            barrier.wait()
            return np.array_equal(fastpool.max_pool2d(x, 3, 2, 1), expected)
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))
        """,
        NUMBA_NUM_THREADS=4,
        NUMBA_CACHE_DIR=tmp_path,
    )


@needs_fork
def test_forked_processes(environment):
    run(
        """
        import multiprocessing
        context = multiprocessing.get_context("fork")
        expected = everything(reference)
        assert everything() == expected

        def child():
            assert everything() == expected
            with ThreadPoolExecutor(4) as pool:
                assert all(result == expected for result in pool.map(lambda _: everything(), range(4)))
            grandchild = os.fork()
            if not grandchild:
                os._exit(everything() != expected)
            assert os.waitpid(grandchild, 0)[1] == 0

        children = [context.Process(target=child) for _ in range(2)]
        for process in children:
            process.start()
        assert everything() == expected
        for process in children:
            process.join()
            assert process.exitcode == 0
        """,
        **environment,
    )


@needs_fork
def test_os_fork(environment):
    run(
        """
        expected = everything(reference)
        for _ in range(3):
            assert everything() == expected
            child = os.fork()
            if not child:
                os._exit(everything() != expected)
            assert os.waitpid(child, 0)[1] == 0
        """,
        **environment,
    )


@needs_fork
def test_a_forked_pool(environment):
    run(
        """
        import multiprocessing
        expected = everything(reference)
        assert everything() == expected
        def right(i):
            return everything(x=X) == expected
        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map(right, range(6)) == [True] * 6
        """,
        **environment,
    )


@needs_fork
def test_a_fork_while_other_threads_call(environment):
    run(
        """
        x = X[:2]
        expected = everything(reference, x)
        everything(x=x)
        done = threading.Event()
        def work():
            while not done.is_set():
                assert everything(x=x) == expected
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            child = os.fork()
            if not child:
                os._exit(everything(x=x) != expected)
            assert os.waitpid(child, 0)[1] == 0
        done.set()
        """,
        **environment,
    )


@needs_fork
def test_a_fork_while_another_thread_compiles(tmp_path):
    run(
        """
        x = X[:1, :4]
        expected = {dtype: reference.im2col(x.astype(dtype), 3) for dtype in "fd"}
        def right(dtype):
            return np.array_equal(fastpool.im2col(x.astype(dtype), 3), expected[dtype])
        assert right("f")
        thread = threading.Thread(target=right, args="d")
        thread.start()
        while thread.is_alive():
            child = os.fork()
            if not child:
                os._exit(not (right("f") and right("d")))
            assert os.waitpid(child, 0)[1] == 0
        assert right("d")
        """,
        NUMBA_NUM_THREADS=4,
        NUMBA_CACHE_DIR=tmp_path,
    )


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_beside_a_parallel_loop_of_the_user(environment, first):
    run(
        f"""
        @numba.njit(parallel=True)
        def total(x):
            result = 0.0
            for i in numba.prange(x.size):
                result += x[i]
            return result

        ones = np.ones(100_000)
        expected = everything(reference)
        if {first == "ours"}:
            assert everything() == expected
        assert total(ones) == ones.size
        done, wrong, launches = threading.Event(), [], []
        def theirs():
            while not done.is_set():
                launches.append(1)
                if total(ones) != ones.size:
                    wrong.append(1)
        thread = threading.Thread(target=theirs)
        thread.start()
        try:
            for _ in range(10):
                assert everything() == expected
        finally:
            done.set()
        thread.join()
        assert launches and not wrong
        """,
        **environment,
    )


@two_ways
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(environment, threads):
    run(
        """
        expected = everything(reference)
        assert everything() == expected
        for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
            numba.set_num_threads(threads)
            assert everything() == expected
            assert numba.get_num_threads() == threads
        """,
        **{**environment, "NUMBA_NUM_THREADS": threads},
    )


@two_ways
def test_ranges_that_end_anywhere(environment):
    # Every call is parallel here, however small.
    run(
        """
        from fastpool.kernels import launch
        launch.PARALLEL_BYTES = 0

        def same(actual, expected):
            return actual.tobytes() == expected.tobytes()

        windows = [(2, 2, 0), (3, 2, 1), (3, 1, 1), (5, 3, 2), (1, 2, 0), ((4, 7), (1, 5), (3, 0)), (7, 1, 6)]
        for threads in range(1, 5):
            numba.set_num_threads(threads)
            for height, width in ((7, 9), (8, 17), (11, 33), (9, 70)):
                x = X.reshape(-1)[: 6 * height * width].reshape(2, 3, height, width)
                for window in windows:
                    y, argmax = reference.max_pool2d(x, *window, return_argmax=True)
                    actual = fastpool.max_pool2d(x, *window, return_argmax=True)
                    assert same(actual[0], y) and same(actual[1], argmax)
                    assert same(fastpool.max_pool2d(x, *window), y)
                    backward = y, argmax, x.shape, *window
                    assert same(fastpool.max_pool2d_backward(*backward), reference.max_pool2d_backward(*backward))
                    kernel, stride, padding = window
                    columns = reference.im2col(x, kernel, None, stride, padding)
                    assert same(fastpool.im2col(x, kernel, None, stride, padding), columns)
                    back = columns, x.shape, kernel, None, stride, padding
                    assert same(fastpool.col2im(*back), reference.col2im(*back))
        """,
        **environment,
    )


@two_ways
def test_an_invalid_argmax_is_found_by_any_thread(environment):
    run(
        """
        y, argmax = fastpool.max_pool2d(X, 2, return_argmax=True)
        for place in range(0, argmax.size, argmax.size // 13):
            bad = argmax.copy()
            bad.reshape(-1)[place] = 4
            try:
                fastpool.max_pool2d_backward(y, bad, X.shape, 2)
            except ValueError as error:
                assert "argmax" in str(error)
            else:
                raise AssertionError(place)
        """,
        **environment,
    )


@two_ways
def test_a_result_is_freed_at_once(environment):
    # Whether the threads that were to help were awake, or are still to find out that they need not.
    run(
        """
        import weakref
        for pause in (0, 1e-4, 1e-2) * 20:
            time.sleep(pause)
            assert weakref.ref(fastpool.max_pool2d(X, 2))() is None
        """,
        **environment,
    )


@two_ways
def test_threads_hold_no_core_between_calls(environment):
    run(
        """
        for _ in range(10):
            fastpool.max_pool2d(X, 2)
        time.sleep(0.1)
        before = time.process_time()
        time.sleep(1)
        assert time.process_time() - before < 0.5
        """,
        **environment,
    )


@two_ways
def test_ctrl_c_in_a_call(environment):
    # Nothing is written after it, no thread is lost, and the next calls are right.
    run(
        """
        import signal
        from fastpool.kernels.launch import _threading
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        expected = reference.max_pool2d(X, 5, 1, 2).tobytes()
        interrupted, out = 0, np.empty_like(X)
        fastpool.max_pool2d(X, 5, 1, 2, out=out)  # all threads are there
        for delay in np.linspace(1e-4, 2e-2, 100):
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)
                for _ in range(1000):
                    fastpool.max_pool2d(X, 5, 1, 2, out=out)
            except KeyboardInterrupt:
                interrupted += 1
            out[...] = 7
            workers = _threading.workers
            assert len(workers._idle) == workers._count
            time.sleep(1e-3)
            assert (out == 7).all()
            assert fastpool.max_pool2d(X, 5, 1, 2).tobytes() == expected
        assert interrupted == 100
        """,
        **environment,
    )


@pytest.mark.parametrize("environment", [None, "omp"], indirect=True)
def test_scratch_that_there_is_no_memory_for(environment):
    # On one thread, on some, and on these again.
    run(
        """
        from fastpool.kernels import launch
        launch.PARALLEL_BYTES = 0

        @launch.kernel()
        def greedy(start, stop, geometry, x, y):
            y[start, 0, 0, 0] = np.empty(1 << 58)[0]

        x = np.zeros((8, 1, 1, 1), np.float32)
        for threads in (1, 4, 4):
            numba.set_num_threads(threads)
            try:
                greedy(8, 1, np.zeros((3, 7), np.int64), x, x.copy())
            except MemoryError:
                continue
            raise AssertionError(threads)
        """,
        **environment,
    )


@two_ways
def test_no_setting_of_numba_is_changed(environment):
    run(
        """
        def settings():
            return {name: getattr(numba.config, name) for name in dir(numba.config) if name.isupper()}
        before = settings()
        everything()
        assert settings() == before
        """,
        **environment,
    )


@two_ways
def test_a_call_at_exit(environment):
    # The interpreter starts no threads any more.
    output = run(
        """
        import atexit
        expected = everything(reference)
        atexit.register(lambda: print(everything() == expected))
        everything()
        """,
        **environment,
    )
    assert output == "True\n"


@pytest.mark.parametrize("collects", ["enable", "disable"])
def test_the_collector_of_garbage_is_left_as_it_was(collects):
    run(
        f"""
        import gc
        gc.{collects}()
        for name in [name for name in sys.modules if name.partition(".")[0] == "fastpool"]:
            del sys.modules[name]
        import fastpool
        fastpool.max_pool2d(X, 2)
        assert gc.isenabled() == {collects == "enable"}
        """
    )


def test_without_the_compiler_only_the_reference_works():
    run(
        """
        assert reference.max_pool2d(X, 2).shape == (8, 64, 30, 30)
        try:
            fastpool.max_pool2d(X, 2)
        except RuntimeError as error:
            assert "NUMBA_DISABLE_JIT" in str(error) and "fastpool.reference" in str(error)
        else:
            raise AssertionError("nothing was compiled")
        """,
        NUMBA_DISABLE_JIT=1,
    )
