"""How parts are written where there is no ``writev``, and where it refuses what is too long."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal import _output
from shoal._output import Output

PARTS = [b"a" * 10, b"b" * 70_000, bytearray(b"c" * 100), memoryview(b"d" * 300_000), b"", b"e" * 5, b"f" * 200_000]


def written(path: Path, parts: list[Any] = PARTS) -> bytes:
    with Output.new(str(path)) as file:
        for part in parts:
            file.write(part)
        assert file.tell() == sum(map(len, parts))
    return path.read_bytes()


def test_without_writev_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_output, "_written", _output._one_by_one)
    assert written(tmp_path / "file") == b"".join(PARTS)


def test_without_writev_long_parts_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_output, "_written", _output._one_by_one)
    long = bytearray(64 * 2**20)
    tracemalloc.start()
    try:
        with Output.new(str(tmp_path / "file")) as file:
            file.write(b"before")
            file.write(long)
            file.write(b"after")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20
    assert os.path.getsize(tmp_path / "file") == len(long) + 11


def refusing(most: int) -> Callable[[int, list[Any]], int]:
    """Return a ``writev`` as macOS has it: more bytes than `most` are an error."""

    def writev(fd: int, parts: list[Any]) -> int:
        if sum(map(len, parts)) > most:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return _output._one_by_one(fd, parts)

    return writev


def test_what_writev_refuses_is_written_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_output, "_MOST_AT_ONCE", 250_000)
    monkeypatch.setattr(_output, "_written", refusing(250_000))
    assert written(tmp_path / "file") == b"".join(PARTS)


def test_the_limit_is_below_that_of_every_system() -> None:
    assert _output._MOST_AT_ONCE < 2**31 - 1


def test_without_writev_short_parts_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_output, "_written", _output._one_by_one)
    sizes: list[int] = []
    write = os.write

    def counting(fd: int, data: Any) -> int:
        sizes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr(os, "write", counting)
    assert written(tmp_path / "file", [b"a" * 10] * 300 + [b"b" * 100_000] + [b"c"] * 3) == (
        b"a" * 3000 + b"b" * 100_000 + b"ccc"
    )
    assert sizes == [3000, 100_000, 3]
