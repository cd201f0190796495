"""Benchmarks of shoal against joblib, other libraries and lower bounds: ``python -m benchmarks``."""
