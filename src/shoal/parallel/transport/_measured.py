"""Measures what a transport does, for a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from shoal.backends._notes import Notes
from shoal.parallel._batch import Batch
from shoal.parallel.running._resume import Known
from shoal.parallel.transport._contract import R, Received, Transport, Unsendable
from shoal.parallel.transport._published import RunRecord
from shoal.parallel.transport._status import WorkerStatus
from shoal.reports._arguments import Arguments
from shoal.reports._meter import Meter


class MeasuredTransport(Transport[R]):
    """Measures what another transport does.

    Parameters
    ----------
    transport
        The transport.
    meter
        The meter of the run.
    arguments
        Samples the arguments of the calls.
    """

    def __init__(self, transport: Transport[R], meter: Meter, arguments: Arguments) -> None:
        self._transport, self._meter = transport, meter
        self.row_kind = transport.row_kind
        meter.sample(arguments)

    @property
    def record(self) -> RunRecord | None:
        """As of the other transport."""
        return self._transport.record

    @record.setter
    def record(self, record: RunRecord | None) -> None:
        self._transport.record = record

    @property
    def on_note(self) -> Callable[[Notes, bytes], object] | None:
        """As of the other transport."""
        return self._transport.on_note

    @on_note.setter
    def on_note(self, on_note: Callable[[Notes, bytes], object] | None) -> None:
        self._transport.on_note = on_note

    def take_messages(self, messages: bool, steps: bool) -> None:
        """As the other transport."""
        self._transport.take_messages(messages, steps)

    def encode(self, batch: Batch) -> R:
        """Encode a batch, and measure that."""
        began = time.perf_counter()
        request = self._transport.encode(batch)
        request.pickle_seconds = time.perf_counter() - began
        functions = batch.functions if type(batch.functions) is list else [batch.functions]
        self._meter.named(functions[0])
        sampled = [] if type(functions[0]) is Known else batch.args  # a known result has no arguments
        self._meter.encoded(functions, sampled, batch.kwargs, request.pickle_seconds)
        return request

    def send(self, request: R, executor: Executor) -> Future[Any]:
        """Send a request, and have the worker measure the batch."""
        self._transport.slow_above = self._meter.slow_above
        return self._transport.send(request, executor)

    def receive(self, request: R, reply: Any) -> Received:
        """Decode a reply, and measure that."""
        began = time.perf_counter()
        received = self._transport.receive(request, reply)
        request.unpickle_seconds = time.perf_counter() - began
        request.measured, request.retiring = received.measured, received.retiring
        return received

    def explain(self, batch: Batch, error: Exception) -> Unsendable:
        """As the other transport."""
        return self._transport.explain(batch, error)

    def close(self) -> None:
        """As the other transport."""
        self._transport.close()

    def status(self, executor: Executor) -> WorkerStatus | None:
        """As the other transport."""
        return self._transport.status(executor)

    def forget(self, executor: Executor) -> None:
        """As the other transport."""
        self._transport.forget(executor)

    def replaced(self, executor: Executor) -> WorkerStatus | None:
        """As the other transport."""
        return self._transport.replaced(executor)
