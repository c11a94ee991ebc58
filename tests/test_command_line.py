"""The command line: what each command prints, and its exit code."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import llvmlite
import numba
import numpy as np
import pytest

import fastpool
from fastpool.__main__ import main
from fastpool.kernels.cache import cache_directory

ROOT = Path(fastpool.__file__).parents[1]


def run(*arguments, code=None):
    """Run ``python -m fastpool``, or `code` with the same arguments."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *(["-m", "fastpool"] if code is None else ["-c", code]), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "COLUMNS": "80"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


def without(*packages):
    """Code that runs the command line as if `packages` were not installed."""
    return (
        f"import sys; sys.modules.update(dict.fromkeys({packages})); "
        "from fastpool.__main__ import main; sys.exit(main())"
    )


def test_without_a_command_the_help_is_printed():
    result = run()
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("usage: python -m fastpool")
    assert "demo" in result.stderr
    assert "info" in result.stderr


def test_version(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"fastpool {fastpool.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], ["demo", "info", "warmup", "--version"]),
        (["demo", "--help"], ["--epochs", "--batch-size", "--seed", "--plot", "(15)", "(32)", "(0)"]),
        (["info", "--help"], ["bug report"]),
        (["warmup", "--help"], ["--dtype", "float32"]),
    ],
)
def test_help(arguments, expected, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 0
    output = capsys.readouterr().out
    assert all(text in output for text in expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["info", "more"], "unrecognized arguments: more"),
        (["demo", "--epochs", "0"], "argument --epochs: must be a whole number of at least 1, not '0'"),
        (["demo", "--epochs", "1.5"], "argument --epochs: must be a whole number of at least 1, not '1.5'"),
        (["demo", "--batch-size", "-3"], "argument --batch-size: must be a whole number of at least 1, not '-3'"),
        (["demo", "--batch-size", "many"], "argument --batch-size: must be a whole number of at least 1, not 'many'"),
        (["demo", "--seed", "-1"], "argument --seed: must be a whole number of at least 0, not '-1'"),
        (["demo", "--plot", "plot"], "argument --plot: the suffix must be .png, .svg or .pdf; got 'plot'"),
        (["demo", "--plot", "plot.doc"], "argument --plot: the suffix must be .png, .svg or .pdf; got 'plot.doc'"),
        (["demo", "--plot", "nowhere/plot.png"], "argument --plot: the directory 'nowhere' does not exist"),
        (["demo", "--plot", "folder.png"], "argument --plot: 'folder.png' cannot be written"),
        (["demo", "--plot", "read_only.png"], "argument --plot: 'read_only.png' cannot be written"),
        (["demo", "--plot", "locked/plot.png"], "argument --plot: 'locked/plot.png' cannot be written"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    Path("locked").mkdir()
    Path("read_only.png").touch()
    # Permissions stop neither root nor Windows: answer in their place.
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in ("locked", "read_only.png"))
    with pytest.raises(SystemExit) as exit:
        main([argument.replace("/", os.sep) for argument in arguments])
    assert exit.value.code == 2
    assert message.replace("/", os.sep) in capsys.readouterr().err


def test_demo(tmp_path):
    for package in ("sklearn", "rich", "matplotlib"):
        pytest.importorskip(package)
    plot = tmp_path / "a [bold] plot.svg"
    result = run("demo", "--epochs", 1, "--batch-size", 64, "--plot", plot)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for text in ("1438 handwritten digits", "Accuracy", "im2col", "col2im", "pool forward", "pool backward", "ratio"):
        assert text in result.stdout
    assert "loss" in result.stdout
    assert "Both trainings had the same 23 losses, to the bit." in result.stdout
    assert plot.read_text(encoding="utf-8").rstrip().endswith("</svg>")


@pytest.mark.parametrize("package", ["sklearn", "rich", "matplotlib"])
def test_demo_without_its_extra_says_what_to_install(package):
    result = run("demo", code=without(package))
    assert result.returncode == 2
    assert "python -m pip install 'fastpool[demo]'" in result.stderr
    assert "python -m pip install '.[demo]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_info_needs_no_extra():
    result = run("info", code=without("sklearn", "rich", "matplotlib"))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    values = [line[17:] for line in lines]
    facts = dict(zip((line[:17].rstrip() for line in lines), values))
    assert not any(value.startswith(" ") or not value for value in values)
    assert facts["fastpool"] == fastpool.__version__
    assert facts["numpy"] == np.__version__
    assert facts["numba"] == numba.__version__
    assert facts["llvmlite"] == llvmlite.__version__
    assert facts["Python"].startswith(platform.python_version())
    assert facts["platform"] == platform.platform()
    assert facts["CPU"] == llvmlite.binding.get_host_cpu_name()
    assert facts["CPU features"]
    assert facts["CPU cores"].startswith(str(os.cpu_count()))
    assert int(facts["Numba threads"]) >= 1
    assert facts["threading layer"] in ("omp", "tbb", "workqueue")
    assert facts["cache directory"].startswith("none: ") or Path(facts["cache directory"]).is_dir()


def test_info_without_a_cache_directory(monkeypatch, capsys):
    monkeypatch.setattr("fastpool.kernels.cache.cache_directory", lambda: None)
    assert main(["info"]) == 0
    assert "cache directory  none: kernels are compiled anew in every process\n" in capsys.readouterr().out


def test_info_says_why_no_threading_layer_loads(monkeypatch, capsys):
    def fail():
        raise ValueError("No threading layer could be loaded.\nHINT:\ninstall one")

    monkeypatch.setattr(numba, "get_num_threads", fail)
    assert main(["info"]) == 0
    assert "threading layer  No threading layer could be loaded. HINT: install one\n" in capsys.readouterr().out


def test_interrupted(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("fastpool.system.facts", interrupt)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == ""


def test_warmup_leaves_nothing_to_compile(capsys):
    assert main(["warmup", "--dtype", "float32"]) == 0
    assert "compiled in" in capsys.readouterr().out
    directory = cache_directory()
    before = set(directory.iterdir())
    x = np.random.default_rng(0).standard_normal((2, 3, 20, 20)).astype(np.float32)
    for data_format in ("channels_first", "channels_last"):
        window = {"kernel_size": 2, "stride": 2, "data_format": data_format}
        y, argmax = fastpool.max_pool2d(x, **window, return_argmax=True)
        fastpool.max_pool2d(x, **window)
        fastpool.max_pool2d_backward(y, argmax, x.shape, **window)
        fastpool.avg_pool2d_backward(fastpool.avg_pool2d(x, **window), x.shape, **window)
    fastpool.fold(fastpool.unfold(x, 3), (20, 20), 3)
    large = np.zeros((32, 64, 64, 64), np.float32)
    fastpool.unfold(large, 2, 2)
    fastpool.max_pool2d(large, 2, data_format="channels_last", return_argmax=True)
    fastpool.max_pool2d(large, 2, data_format="channels_last")
    fastpool.avg_pool2d(large, 2, data_format="channels_last")
    assert set(directory.iterdir()) == before


def test_warmup_refuses_what_is_no_dtype(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["warmup", "--dtype", "complex64"])
    assert exit.value.code == 2
    assert "invalid choice: 'complex64'" in capsys.readouterr().err
