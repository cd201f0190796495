"""The walk over an object that gives its xxh3_128 digest: the order of a tree of nodes, and what is in a node.

::

    {"x": 3, "ys": [1, 2], "model": model}

    node dict ─── block d  ["model", "x", "ys",  (digest,), 3, (digest,)]     sorted keys, then their values
                                                     │             │          what is no scalar: the digest of its node
                                    node object ─────┘             └── node list ─── block p [1, 2]
            what __reduce_ex__ gives: function, arguments, state

    node    one xxh3_128: its tag, then what the writer of its type feeds into it; 16 bytes stand for it above
    block   up to 1,000 values in a row, marshalled (version 2, which says of each builtin its exact type and value, and
            nothing of identity)
              p  as they are: scalars, and short lists and tuples of scalars
              d  scalars as they are, a tuple of its digest for everything else

Equal values give equal streams, whether or not they share objects: a node that is met again is its digest again, which
is remembered. What refers to itself is cut where an object is met inside of itself: "^n" says how many nodes up it
stands. What lies on such a circle has another digest wherever the circle is entered, and is walked again; should that
happen too often, as in graphs whose objects all refer to each other, the walk begins anew and writes the number of an
object that is met again, "#n", as pickles do.
"""

from __future__ import annotations

import itertools
import marshal
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import xxhash

from ._refusal import refusal

# Values of one block, and elements of the short lists in it: what is copied at a time.
BLOCK = 1000
SHORT_LISTS = 16 * 1000
# Strings and bytes above this are nodes of their own, fed without a copy.
LONG_TEXT = 1024
# Digests that are remembered at a time.
MEMO = 64 * 1024
# How many times objects that have no digest of their own are walked again.
AGAIN = 10_000

_NOWHERE = sys.maxsize

SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...)})
_TEXT = frozenset({str, bytes})
_LISTS = frozenset({list, tuple})
SCALARS_AND_LISTS = SCALARS | _LISTS
_SORTABLE = frozenset({str, int, bytes})

Node = Any  # an xxhash.xxh3_128
Writer = Callable[["Walk", Node, Any], None]


class Tangled(Exception):
    """What is walked refers to itself in so many ways that it must be numbered."""


class Walk:
    """One object's way into its digest. Not thread-safe; each call of hash() makes one.

    Parameters
    ----------
    writer_of
        Gives the tag and the writer for a type.
    coerce_mmap
        Whether memmaps are written as arrays.
    numbered
        Whether objects that are met again are written as numbers.
    """

    __slots__ = (
        "_active",
        "_again",
        "_circles",
        "_inside",
        "_loose",
        "_lowest",
        "_memo",
        "_numbers",
        "coerce_mmap",
        "writer_of",
    )

    def __init__(
        self, writer_of: Callable[[type], tuple[bytes, Writer]], coerce_mmap: bool = False, numbered: bool = False
    ) -> None:
        self.writer_of, self.coerce_mmap = writer_of, coerce_mmap
        self._active: dict[int, int] = {}  # nodes under way, by the id of their object: how deep each stands
        self._memo: dict[int, tuple[Any, bytes]] = {}  # the object is kept, so that its id stays its own
        self._lowest = _NOWHERE  # the least deep node that those under the one under way refer back to
        self._circles: dict[int, tuple[Any, bytes]] = {}  # objects that something in them refers back to
        self._loose: dict[int, Any] = {}  # objects in such circles, without a digest of their own
        self._inside = 0  # how many of those are under way
        self._again = 0
        self._numbers: dict[int, tuple[int, Any]] | None = {} if numbered else None

    def digest(self, obj: Any) -> bytes:
        """Return what stands for `obj` in the node above: the digest of its node, or a reference to one."""
        key = id(obj)
        known = self._memo.get(key)
        if known is not None:
            return known[1]
        depth = len(self._active)
        if self._numbers is not None:
            if key in self._numbers:
                return b"#%d" % self._numbers[key][0]
            self._numbers[key] = (len(self._numbers), obj)
        elif key in self._active:
            above = self._active[key]
            self._lowest = min(self._lowest, above)
            return b"^%d" % (depth - above)
        elif key in self._circles and not self._inside:
            return self._circles[key][1]
        self._active[key] = depth
        outer, self._lowest = self._lowest, _NOWHERE
        loose = key in self._loose
        self._inside += loose
        tag, write = self.writer_of(type(obj))
        node = xxhash.xxh3_128(tag)
        write(self, node, obj)
        result: bytes = node.digest()
        self._inside -= loose
        del self._active[key]
        if self._lowest is _NOWHERE:
            if self._numbers is None:
                if len(self._memo) >= MEMO:
                    self._memo.clear()
                self._memo[key] = (obj, result)
        else:
            self._walked_circle(key, obj, depth, result)
        if self._lowest >= depth:
            self._lowest = outer
        else:
            self._lowest = min(outer, self._lowest)
        return result

    def _walked_circle(self, key: int, obj: Any, depth: int, result: bytes) -> None:
        """Note an object that is part of a circle; its digest holds only where nothing else of the circle is above."""
        self._again += key in self._loose or key in self._circles
        if self._again > AGAIN:
            raise Tangled
        if self._lowest < depth:
            self._loose[key] = obj
        else:
            self._circles[key] = (obj, result)

    def hexdigest(self, obj: Any) -> str:
        """Return the digest of `obj`, in hexadecimal digits."""
        if _is_short(obj):
            return xxhash.xxh3_128_hexdigest(b"scalar\n" + marshal.dumps(obj, 2))
        return self.digest(obj).hex()

    def attempt(self, obj: Any) -> bytes | None:
        """Return the block of one value, or None if it cannot be hashed."""
        depth, lowest, inside = len(self._active), self._lowest, self._inside
        try:
            return self.block([obj])
        except (RecursionError, Tangled):
            raise
        except Exception:  # whatever its own pickling code raises
            while len(self._active) > depth:
                self._active.popitem()
            self._lowest, self._inside = lowest, inside
            return None

    def forget(self, obj: Any) -> None:
        """Let go of an object that exists only for its digest."""
        self._memo.pop(id(obj), None)

    def elements(self, node: Node, values: Sequence[Any]) -> None:
        """Write the values of a list or a tuple."""
        if len(values) <= BLOCK:
            node.update(self.block(values))
        else:
            for start in range(0, len(values), BLOCK):
                node.update(self.block(values[start : start + BLOCK]))

    def stream(self, node: Node, values: Iterable[Any]) -> None:
        """Write values as they come."""
        values = iter(values)
        while block := list(itertools.islice(values, BLOCK)):
            node.update(self.block(block))

    def unordered(self, node: Node, values: Iterable[Any]) -> None:
        """Write values in an order that does not depend on how they come."""
        values = list(values)
        kinds = set(map(type, values))
        if len(kinds) == 1 and kinds <= _SORTABLE:
            values.sort()
            self.elements(node, values)
        else:
            for encoded in sorted(map(self._apart, values)):
                node.update(encoded)

    def pairs(self, node: Node, mapping: Mapping[Any, Any]) -> None:
        """Write the keys, then their values, in an order that does not depend on how they come."""
        kinds = set(map(type, mapping))
        if len(kinds) == 1 and kinds <= _SORTABLE:
            keys = sorted(mapping)
            self.elements(node, [*keys, *map(mapping.__getitem__, keys)])
            return
        items = [(self._apart(key), value) for key, value in mapping.items()]
        if len({key for key, _ in items}) == len(items):
            items.sort(key=operator.itemgetter(0))
        else:  # keys that differ in identity alone, or are NaN
            items.sort(key=lambda item: (item[0], self._apart(item[1])))
        for key, _ in items:
            node.update(key)
        self.elements(node, [value for _, value in items])

    def _apart(self, value: Any) -> bytes:
        """Return the block of one value, the same whatever is written before or after it."""
        encoded = self.block([value])
        if self._numbers is not None and encoded[:1] == b"d":
            raise refusal(
                value,
                "it is an element of a set, or a key, among objects that refer to each other in very many ways, and "
                "so its place among the others cannot be told",
            )
        return encoded

    def block(self, values: Any) -> bytes:
        """Return the bytes of up to :data:`BLOCK` values, which say where they end."""
        kinds = set(map(type, values))
        if kinds <= SCALARS:
            if kinds.isdisjoint(_TEXT) or not _has_long_text(values):
                return b"p" + marshal.dumps(values, 2)
        elif kinds <= SCALARS_AND_LISTS:
            lists = [value for value in values if type(value) in _LISTS]
            if sum(map(len, lists)) <= SHORT_LISTS:
                inner = list(itertools.chain.from_iterable(lists))
                inner_kinds = set(map(type, inner))
                if inner_kinds <= SCALARS and not (
                    (kinds & _TEXT and _has_long_text(values)) or (inner_kinds & _TEXT and _has_long_text(inner))
                ):
                    return b"p" + marshal.dumps(values, 2)
        return b"d" + marshal.dumps([value if _is_short(value) else (self.digest(value),) for value in values], 2)


def _has_long_text(values: Sequence[Any]) -> bool:
    for value in values:  # noqa: SIM110, any() takes three times as long for a few values
        if type(value) in _TEXT and len(value) > LONG_TEXT:
            return True
    return False


def _is_short(value: Any) -> bool:
    kind = type(value)
    return kind in SCALARS and (kind not in _TEXT or len(value) <= LONG_TEXT)


def pieces(text: str) -> Iterator[bytes]:
    """Encode a long string a piece at a time."""
    for start in range(0, len(text), 256 * 1024):
        yield text[start : start + 256 * 1024].encode("utf-8", "surrogatepass")
