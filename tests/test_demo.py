"""The demo's network, its training, and what it draws."""

from types import SimpleNamespace

import numpy as np
import pytest

import fastpool
from fastpool import demo, reference

modules = pytest.mark.parametrize("module", [fastpool, reference], ids=lambda module: module.__name__)


def tiny(module, dtype):
    """A network that pools 5 to 3 to 2, so that edges are ragged, and a batch for it."""
    rng = np.random.default_rng(1)
    network = demo.Network(module, demo.Clock(), rng, size=5, channels=(2, 3), classes=4, dtype=dtype)
    return network, rng.random((3, 1, 5, 5)).astype(dtype), np.array([0, 3, 3])


def random_digits(count):
    rng = np.random.default_rng(2)
    images = rng.random((count, 1, 32, 32), np.float32)
    labels = rng.integers(0, 10, count)
    return demo.Digits(images, labels, images[:5], labels[:5])


@modules
def test_gradients_are_those_of_finite_differences(module):
    network, images, labels = tiny(module, np.float64)
    loss, gradients = network.loss_and_gradients(images, labels)
    assert loss > 0
    assert len(gradients) == len(network.parameters) == 6
    step = 1e-6
    for parameter, gradient in zip(network.parameters, gradients):
        expected = np.empty_like(parameter)
        for place in np.ndindex(parameter.shape):
            value = parameter[place]
            parameter[place] = value + step
            above = network.loss_and_gradients(images, labels)[0]
            parameter[place] = value - step
            below = network.loss_and_gradients(images, labels)[0]
            parameter[place] = value
            expected[place] = (above - below) / (2 * step)
        assert np.abs(gradient).max() > 1e-3
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)


@modules
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_everything_has_the_dtype_of_the_images(module, dtype):
    network, images, labels = tiny(module, dtype)
    _, gradients = network.loss_and_gradients(images, labels)
    demo.Adam(network.parameters).step(gradients, 0.1)
    arrays = [network.scores(images), *gradients, *network.parameters]
    assert {a.dtype for a in arrays} == {np.dtype(dtype)}


def test_the_loss_of_known_scores():
    network, images, labels = tiny(reference, np.float64)
    for parameter in network.parameters:
        parameter[...] = 0
    network.parameters[-1][...] = [1000, 0, 0, 1000]  # bias of the scores: exp(1000) would overflow
    loss, _ = network.loss_and_gradients(images, labels)
    assert loss == pytest.approx(np.log(2))
    assert network.accuracy(images, labels) == pytest.approx(1 / 3)  # of equal scores the first counts


def test_adam_finds_a_minimum_and_its_first_step_is_the_learning_rate():
    parameter = np.array([3.0, -2.0])
    adam = demo.Adam([parameter])
    adam.step([2 * parameter], 0.1)
    np.testing.assert_allclose(parameter, [2.9, -1.9], rtol=1e-6)
    for _ in range(300):
        adam.step([2 * parameter], 0.1)
    np.testing.assert_allclose(parameter, 0, atol=1e-3)


def test_both_modules_give_the_same_losses_to_the_bit():
    data = random_digits(70)
    fast, slow = (demo.train(module, data, epochs=2, batch_size=32, seed=3) for module in (fastpool, reference))
    assert len(fast.losses) == 6
    assert np.array(fast.losses).tobytes() == np.array(slow.losses).tobytes()
    assert fast.accuracy == slow.accuracy
    assert fast.losses != demo.train(fastpool, data, epochs=2, batch_size=32, seed=4).losses


def test_progress_is_told_every_loss_and_the_seconds_add_up():
    told = []
    training = demo.train(reference, random_digits(10), epochs=1, batch_size=4, seed=0, progress=told.append)
    assert told == training.losses
    *parts, everything = training.seconds.values()
    assert list(training.seconds) == [*demo.OPERATIONS, "rest", "in all"]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(everything)


def test_the_clock_books_time_under_the_operation(monkeypatch):
    monkeypatch.setattr(demo, "perf_counter", iter([10.0, 12.0, 20.0, 21.0]).__next__)
    clock = demo.Clock()
    assert clock("im2col", max, 3, 4) == 4
    assert clock("im2col", max, 3, 5) == 5
    assert clock.seconds == {"im2col": 3.0, "col2im": 0.0, "pool forward": 0.0, "pool backward": 0.0}


def test_digits_are_split_by_the_seed():
    datasets = pytest.importorskip("sklearn.datasets")
    data = demo.digits(seed=5)
    assert data.images.shape == (1438, 1, 32, 32)
    assert data.held_out_images.shape == (359, 1, 32, 32)
    assert data.images.dtype == data.held_out_images.dtype == np.float32
    assert data.images.min() == 0
    assert data.images.max() == 1
    # No image is lost or doubled by the split: the mean of each tells them apart well enough.
    originals = datasets.load_digits().images / 16
    means = np.concatenate([data.images, data.held_out_images]).mean(axis=(1, 2, 3))
    expected = demo.enlarged(originals, 32).mean(axis=(1, 2))
    np.testing.assert_allclose(np.sort(means), np.sort(expected), rtol=1e-5)
    assert not np.array_equal(data.labels, demo.digits(seed=6).labels)


def test_a_few_epochs_learn_the_digits():
    pytest.importorskip("sklearn")
    training = demo.train(fastpool, demo.digits(seed=0), epochs=3, batch_size=32, seed=0)
    assert training.accuracy > 0.9


def test_losses_that_differ_are_an_error(monkeypatch, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("rich")

    def inexact(*arguments):
        return reference.col2im(*arguments) * np.float32(1.001)

    other = SimpleNamespace(__name__="other", im2col=reference.im2col, col2im=inexact, Pooling=reference.Pooling)
    monkeypatch.setattr(demo, "reference", other)
    assert demo.main(epochs=1, batch_size=512, seed=0, plot=None) == 1
    output = capsys.readouterr()
    assert "FAILED" in output.err
    assert "to the bit" not in output.out


TRAINING = demo.Training(
    [2.0, 1.0, 0.5], 0.75, dict(zip([*demo.OPERATIONS, "rest", "in all"], [0.1, 0.2, 0.3, 0.4, 0.5, 1.5]))
)
SLOWER = demo.Training(TRAINING.losses, 0.75, {name: 3 * s for name, s in TRAINING.seconds.items()})


def test_the_table_has_every_operation_and_its_ratio():
    console = pytest.importorskip("rich.console").Console(width=80)
    with console.capture() as capture:
        console.print(demo.times(TRAINING, SLOWER))
    rows = [line.replace("│", " ").split() for line in capture.get().splitlines()]
    assert ["pool", "backward", "0.400", "1.200", "3.0"] in rows
    for name in TRAINING.seconds:
        assert any(row[: len(name.split())] == name.split() and row[-1] == "3.0" for row in rows if row)


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")]
)
def test_plots_have_the_format_of_their_suffix(tmp_path, suffix, start):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"plot{suffix}"
    demo.draw(TRAINING, SLOWER, path)
    assert path.read_bytes().startswith(start)
