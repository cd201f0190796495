"""Messages over a pair of stream sockets: each is its length, in eight bytes, and its bytes."""

from __future__ import annotations

import select
import socket
import struct
import sys
import threading

_LENGTH = struct.Struct("<Q")
#: The number of bytes that are read at a time, unless a message is known to be longer.
_CHUNK = 64 * 1024
#: The size of the longest message on the control connection of a fork server, which keeps their bounds by itself.
CONTROL_BYTES = 128 * 1024


def framed(message: bytes) -> list[memoryview]:
    """Return the parts to write for a message."""
    # A short message is one part, because a second write costs more than a copy.
    if len(message) <= _CHUNK:
        return [memoryview(_LENGTH.pack(len(message)) + message)]
    return [memoryview(_LENGTH.pack(len(message))), memoryview(message)]


class Reader:
    """Reads messages from a socket, which may be blocking or not."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._start = b""  # the beginning of the next message, which may lack a part of the length
        self._body = bytearray()  # the body of a long message whose length is known
        self._filled = -1  # the number of bytes of that body that have come; -1: there is no such message

    def read(self) -> list[bytes | bytearray]:
        """Read once; return the messages that are complete now.

        Raises
        ------
        BlockingIOError
            If there is nothing to read.
        EOFError
            If the other end was closed.
        OSError
            If the connection is broken.
        """
        if self._filled >= 0:
            return self._more()
        data = self._connection.recv(_CHUNK)
        if not data:
            raise EOFError
        data = self._start + data if self._start else data
        messages: list[bytes | bytearray] = []
        position = 0
        while len(data) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, position)
            end = position + _LENGTH.size + length
            if end > len(data):
                if length > _CHUNK:
                    self._body = bytearray(length)
                    self._filled = len(data) - position - _LENGTH.size
                    self._body[: self._filled] = data[position + _LENGTH.size :]
                    position = len(data)
                break
            messages.append(data[position + _LENGTH.size : end])
            position = end
        self._start = data[position:]
        return messages

    def _more(self) -> list[bytes | bytearray]:
        with memoryview(self._body) as whole, whole[self._filled :] as missing:
            received = self._connection.recv_into(missing)
        if not received:
            raise EOFError
        self._filled += received
        if self._filled < len(self._body):
            return []
        message, self._body, self._filled = self._body, bytearray(), -1
        return [message]


class Blocking:
    """The worker's end of a socket. It waits for messages, and until the other end has taken what is sent.

    Several threads may send; one may receive.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._connection = connection
        self._reader = Reader(connection)
        self._read: list[bytes | bytearray] = []  # messages that were read and not returned, the next one last
        self._sending = threading.Lock()

    def receive(self) -> bytes | bytearray:
        """Wait for a message, and return it.

        Raises
        ------
        EOFError
            If the other end was closed.
        OSError
            If the connection is broken.
        """
        while not self._read:
            self._read = self._reader.read()[::-1]
        return self._read.pop()

    def send(self, message: bytes) -> None:
        """Send a message.

        Raises
        ------
        OSError
            If the other end was closed.
        """
        with self._sending:
            for part in framed(message):
                self._connection.sendall(part)

    def wait_for_room(self) -> None:
        """Wait until the other end has taken so much that a short message can be sent without waiting."""
        if sys.platform != "win32":
            poller = select.poll()
            poller.register(self._connection, select.POLLOUT)
            poller.poll()
        else:
            select.select((), (self._connection,), ())

    def close(self) -> None:
        """Close this end."""
        self._connection.close()

    def leave(self) -> None:
        """Leave this end open until the process ends, so that its end is seen only together with the exit code."""
        self._connection.detach()
