"""What each worker process of a run is given: variables of its environment, and CPUs to run on."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from shoal._cpus import cpu_share
from shoal._tracebacks import warn
from shoal.backends._bootstrap import Place
from shoal.backends.base import WorkerSpec, process_depth
from shoal.errors import FallbackWarning


class Placement:
    """The options `environment` and `affinity`, as the workers of one run have them.

    Parameters
    ----------
    spec
        What the run asks for.
    options
        The backend's own, and the run's.

    Attributes
    ----------
    key
        Workers of equal keys were given the same.

    Raises
    ------
    TypeError, ValueError
        If one of the two cannot be used.
    """

    def __init__(self, spec: WorkerSpec, options: Mapping[str, Any]) -> None:
        environment, affinity = options.get("environment"), options.get("affinity")
        self._environment: Callable[[int], Any] | dict[str, str | None] = {}
        if isinstance(environment, Mapping):
            self._environment = _checked(environment)
        elif callable(environment):
            self._environment = environment
        elif environment is not None:
            raise TypeError(
                "environment must map names of variables to their values, or be a callable that takes a worker's index "
                f"and returns such a mapping, got: {environment!r}"
            )
        self._affinity: Callable[[int], Any] | list[tuple[int, ...]] | None = None
        if affinity is not None and affinity is not False and _can_pin():
            if affinity is True:
                self._affinity = _shares(cpu_share(spec.n_workers))
            elif callable(affinity):
                self._affinity = affinity
            elif isinstance(affinity, Sequence) and not isinstance(affinity, str) and affinity:
                self._affinity = [_cpus(cpus) for cpus in affinity]
            else:
                raise TypeError(
                    "affinity must be True, a sequence of sets of CPUs, or a callable that takes a worker's index and "
                    f"returns one, got: {affinity!r}"
                )
        self.key: Hashable = (
            tuple(sorted(self._environment.items())) if isinstance(self._environment, dict) else identity(environment),
            tuple(self._affinity) if isinstance(self._affinity, list) else identity(self._affinity),
        )

    @property
    def variables(self) -> dict[str, str | None] | None:
        """The variables that all workers have; None where each has its own."""
        return self._environment if isinstance(self._environment, dict) else None

    def of(self, index: int) -> Place:
        """Return what the worker of an index is given; called once for each worker that starts.

        Raises
        ------
        TypeError, ValueError
            If what the user's callable returns cannot be used.
        """
        variables, affinity = self._environment, self._affinity
        if not isinstance(variables, dict):
            variables = _checked(variables(index))
        cpus: tuple[int, ...] | None = None
        if isinstance(affinity, list):
            cpus = affinity[index % len(affinity)]
        elif affinity is not None:
            cpus = _cpus(affinity(index))
        return Place(index, variables, cpus, process_depth() + 1)


def _checked(variables: Any) -> dict[str, str | None]:
    if not isinstance(variables, Mapping):
        raise TypeError(f"environment must map names of variables to their values, got: {variables!r}")
    for name, value in variables.items():
        if not isinstance(name, str) or not (value is None or isinstance(value, str)):
            raise TypeError(
                "environment must map strings to strings, or to None for a variable that is to be taken away, got: "
                f"{name!r}: {value!r}"
            )
        if not name or "=" in name or "\0" in name or "\0" in (value or ""):
            raise ValueError(f"environment has what no variable can be: {name!r}: {value!r}")
    return dict(variables)


def _cpus(cpus: Any) -> tuple[int, ...]:
    """Return the CPUs that `cpus` names, a number or several of them."""
    try:
        numbers = {cpus} if hasattr(cpus, "__index__") else set(cpus)
        chosen = tuple(sorted(cpu.__index__() for cpu in numbers))
    except (TypeError, AttributeError):
        raise TypeError(f"affinity must name CPUs by their numbers, got: {cpus!r}") from None
    usable = os.sched_getaffinity(0)
    if not chosen or not usable.issuperset(chosen):
        raise ValueError(f"affinity must name CPUs of those that this process may use, {sorted(usable)}, got: {cpus!r}")
    return chosen


def _shares(share: int) -> list[tuple[int, ...]]:
    """Return the usable CPUs, in groups of `share`."""
    usable = sorted(os.sched_getaffinity(0))
    return [tuple(usable[start : start + share]) for start in range(0, max(len(usable) - share, 0) + 1, share)]


def _can_pin() -> bool:
    if hasattr(os, "sched_setaffinity"):
        return True
    message = "affinity is ignored: this system does not tie processes to CPUs"
    warn(message, FallbackWarning)
    return False


def identity(option: Any) -> Hashable:
    """Return what tells whether an option is the same: its value where it has one, else which object it is."""
    try:
        hash(option)
    except TypeError:
        return id(option)
    return option  # type: ignore[no-any-return]
