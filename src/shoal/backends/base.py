"""The contract of a backend: it opens slots, and a slot runs batches.

::

    Backend.open(spec) ──> [Slot(executor, width), ...]      executor: a concurrent.futures.Executor
                                                             width: the batches that it runs at a time
    run: slot.executor.submit(...) ──> future ──> its callback wakes the run
    run ends well ──> Backend.close(slots)    run is given up ──> Backend.abort(slot), for each that is still busy
"""

from __future__ import annotations

import errno
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from shoal._cpus import cpu_budget, is_serial
from shoal.errors import WorkerStartError, cannot_start

if TYPE_CHECKING:
    from concurrent.futures import Executor


#: The index of the worker that runs the current call, in threads and in the caller; that of a process is below.
index_of_call: ContextVar[int | None] = ContextVar("shoal worker index")
_index_of_process: int | None = None
_depth_of_process = 0


def worker_index() -> int | None:
    """Return the index of the worker that this call runs in.

    The workers of a run have different ones. It is the same for all calls that a worker runs, and whatever replaces a
    worker that has died has it too, so that it can stand for something of which each worker has its own: a GPU, a
    port, a folder.

    Returns
    -------
    int or None
        In threads, 0 to ``n_jobs - 1``. In worker processes likewise, unless other runs go on at the same time: the
        index is that of the process, and runs share the processes. In the plain loop of one worker, 0. Where runs are
        nested it is the innermost worker's; a plain loop inside a call has the index of that call. None outside of
        any call.

    Notes
    -----
    Threads that a call starts by itself know it in worker processes only.

    Examples
    --------
    >>> from shoal import Parallel, delayed, worker_index
    >>> indices = Parallel(n_jobs=2, backend="threading")(delayed(worker_index)() for _ in range(9))
    >>> set(indices) <= {0, 1}
    True
    """
    return index_of_call.get(_index_of_process)


def be_worker(index: int, depth: int) -> None:
    """Record the index of the worker that this process is, and its depth in workers of workers."""
    global _index_of_process, _depth_of_process
    _index_of_process, _depth_of_process = index, depth


def process_depth() -> int:
    """Return how deep this process is in workers of workers; 0 in a program."""
    return _depth_of_process


def is_worker() -> bool:
    """Tell whether this process is a worker of another one."""
    return _index_of_process is not None


class Slot(NamedTuple):
    """A place where batches run.

    Attributes
    ----------
    executor
        Takes the batches; they run in the order in which they were submitted.
    width
        The number of batches that it runs at a time.
    """

    executor: Executor
    width: int = 1


class WorkerSpec(NamedTuple):
    """What a run asks of its workers.

    Attributes
    ----------
    n_workers
        The number of batches that are to run at a time.
    environment
        Variables that are set before a worker process starts.
    options
        What the backend's own keywords were given as.
    own
        Whether no other run may wait behind this one's calls: it lasts, and they may take for ever.
    """

    n_workers: int
    environment: Mapping[str, str] = MappingProxyType({})
    options: Mapping[str, Any] = MappingProxyType({})
    own: bool = False


#: The options that depend on a worker's index. A backend never ignores them in silence, because calls would then run on
#: another GPU, or on other CPUs.
PLACEMENT = ("environment", "affinity")


def placed_by(options: Mapping[str, Any]) -> list[str]:
    """Return the names of those of `options` that place worker processes, and were given."""
    return [name for name in PLACEMENT if options.get(name) is not None and options[name] is not False]


class Backend(ABC):
    """Where calls run. Subclasses pass :class:`shoal.testing.BackendTests`.

    Parameters
    ----------
    inner_max_num_threads
        The threads that BLAS and OpenMP may use in each worker; by default the CPUs are shared out evenly.
    **options
        Values for the keywords in :attr:`options`; those given to ``Parallel`` go before them.

    Notes
    -----
    An instance holds no state of a run, so that any number of runs in any threads may use it.
    """

    #: The name under which the backend is registered.
    name: ClassVar[str]
    #: Whether arguments are shared with the caller; else they are copied.
    in_process: ClassVar[bool] = False
    #: Whether shoal encodes the calls into bytes; else the backend ships objects by itself.
    ships_bytes: ClassVar[bool] = True
    #: The keywords that :meth:`open` understands in ``spec.options``; None: any.
    options: ClassVar[frozenset[str] | None] = frozenset()
    #: Keywords that the constructor takes beside them, and a run does not.
    constructor_options: ClassVar[frozenset[str]] = frozenset()
    #: The `n_jobs` that is taken where none is given.
    default_n_jobs: ClassVar[int] = 1
    #: Whether the threads inside a worker can be limited.
    supports_inner_max_num_threads: ClassVar[bool] = False
    #: Whether results can be handed out while others are computed.
    supports_return_generator: ClassVar[bool] = True
    #: Whether workers may be forked: what a run needs is imported before, since a fork copies the locks of the modules
    #: that other threads are about to import.
    forks: ClassVar[bool] = False
    #: Whether a run can be given up after ``timeout=``.
    supports_timeout: ClassVar[bool] = True
    #: How far away its workers are: how long the way of a batch takes beside that to a process on this machine.
    distance: ClassVar[float] = 1.0
    #: Whether a worker process can be replaced by another: :meth:`retire`.
    replaces_workers: ClassVar[bool] = False

    def __init__(self, inner_max_num_threads: int | None = None, **options: Any) -> None:
        if inner_max_num_threads is not None and not self.supports_inner_max_num_threads:
            raise AssertionError(f"{type(self).__name__} does not accept setting the inner_max_num_threads argument.")
        self.check_placement(options)
        self.inner_max_num_threads = inner_max_num_threads
        self.given_options = options

    def check_placement(self, options: Mapping[str, Any]) -> None:
        """Raise TypeError if `options` place worker processes and this backend has none that it could place."""
        for name in placed_by(options):
            if self.options is not None and name not in self.options:
                raise TypeError(
                    f"{name} is for worker processes, and the backend {self.name!r} has none; use 'loky' or "
                    f"'multiprocessing', or leave it out"
                )

    def workers(self, n_jobs: int | None, depth: int = 0) -> int:
        """Return how many workers `n_jobs` means.

        Parameters
        ----------
        n_jobs
            A positive number of workers; -1 for one per CPU, -2 for one less, and so on; None for the default. With
            ``JOBLIB_MULTIPROCESSING=0`` in the environment it is 1 in any case.
        depth
            How deep the run is nested in others; 0 outside.

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
        """Take back slots on which nothing runs."""

    @abstractmethod
    def abort(self, slot: Slot) -> Slot:
        """Stop what `slot` runs now, by force if need be; return the slot that takes its place."""

    def retire(self, slot: Slot, pid: int) -> bool:
        """Have another process take the place of a slot's worker, once what was submitted to that has run.

        Parameters
        ----------
        slot
            It stays, and may be submitted to at once.
        pid
            The process that is to go.

        Returns
        -------
        Whether it was still there; else nothing is done.
        """
        raise NotImplementedError(f"{self} has no worker processes that it can replace")

    def nested(self, depth: int) -> str:
        """Return the name of the backend for calls that a call at `depth` makes in turn."""
        return "threading" if depth == 0 else "sequential"

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


Factory = Callable[..., Backend]

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


def in_main_thread() -> bool:
    """Tell whether this is the thread that started the interpreter."""
    return threading.current_thread() is threading.main_thread()


def start_thread(name: str, target: Callable[..., object], *args: Any, make_room: bool = True) -> threading.Thread:
    """Start a daemon thread, and return it.

    Parameters
    ----------
    name, target, args
        As for :class:`threading.Thread`.
    make_room
        Whether to end idle worker processes and to try again where the system allows no more threads. A caller that
        holds a lock of the pool's must not ask for that.

    Raises
    ------
    WorkerStartError
        If the system allows no more.
    """
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        refusal = cannot_start(error)
        pools: Any = sys.modules.get("shoal.backends._pool")
        if not (make_room and is_shortage(refusal) and pools is not None and pools.pool().make_room()):
            raise refusal from error
        return start_thread(name, target, *args, make_room=False)  # another one: in Python 3.13 no thread starts twice
    return thread


def is_shortage(error: BaseException | None) -> bool:
    """Tell whether an error says that descriptors, processes, threads or memory are short, and not another refusal."""
    cause = error.__cause__ if isinstance(error, WorkerStartError) else None
    return isinstance(cause, (MemoryError, RuntimeError)) or getattr(cause, "errno", None) in _SHORTAGES
