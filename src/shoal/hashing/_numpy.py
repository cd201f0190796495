"""What is written of numpy's arrays, scalars and dtypes.

::

    array   class, dtype, shape, order; then the data: bytes, or the elements where they are Python objects
            order: "C", "F", or the strides where memory is in neither (in which case the data are in C order)
    scalar  dtype, data
    dtype   its code ("<f8"), its fields, or what its pickle has where these do not say everything

Bytes between the fields of a struct, and those that fill up a long double, are left out: nothing sets them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays import data_of, pieces_of
from ._data import feed
from ._walk import Node, Walk, Writer
from ._writers import write_reduced

# An x87 long double has 80 bits.
_LONG_DOUBLE_BYTES = 10 if np.finfo(np.longdouble).nmant == 63 else np.dtype(np.longdouble).itemsize
_OLD_STYLE_DTYPES = 24  # numpy's own dtypes have the numbers below


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
        write_reduced(walk, node, scalar)
        return
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
    elif cls is not None and not isinstance(array, np.memmap) and getattr(array, "__dict__", None):
        walk.elements(node, [vars(array)])


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
