"""``load(trusted=)`` and ``inspect`` refuse tuples in each other before anything takes their hash."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from _selection import examples
from _trust_opcodes import PROTO4, framed, named, text
from shoal.errors import UntrustedFile
from shoal.persistence.trust._depth import DEPTH, Depths
from shoal.persistence.trust._limits import Budget
from shoal.persistence.trust._opcodes import Walk, short

DEEP = 40_000


def _get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def _through_memo(link: bytes) -> bytes:
    """Put each tuple into the memo and drop it; `link` has %b where it is fetched again."""
    steps = (link.replace(b"%b", _get(index)) for index in range(DEEP))
    return b"}N\x85\x940" + b"".join(steps) + _get(DEEP) + b"Ns"


KEYS = {
    "texts": b"}N" + (text("a") + b"\x86") * DEEP + b"Ns",
    "texts in the memo": b"}N" + (text("a") + b"\x94\x86\x94") * DEEP + b"Ns",
    "long texts": b"}N" + (b"X\x28\0\0\0" + b"a" * 40 + b"\x86") * DEEP + b"Ns",
    "numbers": b"}K\x01" + b"K\x01\x86" * DEEP + b"Ns",
    "floats": b"}N" + (b"G" + bytes(8) + b"N\x87") * DEEP + b"Ns",
    "lines": b"}N" + b"I1\nS'a'\n\x87" * DEEP + b"Ns",
    "a text from the memo": b"}" + text("a") + b"\x940N" + b"h\x00\x86" * DEEP + b"Ns",
    "one place of the memo": b"}N" + b"\x85q\x010h\x01" * DEEP + b"Ns",
    "places of the memo": _through_memo(b"%b\x85\x940"),
    "places of the memo, by line": b"}N" + b"".join(b"\x85p%d\n0g%d\n" % (at, at) for at in range(40_000)) + b"Ns",
    "lists in between": _through_memo(b"](K\x01K\x02e0%b\x85\x940"),
    "tuples in between": _through_memo(b"K\x01K\x02K\x03\x870%b\x85\x940"),
    "marks in between": _through_memo(b"(%b" + text("a") + b"t\x940"),
    "as items of dictionaries": _through_memo(b"}K\x01%b\x85\x94s0"),
    "marks": b"}" + b"(" * DEEP + b"N" + b"t" * DEEP + b"Ns",
    "marks and texts": b"}" + (b"(" + text("a")) * DEEP + b"N" + (text("b") + b"t") * DEEP + b"Ns",
    "marks that are dropped": b"}N" + b"(K\x011\x85" * DEEP + b"Ns",
    "marks that are popped": b"}N" + b"(0\x85" * DEEP + b"Ns",
    "pops": b"}N" + b"K\x01K\x0200\x85" * DEEP + b"Ns",
    "no items": b"}N" + b"\x85(u" * DEEP + b"Ns",
    "no state": b"}N" + b"\x85Nb" * DEEP + b"Ns",
    "items": b"}(N" + (text("a") + b"\x86") * DEEP + b"Nu",
    "a dictionary at once": b"(N" + (text("a") + b"\x86") * DEEP + b"Nd",
    "a set": b"\x8f(N" + (text("a") + b"\x86") * DEEP + b"\x90",
    "a frozenset": b"(N" + (text("a") + b"\x86") * DEEP + b"\x91",
    "a call of set": named("builtins", "set") + b"](N" + (text("a") + b"\x86") * DEEP + b"e\x85R",
    "after honest tuples": b"](" + (text("b") + b"\x94K\x01\x86\x94") * 20_000 + b"e0}N" + b"h\x00\x86" * DEEP + b"Ns",
}


@pytest.mark.slow
@pytest.mark.parametrize("frames", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_keys_of_nested_tuples(frames: bool, tmp_path: Path) -> None:
    """In a thread with a stack as small as they come."""
    for name, opcodes in KEYS.items():
        data = PROTO4 + (framed(opcodes + b".") if frames else opcodes + b".")
        (tmp_path / name).write_bytes(data)
    program = """
        import pathlib, shoal, sys, threading
        def run():
            for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
                print(path.name, flush=True)
                assert "nests" in str(shoal.inspect(path).misuses), path
                try:
                    shoal.load(path, trusted=[])
                except shoal.UntrustedFile:
                    print(path.name, "refused", flush=True)
        threading.stack_size(2**20)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    """
    if frames:  # what is put so high at once is damage
        (tmp_path / "places of the memo, by line").unlink()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)], capture_output=True, text=True, check=False
    )
    refused = [line.removesuffix(" refused") for line in done.stdout.splitlines() if line.endswith(" refused")]
    assert refused == sorted(path.name for path in tmp_path.iterdir()), (done.returncode, done.stdout, done.stderr)


def test_tuples_up_to_the_limit() -> None:
    value: Any = None
    for _ in range(DEPTH - 2):
        value = (value, "a")
    chain = [link := None] + [link := (link, "a") for _ in range(DEPTH - 2)]
    data = io.BytesIO(pickle.dumps(chain))
    assert len(shoal.load(data, trusted=[])) == len(chain)
    chain.extend([link := (link, "a") for _ in range(10)])
    with pytest.raises(UntrustedFile, match="5,000 tuples"):
        shoal.load(io.BytesIO(pickle.dumps(chain)), trusted=[])


@pytest.mark.parametrize("protocol", [2, 4])
def test_many_honest_tuples(protocol: int) -> None:
    shared = ("a", ("b", 1))
    value = [(shared, ("x", index), (str(index), (index, (index,), [(index, "y")]))) for index in range(8_000)]
    data = pickle.dumps(value, protocol)
    assert shoal.load(io.BytesIO(data), trusted=[]) == value


PROGRAMS = st.lists(st.tuples(st.integers(0, 13), st.integers(0, 30)), max_size=120)


def _opcodes(program: list[tuple[int, int]]) -> list[bytes]:
    """Return opcodes that pickle can follow."""
    opcodes: list[bytes] = []
    heights, puts = [0], 0
    for what, number in program:
        height = heights[-1]
        if what == 0:
            step, change = b"K\x01", 1
        elif what == 1:
            step, change = text("a" * number), 1
        elif what == 2 and height:
            step, change = b"\x94", 0
            puts += 1
        elif what == 3 and puts:
            step, change = b"h" + bytes([number % puts]), 1
        elif what in (4, 5, 6) and height >= what - 3:
            step, change = bytes([0x85 + what - 4]), 4 - what
        elif what == 7:
            heights.append(0)
            step, change = b"(", 0
        elif what in (8, 9) and len(heights) > 1:
            heights.pop()
            step, change = b"t" if what == 8 else b"l", 1
        elif what == 10 and len(heights) > 1:
            heights.pop()
            step, change = b"1", 0
        elif what == 11 and height:
            step, change = b"0", -1
        elif what == 12:
            step, change = b"](K\x01K\x02e", 1
        elif what == 13:
            step, change = b"X" + struct.pack("<I", number) + b"a" * number, 1
        else:
            continue
        opcodes.append(step)
        heights[-1] += change
    return [*opcodes, b"N", *[b"t"] * (len(heights) - 1), b"\x85"]


def _depth(value: Any) -> int:
    return 1 + max(map(_depth, value), default=0) if type(value) is tuple else 0


def _size(value: Any) -> int:
    return 1 + sum(map(_size, value)) if type(value) is tuple else 1


def _walk() -> Walk:
    return Walk(lambda *_: pytest.fail("no opcode"), Budget("", 2**80, 0))


@settings(max_examples=examples(300), deadline=None)
@given(program=PROGRAMS, begin=st.integers(0, 130), cut=st.integers(1, 130))
def test_depth_and_size_are_as_the_unpickler_makes_them(program: list[tuple[int, int]], begin: int, cut: int) -> None:
    opcodes = _opcodes(program)
    value = pickle.loads(PROTO4 + b"".join(opcodes) + b".")
    real, size = _depth(value), _size(value)

    followed = Depths(Budget("", 2**80, 0), {}, 0)
    for part in (opcodes[at : at + cut] for at in range(0, len(opcodes), cut)):
        followed.follow(short(b"".join(part)))
    assert real - 1 <= followed.top[0] <= real
    assert size / 4 <= followed.top[1] <= size

    while True:  # it begins late, but before it is needed
        before, walk = b"".join(opcodes[:begin]), _walk()
        walk.feed(before)
        if not walk.linked:
            break
        begin = min(begin, len(opcodes)) - 1
    late = Depths(Budget("", 2**80, 0), dict.fromkeys(range(opcodes[:begin].count(b"\x94")), ()), len(before))
    late.follow(short(b"".join(opcodes[begin:])))
    assert real - 1 <= late.top[0]
    assert size / 4 <= late.top[1]
