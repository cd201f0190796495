"""The floors: the least time that a row could take, without the work of a library.

Most are loops of C-level calls that move the same bytes and wake the same number of processes.
"""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import workloads
from .contenders import WORKERS

_LENGTH = struct.Struct("<Q")


def send(connection: socket.socket, message: bytes) -> None:
    connection.sendall(_LENGTH.pack(len(message)) + message)


def receive(connection: socket.socket) -> bytearray:
    """Return the next message; an empty one if the other end is closed."""
    head = connection.recv(_LENGTH.size, socket.MSG_WAITALL)
    message = bytearray(_LENGTH.unpack(head)[0] if head else 0)
    view = memoryview(message)
    while view:
        view = view[connection.recv_into(view) :]
    return message


class Forked:
    """A forked process at the other end of a socket. It calls what it is sent, and sends the result back."""

    def __init__(self, others: Iterable[Forked] = ()) -> None:
        self.connection, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            for each in (self, *others):
                each.connection.close()
            while message := receive(theirs):
                function, arguments = pickle.loads(message)
                send(theirs, pickle.dumps(function(*arguments), pickle.HIGHEST_PROTOCOL))
            os._exit(0)
        theirs.close()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> None:
        send(self.connection, pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL))

    def result(self) -> Any:
        return pickle.loads(receive(self.connection))

    def close(self) -> None:
        self.connection.close()
        os.waitpid(self.pid, 0)


@contextmanager
def forked(count: int = WORKERS) -> Iterator[list[Forked]]:
    """Give forked processes."""
    processes: list[Forked] = []
    try:
        for _ in range(count):
            processes.append(Forked(processes))
        yield processes
    finally:
        for process in processes:
            process.close()


def run(processes: list[Forked], function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Call the function for each tuple of arguments, in turns on the processes, as soon as the tuple is made."""
    turns = []
    for index, given in enumerate(arguments):
        turns.append(processes[index % len(processes)])
        turns[-1].submit(function, *given)
    return [process.result() for process in turns]


def batches(function: Callable[[Any], Any], count: int, processes: int = WORKERS) -> list[tuple[Any, list[int]]]:
    """Return the arguments of `workloads.each` for one batch on each process, with `count` calls in all."""
    return [(function, list(range(start, count, processes))) for start in range(processes)]


def forks(count: int, at_once: int) -> list[Any]:
    """Run a call in each of `count` forked processes, of which `at_once` live at the same time."""
    results, living = [], []
    for number in range(count):
        if len(living) == at_once:
            process = living.pop(0)
            results.append(process.result())
            process.close()
        living.append(Forked(living))
        living[-1].submit(workloads.nothing, number)
    for process in living:
        results.append(process.result())
        process.close()
    return results


def pull_on_threads(calls: Iterable[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]) -> None:
    """Run calls on two threads that take them from one iterator under one lock, without futures and callbacks."""
    source, lock = iter(calls), threading.Lock()
    results: list[Any] = []

    def pull() -> None:
        while True:
            with lock:
                call = next(source, None)
            if call is None:
                return
            function, args, kwargs = call
            results.append(function(*args, **kwargs))

    threads = [threading.Thread(target=pull) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def shared_folder() -> Iterator[Path]:
    """Give a folder in shared memory, or a temporary folder if there is no shared memory."""
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="benchmarks-", dir=shm))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def through_files(processes: list[Forked], arrays: list[Any]) -> list[Any]:
    """Return `plus_one` of each array: eight files in shared memory carry them there, eight carry the results back."""
    import numpy as np

    size, files = arrays[0].size, 8
    with shared_folder() as folder:

        def written() -> Iterator[tuple[str, str, int]]:
            for index in range(files):
                source, target = str(folder / f"to{index}"), str(folder / f"from{index}")
                workloads.write_arrays(source, arrays[index::files])
                yield source, target, size

        run(processes, workloads.plus_one_in_files, written())
        return [
            array
            for index in range(files)
            for array in np.memmap(folder / f"from{index}", dtype=np.float64, mode="r+").reshape(-1, size)
        ]


def results_through_files(processes: list[Forked], results: int, size: int) -> list[Any]:
    """Return `results` arrays of ones, which workers make and write to shared memory, and which are mapped here."""
    import numpy as np

    with shared_folder() as folder:
        paths = [str(folder / str(index)) for index in range(results)]
        run(processes, workloads.write_ones, [(path, size) for path in paths])
        return [np.memmap(path, dtype=np.float64, mode="r+") for path in paths]


def written(path: Path, data: bytes) -> None:
    """Write a new file."""
    path.unlink(missing_ok=True)
    with open(path, "xb", 0) as file:
        file.write(data)
