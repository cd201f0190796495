"""A walk over opcodes, before the unpickler has them: no meaning, only where each ends and what none may ask for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from shoal.persistence._format import FRAME, MEMOIZE, PROTO
from shoal.persistence._limits import Budget

_BY_CODE = rb"[()\]}01.NaebdlostuRQ\x81\x85-\x89\x8f-\x94\x97\x98]"
_FIXED = {b"K": 1, b"h": 1, b"q": 1, b"M": 2, b"J": 4, b"j": 4, b"r": 4, b"G": 8, PROTO: 1, FRAME: 8}
#: Opcodes that need no second look. So many at a time: a match takes memory for each.
_RUN = re.compile(rb"(?:%b|[Khq].|M..|[Jj]....|G.{8}){0,4096}" % _BY_CODE, re.DOTALL)
#: Many tuples that hold the one before each: what a tuple is made of is more than what stands just before its opcode.
_PUSH = rb"(?:[N)\]}\x88\x89]|[Kh].|M..|[Jj]....|G.{8})"
_LINK = rb"(?:\x94|q.|r....)?(?:0(?:h.|j....))?(?:\x85|%b?\x86|%b{0,2}\x87|%b{0,3}t)" % (_PUSH, _PUSH, _PUSH)
_CHAIN = re.compile(rb"[\x85-\x87t](?:%b){100,}" % _LINK, re.DOTALL)
#: A long chain goes beyond what `_RUN` matches at once, so the end of that tells whether one may be there.
_END_OF_CHAIN = re.compile(rb"[\x85-\x87t](?:%b){20,}.{0,40}\Z" % _LINK, re.DOTALL)
_END_BYTES = 700
_TUPLE = re.compile(rb"[\x85-\x87t]")
#: Tuples are nested no deeper in a row. The hash of one recurs in C: a stack of 8 MB is enough for some 120,000.
_DEPTH = 5000
#: Opcodes after which keys may be hashed.
_HASHES = frozenset(b"sud\x90\x91RboiQ\x81\x92")
#: Opcodes that begin with a length, of so many bytes.
_SIZED = {b"C": 1, b"U": 1, b"\x8a": 1, b"\x8c": 1, b"B": 4, b"T": 4, b"X": 4, b"\x8b": 4}
_SIZED |= {b"\x8d": 8, b"\x8e": 8, b"\x96": 8}
#: Opcodes that are followed by so many lines.
_LINES = {b"I": 1, b"L": 1, b"F": 1, b"S": 1, b"V": 1, b"g": 1, b"p": 1, b"P": 1, b"c": 2, b"i": 2}
_SHORT_TEXT = 0x8C
_DUP = b"2"
#: The memo takes so many bytes for an index, twice as many for a moment.
_PER_INDEX = 24
_EXTENSIONS = (b"\x82", b"\x83", b"\x84")


#: Opcodes without a length that have nothing to do with the memo; short texts, most of which are shorter than this.
_APART = re.compile(
    rb"(?:[()\]}01.NaebdlostuRQ\x81\x85-\x89\x8f-\x93\x97\x98]|K.|M..|J....|G.{8}|\x80.|\x95.{8}|\x8c(?:%b)){0,4096}"
    % b"|".join(b"%b.{%d}" % (re.escape(bytes([size])), size) for size in range(1, 33)),
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


#: A chain goes on, perhaps, where so few bytes follow it.
_REST = 40
#: What was fed one by one is looked at when it is so long.
_LONG = 2**16


class Misuse(Exception):
    """Something is done that pickle does not do, and nobody can go on; the text says what."""


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
    """

    def __init__(self, refuse: Callable[[str, str], Any], budget: Budget) -> None:
        self.protocol = 0
        self.top = 0
        self._budget = budget
        self._refuse = refuse
        self._walked = 0
        self._rest = b""  # of an opcode that is not whole
        self._payload = 0  # how many bytes of a string are still to come
        self._frame: int | None = None  # the length of the frame that comes next
        self._chain = bytearray()  # of tuples in each other, so far

    def feed(self, given: Any) -> None:
        """Take what the unpickler is given next.

        A frame must end with an opcode: otherwise the unpickler would drop a part of it, and go on elsewhere than
        here.
        """
        if self._payload:
            if len(given) > self._payload:
                self._refuse("the rest of a string", "more than that")
            self._payload -= len(given)
            self._walked += len(given)
            return
        data = self._rest + given
        framed = self._frame is not None
        if framed and len(data) != self._frame:
            self._refuse(f"a frame of {self._frame} bytes", f"one of {len(data)}")
        self._frame = None
        if len(given) <= 9:  # opcodes come one by one
            self._chain += given
            if len(self._chain) > _DEPTH and (given[0] in _HASHES or len(self._chain) > _LONG):
                self._bound(b"")
        at = self._walk(data, framed)
        self._walked += at
        self._rest = data[at:]

    def _walk(self, data: bytes, framed: bool) -> int:
        """Return where the last whole opcode ends; framed ones, and those of a frame that begins here, end with it."""
        at, end = 0, len(data)
        while at < end:
            if data[at] == _SHORT_TEXT and at + 1 < end:  # most of what has a length
                after = at + 2 + data[at + 1]
                if after <= end:
                    at = after
                    continue
            begin, at = at, _RUN.match(data, at).end()  # type: ignore[union-attr]
            if at > begin:
                end_at = max(begin, at - _END_BYTES)
                if at - begin > 200 and (self._chain or _END_OF_CHAIN.search(data, end_at, at)):
                    self._bound(data[begin:at])
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
                if stop is None:
                    return at
                self._payload = stop - end
                return end
            at = stop
        return at

    def _bound(self, opcodes: bytes) -> None:
        """Refuse tuples that are nested too deep, before anything takes a hash of them."""
        opcodes = bytes(self._chain) + opcodes
        self._chain.clear()
        for chain in _CHAIN.finditer(opcodes):
            if len(_TUPLE.findall(chain[0])) > _DEPTH:
                raise Misuse(f"it nests more than {_DEPTH:,} tuples in each other")
            if len(opcodes) - chain.end() < _REST:
                self._chain += opcodes[chain.start() :]

    def _end_of(self, data: bytes, at: int) -> int | None:
        """Return where an opcode ends; None if that is not to be told yet."""
        code, end = data[at : at + 1], len(data)
        size = _SIZED.get(code)
        if size is not None:
            after = at + 1 + size
            return None if after > end else after + int.from_bytes(data[at + 1 : after], "little")
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
            self._budget.take(_PER_INDEX * (index - self.top))
            self.top = index
