"""joblib's digests, and joblib's hashing picklers in Python, which other projects subclass."""

from __future__ import annotations

import contextlib
import decimal
import hashlib
import io
import pickle
import sys
import types
from collections.abc import Iterable
from typing import Any, ClassVar

import shoal.hashing
from shoal.errors import HashingError

__all__ = ["Hasher", "NumpyHasher", "hash"]

Pickler: Any = pickle._Pickler

_PROTOCOL = 3


def hash(obj: Any, hash_name: str = "md5", coerce_mmap: bool = False) -> str:
    """Return joblib's digest of an object.

    Parameters
    ----------
    obj
        Any object that can be pickled.
    hash_name
        "md5" or "sha1".
    coerce_mmap
        Whether a memory map has the same digest as an array in memory.

    Raises
    ------
    ValueError
        If the algorithm is unknown.
    PicklingError
        If the object cannot be pickled.
    """
    if hash_name not in ("md5", "sha1"):
        raise ValueError(f"Valid options for 'hash_name' are ('md5', 'sha1'). Got hash_name={hash_name!r} instead.")
    try:
        return shoal.hashing.hash(obj, hash_name=hash_name, coerce_mmap=coerce_mmap)
    except HashingError as error:
        error.reason = f"PicklingError while hashing it ({error.reason})"
        raise


class _ConsistentSet:
    """Pickled in place of a set: its elements in an order that is the same in every process."""

    def __init__(self, set_sequence: Iterable[Any]) -> None:
        elements = list(set_sequence)
        try:
            self._sequence = sorted(elements)
        except (TypeError, decimal.InvalidOperation):
            self._sequence = sorted(map(hash, elements))


class _MyHash:
    """Pickled in place of a method."""

    def __init__(self, *args: Any) -> None:
        self.args = args


class Hasher(pickle._Pickler):
    """A pickler that computes the digest of its stream.

    Parameters
    ----------
    hash_name
        An algorithm of :mod:`hashlib`.
    """

    def __init__(self, hash_name: str = "md5") -> None:
        self.stream: io.BytesIO = io.BytesIO()
        Pickler.__init__(self, self.stream, protocol=_PROTOCOL)
        self._hash = hashlib.new(hash_name, usedforsecurity=False)

    def hash(self, obj: Any, return_digest: bool = True) -> str | None:
        """Hash an object; return the digest of all objects hashed so far.

        Raises
        ------
        PicklingError
            If the object cannot be pickled.
        """
        try:
            self.dump(obj)
        except pickle.PicklingError as error:
            error.args += (f"PicklingError while hashing {obj!r}: {error!r}",)
            raise
        self._hash.update(self.stream.getvalue())
        return self._hash.hexdigest() if return_digest else None

    def save(self, obj: Any) -> None:
        """Pickle an object; a method as its name, its instance and its class."""
        if isinstance(obj, (types.MethodType, types.BuiltinMethodType)):
            name, owner = getattr(obj, "__func__", obj).__name__, obj.__self__
            if isinstance(owner, types.ModuleType):
                obj = _MyHash(name, owner.__name__)
            elif owner is None:
                obj = _MyHash(name, owner)
            else:
                obj = _MyHash(name, owner, owner.__class__)
        Pickler.save(self, obj)

    def memoize(self, obj: Any) -> None:
        """Memoize an object, except a string: equal strings count as one, whether or not they are one object."""
        if not isinstance(obj, (bytes, str)):
            Pickler.memoize(self, obj)

    def save_global(self, obj: Any, name: str | None = None, **_unused: Any) -> None:
        """Pickle an object by name. An object of ``__main__`` that is not found there is first assigned to its name."""
        with contextlib.suppress(pickle.PicklingError):
            Pickler.save_global(self, obj, name=name)
            return
        if getattr(obj, "__module__", None) == "__main__":
            main, known_as = sys.modules["__main__"], name or obj.__name__
            if not hasattr(main, known_as):
                setattr(main, known_as, obj)
        Pickler.save_global(self, obj, name=name)

    dispatch: ClassVar[dict[Any, Any]] = Pickler.dispatch.copy()
    for _kind in (types.BuiltinFunctionType, type, type(Pickler), types.FunctionType):
        dispatch[_kind] = save_global
    del _kind

    def _batch_setitems(self, items: Any, *args: Any) -> None:
        pairs = list(items)
        try:
            ordered = sorted(pairs)
        except TypeError:  # keys cannot be compared
            ordered = sorted((hash(key), value) for key, value in pairs)
        Pickler._batch_setitems(self, iter(ordered), *args)

    def save_set(self, set_items: Any) -> None:
        """Pickle a set."""
        Pickler.save(self, _ConsistentSet(set_items))

    dispatch[set] = save_set


class NumpyHasher(Hasher):
    """A :class:`Hasher` that also digests the bytes of arrays.

    Parameters
    ----------
    hash_name
        An algorithm of :mod:`hashlib`.
    coerce_mmap
        Whether a memory map has the same digest as an array in memory.
    """

    def __init__(self, hash_name: str = "md5", coerce_mmap: bool = False) -> None:
        super().__init__(hash_name)
        import numpy as np

        self.coerce_mmap = coerce_mmap
        self.np = np

    def save(self, obj: Any) -> None:
        """Pickle an object. For an array, digest its bytes and pickle its description."""
        np = self.np
        if isinstance(obj, np.dtype):
            self._hash.update(b"_HASHED_DTYPE")
            self._hash.update(pickle.dumps(obj))
            return
        if isinstance(obj, np.ndarray) and not obj.dtype.hasobject:
            flags = obj.flags
            if obj.shape == () or not flags.forc:
                contiguous = obj.flatten()
            else:
                contiguous = obj if flags.c_contiguous else obj.T
            self._hash.update(memoryview(contiguous.view(np.uint8)))
            kind = np.ndarray if self.coerce_mmap and isinstance(obj, np.memmap) else obj.__class__
            obj = kind, ("HASHED", obj.dtype, obj.shape, obj.strides)
        Hasher.save(self, obj)
