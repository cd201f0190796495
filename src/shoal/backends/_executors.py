"""The backends over an executor of the user: any ``concurrent.futures.Executor``, and what is used like one.

::

    of threads:  submit(work) ─────────────────────────────────────> a thread of the executor: work()
    others:      submit(fn, *stored) ─packed─> Parcel ─ run_task ──> a worker: unpack, run, pack ─┐
                   │ functions by value, shared(), large arguments:                               │
                   │ pickled once, sent with each Parcel until all workers have them              │
                   └─ sent again, with all that it needs <── "I lack an object" ──────────────────┤
                 future <─unpacked─ stream <──────────────────────────────────────────────────────┘
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any, ClassVar, TypeVar

from shoal._cpus import cpu_budget, is_serial
from shoal.backends._blas import limits_of_this_thread, restore_limits_of_this_thread
from shoal.backends._executor_task import IN_BAND, Answer, Parcel, kept_object, run_task
from shoal.backends._failure import rebuilt
from shoal.backends._jobs import JobLost, followed
from shoal.backends._packing import ONCE, STORED_BYTES, Packed, PackedFuture, nbytes_of, pack
from shoal.backends._threads import DaemonThreads
from shoal.backends.base import Backend, Slot, WorkerSpec, call_here, process_name
from shoal.backends.storing import MOST_CANCELLED, StoringBackend, StoringExecutor, WorkersLost

T = TypeVar("T")


def backend_over(executor: Any = None, inner_max_num_threads: int | None = None, **options: Any) -> Backend:
    """Return a backend that runs calls on an executor.

    Parameters
    ----------
    executor
        A ``concurrent.futures.Executor``, or an object with its method ``submit``. It is never shut down.
    inner_max_num_threads, **options
        As for :class:`~shoal.Backend`. These backends take none.

    Raises
    ------
    TypeError
        If `executor` has no method ``submit``, or is the class of one.
    """
    if isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
        raise TypeError(
            "the backend 'executor' needs an object with the method submit(function, *args): "
            f"Parallel(backend=ProcessPoolExecutor(4)), for example; got: {executor!r}"
        )
    kind = ThreadsBackend if _has_threads_here(executor) else TasksBackend
    return kind(executor, inner_max_num_threads, **options)


def _has_threads_here(executor: Any) -> bool:
    """Return whether the workers of an executor are threads that share the objects of this interpreter."""
    of_interpreters = getattr(concurrent.futures, "InterpreterPoolExecutor", None)  # it derives from that of threads
    return isinstance(executor, ThreadPoolExecutor) and not isinstance(executor, of_interpreters or ())


def _size(executor: Any) -> int:
    """Return the number of workers of an executor. If it does not tell, it is the number of CPUs.

    The executors of the standard library and those that derive from them have it in a private attribute only.
    """
    for name in ("num_workers", "_max_workers"):  # the first one is mpi4py's
        number = getattr(executor, name, None)
        if isinstance(number, int) and number > 0:
            return number
    return cpu_budget()


class _OverExecutor(Backend):
    """The parts that both backends share."""

    name = "executor"
    default_n_jobs = -1
    constructor_options = frozenset({"executor"})

    def __init__(self, executor: Any, inner_max_num_threads: int | None = None, **options: Any) -> None:
        super().__init__(inner_max_num_threads, executor=executor, **options)
        self.executor = executor

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return the number of workers for `n_jobs`. -1 means all of the executor, but at least two.

        With one worker, the calls would run in the caller's thread.
        """
        n_jobs = self.default_n_jobs if n_jobs is None else n_jobs
        if n_jobs >= 0 or is_serial():
            return super().workers(n_jobs, depth)
        return max(max(_size(self.executor), 2) + 1 + n_jobs, 1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.executor!r})"


class ThreadsBackend(_OverExecutor):
    """Runs the calls in the threads of a ``ThreadPoolExecutor``. Arguments are shared, and nothing is pickled."""

    in_process = True
    ships_bytes = False

    def __init__(self, executor: Any, inner_max_num_threads: int | None = None, **options: Any) -> None:
        super().__init__(executor, inner_max_num_threads, **options)
        self.lender = executor

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return one slot.

        If a thread of the same executor waits for the run, the slot has threads of its own. Otherwise that thread could
        wait for calls that no thread is left to run.
        """
        if _keeps_waiting(self.executor):
            return [Slot(DaemonThreads(spec.n_workers), spec.n_workers)]
        return [Slot(LentThreads(self.executor), spec.n_workers)]

    def close(self, slots: list[Slot]) -> None:
        """Take back what has not begun. Threads are not waited for: only those of an aborted run are still busy."""
        for slot in slots:
            slot.executor.shutdown()

    def abort(self, slot: Slot) -> Slot:
        """Take back what has not begun. Threads cannot be stopped: they return after their current calls."""
        slot.executor.shutdown(wait=False, cancel_futures=True)
        executor = slot.executor
        return Slot(
            LentThreads(self.executor) if isinstance(executor, LentThreads) else DaemonThreads(slot.width), slot.width
        )


def _keeps_waiting(executor: Executor) -> bool:
    """Return whether a thread of an executor waits for a run that is made here: this one, or one further out."""
    here = call_here.get(None)
    while here is not None and here.lender is not executor:
        here = here.around
    return here is not None or threading.current_thread() in getattr(executor, "_threads", ())


class LentThreads(Executor):
    """The threads of another executor, which may serve others as well. Thread-safe."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._pending: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run the call in a thread, which then has the limits that it had."""
        future: Future[T] = submitted(self._executor, self._run, fn, args, kwargs)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def _run(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        limits = limits_of_this_thread()
        try:
            return fn(*args, **kwargs)
        finally:
            restore_limits_of_this_thread(limits)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel what has not begun. The executor goes on."""
        for future in list(self._pending):
            future.cancel()


class TasksBackend(_OverExecutor, StoringBackend):
    """Runs batches of calls as tasks of an executor whose workers are other processes, interpreters or machines.

    Notes
    -----
    :func:`~shoal.worker_index` is None in its workers, because the executor chooses where a task runs.
    """

    forks = True
    shares_cpus = True
    distance = 2.0  # a round trip through ProcessPoolExecutor takes 0.3 ms

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return one slot that runs one task for each worker."""
        return [Slot(TaskExecutor(self.executor, spec.n_workers), spec.n_workers)]


class _Kept:
    """An object that workers keep, and the workers that have it. While it is needed, its key is in `live`."""

    def __init__(self, key: int, obj: Any, fresh: bool, live: dict[int, None]) -> None:
        self.key = key
        self._live = live
        self.fresh = fresh  # whether each call gets a copy of its own
        self.stream = pack(obj, out_of_band=IN_BAND).stream
        self.holders: set[str] = set()
        live[key] = None

    def __del__(self) -> None:
        getattr(self, "_live", {}).pop(self.key, None)


class TaskExecutor(StoringExecutor):
    """Submits pickled calls to an executor.

    Parameters
    ----------
    executor
        The executor.
    n_workers
        The number of its workers that are used, if the executor does not tell how many it has.

    Notes
    -----
    Not thread-safe, except for :meth:`cancel`.
    """

    _open: ClassVar[dict[int, None]] = {}  # the runs that have not ended
    _numbers: ClassVar[count[int]] = count()

    def __init__(self, executor: Any, n_workers: int) -> None:
        self._executor = executor
        self._n_workers = max(_size(executor), n_workers)
        self._run = next(self._numbers)
        self._open[self._run] = None
        self._keys = count()
        self._live: dict[int, None] = {}  # the keys of what is kept
        self._functions: dict[int, tuple[Any, _Kept]] = {}  # by id: the function itself, and what workers keep
        self._running: dict[Future[Any], Any] = {}  # the executor's future for each of ours
        self._cancelled = 0  # how often in a row tasks were cancelled

    def stores(self, obj: Any) -> bool:
        """Return whether an argument is large, and most of it is in arrays."""
        return nbytes_of(obj) >= STORED_BYTES

    def put(self, obj: Any) -> _Kept:
        """Pickle an object for all workers."""
        return self._keep(obj, fresh=self.stores(obj) and not _is_array(obj))

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Submit a call. Positional arguments at the end may be what :meth:`put` has returned."""
        n_plain = next((position for position, arg in enumerate(args) if type(arg) is _Kept), len(args))
        arguments: tuple[_Kept, ...] = args[n_plain:]
        functions: list[_Kept] = []
        stream = pack((fn, args[:n_plain], kwargs), partial(self._by_value, functions), IN_BAND).stream
        future: Future[T] = PackedFuture()
        future.set_running_or_notify_cancel()
        call = stream, arguments, [*functions, *arguments]
        self._send(future, call, everything=False)
        return future

    def _send(self, future: Future[Any], call: tuple[bytes, tuple[_Kept, ...], list[_Kept]], everything: bool) -> None:
        stream, arguments, needed = call
        parcel = Parcel(
            stream,
            process_name(),
            self._run,
            list(self._open),
            list(self._live),
            [kept.key for kept in needed],
            [(kept.key, kept.fresh) for kept in arguments],
            {kept.key: kept.stream for kept in needed if everything or len(kept.holders) < self._n_workers},
        )
        task = self._running[future] = followed(submitted(self._executor, run_task, parcel))
        task.add_done_callback(partial(self._complete, future, call, self._cancelled))

    def _complete(self, future: Future[Any], call: Any, cancelled: int, task: Any) -> None:
        """Take the answer of a worker; called in a thread of the executor.

        `cancelled` is the number of cancellations when the task was submitted: what is cancelled at once counts once.
        """
        self._running.pop(future, None)
        try:
            answer: Answer = task.result()
            if answer.failure is not None:
                raise rebuilt(answer.failure, "a batch of calls")
            if answer.stream is None:
                self._send(future, call, everything=True)
                return
        except JobLost as error:
            future.set_exception(error)
        except BrokenExecutor as error:
            lost = WorkersLost(f"{type(error).__name__}: {error}")
            lost.__cause__ = error
            future.set_exception(lost)
        except CancelledError as error:
            self._cancelled += cancelled == self._cancelled
            if self._cancelled >= MOST_CANCELLED:
                future.set_exception(RuntimeError(f"{self._executor!r} cancels all calls"))
            else:
                future.set_exception(error)
        except BaseException as error:  # it must not end the thread of the executor
            future.set_exception(error)
        else:
            self._cancelled = 0
            for kept in call[2]:
                kept.holders.add(answer.worker)
            future.set_result(Packed(answer.stream, []))

    def _keep(self, obj: Any, fresh: bool) -> _Kept:
        return _Kept(next(self._keys), obj, fresh, self._live)

    def _by_value(self, needed: list[_Kept], function: Any) -> Any:
        """Keep a function that is pickled by value; return its reduction."""
        if id(function) not in self._functions:
            if len(self._functions) >= ONCE:
                return NotImplemented
            self._functions[id(function)] = function, self._keep(function, fresh=False)
        _, kept = self._functions[id(function)]
        needed.append(kept)
        return kept_object, (kept.key,)

    def cancel(self) -> None:
        """Cancel the tasks that have not begun. A running batch runs to its end."""
        for task in list(self._running.values()):
            with contextlib.suppress(Exception):  # such as scancel's for a job that has just ended
                task.cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the run: workers drop its objects with the next task that they get. The executor goes on."""
        if cancel_futures:
            self.cancel()
        self._open.pop(self._run, None)


def submitted(executor: Any, fn: Callable[..., Any], *args: Any) -> Any:
    """Submit a call to an executor of the user; return what it returns.

    Raises
    ------
    RuntimeError
        If the executor takes no calls any more.
    """
    try:
        return executor.submit(fn, *args)
    except BrokenExecutor as error:  # not as such: no call is to blame for it
        raise RuntimeError(
            f"{executor!r} takes no calls, because its workers have died; make a new executor ({error})"
        ) from error
    except RuntimeError as error:
        raise RuntimeError(f"{executor!r} takes no calls: {error}") from error


def _is_array(obj: Any) -> bool:
    import numpy

    return type(obj) in (numpy.ndarray, numpy.memmap) and not obj.dtype.hasobject
