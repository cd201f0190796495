"""The arguments of a run, as its report shows them, with their origins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal.backends import Backend
from shoal.reports._active import scope
from shoal.reports._collector import Collector
from shoal.reports._meter import About, Meter
from shoal.reports._shown import shown

#: Fields that are no arguments, or that the report shows elsewhere.
_LEFT_OUT = ("settings", "options", "seeds", "origins", "own_workers", "resends", "depth", "report")


def meter_of(
    collectors: tuple[Collector, ...],
    values: Mapping[str, Any],
    origins: Mapping[str, str],
    n_workers: int,
    number: int | None,
) -> Meter:
    """Return the meter of a run.

    Parameters
    ----------
    collectors
        Those that receive what was measured.
    values
        The fields of the run's plan and of its settings, by name.
    origins
        The origins of those that do not come from the defaults.
    n_workers, number
        The number of workers; and that of the calls, if it is known.
    """
    here = scope.get()
    backend: Backend = values["backend"]
    about = About(
        backend="sequential" if n_workers == 1 else _name(backend),
        in_process=backend.in_process or n_workers == 1,
        n_workers=n_workers,
        settings=_rows(values, origins),
        parent=here.parent if here is not None and here.within else None,
        total=number,
    )
    return Meter(about, collectors)


def _rows(values: Mapping[str, Any], origins: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return the name, the value as text, and the origin of each argument."""
    rows = []
    for name, value in values.items():
        if name not in _LEFT_OUT:
            text = repr(_name(value)) if name == "backend" else shown(value)
            rows.append((name, text, origins.get(name, "default")))
    return rows + [(name, shown(value), "argument") for name, value in values["options"].items()]


def _name(backend: Backend) -> str:
    return str(getattr(backend, "name", type(backend).__name__))
