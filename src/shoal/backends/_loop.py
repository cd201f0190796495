"""One thread that waits for all events of worker processes: messages, process exits, timers, requests.

::

    ask(request) ── any thread ──┐ a byte wakes the thread
                                 v
    watch(fd, ready) ──────> selector ──────> the thread calls `ready`s, then `due`s, then requests
    later(seconds, due) ───> heap of timers ──┘

It also answers ``shoal stack`` (_stacks.py).
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

from shoal._platform.processes import wait_for
from shoal.backends._stacks import Requests, write_stacks
from shoal.backends.base import start_thread
from shoal.errors import cannot_start

Request = Callable[[], object]
#: CPython raises SystemError if it has no memory for a MemoryError.
_NO_MEMORY = (MemoryError, SystemError)
#: Address space that the thread releases when memory is exhausted, so that it can still fail the waiting futures.
#: Nothing is written to it, so it takes no memory. CPython requests 1 MiB from the system at a time.
RESERVE_BYTES = 4 * 2**20


class Loop:
    """A daemon thread that calls functions: when a descriptor is ready, after a delay, or on request.

    :meth:`ask` and :meth:`catch_up` may be called in any thread, all other methods only in the loop's own.
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
        """Whether the caller runs in the loop's thread."""
        return threading.current_thread() is self._thread

    def start(self) -> None:
        """Start the thread.

        Raises
        ------
        WorkerStartError
            If the system allows no more threads, or has no memory for one.
        OSError
            If the system allows no more descriptors, or has no memory.
        """
        with contextlib.ExitStack() as opened:
            self._selector = opened.enter_context(selectors.DefaultSelector())
            self._woken, self._waker = map(opened.enter_context, socket.socketpair())
            self._woken.setblocking(False)
            self._waker.setblocking(False)
            self._selector.register(self._woken, selectors.EVENT_READ, self._wake_up)
            if Requests.open():
                opened.callback(Requests.close)
                self._selector.register(Requests.fd, selectors.EVENT_READ, write_stacks)
            self._reserve = opened.enter_context(contextlib.closing(mmap.mmap(-1, RESERVE_BYTES)))
            begun = threading.Event()
            thread = start_thread(self._name, self._run, begun, make_room=False)
            while not begun.wait(0.1):
                if not thread.is_alive():  # out of memory before the thread could run `_run`
                    raise cannot_start(MemoryError("the thread ended before it could begin"))
            opened.pop_all()
        self._thread = thread

    def ask(self, request: Request) -> None:
        """Call `request` in the loop's thread."""
        self._requests.append(request)
        with contextlib.suppress(BlockingIOError):  # the socket is full, so the thread wakes up anyway
            self._waker.send(b"\0")

    def catch_up(self) -> None:
        """Wait until the thread has called all requests."""
        if not self.current:
            done = threading.Event()
            self.ask(done.set)
            wait_for(done)

    def watch(self, fd: int, ready: Request, readable: bool = True, writable: bool = False) -> None:
        """Call `ready` whenever a descriptor is readable or writable; one of the two at least."""
        events = (selectors.EVENT_READ if readable else 0) | (selectors.EVENT_WRITE if writable else 0)
        if fd in self._selector.get_map():
            self._selector.modify(fd, events, ready)
        else:
            self._selector.register(fd, events, ready)

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor. Call this before closing it."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)

    def later(self, seconds: float, due: Request) -> None:
        """Call `due` after a delay."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), due))

    def abandon(self) -> None:
        """Close this process's copies of the descriptors, in a forked child: the thread belongs to the parent.

        The selector is not closed or changed, because the parent shares it.
        """
        if self._thread is not None:
            os.close(self._woken.detach())
            os.close(self._waker.detach())
            Requests.close()

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
            except _NO_MEMORY:  # the thread retries: if it ended, this run and all later ones would hang
                self._reserve.close()
                delay = 0.01

    def _turn(self) -> None:
        """Wait for the next event, and handle all events that are there."""
        timeout = max(self._timers[0][0] - time.monotonic(), 0) if self._timers else None
        for ready in [key.data for key, _ in self._selector.select(timeout)]:
            self._call(ready)
        ready = None  # it would keep alive an ended worker during the next wait
        # An item is removed after its call, so that it is called again if there was no memory for it.
        while self._timers and self._timers[0][0] <= time.monotonic():
            self._call(self._timers[0][2])
            heapq.heappop(self._timers)
        while self._requests:
            self._call(self._requests[0])
            self._requests.popleft()

    def _call(self, request: Request) -> None:
        """Call a function and print its errors: an error must not end the thread, or every later run would hang.

        MemoryError and SystemError are raised, so that the function is called again.
        """
        try:
            request()
        except _NO_MEMORY:
            raise
        except BaseException:
            if sys.stderr is not None:
                with contextlib.suppress(MemoryError):
                    traceback.print_exc()
