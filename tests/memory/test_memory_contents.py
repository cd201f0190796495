"""What a Memory does with many results: entries, info, prune, verify, export and import, its table for notebooks."""

from __future__ import annotations

import contextlib
import io
import os
import random
import tarfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _memory_util import RUNS, double, make_memory, power, times
from shoal import Memory
from shoal.memory import _results
from shoal.memory.store import Key, Meta

memory = pytest.fixture(make_memory)


class Mark:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def damage(memory: Memory) -> None:
    for path in Path(memory.location).rglob("output.pkl"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def calls(memory: Memory) -> list[tuple[str, list[str]]]:
    return sorted((Path(entry.func).name, [*entry.arguments.values()]) for entry in memory.entries())


@pytest.fixture
def filled(memory: Memory) -> Memory:
    """Give a cache with two results of one function and one of another."""
    memory.cache(double)(1)
    memory.cache(double)(2)
    memory.cache(power)(2, 3)
    return memory


# ---- entries and info.


def test_entries_of_one_function(filled: Memory) -> None:
    cached = filled.cache(double)
    for found in (cached.entries(), filled.entries(cached), filled.entries("double"), filled.entries(double.__name__)):
        assert sorted(entry.arguments["x"] for entry in found) == ["1", "2"]
    assert sorted(entry.get() for entry in cached.entries()) == [2, 4]
    with pytest.raises(ValueError, match="no result of ble is stored"):
        list(filled.entries("ble"))
    with pytest.raises(TypeError, match="neither a cached function nor a name"):
        list(filled.entries(3))
    assert list(Memory(None).entries()) == list(Memory(None).cache(double).entries()) == []


def test_info_says_how_long_hits_would_have_taken(memory: Memory) -> None:
    cached = memory.cache(double)
    store = memory.store_backend
    assert store is not None
    cached(1)
    (entry,) = store.entries()
    store.save(entry.key, 2, Meta(1.5, 0.0, {}))
    cached(1)
    cached(1)
    info = memory.info()
    assert info is not None
    assert info.saved == info.functions[cached.func_id].saved == 3.0


def test_the_table_for_notebooks(filled: Memory) -> None:
    filled.cache(double)(2)
    page = filled._repr_html_()
    assert "3 results" in page
    assert "<td>_memory_util.double</td><td>2</td>" in page
    assert "<td>1</td><td>2</td></tr>" in page  # one hit, two misses
    assert "without a location" in Memory(None)._repr_html_()
    filled.cache(times(2))(1)
    assert "&lt;locals&gt;" in filled._repr_html_() or "times" in filled._repr_html_()


# ---- prune.


def test_prune_of_a_function(filled: Memory) -> None:
    cached = filled.cache(double)
    would = filled.prune(function=cached, dry_run=True)
    assert sorted(result.arguments["x"] for result in would) == ["1", "2"]
    assert len(calls(filled)) == 3
    assert {result.args_id for result in filled.prune(function=cached)} == {result.args_id for result in would}
    assert [name for name, _ in calls(filled)] == ["power"]


def test_prune_by_age_use_size_and_number(filled: Memory) -> None:
    store = filled.store_backend
    assert store is not None
    (old,) = filled.entries("power")
    store.save(Key(old.func.replace(os.sep, "/"), old.args_id), 8, Meta(0.0, 1_000.0, {}))
    assert [result.args_id for result in filled.prune(older_than=timedelta(days=1), dry_run=True)] == [old.args_id]
    assert filled.prune(older_than=timedelta(days=1), function="double") == []
    assert [result.args_id for result in filled.prune(older_than=timedelta(days=1))] == [old.args_id]
    assert filled.prune(unused_for=timedelta(days=1)) == []
    assert len(filled.prune(items_limit=1, dry_run=True)) == 1
    assert len(filled.prune(items_limit=1)) == 1
    assert len(filled.prune(bytes_limit=0, function="double")) == 1
    assert calls(filled) == []


def test_prune_with_an_index(tmp_path: Path) -> None:
    memory = Memory(tmp_path, verbose=0, items_limit=10)
    for i in range(4):
        memory.cache(double)(i)
    assert len(memory.prune(function="double", items_limit=1)) == 3
    assert memory.info().entries == 1  # type: ignore[union-attr]
    memory.close()


@pytest.mark.parametrize("limits", [{}, {"items_limit": 10}])
def test_prune_lists_the_entries_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any]) -> None:
    memory = Memory(tmp_path, verbose=0, **limits)
    for i in range(4):
        memory.cache(double)(i)
    store = memory.store_backend
    assert store is not None
    entries, walks = store.entries, []
    monkeypatch.setattr(store, "entries", lambda: walks.append(1) or entries())
    assert len(memory.prune(items_limit=1)) == 3
    assert len(walks) == 1
    assert len(calls(memory)) == 1
    memory.close()


def test_info_reads_the_results_that_were_used_last(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    store = memory.store_backend
    assert store is not None
    cached = memory.cache(double)
    for i in range(5):
        cached(i)
    cached(0)
    for entry, seconds in zip(sorted(store.entries()), (1.0, 1.0, 1.0, 3.0, 5.0), strict=True):
        store.save(entry.key, 0, Meta(seconds, 0.0, {}))
        os.utime(Path(store.folder(entry.key), "output.pkl"), (1e9 + seconds, 1e9 + seconds))  # type: ignore[attr-defined]
    monkeypatch.setattr(_results, "_MOST_READ", 2)
    info = memory.info()
    assert info is not None
    assert (info.entries, info.hits, info.misses, info.saved) == (5, 1, 5, 4.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "needs to know what to remove"),
        ({"older_than": 3}, TypeError, "older_than=3 is not a datetime.timedelta"),
        ({"unused_for": timedelta(-1)}, ValueError, "unused_for=.* is negative"),
        ({"items_limit": -1}, ValueError, "negative"),
    ],
)
def test_prune_refuses(memory: Memory, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        memory.prune(**options)


# ---- verify.


def test_verify(memory: Memory) -> None:
    memory.cache(double)(np.arange(1000.0))
    found = memory.verify()
    assert (found.entries, found.states["sound"], found.bad) == (1, 1, [])
    damage(memory)
    found = memory.verify()
    assert [(checked.state, checked.entry.key.call) for checked in found.bad] == [
        ("damaged", next(iter(memory.entries())).args_id)
    ]
    assert str(found).endswith("1 damaged")
    assert memory.verify().entries == 1  # nothing was removed


# ---- Export and import.


@pytest.mark.parametrize("name", ["warm.tar", "warm.tar.gz"])
def test_a_cache_is_warmed_by_another_one(filled: Memory, tmp_path: Path, name: str) -> None:
    assert filled.export_entries(tmp_path / name) == 3
    assert sorted(os.listdir(tmp_path)) == ["cache", name]
    other = Memory(tmp_path / "other", verbose=0)
    assert other.import_entries(tmp_path / name) == (3, 0, 0)
    assert other.import_entries(str(tmp_path / name)) == (0, 3, 0)
    RUNS.clear()
    assert (other.cache(double)(1), other.cache(power)(2, exponent=3)) == (2, 8)
    assert RUNS == []
    assert calls(other) == calls(filled)
    assert other.verify().states["sound"] == 3


def test_export_of_one_function(filled: Memory, tmp_path: Path) -> None:
    assert filled.export_entries(tmp_path / "some.tar", function="power") == 1
    with tarfile.open(tmp_path / "some.tar") as tar:
        assert [member.name.rpartition("/")[2] for member in tar] == ["func_code.py", "metadata.json", "output.pkl"]
    with pytest.raises(ValueError, match="no result of missing"):
        filled.export_entries(tmp_path / "none.tar", function="missing")
    with pytest.raises(FileNotFoundError):
        filled.export_entries(tmp_path / "missing" / "x.tar")
    assert Memory(None).export_entries(tmp_path / "none.tar") == 0


def test_between_kinds_of_stores(filled: Memory, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    filled.export_entries(tmp_path / "warm.tar")
    other = Memory(f"memory://{tmp_path.name}", backend="fsspec", verbose=0)
    assert other.import_entries(tmp_path / "warm.tar").added == 3
    assert other.export_entries(tmp_path / "back.tar") == 3
    assert other.cache(double)(1) == 2
    other.clear()


def test_a_damaged_result_is_not_imported(memory: Memory, tmp_path: Path) -> None:
    memory.cache(double)(np.arange(1000.0))
    damage(memory)
    memory.export_entries(tmp_path / "warm.tar")
    other = Memory(tmp_path / "other", verbose=0)
    assert other.import_entries(tmp_path / "warm.tar") == (0, 0, 1)
    assert calls(other) == []


def test_an_import_runs_nothing(memory: Memory, tmp_path: Path) -> None:
    store = memory.store_backend
    assert store is not None
    store.save(Key("m/f", "0" * 32 + "x"), Mark(tmp_path / "ran"), Meta(0.0, 0.0, {}))
    memory.export_entries(tmp_path / "warm.tar")
    other = Memory(tmp_path / "other", verbose=0)
    assert other.import_entries(tmp_path / "warm.tar").added == 1
    other.verify()
    assert not (tmp_path / "ran").exists()


CALL = "0" * 32 + "x"


@pytest.mark.parametrize(
    "name",
    [
        "../output.pkl",
        f"../../evil/{CALL}/output.pkl",
        f"/absolute/f/{CALL}/output.pkl",
        f"m/../../../evil/{CALL}/output.pkl",
        f"m//f/{CALL}/output.pkl",
        f".shoal/aside/{CALL}/output.pkl",
        f".hidden/f/{CALL}/output.pkl",
        "m/f/not-a-call/output.pkl",
        f"m/f/{CALL}/other.pkl",
        f"m/f/{CALL}/output.pkl/output.pkl",
        "output.pkl",
        "func_code.py",
        "../func_code.py",
        ".shoal/func_code.py",
    ],
)
def test_names_that_no_cache_has_are_refused(memory: Memory, tmp_path: Path, name: str) -> None:
    memory.cache(double)(1)
    before = sorted(map(str, tmp_path.rglob("*")))
    with tarfile.open(tmp_path.parent / f"{tmp_path.name}.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(ValueError, match="no cache contains that"):
        memory.import_entries(tmp_path.parent / f"{tmp_path.name}.tar")
    assert sorted(map(str, tmp_path.rglob("*"))) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(memory: Memory, tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        member = tarfile.TarInfo(f"m/f/{CALL}/output.pkl")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(ValueError, match="not a file"):
        memory.import_entries(tmp_path / "bad.tar")
    assert calls(memory) == []


@pytest.mark.parametrize("content", [b"", b"no tar", b"\x1f\x8b\x08rest"])
def test_files_that_are_no_tar(memory: Memory, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.tar").write_bytes(content)
    with pytest.raises(ValueError, match="is not a tar of results"):
        memory.import_entries(tmp_path / "bad.tar")


def test_a_tar_that_ends_too_soon(filled: Memory, tmp_path: Path) -> None:
    filled.export_entries(tmp_path / "warm.tar")
    with tarfile.open(tmp_path / "warm.tar") as tar:
        end = tar.getmembers()[-1].offset_data + 3
    (tmp_path / "cut.tar").write_bytes((tmp_path / "warm.tar").read_bytes()[:end])
    other = Memory(tmp_path / "other", verbose=0)
    with pytest.raises(ValueError, match="is not a tar of results"):
        other.import_entries(tmp_path / "cut.tar")
    assert other.verify().bad == []


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_damaged_tar_is_not_imported_in_silence(memory: Memory, tmp_path: Path, ending: str) -> None:
    """It raises ValueError, or finds each result, right or damaged."""
    cached = memory.cache(double)
    for number in range(3):
        cached(np.arange(20.0) + number)
    path = tmp_path / f"warm{ending}"
    memory.export_entries(path)
    whole = path.read_bytes()
    choice = random.Random(7)
    for number in range(30):
        data = bytearray(whole)
        if number % 2:
            del data[choice.randrange(len(data)) :]
        else:
            data[choice.randrange(len(data))] ^= 0xFF
        path.write_bytes(data)
        other = Memory(tmp_path / f"other-{number}", verbose=0)
        with contextlib.suppress(ValueError):
            found = other.import_entries(path)
            assert found.added + found.damaged == 3
        assert other.verify().bad == []


def test_a_store_that_takes_no_files(filled: Memory, tmp_path: Path) -> None:
    filled.export_entries(tmp_path / "warm.tar")
    store = filled.store_backend
    assert store is not None
    with pytest.raises(NotImplementedError, match="does not take files"):
        super(type(store), store).save_file(Key("f", CALL), io.BytesIO(), Meta(0.0, 0.0, {}))


def test_the_source_of_the_cache_stays(filled: Memory, tmp_path: Path) -> None:
    filled.export_entries(tmp_path / "warm.tar")
    other = Memory(tmp_path / "other", verbose=0)
    store = other.store_backend
    assert store is not None
    store.keep_source("_memory_util/double", "# first line: 1\nanother\n")
    other.import_entries(tmp_path / "warm.tar")
    assert store.source("_memory_util/double") == "# first line: 1\nanother\n"
    assert "def power" in str(store.source("_memory_util/power"))
