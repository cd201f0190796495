"""Memory under joblib's name: together with joblib in one folder, and with other projects' stores."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from _capabilities import needs_links
from shoal.compat.joblib import _store_backends, memory
from shoal.compat.joblib._store_backends import CacheItemInfo, FileSystemStoreBackend, StoreBackendBase

SOURCE = str(Path(__file__).resolve().parents[2] / "src")

PROGRAM = """\
import sys
from joblib import Memory
def double(x, y=2, *further, z=3, **words):
    print("computing")
    return 2 * x
if __name__ == "__main__":
    cached = Memory(sys.argv[1], verbose=0).cache(double)
    assert [cached(1), cached(x=1, y=2), cached("a", 1, 2, z=4, w=5)] == [2, 2, "aa"]
    assert cached.call_and_shelve(1).get() == 2
"""


@pytest.fixture(autouse=True)
def _kinds_of_stores() -> Iterator[None]:
    before = dict(memory._STORE_BACKENDS)
    yield
    memory._STORE_BACKENDS.clear()
    memory._STORE_BACKENDS.update(before)


def run(program: Path, folder: Path, shoal: bool) -> str:
    paths = os.pathsep.join([SOURCE] if not shoal else [f"{SOURCE}/shoal/compat", SOURCE])
    done = subprocess.run(
        [sys.executable, program, folder],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("shoal_first", [True, False])
def test_joblib_and_shoal_find_each_others_results(tmp_path: Path, shoal_first: bool) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert run(program, tmp_path / "cache", shoal_first) == 2 * "computing\n"
    assert run(program, tmp_path / "cache", not shoal_first) == ""
    assert run(program, tmp_path / "cache", shoal_first) == ""


class InMemory(StoreBackendBase, _store_backends.StoreBackendMixin):
    """A store in a dictionary that implements joblib's contract and no more."""

    files: dict[str, bytes] = {}  # noqa: RUF012 shared by all instances, like a disk

    def _open_item(self, f: Any, mode: str) -> Any:
        if mode == "rb":
            return io.BytesIO(self.files[f])
        files = self.files

        class Written(io.BytesIO):
            def close(self) -> None:
                files[f] = self.getvalue()
                super().close()

        return Written()

    def _item_exists(self, location: Any) -> bool:
        return any(path == location or path.startswith(f"{location}{os.sep}") for path in self.files)

    def _move_item(self, src: Any, dst: Any) -> None:
        self.files[dst] = self.files.pop(src)

    def create_location(self, location: Any) -> None:
        pass

    def clear_location(self, location: Any) -> None:
        for path in [path for path in self.files if path.startswith(f"{location}{os.sep}")]:
            del self.files[path]

    def get_items(self) -> list[CacheItemInfo]:
        import datetime

        return [
            CacheItemInfo(os.path.dirname(path), len(data), datetime.datetime.now())
            for path, data in self.files.items()
            if path.endswith("output.pkl")
        ]

    def configure(self, location: Any, verbose: int = 0, backend_options: Any = None) -> None:
        self.location, self.verbose, self.options = location, verbose, backend_options


class Shouting(FileSystemStoreBackend):
    """A store with files in another format than joblib's."""

    def dump_item(self, call_id: Any, item: Any, verbose: int = 1) -> None:
        self.create_location(self._path(call_id))
        Path(self._path(call_id, "output.pkl")).write_text(item.upper())

    def load_item(self, call_id: Any, verbose: int = 1, timestamp: Any = None, metadata: Any = None) -> Any:
        return Path(self._path(call_id, "output.pkl")).read_text()


def test_a_memory_works_on_another_projects_store() -> None:
    InMemory.files.clear()
    memory.register_store_backend("in memory", InMemory)
    mem = memory.Memory("place", "in memory", verbose=0, backend_options={"further": 1})
    assert mem.store_backend.options == {"compress": False, "mmap_mode": None, "further": 1}
    calls = []

    def double(x: int) -> int:
        calls.append(x)
        return 2 * x

    cached = mem.cache(double)
    assert [cached(1), cached(1), cached(2)] == [2, 2, 4]
    assert calls == [1, 2]
    assert cached.check_call_in_cache(2)
    assert not cached.check_call_in_cache(3)
    shelved = pickle.loads(pickle.dumps(cached.call_and_shelve(2)))
    assert shelved.get() == 4
    assert shelved.metadata["input_args"] == {"x": "2"}
    assert {entry.func for entry in mem.entries()} == {cached.func_id}
    mem.reduce_size(items_limit=1)
    assert len(mem.store_backend.get_items()) == 1
    cached.clear()
    assert mem.store_backend.get_items() == []
    assert cached(1) == 2
    mem.clear()
    assert InMemory.files == {}
    assert cached(1) == 2
    assert calls == [1, 2, 1, 1]


def test_another_projects_store_is_pickled_with_the_memory() -> None:
    memory.register_store_backend("in memory", InMemory)
    pickled = pickle.dumps(memory.Memory("place", "in memory", verbose=0))
    del memory._STORE_BACKENDS["in memory"]
    store = pickle.loads(pickled).store_backend
    assert isinstance(store, InMemory)
    assert store.location == os.path.join("place", "joblib")


PICKLES = """\
import os, pickle, sys
from functions import double
from joblib import Memory
folder = sys.argv[1]
if not os.path.exists(folder):
    memory, nothing = Memory(folder, mmap_mode="r", verbose=0), Memory(None).cache(double)
    cached = memory.cache(double, ignore=["quiet"])
    pickled = memory, cached, cached.call_and_shelve(1), nothing, nothing.call_and_shelve(2)
    with open(os.path.join(folder, "pickled"), "wb") as file:
        pickle.dump(pickled, file)
else:
    with open(os.path.join(folder, "pickled"), "rb") as file:
        memory, cached, shelved, nothing, kept = pickle.load(file)
    assert [cached(1, quiet=True), cached(3), shelved.get(), nothing(4), kept.get()] == [2, 6, 2, 8, 4]
    again = memory.cache(double, ignore=["quiet"])
    assert [again(1), again(3), memory.mmap_mode] == [2, 6, "r"]
"""


def test_what_joblib_has_pickled_goes_on(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PICKLES)
    function = "def double(x, quiet=False):\n    print(x, end=' ')\n    return 2 * x\n"
    (tmp_path / "functions.py").write_text(function)
    assert run(program, tmp_path / "cache", shoal=False) == "1 2 "
    assert run(program, tmp_path / "cache", shoal=True) == "3 4 "


def test_a_pickled_memory_contains_what_joblib_knows(tmp_path: Path) -> None:
    """So joblib loads a pipeline that contains one, and digests of objects with a Memory are joblib's."""
    assert b"shoal.memory" not in pickle.dumps(memory.Memory(str(tmp_path), verbose=0))
    program = tmp_path / "program.py"
    program.write_text("import sys, joblib\nprint(joblib.hash(joblib.Memory(sys.argv[1], verbose=0)))\n")
    assert run(program, tmp_path / "cache", shoal=False) == run(program, tmp_path / "cache", shoal=True)


def test_methods_that_a_subclass_of_joblibs_store_overrides_are_called(tmp_path: Path) -> None:
    memory.register_store_backend("shouting", Shouting)
    mem = memory.Memory(tmp_path, "shouting", verbose=0)

    @mem.cache
    def greeting(name: str) -> str:
        return f"hello {name}"

    assert greeting("you") == "hello you"
    assert greeting("you") == "HELLO YOU"
    assert greeting.call_and_shelve("you").get() == "HELLO YOU"


def test_a_result_that_cannot_be_read_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mem = memory.Memory(tmp_path, verbose=0)
    cached = mem.cache(divmod)
    assert cached(7, 2) == (3, 1)
    (item,) = mem.store_backend.get_items()
    Path(item.path, "output.pkl").write_bytes(b"garbage")
    with pytest.raises(KeyError, match="is corrupted"):
        cached.call_and_shelve(7, 2).get()
    assert cached(7, 2) == (3, 1)
    (item,) = mem.store_backend.get_items()
    Path(item.path, "output.pkl").write_bytes(b"garbage")
    assert cached(7, 2) == (3, 1)
    assert "Exception while loading results" in caplog.text
    assert cached.check_call_in_cache(7, 2)


def test_the_folder_joblib_contains_only_results(tmp_path: Path) -> None:
    memory.Memory(str(tmp_path), verbose=0).cache(divmod)(7, 2)
    assert os.listdir(tmp_path / "joblib") == ["builtins"]
    assert sorted(os.listdir(tmp_path)) == [".gitignore", ".shoal", "joblib"]


DOCUMENTED = '''\
import functools, sys
from joblib import Memory

def plain(x, y=1): pass

def documented(x):
    """Say it.

    More.
    """

async def coroutine(): pass

class Called:
    """A class."""
    def __call__(self): pass
    def method(self): pass

class Bound:
    @Memory(sys.argv[1], verbose=0).cache
    def method(self, x): pass

memory = Memory(sys.argv[1], verbose=0)
for function in (
    plain, documented, coroutine, lambda x: x, Called(), Called, Called().method, len, functools.lru_cache(plain)
):
    print(repr(memory.cache(function).__doc__))
print(repr(Bound.method.__doc__), repr(Bound().method.__doc__))
'''


def test_docstrings_are_joblibs(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(DOCUMENTED)
    assert run(program, tmp_path / "cache", True) == run(program, tmp_path / "cache", False)


class OwnFiles(FileSystemStoreBackend):
    """A subclass, for which Memory calls the methods of joblib's contract."""


def twice(x: int) -> int:
    return 2 * x


@needs_links
@pytest.mark.filterwarnings("ignore::shoal.CacheWarning")
@pytest.mark.parametrize("backend", ["local", "own"])
@pytest.mark.parametrize("name", ["test_joblib_memory", "test_joblib_memory/twice", ".shoal", "../.shoal"])
def test_links_in_place_of_folders(tmp_path: Path, backend: str, name: str) -> None:
    memory.register_store_backend("own", OwnFiles)
    photos = tmp_path / "photos"
    (photos / "twice").mkdir(parents=True)
    for path in (photos / "beach", photos / "1-2-3", photos / "twice" / "sea"):
        path.write_text("")
    link = Path(os.path.normpath(tmp_path / "cache" / "joblib" / name))
    link.parent.mkdir(parents=True)
    link.symlink_to(photos)
    before = sorted(photos.rglob("*"))
    kept = memory.Memory(str(tmp_path / "cache"), backend=backend, verbose=0)
    cached = kept.cache(twice)
    assert [cached(1), cached(1)] == [2, 2]
    for clear in (cached.clear, kept.clear):
        with contextlib.suppress(NotADirectoryError):
            clear(warn=False)
    assert sorted(photos.rglob("*")) == before
    assert kept.cache(twice)(1) == 2
