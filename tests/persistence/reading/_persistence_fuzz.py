"""Load files that are damaged by chance: a program, `python _persistence_fuzz.py SEED SECONDS WRITER`.

It ends with an error on whatever load() does not promise; what was loaded then lies in the file "mutant" of the working
folder, which is there for crashes too.
"""

from __future__ import annotations

import io
import os
import random
import re
import resource
import sys
import time
import traceback
import warnings
from typing import Any

import joblib
import numpy as np

import shoal
from _persistence_zoo import COMPRESSORS, JOBLIBS, filled

#: The memory that a load may take beyond what its file holds, in bytes.
FREE = 64 * 2**20
#: What load() says that it raises; ValueError for arguments that do not fit, which verify=True may turn out to be.
PROMISED = (shoal.CorruptFile, ImportError, AttributeError, RecursionError)


def plain() -> list[Any]:
    return [
        {"a": [1, 2.5, "text", b"bytes", None, True, 2**70], "t": (1, (2, {3: "x"})), "s": {1, 2}, "e": "é" * 300},
        [{"index": index, "text": str(index)} for index in range(60)],
        ["x" * 70_000, bytes(70_000), "tail"],
    ]


def arrays(writer: str) -> list[Any]:
    one = filled("f8", (40,))
    both = {"a": one, "again": one, "b": filled(">i2", (2, 3)), "f": filled("f4", (9, 9)).T}
    large = [filled("u1", (40_000,)), "tail"]
    objects = [np.array([1, "x", one], object), filled("M8[s]", (4,)), filled([("a", "i4"), ("b", "U2")], (3,))]
    return [both, large, objects] if writer == "shoal" else [both, large]


#: Ways to load a file: of a path, which is compared before anything is rebuilt; from memory; from a stream.
BY_PATH, ANY = (1, 2), (0, 1, 2, 3)


def corpora(writer: str) -> list[tuple[list[bytes], tuple[int, ...]]]:
    """Return files, and the ways in which they are loaded.

    Dtypes that are damaged make NumPy crash. So arrays of shoal are loaded only where damage is seen before anything
    is rebuilt, and those of joblib without compression, if `intact` does not find that.
    """
    dump, known = (shoal.dump, COMPRESSORS) if writer == "shoal" else (joblib.dump, JOBLIBS)
    checked = [name for name in known if name != "lzma"] if writer == "shoal" else []
    return [
        (dumped(dump, plain(), known), ANY),
        (dumped(dump, arrays(writer), checked), BY_PATH if writer == "shoal" else ANY),
    ]


_DTYPE = re.compile(rb".{20}[(]K\x03.{0,40}?t(?:q.|\x94)b", re.DOTALL)


def intact(data: bytes, mutant: bytes) -> bool:
    """Tell whether all dtypes in a file are those that were there."""
    spans = _DTYPE.findall(data)
    return mutant.count(b"dtype") == data.count(b"dtype") and all(mutant.count(s) == data.count(s) for s in spans)


def dumped(dump: Any, values: list[Any], compressors: Any) -> list[bytes]:
    files = []
    for value in values:
        for protocol in (2, 4, 5):
            for compress in (0, 0, *compressors):
                file = io.BytesIO()
                dump(value, file, compress=compress, protocol=protocol)
                files.append(file.getvalue())
    return files


def mutated(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Return a file with some damage: bits, bytes, pieces that are gone, doubled, zeroed, or of another file."""
    mutant = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(mutant) + 1) if chance.random() < 0.6 else chance.randrange(min(len(mutant), 300) + 1)
        if chance.random() < 0.2:
            at = max(len(mutant) - chance.randrange(60), 0)
        length = chance.choice((1, 1, 2, 4, 8, 30, 1000))
        kind = chance.randrange(7)
        if kind <= 1 and at < len(mutant):
            mutant[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            mutant[at : at + length] = chance.choice((b"\0", b"\xff", b"\x7f")) * length
        elif kind == 3:
            del mutant[at : at + length]
        elif kind == 4:
            mutant[at:at] = mutant[at : at + length]
        elif kind == 5:
            other = chance.choice(others)
            start = chance.randrange(len(other))
            mutant[at : at + length] = other[start : start + length]
        else:
            mutant[at : at + length] = chance.randbytes(length)
    return bytes(mutant)


class Stream:
    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


def attempt(data: bytes, way: int) -> None:
    if way == 0:
        shoal.load(io.BytesIO(data))
    elif way == 1:
        shoal.load("mutant", mmap_mode="c")
    elif way == 2:
        shoal.load("mutant", verify=True)
    else:
        shoal.load(Stream(data))


def ours(error: BaseException) -> bool:
    """Tell whether an error comes from what the mutant made of the classes of others: anything may be raised there."""
    frames = traceback.extract_tb(error.__traceback__)
    return "shoal" in frames[-1].filename


def main(seed: int, seconds: float, writer: str) -> None:
    warnings.simplefilter("ignore")
    chance = random.Random(seed)
    kinds = corpora(writer)
    for files, _ in kinds:
        for data in files:
            shoal.load(io.BytesIO(data))  # whatever is imported for that
    with open("/proc/self/statm") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + 8 * FREE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        files, ways = chance.choice(kinds)
        original = chance.choice(files)
        data = mutated(original, files, chance)
        if writer == "joblib" and not intact(original, data):
            continue
        with open("mutant", "wb") as file:
            file.write(data)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        way = chance.choice(ways)
        try:
            attempt(data, way)
        except PROMISED:
            pass
        except Exception as error:
            said = isinstance(error, ValueError) and ("no checksums" in str(error) or "Python 2" in str(error))
            if ours(error) and not said:
                raise
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        # A kilobyte may be inflated to a megabyte of opcodes, each of which makes an empty dictionary.
        if grown > (FREE if data[:1] == b"\x80" else 3 * FREE) + len(data):
            sys.exit(f"{grown} bytes more for a file of {len(data)}, way {way}")
        count += 1
    os.unlink("mutant")
    print("ok", flush=True)
    print(count, file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
