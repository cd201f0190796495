"""Messages over a pair of stream sockets: each is its length, in eight bytes, and its bytes."""

from __future__ import annotations

import socket
import struct

_LENGTH = struct.Struct("<Q")
#: What is read at a time, in bytes, unless a message is known to be longer.
_CHUNK = 64 * 1024
#: No message on the control connection of a fork server, which keeps their bounds by itself, is longer.
CONTROL_BYTES = 128 * 1024


def framed(message: bytes) -> list[memoryview]:
    """Return what is to be written for a message."""
    # One write where it is short: a second call costs more than a copy.
    if len(message) <= _CHUNK:
        return [memoryview(_LENGTH.pack(len(message)) + message)]
    return [memoryview(_LENGTH.pack(len(message))), memoryview(message)]


class Reader:
    """Reads messages from a socket, which may be a blocking one or not."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._start = b""  # of the next message, of which the length may not be known yet
        self._body = bytearray()  # of a long message, whose length is known
        self._filled = -1  # bytes of it that are there; -1: there is none

    def read(self) -> list[bytes | bytearray]:
        """Read once; return the messages that are whole now.

        Raises
        ------
        BlockingIOError
            If nothing is there.
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
    """A worker's end: it waits for a message, and until all of an answer is taken."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._connection = connection
        self._reader = Reader(connection)
        self._read: list[bytes | bytearray] = []  # the next one last

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
        for part in framed(message):
            self._connection.sendall(part)

    def close(self) -> None:
        """Close this end."""
        self._connection.close()

    def leave(self) -> None:
        """Leave this end open until the process ends, so that the other one need not ask what became of it."""
        self._connection.detach()
