"""loky's executor, with workers that map large arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._memmapping_reducer import TemporaryResourcesManager, get_memmapping_reducers

if TYPE_CHECKING:

    class _ReusablePoolExecutor:  # loky has no types
        get_reusable_executor: Any
        shutdown: Any
        submit: Any
        map: Any

else:
    from loky.reusable_executor import _ReusablePoolExecutor

__all__ = ["MemmappingExecutor", "get_memmapping_executor"]

_executor_args: dict[str, Any] | None = None


def get_memmapping_executor(n_jobs: int, **kwargs: Any) -> MemmappingExecutor:
    """Return an executor with `n_jobs` workers: the last one, if it was made with the same arguments."""
    return MemmappingExecutor.get_memmapping_executor(n_jobs, **kwargs)


class MemmappingExecutor(_ReusablePoolExecutor):
    """loky's reusable executor, whose workers map large arrays."""

    _temp_folder_manager: TemporaryResourcesManager

    @classmethod
    def get_memmapping_executor(
        cls,
        n_jobs: int,
        timeout: float | None = 300,
        initializer: Any = None,
        initargs: Any = (),
        env: dict[str, str] | None = None,
        temp_folder: str | None = None,
        context_id: str | None = None,
        **backend_args: Any,
    ) -> MemmappingExecutor:
        """Return an executor with `n_jobs` workers: the last one, if it was made with the same arguments."""
        global _executor_args
        args = {**backend_args, **(env or {}), "timeout": timeout, "initializer": initializer, "initargs": initargs}
        reuse = _executor_args is None or _executor_args == args
        _executor_args = args
        manager = TemporaryResourcesManager(temp_folder, eager=context_id is None)
        job_reducers, result_reducers = get_memmapping_reducers(
            temp_folder_resolver=lambda: manager.folder().path(), **backend_args
        )
        executor, reused = super().get_reusable_executor(
            n_jobs,
            job_reducers=job_reducers,
            result_reducers=result_reducers,
            reuse=reuse,
            timeout=timeout,
            initializer=initializer,
            initargs=initargs,
            env=env,
        )
        if not reused:
            executor._temp_folder_manager = manager
        if context_id is not None:
            executor._temp_folder_manager.register_new_context(context_id)
        return executor  # type: ignore[no-any-return]

    @property
    def _temp_folder(self) -> str:
        known: str | None = vars(self).get("_known_folder")
        if known is None:
            known = self._known_folder = self._temp_folder_manager.resolve_temp_folder_name()
        return known

    def terminate(self, kill_workers: bool = False) -> None:
        """End the workers, and remove the files of arrays."""
        self.shutdown(kill_workers=kill_workers)
        self._temp_folder_manager._clean_temporary_resources(force=kill_workers, allow_non_empty=True)


class _TestingMemmappingExecutor(MemmappingExecutor):
    """A :class:`MemmappingExecutor` with the methods of a pool."""

    def apply_async(self, func: Any, args: Any) -> Any:
        """Submit a call; return its future, which gets a method ``get``."""
        future = self.submit(func, *args)
        future.get = future.result
        return future

    def map(self, f: Any, *args: Any) -> list[Any]:
        """Return the list of the results for each argument."""
        return list(super().map(f, *args))
