"""``Parallel``: what the arguments mean, the run that they ask for, and the shape of its results.

What only a run needs is imported with the first run, so that importing ``Parallel`` takes little more than Python.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterable, Callable, Collection, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any

from shoal._cpus import thread_limits
from shoal._files import parse_size
from shoal._tracebacks import warn
from shoal.backends import Backend, Slot, WorkerSpec
from shoal.backends.base import index_of_call, placed_by, worker_index
from shoal.errors import CallStopped, FallbackWarning, attach
from shoal.parallel._checks import OF_ONE_PARALLEL, check, check_options, integer
from shoal.parallel._delayed import Call, StandIn, check_input, forget_latest, is_call, not_a_call, parts, plain
from shoal.parallel._expressions import evaluate
from shoal.parallel._settings import DEFAULTS, Default, may_go_on, resolve

if TYPE_CHECKING:
    from shoal.observe._teller import Teller
    from shoal.parallel._policies import Pace
    from shoal.parallel._resume import ResultCache
    from shoal.parallel._run import Run
    from shoal.parallel._seeds import Seeds
    from shoal.parallel._settings import Settings

_RETURNS = ("list", "generator", "generator_unordered")


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

    memory: ResultCache | None = None
    total: int | None = None
    _total: int | None = None  # of the run that goes on, as it was given
    _seeds: Seeds | None = None
    _called = "Parallel"  # in messages, as well as what it takes
    _takes: Collection[str] = (*DEFAULTS, *OF_ONE_PARALLEL)
    _run: Run | None = None
    _kept: list[Slot] | None = None
    _kept_in = 0  # the process

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
        if memory is not None and not (hasattr(memory, "get") and hasattr(memory, "put")):
            raise TypeError(f"memory must have the methods get(call, default) and put(call, value), got: {memory!r}")
        chosen, settings = resolve(
            backend,
            n_jobs=DEFAULTS["n_jobs"] if n_jobs is None or isinstance(n_jobs, Default) else integer(n_jobs),
            verbose=verbose,
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
        )
        chosen.check_placement(options)
        check_options(self._called, self._takes, chosen, {**chosen.given_options, **options}, settings.depth)
        self._set_up(chosen, settings, options, return_as, timeout, pre_dispatch, batch_size)
        self.memory = memory
        check({"total": total})
        self.total = total
        if seed is not None:
            from shoal.parallel._seeds import Seeds

            self._seeds = Seeds(seed)

    def _set_up(
        self,
        backend: Backend,
        settings: Settings,
        options: dict[str, Any],
        return_as: str,
        timeout: float | None,
        pre_dispatch: int | str,
        batch_size: int | str | Callable[[Pace], int],
    ) -> None:
        """Be ready for runs on a backend, under settings in which nothing is left open."""
        if return_as not in _RETURNS:
            raise ValueError(f"Expected `return_as` parameter to be one of {_RETURNS}, but got {return_as!r} instead.")
        if batch_size != "auto" and not callable(batch_size) and not (_is_integer(batch_size) and int(batch_size) > 0):
            raise ValueError(f"batch_size must be 'auto', a positive integer or a callable, got: {batch_size!r}")
        check({"timeout": timeout})
        if return_as != "list" and not backend.supports_return_generator:
            raise ValueError(f"Backend {backend} does not support return_as={return_as!r}; loky and threading do")
        self.n_jobs: int = int(settings.n_jobs)  # type: ignore[arg-type]
        self.verbose: int = settings.verbose
        if timeout is not None:  # no lock can be waited for any longer than that, and nobody will
            timeout = min(timeout if type(timeout) is int else float(timeout), threading.TIMEOUT_MAX)
        self.timeout = timeout
        self.pre_dispatch = pre_dispatch
        self.batch_size = batch_size
        self.return_as = return_as
        self._backend = backend
        self._settings = settings
        self._max_nbytes = None if settings.max_nbytes is None else parse_size(settings.max_nbytes)
        self._options = options
        self._lock = threading.Lock()
        self._running = False
        self._stopped = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n_jobs={self.n_jobs})"

    def __enter__(self) -> Parallel:
        self._kept, self._kept_in = [], os.getpid()
        return self

    def __exit__(self, *exc_info: object) -> None:
        slots, self._kept = self._kept, None
        # A generator that still runs takes its slots with it; in a forked child they are the parent's.
        if slots and not self._running and self._kept_in == os.getpid():
            self._backend.close(slots)

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
        self._claim()
        self._total = self.total if total is None else total
        generates = self.return_as != "list"
        try:
            n_workers = self._workers()
            iterable, total = self._input(iterable)
            if n_workers == 1:
                self._warn_of_ignored()
                tell = self._listen(n_workers, total)
                if not generates and tell is None and self.memory is None and not may_go_on(self._settings):
                    return self._loop(iterable)
                results = self._one_by_one(iterable, tell)
                next(results)
                return results if generates else _collected(zip(results, strict=True), _attach)
            run = self._run = self._make_run(iterable, n_workers, total)
            if self._stopped:
                run.stop()
            if generates:
                return run.stream(self.timeout, self._ended)
            return _collected(run.results(), run.attach)
        except BaseException:
            generates = False  # there is no generator that would end the run
            raise
        finally:
            if not generates:
                self._ended()

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
        return (collect if self.return_as == "list" else each)(self, iterable, total)

    def _workers(self) -> int:
        """Return the number of workers of a run that begins."""
        return self._backend.workers(self.n_jobs, self._settings.depth)

    def _claim(self) -> None:
        """Begin a run; there can be one at a time."""
        with self._lock:
            if self._running:
                raise RuntimeError(
                    "This Parallel instance is already running ! Take all results of the run before, or close its "
                    "generator, before the next; or use another Parallel."
                )
            self._running = True
            self._stopped = False

    def _input(self, iterable: Iterable[Call]) -> tuple[Iterable[Call], int | None]:
        """Return the calls as they are to run, with their generators and known results, and how many they are."""
        check_input(iterable)
        total = len(iterable) if isinstance(iterable, Sized) else None
        if self._seeds is not None:
            iterable = self._seeds.over(iterable)
        if self.memory is not None:
            from shoal.parallel._resume import looked_up

            iterable = looked_up(iterable, self.memory)
        return iterable, total

    def _warn_of_ignored(self) -> None:
        """Warn of what is not done where there is one worker."""
        settings, options = self._settings, {**self._backend.given_options, **self._options}
        values = {
            "timeout": self.timeout,
            "task_timeout": settings.task_timeout,
            "max_tasks_per_worker": settings.max_tasks_per_worker,
            "max_worker_memory": settings.max_worker_memory,
            **{name: options[name] for name in placed_by(options)},
        }
        for name, value in values.items():
            if value is not None:
                message = f"{name}={value!r} is ignored: with one worker, calls run in the caller's own thread"
                warn(message, FallbackWarning)

    def _one_by_one(self, calls: Iterable[Call], tell: Teller | None) -> Iterator[Any]:
        """Be the generator of results where there is one worker; the first value is to be thrown away."""
        from shoal.parallel._faults import Faults
        from shoal.parallel._resume import keep

        faults = Faults(self._settings, tell)
        error: BaseException | None = None
        inside = worker_index() or 0  # a plain loop is in the worker that it is in already
        done = 0
        try:
            yield None
            for call in calls:
                if self._stopped:
                    return
                if tell is not None:
                    tell.dispatched(1)
                call = parts(call, done)
                while True:
                    function, args, kwargs = plain(call)  # anew for each attempt
                    outside = index_of_call.set(inside)  # call by call: what is between is the consumer's
                    try:
                        value = function(*args, **kwargs)
                    except BaseException as raised:
                        wait = faults.judge(done, (function, args, kwargs), raised)
                        if wait is None:
                            value = raised
                            break
                        time.sleep(wait)
                    else:
                        keep(self.memory, call, value)
                        break
                    finally:
                        index_of_call.reset(outside)
                done += 1
                if tell is not None:
                    tell.completed(1, 0.0, 1)
                yield value
                del value
            if tell is not None:
                tell.exhausted(done)
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._ended()
            if tell is not None:
                tell.finished(error)

    def _loop(self, calls: Iterable[Call]) -> list[Any]:
        """Run the calls one after the other: a plain loop, and a plain traceback."""
        results: list[Any] = []
        outside = index_of_call.set(worker_index() or 0)
        try:
            for call in calls:
                try:
                    function, args, kwargs = plain(parts(call, len(results))) if StandIn.in_use else call
                except (TypeError, ValueError):
                    raise not_a_call(call, len(results)) from None
                if self._stopped:
                    break
                try:
                    results.append(function(*args, **kwargs))
                except BaseException as error:
                    if not is_call((function, args, kwargs)):
                        raise not_a_call(call, len(results)) from None
                    from shoal.parallel._faults import named

                    attach(error, "call", named(len(results), (function, args, kwargs)))
                    raise
        except BaseException as error:
            attach(error, "results", dict(enumerate(results)))
            raise
        finally:
            index_of_call.reset(outside)
        return results

    def stop(self) -> None:
        """End the run that goes on, if there is one, with the results that are there.

        Calls that have not begun never begin, those that run are given up. A list then holds the results that were
        ready, in the order of their calls; a generator ends after them. It may be called in any thread, also in a
        callable for `progress`: "we have enough".
        """
        self._stopped = True
        run = self._run
        if run is not None:
            run.stop()

    def _ended(self) -> None:
        self._run = None
        self._running = False
        forget_latest()

    def _make_run(self, iterable: Iterable[Call], n_workers: int, total: int | None) -> Run:
        """Make the run; none of its calls is under way yet."""
        bound = self._bound(n_workers)
        if self._backend.forks:
            import shoal.parallel._launch  # noqa: F401
            from shoal._pickling import dumps

            dumps(None)  # imports cloudpickle
        # Before anything else, so that new worker processes start up while the rest is imported.
        slots = self._open(n_workers)
        from shoal.parallel._faults import Faults
        from shoal.parallel._launch import make_run

        tell = self._listen(n_workers, total)
        return make_run(
            iterable,
            backend=self._backend,
            settings=self._settings,
            slots=slots,
            close_slots=self._close,
            n_workers=n_workers,
            total=total,
            batch_size=self.batch_size,
            bound=bound,
            return_as=self.return_as,
            timeout=self.timeout,
            faults=Faults(self._settings, tell),
            max_nbytes=self._max_nbytes,
            memory=self.memory,
            tell=tell,
        )

    def _bound(self, n_workers: int) -> int | None:
        """Return the number of batches that may be in flight; None for no bound."""
        pre_dispatch = self.pre_dispatch
        if pre_dispatch == "all":
            return None
        if isinstance(pre_dispatch, str):
            bound = evaluate(pre_dispatch, n_workers)
        else:
            try:
                bound = int(pre_dispatch)
            except (TypeError, ValueError, OverflowError):
                raise TypeError(
                    f"pre_dispatch must be 'all', a number or an expression like '2 * n_jobs', got: {pre_dispatch!r}"
                ) from None
        if bound < 1:
            raise ValueError(f"pre_dispatch must come to at least 1 batch, got: {pre_dispatch!r}, which is {bound}")
        return bound

    def _open(self, n_workers: int, own: bool = False) -> list[Slot]:
        if self._kept:
            if self._kept_in == os.getpid():
                return self._kept
            self._kept_in = os.getpid()
        inner = self._backend.inner_max_num_threads
        environment = {} if self._backend.in_process else thread_limits(inner, n_workers)
        slots = self._backend.open(WorkerSpec(n_workers, environment, self._options, own))
        if self._kept is not None:
            self._kept = slots
        return slots

    def _close(self, slots: list[Slot]) -> None:
        if self._kept is not slots:
            self._backend.close(slots)

    def _listen(self, n_workers: int, total: int | None) -> Teller | None:
        """Return what tells of a run, and has told that it began; None where nobody listens."""
        progress = self._settings.progress
        if not self.verbose and progress is False:
            return None
        from shoal.observe._teller import RunStarted, make_teller

        if total is None:
            total = self._total
        started = RunStarted(n_workers, type(self._backend).__name__, total)
        return make_teller(self.verbose, progress, repr(self), self._bound(n_workers) or 0, started)


def _collected(dues: Iterable[Sequence[Any]], attach: Callable[[list[Any], BaseException], None]) -> list[Any]:
    """Return a list of results; what ends them early is given those that were there.

    Raises
    ------
    BaseException
        What has ended them; a StopIteration as it was raised, since this is no generator.
    """
    values: list[Any] = []
    try:
        for due in dues:
            values.extend(due)
    except CallStopped as stopped:
        stop = stopped.error
    except BaseException as error:
        attach(values, error)
        raise
    else:
        return values
    attach(values, stop)
    try:
        raise stop
    finally:
        del stop  # else it and this frame, which is in its traceback, would keep each other


def _attach(values: list[Any], error: BaseException) -> None:
    attach(error, "results", dict(enumerate(values)))


def _is_integer(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)
