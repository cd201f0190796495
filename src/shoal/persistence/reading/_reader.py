"""Reading: the unpickler, and arrays handed to it where it has just rebuilt joblib's wrapper of an array.

::

    unpickler.load() <── read() <── Input <── the file
          │                ^
          │ BUILD          │ "0NQ": POP the wrapper, push None, BINPERSID
          v                │
    wrapper.__setstate__ ──┴──> the array is read, or mapped; persistent_load returns it

A frame ends with BUILD if an array follows. The file then stands at the array.
"""

from __future__ import annotations

import _compat_pickle
import math
import os
from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

import xxhash

from shoal._arrays import ArraySpec, flat
from shoal._platform.pickles import Unpickler
from shoal.errors import DamagedFile
from shoal.persistence._format import WRAPPER, WRAPPER_MODULE
from shoal.persistence.reading._input import STEP, Input
from shoal.persistence.reading._legacy import WRAPPERS, read_array

#: These opcodes make the unpickler replace the wrapper of an array by the array.
TAKE_ARRAY = b"0NQ"
#: Modules of NumPy 2, and their names in NumPy 1.
_NUMPY_1 = {"numpy._core": "numpy.core", "numpy.rec": "numpy.core.records", "numpy.char": "numpy.core.defchararray"}
#: For arrays of at most this many bytes, one more copy is cheaper than the way of large arrays.
SMALL = 2**15


class Reader(Unpickler):
    """An unpickler that rebuilds one object, and reads or maps the arrays in it. To be used once, from one thread.

    Parameters
    ----------
    source
        The input to read from.
    native
        Whether arrays of another byte order are converted to this machine's.
    sums
        None if the checksums of arrays are not compared. If the input does not know the footer yet, receives the
        xxh3_64 of each array that is read, by position.
    mapping
        Returns the array at a position in bytes, given its spec; None to read arrays.
    mmap_mode
        How arrays that are in files of their own are mapped.

    Attributes
    ----------
    legacy
        Whether there were arrays in files of their own: then joblib before 0.10 has written the file.
    """

    def __init__(
        self,
        source: Input,
        native: bool,
        sums: dict[int, int] | None = None,
        mapping: Callable[[ArraySpec, int], Any] | None = None,
        mmap_mode: str | None = None,
    ) -> None:
        super().__init__(source)  # type: ignore[arg-type] # any object with a buffer may be returned by its read
        self._source = source
        self._native = native
        self._sums = sums
        self._mapping = mapping
        self._mmap_mode = mmap_mode
        self.legacy = False
        self._wrapper: Any = None
        self._ndarray: Any = None
        self._globals: dict[tuple[str, str], Any] = {}
        self._array: Any = None

    @staticmethod
    def _stand_in(name: str, set_state: Callable[[Any], None]) -> Any:
        """Return a class whose instances call a method of a reader with their state.

        A class is part of a cycle, which only a garbage collection ends. So it refers to the reader weakly; otherwise
        the reader, and all objects that it has read, would live as long.
        """
        method = WeakMethod(set_state)

        def __setstate__(_: Any, state: Any) -> None:  # noqa: N807
            bound = method()
            if bound is not None:
                bound(state)

        return type(name, (), {"__setstate__": __setstate__})

    def find_class(self, module: str, name: str) -> Any:
        """Return a global. For joblib's wrapper of arrays, return a class of this reader instead."""
        if is_wrapper(module, name):
            if self._wrapper is None:
                import numpy as np

                self._ndarray = np.ndarray
                self._wrapper = self._stand_in(WRAPPER, self._met)
            return self._wrapper
        if name in WRAPPERS and module.endswith((WRAPPER_MODULE, WRAPPER_MODULE + "_compat")):
            self.legacy = True
            return self._stand_in(name, self._read_array_file)
        known = self._globals.get((module, name))
        if known is None:
            known = self._globals[module, name] = self._import(module, name)
        return known

    def _import(self, module: str, name: str) -> Any:
        self._source.check()
        try:
            return super().find_class(module, name)
        except ModuleNotFoundError:
            # NumPy 1 does not know the module names of NumPy 2.
            for new, old in _NUMPY_1.items():
                if module == new or module.startswith(f"{new}."):
                    return super().find_class(old + module[len(new) :], name)
            raise

    def persistent_load(self, pid: Any) -> Any:
        """Return the array that was read last. The unpickler asks for it because of TAKE_ARRAY."""
        if pid is not None or self._array is None:
            raise self._damage("an opcode of the format", "a persistent id")
        array, self._array = self._array, None
        return array

    def _met(self, state: Any) -> None:
        """Read or map the array that follows. The unpickler has just given its wrapper a state."""
        if self._array is not None:
            raise self._damage("the end of a frame", "another array")
        try:
            shape, order, dtype = state["shape"], state["order"], state["dtype"]
            kind, mappable, objects = state["subclass"], state["allow_mmap"], dtype.hasobject
            nbytes = math.prod(shape) * dtype.itemsize
            if order not in ("C", "F") or nbytes < 0 or (len(shape) > 1 and min(shape) < 0):
                raise ValueError(f"{shape}, {order}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._damage("the description of an array", f"{type(error).__name__}: {error}") from None
        source = self._source
        if not source.promised:  # the file has no checksums
            self._sums = None
        if objects:
            array = self._nested()
        else:
            padded, data = state.get("numpy_array_alignment_bytes") is not None, None
            if padded and nbytes <= SMALL and self._mapping is None:
                data = source.padded(nbytes)
            if data is not None:
                array = self._array_of(data, shape, order, dtype)
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

    def _read_array_file(self, state: dict[str, Any]) -> None:
        """Read or map an array that is in a file of its own, which its wrapper names."""
        array = read_array(state, os.path.dirname(self._source.name), self._mmap_mode)
        self._array = _native(array) if self._native else array
        self._source.go_on(TAKE_ARRAY)

    def _nested(self) -> Any:
        """Read a pickle within the pickle: joblib writes arrays of objects so."""
        self._source.go_on()
        return self._inner().load()

    def _inner(self) -> Any:
        """Return a reader for such a pickle. It shares the globals that were already imported."""
        inner = type(self)(self._source, self._native, self._sums, self._mapping)
        inner._globals = self._globals
        return inner

    def _array_of(self, data: bytes, shape: Any, order: Any, dtype: Any) -> Any:
        """Return the small array that has these bytes, which were just read."""
        if self._sums is not None:
            self._compare(self._source.position - len(data), xxhash.xxh3_64_intdigest(data))
        return self._ndarray(shape, dtype, bytearray(data), 0, None, order)

    def _next_array(self, spec: ArraySpec, nbytes: int, mappable: bool) -> Any:
        """Read or map the array whose bytes come next."""
        source, start = self._source, self._source.position
        if self._mapping is not None and mappable:
            array = self._mapping(spec, start)
            source.skip(nbytes, "an array")
            return array
        if nbytes <= SMALL:
            return self._array_of(source.read_data(nbytes, "an array"), spec.shape, spec.order, spec.dtype)
        checksum = None if self._sums is None else xxhash.xxh3_64()
        if source.left is not None or nbytes <= STEP:
            array = spec.empty()
            source.fill(memoryview(flat(array)), "an array", checksum)
        else:
            array = spec.over(self._read_growing(nbytes, checksum))
        if checksum is not None:
            self._compare(start, checksum.intdigest())
        return array

    def _compare(self, position: int, found: int) -> None:
        """Compare the checksum of an array with the footer, or note it if the footer comes later.

        Raises
        ------
        DamagedFile
            If the checksum differs. The array was not handed to any class then.
        """
        known = self._source.known
        if known is not None:
            known.compare(self._source.name, None, {position: found})
        elif self._sums is not None:
            self._sums[position] = found

    def _read_growing(self, nbytes: int, checksum: Any) -> Any:
        """Read `nbytes` bytes of a file of unknown size. Memory grows as they arrive, because `nbytes` may be false."""
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
    """Tell whether a global is joblib's wrapper of arrays."""
    return name == WRAPPER and module.endswith(WRAPPER_MODULE)


def as_named_now(module: str, name: str) -> tuple[str, str]:
    """Return the module and the name of a global in Python 3, given those of Python 2 or 3."""
    known = _compat_pickle.NAME_MAPPING.get((module, name))
    return known or (_compat_pickle.IMPORT_MAPPING.get(module, module), name)


def _native(array: Any) -> Any:
    """Convert an array to this machine's byte order, in place."""
    dtype = array.dtype
    kinds = [field[0] for field in dtype.fields.values()] if dtype.fields else [dtype]
    if all(not kind.isnative for kind in kinds):
        return array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return array
