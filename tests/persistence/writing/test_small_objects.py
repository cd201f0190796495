"""What of an object is small is gathered and written at once; what is large is written in pieces."""

from __future__ import annotations

import io
import pickle
import zlib
from typing import Any

import numpy as np
import pytest

from shoal import dump, load
from shoal._arrays import PIECE
from shoal.persistence.compression._deflate import SMALL, small_stream


class Recording(io.BytesIO):
    """A file that knows the sizes of its writes."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def write(self, data: Any) -> int:
        self.sizes.append(len(data))
        return super().write(data)


def recorded(value: Any, **options: Any) -> Recording:
    file = Recording()
    dump(value, file, **options)
    file.seek(0)
    return file


FRAME = list(range(30_000))  # more than a frame of opcodes
ARRAY = np.arange(20_000)
VALUES: dict[str, Any] = {
    "int": 1,
    "none": None,
    "dict": {"x": 3, "y": [1, 2]},
    "text in a frame": "a" * 60_000,
    "text": "a" * 70_000,
    "bytes": b"b" * 70_000,
    "frames": FRAME,
    "frame, bytes": [*FRAME, b"c" * 70_000],
    "bytes, frame": [b"c" * 70_000, *FRAME],
    "text, int": ["a" * 70_000, 1],
    "array": ARRAY,
    "array, frames": [ARRAY, *FRAME],
    "frames, array": [*FRAME, ARRAY],
    "small array": np.arange(3),
}


def parts(value: Any) -> Any:
    """Return a value that can be compared."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [parts(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("compress", [0, 3, "bz2"])
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", VALUES)
def test_every_size_comes_back(name: str, protocol: int, compress: Any) -> None:
    file = recorded(VALUES[name], protocol=protocol, compress=compress)
    assert parts(load(file, verify=True)) == parts(VALUES[name])


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 9)])
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [1, {"x": 3, "y": [1, 2]}, "text" * 5_000], ids=["int", "dict", "text"])
def test_a_small_object_is_one_write(value: Any, protocol: int, compress: Any) -> None:
    assert len(recorded(value, protocol=protocol, compress=compress).sizes) == 1


@pytest.mark.parametrize(
    "value", [b"a" * 4_000_000, "a" * 4_000_000, bytearray(4_000_000)], ids=["bytes", "str", "array"]
)
def test_a_large_string_is_written_in_pieces_that_stay_in_the_cache(value: Any) -> None:
    file = recorded(value)
    assert max(file.sizes) == PIECE
    assert load(file) == value


def test_a_buffer_that_is_not_an_array_is_written_in_pieces_too() -> None:
    file = recorded(pickle.PickleBuffer(b"a" * 1_000_000))
    assert max(file.sizes) == PIECE
    assert load(file) == b"a" * 1_000_000


@pytest.mark.parametrize("container", ["zlib", "gzip"])
@pytest.mark.parametrize("level", [1, 3, 6, 9])
def test_small_streams_of_all_lengths(level: int, container: str) -> None:
    words = np.random.default_rng(0).integers(0, 50, SMALL, dtype=np.uint8).tobytes()
    for exponent in range(16):
        for length in (2**exponent - 1, 2**exponent):
            data = words[: max(length, 1)]
            stream = small_stream(data, level, container, lambda _: b"footer")
            assert zlib.decompress(stream, zlib.MAX_WBITS + 32) == data + b"footer"
            default = zlib.compress(data, level)
            assert len(stream) <= 1.04 * len(default) + 40
