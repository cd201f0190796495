"""Writers for arrays: numpy's arrays, scalars and dtypes, and torch's tensors.

::

    array   class, dtype, shape, order; then the data: bytes, or the elements where they are Python objects
            order: "C", "F", or the strides if the memory is in neither order (then the data are in C order)
    scalar  dtype, data
    dtype   its code ("<f8"), its fields, or its pickle where these do not determine it
    tensor  dtype, shape, order, device, whether it requires a gradient; then the bytes

Bytes between the fields of a struct, and the bytes that fill up a long double, are left out, because nothing sets them.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from ._bytes import data_of, feed, pieces_of
from ._reduced import slots_of, substitute_writer, write_reduced, write_slots
from ._walk import Node, Walk, Writer

# An x87 long double has 80 bits.
_LONG_DOUBLE_BYTES = 10 if np.finfo(np.longdouble).nmant == 63 else np.dtype(np.longdouble).itemsize
_FIRST_USER_DTYPE = 24  # numpy's own dtypes have smaller numbers
#: Attributes that numpy's own array classes set. They say where the data are, or are written in another way.
_OWN_ATTRIBUTES: dict[type, frozenset[str]] = {
    np.memmap: frozenset(("_mmap", "filename", "mode", "offset")),
    np.ma.MaskedArray: frozenset(
        f"_{name}"
        for name in ("baseclass", "basedict", "fill_value", "hardmask", "isfield", "mask", "optinfo", "sharedmask")
    ),
}


def _code_or_dtype(dtype: np.dtype[Any]) -> Any:
    """Return the code of a dtype, such as ``"<f8"``, or the dtype itself if the code does not determine it."""
    plain = dtype.num < _FIRST_USER_DTYPE and dtype.names is None and dtype.subdtype is None and dtype.metadata is None
    return dtype.str if plain else dtype


def _name_or_class(cls: type) -> Any:
    """Return the name of a numpy class, because numpy 2 moved some to other modules; for others the class itself."""
    known = cls in (vars(home).get(cls.__name__) for home in (np, np.char))  # getattr() would warn of chararray
    return f"numpy.{cls.__name__}" if known else cls


def _write_dtype(walk: Walk, node: Node, dtype: np.dtype[Any]) -> None:
    code = _code_or_dtype(dtype)
    if isinstance(code, str):
        walk.elements(node, [code])
    elif dtype.fields is not None and dtype.names is not None:
        node.update(b"fields")
        header = [_name_or_class(dtype.type), dtype.itemsize, dtype.isalignedstruct, dict(dtype.metadata or {})]
        walk.elements(node, [*header, *((name, *dtype.fields[name]) for name in dtype.names)])
    elif dtype.subdtype is not None:
        node.update(b"of arrays")
        walk.elements(node, [*dtype.subdtype])
    else:
        node.update(b"reduced")
        write_reduced(walk, node, dtype)


def _write_scalar(walk: Walk, node: Node, scalar: np.generic) -> None:
    if type(scalar) is not scalar.dtype.type:  # an instance of a user's subclass
        node.update(b"subclass")
        walk.elements(node, [type(scalar)])  # numpy's pickles leave out the subclass and its attributes
        if isinstance(type(scalar).__reduce__, types.FunctionType):
            write_reduced(walk, node, scalar)
            return
        _write_attributes(walk, node, scalar)
    walk.elements(node, [_code_or_dtype(scalar.dtype)])
    _write_data(walk, node, np.asarray(scalar))


def _write_array(walk: Walk, node: Node, array: np.ndarray[Any, Any]) -> None:
    cls: Any = type(array)
    if cls is np.ndarray or (walk.coerce_mmap and isinstance(array, np.memmap)):
        cls = None
    order = "C" if array.flags.c_contiguous else "F" if array.flags.f_contiguous else array.strides
    walk.elements(node, [cls and _name_or_class(cls), _code_or_dtype(array.dtype), array.shape, order])
    _write_data(walk, node, array.view(np.ndarray))
    if isinstance(array, np.ma.MaskedArray):
        # An array sets its fill value when the value is first read. Reading it from a view leaves the array as it is.
        walk.elements(node, [array.mask, array.view().fill_value, array.hardmask])
        base, about = array.baseclass, array._optinfo  # type: ignore[attr-defined]
        if base is not np.ndarray or about:
            walk.elements(node, [_name_or_class(base), about])
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
    """Return the attributes of an array class that numpy sets itself, and those in slots."""
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


def _dense_tensor(tensor: Any) -> Iterator[Any]:
    import torch

    order = "C" if tensor.is_contiguous() else tensor.stride()
    yield [str(tensor.dtype), tuple(tensor.shape), order, tensor.device.type, tensor.requires_grad]
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    # The view is of bytes, because numpy has no bfloat16 and no counterpart of some other dtypes.
    yield plain.reshape(-1).view(torch.uint8).numpy()


_write_dense_tensor = substitute_writer(_dense_tensor)


def _write_tensor(walk: Walk, node: Node, tensor: Any) -> None:
    import torch

    # The pickle of a dense tensor holds the whole storage that the tensor may be a small view of.
    if tensor.layout is torch.strided and not tensor.is_quantized:
        _write_dense_tensor(walk, node, tensor)
    else:
        write_reduced(walk, node, tensor)


def numpy_writers() -> dict[type, tuple[bytes, Writer]]:
    """Return the tags and writers of numpy's types."""
    return {
        np.ndarray: (b"ndarray\n", _write_array),
        np.generic: (b"scalar\n", _write_scalar),
        np.dtype: (b"dtype\n", _write_dtype),
    }


def torch_writers() -> dict[type, tuple[bytes, Writer]]:
    """Return the tag and the writer of torch's tensors."""
    import torch

    return {torch.Tensor: (b"tensor\n", _write_tensor)}
