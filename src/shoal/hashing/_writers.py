"""The lookup of the writer of a type; the writers of builtin types; and :func:`register_hasher`.

::

    the writer of a type     a registered one, of the type or of its nearest base that has one
                             else a builtin one, of the type or of its nearest base that has one: see the tables below
                             else write_reduced, which writes the pickle reduction

The writers for types of numpy, pandas, pyarrow and torch are loaded when the first object of such a package is met
(``_PACKAGES``), so that hashing never imports one of them by itself.
"""

from __future__ import annotations

import array
import enum
import fractions
import gc
import importlib
import pathlib
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar

from ._bytes import feed
from ._functions import WRITERS as _FUNCTIONS
from ._functions import write_class
from ._reduced import reducer_of, slots_of, substitute_writer, write_reduced, write_reduction, write_rest, write_slots
from ._walk import SCALARS_AND_LISTS, Node, Walk, Writer, encoded_pieces

T = TypeVar("T")
TaggedWriter = tuple[bytes, Writer]


def register_hasher(type: type[T], function: Callable[[T], Any]) -> None:
    """Register a function that returns the value to hash in place of an object of a type, under "xxh3_128".

    Use it for types whose equal objects have different pickles, for types that cannot be pickled, and to leave out
    parts that should not count. Digests under "md5" and "sha1" are joblib's and ignore registrations.

    Parameters
    ----------
    type : type
        The class. The function also serves its subclasses, unless one is registered for them. A later registration
        replaces an earlier one, and also shoal's own writers for pandas, torch and other packages.
    function : callable
        Called with an object of the type. It returns the value to hash in place of the object, such as a tuple of its
        parts. A generator function yields one part after the other; shoal keeps none of them, so memory stays bounded.
        The class of the object is hashed too. The result must not be, or contain, an object for which `function`
        would be called again without end.

    Raises
    ------
    TypeError
        If `type` is not a class, or is a builtin scalar, list or tuple, or if `function` is not callable.

    Notes
    -----
    A registration holds for one process. Register when the module that defines the type is imported, so that every
    process that hashes has it.

    Thread-safe. A call of :func:`hash` that is running in another thread may or may not use the new function.

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
        raise TypeError(f"the first argument of register_hasher must be a class, not {type!r}")
    if type in SCALARS_AND_LISTS:
        raise TypeError(
            f"register_hasher cannot change how {type.__name__} is hashed; register another type, such as a subclass"
        )
    if not callable(function):
        raise TypeError(f"the second argument of register_hasher must be a function, not {function!r}")
    _REGISTERED[type] = (b"registered\n", substitute_writer(function))
    _found.clear()


_type = type


def _write_list(walk: Walk, node: Node, obj: Any) -> None:
    walk.elements(node, obj)


def _write_set(walk: Walk, node: Node, obj: Any) -> None:
    walk.unordered(node, obj)


def _write_dict(walk: Walk, node: Node, obj: Any) -> None:
    walk.pairs(node, obj)


def _write_str(_walk: Walk, node: Node, obj: str) -> None:
    for piece in encoded_pieces(obj):
        node.update(piece)


def _write_bytes(_walk: Walk, node: Node, obj: Any) -> None:
    feed(node, len(obj), [obj])


def _write_memoryview(walk: Walk, node: Node, obj: memoryview) -> None:
    walk.elements(node, [obj.format, obj.shape])
    feed(node, obj.nbytes, [obj.cast("B") if obj.c_contiguous and obj.nbytes else obj.tobytes()])


def _write_pickle_buffer(walk: Walk, node: Node, obj: pickle.PickleBuffer) -> None:
    _write_memoryview(walk, node, memoryview(obj))


def _write_mapping_proxy(walk: Walk, node: Node, obj: types.MappingProxyType[Any, Any]) -> None:
    mapping = gc.get_referents(obj)[0]
    if type(mapping) is dict:
        walk.pairs(node, obj)
    else:  # the class counts: an OrderedDict has an order, a defaultdict has a value for missing keys
        node.update(b"of")
        node.update(walk.block([mapping]))


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


def _write_set_subclass(walk: Walk, node: Node, obj: Any) -> None:
    """Write an object of a subclass of set. Its pickle would list the elements in arbitrary order."""
    reduced = obj.__reduce_ex__(4)
    if reducer_of(type(obj)) not in (set, frozenset):
        write_reduction(walk, node, obj, reduced)
        return
    kinds = type(obj).__mro__
    if any("__getstate__" in vars(kind) for kind in kinds[:-1]):
        walk.elements(node, [type(obj), reduced[2] if len(reduced) > 2 else None])
    else:  # Python 3.10 does not pickle the slots
        walk.elements(node, [type(obj), getattr(obj, "__dict__", None) or None])
        write_slots(walk, node, obj, slots_of(kinds))
    walk.unordered(node, obj)


_BUILT_IN: dict[type, TaggedWriter] = {
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
_BUILT_IN_WITH_SUBCLASSES: dict[type, TaggedWriter] = {
    type: (b"class\n", write_class),
    set: (b"kind of set\n", _write_set_subclass),
    frozenset: (b"kind of frozenset\n", _write_set_subclass),
    array.array: (b"array\n", _write_array),
    enum.Enum: (b"enum\n", _write_enum),
    pathlib.PurePath: (b"path\n", _write_path),
    fractions.Fraction: (b"fraction\n", _write_fraction),
}
_REDUCED: TaggedWriter = (b"object\n", write_reduced)
_REGISTERED: dict[type, TaggedWriter] = {}
# For each package, the module and the function that return the writers of its types. These serve subclasses too.
_PACKAGES = {
    "numpy": ("shoal.hashing._arrays", "numpy_writers"),
    "torch": ("shoal.hashing._arrays", "torch_writers"),
    "pandas": ("shoal.hashing._tables", "pandas_writers"),
    "polars": ("shoal.hashing._tables", "polars_writers"),
    "xarray": ("shoal.hashing._tables", "xarray_writers"),
    "pyarrow": ("shoal.hashing._arrow", "pyarrow_writers"),
}
_found: dict[type, TaggedWriter] = {}


def writer_of(kind: type) -> TaggedWriter:
    """Return the tag and the writer of the nodes of a type."""
    found = _found.get(kind)
    if found is None:
        if len(_found) > 10_000:  # a program may create types without end
            _found.clear()
        found = _found[kind] = _find(kind)
    return found


def _find(kind: type) -> TaggedWriter:
    for base in kind.__mro__:
        if base in _REGISTERED:
            return _REGISTERED[base]
    if kind in _BUILT_IN:
        return _BUILT_IN[kind]
    for base in kind.__mro__:
        package = base.__module__.partition(".")[0]
        if package in _PACKAGES and package in sys.modules:
            module, function = _PACKAGES[package]
            _BUILT_IN_WITH_SUBCLASSES.update(getattr(importlib.import_module(module), function)())
    for base in kind.__mro__:
        if base in _BUILT_IN_WITH_SUBCLASSES:
            return _BUILT_IN_WITH_SUBCLASSES[base]
    if hasattr(kind, "__arrow_c_stream__"):
        from ._arrow import stream_function

        table = stream_function(kind)
        return _REDUCED if table is None else (b"stream\n", substitute_writer(table))
    return _REDUCED
