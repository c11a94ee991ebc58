"""Max pooling: the maxima alone, with argmax, and their gradients."""

from .common import Timed


class Values(Timed, operation="infer", name="max_pool2d"):
    """The maxima alone."""


class Argmax(Timed, operation="forward", name="max_pool2d with argmax"):
    """The maxima and their places."""


class Backward(Timed, operation="backward", name="max_pool2d_backward"):
    """The gradients, from those of the maxima."""
