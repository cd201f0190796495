"""Backends of joblib's contract for which one of shoal's does the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from shoal import backends
from shoal.backends.base import Backend, Slot, WorkerSpec

from ._backend_base import FallbackToBackend, ParallelBackendBase, SequentialBackend

#: The methods by which batches travel. Who overrides one is in joblib's own way of doing it from then on.
_PROTOCOL = (
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
    """Stands for the workers of one of shoal's backends, which are its own affair.

    Attributes
    ----------
    _initializer, _initargs
        What each worker calls first; what is set here counts for the workers that start next.
    """

    def __init__(self, folder: str, initializer: Any, initargs: Any) -> None:
        self._temp_folder = folder
        self._initializer = initializer
        self._initargs = tuple(initargs or ())

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a call on the workers of :func:`shoal.executor`."""
        from shoal.parallel._executor import executor

        with executor(2) as workers:
            return workers.submit(fn, *args, **kwargs)


class _Served(ParallelBackendBase):
    """A backend of joblib's for which one of shoal's does the work."""

    _core: ClassVar[str]  # its name in shoal
    _shown: ClassVar[str]  # the attribute in which joblib has the workers
    _passed: ClassVar[frozenset[str]] = frozenset()  # what shoal's takes of what configure() is given
    _methods: ClassVar[tuple[Any, ...]]  # of the protocol, as they are here
    supports_retrieve_callback = True
    _n_jobs = 1
    _initializer: Any = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._given: dict[str, Any] = {}
        self._backend: Backend | None = None

    @property
    def served(self) -> bool:
        """Whether shoal's backend does the work: no method by which batches travel is another's."""
        kind = type(self)
        return self.supports_retrieve_callback and kind._methods == tuple(
            getattr(kind, name, None) for name in _PROTOCOL
        )

    def _ready(self, n_jobs: int, parallel: Any, given: dict[str, Any]) -> None:
        """Be ready for runs of a ``Parallel``, without a pool of joblib's kind."""
        self.parallel, self._n_jobs = parallel, n_jobs
        self._given = {name: value for name, value in given.items() if name in self._passed}
        folder = ""
        if parallel is not None and not self.in_process:
            folder = parallel._temporary_folder(given.get("temp_folder"))
            # A subclass may have changed what its configure() was given.
            changed = {name: given[name] for name in ("max_nbytes", "mmap_mode") if name in given}
            parallel._plan = parallel._plan.changed(**changed)
        setattr(self, self._shown, _Workers(folder, given.get("initializer"), given.get("initargs")))

    def _renew(self) -> None:
        """Take note that a run has failed: the workers of before are not those of the next."""
        shown = getattr(self, self._shown, None)
        if isinstance(shown, _Workers):
            setattr(self, self._shown, _Workers(shown._temp_folder, shown._initializer, shown._initargs))

    def _options(self) -> dict[str, Any]:
        shown = getattr(self, self._shown, None)
        if isinstance(shown, _Workers) and shown._initializer is not None:
            return {**self._given, "initializer": shown._initializer, "initargs": shown._initargs}
        return self._given

    def _doing(self) -> Backend:
        if self._backend is None:
            self._backend = backends.create(self._core)
        return self._backend

    def open(self, spec: WorkerSpec) -> list[Slot]:
        """Return the slots of shoal's backend, or one over :meth:`submit`."""
        if not self.served:
            return super().open(spec)
        return self._doing().open(spec._replace(options={**spec.options, **self._options()}))

    def close(self, slots: list[Slot]) -> None:
        """Take back slots."""
        if self.served:
            self._doing().close(slots)
        else:
            super().close(slots)

    def abort(self, slot: Slot) -> Slot:
        """Stop what a slot runs."""
        return self._doing().abort(slot) if self.served else super().abort(slot)

    def retire(self, slot: Slot, pid: int) -> bool:
        """Have another process take the place of a slot's worker."""
        return self._doing().retire(slot, pid)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_backend", "parallel", "_given")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _backend=None, _given={})


class _Other(_Served):
    """A backend of shoal's that joblib does not have.

    Parameters
    ----------
    backend
        One of shoal's.
    """

    _shown = "_workers"
    served = True
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
        """Get ready for the runs of a ``Parallel``."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self._ready(n_jobs, parallel, backend_kwargs)
        passed = self._backend.options
        ours = {"temp_folder", "max_nbytes", "mmap_mode", "verbose", "context"}
        self._given = {
            name: value
            for name, value in backend_kwargs.items()
            if name not in ours and (passed is None or name in passed)
        }
        return n_jobs

    def nested(self, depth: int) -> str:
        """Return the name of the backend for runs that the calls make."""
        return self._backend.nested(depth)
