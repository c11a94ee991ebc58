"""Scripts in processes of their own, with a time limit: what must not hang the tests."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import fastpool

PREAMBLE = """
import os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import numba
import numpy as np
import fastpool
from fastpool import reference

X = np.random.default_rng(0).standard_normal((8, 64, 60, 60)).astype(np.float32)

def everything(module=fastpool, x=X):
    '''The bytes of the result of every function.'''
    y, argmax = module.max_pool2d(x, 3, 2, 1, return_argmax=True)
    columns = module.im2col(x, 2, None, 2)
    results = (
        y, argmax, columns,
        module.max_pool2d(x, 2),
        module.max_pool2d(x, 3, 2, 1, return_indices=True)[1],
        module.max_pool2d_backward(y, argmax, x.shape, 3, 2, 1),
        module.col2im(columns, x.shape, 2, None, 2),
    )
    return [result.tobytes() for result in results]
"""


def run(script, timeout=240, package=Path(fastpool.__file__).parent, **environment):
    """Run the script after the preamble and return what it prints; a value of None unsets a variable."""
    environment = {**os.environ, **environment}
    with subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(script)],
        env={name: str(value) for name, value in environment.items() if value is not None},
        cwd=package.parent,  # where Python looks first
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        finally:
            process.kill()
            if hasattr(os, "killpg"):  # forked children too: one that hangs would keep the pipes open
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, f"exit code {process.returncode}\n{output}\n{errors}"
    return output
