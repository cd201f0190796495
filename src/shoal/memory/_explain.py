"""``f.explain(...)``: whether the result of a call is stored, and why not.

::

    the call ──> key ─┬─ stored ────> checked ──> hit; damaged; expired; invalid
                      └─ not stored ─┬─ the stored source is another one ─────────> source
                                     ├─ stored under a key of the other algorithm > hash
                                     └─ the nearest result ──> differences ───────> arguments, version, depends

Nothing is computed, saved or removed.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shoal._sizes import format_duration
from shoal.errors import CorruptFile, HashingError
from shoal.memory._changes import Sources
from shoal.memory._differences import Difference, Known, differences
from shoal.memory._parts import describe
from shoal.memory._results import metadata_of
from shoal.memory.key._identity import HASH_NAMES, Identity, Uncacheable
from shoal.memory.key._source import name_of, parse_stored
from shoal.memory.storage._paths import is_shoals
from shoal.memory.storage._values import verify_value
from shoal.memory.store import Key, Meta, Store

#: How many results of a function are compared with a call: those that were used last.
_MOST_COMPARED = 1_000
#: How many differences and lines of a diff the text of an explanation shows.
_MOST_SHOWN, _MOST_LINES = 10, 60
#: What a summary says if something besides the arguments differs, by cause.
_OTHERS = {
    "version": "the version is not that",
    "source": "the source is not that",
    "depends": "the source of a dependency is not that",
    "parameters": "the names of the parameters are not those",
}


@dataclass(frozen=True)
class Explanation:
    """Why the result of a call is stored, or is not. ``str()`` says it in words.

    Attributes
    ----------
    hit : bool
        Whether a call would load the result.
    cause : str
        One of "found"; "no entry" (no result of the function is stored), "arguments", "source", "version", "depends",
        "parameters", "hash" (it is stored under a key of another `hash_name`), "expired", "invalid" (a
        ``cache_validation_callback`` has refused it), "damaged", "uncacheable", "no store".
    summary : str
        One sentence.
    differences : list of Difference
        In what the call differs from the nearest stored call, each with `path`, `before` and `now`.
    diff : str
        The unified diff of the stored source and the present one, if these differ.
    args_id : str or None
        The digest of the arguments, which is the name of the folder of the result.
    nearest : str or None
        The digest of the nearest stored call.
    """

    hit: bool
    cause: str
    summary: str
    differences: tuple[Difference, ...] = ()
    diff: str = ""
    args_id: str | None = None
    nearest: str | None = None

    def __str__(self) -> str:
        lines = [f"{'hit' if self.hit else 'miss'}: {self.summary}"]
        lines += [f"  {difference}" for difference in self.differences[:_MOST_SHOWN]]
        if len(self.differences) > _MOST_SHOWN:
            lines.append(f"  and {len(self.differences) - _MOST_SHOWN:,} more")
        diff = self.diff.splitlines()
        lines += [f"  {line}" for line in diff[:_MOST_LINES]]
        if len(diff) > _MOST_LINES:
            lines.append(f"  and {len(diff) - _MOST_LINES:,} more lines")
        return "\n".join(lines)

    __repr__ = __str__


class Explainer:
    """Explains the calls of one cached function. Thread-safe."""

    def __init__(
        self,
        identity: Identity,
        store: Store,
        sources: Sources,
        is_valid: Callable[[dict[str, Any]], Any] | None,
        keep_arguments: bool,
    ) -> None:
        self._identity, self._store, self._sources = identity, store, sources
        self._is_valid, self._keep_arguments = is_valid, keep_arguments

    def explain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Explanation:
        """Explain a call.

        Raises
        ------
        ArgumentError, HashingError
            As the call itself would.
        """
        try:
            key = self._identity.key(args, kwargs)
        except Uncacheable as reason:
            return Explanation(False, "uncacheable", f"results are not cached: {reason}")
        replaced = self._sources.would_remove(self._identity)
        if replaced is not None:
            return self._of_source(key, replaced, "has changed. The next call removes the results of the old one")
        found = self._found(key, args, kwargs)
        if found is not None:
            return self._of_stored(found)
        note = self._sources.removed.get(key)
        if note is not None:
            return Explanation(False, *note, args_id=key.call)
        return self._of_other_hash(key, args, kwargs) or self._of_nearest(key, args, kwargs)

    def _found(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key | None:
        """Return the key under which a call finds its result, or None. The source is known to be the stored one."""
        identity = self._identity
        if self._contains(key):
            return key
        if not (identity.snapshot.may_use_joblib_key and self._store.foreign(identity.path)):
            return None
        joblibs = identity.joblib_key(args, kwargs)
        return joblibs if self._contains(joblibs) and self._sources.is_current(identity) else None

    def _contains(self, key: Key) -> bool:
        try:
            return self._store.contains(key)
        except OSError:
            return False

    def _of_stored(self, key: Key) -> Explanation:
        """Explain a call whose result is stored: whether it is valid, and whether it can be read."""
        try:
            meta: Meta | None = self._store.meta(key)
        except KeyError:
            meta = None
        if self._is_valid is not None and not self._is_valid({} if meta is None else metadata_of(meta)):
            created = None if meta is None else meta.created
            return Explanation(False, *refusal(self._is_valid, created), args_id=key.call)
        try:
            with self._store.open_value(key) as file:
                verify_value(file, str(getattr(file, "name", key.call)))
        except CorruptFile as error:
            return Explanation(False, "damaged", f"the stored result is damaged: {error}", args_id=key.call)
        except (OSError, KeyError, NotImplementedError, ValueError, RecursionError):  # it cannot be checked
            pass
        saved = "" if meta is None else f", saved {_ago(meta.created)}{_took(meta)}"
        whose = "" if is_shoals(key.call) == (self._identity.hash_name != "md5") else " by joblib"
        return Explanation(True, "found", f"the result is stored{whose}{saved}", args_id=key.call)

    def _of_source(self, key: Key, stored: str, happened: str) -> Explanation:
        import difflib  # takes a millisecond

        identity = self._identity
        before, now = parse_stored(stored)[0], identity.source.text
        lines = difflib.unified_diff(
            before.rstrip().splitlines(), now.rstrip().splitlines(), "stored", "now", lineterm="", n=2
        )
        text = f"the source of {name_of(identity.function)} {happened}"
        return Explanation(False, "source", text, diff="\n".join(lines), args_id=key.call)

    def _of_other_hash(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Explanation | None:
        """Explain a call whose result is stored under a key of the other algorithm, which this cache does not use."""
        identity = self._identity
        given = identity.func, identity.ignore, HASH_NAMES[0], identity.coerces, identity.version, identity.depends
        try:
            if identity.hash_name == "md5":
                other = Identity(*given).key(args, kwargs)
            elif self._store.foreign(key.function):
                other = identity.joblib_key(args, kwargs)
            else:
                return None
        except HashingError:
            return None
        if not self._contains(other):
            return None
        names = [name for name in HASH_NAMES if name != identity.hash_name]
        why = (
            f"only a Memory with hash_name={names[0]!r} finds it"
            if identity.hash_name == "md5"
            else "it does not say from which source or closure the result comes"
        )
        summary = f"a result of these arguments is stored under a key of {names[0]}: {why}"
        return Explanation(False, "hash", summary, args_id=key.call, nearest=other.call)

    def _of_nearest(self, key: Key, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Explanation:
        """Explain a call by the stored call that differs least from it."""
        name = name_of(self._identity.function)
        newest = heapq.nlargest(_MOST_COMPARED, self._store.entries_of(key.function), key=lambda entry: entry.used)
        if not newest:
            replaced = self._sources.replaced.get(key.function)
            if replaced is not None:
                return self._of_source(key, replaced, "has changed, so the results of the old one were removed")
            return Explanation(False, "no entry", f"no result of {name} is stored", args_id=key.call)
        now = Known.of(Meta(0.0, 0.0, *describe(self._identity, args, kwargs, self._keep_arguments)))
        best: tuple[tuple[int, int], Known, Meta, Key] | None = None
        for entry in newest:
            try:
                meta = self._store.meta(entry.key)
            except (KeyError, OSError):
                continue
            known = Known.of(meta)
            found = differences(known, now)
            distance = len(found.arguments), len(found.function)
            if best is None or distance < best[0]:
                best = distance, known, meta, entry.key
        if best is None:
            return Explanation(False, "arguments", f"other results of {name} are stored, without metadata")
        _, known, meta, nearest = best
        return self._compared(key, nearest, known, now, meta)

    def _compared(self, key: Key, nearest: Key, before: Known, now: Known, meta: Meta) -> Explanation:
        found = differences(before, now)
        when = f"the nearest stored result, saved {_ago(meta.created)}"
        if found.function:
            cause = found.function[0].path.split(" ")[0]
            summary = f"{_OTHERS[cause]} of {when}"
        elif found.arguments:
            cause, what = "arguments", "argument differs" if len(found.arguments) == 1 else "arguments differ"
            summary = f"{'an ' if what.endswith('s') else ''}{what} from {when}"
        else:
            cause, summary = "arguments", f"the arguments differ from {when}, {self._unseen(now)}"
        return Explanation(
            False,
            cause,
            summary,
            (*found.function, *found.arguments),
            args_id=key.call,
            nearest=nearest.call,
        )

    def _unseen(self, now: Known) -> str:
        """Say why a difference that must be there is not seen."""
        if not self._keep_arguments:
            return "but keep_arguments=False kept nothing of them"
        vague = now.vague
        if not vague:
            return "in a part that its metadata do not describe"
        more = f" or {len(vague) - 3} others" if len(vague) > 3 else ""
        return f"in a part that its metadata do not describe completely: {', '.join(vague[:3])}{more}"


def refusal(is_valid: Callable[[dict[str, Any]], Any], created: float | None) -> tuple[str, str]:
    """Return the cause and a sentence for a result that a ``cache_validation_callback`` refuses."""
    age = "" if created is None else f", saved {_ago(created)},"
    limit = getattr(is_valid, "limit", None)
    if limit is not None:
        return "expired", f"the stored result{age} has expired: results are valid for {format_duration(limit)}"
    return "invalid", f"cache_validation_callback refuses the stored result{age.rstrip(',')}"


def _ago(created: float) -> str:
    return f"{format_duration(time.time() - created)} ago"


def _took(meta: Meta) -> str:
    return f" after {format_duration(meta.duration)} of computing" if meta.duration else ""
