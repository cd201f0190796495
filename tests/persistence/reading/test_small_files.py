"""Small files are rebuilt by a way of their own, which must not show."""

from __future__ import annotations

import io
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from _capabilities import needs_fifo
from shoal import CorruptFile, VersionWarning, dump, load
from shoal.errors import EmptyFile
from shoal.persistence.reading import _small
from shoal.persistence.reading._small import MOST_INFLATED, OTHER, SMALL, rebuilt

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


def dumped(value: Any, **arguments: Any) -> bytes:
    file = io.BytesIO()
    dump(value, file, **arguments)
    return file.getvalue()


@given(VALUES)
def test_dumped_objects_are_rebuilt(value: Any) -> None:
    assert rebuilt(dumped(value)) == value


@given(VALUES, st.data())
def test_one_bit_flipped_is_noticed(value: Any, data: st.DataObject) -> None:
    file = bytearray(dumped(value))
    place = data.draw(st.integers(0, len(file) * 8 - 1))
    file[place // 8] ^= 1 << place % 8
    assert rebuilt(bytes(file)) is OTHER


@given(VALUES, st.data())
def test_truncated_and_extended_files_are_noticed(value: Any, data: st.DataObject) -> None:
    file = dumped(value)
    assert rebuilt(file[: data.draw(st.integers(0, len(file) - 1))]) is OTHER
    assert rebuilt(file + data.draw(st.binary(min_size=1))) is OTHER
    assert rebuilt(file + file) is OTHER


@pytest.mark.parametrize("value", [np.arange(10), {"x": np.zeros(5000)}, [np.array([1, "a"], dtype=object)]])
def test_arrays(tmp_path: Path, value: Any) -> None:
    dump(value, tmp_path / "file")
    np.testing.assert_equal(load(tmp_path / "file"), value)


@given(VALUES, st.sampled_from(["zlib", "gzip"]), st.data())
def test_compressed_files(value: Any, method: str, data: st.DataObject) -> None:
    file = bytearray(dumped(value, compress=(method, 3)))
    assert rebuilt(bytes(file)) == value
    assert rebuilt(bytes(file + file)) is OTHER
    assert rebuilt(bytes(file[: data.draw(st.integers(0, len(file) - 1))])) is OTHER
    place = data.draw(st.integers(0, len(file) * 8 - 1))
    file[place // 8] ^= 1 << place % 8
    found = rebuilt(bytes(file))
    assert found is OTHER or found == value  # gzip has bytes that mean nothing, such as the time


def test_a_small_file_with_large_contents(tmp_path: Path) -> None:
    value = b"x" * MOST_INFLATED
    dump(value, tmp_path / "file", compress=3)
    data = (tmp_path / "file").read_bytes()
    assert len(data) < SMALL
    assert rebuilt(data) is OTHER
    assert load(tmp_path / "file") == value


def test_objects_in_a_buffer() -> None:
    """The file stands behind each object, as any other file does."""
    file = io.BytesIO()
    for value in ([1], [2], b"x" * SMALL, [3]):
        file.write(b"before")
        dump(value, file, compress=value == [2])
    file.seek(0)
    for value in ([1], [2], b"x" * SMALL, [3]):
        assert file.read(6) == b"before"
        assert load(file) == value
    assert file.read() == b""
    with pytest.raises(EmptyFile):
        load(file)


def test_a_buffer_of_joblib() -> None:
    file = io.BytesIO(pickle.dumps([1, 2]) + b"behind")
    assert load(file) == [1, 2]
    assert file.read() == b"behind"


@pytest.mark.parametrize("arguments", [{"compress": ("bz2", 3)}, {"protocol": 2}, {"protocol": 0}])
def test_other_files_take_the_general_way(tmp_path: Path, arguments: Any) -> None:
    dump([1, "two"], tmp_path / "file", **arguments)
    assert rebuilt((tmp_path / "file").read_bytes()) is OTHER
    assert load(tmp_path / "file") == [1, "two"]


@pytest.mark.parametrize("size", [SMALL - 500, SMALL, SMALL + 1, 3 * SMALL])
def test_sizes_around_the_limit(tmp_path: Path, size: int) -> None:
    for n_bytes in range(size - 3, size + 3):
        dump(b"x" * n_bytes, tmp_path / "file")
        assert load(tmp_path / "file") == b"x" * n_bytes


def test_a_damaged_small_file(tmp_path: Path) -> None:
    dump(list(range(100)), tmp_path / "file")
    data = bytearray((tmp_path / "file").read_bytes())
    data[60] ^= 4
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(CorruptFile, match="file is damaged"):
        load(tmp_path / "file")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        load(tmp_path / "missing")
    with pytest.raises((IsADirectoryError, PermissionError), match=tmp_path.name):  # the second on Windows
        load(tmp_path)


@needs_fifo
def test_a_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(dumped([1, 2]),), daemon=True)
    thread.start()
    assert load(tmp_path / "pipe") == [1, 2]
    thread.join(60)


def test_other_versions_are_warned_of_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_small, "_agreed", set())
    with monkeypatch.context() as patch:
        patch.setattr(np, "__version__", "1000.0")
        dump(np.dtype("f8"), tmp_path / "file")
    for _ in range(2):
        with pytest.warns(VersionWarning, match="numpy 1000"):
            assert load(tmp_path / "file") == np.dtype("f8")
    dump(np.dtype("f8"), tmp_path / "file")
    assert load(tmp_path / "file") == np.dtype("f8")
    assert _small._agreed
