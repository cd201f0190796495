"""Several objects in one open file: each load reads its own, whatever compresses them and whoever has written them."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import lzma
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import shoal
from _persistence_zoo import COMPRESSORS, JOBLIBS
from shoal import EmptyFile, dump, inspect, load
from shoal.persistence import compression
from shoal.persistence.compression import CompressorWrapper, _stream, register_compressor

# joblib leaves its LZ4 files open, which say so when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SOME = np.random.default_rng(0)
VALUES: dict[str, Any] = {
    "small": [1, 2, 3],
    "plain": {number: str(number) for number in range(5000)},
    "array": np.arange(500.0),
    "large": {"a": SOME.integers(0, 9, 30_000), "b": "x"},
    "zeros": np.zeros(131_072),
    "random": SOME.bytes(200_000),
}
WRITERS = [
    *((dump, name) for name in ("", *COMPRESSORS)),
    *((joblib.dump, name) for name in ("", *JOBLIBS)),
]


class Pipe(io.RawIOBase):
    """What can neither seek nor be looked into, and gives a part of what it is asked for."""

    def __init__(self, data: bytes, most: int = 2**20) -> None:
        self._data, self._most = io.BytesIO(data), most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._data.read(min(len(buffer), self._most))
        buffer[: len(data)] = data
        return len(data)


class OnlyReads:
    """Has only ``read``."""

    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


class Slotted(OnlyReads):
    """Nothing can be kept for such an object."""

    __slots__ = ("read",)
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other


class SeeksDearly(io.BytesIO):
    """Can seek, but does not look like what seeks cheaply."""

    @property
    def raw(self) -> Any:
        return None


class Mirrored:
    """Reads a file of its own, whose bytes are others than those that it gives."""

    _MIRROR = bytes(byte ^ 0x55 for byte in range(256))

    def __init__(self, data: bytes, folder: Path) -> None:
        self.file = by_path(data.translate(self._MIRROR), folder)
        self.close = self.file.close

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size).translate(self._MIRROR)


def by_path(data: bytes, folder: Path, **options: Any) -> Any:
    (folder / "x").write_bytes(data)
    return open(folder / "x", "rb", **options)


SEEKABLE: dict[str, Callable[[bytes, Path], Any]] = {
    "memory": lambda data, _: io.BytesIO(data),
    "path": by_path,
    "raw": lambda data, folder: by_path(data, folder, buffering=0),
    "dear": lambda data, _: SeeksDearly(data),
}
LOOKED_INTO: dict[str, Callable[[bytes, Path], Any]] = {
    "pipe": lambda data, _: io.BufferedReader(Pipe(data)),
    "slow pipe": lambda data, _: io.BufferedReader(Pipe(data, 777), 100),
}
BLIND: dict[str, Callable[[bytes, Path], Any]] = {
    "raw pipe": lambda data, _: Pipe(data),
    "read": lambda data, _: OnlyReads(data),
    "mirrored": Mirrored,
}
FILES = {**SEEKABLE, **LOOKED_INTO, **BLIND}


def written(*dumps: Any) -> tuple[bytes, list[int]]:
    """Return a file of some dumps, and where each ends."""
    file, ends = io.BytesIO(), []
    for value, (write, compress) in dumps:
        write(value, file, compress=compress or 0)
        ends.append(file.tell())
    return file.getvalue(), ends


def check(value: Any, expected: Any) -> None:
    if isinstance(expected, dict) and not any(isinstance(item, np.ndarray) for item in expected.values()):
        assert value == expected  # numpy takes long for many items
    else:
        np.testing.assert_equal(value, expected)


@functools.cache
def one_after_the_other(writer: Any) -> tuple[bytes, list[int]]:
    return written(*[(value, writer) for value in VALUES.values()])


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: f"{writer[0].__module__.partition('.')[0]}-{writer[1]}")
@pytest.mark.parametrize("kind", FILES)
def test_each_load_reads_its_object(tmp_path: Path, kind: str, writer: Any) -> None:
    data, ends = one_after_the_other(writer)
    with OpenAny(FILES[kind](data, tmp_path)) as file:
        for value, end in zip(VALUES.values(), ends, strict=True):
            check(load(file), value)
            if kind in SEEKABLE:
                assert file.tell() == end
        with pytest.raises(EmptyFile, match=f"at byte {ends[-1]}" if kind in SEEKABLE and kind != "dear" else "empty"):
            load(file)


class OpenAny:
    """A ``with`` block for what need not be closed."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __enter__(self) -> Any:
        return self._file

    def __exit__(self, *_: object) -> None:
        getattr(self._file, "close", int)()


@functools.cache
def mixture(turned: bool) -> Any:
    dumps = list(zip([*VALUES.values()] * 3, WRITERS, strict=False))[:: -1 if turned else 1]
    return dumps, *written(*dumps)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("trusted", [None, []], ids=["any", "trusted"])
@pytest.mark.parametrize("turned", [False, True])
def test_mixtures(tmp_path: Path, kind: str, trusted: Any, turned: bool) -> None:
    dumps, data, ends = mixture(turned)
    with OpenAny(FILES[kind](data, tmp_path)) as file:
        for (value, _), end in zip(dumps, ends, strict=True):
            check(load(file, trusted=trusted), value)
            if kind in SEEKABLE:
                assert file.tell() == end


@pytest.mark.parametrize("kind", [*SEEKABLE, *LOOKED_INTO])
@pytest.mark.parametrize("compress", ["", *COMPRESSORS])
@pytest.mark.parametrize(
    "tail", [b"tail", b"\0" * 1024, b"\x80\x05", bytes(300_000)], ids=["text", "0", "pickle", "long"]
)
def test_bytes_behind_the_object_are_left(tmp_path: Path, kind: str, compress: str, tail: bytes) -> None:
    data, _ = written((VALUES["array"], (dump, compress)))
    with OpenAny(FILES[kind](data + tail, tmp_path)) as file:
        check(load(file), VALUES["array"])
        assert file.read() == tail


@pytest.mark.parametrize("compress", COMPRESSORS)
def test_files_for_which_no_leftovers_can_be_kept(compress: str) -> None:
    data, _ = written(*[([1, 2], (dump, compress))] * 2)
    file = Slotted(data + b"tail")
    assert (load(file), load(file), file.read(9)) == ([1, 2], [1, 2], b"tail")


@pytest.mark.parametrize("compress", ["", *COMPRESSORS])
def test_inspect_reads_no_further_than_the_object(compress: str) -> None:
    data, _ = written(*[(VALUES["array"], (dump, compress))] * 2)
    file = io.BufferedReader(Pipe(data))
    assert inspect(file).compressor == (compress or None)
    check(load(file), VALUES["array"])
    seekable = io.BytesIO(data)
    inspect(seekable)
    assert seekable.tell() == 0


@pytest.mark.parametrize("compress", ["", *COMPRESSORS])
def test_no_load_waits_for_the_next_object(compress: str) -> None:
    """The second object is sent when the first has been answered."""
    first, second = ([n] * 100_000 for n in (1, 2))
    to_read, to_write = os.pipe()
    answered = threading.Event()

    def send() -> None:
        with open(to_write, "wb") as out:
            for value in (first, second):
                dump(value, out, compress=compress or 0)
                out.flush()
                assert answered.wait(60)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        with open(to_read, "rb", buffering=0) as raw:
            assert load(raw) == first
            answered.set()
            assert load(raw) == second
    finally:
        answered.set()
        thread.join()


def test_objects_come_from_another_process() -> None:
    program = "import sys, shoal; [shoal.dump([n], sys.stdout.buffer, compress='gzip') for n in range(5)]"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert [load(process.stdout) for _ in range(5)] == [[n] for n in range(5)]


def in_parts(data: bytes, compress: Callable[[bytes], bytes], between: bytes = b"") -> bytes:
    return between.join(compress(data[start : start + 50_000]) for start in range(0, len(data), 50_000))


@pytest.mark.parametrize(
    ("compress", "between"),
    [
        *((compress, b"") for compress in (gzip.compress, bz2.compress, lzma.compress, zlib.compress)),
        (gzip.compress, b"\0" * 512),
    ],
    ids=["gzip", "bz2", "xz", "zlib", "padded"],
)
@pytest.mark.parametrize("kind", FILES)
def test_an_object_in_several_streams(tmp_path: Path, kind: str, compress: Any, between: bytes) -> None:
    """Programs that compress in parallel (bgzip, pbzip2) write such files."""
    value = VALUES["random"]
    plain, _ = written((value, (dump, "")))
    data = in_parts(plain, compress, between)
    with OpenAny(FILES[kind](data * 2 + b"tail", tmp_path)) as file:
        assert load(file) == value
        if kind in SEEKABLE:
            assert file.tell() == len(data)
        assert load(file, trusted=[]) == value
    (tmp_path / "x").write_bytes(data + b"\0" * 10)
    assert load(tmp_path / "x") == value


def test_the_rest_of_a_long_compressed_stream_is_not_read() -> None:
    """Only dumps written through a compressing file of one's own share a stream."""
    file = io.BytesIO()
    with gzip.open(file, "wb") as compressing:
        dump([1], compressing)
        compressing.write(bytes(2**24))
    file.seek(0)
    assert load(file) == [1]


@pytest.mark.parametrize("isal", [True, False], ids=["isal", "zlib"])
@pytest.mark.parametrize("container", ["zlib", "gzip"])
@pytest.mark.parametrize("level", [1, 6, 9])
@pytest.mark.parametrize("nbytes", [near + step for near in (2**17, 2**20, 2**21) for step in (-100, 0, 100, 2**10)])
def test_buffered_output_at_the_end_of_a_stream_is_returned(
    monkeypatch: pytest.MonkeyPatch, isal: bool, container: str, level: int, nbytes: int
) -> None:
    """ISA-L takes all compressed data while it still has output to give."""
    if isal:
        pytest.importorskip("isal")
    else:
        monkeypatch.setattr(_stream, "isal", None)
    file = io.BytesIO()
    joblib.dump(np.zeros(nbytes, "u1"), file, compress=(container, level))
    end = file.tell()
    for tail in (b"", b"behind"):
        file = io.BytesIO(file.getvalue()[:end] + tail)
        assert load(file).nbytes == nbytes
        assert file.tell() == end


def test_registered_compressors() -> None:
    """With a decompressor, several dumps can be read; without one, there may be nothing left for the second load."""
    table, before = compression.COMPRESSORS, dict(compression.COMPRESSORS)

    class Own(bz2.BZ2File):
        def __init__(self, fileobj: Any, mode: str, compresslevel: int = 1) -> None:
            super().__init__(fileobj, mode, compresslevel=compresslevel)

    try:
        del table["bz2"]
        for decompressor in (None, bz2.BZ2Decompressor):
            register_compressor("own", CompressorWrapper(Own, b"BZh", ".own", decompressor), force=True)
            data, ends = written(*[([1, 2], (dump, "own"))] * 2)
            file = io.BytesIO(data)
            assert load(file) == [1, 2]
            if decompressor is None:
                with pytest.raises(EmptyFile, match="contains no further object"):
                    load(file)
            else:
                assert file.tell() == ends[0]
                assert load(file) == [1, 2]
    finally:
        table.clear()
        table.update(before)


@pytest.mark.parametrize("compress", COMPRESSORS)
@pytest.mark.parametrize("kind", FILES)
def test_streams_without_an_end_are_refused(tmp_path: Path, kind: str, compress: str) -> None:
    data, _ = written((VALUES["array"], (dump, compress)))
    with OpenAny(FILES[kind](data[:-1], tmp_path)) as file, pytest.raises(shoal.CorruptFile):
        load(file)
