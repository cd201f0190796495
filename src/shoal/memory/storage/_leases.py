"""Leases: of several callers that want the same result at the same time, one computes it.

::

    caller ── has a caller of this process the lease? ── has a process locked its byte? ── no: compute
                 │ yes                                      │ yes
                 v                                          v
                 wait until that caller releases it         wait for the lock, for all callers of this process

A caller is a thread, or a task of an event loop, which waits without blocking the loop (``async with``). A context
variable holds the leases of a caller. So the threads and tasks that a computation starts, and waits for, have its
leases too, if they run in a copy of its context: as tasks do.

No deadlock can arise. A caller that has leases and is about to wait first records an edge "X waits for Y" for each of
these leases X. Then it follows the edges of all callers and processes (:mod:`._edges`), starting at the lease that it
wants. If they lead back to a lease of its own, it does not wait, but computes the result itself. Each caller records
before it follows, so the one that closes a circle sees all of it.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from threading import get_ident
from types import TracebackType
from typing import Any

import xxhash

from shoal._forks import CALLERS, after_fork_in_child
from shoal._platform.files import real_path
from shoal._platform.processes import wait_for
from shoal.memory.storage._edges import Edge, Edges
from shoal.memory.storage._locks import LockFile
from shoal.memory.storage._paths import OWN
from shoal.memory.store import Key

#: The shortest and the longest pause of a task between two looks at the lock of another process, in seconds.
_SHORTEST, _LONGEST = 0.001, 0.05


class _Owner:
    """The caller that owns a lease, or that waits for another process on behalf of its own."""

    __slots__ = ("failed", "number", "on_release", "owns", "thread")

    def __init__(self, number: int) -> None:
        self.number, self.thread = number, get_ident()
        self.on_release: list[Callable[[], Any]] = []  # by callers that wait
        self.owns = self.failed = False


#: The leases of the caller that runs: of all folders, and perhaps some that were released.
_held: ContextVar[tuple[_Owner, ...]] = ContextVar("shoal leases", default=())


class Leases:
    """The leases of one store, for all callers of this process.

    Parameters
    ----------
    folder
        The folder for the locks between processes. None: only the callers of this process wait for each other.
    """

    def __init__(self, folder: str | None) -> None:
        self.locks = None if folder is None else LockFile(os.path.join(folder, "locks"))
        self.edges = Edges(None if folder is None else os.path.join(folder, "waiting"))
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._owners: dict[int, _Owner] = {}

    def reset(self) -> None:
        """Forget all leases and locks: a forked child owns none of its parent's."""
        self._reset()
        self.edges.reset()
        if self.locks is not None:
            self.locks.reset()

    def lease(self, key: Key) -> Lease:
        """Return the context manager that :meth:`Store.lease` describes."""
        return Lease(self, xxhash.xxh3_64_intdigest(f"{key.function}/{key.call}".encode()) >> 2)

    def acquire(self, number: int, blocks: bool) -> Any:
        """Acquire a lease. `blocks` says whether waiting would block the thread, with all tasks that run in it.

        Returns
        -------
        object
            The value for :meth:`release`; a :class:`_Waiting` if another caller or process has the lease; True if the
            caller should compute without a lease.
        """
        with self._mutex:
            other = self._owners.get(number)
            if other is None:
                mine = self._owners[number] = _Owner(number)
        if other is not None:
            # The computation of this value asks for the value itself, or a task would wait for one of its own thread.
            own = other in _held.get() or (blocks and other.thread == get_ident())
            return True if own else _Waiting(self, number, other, blocks)
        try:
            locked = None if self.locks is None else self.locks.lock(number)
        except BaseException:
            self.remove_owner(mine)
            raise
        if locked is False:
            return _WaitingForProcess(self, number, mine, blocks)
        mine.owns = True
        _held.set((*_held.get(), mine))
        return mine, locked

    def owned(self, blocks: bool) -> list[int]:
        """Return the leases that nobody gets while this caller waits: its own, and those of tasks that it blocks."""
        held, me = _held.get(), get_ident()
        with self._mutex:
            owners = list(self._owners.values())
        return [owner.number for owner in owners if owner.owns and (owner in held or (blocks and owner.thread == me))]

    def call_on_release(self, owner: _Owner, tell: Callable[[], Any]) -> bool:
        """Call a function when a caller releases its lease; return False if it has done so already."""
        with self._mutex:
            waits = self._owners.get(owner.number) is owner
            if waits:
                owner.on_release.append(tell)
        return waits

    def release(self, acquired: Any, failed: bool) -> None:
        """Release a lease, and tell the waiting callers whether its computation has failed."""
        owner: _Owner
        owner, file = acquired
        _held.set(tuple(other for other in _held.get() if other is not owner))
        if self._owners.get(owner.number) is not owner:
            return  # this process is a forked child, and the lease is its parent's
        if file is not None and self.locks is not None:
            if failed:
                self.locks.report_failure(owner.number)
            self.locks.unlock(file, owner.number)
        owner.failed = failed
        self.remove_owner(owner)

    def remove_owner(self, owner: _Owner) -> None:
        """Let another caller have a lease, and tell those who wait for it."""
        with self._mutex:
            del self._owners[owner.number]
        for tell in owner.on_release:
            tell()

    def sweep(self) -> None:
        """Remove the edges that killed processes have left."""
        for number in list(self.edges.graph()):
            with self._mutex:
                if number in self._owners:
                    continue
                owner = self._owners[number] = _Owner(number)
            locked = None if self.locks is None else self.locks.lock(number)
            if self.locks is not None and locked:
                self.edges.forget(number)
                self.locks.unlock(locked, number)
            self.remove_owner(owner)


class _Waiting:
    """The wait of a caller for another one of this process. Inside the block, its edges are recorded."""

    def __init__(self, leases: Leases, number: int, owner: _Owner, blocks: bool) -> None:
        self._leases, self._number, self._owner, self._blocks = leases, number, owner, blocks
        self._edges: list[Edge] = []

    def block(self) -> bool:
        """Wait; return whether the caller should compute without a lease."""
        with self as safe:
            if safe:
                self._wait()
        return not safe or self._owner.failed

    async def poll(self) -> bool:
        """Wait in a task; return the same."""
        with self as safe:
            if safe:
                await self._wait_in_task()
        return not safe or self._owner.failed

    def __enter__(self) -> bool:
        """Record the edges; return False if waiting would be a deadlock."""
        leases = self._leases
        owned = leases.owned(self._blocks)
        if not owned:  # no other caller can wait for this one
            return True
        try:
            self._edges = leases.edges.add(owned, self._number)
        except OSError:
            return False
        return not leases.edges.lead(self._number, owned)

    def __exit__(self, *_: object) -> None:
        self._leases.edges.remove(self._edges)

    def _wait(self) -> None:
        released = threading.Event()
        if self._leases.call_on_release(self._owner, released.set):
            wait_for(released)

    async def _wait_in_task(self) -> None:
        import asyncio  # most programs do not need it

        loop = asyncio.get_running_loop()
        released = loop.create_future()

        def release() -> None:
            if not released.done():  # it is cancelled with the task
                released.set_result(None)

        def tell() -> None:
            try:
                loop.call_soon_threadsafe(release)
            except RuntimeError:  # the loop is closed
                pass

        if self._leases.call_on_release(self._owner, tell):
            await released


class _WaitingForProcess(_Waiting):
    """The wait for another process. Its owner stands for that process among the callers of this one."""

    def __init__(self, leases: Leases, number: int, owner: _Owner, blocks: bool) -> None:
        super().__init__(leases, number, owner, blocks)
        assert leases.locks is not None
        self._locks = leases.locks
        self._before = self._locks.failures(number)

    def __exit__(self, *_: object) -> None:
        try:
            super().__exit__()
        finally:
            self._owner.failed = self._locks.failures(self._number) != self._before
            self._leases.remove_owner(self._owner)

    def _wait(self) -> None:
        self._locks.wait(self._number)

    async def _wait_in_task(self) -> None:
        import asyncio  # most programs do not need it

        # The system can only wait in a thread, which a cancelled task could not end.
        pause = _SHORTEST
        while not self._locks.is_free(self._number):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST)


class Lease:
    """The context manager of one lease: for a thread by ``with``, for a task by ``async with``."""

    __slots__ = ("_acquired", "_leases", "_number")

    def __init__(self, leases: Leases, number: int) -> None:
        self._leases, self._number = leases, number

    def __enter__(self) -> bool:
        acquired = self._leases.acquire(self._number, True)
        self._acquired = acquired = acquired.block() if isinstance(acquired, _Waiting) else acquired
        return bool(acquired)

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        if self._acquired is not True and self._acquired is not False:
            self._leases.release(self._acquired, kind is not None)

    async def __aenter__(self) -> bool:
        acquired = self._leases.acquire(self._number, False)
        self._acquired = acquired = await acquired.poll() if isinstance(acquired, _Waiting) else acquired
        return bool(acquired)

    async def __aexit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        if self._acquired is not True and self._acquired is not False:
            # A computation that was cancelled has not failed: one of those who wait takes over.
            failed = kind is not None and issubclass(kind, Exception)
            self._leases.release(self._acquired, failed)


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
