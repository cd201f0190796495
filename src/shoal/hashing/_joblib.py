"""joblib's digests: md5 or sha1 of the stream that joblib's pickler writes, bit for bit.

::

    digest of   data of arrays, pickles of dtypes (in the order in which they are met)   then the stream
    the stream  protocol 3, of pickle's Python implementation, where
                    str, bytes            are not memoised
                    dict                  items in the order of sorted(items), or else of the digests of their keys
                    set                   joblib.hashing._ConsistentSet, of the sorted elements, or of their digests
                    bound method          joblib.hashing._MyHash(name, self, class)
                    function of a module  joblib.hashing._MyHash(name, module), where it is compiled
                    array                 (class, ("HASHED", dtype, shape, strides))
                    dtype                 nothing

All else is left to ``pickle._Pickler``, whose stream it is. It is as fast as it can be there: the way to what
writes an object is looked up by the object's exact type, once for each type.
"""

from __future__ import annotations

import decimal
import hashlib
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

from shoal.errors import HashingError

from ._refusal import refusal

Save = Callable[["_Pickler", Any], None]
_PurePickler: Any = vars(pickle)["_Pickler"]


class _ConsistentSet:
    """What a set is pickled as. The stream names this class, and its attribute, as joblib's."""

    def __init__(self, elements: Any) -> None:
        try:
            self._sequence = sorted(elements)
        except (TypeError, decimal.InvalidOperation):
            self._sequence = sorted(joblib_digest(element) for element in elements)


class _MyHash:
    """What a bound method is pickled as. The stream names this class, and its attribute, as joblib's."""

    def __init__(self, *args: Any) -> None:
        self.args = args


_NAMED_AS_JOBLIBS = {
    _ConsistentSet: b"cjoblib.hashing\n_ConsistentSet\n",
    _MyHash: b"cjoblib.hashing\n_MyHash\n",
}


class _Pickler(_PurePickler):  # type: ignore[misc]
    """Writes the stream into memory and the data of arrays into `digest`."""

    def __init__(self, digest: Any, coerce_mmap: bool) -> None:
        self.stream = io.BytesIO()
        super().__init__(self.stream, 3)
        self.write = self.stream.write  # protocol 3 has no frames
        self.digest, self.coerce_mmap = digest, coerce_mmap
        self.savers = _SAVERS.copy()

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        known = self.memo.get(id(obj))
        if known is not None:
            self.write(self.get(known[0]))
            return
        kind = type(obj)
        saver = self.savers.get(kind)
        if saver is None:
            saver = self.savers[kind] = _saver_of(kind)
        saver(self, obj)

    def memoize(self, obj: Any) -> None:
        # Not strings: whether two equal ones are one object is chance.
        if not isinstance(obj, (bytes, str)):
            super().memoize(obj)

    def _batch_setitems(self, items: Iterable[tuple[Any, Any]], *of: Any) -> None:
        items = list(items)
        try:
            items = sorted(items)
        except (TypeError, decimal.InvalidOperation):
            items = sorted((joblib_digest(key), value) for key, value in items)
        super()._batch_setitems(iter(items), *of)

    def save_set(self, elements: Any) -> None:
        self.save(_ConsistentSet(elements))

    def save_method(self, method: Any) -> None:
        name = getattr(method, "__func__", method).__name__
        owner = method.__self__
        if type(owner) is types.ModuleType:
            described = _MyHash(name, owner.__name__)
        elif owner is None:
            described = _MyHash(name, owner)
        else:
            described = _MyHash(name, owner, owner.__class__)
        self.save(described)

    def save_class(self, cls: type) -> None:
        named = _NAMED_AS_JOBLIBS.get(cls)
        if named is None:
            self.save_global(cls)
        else:
            self.write(named)
            self.memoize(cls)

    def save_array(self, array: Any) -> None:
        import numpy as np

        if array.dtype.hasobject:
            super().save(array)
            return
        from ._arrays import data_of

        for data in data_of(array):
            self.digest.update(data)
        cls = np.ndarray if self.coerce_mmap and isinstance(array, np.memmap) else array.__class__
        self.save((cls, ("HASHED", array.dtype, array.shape, array.strides)))

    def save_dtype(self, dtype: Any) -> None:
        # Each by itself: whether two equal dtypes are one object depends on where they come from.
        self.digest.update(b"_HASHED_DTYPE")
        self.digest.update(pickle.dumps(dtype))


def _save_as_pickle_does(pickler: _Pickler, obj: Any) -> None:
    _PurePickler.save(pickler, obj)


_SAVERS: dict[type, Save] = {
    **{kind: _PurePickler.dispatch[kind] for kind in (type(None), bool, int, float, bytes, str, tuple, list, dict)},
    set: _Pickler.save_set,
    type: _Pickler.save_class,
    types.MethodType: _Pickler.save_method,
    types.BuiltinMethodType: _Pickler.save_method,
}


def _saver_of(kind: type) -> Save:
    numpy = sys.modules.get("numpy")
    if numpy is not None and issubclass(kind, numpy.ndarray):
        return _Pickler.save_array
    if numpy is not None and issubclass(kind, numpy.dtype):
        return _Pickler.save_dtype
    return _save_as_pickle_does


def joblib_digest(obj: Any, hash_name: str = "md5", coerce_mmap: bool = False) -> str:
    """Return the digest that joblib 1.6 gives `obj`, in hexadecimal digits."""
    digest = hashlib.new(hash_name, usedforsecurity=False)
    pickler = _Pickler(digest, coerce_mmap)
    try:
        pickler.dump(obj)
    except HashingError:  # of a key or an element
        raise
    except (pickle.PicklingError, TypeError) as error:
        raise refusal(obj, error) from error
    digest.update(pickler.stream.getbuffer())
    return digest.hexdigest()
