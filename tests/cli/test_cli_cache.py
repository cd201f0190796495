"""``shoal cache``: what it lists, what it removes, and that it runs nothing from a cache; and ``verify`` of files."""

from __future__ import annotations

import datetime
import errno
import io
import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from _capabilities import needs_reading_times
from shoal.cli import main
from shoal.errors import CorruptFile, DamagedFile, EmptyFile
from shoal.memory.storage._filestore import FileStore
from shoal.memory.store import Key, Meta, Store, create
from shoal.persistence._verify import verify


class Mark:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def fill(store: Store, function: str = "package/module/f", number: int = 3, ends: str = "x") -> list[Key]:
    """Save results, the older ones first."""
    keys = [Key(function, f"{i:032x}{ends}") for i in range(number)]
    for i, key in enumerate(keys):
        store.save(key, {"value": np.full(20_000, i)}, Meta(0.25, 1_700_000_000.0, {"n": str(i), "name": "'a\nb'"}))
    return keys


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give the location of a cache with two functions."""
    store = FileStore(tmp_path / "cache")
    fill(store)
    fill(store, "package/g", 1, ends="")
    return tmp_path / "cache"


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """Run a command with --json, and return what it says."""
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def value_file(folder: Path, key: Key) -> Path:
    return folder / key.function / key.call / "output.pkl"


# ---- ls, info and show.


def test_ls(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls", str(folder)]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "FUNCTION"
    assert first.split()[:2] == ["package.g", "1"]
    assert second.split()[:2] == ["package.module.f", "3"]

    found = ask(capsys, "cache", "ls", str(folder))
    assert [(item["function"], item["entries"]) for item in found] == [("package.g", 1), ("package.module.f", 3)]
    assert all(item["nbytes"] > 160_000 and item["oldest_use"] <= item["newest_use"] for item in found)


def test_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "3 of shoal's, 1 of joblib's" in shown
    found = ask(capsys, "cache", "info", str(folder))
    assert (found["functions"], found["entries"]) == (2, 4)
    assert found["keys"] == {"shoal": 3, "joblib": 1}
    assert found["nbytes"] == sum(entry.nbytes for entry in FileStore(folder).entries())
    assert len(found["largest"]) == 4


@pytest.mark.parametrize("name", ["package.module.f", "module.f", "f", "package/module/f"])
def test_show(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["cache", "show", str(folder), name]) == 0
    shown = capsys.readouterr().out
    assert "(n=1, name='a\\nb')" in shown  # newlines cannot break the lines
    assert "250 ms" in shown
    found = ask(capsys, "cache", "show", str(folder), name)
    assert sorted(item["arguments"]["n"] for item in found) == ["0", "1", "2"]
    assert {(item["duration"], item["created"]) for item in found} == {(0.25, 1_700_000_000.0)}
    assert "value" not in found[0]


def test_show_names_what_it_does_not_find(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "show", str(folder), "missing"]) == 1
    assert "no result of missing" in capsys.readouterr().err
    fill(FileStore(folder), "other/f")
    assert main(["cache", "show", str(folder), "f"]) == 1
    assert "other.f, package.module.f" in capsys.readouterr().err


@pytest.mark.parametrize("metadata", [None, b"", b"[]", b'{"duration": "x"}'])
def test_show_without_metadata(folder: Path, capsys: pytest.CaptureFixture[str], metadata: bytes | None) -> None:
    file = value_file(folder, Key("package/g", f"{0:032x}")).with_name("metadata.json")
    if metadata is None:
        file.unlink()
    else:
        file.write_bytes(metadata)
    assert main(["cache", "show", str(folder), "g"]) == 0
    assert "metadata are lost" in capsys.readouterr().out
    assert ask(capsys, "cache", "show", str(folder), "g")[0]["arguments"] is None


def test_times_that_no_calendar_has(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = value_file(folder, Key("package/g", f"{0:032x}")).with_name("metadata.json")
    for number in ("1e300", "NaN", "Infinity", "-1e12"):
        file.write_text(f'{{"duration": {number}, "time": {number}, "input_args": {{}}}}')
        assert main(["cache", "show", str(folder), "g"]) == 0
        capsys.readouterr()
        found = ask(capsys, "cache", "show", str(folder), "g")[0]["created"]
        assert found is None or abs(found) >= 1e12


def test_a_location_may_be_the_folder_around_joblib(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shoal.Memory(str(tmp_path), verbose=0).cache(abs)(-1)
    for location in (tmp_path, tmp_path / "joblib", f"{tmp_path}/"):
        assert ask(capsys, "cache", "info", str(location))["entries"] == 1


def test_a_module_may_be_called_joblib(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = FileStore(tmp_path)
    fill(store, "joblib/hashing/hash")
    assert ask(capsys, "cache", "ls", str(tmp_path))[0]["function"] == "hashing.hash"  # nothing tells otherwise
    fill(store, "package/f")
    with store.lease(Key("package/f", "0" * 32)):  # makes the folder of shoal's own files
        pass
    for location in (tmp_path, tmp_path / "joblib"):
        names = [item["function"] for item in ask(capsys, "cache", "ls", str(location))]
        assert names == ["joblib.hashing.hash", "package.f"]


def test_a_cache_at_a_url(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fsspec")
    url = f"memory://{os.urandom(8).hex()}"
    store = create("fsspec", f"{url}/joblib")
    assert store is not None
    keys = fill(store)
    (found,) = ask(capsys, "cache", "ls", url)
    assert (found["function"], found["entries"]) == ("package.module.f", 3)
    assert ask(capsys, "cache", "verify", f"{url}/joblib")["states"]["sound"] == 3
    assert len(ask(capsys, "cache", "prune", url, "--items-limit=1")["removed"]) == 2
    assert sum(map(store.contains, keys)) == 1
    for wrong in ("nothing://here", f"memory://{os.urandom(8).hex()}"):
        assert main(["cache", "ls", wrong]) == 1
        assert "shoal: " in capsys.readouterr().err


@pytest.mark.parametrize("action", ["ls", "info", "show", "prune", "verify"])
def test_a_folder_that_is_no_cache_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    more = {"show": ["f"], "prune": ["--items-limit=0"]}.get(action, [])
    for folder in (tmp_path, tmp_path / "missing"):
        assert main(["cache", action, str(folder), *more]) == 1
        assert "there is no cache in" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["notes.txt"]


# ---- prune.


def test_prune(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = FileStore(folder)
    for i, entry in enumerate(store.entries()):
        os.utime(value_file(folder, entry.key), (1_700_000_000 - i, 1_700_000_000 - i))
    before = {entry.key for entry in store.entries()}
    planned = ask(capsys, "cache", "prune", str(folder), "--items-limit", "2", "--dry-run")
    assert planned["dry_run"]
    assert {entry.key for entry in store.entries()} == before
    done = ask(capsys, "cache", "prune", str(folder), "--items-limit", "2")
    assert done["removed"] == planned["removed"]
    assert (done["entries"], len(done["removed"])) == (2, 2)
    assert {entry.key.call for entry in store.entries()}.isdisjoint(item["call"] for item in done["removed"])
    assert main(["cache", "prune", str(folder), "--bytes-limit", "0"]) == 0
    assert "removed 2 entries" in capsys.readouterr().out
    assert list(store.entries()) == []
    assert main(["cache", "ls", str(folder)]) == 0
    assert "no results" in capsys.readouterr().out


@needs_reading_times
def test_prune_by_age(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = time.time() - 10 * 86_400
    os.utime(value_file(folder, Key("package/module/f", f"{1:032x}x")), (old, old))
    assert ask(capsys, "cache", "prune", str(folder), "--age-limit=2w")["removed"] == []
    (removed,) = ask(capsys, "cache", "prune", str(folder), "--age-limit=9d")["removed"]
    assert removed["call"] == f"{1:032x}x"


@pytest.mark.parametrize("beside", [False, True])
def test_prune_keeps_the_index_up_to_date(tmp_path: Path, capsys: pytest.CaptureFixture[str], beside: bool) -> None:
    """A store with limits counts its entries in an index, which may be beside the folder, as under joblib's name."""
    own = str(tmp_path / ".shoal") if beside else None
    limits = shoal.Memory(None, bytes_limit="1G").limits
    store = FileStore(tmp_path / "joblib", limits=limits, own=own)
    fill(store)
    assert len(ask(capsys, "cache", "prune", str(tmp_path), "--items-limit=1")["removed"]) == 2
    assert store._index is not None
    assert len(store._index.known("package/module/f")) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--dry-run"],
        ["--bytes-limit=much"],
        ["--items-limit=-1"],
        ["--items-limit=1.5"],
        ["--age-limit=30"],
        ["--age-limit=-1d"],
        ["--age-limit=1y"],
    ],
)
def test_wrong_limits(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["cache", "prune", str(folder), *arguments])
    assert len(list(FileStore(folder).entries())) == 4


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("90min", datetime.timedelta(minutes=90)),
        ("1.5h", datetime.timedelta(minutes=90)),
        ("30d", datetime.timedelta(30)),
        ("2 w", datetime.timedelta(14)),
        ("10s", datetime.timedelta(seconds=10)),
    ],
)
def test_ages(text: str, age: datetime.timedelta) -> None:
    from shoal.cli._parser import parse

    assert parse(["cache", "prune", "folder", "--age-limit", text]).age_limit == age


# ---- verify.


def test_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "verify", str(folder)]) == 0
    assert capsys.readouterr().out.endswith(": 4 sound\n")
    damaged = value_file(folder, Key("package/module/f", f"{1:032x}x"))
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1  # in the array, which a load does not compare
    damaged.write_bytes(data)
    value_file(folder, Key("package/g", f"{0:032x}")).write_bytes(pickle.dumps([1, 2]))
    assert main(["cache", "verify", str(folder)]) == 1
    shown = capsys.readouterr().out
    assert damaged.as_posix() in shown.replace(os.sep, "/")
    assert "4 entries" in shown
    assert "2 sound, 1 without checksums, 1 damaged" in shown
    found = ask(capsys, "cache", "verify", str(folder), code=1)
    assert [(item["function"], item["call"], item["state"]) for item in found["bad"]] == [
        ("package.module.f", f"{1:032x}x", "damaged")
    ]


def test_files_that_cannot_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = FileStore.open_value

    def open_value(self: FileStore, key: Key) -> Any:
        if key.function == "package/g":
            raise PermissionError(errno.EACCES, "Permission denied", "output.pkl")
        if key.call.startswith(f"{1:032x}"):
            raise KeyError(key)  # another process has removed it meanwhile
        return opened(self, key)

    monkeypatch.setattr(FileStore, "open_value", open_value)
    found = ask(capsys, "cache", "verify", str(folder), code=1)
    assert (found["states"]["unreadable"], found["states"]["sound"], found["entries"]) == (1, 2, 3)
    assert "Permission denied" in found["bad"][0]["reason"]


@needs_reading_times
@pytest.mark.parametrize("flag", ["O_NOATIME", "none"])
def test_looking_does_not_change_the_order_of_removal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    if flag == "none":
        monkeypatch.delattr(os, "O_NOATIME", raising=False)
    for file in folder.rglob("output.pkl"):
        os.utime(file, (1_700_000_000, 1_700_000_000))
    for action in (["ls"], ["info"], ["verify"], ["show", "f"]):
        assert main(["cache", action[0], str(folder), *action[1:]]) == 0
    assert {entry.used for entry in FileStore(folder).entries()} == {1_700_000_000}


def test_nothing_from_a_cache_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, mark = tmp_path / "cache", tmp_path / "mark"
    store = FileStore(folder)
    keys = fill(store)
    shoal.dump(Mark(mark), value_file(folder, keys[0]))
    value_file(folder, keys[1]).write_bytes(pickle.dumps(Mark(mark)))
    value_file(folder, keys[2]).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    for action in (["ls"], ["info"], ["show", "f"], ["verify"], ["prune", "--items-limit=9"]):
        assert main(["cache", action[0], str(folder), *action[1:]]) == 0
    states = ask(capsys_cleared(capsys), "cache", "verify", str(folder))["states"]
    assert (states["sound"], states["without checksums"]) == (1, 2)
    assert not mark.exists()
    main(["cache", "show", str(folder), "f", "--unpickle"])
    assert mark.exists()
    assert store.contains(keys[0])


def capsys_cleared(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    capsys.readouterr()
    return capsys


def test_values_are_shown_if_the_user_asks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "array" in ask(capsys, "cache", "show", str(folder), "g", "--unpickle")[0]["value"]
    file = value_file(folder, Key("package/g", f"{0:032x}"))
    file.write_bytes(b"\x80\x05nonsense")
    assert main(["cache", "show", str(folder), "g", "--unpickle"]) == 1
    assert "cannot be rebuilt" in capsys.readouterr().err
    assert file.exists()


COMPRESSORS: list[Any] = [0, ("zlib", 1), ("gzip", 1), ("bz2", 1), ("lzma", 0), ("xz", 0), ("lz4", 1)]


@pytest.mark.parametrize("compress", COMPRESSORS, ids=str)
@pytest.mark.parametrize("size", [0, 10, 300_000], ids=["no array", "small", "large"])
def test_verify_finds_every_changed_byte(compress: Any, size: int) -> None:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(256, size=size, dtype=np.uint8)
    shoal.dump(["text" * 10, noise if size else None, {"a": 1}], file, compress=compress)
    data = file.getvalue()
    assert verify(io.BytesIO(data), "name") is True
    for place in {*range(20, len(data), len(data) // 25 + 1), len(data) - 3}:
        changed = bytearray(data)
        changed[place] ^= 0x10
        assert not sound(bytes(changed)), place
    for end in (len(data) // 2, len(data) - 1):
        assert not sound(data[:end]), end


def sound(data: bytes) -> bool:
    """Tell whether a file has checksums, and all are right."""
    try:
        return verify(io.BytesIO(data), "name")
    except CorruptFile:
        return False


def test_verify_of_files_without_checksums() -> None:
    assert verify(io.BytesIO(pickle.dumps([1])), "name") is False
    with pytest.raises(EmptyFile):
        verify(io.BytesIO(), "name")
    with pytest.raises(DamagedFile):
        verify(io.BytesIO(b"\x78\x9c" + b"nonsense" * 10), "name")


# ---- why, export and import; prune of a function.


def test_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = FileStore(tmp_path / "cache")
    for i, n in enumerate(("1", "20", "2")):
        store.save(Key("m/f", f"{i + 1:032x}x"), i, Meta(0.0, 1_700_000_000.0 + i, {"n": n, "x": "{'a': [1]}"}))
    details = '{"parts": {"n": "2"}, "function": {"tag": "t", "source": "s", "version": null, "depends": {}}}'
    store.save(Key("m/f", f"{4:032x}x"), 3, Meta(0.0, 1_700_000_009.0, {"n": "2", "x": "{'a': [5]}"}, details))
    assert main(["cache", "why", str(tmp_path / "cache"), "f"]) == 0
    shown = capsys.readouterr().out
    assert "m.f: 4 entries" in shown
    assert "the first one that is stored" in shown
    assert "  n: 1 -> 20" in shown
    found = ask(capsys, "cache", "why", str(tmp_path / "cache"), "f")
    assert [item["nearest"] and int(item["nearest"][:32], 16) for item in found] == [None, 1, 2, 3]
    assert found[3]["differences"] == [{"path": "x['a'][0]", "before": "1", "now": "5"}]
    assert ask(capsys, "cache", "why", str(tmp_path / "cache"), "f", f"{2:032x}") == found[1:2]
    assert main(["cache", "why", str(tmp_path / "cache"), "f", "ff"]) == 1
    assert "begins with ff" in capsys.readouterr().err
    assert main(["cache", "why", str(tmp_path / "cache"), "missing"]) == 1


def test_export_and_import(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tar = str(tmp_path / "warm.tar")
    assert ask(capsys, "cache", "export", str(folder), tar) == {"file": tar, "entries": 4}
    assert main(["cache", "export", str(folder), tar, "--function", "f"]) == 0
    assert "3 entries in" in capsys.readouterr().out
    assert ask(capsys, "cache", "import", str(tmp_path / "new"), tar) == {"added": 3, "known": 0, "damaged": 0}
    assert main(["cache", "import", str(tmp_path / "new"), tar]) == 0
    assert "added 0 entries; 3 known already" in capsys.readouterr().out
    assert len(list(shoal.Memory(str(tmp_path / "new"), verbose=0).entries())) == 3
    assert main(["cache", "export", str(folder), tar, "--function", "missing"]) == 1
    (tmp_path / "bad.tar").write_bytes(b"x")
    assert main(["cache", "import", str(folder), str(tmp_path / "bad.tar")]) == 1
    assert "is not a tar of results" in capsys.readouterr().err


def test_prune_of_old_results_of_a_function(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(capsys, "cache", "prune", str(folder), "--function", "g", "--older-than", "1d", "--dry-run")
    assert [item["function"] for item in found["removed"]] == ["package.g"]
    assert ask(capsys, "cache", "prune", str(folder), "--function", "g")["entries"] == 3
    assert main(["cache", "prune", str(folder), "--function", "g"]) == 1
    assert ask(capsys, "cache", "prune", str(folder), "--older-than", "1d")["entries"] == 0
