"""Writing: the C pickler's stream, and arrays spliced into it where they belong.

::

    pickler.dump(value) ──> write(64 KiB of frames, or a large string or buffer) ──> the file
                  │                     │
                  │ an array            │ its token
                  └──> waiting ─────────┘──> joblib's wrapper in the place of the token, then the bytes of the array

The C pickler is given a call in the place of an array: `numpy.ndarray(token)`, where the token is an integer that
nobody could guess, and integers are never memoised. In what it writes, token, call and result are found and exchanged,
such that the number of memo entries stays the same; the first two and the last entry of the call are then the array
itself. What is called must be a name that joblib's files hold as well: some unpicklers admit no others.
"""

from __future__ import annotations

import pickle
import re
import secrets
import sys
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from types import FunctionType
from typing import Any

import xxhash

from shoal._arrays import ArraySpec, flat, pieces
from shoal.persistence._format import (
    ALIGNMENT,
    BINPUT,
    FRAME,
    HEAD,
    LONG_BINPUT,
    MEMOIZE,
    POP,
    PROTO,
    REDUCE,
    STOP,
    TUPLE1,
    Footer,
    StoredArray,
    here,
    integers,
    plain,
    wrapper,
)
from shoal.persistence.compression._ahead import beside

#: Arrays of fewer bytes stay in the stream, where pickle is faster at them; but not the first few of a file that can
#: be mapped, so that whoever maps a file finds its arrays mapped.
SMALL, FEW = 2**16, 16
#: The checksum of an array of so many bytes is taken on a thread while they are written.
LARGE = 2**24

_TOKEN_BYTES = 16
_FRAME_HEADER = 9
_PAYLOAD_HEADER = 5  # or more: the opcode and the length of a large string or buffer
_PUT = re.compile(rb"%b|%b.|%b...." % (MEMOIZE, BINPUT, LONG_BINPUT), re.DOTALL)
_CALL = re.compile(rb"%b(%b)%b(%b)" % (TUPLE1, _PUT.pattern, REDUCE, _PUT.pattern), re.DOTALL)
_CALL_BYTES = 12  # at most
_FEW_OPCODES = 4096  # are rather copied than written in two parts


class Writer:
    """Writes one object.

    Parameters
    ----------
    put
        Takes bytes, and writes all of them.
    protocol
        That of pickle.
    mappable
        Whether arrays in the file can be mapped: whether it is not compressed.
    position
        Where in the file the object begins, in bytes.
    """

    def __init__(self, put: Callable[[Any], Any], protocol: int, mappable: bool, position: int = 0) -> None:
        self.footer = Footer()
        self._put = put
        self._protocol = protocol
        self._mappable = mappable
        self._begin = position
        self._position = 0
        self._sum = xxhash.xxh3_64()
        self._token = 0  # of the first array on
        self._mark = b""  # how it is pickled
        self._waiting: deque[Any] = deque()
        self._kept = b""  # opcodes that are still to be written: a call that is not whole, or the last ones
        self._kept_frame = b""  # the header of their frame
        self._payload = False  # whether a large string or buffer comes next
        self._kinds: set[type] = set()
        self._modules: set[str] = set()
        numpy = sys.modules.get("numpy") if protocol >= 2 else None
        self._array = getattr(numpy, "ndarray", Writer)
        self._memmap = getattr(numpy, "memmap", Writer)
        self._dtypes: dict[int, tuple[Any, bytes, str]] = {}  # by id

    def dump(self, value: Any) -> None:
        """Write everything but the footer.

        Raises
        ------
        PicklingError, TypeError, AttributeError
            If something in the object cannot be pickled.
        """
        pickler = _Pickler(self, self._protocol)
        pickler.reducer_override = self._reduced
        pickler.dump(value)
        if self._waiting:
            raise _lost(f"{len(self._waiting)} arrays did not come by")
        self._flush(last=True)
        self.footer.start = self._position
        self.footer.checksum = self._sum.intdigest()
        self.footer.versions = here(self._packages())

    def _reduced(self, value: Any) -> Any:
        """Return a reduction of an array; take note of what other kind of object it is."""
        kind = type(value)
        if kind is self._array or kind is self._memmap:
            return self._array_reduced(value)
        if kind is type or kind is FunctionType:
            self._modules.add(value.__module__)
        else:
            self._kinds.add(kind)
        return NotImplemented

    def _array_reduced(self, array: Any) -> Any:
        dtype = array.dtype
        if dtype.hasobject or not dtype.itemsize:  # objects keep their identity, and may be part of a cycle
            return NotImplemented
        # Before protocol 3, bytes are pickled as a call that joblib's files do not hold.
        if array.nbytes < SMALL and dtype.isnative and self._protocol > 2:
            few = len(self.footer.arrays) + len(self._waiting) < FEW
            if not (few and self._mappable):
                return _reduce_small(array, self._protocol)
        if not self._token:
            number = secrets.token_bytes(_TOKEN_BYTES - 1) + b"\x01"  # positive
            self._token = int.from_bytes(number, "little")
            self._mark = b"\x8a%c%b" % (_TOKEN_BYTES, number)  # LONG1
        self._waiting.append(array)
        return self._array, (self._token,)

    def write(self, data: Any) -> None:
        """Take what the pickler writes: frames, the header of a large string or buffer last; or that itself."""
        if self._payload:
            self._payload = False
            self._flush()
            self._out(data.raw() if isinstance(data, pickle.PickleBuffer) else data)
            return
        at = 0
        if not self._position:
            at = 2 if data[:1] == PROTO else 0
            self._out(data[:at] + HEAD)
        if self._protocol < 4:
            self._opcodes(data[at:])
            self._payload = True
            return
        while data[at : at + 1] == FRAME:
            begin = at + _FRAME_HEADER
            end = begin + int.from_bytes(data[at + 1 : begin], "little")
            self._opcodes(data[begin:end], data[at:begin])
            at = end
        if at < len(data):  # few opcodes are not worth a frame
            self._payload = len(data) - at >= _PAYLOAD_HEADER
            self._opcodes(data[at:])

    def _opcodes(self, opcodes: bytes, frame: bytes = b"") -> None:
        """Write opcodes, with arrays in the place of their tokens; the last of them when others come."""
        if self._kept:
            if self._waiting and self._mark in self._kept:
                opcodes = self._kept + opcodes
                frame = _frame(opcodes) if self._kept_frame or frame else b""
            else:
                self._flush()
        put, begin = b"", 0  # what memoises the last array, and what comes after it
        while self._waiting:
            at = opcodes.find(self._mark, begin)
            if at < 0:
                break
            call = _CALL.match(opcodes, at + len(self._mark))
            if call is None:
                if len(opcodes) - at > len(self._mark) + _CALL_BYTES:
                    raise _lost("the place of an array is not called")
                break
            self._splice(put + opcodes[begin:at], self._waiting.popleft())
            put, begin = b"".join(call.groups()), call.end()
        if begin:
            opcodes = put + opcodes[begin:]
            frame = frame and _frame(opcodes)
        self._kept, self._kept_frame = opcodes, frame

    def _flush(self, last: bool = False) -> None:
        """Write the opcodes that were kept; STOP, the last one, comes after the footer."""
        opcodes, frame = self._kept, self._kept_frame
        self._kept = self._kept_frame = b""
        if last:
            opcodes = opcodes.removesuffix(STOP)
            frame = frame and _frame(opcodes)
        if frame and len(opcodes) > _FEW_OPCODES:
            self._out(frame)
            frame = b""
        if opcodes:
            self._out(frame + opcodes)

    def _splice(self, before: bytes, array: Any) -> None:
        """Write opcodes, then an array."""
        spec = ArraySpec.of(array)
        dtype, readable = self._of_dtype(spec.dtype)
        opcodes = before + POP + wrapper(integers(spec.shape), spec.order, dtype, self._mappable)
        if self._protocol >= 4:
            opcodes = _frame(opcodes) + opcodes
        padding = -(self._begin + self._position + len(opcodes) + 1) % ALIGNMENT
        self._out(b"%b%c%b" % (opcodes, padding, padding * b"\xff"))
        start, nbytes = self._position, array.nbytes
        if array.flags.forc and nbytes >= LARGE:
            memory = memoryview(flat(array))
            with beside(partial(xxhash.xxh3_64_intdigest, memory)) as checksum:
                self._put(memory)
                digest = checksum()
        else:
            # A compressor takes a large one as it is, without a copy.
            whole = array.flags.forc and not self._mappable
            digest = self._put_all([memoryview(flat(array))] if whole else pieces(array))
        self._position += nbytes
        self.footer.arrays.append(StoredArray(start, nbytes, readable, spec.shape, digest))

    def _put_all(self, pieces: Iterable[memoryview]) -> int:
        """Write the pieces of an array; return its checksum."""
        checksum = xxhash.xxh3_64()
        for piece in pieces:
            checksum.update(piece)
            self._put(piece)
        return checksum.intdigest()

    def _of_dtype(self, dtype: Any) -> tuple[bytes, str]:
        """Return the opcodes that push a dtype, and what people read for it."""
        known = self._dtypes.get(id(dtype))
        if known is None:
            known = dtype, plain(dtype, self._protocol), str(dtype.descr if dtype.names else dtype)
            self._dtypes[id(dtype)] = known  # with the dtype, so that it lives on and keeps its id
        return known[1:]

    def _out(self, data: Any) -> None:
        self._sum.update(data)
        self._position += len(data)
        self._put(data)

    def _packages(self) -> set[str]:
        """Return the packages whose classes and functions are stored."""
        if not (self._modules or self._kinds):
            return set()
        modules = self._modules | {kind.__module__ for kind in self._kinds}
        packages = {str(module).partition(".")[0] for module in modules}
        return packages - sys.stdlib_module_names - {"__main__"}


class _Pickler(pickle.Pickler):
    """The C pickler, with a word about each object that is no plain builtin."""

    reducer_override: Callable[[Any], Any]


def _lost(what: str) -> pickle.PicklingError:
    """Return what is raised where arrays would be missing in the file."""
    return pickle.PicklingError(f"{what} in what pickle has written: the object cannot be dumped. Please report this")


def _frame(opcodes: bytes) -> bytes:
    """Return the header of the frame that opcodes stand in."""
    return FRAME + len(opcodes).to_bytes(8, "little")


def _reduce_small(array: Any, protocol: int) -> Any:
    """Return a reduction of a small array that is faster to pickle, and to rebuild, than numpy's own."""
    spec = ArraySpec.of(array)
    numpy = sys.modules["numpy"]
    if not (array.flags.forc and array.flags.writeable) or type(array) is not numpy.ndarray:
        # What is read-only, or a map of a file, would be so when it is rebuilt. A copy leaves what is between fields.
        copy = numpy.zeros(spec.shape, spec.dtype, spec.order)
        copy[...] = array
        array = copy
    if protocol < 5:
        return array.__reduce_ex__(protocol)
    # Times, records and the like have no buffer of their own.
    buffer = pickle.PickleBuffer(array if spec.dtype.kind in "biufcSU" else flat(array))
    arguments = (spec.shape, spec.dtype, buffer)
    return numpy.ndarray, arguments if spec.order == "C" else (*arguments, 0, None, "F")
