"""A walk over opcodes, before the unpickler has them: no meaning, only where each ends and what none may ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from shoal.persistence._format import FRAME, MEMOIZE, PROTO
from shoal.persistence.trust._depth import AT_ONCE, FLAT_ITEMS, SOON, TEXT, Depths
from shoal.persistence.trust._limits import Budget, Misuse

_FIXED = {b"K": 1, b"h": 1, b"q": 1, b"M": 2, b"J": 4, b"j": 4, b"r": 4, b"G": 8, PROTO: 1, FRAME: 8}
#: What puts something on the stack, and into the memo, that holds nothing, and will hold nothing that a call may hash.
_PUSH = rb"(?:(?:[N})\x88\x89\x8f]|K.|M..|J....|G.{8}|%b)(?:\x94|q.)?)" % TEXT
#: Several of them, and the tuple that is made of the last of them. Behind a mark, also of all of them.
_FLAT = rb"%b(?:\x85|%b(?:[\x85\x86]|%b{1,4096}[\x85-\x87]?)?)?" % (_PUSH, _PUSH, _PUSH)
_MARKED = rb"\((?:%b(?:[\x85t]|%b(?:[\x85\x86t]|%b{1,%d}[\x85-\x87t]?)?)?)?" % (_PUSH, _PUSH, _PUSH, FLAT_ITEMS - 2)
#: Opcodes that need no second look. So many at a time: a match takes memory for each.
_RUN = re.compile(rb"(?:%b|%b|[\]1.0aebdlsuQ\x90\x94\x97\x98]|[hq].|j....){0,4096}" % (_FLAT, _MARKED), re.DOTALL)
#: The same, where it does not matter what is in tuples.
_ANY = re.compile(
    rb"(?:[()\]}01.NaebdlostuRQ\x81\x85-\x89\x8f-\x94\x97\x98]|[Khq].|M..|[Jj]....|G.{8}|%b){0,4096}" % TEXT, re.DOTALL
)
#: From the first of them on, opcodes are followed: those that may make a tuple of what holds others, or of many; that
#: make a frozenset; that import, or call, something.
_LINKS = frozenset(b"to\x85\x86\x87R\x81\x91\x92\x93")
_NAMES = (b"c", b"i")
#: Opcodes that begin with a length, of so many bytes.
_SIZED = {b"C": 1, b"U": 1, b"\x8a": 1, b"\x8c": 1, b"B": 4, b"T": 4, b"X": 4, b"\x8b": 4}
_SIZED |= {b"\x8d": 8, b"\x8e": 8, b"\x96": 8}
#: Opcodes that are followed by so many lines.
_LINES = {b"I": 1, b"L": 1, b"F": 1, b"S": 1, b"V": 1, b"g": 1, b"p": 1, b"P": 1, b"c": 2, b"i": 2}
_DUP = b"2"
#: The memo takes so many bytes for an index, twice as many for a moment.
_PER_INDEX = 24
#: What does the same to the memo as the opcodes of protocol 0.
_BINARY = {b"g": b"j", b"p": b"r"}
_EXTENSIONS = (b"\x82", b"\x83", b"\x84")


#: Opcodes that have nothing to do with the memo.
_APART = re.compile(
    rb"(?:[()\]}01.NaebdlostuRQ\x81\x85-\x89\x8f-\x93\x97\x98]|K.|M..|J....|G.{8}|\x80.|\x95.{8}|%b){0,4096}" % TEXT,
    re.DOTALL,
)
_GET = {b"h": 1, b"j": 4}
_PUT = {b"q": 1, b"r": 4}


def memo_uses(data: bytes) -> tuple[dict[int, int], int]:
    """Return how often each index of the memo is taken from it, and how many objects are put into it.

    Parameters
    ----------
    data
        Opcodes that a :class:`Walk` has gone through, of one unpickler.
    """
    gets: dict[int, int] = {}
    puts, at, end = 0, 0, len(data)
    while at < end:
        at = _APART.match(data, at).end()  # type: ignore[union-attr]
        if at >= end:
            break
        code = data[at : at + 1]
        if code == MEMOIZE:
            puts += 1
            at += 1
        elif code in _GET:
            after = at + 1 + _GET[code]
            index = int.from_bytes(data[at + 1 : after], "little")
            gets[index] = gets.get(index, 0) + 1
            at = after
        elif code in _PUT:
            puts += 1
            at += 1 + _PUT[code]
        elif code in _SIZED:
            after = at + 1 + _SIZED[code]
            at = after + int.from_bytes(data[at + 1 : after], "little")
        elif code in _LINES:
            after = at
            for _ in range(_LINES[code]):
                after = data.index(b"\n", after + 1)
            if code == b"p":
                puts += 1
            elif code == b"g":
                index = int(data[at + 1 : after])
                gets[index] = gets.get(index, 0) + 1
            at = after + 1
        else:
            at += 1 + _FIXED.get(code, 0)
    return gets, puts


def short(data: bytes) -> bytes:
    """Return what :class:`Depths` follows: opcodes as they are, but for those that are of many lengths.

    Parameters
    ----------
    data
        Opcodes that a :class:`Walk` has gone through.
    """
    parts, at, end = [], 0, len(data)
    while at < end:
        begin, at = at, _ANY.match(data, at).end()  # type: ignore[union-attr]
        if at > begin:
            parts.append(data[begin:at])
            continue
        code = data[at : at + 1]
        if code in _SIZED:
            after = at + 1 + _SIZED[code]
            at = after + int.from_bytes(data[at + 1 : after], "little")
            parts.append(b"N")
        elif code in _LINES:
            after = at
            for _ in range(_LINES[code]):
                after = data.index(b"\n", after + 1)
            if code in _BINARY:
                parts.append(_BINARY[code] + int(data[at + 1 : after]).to_bytes(4, "little"))
            else:
                parts.append(b"i" if code == b"i" else b"N")
            at = after + 1
        else:
            begin, at = at, at + 1 + _FIXED.get(code, 0)
            if code == b"r":
                parts.append(data[begin:at])
    return b"".join(parts)


class Walk:
    """Follows what an unpickler is given.

    Parameters
    ----------
    refuse
        Raises what is to be raised, from two texts: what was expected, and what was found.
    budget
        What may be taken.

    Attributes
    ----------
    protocol
        That of pickle, the first one that was named.
    top
        The highest index that was put into the memo by its number.
    linked
        Whether one unpickler's opcodes have to be followed.
    text
        How many of the bytes so far stand in strings, beside the short texts of protocol 4.
    """

    def __init__(self, refuse: Callable[[str, str], Any], budget: Budget) -> None:
        self.protocol = 0
        self.top = 0
        self.text = 0
        self._budget = budget
        self._refuse = refuse
        self._walked = 0
        self._rest = b""  # of an opcode that is not whole
        self._payload = 0  # how many bytes of a string are still to come
        self._frame: int | None = None  # the length of the frame that comes next
        self._whole = 0  # where the last opcode ends whose string is whole, too
        self._memo: Callable[[], Mapping[int, Any]] = dict
        self.linked = False
        self._depths: Depths | None = None  # if they are

    def enter(self, memo: Callable[[], Mapping[int, Any]]) -> tuple[Any, ...]:
        """Begin with the opcodes of another unpickler; return what :meth:`leave` takes."""
        outer = self.top, self._memo, self.linked, self._depths
        self.top, self._memo, self.linked, self._depths = 0, memo, False, None
        return outer

    def leave(self, outer: tuple[Any, ...]) -> None:
        """Go on with those of the one before."""
        self.top, self._memo, self.linked, self._depths = outer

    def feed(self, given: Any) -> None:
        """Take what the unpickler is given next.

        A frame must end with an opcode: otherwise the unpickler would drop a part of it, and go on elsewhere than
        here.
        """
        if self._payload:
            if len(given) > self._payload:
                self._refuse("the rest of a string", "more than that")
            self._payload -= len(given)
            self.text += len(given)
            self._walked += len(given)
            return
        data = self._rest + given
        framed = self._frame is not None
        if framed and len(data) != self._frame:
            self._refuse(f"a frame of {self._frame} bytes", f"one of {len(data)}")
        self._frame = None
        at = self._walk(data, framed)
        if self.linked or data == b"(":
            self.linked = True
            if self._depths is None:
                self._depths = Depths(self._budget, self._memo(), self._walked)
            waiting = self._depths.waiting
            waiting += data[: self._whole]
            if at > self._whole:  # a string, which is not there as a whole
                waiting += b"N"
            # Frames are more than 9 bytes; outside of them, the unpickler is given one opcode at a time.
            if framed or len(data) > 9 or data[-1:] in AT_ONCE or len(waiting) > SOON:
                self._depths.follow(short(bytes(waiting)))
                waiting.clear()
        self._walked += at
        self._rest = data[at:]

    def _walk(self, data: bytes, framed: bool) -> int:
        """Return where the last whole opcode ends; framed ones, and those of a frame that begins here, end with it."""
        at, end = 0, len(data)
        run = _RUN if self._depths is None else _ANY
        while at < end:
            begin, at = at, run.match(data, at).end()  # type: ignore[union-attr]
            if at > begin:
                continue
            if data[at] in _LINKS:
                self.linked = True
                at += 1
                continue
            if data[at : at + 1] == FRAME and at + 9 <= end:
                if framed:
                    self._refuse("opcodes of a frame", "another frame")
                size = int.from_bytes(data[at + 1 : at + 9], "little")
                at += 9
                if at == end:
                    self._frame = size
                elif at + size == end:
                    framed = True
                else:
                    self._refuse(f"a frame of {size} bytes", f"one of {end - at}")
                continue
            stop = self._end_of(data, at)
            if stop is None or stop > end:
                if framed:
                    self._refuse("an opcode", "the end of a frame in the middle of one")
                self._whole = at
                if stop is None:
                    return at
                self._payload = stop - end
                return end
            at = stop
        self._whole = at
        return at

    def _end_of(self, data: bytes, at: int) -> int | None:
        """Return where an opcode ends; None if that is not to be told yet."""
        code, end = data[at : at + 1], len(data)
        size = _SIZED.get(code)
        if size is not None:
            after = at + 1 + size
            if after > end:
                return None
            length = int.from_bytes(data[at + 1 : after], "little")
            self.text += min(length, end - after)
            return after + length
        size = _FIXED.get(code)
        if size is not None:
            after = at + 1 + size
            if after > end:
                return None
            if code == b"r":
                self._put(int.from_bytes(data[at + 1 : after], "little"))
            elif code == PROTO:
                self.protocol = self.protocol or data[at + 1]
            return after
        if code in _LINES:
            after = at
            for _ in range(_LINES[code]):
                after = data.find(b"\n", after + 1)
                if after < 0:
                    return None
            if code == b"p":
                text = data[at + 1 : after]
                self._put(int(text) if text.isdigit() and len(text) < 20 else -1)
            self.linked = self.linked or code in _NAMES
            return after + 1
        if code in _EXTENSIONS:  # what copyreg has in its cache would come from there, past find_class
            raise Misuse("it names a global by an extension code (copyreg.add_extension)")
        if code == _DUP:  # pickle takes what it has written before from the memo; so it is known what is in two places
            raise Misuse("it copies what is on the stack (DUP)")
        self._refuse("an opcode", repr(code))
        raise AssertionError

    def _put(self, index: int) -> None:
        """Refuse what would have the unpickler make room for many more objects than there can be."""
        if not 0 <= index <= self._walked + 2**16:
            self._refuse("an index of the memo", f"{index}")
        if index > self.top:
            self._budget.charge(_PER_INDEX * (index - self.top))
            self.top = index
