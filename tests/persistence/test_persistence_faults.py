"""Dumps that do not come to their end, and files that are not what was written."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

from _capabilities import needs, needs_fork, needs_limits
from _faults_util import Child
from _persistence_zoo import COMPRESSORS, JOBLIBS, filled, portrait
from shoal import CorruptFile, DamagedFile, TruncatedFile, dump, load
from shoal._arrays import SLAB
from shoal.persistence._checksums import LARGE
from shoal.persistence.reading._plain import WHOLE

WRITTEN = [0, *COMPRESSORS]

#: Small, with something of every kind: arrays within the stream and beside it, of both byte orders, twice, of objects.
_ARRAY = filled("f8", (5,))
TINY = {
    "a": _ARRAY,
    "again": _ARRAY,
    "b": filled(">i2", (2, 3), 1),
    "n": 1,
    "s": "text",
    "o": np.array([1, "x"], object),
}


# Writers that are stopped


@needs_fork
@pytest.mark.parametrize("compress", WRITTEN)
def test_killed_at_any_moment(tmp_path: Path, compress: Any) -> None:
    source = f"""
        import os, random, signal, sys, time
        import numpy as np
        from shoal import dump, load

        os.mkdir(sys.argv[1] + "/kept")
        path = sys.argv[1] + "/kept/x.pkl"

        def value(n):
            return {{"n": n, "array": np.full(60_000, n, "i4"), "list": [n] * 20_000, "end": n}}

        dump(value(0), path, compress={compress!r})
        for _ in range(20):
            child = os.fork()
            if not child:
                n = 1
                while True:
                    dump(value(n), path, compress={compress!r})
                    n += 1
            time.sleep(random.random() * 0.03)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            found = os.listdir(os.path.dirname(path))
            # Between the steps that put a file in the place of another one, it has a name. The next whole dump removes
            # what was left then; if dumps are slow, the same file is seen in several rounds.
            assert found == ["x.pkl"] or len(found) == 2 and any(name.endswith(".shoal-part") for name in found), found
            read = load(path, verify=True)
            assert read["n"] == read["end"] and read["list"] == [read["n"]] * 20_000
            assert read["array"].shape == (60_000,) and (read["array"] == read["n"]).all()
        dump(value(0), path)
        assert os.listdir(os.path.dirname(path)) == ["x.pkl"], os.listdir(os.path.dirname(path))
        print("ok", flush=True)
    """
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "ok\n", "")


class Refuses:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [LookupError("no"), KeyboardInterrupt(), MemoryError(), SystemExit(3)], ids=type)
@pytest.mark.parametrize("compress", WRITTEN)
def test_a_dump_that_fails_leaves_the_old_file(tmp_path: Path, compress: Any, error: BaseException) -> None:
    path = tmp_path / "x.pkl"
    for value in ([filled("f8", (90_000,)), Refuses(error)], Refuses(error), ["x" * 70_000, Refuses(error)]):
        with pytest.raises(type(error)) as caught:
            dump(value, path, compress=compress)
        assert caught.value is error
        assert not os.listdir(tmp_path)
    dump(TINY, path)
    before = path.read_bytes()
    for durable in (False, True):
        with pytest.raises(type(error)):
            dump(value, path, compress=compress, durable=durable)
        assert os.listdir(tmp_path) == ["x.pkl"]
        assert path.read_bytes() == before


@needs_limits
@needs(os.path.exists("/dev/full"), "needs /dev/full")
@pytest.mark.parametrize("compress", WRITTEN)
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, compress: Any) -> None:
    """A limit of the size of files stands for a disk that is full."""
    source = f"""
        import os, resource, sys
        import numpy as np
        from shoal import dump, load

        os.mkdir(sys.argv[1] + "/kept")
        path = sys.argv[1] + "/kept/x.pkl"
        value = [np.random.default_rng(0).bytes(300_000), np.random.default_rng(1).random(40_000), list(range(5000))]
        dump(value, path, compress={compress!r})
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            whole = file.read()
        for limit in (0, 1000, 350_000, size - 100, size - 1):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                dump(value, path, compress={compress!r})
            except OSError as error:
                assert error.errno == 27, error
            else:
                sys.exit(f"no error with {{limit}} of {{size}}")
            assert os.listdir(os.path.dirname(path)) == ["x.pkl"]
            with open(path, "rb") as file:
                assert file.read() == whole
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for target in ("/dev/full", open("/dev/full", "wb"), open("/dev/full", "wb", 0)):
            try:
                dump(value, target, compress={compress!r})
                target.flush()
            except OSError as error:
                assert error.errno == 28, error
            else:
                sys.exit("no error")
            if not isinstance(target, str):
                try:
                    target.close()
                except OSError:
                    pass
        print("ok", flush=True)
    """
    with Child(source, tmp_path) as child:
        code, out, err = child.wait()
    assert (code, out) == (0, "ok\n"), err
    # Files of lz4 that cannot even be begun say so when they are collected.
    assert not err or compress == "lz4", err


# Files that are not whole, or not what they were


class Stream:
    """A stream that cannot seek."""

    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


def readers(tmp_path: Path) -> list[Callable[..., Any]]:
    def by_path(data: bytes, **options: Any) -> Any:
        path = tmp_path / "damaged.pkl"
        path.write_bytes(data)
        return load(path, **options)

    def mapped(data: bytes, **options: Any) -> Any:
        return by_path(data, mmap_mode="c", **options)

    def in_memory(data: bytes, **options: Any) -> Any:
        return load(io.BytesIO(data), **options)

    def streamed(data: bytes, **options: Any) -> Any:
        return load(Stream(data), **options)

    return [by_path, mapped, in_memory, streamed]


def encoded(value: Any, compress: Any, writer: Any = dump, protocol: int = 5) -> bytes:
    file = io.BytesIO()
    writer(value, file, compress=compress, protocol=protocol)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:mmap_mode")
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("compress", WRITTEN)
def test_truncated_anywhere(tmp_path: Path, compress: Any, protocol: int) -> None:
    data = encoded(TINY, compress, protocol=protocol)
    for index, read in enumerate(readers(tmp_path)):
        for length in {*range(40), *range(40 + index, len(data), 13), *range(len(data) - 40, len(data))}:
            with pytest.raises(CorruptFile):
                read(data[:length])
            if protocol == 5:
                with pytest.raises(CorruptFile):
                    read(data[:length], verify=False)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("compress", [0, *JOBLIBS])
def test_files_of_joblib_truncated_anywhere(tmp_path: Path, compress: Any, protocol: int) -> None:
    value = {**TINY, "o": None}
    data = encoded(value, compress, joblib.dump, protocol)
    for read in (readers(tmp_path)[0], readers(tmp_path)[3]):
        for length in {*range(0, len(data) - 60, 5), *range(len(data) - 60, len(data))}:
            try:
                assert portrait(read(data[:length])) == portrait(value)
            except CorruptFile:
                continue
            # joblib, too, does not look at what a compressor writes behind the data
            assert compress
            assert length > len(data) - 40


@pytest.mark.parametrize("compress", WRITTEN)
def test_large_files_truncated(tmp_path: Path, compress: Any) -> None:
    value = ["x" * 70_000, bytes(70_000), filled("f8", (40_000,)), list(range(30_000)), filled("f8", (50_000,)), "end"]
    data = encoded(value, compress)
    cuts = {len(data) * part // 16 + part % 3 - 1 for part in range(16)} | {2**16, 2**17, 2**18}
    for read in readers(tmp_path)[::3]:
        for length in cuts:
            if 0 <= length < len(data):
                with pytest.raises(CorruptFile):
                    read(data[:length])


def test_truncated_files_say_so(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    for compress in WRITTEN:
        data = encoded([filled("f8", (9000,)), "end"], compress)
        for writer in (dump, joblib.dump):
            if writer is joblib.dump and compress == "zstd":
                continue
            data = encoded([filled("f8", (9000,)), "end"], compress, writer)
            path.write_bytes(data[: len(data) // 2])
            with pytest.raises(
                TruncatedFile, match=r"model\.pkl is damaged at offset \d+: .* but only \d+ (bytes )?are left"
            ):
                load(path)


@pytest.mark.filterwarnings("ignore:mmap_mode")
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("compress", WRITTEN)
def test_no_flipped_bit_passes(tmp_path: Path, compress: Any, protocol: int) -> None:
    data = encoded(TINY, compress, protocol=protocol)
    expected = portrait(TINY, stored=True)
    by_path, mapped, in_memory, _ = readers(tmp_path)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        for read in (by_path, mapped, in_memory) if position % 8 == 0 else (in_memory,):
            try:
                value = read(bytes(damaged), verify=True, ensure_native_byte_order=False)
            except ValueError:  # CorruptFile is one; another one says that there is nothing to compare
                continue
            # some bits of compressed streams mean nothing: names, times, reserved ones
            assert compress, damaged
            assert portrait(value) == expected


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_no_flipped_bit_passes_in_a_stream(protocol: int) -> None:
    """What can only be read once is rebuilt before it is compared: names that are not there may come first."""
    value = {"a": [1, 2.5, "text"], "b": b"x" * 70_000, "c": ("é", None), "d": 2**70}
    data = encoded(value, 0, protocol=protocol)
    for position in {*range(200), *range(200, len(data) - 1000, 500), *range(len(data) - 400, len(data))}:
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        # Without its beginning, it is any pickle.
        expected = (CorruptFile, ImportError, AttributeError) if position > 9 else ValueError
        with pytest.raises(expected):
            load(Stream(bytes(damaged)), verify=position <= 9 or None)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_flipped_bit_is_noticed_except_in_mapped_arrays(tmp_path: Path, protocol: int) -> None:
    """Without verify=True."""
    data = encoded(TINY, 0, protocol=protocol)
    expected = portrait(TINY, stored=True)
    of_arrays = {position for array in (_ARRAY, TINY["b"]) for position in places(data, array)}
    assert len(of_arrays) == _ARRAY.nbytes + TINY["b"].nbytes
    by_path, mapped, in_memory, _ = readers(tmp_path)
    for read in (by_path, mapped, in_memory):
        for position in range(len(data)):
            damaged = bytearray(data)
            damaged[position] ^= 1 << (position % 8)
            try:
                value = read(bytes(damaged), ensure_native_byte_order=False)
            except CorruptFile:
                assert read is not mapped or position not in of_arrays
            else:
                assert read is mapped
                assert position in of_arrays
                assert portrait(value) != expected
                del value  # Windows replaces no file that is mapped


@pytest.mark.parametrize("nbytes", [70_000, LARGE + 3 * SLAB // 2], ids=["in the cache", "on a thread"])
def test_a_flipped_byte_of_an_array_is_noticed(tmp_path: Path, nbytes: int) -> None:
    path = tmp_path / "x.pkl"
    array = np.arange(nbytes // 8)
    dump({"a": array, "b": 1}, path)
    begin = places(path.read_bytes(), array).start
    draw = random.Random(nbytes)
    with open(path, "r+b", 0) as file:
        for position in [begin, begin + array.nbytes - 1, *(begin + draw.randrange(array.nbytes) for _ in range(198))]:
            file.seek(position)
            byte = file.read(1)[0]
            for changed in (byte ^ 1 << draw.randrange(8), byte):
                file.seek(position)
                file.write(bytes([changed]))
                if changed != byte:
                    with pytest.raises(DamagedFile, match=f"at offset {begin}: "):
                        load(path)
    assert (load(path)["a"] == array).all()


class _Watching:
    """Its state contains an array."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise RuntimeError("a damaged array reached a class")


def test_no_class_gets_a_damaged_array(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    array = filled("f8", (9000,))
    dump(_Watching(array), path)
    data = bytearray(path.read_bytes())
    data[places(data, array).start + 3] ^= 1
    path.write_bytes(data)
    for trusted in (None, [f"{__name__}._Watching"]):
        with pytest.raises(DamagedFile):
            load(path, trusted=trusted)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", [bytes, bytearray, str])
def test_a_flipped_bit_is_noticed_where_large_strings_are_read_once(tmp_path: Path, kind: Any, protocol: int) -> None:
    long = "x" * 1_500_000 if kind is str else kind(1_500_000)
    path = tmp_path / "x.pkl"
    dump({"k": [1, 2.5], "long": long, "m": {"a": "text", "b": (None, 2**70)}}, path, protocol=protocol)
    size = path.stat().st_size
    assert size > WHOLE
    positions = {*range(120), *range(120, size - 1000, 199_991), *range(size - 400, size)}
    with open(path, "r+b", 0) as file:
        for position in sorted(positions):
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 1 << position % 8]))
            with pytest.raises(CorruptFile):
                load(path)
            file.seek(position)
            file.write(bytes([byte]))
    assert load(path)["long"] == long


def test_nothing_is_imported_from_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    for value in ([b"x" * 2_000_000, _Watching([1]), "text"], [_Watching([1]), b"x" * 2_000_000]):
        dump(value, path)
        data = bytearray(path.read_bytes())
        data[data.index(b"xxxx") + 1_000_000] ^= 1
        path.write_bytes(data)
        with pytest.raises(DamagedFile):
            load(path)
        with pytest.raises(RuntimeError, match="reached a class"):
            load(path, verify=False)


def test_damage_is_not_searched_for_with_verify_false(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    array = filled("f8", (9000,))
    dump([array], path)
    data = bytearray(path.read_bytes())
    data[places(data, array).start + 3] ^= 1
    path.write_bytes(data)
    for trusted in (None, []):
        assert load(path, verify=False, trusted=trusted)[0].shape == (9000,)


@pytest.mark.parametrize("protocol", [1, 2, 5])
def test_missing_and_extra_bytes_are_noticed(tmp_path: Path, protocol: int) -> None:
    data = encoded(TINY, 0, protocol=protocol)
    for read in readers(tmp_path)[:3]:
        for position in range(0, len(data) - 12, 7):
            for other in (b"", data[position : position + 1] * 2, data[position : position + 9] + b"."):
                with pytest.raises(CorruptFile):
                    read(data[:position] + other + data[position + 1 :])


def places(data: bytes, array: Any) -> range:
    begin = data.index(array.tobytes())
    return range(begin, begin + array.nbytes)


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    array = filled("f8", (9000,))
    dump([array, "tail"], path)
    data = bytearray(path.read_bytes())
    begin = places(data, array).start
    data[begin + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFile, match=rf"model\.pkl is damaged at offset {begin}: .*float64.*9000") as caught:
        load(path)
    assert "write it again" in str(caught.value)
    with pytest.raises(CorruptFile, match=rf"model\.pkl is damaged at offset {begin}: "):
        load(path, verify=True, mmap_mode="r")
    assert load(path, mmap_mode="r")[1] == "tail"
    joblib.dump([array], path)
    with pytest.raises(ValueError, match="no checksums"):
        load(path, verify=True)
