"""zlib and gzip streams: what is written, by whom it is read, and what happens where that fails."""

from __future__ import annotations

import functools
import gzip
import io
import itertools
import os
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from _selection import examples
from shoal.persistence.compression import _ahead, _deflate, _inflate, _stream
from shoal.persistence.compression._deflate import SMALL, DeflateFile, small_stream
from shoal.persistence.compression._inflate import InflateBlocks, InflateFile
from shoal.persistence.compression._stream import read_stored

DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {"zlib": zlib.decompress, "gzip": gzip.decompress}
DAMAGED = (EOFError, zlib.error)
SMALL_BLOCK = 1000

containers = pytest.mark.parametrize("container", ["zlib", "gzip"])

Table = list[tuple[int, int, int]]


@pytest.fixture(params=["isal", "zlib_ng", "zlib"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ways to deflate and inflate, and two threads wherever this runs."""
    if request.param != "zlib" and getattr(_stream, request.param) is None:
        pytest.skip(f"{request.param} is not installed, which has no wheels for every Python")
    for name in {"isal", "zlib_ng"} - {request.param}:
        monkeypatch.setattr(_stream, name, None)
    monkeypatch.setattr(_ahead, "cpu_budget", lambda: 2)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_deflate, "BLOCK", SMALL_BLOCK)
    monkeypatch.setattr(_deflate, "SMALL", 64)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threads()
    yield
    assert threads() <= before


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("shoal-blocks")}


def data_of(size: int) -> bytes:
    """Bytes that deflate to about a third."""
    return np.random.default_rng(size).integers(0, 8, size, dtype=np.uint8).tobytes()


def streamed(data: Any, container: str = "zlib", footer: bytes | None = None, level: int = 3) -> tuple[bytes, Table]:
    file, table = io.BytesIO(), []

    def ending(blocks: Table) -> bytes:
        table.extend(blocks)
        return footer or b""

    with DeflateFile(file, level, container) as stream:
        stream.write(data)
        if footer is not None:
            stream.finish(ending)
    return file.getvalue(), table


@containers
@pytest.mark.parametrize("level", [1, 3, 6, 9])
@pytest.mark.parametrize("size", [1, 100, SMALL - 1])
def test_a_small_stream_is_the_same_without_a_file_object(container: str, level: int, size: int) -> None:
    data, footer = data_of(size), b"the footer"
    stream, table = streamed(data, container, footer, level)
    tables: list[Any] = []
    assert small_stream(data, level, container, lambda blocks: tables.append(blocks) or footer) == stream
    assert tables == [table]


class Pipe(io.RawIOBase):
    """Bytes that come a few at a time, and only once."""

    def __init__(self, data: bytes, most: int = 1 << 30) -> None:
        self._file, self._most = io.BytesIO(data), most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(memoryview(buffer)[: self._most])


class Full:
    """A file that takes so many bytes and no more."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, data: Any) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return len(data)


sizes = st.one_of(
    st.integers(0, 40),
    st.integers(-2, 2).map(lambda n: SMALL_BLOCK + n),
    st.integers(-2, 2).map(lambda n: 4 * SMALL_BLOCK + n),
    st.integers(0, 9000),
)


@containers
@pytest.mark.usefixtures("small_blocks")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(60))
@given(
    writes=st.lists(sizes, max_size=6),
    reads=st.lists(sizes, max_size=6),
    footer=st.integers(0, 3000),
    level=st.integers(0, 9),
)
def test_written_data_are_read_back(
    container: str, writes: list[int], reads: list[int], footer: int, level: int
) -> None:
    data, tail, position = data_of(sum(writes)), os.urandom(footer), 0
    file, table = io.BytesIO(), []
    stream = DeflateFile(file, level, container)
    for size in writes:
        assert stream.write(memoryview(data)[position : position + size]) == size
        position += size
        assert stream.tell() == position
    stream.finish(lambda blocks: table.extend(blocks) or tail)
    stream.close()
    written = file.getvalue()

    assert DECOMPRESS[container](written) == data + tail
    assert [after for _, after, _ in table] == [*range(0, len(data), SMALL_BLOCK), len(data)]
    for (start, before, _), (end, after, _) in itertools.pairwise(table):
        assert zlib.decompressobj(-15).decompress(written[start:end]) == data[before:after]

    for whole, reader in (
        (data + tail, InflateFile(io.BytesIO(written), container)),
        (data, InflateBlocks(io.BytesIO(written), table)),
    ):
        position = 0
        for number, size in enumerate(reads):
            if number % 2:
                read = reader.read(size)
            else:
                buffer = bytearray(size)
                read = bytes(memoryview(buffer)[: reader.readinto(buffer)])
            assert read == whole[position : position + size]
            position += len(read)
            assert reader.tell() == position
        assert reader.read() == whole[position:]
        assert reader.read(1) == b""
        reader.close()
    assert read_stored(io.BytesIO(written), len(written), footer) == tail


@containers
@pytest.mark.parametrize("size", [0, 1, 65534, 65535, 65536, 131070, 131071, 200_000])
def test_footers_are_read_without_inflating(container: str, size: int) -> None:
    tail = os.urandom(size)
    written, table = streamed(b"data", container, tail)
    file = io.BytesIO(b"before" + written + b"behind")
    file.seek(3)
    for nbytes in {0, 1, 26, 65535, 65536, size - 1, size} & set(range(size + 1)):
        assert read_stored(file, 6 + len(written), nbytes, start=6) == tail[size - nbytes :]
    assert file.tell() == 3
    assert read_stored(file, 6 + len(written), len(written), start=6) is None
    assert read_stored(file, 6 + len(written), 1) is None
    assert DECOMPRESS[container](written) == b"data" + tail
    file.seek(0)
    with InflateBlocks(file, table, start=6) as reader:
        assert reader.read() == b"data"


def test_a_stream_without_a_footer_has_none() -> None:
    written = zlib.compress(os.urandom(200_000))
    assert read_stored(io.BytesIO(written), len(written), 100_000) is None
    assert read_stored(io.BytesIO(b""), 0, 26) is None
    assert read_stored(io.BytesIO(b"x"), 1, 26) is None


@pytest.mark.parametrize(
    ("container", "level"), [*(("zlib", level) for level in range(10)), *(("gzip", level) for level in (0, 1, 6, 9))]
)
def test_real_blocks(container: str, level: int) -> None:
    array = np.random.default_rng(0).integers(0, 50, 200_000)
    written, table = streamed(array, container, b"tail", level)
    assert DECOMPRESS[container](written) == array.tobytes() + b"tail"
    assert len(table) == -(-array.nbytes // _deflate.BLOCK) + 1
    found = np.empty_like(array)
    with InflateBlocks(io.BytesIO(written), table) as reader:
        assert reader.readinto(found) == array.nbytes
    np.testing.assert_array_equal(found, array)


@functools.cache
def samples() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    nodes = np.zeros(40_000, dtype=[("left", "i8"), ("right", "i8"), ("feature", "i8"), ("threshold", "f8")])
    nodes["left"], nodes["right"] = np.arange(40_000), rng.integers(0, 40_000, 40_000)
    nodes["feature"], nodes["threshold"] = rng.integers(-2, 20, 40_000), rng.random(40_000)
    return {
        "integers": rng.integers(0, 100, 160_000).tobytes(),
        "doubles": rng.random(160_000).tobytes(),
        "rounded": rng.normal(size=160_000).round(2).tobytes(),
        "tree": nodes.tobytes(),
        "zeros": bytes(1_300_000),
        "text": b"".join(b"%d: the quick brown fox, %d\n" % (n, n * n % 997) for n in range(40_000)),
    }


@functools.cache
def size_by_zlib(name: str, level: int) -> int:
    return len(zlib.compress(samples()[name], level))


@pytest.mark.parametrize(
    ("levels", "most"), [((1, 2, 3), 1.055), pytest.param((4, 6, 9), 1.02, marks=pytest.mark.thorough)]
)
def test_sizes_stay_close_to_zlibs(levels: tuple[int, ...], most: float) -> None:
    larger = {}
    for (name, data), level in itertools.product(samples().items(), levels):
        size, zlibs = len(streamed(data, level=level)[0]), size_by_zlib(name, level)
        if size > most * zlibs + 100:
            larger[name, level] = size, zlibs
    assert larger == {}


def test_equal_data_make_equal_files(monkeypatch: pytest.MonkeyPatch) -> None:
    data = data_of(3 << 20)
    on_threads = streamed(data, "gzip")
    monkeypatch.setattr(_ahead, "cpu_budget", lambda: 1)
    assert streamed(data, "gzip") == on_threads


@pytest.mark.usefixtures("small_blocks")
def test_any_contiguous_buffer() -> None:
    array = np.arange(60_000, dtype=">i4").reshape(200, 300)
    for buffer in (array, array.T, array[:0], np.array(3.5), array.tobytes(), bytearray(b"ab"), memoryview(array)):
        expected = memoryview(buffer).tobytes("A")
        assert zlib.decompress(streamed(buffer)[0]) == expected
    with pytest.raises(BufferError), DeflateFile(io.BytesIO()) as stream:
        stream.write(array[:, ::2])
    with pytest.raises(TypeError), DeflateFile(io.BytesIO()) as stream:
        stream.write("text")


def test_any_contiguous_buffer_is_filled() -> None:
    array = np.arange(60.0).reshape(6, 10)
    written, table = streamed(array, footer=b"")
    for empty in (np.empty(60), np.empty((6, 10)), np.empty((10, 6)).T, bytearray(480), np.empty((480, 1, 1), "S1")):
        for reader in (InflateFile(io.BytesIO(written)), InflateBlocks(io.BytesIO(written), table)):
            with reader:
                assert reader.readinto(empty) == 480
                assert memoryview(empty).tobytes("A") == array.tobytes()
                assert reader.readinto(np.empty((0, 3))) == 0


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("size", [500, 2500, 4500, 50_000])
def test_a_buffer_may_change_once_it_is_written(size: int) -> None:
    data = data_of(size)
    buffer, file = bytearray(data), io.BytesIO()
    with DeflateFile(file) as stream:
        for _ in range(5):
            buffer[:] = data
            stream.write(buffer)
            buffer[:] = bytes(size)
            buffer.extend(b"and be resized")
            del buffer[size:]
    assert zlib.decompress(file.getvalue()) == 5 * data


def test_threads_are_for_more_than_one_block() -> None:
    with DeflateFile(io.BytesIO()) as stream:
        stream.write(bytes(_deflate.BLOCK))
        stream.finish(lambda _: b"")
        assert threads() == set()
    with DeflateFile(io.BytesIO()) as stream:
        for _ in range(2 * _deflate._WAITING):
            stream.write(bytes(_deflate.BLOCK))
        assert len(threads()) == 1  # a CPU is left to who writes
        stream.write(bytes(_deflate.BLOCK))
        assert len(threads()) in (1, 2)
        stream.write(bytes(9 * _deflate.BLOCK))
        stream.finish(lambda _: b"")
        assert threads() == set()


@pytest.mark.usefixtures("small_blocks")
def test_no_thread_on_one_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ahead, "cpu_budget", lambda: 1)
    written, table = streamed(data_of(50_000), footer=b"")
    with InflateBlocks(io.BytesIO(written), table) as reader:
        reader.read(20_000)
        assert threads() == set()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("allowed", [0, 1])
def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    start, started = threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        if len(started) == allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    data = data_of(50_000)
    written, table = streamed(data, footer=b"")
    assert zlib.decompress(written) == data
    started.clear()
    with InflateBlocks(io.BytesIO(written), table) as reader:
        assert reader.read() == data


@pytest.mark.usefixtures("small_blocks")
def test_the_number_of_blocks_in_memory_is_bounded() -> None:
    class Sink:
        size = 0

        def write(self, data: Any) -> int:
            self.size += len(data)
            return len(data)

    sink, block = Sink(), os.urandom(SMALL_BLOCK)
    with DeflateFile(sink, 0) as stream:
        for n in range(50):
            stream.write(block)
            assert sink.size >= (n - 2 * _deflate._WAITING) * SMALL_BLOCK


@pytest.mark.usefixtures("small_blocks")
def test_the_reader_goes_few_blocks_ahead() -> None:
    data = data_of(50 * SMALL_BLOCK)
    written, table = streamed(data, footer=b"")
    file = io.BytesIO(written)
    with InflateBlocks(file, table) as reader:
        for n in range(40):
            assert reader.read(SMALL_BLOCK) == data[n * SMALL_BLOCK : (n + 1) * SMALL_BLOCK]
            assert file.tell() <= table[n + 5][0]


@containers
def test_a_raw_file_may_take_a_little_at_a_time(container: str) -> None:
    class Slow(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(data[:7])

    file = Slow()
    with DeflateFile(file, 3, container) as stream:
        stream.write(b"some data" * 100)
    assert DECOMPRESS[container](file.getvalue()) == b"some data" * 100


# Where it ends


@containers
@pytest.mark.usefixtures("small_blocks")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(40))
@given(size=st.integers(0, 3000), behind=st.integers(0, 300_000), most=st.sampled_from([1, 7, 1000, 1 << 20]))
def test_bytes_behind_the_stream_are_left(container: str, size: int, behind: int, most: int) -> None:
    data, rest = data_of(size), os.urandom(behind)
    written = streamed(data, container)[0] + rest
    file = io.BytesIO(written)
    assert InflateFile(file, container).read() == data
    assert file.read() == rest

    pipe = Pipe(written, most)
    reader = InflateFile(pipe, container)
    assert reader.read(size + 1) == data
    assert reader.unused + pipe.read() == rest


@containers
def test_a_pipe_is_not_waited_for(container: str) -> None:
    here, there = os.pipe()
    with open(here, "rb") as source, open(there, "wb", buffering=0) as sink:
        sink.write(streamed(b"data", container)[0])
        assert InflateFile(source, container).read() == b"data"


@containers
def test_objects_that_can_read_and_write_and_nothing_else(container: str) -> None:
    class Least:
        def __init__(self, data: bytes = b"") -> None:
            self.data = data

        def write(self, data: bytes) -> None:
            self.data += data

        def read(self, size: int) -> bytes:
            data, self.data = self.data[:size], self.data[size:]
            return data

    sink = Least()
    with DeflateFile(sink, 3, container) as stream:
        stream.write(b"data")
    with InflateFile(Least(sink.data + b"behind"), container) as reader:
        assert reader.read() == b"data"
        assert reader.unused == b"behind"


@containers
def test_several_streams_in_a_row(container: str) -> None:
    file = io.BytesIO()
    for n in range(3):
        with DeflateFile(file, 3, container) as stream:
            stream.write(b"%d" % n)
    file.seek(0)
    assert [InflateFile(file, container).read() for _ in range(3)] == [b"0", b"1", b"2"]


@containers
def test_paths(container: str, tmp_path: Any) -> None:
    for path in (tmp_path / "a", str(tmp_path / "b"), os.fsencode(tmp_path / "c")):
        with DeflateFile(path, 3, container) as stream:
            stream.write(b"data")
        assert stream.closed
        stream.close()
        with InflateFile(path, container) as reader:
            assert reader.read() == b"data"
        with pytest.raises(ValueError, match="closed"):
            reader.read(1)
    with pytest.raises(FileNotFoundError):
        InflateFile(tmp_path / "none")


def test_arguments_that_are_not_valid() -> None:
    for level in (-1, 10):
        with pytest.raises(ValueError, match=f"between 0 and 9, not {level}"):
            DeflateFile(io.BytesIO(), level)
    with pytest.raises(TypeError):
        DeflateFile(io.BytesIO(), "3")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be written to"):
        DeflateFile(3)
    with pytest.raises(TypeError, match="cannot be read from"):
        InflateFile(3)


def test_after_the_end() -> None:
    stream = DeflateFile(io.BytesIO())
    stream.write(b"data")
    stream.finish(lambda _: b"")
    assert stream.tell() == 4
    with pytest.raises(ValueError, match="ended"):
        stream.write(b"more")
    with pytest.raises(ValueError, match="ended"):
        stream.finish(lambda _: b"")
    stream.close()
    with pytest.raises(ValueError, match="ended"):
        stream.write(b"more")


# What is damaged


@containers
@pytest.mark.usefixtures("small_blocks")
def test_cut_anywhere(container: str) -> None:
    data = data_of(2500)
    written, table = streamed(data, container, b"tail")
    for size in range(len(written)):
        with pytest.raises(EOFError):
            InflateFile(io.BytesIO(written[:size]), container).read()
        if size < table[-1][0]:  # the footer and what comes behind it do not concern the blocks
            with pytest.raises(DAMAGED), InflateBlocks(io.BytesIO(written[:size]), table) as reader:
                reader.read()
        read_stored(io.BytesIO(written[:size]), size, 4)


@containers
@pytest.mark.usefixtures("small_blocks")
def test_flipped_bits_are_noticed(container: str) -> None:
    data = data_of(2500)
    written, table = streamed(data, container, b"tail")
    readers: list[tuple[Callable[[io.BytesIO], Any], bytes]] = [
        (lambda file: InflateFile(file, container), data + b"tail"),
        (lambda file: InflateBlocks(file, table), data),
    ]
    read: Counter[str] = Counter()
    for place, bit in itertools.product(range(len(written)), (0, 7)):
        damaged = bytearray(written)
        damaged[place] ^= 1 << bit
        for opened, expected in readers:
            try:
                with opened(io.BytesIO(damaged)) as reader:
                    read["right" if reader.read() == expected else "wrong"] += 1
            except DAMAGED:
                read["noticed"] += 1
        read_stored(io.BytesIO(damaged), len(damaged), 4)
    # There are bits that nobody needs: the padding in front of stored blocks, and the time in a header of gzip. And of
    # bytes as small as these, adler32 misses a change now and then.
    assert read["wrong"] <= (0.005 * read["noticed"] if container == "zlib" else 0)
    assert read["right"] < 0.03 * read["noticed"]


@pytest.mark.usefixtures("small_blocks")
def test_a_reader_that_failed_gives_nothing_more() -> None:
    written, table = streamed(data_of(20_000), footer=b"")
    damaged = bytearray(written)
    damaged[table[3][0] : table[4][0]] = bytes(table[4][0] - table[3][0])
    for reader in (InflateFile(io.BytesIO(damaged)), InflateBlocks(io.BytesIO(damaged), table)):
        with reader:
            for _ in range(2):
                with pytest.raises(zlib.error, match="the compressed data"):
                    reader.read()


@pytest.mark.usefixtures("small_blocks")
def test_impossible_tables_are_refused() -> None:
    written, table = streamed(data_of(5000), footer=b"")
    for damaged in ([], table[1:], table[::-1], [*table[:-1], (table[-1][0], 1 << 60, 0)], [*table[:2], *table[1:]]):
        with pytest.raises(DAMAGED, match="table"):
            InflateBlocks(io.BytesIO(written), damaged)
    with pytest.raises(EOFError):
        InflateBlocks(io.BytesIO(written), [*table[:-1], (1 << 60, 5000, 0)])
    with (
        pytest.raises(DAMAGED),
        InflateBlocks(io.BytesIO(written), [*table[:-1], (table[-1][0], 4999, 0)]) as reader,
    ):
        reader.read()


def test_data_that_are_not_a_stream() -> None:
    for container in ("zlib", "gzip"):
        with pytest.raises(EOFError):
            InflateFile(io.BytesIO(b""), container).read()
        with pytest.raises(zlib.error, match="damaged"):
            InflateFile(io.BytesIO(b"no stream at all"), container).read()
    with pytest.raises(zlib.error, match="neither"):
        InflateBlocks(io.BytesIO(b"no stream at all"), [(0, 0, 0)])


# What fails


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("room", [0, 1, 2, 100, 700, 2000, 8000])
@pytest.mark.parametrize("size", [50, 1500, 60_000])
def test_a_full_disk(room: int, size: int) -> None:
    def write() -> None:
        with DeflateFile(Full(room)) as stream:
            for _ in range(4):
                stream.write(os.urandom(size))
            stream.write(os.urandom(40_000))

    with pytest.raises(OSError, match="No space left"):
        write()


@pytest.mark.usefixtures("small_blocks")
def test_a_full_disk_is_reported_once() -> None:
    stream = DeflateFile(Full(100))
    with pytest.raises(OSError, match="No space left"):
        stream.write(os.urandom(50_000))
    with pytest.raises(ValueError, match="has failed before"):
        stream.write(b"more")
    stream.close()
    assert stream.closed


@pytest.mark.usefixtures("small_blocks")
def test_an_exception_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> bytes:
        raise MemoryError

    written, table = streamed(data_of(20_000), footer=b"")
    with monkeypatch.context() as patch:
        patch.setattr(_deflate, "_deflate", fail)
        with pytest.raises(MemoryError), DeflateFile(io.BytesIO(), 9) as stream:
            stream.write(bytes(20_000))
    monkeypatch.setattr(_inflate, "_inflate", fail)
    with pytest.raises(MemoryError), InflateBlocks(io.BytesIO(written), table) as reader:
        reader.read()


@pytest.mark.usefixtures("small_blocks")
def test_an_interrupted_stream_does_not_look_complete() -> None:
    file, stream = io.BytesIO(), None

    def broken_off() -> None:
        nonlocal stream
        with DeflateFile(file) as stream:
            stream.write(data_of(20_000))
            raise KeyError

    with pytest.raises(KeyError):
        broken_off()
    assert stream is not None
    assert stream.closed
    with pytest.raises(EOFError):
        InflateFile(io.BytesIO(file.getvalue())).read()


def test_a_footer_that_fails() -> None:
    with pytest.raises(KeyError), DeflateFile(io.BytesIO()) as stream:
        stream.finish(lambda _: {}["no"])
    assert stream.closed


@pytest.mark.usefixtures("small_blocks")
def test_a_file_that_is_dropped_leaves_no_thread() -> None:
    written, table = streamed(data_of(50_000), footer=b"")
    reader = InflateBlocks(io.BytesIO(written), table)
    reader.read(10)
    stream = DeflateFile(io.BytesIO())
    for _ in range(4):
        stream.write(bytes(SMALL_BLOCK))
    left = threads()
    assert left
    with pytest.warns(ResourceWarning, match="not closed"):
        del reader, stream
    for thread in left:
        thread.join(60)
    assert threads() == set()


@pytest.mark.usefixtures("small_blocks")
def test_damage_in_a_block_that_is_inflated_into_the_buffer() -> None:
    data = data_of(20 * SMALL_BLOCK)
    written, table = streamed(data, footer=b"")
    damaged = bytearray(written)
    damaged[table[10][0] + 20] ^= 1
    buffer = bytearray(len(data))
    with InflateBlocks(io.BytesIO(bytes(damaged)), table) as reader:
        assert reader.read(10) == data[:10]
        with pytest.raises(DAMAGED, match="checksum"):
            reader.readinto(buffer)
        for again in (reader.read, lambda: reader.readinto(buffer)):
            with pytest.raises(DAMAGED, match="up to here"):
                again()
    assert threads() == set()
