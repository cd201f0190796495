"""What is said of other systems: which dependencies are installed where."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


@pytest.mark.parametrize(
    ("system", "machine", "python", "implementation", "expected"),
    [
        ("linux", "x86_64", "3.12", "cpython", {"isal", "zlib-ng"}),
        ("linux", "aarch64", "3.14", "cpython", {"isal", "zlib-ng"}),
        ("darwin", "arm64", "3.10", "cpython", {"isal", "zlib-ng"}),
        ("darwin", "x86_64", "3.10", "cpython", {"isal", "zlib-ng"}),
        ("win32", "AMD64", "3.12", "cpython", {"isal", "zlib-ng"}),
        ("win32", "ARM64", "3.12", "cpython", {"zlib-ng"}),
        ("win32", "x86", "3.12", "cpython", set()),
        ("linux", "i686", "3.12", "cpython", set()),
        ("linux", "armv7l", "3.12", "cpython", set()),
        ("linux", "x86_64", "3.13", "cpython", set()),
        ("linux", "x86_64", "3.11", "pypy", set()),
        ("emscripten", "wasm32", "3.12", "cpython", set()),
    ],
)
def test_libraries_without_wheels_are_not_required(
    system: str, machine: str, python: str, implementation: str, expected: set[str]
) -> None:
    tomllib = pytest.importorskip("tomllib")
    environment = {
        "sys_platform": system,
        "platform_machine": machine,
        "python_version": python,
        "implementation_name": implementation,
    }
    required = map(Requirement, tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"])
    installed = {one.name for one in required if one.marker is None or one.marker.evaluate(environment)}
    assert "loky" in installed
    assert installed & {"isal", "zlib-ng"} == expected
