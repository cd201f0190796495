"""Each public error: a program that provokes it, and its message, which says what happened, why, and what to do.

The errors of a hostile system are made by hand here; test_tracebacks.py provokes them.
"""

from __future__ import annotations

import os
import re
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal import Memory, Parallel, delayed, dump, errors, load

FAILURES = (Path(__file__).parents[1] / "docs" / "failures.md").read_text(encoding="utf-8")


class CannotBeRebuilt:
    def __reduce__(self) -> Any:
        return broken, ()


def broken() -> None:
    raise OSError("no such device")


def identity(value: object) -> object:
    return value


def stop(_number: int) -> None:
    raise StopIteration(3)


def leave(code: int) -> None:
    os._exit(code)


def lock(_number: int) -> Any:
    return threading.Lock()


def in_processes(function: Callable[..., Any], value: object, **settings: Any) -> Any:
    return Parallel(2, "loky", batch_size=1, **settings)(delayed(function)(value) for _ in range(2))


def on_threads(function: Callable[..., Any], value: object, **settings: Any) -> Any:
    return list(Parallel(2, "threading", **settings)(delayed(function)(value) for _ in range(2)))


def written(folder: Path, data: bytes) -> Path:
    path = folder / "value.pkl"
    path.write_bytes(data)
    return path


def dumped(folder: Path, value: object) -> Path:
    path = folder / "value.pkl"
    dump(value, path)
    return path


def damaged(folder: Path) -> Any:
    path = dumped(folder, [1] * 1000)
    data = bytearray(path.read_bytes())
    data[20] ^= 255
    return load(written(folder, bytes(data)))


def truncated(folder: Path) -> Any:
    return load(written(folder, dumped(folder, list(range(5000))).read_bytes()[:500]))


def cached(folder: Path, function: Callable[..., Any], *args: Any) -> Any:
    return Memory(folder, verbose=0).cache(function)(*args)


def from_an_ended_run(_folder: Path) -> None:
    raise errors.RunEnded


def without_rich(_folder: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        return Parallel(progress="rich")


def dropped(_folder: Path) -> None:
    results = Parallel(2, "threading", "generator")(delayed(identity)(number) for number in range(2))
    next(results)
    time.sleep(0.1)
    results.close()


def raising(error: BaseException) -> Callable[[Path], Any]:
    def program(_folder: Path) -> None:
        raise error

    return program


Program = Callable[[Path], Any]
#: By the class: a program, what happened and why, and what to do.
TABLE: dict[str, tuple[Program, str, str]] = {
    "ArgumentError": (
        lambda folder: cached(folder, identity, 1, 2),
        r"Too many arguments for identity\(value\b",
        r"identity\(1, 2, \) was called",
    ),
    "CacheWarning": (
        lambda folder: cached(folder, lock, 1),
        "failed to pickle the result of .*lock: result cannot be pickled",
        "Return something else, or do not cache the function",
    ),
    "CallPicklingError": (
        lambda folder: in_processes(identity, threading.Lock()),
        r"call [01], .*identity\(.*\),? cannot be sent between processes: args\[0\] cannot be pickled",
        "Leave it out, build it inside the call, or use backend='threading'",
    ),
    "CallStopped": (
        lambda folder: on_threads(stop, 1, return_as="generator"),
        r"call [01], .*stop\(1\) raised StopIteration\(3\), which neither a generator nor a coroutine can raise",
        "Catch it in the",
    ),
    "CallUnpicklingError": (
        lambda folder: in_processes(identity, CannotBeRebuilt()),
        "cannot be unpickled in a worker: OSError: no such device",
        r"The code that rebuilds its objects .* must work there",
    ),
    "DamagedFile": (damaged, r"value.pkl is damaged at offset \d+: expected .*, found", "write it again, or download"),
    "TruncatedFile": (truncated, r"value.pkl is damaged at offset \d+: .* but only .* left", "write it again, or"),
    "EmptyFile": (
        lambda folder: load(written(folder, b"")),
        "value.pkl is empty: it contains no object",
        "Write it again",
    ),
    "ForeignFile": (
        lambda folder: load(written(folder, b"a,b\n1,2\n")),
        "was not written by shoal.dump or joblib: it looks like a CSV table",
        r"pandas.read_csv\(\) reads it",
    ),
    "DumpPicklingError": (
        lambda folder: dump({"lock": threading.Lock()}, folder / "value.pkl"),
        r"the object cannot be dumped: value\['lock'\] cannot be pickled",
        "Leave it out, or define __getstate__ or __reduce__",
    ),
    "FallbackWarning": (
        lambda folder: on_threads(identity, 1, max_worker_memory="1G"),
        "max_worker_memory='1G' is ignored: the workers of ThreadingBackend",
        "are not processes that shoal can replace",
    ),
    "FileInUse": (
        raising(errors.FileInUse("model.pkl", "Access is denied")),
        r"model.pkl cannot be replaced or removed, because a program has it open or mapped \(Access is denied\)",
        "Close the file, and delete the arrays that were loaded from it",
    ),
    "FileLimitError": (
        lambda folder: load(dumped(folder, "x" * 10_000), trusted=[], max_bytes=100),
        "value.pkl would take more than 100 bytes when it is loaded",
        "pass a larger number as max_bytes=",
    ),
    "HashingError": (
        lambda folder: shoal.hash({"lock": threading.Lock()}),
        "cannot be hashed: .*cannot pickle",
        r"Leave it out \(ignore= of Memory.cache\), or register a function",
    ),
    "MissingExtra": (without_rich, "progress='rich' needs .*rich", r"pip install 'shoal\[rich\]'"),
    "MissingMainGuard": (
        raising(errors.MissingMainGuard("program.py")),
        "import program.py, which would start worker",
        "if __name__ == .__main__.:",
    ),
    "NoSpaceError": (
        raising(errors.NoSpaceError(4096, ("/dev/shm", "/tmp"), "No space left on device")),
        "no room for 4096 bytes that workers share, neither in /dev/shm nor in /tmp",
        "Free some space, or set temp_folder=",
    ),
    "RunEnded": (from_an_ended_run, "nobody takes its messages any more", "End the thread that sends them"),
    "RunTimeout": (
        lambda folder: on_threads(time.sleep, 0.5, timeout=0.05),
        r"was not ready within timeout=0\.05 seconds; the run was ended",
        "Give results more time, or pass task_timeout=",
    ),
    "TaskTimeout": (
        lambda folder: on_threads(time.sleep, 1, task_timeout=0.05),
        r"call [01], time\.sleep\(1\) ran for longer than task_timeout=0\.05 seconds",
        "Give calls more time, or pass on_error='return'",
    ),
    "UntrustedFile": (
        lambda folder: load(dumped(folder, threading.Thread), trusted=[]),
        "would import, or call with arguments, names that are not trusted: .'threading.Thread'",
        "add them to trusted=",
    ),
    "UnusedResultsWarning": (
        dropped,
        "tasks have been successfully executed but not used",
        "Give the generator fewer tasks, or take all of its results",
    ),
    "WorkerDied": (
        lambda folder: in_processes(leave, 3),
        r"a worker process exited with code 3; it ran call [01], .*leave\(3\)",
        "",
    ),
    "WorkerStartError": (
        raising(errors.WorkerStartError("OSError: Too many open files", "Raise the limit (ulimit -n).")),
        r"no worker can be started \(OSError: Too many open files\)",
        "Raise the limit",
    ),
}
#: Their messages are made at several places, which other tests provoke; or they are base classes, or causes.
ELSEWHERE = {
    "CollisionWarning": "test_memory_changes.py",
    "CorruptFile": "is the base class of three",
    "FailedCall": "is no error",
    "RemoteTraceback": "is the cause of an exception: test_tracebacks.py",
    "VersionWarning": "test_persistence_libraries.py",
}


def test_the_table_is_complete() -> None:
    assert sorted({**TABLE, **ELSEWHERE}) == sorted(errors.__all__)


@pytest.mark.parametrize("name", TABLE)
def test_the_message_says_what_happened_and_what_to_do(name: str, tmp_path: Path) -> None:
    program, happened, advice = TABLE[name]
    kind = getattr(errors, name)
    if issubclass(kind, Warning):
        with pytest.warns(kind) as caught:
            program(tmp_path)
        message = str(caught[0].message)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", errors.FallbackWarning)
            with pytest.raises(kind) as raised:
                program(tmp_path)
        message = str(raised.value)
    assert re.search(happened, message), message
    assert re.search(advice, message), message


@pytest.mark.parametrize("name", sorted({*errors.__all__} - {"FailedCall"}))
def test_the_page_of_failures_explains_it(name: str) -> None:
    assert re.search(rf"\b{name}\b", FAILURES), f"docs/failures.md does not mention {name}"
