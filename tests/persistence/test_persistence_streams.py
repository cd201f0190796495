"""dump to and load from file objects of every kind."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

from _capabilities import needs_pipes_that_do_not_wait
from _persistence_zoo import COMPRESSORS, JOBLIBS, filled, portrait
from shoal import CorruptFile, TruncatedFile, dump, load

# joblib leaves its LZ4 files open, which say so when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LARGE, SMALL = filled("f8", (40_000,)), filled(">i4", (3, 4))
#: Arrays of all sizes, the same one twice, strings and buffers that are written by themselves, and a tail.
VALUE = {
    "large": LARGE,
    "small": SMALL,
    "again": [LARGE, SMALL],
    "strided": LARGE[::5],
    "objects": np.array([LARGE, None, {"a": 1}], object),
    "text": "é" * 100_000,
    "bytes": bytes(270_000),
    "numbers": list(range(8000)),
    "tail": "end",
}
STORED = portrait(VALUE, stored=True)


def check(value: Any) -> None:
    assert portrait(value) == STORED


class Sink:
    """Has only ``write``, which says how much it took if it is asked to, and takes `most` at a time."""

    def __init__(self, most: int | None = None) -> None:
        self.data, self.most = bytearray(), most

    def write(self, data: Any) -> int | None:
        data = bytes(data)
        self.data += data if self.most is None else data[: self.most]
        return None if self.most is None else min(len(data), self.most)


class Source:
    """Has only ``read``, which returns no more than `most` at a time."""

    def __init__(self, data: bytes, most: int = 2**30) -> None:
        self.data, self.at, self.most = data, 0, most

    def read(self, size: int = -1) -> bytes:
        assert size >= 0
        part = bytes(self.data[self.at : self.at + min(size, self.most)])
        self.at += len(part)
        return part


class RawSource(io.RawIOBase):
    """A raw file that cannot seek and returns few bytes at a time."""

    def __init__(self, data: bytes, most: int) -> None:
        self.data, self.most = memoryview(data), most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self.data[: min(len(buffer), self.most)]
        buffer[: len(part)] = part
        self.data = self.data[len(part) :]
        return len(part)


def native(value: Any) -> Any:
    """Return the portrait of a value, whatever the byte order of its arrays."""
    file = io.BytesIO()
    dump(value, file)
    file.seek(0)
    return portrait(load(file))


FILES: dict[str, Callable[[Path], Any]] = {
    "buffered": partial(open, mode="w+b"),
    "random": partial(open, mode="w+b", buffering=100),
    "raw": partial(open, mode="w+b", buffering=0),
    "memory": lambda path: io.BytesIO(),
    "temporary": lambda path: tempfile.TemporaryFile(dir=path.parent),  # noqa: SIM115
    "named": lambda path: tempfile.NamedTemporaryFile(dir=path.parent),  # noqa: SIM115
    "spooled": lambda path: tempfile.SpooledTemporaryFile(2**30, dir=path.parent),  # noqa: SIM115
    "spooled on disk": lambda path: tempfile.SpooledTemporaryFile(100, dir=path.parent),  # noqa: SIM115
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", FILES)
def test_several_objects_in_a_row(tmp_path: Path, kind: str, protocol: int) -> None:
    with FILES[kind](tmp_path / "x") as file:
        ends = []
        file.write(b"before")
        for value in (VALUE, None, SMALL, [LARGE], VALUE, "x" * 70_000):
            assert dump(value, file, protocol=protocol) is None
            ends.append(file.tell())
        file.write(b"after")
        file.seek(6)
        for end, value in zip(ends, (VALUE, None, SMALL, [LARGE], VALUE, "x" * 70_000), strict=True):
            assert portrait(load(file, ensure_native_byte_order=False)) == portrait(value, stored=True)
            assert file.tell() == end
        assert file.read() == b"after"
        file.seek(ends[0])
        assert load(file, verify=True) is None
        assert portrait(load(file, ensure_native_byte_order=False, verify=True)) == portrait(SMALL)
        file.seek(ends[2])
        assert portrait(load(file, verify=False)) == portrait([LARGE])


def test_joblib_reads_them_in_a_row_too(tmp_path: Path) -> None:
    with open(tmp_path / "x", "w+b") as file:
        for value in (VALUE, None, SMALL):
            dump(value, file)
        joblib.dump(VALUE, file)
        dump([LARGE], file)
        for read in (load, joblib.load):
            file.seek(0)
            assert portrait(read(file)) == native(VALUE)
            assert read(file) is None
            assert portrait(read(file)) == native(SMALL)
            assert portrait(read(file)["tail"]) == portrait("end")
            assert portrait(read(file)) == portrait([LARGE])


def test_a_file_that_holds_several_loads_as_the_first_of_them(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for value in (1, [SMALL], VALUE):
        with open(path, "ab") as file:
            dump(value, file)
    assert load(path) == joblib.load(path) == 1


def test_other_bytes_between_them(tmp_path: Path) -> None:
    with open(tmp_path / "x", "w+b") as file:
        dump(VALUE, file)
        file.write(b"in between")
        dump([SMALL], file)
        file.seek(0)
        check(load(file, ensure_native_byte_order=False))
        assert file.read(10) == b"in between"
        assert portrait(load(file, ensure_native_byte_order=False)) == portrait([SMALL])


@pytest.mark.parametrize("opener", [gzip.open, bz2.open, lzma.open])
def test_files_that_compress_by_themselves(tmp_path: Path, opener: Any) -> None:
    path = tmp_path / "x"
    for write, read in ((dump, load), (dump, joblib.load), (joblib.dump, load)):
        with opener(path, "wb") as file:
            write(VALUE, file)
            write([SMALL], file)
        with opener(path, "rb") as file:
            assert portrait(read(file)) == portrait(joblib.load(path)) == portrait(load(path))
            assert portrait(read(file)) == native([SMALL])


@pytest.mark.parametrize("compress", [0, *COMPRESSORS])
@pytest.mark.parametrize("most", [None, 1, 7, 65536])
def test_objects_that_only_read_and_write(compress: Any, most: int | None) -> None:
    value = VALUE if most in (None, 65536) else [SMALL, "x" * 100]
    sink = Sink(most)
    dump(value, sink, compress=compress)
    for chunk in (2**30, 70_000, most or 300_000):
        read = load(Source(bytes(sink.data), chunk), ensure_native_byte_order=False)
        assert portrait(read) == portrait(value, stored=True)


@pytest.mark.parametrize("compress", [0, *COMPRESSORS])
@pytest.mark.parametrize("most", [50, 65536])
def test_raw_files_that_return_few_bytes(compress: Any, most: int) -> None:
    for writer in (dump, joblib.dump):
        if writer is joblib.dump and compress == "zstd":
            continue
        file = io.BytesIO()
        value = [SMALL, filled("f4", (20_000,)), "tail"]
        writer(value, file, compress=compress)
        for kind in (lambda raw: raw, io.BufferedReader):
            read = load(kind(RawSource(file.getvalue(), most)), ensure_native_byte_order=False)
            assert portrait(read) == portrait(value)


@contextlib.contextmanager
def written(file: Any, write: Callable[[Any], Any]) -> Iterator[None]:
    """Write into a pipe's or socket's one end in a thread, while the other end is read."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with file:
                write(file)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()
    assert not failures


@pytest.fixture(params=["pipe", "raw pipe", "socket", "raw socket"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    """The ends of a stream that cannot seek: one to read from and one to write to."""
    buffering = 0 if "raw" in request.param else -1
    if "pipe" in request.param:
        reading, writing = os.pipe()
        with open(reading, "rb", buffering) as reader, open(writing, "wb", buffering) as writer:
            yield reader, writer
    else:
        left, right = socket.socketpair()
        with left.makefile("rb", buffering) as reader, right.makefile("wb", buffering) as writer:
            left.close()
            right.close()
            yield reader, writer


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_streams_that_cannot_seek(ends: tuple[Any, Any], protocol: int) -> None:
    reader, writer = ends

    def write(file: Any) -> None:
        for value in (VALUE, None, SMALL, VALUE):
            dump(value, file, protocol=protocol)

    with written(writer, write):
        check(load(reader, ensure_native_byte_order=False))
        assert load(reader) is None
        assert portrait(load(reader, ensure_native_byte_order=False, verify=True)) == portrait(SMALL)
        check(load(reader, ensure_native_byte_order=False, verify=True))
        with pytest.raises(TruncatedFile):
            load(reader)


def test_an_answer_is_read_before_the_stream_goes_on() -> None:
    """No more is read from a stream than the object takes: whoever writes may wait for an answer."""
    left, right = socket.socketpair()
    left.settimeout(60)
    right.settimeout(60)
    with left, right, left.makefile("rwb", 0) as here, right.makefile("rwb", 0) as there:

        def answer(file: Any) -> None:
            for _ in range(3):
                dump(load(file), file)

        with written(there, answer):
            for value in (1, [SMALL.astype("i4")], {"a": LARGE, "b": "x" * 70_000}):
                dump(value, here)
                assert portrait(load(here)) == portrait(value)


@pytest.mark.parametrize("compress", COMPRESSORS)
def test_compressed_streams(ends: tuple[Any, Any], compress: str) -> None:
    reader, writer = ends
    with written(writer, lambda file: dump(VALUE, file, compress=compress)):
        check(load(reader, ensure_native_byte_order=False))


@pytest.mark.parametrize("compress", JOBLIBS)
def test_compressed_streams_of_joblib(ends: tuple[Any, Any], compress: str) -> None:
    reader, writer = ends
    file = io.BytesIO()
    joblib.dump([LARGE, "tail"], file, compress=compress)
    data = file.getvalue()
    with written(writer, lambda file: dump([LARGE, "tail"], file, compress=compress)):
        assert portrait(joblib.load(io.BytesIO(data))) == portrait(load(reader))


@pytest.mark.parametrize("compress", COMPRESSORS)
def test_compressed_dumps_within_files(tmp_path: Path, compress: str) -> None:
    """One of them, wherever it stands."""
    with open(tmp_path / "x", "w+b") as file:
        file.write(b"before")
        dump(VALUE, file, compress=compress)
        assert not file.closed
        file.seek(6)
        check(load(file, ensure_native_byte_order=False))
        assert not file.closed


@needs_pipes_that_do_not_wait
def test_pipes_that_are_full() -> None:
    """A raw file that does not wait takes less than it is given, or nothing: that must not go unseen."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(reading, "rb"), open(writing, "wb", 0) as file, pytest.raises(BlockingIOError):
        dump(LARGE, file)


@pytest.mark.parametrize("make", [io.StringIO, lambda: io.TextIOWrapper(io.BytesIO())], ids=["StringIO", "text"])
def test_text_files_are_refused(make: Any) -> None:
    for module_dump in (joblib.dump, dump):
        with pytest.raises(TypeError):
            module_dump(VALUE, make())
    for text in ("", "hello"):
        with pytest.raises((TypeError, CorruptFile)):
            load(io.StringIO(text))


@pytest.mark.parametrize("compress", [0, *COMPRESSORS])
def test_closed_files_are_refused(compress: Any) -> None:
    file = io.BytesIO()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        dump(VALUE, file, compress=compress)
    with pytest.raises(ValueError, match="closed"):
        load(file)


@pytest.mark.parametrize("compress", [0, *COMPRESSORS])
def test_errors_of_the_file_reach_the_caller(compress: Any) -> None:
    class Full(Sink):
        def write(self, data: Any) -> None:
            super().write(data)
            if len(self.data) > 100_000:
                raise OSError(28, "No space left on device")

    class Broken(Source):
        def read(self, size: int = -1) -> bytes:
            if self.at > 100_000:
                raise ConnectionResetError("gone")
            return super().read(size)

    with pytest.raises(OSError, match="No space left"):
        dump(VALUE, Full(), compress=compress)
    file = io.BytesIO()
    dump(VALUE, file, compress=compress)
    with pytest.raises(ConnectionResetError, match="gone"):
        load(Broken(file.getvalue(), 50_000))
