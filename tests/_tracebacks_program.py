"""A user's program that meets every error and warning of shoal, for test_tracebacks, which reads what is shown.

Run as a script: ``python _tracebacks_program.py FOLDER BACKEND``. Before each error it prints a line that names it.
"""

import asyncio
import errno
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy

import shoal
from shoal import Memory, Parallel, _files, delayed, dump, executor, load
from shoal.backends._guard import UNGUARDED

FOLDER, BACKEND = (Path(sys.argv[1]), sys.argv[2]) if len(sys.argv) == 3 else (Path(), "")
WAY = "list"

PROCESSES = ("loky", "multiprocessing")
SEVERAL = (*PROCESSES, "threading")
ALL_WAYS = ("list", "generator", "acall", "executor")


class Case(NamedTuple):
    name: str  # of what is raised or warned of
    provoke: Callable[[], object]
    backend: str
    way: str


CASES: list[Case] = []


def case(
    name: str, on: tuple[str, ...] = (*SEVERAL, "sequential"), by: tuple[str, ...] = ("list",)
) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Enter a case for what it raises or warns of; it runs on the backends `on`, and each of the ways `by`."""

    def enter(provoke: Callable[[], object]) -> Callable[[], object]:
        for backend in on:
            for way in by:
                if (backend, way) != ("multiprocessing", "generator"):  # which that backend does not support
                    CASES.append(Case(name, provoke, backend, way))
        return provoke

    return enter


def run(calls: Any, **options: Any) -> Any:
    """Run calls in the way that is looked at."""
    options = {"n_jobs": 1 if BACKEND == "sequential" else 2, "backend": BACKEND, **options}
    if WAY == "executor":
        workers = options.pop("n_jobs")
        with executor(workers, **options) as pool:
            return [future.result() for future in [pool.submit(f, *args, **kwargs) for f, args, kwargs in calls]]
    if WAY == "acall":
        return asyncio.run(Parallel(**options).acall(calls))
    if WAY == "list":
        return Parallel(**options)(calls)
    return list(Parallel(return_as=WAY, **options)(calls))


# ---- what calls do


def identity(value: Any) -> Any:
    return value


def divide(number: float) -> float:
    return 1 / number


def dump_a_lock(path: Path) -> None:
    dump({"lock": threading.Lock()}, path)


def dump_over_a_mapped_file(name: str) -> None:
    """Dump over a file that Windows neither replaces nor opens for writing."""

    def refuse(*_: Any) -> None:
        error = PermissionError(errno.EACCES, "Access is denied")
        error.winerror = 5  # type: ignore[attr-defined,unused-ignore]
        raise error

    def open_new(path: Any, mode: str, *rest: Any, **options: Any) -> Any:
        return open(path, mode, *rest, **options) if mode == "wb" else refuse()

    path = write(name, dumped(1))
    with patch.object(_files, "replace", refuse), patch.object(_files, "open", open_new, create=True):
        dump("new", path)


def stop(number: int) -> None:
    raise StopIteration(number)


def leave(code: int) -> None:
    os._exit(code)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def grow() -> None:
    _held = bytearray(120 * 2**20)
    _held[::4096] = b"x" * len(_held[::4096])
    time.sleep(60)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def a_lock(_: int) -> Any:
    return {"lock": threading.Lock()}


class OwnError(Exception):
    def __init__(self, code: int, *, lock: Any) -> None:
        super().__init__(f"code {code}")
        self.code, self.lock = code, lock


def raise_with_lock() -> None:
    raise OwnError(3, lock=threading.Lock())


class CannotBeRebuilt:
    def __reduce__(self) -> Any:
        return fail_to_rebuild, ()


def fail_to_rebuild() -> None:
    raise ValueError("no such model")


class CannotBeRebuiltHere(Exception):
    """Its pickle can be read in worker processes only."""

    def __reduce__(self) -> Any:
        return fail_in_process, (os.getpid(),)


def fail_in_process(pid: int) -> Any:
    if os.getpid() != pid:
        raise ValueError("no such model")
    return CannotBeRebuiltHere()


def returned_result() -> Any:
    return CannotBeRebuilt()


def raise_what_only_workers_rebuild() -> None:
    raise CannotBeRebuiltHere


# ---- the cases


@case("ZeroDivisionError", by=ALL_WAYS)
def a_call_raises() -> None:
    run(delayed(divide)(number) for number in (2, 0))


def failing_input() -> Iterator[Any]:
    yield delayed(divide)(1)
    raise LookupError("no more input")


@case("LookupError", by=("list", "generator", "acall"))
def input_raises() -> None:
    run(failing_input())


@case("ZeroDivisionError", by=("list",))
def a_call_raises_again() -> None:
    run((delayed(divide)(number) for number in (2, 0)), retries=1)


@case("WorkerDied", on=PROCESSES, by=ALL_WAYS)
def worker_exits() -> None:
    run(delayed(leave)(code) for code in (3,))


@case("WorkerDied", on=PROCESSES)
def worker_crashes() -> None:
    run(delayed(crash)() for _ in range(2))


@case("WorkerDied", on=PROCESSES)
def worker_exits_in_its_initializer() -> None:
    run((delayed(divide)(number) for number in (1, 2)), initializer=leave, initargs=(3,))


@case("WorkerDied", on=PROCESSES)
def worker_grows() -> None:
    run((delayed(grow)() for _ in range(2)), max_worker_memory="60M")


@case("ZeroDivisionError", on=PROCESSES)
def initializer_raises() -> None:
    run((delayed(divide)(number) for number in (1, 2)), initializer=divide, initargs=(0,))


@case("BrokenExecutor", on=PROCESSES, by=("executor",))
def initializer_raises_in_executor() -> None:
    run((delayed(divide)(number) for number in (1, 2)), initializer=divide, initargs=(0,))


@case("MissingMainGuard", on=("multiprocessing",))
def no_main_guard() -> None:
    # A worker says so by its exit code, before it has answered anything.
    run((delayed(divide)(number) for number in (1, 2)), initializer=leave, initargs=(UNGUARDED,))


@case("CallStopped", by=("generator", "acall"))
def a_call_stops() -> None:
    run(delayed(stop)(number) for number in (1, 2))


@case("TaskTimeout", on=SEVERAL, by=ALL_WAYS)
def call_takes_too_long() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", shoal.errors.FallbackWarning)
        run((delayed(sleep)(seconds) for seconds in (2,)), task_timeout=0.3)


def run_inside(seconds: float) -> None:
    Parallel(n_jobs=2, backend="threading", task_timeout=0.2)(delayed(sleep)(seconds) for _ in range(1))


@case("TaskTimeout", on=PROCESSES)
def call_of_a_nested_run_takes_too_long() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", shoal.errors.FallbackWarning)
        run(delayed(run_inside)(seconds) for seconds in (1,))


@case("RunTimeout", on=SEVERAL, by=("list", "acall"))
def result_takes_too_long() -> None:
    run((delayed(sleep)(seconds) for seconds in (2,)), timeout=0.3)


@case("CallPicklingError", on=PROCESSES, by=ALL_WAYS)
def argument_cannot_be_pickled() -> None:
    run(delayed(identity)({"lock": threading.Lock()}) for _ in range(2))


@case("CallPicklingError", on=PROCESSES)
def function_cannot_be_pickled() -> None:
    lock = threading.Lock()

    def locked() -> None:
        lock.acquire()

    run(delayed(locked)() for _ in range(2))


@case("CallPicklingError", on=PROCESSES, by=("list", "generator"))
def result_cannot_be_pickled() -> None:
    run(delayed(a_lock)(number) for number in range(2))


def send_lock() -> None:
    shoal.send({"lock": threading.Lock()})


@case("CallPicklingError", on=PROCESSES)
def message_cannot_be_pickled() -> None:
    run((delayed(send_lock)() for _ in range(1)), on_message=print)


VARIABLE: ContextVar[Any] = ContextVar("VARIABLE")


@case("CallPicklingError", on=PROCESSES, by=("list", "generator", "executor"))
def context_variable_cannot_be_pickled() -> None:
    VARIABLE.set(threading.Lock())
    run((delayed(identity)(number) for number in range(1)), context=[VARIABLE])


def send_too_late() -> None:
    (context,) = Parallel(n_jobs=1, on_message=print)([delayed(copy_context)()])
    context.run(shoal.send, "too late")


@case("RunEnded")
def message_to_nobody() -> None:
    run(delayed(send_too_late)() for _ in range(1))


@case("OwnError", by=ALL_WAYS)
def exception_cannot_be_pickled() -> None:
    run(delayed(raise_with_lock)() for _ in range(2))


@case("CallUnpicklingError", on=PROCESSES, by=("list", "generator"))
def argument_cannot_be_rebuilt() -> None:
    run(delayed(identity)(CannotBeRebuilt()) for _ in range(1))


@case("CallUnpicklingError", on=PROCESSES, by=("list", "generator"))
def result_cannot_be_rebuilt() -> None:
    run(delayed(returned_result)() for _ in range(1))


@case("CallUnpicklingError", on=PROCESSES, by=("list", "generator"))
def exception_cannot_be_rebuilt() -> None:
    run(delayed(raise_what_only_workers_rebuild)() for _ in range(1))


@case("NoSpaceError", on=PROCESSES)
def no_room_for_arrays() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        run(delayed(len)(numpy.ones(400_000)) for _ in range(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@case("WorkerStartError", on=("loky",))
def folder_is_gone() -> None:
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
    try:  # with workers of their own
        run((delayed(divide)(number) for number in (1, 2)), environment={"CENSUS": "1"}, start_method="spawn")
    finally:
        os.chdir(before)


@case("WorkerStartError", on=("multiprocessing",))
def no_descriptors() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, before[1]))
    taken = []
    try:
        while True:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        run(delayed(divide)(number) for number in (1, 2))
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@case("WorkerStartError", on=("threading",))
def no_threads() -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before, threading.Thread.start = threading.Thread.start, start  # type: ignore[method-assign]
    try:
        run((delayed(divide)(number) for number in (1, 2)), n_jobs=7)
    finally:
        threading.Thread.start = before  # type: ignore[method-assign]


def twice(number: int) -> int:
    return 2 * number


def call_cached(folder: Path) -> Any:
    return Memory(folder, verbose=0).cache(twice)(1, 2)


@case("ArgumentError")
def wrong_arguments() -> None:
    run(delayed(call_cached)(FOLDER / "cache") for _ in range(1))


def hash_generator() -> Any:
    return shoal.hash(number for number in range(3))


@case("HashingError")
def cannot_be_hashed() -> None:
    run(delayed(hash_generator)() for _ in range(1))


def write(name: str, content: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(content)
    return path


def dumped(obj: Any, **options: Any) -> bytes:
    path = FOLDER / f"dumped-{os.getpid()}"
    dump(obj, path, **options)
    return path.read_bytes()


@case("TruncatedFile")
def file_is_cut_short() -> None:
    path = write("short.joblib", dumped(numpy.arange(1000))[:4000])
    run(delayed(load)(path) for _ in range(1))


@case("DamagedFile")
def file_is_damaged() -> None:
    data = bytearray(dumped(numpy.arange(1000)))
    data[2000] ^= 255
    path = write("damaged.joblib", bytes(data))
    run(delayed(load)(path, verify=True) for _ in range(1))


@case("ForeignFile")
def file_is_text() -> None:
    path = write("table.csv", b"a,b\n1,2\n")
    run(delayed(load)(path) for _ in range(1))


@case("EmptyFile")
def file_is_empty() -> None:
    path = write("empty.joblib", b"")
    run(delayed(load)(path) for _ in range(1))


@case("DamagedFile")
def compressed_file_is_damaged() -> None:
    data = bytearray(dumped(numpy.arange(1000), compress=("zlib", 3)))
    data[len(data) // 2] ^= 255
    path = write("damaged.z", bytes(data))
    run(delayed(load)(path) for _ in range(1))


@case("UntrustedFile")
def file_is_not_trusted() -> None:
    path = write("untrusted.joblib", dumped(threading.Thread.start))
    run(delayed(load)(path, trusted=[]) for _ in range(1))


@case("FileLimitError")
def file_would_take_too_much() -> None:
    path = write("large.joblib", dumped(list(range(10_000))))
    run(delayed(load)(path, trusted=[], max_bytes=1_000) for _ in range(1))


@case("DumpPicklingError")
def value_cannot_be_dumped() -> None:
    run(delayed(dump_a_lock)(FOLDER / f"never-{number}") for number in (1, 2))


@case("FileInUse")
def file_is_mapped() -> None:
    run(delayed(dump_over_a_mapped_file)("mapped.joblib") for _ in range(1))


@case("MissingExtra")
def extra_is_missing() -> None:
    sys.modules["ray"] = None  # type: ignore[assignment]
    try:
        run((delayed(divide)(1) for _ in range(1)), backend="ray")
    finally:
        del sys.modules["ray"]


@case("UnusedResultsWarning", on=SEVERAL, by=("generator",))
def generator_is_dropped() -> None:
    results = Parallel(n_jobs=2, backend=BACKEND, return_as=WAY)(delayed(divide)(number) for number in (1, 2))
    next(results)
    results.close()


@case("FallbackWarning", on=("sequential",))
def timeout_with_one_worker() -> None:
    run((delayed(divide)(number) for number in (1, 2)), timeout=5)


@case("FallbackWarning", on=("threading",))
def task_timeout_of_threads() -> None:
    run((delayed(sleep)(seconds) for seconds in (1,)), task_timeout=0.2, on_error="return")


def keep_what_cannot_be_kept(folder: Path) -> None:
    Memory(folder, verbose=0).cache(a_lock)(1)


@case("CacheWarning", by=("list",))
def result_cannot_be_kept() -> None:
    try:
        run(delayed(keep_what_cannot_be_kept)(FOLDER / "cache") for _ in range(1))
    except shoal.errors.CallPicklingError:
        print("not the warning")


def collide(folder: Path) -> None:
    memory = Memory(folder, verbose=0, hash_name="md5")

    def made(source: str) -> Any:
        space: dict[str, Any] = {"__name__": "made"}
        exec(source, space)
        return space["f"]

    memory.cache(made("def f(x):\n    return 1\n"))(1)
    memory.cache(made("def f(x):\n    return 2\n"))(1)


@case("CollisionWarning")
def functions_collide() -> None:
    run(delayed(collide)(FOLDER / "collisions") for _ in range(1))


def load_of_other_version(folder: Path) -> None:
    import numpy

    path = folder / f"versions-{os.getpid()}"
    there, numpy.__version__ = numpy.__version__, "1000.0"
    try:
        dump(numpy.float64(1), path)
    finally:
        numpy.__version__ = there
    load(path)


@case("VersionWarning")
def other_versions() -> None:
    run(delayed(load_of_other_version)(FOLDER) for _ in range(1))


def warn_of_mine() -> None:
    warnings.warn("a warning of the call's", UserWarning, stacklevel=1)


@case("UserWarning")
def call_warns() -> None:
    run(delayed(warn_of_mine)() for _ in range(1))


def main() -> None:
    global WAY
    warnings.simplefilter("always")
    for WAY in ALL_WAYS:
        for name, provoke, backend, way in CASES:
            if (backend, way) == (BACKEND, WAY):
                print(f"=== {name}, {provoke.__name__}, {WAY}", file=sys.stderr, flush=True)
                try:
                    provoke()
                except BaseException as error:
                    sys.excepthook(type(error), error, error.__traceback__)


if __name__ == "__main__":
    main()
