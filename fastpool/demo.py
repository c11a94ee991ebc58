"""A small convolutional network on real handwritten digits, trained with `fastpool` and with its reference.

The network is plain NumPy; `im2col`, `col2im` and `Pooling` come from the module that it is given.
What needs the demo extra is imported where it is used: this file imports without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike

import fastpool
from fastpool import reference

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Array = np.ndarray[Any, Any]
T = TypeVar("T")

OPERATIONS = ("im2col", "col2im", "pool forward", "pool backward")


class Clock:
    """Calls functions, and adds up the seconds that each operation takes."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(OPERATIONS, 0.0)

    def __call__(self, operation: str, function: Callable[..., T], *arguments: object) -> T:
        """Return `function(*arguments)`; its time goes to `operation`."""
        start = perf_counter()
        result = function(*arguments)
        self.seconds[operation] += perf_counter() - start
        return result


class Layer:
    """One step of the network; by itself the identity."""

    parameters: tuple[Array, ...] = ()

    def forward(self, x: Array) -> Array:
        """Return the output."""
        return x

    def gradients(self, dy: Array) -> tuple[Array, ...]:
        """Return the gradient of each parameter, given the gradient `dy` of the output."""
        return ()

    def backward(self, dy: Array) -> Array:
        """Return the gradient of the input, given the gradient `dy` of the output."""
        return dy


class Convolution(Layer):
    """3 x 3 with padding 1, (N, C, H, W) to (N, F, H, W): `im2col` and a matrix product."""

    def __init__(self, module: ModuleType, clock: Clock, weight: Array) -> None:
        self.module, self.clock = module, clock
        self.parameters = (weight, np.zeros((len(weight), 1), weight.dtype))

    def forward(self, x: Array) -> Array:
        """Return the output."""
        weight, bias = self.parameters
        n, _, h, w = self.shape = x.shape
        self.columns = self.clock("im2col", self.module.im2col, x, 3, None, 1, 1)
        y = weight @ self.columns + bias
        return np.ascontiguousarray(y.reshape(-1, n, h, w).transpose(1, 0, 2, 3))

    def gradients(self, dy: Array) -> tuple[Array, ...]:
        """Return the gradients of weight and bias."""
        dy = self._rows(dy)
        return dy @ self.columns.T, dy.sum(axis=1, keepdims=True)

    def backward(self, dy: Array) -> Array:
        """Return the gradient of the input."""
        columns = self.parameters[0].T @ self._rows(dy)
        return self.clock("col2im", self.module.col2im, columns, self.shape, 3, None, 1, 1)

    def _rows(self, dy: Array) -> Array:
        """(N, F, H, W) to (F, N*H*W), contiguous: BLAS may sum in another order in another memory layout."""
        return np.ascontiguousarray(dy.transpose(1, 0, 2, 3)).reshape(dy.shape[1], -1)


class ReLU(Layer):
    """max(x, 0)."""

    def forward(self, x: Array) -> Array:
        """Return the output."""
        self.positive = x > 0
        return np.maximum(x, 0)

    def backward(self, dy: Array) -> Array:
        """Return the gradient of the input."""
        return dy * self.positive


class MaxPooling(Layer):
    """The module's `Pooling(2)`, timed."""

    def __init__(self, module: ModuleType, clock: Clock) -> None:
        self.pooling, self.clock = module.Pooling(2), clock

    def forward(self, x: Array) -> Array:
        """Return the output."""
        return self.clock("pool forward", self.pooling.forward, x)

    def backward(self, dy: Array) -> Array:
        """Return the gradient of the input."""
        return self.clock("pool backward", self.pooling.backward, dy)


class Dense(Layer):
    """A matrix product over everything but the batch, (N, ...) to (N, M)."""

    def __init__(self, weight: Array) -> None:
        self.parameters = (weight, np.zeros(len(weight), weight.dtype))

    def forward(self, x: Array) -> Array:
        """Return the output."""
        weight, bias = self.parameters
        self.shape = x.shape
        self.x = np.ascontiguousarray(x).reshape(len(x), -1)
        return self.x @ weight.T + bias

    def gradients(self, dy: Array) -> tuple[Array, ...]:
        """Return the gradients of weight and bias."""
        return dy.T @ self.x, dy.sum(axis=0)

    def backward(self, dy: Array) -> Array:
        """Return the gradient of the input."""
        return (dy @ self.parameters[0]).reshape(self.shape)


class Network:
    """Convolution, ReLU and pooling, twice; then a dense layer, whose softmax gives the probabilities.

    Parameters
    ----------
    module : module
        `fastpool` or `fastpool.reference`.
    clock : Clock
        Times what is called from the module.
    rng : numpy.random.Generator
        Draws the weights.
    size : int
        Height and width of the images, which have one channel.
    channels : pair of int
        Channels after each convolution.
    classes : int
        How many classes there are.
    dtype : dtype
        Of the parameters and, given images of the same dtype, of everything else.
    """

    def __init__(
        self,
        module: ModuleType,
        clock: Clock,
        rng: np.random.Generator,
        size: int = 32,
        channels: tuple[int, int] = (8, 16),
        classes: int = 10,
        dtype: DTypeLike = np.float32,
    ) -> None:
        def weight(outputs: int, inputs: int) -> Array:
            # Of this variance, a ReLU hands the variance of its input on (He et al., 2015).
            return rng.normal(0, np.sqrt(2 / inputs), (outputs, inputs)).astype(dtype)

        first, second = channels
        pooled = -(-size // 4)  # Pooling(2) keeps a ragged edge: ceil, twice
        self.layers: tuple[Layer, ...] = (
            Convolution(module, clock, weight(first, 9)),
            ReLU(),
            MaxPooling(module, clock),
            Convolution(module, clock, weight(second, first * 9)),
            ReLU(),
            MaxPooling(module, clock),
            Dense(weight(classes, second * pooled * pooled)),
        )
        self.parameters = [p for layer in self.layers for p in layer.parameters]

    def scores(self, images: Array) -> Array:
        """Return the logarithms of the probabilities, but for a constant an image: (N, 1, H, W) to (N, classes)."""
        for layer in self.layers:
            images = layer.forward(images)
        return images

    def loss_and_gradients(self, images: Array, labels: Array) -> tuple[float, list[Array]]:
        """Return the mean cross-entropy of a batch and its gradient for each of `parameters`."""
        scores = self.scores(images)
        scores = scores - scores.max(axis=1, keepdims=True)
        probabilities = np.exp(scores)
        sums = probabilities.sum(axis=1, keepdims=True)
        probabilities /= sums
        each = np.arange(len(labels))
        loss = float((np.log(sums[:, 0]) - scores[each, labels]).mean())

        dy = probabilities
        dy[each, labels] -= 1
        dy /= len(labels)
        gradients: list[Array] = []
        for layer in reversed(self.layers):
            gradients[:0] = layer.gradients(dy)
            if layer is not self.layers[0]:  # nobody needs the gradient of the images
                dy = layer.backward(dy)
        return loss, gradients

    def accuracy(self, images: Array, labels: Array) -> float:
        """Return the fraction of the images whose label has the largest score."""
        return float((self.scores(images).argmax(axis=1) == labels).mean())


class Adam:
    """Adam (Kingma & Ba, 2015); changes the parameters in place."""

    def __init__(self, parameters: Sequence[Array]) -> None:
        self.parameters, self.steps = parameters, 0
        self.means = [np.zeros_like(p) for p in parameters]
        self.squares = [np.zeros_like(p) for p in parameters]

    def step(self, gradients: Sequence[Array], learning_rate: float) -> None:
        """Take one step against the gradients."""
        self.steps += 1
        rate = learning_rate * (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        for parameter, gradient, mean, square in zip(self.parameters, gradients, self.means, self.squares):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient * gradient - square)
            parameter -= rate * mean / (np.sqrt(square) + 1e-8)


class Digits(NamedTuple):
    """Images, float32 (N, 1, 32, 32), and labels, int64 (N,): those to train on, and a fifth held out."""

    images: Array
    labels: Array
    held_out_images: Array
    held_out_labels: Array


def digits(seed: int) -> Digits:
    """Return the 1,797 handwritten digits that scikit-learn ships: from 0 to 1, 32 x 32, in an order of the seed's."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    images = enlarged(data.images[order] / 16, 32).astype(np.float32)[:, None]
    labels = data.target[order].astype(np.int64)
    held_out = len(labels) // 5
    return Digits(images[held_out:], labels[held_out:], images[:held_out], labels[:held_out])


def enlarged(images: Array, size: int) -> Array:
    """Return square images, (..., H, H), enlarged to (..., size, size) by bilinear interpolation.

    Examples
    --------
    >>> enlarged(np.array([[0.0, 4.0], [0.0, 4.0]]), 4)
    array([[0., 1., 3., 4.],
           [0., 1., 3., 4.],
           [0., 1., 3., 4.],
           [0., 1., 3., 4.]])
    """
    old = images.shape[-1]
    centres = (np.arange(size) + 0.5) * old / size - 0.5
    weights: Array = np.stack([np.interp(centres, np.arange(old), unit) for unit in np.eye(old)], axis=1)
    return weights @ images @ weights.T


@dataclass(frozen=True)
class Training:
    """What a training gave.

    Attributes
    ----------
    losses : list of float
        The loss of every step.
    accuracy : float
        The fraction of the held-out images that the trained network classifies rightly.
    seconds : dict
        Time in training: of each operation, of the "rest" (matrix products, activations, Adam), and "in all".
    """

    losses: list[float]
    accuracy: float
    seconds: dict[str, float]


def train(
    module: ModuleType,
    data: Digits,
    epochs: int,
    batch_size: int,
    seed: int,
    progress: Callable[[float], object] = lambda loss: None,
) -> Training:
    """Train a network with the operations of `module`, calling `progress` with the loss of every step.

    The same arguments, but for `module`, give the same losses to the bit.
    """
    rng = np.random.default_rng(seed)
    clock = Clock()
    network = Network(module, clock, rng)
    optimizer = Adam(network.parameters)
    steps = epochs * len(batches(data, batch_size))
    losses: list[float] = []
    start = perf_counter()
    for _ in range(epochs):
        order = rng.permutation(len(data.labels))
        for batch in batches(data, batch_size):
            chosen = order[batch]
            loss, gradients = network.loss_and_gradients(data.images[chosen], data.labels[chosen])
            optimizer.step(gradients, 0.005 * (1 - len(losses) / steps))  # falls to 0: the last steps settle
            losses.append(loss)
            progress(loss)
    everything = perf_counter() - start
    rest = everything - sum(clock.seconds.values())
    seconds = {**clock.seconds, "rest": rest, "in all": everything}  # before the clock runs on below
    return Training(losses, network.accuracy(data.held_out_images, data.held_out_labels), seconds)


def batches(data: Digits, batch_size: int) -> list[slice]:
    """Return the batches of one epoch; the last may be smaller."""
    return [slice(first, first + batch_size) for first in range(0, len(data.labels), batch_size)]


def main(epochs: int, batch_size: int, seed: int, plot: Path | None) -> int:
    """Run the demo and return its exit code: 1 if the losses of the two trainings differ in any bit."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    data = digits(seed)
    console.print(f"{len(data.labels)} handwritten digits to train on, {len(data.held_out_labels)} held out.")
    # Kernels are compiled when first called: a throwaway batch keeps the compiler out of the times.
    batch = batches(data, batch_size)[0]
    throwaway = Network(fastpool, Clock(), np.random.default_rng(seed))
    throwaway.loss_and_gradients(data.images[batch], data.labels[batch])
    fast, slow = (train_with_bar(console, module, data, epochs, batch_size, seed) for module in (fastpool, reference))
    console.print(f"Accuracy on the held-out digits: {fast.accuracy:.1%}")
    console.print(times(fast, slow))
    if plot is not None:
        draw(fast, slow, plot)
        console.print(f"Plot written to {plot}")
    # As bytes: equal to the bit, and a NaN equals itself.
    if np.array(fast.losses).tobytes() != np.array(slow.losses).tobytes():
        print("FAILED: the losses with fastpool and with its reference differ.", file=sys.stderr)
        return 1
    console.print(f"Both trainings had the same {len(fast.losses)} losses, to the bit.")
    return 0


def train_with_bar(
    console: Console, module: ModuleType, data: Digits, epochs: int, batch_size: int, seed: int
) -> Training:
    """`train`, under a progress bar that shows the loss."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(module.__name__, total=epochs * len(batches(data, batch_size)), loss=float("nan"))
        return train(module, data, epochs, batch_size, seed, lambda loss: bar.update(task, advance=1, loss=loss))


def times(fast: Training, slow: Training) -> Table:
    """Return the seconds of both trainings, side by side, as a table."""
    from rich.table import Table

    table = Table("seconds in training")
    for heading in ("fastpool", "reference", "ratio"):
        table.add_column(heading, justify="right")
    for name in fast.seconds:
        if name == "rest":
            table.add_section()
        mine, theirs = fast.seconds[name], slow.seconds[name]
        table.add_row(name, f"{mine:.3f}", f"{theirs:.3f}", f"{theirs / mine:.1f}")
    return table


def draw(fast: Training, slow: Training, path: Path) -> None:
    """Write the losses and the times, side by side, in the format that the suffix of `path` names."""
    from matplotlib.figure import Figure  # not pyplot: no window, no global state

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.semilogy(range(1, len(fast.losses) + 1), fast.losses, color="black", linewidth=0.6)
    left.set(title="Loss, the same with both", xlabel="step", ylabel="cross-entropy of the batch")

    places = np.arange(len(OPERATIONS))
    for label, training, offset, fill in (("fastpool", fast, -0.2, "black"), ("reference", slow, 0.2, "white")):
        seconds = [training.seconds[name] for name in OPERATIONS]
        bars = right.barh(places + offset, seconds, 0.4, label=label, color=fill, edgecolor="black")
        right.bar_label(bars, [f"{s:.2f}" for s in seconds], padding=3)
    right.set_yticks(places, OPERATIONS)
    right.invert_yaxis()
    right.margins(x=0.12)
    right.set(title="Time in training", xlabel="seconds")
    right.legend()
    figure.savefig(path)
