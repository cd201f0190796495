"""joblib's digests: md5 or sha1 of the stream that joblib's pickler writes, bit for bit.

::

    digest of   data of arrays, pickles of dtypes (in the order in which the pickler meets them)   then the stream
    the stream  protocol 3, as written by the Python implementation in pickle, except that
                    str, bytes            are not memoised
                    dict                  has its items in the order of sorted(items), or else of the keys' digests
                    set                   is joblib.hashing._ConsistentSet, of its sorted elements or of their digests
                    bound method          is joblib.hashing._MyHash(name, self, class)
                    compiled function     of a module is joblib.hashing._MyHash(name, module)
                    array                 is (class, ("HASHED", dtype, shape, strides)); a mask counts as data where
                                          joblib fails on it
                    dtype                 is nothing

``pickle._Pickler`` writes everything else. To save time, the function that saves an object is looked up by the object's
exact type, once for each type.
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

from ._bytes import data_of
from ._walk import hashing_error

Save = Callable[["_Pickler", Any], None]
_PurePickler: Any = vars(pickle)["_Pickler"]


class _ConsistentSet:
    """Pickled in place of a set. The stream names this class and its attribute as joblib does."""

    def __init__(self, elements: Any) -> None:
        try:
            self._sequence = sorted(elements)
        except (TypeError, decimal.InvalidOperation):
            self._sequence = sorted(joblib_digest(element) for element in elements)


class _MyHash:
    """Pickled in place of a bound method. The stream names this class and its attribute as joblib does."""

    def __init__(self, *args: Any) -> None:
        self.args = args


_JOBLIB_NAMES = {
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
        # Strings are left out, because it is chance whether two equal strings are one object.
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
            substitute = _MyHash(name, owner.__name__)
        elif owner is None:
            substitute = _MyHash(name, owner)
        else:
            substitute = _MyHash(name, owner, owner.__class__)
        self.save(substitute)

    def save_class(self, cls: type) -> None:
        joblib_name = _JOBLIB_NAMES.get(cls)
        if joblib_name is None:
            self.save_global(cls)
        else:
            self.write(joblib_name)
            self.memoize(cls)

    def save_array(self, array: Any) -> None:
        import numpy as np

        if array.dtype.hasobject:
            super().save(array)
            return
        for data in data_of(array):
            self.digest.update(data)
        if isinstance(array, np.ma.MaskedArray) and array.itemsize > 1 and array.mask is not np.ma.nomask:
            for data in data_of(np.asarray(array.mask)):  # joblib fails here, so this is unlike none of its digests
                self.digest.update(data)
        cls = np.ndarray if self.coerce_mmap and isinstance(array, np.memmap) else array.__class__
        self.save((cls, ("HASHED", array.dtype, array.shape, array.strides)))

    def save_dtype(self, dtype: Any) -> None:
        # Without the memo, because it depends on their origin whether two equal dtypes are one object.
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
    """Return joblib 1.6's digest of `obj`, in hexadecimal digits. Raise HashingError if it cannot be pickled."""
    digest = hashlib.new(hash_name, usedforsecurity=False)
    pickler = _Pickler(digest, coerce_mmap)
    try:
        pickler.dump(obj)
    except HashingError:  # it already names a key or an element
        raise
    except (pickle.PicklingError, TypeError) as error:
        raise hashing_error(obj, error) from error
    digest.update(pickler.stream.getbuffer())
    return digest.hexdigest()
