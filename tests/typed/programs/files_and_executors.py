"""Executors, files, hashes and reports."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shoal
from shoal import FileInfo, Parallel, Report, delayed, dump, executor, hash, inspect, load, report

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value, _kind):
        return value


def shown(number: int, *, width: int = 1) -> str:
    return str(number).rjust(width)


def executors() -> None:
    with executor(2, "threading", retries=1) as workers:
        future = workers.submit(shown, 3, width=2)
        assert_type(future, Future[str])
        assert_type(future.result(timeout=60), str)
        results = workers.map(shown, [1, 2], timeout=60)
        assert_type(results, Iterator[str])
        assert list(results) == ["1", "2"]
        workers.submit(shown, "three")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        workers.stop()


def files() -> None:
    path = Path(tempfile.mkdtemp()) / "value.pkl"
    assert_type(dump({"a": 1}, path, compress=("zlib", 3)), list[str] | None)
    assert_type(load(path, mmap_mode=None, trusted=["collections.*"]), Any)
    assert_type(inspect(path), FileInfo)
    assert_type(hash([1, 2]), str)
    assert os.path.exists(path)


def reports() -> None:
    with report() as found:
        Parallel(2, "threading")(delayed(shown)(number) for number in range(3))
    assert_type(found, Report)


def errors() -> None:
    try:
        Parallel(2, "threading")([delayed(shown)(1)])
    except shoal.WorkerDied as error:
        assert_type(error.call, shoal.FailedCall | str)
    except shoal.MissingExtra as error:
        assert_type(error.package, str)
        assert_type(error.extra, str)


if __name__ == "__main__":
    executors()
    files()
    reports()
    errors()
