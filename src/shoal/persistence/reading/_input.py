"""What an unpickler reads from.

The C unpickler takes from a file that has no `peek` what it needs and no more. It also takes more than it has asked
for, in whatever ``read`` returns: so that a frame with its header is one read. In between frames, which byte comes
next, and whether it is an opcode, is known from what was asked for.
"""

from __future__ import annotations

from typing import Any

from shoal._arrays import cut
from shoal.errors import DamagedFile, TruncatedFile
from shoal.persistence._format import FRAME, HEAD, LONG_BINPUT, MAGIC, NAME, POP, PROTO, STOP, Footer

#: Where more may be read than the unpickler needs, it is in blocks of so many bytes.
BLOCK = 2**18
#: What nobody knows to be in the file is read in steps of so many bytes: what it only claims to hold takes no memory.
STEP = 2**25
#: The opcodes that are followed by a length of eight bytes: BINBYTES8, BINUNICODE8, BYTEARRAY8.
_LONG = (b"\x8e", b"\x8d", b"\x96")
#: Those that are followed by one of four: BINBYTES, BINUNICODE, BINSTRING, LONG4.
_SHORT = (b"B", b"X", b"T", b"\x8b")
#: What follows a footer.
_END = POP + STOP


class Input:
    """A file, or a stream of any kind, from where it stands.

    Parameters
    ----------
    file
        Has ``read``, and ``readinto`` where it can.
    name
        What to call it in errors.
    left
        The number of bytes from here to its end; None if nobody knows.
    ahead
        Bytes that were read from it already.
    exact
        Whether no more may be read than the object takes.
    known
        The footer, if it was read already.

    Attributes
    ----------
    position
        The number of bytes that were taken.
    checksum
        Takes what is taken of other than arrays; None if nobody is interested.
    promised
        Whether the unpickler has come by what says that there is a footer.
    failure
        What was raised: where it has asked for an opcode, the unpickler makes a plain EOFError of it.
    footer
        The footer, once it has come by it.
    before_footer
        The checksum of what stood before it.
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
        self.name = name
        self.position = 0
        self.left = left
        self.checksum: Any = None
        self.promised = False
        self.footer: Footer | None = None
        self.before_footer: int | None = None
        self.failure: DamagedFile | None = None
        self._file = file
        self._exact = exact
        self._known = known
        self._block, self._at = ahead, 0  # what was read already, and how much of it was taken
        self._before = b""  # opcodes to be run before what comes next
        self._before_opcode: Any = None  # the checksum before the byte that was last asked for by itself
        self._at_opcode = True  # whether what comes next is certainly an opcode
        self._last = b""  # the byte that was asked for by itself
        self._frame = -1  # the length of a frame whose header was asked for piece by piece

    @property
    def unused(self) -> int:
        """The number of bytes that were read and not taken."""
        return len(self._block) - self._at

    def read(self, size: int = -1) -> bytes | memoryview:
        """Return what the unpickler needs next: so many bytes, or more."""
        try:
            if size == 1 and self.checksum is not None:
                self._before_opcode = self.checksum.copy()
            return self._next() if self._at_opcode else self._argument(size)
        except DamagedFile as error:
            self.failure = error
            raise

    def _argument(self, size: int) -> bytes:
        """Return what belongs to an opcode outside of frames, or the next of those."""
        data = self.exactly(size, "opcodes")
        if size == 8:
            nbytes = int.from_bytes(data, "little")
            if self._last == FRAME:
                self._frame = nbytes
            elif self._last in _LONG:
                self.expect(nbytes, "a string")
        elif size == self._frame:
            self._at_opcode, self._frame = True, -1
        elif size == 4:
            number = int.from_bytes(data, "little")
            if self._last in _SHORT:
                self.expect(number, "a string")
            elif self._last == LONG_BINPUT and number > self.position:  # the memo grows to that size at once
                raise DamagedFile(self.name, self.position, "the next index of the memo", str(number))
        self._last = data if size == 1 else b""
        return data

    def _next(self) -> bytes | memoryview:
        """Return the next frame with its header, or an opcode outside of frames."""
        before, self._before = self._before, b""
        if before == _END:
            return before
        block, at = self._block, self._at
        if block[at : at + 1] == FRAME:
            end = at + 9 + int.from_bytes(block[at + 1 : at + 9], "little")
            if end <= len(block):  # mostly
                if not self.promised:
                    self._no_footer()
                frame = memoryview(block)[at:end]
                self._at = end
                self.position += end - at
                if self.checksum is not None:
                    self.checksum.update(frame)
                return before + frame if before else frame
        opcode = self.exactly(1, "opcodes")
        if opcode == FRAME:
            if not self.promised:
                self._no_footer()
            header = self.exactly(8, "a frame's header")
            return before + opcode + header + self.exactly(int.from_bytes(header, "little"), "a frame")
        if opcode == PROTO:
            return before + opcode + self.exactly(1, "opcodes")
        self._at_opcode, self._last = False, opcode
        return before + opcode

    def _no_footer(self) -> None:
        """Take note that no footer will come: nothing that follows need be summed up."""
        self.checksum = None

    def go_on(self, before: bytes = b"") -> None:
        """Take note that an opcode comes next, and which are to be run before it."""
        self._at_opcode, self._before = True, before

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer of the unpickler's: a string, after which an opcode comes."""
        self.fill(memoryview(buffer), "a string")
        self._at_opcode = True
        if self.checksum is not None:
            self.checksum.update(buffer)
        if self.promised and bytes(buffer[-len(MAGIC) :]) == MAGIC:
            self._take_footer(bytes(buffer))
        elif self.position <= len(PROTO) + 1 + len(HEAD):
            self.promised = self.promised or bytes(buffer) == NAME
        return len(buffer)

    def _take_footer(self, body: bytes) -> None:
        opcodes = b"B" + len(body).to_bytes(4, "little") + body + _END
        try:
            known = self._known is not None and self._known.opcodes == opcodes
            self.footer = self._known if known else Footer.decoded(opcodes)
        except ValueError:  # another string that ends like one; if it is a damaged one, none will come
            return
        if self._before_opcode is not None:
            self.before_footer = self._before_opcode.intdigest()
        end = self.exactly(len(_END), "opcodes")
        if end != _END:
            raise DamagedFile(self.name, self.position, "the end of the object", repr(end))
        self._before = end

    def readline(self) -> bytes:
        """Return a line: the argument of an opcode of early protocols."""
        end = self._block.find(b"\n", self._at) + 1
        if end:
            self._last = b""
            return self.exactly(end - self._at, "opcodes")
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self.exactly(1, "opcodes")
        self._last = b""
        return bytes(line)

    def exactly(self, size: int, what: str) -> bytes:
        """Return so many bytes, which are of no array.

        Raises
        ------
        TruncatedFile
            If there are fewer.
        """
        data = self.taken(size, what)
        if self.checksum is not None:
            self.checksum.update(data)
        return data

    def padding(self) -> None:
        """Go past the padding before an array: its length, and so many bytes."""
        self.exactly(self.exactly(1, "padding")[0], "padding")

    def padded(self, nbytes: int) -> bytes | None:
        """Return the bytes of an array that come after padding, if they were read already."""
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

    def taken(self, size: int, what: str) -> bytes:
        """Return so many bytes.

        Raises
        ------
        TruncatedFile
            If there are fewer.
        """
        end = self._at + size
        data = self._block[self._at : end]
        if len(data) == size:
            self._at = end
        else:
            data = self._gathered(size, what, data)
        self.position += size
        return data

    def _gathered(self, size: int, what: str, first: bytes) -> bytes:
        """Return so many bytes, of which the first are those that were left of a block."""
        self.expect(size, what)
        self._block, self._at = b"", 0
        parts, have = [first], len(first)
        while have < size:
            wanted = size - have
            part = self._file.read(min(wanted if self._exact else max(wanted, BLOCK), STEP))
            if not part:
                raise self._ends(size, what, have)
            if len(part) > wanted:
                self._block, self._at = part, wanted
                part = part[:wanted]
            parts.append(part)
            have += len(part)
        return b"".join(parts)

    def fill(self, memory: memoryview, what: str, checksum: Any = None) -> None:
        """Fill some memory, and take what comes into a checksum.

        Raises
        ------
        TruncatedFile
            If there are fewer bytes.
        """
        for piece in [memory] if checksum is None else cut(memory):
            have = 0
            while have < piece.nbytes:
                count = self._into(piece[have:])
                if not count:
                    raise self._ends(memory.nbytes, what, have)
                have += count
            self.position += have
            if checksum is not None:
                checksum.update(piece)

    def _into(self, memory: memoryview) -> int:
        size = memory.nbytes
        if self._at == len(self._block):
            if hasattr(self._file, "readinto"):
                return self._file.readinto(memory) or 0
            data = self._file.read(min(size, STEP)) or b""
        else:
            data = memoryview(self._block)[self._at : self._at + size]
            self._at += len(data)
        memory[: len(data)] = data
        return len(data)

    def skip(self, nbytes: int, what: str) -> None:
        """Go past so many bytes.

        Raises
        ------
        TruncatedFile
            If there are fewer.
        """
        self.expect(nbytes, what)
        step = min(nbytes, self.unused)
        self._at += step
        self.position += step
        nbytes -= step
        if nbytes and self.left is not None and hasattr(self._file, "seek"):
            self._file.seek(nbytes, 1)
            self.position += nbytes
            return
        while nbytes:
            nbytes -= len(self.taken(min(nbytes, STEP), what))

    def expect(self, nbytes: int, what: str) -> None:
        """Refuse a length that the file cannot hold."""
        if self.left is not None and nbytes > self.left - self.position:
            raise self._ends(nbytes, what, self.left - self.position)

    def _ends(self, nbytes: int, what: str, have: int) -> TruncatedFile:
        return TruncatedFile(self.name, self.position, f"{nbytes} bytes of {what}", f"{max(have, 0)}")
