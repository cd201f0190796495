"""How deep tuples are nested, before the unpickler builds them.

The hash of a tuple calls the hashes of its items, by recursion in C, and nothing stops it before the stack ends: a key
made of many thousand nested tuples crashes the interpreter. So :class:`Depths` follows what the unpickler does with its
stack and its memo, with a number in the place of each object: an upper bound of how many tuples are nested in it.

Why that is enough:

- A tuple is one deeper than its deepest item. A tuple of numbers counts as 0; that is wrong by one, and saves time.
- Lists and dictionaries are 0 deep, since they have no hash; sets are, since they keep the hashes of their items.
- The result of a call is as deep as its arguments: it may be a named tuple of these.
- A state (BUILD) does not count. If the hash of an instance looks at its state, that is code of a trusted class.
- An array of objects is 0 deep. The survey refuses a nested pickle that holds a tuple instead.

This costs some 150 ns per opcode, so it begins only when it is needed. Before that, `Walk` counts the tuples that may
hold others: all but those whose opcode directly follows their items, if these are strings, numbers or empty
containers. Nothing can be nested deeper than that count plus one. When the count exceeds `FEW`, this bound is assumed
for everything that is on the stack already, and for what is in the memo and might hold tuples; from there on, each
opcode is followed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from shoal.persistence.trust._limits import Misuse

#: Tuples are nested no deeper. A hash takes some 70 bytes of the stack for each; threads have 512 kB, somewhere.
DEPTH = 5000
#: So many tuples may hold others before each is followed.
FEW = 1000
#: Opcodes that come one by one are followed when they are so many bytes: tuples may be deeper by as many until then.
SOON = 1024

#: Types whose objects are 0 deep. There are others; of these it is certain.
_FLAT = frozenset((str, bytes, bytearray, int, float, bool, type(None), list, dict, set, frozenset))
#: A text of up to 32 bytes, as most are.
TEXT = rb"\x8c(?:%b)" % b"|".join(b"%b.{%d}" % (re.escape(bytes([size])), size) for size in range(33))
_NUMBER = rb"(?:[N\x88\x89]|K.|M..|J....|G.{8})"
#: A group for what does more than push an object that is 0 deep, as a tuple of numbers is. Tuples come with what puts
#: them into the memo.
_OPCODE = re.compile(
    rb"%b(?:\x85|%b(?:\x86|%b\x87))" % (_NUMBER, _NUMBER, _NUMBER)
    + rb"|%b|[\]})\x8f\x97]|%b" % (_NUMBER, TEXT)
    + rb"|([\x85-\x87]\x94?|[(01.aebdilostuRQ\x81\x90-\x94\x98]|[hq].|[jr]....)",
    re.DOTALL,
)
_MARK, _MEMOIZE, _TUPLE_2, _POP, _PERSISTENT, _BINGET, _LONG_BINGET = b"(\x94\x860Qhj"
_PUTS = frozenset(b"qr")
#: How many objects an opcode takes from the stack.
_DROP = {ord("a"): 1, ord("b"): 1, ord("s"): 2}
#: The same of those that push one in their place; and how much deeper that is than the deepest of them.
_TAKES = {0x85: (1, 1), 0x86: (2, 1), 0x87: (3, 1), ord("R"): (2, 0), 0x81: (2, 0), 0x92: (3, 0), 0x93: (2, 0)}
#: Opcodes that take all objects above a mark; those that make a tuple of them, or call something with them; and those
#: that make something else.
_ENDS = frozenset(b"tiodleu1\x90\x91")
_MAKES = frozenset(b"tio")
_COLLECT = frozenset(b"dl\x91")
_TOO_DEEP = f"it nests more than {DEPTH:,} tuples in each other"


class Depths:
    """Follows the opcodes of one unpickler.

    Parameters
    ----------
    unknown
        How deep an object is at most of which nothing else is known.
    memo
        What is in the unpickler's memo.

    Attributes
    ----------
    waiting
        Opcodes that are still to be followed.
    """

    def __init__(self, unknown: int, memo: Mapping[int, Any]) -> None:
        self.waiting = bytearray()
        self._unknown = unknown
        self._memo = {index: 0 if type(value) in _FLAT else unknown for index, value in memo.items()}
        self._stack: list[int] = []  # above the last mark; what is missing below is unknown
        self._below: list[list[int]] = []  # above each mark before

    @property
    def top(self) -> int:
        """How deep the last object on the stack is, at most."""
        return self._stack[-1] if self._stack else self._unknown

    def follow(self, opcodes: bytes) -> None:
        """Follow some opcodes.

        Raises
        ------
        Misuse
            If tuples would be nested too deep.
        """
        stack, below, memo, unknown = self._stack, self._below, self._memo, self._unknown
        for opcode in _OPCODE.findall(opcodes):
            if not opcode:
                stack.append(0)
                continue
            code = opcode[0]
            if code == _MEMOIZE:
                memo[len(memo)] = stack[-1] if stack else unknown
            elif code == _BINGET:
                stack.append(memo.get(opcode[1], unknown))
            elif code == _TUPLE_2 and len(stack) > 1:  # the most frequent of them
                last = stack.pop()
                depth = stack[-1]
                stack[-1] = depth = 1 + (depth if depth > last else last)
                if depth > DEPTH:
                    raise Misuse(_TOO_DEEP)
                if len(opcode) == 2:
                    memo[len(memo)] = depth
            elif code == _MARK:
                below.append(stack)
                stack = []
            elif code in _ENDS:
                if not below:
                    stack.append(unknown)
                items, stack = stack, below.pop() if below else []
                if code in _MAKES:
                    depth = 1 + max(items, default=0)
                    if depth > DEPTH:
                        raise Misuse(_TOO_DEEP)
                    stack.append(depth)
                elif code in _COLLECT:
                    stack.append(0)
            elif code in _TAKES:
                count, deeper = _TAKES[code]
                items = stack[-count:]
                if len(items) < count:
                    items.append(unknown)
                del stack[-count:]
                depth = deeper + max(items)
                if depth > DEPTH:
                    raise Misuse(_TOO_DEEP)
                stack.append(depth)
                if len(opcode) == 2:
                    memo[len(memo)] = depth
            elif code in _DROP:
                del stack[-_DROP[code] :]
            elif code == _LONG_BINGET:
                stack.append(memo.get(int.from_bytes(opcode[1:], "little"), unknown))
            elif code in _PUTS:
                memo[int.from_bytes(opcode[1:], "little")] = stack[-1] if stack else unknown
            elif code == _POP:
                if stack:
                    stack.pop()
                elif below:  # it takes a mark, then
                    stack = below.pop()
            elif code == _PERSISTENT:
                del stack[-1:]
                stack.append(0)
        self._stack = stack
