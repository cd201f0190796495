"""The index of a store with limits: the size of each entry and when it was last used, so that a write needs no walk.

It is a SQLite file. Any number of processes may use it, and it survives their deaths. It need not survive a crash of
the system, because a walk through the store can rebuild it. So it is never synced.

A row is added before its entry is published, and deleted after its entry is removed. So the entries on disk are never
larger than the rows say. An entry without a row was written by joblib, or by a store that has no index. It gets a row
in the next walk, or when it is used.

A walk lists the folder of each function, so it knows which entries are there. It looks into an entry only if the entry
has no row, or a key of joblib's. Once a day, and when the index is made, it looks into all of them, because someone may
have removed or replaced single files by hand. Until then, the row of such an entry may be wrong.
"""

from __future__ import annotations

import atexit
import errno
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from shoal._forks import CALLERS, after_fork_in_child
from shoal.errors import FileInUse
from shoal.memory.storage._locks import QUEUE, LockFile
from shoal.memory.storage._paths import create_own_file, make_own_folder, refuse_links
from shoal.memory.storage._walk import Known
from shoal.memory.store import Entry, Key, Limits, excess

#: Uses are written to the file when there are this many, or after this many seconds.
_MOST_USES, _MOST_SECONDS = 1000, 10.0
#: The number of entries that one transaction removes, so that other processes can write in between.
_STEP = 64
#: The time between two walks that look into all entries, in seconds.
_WALK_AGAIN = 24 * 3600.0
#: A row without an entry may belong to an entry that is being published. After this time, in seconds, it is deleted.
_GRACE = 600.0
_TIMEOUT = 60.0
#: The endings of the names of the files that SQLite makes.
_ENDS = ("", "-wal", "-shm", "-journal")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    function TEXT NOT NULL, call TEXT NOT NULL, nbytes INTEGER NOT NULL, used REAL NOT NULL,
    PRIMARY KEY (function, call)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON entries (used, nbytes);
CREATE TABLE IF NOT EXISTS totals (id INTEGER PRIMARY KEY, nbytes INTEGER, items INTEGER, walked REAL);
INSERT OR IGNORE INTO totals VALUES (0, 0, 0, 0);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON entries BEGIN
    UPDATE totals SET nbytes = nbytes + NEW.nbytes, items = items + 1; END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON entries BEGIN
    UPDATE totals SET nbytes = nbytes - OLD.nbytes, items = items - 1; END;
CREATE TRIGGER IF NOT EXISTS changed AFTER UPDATE OF nbytes ON entries BEGIN
    UPDATE totals SET nbytes = nbytes + NEW.nbytes - OLD.nbytes; END;
"""
_ADD = """
INSERT INTO entries VALUES (?, ?, ?, ?)
ON CONFLICT (function, call) DO UPDATE SET nbytes = excluded.nbytes, used = excluded.used
"""
_DELETE = "DELETE FROM entries WHERE function = ? AND call = ?"
_OLDEST = "SELECT function, call, nbytes, used FROM entries ORDER BY used LIMIT ?"


class Index:
    """The index of one store. Thread-safe, and safe between processes.

    Three functions of the store are passed: `walk` yields all entries, and is told whether to trust the index;
    `measure` returns the entry of a key or None, and `remove` removes it.
    """

    def __init__(
        self,
        path: str,
        locks: LockFile,
        walk: Callable[[bool], Iterable[Entry]],
        measure: Callable[[Key], Entry | None],
        remove: Callable[[Key], None],
    ) -> None:
        self._path, self._locks = path, locks
        self._walk, self._measure, self._remove = walk, measure, remove
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._mutex = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._walked = False
        self._uses: dict[Key, float] = {}
        self._due = time.time() + _MOST_SECONDS

    def reset(self) -> None:
        """Forget the connection and the uses: a forked child must neither use nor close its parent's connection."""
        _abandoned.append(self._connection)
        self._reset()

    def close(self) -> None:
        """Write the uses to the file and close it. It is opened again when it is needed."""
        self.flush()
        with self._mutex:
            self._close()

    def __del__(self) -> None:
        self._close()  # without a flush, because the collector may run while this thread holds any lock

    def used(self, key: Key) -> None:
        """Record that an entry was used now. The record is written to the file later."""
        uses, now = self._uses, time.time()
        uses[key] = now
        if now > self._due or len(uses) >= _MOST_USES:
            self.flush()

    def flush(self) -> None:
        """Write the recorded uses to the file. Errors are ignored, because uses only decide the order of removal."""
        self._due = time.time() + _MOST_SECONDS
        if not os.path.exists(self._path):  # the store was removed, and must not be made again
            self._uses = {}
        if self._uses:
            try:
                with self._transaction() as rows:
                    self._write_uses(rows)
            except OSError:
                pass

    def admit(self, entry: Entry, limits: Limits) -> bool:
        """Count an entry that will be published, and remove others until there is room for it.

        The entries are removed inside the transaction, before another process can admit one. So the store never
        exceeds its limits.

        Returns
        -------
        bool
            False if the entry alone exceeds the limits.
        """
        if limits.exclude(entry.nbytes):
            return False
        self._walk_if_due(again=False)
        more, in_use = True, set[Key]()
        while more:
            with self._transaction() as rows:
                self._write_uses(rows)
                rows.execute(_ADD, (*entry.key, entry.nbytes, entry.used))
                more = self._shrink(rows, limits, in_use)
        return True

    def confirm(self, key: Key) -> None:
        """Remove an entry that was just published, if another process has deleted its row since its admission."""
        with self._transaction() as rows:
            found = rows.execute("SELECT 1 FROM entries WHERE function = ? AND call = ?", key)
            if found.fetchone() is None:
                self._remove(key)

    def reduce(self, limits: Limits) -> None:
        """Remove entries until the rest is within limits."""
        self._walk_if_due(again=True)
        more, in_use = True, set[Key]()
        while more:
            with self._transaction() as rows:
                self._write_uses(rows)
                more = self._shrink(rows, limits, in_use)

    def discard(self, key: Key) -> None:
        """Remove an entry and its row."""
        with self._transaction() as rows:
            self._remove(key)
            rows.execute(_DELETE, key)

    def delete_row_if_missing(self, key: Key) -> None:
        """Delete the row of an entry if the entry no longer exists."""
        with self._transaction() as rows:
            if self._measure(key) is None:
                rows.execute(_DELETE, key)

    def clear(self, function: str | None, remove: Callable[[], None]) -> None:
        """Call ``remove``, and delete the rows of all entries, or of those of a function and below its path."""
        with self._transaction() as rows:
            remove()
            self._uses = {}
            if function is None:
                rows.execute("DELETE FROM entries")
            else:
                below = function + "/"
                rows.execute(
                    "DELETE FROM entries WHERE function = ? OR substr(function, 1, ?) = ?",
                    (function, len(below), below),
                )

    def known(self, function: str) -> Mapping[str, Known]:
        """Return the size of each entry of a function, and when it was last used. Errors leave it empty."""
        try:
            with self._connected() as rows:
                found = rows.execute("SELECT call, nbytes, used FROM entries WHERE function = ?", (function,))
                return {call: (nbytes, used) for call, nbytes, used in found}
        except OSError:  # the files themselves serve instead
            return {}

    def _shrink(self, rows: sqlite3.Connection, limits: Limits, in_use: set[Key]) -> bool:
        """Remove up to ``_STEP`` entries that exceed the limits; return whether there may be more.

        Those that Windows does not remove, because they are in use, are added to `in_use`. Others have to go instead.
        """
        nbytes, items = rows.execute("SELECT nbytes, items FROM totals").fetchone()
        found = rows.execute(_OLDEST, (_STEP,)).fetchall()
        entries = (Entry(Key(function, call), size, used) for function, call, size, used in found)
        oldest = (entry for entry in entries if entry.key not in in_use)
        now, before = time.time(), len(in_use)
        gone = list(excess(oldest, nbytes, items, limits, now))
        for entry in gone:
            try:
                self._remove(entry.key)
                rows.execute(_DELETE, entry.key)
            except FileInUse:
                rows.execute("UPDATE entries SET used = ? WHERE function = ? AND call = ?", (now, *entry.key))
                in_use.add(entry.key)
        return len(gone) == _STEP or len(in_use) > before

    def _write_uses(self, rows: sqlite3.Connection) -> None:
        uses, self._uses = self._uses, {}
        for key, used in list(uses.items()):
            change = "UPDATE entries SET used = max(used, ?) WHERE function = ? AND call = ?"
            if not rows.execute(change, (used, *key)).rowcount:
                entry = self._measure(key)
                if entry is not None:
                    rows.execute(_ADD, (*key, entry.nbytes, used))

    def _walk_if_due(self, again: bool) -> None:
        """Bring the rows up to date by a walk through the store, unless a recent walk has done so or `again` is set."""
        if self._walked and not again:
            return
        with self._connected() as rows:
            (walked,) = rows.execute("SELECT walked FROM totals").fetchone()
        begin = time.time()
        recent = begin - _WALK_AGAIN < walked <= begin
        if again or not recent:
            self._correct(begin, {entry.key: entry for entry in self._walk(recent)})
            if not recent:
                with self._transaction() as rows:
                    rows.execute("UPDATE totals SET walked = ?", (begin,))
        self._walked = True

    def _correct(self, begin: float, found: dict[Key, Entry]) -> None:
        """Make the rows agree with the entries that a walk has found since `begin`."""
        gone, changed = [], []
        with self._transaction() as rows:
            for function, call, nbytes, used in rows.execute("SELECT function, call, nbytes, used FROM entries"):
                entry = found.pop(Key(function, call), None)
                # A younger row may be that of an entry that was published, or will be, after the walk has passed it.
                if used < begin - _GRACE:
                    if entry is None:
                        gone.append((function, call))
                    elif entry.nbytes != nbytes:
                        changed.append((entry.nbytes, function, call))
            rows.executemany(_DELETE, gone)
            rows.executemany("UPDATE entries SET nbytes = ? WHERE function = ? AND call = ?", changed)
            added = [(*entry.key, entry.nbytes, entry.used) for entry in found.values()]
            rows.executemany("INSERT INTO entries VALUES (?, ?, ?, ?)", added)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connected() as rows:
            # SQLite could wait by itself. But it sleeps longer and longer while others write, and then wakes too late.
            locked = self._locks.queue()
            try:
                rows.execute("BEGIN IMMEDIATE")
                yield rows
                rows.execute("COMMIT")
            except BaseException:
                if rows.in_transaction:
                    rows.execute("ROLLBACK")
                raise
            finally:
                if locked is not None:
                    self._locks.unlock(locked, QUEUE)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to one thread at a time, and turn errors of SQLite into OSError.

        A damaged file is removed. The next caller makes a new one.
        """
        with self._mutex:
            try:
                yield self._current()
            except sqlite3.Error as error:
                if type(error) is sqlite3.DatabaseError:  # the file is damaged, or not a database
                    self._close()
                    _unlink(self._path)
                raise OSError(errno.EIO, f"the index of the cache cannot be used ({error})", self._path) from error

    def _current(self) -> sqlite3.Connection:
        """Return the connection, a new one if the file was removed."""
        try:
            inode = os.stat(self._path).st_ino
        except FileNotFoundError:
            inode = -1
        if self._connection is None or inode != self._inode:
            self._close()
            folder, name = os.path.split(self._path)
            make_own_folder(folder)
            for end in _ENDS:
                refuse_links(folder, name + end)
            if os.path.exists(self._path) and not os.access(self._path, os.W_OK) and os.access(folder, os.W_OK):
                _unlink(self._path)  # another user made it with a version of shoal that did not share it
            fd = create_own_file(self._path)  # SQLite would let only the owner write to it
            if fd is not None:
                os.close(fd)
            try:
                self._connection = _opened(self._path)
            except sqlite3.DatabaseError as error:
                if type(error) is not sqlite3.DatabaseError:
                    raise
                _unlink(self._path)
                self._connection = _opened(self._path)
            self._inode = os.stat(self._path).st_ino
            self._walked = False
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _opened(path: str) -> sqlite3.Connection:
    """Open a connection, and make the tables if they are missing."""
    connection = sqlite3.connect(path, timeout=_TIMEOUT, isolation_level=None, check_same_thread=False)
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("BEGIN IMMEDIATE")
            for statement in _statements():
                connection.execute(statement)
            connection.execute("COMMIT")
            return connection
        except sqlite3.OperationalError as error:
            # When several processes change the journal mode at once, SQLite fails instead of waiting.
            if "locked" not in str(error) or time.monotonic() > deadline:
                connection.close()
                raise
            time.sleep(0.01)
        except BaseException:
            connection.close()
            raise


def _unlink(path: str) -> None:
    for end in _ENDS:
        try:
            os.unlink(path + end)
        except OSError:
            pass


def _statements() -> Iterator[str]:
    statement = ""
    for line in _SCHEMA.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


_all: weakref.WeakSet[Index] = weakref.WeakSet()
#: Connections of the parent. They are never closed here, because SQLite forbids that after a fork.
_abandoned: list[sqlite3.Connection | None] = []


def _after_fork() -> None:
    for index in list(_all):
        index.reset()


@atexit.register
def _close_all() -> None:
    for index in list(_all):
        index.close()


after_fork_in_child(_after_fork, CALLERS)
