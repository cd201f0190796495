"""Which reports a run belongs to.

::

    with shoal.report() ──> the scope of a context ──┐
    report= ──> the settings of the run ─────────────┼── collectors_of ──> those that the run tells of its begin and end
    SHOAL_REPORT, shoal run --report ──> the process ┘
    a call of a measured run ──> the scope of the call: the collectors of that run, which is the parent

Every run asks this module, so it imports next to nothing.
"""

from __future__ import annotations

from contextvars import ContextVar

from shoal._forks import CALLERS, after_fork_in_child
from shoal._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.reports._collector import Collector


class Scope:
    """The collectors of the runs that this context makes.

    Parameters
    ----------
    collectors
        The collectors.
    parent
        The run in whose call this code runs; None outside of any, or where the caller knows it.
    within
        Whether this code runs in a call of a measured run.
    """

    __slots__ = ("collectors", "parent", "within")  # a class of tuples takes longer to make than this module to read

    def __init__(self, collectors: tuple[Collector, ...], parent: str | None = None, within: bool = False) -> None:
        self.collectors, self.parent, self.within = collectors, parent, within


scope: ContextVar[Scope | None] = ContextVar("shoal reports", default=None)
after_fork_in_child(lambda: scope.set(None), CALLERS)  # the reports belong to the parent


_of_process: Collector | None = None


def collect_in_process(report: Collector | None) -> None:
    """Have all runs of this process, in all its threads, in a report; None for no report."""
    global _of_process
    _of_process = report


def collectors_of(report: Collector | None) -> tuple[Collector, ...]:
    """Return the collectors of a run that begins in this context.

    Parameters
    ----------
    report
        The setting `report` of the run.
    """
    here = scope.get()
    if here is None and report is None and _of_process is None:
        return ()
    found = list(() if here is None else here.collectors)
    if report is not None and report not in found:
        found.append(report)
    if _of_process is not None and not (here is not None and here.within):
        found.append(_of_process)
    return tuple(found)
