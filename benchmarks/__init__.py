"""Benchmarks of shoal against joblib, the standard library, mpire and the floor: ``python -m benchmarks``."""
