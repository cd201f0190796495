"""Lets a worker have the log levels and the warning filters of its caller.

::

    conditions of a run ──> adopt() ──> levels and filters of this process
                            recorder_of_process() ──> and the Recorder of this process (_recording)

Handlers, levels and filters that code in this process has set stay.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from shoal._tracebacks import FILTERS_AT_START
from shoal.observe import _saying
from shoal.observe._recording import Recorder, listen
from shoal.observe._saying import Conditions, Filter, described

_filters_at_start = tuple(map(described, FILTERS_AT_START))
#: What this process has adopted from its caller.
_adopted: tuple[bytes | None, Conditions | None] = None, None
#: The number of imported modules when a filter was left out, because nothing had imported its category; else None.
_incomplete_at: int | None = None
_adopted_filters: tuple[Filter, ...] = ()
_changed = False  # whether levels or filters were set
_adopted_levels: set[str] = set()


def adopt(pickled: bytes | None) -> Conditions | None:
    """Let this process, a worker, have the levels and filters of its caller; return the conditions of the caller.

    Levels and filters that code in this process has set stay, and so do those of a worker with other ``-W`` options.

    Parameters
    ----------
    pickled
        The pickled conditions. None restores the levels and filters of this process.
    """
    global _adopted, _incomplete_at
    if pickled is None and not _changed:  # what was adopted last was the same as what was there
        _adopted = None, None
        return None
    if pickled == _adopted[0] and _incomplete_at in (None, len(sys.modules)):
        return _adopted[1]
    given = _adopted[1] if pickled == _adopted[0] else None if pickled is None else pickle.loads(pickled)
    _incomplete_at = None
    if given is not None and given.levels is not None:
        parent, inherited = _saying.of_process
        if parent != os.getpid():  # this is a fork of the caller
            for logger, handler in inherited:
                logger.removeHandler(handler)
            _saying.of_process = os.getpid(), []
        if not logging.root.handlers:
            _adopt_levels(given.levels, given.disabled)
    elif _adopted_levels:
        _adopt_levels((("", logging.WARNING),), logging.NOTSET)
        _adopted_levels.clear()
    if given is not None and given.filters is not None and given.options == tuple(sys.warnoptions):
        if not _adopt_filters(given.filters):
            _incomplete_at = len(sys.modules)
    elif _adopted_filters:
        _adopt_filters(_filters_at_start)
    _adopted = pickled, given
    return given


def assume_adopted(pickled: bytes | None) -> None:
    """Take conditions for adopted, and listen. For a process that has them, before workers are forked from it.

    A worker whose caller has the same conditions then neither compares levels and filters nor makes a handler, which
    would copy 0.3 MB.
    """
    global _adopted
    _adopted = pickled, None if pickled is None else pickle.loads(pickled)
    listen()


def _adopt_levels(levels: Iterable[tuple[str, int]], disabled: int) -> None:
    global _changed
    names = {name for name, _ in levels}
    for name in _adopted_levels - names:
        logging.getLogger(name).setLevel(logging.NOTSET)
    for name, level in levels:
        logger = logging.getLogger(name)
        if not logger.handlers and logger.level != level:
            logger.setLevel(level)
            _changed = True
    if logging.root.manager.disable != disabled:
        logging.disable(disabled)
        _changed = True
    _adopted_levels.clear()
    _adopted_levels.update(names)


def _adopt_filters(filters: tuple[Filter, ...]) -> bool:
    """Set the filters; return whether the modules of all categories are imported. Others can have no warning here."""
    global _adopted_filters, _changed
    ours = {*_filters_at_start, *_adopted_filters, *filters}
    present = list(map(described, warnings.filters))
    wanted = [*(entry for entry in present if entry not in ours), *filters]
    _adopted_filters = filters
    if present == wanted:
        return True
    complete = _changed = True
    warnings.resetwarnings()
    for action, message, (module, name), where, line in reversed(wanted):
        category: Any = sys.modules.get(module)
        for part in name.split("."):
            category = getattr(category, part, None)
        if category is None:
            complete = False
        else:
            warnings.filterwarnings(action, message or "", category, where or "", line)  # type: ignore[arg-type]
    return complete


_latest: Recorder | None = None


def recorder_of_process(pickled: bytes | None, make: Callable[[Conditions], Recorder]) -> Recorder | None:
    """Adopt the caller's conditions; return the recorder of this process, or None if nothing is collected.

    Parameters
    ----------
    pickled
        The pickled conditions. As long as they are the same, the recorder is the same.
    make
        Makes a recorder.
    """
    global _latest
    conditions = adopt(pickled)
    if conditions is None:
        return None
    if _latest is None or _latest.conditions is not conditions:
        _latest = make(conditions)
    return _latest
