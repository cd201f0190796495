"""The contract of a backend: it opens slots, and a slot runs batches.

::

    Backend.open(spec) ──> [Slot(executor, width), ...]      executor: a concurrent.futures.Executor
                                                             width: the number of batches it runs at a time
    run: slot.executor.submit(...) ──> future ──> its callback wakes the run
    run succeeds ──> Backend.close(slots)     run is aborted ──> Backend.abort(slot), for each busy slot
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from abc import ABC, abstractmethod
from contextvars import ContextVar
from types import MappingProxyType

from shoal._cpus import cpu_budget, is_serial
from shoal._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor
    from typing import Any, ClassVar, TypeAlias


class CallHere(NamedTuple):
    """The call that runs in this context, in the caller's process: on a thread, or with one worker.

    Attributes
    ----------
    worker
        The index of the worker.
    present
        Returns the index of the call; None between calls.
    around
        The call around the run; None if the run was made outside of calls.
    lender
        As :attr:`Backend.lender`.
    """

    worker: int | None
    present: Callable[[], int | None]
    around: CallHere | None
    lender: Executor | None = None


call_here: ContextVar[CallHere] = ContextVar("shoal call")
_index_of_process: int | None = None
_depth_of_process = 0
_name_before_forks = os.urandom(16).hex()


def worker_index() -> int | None:
    """Return the index of the worker that runs this call.

    Each worker of a run has its own index, and keeps it for all its calls. A process that replaces a dead worker gets
    the same index. So the index can select a resource that workers must not share: a GPU, a port, a folder.

    Returns
    -------
    int or None
        In threads, 0 to ``n_jobs - 1``. In worker processes the same, unless several runs are active: they share the
        processes, and the index belongs to the process. With one worker, 0. In nested runs, the index of the innermost
        worker; a nested run with one worker keeps the index of the call around it. None outside any call.

    Notes
    -----
    Threads that a call starts itself get this index in worker processes only.

    Examples
    --------
    >>> from shoal import Parallel, delayed, worker_index
    >>> indices = Parallel(n_jobs=2, backend="threading")(delayed(worker_index)() for _ in range(9))
    >>> set(indices) <= {0, 1}
    True
    """
    here = call_here.get(None)
    return _index_of_process if here is None else here.worker


class call_set:
    """A block whose calls find :data:`call_here`, in a worker of an executor that is in the caller's process."""

    def __init__(self, present: Callable[[], int | None]) -> None:
        self._present = present

    def __enter__(self) -> None:
        self._outside = call_here.set(CallHere(worker_index(), self._present, None))

    def __exit__(self, *_: object) -> None:
        call_here.reset(self._outside)


def be_worker(index: int, depth: int) -> None:
    """Mark this process as a worker, with its index and its nesting depth."""
    global _index_of_process, _depth_of_process
    _index_of_process, _depth_of_process = index, depth


def process_depth() -> int:
    """Return the nesting depth of this process: 0 in the program, 1 in its workers, 2 in their workers."""
    return _depth_of_process


def process_name() -> str:
    """Return a name of this process that no other process has, on any machine."""
    return f"{_name_before_forks}-{os.getpid()}"


def is_worker() -> bool:
    """Return whether this process is a worker."""
    return _index_of_process is not None


class Slot(NamedTuple):
    """An executor and its capacity.

    Attributes
    ----------
    executor
        Runs batches in the order in which they were submitted.
    width
        The number of batches that it runs at a time.
    """

    executor: Executor
    width: int = 1


class WorkerSpec(NamedTuple):
    """The workers that a run requests.

    Attributes
    ----------
    n_workers
        The number of batches to run at a time.
    environment
        Environment variables, set before a worker process starts.
    options
        The values of the backend's own keywords.
    own
        Whether the workers must not be shared with other runs. A long-lived run sets this, because its calls may never
        end, and calls of other runs would wait behind them.
    n_first, first_environment
        The number of workers, from index 0 on, that get one CPU more than the others, and their environment variables.
    """

    n_workers: int
    environment: Mapping[str, str] = MappingProxyType({})
    options: Mapping[str, Any] = MappingProxyType({})
    own: bool = False
    n_first: int = 0
    first_environment: Mapping[str, str] = MappingProxyType({})

    def environment_of(self, index: int) -> Mapping[str, str]:
        """Return the environment variables of the worker with this index."""
        return self.first_environment if index < self.n_first else self.environment


#: The options that depend on a worker's index. A backend without worker processes refuses them: if it ignored them,
#: calls would run on another GPU or on other CPUs than intended.
PLACEMENT = ("environment", "affinity")


def placement_options(options: Mapping[str, Any]) -> list[str]:
    """Return the names of the placement options that are set."""
    return [name for name in PLACEMENT if options.get(name) is not None and options[name] is not False]


class Backend(ABC):
    """A place where calls run. A subclass must pass :class:`shoal.testing.BackendTests`.

    Parameters
    ----------
    inner_max_num_threads
        The threads that BLAS and OpenMP may use in each worker. By default the workers share the CPUs evenly.
    **options
        Values for the keywords in :attr:`options`. Values given to ``Parallel`` override them.

    Notes
    -----
    An instance holds no state of a run. Any number of runs in any threads may use it.
    """

    #: The name under which the backend is registered.
    name: ClassVar[str]
    #: Whether calls share their arguments with the caller. If not, arguments are copied.
    in_process: ClassVar[bool] = False
    #: Whether shoal encodes the calls into bytes. If not, the backend ships objects by itself.
    ships_bytes: ClassVar[bool] = True
    #: The keywords that :meth:`open` reads from ``spec.options``. None means any.
    options: ClassVar[frozenset[str] | None] = frozenset()
    #: Further keywords that only the constructor takes.
    constructor_options: ClassVar[frozenset[str]] = frozenset()
    #: The default of `n_jobs`.
    default_n_jobs: ClassVar[int] = 1
    #: Whether the threads inside a worker can be limited.
    supports_inner_max_num_threads: ClassVar[bool] = False
    #: Whether results can be delivered while other calls still run.
    supports_return_generator: ClassVar[bool] = True
    #: Whether workers may be forked. If so, a run imports what it needs before the fork, because a fork also copies the
    #: import locks that other threads hold.
    forks: ClassVar[bool] = False
    #: Whether ``timeout=`` can abort a run.
    supports_timeout: ClassVar[bool] = True
    #: The time a batch takes to reach a worker, relative to a process on this machine.
    distance: ClassVar[float] = 1.0
    #: Whether :meth:`retire` can replace a worker process.
    replaces_workers: ClassVar[bool] = False
    #: The executor of the user in whose threads the calls run; None for threads of the backend's own. A run gives a
    #: lent thread back while it waits for its consumer, because others use the threads too.
    lender: Executor | None = None
    #: Whether calls divide the CPUs of this machine among them, if the backend ships objects by itself. Calls on other
    #: machines may use all CPUs there.
    shares_cpus: ClassVar[bool] = False

    def __init__(self, inner_max_num_threads: int | None = None, **options: Any) -> None:
        if inner_max_num_threads is not None and not self.supports_inner_max_num_threads:
            raise AssertionError(f"{type(self).__name__} does not accept setting the inner_max_num_threads argument.")
        self.check_placement(options)
        self.inner_max_num_threads = inner_max_num_threads
        self.given_options = options

    def check_placement(self, options: Mapping[str, Any]) -> None:
        """Raise TypeError if `options` contain a placement option that this backend does not support."""
        for name in placement_options(options):
            if self.options is not None and name not in self.options:
                raise TypeError(
                    f"{name} is for worker processes, and the backend {self.name!r} has none; use 'loky' or "
                    f"'multiprocessing', or omit {name}"
                )

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return the number of workers for a value of `n_jobs`.

        Parameters
        ----------
        n_jobs
            A positive number of workers; -1 for one per CPU, -2 for one less, and so on; None for the default. If the
            environment contains ``JOBLIB_MULTIPROCESSING=0``, the result is 1.
        depth
            The nesting depth of the run; 0 outside any other run.

        Raises
        ------
        ValueError
            If `n_jobs` is 0.
        """
        if n_jobs is None:
            n_jobs = self.default_n_jobs
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning; use a positive number, or -1 for all CPUs")
        if is_serial():
            return 1
        return n_jobs if n_jobs > 0 else max(cpu_budget() + 1 + n_jobs, 1)

    @abstractmethod
    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return slots whose widths add up to ``spec.n_workers``."""

    @abstractmethod
    def close(self, slots: list[Slot]) -> None:
        """Release idle slots."""

    @abstractmethod
    def abort(self, slot: Slot) -> Slot:
        """Stop the calls that `slot` runs now, by force if necessary; return a slot to use instead."""

    def retire(self, slot: Slot, pid: int) -> bool:
        """Replace the worker process of a slot once all batches submitted to it have run.

        Parameters
        ----------
        slot
            Remains usable: batches may be submitted to it at once.
        pid
            The id of the process to replace.

        Returns
        -------
        Whether the slot still had that process. If not, nothing changes.
        """
        raise NotImplementedError(f"{self} cannot replace worker processes")

    def nested(self, depth: int) -> str:
        """Return the name of the default backend for a run that a call at `depth` starts."""
        return "threading" if depth == 0 else "sequential"

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


Factory: TypeAlias = "Callable[..., Backend]"

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


def in_main_thread() -> bool:
    """Return whether this is the thread that started the interpreter."""
    return threading.current_thread() is threading.main_thread()


def start_thread(name: str, target: Callable[..., object], *args: Any, make_room: bool = True) -> threading.Thread:
    """Start a daemon thread, and return it.

    If the system allows no more threads, idle worker processes are ended and the thread is tried again. A caller that
    holds a lock of the pool must turn this off with `make_room`.

    Raises
    ------
    WorkerStartError
        If the system allows no more threads.
    """
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        from shoal.errors import cannot_start

        refusal = cannot_start(error)
        pools: Any = sys.modules.get("shoal.backends._pool")
        if not (make_room and is_shortage(refusal) and pools is not None and pools.pool().make_room()):
            raise refusal from refusal.__cause__
        return start_thread(name, target, *args, make_room=False)  # a new one: Python 3.13 starts no thread twice
    return thread


def is_shortage(error: BaseException | None) -> bool:
    """Return whether an error means that descriptors, processes, threads or memory are exhausted."""
    from shoal.errors import WorkerStartError

    cause = error.__cause__ if isinstance(error, WorkerStartError) else None
    return isinstance(cause, (MemoryError, RuntimeError)) or getattr(cause, "errno", None) in _SHORTAGES
