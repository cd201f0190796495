"""loky under the name that it has in joblib. Each module is that of the installed loky."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from shoal.errors import import_loky

_PREFIX = f"{__name__}."


class _Alias:
    """Finds loky's modules under the name of this package."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for any module inside this package."""
        return ModuleSpec(fullname, self) if fullname.startswith(_PREFIX) else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Import loky's module and return it."""
        module = importlib.import_module(f"loky.{spec.name.removeprefix(_PREFIX)}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec. The module itself was executed by :meth:`create_module`."""
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


if not any(type(finder).__name__ == "_Alias" and type(finder).__module__ == __name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _Alias())

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "BrokenProcessPool",
    "CancelledError",
    "Executor",
    "Future",
    "ProcessPoolExecutor",
    "TimeoutError",
    "as_completed",
    "cpu_count",
    "get_reusable_executor",
    "set_loky_pickler",
    "wait",
    "wrap_non_picklable_objects",
]


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__version__":
        raise AttributeError(name)
    import_loky()
    import loky

    try:
        return getattr(loky, name)
    except AttributeError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def get_reusable_executor(*args: Any, **kwargs: Any) -> Any:
    """Return loky's reusable executor.

    It starts workers of its own when a call is submitted. Its ``shutdown`` also ends the workers of ``Parallel``, as
    :func:`shoal.shutdown_workers` does, because joblib's users call it for that purpose.
    """
    import_loky()
    import loky

    executor = loky.get_reusable_executor(*args, **kwargs)
    if "shutdown" not in vars(executor):
        shutdown = executor.shutdown

        def shutdown_all(wait: bool = True, kill_workers: bool = False) -> None:
            shutdown(wait=wait, kill_workers=kill_workers)
            from shoal.backends._pool import shutdown_workers

            shutdown_workers(wait)

        executor.shutdown = shutdown_all
    return executor


def wrap_non_picklable_objects(obj: Any, keep_wrapper: bool = True) -> Any:
    """Wrap an object so that any pickler can pickle it, as :func:`shoal.wrap_non_picklable_objects` does."""
    from shoal.parallel._by_value import wrap_non_picklable_objects

    return wrap_non_picklable_objects(obj, keep_wrapper)


def cpu_count(only_physical_cores: bool = False) -> int:
    """Return the number of CPUs, as :func:`shoal.cpu_count` does."""
    from shoal._cpus import cpu_count

    return cpu_count(only_physical_cores)
