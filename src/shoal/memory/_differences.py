"""What distinguishes two calls of a function, from what metadata say of them. It reads no store.

::

    Meta ──> Known ── differences(earlier, now) ──> Differences     the arguments by path; version, source, depends
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from shoal.memory._parts import MOST_PARTS, flattened, is_complete
from shoal.memory.store import Meta

#: What stands for a part that one of two calls does not have.
NOTHING = "nothing"


class Difference(NamedTuple):
    """A part in which a call differs from an earlier one.

    Attributes
    ----------
    path : str
        Where the part is: ``"params['model'].C"``. It may also be "source", "version", or "depends helpers.scale".
    before, now : str
        What was there, and what is there now, as short texts.
    """

    path: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.path}: {self.before} -> {self.now}"


class Differences(NamedTuple):
    """What distinguishes two calls."""

    #: What differs besides the arguments.
    function: list[Difference]
    arguments: list[Difference]


class Known(NamedTuple):
    """What is known of a call: the texts of its arguments by path, and what its key contains besides them, if known."""

    arguments: dict[str, str]
    function: dict[str, Any] | None

    @classmethod
    def of(cls, meta: Meta) -> Known:
        """Read metadata. Damaged details count as missing."""
        try:
            details = json.loads(meta.details or "{}")
            function, parts = details.get("function"), dict(details.get("parts", {}))
            parts = {str(path): str(text) for path, text in parts.items()}
        except (ValueError, TypeError, AttributeError):
            function, parts = None, {}
        known = function if isinstance(function, dict) and isinstance(function.get("depends"), dict) else None
        return cls(flattened(meta.arguments, parts), known)

    @property
    def vague(self) -> list[str]:
        """The parts whose texts do not say everything, so that different values may have the same text."""
        return [path for path, text in self.arguments.items() if not is_complete(text)]


def differences(before: Known, now: Known) -> Differences:
    """Compare two calls of one function."""
    return Differences(_of_functions(before.function, now.function), _of_arguments(before.arguments, now.arguments))


def _of_arguments(before: dict[str, str], now: dict[str, str]) -> list[Difference]:
    found: list[Difference] = []
    full = max(len(before), len(now)) >= MOST_PARTS  # then a part may be missing because there was no room for it
    replaced: list[str] = []
    for path in [*now, *(path for path in before if path not in now)]:
        old, new = before.get(path, NOTHING), now.get(path, NOTHING)
        if old == new or (full and NOTHING in (old, new)) or path.startswith(tuple(replaced)):
            continue
        found.append(Difference(path, old, new))
        kinds = old.partition(" of ")[0], new.partition(" of ")[0]
        if old.startswith("<") or kinds[0] != kinds[1]:  # the parts of another object are other parts
            replaced += [f"{path}.", f"{path}["]
    return found


def _of_functions(before: dict[str, Any] | None, now: dict[str, Any] | None) -> list[Difference]:
    if before is None or now is None or before.get("tag") == now.get("tag"):
        return []
    found = [
        Difference(name, _said(before.get(name)), _said(now.get(name)))
        for name in ("version", "source")
        if before.get(name) != now.get(name)
    ]
    old, new = before["depends"], now["depends"]
    found += [
        Difference(f"depends {name}", _said(old.get(name)), _said(new.get(name)))
        for name in [*new, *(name for name in old if name not in new)]
        if old.get(name) != new.get(name)
    ]
    return found or [Difference("parameters", "others", "these")]


def _said(value: Any) -> str:
    return NOTHING if value is None else str(value)
