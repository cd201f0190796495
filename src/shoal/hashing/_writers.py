"""What is written of an object into its node, by its type; and :func:`register_hasher`.

::

    the writer of a type     registered for it, or for the nearest of its bases
                             built in for it, or for the nearest of its bases: here, _functions, _numpy
                             else what pickle would store: __reduce_ex__

A package's own types are entered when an object of one of them is met (_FAMILIES); until then it need not be imported.
"""

from __future__ import annotations

import array
import collections
import copyreg
import enum
import fractions
import gc
import importlib
import itertools
import pathlib
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar

from ._attributes import reducer_of, rest_of, slots_of, write_rest, write_slots
from ._data import feed
from ._functions import WRITERS as _FUNCTIONS
from ._functions import named, write_class
from ._refusal import refusal
from ._walk import SCALARS_AND_LISTS, Node, Walk, Writer, pieces

T = TypeVar("T")
Tagged = tuple[bytes, Writer]


def register_hasher(type: type[T], function: Callable[[T], Any]) -> None:
    """Say what stands for objects of a type when they are hashed by xxh3_128.

    It is for types whose pickles differ between equal objects, for those that cannot be pickled, and for what should
    not count. Digests under md5 and sha1 are joblib's, and heed no registration.

    Parameters
    ----------
    type
        The type; it holds for its subclasses too, unless one is registered for them. A later registration replaces
        an earlier one, and those that come with shoal (pandas, torch, and others).
    function
        Called with an object of the type, returns what is to be hashed in its place: a tuple of its parts, say. As a
        generator function it yields one part after the other, of which none is kept. The object's class is
        hashed with it. Nothing that it gives may be, or contain, an object for which it would be called without end.

    Raises
    ------
    TypeError
        If `type` is no class, or is a builtin scalar, list or tuple, or if `function` cannot be called.

    Notes
    -----
    Register in every process that hashes: at the import of the module that defines the type.
    Safe to call from several threads; walks under way may or may not see it.

    Examples
    --------
    >>> import shoal
    >>> class Table:
    ...     def __init__(self, rows):
    ...         self.rows, self.reads = rows, 0
    >>> shoal.register_hasher(Table, lambda table: table.rows)
    >>> seldom, often = Table([1, 2]), Table([1, 2])
    >>> often.reads = 10
    >>> shoal.hash(seldom) == shoal.hash(often)
    True
    """
    if not isinstance(type, _type):
        raise TypeError(f"register_hasher takes a class and a function, not {type!r} for the class")
    if type in SCALARS_AND_LISTS:
        raise TypeError(f"{type.__name__} hashes as it is; register_hasher takes other types, a subclass of it say")
    if not callable(function):
        raise TypeError(f"register_hasher takes a class and a function, not {function!r} for the function")
    _REGISTERED[type] = (b"registered\n", standing_in(function))
    _found.clear()


_type = type


def standing_in(function: Callable[[Any], Any]) -> Writer:
    """Return the writer that writes what `function` gives for an object."""

    def write(walk: Walk, node: Node, obj: Any) -> None:
        node.update(walk.block([type(obj)]))
        instead = function(obj)
        if not isinstance(instead, types.GeneratorType):
            node.update(walk.block([instead]))
            return
        node.update(b"parts")
        for part in instead:
            node.update(walk.block([part]))
            walk.forget(part)

    return write


def _write_list(walk: Walk, node: Node, obj: Any) -> None:
    walk.elements(node, obj)


def _write_set(walk: Walk, node: Node, obj: Any) -> None:
    walk.unordered(node, obj)


def _write_dict(walk: Walk, node: Node, obj: Any) -> None:
    walk.pairs(node, obj)


def _write_str(_walk: Walk, node: Node, obj: str) -> None:
    for piece in pieces(obj):
        node.update(piece)


def _write_bytes(_walk: Walk, node: Node, obj: Any) -> None:
    feed(node, len(obj), [obj])


def _write_memoryview(walk: Walk, node: Node, obj: memoryview) -> None:
    walk.elements(node, [obj.format, obj.shape])
    feed(node, obj.nbytes, [obj.cast("B") if obj.c_contiguous and obj.nbytes else obj.tobytes()])


def _write_pickle_buffer(walk: Walk, node: Node, obj: pickle.PickleBuffer) -> None:
    _write_memoryview(walk, node, memoryview(obj))


def _write_mapping_proxy(walk: Walk, node: Node, obj: types.MappingProxyType[Any, Any]) -> None:
    behind = gc.get_referents(obj)[0]
    if type(behind) is dict:
        walk.pairs(node, obj)
    else:  # an OrderedDict has an order, a defaultdict answers for keys that it does not have
        node.update(b"of")
        node.update(walk.block([behind]))


def _write_array(walk: Walk, node: Node, obj: array.array[Any]) -> None:
    if type(obj) is not array.array:
        node.update(b"subclass")
        write_reduced(walk, node, obj)
        return
    walk.elements(node, [obj.typecode, obj.itemsize])
    data = memoryview(obj)
    feed(node, data.nbytes, [data.cast("B")])


def _write_enum(walk: Walk, node: Node, obj: enum.Enum) -> None:
    walk.elements(node, [type(obj), obj.value if isinstance(obj, enum.Flag) else obj.name])


def _write_path(walk: Walk, node: Node, obj: pathlib.PurePath) -> None:
    walk.elements(node, [type(obj), str(obj)])
    write_rest(walk, node, obj)


def _write_fraction(walk: Walk, node: Node, obj: fractions.Fraction) -> None:
    walk.elements(node, [type(obj), obj.numerator, obj.denominator])
    write_rest(walk, node, obj)


def _write_set_of_a_kind(walk: Walk, node: Node, obj: Any) -> None:
    """Write an object of a subclass of set, whose pickle lists the elements in any order."""
    reduced = obj.__reduce_ex__(4)
    if reducer_of(type(obj)) not in (set, frozenset):
        _write_reduction(walk, node, obj, reduced)
        return
    kinds = type(obj).__mro__
    if any("__getstate__" in vars(kind) for kind in kinds[:-1]):
        walk.elements(node, [type(obj), reduced[2] if len(reduced) > 2 else None])
    else:  # Python 3.10 leaves slots out
        walk.elements(node, [type(obj), getattr(obj, "__dict__", None) or None])
        write_slots(walk, node, obj, slots_of(kinds))
    walk.unordered(node, obj)


def write_reduced(walk: Walk, node: Node, obj: Any) -> None:
    """Write what pickle would store."""
    # Exceptions have reductions of their own; libraries register others (tblib, for dask), which hold tracebacks.
    reducer: Any = None if isinstance(obj, BaseException) else copyreg.dispatch_table.get(type(obj))
    try:
        reduced = obj.__reduce_ex__(5) if reducer is None else reducer(obj)
    except (pickle.PicklingError, TypeError) as error:
        raise refusal(obj, error) from error
    _write_reduction(walk, node, obj, reduced)


def _write_reduction(walk: Walk, node: Node, obj: Any, reduced: Any) -> None:
    if isinstance(reduced, str):
        named(walk, node, obj, reduced)
        return
    if not isinstance(reduced, tuple) or not 2 <= len(reduced) <= 6:
        raise refusal(obj, f"its __reduce_ex__ returns {reduced!r:.100}, neither a string nor a tuple of 2 to 6")
    function, args, state, items, pairs, setter = [*reduced, None, None, None, None][:6]
    walk.elements(node, [function, setter, type(state) is dict, *args])
    node.update(b"state")
    if type(state) is dict:
        walk.pairs(node, state)
    else:
        node.update(walk.block([state]))
    if items is not None:
        node.update(b"items")
        walk.stream(node, items)
    if pairs is not None and isinstance(obj, collections.OrderedDict):
        node.update(b"ordered pairs")
        walk.stream(node, itertools.chain.from_iterable(pairs))
    elif pairs is not None:
        node.update(b"pairs")
        walk.pairs(node, dict(pairs))
    kind: Any = type(obj)
    if rest_of(kind) is not None:
        write_rest(walk, node, obj, (state, *args))


_BUILT_IN: dict[type, Tagged] = {
    list: (b"list\n", _write_list),
    tuple: (b"tuple\n", _write_list),
    dict: (b"dict\n", _write_dict),
    set: (b"set\n", _write_set),
    frozenset: (b"frozenset\n", _write_set),
    str: (b"str\n", _write_str),
    bytes: (b"bytes\n", _write_bytes),
    bytearray: (b"bytearray\n", _write_bytes),
    types.MappingProxyType: (b"mappingproxy\n", _write_mapping_proxy),
    pickle.PickleBuffer: (b"buffer\n", _write_pickle_buffer),
    memoryview: (b"memoryview\n", _write_memoryview),
    **_FUNCTIONS,
}
_BUILT_IN_WITH_SUBCLASSES: dict[type, Tagged] = {
    type: (b"class\n", write_class),
    set: (b"kind of set\n", _write_set_of_a_kind),
    frozenset: (b"kind of frozenset\n", _write_set_of_a_kind),
    array.array: (b"array\n", _write_array),
    enum.Enum: (b"enum\n", _write_enum),
    pathlib.PurePath: (b"path\n", _write_path),
    fractions.Fraction: (b"fraction\n", _write_fraction),
}
_REDUCED: Tagged = (b"object\n", write_reduced)
_REGISTERED: dict[type, Tagged] = {}
# Packages, and the modules here that know their types; a module's writers() hold for subclasses too.
_FAMILIES = {package: f"shoal.hashing._{package}" for package in ("numpy", "pandas", "pyarrow", "torch")}
_found: dict[type, Tagged] = {}


def writer_of(kind: type) -> Tagged:
    """Return the tag of a type's nodes, and what writes them."""
    found = _found.get(kind)
    if found is None:
        if len(_found) > 10_000:  # types that a program keeps making
            _found.clear()
        found = _found[kind] = _find(kind)
    return found


def _find(kind: type) -> Tagged:
    for base in kind.__mro__:
        if base in _REGISTERED:
            return _REGISTERED[base]
    if kind in _BUILT_IN:
        return _BUILT_IN[kind]
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        if package in _FAMILIES and package in sys.modules:
            _BUILT_IN_WITH_SUBCLASSES.update(importlib.import_module(_FAMILIES[package]).writers())
    for base in kind.__mro__:
        if base in _BUILT_IN_WITH_SUBCLASSES:
            return _BUILT_IN_WITH_SUBCLASSES[base]
    return _REDUCED
