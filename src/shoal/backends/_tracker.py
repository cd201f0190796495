"""Forwards messages of workers to the caller's resource tracker, which is started when a worker first needs it.

::

    worker ── register, unregister ──> a pipe ──> the pool's thread ──> multiprocessing's resource tracker

Shared memory made by a call may outlive its worker, so the caller's tracker must register it. The tracker is a Python
process that few calls need, so it is not started early. Messages that a worker wrote before its reply are forwarded
before the reply is delivered.
"""

from __future__ import annotations

import os
from typing import Any

from shoal._platform.posix import posix
from shoal.backends._loop import Loop

#: The capacity of a pipe.
_PIPE_BYTES = 64 * 1024
#: The start of a message by which a client checks whether the tracker is alive. It is not forwarded.
_PROBE = b"PROBE:"


class TrackerRelay:
    """The caller's end of the pipe, used in the loop's thread. Workers write to the descriptor `writer`."""

    def __init__(self, loop: Loop) -> None:
        self._reader, self.writer = os.pipe()
        posix.set_blocking(self._reader, False)
        self._part = b""  # of a line
        loop.watch(self._reader, self._ready)

    def abandon(self) -> None:
        """Close this process's copies of the descriptors, in a forked child."""
        os.close(self._reader)
        os.close(self.writer)

    def _ready(self) -> None:
        lines = (self._part + os.read(self._reader, _PIPE_BYTES)).splitlines(keepends=True)
        self._part = b"" if lines[-1].endswith(b"\n") else lines.pop()
        messages = [line for line in lines if not line.startswith(_PROBE)]
        if messages:
            from multiprocessing import resource_tracker

            writer: Any = resource_tracker.getfd()
            for line in messages:  # one by one: only short writes to a pipe are atomic
                os.write(writer, line)
