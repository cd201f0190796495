"""What calls in another process find around them, beside their arguments: a channel to their run, context variables.

::

    run ── Scope, with each batch that needs one ──> worker: run_scoped_batch ── run_batch
           its variables, once to each worker          sets the channel and the variables, for the time of the batch
"""

from __future__ import annotations

import os
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from shoal.backends._bootstrap import can_tell, tell
from shoal.observe._messages import Channel, Told, channel_set, encoded
from shoal.parallel.transport._variables import variables_set
from shoal.parallel.transport._worker import Payload, Reply, RunId, fetch, keep, run_batch
from shoal.parallel.transport._worker_limits import usage

if TYPE_CHECKING:
    from shoal.reports._batch_meter import BatchMeter


class Scope(NamedTuple):
    """What the calls of a run find around them."""

    messages: bool  # whether the run takes messages
    steps: bool  # whether it takes steps
    variables: tuple[RunId, int] | None = None  # the address of the context variables, for fetch(); None for none


def run_measured_batch(slow_above: float, scope_fields: tuple[Any, ...] | None, *fields: Any) -> tuple[Any, ...]:
    """Run a batch, within its scope if it has one, and measure it; return the fields of its :class:`Reply`.

    Parameters
    ----------
    slow_above
        Calls that take longer, in seconds, are described.
    scope_fields, *fields
        Those of the :class:`Scope`, if there is one, and those of the :class:`Payload`.
    """
    from shoal.reports._batch_meter import BatchMeter

    payload = Payload(*fields)
    meter = BatchMeter(payload.start, slow_above, payload.run[0] != os.getpid(), usage.calls, payload.run)
    run = run_batch if scope_fields is None else partial(run_scoped_batch, scope_fields)
    with meter:
        reply = Reply(*run(*fields, meter=meter))
    return tuple(reply._replace(measured=meter.finish()))


def run_scoped_batch(scope_fields: tuple[Any, ...], *fields: Any, meter: BatchMeter | None = None) -> tuple[Any, ...]:
    """Run a batch within its scope; return the fields of its :class:`Reply`.

    If this process has no connection to the run, messages travel with the results, and steps are not sent.

    Parameters
    ----------
    scope_fields, *fields
        Those of the :class:`Scope`, and those of the :class:`Payload`.
    meter
        Measures the batch; None if nothing is measured.

    Raises
    ------
    Missing, CallUnpicklingError
        If this worker does not have the variables, or cannot rebuild them.
    """
    scope, payload = Scope(*scope_fields), Payload(*fields)
    if payload.objects:
        keep(payload.run, payload.objects)
        payload = payload._replace(objects={})
    kept: list[bytes] = []
    live = can_tell() and payload.run[0] != os.getpid()  # some workers are threads of the caller's process

    def put(told: Told) -> None:
        (tell if live else kept.append)(encoded(told))

    variables = None if scope.variables is None else fetch(*scope.variables)
    channel = Channel(put, scope.messages, scope.steps and live)
    with closing(channel), channel_set(channel, whole_process=live), variables_set(variables):
        reply = run_batch(*payload, channel=channel, meter=meter)
    return tuple(Reply(*reply)._replace(told=tuple(kept))) if kept else reply
