"""``python -m fastpool bench``: what it calls gives the right results, and what it writes says what it measured."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import weakref
from base64 import b64decode
from html.parser import HTMLParser
from importlib import import_module
from xml.etree import ElementTree

import numba
import numpy as np
import pytest
from helpers import same_values
from test_command_line import run, without

from fastpool import bench, peers
from fastpool.__main__ import main
from fastpool.bench import CASES, Report, Result
from fastpool.peers import IMPLEMENTATIONS, OPERATIONS, PEERS, Task, Unsupported

#: Kernel size, stride, padding and image size.
BLOCKS = ((2, 2), (2, 2), (0, 0), (8, 12))
OVERLAPPING = ((3, 4), (2, 1), (1, 2), (9, 11))
#: What each peer has; scikit-image has only blocks that cover the image.
SUPPORTED = {
    "PyTorch": {*OPERATIONS} - {"im2col", "col2im"},
    "ONNX Runtime": {"infer", "forward", "avg"},
    "OpenVINO": {"infer", "forward", "avg"},
    "JAX": {f"{name}{layout}" for name in ("infer", "backward", "avg", "avg-backward") for layout in ("", "-nhwc")},
    "scikit-image": {"infer", "infer-nhwc", "avg", "avg-nhwc"},
}


def available(name):
    """Skip the test unless what this implementation needs is installed."""
    for module in IMPLEMENTATIONS[name].modules:
        pytest.importorskip(module)


def whole_numbers(operation, shape, seed=0):
    """Return numbers that all differ, of which sums are exact, laid out as the operation's name says."""
    x = np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape).astype(np.float32)
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if operation.endswith("-nhwc") else x


def a_task(operation, geometry):
    """Return a task on images (2, 3, H, W)."""
    *window, size = geometry
    x = whole_numbers(operation, (2, 3, *size))
    if operation in ("fold", "col2im"):
        columns = peers.compute("reference", Task("unfold" if operation == "fold" else "im2col", *window, x))
        return Task(operation, *window, whole_numbers(operation, columns.shape), image_size=size)
    if "backward" in operation:
        y = peers.compute("reference", Task("infer-nhwc" if operation.endswith("-nhwc") else "infer", *window, x))
        gradient = np.random.default_rng(1).integers(1, 10, y.shape).astype(np.float32)  # nothing cancels
        return Task(operation, *window, x, dy=gradient)
    return Task(operation, *window, x)


@pytest.mark.parametrize("geometry", [BLOCKS, OVERLAPPING], ids=["blocks", "overlapping"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", [name for name in IMPLEMENTATIONS if name != "reference"])
def test_everyone_computes_what_the_reference_does(name, operation, geometry):
    available(name)
    task = a_task(operation, geometry)
    if operation not in SUPPORTED.get(name, OPERATIONS) or (name == "scikit-image" and geometry is OVERLAPPING):
        with pytest.raises(Unsupported):
            peers.prepare(name, task)
        return
    expected = peers.compute("reference", task)
    prepared = peers.prepare(name, task)
    for _ in range(2):  # a call may be repeated
        actual = prepared.numpy(prepared.call())
        if operation.startswith("avg"):
            np.testing.assert_allclose(actual, expected, rtol=1e-6, strict=True)
        elif "forward" in operation:
            same_values(actual[0], expected[0])
            same_values(actual[1], expected[1])
        else:
            same_values(actual, expected)


@pytest.mark.parametrize("name", [name for name in IMPLEMENTATIONS if name != "reference"])
def test_a_call_outlives_its_task(name):
    available(name)
    # Large enough to be given back to the system, where nobody holds it.
    x = np.ones((1, 64, 256, 256), np.float32)
    alive = weakref.ref(x)
    call = peers.prepare(name, Task("infer", *BLOCKS[:3], x)).call
    del x
    assert alive() is not None or name == "JAX"  # which has copied it
    call()


@pytest.mark.parametrize("operation", ["infer", "forward"])
@pytest.mark.parametrize("name", ["fastpool", "PyTorch", "ONNX Runtime", "scikit-image"])
def test_float64_is_not_rounded(name, operation):
    available(name)
    task = Task(operation, *BLOCKS[:3], 1 + 2.0**-40 * whole_numbers(operation, (1, 1, *BLOCKS[3])))
    if operation not in SUPPORTED.get(name, OPERATIONS):
        return
    for actual, expected in zip(peers.compute(name, task), peers.compute("reference", task)):
        same_values(actual, expected)


@pytest.mark.parametrize("name", ["OpenVINO", "JAX"])
def test_what_would_be_rounded_is_refused(name):
    available(name)
    if name == "JAX" and import_module("jax").config.jax_enable_x64:
        pytest.skip("JAX_ENABLE_X64 is set")
    with pytest.raises((Unsupported, ValueError)):
        peers.prepare(name, Task("infer", *BLOCKS[:3], np.zeros((1, 1, 8, 12))))


def test_bytes_that_must_move():
    case = CASES["resnet-stem"]._replace(shape=(2, 3, 9, 11))  # pooled to 5 x 6
    x, y, columns = 2 * 3 * 9 * 11, 2 * 3 * 5 * 6, 2 * 3 * 9 * 5 * 6
    for operation in OPERATIONS:
        kind, (task, nbytes) = operation.removesuffix("-nhwc"), bench.task(operation, case, np.dtype(np.float64))
        with_argmax, with_columns = kind in ("forward", "backward"), kind in ("unfold", "fold", "im2col", "col2im")
        assert nbytes == 8 * x + (9 * y if with_argmax else 8 * columns if with_columns else 8 * y), operation
        assert task.x.dtype == np.float64
        peers.compute("reference", task)  # shapes fit


def a_result(seconds, **changes):
    fields = {"operation": "infer", "case": CASES["lenet"], "nbytes": 10, "copy": [1e-3, 2e-3, 8e-3], "left_out": []}
    return Result(**{**fields, "seconds": seconds, **changes})


SECONDS = {
    "fastpool": [1e-3, 2e-3, 4e-3],
    "fastpool, out=": [1e-3, 1e-3, 1e-3],
    "reference": [0.5],
    "PyTorch": [3e-3, 4e-3, 40e-3],
    "ONNX Runtime": [2e-3, 3e-3, 1.5e-3],
}


def test_ratios_are_within_a_round_and_of_like_with_like():
    result = a_result(SECONDS)
    assert result.ratio("fastpool") == result.ratio("fastpool, out=") == 1
    assert result.ratio("PyTorch") == 3  # of 3, 2 and 10; of medians it would be 2
    assert result.ratio("ONNX Runtime") == pytest.approx(2)  # over out=
    assert result.ratio("reference") == pytest.approx(250)  # over all rounds
    assert result.best_peer == "ONNX Runtime"
    assert a_result({name: SECONDS[name] for name in ("fastpool", "reference")}).best_peer is None


def test_spread_and_share():
    result = a_result(SECONDS)
    assert result.spread("fastpool") == (-0.25, 0.5)
    assert result.spread("reference") == (0, 0)
    assert result.share("fastpool") == 1  # of 1, 1 and 2
    assert result.share("PyTorch") == pytest.approx(1 / 3)
    assert a_result(SECONDS, case=CASES["notebook"]).share("fastpool") is None


def test_rows_come_fastest_first():
    assert a_result(SECONDS, left_out=["JAX"]).rows() == [
        ("fastpool, out=", "1,000", "+0% +0%", "1.00", "2.00"),
        ("fastpool", "2,000", "-25% +50%", "1.00", "1.00"),
        ("ONNX Runtime", "2,000", "-12% +25%", "2.00", "0.67"),
        ("PyTorch", "4,000", "-12% +450%", "3.00", "0.33"),
        ("reference", "500,000", "of 2 calls", "250.00", "0.00"),
        ("JAX", "", "left out", "", ""),
    ]
    (row,) = a_result({"fastpool": [1e-6]}).rows()  # of one round
    assert row[:3] == ("fastpool", "1.00", "")


def test_heading():
    assert a_report(rounds=1).heading().startswith("float32, 1 thread, 1 round; ")
    assert a_report(threads=2).heading().startswith("float32, 2 threads, 3 rounds; ")


def a_report(**changes):
    """Return a report of invented figures, with a remark that would break a page that took it for markup."""
    results = [
        a_result(SECONDS),
        a_result({**SECONDS, "PyTorch": [1e-3], "scikit-image": [1.0]}, case=CASES["inception"], left_out=["JAX"]),
        a_result({"fastpool": [1e-6], "reference": [1e-5]}, operation="fold"),
    ]
    fields = {"dtype": "float32", "threads": 1, "rounds": 3, "versions": {"PyTorch": "2.13"}, "results": results}
    return Report(**{**fields, "skipped": {"JAX": "not installed (<b>)"}, "notes": ["a note & <script>"], **changes})


def test_summary():
    (row,) = a_report().summary()  # no peer folds
    assert row == ("infer", "1.00", "0.50", "inception", "PyTorch")  # 2 and 0.5
    assert a_report(results=[a_result({"fastpool": [1.0]})]).summary() == []


def test_slow_calls_are_not_repeated(monkeypatch):
    calls = []
    measured = {"slow": lambda: calls.append("slow"), "fast": lambda: calls.append("fast")}
    seconds = bench.measure(measured, 2, 0, lambda: calls.append("round"))
    assert calls == ["slow", "fast", *["slow", "slow", "fast", "fast", "round"] * 2]
    assert [len(samples) for samples in seconds.values()] == [2, 2]

    monkeypatch.setattr(bench, "SLOW", 0)
    calls.clear()
    seconds = bench.measure(measured, 2, 0, lambda: None)
    assert calls == ["slow", "slow", "fast", "fast"]
    assert [len(samples) for samples in seconds.values()] == [1, 1]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot(suffix, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"plot.{suffix}"
    bench.draw(a_report(), path, suffix)
    if suffix == "png":
        image = import_module("matplotlib.image").imread(path)
        assert (image[..., :3] == 0).all(axis=-1).mean() > 0.01  # the bars of fastpool
    else:
        text = path.read_text(encoding="utf-8")
        tree = ElementTree.fromstring(text)
        patterns = tree.findall(".//{http://www.w3.org/2000/svg}pattern")
        assert len(patterns) == 3  # a hatch for every peer that was timed
        # Text is drawn as paths, under comments.
        for label in ("fastpool, out=", "reference", "PyTorch", "lenet", "inception", "fold: columns added back"):
            assert f"<!-- {label} -->" in text


class Page(HTMLParser):
    """The cells of a page's tables by their ids, what it refers to, and which tags it has."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.references, self.tags = {}, [], set()
        self._cells = self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        attributes = dict(attributes)
        self.references += [attributes[key] for key in ("src", "href", "srcset", "data") if key in attributes]
        if tag == "table":
            self._rows = self.tables[attributes["id"]] = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        if self._cell:
            self._rows[-1][-1] += data


@pytest.fixture(scope="module")
def extra():
    """Skip what needs the command's extra without it."""
    for package in ("jinja2", "matplotlib", "rich"):
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def page(extra):
    return bench.as_html(a_report())


def test_page_has_all_tables(page):
    report, tables = a_report(), Page(page).tables
    assert [tuple(row) for row in tables["summary"][1:]] == report.summary()
    assert [row[-5:] for row in tables["infer"][1:]] == [[*row] for r in report.results[:2] for row in r.rows()]
    assert [row[-5:] for row in tables["fold"][1:]] == [[*row] for row in report.results[2].rows()]
    assert tables["infer"][1][0] == "lenet64x6x28x28 k2 s2 p0"
    assert ["PyTorch", "2.13"] in tables["system"]
    assert "<li>a note &amp; &lt;script&gt;</li>" in page
    assert "<li>JAX: not installed (&lt;b&gt;)</li>" in page


def test_page_needs_no_other_file(page):
    parsed = Page(page)
    assert not parsed.tags & {"script", "link", "iframe", "object", "base"}
    assert "url(" not in page
    assert "@import" not in page
    (picture,) = parsed.references
    header, _, content = picture.partition(",")
    assert header == "data:image/svg+xml;base64"
    svg = b64decode(content).decode()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert set(re.findall(r'href="(.)', svg)) == {"#"}
    assert set(re.findall(r"url\((.)", svg)) == {"#"}


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def opened(url, directory):
    """Open a page in Chromium, which complains of nothing; return its document when it is done, and its picture."""
    screenshot = directory / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    options += [f"--user-data-dir={directory / 'profile'}", "--proxy-server=127.0.0.1:9"]  # no other machine is asked
    options += ["--enable-logging=stderr", "--window-size=1100,1800", "--virtual-time-budget=10000"]
    command = [CHROMIUM, *options, "--dump-dom", f"--screenshot={screenshot}", url]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert "CONSOLE" not in result.stderr, result.stderr
    return result.stdout, import_module("matplotlib.image").imread(screenshot)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_page_in_a_browser(page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    document, image = opened(path.as_uri(), tmp_path)
    assert "<h1>" in document
    assert image.shape[:2] == (1800, 1100)
    # Text is not quite black: only the picture's bars are.
    assert (image[..., :3] == 0).all(axis=-1).mean() > 0.005


@pytest.fixture
def restored(monkeypatch):
    """Undo what a run in this process changes."""
    monkeypatch.setenv("NPROC", "1")
    monkeypatch.setenv("COLUMNS", "80")
    threads = numba.get_num_threads()
    yield
    numba.set_num_threads(threads)


def test_command(extra, restored, tmp_path):
    files = {suffix: tmp_path / f"bench.{suffix}" for suffix in ("json", "svg", "html")}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        window = ["--shape", "1,2,6,8", "--kernel", "3,2", "--stride", "2", "--padding", "1"]
        writes = ["--json", str(files["json"]), "--plot", str(files["svg"]), "--html", str(files["html"])]
        ops = ["--ops", "infer,backward-nhwc", "--rounds", "2", "--threads", "1"]
        assert main(["bench", *window, *ops, *writes]) == 0
    text = printed.getvalue()
    assert "custom       1x2x6x8 k3,2 s2 p1\n" in text

    content = json.loads(files["json"].read_text(encoding="utf-8"))
    assert (content["dtype"], content["threads"], content["rounds"]) == ("float32", 1, 2)
    assert "cache directory" not in content["system"]
    assert content["system"]["numpy"] == np.__version__
    assert {*content["versions"], *content["skipped"]} == {*PEERS}
    assert content["notes"] == []
    assert [result["operation"] for result in content["results"]] == ["infer", "backward-nhwc"]
    for result in content["results"]:
        operation = result["operation"]
        assert result["case"] == {
            "name": "custom",
            "shape": [1, 2, 6, 8],
            "kernel_size": [3, 2],
            "stride": [2, 2],
            "padding": [1, 1],
        }
        has = {name for name in content["versions"] if operation in SUPPORTED[name]} - {"scikit-image"}
        assert {*result["seconds"]} == {"fastpool", "fastpool, out=", "reference"} | has
        assert len(result["copy"]) == 2
        for name, samples in result["seconds"].items():
            assert len(samples) in (1, 2)
            assert min(samples) > 0
            assert result["median"][name] == pytest.approx(np.median(samples))
            assert f"{name:<14}" in text
            low, high = result["quartiles"][name]
            assert low <= result["median"][name] <= high
        if has:
            assert result["best_peer"] in has
            assert result["best_peer_ratio"] == result["ratio"][result["best_peer"]]
        assert f"{operation}: {OPERATIONS[operation]}" in text

    tables = Page(files["html"].read_text(encoding="utf-8")).tables
    assert {"infer", "backward-nhwc"} <= {*tables}
    assert files["svg"].read_text(encoding="utf-8").rstrip().endswith("</svg>")
    for path in files.values():
        assert str(path) in text.replace("\n", "")


def test_reference_is_left_out_where_it_would_take_too_long(extra, restored, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(peers, "versions", lambda: ({}, dict.fromkeys(PEERS, "not wanted")))
    path = tmp_path / "bench.json"
    shape = ["--shape", "1,1,1024,1026", "--kernel", "1"]  # more than QUICK has patience for
    assert main(["bench", *shape, "--ops", "infer", "--quick", "--json", str(path)]) == 0
    assert re.search(r"reference +left out", capsys.readouterr().out)
    (result,) = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert result["left_out"] == ["reference"]
    assert "reference" not in result["seconds"]


def test_what_a_peer_refuses_is_noted(extra, restored, monkeypatch, capsys):
    def refuse(task):
        raise RuntimeError("no such window\nin this library")

    monkeypatch.setitem(IMPLEMENTATIONS, "PyTorch", peers.Implementation(refuse, modules=("torch",)))
    others = {name: "not wanted" for name in PEERS if name != "PyTorch"}
    monkeypatch.setattr(peers, "versions", lambda: ({"PyTorch": "1"}, others))
    assert main(["bench", "--shapes", "notebook", "--ops", "infer", "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "PyTorch, infer, notebook: RuntimeError: no such window\n" in printed
    assert "time of the best peer" not in printed


def test_peers_that_are_missing_are_named(extra):
    modules = ("torch", "onnxruntime", "openvino", "jax", "skimage")
    result = run("bench", "--shapes", "notebook", "--ops", "infer", "--quick", code=without(*modules))
    assert result.returncode == 0, result.stderr
    for name in PEERS:
        assert f"\n{name}: not installed" in result.stdout
    assert "reference" in result.stdout


@pytest.mark.parametrize("package", ["jinja2", "matplotlib", "rich"])
def test_without_its_extra_it_says_what_to_install(package):
    result = run("bench", code=without(package))
    assert result.returncode == 2
    assert "python -m pip install 'fastpool[bench]'" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--ops", "infer,nonsense"],
            f"argument --ops: invalid choice: 'nonsense' (choose from {', '.join(OPERATIONS)})",
        ),
        (["--shapes", "resnet"], f"argument --shapes: invalid choice: 'resnet' (choose from {', '.join(CASES)})"),
        (["--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
        (["--threads", "0"], "argument --threads: must be a whole number of at least 1 and at most"),
        (["--threads", "99999"], "argument --threads: must be a whole number of at least 1 and at most"),
        (["--rounds", "0"], "argument --rounds: must be a whole number of at least 1, not '0'"),
        (["--shape", "8,64,112"], "argument --shape: must be N,N,N,N, each at least 1; got '8,64,112'"),
        (["--shape", "8,0,9,9"], "argument --shape: must be N,N,N,N, each at least 1; got '8,0,9,9'"),
        (["--shape", "1,1,9,9"], "--shape needs --kernel"),
        (["--kernel", "3"], "--kernel, --stride and --padding need --shape"),
        (["--padding", "0"], "--kernel, --stride and --padding need --shape"),
        (["--shape", "1,1,9,9", "--shapes", "lenet", "--kernel", "3"], "argument --shapes: not allowed with argument"),
        (["--shape", "1,1,9,9", "--kernel", "3.5"], "argument --kernel: must be N or N,N, each at least 1; got '3.5'"),
        (
            ["--shape", "1,1,9,9", "--kernel", "1,2,3"],
            "argument --kernel: must be N or N,N, each at least 1; got '1,2,3'",
        ),
        (
            ["--shape", "1,1,9,9", "--kernel", "3", "--padding", "-1"],
            "argument --padding: must be N or N,N, each at least 0",
        ),
        (["--shape", "1,1,9,9", "--kernel", "3", "--padding", "3"], "padding"),
        (["--shape", "1,1,2,2", "--kernel", "3"], "kernel"),
        (["--json", "figures.txt"], "argument --json: the suffix must be .json; got 'figures.txt'"),
        (["--html", f"nowhere{os.sep}page.html"], "argument --html: the directory 'nowhere' does not exist"),
        (["--plot", "plot.jpeg"], "argument --plot: the suffix must be .png, .svg or .pdf; got 'plot.jpeg'"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(["bench", *arguments])
    assert exit.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("usage: python -m fastpool bench")
