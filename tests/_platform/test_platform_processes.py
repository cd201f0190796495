"""Waits that Ctrl-C interrupts, sockets, and the ends of processes: as Windows has them."""

from __future__ import annotations

import _thread
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal import Parallel, delayed
from shoal._platform import processes
from shoal._platform.processes import (
    Group,
    for_child,
    send_fails_at_end,
    socket_pair,
    take,
    tcp_pair,
    wait_for,
    when_ended,
)

WINDOWS = pytest.mark.skipif(not hasattr(socket, "fromshare"), reason="needs handles of processes")


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let locks and queues be waited for as on Windows."""
    monkeypatch.setattr(processes, "LONGEST_WAIT", 0.02)


# A lock is not interrupted by interrupt_main(), on no system: so it is what Ctrl-C is on Windows.


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize(
    "wait",
    [
        lambda: wait_for(threading.Event()),
        lambda: take(queue.SimpleQueue(), None),
        lambda: take(queue.SimpleQueue(), 1e6),
        lambda: take(queue.SimpleQueue(), 1e300),
    ],
)
def test_an_interrupt_ends_a_wait(wait: Callable[[], object]) -> None:
    timer = threading.Timer(0.1, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        wait()
    timer.join()


def interrupt_once(begun: threading.Event, over: threading.Event) -> None:
    begun.set()
    over.wait()


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_an_interrupt_ends_a_run(return_as: str) -> None:
    begun, over = threading.Event(), threading.Event()

    def interrupt() -> None:
        begun.wait()
        time.sleep(0.1)
        _thread.interrupt_main()
        if return_as == "generator":  # its end waits for the calls
            time.sleep(0.1)
            over.set()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(
                Parallel(n_jobs=2, backend="threading", return_as=return_as)(
                    delayed(interrupt_once)(begun, over) for _ in range(2)
                )
            )
    finally:
        over.set()
        thread.join()


def test_a_message_is_taken_within_its_timeout() -> None:
    messages: queue.SimpleQueue[int] = queue.SimpleQueue()
    with pytest.raises(queue.Empty):
        take(messages, 0)
    with pytest.raises(queue.Empty):
        take(messages, 0.01)
    messages.put(1)
    assert take(messages, None) == 1


@pytest.mark.usefixtures("short_waits")
def test_a_timeout_may_be_longer_than_one_wait() -> None:
    messages: queue.SimpleQueue[int] = queue.SimpleQueue()
    began = time.monotonic()
    with pytest.raises(queue.Empty):
        take(messages, 0.1)
    assert time.monotonic() - began >= 0.1


def taken(end: socket.socket) -> int:
    """Return how much an end takes that nobody reads, in bytes."""
    end.setblocking(False)
    sent, deadline = 0, time.monotonic() + 0.2  # TCP hands on in the background what it has taken
    while time.monotonic() < deadline:
        try:
            sent += end.send(bytes(16 * 1024))
        except BlockingIOError:
            time.sleep(0.01)
    return sent


@pytest.mark.parametrize("pair", [socket_pair, tcp_pair])
def test_both_ends_take_what_nobody_reads(pair: Callable[[int, int], tuple[socket.socket, socket.socket]]) -> None:
    caller, worker = pair(256 * 1024, 32 * 1024)
    with caller, worker:
        assert taken(caller) >= 100_000
        assert 30_000 <= taken(worker) <= 400_000
        caller.setblocking(True)
        assert caller.recv(1) == b"\0"


@pytest.mark.parametrize("pair", [socket_pair, tcp_pair])
def test_where_sending_fails_at_the_end(pair: Callable[[int, int], tuple[socket.socket, socket.socket]]) -> None:
    caller, worker = pair(1024, 1024)
    with caller:
        worker.close()
        if send_fails_at_end(caller):
            with pytest.raises(BrokenPipeError):
                caller.send(b"message")
        else:
            assert caller.send(b"message") == 7


def test_another_program_gets_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect
    other = socket.socket()

    def connect_second(end: socket.socket, address: Any) -> None:
        connect(other, address)
        connect(end, address)

    monkeypatch.setattr(socket.socket, "connect", connect_second)
    caller, worker = tcp_pair(1024, 1024)
    with other, caller, worker:
        worker.sendall(b"from the worker")
        assert caller.recv(100) == b"from the worker"
        other.settimeout(60)
        assert other.recv(100) == b""


# Ends of processes on Windows


def started(*code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", "\n".join(code)], stdout=subprocess.PIPE, text=True)


@WINDOWS
def test_any_number_of_processes_is_waited_for() -> None:
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    with started("import time; time.sleep(60)") as process:
        handle = int(process._handle)  # type: ignore[attr-defined]
        for number in range(100):  # one wait of Windows takes 64 handles
            wait = when_ended(handle, lambda number=number: ended.put(number))  # type: ignore[misc]
            threading.Thread(target=wait, daemon=True).start()
        assert ended.empty()
        process.kill()
        assert sorted(ended.get(timeout=60) for _ in range(100)) == list(range(100))


@WINDOWS
def test_the_wait_does_not_need_the_handle_that_it_was_given() -> None:
    ended = threading.Event()
    process = started("input()")
    wait = when_ended(int(process._handle), ended.set)  # type: ignore[attr-defined]
    process.kill()
    process.wait()
    process._handle.Close()  # type: ignore[attr-defined]
    wait()
    assert ended.is_set()
    assert process.stdout is not None
    process.stdout.close()


PARENT = (
    "import subprocess, sys, time",
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])",
    "print(child.pid, flush=True)",
    "time.sleep(60)",
)


@WINDOWS
def test_a_group_is_killed_with_its_descendants() -> None:
    psutil = pytest.importorskip("psutil")
    process = started("import time; time.sleep(1)", *PARENT)
    group = Group(int(process._handle))  # type: ignore[attr-defined]
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    group.kill()
    assert process.wait(60) == processes.KILLED
    child.wait(60)
    group.release()
    group.kill()
    process.stdout.close()


@WINDOWS
def test_what_outlives_a_released_group_lives_on() -> None:
    psutil = pytest.importorskip("psutil")
    process = started("import time; time.sleep(1)", *PARENT[:-1])
    group = Group(int(process._handle))  # type: ignore[attr-defined]
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    assert process.wait(60) == 0
    group.release()
    time.sleep(0.2)
    assert child.is_running()
    child.kill()
    process.stdout.close()


@WINDOWS
def test_a_group_needs_a_process() -> None:
    with pytest.raises(OSError, match=r".+"):
        Group(0)


@WINDOWS
def test_a_socket_reaches_a_process_that_multiprocessing_starts() -> None:
    import multiprocessing

    ours, theirs = socket_pair(1024, 1024)
    process = multiprocessing.get_context("spawn").Process(target=answer, args=(for_child(theirs),))
    process.start()
    theirs.close()
    assert ours.recv(100) == b"hello"
    process.join()
    assert ours.recv(100) == b""  # no duplicate is left in this process
    ours.close()


def answer(end: socket.socket) -> None:
    end.sendall(b"hello")


# The end of the program


class Kqueues:
    """Reports the end of a process as the kqueues of macOS do."""

    KQ_FILTER_PROC, KQ_EV_ADD, KQ_EV_ONESHOT, KQ_NOTE_EXIT = -5, 1, 16, 2**31

    def __init__(self, gone: bool) -> None:
        self.gone, self.ended = gone, threading.Event()

    def kqueue(self) -> Kqueues:
        return self

    def kevent(self, ident: int, filter: int, flags: int, fflags: int) -> tuple[int, int, int, int]:
        return ident, filter, flags, fflags

    def control(self, changes: list[tuple[int, int, int, int]], most: int) -> None:
        assert (changes, most) == ([(1234, -5, 17, 2**31)], 1)
        if self.gone:
            raise ProcessLookupError
        self.ended.wait()


@pytest.mark.parametrize("gone", [False, True])
def test_a_kqueue_reports_the_end_of_the_parent(monkeypatch: pytest.MonkeyPatch, gone: bool) -> None:
    system: Any = Kqueues(gone)
    exits: queue.SimpleQueue[int] = queue.SimpleQueue()
    monkeypatch.setattr(processes, "posix_select", system)
    monkeypatch.setattr(os, "_exit", exits.put)
    assert processes.has_kqueue()
    processes.end_with(1234)
    if not gone:
        assert exits.empty()
        system.ended.set()
    assert exits.get(timeout=60) == 1


ENDLESS = """
import os, sys, time
from pathlib import Path
from typing import Any
from shoal import Parallel, delayed

def work(folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    Parallel(n_jobs=2, backend=sys.argv[1])(delayed(work)(sys.argv[2]) for _ in range(2))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_workers_end_with_a_program_that_is_killed(tmp_path: Path, backend: str) -> None:
    psutil = pytest.importorskip("psutil")
    program, pids = tmp_path / "endless.py", tmp_path / "pids"
    program.write_text(ENDLESS)
    pids.mkdir()
    with subprocess.Popen([sys.executable, str(program), backend, str(pids)]) as process:
        while len(names := list(pids.iterdir())) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        workers = [psutil.Process(int(path.name)) for path in names]
        process.kill()
    for worker in workers:
        worker.wait(60)
    assert not any(worker.is_running() for worker in workers)
