"""The way of a load, as docs/persistence.md lists it: the functions of shoal that the data of a file go through."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import shoal
from shoal import dump, load

DOCS = Path(__file__).parents[2] / "docs" / "persistence.md"
ROOT = os.path.dirname(shoal.__file__) + os.sep
MARK = b"data of the object"


def carries_data(value: Any) -> bool:
    """Whether a value is an open file, bytes of the object's strings or arrays, or the object."""
    if hasattr(value, "read") and hasattr(value, "fileno"):
        return True
    if isinstance(value, (bytes, bytearray, memoryview)):
        return MARK in bytes(value)
    if isinstance(value, np.ndarray):
        return MARK in value.tobytes()
    return type(value) is dict and "text" in value


def way_of(call: Callable[[], Any]) -> set[str]:
    """The functions of shoal that are given data, or return data, while `call` runs."""
    met: set[str] = set()

    def note(frame: FrameType, event: str, returned: Any) -> None:
        code = frame.f_code
        file = code.co_filename
        if event not in ("call", "return") or not file.startswith(ROOT) or file == f"{ROOT}_arrays.py":
            return
        if code.co_name == "__init__":
            return
        sys.setprofile(None)
        try:
            given = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount] if name != "self"]
            if any(map(carries_data, [*given, returned])):
                owner = frame.f_locals.get("self")
                kinds = (
                    [kind for kind in type(owner).__mro__ if code.co_name in vars(kind)] if owner is not None else []
                )
                parts = [*Path(file[len(ROOT) :]).with_suffix("").parts[1:], *[kind.__name__ for kind in kinds[:1]]]
                met.add(".".join([*parts, code.co_name]))
        finally:
            sys.setprofile(note)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return met


def listed() -> list[str]:
    section = DOCS.read_text(encoding="utf-8").partition("## The way of a load")[2].partition("\n## ")[0]
    return re.findall(r"^\d+\. `([\w.]+)` ", section, re.MULTILINE)


@pytest.mark.parametrize("nbytes", [200_000, 3_000_000], ids=["read as a whole", "read in blocks"])
def test_the_data_of_a_plain_file_go_through_the_listed_functions(tmp_path: Path, nbytes: int) -> None:
    path = tmp_path / "x.pkl"
    array = np.frombuffer(MARK * (nbytes // len(MARK)), np.uint8)
    value = {
        "text": (MARK * 9).decode(),
        "long": MARK * 9000,
        "array": array,
        "texts": [f"{MARK!r}{n}" for n in range(9)],
    }
    dump(value, path)
    assert load(path)["text"] == value["text"]  # imports are done
    assert len(listed()) == 12
    assert way_of(lambda: load(path)) == set(listed())


def test_the_data_of_a_small_file_take_a_shorter_way(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    dump({"text": MARK.decode()}, path)
    load(path)
    functions = {name.rpartition(".")[2] for name in way_of(lambda: load(path))}
    assert functions == {"load", "whole_if_small", "read_small", "rebuilt"}
    assert all(f"`{name}`" in DOCS.read_text(encoding="utf-8") for name in functions)


def test_the_ways_of_other_files_have_functions_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    dump({"text": MARK.decode(), "array": np.frombuffer(MARK * 9000, np.uint8)}, path, compress="zlib")
    compressed = way_of(lambda: load(path))
    assert "reading._compressed.load_compressed" in compressed
    assert "reading._plain.load_plain" not in compressed
    assert "trust._trusted.load_trusted" in way_of(lambda: load(path, trusted=[]))
