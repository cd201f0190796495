"""The plan of a run: the values of all arguments, decided once from the call, the context and the defaults.

::

    Parallel(...)     Parallel(...) under the name joblib     executor(...)
          └───────────────────────┴────────────┬────────────────────┘
                                               │ plan_of: an argument goes before the context,
                                               v          the context before the default
                                             Plan
          ┌────────────────────────────────────┴────────────────────┐
          v                                                         v
    _runner.in_caller ── one worker ──> _serial             _executor_loop.Loop
    _runner.start ────── several ─────> _launch.make_run <──────────┘

Every function that runs calls takes the plan. CONTRIBUTING.md lists the steps that add an argument to ``Parallel``.
"""

from __future__ import annotations

import threading
from collections.abc import Sized
from contextvars import ContextVar
from functools import partial

from shoal._cpus import cpu_shares, thread_limits
from shoal._hints import hint
from shoal._typing import TYPE_CHECKING, Generic, NamedTuple, R, overload
from shoal.backends import WorkerSpec
from shoal.parallel._delayed import check_input
from shoal.parallel.options._checks import check, integer
from shoal.parallel.options._settings import (
    DEFAULTS,
    Default,
    Settings,
    context_of_backend,
    current,
    origins_of,
    resolve,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, TypeAlias

    from typing_extensions import Self

    from shoal.backends import Backend, Slot
    from shoal.observe._teller import Teller
    from shoal.parallel._delayed import Call
    from shoal.parallel.running._policies import Pace
    from shoal.parallel.running._resume import ResultCache
    from shoal.parallel.running._seeds import Seeds
    from shoal.reports._meter import Meter

RETURNS = ("list", "generator", "generator_unordered")

#: Whether the code here handles a message of a worker process, which may wait for that. Runs that are made here must
#: not wait for this process in turn, so they get workers of their own.
handles_message: ContextVar[bool] = ContextVar("shoal handles a message", default=False)

OnMessage: TypeAlias = "Callable[[int, Any], object]"
BatchSize: TypeAlias = "int | str | Callable[[Pace], int]"


class Plan(NamedTuple):
    """The values of all arguments of a run.

    Attributes
    ----------
    backend
        Runs the calls.
    settings
        The values that a context can set. Each is that of the argument, of the context or the default; `n_jobs` is a
        number.
    options
        The backend's own options.
    seeds
        Makes the random generators of the calls; None if they get none.
    own_workers
        Whether no other run may use the workers. An executor needs this, because its run lasts, and its calls may wait
        for each other.
    resends
        Whether to send functions and arrays again with each batch, because they may have changed since the last one.
    origins
        Returns, for reports, which values do not come from the defaults: ``"argument"`` or ``"context"``, by name.
    return_as, timeout, pre_dispatch, batch_size, memory, total, on_message
        As for :class:`~shoal.Parallel`.
    """

    backend: Backend
    settings: Settings
    options: Mapping[str, Any] = {}
    return_as: str = "list"
    timeout: float | None = None
    pre_dispatch: int | str = "2 * n_jobs"
    batch_size: BatchSize = "auto"
    seeds: Seeds | None = None
    memory: ResultCache | None = None
    total: int | None = None
    on_message: OnMessage | None = None
    own_workers: bool = False
    resends: bool = False
    origins: Callable[[], Mapping[str, str]] = dict

    @property
    def generates(self) -> bool:
        """Whether the results are a generator."""
        return self.return_as != "list"

    def changed(self, **values: Any) -> Plan:
        """Return a plan in which the named fields, of the plan or of its settings, have other values."""
        own = {name: value for name, value in values.items() if name in self._fields}
        settings = {name: value for name, value in values.items() if name not in own}
        if settings:
            own["settings"] = self.settings._replace(**settings)
        return self._replace(**own)

    def checked(self) -> Plan:
        """Check the fields that no context can set; return the plan, with a timeout that a lock accepts.

        Raises
        ------
        ValueError
            If a value cannot be used.
        """
        return_as, batch_size, timeout = self.return_as, self.batch_size, self.timeout
        if return_as not in RETURNS:
            near = hint(return_as, RETURNS) or "."
            message = f"Expected `return_as` parameter to be one of {RETURNS}, but got {return_as!r} instead{near}"
            raise ValueError(message)
        check({"batch_size": batch_size, "timeout": timeout})
        if self.generates and not self.backend.supports_return_generator:
            message = f"Backend {self.backend} does not support return_as={return_as!r}; use loky or threading"
            raise ValueError(message)
        if timeout is None:
            return self
        return self._replace(timeout=min(timeout if type(timeout) is int else float(timeout), threading.TIMEOUT_MAX))

    def workers(self) -> int:
        """Return the number of workers of a run that begins now."""
        return self.backend.workers(self.settings.n_jobs, self.settings.depth)

    def open(self, n_workers: int, shares: tuple[int, int]) -> list[Slot]:
        """Open the backend's slots for `n_workers` workers, which have :meth:`cpu_shares`."""
        backend = self.backend
        own = self.own_workers or handles_message.get()
        if backend.in_process:
            return backend.open(WorkerSpec(n_workers, {}, self.options, own))
        inner = backend.inner_max_num_threads
        share, n_first = shares
        environment = thread_limits(inner, share)
        first = thread_limits(inner, share + 1) if n_first else environment
        return backend.open(WorkerSpec(n_workers, environment, self.options, own, n_first, first))

    def cpu_shares(self, n_workers: int) -> tuple[int, int]:
        """Return the number of CPUs of each worker, and the number of workers, from index 0 on, that get one more.

        A negative `n_jobs` leaves CPUs free on purpose, so nobody gets what is left over then.
        """
        share, left_over = cpu_shares(n_workers)
        return share, 0 if (self.settings.n_jobs or 0) < 0 else left_over

    def bound(self, n_workers: int) -> int | None:
        """Return the number of batches that may be in flight; None for no bound.

        Raises
        ------
        ValueError, TypeError
            If `pre_dispatch` cannot be computed, or is less than 1.
        """
        pre_dispatch = self.pre_dispatch
        if pre_dispatch == "all":
            return None
        if isinstance(pre_dispatch, str):
            from shoal.parallel.options._expressions import evaluate

            bound = evaluate(pre_dispatch, n_workers)
        else:
            try:
                bound = int(pre_dispatch)
            except (TypeError, ValueError, OverflowError):
                raise TypeError(
                    f"pre_dispatch must be 'all', a number or an expression like '2 * n_jobs', got: {pre_dispatch!r}"
                ) from None
        if bound < 1:
            raise ValueError(f"pre_dispatch must be at least 1 batch, got: {pre_dispatch!r}, which is {bound}")
        return bound

    def input(self, iterable: Iterable[Call]) -> tuple[Iterable[Call], int | None]:
        """Return the calls of a run, and their number if it is known.

        Calls get their random generators here, and known results replace calls.

        Raises
        ------
        TypeError
            If `iterable` is no iterable, or is one call by itself.
        """
        check_input(iterable)
        number = len(iterable) if isinstance(iterable, Sized) else None
        if self.seeds is not None:
            iterable = self.seeds.seeded(iterable)
        if self.memory is not None:
            from shoal.parallel.running._resume import with_known

            iterable = with_known(iterable, self.memory)
        return iterable, number

    def meter(self, n_workers: int, number: int | None) -> Meter | None:
        """Return the meter of a run that begins now; None if the run is in no report.

        Parameters
        ----------
        n_workers
            The number of workers.
        number
            The number of calls; None if it is not known.
        """
        from shoal.reports._active import collectors_of

        collectors = collectors_of(self.settings.report)
        if not collectors:
            return None
        from shoal.parallel.options._origins import meter_of

        values = {**self.settings._asdict(), **self._asdict()}
        origins = {name: "argument" for name, value in self._field_defaults.items() if values[name] != value}
        return meter_of(collectors, values, {**origins, **self.origins()}, n_workers, number)

    def listener(self, label: str, n_workers: int, number: int | None) -> Teller | None:
        """Return the listener of a run, which was told that the run began; None if neither lines nor a bar are shown.

        Parameters
        ----------
        label
            The beginning of the lines of `verbose` and of the progress bar.
        n_workers
            The number of workers.
        number
            The number of calls; None if it is not known: then ``total=`` counts.
        """
        verbose, progress = self.settings.verbose, self.settings.progress
        if not verbose and progress is False:
            return None
        from shoal.observe._teller import RunStarted, make_teller

        started = RunStarted(n_workers, type(self.backend).__name__, self.total if number is None else number)
        return make_teller(verbose, progress, label, self.bound(n_workers) or 0, started)


def plan_of(
    called: str,
    takes: Iterable[str],
    options: dict[str, Any],
    *,
    n_jobs: Any,
    backend: Any,
    return_as: str = "list",
    timeout: float | None = None,
    pre_dispatch: int | str = "2 * n_jobs",
    batch_size: BatchSize = "auto",
    seed: Any = None,
    memory: ResultCache | None = None,
    total: int | None = None,
    on_message: OnMessage | None = None,
    **settings: Any,
) -> Plan:
    """Return the plan for arguments in the current context.

    Parameters
    ----------
    called, takes
        The name of the function that the user called, and the names of its arguments; for error messages.
    options
        The other keywords that it received, which are options of the backend.
    n_jobs, backend, return_as, timeout, pre_dispatch, batch_size, seed, memory, total, on_message
        As for :class:`~shoal.Parallel`.
    **settings
        The other arguments that a context can set. The context sets those that are a :class:`Default`.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used, or arguments contradict each other.
    """
    if memory is not None and not (hasattr(memory, "get") and hasattr(memory, "put")):
        raise TypeError(f"memory must have the methods get(call, default) and put(call, value), got: {memory!r}")
    n_jobs = DEFAULTS["n_jobs"] if n_jobs is None or isinstance(n_jobs, Default) else integer(n_jobs)
    settings["context"], options = context_of_backend(settings["context"], options)
    chosen, resolved = resolve(backend, n_jobs=n_jobs, **settings)
    origins = partial(origins_of, current(), {"n_jobs": n_jobs, "backend": backend, **settings})
    chosen.check_placement(options)
    if chosen.given_options or options:
        from shoal.parallel.options._names import check_options

        check_options(called, takes, chosen, {**chosen.given_options, **options}, resolved.depth)
    check({"total": total, "on_message": on_message})
    plan = Plan(
        chosen,
        resolved,
        options,
        return_as,
        timeout,
        pre_dispatch,
        batch_size,
        memory=memory,
        total=total,
        on_message=on_message,
        origins=origins,
    ).checked()
    if seed is None:
        return plan
    from shoal.parallel.running._seeds import Seeds

    return plan._replace(seeds=Seeds(seed))


class Planned(Generic[R]):
    """An attribute that is a field of its object's plan. Assigning it changes the plan of later runs.

    Parameters
    ----------
    field
        The name of the field, in :class:`Plan` or :class:`Settings`; by default that of the attribute.
    """

    def __init__(self, field: str = "") -> None:
        self._field = field

    def __set_name__(self, _owner: type, name: str) -> None:
        self._field = self._field or name

    @overload
    def __get__(self, instance: None, _owner: type | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, _owner: type | None = None) -> R: ...
    def __get__(self, instance: Any, _owner: type | None = None) -> Any:
        if instance is None:
            return self
        plan: Plan = instance._plan
        return getattr(plan if self._field in Plan._fields else plan.settings, self._field)

    def __set__(self, instance: Any, value: R) -> None:
        instance._plan = instance._plan.changed(**{self._field: value})
