"""Kernels compiled by Numba: plain arrays and ints in, nothing known of the rest of fastpool."""
