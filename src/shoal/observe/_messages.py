"""What calls send to their run while they run: messages for ``on_message``, and steps for the progress bar.

::

    send(message), step(done, total)
       │  in a call
    Channel ──put──> its run   in this process   as objects, by the run's inbox or at once
       │                       worker process    encoded, in notes
       │                       cluster           encoded, several times a second, or with the results of the batch
       └─ in a context variable; in worker processes in a variable of the process, for threads that calls start

_receiving.py says what the run does with them.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from shoal._forks import CALLERS, after_fork_in_child
from shoal._pickling import culprit, dumps, loads
from shoal._tracebacks import cause_of, in_a_line
from shoal.errors import CallPicklingError, CallUnpicklingError

#: The time between two steps that a worker sends, in seconds.
STEP_SECONDS = 0.1


class Message(NamedTuple):
    """A message of a call."""

    call: int  # its index
    content: Any


class Step(NamedTuple):
    """How far a call is."""

    call: int  # its index
    done: float
    total: float | None


Told = Message | Step


class Channel:
    """The way from calls to the run around them.

    Parameters
    ----------
    put
        Takes what a call sends. It may wait, and may be called by several threads.
    messages, steps
        Whether the run takes messages, and whether it takes steps.

    Attributes
    ----------
    index
        Returns the index of the call that runs.

    Notes
    -----
    Thread-safe.
    """

    def __init__(self, put: Callable[[Told], object], messages: bool, steps: bool) -> None:
        self.messages, self.steps = messages, steps
        self.index: Callable[[], int] = int
        self._put = put
        self._due = 0.0  # when the next step may be sent
        self._shown = -1  # the call of the last step, unless that was its last one
        self._forks = _forks
        self._closed = False

    @property
    def usable(self) -> bool:
        """Whether the channel is not closed, and this process is no fork of the one in which it was made."""
        return not self._closed and self._forks == _forks

    def close(self) -> None:
        """End the channel. Threads that calls have left running find none from now on."""
        self._closed = True

    def send(self, content: Any) -> None:
        """Send a message."""
        self._put(Message(self.index(), content))

    def step(self, done: float, total: float | None) -> None:
        """Send a step, unless one was sent a moment ago. The last step of a call that has sent others is sent."""
        now = time.monotonic()
        if now < self._due and not (done == total and self._shown == self.index()):
            return
        try:
            shown = float(done), None if total is None else float(total)
            if not all(map(math.isfinite, filter(None, shown))):
                return
        except (TypeError, ValueError):
            raise TypeError(f"step takes numbers, got: {done!r:.80} and {total!r:.80}") from None
        except OverflowError:  # no bar could show it
            return
        index = self.index()
        self._due = now + STEP_SECONDS
        self._shown = -1 if done == total else index
        self._put(Step(index, *shown))


_here: ContextVar[Channel | None] = ContextVar("shoal channel", default=None)
#: That of a worker process, for all its threads.
_of_process: Channel | None = None
_forks = 0


def _forked() -> None:
    global _forks
    _forks += 1


after_fork_in_child(_forked, CALLERS)


def channel_here() -> Channel | None:
    """Return the channel of the call that runs here; None if no run around it takes anything."""
    channel = _here.get() or _of_process
    return channel if channel is not None and channel.usable else None


class channel_set:
    """A block, in one thread, whose calls have a channel.

    Parameters
    ----------
    channel
        The channel; None for that of the process, if it has one.
    whole_process
        Whether all threads of this process have it.
    """

    def __init__(self, channel: Channel | None, whole_process: bool = False) -> None:
        self._channel, self._whole = channel, whole_process

    def __enter__(self) -> None:
        global _of_process
        if self._whole:
            self._before, _of_process = _of_process, self._channel
        else:
            self._token = _here.set(self._channel)

    def __exit__(self, *_: object) -> None:
        global _of_process
        if self._whole:
            _of_process = self._before
        else:
            _here.reset(self._token)


def send(message: Any) -> bool:
    """Send a message from a call to the program that runs it, while the call runs.

    The program receives it by ``Parallel(on_message=f)``, which calls ``f(index, message)``.

    Parameters
    ----------
    message
        Any object. For a call in another process it is pickled here; else the program gets the object itself, which the
        call should no longer change.

    Returns
    -------
    bool
        Whether a run takes the message. If neither the run of this call nor one around it has ``on_message``, or if
        this is no call of a run, nothing happens. So a library may send messages in any case.

    Raises
    ------
    CallPicklingError
        If the message has to be pickled and cannot.
    RunEnded
        On a thread, if the run has ended meanwhile, or this call has reached its ``task_timeout``.

    Notes
    -----
    Thread-safe. Messages of one call arrive in their order. While too many of them are not handled, this function
    waits. docs/seeing.md says how messages travel, and which threads of a call may send them.

    Examples
    --------
    >>> from shoal import Parallel, delayed, send
    >>> def work(x):
    ...     send("half")
    ...     return x
    >>> Parallel(n_jobs=1, on_message=print)([delayed(work)(7)])
    0 half
    [7]
    """
    channel = channel_here()
    if channel is None or not channel.messages:
        return False
    channel.send(message)
    return True


def step(done: float, total: float | None = None) -> None:
    """Say how far a call is; the progress bar of its run shows it.

    Parameters
    ----------
    done : float
        What the call has done, in any unit.
    total : float, optional
        What it has to do in all.

    Raises
    ------
    TypeError
        If `done` or `total` is no number. Numbers that are not finite are not shown.
    RunEnded
        As for :func:`send`.

    Notes
    -----
    Thread-safe. It may be called often: a worker passes on at most ten steps a second, and the last one of a call, for
    which `done` is `total`. Where no run shows progress, nothing happens.

    Examples
    --------
    >>> from shoal import step
    >>> for epoch in range(3):
    ...     step(epoch, 3)
    """
    channel = channel_here()
    if channel is not None and channel.steps:
        channel.step(done, total)


_MESSAGE, _STEP = b"m", b"s"


def encoded(told: Told) -> bytes:
    """Pickle a message or a step. The first byte is none with which a pickle begins.

    Raises
    ------
    CallPicklingError
        If the message cannot be pickled.
    """
    if isinstance(told, Step):
        return _STEP + pickle.dumps(tuple(told), pickle.HIGHEST_PROTOCOL)
    try:
        return _MESSAGE + dumps(tuple(told), out_of_band=2**63)[0]
    except Exception as error:
        path, reason = culprit(told.content, "message")
        raise CallPicklingError(f"a message of call {told.call}", path, reason) from cause_of(error)


def decoded(note: bytes) -> Told | None:
    """Rebuild a message or a step; return None if the note is something else.

    Raises
    ------
    CallUnpicklingError
        If the message cannot be unpickled.
    """
    kind = note[:1]
    if kind == _STEP:
        return Step(*loads(memoryview(note)[1:]))
    if kind != _MESSAGE:
        return None
    try:
        return Message(*loads(memoryview(note)[1:]))
    except Exception as error:
        what = "a message of a call"
        raise CallUnpicklingError(what, "the calling process", in_a_line(error)) from cause_of(error)
