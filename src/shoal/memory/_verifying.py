"""The results in a store, compared with their checksums. Nothing of them is unpickled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from shoal._sizes import format_size
from shoal.errors import CorruptFile, FileLimitError, UntrustedFile
from shoal.memory.storage._paths import dotted
from shoal.memory.storage._values import verify_value
from shoal.memory.store import Entry, Store
from shoal.persistence._inspect import inspect

#: What can be said of an entry. joblib writes no checksums: then only the structure of its file can be checked.
SOUND, UNCHECKED, DAMAGED, UNREADABLE = "sound", "without checksums", "damaged", "unreadable"


class Checked(NamedTuple):
    """What was found out about an entry, and the reason if something is wrong.

    Attributes
    ----------
    entry : Entry
        The entry: its ``key``, ``nbytes`` and ``used``.
    state : str
        "sound", "without checksums", "damaged" or "unreadable".
    reason : str
        What is wrong.
    """

    entry: Entry
    state: str
    reason: str = ""


@dataclass
class Verification:
    """What :meth:`Memory.verify` has found. ``str()`` says it in words.

    Attributes
    ----------
    entries, nbytes : int
        The number of results that were read, and their size in bytes.
    states : dict
        The number of results by state: "sound", "without checksums", "damaged", "unreadable".
    bad : list of Checked
        The results that are damaged or cannot be read, each with ``entry``, ``state`` and ``reason``.
    """

    entries: int = 0
    nbytes: int = 0
    states: dict[str, int] = field(default_factory=lambda: dict.fromkeys((SOUND, UNCHECKED, DAMAGED, UNREADABLE), 0))
    bad: list[Checked] = field(default_factory=list)

    def add(self, checked: Checked) -> None:
        """Count a result."""
        self.entries += 1
        self.nbytes += checked.entry.nbytes
        self.states[checked.state] += 1
        if checked.state in (DAMAGED, UNREADABLE):
            self.bad.append(checked)

    def __str__(self) -> str:
        states = ", ".join(f"{number:,} {state}" for state, number in self.states.items() if number)
        number = f"{self.entries:,} {'entry' if self.entries == 1 else 'entries'}"
        lines = [f"{number}, {format_size(self.nbytes)}{': ' if states else ''}{states}"]
        return "\n".join([*(checked.reason for checked in self.bad), *lines])


def checked_entries(store: Store) -> Iterator[Checked]:
    """Check each entry. Those that are removed meanwhile are left out."""
    for entry in store.entries():
        found = check(store, entry)
        if found is not None:
            yield found


def check(store: Store, entry: Entry) -> Checked | None:
    """Check an entry; return None if it was removed meanwhile."""
    name = f"{dotted(entry.key.function)} {entry.key.call}"
    try:
        with store.open_value(entry.key) as file:
            if verify_value(file, str(getattr(file, "name", name))):
                return Checked(entry, SOUND)
            file.seek(0)
            inspect(file)
    except KeyError:
        return None
    except CorruptFile as error:
        return Checked(entry, DAMAGED, str(error))
    except OSError as error:
        return Checked(entry, UNREADABLE, f"{name} cannot be read: {error}")
    except (FileLimitError, RecursionError, UntrustedFile, ValueError):  # which says nothing about damage
        pass
    return Checked(entry, UNCHECKED)
