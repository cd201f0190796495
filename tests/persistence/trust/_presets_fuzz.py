"""``python _presets_fuzz.py PRESET SEED N``: random calls and states of the names of a preset, which may do nothing.

An audit hook sees whatever opens a file, imports, compiles, runs code or starts a process while a file is loaded. The
first files are not watched, because libraries import some of their own modules when they are first used.
"""

from __future__ import annotations

import collections
import importlib
import io
import pickle
import random
import struct
import sys
import warnings
from datetime import time, timedelta
from operator import attrgetter

import numpy as np

import shoal
from shoal.persistence.trust._presets import PRESETS
from shoal.persistence.trust._reconstructors import RECONSTRUCTORS
from shoal.persistence.trust._trust import _RENAMED

#: The beginnings of the names of events that no file may cause.
FORBIDDEN = (
    *("open", "os.", "import", "exec", "compile", "subprocess.", "socket.", "ctypes.", "shutil.", "pty.", "code."),
    *("mmap", "tempfile.", "urllib.", "webbrowser.", "sqlite3.", "marshal.", "signal."),
    *("builtins.input", "builtins.breakpoint"),
)
TEXTS = (
    *("/etc/passwd", "dateutil//etc/passwd", "os", "system", "tz", "dtype", "data", "name", "__class__", "__dict__"),
    *("__setstate__", "linear", "func", "M", "D", "state", "base", "pyarrow", "string[pyarrow]", "MT19937", "category"),
    *("period[dateutil//etc/passwd]", "freq", "levels", "codes", "start", "stop", "closed"),
    *("Mon Tue", "1111100", "09:00", "nearest", "weekmask", "holidays", "calendar", "_offset", "n", "normalize"),
    *("__import__('os').system('x')", "datetime64[ns, dateutil//etc/passwd]", "2020-01-01 Europe/Rome"),
)
ARRAY = pickle.dumps(np.arange(3.0), 2)[2:-1]
#: What date offsets are made of, and what an attacker may put in its place.
TIMES = [
    pickle.dumps(value, 2)[2:-1]
    for value in (
        time(9),
        time(17),
        timedelta(1),
        np.datetime64("2020-01-01"),
        np.float64(2),
        (),
        (time(9),),
        ("09:00",),
    )
]
PARTS_OF_OFFSETS = [*TIMES, b"N", b"K\x01", b"K\x02", b"\x89", b"X\x07\0\0\x00Mon Tue", b"X\x05\0\0\x0009:00"]


def module_and_name(dotted: str) -> tuple[str, str] | None:
    """Return the parts of a dotted name; None if these releases of the libraries do not have it."""
    parts = dotted.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        module, name = ".".join(parts[:depth]), ".".join(parts[depth:])
        try:
            attrgetter(name)(importlib.import_module(_RENAMED.get(module, module)))
        except (ImportError, AttributeError):
            continue
        return module, name
    return None


class Maker:
    """Makes files."""

    def __init__(self, preset: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._parts = {name: parts for name in sorted(PRESETS[preset]) if (parts := module_and_name(name)) is not None}
        self._names = list(self._parts)
        self._functions = [name for name in self._names if name in RECONSTRUCTORS]
        self._offsets = [name for name in self._names if ".offsets." in name]
        self._indexes = [name for name in self._names if name.endswith("Index")]

    def file(self) -> bytes:
        return b"\x80\x04" + self._call(0) + b"."

    def _global(self, name: str) -> bytes:
        module, qualname = self._parts[name]
        return b"\x8c%c%b\x8c%c%b\x93" % (len(module), module.encode(), len(qualname), qualname.encode())

    def _text(self) -> bytes:
        text = self._random.choice(TEXTS).encode()
        return b"X" + struct.pack("<I", len(text)) + text

    def _values(self, depth: int, most: int = 4) -> bytes:
        return b"".join(self._value(depth + 1) for _ in range(self._random.randrange(most)))

    def _dict(self, depth: int) -> bytes:
        items = (self._text() + self._value(depth + 1) for _ in range(self._random.randrange(5)))
        return b"}(" + b"".join(items) + b"u"

    def _value(self, depth: int) -> bytes:
        draw = self._random
        kind = draw.randrange(14 if depth < 3 else 9)
        if kind < 3:
            return self._text()
        if kind < 7:
            return (b"N", b"\x88", b"K" + bytes([draw.randrange(256)]), b"G" + struct.pack(">d", draw.random()))[
                kind - 3
            ]
        if kind == 7:
            return b"J" + struct.pack("<i", draw.choice([-1, 2**31 - 1, -(2**31), 123_456]))
        if kind == 8:
            return ARRAY
        if kind == 9:
            return b"(" + self._values(depth) + b"t"
        if kind == 10:
            return b"](" + self._values(depth) + b"e"
        if kind == 11:
            return self._dict(depth)
        return self._global(draw.choice(self._names)) if kind == 12 else self._call(depth + 1)

    def _arrow_parts(self) -> bytes:
        """A type, numbers and buffers."""
        draw = self._random
        kind = draw.choice([b"string", b"large_string", b"binary", b"string_view", b"int64", b"bool", b"null"])
        parts = self._global("pyarrow.lib.type_for_alias") + b"\x8c%c%b\x85R" % (len(kind), kind)
        for _ in range(3):
            parts += b"J" + struct.pack("<i", draw.choice([0, 0, 1, 2, 3, -1, 2**31 - 1]))
        buffers = b""
        for size in draw.choices([0, 1, 8, 16, 24, 40], k=draw.choice([2, 3, 3, 4])):
            data = bytes(draw.choices([0, 0, 0, 1, 2, 3, 255], k=size))
            buffer = self._global("pyarrow.lib.py_buffer") + b"C%c%b\x85R" % (size, data)
            buffers += b"N" if draw.random() < 0.3 else buffer
        return b"(" + parts + b"](" + buffers + b"e]Nt"

    def _offset(self, depth: int) -> bytes:
        """A date offset, made of arguments or given a state."""
        draw = self._random
        kind = self._global(draw.choice(self._offsets))
        parts = [b"K\x01", b"\x89", *draw.choices(PARTS_OF_OFFSETS, k=draw.randrange(7))]
        if draw.random() < 0.2:
            parts[draw.randrange(len(parts))] = self._value(depth)
        if draw.random() < 0.7:
            return kind + b"(" + b"".join(parts) + b"tR"
        names = ("n", "normalize", "weekmask", "holidays", "start", "end", "_offset", "calendar")
        items = (b"X%c\0\0\0%b" % (len(name), name.encode()) + part for name, part in zip(names, parts, strict=False))
        return kind + b")\x81}(" + b"".join(items) + b"ub"

    def _partial(self, depth: int) -> bytes:
        """A partial function of any name in the preset."""
        draw = self._random
        others = self._functions if draw.random() < 0.3 else ["sklearn.utils.validation.check_array"]
        function = self._global(draw.choice(others))
        keywords = draw.choice([b"}", self._dict(depth), b"}X\x05\0\0\0dtype](cnumpy\nfloat64\nes"])
        state = draw.choice([b"(" + function + b")" + keywords + b"Nt", self._value(depth)])
        return self._global("functools.partial") + function + b"\x85R" + state + b"b"

    def _call(self, depth: int) -> bytes:
        draw = self._random
        if self._offsets and draw.random() < 0.3:
            return self._offset(depth)
        if "functools.partial" in self._names and draw.random() < 0.1:
            return self._partial(depth)
        name, how = draw.choice(self._names), draw.randrange(6)
        if draw.random() < 0.5 and self._functions:
            name, how = draw.choice(self._functions), 0
        kind = self._global(name)
        arguments = b"(" + self._values(depth, 5) + b"t"
        if "_new_" in name and self._indexes and draw.random() < 0.8:
            arguments = b"(" + self._global(draw.choice(self._indexes)) + self._dict(depth) + b"t"
        elif name == "pyarrow.lib._restore_array" and draw.random() < 0.9:
            arguments = self._arrow_parts() + b"\x85"
        elif "__pyx_unpickle" in name and draw.random() < 0.6:
            arguments = b"(" + self._global(draw.choice(self._names)) + b"K\x01Nt"
        made = kind + b")\x81"
        return (
            kind + arguments + b"R",
            kind + arguments + b"\x81",
            made + self._value(depth) + b"b",
            made + self._dict(depth) + b"b",
            made + b"(" + self._value(depth) + self._value(depth) + b"u",
            made + b"(" + self._values(depth) + b"e",
        )[how]


def main(preset: str, seed: int, n: int) -> None:
    warnings.simplefilter("ignore")
    maker = Maker(preset, seed)
    watched, current = False, b""

    def hook(event: str, arguments: object) -> None:
        if watched and event.startswith(FORBIDDEN):
            print(f"{event} {arguments!r:.100} while this was loaded: {current!r}", flush=True)

    sys.addaudithook(hook)
    outcomes: collections.Counter[str] = collections.Counter()
    for number in range(n):
        current = maker.file()
        watched = number >= n // 5
        try:
            shoal.load(io.BytesIO(current), trusted=preset, max_bytes=10**8)
            outcomes["loaded"] += 1
        except Exception as error:
            outcomes[type(error).__name__] += 1
        watched = False
    assert min(outcomes["loaded"], outcomes["UntrustedFile"]) > n // 20, outcomes
    print("done")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
