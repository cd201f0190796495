"""The ways to run the calls of a ``Parallel``, and the types of what comes back.

::

    __call__ ──> Runner (_runner) ──> a list, or a generator of the results
    acall    ──> _async           ──> the same for an event loop

The overloads are for type checkers. They read the form of the results, and whether exceptions may be among them, from
the type of the Parallel.
"""

from __future__ import annotations

from functools import partial

from shoal._typing import TYPE_CHECKING, Failed, Form, Generic, overload
from shoal.parallel.options._checks import check
from shoal.parallel.running._runner import Runner, in_caller, streamed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable
    from typing import Any

    from typing_extensions import Self

    from shoal._typing import AsGenerator, AsList, R, Raises, Returns
    from shoal.parallel._delayed import Call, Calls
    from shoal.parallel.options._plan import Plan


class Runs(Generic[Form, Failed]):
    # The methods of Parallel, without its arguments.

    _plan: Plan
    _runner: Runner

    def __enter__(self) -> Self:
        self._runner.keep_workers()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._runner.release_workers()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        from asyncio import to_thread

        await to_thread(self.__exit__, *exc_info)  # workers may take a while to end

    @overload
    def __call__(self: Runs[AsList, Raises], iterable: Iterable[Call[R]], *, total: int | None = None) -> list[R]: ...

    @overload
    def __call__(
        self: Runs[AsList, Returns], iterable: Iterable[Call[R]], *, total: int | None = None
    ) -> list[R | Exception]: ...

    @overload
    def __call__(
        self: Runs[AsGenerator, Raises], iterable: Iterable[Call[R]], *, total: int | None = None
    ) -> Generator[R, None, None]: ...

    @overload
    def __call__(
        self: Runs[AsGenerator, Returns], iterable: Iterable[Call[R]], *, total: int | None = None
    ) -> Generator[R | Exception, None, None]: ...

    @overload
    def __call__(self, iterable: Iterable[Call[R]], *, total: int | None = None) -> Any: ...

    def __call__(self, iterable: Iterable[Call], *, total: int | None = None) -> Any:
        """Run the calls and return their results.

        Parameters
        ----------
        iterable : iterable
            The calls, made by :func:`~shoal.delayed`.
        total : int, optional
            The number of calls, for `progress` and `verbose`. It takes precedence over the `total` of this Parallel.

        Returns
        -------
        list or generator
            The results, as `return_as` says.

        Raises
        ------
        Exception
            Whatever a call or the iterable raises. For a call in a worker process, ``__cause__`` shows the traceback
            there.
        RunTimeout
            If a result does not come within `timeout` seconds.
        RuntimeError
            If a run of this Parallel has not ended yet.
        """
        if total is not None:
            check({"total": total})
        plan, runner = self._plan if total is None else self._plan._replace(total=total), self._runner
        runner.claim()
        generates = plan.generates
        try:
            n_workers = plan.workers()
            calls, number = plan.input(iterable)
            make_listener = partial(plan.listener, repr(self))
            if n_workers > 1:
                run = runner.start(plan, calls, n_workers, number, make_listener)
                return streamed(run, plan.timeout, runner.release) if generates else run.collect()
            from shoal.parallel.running._serial import warn_of_ignored

            warn_of_ignored(plan)
            return in_caller(runner, plan, calls, make_listener(n_workers, number), runner.release)
        except BaseException:
            generates = False  # no generator exists that would end the run
            raise
        finally:
            if not generates:
                runner.release()

    @overload
    def acall(
        self: Runs[AsList, Raises], iterable: Calls[R], *, total: int | None = None
    ) -> Coroutine[Any, Any, list[R]]: ...

    @overload
    def acall(
        self: Runs[AsList, Returns], iterable: Calls[R], *, total: int | None = None
    ) -> Coroutine[Any, Any, list[R | Exception]]: ...

    @overload
    def acall(
        self: Runs[AsGenerator, Raises], iterable: Calls[R], *, total: int | None = None
    ) -> AsyncGenerator[R, None]: ...

    @overload
    def acall(
        self: Runs[AsGenerator, Returns], iterable: Calls[R], *, total: int | None = None
    ) -> AsyncGenerator[R | Exception, None]: ...

    @overload
    def acall(self, iterable: Calls[R], *, total: int | None = None) -> Any: ...

    def acall(self, iterable: Calls[R], *, total: int | None = None) -> Any:
        """Run the calls without blocking the event loop of :mod:`asyncio`.

        Parameters
        ----------
        iterable : iterable or asynchronous iterable
            The calls, made by :func:`~shoal.delayed`. Another thread iterates over an iterable. The event loop iterates
            over an asynchronous iterable, only as far ahead as `pre_dispatch` and `max_pending` allow, and closes it
            when the run ends. Results are delivered while its next call is still missing.
        total : int, optional
            The number of calls, as for ``parallel(calls, total=...)``.

        Returns
        -------
        coroutine or asynchronous generator
            A coroutine for a list: ``results = await parallel.acall(calls)``. Otherwise an asynchronous generator:
            ``async for result in parallel.acall(calls)``. The calls begin when it is awaited for the first time.
            Cancelling the task that awaits it ends the run, as does leaving or closing the generator; the workers are
            free again when that returns. With one worker, the calls run in a thread.

        Raises
        ------
        Exception
            When it is awaited, whatever ``parallel(calls)`` raises.
        RuntimeError
            When it is awaited, if a run of this Parallel has not ended yet.

        Examples
        --------
        >>> import asyncio
        >>> from shoal import Parallel, delayed
        >>> async def main():
        ...     return await Parallel(n_jobs=2, backend="threading").acall(delayed(pow)(x, 2) for x in range(5))
        >>> asyncio.run(main())
        [0, 1, 4, 9, 16]
        """
        from shoal.parallel._async import collect, each

        check({"total": total})
        plan = self._plan if total is None else self._plan._replace(total=total)
        return (each if plan.generates else collect)(self._runner, plan, iterable, repr(self))

    def stop(self) -> None:
        """End the current run, if there is one, with the results that are there.

        Calls that have not begun never begin, and calls that run are aborted. A list then has the results that are
        there, in the order of their calls; a generator ends after them.

        Notes
        -----
        Thread-safe. A callable for `progress` may call it too, when there are enough results.
        """
        self._runner.stop()
