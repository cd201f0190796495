"""The settings of a context, and how they combine: an argument goes before the context, the context before the default.

::

    set_defaults(...) ──> the process's Settings, for threads without a context of their own
                                  │
    parallel_config(...) ──> the context's Settings ──┐        (_contexts.py)
    Parallel(...), executor(...) ── arguments ────────┼──resolve──> a Backend, and Settings without defaults
    a call in a worker ── nested_settings ────────────┘
"""

from __future__ import annotations

import functools
from contextvars import ContextVar

from shoal import backends
from shoal._cpus import budget_of_call
from shoal._typing import TYPE_CHECKING, NamedTuple
from shoal.backends import Backend
from shoal.backends.base import CallHere, call_here, worker_index
from shoal.parallel.options._checks import FORWARDED, as_number, check, integer, refuse_calls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from multiprocessing.context import BaseContext
    from typing import Any, Literal, Protocol

    class Submits(Protocol):
        """What :func:`~shoal.backends._executors.backend_over` takes: ``concurrent.futures.Executor``, and others."""

        def submit(self, function: Callable[..., Any], /, *args: Any) -> Any:
            """Return a future of what ``function(*args)`` returns."""

    # The types of the arguments that a context can set.
    BackendContext = BaseContext
    Size = float | str
    MmapMode = Literal["c", "r", "r+", "w+"]
    Prefer = Literal["processes", "threads"]
    Require = Literal["sharedmem"]
    Progress = bool | Literal["rich"] | Callable[[int, int | None], object]
    # What a callable receives is a number, and an attempt of tenacity too.
    Retries = int | Callable[[Any], object]
    RetryOn = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], object]
    RetryWait = float | Callable[[Any], float]
    Forward = bool | str | Iterable[str]
    Context = Iterable[ContextVar[Any]] | ContextVar[Any] | BackendContext | bool


class Default:
    """Marks an argument that was not given. Its repr shows the default value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"default({self.value!r})"


class Settings(NamedTuple):
    """The values of the arguments that a context can set.

    Attributes
    ----------
    backend
        The backend, or the name of one; None for the default.
    depth
        How deep the current code is nested in runs: 0 outside of any, 1 in a worker.
    n_jobs, verbose, temp_folder, max_nbytes, mmap_mode, prefer, require, progress
        As for :class:`~shoal.Parallel`.
    retries, retry_on, retry_wait, on_error, task_timeout, max_pending, max_tasks_per_worker, max_worker_memory
        As for :class:`~shoal.Parallel`.
    forward, context, report
        As for :class:`~shoal.Parallel`.
    """

    backend: Backend | str | None = None
    n_jobs: int | None = None
    verbose: Any = 0
    temp_folder: str | None = None
    max_nbytes: int | float | str | None = "1M"
    mmap_mode: str | None = "c"
    prefer: str | None = None
    require: str | None = None
    progress: Any = False
    retries: Any = 0
    retry_on: Any = Exception
    retry_wait: Any = 0.0
    on_error: str = "raise"
    task_timeout: float | None = None
    max_pending: int | None = None
    max_tasks_per_worker: int | None = None
    max_worker_memory: int | float | str | None = None
    forward: Any = True
    context: Any = None
    report: Any = None
    depth: int = 0

    @property
    def forwarded(self) -> tuple[str, ...]:
        """What `forward` names, of :data:`FORWARDED`: all for True, nothing for False."""
        forward = self.forward
        if isinstance(forward, bool):
            return FORWARDED if forward else ()
        return (forward,) if isinstance(forward, str) else tuple(forward)


#: The default of each argument that a context can set.
DEFAULTS: dict[str, Any] = {name: Default(value) for name, value in Settings._field_defaults.items() if name != "depth"}

_current: ContextVar[Settings] = ContextVar("shoal settings")
_DEFAULT = _of_process = Settings()


def current() -> Settings:
    """Return the settings of the current context; if it has none of its own, those of the process."""
    return _current.get(_of_process)


def set_defaults(settings: Settings) -> None:
    """Set the settings of the process. They apply in every thread and task that has no context of its own.

    A program that is run for others needs this, because a new thread does not inherit the context of its parent.
    """
    global _of_process
    _of_process = settings


def use(settings: Settings) -> None:
    """Set the settings of the current context."""
    _current.set(settings)


def context_of_backend(context: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the setting `context`, and the options of the backend: a context of multiprocessing is one of these."""
    if hasattr(context, "Process"):
        return DEFAULTS["context"], {**options, "context": context}
    return context, options


def given(**arguments: Any) -> dict[str, Any]:
    """Return the arguments that are not a :class:`Default`."""
    return {name: value for name, value in arguments.items() if not isinstance(value, Default)}


def origins_of(context: Settings, arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return which arguments are given, ``"argument"``, and which ones the ``"context"`` sets, by their names."""
    changed = zip(context._fields, context, _DEFAULT, strict=True)
    origins = {name: "context" for name, value, default in changed if value is not default}
    for name, value in arguments.items():
        if not isinstance(value, Default) and not (value is None and name in ("backend", "n_jobs")):
            origins[name] = "argument"
    return origins


def with_report(values: dict[str, Any]) -> dict[str, Any]:
    """Return values of settings, in which the path of a report is replaced by a report that is written there.

    Raises
    ------
    ValueError, TypeError
        If no report can be written there.
    """
    if values.get("report") is None:
        return values
    from shoal.reports._report import report_at

    return {**values, "report": report_at(values["report"])}


def resolve(backend: Any = None, **arguments: Any) -> tuple[Backend, Settings]:
    """Return the backend and the settings of a run.

    Parameters
    ----------
    backend
        The argument `backend` of ``Parallel``, which may be a :class:`Default`.
    **arguments
        The other arguments. The context sets those that are a :class:`Default`.

    Raises
    ------
    ValueError
        If there is no such backend, or the settings contradict each other.
    """
    context = current()
    values = given(**arguments)
    settings = context._replace(**values)
    check({**values, "prefer": settings.prefer, "require": settings.require})
    if values.get("report") is not None:
        settings = settings._replace(**with_report(values))
    if backend is None or isinstance(backend, Default):
        chosen = _choose(context.backend, settings)
    else:
        chosen = named(backend)
    if settings.n_jobs is None:
        settings = settings._replace(n_jobs=chosen.default_n_jobs)
    if arguments.get("require") == "sharedmem" and not chosen.in_process:
        raise ValueError(f"Backend {chosen} does not support shared memory, which require='sharedmem' asks for")
    return chosen, settings


def survives_failures(settings: Settings) -> bool:
    """Tell whether a run may go on after a call has failed."""
    return settings.on_error == "return" or settings.retries != 0


def _choose(active: Backend | str | None, settings: Settings) -> Backend:
    """Return the backend of the context, unless `prefer` or `require` ask for another one."""
    backend = named(active if active is not None else backends.default_name())
    threads = (settings.require == "sharedmem" and not backend.in_process) or (
        active is None and settings.prefer == "threads" and not backend.in_process
    )
    if threads:
        if active is not None and (as_number(settings.verbose) or 0) >= 10:
            print(  # noqa: T201 as joblib does
                f"Using ThreadingBackend as shoal backend instead of {type(backend).__name__} as the latter does not "
                "provide shared memory semantics."
            )
        return backends.create("threading")
    if active is None and settings.prefer == "processes" and backend.in_process and backends.has_processes():
        return backends.create("loky")
    return backend


def named(backend: Any) -> Backend:
    """Return the backend that an argument names: a backend, a context of multiprocessing, an executor, or a name."""
    if isinstance(backend, Backend):
        return backend
    refuse_calls("backend", backend)
    if hasattr(backend, "Pool") and hasattr(backend, "Lock"):
        return backends.create("multiprocessing", context=backend)
    if callable(getattr(backend, "submit", None)):
        return backends.create("executor", executor=backend)
    return backends.create(backend)


#: For runs inside a call: the name of their backend, their depth, the number of CPUs that they share (None for all),
#: and the number of workers, from index 0 on, in which it is one CPU more.
Nested = tuple[str, int, int | None, int]


class nested_settings:
    """A block that runs under the settings of a call. They are the defaults, but for the backend, the depth, the CPUs.

    Parameters
    ----------
    backend, depth, cpus, n_first
        As for :data:`Nested`.
    here
        The calls of this thread, if it is a worker. Then its BLAS threads are limited too, also after the block.
    """

    __slots__ = ("_cpus", "_here", "_settings", "_tokens")

    def __init__(
        self, backend: str, depth: int, cpus: int | None, n_first: int = 0, here: CallHere | None = None
    ) -> None:
        if n_first and cpus is not None:
            index = worker_index() if here is None else here.worker
            cpus += index is not None and index < n_first
        self._settings, self._cpus, self._here = _nested(backend, depth), cpus, here

    def __enter__(self) -> None:
        here = None if self._here is None else call_here.set(self._here)
        if self._here is not None and self._cpus is not None:
            from shoal.backends._blas import cap_this_thread

            cap_this_thread(self._cpus)
        self._tokens = _current.set(self._settings), budget_of_call.set(self._cpus), here

    def __exit__(self, *_: object) -> None:
        settings, budget, here = self._tokens
        if here is not None:
            call_here.reset(here)
        budget_of_call.reset(budget)
        _current.reset(settings)


@functools.lru_cache(64)
def _nested(backend: str, depth: int) -> Settings:
    return Settings(backend=backend, depth=depth)


def effective_n_jobs(n_jobs: int | None = -1) -> int:
    """Return how many workers ``Parallel(n_jobs=n_jobs)`` would use here.

    Parameters
    ----------
    n_jobs : int, optional
        As for :class:`~shoal.Parallel`. None means what the context sets, otherwise the backend's default.

    Returns
    -------
    int
        The number of workers, at least 1.

    Raises
    ------
    ValueError
        If `n_jobs` is 0, or no integer can be made of it.

    Notes
    -----
    Thread-safe.
    """
    backend, settings = resolve(n_jobs=DEFAULTS["n_jobs"] if n_jobs is None else integer(n_jobs))
    return backend.workers(settings.n_jobs, settings.depth)
