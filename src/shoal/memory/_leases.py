"""Leases: of those who want the same result at a time, one computes it.

::

    thread ── a holder per key, of this process ── a byte of the lock file, of all processes
                 │ another thread's                    │ another process's
                 v                                     v
                 wait for its event                    wait for the lock; threads wait for the one that does

Nobody waits in a circle. A thread that has leases and is about to wait first writes down "who has this waits for that",
for each of its leases, and then follows what others have written, from what it wants. If that leads to a lease of its
own, it does not wait, and computes what it wants itself. Whoever closes a circle sees all of it.
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

from shoal.memory._locks import LockFile
from shoal.memory._places import OWN, make_own_folder
from shoal.memory.store import Key


class _Holder:
    """The thread that has a key, or waits for it on behalf of its process."""

    __slots__ = ("failed", "over", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.over: threading.Event | None = None  # made by the first that waits
        self.failed = False


class Leases:
    """The leases of one store, for all threads.

    Parameters
    ----------
    folder
        Where locks between processes are kept; None if there are none.
    """

    def __init__(self, folder: str | None) -> None:
        self.locks = None if folder is None else LockFile(os.path.join(folder, "locks"))
        self._waiting: MutableMapping[int, int] = {} if folder is None else _Links(os.path.join(folder, "waiting"))
        self._forget()
        _all.add(self)

    def _forget(self) -> None:
        self._mutex = threading.Lock()
        self._holders: dict[int, _Holder] = {}
        self._of_thread: dict[int, set[int]] = {}

    def forget(self) -> None:
        """Be those of another process: a fork's child, which has none of its parent's leases and locks."""
        self._forget()
        if self.locks is not None:
            self.locks.forget()

    def lease(self, key: Key) -> _Lease:
        """Return the context manager that :meth:`Store.lease` describes."""
        return _Lease(self, xxhash.xxh3_64_intdigest(f"{key.function}/{key.call}".encode()) >> 2)

    def take(self, number: int) -> Any:
        """Take a lease, or wait for it.

        Returns
        -------
        What is to be given back; True if it is to be computed without a lease; False if it may be there now.
        """
        me = get_ident()
        with self._mutex:
            other = self._holders.get(number)
            if other is None:
                mine = self._holders[number] = _Holder(me)
            elif other.thread == me:
                return True  # its own computation asks for itself
            elif other.over is None:
                other.over = threading.Event()
        if other is not None:
            return self._wait_for_thread(number, other)
        taken: Any = False
        try:
            taken = None if self.locks is None else self.locks.take(number)
            if taken is not False:
                self._of_thread.setdefault(me, set()).add(number)
                return number, mine, taken
            return self._wait_for_process(number, mine)
        finally:
            if taken is False:
                self._drop(number, mine)

    def _wait_for_thread(self, number: int, other: _Holder) -> bool:
        with self._noted(number) as safe:
            if not safe:
                return True
            assert other.over is not None
            other.over.wait()
        return other.failed

    def _wait_for_process(self, number: int, mine: _Holder) -> bool:
        locks = self.locks
        assert locks is not None
        before = locks.failures(number)
        with self._noted(number) as safe:
            if not safe:
                return True
            locks.wait(number)
        mine.failed = locks.failures(number) != before
        return mine.failed

    def give_back(self, taken: Any, failed: bool) -> None:
        """Give back what was taken; say whether what was to be computed has failed."""
        holder: _Holder
        number, holder, file = taken
        if self._holders.get(number) is not holder:
            return  # it was the parent's of this process
        mine = self._of_thread[holder.thread]
        mine.discard(number)
        if not mine:
            del self._of_thread[holder.thread]
        if file is not None and self.locks is not None:
            if failed:
                self.locks.fail(number)
            self.locks.give_back(file, number)
        holder.failed = failed
        self._drop(number, holder)

    def _drop(self, number: int, holder: _Holder) -> None:
        with self._mutex:
            del self._holders[number]
        if holder.over is not None:
            holder.over.set()

    @contextmanager
    def _noted(self, wanted: int) -> Iterator[bool]:
        """Write down that this thread waits for a key; give whether that closes no circle."""
        held = self._of_thread.get(get_ident())
        if not held:  # nobody waits for it
            yield True
            return
        numbers = tuple(held)
        try:
            yield self._note(numbers, wanted)
        finally:
            for number in numbers:
                self._waiting.pop(number, None)

    def _note(self, held: tuple[int, ...], wanted: int) -> bool:
        try:
            for number in held:
                self._waiting[number] = wanted
        except OSError:
            return False
        seen = set(held)
        while wanted not in seen:
            seen.add(wanted)
            after = self._waiting.get(wanted)
            if after is None:
                return True
            wanted = after
        return False

    def sweep(self) -> None:
        """Remove what killed threads have written down."""
        for number in list(self._waiting):
            taken = self._taken_at_once(number)
            if taken is not None:
                self._waiting.pop(number, None)
                self.give_back(taken, False)

    def _taken_at_once(self, number: int) -> Any:
        with self._mutex:
            if number in self._holders:
                return None
            holder = self._holders[number] = _Holder(get_ident())
        taken = None if self.locks is None else self.locks.take(number)
        if not taken:
            self._drop(number, holder)
            return None
        self._of_thread.setdefault(holder.thread, set()).add(number)
        return number, holder, taken


class _Lease:
    """A lease, while a block runs."""

    __slots__ = ("_leases", "_number", "_taken")

    def __init__(self, leases: Leases, number: int) -> None:
        self._leases, self._number = leases, number

    def __enter__(self) -> bool:
        self._taken = taken = self._leases.take(self._number)
        return bool(taken)

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        if self._taken is not True and self._taken is not False:
            self._leases.give_back(self._taken, kind is not None)


class _Links(MutableMapping[int, int]):
    """Numbers by numbers, as the names of symbolic links and what they point to: written and read in one step each."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def _path(self, number: int) -> str:
        return os.path.join(self._folder, f"{number:x}")

    def __getitem__(self, number: int) -> int:
        try:
            return int(os.readlink(self._path(number)), 16)
        except (OSError, ValueError):
            raise KeyError(number) from None

    def __setitem__(self, number: int, value: int) -> None:
        make_own_folder(self._folder)
        self.pop(number, None)  # left by one who was killed
        os.symlink(f"{value:x}", self._path(number))

    def __delitem__(self, number: int) -> None:
        try:
            os.readlink(self._path(number))  # which only what is ours can be
            os.unlink(self._path(number))
        except OSError:
            raise KeyError(number) from None

    def __iter__(self) -> Iterator[int]:
        try:
            names = [] if os.path.islink(self._folder) else os.listdir(self._folder)
        except OSError:
            return
        for name in names:
            if _is_number(name):
                yield int(name, 16)

    def __len__(self) -> int:
        return sum(1 for _ in self)


_is_number = re.compile("[0-9a-f]{1,16}").fullmatch
_all: weakref.WeakSet[Leases] = weakref.WeakSet()
_by_folder: weakref.WeakValueDictionary[str, Leases] = weakref.WeakValueDictionary()
_registry = threading.Lock()


def leases_in(folder: str) -> Leases:
    """Return the leases of a folder: one object for all stores of this process, since it owns its locks as a whole."""
    above, name = os.path.split(folder)
    # A link in the place of ".shoal" is refused, and not followed.
    path = os.path.join(os.path.realpath(above), name) if name == OWN else os.path.realpath(folder)
    with _registry:
        leases = _by_folder.get(path)
        if leases is None:
            leases = _by_folder[path] = Leases(path)
        return leases


def _forget_all() -> None:
    global _registry
    _registry = threading.Lock()
    for leases in list(_all):
        leases.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
