"""Bytes that must be read and written, over the time, as a share of the bandwidth of a large copy."""

import numpy as np

from fastpool import bench

from .common import ready


class Bandwidth:
    param_names = ("implementation", "operation", "shape")
    params = (
        ["fastpool, out=", "fastpool"],
        ["infer", "forward", "backward", "avg", "avg-backward", "unfold", "fold"],
        ["vgg-pool3"],
    )
    timeout = 120

    def track_share_of_copy(self, implementation, operation, shape):
        call, nbytes = ready(operation, implementation, shape)
        calls = {"copy": bench.copying(1), implementation: call}
        seconds = bench.measure(calls, 5, 0.03, lambda: None)
        copied = np.array(seconds["copy"]) * nbytes / (2 * bench.COPY_BYTES)
        return float(np.median(copied / seconds[implementation]))

    track_share_of_copy.unit = "of copy bandwidth"
    track_share_of_copy.pretty_name = "bandwidth as a share of a copy's"
