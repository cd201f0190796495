"""Every store fulfils the contract; stores are registered and created by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from _python import GIL
from shoal import CacheWarning
from shoal.memory import store as stores
from shoal.memory.storage._filestore import FileStore
from shoal.memory.store import Limits, Store, create, register_store_backend
from shoal.testing import StoreTests


class TestFileStore(StoreTests):
    def make_store(self, location: Path, limits: Limits | None = None) -> Store:
        return FileStore(location, limits=limits)


class TestCompressed(StoreTests):
    def make_store(self, location: Path, limits: Limits | None = None) -> Store:
        return FileStore(location, compress=("zlib", 1), limits=limits)


class TestFsspecMemory(StoreTests):
    def make_store(self, location: Path, limits: Limits | None = None) -> Store:
        return create_fsspec(f"memory://{location}", limits)

    @pytest.mark.skipif(
        not GIL,
        reason="fsspec lists its dictionary while other threads change it, which takes a GIL (2026.9)",
    )
    def test_threads_that_read_write_and_remove(self, store: Store) -> None:
        super().test_threads_that_read_write_and_remove(store)


class TestFsspecLocal(StoreTests):
    def make_store(self, location: Path, limits: Limits | None = None) -> Store:
        return create_fsspec(f"file://{location}", limits)


def create_fsspec(location: str, limits: Limits | None) -> Store:
    store = create("fsspec", location, limits=limits)
    assert store is not None
    return store


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_stores", dict(stores._stores))


def test_a_registered_store_is_created_by_its_name(tmp_path: Path) -> None:
    made: list[Any] = []

    def factory(location: str, **options: Any) -> Store:
        made.append((location, options))
        return FileStore(location)

    register_store_backend("mine", factory)
    store = create("mine", tmp_path, compress=False, limits=None, colour="red", verbose=3)
    assert isinstance(store, FileStore)
    assert made == [(str(tmp_path), {"colour": "red", "verbose": 3})]
    assert create("local", store) is store
    assert create("local", None) is None
    local = create("local", str(tmp_path), compress=3, mmap_mode=None, limits=Limits(items=1))
    assert isinstance(local, FileStore)


def test_wrong_names_and_locations(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="backend nowhere"):
        create("nowhere", tmp_path)
    with pytest.warns(CacheWarning, match="int"):
        assert create("local", 3) is None
    with pytest.raises(ValueError, match="name should be a string"):
        register_store_backend(3, FileStore)  # type: ignore[arg-type]
    for wrong in (None, "text"):
        with pytest.raises(ValueError, match="Store backend should"):
            register_store_backend("wrong", wrong)  # type: ignore[arg-type]
