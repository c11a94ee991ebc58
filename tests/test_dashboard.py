"""The dashboard: results of our benchmarks, published by asv, in a browser that reaches no other machine."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from test_bench import CHROMIUM, opened

import fastpool
from fastpool.peers import IMPLEMENTATIONS

SUITE = Path(__file__).parent.parent / "asv_bench"
MODULES = SUITE / "node_modules"
BENCHMARK = "max_pool.Values.time_by_shape"
#: Of the implementations; the others need to be installed.
TIMED = ["fastpool", "fastpool, out=", "reference"]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
    pytest.mark.skipif(not MODULES.is_dir(), reason="asv_bench/package.json is not installed"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Time one small layer as the result of two commits, publish, and serve what was published."""
    for package in ("asv", "virtualenv"):
        pytest.importorskip(package)
    home = tmp_path_factory.mktemp("dashboard")
    suite = shutil.copytree(SUITE, home / "asv_bench", ignore=shutil.ignore_patterns("node_modules", ".asv"))
    environment = {**os.environ, "HOME": str(home), "ASV_PYTHONPATH": str(Path(fastpool.__file__).parent.parent)}

    def run(*command):
        result = subprocess.run(
            command, cwd=suite, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
        )
        assert result.returncode == 0, result.stdout
        return result.stdout

    asv = partial(run, sys.executable, "-m", "asv")
    git = partial(run, "git", "-c", "user.name=test", "-c", "user.email=test@localhost")
    git("init", "--quiet", "--initial-branch=main", "..")
    asv("machine", "--yes")
    for message in ("one", "two"):
        git("commit", "--quiet", "--allow-empty", "--message", message)
        commit = git("rev-parse", "HEAD").strip()
        quickly = ["--launch-method=forkserver", "--attribute=repeat=2", "--attribute=warmup_time=0"]
        cases = rf"--bench={BENCHMARK}\('({'|'.join(TIMED)})', 'resnet-stem'"
        asv("run", "--python=same", f"--set-commit-hash={commit}", *quickly, cases)
    for path in (suite / ".asv" / "results").glob("*/*-*.json"):  # lines of what takes as long would cover one another
        found = json.loads(path.read_text(encoding="utf-8"))
        times = found["results"][BENCHMARK][0]
        measured = [i for i, time in enumerate(times) if isinstance(time, float) and time == time]
        assert len(measured) == len(TIMED)
        for power, i in enumerate(measured):
            times[i] = 10.0**-power
        path.write_text(json.dumps(found), encoding="utf-8")
    asv("publish")
    run(sys.executable, SUITE / "offline.py", suite / ".asv" / "html")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=suite / ".asv" / "html")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_grid_lists_our_benchmarks(pages, tmp_path):
    document, _ = opened(pages, tmp_path)
    modules = {path.stem for path in (SUITE / "benchmarks").glob("*.py")} - {"__init__", "common"}
    assert {*re.findall(r'id="group-(\w+)"', document)} == modules
    listed = dict(re.findall(r'href="#([\w.]+)"><div class="benchmark-text"[^>]*>([^<]+)<', document))
    assert listed[BENCHMARK] == "max_pool2d, by shape"
    assert all(" " in title or title in document for title in listed.values())


def test_a_benchmark_is_drawn_by_implementation(pages, tmp_path):
    document, image = opened(f"{pages}#{BENCHMARK}?y-axis-scale=log", tmp_path)
    legend = r'solid rgb\((\d+), ?(\d+), ?(\d+)\);overflow:hidden"></div></div></td><td class="legendLabel">([^<]+)<'
    series = {label: list(map(int, color)) for *color, label in re.findall(legend, document)}
    assert [*series] == [f"implementation-{name}; shape-resnet-stem" for name in IMPLEMENTATIONS]
    # Right of the legend, which has the colors, too. Lines are thin, and blend with the white around them.
    plot = np.rint(image[100:, 750:, :3] * 255)
    for name in TIMED:
        color = series[f"implementation-{name}; shape-resnet-stem"]
        assert (abs(plot - color).max(axis=-1) < 60).sum() > 50, name


def test_a_regression_can_be_planted():
    planted = runpy.run_path(str(SUITE / "planted.py"))
    source = (SUITE.parent / planted["KERNEL"]).read_text(encoding="utf-8")
    slower = planted["slower"](source)
    assert len(slower.splitlines()) == len(source.splitlines()) + 1
    compile(slower, planted["KERNEL"], "exec")
