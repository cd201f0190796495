"""The way from workers to their caller's resource tracker, which is started when a worker first needs it.

::

    worker ── register, unregister ──> a pipe ──> the pool's thread ──> multiprocessing's resource tracker

A tracker is an interpreter of its own, and few calls need one. Shared memory that a call has made outlives its worker,
as long as the caller lives: so the caller's tracker must know of it. What a worker has written before it answers is
passed on before the answer is.
"""

from __future__ import annotations

import os
from typing import Any

from shoal.backends._loop import Loop

#: A pipe holds no more.
_PIPE_BYTES = 64 * 1024
#: What a tracker's client writes to see whether it is there; no news.
_PROBE = b"PROBE:"


class TrackerRelay:
    """The caller's end; in the loop's thread.

    Attributes
    ----------
    writer
        The descriptor that workers write to.
    """

    def __init__(self, loop: Loop) -> None:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._part = b""  # of a line
        loop.watch(self._reader, self._ready)

    def abandon(self) -> None:
        """Close this process's copies of the descriptors, in a forked child."""
        os.close(self._reader)
        os.close(self.writer)

    def _ready(self) -> None:
        lines = (self._part + os.read(self._reader, _PIPE_BYTES)).splitlines(keepends=True)
        self._part = b"" if lines[-1].endswith(b"\n") else lines.pop()
        news = [line for line in lines if not line.startswith(_PROBE)]
        if news:
            from multiprocessing import resource_tracker

            writer: Any = resource_tracker.getfd()
            for line in news:  # one by one, since what a pipe takes at once is limited
                os.write(writer, line)
