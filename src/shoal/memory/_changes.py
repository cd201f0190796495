"""Compares the source of a function with the one in the store.

::

    the stored source is ─┬─ missing        it is stored now
                          ├─ the same       the stored results may be used, and joblib's too if joblib saved some
                          └─ another one    either the function was edited: the stored results must be removed
                                            or another function has the same name: both keep their results. Under md5
                                            keys do not contain the source, so one removes the other's, with a warning
"""

from __future__ import annotations

import weakref
from typing import ClassVar

from shoal._tracebacks import warn
from shoal.errors import CacheWarning, CollisionWarning
from shoal.memory.key._identity import Identity
from shoal.memory.key._source import is_elsewhere, name_of, parse_stored
from shoal.memory.store import Key, Store

#: The largest number of removed results whose causes are known.
_MOST_NOTES = 1_000


class Sources:
    """The comparisons that this process has made for one store. Thread-safe.

    Attributes
    ----------
    checked
        The tags of the functions whose sources were compared, by path. Only their results can be in the store now.
    saved_by_joblib
        Whether joblib saved results of a function, by tag. A missing tag means no, and None means that the store was
        not asked yet.
    replaced
        The stored sources whose results were removed, by path, for explanations.
    removed
        The causes why results were removed, and a sentence, by key, for explanations. Their number is bounded.
    """

    _of_store: ClassVar[weakref.WeakKeyDictionary[Store, Sources]] = weakref.WeakKeyDictionary()

    def __init__(self, store: Store) -> None:
        self._store = weakref.ref(store)
        self.checked: dict[str, set[str]] = {}
        self.saved_by_joblib: dict[str, bool | None] = {}
        self.replaced: dict[str, str] = {}
        self.removed: dict[Key, tuple[str, str]] = {}
        self._warned: set[object] = set()

    @classmethod
    def of(cls, store: Store) -> Sources:
        """Return the object for a store."""
        known = cls._of_store.get(store)
        return cls._of_store.setdefault(store, cls(store)) if known is None else known

    def reset(self) -> None:
        """Forget all comparisons, so that every source is compared again."""
        self.checked.clear()
        self.saved_by_joblib.clear()

    def warn_once(self, cause: object, message: str) -> None:
        """Warn of something about the store, once for each cause."""
        if cause not in self._warned:
            self._warned.add(cause)
            warn(message, CacheWarning)

    def note_removed(self, key: Key, cause: str, sentence: str) -> None:
        """Note why a result was removed."""
        while len(self.removed) >= _MOST_NOTES:
            self.removed.pop(next(iter(self.removed)), None)
        self.removed[key] = cause, sentence

    def save(self, identity: Identity) -> None:
        """Store the source of a function."""
        if identity.version is None:
            try:
                self._get_store().keep_source(identity.path, identity.source.as_stored)
            except OSError:  # saving a result will report the same error
                pass

    def is_current(self, identity: Identity) -> bool:
        """Return whether the stored source is that of a function."""
        stored = self._load(identity.path)
        return stored is not None and identity.source.is_text_of(stored)

    def would_remove(self, identity: Identity) -> str | None:
        """Return the stored source whose results the next call would remove, because it is another one; or None."""
        if identity.version is not None or identity.snapshot.tag in self.checked.get(identity.path, ()):
            return None
        stored = self._load(identity.path)
        if stored is None or identity.source.is_text_of(stored):
            return None
        return stored if identity.hash_name == "md5" or _is_edited(identity, stored) else None

    def joblib_may_have_saved(self, identity: Identity) -> bool:
        """Return whether joblib may have saved results of a function. The store is asked once."""
        tag = identity.snapshot.tag
        known = self.saved_by_joblib.get(tag, False)
        if known is None:
            known = self.saved_by_joblib[tag] = self._get_store().foreign(identity.path)
        return known

    def has_changed(self, identity: Identity) -> bool:
        """Compare the source of a function with the stored one, and store it if there is none.

        Returns
        -------
        bool
            Whether the stored results must be removed, because they are those of another source.

        Raises
        ------
        OSError
            Under md5, if the stored source cannot be read.

        Warns
        -----
        CollisionWarning
            Under md5, if two functions share a name, or if that cannot be determined.
        """
        tag = identity.snapshot.tag
        if identity.hash_name != "md5":  # md5 keys do not contain the source, so under md5 each call compares it
            self.checked.setdefault(identity.path, set()).add(tag)
        if identity.version is not None:
            return False
        if identity.hash_name == "md5":
            stored = self._get_store().source(identity.path)
        else:
            stored = self._load(identity.path)
        if stored is None:
            self.save(identity)
        elif identity.source.is_text_of(stored):
            self.saved_by_joblib[tag] = None
        else:
            return self._must_remove(identity, stored)
        return False

    def _must_remove(self, identity: Identity, stored: str) -> bool:
        if identity.hash_name != "md5":
            if not _is_edited(identity, stored):
                return False
            self.checked[identity.path] = {identity.snapshot.tag}
        else:
            _warn_of_collision(identity, stored)
        self.replaced[identity.path] = stored
        return True

    def _get_store(self) -> Store:
        store = self._store()
        assert store is not None  # the caller is a cached function, which refers to it
        return store

    def _load(self, path: str) -> str | None:
        try:
            return self._get_store().source(path)
        except OSError:
            return None


def _is_edited(identity: Identity, stored: str) -> bool:
    """Return whether a function was edited since a source was stored; not if another function has the same name."""
    source, line = identity.source, parse_stored(stored)[1]
    if name_of(identity.function) == "<lambda>" or -1 in (line, source.line):
        return False
    return not is_elsewhere(stored, source)


def _warn_of_collision(identity: Identity, stored: str) -> None:
    """Warn, under md5, that two functions share a name, or that this cannot be determined."""
    source, line = identity.source, parse_stored(stored)[1]
    name = name_of(identity.function)
    elsewhere = is_elsewhere(stored, source)
    if name == "<lambda>" or -1 == line == source.line:
        described = name if source.line == -1 else f"{name} ({source.file}:{source.line})"
        warn(f"Cannot detect name collisions for function '{described}'", CollisionWarning)
    if elsewhere:
        warn(
            f"Possible name collisions between functions '{name}' ({source.file}:{line}) "
            f"and '{name}' ({source.file}:{source.line})",
            CollisionWarning,
        )
