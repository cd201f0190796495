"""Programs that fork, and children of all kinds: runs work in each, or inline with one warning, and nothing hangs."""

from __future__ import annotations

from pathlib import Path

import pytest

from _faults_util import Child
from _python import needs_forks

pytestmark = needs_forks

PRELUDE = """
import multiprocessing, os, signal, sys, tempfile, threading, time, warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from _faults_util import until, worker_pids, works
from shoal import Parallel, delayed

folder = Path(sys.argv[1])


def run(backend):
    # Returns whether all calls have run right, whether elsewhere, and what was warned of.
    options = [{}] if backend == "multiprocessing" else [{}, {"return_as": "generator"}]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of forks
        right = all(works(2, backend=backend) for _ in range(2))
        calls = [delayed(os.getpid)() for _ in range(6)]
        there = {pid for more in options for pid in Parallel(2, backend, **more)(calls)}
    return right, os.getpid() not in there, sorted({f"{w.category.__name__}: {w.message}" for w in caught})


def reap(pid):
    assert until(lambda: os.waitpid(pid, os.WNOHANG)[0])
"""

BACKENDS = pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])


def check(source: str, folder: Path) -> str:
    """Run a program to its end; return its output. Check that it prints no errors and leaves nothing behind."""
    with Child(PRELUDE + source, folder, "-W", "ignore::DeprecationWarning") as child:
        code, out, err = child.wait()
        assert (code, err) == (0, "")
        assert child.leaves_nothing() == []
        return out


@BACKENDS
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", ["process", "daemon", "executor", "pool"])
def test_children_of_multiprocessing(tmp_path: Path, kind: str, method: str, backend: str) -> None:
    """Processes that may have no children run the calls inline, with one warning."""
    source = f"""
def child(backend, answers):
    answers.put(run(backend))


if __name__ == "__main__":
    context, kind, backend = multiprocessing.get_context({method!r}), {kind!r}, {backend!r}
    os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"  # the path of a fork server's socket must be short
    assert run(backend)[0] and run("loky")[0]  # there are workers when it forks
    if kind == "executor":
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            answer = executor.submit(run, backend).result()
    elif kind == "pool":
        with context.Pool(2) as pool:
            answer = pool.apply(run, (backend,))
            pool.close()
            pool.join()
    else:
        answers = context.SimpleQueue()
        process = context.Process(target=child, args=(backend, answers), daemon=kind == "daemon")
        process.start()
        answer = answers.get()
        process.join()
        assert process.exitcode == 0
    assert run(backend)[0]
    print(answer)
"""
    alone = kind in ("daemon", "pool") and backend != "threading"
    name = {"loky": "Loky", "multiprocessing": "Multiprocessing"}.get(backend, "")
    warned = f"FallbackWarning: {name}-backed parallel loops cannot be called in a multiprocessing daemon process, "
    elsewhere = backend != "threading" and not alone
    assert check(source, tmp_path) == f"{(True, elsewhere, [warned + 'setting n_jobs=1'] if alone else [])}\n"


@BACKENDS
@pytest.mark.parametrize("ended", ["by itself", "os._exit", "SIGTERM", "SIGKILL"])
def test_a_server_that_forks_its_workers(tmp_path: Path, backend: str, ended: str) -> None:
    """Like gunicorn and Celery, the program has a pool, forks three children, and replaces one that has ended."""
    source = f"""
backend, ended = {backend!r}, {ended!r}


def serve(number):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert run(backend)[:2] == (True, backend != "threading")
    (folder / f"served-{{number}}").touch()
    if ended == "by itself":
        sys.exit(0)
    if ended == "os._exit":
        os._exit(0)
    time.sleep(1000)


def start(number):
    pid = os.fork()
    if not pid:
        serve(number)
    return pid


def end(pid, number):
    assert until((folder / f"served-{{number}}").exists)
    if ended.startswith("SIG"):
        os.kill(pid, signal.Signals[ended])
    reap(pid)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
before = worker_pids(2)
assert run(backend)[0]
children = dict(enumerate(start(number) for number in range(3)))
for number in (0, 1):  # one goes, another comes
    end(children.pop(number), number)
    children[number + 3] = start(number + 3)
for number, pid in children.items():
    end(pid, number)
assert run(backend)[0]
assert backend == "multiprocessing" or worker_pids(2) == before  # beside others, idle workers go sooner
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


@BACKENDS
def test_a_daemon_that_forks_twice(tmp_path: Path, backend: str) -> None:
    """It closes its standard streams and has its own session."""
    source = f"""
assert run({backend!r})[0]
if not os.fork():
    os.setsid()
    if not os.fork():
        for fd in range(3):
            os.close(fd)
        (folder / "answer").write_text(str(run({backend!r})))
        os.rename(folder / "answer", folder / "done")
    os._exit(0)
os.wait()
assert until((folder / "done").exists)
print((folder / "done").read_text())
"""
    assert check(source, tmp_path) == f"{(True, backend != 'threading', [])}\n"


@BACKENDS
def test_forks_while_threads_run_calls(tmp_path: Path, backend: str) -> None:
    """The child does not wait for locks that those threads hold at the fork."""
    source = f"""
import faulthandler

over = threading.Event()
assert works(2, backend={backend!r})  # a fork while a thread imports would leave the child with the module's lock
assert works(2) and works(2, backend="threading")


def run_on(other):
    while not over.is_set():
        assert works(2, backend=other)


threads = [threading.Thread(target=run_on, args=(other,)) for other in ("loky", "threading", "loky", "threading")]
for thread in threads:
    thread.start()
for _ in range(5):
    pid = os.fork()
    if not pid:
        faulthandler.dump_traceback_later(25, exit=True)
        assert works(2, backend={backend!r})
        faulthandler.cancel_dump_traceback_later()
        sys.exit(0)
    status = os.waitpid(pid, 0)[1]
    if status:
        break
over.set()
for thread in threads:
    thread.join()
assert status == 0
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


@BACKENDS
def test_a_parallel_that_a_child_has_inherited(tmp_path: Path, backend: str) -> None:
    """Its workers belong to the parent. The child gets other workers, and does not end those of the parent."""
    source = f"""
calls = [delayed(pow)(i, 2) for i in range(20)]
expected = [i * i for i in range(20)]
with Parallel(n_jobs=2, backend={backend!r}) as parallel:
    assert parallel(calls) == expected
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
    assert parallel(calls) == expected
    assert parallel(calls) == expected
if child:
    print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


@pytest.mark.parametrize("backend", ["loky", "threading"])
@pytest.mark.parametrize("how", ["next", "close", "del", "leave"])
def test_a_generator_that_a_child_has_inherited(tmp_path: Path, how: str, backend: str) -> None:
    source = f"""
results = Parallel(n_jobs=2, backend={backend!r}, return_as="generator", batch_size=1)(
    delayed(pow)(i, 2) for i in range(20)
)
assert next(results) == 0
child = os.fork()
if not child:
    how = {how!r}
    if how == "next":
        try:
            list(results)
        except RuntimeError as error:
            assert "belong to a run of this process's parent" in str(error)
        else:
            sys.exit(5)
    elif how == "close":
        results.close()
    elif how == "del":
        del results
    assert works(2, backend={backend!r})
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert list(results) == [i * i for i in range(1, 20)]
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


def test_forked_workers_of_the_first_runs_of_several_threads(tmp_path: Path) -> None:
    """A fork during an import in another thread would leave the worker with a locked import lock."""
    source = """
threads = [threading.Thread(target=works, kwargs={"n": 2, "backend": "multiprocessing"}) for _ in range(6)]
for thread in threads:
    thread.start()
assert works(2, backend="multiprocessing")
for thread in threads:
    thread.join()
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


@pytest.mark.parametrize(
    "module", ["loky.process_executor", "concurrent.futures.process", "multiprocessing.resource_tracker"]
)
def test_a_fork_while_another_thread_imports_what_starts_workers(tmp_path: Path, module: str) -> None:
    """The child does not know its parent's children, and does not wait for them at its exit."""
    source = f"""
import concurrent.futures.process, loky.process_executor, types
from multiprocessing import resource_tracker

assert works(2)
others = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
others.start()
imported = sys.modules[{module!r}]
sys.modules[{module!r}] = types.ModuleType({module!r})  # as it is at the beginning of its import
pid = os.fork()
if pid == 0:
    assert multiprocessing.active_children() == []
    assert run("threading")[0]
    print("child", flush=True)
    sys.exit(0)
sys.modules[{module!r}] = imported
assert os.waitpid(pid, 0)[1] == 0
others.kill()
others.join()
print("ok")
"""
    assert check(source, tmp_path) == "child\nok\n"
