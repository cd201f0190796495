"""The walk over an object that computes its xxh3_128 digest: the order and the content of a tree of nodes.

::

    {"x": 3, "ys": [1, 2], "model": model}

    node dict ─── block d  ["model", "x", "ys",  (digest,), 3, (digest,)]     sorted keys, then their values
                                                     │             │          for a non-scalar: the digest of its node
                                    node object ─────┘             └── node list ─── block p [1, 2]
            what __reduce_ex__ returns: function, arguments, state

    node    one xxh3_128: the tag of a type, then the output of that type's writer; its parent gets its 16 bytes
    block   up to 1,000 consecutive values, marshalled (version 2, which writes the exact type and value of each builtin
            and does not depend on object identity)
              p  the values as they are: scalars, and short lists and tuples of scalars
              d  scalars as they are, and a tuple of the digest for every other value

Equal values give equal streams, whether or not they share objects: when the walk meets an object again, it reuses the
remembered digest. A reference from inside an object to that object itself is written as "^n": the target is n nodes up.
The digest of an object on such a cycle depends on where the walk entered the cycle, so it is not remembered and the
object is walked again. If that happens too often, as in graphs where every object refers to every other, the walk
starts again in *numbered* mode: an object that is met again is written as its number, "#n", as pickle does.
"""

from __future__ import annotations

import itertools
import marshal
import operator
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import xxhash

from shoal.errors import HashingError

# The maximum number of values in a block, and of elements of its short lists. This bounds the size of a copy.
BLOCK = 1000
SHORT_LISTS = 16 * 1000
# Strings and bytes longer than this have a node of their own, which is fed without a copy.
LONG_TEXT = 1024
# The maximum number of remembered digests.
MEMO = 64 * 1024
# The number of repeated walks over objects on cycles after which the walk changes to numbered mode.
MOST_REPEATS = 10_000

_NONE = sys.maxsize  # a depth that no node has

SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...)})
_TEXT = frozenset({str, bytes})
_LISTS = frozenset({list, tuple})
SCALARS_AND_LISTS = SCALARS | _LISTS
_SORTABLE = frozenset({str, int, bytes})

Node = Any  # an xxhash.xxh3_128
Writer = Callable[["Walk", Node, Any], None]


def hashing_error(obj: Any, reason: BaseException | str) -> HashingError:
    """Return the exception for an object that cannot be hashed, with the reason."""
    # reprlib returns a short text, even if __repr__ raises.
    shown = f"{reprlib.repr(obj)} (of type {type(obj).__module__}.{type(obj).__qualname__})"
    return HashingError(shown, reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}")


class TooManyCycles(Exception):
    """The object refers to itself in so many ways that the walk must start again in numbered mode."""


class Walk:
    """The computation of one digest. Not thread-safe; each call of ``hash()`` makes its own.

    `writer_of` returns the tag and the writer of a type. `coerce_mmap` writes memmaps as arrays. `numbered` writes an
    object that is met again as its number; otherwise its digest is written again.
    """

    __slots__ = (
        "_active",
        "_cycle_heads",
        "_highest_target",
        "_memo",
        "_n_active_on_cycles",
        "_n_repeats",
        "_numbers",
        "_on_cycles",
        "coerce_mmap",
        "writer_of",
    )

    def __init__(
        self, writer_of: Callable[[type], tuple[bytes, Writer]], coerce_mmap: bool = False, numbered: bool = False
    ) -> None:
        self.writer_of, self.coerce_mmap = writer_of, coerce_mmap
        # All of these are keyed by id(). Each value holds the object, so that no other object gets its id.
        self._memo: dict[int, tuple[Any, bytes]] = {}  # digests that hold everywhere
        self._cycle_heads: dict[int, tuple[Any, bytes]] = {}  # objects that something inside them refers back to
        self._on_cycles: dict[int, Any] = {}  # other objects on cycles: their digest depends on where the walk entered
        self._numbers: dict[int, tuple[int, Any]] | None = {} if numbered else None
        self._active: dict[int, int] = {}  # the depth of each node under way; the callers hold these objects
        self._n_active_on_cycles = 0  # how many nodes under way are of an object in _on_cycles
        self._n_repeats = 0
        # The least depth that a reference from inside the current node points to, so far.
        self._highest_target = _NONE

    def digest(self, obj: Any) -> bytes:
        """Return the bytes that represent `obj` in its parent: the digest of its node, or a reference to a node."""
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
            target = self._active[key]
            self._highest_target = min(self._highest_target, target)
            return b"^%d" % (depth - target)
        elif key in self._cycle_heads and not self._n_active_on_cycles:
            return self._cycle_heads[key][1]
        self._active[key] = depth
        outer, self._highest_target = self._highest_target, _NONE
        on_cycle = key in self._on_cycles
        self._n_active_on_cycles += on_cycle
        tag, write = self.writer_of(type(obj))
        node = xxhash.xxh3_128(tag)
        write(self, node, obj)
        result: bytes = node.digest()
        self._n_active_on_cycles -= on_cycle
        del self._active[key]
        if self._highest_target is _NONE:
            if self._numbers is None:
                if len(self._memo) >= MEMO:
                    self._memo.clear()
                self._memo[key] = (obj, result)
        else:
            self._note_cycle(key, obj, depth, result)
        if self._highest_target >= depth:
            self._highest_target = outer
        else:
            self._highest_target = min(outer, self._highest_target)
        return result

    def _note_cycle(self, key: int, obj: Any, depth: int, result: bytes) -> None:
        """Record that an object is on a cycle. Its digest may be reused only while no other part of it is active.

        Raises
        ------
        TooManyCycles
            If objects on cycles were walked again more than :data:`MOST_REPEATS` times.
        """
        self._n_repeats += key in self._on_cycles or key in self._cycle_heads
        if self._n_repeats > MOST_REPEATS:
            raise TooManyCycles
        if self._highest_target < depth:
            self._on_cycles[key] = obj
        else:
            self._cycle_heads[key] = (obj, result)

    def hexdigest(self, obj: Any) -> str:
        """Return the digest of `obj`, in hexadecimal digits."""
        if _is_short(obj):
            return xxhash.xxh3_128_hexdigest(b"scalar\n" + marshal.dumps(obj, 2))
        return self.digest(obj).hex()

    def block_or_none(self, obj: Any) -> bytes | None:
        """Return the block of one value, or None if it cannot be hashed."""
        depth, target, n_on_cycles = len(self._active), self._highest_target, self._n_active_on_cycles
        try:
            return self.block([obj])
        except (RecursionError, TooManyCycles):
            raise
        except Exception:  # the object's own pickling code may raise anything
            while len(self._active) > depth:
                self._active.popitem()
            self._highest_target, self._n_active_on_cycles = target, n_on_cycles
            return None

    def forget(self, obj: Any) -> None:
        """Drop the remembered digest of an object that exists only to be hashed, and with it the object."""
        self._memo.pop(id(obj), None)

    def elements(self, node: Node, values: Sequence[Any]) -> None:
        """Write the values of a list or a tuple."""
        if len(values) <= BLOCK:
            node.update(self.block(values))
        else:
            for start in range(0, len(values), BLOCK):
                node.update(self.block(values[start : start + BLOCK]))

    def stream(self, node: Node, values: Iterable[Any]) -> None:
        """Write the values of an iterable, in its order."""
        values = iter(values)
        while block := list(itertools.islice(values, BLOCK)):
            node.update(self.block(block))

    def unordered(self, node: Node, values: Iterable[Any]) -> None:
        """Write values in an order that does not depend on the order of the iterable."""
        values = list(values)
        kinds = set(map(type, values))
        if len(kinds) == 1 and kinds <= _SORTABLE:
            values.sort()
            self.elements(node, values)
        else:
            for encoded in sorted(map(self._block_alone, values)):
                node.update(encoded)

    def pairs(self, node: Node, mapping: Mapping[Any, Any]) -> None:
        """Write the keys, then their values, in an order that does not depend on the order of the mapping."""
        kinds = set(map(type, mapping))
        if len(kinds) == 1 and kinds <= _SORTABLE:
            keys = sorted(mapping)
            self.elements(node, [*keys, *map(mapping.__getitem__, keys)])
            return
        items = [(self._block_alone(key), value) for key, value in mapping.items()]
        if len({key for key, _ in items}) == len(items):
            items.sort(key=operator.itemgetter(0))
        else:  # keys that differ only in identity, or are NaN
            items.sort(key=lambda item: (item[0], self._block_alone(item[1])))
        for key, _ in items:
            node.update(key)
        self.elements(node, [value for _, value in items])

    def _block_alone(self, value: Any) -> bytes:
        """Return the block of one value. It does not depend on its position.

        Raises
        ------
        HashingError
            In numbered mode, unless the value is a scalar or a short list of scalars, because numbers depend on the
            position.
        """
        encoded = self.block([value])
        if self._numbers is not None and encoded[:1] == b"d":
            raise hashing_error(
                value,
                "it is an element of a set, or a key of a dict, among objects that refer to each other in very many "
                "ways, so the elements or keys cannot be put into a fixed order",
            )
        return encoded

    def block(self, values: Any) -> bytes:
        """Return the bytes of up to :data:`BLOCK` values. They are self-delimiting: they say where they end."""
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


def digest_of_row(row: tuple[Any, ...]) -> str | None:
    """Return the digest of a tuple of scalars, as a :class:`Walk` computes it; None if it has other or long values.

    The keys of most cached calls are such tuples.
    """
    if len(row) > BLOCK:
        return None
    for value in row:
        kind = type(value)
        if kind not in SCALARS or (kind in _TEXT and len(value) > LONG_TEXT):
            return None
    return xxhash.xxh3_128_hexdigest(b"tuple\np" + marshal.dumps(row, 2))


def _has_long_text(values: Sequence[Any]) -> bool:
    for value in values:  # noqa: SIM110, any() takes three times as long for a few values
        if type(value) in _TEXT and len(value) > LONG_TEXT:
            return True
    return False


def _is_short(value: Any) -> bool:
    kind = type(value)
    return kind in SCALARS and (kind not in _TEXT or len(value) <= LONG_TEXT)


def encoded_pieces(text: str) -> Iterator[bytes]:
    """Yield a long string as UTF-8, a piece at a time. Lone surrogates are encoded as well."""
    for start in range(0, len(text), 256 * 1024):
        yield text[start : start + 256 * 1024].encode("utf-8", "surrogatepass")
