"""The contract of backends, for shoal's own and for a foreign one; and the registry of their names."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import numpy
import pytest

from _capabilities import needs_fork, needs_other_start
from shoal import (
    Backend,
    CallPicklingError,
    FallbackWarning,
    MissingExtra,
    Parallel,
    Slot,
    WorkerSpec,
    backends,
    cpu_count,
    delayed,
    effective_n_jobs,
    parallel_config,
    register_parallel_backend,
    shared,
)
from shoal.backends import _loky
from shoal.backends.storing import StoringExecutor
from shoal.parallel.transport import _engines
from shoal.testing import BackendTests, overwrite


class TestSequential(BackendTests):
    backend = "sequential"


class TestThreading(BackendTests):
    backend = "threading"


class TestLoky(BackendTests):
    backend = "loky"


@needs_other_start("loky")
class TestLokyByExec(BackendTests):
    """The loky backend without a fork server."""

    def make_backend(self) -> Backend:
        return backends.create("loky", start_method="loky")


@needs_other_start("spawn")
class TestLokyBySpawn(BackendTests):
    def make_backend(self) -> Backend:
        return backends.create("loky", start_method="spawn")


def test_interpreters_that_shoal_cannot_make_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyPy lacks parts of CPython that this takes: ``multiprocessing`` starts the workers."""
    monkeypatch.setattr(_loky, "HAS_EXECUTED", False)
    backend = backends.create("loky", idle_worker_timeout=40)
    assert Parallel(n_jobs=2, backend=backend)(delayed(abs)(-n) for n in range(4)) == [0, 1, 2, 3]
    [names] = Parallel(n_jobs=2, backend=backend)([delayed(command_line)()])
    assert "_worker_process" not in names


class TestMultiprocessing(BackendTests):
    backend = "multiprocessing"


class BytesToThreads(Backend):
    """A foreign backend of threads that ships calls as bytes."""

    name = "bytes-to-threads"
    options = frozenset({"prefix"})

    def open(self, spec: WorkerSpec) -> list[Slot]:
        return [Slot(self._executor({**self.given_options, **spec.options})) for _ in range(spec.n_workers)]

    def close(self, slots: list[Slot]) -> None:
        for slot in slots:
            slot.executor.shutdown()

    def abort(self, slot: Slot) -> Slot:
        slot.executor.shutdown(wait=False, cancel_futures=True)
        return Slot(self._executor({}))

    def _executor(self, options: dict[str, Any]) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix=options.get("prefix", "bytes"))


class Pickles(StoringExecutor):
    """An executor that copies calls by pickle, like a cluster, and has a store."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(2)
        self.store: dict[str, bytes] = {}

    def stores(self, obj: Any) -> bool:
        return isinstance(obj, Heavy) or getattr(obj, "nbytes", 0) > 1000

    def put(self, obj: Any) -> str:
        name = f"stored {len(self.store)}"
        self.store[name] = cloudpickle.dumps(obj)
        return name

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        made = cloudpickle.dumps((fn, args, kwargs))
        return self.threads.submit(self._run, made)

    def _run(self, made: bytes) -> Any:
        fn, args, kwargs = pickle.loads(made)
        args = [pickle.loads(self.store[arg]) if isinstance(arg, str) and arg in self.store else arg for arg in args]
        return pickle.loads(cloudpickle.dumps(fn(*args, **kwargs)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.threads.shutdown(wait, cancel_futures=cancel_futures)


class ObjectsToPickles(Backend):
    """A foreign backend that ships objects by itself, and has a store for large ones."""

    name = "objects-to-pickles"
    ships_bytes = False
    latest: Pickles

    def open(self, spec: WorkerSpec) -> list[Slot]:
        type(self).latest = Pickles()
        return [Slot(self.latest, spec.n_workers)]

    def close(self, slots: list[Slot]) -> None:
        for slot in slots:
            slot.executor.shutdown()

    def abort(self, slot: Slot) -> Slot:
        slot.executor.shutdown(wait=False, cancel_futures=True)
        return Slot(Pickles(), slot.width)


class Heavy:
    """Counts how often it is pickled in this process."""

    pickled = 0

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        type(self).pickled += 1
        return Heavy, (self.name,)


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the foreign backends. Remove all registrations of a test after it."""
    monkeypatch.setattr(backends, "_factories", dict(backends._factories))
    monkeypatch.setattr(backends, "_registered_default", None)
    register_parallel_backend("bytes-to-threads", BytesToThreads)
    register_parallel_backend("objects-to-pickles", ObjectsToPickles)


class TestBytesToThreads(BackendTests):
    backend = "bytes-to-threads"


class TestObjectsToPickles(BackendTests):
    backend = "objects-to-pickles"


def current_pid(*_: Any) -> int:
    return os.getpid()


def command_line() -> str:
    return " ".join(sys.orig_argv)


def current_thread() -> str:
    return threading.current_thread().name


def start_method() -> str:
    return type(multiprocessing.current_process()).__name__.removesuffix("Process").lower()


def set_flag(name: str, value: str) -> None:
    os.environ[name] = value


def fail() -> None:
    raise LookupError("no licence found")


def names_of(*heavy: Any, **more: Any) -> list[str]:
    return [item.name for item in (*heavy, *more.values()) if isinstance(item, Heavy)]


@pytest.mark.parametrize("batch_size", ["auto", 1])
def test_large_arguments_are_stored_once_per_run(batch_size: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heavy, "pickled", 0)
    one, other = Heavy("one"), Heavy("other")
    calls = [delayed(names_of)(one, number, one, last=other) for number in range(20)]
    run = Parallel(n_jobs=2, backend="objects-to-pickles", batch_size=batch_size)
    assert run(calls) == [["one", "one", "other"]] * 20
    assert (Heavy.pickled, len(ObjectsToPickles.latest.store)) == (2, 2)
    run(calls)
    assert Heavy.pickled == 4
    table = {"one": one}
    assert run(delayed(dict.get)(shared(table), key) for key in ["two", "three"] * 9) == [None] * 18
    assert Heavy.pickled == 5


def test_a_run_drops_arguments_that_the_caller_drops() -> None:
    arrays: list[Any] = []

    def calls() -> Any:
        for number in range(40):
            array = numpy.full(1000, number)
            arrays.append(weakref.ref(array))
            yield delayed(numpy.sum)(array)
            del array
            assert sum(alive() is not None for alive in arrays) < 15

    run = Parallel(n_jobs=2, backend="objects-to-pickles", pre_dispatch=4, batch_size=1)
    assert run(calls()) == [1000 * number for number in range(40)]


def test_calls_have_arrays_from_the_store_as_mmap_mode_says(monkeypatch: pytest.MonkeyPatch) -> None:
    array = numpy.ones(1000)
    for mode in ("c", None, "r+"):
        run = Parallel(n_jobs=2, backend="objects-to-pickles", mmap_mode=mode)
        assert run([delayed(overwrite)(array)] * 3) == [1000] * 3 or mode != "c"
    calls = [delayed(overwrite)(array)]
    with pytest.raises(ValueError, match="read-only"):
        Parallel(n_jobs=2, backend="objects-to-pickles", mmap_mode="r")(calls)
    monkeypatch.setattr(_engines, "PRIVATE_BYTES", 7999)
    with pytest.raises(ValueError, match="read-only"):
        Parallel(n_jobs=2, backend="objects-to-pickles")(calls)


def test_objects_that_a_backend_cannot_ship() -> None:
    run = Parallel(n_jobs=2, backend="objects-to-pickles")
    with pytest.raises(CallPicklingError, match=r"call 1, .*args\[0\]\['lock'\]"):
        run([delayed(id)(1), delayed(id)({"lock": threading.Lock()})])
    run = Parallel(n_jobs=2, backend="objects-to-pickles", on_error="return")
    results = run([delayed(abs)(-1), delayed(id)(threading.Lock()), delayed(abs)(-3)])
    assert (results[0], type(results[1]), results[2]) == (1, CallPicklingError, 3)


def test_an_unknown_name_raises_an_error_with_the_known_names() -> None:
    with pytest.raises(ValueError, match="lokky") as caught:
        Parallel(n_jobs=2, backend="lokky")
    assert all(name in str(caught.value) for name in ("loky", "threading", "multiprocessing", "sequential"))
    with pytest.raises(ValueError, match="3"):
        Parallel(n_jobs=2, backend=3)


def test_a_backend_whose_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "shoal.backends._ray", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"'ray' needs ray, .* pip install 'shoal\[ray\]'"):
        Parallel(n_jobs=2, backend="ray")


def test_registered_names() -> None:
    run = Parallel(n_jobs=2, backend="bytes-to-threads", prefix="mine")
    assert {name.rpartition("_")[0] for name in run([delayed(current_thread)()] * 4)} == {"mine"}
    register_parallel_backend("again", lambda **options: BytesToThreads(prefix="factory", **options))
    names = Parallel(n_jobs=2, backend="again")([delayed(current_thread)()] * 2)
    assert {name.rpartition("_")[0] for name in names} == {"factory"}


def test_a_backend_can_be_made_the_default() -> None:
    before = type(Parallel()._backend)
    register_parallel_backend("ours", BytesToThreads)
    assert type(Parallel()._backend) is before
    register_parallel_backend("ours", BytesToThreads, make_default=True)
    assert type(Parallel()._backend) is BytesToThreads
    assert type(Parallel(backend="threading")._backend).__name__ == "ThreadingBackend"


def test_a_variable_sets_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBLIB_TESTS_DEFAULT_PARALLEL_BACKEND", "multiprocessing")
    assert type(Parallel()._backend).__name__ == "MultiprocessingBackend"


def test_one_worker_where_processes_are_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBLIB_MULTIPROCESSING", "0")
    monkeypatch.delenv("JOBLIB_TESTS_DEFAULT_PARALLEL_BACKEND", raising=False)
    assert effective_n_jobs(2) == effective_n_jobs(-1) == cpu_count() == 1
    assert Parallel(n_jobs=2)([delayed(current_pid)()] * 2) == [os.getpid()] * 2
    for backend in ("loky", "multiprocessing"):
        with pytest.warns(FallbackWarning, match=f"'{backend}' needs worker processes"):
            run = Parallel(n_jobs=2, backend=backend)
        assert run([delayed(current_pid)()] * 2) == [os.getpid()] * 2


def test_no_process_is_started_where_they_are_forbidden(fresh_python: Callable[..., str]) -> None:
    printed = fresh_python(
        """
        import os
        os.environ["JOBLIB_MULTIPROCESSING"] = " 0 "
        os.environ.pop("JOBLIB_TESTS_DEFAULT_PARALLEL_BACKEND", None)
        import sys
        from shoal import Parallel, delayed
        print(Parallel(n_jobs=2)(delayed(abs)(-n) for n in range(3)), "loky" in sys.modules)
        """
    )
    assert printed == "[0, 1, 2] False\n"


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_an_initializer_runs_in_each_worker(backend: str) -> None:
    run = Parallel(n_jobs=2, backend=backend, initializer=set_flag, initargs=("SHOAL_FLAG", backend))
    assert set(run(delayed(os.getenv)("SHOAL_FLAG") for _ in range(10))) == {backend}
    assert "SHOAL_FLAG" not in os.environ
    plain = Parallel(n_jobs=2, backend=backend)
    assert set(plain(delayed(os.getenv)("SHOAL_FLAG") for _ in range(10))) == {None}


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_an_exception_of_an_initializer(backend: str) -> None:
    with pytest.raises(LookupError, match="no licence found"):
        Parallel(n_jobs=2, backend=backend, initializer=fail)([delayed(abs)(1)] * 2)


def put_through(lock: Any, queue: Any, writer: Any, end: socket.socket, call: Any) -> None:
    with lock, end:
        queue.put(call(1))
        writer.send(os.getpid())
        end.send(b"x")


@pytest.mark.parametrize("method", ["", "loky"])
def test_an_initializer_with_objects_that_only_a_new_process_can_receive(method: str) -> None:
    """Locks, queues, connections and sockets, together with an object that only cloudpickle can pickle."""
    context = multiprocessing.get_context("spawn")
    queue, (reader, writer) = context.Queue(), context.Pipe(duplex=False)
    ours, theirs = socket.socketpair()
    with ours, theirs, reader, writer:
        initargs = context.Lock(), queue, writer, theirs, lambda x: x + 1
        run = Parallel(n_jobs=2, initializer=put_through, initargs=initargs, start_method=method, batch_size=1)
        assert run(delayed(abs)(-n) for n in range(4)) == [0, 1, 2, 3]
        assert queue.get(timeout=60) == 2
        assert reader.recv() != os.getpid()
        assert ours.recv(1) == b"x"


def test_options_from_a_context() -> None:
    with parallel_config("loky", initializer=set_flag, initargs=("SHOAL_FLAG", "context")):
        assert set(Parallel(n_jobs=2)(delayed(os.getenv)("SHOAL_FLAG") for _ in range(4))) == {"context"}


def test_maxtasksperchild() -> None:
    run = Parallel(n_jobs=2, backend="multiprocessing", maxtasksperchild=1, batch_size=1)
    assert len(set(run(delayed(current_pid)() for _ in range(5)))) == 5


@pytest.mark.parametrize("method", [pytest.param("fork", marks=needs_fork), "spawn"])
def test_a_start_method_of_multiprocessing(method: str) -> None:
    context = multiprocessing.get_context(method)
    run = Parallel(n_jobs=2, backend=context)
    assert type(run._backend).__name__ == "MultiprocessingBackend"
    assert os.getpid() not in run(delayed(current_pid)() for _ in range(4))
    run = Parallel(n_jobs=2, backend="multiprocessing", context=context)
    assert run([delayed(start_method)()]) == [method]


def test_workers_of_loky_stay_warm() -> None:
    def workers() -> set[int]:
        return set(Parallel(n_jobs=2, backend="loky", idle_worker_timeout=50)(delayed(current_pid)(n) for n in "ab"))

    assert workers() | workers() | workers() == workers()


def test_an_option_that_the_backend_does_not_know() -> None:
    with pytest.raises(TypeError, match=r"'loky'.*did you mean 'idle_worker_timeout'"):
        Parallel(n_jobs=2, backend="loky", idle_worker_time=3)
    with pytest.raises(TypeError, match=r"'maxtasksperchild'.*'threading'"):
        Parallel(n_jobs=2, backend="threading", maxtasksperchild=3)


@needs_fork
@pytest.mark.filterwarnings("ignore:Multiprocessing-backed parallel loops cannot be nested:shoal.FallbackWarning")
def test_nested_runs_call_their_own_functions() -> None:
    def outer(number: int) -> Any:
        shift = 10

        def inner(number: int) -> int:
            return number + shift

        if number < 0:
            return "the function of the run above"
        context = multiprocessing.get_context("fork")  # a forked worker has the state of the worker around it
        return Parallel(n_jobs=2, backend=context)(delayed(inner)(-x) for x in (1, 2))

    assert Parallel(n_jobs=2, backend="loky")([delayed(outer)(1)]) == [[9, 8]]


def note(folder: str, number: int, seconds: float) -> int:
    """Create a file, and sleep."""
    with open(f"{folder}/{number}", "a") as file:
        file.write(".")
    time.sleep(seconds)
    return number


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_a_long_batch_is_split(tmp_path: Path, return_as: str) -> None:
    """The requeued calls run once, like all others, and the results are in order."""
    calls = (delayed(note)(str(tmp_path), number, 0.03 if 100 < number < 110 else 0) for number in range(200))
    numbers = list(Parallel(n_jobs=2, backend="loky", return_as=return_as)(calls))
    assert (sorted(numbers) if return_as == "generator_unordered" else numbers) == list(range(200))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {str(number): "." for number in range(200)}
