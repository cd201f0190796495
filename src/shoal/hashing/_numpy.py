"""What is written of numpy's arrays, scalars and dtypes.

::

    array   class, dtype, shape, order; then the data: bytes, or the elements where they are Python objects
            order: "C", "F", or the strides where memory is in neither (in which case the data are in C order)
    scalar  dtype, data
    dtype   its code ("<f8"), its fields, or what its pickle has where these do not say everything

Bytes between the fields of a struct, and those that fill up a long double, are left out: nothing sets them.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np

from ._arrays import data_of, pieces_of
from ._attributes import slots_of, write_slots
from ._data import feed
from ._walk import Node, Walk, Writer
from ._writers import write_reduced

# An x87 long double has 80 bits.
_LONG_DOUBLE_BYTES = 10 if np.finfo(np.longdouble).nmant == 63 else np.dtype(np.longdouble).itemsize
_OLD_STYLE_DTYPES = 24  # numpy's own dtypes have the numbers below
#: The attributes of numpy's own kinds of arrays, which say where the data are, or are written otherwise.
_OWN_ATTRIBUTES: dict[type, frozenset[str]] = {
    np.memmap: frozenset(("_mmap", "filename", "mode", "offset")),
    np.ma.MaskedArray: frozenset(
        f"_{name}"
        for name in ("baseclass", "basedict", "fill_value", "hardmask", "isfield", "mask", "optinfo", "sharedmask")
    ),
}


def _described(dtype: np.dtype[Any]) -> Any:
    """Return what tells a dtype from all others: its code, or else itself."""
    plain = dtype.num < _OLD_STYLE_DTYPES and dtype.names is None and dtype.subdtype is None and dtype.metadata is None
    return dtype.str if plain else dtype


def _named(cls: type) -> Any:
    """Return a class, or its name if it is one of numpy's, whose modules moved between versions 1 and 2."""
    return f"numpy.{cls.__name__}" if getattr(np, cls.__name__, None) is cls else cls


def _write_dtype(walk: Walk, node: Node, dtype: np.dtype[Any]) -> None:
    described = _described(dtype)
    if isinstance(described, str):
        walk.elements(node, [described])
    elif dtype.fields is not None and dtype.names is not None:
        node.update(b"fields")
        around = [_named(dtype.type), dtype.itemsize, dtype.isalignedstruct, dict(dtype.metadata or {})]
        walk.elements(node, [*around, *((name, *dtype.fields[name]) for name in dtype.names)])
    elif dtype.subdtype is not None:
        node.update(b"of arrays")
        walk.elements(node, [*dtype.subdtype])
    else:
        node.update(b"reduced")
        write_reduced(walk, node, dtype)


def _write_scalar(walk: Walk, node: Node, scalar: np.generic) -> None:
    if type(scalar) is not scalar.dtype.type:  # somebody's subclass
        node.update(b"subclass")
        walk.elements(node, [type(scalar)])  # which its pickle leaves out, with its attributes
        if isinstance(type(scalar).__reduce__, types.FunctionType):
            write_reduced(walk, node, scalar)
            return
        _write_attributes(walk, node, scalar)
    walk.elements(node, [_described(scalar.dtype)])
    _write_data(walk, node, np.asarray(scalar))


def _write_array(walk: Walk, node: Node, array: np.ndarray[Any, Any]) -> None:
    cls: Any = type(array)
    if cls is np.ndarray or (walk.coerce_mmap and isinstance(array, np.memmap)):
        cls = None
    order = "C" if array.flags.c_contiguous else "F" if array.flags.f_contiguous else array.strides
    walk.elements(node, [cls and _named(cls), _described(array.dtype), array.shape, order])
    _write_data(walk, node, array.view(np.ndarray))
    if isinstance(array, np.ma.MaskedArray):
        # The view is for the fill value, which an array makes up when it is asked for it first.
        walk.elements(node, [array.mask, array.view().fill_value, array.hardmask])
        base, about = array.baseclass, array._optinfo  # type: ignore[attr-defined]
        if base is not np.ndarray or about:
            walk.elements(node, [_named(base), about])
    if cls is not None:
        _write_attributes(walk, node, array)


def _write_attributes(walk: Walk, node: Node, array: Any) -> None:
    """Write the attributes that a subclass has given an array or a scalar, in its ``__dict__`` or in slots."""
    cls: Any = type(array)
    own, slots = _attributes_of(cls)
    attributes = getattr(array, "__dict__", None)
    if attributes and not attributes.keys() <= own:
        walk.elements(node, [{name: value for name, value in attributes.items() if name not in own}])
    if slots:
        write_slots(walk, node, array, slots)


@functools.lru_cache(1024)
def _attributes_of(cls: Any) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the attributes of a kind of array that are numpy's, and those that it keeps in slots."""
    own = [names for kind, names in _OWN_ATTRIBUTES.items() if issubclass(cls, kind)]
    return frozenset().union(*own), slots_of(cls.__mro__)


def _write_data(walk: Walk, node: Node, array: np.ndarray[Any, Any]) -> None:
    if array.dtype.hasobject:
        for piece in pieces_of(array):
            walk.elements(node, piece.reshape(-1).tolist())
    elif array.dtype.names is not None and _has_gaps(array.dtype):
        for name in array.dtype.names:
            _write_data(walk, node, array[name])
    elif array.dtype.char in "gG" and array.size:
        for piece in pieces_of(array):
            numbers = piece.reshape(-1).view(np.uint8).reshape(-1, np.dtype(np.longdouble).itemsize)
            node.update(np.ascontiguousarray(numbers[:, :_LONG_DOUBLE_BYTES]))
    else:
        feed(node, array.nbytes, data_of(array))


def _has_gaps(dtype: np.dtype[Any]) -> bool:
    if dtype.subdtype is not None:
        return _has_gaps(dtype.subdtype[0])
    if dtype.names is None:
        return dtype.char in "gG"
    assert dtype.fields is not None
    fields = [dtype.fields[name][0] for name in dtype.names]
    return sum(field.itemsize for field in fields) != dtype.itemsize or any(map(_has_gaps, fields))


def writers() -> dict[type, tuple[bytes, Writer]]:
    """Return the writers of numpy's types."""
    return {
        np.ndarray: (b"ndarray\n", _write_array),
        np.generic: (b"scalar\n", _write_scalar),
        np.dtype: (b"dtype\n", _write_dtype),
    }
