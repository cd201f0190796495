"""joblib's backend for dask, which delegates its work to shoal's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from shoal import backends
from shoal.backends import Backend
from shoal.parallel.options._settings import nested_settings
from shoal.parallel.transport._engines import task_name

from ._delegating import _BATCH_METHODS, _Delegating
from ._pools import AutoBatchingMixin
from ._utils import _retrieve_traceback_capturing_wrapped_call, _TracebackCapturingWrapper

__all__ = ["Batch", "DaskDistributedBackend"]


class Batch:
    """Runs calls, and has a ``repr`` that names them: ``batch_of_f_3_calls``."""

    def __init__(self, tasks: list[Any]) -> None:
        self._name = task_name(tasks)

    def __call__(self, tasks: Any = ()) -> list[Any]:
        """Run calls; their own runs use dask too."""
        with nested_settings("dask", 0, None):
            return [function(*args, **kwargs) for function, args, kwargs in tasks]

    def __repr__(self) -> str:
        return self._name


class DaskDistributedBackend(AutoBatchingMixin, _Delegating):
    """Runs calls on all threads of a dask cluster, whatever `n_jobs` is.

    Parameters
    ----------
    scheduler_host, scatter, client, loop, wait_for_workers_timeout, **submit_kwargs
        As for ``shoal.parallel_config("dask")``.
    nesting_level
        Ignored, because a dask task is at depth 0 like a program.
    """

    MAX_IDEAL_BATCH_DURATION = 1
    name = "dask"
    default_n_jobs = -1
    distance = 10.0
    _shoal_name, _workers_attribute = "dask", "_workers"
    _backend: Backend

    def __init__(
        self,
        scheduler_host: str | None = None,
        scatter: Any = None,
        client: Any = None,
        loop: Any = None,
        wait_for_workers_timeout: float = 10,
        nesting_level: int | None = None,
        **submit_kwargs: Any,
    ) -> None:
        super().__init__(nesting_level=0)
        self._backend = backends.create(
            "dask",
            scheduler_host=scheduler_host,
            scatter=scatter,
            client=client,
            loop=loop,
            wait_for_workers_timeout=wait_for_workers_timeout,
            **submit_kwargs,
        )
        self.client: Any = self._backend.client  # type: ignore[attr-defined]
        self.wait_for_workers_timeout = wait_for_workers_timeout
        self.submit_kwargs = submit_kwargs

    def __reduce__(self) -> Any:
        return type(self), ()

    def effective_n_jobs(self, n_jobs: Any) -> int:
        """Return the number of threads of all workers; 0 if there is no worker and ``wait_for_workers_timeout=0``."""
        try:
            return self._backend.threads()  # type: ignore[attr-defined, no-any-return]
        except TimeoutError as error:
            raise TimeoutError(str(error).replace(type(self._backend).__name__, type(self).__name__)) from None

    def configure(self, n_jobs: int = 1, parallel: Any = None, **backend_args: Any) -> int:  # type: ignore[override]
        """Prepare for the runs of a ``Parallel``."""
        self.parallel = parallel
        if parallel is not None:  # as in joblib, calls can write to arrays that they share
            parallel._plan = parallel._plan.changed(mmap_mode="r+")
        return self.effective_n_jobs(n_jobs)

    def get_nested_backend(self) -> Any:
        """Return the backend for runs inside a call, and its `n_jobs`."""
        return DaskDistributedBackend(client=self.client), -1

    def nested(self, depth: int) -> str:
        """Return "dask"."""
        return self.name

    def submit(self, func: Any, callback: Callable[[Any], object] | None = None) -> Any:
        """Submit a batch as joblib does; subclasses call this."""
        key = f"{task_name(func.items)}-{uuid4().hex}"
        future = self.client.submit(_TracebackCapturingWrapper(func), key=key, pure=False, **self.submit_kwargs)
        if callback is not None:
            future.add_done_callback(lambda done: callback(_outcome(done)))
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        """Return the results, or raise the exception of a call."""
        return _retrieve_traceback_capturing_wrapped_call(out)


def _outcome(future: Any) -> Any:
    try:
        return future.result()
    except Exception as error:
        return error


DaskDistributedBackend._own_methods = tuple(getattr(DaskDistributedBackend, name, None) for name in _BATCH_METHODS)
