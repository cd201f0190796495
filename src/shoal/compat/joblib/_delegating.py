"""Backends of joblib's contract that delegate their work to one of shoal's backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from shoal import backends
from shoal.backends.base import Backend, Slot, WorkerSpec

from ._backend_base import FallbackToBackend, ParallelBackendBase, SequentialBackend

#: The methods by which batches travel. A subclass that overrides one of them does not delegate.
_BATCH_METHODS = (
    "_get_pool",
    "abort_everything",
    "apply_async",
    "batch_completed",
    "compute_batch_size",
    "get_nested_backend",
    "retrieve_result",
    "retrieve_result_callback",
    "submit",
    "terminate",
)


class _Workers:
    """Represents the workers of one of shoal's backends, which manages them itself.

    Attributes
    ----------
    _initializer, _initargs
        What each worker calls first. Assigning to them changes it for workers that start later.
    """

    def __init__(self, folder: str, initializer: Any, initargs: Any) -> None:
        self._temp_folder = folder
        self._initializer = initializer
        self._initargs = tuple(initargs or ())

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a call on a :func:`shoal.executor`."""
        from shoal.parallel._executor import executor

        with executor(2) as workers:
            return workers.submit(fn, *args, **kwargs)


class _Delegating(ParallelBackendBase):
    """A backend of joblib's contract that delegates its work to one of shoal's backends."""

    _shoal_name: ClassVar[str]  # the name of shoal's backend
    _workers_attribute: ClassVar[str]  # the attribute that holds the workers in joblib
    _passed_options: ClassVar[frozenset[str]] = frozenset()  # arguments of configure() that shoal's backend takes
    _own_methods: ClassVar[tuple[Any, ...]]  # the original _BATCH_METHODS
    supports_retrieve_callback = True
    _n_jobs = 1
    _initializer: Any = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._shoal_options: dict[str, Any] = {}
        self._backend: Backend | None = None

    @property
    def delegates(self) -> bool:
        """Whether shoal's backend does the work: no subclass has overridden one of ``_BATCH_METHODS``."""
        kind = type(self)
        return self.supports_retrieve_callback and kind._own_methods == tuple(
            getattr(kind, name, None) for name in _BATCH_METHODS
        )

    def _prepare(self, n_jobs: int, parallel: Any, given: dict[str, Any]) -> None:
        """Prepare for the runs of a ``Parallel``, without making a pool of joblib's kind."""
        self.parallel: Any = parallel
        self._n_jobs = n_jobs
        self._shoal_options = {name: value for name, value in given.items() if name in self._passed_options}
        folder = ""
        if parallel is not None and not self.in_process:
            folder = parallel._temporary_folder(given.get("temp_folder"))
            # The configure() of a subclass may have changed these arguments.
            changed = {name: given[name] for name in ("max_nbytes", "mmap_mode") if name in given}
            parallel._plan = parallel._plan.changed(**changed)
        setattr(self, self._workers_attribute, _Workers(folder, given.get("initializer"), given.get("initargs")))

    def _reset_workers(self) -> None:
        """Replace the object that represents the workers, because a run has failed and killed its workers."""
        workers = getattr(self, self._workers_attribute, None)
        if isinstance(workers, _Workers):
            replacement = _Workers(workers._temp_folder, workers._initializer, workers._initargs)
            setattr(self, self._workers_attribute, replacement)

    def _options(self) -> dict[str, Any]:
        workers = getattr(self, self._workers_attribute, None)
        if isinstance(workers, _Workers) and workers._initializer is not None:
            return {**self._shoal_options, "initializer": workers._initializer, "initargs": workers._initargs}
        return self._shoal_options

    def _shoal_backend(self) -> Backend:
        if self._backend is None:
            self._backend = backends.create(self._shoal_name)
        return self._backend

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return the slots of shoal's backend, or one slot that uses :meth:`submit`."""
        if not self.delegates:
            return super().open(spec)
        return self._shoal_backend().open(spec._replace(options={**spec.options, **self._options()}))

    def close(self, slots: list[Slot]) -> None:
        """Close slots."""
        if self.delegates:
            self._shoal_backend().close(slots)
        else:
            super().close(slots)

    def abort(self, slot: Slot) -> Slot:
        """Stop what a slot runs."""
        return self._shoal_backend().abort(slot) if self.delegates else super().abort(slot)

    def retire(self, slot: Slot, pid: int) -> bool:
        """Replace a slot's worker process."""
        return self._shoal_backend().retire(slot, pid)

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in vars(self).items() if name not in ("_backend", "parallel", "_shoal_options")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _backend=None, _shoal_options={})


class _ShoalBackend(_Delegating):
    """Makes a backend that only shoal has, such as "ray", usable under joblib's contract."""

    _workers_attribute = "_workers"
    delegates = True
    _backend: Backend

    def __init__(self, backend: Backend, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._backend = backend
        self.name = backend.name  # type: ignore[misc]
        self.default_n_jobs = backend.default_n_jobs  # type: ignore[misc]
        self.in_process = self.uses_threads = self.supports_sharedmem = backend.in_process  # type: ignore[misc]
        self.ships_bytes = backend.ships_bytes  # type: ignore[misc]
        self.replaces_workers = backend.replaces_workers  # type: ignore[misc]
        self.forks = backend.forks  # type: ignore[misc]
        self.distance = backend.distance  # type: ignore[misc]

    def effective_n_jobs(self, n_jobs: Any) -> int:
        """Return how many workers `n_jobs` means."""
        return self._backend.workers(n_jobs, self.nesting_level or 0)

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **backend_kwargs: Any
    ) -> int:
        """Prepare for the runs of a ``Parallel``."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self._prepare(n_jobs, parallel, backend_kwargs)
        accepted = self._backend.options
        handled = {"temp_folder", "max_nbytes", "mmap_mode", "verbose", "context"}
        self._shoal_options = {
            name: value
            for name, value in backend_kwargs.items()
            if name not in handled and (accepted is None or name in accepted)
        }
        return n_jobs

    def nested(self, depth: int) -> str:
        """Return the name of the backend for runs inside a call."""
        return self._backend.nested(depth)
