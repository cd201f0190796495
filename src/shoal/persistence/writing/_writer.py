"""Writing: the C pickler, and a decision for each object: does it stay in the pickle, or is it an array to be spliced?

::

    pickler.dump(value) ──> Writer._reduced(part of value), for each part that is not a plain builtin
                  │               ├── a large array, or one of the first few: Splicer.expect returns a token for it
                  │               ├── a small array: a reduction that is faster than numpy's
                  │               └── anything else: pickle's own reduction; its package is noted for the footer
                  └──> Writer.write(opcodes) ──┬── all of them at once, and no array: they are written as they are
                                               └──> Splicer.write(opcodes) ──> the file: _splice.py
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Collection
from types import FunctionType
from typing import Any

from xxhash import xxh3_64_intdigest

from shoal._arrays import ArraySpec, flat
from shoal._platform.pickles import Pickler
from shoal.persistence._format import FRAME, FRAME_HEADER, HEAD, PROTO, Footer, here
from shoal.persistence.writing._splice import Splicer

#: Arrays of fewer bytes stay in the pickle, where they are faster. But the first few arrays of a file that can be
#: mapped do not: whoever maps a file with few arrays finds all of them mapped.
SMALL, FEW = 2**16, 16


class Writer:
    """Writes one object. To be used once, from one thread.

    Parameters
    ----------
    put
        Writes all of the bytes that it is given.
    protocol
        The protocol of pickle.
    file
        The file, which tells its position, if arrays in it can be mapped; None if it is compressed.

    """

    __slots__ = ("_arrays", "_file", "_first", "_kinds", "_modules", "_protocol", "_put", "_splicer")

    def __init__(self, put: Callable[[Any], Any], protocol: int, file: Any = None) -> None:
        self._put, self._protocol, self._file = put, protocol, file
        self._first: bytes | None = None  # what the pickler wrote first; it is kept, because it may be all
        self._splicer: Splicer | None = None
        self._kinds: set[type] = set()
        self._modules: set[str] = set()
        numpy = sys.modules.get("numpy") if protocol >= 2 else None
        #: The types of arrays. There are none before numpy is imported.
        self._arrays: tuple[Any, ...] = () if numpy is None else _array_types(numpy)

    def dump(self, value: Any) -> tuple[bytes, Footer]:
        """Write an object, up to its last opcodes.

        Returns
        -------
        The last opcodes, which are all of them if the object is small, and the footer. They are to be written next.

        Raises
        ------
        PicklingError, TypeError, AttributeError
            If something in the object cannot be pickled.
        """
        pickler = _Pickler(self, self._protocol)
        pickler.reducer_override = self._reduced
        pickler.dump(value)
        last = self._whole() if self._splicer is None else None
        if last is None:
            last, footer = b"", self._spliced().finish()
        else:
            footer = Footer(len(last), xxh3_64_intdigest(last))
        footer.versions = here(self._packages())
        return last, footer

    def write(self, data: Any) -> None:
        """Take the next output of the pickler."""
        if self._splicer is None and self._first is None:
            self._first = data
        else:
            self._spliced().write(data)

    def _whole(self) -> bytes | None:
        """Return all opcodes but STOP, as a file contains them; None if they are not in one frame."""
        data: Any = self._first
        at = 2 if data.startswith(PROTO) else 0
        if self._protocol < 4 or not data.startswith(FRAME, at):
            return data[:at] + HEAD + data[at:-1]  # type: ignore[no-any-return]
        begin = at + FRAME_HEADER
        nbytes = len(data) - begin
        if data[at + 1 : begin] != nbytes.to_bytes(8, "little"):
            return None
        return data[:at] + HEAD + FRAME + (nbytes - 1).to_bytes(8, "little") + data[begin:-1]  # type: ignore[no-any-return]

    def _spliced(self) -> Splicer:
        """Return the splicer, which has got everything that the pickler has written so far."""
        if self._splicer is None:
            file = self._file
            self._splicer = Splicer(self._put, self._protocol, file is not None, _position(file))
            if self._first is not None:
                self._splicer.write(self._first)
        return self._splicer

    def _reduced(self, value: Any) -> Any:
        """Return the reduction of an array; for any other object, note its class and leave the reduction to pickle."""
        kind = type(value)
        if kind in self._arrays:
            return self._reduced_array(value)
        if kind is type or kind is FunctionType:
            self._modules.add(value.__module__)
        else:
            self._kinds.add(kind)
        return NotImplemented

    def _reduced_array(self, array: Any) -> Any:
        dtype = array.dtype
        if dtype.hasobject or not dtype.itemsize:  # objects keep their identity, and may be part of a cycle
            return NotImplemented
        # Before protocol 3, pickle writes bytes as a call that files of joblib do not contain.
        small = array.nbytes < SMALL and dtype.isnative and self._protocol > 2
        if small and not (self._file is not None and self._spliced().n_arrays < FEW):
            return _reduce_small(array, self._protocol)
        return self._arrays[0], (self._spliced().expect(array),)

    def _packages(self) -> Collection[str]:
        """Return the packages whose classes and functions are stored, except the standard library."""
        if not (self._modules or self._kinds):
            return ()
        modules = self._modules | {kind.__module__ for kind in self._kinds}
        packages = {str(module).partition(".")[0] for module in modules}
        return packages - sys.stdlib_module_names - {"__main__"}


def _array_types(numpy: Any) -> tuple[Any, ...]:
    """Return the types of arrays. numpy lacks them while another thread imports it."""
    return getattr(numpy, "ndarray", None), getattr(numpy, "memmap", None)


class _Pickler(Pickler):
    """The C pickler, except on PyPy. It calls ``reducer_override`` for each object that is not a plain builtin."""

    __slots__ = ("reducer_override",)
    reducer_override: Callable[[Any], Any]


def _position(file: Any) -> int:
    try:
        return int(file.tell())
    except (AttributeError, OSError, TypeError):
        return 0


def _reduce_small(array: Any, protocol: int) -> Any:
    """Return a reduction of a small array that is faster to pickle and to rebuild than numpy's."""
    spec = ArraySpec.of(array)
    numpy = sys.modules["numpy"]
    if not (array.flags.forc and array.flags.writeable) or type(array) is not numpy.ndarray:
        # A read-only array, or a map of a file, would be rebuilt as such. The copy has no data between its fields.
        copy = numpy.zeros(spec.shape, spec.dtype, spec.order)
        copy[...] = array
        array = copy
    if protocol < 5:
        return array.__reduce_ex__(protocol)
    # Arrays of times, records and the like do not export their buffer.
    buffer = pickle.PickleBuffer(array if spec.dtype.kind in "biufcSU" else flat(array))
    arguments = (spec.shape, spec.dtype, buffer)
    return numpy.ndarray, arguments if spec.order == "C" else (*arguments, 0, None, "F")
