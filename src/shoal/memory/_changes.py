"""Whether a function is still the one whose results a store has.

::

    the source that the store has ─┬─ none      ours is kept there
                                   ├─ ours      all is well; and if joblib was here, its results are ours
                                   └─ another   the function has changed: its results are removed
                                                another function goes by the same name: both stay, unless the key says
                                                nothing of the source (md5): then they take turns, with a warning
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, ClassVar

from shoal._tracebacks import warn
from shoal.errors import CollisionWarning
from shoal.memory._source import Source, is_elsewhere, names_of, source_kept

if TYPE_CHECKING:
    from shoal.memory._cached import MemorizedFunc
    from shoal.memory._identity import Identity
    from shoal.memory.store import Store


class Sources:
    """What this process knows of the sources in a store.

    Attributes
    ----------
    checked
        By path, the tags of functions whose sources were compared, and whose results may be there now.
    said
        What was warned of.
    """

    _of_store: ClassVar[weakref.WeakKeyDictionary[Store, Sources]] = weakref.WeakKeyDictionary()

    def __init__(self, store: Store) -> None:
        self._store = weakref.ref(store)
        self.checked: dict[str, set[str]] = {}
        #: Whether joblib has kept results of functions whose source was there; None until somebody asks.
        self._beside_joblib: dict[str, bool | None] = {}
        self.said: set[Any] = set()

    @classmethod
    def of(cls, store: Store) -> Sources:
        """Return what is known of a store."""
        known = cls._of_store.get(store)
        return cls._of_store.setdefault(store, cls(store)) if known is None else known

    def forget(self) -> None:
        """Compare all of them again."""
        self.checked.clear()
        self._beside_joblib.clear()

    def keep(self, identity: Identity) -> None:
        """Put the source of a function into the store, if that takes it."""
        if identity.version is None:
            try:
                self._stored().keep_source(identity.path, identity.source.kept)
            except OSError:  # saving a result will tell
                pass

    def is_current(self, identity: Identity) -> bool:
        """Tell whether the source in the store is that of a function."""
        kept = self._kept(identity.path)
        return kept is not None and source_kept(kept)[0].rstrip() == identity.source.text.rstrip()

    def beside_joblib(self, identity: Identity) -> bool:
        """Tell whether joblib may have kept results of a function; looked at once."""
        known = self._beside_joblib.get(identity.tag, False)
        if known is None:
            known = self._beside_joblib[identity.tag] = self._stored().foreign(identity.path)
        return known

    def check(self, function: MemorizedFunc) -> None:
        """Compare the source of a function with the one in the store: once, or each time if its keys are joblib's."""
        identity = function._identity
        if identity.hash_name != "md5":
            self.checked.setdefault(identity.path, set()).add(identity.tag)
        if identity.version is not None:
            return
        kept = self._kept(identity.path)
        if kept is None:
            self.keep(identity)
        elif source_kept(kept)[0].rstrip() != identity.source.text.rstrip():
            self._differs(function, kept, identity.source)
        else:
            self._beside_joblib[identity.tag] = None

    def _stored(self) -> Store:
        store = self._store()
        assert store is not None  # who asks has it
        return store

    def _kept(self, path: str) -> str | None:
        try:
            return self._stored().source(path)
        except OSError:
            return None

    def _differs(self, function: MemorizedFunc, kept: str, source: Source) -> None:
        identity = function._identity
        line = source_kept(kept)[1]
        name = names_of(identity.function)[1]
        unknown = name == "<lambda>" or -1 == line == source.line
        if identity.hash_name != "md5":
            if unknown or -1 in (line, source.line) or is_elsewhere(kept, source):
                return
            self.checked[identity.path] = {identity.tag}
        else:
            elsewhere = is_elsewhere(kept, source)
            if unknown:
                described = name if source.line == -1 else f"{name} ({source.file}:{source.line})"
                warn(f"Cannot detect name collisions for function '{described}'", CollisionWarning)
            if elsewhere:
                warn(
                    f"Possible name collisions between functions '{name}' ({source.file}:{line}) "
                    f"and '{name}' ({source.file}:{source.line})",
                    CollisionWarning,
                )
        if function._verbose > 10:
            function.warn(f"Function {name} (identified by {identity.path}) has changed.")
        try:
            function.clear(warn=True)
        except OSError:
            if identity.hash_name == "md5":  # whose keys would find them again
                raise
