"""``Parallel.acall``: runs that an event loop waits for.

::

    the event loop                                 a thread of the run
    awaits, iterates ── starts ──────────────────> makes the run, and runs its loop
        ^                                             │ sends: the run; each sequence of results;
        └── asyncio.Queue <── call_soon_threadsafe ───┘ at last _Ended, with the exception if there is one
    is cancelled, or leaves ── Runner.stop ──────> the run ends; the event loop waits for that

A task of the event loop reads an asynchronous iterable (_arrivals.py).
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any

from shoal import backends
from shoal.errors import CallStopped
from shoal.parallel._delayed import Calls
from shoal.parallel.options._plan import Plan
from shoal.parallel.running._arrivals import ArrivalQueue, Arrivals
from shoal.parallel.running._patience import Patience
from shoal.parallel.running._run import Run
from shoal.parallel.running._runner import Runner


async def collect(runner: Runner, plan: Plan, calls: Calls, label: str) -> list[Any]:
    """Return the results of a run in a list; the arguments are those of :class:`_AsyncRun`."""
    results: list[Any] = []
    async with _AsyncRun(runner, plan, calls, label) as entered:
        try:
            while (values := await entered.next_results(None)) is not None:
                results += values
        except BaseException as error:
            if entered.run is not None:
                entered.run.attach(results, error)
            raise
    return results


async def each(runner: Runner, plan: Plan, calls: Calls, label: str) -> AsyncGenerator[Any, None]:
    """Yield the results of a run; the arguments are those of :class:`_AsyncRun`."""
    async with _AsyncRun(runner, plan, calls, label) as entered:
        while True:
            try:
                values = await entered.next_results(plan.timeout)
            except StopAsyncIteration as stop:
                if hasattr(stop, "call"):
                    raise CallStopped(stop.call, stop) from stop
                raise
            if values is None:
                return
            assert entered.run is not None
            left = len(values)
            for value in values:
                left -= 1
                if not left:
                    entered.run.consumed(len(values))
                yield value


class _Ended:
    """The last message of a run, with the exception that ended it early, if there is one."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _AsyncRun:
    """One run, for an event loop. The run begins when this is entered, and has ended when this is left.

    This is no asynchronous generator, because an event loop that ends closes all of these at the same time: an inner
    one together with the outer one that uses it.

    Parameters
    ----------
    runner
        Starts the run.
    plan, calls
        The values of all arguments, and the calls.
    label
        The beginning of the lines of `verbose` and of the progress bar.
    """

    def __init__(self, runner: Runner, plan: Plan, calls: Calls, label: str) -> None:
        self._runner, self._plan, self._label = runner, plan, label
        self._calls: Any = calls
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self._ended = False
        self._arrivals: Arrivals | None = None
        self._feeder: asyncio.Task[None] | None = None
        self.run: Run | None = None

    async def __aenter__(self) -> _AsyncRun:
        self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._ended:
            self._runner.stop()
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # the event loop has ended, and the collector closes a coroutine that still waited there
            return
        feeder = self._feeder
        if feeder is not None:
            feeder.cancel()
        try:
            while not self._ended:
                await self._next()
        finally:
            if feeder is not None:
                await asyncio.wait([feeder])
                if not feeder.cancelled():
                    feeder.result()  # raises what the iterable raised when it was closed

    async def next_results(self, timeout: float | None) -> Sequence[Any] | None:
        """Return the next sequence of results; None if there are no more.

        Parameters
        ----------
        timeout
            The seconds to wait for them while a call is under way; None for no limit.

        Raises
        ------
        BaseException
            The exception that ended the run; :class:`~shoal.errors.RunTimeout` after `timeout`.
        """
        if self.run is None:
            message = await self._next()
            if isinstance(message, Run):
                self.run = message
        if self.run is not None:
            message = await (self._next() if timeout is None else self._in_time(self.run, timeout))
        if not isinstance(message, _Ended):
            return message  # type: ignore[no-any-return]
        if message.error is not None:
            raise message.error
        return None

    async def _in_time(self, run: Run, timeout: float) -> Any:
        patience = Patience(timeout, run.waits_for_input)
        while True:
            try:
                return await asyncio.wait_for(self._next(), patience.seconds())
            except asyncio.TimeoutError:  # which is not TimeoutError before Python 3.11
                if patience.is_over():
                    raise run.timed_out(timeout) from None

    async def _next(self) -> Any:
        message = await self._messages.get()
        self._ended = isinstance(message, _Ended)
        return message

    def _begin(self) -> None:
        self._runner.claim()
        loop = asyncio.get_running_loop()
        if not isinstance(self._calls, Iterable) and isinstance(self._calls, AsyncIterable):
            self._arrivals = Arrivals(loop)
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self._serve, loop), name="shoal-run", daemon=True)
        try:
            thread.start()
        except BaseException:
            self._runner.release()
            raise
        if self._arrivals is not None:
            self._feeder = loop.create_task(self._arrivals.feed(self._calls))

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run the loop of the run in this thread, and send its results to the event loop."""

        def send(message: Any) -> None:
            loop.call_soon_threadsafe(self._messages.put_nowait, message)

        error: BaseException | None = None
        try:
            run = self._make_run()
            try:
                send(run)
            except BaseException as closed:
                run.end(closed)
                raise
            loop_of_run: Any = run.results()
            with closing(loop_of_run):
                for values in loop_of_run:
                    send(values)
        except BaseException as caught:  # next_results() raises it
            error = caught
        self._runner.release()
        with suppress(RuntimeError):  # the event loop was closed, so nobody waits for the message
            send(_Ended(error))

    def _make_run(self) -> Run:
        plan, arrivals = self._plan, self._arrivals
        n_workers = plan.workers()
        if n_workers == 1:  # a loop in the event loop's thread would block it, and could not be aborted
            plan = plan._replace(backend=backends.create("threading"))
        calls: Any
        calls, number = plan.input(self._calls if arrivals is None else arrivals)
        if arrivals is not None:
            calls = ArrivalQueue(arrivals, calls, at_once=plan.pre_dispatch == "all")
        run = self._runner.start(plan, calls, n_workers, number, partial(plan.listener, self._label))
        if arrivals is not None:
            arrivals.wake = partial(run.inbox.put, None)
        return run
