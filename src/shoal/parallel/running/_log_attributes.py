"""Gives the log records of calls in the caller's process the attributes of those that come from other processes.

::

    a run ──> mark_records()   puts _Marking around the factory of log records, once in a process
    a call ── logs ──> _Marking ── call_here ──> record.shoal_call, record.shoal_worker

A call on a thread, or with one worker, pays nothing until it logs something.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal.backends.base import call_here

if TYPE_CHECKING:
    import logging


class _Marking:
    """A factory of log records, which calls that of the program."""

    def __init__(self, usual: Callable[..., logging.LogRecord]) -> None:
        self._usual = usual

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._usual(*args, **kwargs)
        here = call_here.get(None)
        if here is not None:
            while here.around is not None:  # the record belongs to the run that the program has made itself
                here = here.around
            call = here.present()
            if call is not None:
                record.shoal_call, record.shoal_worker = call, here.worker
        return record


def mark_records() -> None:
    """Let the log records of calls in this process have the attributes ``shoal_call`` and ``shoal_worker``.

    If the program has set a factory of its own since, that one is called by ours from now on. If nothing has imported
    :mod:`logging` yet, nothing is done: to import it takes longer than a short run.
    """
    log = sys.modules.get("logging")
    if log is not None and type(usual := log.getLogRecordFactory()) is not _Marking:
        log.setLogRecordFactory(_Marking(usual))
