"""Batches for backends of joblib's contract, and the callbacks that these backends call when a batch is done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ._config import parallel_config

TASK_DONE = "Done"
TASK_ERROR = "Error"
TASK_PENDING = "Pending"


class BatchedCalls:
    """Calls that a backend runs together. Calling the object returns the list of their results.

    Parameters
    ----------
    iterator_slice
        The calls.
    backend_and_jobs
        The backend for runs inside a call, and its `n_jobs`.
    reducer_callback
        Called before the batch is pickled.
    pickle_cache
        A dictionary that all batches of a run share.

    Attributes
    ----------
    items
        The calls: tuples of function, arguments and keywords.
    """

    def __init__(
        self,
        iterator_slice: Iterable[Any],
        backend_and_jobs: Any,
        reducer_callback: Any = None,
        pickle_cache: Any = None,
    ) -> None:
        self.items: list[Any] = list(iterator_slice)
        self._size = len(self.items)
        self._reducer_callback = reducer_callback
        self._backend, self._n_jobs = (
            backend_and_jobs if isinstance(backend_and_jobs, tuple) else (backend_and_jobs, None)
        )
        self._pickle_cache = {} if pickle_cache is None else pickle_cache

    def __call__(self) -> list[Any]:
        """Run the calls."""
        with parallel_config(backend=self._backend, n_jobs=self._n_jobs):
            return [function(*args, **kwargs) for function, args, kwargs in self.items]

    def __reduce__(self) -> Any:
        if self._reducer_callback is not None:
            self._reducer_callback()
        return BatchedCalls, (self.items, (self._backend, self._n_jobs), None, self._pickle_cache)

    def __len__(self) -> int:
        return self._size


class BatchCompletionCallBack:
    """Called in the calling process when a batch is done. A class that replaces it is called for each batch.

    Parameters
    ----------
    dispatch_timestamp
        The ``time.time()`` at which the batch was sent.
    batch_size
        The number of calls in the batch.
    parallel
        The ``Parallel`` that runs them.
    """

    _deliver: Any = None

    def __init__(self, dispatch_timestamp: float, batch_size: int, parallel: Any) -> None:
        self.dispatch_timestamp = dispatch_timestamp
        self.batch_size = batch_size
        self.parallel = parallel
        self.job: Any = None
        self.status: str | None = TASK_PENDING if parallel._backend.supports_retrieve_callback else None

    def register_job(self, job: Any) -> None:
        """Keep the job that the backend returned for the batch."""
        self.job = job

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Deliver the outcome of the batch; called by backends that support callbacks."""
        backend = self.parallel._backend
        if self._deliver is None or not backend.supports_retrieve_callback:
            return
        try:
            result, error = backend.retrieve_result_callback(*args, **kwargs), None
        except BaseException as raised:
            result, error = None, raised
        self.status = TASK_DONE if error is None else TASK_ERROR
        deliver, self._deliver = self._deliver, None
        deliver(result, error)


class ContextSetter:
    """Selects the folder of a ``Parallel`` for the arrays of a batch that is about to be pickled."""

    def __init__(self, workers: Any, context_id: str) -> None:
        self._workers, self._id = workers, context_id

    def __call__(self) -> None:
        self._workers._temp_folder_manager.set_current_context(self._id)
