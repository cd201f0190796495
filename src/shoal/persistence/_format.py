r"""The layout of a file: joblib's own, with a footer of ours inside its last opcodes.

::

    \x80 5          PROTO
    C 5 shoal 0     a short bytes object, popped at once: "there is a footer"
    \x95 n          FRAME, n bytes of opcodes, some 64 KiB; where an array belongs, the last of them rebuild
                    joblib's NumpyArrayWrapper, and b (BUILD) ends the frame
        p           one byte: how many bytes follow until the array is aligned to 64 bytes
        \xff ...    so many
        .......     the array's bytes
    \x95 n          FRAME, which begins by memoising the array
    ...
    B n             a bytes object of n bytes: the footer
        {...}       JSON, as ASCII
        24 bytes    its xxh3_64, its length, and MAGIC
    0 .             it is popped; STOP

All of this may be compressed as a whole. joblib's reader replaces the wrapper by the array, and never sees the footer.
It stops at STOP, so several dumps can follow each other in a file, for joblib too.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import struct
import sys
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from io import BytesIO
from pickle import Pickler
from typing import Any, NamedTuple

import xxhash

from shoal.errors import DamagedFile

ALIGNMENT = 64

#: Opcodes of pickle, as far as this package uses them by name.
PROTO, FRAME, POP, BUILD, STOP = b"\x80", b"\x95", b"0", b"b", b"."
TUPLE1, REDUCE, MEMOIZE, BINPUT, LONG_BINPUT = b"\x85", b"R", b"\x94", b"q", b"r"

#: The number of bytes of FRAME and the length of the frame.
FRAME_HEADER = 9

#: The bytes behind PROTO in a file that has a footer.
NAME = b"shoal"
HEAD = b"C%c%b" % (len(NAME), NAME) + POP

TAIL, _LENGTH = struct.Struct(">QQ8s"), struct.Struct("<I")
MAGIC = b"\x93shoal\r\n"
#: The number of bytes at the end of a file that tell where its footer begins.
TAIL_BYTES = TAIL.size + len(POP + STOP)
#: The number of bytes of the opcode that pushes the footer, and of its length.
PUSH_BYTES = 5

VERSION = 1
_PYTHON = "{}.{}.{}".format(*sys.version_info)

_encode = json.JSONEncoder(separators=(",", ":")).encode


@functools.lru_cache(maxsize=100)  # they are most of a small file
def _versions(*items: tuple[str, str]) -> str:
    return _encode(dict(items))


WRAPPER_MODULE, WRAPPER = "joblib.numpy_pickle", "NumpyArrayWrapper"


class StoredArray(NamedTuple):
    """An array that is stored outside of the frames of a file.

    Attributes
    ----------
    position
        The offset of its first byte from the beginning of the dump, before compression.
    nbytes
        The number of its bytes.
    dtype
        Its dtype, as a text for people.
    shape
        Its shape.
    checksum
        The xxh3_64 of its bytes; None since the array was mapped to be changed.
    """

    position: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    checksum: int | None


@dataclass
class Footer:
    """The description of a file at its end.

    Attributes
    ----------
    start
        The number of bytes before the opcode that pushes the footer.
    checksum
        The xxh3_64 of these bytes, without those of arrays.
    arrays
        The arrays outside of the frames, in the order of their positions.
    versions
        The versions of Python, of numpy and of the packages whose classes are stored, by name.
    blocks
        The blocks of a compressed file that can be inflated independently. For each: its offset in the compressed
        stream, its offset before compression, and the xxh3_64 of the compressed block. A last entry says where the last
        block ends.
    opcodes
        The opcodes that the footer was decoded from; empty if it was not decoded.
    """

    start: int = 0
    checksum: int = 0
    arrays: list[StoredArray] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    blocks: list[tuple[int, ...]] = field(default_factory=list)
    opcodes: bytes = field(default=b"", init=False, compare=False)

    def compare(self, name: str, checksum: int | None, arrays: dict[int, int] | None) -> None:
        """Compare checksums of what was read with those that are stored here.

        Parameters
        ----------
        name
            The name of the file, for the error.
        checksum
            The checksum of everything but arrays; None to leave it out.
        arrays
            The checksums of arrays, by position; None to leave them out.

        Raises
        ------
        DamagedFile
            If a checksum differs.
        """
        if checksum is not None and checksum != self.checksum:
            raise DamagedFile(name, 0, f"opcodes whose checksum is {self.checksum:#x}", f"one of {checksum:#x}")
        for position, found in (arrays or {}).items():
            stored = self._by_position.get(position)
            if stored is None:
                raise DamagedFile(name, position, "no array", f"one of {found:#x}")
            if stored.checksum is not None and stored.checksum != found:
                what = f"an array ({stored}) whose checksum is {stored.checksum:#x}"
                raise DamagedFile(name, position, what, f"one of {found:#x}")

    @functools.cached_property
    def _by_position(self) -> dict[int, StoredArray]:
        return {array.position: array for array in self.arrays}

    def encoded(self, nbytes: int = 0) -> bytes:
        """Return the opcodes that end a file, at least `nbytes` bytes: they push the footer, pop it, and stop."""
        arrays = _encode(self.arrays) if self.arrays else "[]"
        blocks = ",".join([f"[{','.join(map(str, block))}]" for block in self.blocks]) if self.blocks else ""
        text = (
            f'{{"format":{VERSION},"start":{self.start},"checksum":{self.checksum},"arrays":{arrays},'
            f'"versions":{_versions(*self.versions.items())},"blocks":[{blocks}]}}'
        ).encode("ascii")
        text = text.ljust(nbytes - PUSH_BYTES - TAIL_BYTES)
        tail = TAIL.pack(xxhash.xxh3_64_intdigest(text), len(text), MAGIC)
        return b"B%b%b%b%b%b" % (_LENGTH.pack(len(text) + TAIL.size), text, tail, POP, STOP)

    def without_array_checksums(self) -> bytes:
        """Return as many opcodes as it was decoded from, for a file whose arrays may change."""
        arrays = [array._replace(checksum=None) for array in self.arrays]
        return replace(self, arrays=arrays).encoded(len(self.opcodes))

    def with_blocks(self, blocks: list[tuple[int, ...]]) -> bytes:
        """Set the table of compressed blocks, and return the opcodes that end a file."""
        self.blocks = blocks
        return self.encoded()

    @staticmethod
    def length(end: bytes) -> int | None:
        """Return the number of bytes of the footer at the end of a file, given its last bytes; None if it has none."""
        if len(end) < TAIL_BYTES or end[-2:] != POP + STOP:
            return None
        _, size, magic = TAIL.unpack(end[-TAIL_BYTES:-2])
        return PUSH_BYTES + size + TAIL_BYTES if magic == MAGIC else None

    @classmethod
    def decoded(cls, opcodes: bytes) -> Footer:
        """Decode a footer from its opcodes.

        Raises
        ------
        ValueError
            If they are damaged, or a later release of shoal has written them.
        """
        if opcodes[:PUSH_BYTES] != b"B" + _LENGTH.pack(len(opcodes) - PUSH_BYTES - 2):
            raise ValueError("its length is wrong")
        text = opcodes[PUSH_BYTES:-TAIL_BYTES]
        checksum, size, _ = TAIL.unpack(opcodes[-TAIL_BYTES:-2])
        if size != len(text) or xxhash.xxh3_64_intdigest(text) != checksum:
            raise ValueError("its checksum is wrong")
        try:
            fields = json.loads(text)
            if fields.pop("format") != VERSION:
                raise ValueError("a later release of shoal has written it")
            arrays = [
                StoredArray(at, nbytes, dtype, tuple(shape), checksum)
                for at, nbytes, dtype, shape, checksum in fields.pop("arrays")
            ]
            footer = cls(arrays=arrays, **fields)
            footer.opcodes = opcodes
            footer._check_types()
            end = 0
            for array in arrays:
                if array.position < end or array.nbytes < 0:
                    raise ValueError(f"no array can be at the position that it says: {array}")
                end = array.position + array.nbytes
            if footer.start < end:
                raise ValueError("it says that arrays are behind it")
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"its contents are not valid ({type(error).__name__}: {error})") from error
        return footer

    def _check_types(self) -> None:
        """Raise ValueError if a field is of a wrong type."""
        if not are_versions(self.versions):
            raise ValueError(f"its versions are {self.versions!r}")
        for array in self.arrays:
            numbers = array.position, array.nbytes, *array.shape, array.checksum or 0
            if not (_integers(numbers) and type(array.dtype) is str):
                raise ValueError(f"it has an array {array}")
        blocks: Any = self.blocks
        if type(blocks) is not list or not all(type(block) is list and _integers(block) for block in blocks):
            raise ValueError("its table of blocks is not valid")
        if not _integers((self.start, self.checksum)):
            raise ValueError(f"it starts at {self.start!r}")


def are_versions(versions: Any) -> bool:
    """Tell whether an object can be the versions of a footer: a dict with values of type str."""
    return type(versions) is dict and {str}.issuperset(map(type, versions.values()))


def _integers(values: Any) -> bool:
    return {int}.issuperset(map(type, values))


def frame_of(opcodes: bytes) -> bytes:
    """Return the header of a frame of these opcodes."""
    return FRAME + len(opcodes).to_bytes(8, "little")


def wrapper(shape: bytes, order: str, dtype: bytes, mappable: bool) -> bytes:
    """Return opcodes that push joblib's wrapper of an array, without using the memo.

    Parameters
    ----------
    shape, dtype
        Opcodes that push the shape and the dtype.
    order
        "C" or "F".
    mappable
        Whether the array may be mapped.
    """
    return _WRAPPER % (shape, _text(order), dtype, b"\x88" if mappable else b"\x89")


def _text(text: str) -> bytes:
    return b"X%b%b" % (_LENGTH.pack(len(text)), text.encode())


def integers(numbers: tuple[int, ...]) -> bytes:
    """Return opcodes that push a tuple of integers of at most 64 bits, without using the memo."""
    pushed = [b"J" + struct.pack("<i", n) if abs(n) < 2**31 else b"\x8a\x08" + struct.pack("<q", n) for n in numbers]
    return b"(" + b"".join(pushed) + b"t"


_WRAPPER = b"".join(
    (
        b"c%b\n%b\n)\x81}(" % (WRAPPER_MODULE.encode(), WRAPPER.encode()),
        _text("subclass") + b"cnumpy\nndarray\n",
        _text("shape") + b"%b",
        _text("order") + b"%b",
        _text("dtype") + b"%b",
        _text("allow_mmap") + b"%b",
        _text("numpy_array_alignment_bytes") + b"K%c" % ALIGNMENT,
        b"u" + BUILD,
    )
)


def plain(value: Any, protocol: int = 2) -> bytes:
    """Return opcodes of a protocol, 2 or higher, that push a value, without frames and without using the memo."""
    file = BytesIO()
    pickler = Pickler(file, min(protocol, 3))
    pickler.fast = True
    pickler.dump(value)
    return file.getvalue()[2:-1]


def here(packages: Collection[str]) -> dict[str, str]:
    """Return the versions of Python, of numpy and of `packages`, as far as they are loaded and have a version."""
    found = {"python": _PYTHON}
    for name in sorted({"numpy", *packages}) if packages else ("numpy",):
        version = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(version, str):
            found[name] = version
    return found


def differing(stored: dict[str, str]) -> tuple[list[str], list[str]]:
    """Compare the versions in a file with those that are loaded here.

    Returns
    -------
    A text for each package with another version; and the names of the packages that are not loaded.
    """
    now = here(set(stored))
    differing = [
        f"{package} {version} (here: {now[package]})"
        for package, version in stored.items()
        if package != "python" and package in now and _release(package, now[package]) != _release(package, version)
    ]
    return differing, [package for package in stored if package not in now]


def differing_at_all(stored: dict[str, str]) -> list[str]:
    """Return a text for each package whose version here is not exactly the one in a file, or that is not installed."""
    now, unlike = here(set(stored)), []
    for package, version in stored.items():
        if package == "python":
            if version.split(".")[:2] != _PYTHON.split(".")[:2]:
                unlike.append(f"Python {version} (here: {_PYTHON})")
        elif package in now:
            if version != now[package]:
                unlike.append(f"{package} {version} (here: {now[package]})")
        elif package not in sys.modules and package.isidentifier() and importlib.util.find_spec(package) is None:
            unlike.append(f"{package} {version} (not installed here)")
    return unlike


def _release(package: str, version: str) -> str:
    # Arrays of one release of NumPy work in all others with the same first number.
    return version.partition(".")[0] if package == "numpy" else version
