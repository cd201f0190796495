"""Leases and locks between processes: one computes, the others wait, and no deadlock arises."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from _capabilities import needs_fcntl, needs_fork, needs_signals
from _store_util import KEY, PATIENCE, Start, heard, make_start, make_store, meta, tell
from shoal.memory.storage._filestore import FileStore
from shoal.memory.store import Key, Limits

store, start = pytest.fixture(make_store), pytest.fixture(make_start)


_COMPUTE = """
    def compute(seconds):
        while True:
            with store.lease(key(0)) as mine:
                if mine and not store.contains(key(0)):
                    say("computes")
                    time.sleep(seconds)
                    store.save(key(0), 42, Meta(0., 0., {}))
            if store.contains(key(0)):
                return store.load(key(0))
    """


def test_one_of_many_processes_computes(start: Start) -> None:
    processes = [start(_COMPUTE + "say('ready'); input(); say(compute(0.5))") for _ in range(6)]
    for process in processes:
        assert heard(process) == "ready"
    for process in processes:
        tell(process, "go")
    said = [process.communicate(timeout=PATIENCE)[0].split() for process in processes]
    assert sorted(said) == [["42"]] * 5 + [["computes", "42"]]


def test_another_process_takes_over_from_a_killed_one(start: Start) -> None:
    first = start(_COMPUTE + "compute(1000)")
    assert heard(first) == "computes"
    others = [start(_COMPUTE + "say('ready'); say(compute(0.1))") for _ in range(3)]
    for process in others:
        assert heard(process) == "ready"
    time.sleep(0.3)
    first.kill()
    said = [process.communicate(timeout=PATIENCE)[0].split() for process in others]
    assert sorted(said) == [["42"]] * 2 + [["computes", "42"]]


@needs_fork
def test_a_child_of_a_killed_process_does_not_keep_its_lease(start: Start) -> None:
    """Background processes of a killed computation do not keep its lease."""
    first = start("""
        with store.lease(key(0)) as mine:
            if not os.fork():
                os.close(1)
                time.sleep(20)
                os._exit(0)
            say(mine)
            time.sleep(1000)
    """)
    assert heard(first) == "True"
    first.kill()
    first.wait()
    second = start("""
        with store.lease(key(0)) as mine:
            say(mine)
        input()
    """)
    assert heard(second) == "True"


def test_a_living_process_keeps_its_lease(store: FileStore, start: Start) -> None:
    key = Key("module/function", f"{0:032x}")
    holder = start("with store.lease(key(0)) as mine: say(mine); input()")
    assert heard(holder) == "True"
    given: list[bool] = []

    def wait() -> None:
        with store.lease(key) as mine:
            given.append(mine)

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    store.reduce(Limits(items=3))
    store.clear()
    FileStore(store.location).save(KEY, 1, meta())
    time.sleep(0.2)
    assert given == []
    tell(holder, "done")
    for thread in threads:
        thread.join(PATIENCE)
    assert given == [False] * 3


def test_a_failure_lets_waiting_threads_of_other_processes_compute(store: FileStore, start: Start) -> None:
    key = Key("module/function", f"{0:032x}")
    holder = start("""
        try:
            with store.lease(key(0)) as mine:
                say(mine)
                input()
                raise ValueError
        except ValueError:
            say("failed")
    """)
    assert heard(holder) == "True"
    given: list[bool] = []

    def wait() -> None:
        with store.lease(key) as mine:
            given.append(mine)

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    tell(holder, "done")
    for thread in threads:
        thread.join(PATIENCE)
    assert given == [True] * 3


def test_a_circle_of_processes_is_no_deadlock(start: Start) -> None:
    """Each process owns a lease and wants that of the next. The last one to ask computes instead of waiting."""
    source = """
        me, n = map(int, sys.argv[1:])
        with store.lease(key(me)) as mine:
            say(mine)
            input()
            with store.lease(key((me + 1) % n)) as other:
                say(other)
    """
    processes = [start(source, number, 3) for number in range(3)]
    assert [heard(process) for process in processes] == ["True"] * 3
    for process in processes:
        tell(process, "go on")
    said = [process.communicate(timeout=PATIENCE)[0].split()[-1] for process in processes]
    assert "True" in said


def test_a_circle_of_threads_in_two_processes_is_no_deadlock(start: Start) -> None:
    """A thread of each process waits for one of the other. Two further threads wait too, but in no circle."""
    source = """
        import threading
        me = int(sys.argv[1])
        barrier = threading.Barrier(3)
        def circle():
            with store.lease(key(me)):
                barrier.wait(); barrier.wait()
                with store.lease(key(1 - me)) as other:
                    say(other)
        def hold():
            with store.lease(key(10 + me)):
                barrier.wait(); barrier.wait()
                time.sleep(0.2)
        threads = [threading.Thread(target=target) for target in (circle, hold)]
        for thread in threads: thread.start()
        barrier.wait()
        say("ready"); input()
        barrier.wait()
        with store.lease(key(11 - me)):
            pass
        for thread in threads: thread.join()
        say("done")
    """
    processes = [start(source, number) for number in range(2)]
    assert [heard(process) for process in processes] == ["ready"] * 2
    for process in processes:
        tell(process, "go on")
    said = [process.communicate(timeout=PATIENCE)[0].split() for process in processes]
    assert all(words[-1] == "done" for words in said)
    assert "True" in said[0] + said[1]


@needs_signals
def test_a_waiting_process_can_be_interrupted(start: Start) -> None:
    holder = start("with store.lease(key(0)) as mine: say(mine); input()")
    assert heard(holder) == "True"
    waiter = start("""
        say("waits")
        try:
            with store.lease(key(0)): pass
        except KeyboardInterrupt:
            say("interrupted")
        with store.lease(key(1)) as mine: say(mine)
    """)
    assert heard(waiter) == "waits"
    time.sleep(0.3)
    waiter.send_signal(signal.SIGINT)
    assert heard(waiter) == "interrupted"
    assert heard(waiter) == "True"


@needs_fork
def test_a_forked_child_has_no_leases(store: FileStore) -> None:
    with store.lease(KEY) as mine:
        assert mine
        child = os.fork()
        if not child:
            with store.lease(KEY._replace(call="b" * 32)) as mine:
                os._exit(0 if mine else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert not store._leases.locks.is_alive(1)  # type: ignore[union-attr]
    with store.lease(KEY) as mine:
        assert mine


@needs_fcntl
def test_without_locks_every_process_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    holder = start("with store.lease(key(0)) as mine: say(mine); input()")
    assert heard(holder) == "True"
    import fcntl

    def none(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    store = FileStore(tmp_path / "cache" / "joblib")
    with store.lease(Key("module/function", f"{0:032x}")) as mine:
        assert mine
        store.save(KEY, 1, meta())
    assert store.load(KEY) == 1
