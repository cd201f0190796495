"""``shoal cache verify``: each entry is compared with its checksums, and nothing of it is unpickled."""

from __future__ import annotations

from argparse import Namespace

from shoal._sizes import format_size
from shoal.cli._cache_store import fields_of
from shoal.cli._text import DONE, FAILED, count, say, say_json
from shoal.errors import printable
from shoal.memory._verifying import DAMAGED, Verification, checked_entries
from shoal.memory.store import Store


def verify_all(given: Namespace, store: Store) -> int:
    """Check each entry; name those that are damaged or cannot be read."""
    found = Verification()
    for checked in checked_entries(store):
        found.add(checked)
        if checked.reason and not given.json:
            say(printable(checked.reason))
    if given.json:
        bad = [{**fields_of(each.entry), "state": each.state, "reason": each.reason} for each in found.bad]
        say_json({"entries": found.entries, "nbytes": found.nbytes, "states": found.states, "bad": bad})
    else:
        states = ", ".join(f"{number:,} {state}" for state, number in found.states.items() if number)
        say(f"{count(found.entries, 'entry')}, {format_size(found.nbytes)}{': ' if states else ''}{states}")
        if found.states[DAMAGED]:
            say("The next call that wants a damaged result removes it, and computes it again.")
    return FAILED if found.bad else DONE
