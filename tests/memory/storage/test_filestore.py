"""The file store: joblib's layout, entries that appear and disappear as a whole, damage, killed processes."""

from __future__ import annotations

import json
import os
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _capabilities import ROOT, needs, needs_modes, needs_replacing
from _store_util import KEY, Start, heard, make_start, make_store, meta
from shoal import CacheWarning
from shoal.memory.storage._filestore import FileStore
from shoal.memory.store import Limits, Meta

store, start = pytest.fixture(make_store), pytest.fixture(make_start)


def files(store: FileStore) -> set[str]:
    root = Path(store.location)
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}
    return found - {".shoal/locks", ".shoal/index.sqlite", ".shoal/index.sqlite-wal", ".shoal/index.sqlite-shm"}


# The layout


def test_the_layout_is_joblibs(store: FileStore, tmp_path: Path) -> None:
    store.save(KEY, [1, 2], Meta(0.5, 17.25, {"x": "1", "y": "'ü'"}))
    store.keep_source(KEY.function, "# first line: 3\ndef f(x): ...\n")
    folder = "module/function/" + KEY.call
    assert files(store) == {
        "module/function/func_code.py",
        folder + "/output.pkl",
        folder + "/metadata.json",
    }
    text = Path(store.location, folder, "metadata.json").read_text()
    assert json.loads(text) == {"duration": 0.5, "input_args": {"x": "1", "y": "'ü'"}, "time": 17.25}
    assert (tmp_path / "cache" / ".gitignore").read_text().splitlines()[-1] == "*"


def test_the_gitignore_of_a_folder_that_is_not_called_joblib(tmp_path: Path) -> None:
    FileStore(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".gitignore"]


@pytest.mark.parametrize("compress", [False, 3])
def test_joblib_reads_entries_of_shoal(fresh_python, tmp_path: Path, compress: Any) -> None:
    """shoal overwrites results of joblib, and joblib then loads shoal's."""
    calls = f"""
        import sys, joblib, numpy as np
        sys.path.insert(0, {str(tmp_path)!r})
        from cached_by_both import f
        memory = joblib.Memory({str(tmp_path / "cache")!r}, verbose=0)
        g = memory.cache(f)
        print(g(1, y=2)["x"].sum(), len(memory.store_backend.get_items()))
        memory.reduce_size(items_limit=50)
        """
    (tmp_path / "cached_by_both.py").write_text("import numpy as np\ndef f(x, y):\n    return {'x': np.arange(5.)}\n")
    assert fresh_python(calls).split() == ["10.0", "1"]
    store = FileStore(tmp_path / "cache" / "joblib", compress=compress)
    (entry,) = store.entries()
    assert store.foreign(entry.key.function)
    assert np.array_equal(store.load(entry.key)["x"], np.arange(5.0))
    assert store.meta(entry.key).arguments == {"x": "1", "y": "2"}
    assert (store.source(entry.key.function) or "").startswith("# first line: 2\ndef f(x, y):")
    store.save(entry.key, {"x": np.ones(70_000)}, store.meta(entry.key))
    store.save(entry.key._replace(call="f" * 32), 1, meta())
    assert fresh_python(calls).split() == ["70000.0", "2"]
    store.clear(entry.key.function)
    assert fresh_python(calls).split() == ["10.0", "1"]
    assert len(list(store.entries())) == 1


def test_arrays_are_mapped(store: FileStore) -> None:
    array = np.arange(100_000.0)
    store.save(KEY, array, meta())
    mapped = store.load(KEY, "r")
    assert isinstance(mapped, np.memmap)
    store.save(KEY, np.zeros(3), meta())
    store.clear()
    assert np.array_equal(mapped, array)


def test_compressed_arrays_are_not_mapped(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="cannot be memmapped"):
        store = FileStore(tmp_path, compress=True, mmap_mode="r")
    store.save(KEY, np.zeros(100_000), meta())
    assert type(store.load(KEY, "r")) is np.ndarray


# Folders that cannot be written


@needs_modes
@needs(not ROOT, "root may write everywhere")
def test_saving_in_a_write_protected_folder_raises(store: FileStore, tmp_path: Path) -> None:
    store.save(KEY, 1, meta())
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        if path.is_dir():
            path.chmod(0o500)
    try:
        other = FileStore(store.location)
        assert other.load(KEY) == 1
        with pytest.raises(OSError, match="denied"):
            other.save(KEY._replace(call="b" * 32), 1, meta())
        with other.lease(KEY) as mine:
            assert mine
    finally:
        for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
            if path.is_dir():
                path.chmod(0o700)


@pytest.mark.parametrize("limits", [None, Limits(items=10)])
def test_a_location_that_is_a_file_raises(tmp_path: Path, limits: Limits | None) -> None:
    (tmp_path / "file").write_text("")
    store = FileStore(tmp_path / "file" / "joblib", limits=limits)
    with pytest.raises(OSError, match="file"):
        store.save(KEY, 1, meta())
    with pytest.raises(OSError, match="file"):
        store.keep_source("f", "source")
    with pytest.raises(KeyError):
        store.load(KEY)
    assert not store.contains(KEY)
    with store.lease(KEY) as mine:
        assert mine


def test_a_full_disk_leaves_no_entry(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    store.save(KEY, 1, meta())
    with monkeypatch.context() as patch:
        patch.setattr("shoal._output._written", full)
        with pytest.raises(OSError, match="No space"):
            store.save(KEY._replace(call="b" * 32), 1, meta())
    assert store.load(KEY) == 1
    assert os.listdir(Path(store.location, ".shoal", "aside")) == []


@needs_replacing
@pytest.mark.parametrize("limits", [None, Limits(items=10)])
def test_saving_makes_a_removed_folder_again(tmp_path: Path, limits: Limits | None) -> None:
    import shutil

    store = FileStore(tmp_path / "cache", limits=limits)
    for number in range(3):
        with store.lease(KEY) as mine:
            assert mine
            store.save(KEY, number, meta())
            store.keep_source(KEY.function, "source")
        assert store.load(KEY) == number
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises(KeyError):
            store.load(KEY)
        store.clear()
        store.reduce(Limits(items=1))
        assert list(store.entries()) == []


# Damage


def spoil(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 16
    elif how == "first byte":
        data[0] ^= 16
    elif how == "empty":
        data.clear()
    else:
        del data[len(data) // 2 :]
    path.write_bytes(data)


@pytest.mark.parametrize("limits", [None, Limits(items=10)])
@pytest.mark.parametrize("how", ["flipped", "first byte", "empty", "truncated"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("value", [[1, "two", 3.0], [random.Random(0).randbytes(30_000).hex()]], ids=["small", "large"])
def test_a_damaged_value_is_removed_with_a_warning(
    tmp_path: Path, value: Any, compress: bool, how: str, limits: Limits | None
) -> None:
    store = FileStore(tmp_path / "cache", compress=compress, limits=limits)
    store.save(KEY, value, meta())
    spoil(Path(store.folder(KEY), "output.pkl"), how)
    with pytest.warns(CacheWarning, match="cannot be read") as caught, pytest.raises(KeyError):
        store.load(KEY)
    assert len(caught) == 1
    assert str(store.folder(KEY)) in str(caught[0].message)
    assert not store.contains(KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError):
            store.load(KEY)
        store.save(KEY, value, meta())
        assert store.load(KEY) == value


def test_a_value_that_the_system_refuses_to_read_stays(store: FileStore) -> None:
    path = Path(store.folder(KEY), "output.pkl")
    path.mkdir(parents=True)  # which cannot be opened as a file
    expected = r"cannot be read .*\): the result will be computed again"
    with pytest.warns(CacheWarning, match=expected), pytest.raises(KeyError):
        store.load(KEY)
    assert path.exists()


class Opens:
    """Opens a file when it is unpickled."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        with open(state["path"], "rb"):
            pass


@pytest.mark.parametrize("mmap_mode", [None, "r"])
def test_a_value_that_misses_a_file_of_its_own_is_reported(store: FileStore, mmap_mode: str | None) -> None:
    value = Opens()
    value.path = "missing.h5"  # type: ignore[attr-defined]
    store.save(KEY, value, meta())
    with pytest.warns(CacheWarning, match=r"missing\.h5"), pytest.raises(KeyError):
        store.load(KEY, mmap_mode)


def test_a_value_whose_class_cannot_be_imported_is_removed(store: FileStore, fresh_python) -> None:
    fresh_python(f"""
        import sys, types, time
        from shoal.memory.storage._filestore import FileStore
        from shoal.memory.store import Key, Meta
        sys.modules["vanished"] = module = types.ModuleType("vanished")
        exec("class C: pass", module.__dict__)
        FileStore({store.location!r}).save(Key(*{tuple(KEY)!r}), module.C(), Meta(0., time.time(), {{}}))
    """)
    with pytest.warns(CacheWarning, match="vanished"), pytest.raises(KeyError):
        store.load(KEY)


def test_missing_or_damaged_metadata(store: FileStore) -> None:
    path = Path(store.folder(KEY), "metadata.json")
    for text in (None, "", "{", "[]", "3", '{"duration": null, "input_args": {}, "time": 3}'):
        store.save(KEY, 42, meta())
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        with pytest.raises(KeyError):
            store.meta(KEY)
        assert store.load(KEY) == 42


def test_saving_completes_half_an_entry(store: FileStore) -> None:
    for left in ("output.pkl", "metadata.json", None):
        store.save(KEY, 1, meta())
        for name in {"output.pkl", "metadata.json"} - {left}:
            Path(store.folder(KEY), name).unlink()
        store.save(KEY, 2, meta())
        assert (store.load(KEY), store.meta(KEY).duration) == (2, 0.5)


def test_a_replaced_entry_is_not_removed(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process replaces a damaged entry between its reading and its removal."""
    store.save(KEY, "damaged", meta())
    spoil(Path(store.folder(KEY), "output.pkl"), "flipped")
    move_in = store._staging.move_in

    def late(path: str) -> str | None:
        store.save(KEY, "good", meta())
        return move_in(path)

    monkeypatch.setattr(store._staging, "move_in", late)
    assert store.load(KEY) == "good"
    monkeypatch.undo()
    assert store.load(KEY) == "good"


def test_a_wrong_mmap_mode_does_not_remove_the_entry(store: FileStore) -> None:
    store.save(KEY, 1, meta())
    with pytest.raises(ValueError, match="mmap_mode"):
        store.load(KEY, "x")
    assert store.load(KEY) == 1


# Killed processes


def test_leftovers_of_killed_processes_are_deleted(store: FileStore, start: Start) -> None:
    writer = start("""
        class Slow:
            def __reduce__(self):
                say("writing")
                time.sleep(100)
        store.save(key(1), Slow(), Meta(0., 0., {}))
    """)
    assert heard(writer) == "writing"
    aside = Path(store.location, ".shoal", "aside")
    FileStore(store.location).save(KEY, 1, meta())
    assert len(os.listdir(aside)) == 1, "it still writes"
    writer.kill()
    writer.wait()
    FileStore(store.location).save(KEY, 2, meta())
    assert os.listdir(aside) == []
