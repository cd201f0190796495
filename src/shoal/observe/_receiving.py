"""What a run does with what its calls send.

::

    Message ──> Receiver ──> on_message(index, message) ──┐ without them: the Channel of the call in which
    Step ─────> (the loop) ─> the listeners of the run ───┘ the run was made

    Direct: a loop in one thread calls its Receiver from within send()
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shoal.errors import RunEnded
from shoal.observe._messages import Channel, Step, Told, channel_here, channel_set

if TYPE_CHECKING:
    from shoal.observe._teller import Teller

OnMessage = Callable[[int, Any], object]


class Receiver:
    """What a run does with what its calls send.

    Parameters
    ----------
    on_message
        Called with the index of the call and the message; None if the run has no such function.
    listener
        Receives the steps; None if the run has no listener that takes them.
    outer
        The channel of the call in which the run was made. It gets what the run does not take; None if there is none.

    Notes
    -----
    Not thread-safe: it belongs to the thread that runs the loop.
    """

    def __init__(self, on_message: OnMessage | None, listener: Teller | None, outer: Channel | None) -> None:
        self.outer = outer
        self._on_message, self._listener = on_message, listener
        #: Whether messages and steps are taken.
        self.messages = on_message is not None or (outer is not None and outer.messages)
        self.steps = listener is not None or (outer is not None and outer.steps)

    def __call__(self, told: Told) -> None:
        """Handle a message or a step."""
        if isinstance(told, Step):
            if self._listener is not None:
                self._listener.stepped(*told)
            elif self.outer is not None:
                self.outer.step(told.done, told.total)
        elif self._on_message is not None:
            self._on_message(*told)
        elif self.outer is not None:
            self.outer.send(told.content)

    def channel(self, put: Callable[[Told], object]) -> Channel:
        """Return a channel to this receiver."""
        return Channel(put, self.messages, self.steps)


def receiver_of(on_message: OnMessage | None, listener: Teller | None, in_process: bool) -> Receiver | None:
    """Return the receiver of a run that is made here; None if nothing takes what its calls send.

    Parameters
    ----------
    on_message, listener
        As for :class:`Receiver`.
    in_process
        Whether the calls run in the context of this thread, or copies of it. Then they find the channel of the call in
        which the run is made by themselves.
    """
    outer = channel_here()
    if listener is not None and not listener.takes_steps:
        listener = None
    if on_message is None and listener is None and (in_process or outer is None):
        return None
    return Receiver(on_message, listener, outer)


def _no_call() -> int:
    raise RunEnded


class Direct:
    """Runs calls in the thread of their loop. What a call sends is handled before its :func:`send` returns.

    Attributes
    ----------
    error
        The exception that the receiver has raised, which ends the run; None if there is none.
    """

    def __init__(self, receiver: Receiver) -> None:
        self.error: BaseException | None = None
        self._receiver = receiver
        self._channel = receiver.channel(self._put)
        self._lock = threading.RLock()  # a call may have threads that send; and the receiver may run calls

    def call(self, index: int, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a call.

        Raises
        ------
        BaseException
            The exception of the call; or, if there is one, that of the receiver.
        """
        self._channel.index = lambda: index
        try:
            with channel_set(self._channel):
                return function(*args, **kwargs)
        finally:
            self._channel.index = _no_call
            if self.error is not None:
                raise self.error

    def _put(self, told: Told) -> None:
        with self._lock:
            if self.error is not None:
                raise RunEnded
            try:
                with channel_set(self._receiver.outer):
                    self._receiver(told)
            except BaseException as error:
                self.error = error
                raise


def direct_of(on_message: OnMessage | None, listener: Teller | None) -> Direct | None:
    """Return what runs the calls of a loop in this thread; None if nothing takes what they send."""
    receiver = receiver_of(on_message, listener, in_process=True)
    return None if receiver is None else Direct(receiver)
