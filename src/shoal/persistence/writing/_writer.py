"""Writing: the C pickler, and a decision for each object: does it stay in the pickle, or is it an array to be spliced?

::

    pickler.dump(value) ──> Writer._reduced(part of value), for each part that is not a plain builtin
                  │               ├── a large array, or one of the first few: Splicer.expect returns a token for it
                  │               ├── a small array: a reduction that is faster than numpy's
                  │               └── anything else: pickle's own reduction; its package is noted for the footer
                  └──> Splicer.write(opcodes) ──> the file: _splice.py
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

from shoal._arrays import ArraySpec, flat
from shoal.persistence._format import Footer, here
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
    mappable
        Whether arrays in the file can be mapped. They cannot if the file is compressed.
    position
        The position in the file, in bytes, where the object begins.

    Attributes
    ----------
    footer
        The footer, complete once :meth:`dump` has returned. It is not written here.
    """

    def __init__(self, put: Callable[[Any], Any], protocol: int, mappable: bool, position: int = 0) -> None:
        self._splicer = Splicer(put, protocol, mappable, position)
        self.footer: Footer = self._splicer.footer
        self._protocol = protocol
        self._mappable = mappable
        self._kinds: set[type] = set()
        self._modules: set[str] = set()
        numpy = sys.modules.get("numpy") if protocol >= 2 else None
        self._array = getattr(numpy, "ndarray", Writer)
        self._memmap = getattr(numpy, "memmap", Writer)

    def dump(self, value: Any) -> None:
        """Write everything but the footer.

        Raises
        ------
        PicklingError, TypeError, AttributeError
            If something in the object cannot be pickled.
        """
        pickler = _Pickler(self._splicer, self._protocol)
        pickler.reducer_override = self._reduced
        pickler.dump(value)
        self._splicer.finish()
        self.footer.versions = here(self._packages())

    def _reduced(self, value: Any) -> Any:
        """Return the reduction of an array; for any other object, note its class and leave the reduction to pickle."""
        kind = type(value)
        if kind is self._array or kind is self._memmap:
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
        if small and not (self._mappable and self._splicer.n_arrays < FEW):
            return _reduce_small(array, self._protocol)
        return self._array, (self._splicer.expect(array),)

    def _packages(self) -> set[str]:
        """Return the packages whose classes and functions are stored, except the standard library."""
        if not (self._modules or self._kinds):
            return set()
        modules = self._modules | {kind.__module__ for kind in self._kinds}
        packages = {str(module).partition(".")[0] for module in modules}
        return packages - sys.stdlib_module_names - {"__main__"}


class _Pickler(pickle.Pickler):
    """The C pickler. It calls ``reducer_override`` for each object that is not a plain builtin."""

    reducer_override: Callable[[Any], Any]


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
