"""A cache on Windows, which neither removes nor replaces files that are open or mapped: tried on every system."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _memory_util import double
from _store_util import meta
from _windows_files import as_on_windows
from shoal import FileInUse, Memory
from shoal._platform.files import OPEN_FILES_STAY
from shoal.memory.storage import _paths
from shoal.memory.storage._filestore import FileStore
from shoal.memory.store import Key, Limits


def key(number: int) -> Key:
    return Key("module/function", f"{number:032x}")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileStore:
    as_on_windows(monkeypatch)
    return FileStore(tmp_path / "cache" / "joblib")


def fill(store: FileStore, count: int = 3) -> None:
    store.keep_source("module/function", "# first line: 1\nsource")
    for number in range(count):
        store.save(key(number), np.full(10_000, number), meta())


def kept(store: FileStore) -> set[int]:
    return {int(entry.key.call, 16) for entry in store.entries()}


def aside(store: FileStore) -> list[str]:
    return os.listdir(Path(store.location, ".shoal", "aside"))


@pytest.mark.parametrize("limits", [None, Limits(items=3)])
def test_results_that_are_mapped_are_removed_and_replaced(tmp_path: Path, store: FileStore, limits: Any) -> None:
    store = FileStore(store.location, limits=limits)
    fill(store)
    mapped = [store.load(key(number), "r") for number in range(3)]
    store.discard(key(0))
    assert kept(store) == {1, 2}
    store.save(key(1), np.full(10_000, 7), meta())
    assert store.load(key(1)).sum() == 70_000
    store.reduce(Limits(items=1))
    assert len(kept(store)) == 1
    store.clear()
    assert kept(store) == set()
    assert store.source("module/function") is None
    assert [array.sum() for array in mapped] == [0, 10_000, 20_000]
    del mapped
    for number in range(5):  # each deletion tries again to delete what was mapped
        store.save(key(number), number, meta())
        store.discard(key(number))
    assert aside(store) == []


@pytest.mark.skipif(
    "TESTS_OPEN_FILES" in os.environ, reason="the narrow Linux removes what only this process has mapped"
)
def test_results_that_were_mapped_do_not_keep_the_folder(store: FileStore) -> None:
    fill(store)
    mapped = store.load(key(0), "r")
    store.clear()
    assert len(aside(store)) == 1
    del mapped
    shutil.rmtree(store.location)


def opened_by_others(store: FileStore, number: int) -> Any:
    """Open the file of a value as a program does that does not share it."""
    return Path(store.folder(key(number)), "output.pkl").open("rb")


@pytest.mark.skipif(OPEN_FILES_STAY, reason="Wine and the narrow Linux rename folders with open files")
def test_a_result_that_another_program_has_open_stays_with_all_that_belongs_to_it(store: FileStore) -> None:
    fill(store)
    with opened_by_others(store, 1):
        for remove in (lambda: store.discard(key(1)), lambda: store.clear("module/function"), store.clear):
            with pytest.raises(FileInUse, match=r"output\.pkl cannot be replaced or removed.*Close the file"):
                remove()
        assert kept(store) == {1}
        assert store.load(key(1)).sum() == 10_000
        assert store.meta(key(1)).arguments == {"x": "1"}
        assert store.source("module/function") is not None, "or md5 keys would find results of another source"
    store.clear()
    assert kept(store) == set()
    assert aside(store) == []


@pytest.mark.skipif(OPEN_FILES_STAY, reason="Wine and the narrow Linux rename folders with open files")
@pytest.mark.parametrize("indexed", [True, False])
def test_other_results_have_to_go_instead(store: FileStore, indexed: bool) -> None:
    store = FileStore(store.location, limits=Limits(items=4) if indexed else None)
    fill(store)
    with opened_by_others(store, 0):
        store.reduce(Limits(items=2))
        assert 0 in kept(store)
        assert len(kept(store)) == 2 + (not indexed)
        store.save(key(5), 5, meta())
        assert {0, 5} <= kept(store)
    store.reduce(Limits(items=0))
    assert kept(store) == set()


def test_the_folder_can_be_removed_while_a_store_exists(store: FileStore) -> None:
    fill(store)
    with store.lease(key(9)):
        assert not Path(store.location, ".shoal", "locks").stat().st_size
    shutil.rmtree(store.location)
    fill(store)
    assert kept(store) == {0, 1, 2}


def test_a_memory_with_limits_can_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_windows(monkeypatch)
    with Memory(tmp_path / "cache", verbose=0, bytes_limit="1M") as memory:
        cached = memory.cache(double)
        assert cached(3) == cached(3) == 6
    shutil.rmtree(tmp_path / "cache")
    assert cached(4) == 8, "it can be used again"
    assert memory.info().entries == 1
    memory.close()
    memory.close()
    shutil.rmtree(tmp_path / "cache")
    with Memory(None) as nothing:
        assert nothing.store_backend is None


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("con", "%63on"),
        ("NUL.part", "%4EUL.part"),
        ("com1", "%63om1"),
        ("console", "console"),
        ("com10", "com10"),
        ("<lambda>", "%3Clambda%3E"),
        ("a|b?c*", "a%7Cb%3Fc%2A"),
        ("ends.", "ends%2E"),
        ("ends ", "ends%20"),
        ("..", ".%2E"),
        ("tab\t", "tab%09"),
        ("%3Clocals%3E", "%3Clocals%3E"),
    ],
)
def test_names_that_windows_does_not_allow_are_quoted(name: str, folder: str) -> None:
    assert _paths.quoted_for_windows(name) == folder
    assert _paths.quoted_for_windows(folder) == folder
