"""``load(trusted=)`` and ``inspect`` charge what a file has hashed or compared before anything does so.

Each attack here would take longer than anybody waits, so it runs in a process that is killed in the end.
"""

from __future__ import annotations

import collections
import enum
import io
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import shoal
from _trust_opcodes import PROTO4, framed, named, old, text
from shoal.errors import FileLimitError, UntrustedFile

TIMES = 60


def _get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def _put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def _doubled(first: int = 0, link: bytes = b"%b%b\x86", seed: bytes = b"N\x85") -> bytes:
    """Put an object into the memo from `first` on that holds the one before twice, and so on; leave the last one."""
    opcodes = seed + _put(first)
    for index in range(first, first + TIMES):
        opcodes += b"0" + link.replace(b"%b", _get(index)) + _put(index + 1)
    return opcodes


KEY = _doubled()
SET, FROZENSET = named("builtins", "set"), named("builtins", "frozenset")
PAIR = named(__name__, "Pair")
WIDE = b"(" + b"K\x01" * 20_000 + b"t" + _put(0)
DTYPE = named("numpy", "dtype") + text("V1") + b"\x89\x88\x87R"
#: A dtype each of whose two fields is the one before, at the same place.
FIELDS = (
    DTYPE + b"(K\x03" + text("|") + b"N" + text("a") + text("b") + b"\x86}(" + text("a") + b"%bK\x00\x86" + text("b")
    + b"%bK\x00\x86uK\x01K\x01K\x10tb"
)  # fmt: skip


def _metadata(value: bytes) -> bytes:
    """A dtype with something in its metadata."""
    state = b"(K\x04" + text("<") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00}" + text("a") + value + b"stb"
    return named("numpy", "dtype") + text("f8") + b"\x89\x88\x87R" + state


ATTACKS = {
    "a key": b"}" + KEY + b"Ns",
    "a key, in a list": b"](}" + KEY + b"Nse",
    "keys": b"}(N" + b"K\x01" + KEY + b"Nu",
    "a dictionary at once": b"(" + KEY + b"Nd",
    "a member of a set": b"\x8f(" + KEY + b"\x90",
    "a member of a frozenset": b"(" + KEY + b"\x91",
    "triples": b"}" + _doubled(link=b"%bN%b\x87") + b"Ns",
    "marks": b"}" + _doubled(link=b"(%b%bt") + b"Ns",
    "one in a tuple": b"}" + _doubled(link=b"%b\x85%b\x86") + b"Ns",
    "popped again": b"}" + _doubled(link=b"%b%bN0\x86") + b"Ns",
    "equal keys": b"}" + KEY + b"Ns" + _doubled(100) + b"Ns",
    "a wide key of many dictionaries": WIDE + b"0](" + (b"}" + _get(0) + b"Ns") * 10_000 + b"e",
    "wide keys in each other": WIDE + b"0](" + (_get(0) * 5000).join((b"(", b"t\x94")) + b"}h\x01Ns" * 999 + b"e",
    "frozensets in frozensets": (
        b"}" + _doubled(0, b"(%b(%b\x91\x91", b"(N\x91") + b"Ns" + _doubled(100, b"(%b(%b\x91\x91", b"(N\x91") + b"Ns"
    ),
    "a call of set": SET + b"](" + KEY + b"e\x85R",
    "a call of frozenset": FROZENSET + b"](" + KEY + b"e\x85R",
    "a call of set, item by item": SET + b"]" + KEY + b"a\x85R",
    "a list at once": SET + b"(" + KEY + b"l\x85R",
    "protocol 0": old("builtins", "set") + b"((lp900\n" + KEY + b"atp901\nRp902\n",
    "an object that is made": FROZENSET + b"](" + KEY + b"e\x85\x81",
    "an object that is made with names": FROZENSET + b"](" + KEY + b"e\x85}\x92",
    "INST": b"(](" + KEY + b"eibuiltins\nset\n",
    "OBJ": b"(" + SET + b"](" + KEY + b"eo",
    "a tuple for frozenset": FROZENSET + KEY + b"\x85R",
    "__newobj__": named("copyreg", "__newobj__") + FROZENSET + b"](" + KEY + b"e\x86R",
    "a list that is filled late": (
        FROZENSET + b"]" + _put(1) + b"\x85" + _put(2) + b"0" + _get(1) + _doubled(3) + b"a0" + _get(2) + b"R"
    ),
    "a list from before": b"]" + _put(1) + b"0" + FROZENSET + _get(1) + _doubled(3) + b"a0" + _get(1) + b"\x85R",
    "frozensets that are called, compared": b"".join(
        _doubled(first, FROZENSET + b"](%b%b\x85e\x85R", FROZENSET + b"](Ne\x85R") + _put(900 + first) + b"0"
        for first in (0, 100)
    ) + b"}" + _get(900) + b"Ns" + _get(1000) + b"Ns",
    "an ordered dictionary": named("collections", "OrderedDict") + b")R" + KEY + b"Ns",
    "pairs of an ordered dictionary": named("collections", "OrderedDict") + b"](" + KEY + b"N\x86e\x85R",
    "an ordered dictionary of Python 2": (
        named("collections", "OrderedDict") + b"](](" + KEY + b"Nee\x85R"
    ),
    "a counter": named("collections", "Counter") + b"}" + KEY + b"K\x01s\x85R",
    "a uuid": named("uuid", "UUID") + b")\x81}" + text("int") + KEY + b"sb" + _put(500) + b"0}" + _get(500) + b"Ns",
    "whether a uuid is safe": (
        named("uuid", "UUID") + b")\x81}(" + text("int") + b"K\x01" + text("is_safe") + KEY + b"ub"
    ),
    "a fill value": (
        named("numpy.ma.core", "_mareconstruct") + b"(" + named("numpy.ma.core", "MaskedArray")
        + named("numpy", "ndarray") + b"K\x00\x85C\x01btR(K\x01K\x01\x85" + named("numpy", "dtype") + text("f8")
        + b"\x89\x88\x87R\x89C\x08" + bytes(8) + b"C\x01\0" + KEY + b"tb"
    ),
    "what is given as a dtype": named("numpy", "dtype") + KEY + b"\x89\x88\x87R",
    "lists that are given as a dtype": (
        named("numpy", "dtype") + _doubled(0, b"](%b%be", b"]") + b"\x89\x88\x87R"
    ),
    "metadata": _metadata(KEY),
    "lists in metadata": _metadata(_doubled(0, b"](%b%be", b"]")),
    "dictionaries in metadata": _metadata(_doubled(0, b"}(K\x01%bK\x02%bu", b"}")),
    "names of fields": (
        DTYPE + b"(K\x03" + text("|") + b"N" + KEY + b"\x85}K\x01K\x01K\x10tb"
    ),
    "titles of fields": (
        DTYPE + b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}" + text("a") + DTYPE + b"K\x00" + KEY
        + b"\x87sK\x01K\x01K\x10tb"
    ),
    "dtypes in dtypes": b"}" + b"".join(
        (FIELDS.replace(b"%b", _get(index - 1)) if index else DTYPE) + _put(index) + b"0" for index in range(49)
    ) + _get(48) + b"Ns",
}  # fmt: skip
FOR_PAIRS = {
    "named tuples": b"}" + _doubled(link=PAIR + b"%b%b\x86\x81") + b"Ns",
    "named tuples that are called": b"}" + _doubled(link=PAIR + b"%b%b\x86R") + b"Ns",
    "named tuples in a set": SET + b"](" + _doubled(link=PAIR + b"%b%b\x86\x81") + b"e\x85R",
    "named tuples by keywords": (
        b"}" + _doubled(link=PAIR + b")}(" + text("a") + b"%b" + text("b") + b"%bu\x92") + b"Ns"
    ),
    "an enumeration": named(__name__, "Kind") + KEY + b"\x85R",
}


class Pair(collections.namedtuple("Pair", "a b")):
    __slots__ = ()


class Kind(enum.Enum):
    A, B = 1, (2, 3)


def outcome(opcodes: bytes, trusted: Any) -> str:
    """Return what becomes of opcodes."""
    try:
        misuses = shoal.inspect(io.BytesIO(opcodes)).misuses
        said = "misused" if misuses else "inspected"
    except (FileLimitError, UntrustedFile) as error:
        said = type(error).__name__
    try:
        shoal.load(io.BytesIO(opcodes), trusted=trusted)
    except (FileLimitError, UntrustedFile) as error:
        return f"{said}, {type(error).__name__}"
    return f"{said}, loaded"


def main(frames: bool) -> None:
    """Try all attacks, and print what becomes of each: of the last one nothing, if it does not end."""
    for name, opcodes in {**ATTACKS, **FOR_PAIRS}.items():
        data = PROTO4 + (framed(opcodes + b".") if frames else opcodes + b".")
        print(name, end=": ", flush=True)
        print(outcome(data, [f"{__name__}.*"] if name in FOR_PAIRS else []), flush=True)


#: What is refused for what it is, not for the time that it would take. Whether something is an enumeration or a
#: named tuple, `inspect` does not know.
REFUSED = ("UntrustedFile, UntrustedFile", "misused, UntrustedFile", "inspected, UntrustedFile")


@pytest.mark.parametrize("frames", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_what_would_take_for_ever(frames: bool) -> None:
    program = f"import {__name__}; {__name__}.main({frames})"
    folder = str(Path(__file__).parent)
    process = subprocess.Popen([sys.executable, "-c", program], cwd=folder, stdout=subprocess.PIPE, text=True)
    killer = threading.Timer(100, process.kill)
    killer.start()
    said = dict(line.rstrip().rsplit(": ", 1) for line in process.communicate()[0].splitlines())
    killer.cancel()
    assert process.returncode == 0, said
    assert set(said.values()) <= {"FileLimitError, FileLimitError", *REFUSED}, said
    assert said.keys() == ATTACKS.keys() | FOR_PAIRS.keys()
