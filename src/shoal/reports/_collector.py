"""What a report is for the runs that it contains."""

from __future__ import annotations

from typing import Any, Protocol


class Collector(Protocol):
    """Takes what runs have measured.

    Notes
    -----
    Any thread may call the methods.
    """

    @property
    def rows(self) -> int:
        """The number of rows that the timelines of a run may have."""

    def began(self, meter: Any) -> None:
        """Add a run that has begun."""

    def ended(self, meter: Any) -> None:
        """Take note of the end of a run that was added."""

    def add(self, runs: list[dict[str, Any]], omitted: int) -> None:
        """Add runs that calls have made in other processes, and the number of those that were left out."""
