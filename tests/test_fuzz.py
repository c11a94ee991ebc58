"""A short run of `fuzz.py`, the same calls every time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastpool

pytest.importorskip("atheris")


def test_a_few_calls(tmp_path):
    fuzz = Path(__file__).with_name("fuzz.py")
    environment = os.environ | {"PYTHONPATH": str(Path(fastpool.__file__).parents[1])}
    # No limit of memory: the peak that Linux gives counts what the parent, full of compiled kernels, had.
    command = [sys.executable, fuzz, "-runs=300", "-seed=1", "-rss_limit_mb=0"]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-9999:]
    assert "Done 300 runs" in run.stderr
