"""Time and memory of fastpool, beside its reference."""
