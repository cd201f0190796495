"""Batches as a backend of joblib's contract is given them, and what it calls when one is done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ._config import parallel_config

TASK_DONE = "Done"
TASK_ERROR = "Error"
TASK_PENDING = "Pending"


class BatchedCalls:
    """Calls that a backend runs together; calling it returns a list of their results.

    Parameters
    ----------
    iterator_slice
        The calls.
    backend_and_jobs
        The backend for runs that they make, and its `n_jobs`.
    reducer_callback
        Called before it is pickled.
    pickle_cache
        A dictionary that all batches of a run have in common.

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
        self.items = list(iterator_slice)
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
    """Called in the program when a batch is done. A class put in its place is called for each, with `batch_size`.

    Parameters
    ----------
    dispatch_timestamp
        When the batch was handed out, by ``time.time()``.
    batch_size
        The number of its calls.
    parallel
        Whose they are.
    """

    _take: Any = None

    def __init__(self, dispatch_timestamp: float, batch_size: int, parallel: Any) -> None:
        self.dispatch_timestamp = dispatch_timestamp
        self.batch_size = batch_size
        self.parallel = parallel
        self.job: Any = None
        self.status: str | None = TASK_PENDING if parallel._backend.supports_retrieve_callback else None

    def register_job(self, job: Any) -> None:
        """Take note of what the backend has returned for the batch."""
        self.job = job

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Take what came of the batch from a backend that calls this."""
        backend = self.parallel._backend
        if self._take is None or not backend.supports_retrieve_callback:
            return
        try:
            result, error = backend.retrieve_result_callback(*args, **kwargs), None
        except BaseException as raised:
            result, error = None, raised
        self.status = TASK_DONE if error is None else TASK_ERROR
        take, self._take = self._take, None
        take(result, error)


class ContextSetter:
    """Has arrays go to the folder of a Parallel when a batch of its is pickled."""

    def __init__(self, workers: Any, context_id: str) -> None:
        self._workers, self._id = workers, context_id

    def __call__(self) -> None:
        self._workers._temp_folder_manager.set_current_context(self._id)
