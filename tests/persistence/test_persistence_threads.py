"""dump and load in four threads at a time: what threads share must not show in any of them."""

from __future__ import annotations

import io
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _persistence_zoo import COMPRESSORS, filled, portrait, zoo
from shoal import CorruptFile, dump, load

pytestmark = pytest.mark.force_parallel_threads(4)

SHARED = {
    "small": filled("f8", (30,)),
    "large": filled("f8", (90, 90)),
    "list": list(range(5000)),
    "text": "é" * 70_000,
}
STORED = portrait(SHARED, stored=True)


@pytest.mark.parametrize("compress", [0, *COMPRESSORS])
def test_files_of_each_thread(tmp_path: Path, compress: Any) -> None:
    tag = threading.get_ident()
    path = tmp_path / f"{tag}.pkl"
    for count in range(5):
        value = {"tag": tag, "count": count, "array": np.full(9000, tag), "shared": SHARED}
        dump(value, path, compress=compress)
        again = load(path, verify=True)
        assert (again["tag"], again["count"]) == (tag, count)
        assert (again["array"] == tag).all()
        assert portrait(again["shared"]) == STORED


@pytest.mark.parametrize("compress", [0, "zlib", "lz4"])
def test_one_file_of_all_threads(tmp_path_factory: pytest.TempPathFactory, compress: Any) -> None:
    """Each reader finds one whole file, whoever wrote it last."""
    path = tmp_path_factory.getbasetemp() / f"shared-{compress}.pkl"
    tag = threading.get_ident()
    for count in range(20):
        dump([tag, np.full(9000, tag), count, tag], path, compress=compress)
        first, array, _, last = load(path, verify=True)
        assert first == last
        assert (array == first).all()
        if compress == 0 and os.name == "posix":
            first, array, _, last = load(path, mmap_mode="r")
            assert (array == first).all()


def test_zoo() -> None:
    for name, value in zoo().items():
        file = io.BytesIO()
        dump(value, file)
        file.seek(0)
        again = load(file, ensure_native_byte_order=False)
        if name != "many floats":  # whose portrait takes long
            assert portrait(again) == portrait(value, stored=True)


def test_failures(tmp_path: Path) -> None:
    path = tmp_path / f"{threading.get_ident()}.pkl"
    for _ in range(10):
        dump(SHARED, path)
        with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
            dump([SHARED, lambda: 1], path)
        assert portrait(load(path)) == STORED
        data = path.read_bytes()
        with pytest.raises(CorruptFile):
            load(io.BytesIO(data[: len(data) // 2]))
