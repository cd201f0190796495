"""Opcodes of pickle, to write small streams with, and what must be said of those that are refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.errors import CorruptFile, UntrustedFile

PROTO4 = b"\x80\x04"


def text(value: str | Path) -> bytes:
    """A string, as opcodes."""
    data = str(value).encode()
    return b"X" + struct.pack("<I", len(data)) + data


def named(module: str, name: str) -> bytes:
    """A global, as opcodes of protocol 4."""
    return text(module) + text(name) + b"\x93"


def old(module: str, name: str) -> bytes:
    """A global, as opcodes of protocol 0."""
    return f"c{module}\n{name}\n".encode()


def refused(data: bytes, *imports: str, trusted: Any = (), misuse: str | None = None) -> UntrustedFile:
    """Check that a stream is refused, and for which names; that inspect lists them as well, and executes nothing."""
    with pytest.raises(UntrustedFile) as caught:
        shoal.load(io.BytesIO(data), trusted=trusted)
    error = caught.value
    assert error.imports == tuple(sorted(imports))
    assert all(name in str(error) for name in imports)
    if misuse is not None:
        assert any(misuse in said for said in error.misuses), error.misuses
        assert misuse in str(error)
    try:
        info = shoal.inspect(io.BytesIO(data))
    except (CorruptFile, UntrustedFile):
        pass
    else:
        assert set(imports) <= set(info.untrusted)
        assert info.misuses == error.misuses
    return error


def framed(opcodes: bytes) -> bytes:
    return b"\x95" + struct.pack("<Q", len(opcodes)) + opcodes


def dtype(kind: str) -> bytes:
    """A dtype, as opcodes."""
    return named("numpy", "dtype") + text(kind) + b"\x89\x88\x87R"
