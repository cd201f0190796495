"""``shoal.report()``: a report of runs, as a dictionary, a text, a page, a trace, and files."""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from shoal._cpus import cpu_budget
from shoal._files import replacement
from shoal._tracebacks import warn
from shoal.errors import FallbackWarning
from shoal.reports._active import Scope, scope
from shoal.reports._figures import counted
from shoal.reports._findings import diagnosed
from shoal.reports._meter import Meter, moved
from shoal.reports._system import uses_gil

#: The number of runs that a report contains. Further ones are only counted.
MOST_RUNS = 500
#: The number of rows that the timelines of a run may have.
MOST_ROWS = 2000

SCHEMA = 1

_ENDS = (".html", ".json")


def report() -> Report:
    """Return a report, which collects what runs do and says why they are slow.

    Returns
    -------
    Report
        Within ``with shoal.report() as report:``, all runs of this context are in it: those of this thread or asyncio
        task, also by libraries, and those that their calls make. It may also be passed as ``Parallel(report=report)``
        and ``parallel_config(report=report)``.

    Examples
    --------
    >>> import shoal
    >>> with shoal.report() as report:
    ...     shoal.Parallel(n_jobs=2, backend="threading")(shoal.delayed(abs)(x) for x in range(-3, 0))
    [3, 2, 1]
    >>> report.to_dict()["runs"][0]["calls"]["done"]
    3
    """
    return Report()


def report_at(place: Any) -> Report:
    """Return the report that the argument `report` means.

    Parameters
    ----------
    place
        A path, or a report.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If the path has an end that chooses no format.
    """
    if isinstance(place, Report):
        return place
    if not isinstance(place, (str, os.PathLike)):
        raise TypeError(f"report must be the path of a file, a shoal.report(), or None, got: {place!r:.80}")
    path = os.fspath(place)
    if not isinstance(path, str) or not path.endswith(_ENDS):
        raise ValueError(f"report must be a path that ends with .html, .json or .trace.json, got: {place!r:.80}")
    return Report(path)


class Report:
    """What runs did, and why they were slow. :func:`shoal.report` makes it.

    Parameters
    ----------
    path : str or os.PathLike, optional
        A file that is written at the end of each outermost run.

    Notes
    -----
    Thread-safe. It may be read while runs are going on. To enter it again, leave it first. Runs of a forked child are
    not in it.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._path = None if path is None else os.path.abspath(path)  # the program may change its working folder
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._runs: list[Meter | dict[str, Any]] = []
        self._omitted = 0
        self._started = time.time(), time.perf_counter()
        self._outside: list[Scope | None] = []  # the scope around the block that was entered, if any

    @property
    def rows(self) -> int:
        """The number of rows that the timelines of the next run may have: the fewer, the more runs there are."""
        return max(MOST_ROWS // (1 + len(self._runs)), 20)

    def __enter__(self) -> Report:
        if self._outside:
            raise RuntimeError("this report has been entered already: leave its with block first, or make another one")
        here = scope.get()
        self._outside.append(here)
        scope.set(Scope((self,)) if here is None else Scope((*here.collectors, self), here.parent, here.within))
        return self

    def __exit__(self, *_: object) -> None:
        scope.set(self._outside.pop())

    def began(self, meter: Meter) -> None:
        """Add a run that has begun."""
        self._append([meter], 0)

    def add(self, runs: list[dict[str, Any]], omitted: int) -> None:
        """Add runs that calls have made in other processes, and the number of those that were left out."""
        self._append(runs, omitted)

    def ended(self, meter: Meter) -> None:
        """Write the file. Nothing else is done before somebody looks at the report."""
        if os.getpid() == self._pid and self._path is not None and meter.about.parent is None:
            self._try_to_save(self._path)

    def _try_to_save(self, path: str) -> None:
        """Write the report to a file. A failure is a warning, because the program and its results are not to blame."""
        try:
            self.save(path)
        except OSError as error:
            warn(f"the report {path!r} could not be written: {error}", FallbackWarning)

    def _append(self, runs: list[Any], omitted: int) -> None:
        if os.getpid() != self._pid:  # a forked child; another thread of the parent may have held the lock
            return
        with self._lock:
            room = max(MOST_RUNS - len(self._runs), 0)
            self._runs += runs[:room]
            self._omitted += omitted + len(runs[room:])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a dictionary that can be written as JSON.

        Returns
        -------
        dict
            docs/report-schema.md describes it. Its field ``schema`` is the number of the schema.
        """
        with self._lock:
            self._runs = [run.to_dict() if isinstance(run, Meter) and run.ended else run for run in self._runs]
            runs, omitted = list(self._runs), self._omitted
        wall, origin = self._started
        found = [moved(run.to_dict() if isinstance(run, Meter) else run, -origin) for run in runs]
        found.sort(key=lambda run: run["start"])
        return {
            "schema": SCHEMA,
            "shoal": _version(),
            "python": platform.python_version(),
            "platform": sys.platform,
            "started": wall,
            "elapsed": max((run["end"] for run in found), default=0.0),
            "program": {
                "argv": [str(part) for part in getattr(sys, "argv", [])][:50],
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "cpus": cpu_budget(),
                "gil": uses_gil(),
            },
            "omitted": omitted,
            "findings": diagnosed(found, cpu_budget(), uses_gil()),
            "runs": found,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report to a file, which replaces an existing one when it is complete.

        Parameters
        ----------
        path : str or os.PathLike
            What it ends with chooses the format: ``.html`` a page that any browser shows, without a network;
            ``.trace.json`` a trace for ui.perfetto.dev; ``.json`` the dictionary of :meth:`to_dict`.

        Raises
        ------
        ValueError
            If the path ends with something else.
        OSError
            If the file cannot be written.
        """
        data = rendered(self.to_dict(), os.fspath(path)).encode("utf-8", "backslashreplace")
        with self._writing, replacement(os.fspath(path)) as file:
            file.write(data)

    def __str__(self) -> str:
        from shoal.reports._text import text_page

        return text_page(self.to_dict())

    def __repr__(self) -> str:
        return f"<shoal.Report of {counted(len(self._runs), 'run')}>"

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from shoal.reports._rich import rich_page

        return rich_page(self.to_dict())

    def _repr_html_(self) -> str:
        from shoal.reports._page import html_frame

        return html_frame(self.to_dict())


def rendered(found: dict[str, Any], path: str) -> str:
    """Return a report as the text of a file.

    Parameters
    ----------
    found
        The dictionary of the report.
    path
        The path of the file, whose end chooses the format.

    Raises
    ------
    ValueError
        If the path ends with something that is no format.
    """
    if path.endswith(".html"):
        from shoal.reports._page import html_page

        return html_page(found)
    if path.endswith(".trace.json"):
        from shoal.reports._trace import trace

        return json.dumps(trace(found))
    if path.endswith(".json"):
        return json.dumps(found, indent=None, ensure_ascii=False)
    raise ValueError(f"a report is saved as .html, .json or .trace.json, and {path!r} ends with none of these")


def _version() -> str:
    module: Any = sys.modules["shoal"]
    return str(module.__version__)
