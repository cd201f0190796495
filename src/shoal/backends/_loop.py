"""One thread that waits for everything that concerns worker processes: their connections, their ends, timers, requests.

::

    ask(request) ── any thread ──┐ a byte wakes the thread
                                 v
    watch(fd, ready) ──────> selector ──────> the thread calls what is ready, then what is due, then what was asked for
    later(seconds, due) ───> heap of timers ──┘
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import mmap
import os
import selectors
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable

from shoal.backends.base import start_thread
from shoal.errors import cannot_start

Request = Callable[[], object]
#: CPython raises SystemError where it has no memory for a MemoryError.
_NO_MEMORY = (MemoryError, SystemError)
#: Address space that the thread gives back when memory is exhausted, so that it can at least fail what waits for it. It
#: is never written to, so it takes no memory. CPython asks the system for 1 MiB at a time.
RESERVE_BYTES = 4 * 2**20


class Loop:
    """A daemon thread that calls functions when descriptors are ready, when time has passed, and when it is asked to.

    Parameters
    ----------
    name
        The name of the thread.

    Notes
    -----
    :meth:`ask` and :meth:`catch_up` may be called in any thread, all other methods in the loop's own.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._requests: deque[Request] = deque()
        self._timers: list[tuple[float, int, Request]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        """Whether the thread was started."""
        return self._thread is not None

    @property
    def current(self) -> bool:
        """Whether this is the thread."""
        return threading.current_thread() is self._thread

    def start(self) -> None:
        """Start the thread.

        Raises
        ------
        WorkerStartError
            If the system allows no more threads, or there is no memory for one.
        OSError
            If it allows no more descriptors, or has no memory.
        """
        with contextlib.ExitStack() as opened:
            self._selector = opened.enter_context(selectors.DefaultSelector())
            self._woken, self._waker = map(opened.enter_context, socket.socketpair())
            self._woken.setblocking(False)
            self._waker.setblocking(False)
            self._selector.register(self._woken, selectors.EVENT_READ, self._wake_up)
            self._reserve = opened.enter_context(contextlib.closing(mmap.mmap(-1, RESERVE_BYTES)))
            begun = threading.Event()
            thread = start_thread(self._name, self._run, begun, make_room=False)
            while not begun.wait(0.1):
                if not thread.is_alive():  # the interpreter had no memory for the thread's first steps
                    raise cannot_start(MemoryError("the thread ended before it could begin"))
            opened.pop_all()
        self._thread = thread

    def ask(self, request: Request) -> None:
        """Have the thread call `request`."""
        self._requests.append(request)
        # A byte that does not fit is not needed: there are others to wake the thread.
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"\0")

    def catch_up(self) -> None:
        """Wait until the thread has done all that it was asked for."""
        if not self.current:
            done = threading.Event()
            self.ask(done.set)
            done.wait()

    def watch(self, fd: int, ready: Request, writable: bool = False) -> None:
        """Call `ready` whenever a descriptor can be read; with `writable`, also whenever it can be written to."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
        if fd in self._selector.get_map():
            self._selector.modify(fd, events, ready)
        else:
            self._selector.register(fd, events, ready)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; to be called before it is closed."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)

    def later(self, seconds: float, due: Request) -> None:
        """Call `due` after so many seconds."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), due))

    def abandon(self) -> None:
        """Close this process's copies of the descriptors, in a forked child: the thread is the parent's.

        The selector itself stays open: what it watches is known to the system, and shared with the parent.
        """
        if self._thread is not None:
            os.close(self._woken.detach())
            os.close(self._waker.detach())

    def _wake_up(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)

    def _run(self, begun: threading.Event) -> None:
        begun.set()
        delay = 0.0
        while True:
            try:
                if delay:
                    time.sleep(delay)
                    delay = 0.0
                self._turn()
                if self._reserve.closed:
                    with contextlib.suppress(OSError):
                        self._reserve = mmap.mmap(-1, RESERVE_BYTES)
            except _NO_MEMORY:  # the thread tries again: without it, this run and all later ones would hang
                self._reserve.close()
                delay = 0.01

    def _turn(self) -> None:
        """Wait until something is to be done, and do it."""
        timeout = max(self._timers[0][0] - time.monotonic(), 0) if self._timers else None
        # No name is left to hold what has ended meanwhile.
        for ready in [key.data for key, _ in self._selector.select(timeout)]:
            self._call(ready)
        ready = None
        # Each is removed when it has been called, so that one that finds no memory is called again.
        while self._timers and self._timers[0][0] <= time.monotonic():
            self._call(self._timers[0][2])
            heapq.heappop(self._timers)
        while self._requests:
            self._call(self._requests[0])
            self._requests.popleft()

    def _call(self, request: Request) -> None:
        """Call a function whose errors must not end the thread, since every later run would wait for ever.

        Raises
        ------
        MemoryError, SystemError
            If there is no memory for what the function does: it is to be called again.
        """
        try:
            request()
        except _NO_MEMORY:
            raise
        except BaseException:
            if sys.stderr is not None:
                with contextlib.suppress(MemoryError):
                    traceback.print_exc()
