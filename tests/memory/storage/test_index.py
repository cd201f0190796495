"""The index of a file store with limits."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from _capabilities import needs_fork
from _store_util import KEY, PATIENCE, Start, make_start, make_store, meta
from shoal.memory.storage import _walk
from shoal.memory.storage._filestore import FileStore
from shoal.memory.store import Key, Limits

store, start = pytest.fixture(make_store), pytest.fixture(make_start)


def test_entries_without_a_row_count(tmp_path: Path) -> None:
    unlimited = FileStore(tmp_path / "cache")
    for number in range(10):
        unlimited.save(Key("f", f"{number:032x}"), number, meta())
        os.utime(Path(unlimited.folder(Key("f", f"{number:032x}")), "output.pkl"), (number + 1e9, number + 1e9))
    store = FileStore(tmp_path / "cache", limits=Limits(items=5))
    assert store.load(Key("f", f"{3:032x}")) == 3
    store.save(KEY, 1, meta())
    assert {int(entry.key.call, 16) for entry in store.entries()} == {3, 7, 8, 9, 10}


def test_a_store_without_limits_updates_an_existing_index(tmp_path: Path) -> None:
    limited = FileStore(tmp_path / "cache", limits=Limits(items=5))
    limited.save(KEY, 1, meta())
    unlimited = FileStore(tmp_path / "cache")
    for number in range(20):
        unlimited.save(Key("f", f"{number:032x}"), number, meta())
    assert len(list(limited.entries())) == 21
    limited.save(KEY, 1, meta())
    assert len(list(limited.entries())) == 5


def value_of(store: FileStore, key: Key) -> Path:
    return Path(store.folder(key), "output.pkl")


def test_entries_of_shoal_with_a_row_are_listed_and_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path / "cache", limits=Limits(items=100))
    keys = [Key("module/f", f"{number:032x}x") for number in range(10)]
    for key in keys:
        store.save(key, 0, meta())
    plain = {entry.key: entry.nbytes for entry in FileStore(tmp_path / "cache").entries()}
    monkeypatch.setattr(_walk, "measured", None)  # looks into an entry
    assert {entry.key: entry.nbytes for entry in store.entries()} == plain
    shutil.rmtree(store.folder(keys[3]))
    assert {entry.key for entry in store.entries()} == {*keys} - {keys[3]}
    store.reduce(Limits(items=5))
    assert {entry.key for entry in store.entries()} == {*keys[5:]}


def test_entries_of_joblib_are_looked_into_although_they_have_a_row(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "cache", limits=Limits(items=100))
    store.save(KEY, 0, meta())
    (before,) = store.entries()
    with value_of(store, KEY).open("ab") as file:
        file.write(b"more")
    (after,) = store.entries()
    assert after.nbytes == before.nbytes + 4


def test_a_walk_of_each_day_corrects_what_was_changed_by_hand(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "cache", limits=Limits(items=100))
    first, second, third = keys = [Key("module/f", f"{number:032x}x") for number in range(3)]
    for key in keys:
        store.save(key, 0, meta())
    sizes = {entry.key: entry.nbytes for entry in store.entries()}
    value_of(store, first).unlink()
    with value_of(store, second).open("ab") as file:
        file.write(b"more")
    index = sqlite3.connect(tmp_path / "cache" / ".shoal" / "index.sqlite")
    old = time.time() - 10 * 24 * 3600
    with index:
        index.execute("UPDATE totals SET walked = ?", (old,))
        index.execute("UPDATE entries SET used = ?", (old,))
    store.reduce(Limits(items=100))
    assert {entry.key: entry.nbytes for entry in store.entries()} == {second: sizes[second] + 4, third: sizes[third]}
    (nbytes, items), *_ = index.execute("SELECT nbytes, items FROM totals")
    assert (nbytes, items) == (sizes[second] + 4 + sizes[third], 2)
    index.close()


@pytest.mark.parametrize("data", [b"", b"no database" * 1000])
def test_a_damaged_index_is_made_anew(tmp_path: Path, data: bytes) -> None:
    store = FileStore(tmp_path / "cache", limits=Limits(items=5))
    for number in range(5):
        store.save(Key("f", f"{number:032x}"), number, meta())
    store.close()
    for end in ("-wal", "-shm"):
        Path(tmp_path, "cache", ".shoal", "index.sqlite" + end).unlink(missing_ok=True)
    path = tmp_path / "cache" / ".shoal" / "index.sqlite"
    path.unlink()
    path.write_bytes(data)
    store = FileStore(tmp_path / "cache", limits=Limits(items=5))
    for number in range(5, 10):
        store.save(Key("f", f"{number:032x}"), number, meta())
    assert {int(entry.key.call, 16) for entry in store.entries()} == set(range(5, 10))


@needs_fork
def test_a_forked_child_keeps_the_limit(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "cache", limits=Limits(items=5))
    store.save(KEY, 1, meta())
    child = os.fork()
    if not child:
        status = 1
        try:
            for number in range(10):
                store.save(Key("f", f"{number:032x}"), number, meta())
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(store.entries())) == 5
    store.save(KEY, 1, meta())
    assert len(list(store.entries())) == 5


def test_a_store_that_was_removed_is_not_made_again_at_exit(start: Start, tmp_path: Path) -> None:
    process = start("""
        import os, shutil
        store = FileStore(store.location, limits=Limits(items=5))
        store.save(key(0), 0, Meta(0., 0., {}))
        store.load(key(0))
        from shoal._platform.files import OPEN_FILES_STAY
        if OPEN_FILES_STAY:
            store.close()
        shutil.rmtree(store.location)
    """)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert os.listdir(tmp_path / "cache") == [".gitignore"]


def test_uses_are_written_at_exit(start: Start, tmp_path: Path) -> None:
    store = FileStore(tmp_path / "cache" / "joblib", limits=Limits(items=5))
    for number in range(5):
        store.save(Key("module/function", f"{number:032x}"), number, meta())
    process = start("""
        store = FileStore(store.location, limits=Limits(items=5))
        say(store.load(key(0)))
    """)
    assert process.communicate(timeout=PATIENCE)[0].split() == ["0"]
    assert process.returncode == 0
    store.save(KEY, 1, meta())
    assert {int(entry.key.call, 16) for entry in store.entries()} == {0, 2, 3, 4, 10}
