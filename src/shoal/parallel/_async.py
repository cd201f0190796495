"""``Parallel.acall``: runs that an event loop waits for.

::

    the event loop                                 a thread of the run's own
    awaits, iterates ── starts ──────────────────> makes the run, and is its loop
        ^                                             │ the run; each sequence of results that is due;
        └── asyncio.Queue <── call_soon_threadsafe ───┘ at last, what has ended it
    is cancelled, or leaves ── Runner.stop ──────> the run ends, which is awaited

An asynchronous iterable is read in the event loop, by a task of its own (_arrivals.py).
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
from shoal.parallel._arrivals import Arrivals, Arrived
from shoal.parallel._delayed import Call
from shoal.parallel._plan import Plan
from shoal.parallel._run import Run
from shoal.parallel._runner import Runner

Calls = Iterable[Call] | AsyncIterable[Call]


async def collect(runner: Runner, plan: Plan, calls: Calls, label: str) -> list[Any]:
    """Return the results of a run in a list; the arguments are those of :class:`_Course`."""
    results: list[Any] = []
    async with _Course(runner, plan, calls, label) as course:
        try:
            while (values := await course.due(None)) is not None:
                results += values
        except BaseException as error:
            if course.run is not None:
                course.run.attach(results, error)
            raise
    return results


async def each(runner: Runner, plan: Plan, calls: Calls, label: str) -> AsyncGenerator[Any, None]:
    """Yield the results of a run; the arguments are those of :class:`_Course`."""
    async with _Course(runner, plan, calls, label) as course:
        while True:
            try:
                values = await course.due(plan.timeout)
            except StopAsyncIteration as stop:
                if hasattr(stop, "call"):
                    raise CallStopped(stop.call, stop) from stop
                raise
            if values is None:
                return
            assert course.run is not None
            left = len(values)
            for value in values:
                left -= 1
                if not left:
                    course.run.took(len(values))
                yield value


class _Over:
    """The last message of a run: what has ended it early, if anything has."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Course:
    """One run, as an event loop sees it: it begins when this is entered, and has ended when it is left.

    It is no asynchronous generator: an event loop that ends closes all of those at once, the inner with the outer.

    Parameters
    ----------
    runner
        Makes the run.
    plan, calls
        What is to be run.
    label
        What lines of `verbose` and the progress bar begin with.
    """

    def __init__(self, runner: Runner, plan: Plan, calls: Calls, label: str) -> None:
        self._runner, self._plan, self._label = runner, plan, label
        self._calls: Any = calls
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._over = False
        self._arrivals: Arrivals | None = None
        self._feeder: asyncio.Task[None] | None = None
        self.run: Run | None = None

    async def __aenter__(self) -> _Course:
        self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._over:
            self._runner.stop()
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # the loop is over, and the collector closes what still waited there
            return
        feeder = self._feeder
        if feeder is not None:
            feeder.cancel()
        try:
            while not self._over:
                await self._next()
        finally:
            if feeder is not None:
                await asyncio.wait([feeder])
                if not feeder.cancelled():
                    feeder.result()  # what the iterable raises when it is closed

    async def due(self, timeout: float | None) -> Sequence[Any] | None:
        """Return the next sequence of results, None if there are no more.

        Parameters
        ----------
        timeout
            The seconds that they may take.
        """
        if self.run is None:
            message = await self._next()
            if isinstance(message, Run):
                self.run = message
        if self.run is not None:
            try:
                message = await asyncio.wait_for(self._next(), timeout)
            except asyncio.TimeoutError:  # before Python 3.11 another one than TimeoutError
                assert timeout is not None
                raise self.run.too_late(timeout) from None
        if not isinstance(message, _Over):
            return message  # type: ignore[no-any-return]
        if message.error is not None:
            raise message.error
        return None

    async def _next(self) -> Any:
        message = await self._arrived.get()
        self._over = isinstance(message, _Over)
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
        """Run the loop of the run in a thread of its own, and pass what it yields to the event loop."""

        def tell(message: Any) -> None:
            loop.call_soon_threadsafe(self._arrived.put_nowait, message)

        error: BaseException | None = None
        try:
            run = self._make_run()
            try:
                tell(run)
            except BaseException as closed:
                run.abandon(closed)
                raise
            loop_of_run: Any = run.results()
            with closing(loop_of_run):
                for values in loop_of_run:
                    tell(values)
        except BaseException as caught:  # it is raised where the results are awaited
            error = caught
        self._runner.release()
        with suppress(RuntimeError):  # the event loop was closed, and nobody is there to be told
            tell(_Over(error))

    def _make_run(self) -> Run:
        plan, arrivals = self._plan, self._arrivals
        n_workers = plan.workers()
        if n_workers == 1:  # a plain loop would hold up the event loop, and could not be given up
            plan = plan._replace(backend=backends.create("threading"))
        calls, number = plan.input(self._calls if arrivals is None else arrivals)
        if arrivals is not None:
            calls = Arrived(arrivals, calls)
        run = self._runner.start(plan, calls, n_workers, number, partial(plan.listen, self._label))
        if arrivals is not None:
            arrivals.wake = partial(run.inbox.put, None)
        return run
