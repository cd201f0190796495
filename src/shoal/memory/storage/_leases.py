"""Leases: of several callers that want the same result at the same time, one computes it.

::

    thread ── has a thread of this process the lease? ── has a process locked its byte? ── no: compute
                 │ yes                                      │ yes
                 v                                          v
                 wait for the event of that lease           wait for the lock, for all threads of this process

No deadlock can arise. A thread that owns leases and is about to wait first records an edge "X waits for Y" for each
lease X that it owns. Then it follows the edges of all threads and processes, starting at the lease that it wants. If
they lead back to a lease of its own, it does not wait, but computes the result itself. Each thread records before it
follows, so the thread that closes a circle sees all of it.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from threading import get_ident
from types import TracebackType
from typing import Any

import xxhash

from shoal._forks import CALLERS, after_fork_in_child
from shoal._output import write_new
from shoal._platform.files import real_path
from shoal._platform.processes import wait_for
from shoal.memory.storage._locks import LockFile
from shoal.memory.storage._paths import OWN, make_own_folder
from shoal.memory.store import Key


class _Owner:
    """The thread that owns a lease, or that waits for another process on behalf of its own."""

    __slots__ = ("failed", "released", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.released: threading.Event | None = None  # made by the first thread that waits
        self.failed = False


class Leases:
    """The leases of one store, for all threads of this process.

    Parameters
    ----------
    folder
        The folder for the locks between processes. None: only the threads of this process wait for each other.
    """

    def __init__(self, folder: str | None) -> None:
        self.locks = None if folder is None else LockFile(os.path.join(folder, "locks"))
        self._edges: MutableMapping[int, int] = {} if folder is None else _Edges(os.path.join(folder, "waiting"))
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._owners: dict[int, _Owner] = {}
        self._of_thread: dict[int, set[int]] = {}

    def reset(self) -> None:
        """Forget all leases and locks: a forked child owns none of its parent's."""
        self._reset()
        if self.locks is not None:
            self.locks.reset()

    def lease(self, key: Key) -> Lease:
        """Return the context manager that :meth:`Store.lease` describes."""
        return Lease(self, xxhash.xxh3_64_intdigest(f"{key.function}/{key.call}".encode()) >> 2)

    def acquire(self, number: int) -> Any:
        """Acquire a lease, or wait until another thread or process has released it.

        Returns
        -------
        object
            The value for :meth:`release`. True if the caller should compute without a lease; False if another caller
            has computed and the value may be in the store now.
        """
        me = get_ident()
        with self._mutex:
            other = self._owners.get(number)
            if other is None:
                mine = self._owners[number] = _Owner(me)
            elif other.thread == me:
                return True  # the computation of this value asks for the value itself
            elif other.released is None:
                other.released = threading.Event()
        if other is not None:
            return self._wait_for_thread(number, other)
        locked: Any = False
        try:
            locked = None if self.locks is None else self.locks.lock(number)
            if locked is not False:
                self._of_thread.setdefault(me, set()).add(number)
                return number, mine, locked
            return self._wait_for_process(number, mine)
        finally:
            if locked is False:
                self._remove_owner(number, mine)

    def _wait_for_thread(self, number: int, other: _Owner) -> bool:
        with self._edges_to(number) as safe:
            if not safe:
                return True
            assert other.released is not None
            wait_for(other.released)
        return other.failed

    def _wait_for_process(self, number: int, mine: _Owner) -> bool:
        locks = self.locks
        assert locks is not None
        before = locks.failures(number)
        with self._edges_to(number) as safe:
            if not safe:
                return True
            locks.wait(number)
        mine.failed = locks.failures(number) != before
        return mine.failed

    def release(self, acquired: Any, failed: bool) -> None:
        """Release a lease, and tell the waiting callers whether its computation has failed."""
        owner: _Owner
        number, owner, file = acquired
        if self._owners.get(number) is not owner:
            return  # this process is a forked child, and the lease is its parent's
        mine = self._of_thread[owner.thread]
        mine.discard(number)
        if not mine:
            del self._of_thread[owner.thread]
        if file is not None and self.locks is not None:
            if failed:
                self.locks.report_failure(number)
            self.locks.unlock(file, number)
        owner.failed = failed
        self._remove_owner(number, owner)

    def _remove_owner(self, number: int, owner: _Owner) -> None:
        with self._mutex:
            del self._owners[number]
        if owner.released is not None:
            owner.released.set()

    @contextmanager
    def _edges_to(self, wanted: int) -> Iterator[bool]:
        """Record during the block that this thread waits for a lease; yield False if waiting would be a deadlock."""
        owned = self._of_thread.get(get_ident())
        if not owned:  # no other thread can wait for this one
            yield True
            return
        numbers = tuple(owned)
        try:
            yield self._record(numbers, wanted)
        finally:
            for number in numbers:
                self._edges.pop(number, None)

    def _record(self, owned: tuple[int, ...], wanted: int) -> bool:
        try:
            for number in owned:
                self._edges[number] = wanted
        except OSError:
            return False
        seen = set(owned)
        while wanted not in seen:
            seen.add(wanted)
            after = self._edges.get(wanted)
            if after is None:
                return True
            wanted = after
        return False

    def sweep(self) -> None:
        """Remove the edges that killed threads and processes have left."""
        for number in list(self._edges):
            acquired = self._try_acquire(number)
            if acquired is not None:
                self._edges.pop(number, None)
                self.release(acquired, False)

    def _try_acquire(self, number: int) -> Any:
        """Acquire a lease without waiting; return the value for :meth:`release`, or None."""
        with self._mutex:
            if number in self._owners:
                return None
            owner = self._owners[number] = _Owner(get_ident())
        locked = None if self.locks is None else self.locks.lock(number)
        if not locked:
            self._remove_owner(number, owner)
            return None
        self._of_thread.setdefault(owner.thread, set()).add(number)
        return number, owner, locked


class Lease:
    """The context manager of one lease."""

    __slots__ = ("_acquired", "_leases", "_number")

    def __init__(self, leases: Leases, number: int) -> None:
        self._leases, self._number = leases, number

    def __enter__(self) -> bool:
        self._acquired = acquired = self._leases.acquire(self._number)
        return bool(acquired)

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        if self._acquired is not True and self._acquired is not False:
            self._leases.release(self._acquired, kind is not None)


class _Edges(MutableMapping[int, int]):
    """A mapping of numbers in a folder: empty files, whose names are "key-value".

    A name appears and disappears in one step, so other processes never see half of one. Symbolic links would do as
    well, but few users of Windows may make them.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def _path(self, number: int, value: int) -> str:
        return os.path.join(self._folder, f"{number:x}-{value:x}")

    def _all(self) -> Iterator[tuple[int, int]]:
        try:
            names = [] if os.path.islink(self._folder) else os.listdir(self._folder)
        except OSError:
            return
        for name in names:
            if _is_edge(name):
                number, _, value = name.partition("-")
                yield int(number, 16), int(value, 16)

    def __getitem__(self, number: int) -> int:
        for key, value in self._all():
            if key == number:
                return value
        raise KeyError(number)

    def __setitem__(self, number: int, value: int) -> None:
        make_own_folder(self._folder)
        self.pop(number, None)  # a killed process may have left it
        write_new(self._path(number, value), b"")

    def __delitem__(self, number: int) -> None:
        found = [edge for edge in self._all() if edge[0] == number]
        try:
            for edge in found:
                os.unlink(self._path(*edge))
        except OSError:
            found = []
        if not found:
            raise KeyError(number)

    def __iter__(self) -> Iterator[int]:
        for number, _ in self._all():
            yield number

    def __len__(self) -> int:
        return sum(1 for _ in self._all())


_is_edge = re.compile("[0-9a-f]{1,16}-[0-9a-f]{1,16}").fullmatch
_all: weakref.WeakSet[Leases] = weakref.WeakSet()
_by_folder: weakref.WeakValueDictionary[str, Leases] = weakref.WeakValueDictionary()
_registry = threading.Lock()


def leases_in(folder: str) -> Leases:
    """Return the leases of a folder. All stores of this process share them, because the process owns the locks."""
    above, name = os.path.split(folder)
    # If ".shoal" is a link, it is not followed here. make_own_folder will refuse it.
    path = os.path.join(real_path(above), name) if name == OWN else real_path(folder)
    with _registry:
        leases = _by_folder.get(path)
        if leases is None:
            leases = _by_folder[path] = Leases(path)
        return leases


def _after_fork() -> None:
    global _registry
    _registry = threading.Lock()
    for leases in list(_all):
        leases.reset()


after_fork_in_child(_after_fork, CALLERS)
