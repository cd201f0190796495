"""``shoal cache``: looks at the results that ``Memory`` has stored, and removes them.

::

    FOLDER ──> open_cache ──> a Store ──> entries, meta ──> ls, info, show, why
                                      ──> prune ──────────> prune
                                      ──> open_value ─────> verify, export; import. They unpickle nothing
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import Any

from shoal._sizes import format_duration, format_size
from shoal.cli._cache_store import export, fields_of, function_of, import_, open_cache
from shoal.cli._cache_verify import verify_all
from shoal.cli._cache_why import why
from shoal.cli._text import DONE, FAILED, complain, count, say, say_json, say_table
from shoal.errors import printable
from shoal.memory._pruning import Wanted, prune, removed_by
from shoal.memory.formats import PICKLE
from shoal.memory.storage._paths import dotted as name_of
from shoal.memory.storage._paths import is_shoals
from shoal.memory.storage._values import rebuilt_value
from shoal.memory.store import Entry, Key, Limits, Store, location_of

#: How many of the largest results `info` shows.
_LARGEST = 5
#: How many characters of a value `show --unpickle` prints.
_LONGEST_VALUE = 1_000


def main(given: Namespace) -> int:
    """Do what the action says."""
    actions: dict[str, Callable[[Namespace, Store], int]] = {
        "ls": _ls,
        "info": _info,
        "show": _show,
        "prune": _prune,
        "verify": verify_all,
        "why": why,
        "export": export,
        "import": import_,
    }
    try:
        return actions[given.action](given, open_cache(given.folder, make=given.action == "import"))
    except (ImportError, NotImplementedError, ValueError) as error:
        complain(str(error))
        return FAILED


def _by_function(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.key.function, []).append(entry)
    return dict(sorted(found.items()))


def _ls(given: Namespace, store: Store) -> int:
    now = time.time()
    rows = []
    for function, entries in _by_function(store.entries()).items():
        used = [entry.used for entry in entries]
        rows.append((name_of(function), len(entries), sum(entry.nbytes for entry in entries), max(used), min(used)))
    if given.json:
        names = ("function", "entries", "nbytes", "newest_use", "oldest_use")
        say_json([dict(zip(names, row, strict=True)) for row in rows])
        return DONE
    if not rows:
        say(f"no results in {printable(location_of(store))}")
        return DONE
    shown = [
        (name, number, format_size(nbytes), format_duration(now - newest), format_duration(now - oldest))
        for name, number, nbytes, newest, oldest in rows
    ]
    say_table(("FUNCTION", "ENTRIES", "SIZE", "LAST USED", "OLDEST USE"), shown, numbers=(1, 2, 3, 4))
    return DONE


def _info(given: Namespace, store: Store) -> int:
    entries = list(store.entries())
    largest = sorted(entries, key=lambda entry: -entry.nbytes)[:_LARGEST]
    shoals = sum(is_shoals(entry.key.call) for entry in entries)
    nbytes, functions = sum(entry.nbytes for entry in entries), len({entry.key.function for entry in entries})
    if given.json:
        say_json(
            {
                "location": location_of(store),
                "functions": functions,
                "entries": len(entries),
                "nbytes": nbytes,
                "keys": {"shoal": shoals, "joblib": len(entries) - shoals},
                "largest": [fields_of(entry) for entry in largest],
            }
        )
        return DONE
    whose = {(False, False): "none", (True, False): "shoal's", (False, True): "joblib's", (True, True): "both"}
    keys = whose[shoals > 0, shoals < len(entries)]
    if keys == "both":
        keys = f"{shoals:,} of shoal's, {len(entries) - shoals:,} of joblib's"
    say(f"location   {printable(location_of(store))}")
    say(f"functions  {functions:,}")
    say(f"entries    {len(entries):,}")
    say(f"size       {format_size(nbytes)}")
    say(f"keys       {keys}")
    if largest:
        say()
        rows = [(format_size(entry.nbytes), name_of(entry.key.function), entry.key.call) for entry in largest]
        say_table(("LARGEST", "FUNCTION", "CALL"), rows, numbers=(0,))
    return DONE


def _show(given: Namespace, store: Store) -> int:
    found = function_of(store, given)
    if found is None:
        return FAILED
    code, described = DONE, []
    for entry in sorted(store.entries_of(found), key=lambda entry: -entry.used):
        fields = {**fields_of(entry), **_metadata(store, entry.key)}
        if given.unpickle:
            try:
                fields["value"] = _value(store, entry.key)
            except Exception as error:  # code in the file may raise anything
                complain(f"{entry.key.call} cannot be rebuilt ({type(error).__name__}: {error})")
                code = FAILED
        described.append(fields)
    if given.json:
        say_json(described)
        return code
    say(f"{printable(name_of(found))}: {count(len(described), 'entry')}")
    for fields in described:
        say()
        _say_entry(fields)
    return code


def _metadata(store: Store, key: Key) -> dict[str, Any]:
    try:
        meta = store.meta(key)
    except KeyError:  # they are lost, or joblib was killed before it wrote them
        return {"duration": None, "created": None, "arguments": None, "format": None}
    times = {"duration": meta.duration, "created": meta.created}
    # The metadata may claim any number, and JSON has neither NaN nor infinity.
    finite = {name: value if math.isfinite(value) else None for name, value in times.items()}
    return {**finite, "arguments": meta.arguments, "format": meta.format}


def _value(store: Store, key: Key) -> str:
    """Rebuild a value, and return its repr. Unlike ``Store.load``, this does not remove a value that cannot be read."""
    with store.open_value(key) as file:
        return repr(rebuilt_value(file))


def _say_entry(fields: dict[str, Any]) -> None:
    arguments = fields["arguments"]
    if arguments is None:
        call = "(the metadata are lost)"
    else:
        call = "(" + ", ".join(f"{name}={text}" for name, text in arguments.items()) + ")"
    say(printable(call))
    say(f"  call    {fields['call']}")
    say(f"  size    {format_size(fields['nbytes'])}")
    if fields["format"] not in (None, PICKLE):
        say(f"  format  {printable(fields['format'])}")
    if fields["duration"] is not None:
        say(f"  took    {format_duration(fields['duration'])}")
    if fields["created"] is not None:
        say(f"  stored  {_when(fields['created'])}")
    say(f"  used    {_when(fields['used'])}")
    if "value" in fields:
        say(f"  value   {printable(fields['value'][:_LONGEST_VALUE])}")


def _when(seconds: float) -> str:
    """Return a time as a date, and as how long ago it was."""
    try:
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):  # the metadata may claim any number
        return str(seconds)
    return f"{date} ({format_duration(time.time() - seconds)} ago)"


def _prune(given: Namespace, store: Store) -> int:
    limits = Limits.checked(given.bytes_limit, given.items_limit, given.age_limit)
    function = function_of(store, given) if given.function else None
    if given.function and function is None:
        return FAILED
    wanted = Wanted(limits, given.older_than.total_seconds() if given.older_than else None, function)
    entries = list(store.entries())
    gone = removed_by(store, wanted, entries)
    if not given.dry_run:
        gone = prune(store, gone)
    nbytes = sum(entry.nbytes for entry in gone)
    remaining = len(entries) - len(gone), sum(entry.nbytes for entry in entries) - nbytes
    if given.json:
        say_json(
            {
                "dry_run": given.dry_run,
                "removed": [fields_of(entry) for entry in gone],
                "removed_nbytes": nbytes,
                "entries": remaining[0],
                "nbytes": remaining[1],
            }
        )
        return DONE
    if given.dry_run and gone:
        now = time.time()
        rows = [
            (format_duration(now - entry.used), format_size(entry.nbytes), name_of(entry.key.function), entry.key.call)
            for entry in gone
        ]
        say_table(("LAST USED", "SIZE", "FUNCTION", "CALL"), rows, numbers=(0, 1))
        say()
    did = "would remove" if given.dry_run else "removed"
    say(f"{did} {count(len(gone), 'entry')}, {format_size(nbytes)}")
    say(f"left: {count(remaining[0], 'entry')}, {format_size(remaining[1])}")
    return DONE
