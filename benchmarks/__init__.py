"""Measurements against the machine's own limit and against other libraries: `python -m benchmarks`."""
