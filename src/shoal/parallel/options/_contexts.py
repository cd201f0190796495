"""The context managers that set the settings of a context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoal import backends
from shoal.backends import Backend
from shoal.parallel.options._checks import check, integer
from shoal.parallel.options._names import check_options, check_unowned
from shoal.parallel.options._settings import (
    DEFAULTS,
    Default,
    Settings,
    context_of_backend,
    current,
    given,
    named,
    use,
    with_report,
)

if TYPE_CHECKING:
    import os

    from shoal._typing import Raises, Returns
    from shoal.observe._logger import LogsInfo
    from shoal.parallel.options._settings import (
        BackendContext,
        Context,
        Forward,
        MmapMode,
        Prefer,
        Progress,
        Require,
        Retries,
        RetryOn,
        RetryWait,
        Size,
        Submits,
    )
    from shoal.reports._report import Report


class parallel_config:
    """Set defaults of the arguments of ``Parallel``: within a ``with`` block, or from now on.

    Parameters
    ----------
    backend : str, Backend, executor or multiprocessing context, optional
        The backend of all runs that name none.
    n_jobs, verbose, temp_folder, max_nbytes, mmap_mode, prefer, require, progress, retries, retry_on, retry_wait, \
on_error, task_timeout, max_pending, max_tasks_per_worker, max_worker_memory, forward, context, report
        As for :class:`~shoal.Parallel`. An argument of ``Parallel`` takes precedence.
    inner_max_num_threads : int, optional
        The number of threads that BLAS and OpenMP may use in each worker process. It needs `backend`.
    **backend_params
        Options of the backend. They need `backend`, as a name.

    Raises
    ------
    ValueError
        If there is no such backend, a value cannot be used, or `backend_params` are given without the name of one.
    TypeError
        If an argument has the wrong type, or neither shoal nor the backend takes it.

    Notes
    -----
    The settings belong to the current context (:mod:`contextvars`), which is that of one thread or one asyncio task.
    Blocks may be nested: an inner block changes the arguments that it names, and keeps the others. Without ``with``,
    ``unregister()`` restores the earlier settings.

    Examples
    --------
    >>> from shoal import Parallel, delayed, parallel_config
    >>> with parallel_config(backend="threading", n_jobs=2):
    ...     Parallel()(delayed(abs)(x) for x in [-1, 2])
    [1, 2]
    """

    def __init__(
        self,
        backend: str | Backend | BackendContext | Submits | None = DEFAULTS["backend"],
        *,
        n_jobs: int | None = DEFAULTS["n_jobs"],
        verbose: int | LogsInfo = DEFAULTS["verbose"],
        temp_folder: str | os.PathLike[str] | None = DEFAULTS["temp_folder"],
        max_nbytes: Size | None = DEFAULTS["max_nbytes"],
        mmap_mode: MmapMode | None = DEFAULTS["mmap_mode"],
        prefer: Prefer | None = DEFAULTS["prefer"],
        require: Require | None = DEFAULTS["require"],
        progress: Progress = DEFAULTS["progress"],
        retries: Retries = DEFAULTS["retries"],
        retry_on: RetryOn = DEFAULTS["retry_on"],
        retry_wait: RetryWait = DEFAULTS["retry_wait"],
        on_error: Raises | Returns = DEFAULTS["on_error"],
        task_timeout: float | None = DEFAULTS["task_timeout"],
        max_pending: int | None = DEFAULTS["max_pending"],
        max_tasks_per_worker: int | None = DEFAULTS["max_tasks_per_worker"],
        max_worker_memory: Size | None = DEFAULTS["max_worker_memory"],
        forward: Forward = DEFAULTS["forward"],
        context: Context | None = DEFAULTS["context"],
        report: str | os.PathLike[str] | Report | None = DEFAULTS["report"],
        inner_max_num_threads: int | None = None,
        **backend_params: Any,
    ) -> None:
        self._before = current()
        context, backend_params = context_of_backend(context, backend_params)
        values = given(
            n_jobs=n_jobs,
            verbose=verbose,
            temp_folder=temp_folder,
            max_nbytes=max_nbytes,
            mmap_mode=mmap_mode,
            prefer=prefer,
            require=require,
            progress=progress,
            retries=retries,
            retry_on=retry_on,
            retry_wait=retry_wait,
            on_error=on_error,
            task_timeout=task_timeout,
            max_pending=max_pending,
            max_tasks_per_worker=max_tasks_per_worker,
            max_worker_memory=max_worker_memory,
            forward=forward,
            context=context,
            report=report,
        )
        check(values)
        values = with_report(values)
        if values.get("n_jobs") is not None:
            values["n_jobs"] = integer(n_jobs)
        configured = _configured(type(self).__name__, backend, inner_max_num_threads, backend_params)
        self.settings: Settings = self._before._replace(**values, **given(backend=configured))
        use(self.settings)

    def __enter__(self) -> Any:
        return self.settings

    def __exit__(self, *exc_info: object) -> None:
        self.unregister()

    def unregister(self) -> None:
        """Restore the settings that were in effect before."""
        use(self._before)


class parallel_backend(parallel_config):
    """Set the default backend and number of workers: the older form of :class:`parallel_config`.

    Parameters
    ----------
    backend : str, Backend, executor or multiprocessing context
        The backend of all runs that name none.
    n_jobs : int
        The number of workers. The default is -1, one per CPU.
    inner_max_num_threads, **backend_params
        As for :class:`parallel_config`.
    """

    def __init__(
        self,
        backend: str | Backend | BackendContext | Submits | None,
        n_jobs: int = -1,
        inner_max_num_threads: int | None = None,
        **backend_params: Any,
    ) -> None:
        super().__init__(backend, n_jobs=n_jobs, inner_max_num_threads=inner_max_num_threads, **backend_params)

    def __enter__(self) -> tuple[Backend | str | None, int | None]:
        return self.settings.backend, self.settings.n_jobs


def _configured(caller: str, backend: Any, inner_max_num_threads: int | None, backend_params: dict[str, Any]) -> Any:
    """Return the backend that a context names, made with its options."""
    check({"inner_max_num_threads": inner_max_num_threads})
    inner = {} if inner_max_num_threads is None else {"inner_max_num_threads": inner_max_num_threads}
    if isinstance(backend, Default) or backend is None:
        check_unowned(caller, DEFAULTS, {**backend_params, **inner})
        return backend
    if isinstance(backend, str):
        created = backends.create(backend, **backend_params, **inner)
        check_options(caller, [*DEFAULTS, "inner_max_num_threads"], created, created.given_options)
        return created
    if backend_params:
        raise ValueError("Constructor parameters backend_params are only supported when backend is a string.")
    backend = named(backend)
    if inner_max_num_threads is not None:
        if not backend.supports_inner_max_num_threads:
            raise AssertionError(f"{type(backend).__name__} does not accept setting inner_max_num_threads.")
        backend.inner_max_num_threads = inner_max_num_threads
    return backend
