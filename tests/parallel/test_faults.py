"""What happens when something goes wrong: in a call, in a worker, in the caller's iterator, on the way between them."""

from __future__ import annotations

import copyreg
import gc
import os
import pickle
import re
import signal
import struct
import sys
import threading
import weakref
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from loky.process_executor import TerminatedWorkerError

from _capabilities import KILL, KILLED, WORDS_OF_KILLED, needs_signals
from _faults_util import Child, alive, until, wait_for, worker_pids, works
from conftest import FreshPython
from shoal import Parallel, delayed
from shoal.backends import _messages
from shoal.backends._process import Process
from shoal.errors import CallPicklingError, CallUnpicklingError, RemoteTraceback, UnusedResultsWarning, WorkerDied
from shoal.parallel.transport._processes import ProcessTransport

GENERATORS = ["generator", "generator_unordered"]
RETURNS = ["list", *GENERATORS]


def run(calls: Any, return_as: str = "list", **options: Any) -> list[Any]:
    """Run to the end, whatever is asked for."""
    return list(Parallel(n_jobs=2, return_as=return_as, **options)(calls))


# ---- workers that die


def crash() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


def die(how: str, gate: Path | None = None) -> None:
    if gate is not None:
        wait_for(gate)
    if how == "SIGKILL":
        os.kill(os.getpid(), KILL)
    if how == "SIGSEGV":
        crash()
    os._exit(int(how))


@pytest.mark.parametrize("return_as", RETURNS)
@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("SIGKILL", KILLED, WORDS_OF_KILLED),
        pytest.param("SIGSEGV", -11, "was killed by SIGSEGV", marks=needs_signals),
        ("7", 7, "exited with code 7"),
        ("0", 0, "exited with code 0"),
    ],
)
def test_dead_worker_is_named(how: str, code: int, words: str, return_as: str) -> None:
    with pytest.raises(WorkerDied, match=rf"{words}.*; it ran call 1, test_faults\.die\('{how}'\)") as caught:
        run([delayed(abs)(0), delayed(die)(how)], return_as, batch_size=1)
    assert isinstance(caught.value, BrokenProcessPool)
    assert isinstance(caught.value, TerminatedWorkerError)
    assert caught.value.exit_code == code
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy)) == (WorkerDied, str(caught.value))
    assert works()


@pytest.mark.parametrize("return_as", GENERATORS)
def test_other_workers_outlive_a_dead_one(tmp_path: Path, return_as: str) -> None:
    before = worker_pids(2)
    gate = tmp_path / "gate"
    calls = [delayed(abs)(-5), delayed(die)("SIGKILL", gate)]
    results = Parallel(n_jobs=2, return_as=return_as, batch_size=1)(calls)
    assert next(results) == 5
    gate.touch()
    with pytest.raises(WorkerDied):
        next(results)
    after = worker_pids(2)
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_death_of_an_idle_worker_goes_unseen() -> None:
    first, second = worker_pids(2)
    os.kill(second, KILL)
    assert until(lambda: not alive(second))
    after = worker_pids(2)
    assert after[0] == first
    assert works()


def test_a_run_goes_on_with_workers_that_replace_dead_ones() -> None:
    for _ in range(5):
        with pytest.raises(WorkerDied):
            run(delayed(die)("SIGKILL") for _ in range(8))
    assert works()


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_the_call_that_ran_is_named_whatever_else_a_dead_worker_held(backend: str) -> None:
    calls = [delayed(abs)(0), delayed(abs)(1), delayed(die)("SIGKILL"), delayed(abs)(3)]
    with pytest.raises(WorkerDied, match=r"call 2, test_faults\.die\('SIGKILL'\)"):
        Parallel(n_jobs=2, batch_size=4, backend=backend)(calls)
    assert works(backend=backend)


def die_while_writing() -> None:
    """Let this worker die when a part of its next message is in the pipe."""

    def send(end: Any, message: bytes) -> None:
        end._connection.send(struct.pack("<Q", len(message)) + bytes(message[:20]))
        os.kill(os.getpid(), KILL)

    _messages.Blocking.send = send  # type: ignore[method-assign]


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_death_in_the_middle_of_a_result(backend: str) -> None:
    with pytest.raises(WorkerDied, match=WORDS_OF_KILLED):
        run([delayed(die_while_writing)()], backend=backend)
    assert works(backend=backend)


# ---- exceptions of calls


class Awkward(Exception):
    """Its constructor takes what its ``args`` do not hold."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code, self.where = code, where


class Silent(Exception):
    def __init__(self, a: int, b: int) -> None:
        self.a, self.b = a, b
        super().__init__()


class Own(OSError):
    def __init__(self, number: int, text: str, *, hint: str) -> None:
        super().__init__(number, text, "some/file")
        self.hint = hint


class Unsayable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words for it")


def throw(error: BaseException) -> None:
    raise error


def throw_awkward() -> None:
    raise Awkward(3, where="here")


def throw_silent() -> None:
    raise Silent(1, 2)


def throw_own() -> None:
    raise Own(2, "gone", hint="look elsewhere")


def throw_chain() -> None:
    try:
        {}["missing"]
    except KeyError as error:
        raise LookupError("nothing there") from error


def throw_unicode() -> None:
    b"\xff".decode("ascii")


def throw_with_a_lock() -> None:
    error = ValueError("locked")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


def throw_unsayable() -> None:
    error = Unsayable()
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    raise error


class Stubborn(Exception):
    """Its own reduction cannot be rebuilt."""

    def __reduce__(self) -> Any:
        return abs, ("no number",)


def throw_stubborn() -> None:
    raise Stubborn("once", 2)


def throw_what_cannot_be_rebuilt() -> None:
    error = ValueError("in two parts")
    error.part = Refuses("the part")  # type: ignore[attr-defined]
    raise error


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize(
    ("function", "cls", "attributes"),
    [
        (throw_awkward, Awkward, {"code": 3, "where": "here", "args": ("3 at here",)}),
        (throw_silent, Silent, {"a": 1, "b": 2, "args": ()}),
        (throw_own, Own, {"errno": 2, "strerror": "gone", "filename": "some/file", "hint": "look elsewhere"}),
        (throw_stubborn, Stubborn, {"args": ("once", 2)}),
        (throw_unicode, UnicodeDecodeError, {"object": b"\xff", "encoding": "ascii", "start": 0}),
        (throw_chain, LookupError, {"args": ("nothing there",)}),
    ],
)
def test_exceptions_arrive_as_they_were_raised(
    function: Any, cls: type[Exception], attributes: dict[str, Any], backend: str
) -> None:
    with pytest.raises(cls) as caught:
        run([delayed(abs)(1), delayed(function)()], backend=backend)
    assert type(caught.value) is cls
    assert {name: getattr(caught.value, name) for name in attributes} == attributes
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert f"call 1, test_faults.{function.__name__}(...)" in str(cause)
    assert f"in {function.__name__}" in str(cause)
    if function is throw_chain:
        assert "KeyError: 'missing'" in str(cause)


def test_exceptions_arrive_though_a_library_has_registered_how_they_are_pickled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(copyreg.dispatch_table, LookupError, lambda _error: (LookupError, ()))  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="nothing there"):
        run([delayed(abs)(1), delayed(throw_chain)()], backend="multiprocessing")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("stop"), StopAsyncIteration(1)])
@pytest.mark.parametrize("return_as", RETURNS)
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_exceptions_that_are_no_errors_end_a_run_too(error: BaseException, return_as: str, backend: str) -> None:
    with pytest.raises(type(error)) as caught:
        run([delayed(abs)(1), delayed(throw)(error)], return_as, backend=backend)
    assert caught.value.args == error.args
    assert works(backend=backend)


def exit_by_sys(code: int) -> None:
    sys.exit(code)


def test_sys_exit_kills_no_worker() -> None:
    before = worker_pids(1 + 1)
    with pytest.raises(SystemExit) as caught:
        run([delayed(exit_by_sys)(4)])
    assert caught.value.code == 4
    assert worker_pids(2) == before


def test_class_of_an_exception_made_in_a_function() -> None:
    class Local(Exception):
        pass

    def raise_it() -> None:
        raise Local("mine", 3)

    with pytest.raises(Local) as caught:
        run([delayed(raise_it)()])
    assert caught.value.args == ("mine", 3)


@pytest.mark.parametrize(
    ("function", "cls", "left_out"),
    [
        (throw_with_a_lock, ValueError, r"ValueError\.lock \(TypeError: cannot pickle '_thread\.lock' object\)"),
        (throw_unsayable, Unsayable, r"Unsayable\.lock"),
        (throw_what_cannot_be_rebuilt, ValueError, r"ValueError\.part \(RuntimeError: the part will not be rebuilt\)"),
    ],
)
def test_exceptions_of_which_a_part_cannot_travel(function: Any, cls: type[Exception], left_out: str) -> None:
    with pytest.raises(cls) as caught:
        run([delayed(abs)(1), delayed(function)()])
    assert type(caught.value) is cls
    (note,) = caught.value.__notes__
    assert re.search(left_out, note)
    assert f"in {function.__name__}" in str(caught.value.__cause__)
    assert works()


def test_a_failure_does_not_wait_for_slow_siblings(tmp_path: Path) -> None:
    for backend in ("loky", "multiprocessing", "threading"):
        gate = tmp_path / backend
        calls = [delayed(wait_for)(gate), delayed(throw)(ZeroDivisionError(backend)), delayed(wait_for)(gate)]
        with pytest.raises(ZeroDivisionError, match=backend):
            Parallel(n_jobs=3, backend=backend, batch_size=1)(calls)
        assert not gate.exists()
        gate.touch()  # the threads end


@pytest.mark.parametrize("return_as", GENERATORS)
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_failure_in_a_generator_does_not_wait_for_slow_siblings(tmp_path: Path, return_as: str, backend: str) -> None:
    gate = tmp_path / "gate"
    calls = [delayed(abs)(-1), delayed(wait_for)(gate), delayed(throw)(ZeroDivisionError())]
    results = Parallel(n_jobs=3, backend=backend, batch_size=1, return_as=return_as)(calls)
    with pytest.raises(ZeroDivisionError):
        list(results)
    assert not gate.exists()
    gate.touch()


def begin(folder: Path) -> None:
    (folder / f"pid-{os.getpid()}").touch()
    wait_for(folder / "gate")


@pytest.mark.parametrize("where", [(ProcessTransport, "send"), (Process, "send")])
def test_interrupt_while_a_batch_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any) -> None:
    """It comes when the call runs already, and before that was noted: its worker must not stay busy."""
    worker_pids(2)
    owner, name = where
    original = getattr(owner, name)

    def interrupted(self: Any, *args: Any) -> Any:
        original(self, *args)
        assert until(lambda: list(tmp_path.glob("pid-*")))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            run([delayed(begin)(tmp_path)])
    (pid,) = (int(path.name[4:]) for path in tmp_path.glob("pid-*"))
    assert until(lambda: not alive(pid))
    assert works()


# ---- what cannot travel


class Model:
    def __init__(self) -> None:
        self.callback: Any = None
        self.name = "model"


class Refuses:
    """Pickles, and raises where it is rebuilt; or is rebuilt in the process that made it only."""

    def __init__(self, what: str, here: bool = False) -> None:
        self.what, self.pid = what, os.getpid() if here else 0

    def __reduce__(self) -> Any:
        return rebuild_but_elsewhere, (self.what, self.pid)


def rebuild_but_elsewhere(what: str, pid: int) -> Refuses:
    if os.getpid() == pid:
        return Refuses(what, here=True)
    raise RuntimeError(f"{what} will not be rebuilt")


class Deadly:
    """Kills the process that rebuilds it."""

    def __reduce__(self) -> Any:
        return os._exit, (5,)


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def ignore(*_args: Any, **_kwargs: Any) -> None:
    return None


def make(what: str) -> Any:
    model = Model()
    model.callback = threading.Lock()
    return {
        "lock": threading.Lock(),
        "deep": [1, {"model": model}],
        "unwilling": Raises(ValueError("not me")),
        "unrebuildable": Refuses("the result", here=True),
        "fine": 3,
    }[what]


def deep(value: Any) -> dict[str, Any]:
    model = Model()
    model.callback = value
    return {"fine": 1, "model": model}


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize("return_as", ["list", "generator"])
@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda: delayed(ignore)(threading.Lock()), "args[0]"),
        (lambda: delayed(ignore)(0, deep(threading.Lock())), "args[1]['model'].callback"),
        (lambda: delayed(ignore)(x=[0, (1, threading.Lock())]), "kwargs['x'][1][1]"),
        (lambda: delayed(ignore)(Raises(ValueError("not me"))), "args[0]"),
        (lambda: delayed(ignore)({"gen": (i for i in range(3))}), "args[0]['gen']"),
    ],
)
def test_arguments_that_cannot_be_pickled(call: Any, path: str, return_as: str, backend: str) -> None:
    if backend == "multiprocessing" and return_as != "list":
        return_as = "list"
    calls = [delayed(ignore)(0), delayed(ignore)(1), call()]
    with pytest.raises(CallPicklingError) as caught:
        run(calls, return_as, backend=backend)
    assert caught.value.path == path
    assert "call 2, test_faults.ignore(...)" in str(caught.value)
    assert ("not me" in str(caught.value)) == isinstance(caught.value.__cause__, ValueError)  # code of the user's
    assert isinstance(caught.value, (TypeError, pickle.PicklingError))
    assert works(backend=backend)


def test_functions_that_cannot_be_pickled() -> None:
    lock = threading.Lock()

    def locked(x: int) -> int:
        with lock:
            return x

    with pytest.raises(CallPicklingError, match=r"the function's variable lock cannot be pickled"):
        run([delayed(locked)(1)])
    model = Model()
    model.callback = lock
    with pytest.raises(CallPicklingError, match="the function"):
        run([delayed(type("Callable", (), {"__call__": ignore, "__reduce__": lambda self: 1 / 0})())(1)])
    assert works()


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize(("what", "path"), [("lock", "result"), ("deep", "result[1]['model'].callback")])
def test_results_that_cannot_be_pickled(what: str, path: str, backend: str) -> None:
    with pytest.raises(CallPicklingError) as caught:
        run([delayed(make)("fine"), delayed(make)(what)], backend=backend)
    assert caught.value.path == path
    assert "the result of call 1, test_faults.make(...)" in str(caught.value)
    assert works(backend=backend)


def test_a_result_whose_pickling_raises() -> None:
    with pytest.raises(CallPicklingError, match=r"call 0, test_faults\.make.*not me"):
        run([delayed(make)("unwilling")])


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_results_that_cannot_be_rebuilt(backend: str) -> None:
    with pytest.raises(CallUnpicklingError, match=r"the result.* will not be rebuilt") as caught:
        run([delayed(make)("fine"), delayed(make)("unrebuildable")], backend=backend, batch_size=1)
    assert isinstance(caught.value, pickle.UnpicklingError)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert "calling process" in str(caught.value)
    assert works(backend=backend)


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_arguments_that_cannot_be_rebuilt_in_the_worker(backend: str) -> None:
    before = sorted(worker_pids(2))
    with pytest.raises(CallUnpicklingError, match=r"call 0, .*in a worker.*RuntimeError.*argument.*rebuilt") as caught:
        run([delayed(ignore)(Refuses("argument"))], backend=backend, batch_size=1)
    assert "rebuild_but_elsewhere" in str(caught.value.__cause__)
    assert "test_faults.ignore" in str(caught.value.__cause__)
    if backend == "loky":  # the workers of multiprocessing belong to their run
        assert sorted(worker_pids(2)) == before
    assert works(backend=backend)


def test_arguments_and_results_that_kill_who_rebuilds_them() -> None:
    with pytest.raises(WorkerDied, match=r"code 5; it was receiving the arguments, .*of call 1, test_faults\.ignore"):
        run([delayed(ignore)(0), delayed(ignore)(Deadly())], batch_size=1)
    assert works()


def test_a_call_that_is_none(tmp_path: Path) -> None:
    for backend in ("loky", "threading", "sequential"):
        with pytest.raises(TypeError, match=r"item 1 of the input is no delayed call but 5 \(int\)"):
            run([delayed(abs)(1), 5], backend=backend)


def test_what_was_sent_does_not_stay_alive() -> None:
    model = Model()
    gone = weakref.ref(model)
    with pytest.raises(ZeroDivisionError):
        run([delayed(ignore)(model), delayed(throw)(ZeroDivisionError())])
    del model
    # What the killed worker held goes when its executor has seen that it is dead.
    assert until(lambda: gc.collect() >= 0 and gone() is None)


# ---- initializers


def fail_to_begin(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize("error", [ValueError("not today"), SystemExit(2), KeyboardInterrupt()])
def test_initializer_that_raises(error: BaseException, backend: str) -> None:
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            run([delayed(abs)(1)] * 4, backend=backend, initializer=fail_to_begin, initargs=(error,))
        assert caught.value.args == error.args
    assert works(backend=backend)


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_initializer_that_ends_the_worker(backend: str) -> None:
    with pytest.raises(WorkerDied):
        run([delayed(abs)(1)] * 4, backend=backend, initializer=die, initargs=("3",))
    assert works(backend=backend)


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_a_process_that_has_ended_before_it_is_known(backend: str, fresh_python: FreshPython) -> None:
    # It has time to end, as it had where the pool's thread waited for a CPU.
    printed = fresh_python(
        f"""
        import os, time
        from shoal import Parallel, WorkerDied, delayed
        from shoal.backends._process import Process

        def start(self, how, begin=Process.start):
            begin(self, how)
            time.sleep(0.3)

        Process.start = start
        try:
            Parallel(n_jobs=2, backend={backend!r}, initializer=os._exit, initargs=(3,))([delayed(abs)(1)] * 4)
        except WorkerDied:
            print("died")
        print(Parallel(n_jobs=2, backend={backend!r})(delayed(abs)(-i) for i in range(4)))
        """
    )
    assert printed == "died\n[0, 1, 2, 3]\n"


def test_initializer_that_cannot_be_pickled() -> None:
    with pytest.raises(Exception, match="pickle"):
        run([delayed(abs)(1)] * 4, initializer=ignore, initargs=(threading.Lock(),))
    assert works()


# ---- the caller's iterator


def calls_that_raise(n: int, fail_at: int) -> Any:
    for index in range(n):
        if index == fail_at:
            raise LookupError(f"at {index}")
        yield delayed(abs)(-index)
    if fail_at == n:
        raise LookupError(f"at {n}")


@pytest.mark.parametrize("backend", ["loky", "threading", "sequential"])
@pytest.mark.parametrize("return_as", RETURNS)
@pytest.mark.parametrize("fail_at", [0, 1, 25, 50])
@pytest.mark.parametrize("pre_dispatch", ["2 * n_jobs", "all"])
def test_iterator_that_raises(fail_at: int, return_as: str, backend: str, pre_dispatch: str) -> None:
    done: list[int] = []
    parallel = Parallel(n_jobs=2, backend=backend, return_as=return_as, pre_dispatch=pre_dispatch)
    with pytest.raises(LookupError, match=f"at {fail_at}"):
        done.extend(parallel(calls_that_raise(50, fail_at)))
    assert sorted(done) == (done if return_as == "generator" else sorted(set(done)))
    assert set(done) <= set(range(fail_at))
    assert works(backend=backend)


def test_iterator_that_raises_while_calls_run(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def calls() -> Any:
        yield delayed(wait_for)(gate)
        yield delayed(abs)(1)
        raise LookupError("that is all")

    for backend in ("loky", "threading"):
        with pytest.raises(LookupError, match="that is all"):
            Parallel(n_jobs=2, backend=backend, batch_size=1)(calls())
        assert not gate.exists()
    gate.touch()


# ---- a Parallel that is used again


def remember(value: int) -> None:
    os.environ["REMEMBERED"] = str(value)


def recall(_: int) -> str | None:
    return os.environ.get("REMEMBERED")


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_with_goes_on_clean_after_an_error(return_as: str, backend: str) -> None:
    if backend == "multiprocessing":
        return_as = "list"
    options = {"initializer": remember, "initargs": (8,)}
    with Parallel(n_jobs=2, backend=backend, return_as=return_as, **options) as parallel:
        assert list(parallel(delayed(recall)(i) for i in range(6))) == ["8"] * 6
        for fault in (delayed(throw)(ZeroDivisionError()), delayed(die)("SIGKILL"), delayed(ignore)(threading.Lock())):
            with pytest.raises((ZeroDivisionError, WorkerDied, CallPicklingError)):
                list(parallel([delayed(abs)(1), fault, delayed(abs)(2)]))
            assert list(parallel(delayed(recall)(i) for i in range(6))) == ["8"] * 6


@pytest.mark.parametrize("backend", ["loky", "threading"])
@pytest.mark.parametrize("return_as", GENERATORS)
def test_with_goes_on_clean_after_a_dropped_generator(tmp_path: Path, return_as: str, backend: str) -> None:
    gate = tmp_path / "gate"
    with Parallel(n_jobs=2, backend=backend, return_as=return_as) as parallel:
        results = parallel([delayed(abs)(-1), *[delayed(wait_for)(gate) for _ in range(3)]])
        assert next(results) == 1
        with pytest.raises(RuntimeError, match="already running"):
            parallel([])
        with pytest.warns(UnusedResultsWarning):
            results.close()
        gate.touch()
        assert sorted(parallel(delayed(abs)(-i) for i in range(50))) == list(range(50))


# ---- generators that are dropped


def start(gate: Path, return_as: str, backend: str) -> Any:
    """Start a run of which the first two calls end, and the others wait."""
    calls = [*[delayed(abs)(-1) for _ in range(2)], *[delayed(wait_for)(gate) for _ in range(4)]]
    return Parallel(n_jobs=2, backend=backend, return_as=return_as, batch_size=1)(calls)


def drop_by_close(results: Any) -> None:
    results.close()


def drop_in_a_thread(results: Any) -> None:
    thread = threading.Thread(target=results.close)
    thread.start()
    thread.join()


@pytest.mark.parametrize("backend", ["loky", "threading"])
@pytest.mark.parametrize("return_as", GENERATORS)
@pytest.mark.parametrize("taken", [0, 1, 2])
@pytest.mark.parametrize("drop", [drop_by_close, drop_in_a_thread])
def test_dropped_generator(tmp_path: Path, drop: Any, taken: int, return_as: str, backend: str) -> None:
    gate = tmp_path / "gate"
    results = start(gate, return_as, backend)
    assert [next(results) for _ in range(taken)] == [1] * taken
    with pytest.warns(UnusedResultsWarning, match="cancelled"):
        drop(results)
    assert not gate.exists()
    gate.touch()
    with pytest.raises(StopIteration):
        next(results)
    assert works(backend=backend)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_generator_dropped_by_the_collector(tmp_path: Path, backend: str) -> None:
    gate = tmp_path / "gate"
    cycle: list[Any] = [start(gate, "generator", backend)]
    cycle.append(cycle)
    next(cycle[0])
    del cycle
    with pytest.warns(UnusedResultsWarning):
        gc.collect()
    gate.touch()
    assert works(backend=backend)


def test_generator_that_is_thrown_into(tmp_path: Path) -> None:
    results = start(tmp_path / "gate", "generator", "loky")
    next(results)
    with pytest.raises(KeyError, match="enough"):
        results.throw(KeyError("enough"))
    assert works()


@pytest.mark.parametrize("backend", ["loky", "threading"])
@pytest.mark.parametrize("taken", [0, 3, 8])
def test_generator_dropped_when_all_calls_are_done(backend: str, taken: int) -> None:
    before = threading.active_count()
    results = Parallel(n_jobs=2, backend=backend, return_as="generator")(delayed(abs)(-i) for i in range(8))
    pump = [thread for thread in threading.enumerate() if thread.name == "shoal-run"]
    for thread in pump:
        thread.join(30)
    assert [next(results) for _ in range(taken)] == list(range(taken))
    if taken < 8:
        with pytest.warns(UnusedResultsWarning, match=f"^{8 - taken} tasks have been successfully executed but not"):
            results.close()
    else:
        results.close()
    assert until(lambda: threading.active_count() <= before + 6)


@pytest.mark.parametrize("return_as", GENERATORS)
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_generator_alive_at_exit(tmp_path: Path, return_as: str, backend: str) -> None:
    """It neither holds up the exit nor leaves a process, and says no more than that results were not used."""
    source = f"""
        import sys, time
        from shoal import Parallel, delayed
        calls = [delayed(abs)(-1), *[delayed(time.sleep)(1000) for _ in range(4)]]
        results = Parallel(n_jobs=2, backend={backend!r}, return_as={return_as!r}, batch_size=1)(calls)
        assert next(results) == 1
        print("ok", flush=True)
    """
    with Child(source, tmp_path, "-W", "ignore::UserWarning") as child:
        assert child.wait() == (0, "ok\n", "")
        assert child.leaves_nothing() == []


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_failed_run_does_not_hold_up_the_exit(tmp_path: Path, backend: str) -> None:
    source = f"""
        import time
        from shoal import Parallel, delayed
        try:
            Parallel(n_jobs=2, backend={backend!r}, batch_size=1)([delayed(time.sleep)(1000), delayed(int)("x")])
        except ValueError:
            print("ok", flush=True)
    """
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "ok\n", "")
        assert child.leaves_nothing() == []


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_exit_while_workers_start(tmp_path: Path, backend: str) -> None:
    source = f"""
        from shoal import Parallel, delayed
        def calls():
            yield delayed(abs)(1)
            raise LookupError
        try:
            Parallel(n_jobs=3, backend={backend!r}, batch_size=1, pre_dispatch="all")(calls())
        except LookupError:
            pass
        try:
            Parallel(n_jobs=3, backend={backend!r}, batch_size=1, pre_dispatch=2)(calls())
        except LookupError:
            print("ok", flush=True)
    """
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "ok\n", "")
        assert child.leaves_nothing() == []


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_runs_in_daemon_threads_do_not_outlive_the_program(tmp_path: Path, backend: str) -> None:
    """Two runs share the workers; neither the one that has them nor the one that waits keeps the program."""
    source = f"""
        import sys, threading, time
        from pathlib import Path
        from shoal import Parallel, delayed

        def begin(path):
            Path(path).touch()
            time.sleep(1000)

        def run():
            try:
                Parallel(n_jobs=2, backend={backend!r}, batch_size=1)(delayed(begin)(gate) for _ in range(4))
            except Exception as error:
                print(type(error).__name__, flush=True)

        gate = Path(sys.argv[1]) / "began"
        for _ in range(2):
            threading.Thread(target=run, daemon=True).start()
        while not gate.exists():
            time.sleep(0.01)
    """
    with Child(source, tmp_path) as child:
        code, _, err = child.wait()
        assert (code, err) == (0, "")
        assert child.leaves_nothing() == []
