"""What is in a store, how much it takes and when it was last used: so that a write under a limit needs no walk.

A SQLite file, which any number of processes may use and which survives their deaths. It need not survive a crash of the
system, since a walk through the store makes it anew: nothing is ever synced.

A row comes before its entry, and goes after it: what is on the disk is never more than what the rows say. The entry
that has no row is one that joblib has written; it gets one in the next walk, or when it is used.
"""

from __future__ import annotations

import atexit
import errno
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from shoal.memory._eviction import excess
from shoal.memory._locks import QUEUE, LockFile
from shoal.memory._places import create_own_file, make_own_folder, refuse_links
from shoal.memory.store import Entry, Key, Limits

#: Uses are written down when there are so many, or after so many seconds.
_MANY, _LONG = 1000, 10.0
#: What goes in one transaction: others may want to write.
_STEP = 64
#: A walk finds what others have written, who know nothing of the index; after so many seconds there is another.
_WALK_AGAIN = 24 * 3600.0
#: A row without an entry may be that of one which is just being written.
_GRACE = 600.0
_TIMEOUT = 60.0
#: The files of an index, by what their names end with.
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
_OLDEST = "SELECT function, call, nbytes, used FROM entries ORDER BY used LIMIT ?"


class Index:
    """The index of a store.

    Parameters
    ----------
    path
        The file.
    locks
        Those of the store.
    walk
        Yields what is in the store.
    measure
        Returns one entry of it, by its key; None if it is not there.
    remove
        Removes the entry of a key from the store.
    """

    def __init__(
        self,
        path: str,
        locks: LockFile,
        walk: Callable[[], Iterable[Entry]],
        measure: Callable[[Key], Entry | None],
        remove: Callable[[Key], None],
    ) -> None:
        self._path, self._locks = path, locks
        self._walk, self._measure, self._remove = walk, measure, remove
        self._forget()
        _all.add(self)

    def _forget(self) -> None:
        self._mutex = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._walked = False
        self._uses: dict[Key, float] = {}
        self._due = time.time() + _LONG

    def forget(self) -> None:
        """Be that of another process: a fork's child, which must neither use nor close its parent's connection."""
        _abandoned.append(self._connection)
        self._forget()

    def close(self) -> None:
        """Write down what was noted, and close the file, which is opened again when it is needed."""
        self.flush()
        with self._mutex:
            self._close()

    def __del__(self) -> None:
        self._close()  # without what was noted: this may be the middle of anything

    # What the store tells

    def used(self, key: Key) -> None:
        """Take note that an entry was used now."""
        uses, now = self._uses, time.time()
        uses[key] = now
        if now > self._due or len(uses) >= _MANY:
            self.flush()

    def flush(self) -> None:
        """Write down the uses that were noted. It never fails: they only say what goes first."""
        self._due = time.time() + _LONG
        if not os.path.exists(self._path):  # somebody has removed the store: it is not made again for this
            self._uses = {}
        if self._uses:
            try:
                with self._transaction() as rows:
                    self._write_uses(rows)
            except OSError:
                pass

    def admit(self, entry: Entry, limits: Limits) -> bool:
        """Make room for an entry that is going to be published, and count it.

        What goes is removed before others may make room: so the store is never larger than it may be.

        Returns
        -------
        Whether there is room for it: not if it is larger than the limit.
        """
        if (limits.nbytes is not None and entry.nbytes > limits.nbytes) or limits.items == 0:
            return False
        self._know(again=False)
        more = True
        while more:
            with self._transaction() as rows:
                self._write_uses(rows)
                rows.execute(_ADD, (*entry.key, entry.nbytes, entry.used))
                more = self._shrink(rows, limits)
        return True

    def confirm(self, key: Key) -> None:
        """Remove an entry that was published, if it is not counted any more.

        Others have made room between its admission and its publication, and it was the one to go.
        """
        with self._transaction() as rows:
            found = rows.execute("SELECT 1 FROM entries WHERE function = ? AND call = ?", key)
            if found.fetchone() is None:
                self._remove(key)

    def reduce(self, limits: Limits) -> None:
        """Remove what goes beyond limits."""
        self._know(again=True)
        more = True
        while more:
            with self._transaction() as rows:
                self._write_uses(rows)
                more = self._shrink(rows, limits)

    def discard(self, key: Key) -> None:
        """Remove an entry."""
        with self._transaction() as rows:
            self._remove(key)
            rows.execute("DELETE FROM entries WHERE function = ? AND call = ?", key)

    def gone(self, key: Key) -> None:
        """Take note that an entry is gone, if it is."""
        with self._transaction() as rows:
            if self._measure(key) is None:
                rows.execute("DELETE FROM entries WHERE function = ? AND call = ?", key)

    def clear(self, function: str | None, remove: Callable[[], None]) -> None:
        """Have all entries removed, or those of a function and below it."""
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

    def uses(self) -> dict[Key, float]:
        """Return when each entry was last used, in seconds since the epoch."""
        self.flush()
        with self._connected() as rows:
            found = rows.execute("SELECT function, call, used FROM entries").fetchall()
        return {Key(function, call): used for function, call, used in found}

    # How it is kept

    def _shrink(self, rows: sqlite3.Connection, limits: Limits) -> bool:
        """Remove some of what goes beyond limits; return whether there may be more."""
        nbytes, items = rows.execute("SELECT nbytes, items FROM totals").fetchone()
        found = rows.execute(_OLDEST, (_STEP,)).fetchall()
        oldest = (Entry(Key(function, call), size, used) for function, call, size, used in found)
        gone = list(excess(oldest, nbytes, items, limits, time.time()))
        for entry in gone:
            self._remove(entry.key)
            rows.execute("DELETE FROM entries WHERE function = ? AND call = ?", entry.key)
        return len(gone) == _STEP

    def _write_uses(self, rows: sqlite3.Connection) -> None:
        uses, self._uses = self._uses, {}
        for key, used in list(uses.items()):
            change = "UPDATE entries SET used = max(used, ?) WHERE function = ? AND call = ?"
            if not rows.execute(change, (used, *key)).rowcount:
                entry = self._measure(key)
                if entry is not None:
                    rows.execute(_ADD, (*key, entry.nbytes, used))

    def _know(self, again: bool) -> None:
        """Walk through the store, unless that was done lately."""
        if self._walked and not again:
            return
        with self._connected() as rows:
            (walked,) = rows.execute("SELECT walked FROM totals").fetchone()
        begin = time.time()
        if again or not begin - _WALK_AGAIN < walked <= begin:
            found = {entry.key: entry for entry in self._walk()}
            with self._transaction() as rows:
                known = rows.execute("SELECT function, call FROM entries WHERE used < ?", (begin - _GRACE,)).fetchall()
                gone = [key for key in known if key not in found]
                rows.executemany("DELETE FROM entries WHERE function = ? AND call = ?", gone)
                rows.executemany(
                    "INSERT OR IGNORE INTO entries VALUES (?, ?, ?, ?)",
                    [(*entry.key, entry.nbytes, entry.used) for entry in found.values()],
                )
                rows.execute("UPDATE totals SET walked = ?", (begin,))
        self._walked = True

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connected() as rows:
            # SQLite would do by itself, but it sleeps ever longer while another writes, and wakes late.
            turn = self._locks.turn()
            try:
                rows.execute("BEGIN IMMEDIATE")
                yield rows
                rows.execute("COMMIT")
            except BaseException:
                if rows.in_transaction:
                    rows.execute("ROLLBACK")
                raise
            finally:
                if turn is not None:
                    self._locks.give_back(turn, QUEUE)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Give the connection, to one thread at a time; what goes wrong is an OSError.

        A file that is damaged is removed: the next one to come makes a new one.
        """
        with self._mutex:
            try:
                yield self._current()
            except sqlite3.Error as error:
                if type(error) is sqlite3.DatabaseError:  # it is none, or is damaged
                    self._close()
                    _unlink(self._path)
                raise OSError(errno.EIO, f"the index of the cache cannot be used ({error})", self._path) from error

    def _current(self) -> sqlite3.Connection:
        """Return the connection; a new one, if somebody has removed the file."""
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
                _unlink(self._path)  # another user's, made by a version that did not share it
            fd = create_own_file(self._path)  # SQLite would give write permission to its owner alone
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
            # Several may change the journal's mode at a time, which does not wait as other statements do.
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
_abandoned: list[sqlite3.Connection | None] = []


def _forget_all() -> None:
    for index in list(_all):
        index.forget()


@atexit.register
def _close_all() -> None:
    for index in list(_all):
        index.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
