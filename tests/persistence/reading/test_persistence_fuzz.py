"""Files that are damaged by chance, and files that claim to hold far more than they do; each in a process of its own.

FUZZ_SECONDS, in the environment, is for how long files are damaged; some seconds by default.
"""

from __future__ import annotations

import io
import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import pytest

from _capabilities import needs_limits, needs_proc
from _faults_util import Child
from _persistence_zoo import COMPRESSORS
from shoal import dump, load
from shoal.persistence._format import Footer, StoredArray, plain, wrapper
from shoal.persistence.compression import COMPRESSORS as RECORDS

pytestmark = [needs_limits, needs_proc]

SECONDS = float(os.environ.get("FUZZ_SECONDS", "2.5"))


@pytest.mark.timeout(SECONDS + 100)
@pytest.mark.parametrize("writer", ["shoal", "joblib"])
def test_randomly_damaged_files(tmp_path: Path, writer: str) -> None:
    program = Path(__file__).with_name("_persistence_fuzz.py")
    seed = random.randrange(2**32)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(program), str(seed), str(SECONDS), writer],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS + 60,
        check=False,
    )
    mutant = tmp_path / "mutant"
    data = mutant.read_bytes() if mutant.exists() else b""
    assert (done.returncode, done.stdout) == (0, "ok\n"), f"seed {seed}: {done.stderr}\n{data[:3000]!r}"


# Claims

_HUGE = 2**50


def dtype(name: str) -> bytes:
    return plain(np.dtype(name))


def claims() -> Iterator[tuple[str, bytes]]:
    """Yield what says that terabytes follow, and some bytes in their place."""
    proto2, proto4, rest = b"\x80\x02", b"\x80\x04", bytes(1000)

    def framed(opcodes: bytes) -> bytes:
        return b"\x95" + struct.pack("<Q", len(opcodes)) + opcodes

    shapes = [((2**40,), "f8"), ((2**31, 2**31, 2**31), "i1"), ((2**20, 2**20), "c16"), ((1000,), "V1000000000")]
    for shape, name in shapes:
        for order in "CF":
            opcodes = wrapper(plain(shape), order, dtype(name), True)
            yield f"array {shape} {name} {order}", proto2 + opcodes + b"\0" + rest
            yield f"framed array {shape} {name} {order}", proto4 + framed(opcodes) + b"\0" + rest
    for name, shape in [
        ("negative", (-1,)),
        ("negative product", (-(2**40), -8)),
        ("no integer", (1.5,)),
        ("text", "x"),
    ]:
        yield f"shape {name}", proto2 + wrapper(plain(shape), "C", dtype("f8"), True) + b"\0" + rest
    yield "frame", proto4 + b"\x95" + struct.pack("<Q", _HUGE) + rest
    yield "second frame", proto4 + framed(b"N0") + b"\x95" + struct.pack("<Q", _HUGE) + rest
    for name, opcode in [("bytes", b"\x8e"), ("text", b"\x8d"), ("bytearray", b"\x96")]:
        yield f"long {name}", proto4 + opcode + struct.pack("<Q", _HUGE) + rest
        yield f"framed long {name}", proto4 + framed(b"N0" + opcode + struct.pack("<Q", _HUGE)) + rest
    for name, opcode in [("bytes", b"B"), ("text", b"X"), ("string", b"T"), ("integer", b"\x8b")]:
        yield name, proto2 + opcode + struct.pack("<I", 2**31 - 1) + rest
        yield f"framed {name}", proto4 + framed(b"N0" + opcode + struct.pack("<I", 2**31 - 1)) + rest
    yield "memo", proto2 + b"Nr" + struct.pack("<I", 2**31) + rest


def footers() -> Iterator[tuple[str, bytes]]:
    """Yield footers whose checksums are right, and which say what is not so."""
    array = np.arange(5000.0)
    for name in ("start", "array", "position", "blocks"):
        file = io.BytesIO()
        dump([array, "tail"], file)
        data = file.getvalue()
        length = Footer.length(data)
        assert length is not None
        footer = Footer.decoded(data[-length:])
        (stored,) = footer.arrays
        if name == "start":
            footer.start = _HUGE
        elif name == "array":
            footer.arrays = [stored._replace(nbytes=_HUGE, shape=(_HUGE // 8,))]
        elif name == "position":
            footer.arrays = [stored._replace(position=_HUGE), StoredArray(-5, -7, "f8", (1,), 3)]
        else:
            footer.blocks = [(0, 0), (2, _HUGE), (_HUGE, 2 * _HUGE)]
        yield name, data[:-length] + footer.encoded()


@pytest.mark.parametrize("compress", [0, *COMPRESSORS])
def test_false_lengths_take_no_memory(tmp_path: Path, compress: object) -> None:
    """Under a limit of 256 MB more than what the process has; and no more than 64 MB is in use at any time."""
    for folder in ("claims", "warm"):
        (tmp_path / folder).mkdir()
    cases = {**dict(claims()), **{f"footer: {name}": data for name, data in footers()}}
    for index, data in enumerate(cases.values()):
        packed = data
        if compress:
            file = io.BytesIO()
            with RECORDS[str(compress)].compressor_file(file) as stream:
                stream.write(data)
            packed = file.getvalue()
        (tmp_path / "claims" / str(index)).write_bytes(packed)
    dump([np.arange(9000.0), "x"], tmp_path / "warm" / "x", compress=compress)  # type: ignore[arg-type]
    (tmp_path / "names.json").write_text(json.dumps(list(cases)))
    source = """
        import io, json, os, resource, sys
        import numpy
        import shoal

        folder = sys.argv[1]
        shoal.load(folder + "/warm/x")
        with open("/proc/self/statm") as file:
            limit = int(file.read().split()[0]) * resource.getpagesize() + 256 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        class Stream:
            def __init__(self, data):
                self.read = io.BytesIO(data).read

        with open(folder + "/names.json") as file:
            names = json.load(file)
        for index, name in enumerate(names):
            path = f"{folder}/claims/{index}"
            with open(path, "rb") as file:
                data = file.read()
            for way in (path, io.BytesIO(data), Stream(data)):
                try:
                    value = shoal.load(way)
                except shoal.CorruptFile as error:
                    pass
                except Exception as error:
                    raise SystemExit(f"{name} {type(way)}: {error!r}")
                else:
                    assert name.startswith("footer") and value[1] == "tail", (name, way)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown < 64 * 1024, (name, grown)
        print("ok", flush=True)
    """
    with Child(source, tmp_path) as child:
        code, out, err = child.wait()
    # Where there is no memory for a bytearray, CPython prints that it has exported buffers.
    assert (code, out) == (0, "ok\n"), err


def test_shoal_refuses_what_joblib_refuses(tmp_path: Path) -> None:
    """Files of joblib whose array is not there."""
    path = tmp_path / "x"
    for array in (np.arange(10_000.0), np.zeros((300, 40), "i2")):
        joblib.dump(array, path)
        data = path.read_bytes()
        for cut in (1, 100, array.nbytes, array.nbytes + 5):
            path.write_bytes(data[: len(data) - cut])
            with pytest.raises((ValueError, EOFError)):
                joblib.load(path)
            with pytest.raises(ValueError, match="is damaged"):
                load(path)
