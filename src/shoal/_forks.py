"""A registry of the functions that are called when this process forks, in an explicit order.

::

    before: functions of before_fork
    os.fork() ──> child: functions of order BACKENDS, then of order CALLERS; within an order, as they were registered

A child has only the thread that forked. A lock may be held by a thread that the child does not have; descriptors,
workers and runs belong to the parent. Each module with such state registers one function that gives it new state.
"""

from __future__ import annotations

import os

from shoal._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: The order of worker processes, their servers and their descriptors.
BACKENDS = 1
#: The order of runs, shared memory and caches, which use backends. Hence backends have new state before these.
CALLERS = 2

_functions: list[tuple[int, Callable[[], object]]] = []
_before: list[Callable[[], object]] = []


def before_fork(function: Callable[[], object]) -> None:
    """Register a function that this process calls before it forks, in the thread that forks. Thread-safe."""
    _before.append(function)


def after_fork_in_child(function: Callable[[], object], order: int) -> None:
    """Register a function that each forked child of this process calls first, in its only thread.

    Functions of order :data:`BACKENDS` are called before those of order :data:`CALLERS`. A function must not wait for
    anything. If it raises an exception, the other functions still run, and Python reports the exception by
    ``sys.unraisablehook``. If the system has no fork, no function is ever called. Thread-safe.
    """
    _functions.append((order, function))


class without_calls:
    """A block in which a fork calls none of the functions.

    For a process with one thread that has called :func:`renew`, and nothing of shoal's since then. In each child, the
    functions would copy 0.1 MB of memory.
    """

    def __enter__(self) -> None:
        global _calling
        _calling = False

    def __exit__(self, *_: object) -> None:
        global _calling
        _calling = True


_calling = True


def _before_fork() -> None:
    if _calling:
        _call_all(_before)


def _in_child() -> None:
    if _calling:
        renew()


def renew() -> None:
    """Call the functions of forked children in this process, which must have no state that is in use."""
    _call_all([function for _, function in sorted(_functions, key=lambda entry: entry[0])])


def _call_all(functions: list[Callable[[], object]]) -> None:
    if functions:
        try:
            functions[0]()
        finally:
            _call_all(functions[1:])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)
