"""How deep tuples are nested, and how much a hash of them visits, before the unpickler builds them.

The hash of a tuple calls the hashes of its items, by recursion in C. Nothing stops it before the stack ends: a key made
of many thousand nested tuples crashes the interpreter. Nothing interrupts it either: a tuple that holds the same tuple
twice, which does so in turn, and so on, takes practically for ever, since 40 of them unfold to 2**40 items. So
:class:`Depths` follows what the unpickler does with its stack and its memo, with an entry in the place of each object:
how many tuples are nested in it, and how many items it unfolds to. Both are upper bounds. What is hashed is charged to
the budget, item by item, as if the file had it written out each time.

Why that is enough:

- A tuple is one deeper than its deepest item, and unfolds to one more than its items do. A tuple of numbers counts as
  one item, 0 deep: that is wrong by one level and at most three items, and saves time.
- Keys of dictionaries and items of sets are hashed once; equal ones are compared, which visits no more than the hash.
  (Keys with equal hashes that are not equal are compared with each other, as in any dictionary. This is not counted.)
- Lists and dictionaries are 0 deep and one item, since they have no hash; sets are, since nothing asks for theirs. A
  frozenset keeps the hashes of its items, so it is 0 deep; but the comparison of two visits all that they hold.
- The result of a call is as deep as its arguments, and unfolds to what they do: it may be a named tuple of these.
  `frozenset` and `set` hash what is in a list. So as the only argument of a call, a list counts for what was put into
  it, and is charged. `_safe` and `_trust` let no other call hash what is more than a few strings and numbers.
- A state (BUILD) does not count. If the hash of an instance looks at its state, that is code of a trusted class.
- An array of objects is 0 deep. The survey refuses a nested pickle that holds anything else.

This costs some 150 ns per opcode, so it begins only when it is needed: before the first opcode that imports something,
or makes a frozenset, or makes a tuple other than directly of strings, numbers, empty dictionaries and the like, up to
`FLAT_ITEMS` of them; outside of frames, before the first mark. Until then nothing calls anything, and what is hashed
holds so few items that the charge for the opcodes will do. By then, nothing else is known of what is on the stack, nor
of what is in the memo, but for its type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from shoal.persistence.trust._limits import PER_OPCODE, Budget, Misuse

#: Tuples are nested no deeper. A hash takes some 70 bytes of the stack for each; threads have 512 kB, somewhere.
DEPTH = 5000
#: Before opcodes are followed, a tuple has no more items, and these hold none.
FLAT_ITEMS = 64
#: Opcodes that come one by one are followed when they are so many bytes, or when one comes that hashes something or
#: ends the object: tuples may be deeper by as many until then.
SOON, AT_ONCE = 1024, (b"s", b"u", b"d", b"\x90", b"\x91", b".")
#: No more items are counted: that is more than any budget has.
_MANY = 2**60

#: What is known of an object: how deep it is, and to how many items it unfolds. Of a list, and of a tuple that holds
#: nothing but one, also the number of items that were put into that so far, and one more: it grows, so it is in a list.
Entry = tuple[int, int, list[int] | None]
_ITEM: Entry = (0, 1, None)
_SIZE = itemgetter(1)
#: Types whose objects are one item. There are others; of these it is certain.
_FLAT = frozenset((str, bytes, bytearray, int, float, bool, type(None), dict, set))
#: A text of up to 32 bytes, as most are.
TEXT = rb"\x8c(?:%b)" % b"|".join(b"%b.{%d}" % (re.escape(bytes([size])), size) for size in range(33))
_NUMBER = rb"(?:[N\x88\x89]|K.|M..|J....|G.{8})"
#: A group for what does more than push an object that is one item, as a tuple of numbers is. Tuples come with what puts
#: them into the memo.
_OPCODE = re.compile(
    rb"%b(?:\x85|%b(?:\x86|%b\x87))" % (_NUMBER, _NUMBER, _NUMBER)
    + rb"|%b|[})\x8f\x97]|%b" % (_NUMBER, TEXT)
    + rb"|([\x85-\x87]\x94?|[(\]01.aebdilostuRQ\x81\x90-\x94\x98]|[hq].|[jr]....)",
    re.DOTALL,
)
_MARK, _MEMOIZE, _TUPLE_2, _POP, _BINGET, _LONG_BINGET, _LIST = b"(\x94\x860hj]"
_PUTS = frozenset(b"qr")
_APPEND, _APPENDS, _SETITEM, _FROZENSET, _DICT, _LIST_OF = b"aes\x91dl"
#: How many objects an opcode takes from the stack.
_DROP = {ord("a"): 1, ord("b"): 1, ord("s"): 2}
#: The same of those that push one in their place; and how much deeper that is than the deepest of them.
_TAKES = {0x85: (1, 1), 0x86: (2, 1), 0x87: (3, 1), ord("R"): (2, 0), 0x81: (2, 0), 0x92: (3, 0)}
#: And of those that push one item in their place.
_NAMES = {ord("Q"): 1, 0x93: 2}
#: Opcodes that take all objects above a mark; and those that make a tuple of them, or call something with them.
_ENDS = frozenset(b"tiodleu1\x90\x91")
_MAKES = frozenset(b"tio")
#: What calls something.
_CALLS = frozenset(b"Rio\x81\x92")
#: What hashes all objects above a mark, and what hashes each other one of them.
_MEMBERS = frozenset(b"\x90\x91")
_KEYS = frozenset(b"ud")
_TOO_DEEP = f"it nests more than {DEPTH:,} tuples in each other"


class Depths:
    """Follows the opcodes of one unpickler.

    Parameters
    ----------
    budget
        What may be taken.
    memo
        What is in the unpickler's memo.
    walked
        How many bytes of opcodes there were before.

    Attributes
    ----------
    waiting
        Opcodes that are still to be followed.
    """

    def __init__(self, budget: Budget, memo: Mapping[int, Any], walked: int) -> None:
        self.waiting = bytearray()
        self._budget = budget
        # What takes two bytes, to get it from the memo, may be a tuple of so many items.
        flat = 1 + FLAT_ITEMS
        most = flat * (walked // 2 + 1)
        # A list may be in the memo and on the stack, so all that are there already are counted together.
        self._unknown: Entry = (1, flat, [most])
        self._unknown_items: Entry = (1, most, None)  # all of them, above a mark
        known = {**dict.fromkeys(_FLAT, _ITEM), list: self._unknown}
        self._memo = {index: known.get(type(value), (1, flat, None)) for index, value in memo.items()}
        self._stack: list[Entry] = []  # above the last mark; what is missing below is unknown
        self._below: list[list[Entry]] = []  # above each mark before

    @property
    def top(self) -> tuple[int, int]:
        """How deep the last object on the stack is, and to how many items it unfolds, at most."""
        return (self._stack[-1] if self._stack else self._unknown)[:2]

    def follow(self, opcodes: bytes) -> None:
        """Follow some opcodes.

        Raises
        ------
        Misuse
            If tuples would be nested too deep.
        FileLimitError
            If more would be hashed than the budget has.
        """
        stack, below, memo, unknown = self._stack, self._below, self._memo, self._unknown
        for opcode in _OPCODE.findall(opcodes):
            if not opcode:
                stack.append(_ITEM)
                continue
            code = opcode[0]
            if code == _MEMOIZE:
                memo[len(memo)] = stack[-1] if stack else unknown
            elif code == _BINGET:
                stack.append(memo.get(opcode[1], unknown))
            elif code == _TUPLE_2 and len(stack) > 1:  # the most frequent of them
                depth, size, _ = stack.pop()
                depth_1, size_1, _ = stack[-1]
                depth, size = 1 + (depth if depth > depth_1 else depth_1), 1 + size + size_1
                if depth > DEPTH:
                    raise Misuse(_TOO_DEEP)
                made: Entry = (depth, size if size < _MANY else _MANY, None)
                stack[-1] = made
                if len(opcode) == 2:
                    memo[len(memo)] = made
            elif code == _MARK:
                below.append(stack)
                stack = []
            elif code in _ENDS:
                if not below:
                    stack.append(self._unknown_items)
                items, stack = stack, below.pop() if below else []
                if code == _APPENDS:
                    _put(items, stack[-1] if stack else unknown)
                elif code in _MAKES:
                    stack.append(self._made(code, items, 1))
                elif code in _KEYS:
                    self._hash(items[::2])
                    if code == _DICT:
                        stack.append(_ITEM)
                elif code in _MEMBERS:
                    size = self._hash(items)
                    if code == _FROZENSET:
                        stack.append((0, min(1 + size, _MANY), None))
                elif code == _LIST_OF:
                    stack.append((0, 1, [1 + sum(map(_SIZE, items))]))
            elif code == _LIST:
                stack.append((0, 1, [1]))
            elif code in _TAKES:
                count, deeper = _TAKES[code]
                items = stack[-count:]
                if len(items) < count:
                    items.append(unknown)
                del stack[-count:]
                stack.append(made := self._made(code, items, deeper))
                if len(opcode) == 2:
                    memo[len(memo)] = made
            elif code in _DROP:
                if code == _SETITEM:
                    self._hash(stack[-2:-1] or [unknown])
                elif code == _APPEND:
                    _put(stack[-1:] or [unknown], stack[-2] if len(stack) > 1 else unknown)
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
            elif code in _NAMES:
                del stack[-_NAMES[code] :]
                stack.append(_ITEM)
        self._stack = stack

    def _made(self, code: int, items: list[Entry], deeper: int) -> Entry:
        """Return what is known of a tuple of some objects, or of the result of a call with them."""
        depth = deeper + max([item[0] for item in items], default=0)
        if depth > DEPTH:
            raise Misuse(_TOO_DEEP)
        size = deeper + sum(map(_SIZE, items))
        only: list[int] | None = None
        if code in _CALLS:
            put = sum([item[2][0] for item in items if item[2] is not None])
            self._budget.charge(PER_OPCODE * put)
            size += put
        elif len(items) == 1:
            only = items[0][2]
        return depth, min(size, _MANY), only

    def _hash(self, items: list[Entry]) -> int:
        """Charge the budget for the hashes of some objects."""
        size: int = sum(map(_SIZE, items))
        self._budget.charge(PER_OPCODE * size)
        return size


def _put(items: list[Entry], where: Entry) -> None:
    """Take note that something is put into a list."""
    if where[2] is not None:
        where[2][0] += sum(map(_SIZE, items))
