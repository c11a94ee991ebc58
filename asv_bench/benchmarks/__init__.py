"""Time, bandwidth and memory of fastpool, beside its reference and other libraries."""
