"""Windows as columns, and columns added back."""

from .common import Timed


class Unfold(Timed, operation="unfold", name="unfold", groups=["shape", "threads"]):
    """The windows of each image as columns."""


class Fold(Timed, operation="fold", name="fold", groups=["shape", "threads"]):
    """The columns of each image, added back."""


class Im2col(Timed, operation="im2col", name="im2col", groups=["shape"]):
    """The windows of all images as columns, as in the notebook."""


class Col2im(Timed, operation="col2im", name="col2im", groups=["shape"]):
    """The columns of all images, added back."""
