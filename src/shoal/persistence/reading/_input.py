"""The file-like object that the C unpickler reads from.

The C unpickler reads no more than it needs from a file without ``peek``. It accepts more bytes from ``read`` than it
has asked for, so a frame and its header are handed over in one call. Between frames, the sizes that the unpickler asks
for tell which byte comes next, and whether that byte is an opcode.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from shoal._arrays import PIECE, cut
from shoal._platform.files import READS_INTO_PARTS
from shoal.errors import DamagedFile, TruncatedFile
from shoal.persistence._checksums import updating
from shoal.persistence._format import FRAME, FRAME_HEADER, HEAD, LONG_BINPUT, MAGIC, NAME, POP, PROTO, STOP, Footer

#: If reading ahead is allowed, the file is read in blocks of this many bytes.
BLOCK = 2**18
#: If the size of the file is unknown, it is read in steps of at most this many bytes. A false length then costs no
#: memory, because memory is allocated only for bytes that arrive.
STEP = 2**25
#: Only frames of at most this many bytes are rebuilt before they are checked.
_FEW = 2**12
#: The opcodes that are followed by a length of eight bytes: BINBYTES8, BINUNICODE8, BYTEARRAY8.
_LONG = (b"\x8e", b"\x8d", b"\x96")
#: Finds opcodes that may claim any amount of memory, and some other bytes.
_claims_memory = re.compile(b"[%b%b]" % (LONG_BINPUT, b"".join(_LONG))).search
#: The opcodes that are followed by a length of four bytes: BINBYTES, BINUNICODE, BINSTRING, LONG4.
_SHORT = (b"B", b"X", b"T", b"\x8b")
# The opcodes behind a footer.
_END = POP + STOP


class Source:
    """The bytes of a stream from its current position on, counted, and checked against the size of the file.

    Parameters
    ----------
    file
        Has ``read``, and ``readinto`` if possible.
    name
        The name of the file, for errors.
    left
        The number of bytes from here to the end of the file; None if unknown.
    ahead
        Bytes that were already read from the file.
    exact
        If True, never read more bytes from the file than the object has.

    Attributes
    ----------
    position
        The number of bytes that were handed out.
    checksum
        An xxh3_64 that is updated with all bytes except those of arrays; None if no checksum is needed.
    """

    def __init__(self, file: Any, name: str, left: int | None, ahead: bytes = b"", exact: bool = False) -> None:
        self.name = name
        self.position = 0
        self.left = left
        self.checksum: Any = None
        self._file = file
        self._exact = exact
        self._block, self._at = ahead, 0  # bytes read from the file, and how many of them were handed out

    def read_opcodes(self, nbytes: int, what: str) -> bytes:
        """Return the next `nbytes` bytes, and add them to the checksum.

        Raises
        ------
        TruncatedFile
            If the file has fewer bytes left.
        """
        data = self.read_data(nbytes, what)
        if self.checksum is not None:
            self.checksum.update(data)
        return data

    def read_data(self, nbytes: int, what: str) -> bytes:
        """Return the next `nbytes` bytes, which are data of an array: the checksum does not include them.

        Raises
        ------
        TruncatedFile
            If the file has fewer bytes left.
        """
        end = self._at + nbytes
        data = self._block[self._at : end]
        if len(data) == nbytes:
            self._at = end
        else:
            data = self._read_from_file(nbytes, what, data)
        self.position += nbytes
        return data

    def _read_from_file(self, nbytes: int, what: str, first: bytes) -> bytes:
        """Return `nbytes` bytes: `first`, the rest of the block, and the following bytes of the file."""
        self.expect(nbytes, what)
        self._block, self._at = b"", 0
        parts, have = [first], len(first)
        while have < nbytes:
            missing = nbytes - have
            part = self._file.read(min(missing if self._exact else max(missing, BLOCK), STEP))
            if not part:
                raise self._ends(nbytes, what, have)
            if len(part) > missing:
                self._block, self._at = part, missing
                part = part[:missing]
            parts.append(part)
            have += len(part)
        return b"".join(parts)

    def padding(self) -> None:
        """Skip the padding before an array: one byte that holds a length, and that many bytes."""
        self.read_opcodes(self.read_opcodes(1, "padding")[0], "padding")

    def padded(self, nbytes: int) -> bytes | None:
        """Skip the padding before an array and return the `nbytes` bytes of the array.

        Return None, and skip nothing, if these bytes have not been read from the file yet.
        """
        block, at = self._block, self._at
        if at >= len(block):
            return None
        begin = at + 1 + block[at]
        end = begin + nbytes
        if end > len(block):
            return None
        if self.checksum is not None:
            self.checksum.update(block[at:begin])
        self._at = end
        self.position += end - at
        return block[begin:end]

    def fill(self, memory: memoryview, what: str, checksum: Any = None) -> None:
        """Fill `memory` with the next bytes, and add them to `checksum`.

        Raises
        ------
        TruncatedFile
            If the file has fewer bytes left.
        """
        have, size = 0, memory.nbytes
        if checksum is not None and size > PIECE:
            with updating(checksum, size) as (update, step):
                for piece in cut(memory, step):
                    self.fill(piece, what)
                    update(piece)
            return
        while have < size:
            if self._at < len(self._block):
                data = memoryview(self._block)[self._at : self._at + size - have]
                self._at += len(data)
            elif READS_INTO_PARTS and hasattr(self._file, "readinto"):
                count = self._file.readinto(memory[have:])
                if not count:
                    raise self._ends(size, what, have)
                have += count
                continue
            else:
                data = self._file.read(min(size - have, STEP))
                if not data:
                    raise self._ends(size, what, have)
            memory[have : have + len(data)] = data
            have += len(data)
        self.position += size
        if checksum is not None:
            checksum.update(memory)

    def skip(self, nbytes: int, what: str) -> None:
        """Skip `nbytes` bytes, by seeking if the file can.

        Raises
        ------
        TruncatedFile
            If the file has fewer bytes left.
        """
        self.expect(nbytes, what)
        step = min(nbytes, len(self._block) - self._at)
        self._at += step
        self.position += step
        nbytes -= step
        if nbytes and self.left is not None and hasattr(self._file, "seek"):
            self._file.seek(nbytes, 1)
            self.position += nbytes
            return
        while nbytes:
            nbytes -= len(self.read_data(min(nbytes, STEP), what))

    def expect(self, nbytes: int, what: str) -> None:
        """Raise TruncatedFile if the file is known to have fewer than `nbytes` bytes left."""
        if self.left is not None and nbytes > self.left - self.position:
            raise self._ends(nbytes, what, self.left - self.position)

    def _ends(self, nbytes: int, what: str, have: int) -> TruncatedFile:
        return TruncatedFile(self.name, self.position, f"{nbytes} bytes of {what}", f"{max(have, 0)}")


class Input(Source):
    """A :class:`Source` with the methods that the C unpickler calls, and the footer of the file.

    Parameters
    ----------
    file, name, left, ahead, exact
        As for :class:`Source`.
    known
        The footer, if it was already read.

    Attributes
    ----------
    known
        As given.
    promised
        Whether the file has a footer: it is known, or the unpickler has read the mark at the beginning of such files.
    failure
        The error that was last raised here. Where it asks for an opcode, the C unpickler raises EOFError instead.
    footer
        The footer, once the unpickler has read it.
    before_footer
        The checksum of everything before the footer.
    compare
        Reads the pickle and compares its checksum, for :meth:`check`; None if there is nothing to compare.
    checked
        Whether the pickle was compared with its checksum before it is rebuilt.
    """

    def __init__(
        self,
        file: Any,
        name: str,
        left: int | None,
        ahead: bytes = b"",
        exact: bool = False,
        known: Footer | None = None,
    ) -> None:
        super().__init__(file, name, left, ahead, exact)
        self.promised = known is not None
        self.footer: Footer | None = None
        self.before_footer: int | None = None
        self.failure: DamagedFile | None = None
        self.compare: Callable[[], None] | None = None
        self.checked = False
        self.known = known
        self._before = b""  # opcodes that the unpickler gets before the next byte of the file
        self._before_opcode: Any = None  # the checksum before the last single byte that was asked for
        self._at_opcode = True  # whether the next byte is certainly an opcode
        self._last = b""  # the last single byte that was asked for
        self._frame = -1  # the length of a frame whose header was asked for piece by piece

    def read(self, size: int = -1) -> bytes | memoryview:
        """Return the bytes that the unpickler needs next: `size` bytes, or more where an opcode or a frame begins."""
        try:
            if size == 1 and self.checksum is not None:
                self._before_opcode = self.checksum.copy()
            if not self._at_opcode:
                return self._argument(size)
            before, self._before = self._before, b""
            if before == _END:
                return before
            at = self._at
            first, end = self._block[at : at + 1], 0
            if first == FRAME:
                end = at + FRAME_HEADER + int.from_bytes(self._block[at + 1 : at + FRAME_HEADER], "little")
            if end > len(self._block) or not first:
                end = self._read_frame_ahead()
                at = self._at
            if not end:
                return self._opcode(before)
            if not self.promised:
                self._no_footer()
            if self.compare is not None and (end - at > _FEW or _claims_memory(self._block, at, end)):
                self.check()
            frame = memoryview(self._block)[at:end]
            self._at = end
            self.position += end - at
            if self.checksum is not None:
                self.checksum.update(frame)
            return before + frame if before else frame
        except DamagedFile as error:
            self.failure = error
            raise

    def _read_frame_ahead(self) -> int:
        """Read on until the block holds all of the next frame, and return where in the block the frame ends.

        Return 0 if no whole frame comes next, if the frame is larger than a block, or if reading ahead is not allowed.
        """
        if self._exact:
            return 0
        self._block, self._at = self._block[self._at :], 0
        end = FRAME_HEADER
        while True:
            block = self._block
            if block and block[:1] != FRAME:
                return 0
            if len(block) >= FRAME_HEADER:
                end = FRAME_HEADER + int.from_bytes(block[1:FRAME_HEADER], "little")
                if end <= len(block):
                    return end
                if end > BLOCK:
                    return 0
            # Only the rest of a frame that has begun: the copy is then not larger than the frame.
            part = self._file.read(end - len(block) if block else BLOCK)
            if not part:
                return 0
            self._block = block + part

    def _opcode(self, before: bytes) -> bytes:
        """Return the next opcode, with its argument if that is a protocol or a frame."""
        opcode = self.read_opcodes(1, "opcodes")
        if opcode == FRAME:
            if not self.promised:
                self._no_footer()
            self.check()
            header = self.read_opcodes(8, "a frame's header")
            return before + opcode + header + self.read_opcodes(int.from_bytes(header, "little"), "a frame")
        if opcode == PROTO:
            return before + opcode + self.read_opcodes(1, "opcodes")
        if opcode != POP:  # which has no argument
            self._at_opcode, self._last = False, opcode
        return before + opcode

    def _argument(self, size: int) -> bytes:
        """Return the argument of an opcode outside of frames, or the next opcode."""
        data = self.read_opcodes(size, "opcodes")
        if size == 8:
            nbytes = int.from_bytes(data, "little")
            if self._last == FRAME:
                self.check()
                self._frame = nbytes
            elif self._last in _LONG:
                self.expect(nbytes, "a string")
        elif size == self._frame:
            self._at_opcode, self._frame = True, -1
        elif size == 4:
            number = int.from_bytes(data, "little")
            if self._last in _SHORT:
                self.expect(number, "a string")
            elif self._last == LONG_BINPUT and number > self.position:  # the memo would grow to that size at once
                raise DamagedFile(self.name, self.position, "the next index of the memo", str(number))
        self._last = data if size == 1 else b""
        return data

    def check(self) -> None:
        """Compare the pickle with its checksum, unless that was done: raise DamagedFile if it differs.

        To be called before anything is imported, and before the unpickler gets opcodes that may be harmful.
        """
        compare, self.compare = self.compare, None
        if compare is not None:
            compare()
            self.checked, self.checksum, self._before_opcode = True, None, None

    def _no_footer(self) -> None:
        """Stop the checksum: the file has no footer that the checksum could be compared with."""
        self.checksum = None

    def go_on(self, before: bytes = b"") -> None:
        """Note that an opcode comes next, and hand the opcodes `before` to the unpickler first."""
        self._at_opcode, self._before = True, before

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer of the unpickler with a string. An opcode follows."""
        self.fill(memoryview(buffer), "a string", self.checksum)
        self._at_opcode = True
        if self.promised and bytes(buffer[-len(MAGIC) :]) == MAGIC:
            self._read_footer(bytes(buffer))
        elif self.position <= len(PROTO) + 1 + len(HEAD):
            self.promised = self.promised or bytes(buffer) == NAME
        return len(buffer)

    def _read_footer(self, body: bytes) -> None:
        opcodes = b"B" + len(body).to_bytes(4, "little") + body + _END
        try:
            known = self.known is not None and self.known.opcodes == opcodes
            self.footer = self.known if known else Footer.decoded(opcodes)
        except ValueError:  # a string that ends like a footer; after a damaged footer, no other one will come
            return
        if self._before_opcode is not None:
            self.before_footer = self._before_opcode.intdigest()
        end = self.read_opcodes(len(_END), "opcodes")
        if end != _END:
            raise DamagedFile(self.name, self.position, "the end of the object", repr(end))
        self._before = end

    def readline(self) -> bytes:
        """Return a line: the argument of an opcode of protocol 0."""
        end = self._block.find(b"\n", self._at) + 1
        if end:
            self._last = b""
            return self.read_opcodes(end - self._at, "opcodes")
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self.read_opcodes(1, "opcodes")
        self._last = b""
        return bytes(line)
