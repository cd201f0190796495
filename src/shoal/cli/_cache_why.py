"""``shoal cache why``: why each result of a function was computed, although others were stored."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

from shoal._sizes import format_duration
from shoal.cli._cache_store import function_of
from shoal.cli._text import DONE, FAILED, complain, count, say, say_json
from shoal.errors import printable
from shoal.memory._differences import Difference, Known, differences
from shoal.memory.storage._paths import dotted
from shoal.memory.store import Key, Meta, Store

#: How many results are shown, the newest ones, and with how many earlier ones each is compared.
_MOST_SHOWN, _MOST_COMPARED = 20, 200


def why(given: Namespace, store: Store) -> int:
    """Show in what each result of a function differs from the nearest one that was stored earlier."""
    function = function_of(store, given)
    if function is None:
        return FAILED
    known: list[tuple[Meta, Key, Known]] = []
    lost = 0
    for entry in store.entries_of(function):
        try:
            meta = store.meta(entry.key)
        except KeyError:  # joblib was killed before it wrote them
            lost += 1
            continue
        known.append((meta, entry.key, Known.of(meta)))
    known.sort(key=lambda item: item[0].created)
    first = max(len(known) - _MOST_SHOWN, 0)
    shown = [_reason(known[max(i - _MOST_COMPARED, 0) : i], *known[i]) for i in range(first, len(known))]
    if given.call:
        shown = [reason for reason in shown if reason["call"].startswith(given.call)]
        if not shown:
            complain(f"no call of {dotted(function)} among the last {_MOST_SHOWN} begins with {given.call}")
            return FAILED
    if given.json:
        say_json(shown)
        return DONE
    say(f"{printable(dotted(function))}: {count(len(known) + lost, 'entry')}")
    for reason in shown:
        say()
        when = f"{format_duration(time.time() - reason['created'])} ago"
        if reason["nearest"] is None:
            say(f"{reason['call']}, {when}: the first one that is stored")
            continue
        say(f"{reason['call']}, {when}: not as {reason['nearest']}")
        for each in reason["differences"] or [{"path": "what metadata do not describe", "before": "?", "now": "?"}]:
            say(printable(f"  {each['path']}: {each['before']} -> {each['now']}"))
    return DONE


def _reason(earlier: list[tuple[Meta, Key, Known]], meta: Meta, key: Key, now: Known) -> dict[str, Any]:
    """Return the differences to the nearest of the earlier results."""
    best: tuple[int, Key | None, list[Difference]] = 1 << 30, None, []
    for _, other, before in reversed(earlier):  # of equally near ones, the latest
        found = differences(before, now)
        distance = len(found.arguments) + len(found.function)
        if distance < best[0]:
            best = distance, other, [*found.function, *found.arguments]
    return {
        "call": key.call,
        "created": meta.created,
        "nearest": None if best[1] is None else best[1].call,
        "differences": [each._asdict() for each in best[2]],
    }
