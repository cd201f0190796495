"""The way to one worker process: nobody waits for a worker that does not read, nothing is lost, every end is told."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.spawn
import os
import shutil
import sys
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from _capabilities import KILL, KILLED, WORDS_OF_KILLED, needs, needs_fork, needs_socket_descriptors
from _faults_util import PATIENCE, alive, go_on, halt, until, wait_for
from shoal import Parallel, backends, delayed
from shoal.backends import Slot, _process, _start
from shoal.backends._workers import Turn
from shoal.backends.base import WorkerSpec
from shoal.errors import WorkerDied

FALSE = shutil.which("false")


@pytest.fixture(params=["loky", "multiprocessing"])
def slot(request: pytest.FixtureRequest) -> Iterator[Slot]:
    backend = backends.create(request.param)
    slots = backend.open(WorkerSpec(1, own=True))
    try:
        yield slots[0]
    finally:
        slots[0] = backend.abort(slots[0])
        backend.close(slots)


def pid_of(slot: Slot) -> int:
    pid: int = slot.executor.submit(os.getpid).result(PATIENCE)
    return pid


@pytest.fixture
def stopped(slot: Slot) -> Iterator[int]:
    """The process of a worker that does not read."""
    pid = pid_of(slot)
    halt(pid)
    try:
        yield pid
    finally:
        if alive(pid):
            go_on(pid)


@pytest.mark.parametrize("sizes", [[1] * 500, [1_000_000] * 3, [1, 200_000, 1, 1, 70_000, 1]])
def test_nobody_waits_for_a_worker_that_does_not_read(slot: Slot, stopped: int, sizes: list[int]) -> None:
    futures = [slot.executor.submit(bytes.__add__, bytes([number % 256]), bytes(n)) for number, n in enumerate(sizes)]
    assert not any(future.done() for future in futures)
    go_on(stopped)
    for number, (size, future) in enumerate(zip(sizes, futures, strict=True)):
        assert future.result(PATIENCE) == bytes([number % 256]) + bytes(size)
    assert pid_of(slot) == stopped


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_death_is_told_to_all_that_wait(slot: Slot, stopped: int, size: int) -> None:
    futures = [slot.executor.submit(len, bytes(size)) for _ in range(4)]
    os.kill(stopped, KILL)
    errors = {id(future.exception(PATIENCE)): future.exception() for future in futures}
    (error,) = errors.values()
    assert isinstance(error, BrokenExecutor)
    assert error.exit_code == KILLED  # type: ignore[attr-defined]
    assert pid_of(slot) != stopped


def test_what_was_answered_before_a_death_is_not_lost(slot: Slot) -> None:
    size = 3_000_000
    pid_of(slot)
    first, second = slot.executor.submit(bytes, size), slot.executor.submit(os._exit, 3)
    assert first.result(PATIENCE) == bytes(size)
    error = second.exception(PATIENCE)
    assert isinstance(error, BrokenExecutor)
    assert error.exit_code == 3  # type: ignore[attr-defined]


def have_a_child(gate: Path) -> int:
    """Fork a child that has all descriptors of this process; return its id."""
    pid = os.fork()
    if not pid:
        try:
            wait_for(gate)
        finally:
            os._exit(0)
    return pid


@needs_fork
def test_a_child_of_the_worker_does_not_keep_its_connection(slot: Slot, tmp_path: Path) -> None:
    """It has the worker's end of the connection, which is open as long as it lives."""
    gate = tmp_path / "gate"
    pid = pid_of(slot)
    child = slot.executor.submit(have_a_child, gate).result(PATIENCE)
    try:
        assert isinstance(slot.executor, Turn)
        process = slot.executor.worker.process
        assert process is not None
        assert slot.executor.worker.retire(pid)
        assert pid_of(slot) != pid
        assert until(lambda: process._connection.fileno() < 0)
        assert alive(child)
    finally:
        gate.touch()
        assert until(lambda: not alive(child))


def die_with_a_child(gate: Path, told: Path) -> None:
    pid = have_a_child(gate)
    told.with_suffix(".new").write_text(str(pid))
    told.with_suffix(".new").rename(told)
    os.kill(os.getpid(), KILL)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="no descriptors of processes")
@pytest.mark.parametrize(
    ("name", "method"), [("loky", None), ("multiprocessing", "fork"), ("multiprocessing", "spawn")]
)
def test_a_death_is_told_though_a_child_of_the_worker_lives(tmp_path: Path, name: str, method: str | None) -> None:
    """It has all that the worker held, and so whatever would tell by its end that the worker has ended."""
    gate, told = tmp_path / "gate", tmp_path / "child"
    options = {} if method is None else {"context": multiprocessing.get_context(method)}
    try:
        with pytest.raises(WorkerDied, match=WORDS_OF_KILLED):
            Parallel(n_jobs=2, backend=name, **options)([delayed(die_with_a_child)(gate, told)])
        child = int(told.read_text())
        assert alive(child)
    finally:
        gate.touch()
    assert until(lambda: not alive(child))


@pytest.mark.parametrize("end", [os.getpid, partial(os._exit, 3)])
def test_nothing_of_a_process_is_left_to_the_collector(slot: Slot, end: Any) -> None:
    """It might be collected in a forked child, where nothing may touch what is the parent's."""
    pid = pid_of(slot)
    assert isinstance(slot.executor, Turn)
    worker = slot.executor.worker
    assert worker.process is not None
    gone = weakref.ref(worker.process), weakref.ref(worker.process._child)
    gc.collect()
    gc.disable()
    try:
        slot.executor.submit(end).exception(PATIENCE)
        worker.retire(pid)
        assert pid_of(slot) != pid

        def nothing_left() -> bool:
            worker._pool.loop.ask(lambda: None)  # without a GIL, what a thread has made may go only when it runs again
            return all(reference() is None for reference in gone)

        assert until(nothing_left)
    finally:
        gc.enable()


def close_everything() -> None:
    os.closerange(3, 4096)


@needs_socket_descriptors
def test_a_worker_that_closes_its_descriptors_is_replaced(slot: Slot) -> None:
    pid = pid_of(slot)
    assert isinstance(slot.executor.submit(close_everything).exception(PATIENCE), (BrokenExecutor, OSError))
    assert pid_of(slot) != pid
    assert until(lambda: not alive(pid))


def deaf() -> None:
    """Close the worker's socket, and nothing else."""
    frame = sys._getframe()
    while frame.f_code.co_name != "serve":
        assert frame.f_back is not None
        frame = frame.f_back
    frame.f_locals["connection"].close()
    time.sleep(600)


def test_a_worker_that_cannot_be_reached_any_more_is_replaced(slot: Slot) -> None:
    pid = pid_of(slot)
    assert isinstance(slot.executor.submit(deaf).exception(PATIENCE), BrokenExecutor)
    assert pid_of(slot) != pid
    assert until(lambda: not alive(pid))


class Unreadable:
    def __reduce__(self) -> Any:
        return only_in, (os.getpid(),)


def only_in(pid: int) -> int:
    if os.getpid() != pid:
        raise LookupError(f"made in {pid}")
    return pid


class Odd(Exception):
    def __init__(self) -> None:
        super().__init__(lambda: 0)


def odd() -> None:
    raise Odd


def test_what_cannot_travel_is_said_and_the_worker_lives(slot: Slot) -> None:
    pid = pid_of(slot)
    assert "lambda" in str(slot.executor.submit(abs, lambda: 0).exception(PATIENCE))
    for submitted in [(Unreadable,), (repr, Unreadable())]:
        assert isinstance(slot.executor.submit(*submitted).exception(PATIENCE), LookupError)
    error = slot.executor.submit(odd).exception(PATIENCE)
    assert "raise Odd" in str(error.__cause__)  # type: ignore[union-attr]
    assert "TypeError" in str(slot.executor.submit(open, os.devnull).exception(PATIENCE).__cause__)  # type: ignore[union-attr]
    assert pid_of(slot) == pid


def test_a_reader_that_fails_ends_its_worker(slot: Slot, stopped: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no memory for an answer: then no answer can be told from another."""

    def no_memory(_data: bytes) -> Any:
        monkeypatch.undo()
        raise MemoryError("for an answer")

    monkeypatch.setattr(_process, "decoded", no_memory)
    futures = [slot.executor.submit(abs, -1) for _ in range(2)]
    go_on(stopped)
    assert {str(future.exception(PATIENCE)) for future in futures} == {"for an answer"}
    assert pid_of(slot) != stopped
    assert until(lambda: not alive(stopped))


begun: list[bytes] = []


def begin(given: bytes, lock: Any) -> None:
    with lock:
        begun.append(given)


def number_begun() -> int:
    return len(begun[0])


@pytest.fixture
def short_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start processes as on Windows, whose pipes take little."""
    monkeypatch.setattr(_start, "SHORT_PIPES", True)


@pytest.mark.usefixtures("short_pipes")
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_an_initializer_may_have_long_arguments(backend: str) -> None:
    """And such as only a process that is being started can have."""
    spawn = multiprocessing.get_context("spawn")
    options = {"start_method": "spawn"} if backend == "loky" else {"context": spawn}
    initial = {"initializer": begin, "initargs": (bytes(1_000_000), spawn.Lock())}
    calls = [delayed(number_begun)() for _ in range(4)]
    assert Parallel(n_jobs=2, backend=backend, **options, **initial)(calls) == [1_000_000] * 4


@pytest.mark.usefixtures("short_pipes")
@needs(FALSE, "needs a program that fails")
def test_a_process_that_ends_before_it_reads_holds_nobody_up() -> None:
    spawn = multiprocessing.get_context("spawn")
    python = multiprocessing.spawn.get_executable()
    spawn.set_executable(FALSE)
    try:
        with pytest.raises(WorkerDied, match="exited with code 1"):
            Parallel(n_jobs=2, backend="multiprocessing", context=spawn, initializer=len, initargs=(bytes(1_000_000),))(
                [delayed(abs)(-1)] * 2
            )
    finally:
        spawn.set_executable(python)
