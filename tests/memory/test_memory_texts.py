"""Arguments as texts of bounded length. The lines of verbose are tested in test_memory_joblib.py."""

from __future__ import annotations

import ntpath
import os
import posixpath
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from _memory_util import RUNS, double, make_memory
from shoal import (
    Memory,
)
from shoal.memory._texts import TEXT_LENGTH, argument_texts, loading, place

memory = pytest.fixture(make_memory)


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    RUNS.clear()


@given(st.recursive(st.integers() | st.text() | st.binary() | st.none(), st.lists))
def test_the_length_of_texts_is_bounded(value: Any) -> None:
    text = argument_texts({"x": value})["x"]
    assert len(text) <= TEXT_LENGTH
    if len(repr(value)) < 100 and not isinstance(value, list):
        assert text == repr(value)


def test_texts_of_large_values_take_little_time() -> None:
    class Slow:
        def __repr__(self) -> str:
            time.sleep(0.2)
            return "slow"

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    large: dict[str, Any] = {
        "array": np.zeros((1000, 1000)),
        "list": list(range(10**6)),
        "text": "x" * 10**7,
        "number": 10**100_000,
        "broken": Broken(),
    }
    started = time.perf_counter()
    texts = argument_texts(large)
    assert all(len(text) <= TEXT_LENGTH for text in texts.values())
    assert texts["array"] == "<ndarray of float64, shape (1000, 1000)>"
    assert "raises RuntimeError" in argument_texts({"broken": Broken()})["broken"]
    assert argument_texts({"slow": Slow(), "later": {1}}) == {"slow": "slow", "later": "<set>"}
    assert argument_texts({"slow": Slow()})["slow"].endswith("Slow>")
    assert time.perf_counter() - started < 30


def test_keep_arguments_false_saves_no_texts(tmp_path: Path) -> None:
    memory = Memory(tmp_path, verbose=0, keep_arguments=False)
    assert memory.cache(double).call_and_shelve("secret").arguments == {}
    assert not [path for path in tmp_path.rglob("metadata.json") if "secret" in path.read_text()]


@pytest.mark.parametrize("system", [posixpath, ntpath])
def test_paths_have_the_separators_of_the_system(monkeypatch: pytest.MonkeyPatch, system: Any) -> None:
    monkeypatch.setattr(os, "path", system)
    monkeypatch.setattr(os, "sep", system.sep)
    store: Any = SimpleNamespace(location="folder")
    assert place(store, "module/f", "0") == system.sep.join(("folder", "module", "f", "0"))
    store.location = "memory://cache"
    assert place(store, "module/f") == "memory://cache/module/f"
    assert loading(system.join("module", "f"), "", None, None, 1) == "[Memory]: Loading f..."
