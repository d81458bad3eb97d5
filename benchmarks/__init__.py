"""Benchmarks: one module a question, run as `python -m benchmarks.NAME` from the checkout."""
