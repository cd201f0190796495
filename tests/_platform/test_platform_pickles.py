"""A Python without a pickler and an unpickler in C, as PyPy is: it reads what others write, and notices damage."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _children import path_of_tests
from _persistence_zoo import portrait
from shoal import dump, load
from shoal._platform.pickles import code_by_fields

#: Strings and bytes within and between frames; arrays that stay in the pickle, that are spliced, and that nest.
VALUES: list[Any] = [
    None,
    {"a": [1, -2, 2**80, 1.5], "b": ("text", b"bytes", bytearray(b"array"), {3, 4})},
    ["x" * 70_000, b"y" * 70_000, bytearray(b"z" * 70_000), "end"],
    [np.arange(10), np.arange(210_000.0).reshape(7, -1, order="F"), "end"],
    {number: np.full(number, number) for number in range(40)},
    np.array([[1, 2], [np.arange(3), "object"]], dtype=object),
    [list(range(20_000)), np.arange(3), b"", ""],
]

#: Takes away what PyPy lacks, before anything imports it.
HIDDEN = """
import pickle
from pathlib import Path
pickle.Pickler, pickle.Unpickler = pickle._Pickler, pickle._Unpickler
from shoal._platform import files
files.READS_INTO_PARTS = False

from test_platform_pickles import VALUES, dump, load, portrait
from shoal._platform import pickles, pickles_in_python
from shoal.errors import CorruptFile

assert pickles.Pickler is pickles_in_python.Pickler and pickles.Unpickler is pickles_in_python.Unpickler
folder = Path({folder!r})
"""


@pytest.fixture
def without_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_python: Callable[..., str]
) -> Callable[[str], str]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([path_of_tests(), os.environ.get("PYTHONPATH", "")]))
    return lambda program: fresh_python(HIDDEN.format(folder=str(tmp_path)) + program)


def test_what_the_c_pickler_writes_is_read(tmp_path: Path, without_c: Callable[[str], str]) -> None:
    for number, value in enumerate(VALUES):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            dump(value, tmp_path / f"{number}-{protocol}.pkl", protocol=protocol)
        for extension in ("z", "gz", "xz"):
            dump(value, tmp_path / f"{number}.{extension}")
    without_c("""
for path in folder.iterdir():
    value = VALUES[int(path.name[0])]
    assert portrait(load(path)) == portrait(value, stored=True), path
    assert portrait(load(path, trusted="numpy")) == portrait(value, stored=True), path
    with open(path, "rb") as file:
        assert portrait(load(file)) == portrait(value, stored=True), path
    if path.suffix == ".pkl":
        mapped = load(path, mmap_mode="c")
        assert portrait(mapped, mapped=True) == portrait(value, stored=True, mapped=True), path
""")


def test_what_it_writes_is_read(tmp_path: Path, without_c: Callable[[str], str]) -> None:
    without_c("""
for number, value in enumerate(VALUES):
    for extension in ("pkl", "gz"):
        path = folder / f"{number}.{extension}"
        dump(value, path)
        assert portrait(load(path)) == portrait(value, stored=True), path
""")
    for path in tmp_path.iterdir():
        assert portrait(load(path)) == portrait(VALUES[int(path.name[0])], stored=True), path


def test_damage_is_noticed(tmp_path: Path, without_c: Callable[[str], str]) -> None:
    for number, value in enumerate(VALUES):
        dump(value, tmp_path / f"{number}.pkl")
    without_c("""
for path in folder.iterdir():
    whole = path.read_bytes()
    places = range(0, len(whole), len(whole) // 20 + 1)
    damaged = [whole[:at] for at in places]
    damaged += [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1:] for at in places]
    for data in damaged:
        path.write_bytes(data)
        try:
            raise AssertionError(f"{path}, {len(data)} of {len(whole)} bytes: {load(path)!r:.200}")
        except CorruptFile:
            pass
""")


def test_code_is_rebuilt_from_its_fields() -> None:
    def function(number: int, *more: int, scale: int = 2, **_options: int) -> list[int]:
        try:
            return [scale * item for item in (number, *more)]
        finally:
            scale = 0

    rebuild, fields = code_by_fields(function.__code__)
    assert rebuild(*fields) == function.__code__
    assert rebuild(*fields).co_filename == __file__
