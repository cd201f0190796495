"""``Parallel``: its arguments. The ways to run calls, stop them and wait for them are in ``_runs``.

::

    Parallel(...) ──> Plan (_plan) ──> Runs (_runs) ──> a list, or a generator of the results

Modules that only a run needs are imported by the first run, so that importing ``Parallel`` takes little more time than
starting Python.
"""

from __future__ import annotations

from shoal._typing import TYPE_CHECKING, Failed, Form
from shoal.parallel._runs import Runs
from shoal.parallel.options._checks import OF_ONE_PARALLEL
from shoal.parallel.options._plan import Planned, plan_of
from shoal.parallel.options._settings import DEFAULTS
from shoal.parallel.running._runner import Runner

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from typing import Any

    from numpy.random import SeedSequence

    from shoal._typing import AsGenerator, AsList, Raises
    from shoal.backends import Backend
    from shoal.observe._logger import LogsInfo
    from shoal.parallel.options._settings import (
        BackendContext,
        Context,
        Forward,
        MmapMode,
        Prefer,
        Progress,
        Require,
        Retries,
        RetryOn,
        RetryWait,
        Size,
        Submits,
    )
    from shoal.parallel.running._policies import Pace
    from shoal.parallel.running._resume import ResultCache
    from shoal.reports._report import Report

#: The names of the arguments of ``Parallel`` itself; all others are options of the backend.
ARGUMENTS = (*DEFAULTS, *OF_ONE_PARALLEL)

# Type checkers read from their types what a Parallel without these arguments returns.
_AS_LIST: AsList = "list"
_RAISES: Raises = DEFAULTS["on_error"]


class Parallel(Runs[Form, Failed]):
    """Run function calls in parallel and return their results.

    Parameters
    ----------
    n_jobs : int, optional
        The number of workers. -1 means one per CPU, -2 all CPUs but one, and so on. With 1 the calls run in a loop in
        the caller's thread. None means what the context sets (:class:`~shoal.parallel_config`), otherwise 1; on dask,
        ray and executors all workers. Numbers with a fraction lose it.
    backend : str, Backend, executor or multiprocessing context, optional
        Where the calls run: "loky" (worker processes, the default), "threading", "multiprocessing", "sequential", the
        name of a registered backend, an instance of one, an executor of :mod:`concurrent.futures` (its workers run the
        calls, and it is never shut down), or a context of :mod:`multiprocessing`. The default is "threading" on an
        interpreter without a global lock.
    return_as : {"list", "generator", "generator_unordered"}
        "list" returns a list of the results in the order of the calls. "generator" returns a generator of them in that
        order, "generator_unordered" one of them as they come. The calls begin at once in each case. Dropping or closing
        the generator cancels the calls that have not ended.
    verbose : int or logger
        How much is printed about the progress: nothing with 0, more lines the higher it is. The lines go to stderr,
        from 50 on to stdout. A logger, of :mod:`logging` or another object with its method `info`, gets as many lines
        as 9 prints, at level INFO.
    timeout : float, optional
        The seconds that the next result may take while the program waits for it; then the run raises
        :class:`~shoal.errors.RunTimeout`. Time in which only the input is awaited does not count. It has no effect with
        one worker.
    pre_dispatch : int or str
        The number of batches that may be in flight: a number, "all", or arithmetic over ``n_jobs`` such as
        "2 * n_jobs". The input is read only as far ahead as these batches need; once a first result has come, by two
        rounds more.
    batch_size : int, "auto" or callable
        The number of calls that travel together to a worker process. "auto" chooses it from what earlier calls have
        cost. A callable receives these costs, with the attribute ``seconds_per_call`` among others (0 before any call
        has ended), and returns a number. shoal drops its fraction, and takes 1 for numbers below 1.
    temp_folder : str, optional
        A folder for the arrays that workers map. By default the environment variable ``JOBLIB_TEMP_FOLDER`` names it;
        if that is not set, the arrays are in shared memory.
    max_nbytes : int or str, optional
        Arrays of more bytes than this ("1M") are written once, and the worker processes map them. None: no array is.
    mmap_mode : {"c", "r", "r+", "w+", None}
        How workers map these arrays. "c", copy-on-write, is the default: a call may write into its arguments, and
        neither the caller nor other workers see that. "r" is read-only; "r+" and "w+" are shared by the workers; None
        maps no array.
    prefer : {"processes", "threads"}, optional
        The kind of backend to take if none is named.
    require : {"sharedmem"}, optional
        Take a backend whose calls share their arguments with the caller.
    progress : bool, "rich" or callable
        True shows a progress bar on a terminal and in a notebook; elsewhere it prints a line now and then. "rich" shows
        on a terminal also the bars of runs inside the calls that ask for "rich" themselves; it needs the extra `rich`.
        A callable is called as ``progress(done, total)``, with None for an unknown total.
    retries : int or callable
        How often a failed call is retried. A callable receives the number of attempts so far and returns whether to
        stop, as tenacity's ``stop_after_delay(60)`` does.
    retry_on : exception type, tuple of them, or callable
        The failures after which a call is retried. The default, :class:`Exception`, includes
        :class:`~shoal.errors.WorkerDied` and :class:`~shoal.errors.TaskTimeout`. A callable receives the exception and
        returns whether to retry.
    retry_wait : float or callable
        The seconds before a retry. A callable receives the number of attempts so far and returns the seconds, as
        tenacity's ``wait_exponential()`` does. Meanwhile the worker runs other calls.
    on_error : {"raise", "return"}
        What happens when the last attempt at a call has failed. "raise" ends the run and raises the exception; "return"
        makes the exception the result of the call.
    task_timeout : float, optional
        The seconds that a single call may run, counted from its start in the worker. After that the worker process is
        killed, and the call fails with :class:`~shoal.errors.TaskTimeout`. A thread cannot be killed: its call fails
        too, and the thread goes on until it ends by itself. It has no effect with one worker.
    max_pending : int, optional
        For generators, the number of calls that may run or have a result that the consumer has not taken yet. More
        calls begin only when the consumer takes results, so that a slow consumer does not make memory grow. Results
        held back only because an earlier call is still running do not count. The default is four batches per worker,
        within 64 MB of results.
    max_tasks_per_worker : int, optional
        The number of calls after which a worker process is replaced by a new one, for calls that leak memory or other
        resources. All calls of the process count, also those of earlier runs. With 1 each call has a process of its
        own, for native code that leaks or crashes; where a fork server starts processes (Linux), this costs a few
        milliseconds per call.
    max_worker_memory : int or str, optional
        The memory ("2G") above which a worker process is replaced. It is replaced between calls, and no call is lost.
        The memory is sampled ten times a second. A process that exceeds the limit by half in the middle of a call is
        killed, and the call fails with :class:`~shoal.errors.WorkerDied`. Resident memory that is not shared counts:
        neither the arrays that shoal maps into workers, nor libraries. For a worker that was forked, the memory counts
        that its parent had at that time.
    forward : bool, str or collection of str
        What calls say in a worker that arrives in this process: "logging", "warnings", "output", or several of them.
        True, the default, means all, and False nothing: then it stays with the worker's own streams. Log records that
        no handler of the worker has handled go to the loggers of their names here, with the attributes ``shoal_call``
        and ``shoal_worker``. Warnings go through the filters here. Printed text goes to ``sys.stdout`` and
        ``sys.stderr`` where the program has replaced them, as notebooks, pytest and ``redirect_stdout`` do. The levels,
        filters and streams are those at the beginning of the run. What is said arrives with the results of its batch,
        and after a second if the call still runs. On threads, and with one worker, everything is in this process
        anyway, and log records get the same attributes.
    context : list of ContextVar, or bool, optional
        The context variables (:mod:`contextvars`) that calls in other processes find set as this thread has set them
        when the run is made. They are sent once to each worker. True sends all that can be sent: workers must find the
        variable in a module, and its value must be picklable. On threads, and with one worker, calls see all variables
        anyway.
    report : str, os.PathLike or Report, optional
        Where a report of the runs goes, which says why they were slow: the path of a file that ends with ``.html``,
        ``.json`` or ``.trace.json``, or what :func:`~shoal.report` returns. A file is written at the end of each run,
        with all runs of this Parallel or of the context that sets it.
    seed : int, sequence of int or numpy.random.SeedSequence, optional
        Gives each call a :class:`numpy.random.Generator` of its own as the argument `rng`. Call i gets the generator of
        the i-th child that :meth:`numpy.random.SeedSequence.spawn` would make. So its numbers do not depend on the
        backend, the batches or retries. A call that passes an `rng` keeps it. A function without an argument `rng`
        raises TypeError when its first call is read. Every run of this Parallel has the same generators. A SeedSequence
        is not changed, and may be passed again.
    total : int, optional
        The number of calls, for `progress` and `verbose`, if the input has no length, as a generator expression. It may
        also be passed with the calls: ``parallel(calls, total=1000)``. If it is wrong, all calls run nevertheless.
        Progress above it is shown without a total, and the true number replaces it when the input ends.
    on_message : callable, optional
        Called as ``on_message(index, message)`` with each message that call number `index` sends by
        :func:`~shoal.send`, while the call runs, and in the order in which the call sends them. The thread that runs
        the loop calls it: for a list that of the caller, for generators on several workers one of shoal's. Calls wait
        while too many of their messages are not handled. An exception that it raises ends the run. It may call
        :meth:`stop`, and make runs of its own.
    memory : ResultCache, optional
        A store of results, with the methods ``get(call, default)`` and ``put(call, value)``. Calls whose results it has
        do not run; the stored results are returned in their order. See :class:`~shoal.ResultCache`.
    **options
        Options of the backend. "loky" takes `initializer`, `initargs`, `idle_worker_timeout` (seconds) and
        `start_method`. For `start_method`, "loky" starts each worker as a new interpreter, "spawn" as
        :mod:`multiprocessing` does; by default a fork server starts them where this is possible. The environment
        variable ``SHOAL_START_METHOD`` sets another default. "multiprocessing" takes `initializer`, `initargs`,
        `maxtasksperchild` and `context`. Both backends take the following two, which have no effect with one worker:

        `environment`: the environment variables of the worker processes. It is a mapping of names to values, with None
        for a variable to remove; or a callable that receives the index of a worker (:func:`~shoal.worker_index`) and
        returns such a mapping, as ``lambda index: {"CUDA_VISIBLE_DEVICES": str(index % 4)}``. The variables are set
        before the worker imports anything. There are two exceptions: a forked worker has from its start the modules
        that the program has imported, and while a worker is spawned, the program itself has the variables too. They
        take precedence over the limits that shoal sets for BLAS and OpenMP.

        `affinity`: the CPUs on which the worker processes run. True divides the CPUs of this process among the workers,
        at least one CPU each. A sequence has one number, or one set of numbers, for each worker in turn. A callable
        receives the index of a worker and returns such an item. It has no effect on systems that cannot bind processes
        to CPUs.

        Runs with equal options share the workers of loky, so pass the same callable, not a new one each time. shoal
        calls it in this process, in a thread of its own, once for each worker that starts.

    Raises
    ------
    ValueError
        If the value of an argument cannot be used, or arguments contradict each other.
    TypeError
        If an argument has the wrong type, or the backend does not take an option.

    See Also
    --------
    delayed : Make a call from a function and its arguments.
    executor : Submit calls one by one.
    parallel_config : Set defaults of these arguments.

    Notes
    -----
    One Parallel does one run at a time: a second call during a run raises RuntimeError, in any thread. Several threads
    may each use a Parallel of their own.

    If a worker process dies, the call that it ran fails with :class:`~shoal.errors.WorkerDied`. The other calls of its
    batches whose results had not arrived run again, whether they had begun or not, and this does not count as a
    retry. So each call runs at least once; with ``batch_size=1`` and without retries
    exactly once.

    An exception that ends a run has the attribute ``call``, which names the failed call. Unless the results come from a
    generator, it has the attribute ``results`` too: a dictionary of the results that were there, by the index of their
    calls.

    ``with`` and ``async with`` keep the workers between the calls of one Parallel. The workers of loky stay alive for
    later runs in any case.

    Examples
    --------
    >>> from shoal import Parallel, delayed
    >>> Parallel(n_jobs=2, backend="threading")(delayed(pow)(x, 2) for x in range(5))
    [0, 1, 4, 9, 16]
    """

    n_jobs: Planned[int] = Planned()
    verbose: Planned[int | LogsInfo] = Planned()
    timeout: Planned[float | None] = Planned()
    pre_dispatch: Planned[int | str] = Planned()
    batch_size: Planned[int | str | Callable[[Pace], int]] = Planned()
    return_as: Planned[AsList | AsGenerator] = Planned()
    memory: Planned[ResultCache | None] = Planned()
    total: Planned[int | None] = Planned()
    _backend: Planned[Backend] = Planned("backend")  # as in joblib, where people look for it

    def __init__(
        self,
        n_jobs: int | None = DEFAULTS["n_jobs"],
        backend: str | Backend | BackendContext | Submits | None = DEFAULTS["backend"],
        return_as: Form = _AS_LIST,  # type: ignore[assignment]
        verbose: int | LogsInfo = DEFAULTS["verbose"],
        timeout: float | None = None,
        pre_dispatch: int | str = "2 * n_jobs",
        batch_size: int | str | Callable[[Pace], int] = "auto",
        temp_folder: str | os.PathLike[str] | None = DEFAULTS["temp_folder"],
        max_nbytes: Size | None = DEFAULTS["max_nbytes"],
        mmap_mode: MmapMode | None = DEFAULTS["mmap_mode"],
        prefer: Prefer | None = DEFAULTS["prefer"],
        require: Require | None = DEFAULTS["require"],
        *,
        progress: Progress = DEFAULTS["progress"],
        retries: Retries = DEFAULTS["retries"],
        retry_on: RetryOn = DEFAULTS["retry_on"],
        retry_wait: RetryWait = DEFAULTS["retry_wait"],
        on_error: Failed = _RAISES,  # type: ignore[assignment]
        task_timeout: float | None = DEFAULTS["task_timeout"],
        max_pending: int | None = DEFAULTS["max_pending"],
        max_tasks_per_worker: int | None = DEFAULTS["max_tasks_per_worker"],
        max_worker_memory: Size | None = DEFAULTS["max_worker_memory"],
        forward: Forward = DEFAULTS["forward"],
        context: Context | None = DEFAULTS["context"],
        report: str | os.PathLike[str] | Report | None = DEFAULTS["report"],
        seed: int | Sequence[int] | SeedSequence | None = None,
        memory: ResultCache | None = None,
        total: int | None = None,
        on_message: Callable[[int, Any], object] | None = None,
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
            forward=forward,
            context=context,
            report=report,
            seed=seed,
            memory=memory,
            total=total,
            on_message=on_message,
        )
        self._runner = Runner()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(n_jobs={self.n_jobs})"
