"""``Parallel``: the arguments, and what is public of a run.

::

    Parallel(...) ──> Plan (_plan)       __call__ ──> Runner (_runner) ──> a list, or a generator of the results
                                         acall    ──> _async           ──> the same for an event loop

What only a run needs is imported with the first run, so that importing ``Parallel`` takes little more than Python.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from shoal.parallel._checks import OF_ONE_PARALLEL, check
from shoal.parallel._delayed import Call
from shoal.parallel._plan import Planned, plan_of
from shoal.parallel._runner import Runner, results
from shoal.parallel._serial import warn_of_ignored
from shoal.parallel._settings import DEFAULTS

if TYPE_CHECKING:
    from shoal.parallel._policies import Pace
    from shoal.parallel._resume import ResultCache

#: The names of the arguments of ``Parallel`` itself; all others are options of the backend.
ARGUMENTS = (*DEFAULTS, *OF_ONE_PARALLEL)


class Parallel:
    """Run calls side by side and return their results.

    Parameters
    ----------
    n_jobs : int, optional
        The number of workers: -1 for one per CPU, -2 for all CPUs but one, and so on; 1 runs the calls in a plain
        loop; None is what the context sets, and 1 outside of any. Other numbers are cut to an integer.
    backend : str, Backend or multiprocessing context, optional
        Where the calls run: "loky" (worker processes, the default), "threading", "multiprocessing", "sequential", a
        registered name, an instance, or a context of :mod:`multiprocessing`. On an interpreter without a global lock
        the default is "threading".
    return_as : {"list", "generator", "generator_unordered"}
        A list of the results in the order of the calls; or a generator of them, in that order or as they come. The
        calls begin at once in any case; dropping or closing the generator cancels those that have not ended.
    verbose : int
        0 is silent; the higher, the more lines report the progress, on stderr; from 50 on, on stdout.
    timeout : float, optional
        The seconds that the next result may take, while it is waited for. Ignored where there is one worker.
    pre_dispatch : int or str
        The number of batches that may be on their way at a time: a number, "all", or arithmetic over ``n_jobs``. The
        input is read no further ahead than they need, and two rounds more once a first result is there.
    batch_size : int, "auto" or callable
        The calls that travel together to a worker process; "auto" follows what they cost. A callable takes what the
        calls have cost so far, of which ``seconds_per_call`` is one (0 before any has ended), and returns a number,
        of which the fraction is dropped. Numbers below 1 mean 1.
    temp_folder : str, optional
        A folder for arrays that workers map. By default the environment variable ``JOBLIB_TEMP_FOLDER`` says where,
        else they are in shared memory.
    max_nbytes : int or str, optional
        Arrays of more bytes ("1M") are written once and mapped by the worker processes; None: none is.
    mmap_mode : {"c", "r", "r+", "w+", None}
        How they are mapped: copy-on-write by default, so that a call may write into its arguments, unseen by the
        caller and by other workers; "r" read-only; "r+" and "w+" shared among workers; None: not at all.
    prefer : {"processes", "threads"}, optional
        Which backend to take where none is named.
    require : {"sharedmem"}, optional
        Take a backend on which arguments are shared with the caller.
    progress : bool or callable
        True shows a progress bar; a callable is called as ``progress(done, total)``, with None for an unknown total.
    retries : int or callable
        How often a call is run again after it has failed; or a callable that takes the number of attempts so far and
        tells whether to stop, such as tenacity's ``stop_after_delay(60)``.
    retry_on : exception type, tuple of them, or callable
        The failures after which it is: by default any :class:`Exception`, :class:`~shoal.errors.WorkerDied` and
        :class:`~shoal.errors.TaskTimeout` among them. A callable takes the exception.
    retry_wait : float or callable
        The seconds before it is; or a callable that takes the number of attempts so far, such as tenacity's
        ``wait_exponential()``, and returns seconds. The worker is free meanwhile.
    on_error : {"raise", "return"}
        A failure that stands ends the run and is raised; or its exception is the result of its call.
    task_timeout : float, optional
        The seconds that a single call may run, from its start in the worker. That worker is killed, and the call fails
        with :class:`~shoal.errors.TaskTimeout`. A thread cannot be killed: it is left to end by itself. Ignored where
        there is one worker.
    max_pending : int, optional
        Where results come from a generator, the number that may be under way or wait to be taken: calls begin no
        sooner, so that a slow consumer bounds memory. Results behind one that is not there yet do not count. By
        default four batches per worker, within 64 MB of results.
    max_tasks_per_worker : int, optional
        The calls after which a worker process is replaced by a new one: where calls leak what nothing gives back. All
        calls that the process has run count, also those of earlier runs. With 1, each call has a process of its own,
        which costs a few milliseconds where a fork server starts them (Linux): for native code that leaks or crashes.
    max_worker_memory : int or str, optional
        The memory ("2G") above which a worker process is replaced, between calls and without losing any. It is sampled
        ten times a second; one that is over the limit by half in the middle of a call is killed, and the call fails
        with :class:`~shoal.errors.WorkerDied`. What counts is the resident memory that is not shared: neither
        arrays that shoal maps into workers, nor libraries; but of a worker that was forked, what its parent held then.
    seed : int, sequence of int or numpy.random.SeedSequence, optional
        Gives each call, as its argument `rng`, a :class:`numpy.random.Generator` of its own, seeded by the child of
        that index that :meth:`numpy.random.SeedSequence.spawn` would make: the same whatever runs the calls, in
        whichever batches, also if a call runs again. A call that passes an `rng` keeps it; a function that cannot
        take one raises TypeError when its first call is read. Each run of this Parallel has the same generators; a
        SeedSequence that is given is not changed, and may be given again.
    total : int, optional
        The number of calls, for `progress` and `verbose`, where the input does not tell: a generator expression has no
        length. It may be given with the calls as well: ``parallel(calls, total=1000)``. If it is wrong, no call is
        lost: above it progress is shown as without a total, and at the end of the input the true number takes its
        place.
    memory : ResultCache, optional
        Where results are kept, by two methods, ``get(call, default)`` and ``put(call, value)``: calls whose results it
        has are not run again, and their results stand at their places.
    **options
        Options of the backend. loky takes `initializer`, `initargs`, `idle_worker_timeout` (seconds) and
        `start_method`: "loky" starts each worker as a new interpreter, "spawn" by the method of multiprocessing; by
        default, which the environment variable ``SHOAL_START_METHOD`` sets, a fork server starts them where it can;
        multiprocessing takes `initializer`, `initargs`, `maxtasksperchild` and `context`. Both take

        `environment`: variables of the worker processes, a mapping of their names to their values, None for one that
        is to be taken away; or a callable that takes a worker's index (:func:`~shoal.worker_index`) and returns such
        a mapping, as in ``lambda index: {"CUDA_VISIBLE_DEVICES": str(index % 4)}``. They are set before the worker
        imports anything; but a forked worker begins with what the program has imported, and while one is spawned, the
        program's own environment has them too. They go before the limits that shoal sets for BLAS and OpenMP.

        `affinity`: the CPUs on which the worker processes run. True shares out those that this process may use, at
        least one each, in turn; a sequence has the number, or a set of numbers, of the CPUs of each worker, in turn;
        a callable takes a worker's index and returns such. Ignored where the system ties no processes to CPUs.

        Loky's workers are kept for runs whose options are equal: give the same callable, not a new one for each. It
        is called in the program's process, in a thread of shoal's, once for each worker that starts. Where there is
        one worker, both are ignored.

    Raises
    ------
    ValueError
        If an argument cannot be used, or arguments contradict each other.
    TypeError
        If an option is not known to the backend, or is none that it could use.

    Notes
    -----
    Thread-safe in that any number of threads may each use a Parallel of their own; one Parallel does one run at a
    time, and a second one raises RuntimeError.

    If a worker process dies, the call that it ran fails with :class:`~shoal.errors.WorkerDied`. The other calls of its
    batches whose results had not arrived, begun or not, are run again for nothing: each call runs at least once, and
    with ``batch_size=1`` exactly once.

    An exception that ends the run carries ``call``, which says what failed, and, unless results come from a generator,
    ``results``, a dictionary of those that were ready, by the index of their calls.

    As a context manager, by ``with`` or ``async with``, a Parallel keeps its workers between calls. Workers of loky
    stay warm in any case.

    Examples
    --------
    >>> from shoal import Parallel, delayed
    >>> Parallel(n_jobs=2, backend="threading")(delayed(pow)(x, 2) for x in range(5))
    [0, 1, 4, 9, 16]
    """

    n_jobs, verbose, timeout, pre_dispatch = Planned(), Planned(), Planned(), Planned()
    batch_size, return_as, memory, total = Planned(), Planned(), Planned(), Planned()
    _backend = Planned("backend")  # as in joblib, where people look for it

    def __init__(
        self,
        n_jobs: Any = DEFAULTS["n_jobs"],
        backend: Any = DEFAULTS["backend"],
        return_as: str = "list",
        verbose: Any = DEFAULTS["verbose"],
        timeout: float | None = None,
        pre_dispatch: int | str = "2 * n_jobs",
        batch_size: int | str | Callable[[Pace], int] = "auto",
        temp_folder: Any = DEFAULTS["temp_folder"],
        max_nbytes: Any = DEFAULTS["max_nbytes"],
        mmap_mode: Any = DEFAULTS["mmap_mode"],
        prefer: Any = DEFAULTS["prefer"],
        require: Any = DEFAULTS["require"],
        *,
        progress: Any = DEFAULTS["progress"],
        retries: Any = DEFAULTS["retries"],
        retry_on: Any = DEFAULTS["retry_on"],
        retry_wait: Any = DEFAULTS["retry_wait"],
        on_error: Any = DEFAULTS["on_error"],
        task_timeout: Any = DEFAULTS["task_timeout"],
        max_pending: Any = DEFAULTS["max_pending"],
        max_tasks_per_worker: Any = DEFAULTS["max_tasks_per_worker"],
        max_worker_memory: Any = DEFAULTS["max_worker_memory"],
        seed: Any = None,
        memory: ResultCache | None = None,
        total: int | None = None,
        **options: Any,
    ) -> None:
        self._plan = plan_of(
            "Parallel",
            ARGUMENTS,
            options,
            n_jobs=n_jobs,
            backend=backend,
            return_as=return_as,
            verbose=verbose,
            timeout=timeout,
            pre_dispatch=pre_dispatch,
            batch_size=batch_size,
            temp_folder=temp_folder,
            max_nbytes=max_nbytes,
            mmap_mode=mmap_mode,
            prefer=prefer,
            require=require,
            progress=progress,
            retries=retries,
            retry_on=retry_on,
            retry_wait=retry_wait,
            on_error=on_error,
            task_timeout=task_timeout,
            max_pending=max_pending,
            max_tasks_per_worker=max_tasks_per_worker,
            max_worker_memory=max_worker_memory,
            seed=seed,
            memory=memory,
            total=total,
        )
        self._runner = Runner()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n_jobs={self.n_jobs})"

    def __enter__(self) -> Parallel:
        self._runner.keep_workers()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._runner.release_workers()

    async def __aenter__(self) -> Parallel:
        return self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        from asyncio import to_thread

        await to_thread(self.__exit__, *exc_info)  # workers may take a while to end

    def __call__(self, iterable: Iterable[Call], *, total: int | None = None) -> Any:
        """Run the calls.

        Parameters
        ----------
        iterable
            The calls, made by :func:`~shoal.delayed`.
        total
            Their number, for `progress` and `verbose`, instead of that given to this Parallel.

        Returns
        -------
        The results: a list, or a generator, as `return_as` says.

        Raises
        ------
        Exception
            What a call, or the iterable, raises; its ``__cause__`` shows the traceback in a worker process.
        RuntimeError
            If a run of this Parallel is still going on.
        """
        if total is not None:
            check({"total": total})
        plan, runner = self._plan if total is None else self._plan._replace(total=total), self._runner
        runner.claim()
        generates = plan.generates
        try:
            n_workers = plan.workers()
            calls, number = plan.input(iterable)
            if n_workers == 1:
                warn_of_ignored(plan)
            return results(runner, plan, calls, n_workers, number, partial(plan.listener, repr(self)), runner.release)
        except BaseException:
            generates = False  # there is no generator that would end the run
            raise
        finally:
            if not generates:
                runner.release()

    def acall(self, iterable: Iterable[Call] | AsyncIterable[Call], *, total: int | None = None) -> Any:
        """Run the calls while an event loop of :mod:`asyncio` goes on.

        Parameters
        ----------
        iterable
            The calls, made by :func:`~shoal.delayed`. It is iterated in another thread; an asynchronous iterable in the
            event loop, no further ahead than `pre_dispatch` and `max_pending` allow, and results do not wait for its
            next call. It is closed when the run ends.
        total
            Their number, as for ``parallel(calls, total=...)``.

        Returns
        -------
        For a list a coroutine, ``results = await parallel.acall(calls)``; else an asynchronous generator,
        ``async for result in parallel.acall(calls)``. The calls begin when it is first awaited. Cancelling the task
        that awaits ends the run, as does leaving or closing the generator: workers are free again by then. Where there
        is one worker, the calls run in a thread.

        Raises
        ------
        Exception
            When awaited, as for ``parallel(calls)``.
        RuntimeError
            When awaited, if a run of this Parallel is still going on.

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
        """End the run that goes on, if there is one, with the results that are there.

        Calls that have not begun never begin, those that run are given up. A list then holds the results that were
        ready, in the order of their calls; a generator ends after them. It may be called in any thread, also in a
        callable for `progress`: "we have enough".
        """
        self._runner.stop()
