"""The options that differ between workers of a run: environment variables and CPUs; and the initializer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from shoal._cpus import cpu_share
from shoal._platform.cpus import can_bind, usable_cpus
from shoal._tracebacks import warn
from shoal.backends._bootstrap import Assignment
from shoal.backends.base import WorkerSpec, process_depth
from shoal.errors import FallbackWarning


class Placement:
    """The checked options `environment`, `affinity`, `initializer` and `initargs` of one run.

    Attributes
    ----------
    key
        Equal for runs whose workers are interchangeable.
    variables
        The variables of `environment` if they are the same for all workers, else None.
    initializer, initargs
        A function that each worker calls first, and its arguments.

    Raises
    ------
    TypeError, ValueError
        If an option has an invalid value.
    """

    def __init__(self, spec: WorkerSpec, options: Mapping[str, Any]) -> None:
        self._environment = environment = options.get("environment")
        self._spec = spec
        self.variables: dict[str, str | None] | None = None
        if environment is None or isinstance(environment, Mapping):
            self.variables = _checked(environment or {})
        elif not callable(environment):
            raise TypeError(
                "environment must map names of variables to their values, or be a callable that takes a worker's index "
                f"and returns such a mapping, got: {environment!r}"
            )
        self._affinity = _affinity(options.get("affinity"), spec)
        self.initializer: Callable[..., object] | None = options.get("initializer")
        self.initargs: tuple[Any, ...] = tuple(options.get("initargs") or ())
        differs = spec.n_first and spec.first_environment != spec.environment
        self.key: Hashable = (
            tuple(sorted(spec.environment.items())),
            (spec.n_first, *sorted(spec.first_environment.items())) if differs else (),
            identity(environment) if self.variables is None else tuple(sorted(self.variables.items())),
            identity(self._affinity),
            *map(identity, (self.initializer, *self.initargs)),
        )

    def of(self, index: int) -> Assignment:
        """Return the place of the worker with this index. Called once for each process.

        Raises
        ------
        TypeError, ValueError
            If a callable of the user returns an invalid value.
        """
        variables = self.variables
        if variables is None:
            variables = _checked(self._environment(index))  # type: ignore[misc] # it is callable
        cpus = self._affinity
        if callable(cpus):
            cpus = _cpus(cpus(index))
        elif cpus is not None:
            cpus = cpus[index % len(cpus)]
        return Assignment(index, {**self._spec.environment_of(index), **variables}, cpus, process_depth() + 1)


def _affinity(affinity: Any, spec: WorkerSpec) -> Any:
    """Return the option as a callable, as a tuple with the CPUs of each worker, or as None for all CPUs."""
    if affinity is None or affinity is False:
        return None
    if not can_bind():
        warn("affinity is ignored: this system cannot bind processes to CPUs", FallbackWarning)
        return None
    if affinity is True:
        return tuple(_shares(cpu_share(spec.n_workers), spec.n_first))
    if callable(affinity):
        return affinity
    if isinstance(affinity, Sequence) and not isinstance(affinity, str) and affinity:
        return tuple(map(_cpus, affinity))
    raise TypeError(
        "affinity must be True, a sequence of sets of CPUs, or a callable that takes a worker's index and returns one, "
        f"got: {affinity!r}"
    )


def _checked(variables: Any) -> dict[str, str | None]:
    if not isinstance(variables, Mapping):
        raise TypeError(f"environment must map names of variables to their values, got: {variables!r}")
    for name, value in variables.items():
        if not isinstance(name, str) or not (value is None or isinstance(value, str)):
            raise TypeError(
                f"environment must map strings to strings, or to None to remove a variable, got: {name!r}: {value!r}"
            )
        if not name or "=" in name or "\0" in name or "\0" in (value or ""):
            raise ValueError(f"environment has a name or a value that the system does not allow: {name!r}: {value!r}")
    return dict(variables)


def _cpus(cpus: Any) -> tuple[int, ...]:
    """Return the sorted numbers of CPUs, given one number or several."""
    try:
        numbers = {cpus} if hasattr(cpus, "__index__") else set(cpus)
        chosen = tuple(sorted(cpu.__index__() for cpu in numbers))
    except (TypeError, AttributeError):
        raise TypeError(f"affinity must contain numbers of CPUs, got: {cpus!r}") from None
    usable = usable_cpus() or ()
    if not chosen or not set(usable).issuperset(chosen):
        raise ValueError(f"affinity must contain CPUs that this process may use, {sorted(usable)}, got: {cpus!r}")
    return chosen


def _shares(share: int, n_first: int) -> list[tuple[int, ...]]:
    """Return the usable CPUs in groups of `share`; the first ones have one more."""
    usable = sorted(usable_cpus() or ())
    groups: list[tuple[int, ...]] = []
    while len(usable) >= share or not groups:
        size = share + (len(groups) < n_first)
        groups.append(tuple(usable[:size]))
        del usable[:size]
    return groups


def identity(option: Any) -> Hashable:
    """Return a key that compares options: the option itself if it is hashable, else its id."""
    try:
        hash(option)
    except TypeError:
        return id(option)
    return option  # type: ignore[no-any-return]
