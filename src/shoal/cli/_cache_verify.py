"""``shoal cache verify``: each entry is compared with its checksums, and nothing of it is unpickled."""

from __future__ import annotations

from argparse import Namespace
from typing import Any, NamedTuple

from shoal._sizes import format_size
from shoal.cli._cache_store import fields_of, name_of
from shoal.cli._text import DONE, FAILED, count, say, say_json
from shoal.errors import CorruptFile, FileLimitError, UntrustedFile, printable
from shoal.memory.store import Entry, Store
from shoal.persistence._inspect import inspect
from shoal.persistence._verify import verify

#: What can be said of an entry. joblib writes no checksums: then only the structure of its file can be checked.
SOUND, UNCHECKED, DAMAGED, UNREADABLE = "sound", "without checksums", "damaged", "unreadable"


class _Found(NamedTuple):
    """What was found out about an entry, and the reason if something is wrong."""

    state: str
    reason: str = ""


def verify_all(given: Namespace, store: Store) -> int:
    """Check each entry; name those that are damaged or cannot be read."""
    numbers = dict.fromkeys((SOUND, UNCHECKED, DAMAGED, UNREADABLE), 0)
    bad: list[dict[str, Any]] = []
    nbytes = 0
    for entry in store.entries():
        found = _check(store, entry)
        if found is None:
            continue
        numbers[found.state] += 1
        nbytes += entry.nbytes
        if found.state in (DAMAGED, UNREADABLE):
            bad.append({**fields_of(entry), "state": found.state, "reason": found.reason})
            if not given.json:
                say(printable(found.reason))
    if given.json:
        say_json({"entries": sum(numbers.values()), "nbytes": nbytes, "states": numbers, "bad": bad})
    else:
        states = ", ".join(f"{number:,} {state}" for state, number in numbers.items() if number)
        say(f"{count(sum(numbers.values()), 'entry')}, {format_size(nbytes)}{': ' if states else ''}{states}")
        if numbers[DAMAGED]:
            say("The next call that wants a damaged result removes it, and computes it again.")
    return FAILED if bad else DONE


def _check(store: Store, entry: Entry) -> _Found | None:
    """Check an entry; return None if it was removed meanwhile."""
    name = f"{name_of(entry.key.function)} {entry.key.call}"
    try:
        with store.open_value(entry.key) as file:
            if verify(file, str(getattr(file, "name", name))):
                return _Found(SOUND)
            file.seek(0)
            inspect(file)
    except KeyError:
        return None
    except CorruptFile as error:
        return _Found(DAMAGED, str(error))
    except OSError as error:
        return _Found(UNREADABLE, f"{name} cannot be read: {error}")
    except (FileLimitError, RecursionError, UntrustedFile, ValueError):  # which says nothing about damage
        pass
    return _Found(UNCHECKED)
