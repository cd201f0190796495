"""Benchmarks of shoal against joblib, the standard library, mpire and lower bounds: ``python -m benchmarks``."""
