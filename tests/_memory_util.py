"""What the tests of memory/ share: functions that note their runs, and fixtures.

A test module makes the fixtures its own: ``memory = pytest.fixture(make_memory)``.
"""

from __future__ import annotations

import importlib
import linecache
import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal import Memory

RUNS: list[Any] = []


def make_memory(tmp_path: Path) -> Memory:
    RUNS.clear()
    return Memory(tmp_path / "cache", verbose=0)


def ran(value: Any, result: Any = None) -> Any:
    RUNS.append(value)
    return value if result is None else result


def double(x: Any) -> Any:
    return ran(x, 2 * x)


def threads(count: int, run: Callable[[int], Any]) -> list[Any]:
    results: list[Any] = [None] * count
    barrier = threading.Barrier(count)

    def one(i: int) -> None:
        barrier.wait()
        try:
            results[i] = run(i)
        except Exception as error:
            results[i] = error

    started = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return results


def make_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Give a function that writes a module and imports it, or reloads it if it was imported before."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def written(source: str, again: bool = True) -> Any:
        (folder / "shoal_changing.py").write_text(source)
        if not again:
            return None
        importlib.invalidate_caches()
        known = sys.modules.get("shoal_changing")
        return importlib.import_module("shoal_changing") if known is None else importlib.reload(known)

    yield written
    sys.modules.pop("shoal_changing", None)


def make_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Give a function that writes modules, by their dotted names, and imports one of them anew."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names = set()

    def forget() -> None:
        for name in names:
            sys.modules.pop(name, None)

    def imported(main: str, **modules: str) -> Any:
        for name, source in modules.items():
            path = folder / f"{name.replace('.', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(source))
        names.update(name.removesuffix(".__init__") for name in modules)
        forget()
        importlib.invalidate_caches()
        return importlib.import_module(main)

    yield imported
    forget()


def power(base: int, exponent: int, *, plus: int = 0) -> int:
    return ran(base**exponent + plus)


def times(n: Any) -> Callable[[int], Any]:
    def inner(x: int) -> Any:
        return ran(n * x)

    return inner


def cell(number: int, text: str) -> Any:
    """Run a cell of a notebook."""
    file = f"/tmp/ipykernel_{number}/1234567.py"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    namespace = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), namespace)
    return namespace["f"]


def slow_of_module(x: int, folder: str) -> int:
    with open(os.path.join(folder, "runs"), "a") as file:
        file.write(f"{x}\n")
    time.sleep(0.3)
    return x
