"""The report of a program that nobody edits: ``SHOAL_REPORT`` names a folder.

::

    process 1 ──> train-4321.json ──┐
    process 2 ──> train-4322.json ──┴── read by each process that ends ──> index.html

A process writes its file when an outermost run ends, but not all the time, and when it ends itself.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

from shoal._files import make_folder, replacement
from shoal._forks import CALLERS, after_fork_in_child
from shoal._platform.locks import wait_for_lock
from shoal._tracebacks import warn
from shoal.errors import FallbackWarning
from shoal.reports._active import collect_in_process
from shoal.reports._findings import diagnosed
from shoal.reports._meter import Meter, moved
from shoal.reports._report import Report, rendered, report_at

#: Writing the files may take this part of the time.
_SHARE = 0.05


class ProcessReport(Report):
    """The report of this process, which is written to a file.

    Parameters
    ----------
    path
        The file.
    folder
        The folder with the files of all processes; None if there is only this one.
    """

    def __init__(self, path: str, folder: str | None) -> None:
        super().__init__()
        self._file = os.path.abspath(path)  # the program may change its working folder
        self._folder = None if folder is None else os.path.abspath(folder)
        self._next_write = 0.0
        atexit.register(self.write)

    def ended(self, meter: Meter) -> None:
        """Keep what is known of a run that has ended; write the file, unless that was done a short time ago."""
        super().ended(meter)
        began = time.perf_counter()
        if meter.about.parent is None and began >= self._next_write:
            self.write()
            took = time.perf_counter() - began
            self._next_write = began + took / _SHARE

    def write(self) -> None:
        """Write the file, and the page of the folder. A failure is a warning, because the program goes on."""
        if os.getpid() != self._pid or not (self._runs or self._folder is None):
            return
        if self._folder is None:
            self._try_to_save(self._file)
            return
        try:
            make_folder(self._folder)
            with _locked(self._folder):
                self.save(self._file)
                write_index(self._folder)
        except OSError as error:
            warn(f"the report {self._file!r} could not be written: {error}", FallbackWarning)


def report_into(folder: str) -> None:
    """Have all runs of this process in a report, which is written into a folder; also those of forked children."""
    script = os.path.splitext(os.path.basename(sys.argv[0] if getattr(sys, "argv", None) else ""))[0]
    name = re.sub(r"[^\w.-]", "_", script) or "python"

    def begin() -> None:
        collect_in_process(ProcessReport(os.path.join(folder, f"{name}-{os.getpid()}.json"), folder))

    begin()
    after_fork_in_child(begin, CALLERS)


def report_to(path: str) -> None:
    """Have all runs of this process in a report, which is written to a file.

    Raises
    ------
    ValueError
        If the path has an end that chooses no format.
    """
    report_at(path)
    collect_in_process(ProcessReport(path, None))
    after_fork_in_child(lambda: collect_in_process(None), CALLERS)


def write_index(folder: str) -> None:
    """Write ``index.html``, a page of all reports in a folder.

    Raises
    ------
    OSError
        If the folder cannot be read, or the page cannot be written.
    """
    reports = []
    for name in sorted(os.listdir(folder)):
        if name.endswith(".json") and not name.endswith(".trace.json"):
            with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, name), encoding="utf-8") as file:
                found = json.load(file)
                if isinstance(found, dict) and found.get("schema") == 1:
                    reports.append(found)
    if reports:
        path = os.path.join(folder, "index.html")
        with replacement(path) as page:
            page.write(rendered(joined(reports), path).encode("utf-8", "backslashreplace"))


def joined(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one report of the runs of several.

    Parameters
    ----------
    reports
        Dictionaries as :meth:`Report.to_dict` returns them, at least one. The program is that of the earliest.
    """
    first = min(reports, key=lambda report: report["started"])
    runs = [moved(run, report["started"] - first["started"]) for report in reports for run in report["runs"]]
    runs.sort(key=lambda run: run["start"])
    program = first["program"]
    return {
        **first,
        "elapsed": max((run["end"] for run in runs), default=0.0),
        "omitted": sum(report["omitted"] for report in reports),
        "findings": diagnosed(runs, program["cpus"], program["gil"]),
        "runs": runs,
    }


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Keep other processes from writing the page at the same time, where the system has locks of files."""
    fd = os.open(os.path.join(folder, ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        wait_for_lock(fd)
        yield
    finally:
        os.close(fd)
