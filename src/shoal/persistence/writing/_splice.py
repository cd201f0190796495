"""Splicing: arrays are put into the opcodes of the C pickler, where they belong, and everything is written to a file.

::

    pickler.dump(value) ──> write(64 KiB of frames, or a large string or buffer) ──> the file
                  │                     │
                  │ an array            │ its token
                  └──> waiting ─────────┘──> joblib's wrapper instead of the token, then the bytes of the array

Instead of an array, the C pickler is given a call: `numpy.ndarray(token)`. The token is an integer that nobody could
guess, and pickle never memoises integers. The opcodes of token and call are found in the output of the pickler, and
replaced such that the number of memo entries stays the same: the first two and the last entry of the call become the
array itself. The callable must be a name that files of joblib contain as well, because some unpicklers admit no others.
"""

from __future__ import annotations

import pickle
import re
import secrets
from collections import deque
from collections.abc import Callable
from typing import Any

import xxhash

from shoal._arrays import ArraySpec, cut, flat, pieces
from shoal.persistence._checksums import updating
from shoal.persistence._format import (
    ALIGNMENT,
    BINPUT,
    FRAME,
    FRAME_HEADER,
    HEAD,
    LONG_BINPUT,
    MEMOIZE,
    POP,
    PROTO,
    REDUCE,
    STOP,
    TUPLE1,
    Footer,
    StoredArray,
    frame_of,
    integers,
    plain,
    wrapper,
)
from shoal.persistence.trust._dtypes import readable

_TOKEN_BYTES = 16
_PAYLOAD_HEADER = 5  # at least: the opcode and the length of a large string or buffer
_PUT = re.compile(rb"%b|%b.|%b...." % (MEMOIZE, BINPUT, LONG_BINPUT), re.DOTALL)
_CALL = re.compile(rb"%b(%b)%b(%b)" % (TUPLE1, _PUT.pattern, REDUCE, _PUT.pattern), re.DOTALL)
_CALL_BYTES = 12  # at most
_FEW_OPCODES = 4096  # opcodes of at most this many bytes are copied to be written together with their frame's header


class Splicer:
    """Writes the output of a pickler to the file, with arrays. To be used from one thread.

    Parameters
    ----------
    put, protocol, mappable, position
        As for :class:`Writer`.
    """

    def __init__(self, put: Callable[[Any], Any], protocol: int, mappable: bool, position: int) -> None:
        self._footer = Footer()
        self._put = put
        self._protocol = protocol
        self._mappable = mappable
        self._begin = position
        self._position = 0
        self._sum = xxhash.xxh3_64()
        self._token = 0  # made for the first array
        self._mark = b""  # the opcodes that push the token
        self._waiting: deque[Any] = deque()  # arrays whose tokens have not been found in the output yet
        self._pending = b""  # opcodes that are not written yet: the end of a call may be missing, or they are the last
        self._pending_frame = b""  # the header of their frame
        self._payload = False  # whether the pickler writes a large string or buffer next
        self._dtypes: dict[int, tuple[Any, bytes, str]] = {}  # by id: the dtype, its opcodes, its text

    @property
    def n_arrays(self) -> int:
        """The number of arrays that were written or are waiting."""
        return len(self._footer.arrays) + len(self._waiting)

    def expect(self, array: Any) -> int:
        """Return a token for an array, which the pickler has to write as the argument of a call next."""
        if not self._token:
            number = secrets.token_bytes(_TOKEN_BYTES - 1) + b"\x01"  # positive
            self._token = int.from_bytes(number, "little")
            self._mark = b"\x8a%c%b" % (_TOKEN_BYTES, number)  # LONG1
        self._waiting.append(array)
        return self._token

    def finish(self) -> Footer:
        """Write the last opcodes, except STOP, which follows the footer. Return the footer, without versions.

        Raises
        ------
        PicklingError
            If an array is missing in the output.
        """
        if self._waiting:
            raise _lost(f"{len(self._waiting)} arrays are missing")
        self._flush(last=True)
        self._footer.start = self._position
        self._footer.checksum = self._sum.intdigest()
        return self._footer

    def write(self, data: Any) -> None:
        """Write output of the pickler: frames, and then the header of a large string or buffer; or its bytes."""
        if self._payload:
            self._payload = False
            self._flush()
            data = data.raw() if isinstance(data, pickle.PickleBuffer) else data
            self._put_buffer(data, self._sum)
            self._position += len(data)
            return
        at = 0
        if not self._position:
            at = 2 if data[:1] == PROTO else 0
            self._out(data[:at] + HEAD)
        if self._protocol < 4:
            self._opcodes(data[at:])
            self._payload = True
            return
        while data[at : at + 1] == FRAME:
            begin = at + FRAME_HEADER
            end = begin + int.from_bytes(data[at + 1 : begin], "little")
            self._opcodes(data[begin:end], data[at:begin])
            at = end
        if at < len(data):  # few opcodes are not worth a frame
            self._payload = len(data) - at >= _PAYLOAD_HEADER
            self._opcodes(data[at:])

    def _opcodes(self, opcodes: bytes, frame: bytes = b"") -> None:
        """Write opcodes, with arrays instead of their tokens. The opcodes behind the last array are written later."""
        if self._pending:
            if self._waiting and self._mark in self._pending:
                opcodes = self._pending + opcodes
                frame = frame_of(opcodes) if self._pending_frame or frame else b""
            else:
                self._flush()
        put, begin = b"", 0  # the opcodes that memoise the last array, and where the opcodes behind it begin
        while self._waiting:
            at = opcodes.find(self._mark, begin)
            if at < 0:
                break
            call = _CALL.match(opcodes, at + len(self._mark))
            if call is None:
                if len(opcodes) - at > len(self._mark) + _CALL_BYTES:
                    raise _lost("the token of an array is not called")
                break
            self._splice(put + opcodes[begin:at], self._waiting.popleft())
            put, begin = b"".join(call.groups()), call.end()
        if begin:
            opcodes = put + opcodes[begin:]
            frame = frame and frame_of(opcodes)
        self._pending, self._pending_frame = opcodes, frame

    def _flush(self, last: bool = False) -> None:
        """Write the opcodes that are pending. STOP, the last one, is left out: it follows the footer."""
        opcodes, frame = self._pending, self._pending_frame
        self._pending = self._pending_frame = b""
        if last:
            opcodes = opcodes.removesuffix(STOP)
            frame = frame and frame_of(opcodes)
        if frame and len(opcodes) > _FEW_OPCODES:
            self._out(frame)
            frame = b""
        if opcodes:
            self._out(frame + opcodes)

    def _splice(self, before: bytes, array: Any) -> None:
        """Write opcodes, then an array."""
        spec = ArraySpec.of(array)
        dtype, readable = self._of_dtype(spec.dtype)
        opcodes = before + POP + wrapper(integers(spec.shape), spec.order, dtype, self._mappable)
        if self._protocol >= 4:
            opcodes = frame_of(opcodes) + opcodes
        padding = -(self._begin + self._position + len(opcodes) + 1) % ALIGNMENT
        self._out(b"%b%c%b" % (opcodes, padding, padding * b"\xff"))
        start, nbytes = self._position, array.nbytes
        digest = self._put_array(array)
        self._position += nbytes
        self._footer.arrays.append(StoredArray(start, nbytes, readable, spec.shape, digest))

    def _put_array(self, array: Any) -> int:
        """Write the bytes of an array; return their checksum."""
        checksum = xxhash.xxh3_64()
        if array.flags.forc:
            self._put_buffer(memoryview(flat(array)), checksum)
        else:
            for piece in pieces(array):  # they share a buffer, so a thread would be too late
                checksum.update(piece)
                self._put(piece)
        return checksum.intdigest()

    def _put_buffer(self, data: Any, checksum: Any) -> None:
        """Write a buffer of bytes, and add it to a checksum."""
        nbytes = len(data)
        with updating(checksum, nbytes) as (update, step):
            # A compressor is given the buffer as a whole, which it need not copy.
            whole = not self._mappable or nbytes <= step
            for piece in [data] if whole else cut(memoryview(data), step):
                update(piece)
                self._put(piece)

    def _of_dtype(self, dtype: Any) -> tuple[bytes, str]:
        """Return the opcodes that push a dtype, and its text for people."""
        known = self._dtypes.get(id(dtype))
        if known is None:
            known = dtype, plain(dtype, self._protocol), readable(dtype)
            self._dtypes[id(dtype)] = known  # the dtype too: as long as it lives, no other one has its id
        return known[1:]

    def _out(self, data: Any) -> None:
        self._sum.update(data)
        self._position += len(data)
        self._put(data)


def _lost(problem: str) -> pickle.PicklingError:
    """Return the error to raise if the file would lack an array."""
    return pickle.PicklingError(f"{problem} in the output of pickle: the object cannot be dumped. Please report this")
