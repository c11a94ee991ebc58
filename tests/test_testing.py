"""The conformance kit finds what is wrong with an implementation, and nothing wrong with a right one."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpool
from fastpool import reference
from fastpool.__main__ import main
from fastpool.testing import NAMES, OUTCOMES, Call, Difference, Unsupported, check_conformance, strategies
from fastpool.testing.adapters import ADAPTERS
from fastpool.testing.compare import verdict

FEW = ["max_pool1d", "max_pool2d", "max_pool2d_backward", "avg_pool3d", "fold", "AdaptiveMaxPool2d", "Pooling"]


def only(name, function):
    """An implementation of one function, that gets x and the parameters."""
    return SimpleNamespace(**{name: function})


def test_every_name_is_compared():
    assert sorted(NAMES) == sorted(name for name in fastpool.__all__ if name != "__version__")


def test_the_reference_agrees_with_itself():
    report = check_conformance(reference, cases=5)
    assert report.agreed
    assert [finding.name for finding in report.findings] == NAMES
    assert all(finding.outcomes == {"identical": 5} for finding in report.findings)
    assert report.missing == []
    report.raise_for_differences()


def test_fastpool_agrees():
    check_conformance(fastpool, names=FEW, cases=20, dtypes=["float32"], exact=True).raise_for_differences()


def test_halves():
    pytest.importorskip("ml_dtypes")
    halves = ["float16", "bfloat16"]
    report = check_conformance(fastpool, names=["max_unpool2d", "fold"], cases=15, dtypes=halves, exact=True)
    report.raise_for_differences()
    report = check_conformance(reference, names=["lp_pool1d", "fold"], cases=10, dtypes=halves)
    assert all(finding.outcomes == {"identical": 10} for finding in report.findings)


@pytest.mark.parametrize("name", ["max_pool1d", "fold", "LPPool2d", "global_max_pool"])
def test_large_calls(name):
    sizes = []
    drawn = strategies.calls(name, ["float32"], large=True)
    strategies.explore(drawn, lambda call: sizes.append(sum(x.nbytes for x in call.arrays.values())), 5, seed=0)
    assert len(sizes) == 5
    assert min(sizes) > 1 << 20


def test_what_only_large_calls_show_is_printed_in_few_planes():
    def wrong(x, kernel_size, *others, **window):
        y = reference.max_pool2d(x, kernel_size, *others, **window)
        return y if x.nbytes < 1 << 20 or isinstance(y, tuple) else y + y.dtype.type(1)

    (finding,) = check_conformance(only("max_pool2d", wrong), cases=100, large=True).findings
    assert 0 < finding.outcomes["differed"] <= 5
    assert "np.resize(np.array(" in finding.code
    assert len(finding.code) < 5000


def test_what_is_missing_is_reported():
    report = check_conformance(only("unfold", reference.unfold), names=["unfold", "fold"], cases=3)
    assert report.agreed
    assert report.missing == ["fold"]
    assert not check_conformance(SimpleNamespace(), cases=3).agreed


def off_by_one(x, padding=0, **window):
    result = reference.max_pool2d(x, padding=padding, **window)
    if not padding or isinstance(result, tuple):
        return result
    return np.roll(result, 1)


def last_of_ties(x, kernel_size, **others):
    if not others.get("return_argmax"):
        return reference.max_pool2d(x, kernel_size, **others)
    y, argmax = reference.max_pool2d(x, kernel_size, **others)
    last = int(np.prod(np.broadcast_to(kernel_size, 2))) - 1
    return y, np.where(y == 1, argmax.dtype.type(last), argmax)


def no_nan(x, **others):
    result = reference.max_pool2d(x, **others)
    return tuple(map(np.nan_to_num, result)) if isinstance(result, tuple) else np.nan_to_num(result)


def wider(x, **others):
    result = reference.max_pool2d(x, **others)
    return result if isinstance(result, tuple) else result.astype(np.longdouble)


def no_argmax(x, **others):
    result = reference.max_pool2d(x, **others)
    return result[0] if isinstance(result, tuple) else result


def lenient(x, **others):
    try:
        return reference.max_pool2d(x, **others)
    except ValueError:
        return x


WRONG = {
    off_by_one: "result 0 has",
    last_of_ties: "result 1 has",
    no_nan: "result 0 has",
    wider: "dtype",
    no_argmax: "1 results instead of 2",
    lenient: "a result instead of ValueError",
}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda function: function.__name__)
def test_what_differs_is_found_and_made_small(wrong):
    report = check_conformance(only("max_pool2d", wrong), cases=150)
    (finding,) = report.findings
    assert not report.agreed
    assert 0 < finding.outcomes["differed"] < 150
    assert finding.outcomes["identical"] > 50
    assert sum(finding.outcomes.values()) == 150
    assert WRONG[wrong] in finding.why
    with pytest.raises(AssertionError, match="max_pool2d"):
        report.raise_for_differences()
    # The smallest call is that of a few elements, and its code shows the difference.
    printed = run(finding.code, wrong)
    assert len(finding.code) < 700
    assert len(printed) == 2 or wrong is lenient
    assert wrong in (wider, lenient) or printed[0] != printed[1]


def run(code, wrong):
    """Return what the code prints, with `wrong` for the implementation."""
    printed = []
    names = {"implementation": only("max_pool2d", wrong), "print": printed.append}
    try:
        exec(code, names)
    except ValueError:
        assert wrong is lenient
    return [str(entry) for entry in printed]


def test_what_raises_is_told_from_what_differs():
    def raises(x, **others):
        if x.ndim == 3:
            raise RuntimeError("three axes")
        return reference.max_pool2d(x, **others)

    (finding,) = check_conformance(only("max_pool2d", raises)).findings
    assert finding.outcomes["raised"] > 0
    assert finding.outcomes["differed"] == 0
    assert finding.why == "RuntimeError: three axes"


def test_another_order_of_summation_is_near_but_not_exact():
    def backwards(cols, output_size, kernel_size, dilation=1, padding=0, stride=1):
        folded = reference.fold(cols.astype(float), output_size, kernel_size, stride, padding, dilation)
        return folded.astype(np.float32)

    def compare(**how):
        return check_conformance(only("fold", backwards), dtypes=["float32"], **how)

    report = compare()
    assert report.agreed
    assert report.findings[0].outcomes["near"] > 0
    assert not compare(exact=True).agreed


def test_sums_that_are_too_far_off_differ():
    def rough(x, **others):
        return (reference.avg_pool2d(x, **others) * (1 + 1e-4)).astype(x.dtype)

    (finding,) = check_conformance(only("avg_pool2d", rough), dtypes=["float32"]).findings
    assert finding.outcomes["differed"] > 10


def test_known_differences_are_named():
    def floor_of_nan(call, expected, actual):
        return bool(np.isnan(expected[0]).any())

    implementation = only("max_pool2d", no_nan)
    implementation.differences = [Difference("NaN is a number", floor_of_nan)]
    report = check_conformance(implementation, dtypes=["float32"], cases=200)
    assert report.findings[0].intended["NaN is a number"] == report.findings[0].outcomes["intended"] > 0
    assert "intended: NaN is a number" in str(report)
    assert not report.agreed  # infinities are no numbers either


def test_what_is_unsupported_is_counted():
    def unsupported(x, **others):
        raise Unsupported("anything")

    report = check_conformance(only("max_pool2d", unsupported), cases=7)
    assert report.agreed
    assert report.findings[0].outcomes["unsupported"] >= 6


def test_a_class_with_the_notebooks_interface():
    class Pooling(reference.Pooling):
        def backward(self, dy):
            return super().backward(dy) * 2

    (finding,) = check_conformance(SimpleNamespace(Pooling=Pooling)).findings
    assert finding.why.startswith("result 1 has")
    assert "layer.backward(dy)" in finding.code


def test_another_reference():
    floor = only("max_pool2d", lambda x, ceil_mode=False, **others: reference.max_pool2d(x, **others))
    assert check_conformance(floor, against=floor).agreed
    assert not check_conformance(reference, against=floor, names=["max_pool2d"]).agreed


def test_the_same_seed_gives_the_same_report():
    def compare(seed):
        return str(check_conformance(only("max_pool2d", off_by_one), seed=seed, cases=50))

    assert compare(1) == compare(1)


@pytest.mark.parametrize(("given", "message"), [({"cases": 0}, "cases"), ({"names": ["pool"]}, "pool")])
def test_parameters_out_of_range(given, message):
    with pytest.raises(ValueError, match=message):
        check_conformance(reference, **given)


def test_the_report_as_json():
    report = check_conformance(only("max_pool2d", off_by_one), cases=50, names=["max_pool2d", "unfold"], seed=3)
    found = json.loads(report.to_json())
    assert found["agreed"] is False
    assert found["facts"]["seed"] == 3
    assert found["missing"] == ["unfold"]
    (finding,) = found["findings"]
    assert [*finding["outcomes"]] == [*OUTCOMES]
    assert sum(finding["outcomes"].values()) == 50
    assert finding["code"] == report.findings[0].code


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=10)
def test_calls_are_valid(name, data):
    call = data.draw(strategies.calls(name))
    assert verdict(call, reference, reference).outcome == "identical"


@pytest.mark.parametrize("layout", ["contiguous", "every second", "big-endian"])
def test_code_gives_the_arrays(layout):
    x = np.array([[np.nan, np.inf], [-0.0, 1]], np.float32)
    call = Call("max_pool2d", {"x": x}, {"kernel_size": 1}, layout)
    names = {"implementation": reference}
    exec(call.code("implementation"), names)
    np.testing.assert_array_equal(names["x"], x)
    assert names["x"].dtype.itemsize == 4


@pytest.mark.parametrize("name", ADAPTERS)
def test_peers(name):
    pytest.importorskip(name)
    if name == "onnxruntime":
        pytest.importorskip("onnx")
    implementation = ADAPTERS[name]()
    report = check_conformance(implementation, cases=25)
    report.raise_for_differences()
    agreed = sum((finding.outcomes["identical"] for finding in report.findings), 0)
    assert agreed > 30
    if name == "torch":
        assert any("NaN" in what for finding in report.findings for what in finding.intended)


def test_the_command(capsys, monkeypatch, tmp_path):
    for module in ("fastpool.testing", "fastpool.verify"):
        monkeypatch.setattr(f"{module}.NAMES", FEW)
    file = tmp_path / "report.json"
    assert main(["verify", "--cases", "2", "--seed", "5", "--dtype", "float32", "--json", str(file)]) == 0
    assert "max_pool2d_backward" in capsys.readouterr().out
    assert json.loads(file.read_text())["facts"]["seed"] == 5


def test_the_command_finds_differences(capsys, monkeypatch):
    monkeypatch.setitem(ADAPTERS, "torch", lambda: only("max_pool2d", off_by_one))
    assert main(["verify", "torch"]) == 1
    assert "implementation.max_pool2d" in capsys.readouterr().out


def test_a_peer_that_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    assert main(["verify", "jax"]) == 2
    assert "jax is not installed" in capsys.readouterr().err


def test_three_lines_of_test(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from fastpool import reference\n"
        "def max_pool2d(x, **others): return reference.max_pool2d(x, **others | {'padding': 0})\n"
    )
    (tmp_path / "test_mine.py").write_text(
        "import mine\n"
        "from fastpool.testing import check_conformance\n"
        "def test_conformance(): check_conformance(mine).raise_for_differences()\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "import mine" in done.stdout
    assert "mine.max_pool2d(x=x" in done.stdout
