"""Random pickle programs against ``load`` and ``inspect``: ``python -m scripts.pickle_fuzz [--programs N] [--seed S]``.

::

    seed ──> a program, by the grammar of pickle: what an opcode takes is on the stack, most of the time
               │  plain, or compressed
               v
    load(trusted=...), inspect:  nothing but data, no import of what is not there, no process, no file
    load:                        the same programs without names that run something
               │
               v
    a process for some thousand programs: it ends by itself, within its memory; each program within 10 s

A failure names the seed of its program: ``--seed S --programs 1`` runs it again.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import faulthandler
import gzip
import io
import lzma
import math
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

import shoal

PER_PROCESS = 5_000
SECONDS = 10
MOST_BYTES = 1 << 30

#: Names of data, with their modules.
DATA = [
    *(("numpy", name) for name in ("ndarray", "dtype", "float64", "int64", "matrix", "recarray")),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.ma.core", "MaskedArray"),
    ("numpy.ma.core", "_mareconstruct"),
    *(("builtins", name) for name in ("bytearray", "set", "frozenset", "complex", "range", "slice", "object", "list")),
    *(("collections", name) for name in ("OrderedDict", "Counter", "deque", "defaultdict")),
    *(("datetime", name) for name in ("date", "datetime", "timedelta", "timezone")),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("uuid", "UUID"),
    ("pathlib", "PurePosixPath"),
    ("joblib.numpy_pickle", "NumpyArrayWrapper"),
    ("copyreg", "_reconstructor"),
    ("copyreg", "__newobj__"),
]
#: Names that run, import, read or write something; and such as are not there.
CODE = [
    *(("os", name) for name in ("system", "mkdir", "remove", "fork", "_exit")),
    *(("builtins", name) for name in ("eval", "exec", "open", "__import__", "getattr", "type", "map")),
    ("subprocess", "Popen"),
    ("importlib", "import_module"),
    ("shoal.errors", "WorkerDied.mro"),
    ("numpy", "load"),
    ("numpy", "fromfile"),
    ("numpy.lib._npyio_impl", "load"),
    ("operator", "attrgetter"),
    ("functools", "partial"),
    ("no_such_module", "f"),
    ("shoal_fuzz_absent.a", "b.c"),
    ("weakref", "finalize"),
]
TEXTS = ["", "a", "f8", "O", "C", "numpy", "__class__", "__dict__", "x" * 300, "é", "dtype", "shape", "allow_mmap", "<"]
NUMBERS = [0, 1, -1, 2, 3, 8, 255, 65536, 2**31, -(2**31), 2**62, 2**70, -(2**200)]
#: Numbers for `load` without `trusted`, which does what the file says: ``set(range(2**70))`` has no end.
SMALL = [number for number in NUMBERS if abs(number) < 1_000]
SIZES = [0, 1, 3, 200, 2**16, 2**31 - 1, 2**32, 2**40, 2**63 - 1, 2**64 - 1]


class Program:
    """Writes one random program.

    Parameters
    ----------
    chance
        Makes all choices.
    names, numbers
        The names that the program may use, with their modules; and the numbers.
    """

    def __init__(self, chance: random.Random, names: list[tuple[str, str]], numbers: list[int]) -> None:
        self._chance, self._names, self._numbers = chance, names, numbers
        self._out = bytearray()
        self._stack: list[str] = []
        self._memo = 0

    def written(self) -> bytes:
        """Return the program."""
        chance = self._chance
        if chance.random() < 0.95:
            self._out += b"\x80" + bytes([chance.choice((2, 3, 4, 5))])
        for _ in range(chance.randrange(2, 60)):
            steps = self._possible() if chance.random() < 0.99 else self._STEPS
            chance.choice(steps)(self)
            if chance.random() < 0.002:
                self._out += bytes([chance.randrange(256)])
        while "mark" in self._stack and chance.random() < 0.95:
            self._tuple()
        if chance.random() < 0.95:
            self._out += b"."
        return bytes(self._out)

    def _possible(self) -> list[Callable[[Program], None]]:
        stack = self._stack
        steps: list[Callable[[Program], None]] = [*self._VALUES, *self._VALUES, Program._mark]
        if stack and stack[-1] != "mark":
            steps += [Program._memoize, Program._pop]
        if self._memo:
            steps += [Program._get]
        if "mark" in stack:
            steps += [Program._tuple, Program._list, Program._dict, Program._set, Program._items]
        if stack[-1:] == ["tuple"] and stack[-2:-1] == ["name"]:
            steps += [Program._reduce] * 6
        if len(stack) >= 2 and "mark" not in stack[-2:]:
            steps += [Program._build, Program._append, Program._pair]
        if len(stack) >= 3 and "mark" not in stack[-3:]:
            steps += [Program._item]
        return steps

    def _push(self, code: bytes, kind: str = "value", taken: int = 0) -> None:
        self._out += code
        if taken:
            del self._stack[-taken:]
        self._stack.append(kind)

    def _number(self) -> None:
        value = self._chance.choice(self._numbers)
        how = self._chance.randrange(4)
        if how == 0 and 0 <= value < 256:
            self._push(b"K" + bytes([value]))
        elif how == 1 and -(2**31) <= value < 2**31:
            self._push(b"J" + struct.pack("<i", value))
        elif how == 2:
            self._push(b"I%d\n" % value)
        else:
            data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
            size = len(data) if self._chance.random() < 0.98 else self._chance.randrange(256)
            self._push(b"\x8a" + bytes([size % 256]) + data)

    def _constant(self) -> None:
        self._push(
            self._chance.choice((b"N", b"\x88", b"\x89", b")", b"]", b"}", b"\x8f", b"G" + struct.pack(">d", 1.5)))
        )
        if self._out[-1:] == b")":
            self._stack[-1] = "tuple"

    def _text(self) -> None:
        data = self._chance.choice(TEXTS).encode()
        self._sized(data, self._chance.choice(((b"\x8c", "<B"), (b"X", "<I"), (b"\x8d", "<Q"))))

    def _bytes(self) -> None:
        data = self._chance.randbytes(self._chance.choice((0, 1, 8, 40)))
        self._sized(data, self._chance.choice(((b"C", "<B"), (b"B", "<I"), (b"\x8e", "<Q"), (b"\x96", "<Q"))))

    def _sized(self, data: bytes, how: tuple[bytes, str]) -> None:
        """Push bytes behind their number, which is wrong now and then."""
        code, form = how
        most = 256 ** struct.calcsize(form) - 1
        size = len(data) if self._chance.random() < 0.995 else self._chance.choice(SIZES)
        self._push(code + struct.pack(form, min(len(data) if size > most else size, most)) + data[:most])

    def _name(self) -> None:
        module, name = self._chance.choice(self._names)
        if self._chance.random() < 0.5:
            self._push(f"c{module}\n{name}\n".encode(), "name")
        else:
            for text in (module, name):
                self._out += b"\x8c" + bytes([len(text)]) + text.encode()
            self._push(b"\x93", "name")

    def _call(self) -> None:
        """Push a name and its arguments, and call it."""
        self._name()
        self._mark()
        for _ in range(self._chance.randrange(4)):
            self._chance.choice(self._VALUES)(self)
        self._tuple()
        self._reduce()

    def _array(self) -> None:
        """Push what a pickle of an array says, with a random shape, dtype and data."""
        chance = self._chance
        self._out += b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R("
        right = chance.random() < 0.8
        shape = [chance.choice((0, 1, 2, 3) if right else (0, 1, 3, 2**31, 2**62)) for _ in range(chance.randrange(3))]
        self._out += b"K\x01(" + b"".join(b"\x8a\x09" + number.to_bytes(9, "little") for number in shape) + b"t"
        kind = chance.choice(("u1", "S1") if right else ("f8", "O8", "S3", "V8", "M8", "x9"))
        self._out += b"cnumpy\ndtype\n" + b"\x8c\x02" + kind.encode() + b"\x89\x88\x87R\x89"
        data = chance.randbytes(math.prod(shape) if right else 8)
        self._push(b"C" + bytes([len(data)]) + data + b"tb")

    def _mark(self) -> None:
        self._push(b"(", "mark")

    def _to_mark(self, code: bytes, kind: str = "value") -> None:
        while self._stack and self._stack.pop() != "mark":
            pass
        self._push(code, kind)

    def _tuple(self) -> None:
        self._to_mark(b"t", "tuple")

    def _list(self) -> None:
        self._to_mark(b"l")

    def _dict(self) -> None:
        self._to_mark(b"d")

    def _set(self) -> None:
        self._to_mark(b"\x91")

    def _items(self) -> None:
        """Give what is above the mark to the object below it."""
        while self._stack and self._stack.pop() != "mark":
            pass
        self._out += self._chance.choice((b"e", b"u", b"\x90"))

    def _reduce(self) -> None:
        self._push(self._chance.choice((b"R", b"R", b"R", b"\x81", b"\x92")), "value", 2)

    def _build(self) -> None:
        self._push(b"b", "value", 2)

    def _append(self) -> None:
        self._push(b"a", "value", 2)

    def _pair(self) -> None:
        self._push(b"\x86", "tuple", 2)

    def _item(self) -> None:
        self._push(b"s", "value", 3)

    def _stack_global(self) -> None:
        self._push(b"\x93", "name", 2)

    def _pop(self) -> None:
        self._out += b"0"
        self._stack[-1:] = []

    def _memoize(self) -> None:
        how = self._chance.randrange(20)
        self._out += b"\x94" if how else b"r" + struct.pack("<I", self._chance.choice((0, 1, 2**20, 2**31, 2**32 - 1)))
        self._memo += 1

    def _get(self) -> None:
        self._push(b"h" + bytes([self._chance.randrange(min(self._memo + 1, 256))]))

    def _odd(self) -> None:
        """Write an opcode that is rare: frames, persistent ids, extensions, buffers, old instances."""
        size = struct.pack("<Q", self._chance.choice(SIZES))
        self._out += self._chance.choice(
            (b"\x95" + size, b"Pid\n", b"Q", b"\x82\x01", b"\x97", b"\x98", b"ios\nsystem\n", b"o", b"2", b"1")
        )

    _VALUES = (_number, _constant, _text, _bytes, _name, _call, _call, _array)
    _STEPS = (*_VALUES, _mark, _tuple, _list, _dict, _set, _items, _reduce, _build, _append, _item, _pop, _get, _odd)


COMPRESSED: list[Callable[[bytes], bytes]] = [bytes, bytes, zlib.compress, gzip.compress, bz2.compress, lzma.compress]


class Heard:
    """Notes what only code does: imports of what is not there, processes, connections, changes of files."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.listens = False
        sys.addaudithook(self._hear)
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, *_: object) -> None:
        """Note an import."""
        if self.listens and name.partition(".")[0] not in ("numpy", "shoal", "joblib"):
            self.events.append(f"import {name}")

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.listens:
            return
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        acts = event.startswith(("os.", "subprocess.", "shutil.", "socket.", "ctypes."))
        if writes or (acts and event not in ("os.listdir", "os.scandir")):  # these two: numpy's own imports
            self.events.append(f"{event} {args!r:.200}")


def check(seed: int, heard: Heard) -> Counter[str]:
    """Give one program to `load` and `inspect`; return how they ended.

    Raises
    ------
    AssertionError
        If the program did what only code does.
    """
    ends: Counter[str] = Counter()
    chance = random.Random(seed)
    packed = chance.choice(COMPRESSED)
    hostile = packed(Program(chance, DATA + CODE, NUMBERS).written())
    harmless = packed(Program(chance, DATA, SMALL).written())
    for what, call in (
        ("inspect", lambda: shoal.inspect(io.BytesIO(hostile))),
        ("trusted", lambda: shoal.load(io.BytesIO(hostile), trusted=[])),
        ("numpy.*", lambda: shoal.load(io.BytesIO(hostile), trusted=["numpy.*"])),
        ("load", lambda: shoal.load(io.BytesIO(harmless))),
    ):
        heard.events.clear()
        heard.listens = True
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                call()
            ends[f"{what}: ended"] += 1
        except Exception as error:
            ends[f"{what}: {type(error).__name__}"] += 1
        finally:
            heard.listens = False
            faulthandler.cancel_dump_traceback_later()
        if what != "load" and heard.events:
            raise AssertionError(f"seed {seed}, {what}: {heard.events[:3]}")
    return ends


def run_here(seed: int, programs: int) -> int:
    """Check programs in this process, and print how they ended; return its exit code."""
    import pickletools  # noqa: F401  inspect imports it for a pickle that is cut short

    import joblib.numpy_pickle  # noqa: F401  so that naming it imports nothing

    warnings.simplefilter("ignore")
    for packed in COMPRESSED:  # imports what reads them
        for data in (pickle.dumps([None, np.arange(3)]), b"cno_module\nf\n."):
            shoal.inspect(io.BytesIO(packed(data)))
            with contextlib.suppress(shoal.errors.UntrustedFile):
                shoal.load(io.BytesIO(packed(data)), trusted=[])
    np.seterr(all="ignore")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    heard, ends = Heard(), Counter[str]()
    for number in range(seed, seed + programs):
        print(number, end="\r", file=sys.stderr, flush=True)  # the last one that a process says is to blame
        ends += check(number, heard)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if grown > MOST_BYTES:
        raise AssertionError(f"seeds {seed} to {seed + programs - 1}: memory grew by {grown:,} bytes")
    for name, count in sorted(ends.items()):
        print(f"{count}\t{name}")
    print(f"{grown}\tbytes")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.pickle_fuzz", description=__doc__)
    parser.add_argument("--programs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    if options.here:
        return run_here(options.seed, options.programs)
    ends, grown = Counter[str](), 0
    last = options.seed + options.programs
    for seed in range(options.seed, last, PER_PROCESS):
        number = min(PER_PROCESS, last - seed)
        command = [sys.executable, "-m", "scripts.pickle_fuzz", "--here", f"--seed={seed}", f"--programs={number}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=os.path.dirname(os.path.dirname(__file__)))
        if done.returncode:
            print(f"exit code {done.returncode}, after seed {done.stderr[-3000:]}")
            return 1
        for line in done.stdout.splitlines():
            count, _, name = line.partition("\t")
            if name == "bytes":
                grown = max(grown, int(count))
            else:
                ends[name] += int(count)
    for name, number in sorted(ends.items()):
        print(f"{number:9,}  {name}")
    print(f"{options.programs:,} programs: none ran code, crashed or hung; memory grew by at most {grown:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
