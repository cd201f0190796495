"""What the tests of stores share: a store, and processes that use it.

A test module makes the fixtures its own: ``store = pytest.fixture(make_store)``.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shoal.memory.storage._filestore import FileStore
from shoal.memory.store import Key, Meta

PATIENCE = 60
KEY = Key("module/function", "0" * 31 + "a")


def meta() -> Meta:
    return Meta(0.5, time.time(), {"x": "1"})


def make_store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "cache" / "joblib")


Start = Callable[..., "subprocess.Popen[str]"]


def make_start(tmp_path: Path) -> Iterator[Start]:
    """Give a function that starts a Python with `store`, `key` and `say`. It is killed after the test."""
    running: list[subprocess.Popen[str]] = []
    prologue = f"""
    import os, sys, time
    from shoal.memory.storage._filestore import FileStore
    from shoal.memory.store import Key, Limits, Meta
    store = FileStore({str(tmp_path / "cache" / "joblib")!r})
    def key(number):
        return Key("module/function", f"{{number:032x}}")
    def say(*words):
        print(*words, flush=True)
    """

    def run(source: str, *arguments: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", textwrap.dedent(prologue) + textwrap.dedent(source)]
        process = subprocess.Popen(
            [*command, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdin is not None
    process.stdin.write(words + "\n")
    process.stdin.flush()
