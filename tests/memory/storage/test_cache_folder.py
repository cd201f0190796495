"""A cache writes and removes nothing outside of its folder, and several users can share one."""

from __future__ import annotations

import contextlib
import os
import pickle
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from _capabilities import needs_angles, needs_fork, needs_links, needs_modes, needs_root
from shoal import CacheWarning, MemorizedResult, Memory
from shoal.memory.storage._paths import is_key, quoted
from shoal.memory.store import Key, create


def double(x: int) -> int:
    return 2 * x


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder of the user's whose files and folders have the names that a cache uses."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("0123-4", "abc", "abc-1", "1-2-3-4", "index.sqlite", "double"):
        (folder / name).write_text(name)
    (folder / f"{0:032x}").mkdir()
    (folder / f"{0:032x}" / "output.pkl").write_bytes(pickle.dumps(0))
    (folder / "album").mkdir()
    (folder / "album" / "beach").write_text("beach")
    os.utime(folder / "0123-4", (1, 1))
    return folder


def seen(folder: Path) -> dict[str, Any]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def use(location: Path, **options: Any) -> Any:
    """Call everything in a cache that writes or removes."""
    memory = Memory(location, verbose=0, **options)
    cached = memory.cache(double)
    assert [cached(1), cached(1), cached(2)] == [2, 2, 4]
    for act in (
        lambda: memory.reduce_size(items_limit=0),
        cached.clear,
        lambda: cached(3),
        lambda: memory.clear(warn=False),
    ):
        with contextlib.suppress(NotADirectoryError):
            act()
    return cached


OPTIONS: list[dict[str, Any]] = [{}, {"items_limit": 1}, {"hash_name": "md5"}]


@needs_links
@pytest.mark.filterwarnings("ignore::shoal.CacheWarning")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    "name",
    [
        ".shoal",
        *(f".shoal/{name}" for name in ("aside", "waiting", "locks", "index.sqlite", "index.sqlite-wal")),
        "test_cache_folder",
        "test_cache_folder/double",
    ],
)
def test_links_inside_the_cache_are_not_followed(tmp_path: Path, elsewhere: Path, name: str, options: Any) -> None:
    link = tmp_path / "cache" / name
    link.parent.mkdir(parents=True)
    file = name.rpartition("/")[2] not in (".shoal", "aside", "waiting", "test_cache_folder", "double")
    link.symlink_to(elsewhere / "abc" if file else elsewhere)
    before = seen(elsewhere)
    use(tmp_path / "cache", **options)
    assert seen(elsewhere) == before


@needs_links
def test_a_warning_names_the_link(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "test_cache_folder").symlink_to(elsewhere)
    with pytest.warns(
        CacheWarning,
        match=r"it is a link, but a cache expects .* remove it: '.*/test_cache_folder'",
    ):
        assert Memory(tmp_path / "cache", verbose=0).cache(double)(1) == 2


@needs_links
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_location_may_be_a_link(tmp_path: Path, options: Any) -> None:
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "disk" / "link").symlink_to("real")
    (tmp_path / "home").symlink_to("disk")
    location = tmp_path / "home" / "link"
    memory = Memory(location, verbose=0, **options)
    cached = memory.cache(double)
    assert cached(1) == 2
    assert cached.check_call_in_cache(1)
    assert Memory(tmp_path / "disk" / "real", verbose=0, **options).cache(double).check_call_in_cache(1)
    use(location, **options)
    assert not cached.check_call_in_cache(1)


def test_foreign_files_in_the_staging_folder_are_not_deleted(tmp_path: Path) -> None:
    aside = tmp_path / "cache" / ".shoal" / "aside"
    aside.mkdir(parents=True)
    for name in ("0123", "0123-4", "0123-4-", "abc", "1-2-3-4", "1-2-3.jpg", "0x1-2-3", " 1-2-3"):
        (aside / name).write_text("")
    (aside / "1-2-3").write_text("left by one that was killed")
    use(tmp_path / "cache")
    assert sorted(os.listdir(aside)) == sorted(
        ["0123", "0123-4", "0123-4-", "abc", "1-2-3-4", "1-2-3.jpg", "0x1-2-3", " 1-2-3"]
    )


def test_rows_of_an_index_that_lead_elsewhere_remove_nothing(tmp_path: Path, elsewhere: Path) -> None:
    location = tmp_path / "cache"
    use(location, items_limit=2)
    rows = sqlite3.connect(location / ".shoal" / "index.sqlite")
    key = f"{0:032x}"
    leading = [
        ("..", "photos"),
        ("../photos", key),
        (str(elsewhere), key),
        ("../photos", "album"),
        ("", ".."),
        ("", ""),
    ]
    for function, call in [*leading, (".shoal", "aside"), ("a", "../../photos"), ("a\0", key), ("a", "."), (b"a", key)]:
        rows.execute("INSERT INTO entries VALUES (?, ?, 1, 0)", (function, call))
    rows.commit()
    rows.close()
    before = seen(elsewhere)
    use(location, items_limit=2)
    assert seen(elsewhere) == before
    assert (location / ".shoal" / "aside").is_dir()


def test_references_that_lead_elsewhere_remove_nothing(tmp_path: Path, elsewhere: Path) -> None:
    before = seen(elsewhere)
    for backend, location in (("local", tmp_path / "cache"), ("fsspec", str(tmp_path / "cache"))):
        if backend == "fsspec":
            pytest.importorskip("fsspec")
        for function, call in (("..", "photos"), ("../photos", f"{0:032x}"), (str(elsewhere), "album")):
            MemorizedResult(location, (function, call), backend).clear()
    assert seen(elsewhere) == before


def renamed(**names: Any) -> Callable[[int], int]:
    def function(x: int) -> int:
        return 2 * x

    for name, value in names.items():
        setattr(function, f"__{name}__", value)
    return function


NAMES: list[dict[str, Any]] = [
    *({"name": name} for name in ("../../x", "/x", "..", ".", "", "a/b", "a\0b", "\ud800", "\udcff", ".shoal", "~")),
    *({"name": name} for name in ("output.pkl", "metadata.json", "func_code.py")),
    *({"qualname": name} for name in ("../../x.f", "a/../../../b.f", "a\0.f", "\udfff.f")),
    *({"module": name} for name in ("../../x", "/x", "a/../../b", "a\0b", "\ud800", ".shoal.aside", None, "")),
    {"name": ".shoal", "qualname": ".shoal", "module": None},
    {"name": "..", "qualname": "..", "module": ""},
]


@pytest.mark.parametrize("options", [*OPTIONS, {"backend": "fsspec"}], ids=str)
@pytest.mark.parametrize("names", NAMES, ids=ascii)
def test_names_that_would_lead_elsewhere_are_quoted(tmp_path: Path, names: dict[str, Any], options: Any) -> None:
    location: Any = tmp_path / "a" / "b" / "cache"
    if "backend" in options:
        pytest.importorskip("fsspec")
    memory = Memory(location, verbose=0, **options)
    cached = memory.cache(renamed(**names))
    assert [cached(1), cached(1)] == [2, 2]
    assert (memory.info().hits, memory.info().entries) == (1, 1)
    assert [str(path) for path in tmp_path.rglob("*") if path.is_file() and location not in path.parents] == []
    cached.clear(warn=False)
    assert not cached.check_call_in_cache(1)
    assert cached(1) == 2
    memory.clear(warn=False)
    assert list(memory.entries()) == []


@needs_angles
def test_ordinary_names_are_not_quoted() -> None:
    for part in ("module", "f", "<lambda>", "<locals>", "__main__--home-user-x", "ä", "a b", "a%2Fb", "a.b"):
        assert quoted(part) == part
    assert all(is_key(Key(*parts)) for parts in (("module/f", "0" * 32), ("f", "0" * 32 + "x")))
    assert not any(is_key(Key("f", "0" * length)) for length in (0, 31, 33))


@needs_links
def test_an_fsspec_store_follows_no_links(tmp_path: Path, elsewhere: Path) -> None:
    pytest.importorskip("fsspec")
    store = create("fsspec", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "module").symlink_to(elsewhere)
    (tmp_path / "cache" / "link").symlink_to(elsewhere)
    before = seen(elsewhere)
    assert store is not None
    store.clear("module/album")
    store.clear("link")
    store.discard(Key("module", f"{0:032x}"))
    with pytest.raises(NotADirectoryError):
        store.keep_source("module", "")
    store.clear()
    assert seen(elsewhere) == before


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that all users can reach; those of pytest are private."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@needs_fork
@needs_root
@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o2775), (0o022, 0o2775), (0o002, 0o775), (0o022, 0o777)], ids=oct)
@pytest.mark.parametrize(("kind", "place"), [("Path", "."), ("str", "joblib"), ("Path", "by/name")])
def test_users_share_a_cache_with_a_limit(
    open_folder: Path, fresh_python: Any, umask: int, mode: int, kind: str, place: str
) -> None:
    folder = open_folder / "cache"
    folder.mkdir()
    os.chown(folder, 0, 54321)
    os.chmod(folder, mode)
    source = f"""
        import os, sys, tempfile
        from pathlib import Path
        from shoal import Memory

        def double(x):
            return 2 * x

        def run(folder, limit, numbers):
            memory = Memory({kind}(folder), verbose=0, items_limit=limit)
            cached = memory.cache(double)
            assert [cached(number) for number in numbers] == [2 * number for number in numbers]
            memory.info()
            return cached.check_call_in_cache(numbers[-1]), len(list(memory.entries()))

        run(tempfile.mkdtemp(), 1, range(3))  # so that all is imported: others may not read what root may
        runs = (1001, 9, [0, 1]), (1002, 9, [2, 3]), (1002, 3, [4]), (1001, 2, [5]), (1002, 2, [6])
        for user, limit, numbers in runs:
            sys.stdout.flush()
            child = os.fork()
            if child:
                assert os.waitpid(child, 0)[1] == 0
                continue
            os.umask({umask})
            os.setgroups([54321])
            os.setgid(user)
            os.setuid(user)
            print(*run({str(folder / place if kind == "Path" else folder)!r}, limit, numbers), flush=True)
            os._exit(0)
        """
    assert fresh_python(source).splitlines() == ["True 2", "True 4", "True 3", "True 2", "True 2"]
    for name in ("index.sqlite", "locks"):
        status = (folder / place / ".shoal" / name).stat()
        assert status.st_gid == 54321
        assert status.st_mode & 0o060 == 0o060


@needs_modes
def test_a_cache_in_a_folder_such_as_tmp_is_not_shared(tmp_path: Path) -> None:
    """Everybody may write there, but nobody may replace the files of others."""
    os.chmod(tmp_path, 0o1777)
    use(tmp_path / "cache", items_limit=3)
    assert all(path.lstat().st_mode & 0o022 == 0 for path in tmp_path.rglob("*"))


@needs_modes
def test_a_cache_in_a_private_folder_is_not_shared(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o755)
    use(folder, items_limit=3)
    assert folder.stat().st_mode & 0o022 == 0
    assert all(path.lstat().st_mode & 0o022 == 0 for path in folder.rglob("*"))
