"""What kind of Python the tests run on."""

from __future__ import annotations

import os
import sys

import pytest

GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()

needs_forks = pytest.mark.skipif(
    not (GIL and hasattr(os, "fork")),
    reason="needs fork, and a GIL: without it, a fork may copy a lock that another thread holds inside the interpreter",
)
