"""The fork server. No run notices its failures, and it leaves nothing behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from _capabilities import FORK_SERVER, needs
from _faults_util import Child
from _selection import sampled

pytestmark = needs(FORK_SERVER, "there is no fork server")

PRELUDE = """
import importlib, logging, os, signal, sys, threading, time
from pathlib import Path
from _faults_util import alive, until, wait_for, worker_pids, works
from shoal import Parallel, WorkerDied, delayed
from shoal.backends import _forkserver
from shoal.backends._forkserver import servers

folder = Path(sys.argv[1])


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def server():
    (pid,) = {parent_of(pid) for pid in worker_pids(2)}
    assert pid != os.getpid()
    return pid


def install(name, source):
    # A package that lies where packages are installed, and that this program has imported.
    packages = folder / "site-packages"
    packages.mkdir(exist_ok=True)
    (packages / f"{name}.py").write_text(source + "\\n\\ndef answer(x):\\n    return x + 1\\n")
    if str(packages) not in sys.path:
        sys.path.append(str(packages))


def fresh():
    # Workers that no run has used.
    return {"idle_worker_timeout": 300 + len(servers.avoided) + time.monotonic() / 1e9}
"""


def check(source: str, folder: Path, err: str = "") -> str:
    """Run a program to its end; return its output."""
    with Child(PRELUDE + source, folder) as child:
        code, out, said = child.wait()
        assert (code, said) == (0, err)
        assert child.leaves_nothing() == []
        return out


def test_workers_are_children_of_one_server(tmp_path: Path) -> None:
    source = """
pid = server()
assert {parent_of(worker) for worker in worker_pids(8)} == {pid}
assert parent_of(pid) == os.getpid()
with open(f"/proc/{pid}/status") as file:
    assert "Threads:\\t1\\n" in file.read()
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


def test_the_server_imports_the_modules_of_calls_once(tmp_path: Path) -> None:
    """The server imports the module; its workers have it without an import."""
    source = """
install("once", "import os; WHERE = os.getpid()")
import once


def where(_):
    return once.WHERE


once.where = where
places = set(Parallel(n_jobs=3, batch_size=1)(delayed(once.answer)(i) for i in range(9)))
found = set(Parallel(n_jobs=3, batch_size=1)(delayed(getattr)(once, "WHERE") for i in range(9)))
assert found == {server()}, (found, server())
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


def test_the_server_does_not_import_the_modules_of_the_user(tmp_path: Path) -> None:
    source = """
(folder / "own.py").write_text("import os; WHERE = os.getpid()\\n\\ndef answer(x):\\n    return WHERE")
sys.path.append(str(folder))
import own

found = set(Parallel(n_jobs=2, batch_size=1)(delayed(own.answer)(i) for i in range(9)))
assert found <= set(worker_pids(2)), found
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


#: Modules that no server can import for its workers.
ODD = {
    "starts a thread": "import threading, time; threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
    "fails": "import os, sys\nif sys.argv[-1] != 'first' and os.getppid() == PARENT: raise ImportError('not here')",
    "ends the process": "import os\nif os.getppid() == PARENT: os._exit(3)",
    "crashes": "import os, signal\nif os.getppid() == PARENT: os.kill(os.getpid(), signal.SIGSEGV)",
    "exits": "import os, sys\nif os.getppid() == PARENT: sys.exit(3)",
    "hangs": "import os, time\nif os.getppid() == PARENT: time.sleep(1000)",
    "changes the folder": "import os\nif os.getppid() == PARENT: os.chdir('/')",
    "leaves a file open": "import os\nif os.getppid() == PARENT: FILE = open(os.devnull)",
    "takes a signal": "import os, signal\nif os.getppid() == PARENT: signal.signal(signal.SIGINT, signal.SIG_DFL)",
}


@pytest.mark.parametrize("how", ODD)
def test_a_module_that_a_server_cannot_import(tmp_path: Path, how: str) -> None:
    """Another server forks the workers, and they import the module themselves."""
    source = f"""
_forkserver.IMPORT_SECONDS = 0.5
assert works(2)
install("odd", {ODD[how]!r}.replace("PARENT", str(os.getpid())))
import odd

for n in (2, 3, 5):
    assert Parallel(n_jobs=n, batch_size=1, **fresh())(delayed(odd.answer)(i) for i in range(9)) == list(range(1, 10))
assert servers.avoided == {{"odd"}}, servers.avoided
assert works(2) and works(6)
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


def test_workers_print_the_output_of_imports(tmp_path: Path) -> None:
    source = """
install("loud", "import os; print('imported by', os.getpid(), flush=True)")
import loud

pids = Parallel(n_jobs=2, batch_size=1)(delayed(loud.answer)(i) for i in range(4))
assert servers.avoided == {"loud"}
print("workers", *worker_pids(2))
"""
    *imported, last = check(source, tmp_path).splitlines()
    workers = last.split()[1:]
    assert {line.split()[-1] for line in imported[1:]} <= set(workers)  # the program itself prints the first one
    assert len(imported) >= 2


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_a_server_that_is_killed_while_its_workers_are_idle(tmp_path: Path, name: str) -> None:
    source = f"""
before = worker_pids(2)
os.kill(server(), signal.{name})
assert until(lambda: not any(map(alive, before)))
assert works(2)
assert not set(worker_pids(2)) & set(before)
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


def test_a_server_that_is_killed_while_its_workers_run_calls(tmp_path: Path) -> None:
    source = """
def wait(index):
    if (folder / "killed").exists():
        return index
    (folder / f"began-{index}").touch()
    time.sleep(1000)


def kill():
    assert until(lambda: len(list(folder.glob("began-*"))) == 2)
    (folder / "killed").touch()
    os.kill(pid, signal.SIGKILL)


for retries in (0, 1):
    for path in [*folder.glob("began-*"), *folder.glob("killed")]:
        path.unlink()
    pid = server()
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        assert Parallel(n_jobs=2, batch_size=1, retries=retries)(delayed(wait)(i) for i in range(5)) == list(range(5))
        assert retries
    except WorkerDied as error:
        assert "SIGKILL" in str(error) and not retries
    thread.join()
    assert works(2)
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


def test_a_server_that_is_stopped_while_workers_are_requested(tmp_path: Path) -> None:
    """Another server replaces it. Its workers continue."""
    source = """
before = worker_pids(2)
pid = server()
_forkserver.STUCK_SECONDS = 0.3
os.kill(pid, signal.SIGSTOP)
after = worker_pids(4)
assert after[:2] == before and len(set(after)) == 4
os.kill(pid, signal.SIGCONT)
assert works(4)
time.sleep(0.5)
assert worker_pids(4) == after  # what it was asked for before, it does not do any more
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


def test_a_killed_worker_of_a_stopped_server_is_replaced(tmp_path: Path) -> None:
    source = """
before = worker_pids(2)
pid = server()
_forkserver.STUCK_SECONDS = 0.3
os.kill(pid, signal.SIGSTOP)
try:
    Parallel(n_jobs=2)([delayed(os.kill)(before[0], signal.SIGKILL)])
except WorkerDied:
    pass
assert works(2)
os.kill(pid, signal.SIGCONT)
assert works(2)
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


def test_workers_start_by_exec_if_servers_always_fail(tmp_path: Path) -> None:
    """If no server works, as in a sandbox that forbids fork, workers are started by exec."""
    source = """
_forkserver._spawn.__code__ = (lambda control, tracker, environment: __import__("os").posix_spawn(
    __import__("sys").executable, ["python", "-c", "raise SystemExit(3)"], environment
)).__code__
assert works(2)
assert {parent_of(pid) for pid in worker_pids(2)} == {os.getpid()}
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


@pytest.mark.parametrize("number", ["EAGAIN", "ENOMEM"])
def test_a_fork_that_the_system_refuses(tmp_path: Path, number: str) -> None:
    """The run raises an error. The next run succeeds if there is room again."""
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import errno, os, sys

if sys.argv == ["-c"]:
    fork = os.fork

    def refusing():
        if not os.path.exists({str(tmp_path / "granted")!r}):
            raise OSError(errno.{number}, os.strerror(errno.{number}))
        return fork()

    os.fork = refusing
"""
    )
    source = """
from shoal.errors import WorkerStartError

os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])
for _ in range(2):
    try:
        works(2)
    except WorkerStartError as error:
        print(error)
(folder / "granted").touch()
assert works(2)
server()
"""
    said = check(source, tmp_path).splitlines()
    assert len(said) == 2
    assert all(os.strerror(getattr(errno, number)) in line for line in said)


@pytest.mark.parametrize("megabytes", sampled(0, 10, 25, 50, 100, 400))
def test_a_limit_of_memory(tmp_path: Path, megabytes: int) -> None:
    """The caller, a server or a worker may fail. Each raises an error, and nothing hangs."""
    source = f"""
import numpy, resource

with open("/proc/self/statm") as file:
    held = int(file.read().split()[0]) * resource.getpagesize()
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (held + {megabytes} * 2**20, hard))
try:
    assert [array.sum() for array in Parallel(n_jobs=2)(delayed(numpy.ones)(3) for _ in range(4))] == [3] * 4
    ended = True
except Exception as error:
    ended = isinstance(error, (MemoryError, OSError, RuntimeError, ImportError))
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
assert ended
assert works(2)
"""
    with Child(PRELUDE + source, tmp_path) as child:
        code, _, said = child.wait()
        # The pool's own thread prints its errors.
        assert code == 0, said
        assert "Error" not in said.replace("MemoryError", ""), said
        assert child.leaves_nothing() == []


def test_the_environment_of_new_workers(tmp_path: Path) -> None:
    """Changed variables need another server. The previous server ends with its workers."""
    source = """
before = server()
os.environ["CHANGED"] = "1"
after = Parallel(n_jobs=2, environment={"GIVEN": "2"})([delayed(os.getenv)(name) for name in ("CHANGED", "GIVEN")])
assert after == ["1", "2"]
each = Parallel(n_jobs=2, batch_size=1, environment=lambda index: {"GIVEN": str(index)})
assert set(each(delayed(os.getenv)("GIVEN") for _ in range(9))) <= {"0", "1"}
from shoal import shutdown_workers

shutdown_workers()
assert until(lambda: not alive(before))
assert works(2)
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


def test_tests_of_pytest_need_no_servers_of_their_own(tmp_path: Path) -> None:
    """pytest sets a variable for each test. New workers have its present value, or none."""
    source = """
pids = set()
for test in ("one", "two", None):
    if test is None:
        del os.environ["PYTEST_CURRENT_TEST"]
    else:
        os.environ["PYTEST_CURRENT_TEST"] = test
    run = Parallel(n_jobs=2, batch_size=1, **fresh())
    assert run(delayed(os.environ.get)("PYTEST_CURRENT_TEST") for _ in range(4)) == [test] * 4
    pids |= {parent_of(pid) for pid in run(delayed(os.getpid)() for _ in range(4))}
assert len(pids) == 1
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


def test_each_run_checks_the_inherited_state(tmp_path: Path) -> None:
    source = """
for mask in (0o27, 0o77, 0o22):
    os.umask(mask)
    assert set(Parallel(n_jobs=2, batch_size=1, **fresh())(delayed(os.umask)(mask) for _ in range(4))) == {mask}
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


def test_workers_that_are_killed_before_they_are_forked(tmp_path: Path) -> None:
    """The server is stopped. The workers are killed as soon as it has reported their process ids."""
    source = """
def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


assert works(2)
pid = server()
before = children_of(pid)
os.kill(pid, signal.SIGSTOP)
try:
    Parallel(n_jobs=4, timeout=0.3, batch_size=1, **fresh())(delayed(time.sleep)(1000) for _ in range(4))
except TimeoutError:
    print("timed out")
os.kill(pid, signal.SIGCONT)
time.sleep(0.3)  # it forks them
assert until(lambda: children_of(pid) == before)
assert works(2)
print("ok")
"""
    assert check(source, tmp_path) == "timed out\nok\n"


def test_first_runs_of_several_threads(tmp_path: Path) -> None:
    source = """
threads = [threading.Thread(target=lambda: done.append(works(3))) for _ in range(6)]
done = []
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert done == [True] * 6
server()
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


@pytest.mark.parametrize("moment", sampled(0.0, 0.01, 0.03, 0.06, 0.1, 0.2))
def test_the_caller_is_killed_while_workers_are_forked(tmp_path: Path, moment: float) -> None:
    source = f"""
threading.Timer({moment}, os.kill, (os.getpid(), signal.SIGKILL)).start()
while True:
    works(8, max_tasks_per_worker=1)
"""
    with Child(PRELUDE + source, tmp_path) as child:
        assert child.wait()[0] == -9
        assert child.leaves_nothing() == []


def test_shared_memory_outlives_the_worker_that_made_it(tmp_path: Path) -> None:
    """The program's resource tracker knows it, and removes it if the program does not."""
    source = """
from multiprocessing import shared_memory


def make(n):
    memory = shared_memory.SharedMemory(create=True, size=100)
    memory.buf[0] = n
    memory.close()
    return memory.name


names = Parallel(n_jobs=2, max_tasks_per_worker=1)(delayed(make)(n) for n in range(6))
for n, name in enumerate(names):
    memory = shared_memory.SharedMemory(name)
    assert memory.buf[0] == n
    memory.close()
    memory.unlink()
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


def test_a_module_that_was_edited_and_reloaded(tmp_path: Path) -> None:
    """Old and new code never mix in one run."""
    source = """
sys.dont_write_bytecode = True
(folder / "changing.py").write_text("def f(x):\\n    return x\\n")
sys.path.append(str(folder))
import changing

assert Parallel(n_jobs=2, batch_size=1)(delayed(changing.f)(i) for i in range(6)) == list(range(6))
(folder / "changing.py").write_text("def f(x):\\n    return x + 1000\\n")
importlib.reload(changing)
assert Parallel(n_jobs=3, batch_size=1)(delayed(changing.f)(i) for i in range(6)) == list(range(1000, 1006))
before = worker_pids(3)
(folder / "changing.py").write_text("def f(x):\\n    return x + 20000\\n")
assert Parallel(n_jobs=5, batch_size=1)(delayed(changing.f)(i) for i in range(9)) == list(range(20000, 20009))
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


def test_paths_folders_and_variables_reach_warm_workers(tmp_path: Path) -> None:
    source = """
before = worker_pids(2)
later = folder / "later"
later.mkdir()
(later / "appeared.py").write_text("def f(x):\\n    return x\\n")
sys.path.append(str(later))
import appeared

assert Parallel(n_jobs=2)(delayed(appeared.f)(i) for i in range(4)) == list(range(4))
os.environ["LATER"] = "1"
os.chdir(later)
assert Parallel(n_jobs=2)([delayed(os.getenv)("LATER"), delayed(os.getcwd)()] * 2) == ["1", str(later)] * 2
del os.environ["LATER"]
assert Parallel(n_jobs=2)([delayed(os.getenv)("LATER")] * 2) == [None] * 2
assert worker_pids(2) == before
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


@pytest.mark.parametrize(
    "what", ["sys.settrace(lambda *_: None)", "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()"]
)
def test_programs_that_start_with_every_interpreter(tmp_path: Path, what: str) -> None:
    """Tools that measure or debug programs do so. A fork would not start them, so each worker is started by exec."""
    source = f"""
site = folder / "site"
site.mkdir()
(site / "sitecustomize.py").write_text("import sys, threading, time\\n{what}\\n")
os.environ["PYTHONPATH"] = os.pathsep.join([str(site), os.environ["PYTHONPATH"]])
assert works(2)
assert {{parent_of(pid) for pid in worker_pids(2)}} == {{os.getpid()}}
print("ok")
"""
    assert check(source, tmp_path) == "ok\n"


def test_an_initializer_that_takes_locks_of_multiprocessing(tmp_path: Path) -> None:
    """Such locks can be sent to a process only while multiprocessing starts it."""
    source = """
import multiprocessing


def keep(lock, queue):
    sys.kept = lock, queue


def use(index):
    lock, queue = sys.kept
    with lock:
        queue.put(index)


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    lock, queue = context.Lock(), context.Queue()
    Parallel(n_jobs=2, initializer=keep, initargs=(lock, queue))(delayed(use)(i) for i in range(4))
    assert sorted(queue.get(timeout=20) for _ in range(4)) == list(range(4))
    print("ok")
"""
    assert check(source, tmp_path) == "ok\n"
