"""Average pooling and its gradients."""

from .common import Timed


class Values(Timed, operation="avg", name="avg_pool2d", groups=["shape", "layout_and_dtype"]):
    """The averages."""


class Backward(Timed, operation="avg-backward", name="avg_pool2d_backward", groups=["shape"]):
    """The gradients, from those of the averages."""
