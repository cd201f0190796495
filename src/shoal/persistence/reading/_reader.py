"""Reading: the C unpickler, and arrays put into its hands where joblib's wrapper of them has just been rebuilt.

::

    unpickler.load() <── read() <── Input <── the file
          │                ^
          │ BUILD          │ "0NQ": POP the wrapper, push None, BINPERSID
          v                │
    wrapper.__setstate__ ──┴──> the array is read, or mapped; persistent_load returns it

A frame ends with BUILD where an array follows, so that the file then stands before the array.
"""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable
from typing import Any

import xxhash

from shoal._arrays import ArraySpec, flat
from shoal.errors import DamagedFile
from shoal.persistence._format import WRAPPER, WRAPPER_MODULE
from shoal.persistence.reading._input import STEP, Input
from shoal.persistence.reading._legacy import WRAPPERS, read_array

#: Has the unpickler take an array in the place of its wrapper.
TAKE_ARRAY = b"0NQ"
#: What modules of NumPy 2 are called in NumPy 1.
_NUMPY_1 = {"numpy._core": "numpy.core", "numpy.rec": "numpy.core.records", "numpy.char": "numpy.core.defchararray"}
#: Arrays of so many bytes are rather copied once more than dealt with as large ones.
SMALL = 2**15


class Reader(pickle.Unpickler):
    """Rebuilds one object.

    Parameters
    ----------
    source
        Where it is read from.
    native
        Whether arrays of another byte order are turned into this machine's.
    sums
        Takes the checksum of each array that is read, by its position; None if nobody is interested.
    mapping
        Returns the array that lies at a position, given what is known of it; None to read arrays.
    mmap_mode
        How arrays are mapped that are in files of their own.

    Attributes
    ----------
    legacy
        Whether there are such: joblib before 0.10 has written them.
    """

    def __init__(
        self,
        source: Input,
        native: bool,
        sums: dict[int, int] | None = None,
        mapping: Callable[[ArraySpec, int], Any] | None = None,
        mmap_mode: str | None = None,
    ) -> None:
        super().__init__(source)  # type: ignore[arg-type] # it takes any buffer
        self._source = source
        self._native = native
        self._sums = sums
        self._mapping = mapping
        self._mmap_mode = mmap_mode
        self.legacy = False
        self._kinds: list[Any] = []
        self._wrapper: Any = None
        self._ndarray: Any = None
        self._found: dict[tuple[str, str], Any] = {}
        self._array: Any = None

    def load(self) -> Any:
        """Rebuild the object."""
        try:
            return super().load()
        finally:
            # They hold the reader, and it all that it has met: only a collection would end that circle.
            for kind in self._kinds:
                del kind.__setstate__

    def _stand_in(self, name: str, setstate: Callable[[Any], None]) -> Any:
        """Return a class whose instances call a method when they have been rebuilt."""
        kind: Any = type(name, (), {"__setstate__": staticmethod(setstate)})
        self._kinds.append(kind)
        return kind

    def find_class(self, module: str, name: str) -> Any:
        """Return a global; in the place of joblib's wrapper of arrays, one of ours."""
        if is_wrapper(module, name):
            if self._wrapper is None:
                import numpy as np

                self._ndarray = np.ndarray
                self._wrapper = self._stand_in(WRAPPER, self._met)
            return self._wrapper
        if name in WRAPPERS and module.endswith((WRAPPER_MODULE, WRAPPER_MODULE + "_compat")):
            self.legacy = True
            return self._stand_in(name, self._met_file)
        known = self._found.get((module, name))
        if known is None:
            known = self._found[module, name] = self._import(module, name)
        return known

    def _import(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except ModuleNotFoundError:
            # NumPy 1 does not know the names of 2.
            for new, old in _NUMPY_1.items():
                if module == new or module.startswith(f"{new}."):
                    return super().find_class(old + module[len(new) :], name)
            raise

    def persistent_load(self, pid: Any) -> Any:
        """Return the array that was just read."""
        if pid is not None or self._array is None:
            raise self._damage("an opcode of the format", "a persistent id")
        array, self._array = self._array, None
        return array

    def _met(self, state: Any) -> None:
        """Take an array from the file: its wrapper was just rebuilt."""
        if self._array is not None:
            raise self._damage("the end of a frame", "another array")
        try:
            shape, order, dtype = state["shape"], state["order"], state["dtype"]
            kind, mappable, objects = state["subclass"], state["allow_mmap"], dtype.hasobject
            nbytes = math.prod(shape) * dtype.itemsize
            if order not in ("C", "F") or nbytes < 0 or (len(shape) > 1 and min(shape) < 0):
                raise ValueError(f"{shape}, {order}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._damage("what describes an array", f"{type(error).__name__}: {error}") from None
        source = self._source
        if objects:
            array = self._nested()
        else:
            padded, data = state.get("numpy_array_alignment_bytes") is not None, None
            if padded and nbytes <= SMALL and self._mapping is None:
                data = source.padded(nbytes)
            if data is not None:
                array = self._small(shape, order, dtype, data)
            else:
                if padded:
                    source.padding()
                source.expect(nbytes, "an array")
                array = self._next_array(ArraySpec(dtype, shape, order), nbytes, mappable)
            if self._native and not dtype.isnative and not (mappable and self._mapping):
                array = _native(array)
            if kind is not self._ndarray:
                array = self._as_kind(array, kind)
        self._array = array
        source.go_on(TAKE_ARRAY)

    def _met_file(self, state: dict[str, Any]) -> None:
        """Take an array from a file of its own."""
        array = read_array(state, os.path.dirname(self._source.name), self._mmap_mode)
        self._array = _native(array) if self._native else array
        self._source.go_on(TAKE_ARRAY)

    def _nested(self) -> Any:
        """Return what a pickle within the pickle holds: an array of objects, as joblib writes it."""
        self._source.go_on()
        return self._inner().load()

    def _inner(self) -> Any:
        """Return what reads such a pickle; what the one has found, the other need not look for."""
        inner = type(self)(self._source, self._native, self._sums, self._mapping)
        inner._found = self._found
        return inner

    def _small(self, shape: Any, order: Any, dtype: Any, data: bytes) -> Any:
        """Return the array of some bytes, which were taken just now."""
        if self._sums is not None:
            self._sums[self._source.position - len(data)] = xxhash.xxh3_64_intdigest(data)
        return self._ndarray(shape, dtype, bytearray(data), 0, None, order)

    def _next_array(self, spec: ArraySpec, nbytes: int, mappable: bool) -> Any:
        """Return the array whose bytes come next."""
        source, start = self._source, self._source.position
        if self._mapping is not None and mappable:
            array = self._mapping(spec, start)
            source.skip(nbytes, "an array")
            return array
        if nbytes <= SMALL:
            return self._small(spec.shape, spec.order, spec.dtype, source.taken(nbytes, "an array"))
        checksum = None if self._sums is None else xxhash.xxh3_64()
        if source.left is not None or nbytes <= STEP:
            array = spec.empty()
            source.fill(memoryview(flat(array)), "an array", checksum)
        else:
            array = spec.over(self._grown(nbytes, checksum))
        if self._sums is not None:
            self._sums[start] = checksum.intdigest()  # type: ignore[union-attr]
        return array

    def _grown(self, nbytes: int, checksum: Any) -> Any:
        """Return so many bytes, of which nobody knows whether the file has them: memory is taken as they come."""
        import numpy as np

        memory, have = np.empty(STEP, np.uint8), 0
        while True:
            with memoryview(memory) as view:  # type: ignore[arg-type]
                self._source.fill(view[have:], "an array", checksum)
            have = memory.nbytes
            if have == nbytes:
                return memory
            memory.resize(min(2 * have, nbytes), refcheck=False)

    @staticmethod
    def _as_kind(array: Any, kind: Any) -> Any:
        import numpy as np

        if kind in (np.ndarray, np.memmap) or not (isinstance(kind, type) and issubclass(kind, np.ndarray)):
            return array
        if not isinstance(array, np.ndarray):  # a pickle within the pickle may hold anything
            return array
        return array.view(kind)

    def _damage(self, expected: str, found: str) -> DamagedFile:
        return DamagedFile(self._source.name, self._source.position, expected, found)


def is_wrapper(module: str, name: str) -> bool:
    """Tell whether that is joblib's wrapper of arrays."""
    return name == WRAPPER and module.endswith(WRAPPER_MODULE)


def _native(array: Any) -> Any:
    """Return an array in this machine's byte order, in the same memory."""
    dtype = array.dtype
    kinds = [field[0] for field in dtype.fields.values()] if dtype.fields else [dtype]
    if all(not kind.isnative for kind in kinds):
        return array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return array
