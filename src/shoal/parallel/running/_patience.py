"""How long a consumer waits for the next result of a run: the argument ``timeout=``."""

from __future__ import annotations

import time
from collections.abc import Callable

#: While only the input is awaited, the next look is after a tenth of the timeout, or after so many seconds.
LOOK_SECONDS = 1.0


class Patience:
    """The time that the next result of a run may take. Time in which only the input is awaited does not count.

    joblib, too, counts only while a call is under way.

    Parameters
    ----------
    timeout
        The seconds that the next result may take.
    waits_for_input
        Returns whether only the input is awaited.
    """

    def __init__(self, timeout: float, waits_for_input: Callable[[], bool]) -> None:
        self.timeout, self._waits_for_input = timeout, waits_for_input
        self.again()

    def again(self) -> None:
        """Let the time begin."""
        self._until = time.monotonic() + self.timeout

    def next_look(self) -> float:
        """Return the time of the monotonic clock at which to ask :meth:`is_over`."""
        if not self._waits_for_input():
            return self._until
        self.again()
        return time.monotonic() + min(self.timeout / 10, LOOK_SECONDS)

    def seconds(self) -> float:
        """Return the seconds until :meth:`next_look`."""
        return max(self.next_look() - time.monotonic(), 0.0)

    def is_over(self) -> bool:
        """Return whether the result has taken too long."""
        return time.monotonic() >= self._until and not self._waits_for_input()
