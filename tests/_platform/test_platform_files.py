"""What systems do differently with files and locks: the ways of Windows and macOS, tried on every system."""

from __future__ import annotations

import mmap
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from _capabilities import needs_reading_times
from _windows_files import as_on_windows
from shoal import _files
from shoal._platform import files, locks


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make files behave as on Windows; return the paths of what is refused, as far as it is known."""
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    return as_on_windows(monkeypatch)


def write(path: Path, data: bytes, **options: Any) -> None:
    with _files.replacement(str(path), **options) as file:
        file.write(data)


@pytest.mark.parametrize("operation", ["replace", "rename", "remove"])
def test_a_file_in_use_is_waited_for(tmp_path: Path, refused: list[str], operation: str) -> None:
    path, new = str(tmp_path / "x"), str(tmp_path / "y")
    for each in (path, new):
        Path(each).write_bytes(each.encode())
    file = open(path, "rb")  # noqa: SIM115

    def close_later() -> None:
        time.sleep(0.05)
        file.close()

    thread = threading.Thread(target=close_later)
    thread.start()
    if operation == "replace":
        files.replace(new, path, 60)
        assert Path(path).read_bytes() == new.encode()
    elif operation == "rename":
        files.rename(path, path + "2", 60)
    else:
        files.remove(path, 60)
    thread.join()
    assert os.path.exists(path) == (operation == "replace")
    assert refused or files.OPEN_FILES_STAY


@pytest.mark.parametrize("operation", [files.replace, files.rename])
def test_other_errors_are_raised_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: Any) -> None:
    monkeypatch.setattr(files.time, "sleep", pytest.fail)
    with pytest.raises(FileNotFoundError):
        operation(str(tmp_path / "x"), str(tmp_path / "y"))


def test_dump_overwrites_a_file_that_stays_open(tmp_path: Path, refused: list[str]) -> None:
    path = tmp_path / "x.pkl"
    for value in ("a longer first value", "second"):
        with open(path, "ab"):
            assert shoal.dump(value, str(path), durable=True) == [str(path)]
        assert shoal.load(path) == value
    assert os.listdir(tmp_path) == ["x.pkl"]
    assert refused or files.OPEN_FILES_STAY


def test_dump_refuses_a_file_that_is_mapped(tmp_path: Path, refused: list[str], monkeypatch: Any) -> None:
    path = tmp_path / "x.pkl"
    shoal.dump(np.arange(1000), path)
    mapped = shoal.load(path, mmap_mode="r")
    if os.name != "nt":  # Windows does not change the size of a mapped file

        def open_nothing(name: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if mode == "r+b":
                raise OSError(22, "Invalid argument", name)
            return open(name, mode, *rest, **options)

        monkeypatch.setattr(_files, "open", open_nothing, raising=False)
    with pytest.raises(shoal.errors.FileInUse, match=r"x\.pkl cannot be replaced or removed.*mapped"):
        shoal.dump("new", path)
    assert mapped.sum() == 499500
    assert os.listdir(tmp_path) == ["x.pkl"]


def test_the_file_of_a_writer_at_work_is_not_removed_although_it_is_unlocked(
    tmp_path: Path, refused: list[str]
) -> None:
    """On Windows, a file is closed, and so unlocked, before it is renamed."""
    at_work, old = tmp_path / ".1.shoal-part", tmp_path / ".2.shoal-part"
    for path in (at_work, old):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    write(tmp_path / "x", b"new")
    assert sorted(os.listdir(tmp_path)) == [at_work.name, "x"]


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_what_follows_a_mapped_array_is_read_from_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """On Windows, mmap moves the position of the file to its beginning."""
    value = [np.arange(200_000), "between", np.arange(300_000.0), "end"]
    shoal.dump(value, tmp_path / "x.pkl")

    class Moving(mmap.mmap):
        def __new__(cls, fd: int, *rest: Any, **options: Any) -> Any:
            made = super().__new__(cls, fd, *rest, **options)
            os.lseek(fd, 0, os.SEEK_SET)
            return made

    monkeypatch.setattr(mmap, "mmap", Moving)
    loaded = shoal.load(tmp_path / "x.pkl", mmap_mode=mode)
    assert [type(each) for each in loaded] == [np.memmap, str, np.memmap, str]
    assert (loaded[0] == value[0]).all()
    assert (loaded[2] == value[2]).all()
    assert loaded[1::2] == value[1::2]


@pytest.mark.parametrize("works", [True, False])
def test_durable_files_are_synced_as_macos_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    synced: list[Any] = []

    def full_sync(fd: int) -> None:
        if not works:
            raise OSError(45, "Operation not supported")
        synced.append("full")

    monkeypatch.setattr(files, "_full_sync", full_sync)
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append("plain"))
    write(tmp_path / "x", b"new", durable=True)
    folder = [] if os.name == "nt" else ["plain"]
    assert synced == (["full"] if works else ["plain"]) + folder


def test_two_open_files_lock_bytes_that_do_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "locks"
    path.write_bytes(b"x" * 10)
    first, second = (os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0)) for _ in range(2))
    try:
        for number in (2**40, 2**62 + 5, 2**63 - 2):
            assert locks.lock_byte(first, number)
            if os.name == "nt":  # elsewhere a lock belongs to the process
                assert not locks.lock_byte(second, number)
                assert not locks.lock_byte(second, number, shared=True, wait=True)
            assert locks.lock_byte(second, number + 1)
            locks.unlock_byte(first, number)
            assert locks.lock_byte(second, number, shared=True)
            assert locks.lock_byte(first, number, shared=True)
        locks.write_at(first, b"abc", 4)
        assert locks.read_at(second, 5, 3) == b"xabcx"
    finally:
        os.close(first)
        os.close(second)


def test_a_locked_file_can_be_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with open(path, "wb", buffering=0) as first:
        assert locks.lock_file(first.fileno())
        first.write(b"abc")
        with open(path, "r+b", buffering=0) as second:
            assert second.read() == b"abc"
            assert not locks.lock_file(second.fileno())
    with open(path, "r+b") as third:
        assert locks.lock_file(third.fileno())


@needs_reading_times
@pytest.mark.parametrize("flag", ["O_NOATIME", "none"])
def test_looking_at_a_file_leaves_its_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    if flag == "none":
        monkeypatch.delattr(os, "O_NOATIME", raising=False)
    path = tmp_path / "x"
    path.write_bytes(b"data")
    os.utime(path, (1_600_000_000, 1_700_000_000))
    with files.Unnoticed(str(path)) as file:
        assert file.read() == b"data"
    assert (path.stat().st_atime, path.stat().st_mtime) == (1_600_000_000, 1_700_000_000)
    with files.Unnoticed(str(path)):
        path.write_bytes(b"changed")
    assert path.stat().st_mtime > 1_700_000_000
    with pytest.raises(FileNotFoundError):
        files.Unnoticed(str(tmp_path / "missing"))


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    locks.wait_for_lock(first)
    order: list[str] = []

    def wait() -> None:
        locks.wait_for_lock(second)
        order.append("locked")

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    order.append("unlocked")
    os.close(first)
    thread.join()
    os.close(second)
    assert order == ["unlocked", "locked"]
