"""``load(trusted=)`` and ``inspect``: what attackers would try, and what must load all the same."""

from __future__ import annotations

import collections
import copyreg
import datetime
import decimal
import fractions
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal
from _selection import examples
from _trust_opcodes import PROTO4, framed, named, old, refused, text
from shoal.errors import CorruptFile, DamagedFile, FileLimitError, TruncatedFile, UntrustedFile
from shoal.persistence.compression import COMPRESSORS

# numpy's matrix is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A folder that attacks make: it exists if they succeed."""
    return tmp_path / "executed"


PROTO2 = b"\x80\x02"
#: Opcodes that make a folder, given those of its name; with what they would import.
ATTACKS: dict[str, tuple[Callable[[bytes], bytes], tuple[str, ...]]] = {
    "reduce": (lambda path: PROTO4 + named("os", "mkdir") + path + b"\x85R.", ("os.mkdir",)),
    "reduce, protocol 0": (lambda path: old("os", "mkdir") + path + b"\x85R.", ("os.mkdir",)),
    "inst": (lambda path: b"(" + path + b"ios\nmkdir\n.", ("os.mkdir",)),
    "obj": (lambda path: b"(" + old("os", "mkdir") + path + b"o.", ("os.mkdir",)),
    "newobj": (
        lambda path: PROTO4 + named("subprocess", "Popen") + b"]" + text("mkdir") + b"a" + path + b"a\x85\x81.",
        ("subprocess.Popen",),
    ),
    "name of python 2": (
        lambda path: (
            PROTO2 + old("__builtin__", "eval") + b"X" + _sized(b"__import__('os').mkdir(%r)", path) + b"\x85R."
        ),
        ("builtins.eval",),
    ),
    "dotted name": (
        lambda path: PROTO4 + named("shutil", "os.mkdir") + path + b"\x85R.",
        ("shutil.os.mkdir",),
    ),
    "getattr of an import": (
        lambda path: (
            PROTO4
            + named("builtins", "getattr")
            + named("builtins", "__import__")
            + text("os")
            + b"\x85R"
            + text("mkdir")
            + b"\x86R"
            + path
            + b"\x85R."
        ),
        ("builtins.__import__", "builtins.getattr"),
    ),
    "attrgetter": (
        lambda path: (
            PROTO4
            + named("operator", "attrgetter")
            + text("mkdir")
            + b"\x85R"
            + named("importlib", "import_module")
            + text("os")
            + b"\x85R\x85R"
            + path
            + b"\x85R."
        ),
        ("importlib.import_module", "operator.attrgetter"),
    ),
    "methodcaller": (
        lambda path: (
            PROTO4
            + named("operator", "methodcaller")
            + text("mkdir")
            + path
            + b"\x86R"
            + named("importlib", "import_module")
            + text("os")
            + b"\x85R\x85R."
        ),
        ("importlib.import_module", "operator.methodcaller"),
    ),
    "partial": (
        lambda path: PROTO4 + named("functools", "partial") + named("os", "mkdir") + path + b"\x86R)R.",
        ("functools.partial", "os.mkdir"),
    ),
    "partial, by its state": (
        lambda path: (
            PROTO4
            + named("functools", "partial")
            + named("builtins", "len")
            + b"\x85R"
            + (b"(" + named("os", "mkdir") + path + b"\x85}Nt")
            + b"b)R."
        ),
        ("builtins.len", "functools.partial", "os.mkdir"),
    ),
    "map in a list": (
        lambda path: (
            PROTO4
            + named("builtins", "list")
            + named("builtins", "map")
            + named("os", "mkdir")
            + b"]"
            + path
            + b"a\x86R\x85R."
        ),
        ("builtins.map", "os.mkdir"),
    ),
    "memo, exchanged": (
        lambda path: (
            PROTO4 + named("builtins", "list") + b"q\x00" + named("os", "mkdir") + b"q\x00h\x00" + path + b"\x85R."
        ),
        ("os.mkdir",),
    ),
    "reconstructor": (
        lambda path: b"ccopy_reg\n_reconstructor\n(cos\nmkdir\n" + path + b"NtR.",
        ("os.mkdir",),
    ),
    "behind what is dropped": (
        lambda path: PROTO4 + named("os", "mkdir") + path + b"\x85R0N.",
        ("os.mkdir",),
    ),
    "framed": (
        lambda path: PROTO4 + framed(named("os", "mkdir") + path + b"\x85R."),
        ("os.mkdir",),
    ),
    "in an array of objects": (
        lambda path: (
            PROTO4
            + named("numpy._core.multiarray", "_reconstruct")
            + named("numpy", "ndarray")
            + b"K\x00\x85C\x01b\x87R(K\x01K\x01\x85"
            + (
                named("numpy", "dtype")
                + text("O8")
                + b"\x89\x88\x87R(K\x03"
                + text("|")
                + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
            )
            + b"\x89]"
            + (named("os", "mkdir") + path + b"\x85R")
            + b"atb."
        ),
        ("os.mkdir",),
    ),
}


def _sized(form: bytes, path: bytes) -> bytes:
    data = (
        form % os.fsdecode(path[5:]).encode()
        if b"%s" in form
        else form.replace(b"%r", repr(path[5:].decode()).encode())
    )
    return struct.pack("<I", len(data)) + data


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks(attack: str, mark: Path) -> None:
    make, imports = ATTACKS[attack]
    data = make(text(mark))
    refused(data, *imports)
    assert not mark.exists()
    if attack not in ("newobj", "reconstructor"):  # the attack is one
        pickle.loads(data)
        assert mark.exists()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("compressor", ["zlib", "lzma"])
def test_attacks_compressed_and_through_pipes(attack: str, compressor: str, mark: Path, tmp_path: Path) -> None:
    make, imports = ATTACKS[attack]
    data = make(text(mark))
    file = io.BytesIO()
    compressed = COMPRESSORS[compressor].compressor_file(file, None)
    compressed.write(data)
    compressed.close()
    refused(file.getvalue(), *imports)
    for stream in (data, file.getvalue()):
        with pytest.raises(UntrustedFile) as caught:
            shoal.load(Pipe(stream), trusted=[])
        assert caught.value.imports == tuple(sorted(imports))
    assert not mark.exists()


class Pipe(io.RawIOBase):
    """What cannot seek."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def rest(self) -> bytes:
        return self._file.read()


def test_all_offenders_are_listed(mark: Path) -> None:
    data = pickle.dumps(
        [pickle.PickleError, subprocess.Popen, {"f": os.mkdir}, np.zeros(3), len, collections.OrderedDict]
    )
    refused(data, "builtins.len", f"{os.name}.mkdir", "subprocess.Popen", "_pickle.PickleError")
    refused(data, f"{os.name}.mkdir", "subprocess.Popen", trusted=["builtins.len", "_pickle.*"])


def test_joblibs_array_of_objects(mark: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(mark),)

    file = io.BytesIO()
    joblib.dump([np.array([1, Attack()], object), len], file)
    refused(file.getvalue(), "builtins.len", f"{os.name}.mkdir")
    assert not mark.exists()
    with pytest.raises(UntrustedFile):
        shoal.load(io.BytesIO(file.getvalue()), trusted=["builtins.len"])
    assert not mark.exists()


def test_persistent_ids() -> None:
    refused(PROTO4 + text("table") + b"Q.", misuse="persistent id")
    refused(b"Ptable\n.", misuse="persistent id")
    refused(PROTO4 + b"NQ.", misuse="persistent id")
    refused(PROTO4 + text("table") + b"Q0" + named("os", "mkdir") + b".", "os.mkdir", misuse="persistent id")


def test_extension_codes(mark: Path) -> None:
    """What copyreg has in its cache comes from there, past find_class."""
    code = 0x7FAB00
    ext = b"\x84" + struct.pack("<i", code)
    data = PROTO4 + ext + text(mark) + b"\x85R."
    refused(data, misuse="extension code")
    copyreg.add_extension("os", "mkdir", code)
    try:
        refused(data, misuse="extension code")
        pickle.loads(PROTO4 + ext + b".")  # now it is in the cache
        refused(data, misuse="extension code")
        refused(PROTO4 + named("os", "rmdir") + b"0" + data[2:], "os.rmdir", misuse="extension code")
        assert not mark.exists()
        assert pickle.loads(PROTO4 + ext + b".") is os.mkdir
    finally:
        copyreg.remove_extension("os", "mkdir", code)
    for short in (b"\x82\x01", b"\x83\x01\x01"):
        refused(PROTO4 + short + b".", misuse="extension code")


MISUSED: dict[str, tuple[bytes, str]] = {
    "bytes of a length": (named("builtins", "bytes") + b"J\xff\xff\xff\x7f\x85R", "builtins.bytes is called"),
    "bytearray of a length": (named("builtins", "bytearray") + b"J\xff\xff\xff\x7f\x85R", "builtins.bytearray"),
    "an array of a shape": (named("numpy", "ndarray") + b"J\xff\xff\xff\x7f\x85\x85R", "numpy.ndarray is called"),
    "an array of few bytes": (
        named("numpy", "ndarray")
        + b"(J\xff\xff\xff\x7f\x85"
        + (named("numpy", "dtype") + text("f8") + b"\x89\x88\x87R")
        + b"C\x08aaaaaaaatR",
        "fewer bytes",
    ),
    "pointers from bytes": (
        named("numpy", "ndarray")
        + b"(K\x01\x85"
        + (named("numpy", "dtype") + text("O8") + b"\x89\x88\x87R")
        + b"C\x08aaaaaaaatR",
        "something else than bytes",
    ),
    "a scalar of pointers": (
        named("numpy._core.multiarray", "scalar")
        + (named("numpy", "dtype") + text("O8") + b"\x89\x88\x87R")
        + b"C\x08aaaaaaaa\x86R",
        "something else than bytes",
    ),
    "a scalar without bytes": (
        named("numpy._core.multiarray", "scalar")
        + (named("numpy", "dtype") + text("V2000000000") + b"\x89\x88\x87R")
        + b"\x85R",
        "scalar is called",
    ),
    "a file mapped": (named("numpy", "memmap") + text("/etc/passwd") + b"\x85R", "numpy.memmap is called"),
    "a file mapped by NEWOBJ": (named("numpy", "memmap") + text("/etc/passwd") + b"\x85\x81", "numpy.memmap is called"),
    "a file mapped by copyreg": (
        named("copyreg", "__newobj__") + named("numpy", "memmap") + text("/etc/passwd") + b"\x86R",
        "numpy.memmap is called",
    ),
    "memory by copyreg": (
        named("copyreg", "_reconstructor")
        + named("builtins", "bytearray")
        + named("builtins", "bytearray")
        + b"J\xff\xff\xff\x7f\x87R",
        "copyreg._reconstructor",
    ),
    "a codec": (named("_codecs", "encode") + text("x") + text("rot13") + b"\x86R", "_codecs.encode"),
    "a huge fraction": (named("fractions", "Fraction") + text("1e999999999") + b"\x85R", "fractions.Fraction"),
    "a class with a new attribute": (
        named("collections", "Counter") + b"N}" + text("most_common") + named("builtins", "list") + b"s\x86b",
        "collections.Counter itself is changed",
    ),
    "a class with an item": (named("collections", "Counter") + text("a") + b"K\x01s", "itself is changed"),
    "a class with members": (named("collections", "Counter") + b"(K\x01K\x02e", "itself is changed"),
    "slots": (
        named("collections", "OrderedDict") + b")RN}" + text("__class__") + named("collections", "Counter") + b"s\x86b",
        "collections.OrderedDict is given a state",
    ),
    "a state with few objects": (
        named("numpy._core.multiarray", "_reconstruct")
        + named("numpy", "ndarray")
        + b"K\x00\x85C\x01b\x87R"
        + b"(K\x01J\xff\xff\xff\x7f\x85"
        + (named("numpy", "dtype") + text("O8") + b"\x89\x88\x87R")
        + b"\x89]tb",
        "another number of objects",
    ),
    "a large empty array": (
        named("numpy._core.multiarray", "_reconstruct")
        + named("numpy", "ndarray")
        + b"J\xff\xff\xff\x7f\x85C\x01b\x87R",
        "not empty",
    ),
    "a dtype without a copy": (named("numpy", "dtype") + text("f8") + b"\x85R", "numpy.dtype is called"),
    "a dtype by a text": (named("numpy", "dtype") + text("f8,(2,)i4") + b"\x89\x88\x87R", "numpy.dtype is called"),
    "a dtype of a class": (
        named("numpy", "dtype") + named("builtins", "list") + b"\x89\x88\x87R",
        "numpy.dtype is called",
    ),
}


@pytest.mark.parametrize("misused", MISUSED)
def test_safe_globals_are_only_used_for_data(misused: str) -> None:
    opcodes, said = MISUSED[misused]
    refused(PROTO4 + opcodes + b".", misuse=said)
    refused(PROTO4 + opcodes + b".", misuse=said, trusted=lambda name: True)


def _dtype_state(dtype: str, state: tuple[Any, ...], fields: bytes = b"") -> bytes:
    data = pickle.dumps(state, 2)[2:-1]
    return named("numpy", "dtype") + text(dtype) + b"\x89\x88\x87R" + data + b"b"


@pytest.mark.parametrize(
    ("dtype", "state"),
    [
        ("V8", (3, "|", None, ("a",), {"a": (1, 0)}, 8, 1, 16)),
        ("V8", (3, "|", None, None, None, 10**9, 1, 0)),
        ("O8", (3, "|", None, None, None, -1, -1, 0)),  # objects that are said to be none
        ("f8", (3, "<", None, None, None, -1, -1, 63)),
        ("f8", (3, "<", None, None, None, 800, -1, 0)),
        ("S4", (3, "|", None, None, None, 10**6, 1, 0)),
        ("f8", (2, "<", None, None, None, -1, -1, 0)),
        ("f8", ()),
        ("f8", (3, "evil", None, None, None, -1, -1, 0)),
        ("M8", (4, "<", None, None, None, -1, -1, 0, (None, (b"ns,evil", 1, 1, 1)))),
    ],
)
def test_dtypes_whose_state_lies(dtype: str, state: tuple[Any, ...]) -> None:
    refused(PROTO4 + _dtype_state(dtype, state) + b".", misuse="a dtype is given a state that numpy does not write")


def test_a_dtype_that_changes_under_its_arrays() -> None:
    """Bytes that become pointers when their dtype turns into one of objects."""
    objects = pickle.dumps(np.dtype([("a", "O")]).__reduce__()[2], 2)[2:-1]
    plain = pickle.dumps(np.dtype("V8").__reduce__()[2], 2)[2:-1]
    dtype = named("numpy", "dtype") + text("V8") + b"\x89\x88\x87R" + plain + b"b"
    array = named("numpy", "ndarray") + b"(K\x01\x85" + dtype + b"q\xc8C\x08aaaaaaaatR"
    refused(PROTO4 + array + b"h\xc8" + objects + b"b\x86.", misuse="a dtype is changed after it was used")


def test_flags_of_either_numpy() -> None:
    """Before numpy 2, those of an aligned dtype are negative."""
    inner = _dtype_state("f8", np.dtype("f8").__reduce__()[2])
    for flags, right in ((0x90, True), (0x90 - 256, True), (0x91, False), (0x91 - 256, False), (0x90 - 512, False)):
        fields = b"}" + text("a") + inner + b"K\x00\x86s"
        given = b"(K\x03" + text("|") + b"N" + text("a") + b"\x85" + fields + b"K\x08K\x08"
        given += b"J" + struct.pack("<i", flags) + b"t"
        data = PROTO4 + named("numpy", "dtype") + text("V8") + b"\x89\x88\x87R" + given + b"b."
        if right:
            assert not shoal.inspect(io.BytesIO(data)).misuses
        else:
            refused(data, misuse="a dtype is given a state that numpy does not write")


def test_an_offset_beyond_the_end() -> None:
    inner = _dtype_state("f8", np.dtype("f8").__reduce__()[2])
    fields = b"}" + text("a") + inner + b"J\x00\x00\x00\x01\x86s"
    state = b"(K\x03" + text("|") + b"N" + text("a") + b"\x85" + fields + b"K\x08K\x01K\x10t"
    data = PROTO4 + named("numpy", "dtype") + text("V8") + b"\x89\x88\x87R" + state + b"b."
    refused(data, misuse="a dtype is given a state that numpy does not write")


# ---- Trusted packages, and what is in them by accident.


@pytest.fixture
def packages(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Packages `trusted_pkg`, and `evil_pkg`, whose import is an attack."""
    good, evil = tmp_path / "trusted_pkg", tmp_path / "evil_pkg"
    for folder in (good, evil):
        folder.mkdir()
    (evil / "__init__.py").write_text(f"import os\nos.mkdir({str(mark)!r})\ndef f(): pass\n")
    (good / "__init__.py").write_text("from os import mkdir\nimport os\nfrom trusted_pkg.sub import Thing\n")
    (good / "sub.py").write_text(
        "import os, functools, subprocess\n"
        "class Thing:\n"
        "    imported = os.mkdir\n"
        "    class Inner:\n"
        "        pass\n"
        "    def __init__(self, value=0): self.value = value\n"
        "    @classmethod\n"
        "    def made(cls, value): return cls(value)\n"
        "    def __eq__(self, other): return type(self) is type(other) and vars(self) == vars(other)\n"
        "class Popen(subprocess.Popen): pass\n"
        "def make(value): return Thing(value)\n"
        "part = functools.partial(os.mkdir)\n"
        "bound = [].append\n"
        "thing = Thing(1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("trusted_pkg", "evil_pkg")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("trusted_pkg", "mkdir"),
        ("trusted_pkg", "os.mkdir"),
        ("trusted_pkg", "os"),
        ("trusted_pkg.sub", "os.path.os.mkdir"),
        ("trusted_pkg.sub", "Thing.imported"),
        ("trusted_pkg.sub", "Thing.__init__.__globals__"),
        ("trusted_pkg.sub", "Thing.__class__"),
        ("trusted_pkg.sub", "Thing.__subclasses__"),
        ("trusted_pkg.sub", "Thing.__dict__"),
        ("trusted_pkg.sub", "Popen.__base__"),
        ("trusted_pkg.sub", "Popen.communicate"),
        ("trusted_pkg.sub", "part"),
        ("trusted_pkg.sub", "bound"),
        ("trusted_pkg.sub", "thing.made"),
        ("trusted_pkg.sub", "make.__globals__"),
    ],
)
def test_imports_of_a_trusted_package_are_not_trusted(module: str, name: str, packages: None, mark: Path) -> None:
    refused(PROTO4 + named(module, name) + text(mark) + b"\x85R.", f"{module}.{name}", trusted=["trusted_pkg.*"])
    if name.isidentifier():
        return
    path, _, last = name.rpartition(".")
    by_getattr = named("builtins", "getattr") + named(module, path) + text(last) + b"\x86R"
    with pytest.raises(UntrustedFile):
        shoal.load(io.BytesIO(PROTO4 + by_getattr + text(mark) + b"\x85R."), trusted=["trusted_pkg.*"])
    assert not mark.exists()


def test_definitions_of_a_trusted_package_are_trusted(packages: None) -> None:
    def load(opcodes: bytes, *trusted: Any) -> Any:
        return shoal.load(io.BytesIO(PROTO4 + opcodes + b"."), trusted=trusted)

    made = load(named("trusted_pkg.sub", "make") + b"K\x05\x85R", "trusted_pkg.sub.make")
    assert made.value == 5
    assert type(load(named("trusted_pkg", "Thing.Inner") + b")\x81", "trusted_pkg.*")).__name__ == "Inner"
    assert load(named("trusted_pkg.sub", "Thing.made") + b"K\x05\x85R", "trusted_pkg.sub.Thing.made") == made
    getter = named("builtins", "getattr") + named("trusted_pkg.sub", "Thing") + text("made") + b"\x86R"
    assert load(getter + b"K\x05\x85R", "trusted_pkg.sub.Thing", "trusted_pkg.sub.Thing.made") == made
    refused(PROTO4 + getter + b".", "trusted_pkg.sub.Thing.made", trusted=["trusted_pkg.sub.Thing"])
    assert load(named("trusted_pkg.sub", "thing"), "trusted_pkg.sub.thing").value == 1
    assert load(named("trusted_pkg", "mkdir"), "trusted_pkg.mkdir") is os.mkdir  # it was named
    assert load(named("trusted_pkg", "os.mkdir"), lambda name: name == "trusted_pkg.os.mkdir") is os.mkdir


def test_nothing_else_is_imported(packages: None, mark: Path) -> None:
    both = PROTO4 + named("trusted_pkg", "Thing") + named("evil_pkg", "f") + b"\x86."
    refused(both, "evil_pkg.f", "trusted_pkg.Thing")
    refused(both, "evil_pkg.f", trusted=["trusted_pkg.*"])
    assert "trusted_pkg" not in sys.modules
    assert "evil_pkg" not in sys.modules
    refused(PROTO4 + named("trusted_pkgs", "f") + b".", "trusted_pkgs.f", trusted=["trusted_pkg.*"])
    refused(PROTO4 + named("evil_pkg.trusted_pkg", "f") + b".", "evil_pkg.trusted_pkg.f", trusted=["trusted_pkg.*"])
    assert not mark.exists()
    shoal.load(io.BytesIO(both), trusted=["trusted_pkg.*", "evil_pkg.f"])
    assert mark.exists()


def test_a_restricted_getattr_is_all_that_there_is(packages: None) -> None:
    stored = shoal.load(io.BytesIO(PROTO4 + named("builtins", "getattr") + b"."), trusted=[])
    assert stored is not getattr
    with pytest.raises(UntrustedFile):
        stored(os, "mkdir")
    assert shoal.load(io.BytesIO(PROTO4 + named("os", "getcwd") + b"."), trusted=["os.getcwd"]) is os.getcwd
    data = PROTO4 + named("builtins", "getattr") + text("abc") + text("upper") + b"\x86R."
    refused(data, "builtins.getattr")
    assert shoal.load(io.BytesIO(data), trusted=["builtins.getattr"])() == "ABC"


def test_setstate_of_a_class_that_is_not_trusted(mark: Path) -> None:
    class_ = named(__name__, "Setter")
    data = PROTO4 + class_ + b")\x81" + text(mark) + b"b."
    refused(data, f"{__name__}.Setter")
    assert not mark.exists()
    shoal.load(io.BytesIO(data), trusted=[f"{__name__}.Setter"])  # as documented: its methods run
    assert mark.exists()


class Setter:
    def __setstate__(self, state: str) -> None:
        os.mkdir(state)


def test_the_argument() -> None:
    data = pickle.dumps(len)
    asked = []

    def ask(name: str) -> bool:
        asked.append(name)
        return name == "builtins.len"

    assert shoal.load(io.BytesIO(data), trusted=ask) is len
    assert shoal.load(io.BytesIO(data), trusted=["no.thing", ask]) is len
    assert set(asked) == {"builtins.len"}
    assert shoal.load(io.BytesIO(data), trusted={"builtins.len"}) is len
    assert shoal.load(io.BytesIO(data)) is len
    with pytest.raises(TypeError, match="Pass trusted="):
        shoal.load(io.BytesIO(data), trusted="builtins.len")
    for item in (3, ["builtins.len"]):
        with pytest.raises(TypeError, match="dotted names and callables"):
            shoal.load(io.BytesIO(data), trusted=[item])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"got: True\. To let the file import anything, leave trusted out"):
        shoal.load(io.BytesIO(data), trusted=True)  # type: ignore[arg-type]
    for wrong in ("*", ".*", "", "a.", "built*", "a.*.b", "a b", "a-b", "a"):
        with pytest.raises(ValueError, match="package"):
            shoal.load(io.BytesIO(data), trusted=[wrong])


# ---- Files that lie, are damaged, or change.


def test_lengths_that_lie() -> None:
    for opcodes in (
        b"\x8e" + struct.pack("<Q", 2**40) + b"abc",
        b"\x96" + struct.pack("<Q", 2**62) + b"abc",
        b"B" + struct.pack("<I", 2**31) + b"abc",
        b"\x95" + struct.pack("<Q", 2**40) + b"abc",
        framed(b"\x8e" + struct.pack("<Q", 2**40) + b"abc"),
        framed(b"Nr\xff\xff\xff\xff."),
        b"Nr\xff\xff\xff\xff.",  # the memo would take 64 GB
        b"Np4294967295\n.",
        b"Np-1\n.",
        framed(b"\x8c\x05ab") + b"cde.",  # over the end of a frame
        framed(b"N" + framed(b"N")) + b".",
        b"\xfe.",
        b"",
        b"N",
    ):
        for load in (shoal.inspect, lambda file: shoal.load(file, trusted=[])):
            with pytest.raises(CorruptFile):
                load(io.BytesIO(PROTO4 + opcodes))


def test_damage_is_described() -> None:
    with pytest.raises(DamagedFile, match="the end of a frame in the middle of one"):
        shoal.inspect(io.BytesIO(PROTO4 + framed(b"\x8c\x05ab") + b"cde."))
    with pytest.raises(DamagedFile, match="an index of the memo, found 4294967295"):
        shoal.inspect(io.BytesIO(PROTO4 + framed(b"Nr\xff\xff\xff\xff.")))


def test_an_array_that_lies() -> None:
    file = io.BytesIO()
    joblib.dump(np.zeros(10), file)
    data = file.getvalue()
    lying = data.replace(b"K\n\x85", b"M\xff\xff\x85") if b"K\n\x85" in data else data.replace(b"K\n", b"K\xff")
    assert lying != data
    with pytest.raises(TruncatedFile):
        shoal.load(io.BytesIO(lying), trusted=[])
    with pytest.raises(TruncatedFile):
        shoal.inspect(io.BytesIO(lying))


def test_deep_nesting() -> None:
    depth = 30_000
    refused(PROTO4 + b"]" * depth + b"a" * (depth - 1) + named("os", "mkdir") + b"\x86.", "os.mkdir")
    value = shoal.load(io.BytesIO(PROTO4 + b"]" * depth + b"a" * (depth - 1) + b"."), trusted=[])
    while value:
        value = value.pop()


@pytest.mark.parametrize("compress", [0, 3])
def test_a_file_that_changes_in_between(compress: int, mark: Path, tmp_path: Path) -> None:
    """What was gone through is what is rebuilt."""
    path = tmp_path / "file"
    value = [np.arange(10000.0), {"a": fractions.Fraction(1, 2)}, len, np.arange(5000, 90000)]
    shoal.dump(value, path, compress=compress)
    attack = ATTACKS["reduce"][0](text(mark))

    def exchange(name: str) -> bool:
        path.write_bytes(attack)
        return True

    with pytest.raises(CorruptFile):
        shoal.load(path, trusted=exchange)
    assert not mark.exists()

    with path.open("rb+") as file:
        shoal.dump(value, file, compress=compress)
        size = file.tell()
        file.seek(0)
        data = file.read(size)
        file.seek(0)

        def rewrite(name: str) -> bool:
            position = file.tell()
            file.seek(0)
            file.write(attack.ljust(size, b"."))
            file.flush()
            file.seek(position)
            return True

        try:
            loaded = shoal.load(file, trusted=rewrite)
        except CorruptFile:
            pass
        else:  # nobody has compared the arrays' checksums: they are what is there now, but only data
            assert loaded[1:3] == value[1:3]
        assert data != path.read_bytes()
    assert not mark.exists()


def test_opcodes_come_from_the_first_pass(mark: Path, tmp_path: Path) -> None:
    """Without checksums, arrays are what is there now; but they are only data."""
    path = tmp_path / "file"
    joblib.dump([np.arange(1000.0), len], path)
    size = path.stat().st_size

    def exchange(name: str) -> bool:
        path.write_bytes(b"\0" * size)
        return True

    array, function = shoal.load(path, trusted=exchange)
    assert function is len
    assert not array.any()
    assert array.shape == (1000,)


# ---- What must load.

VALUES: dict[str, Any] = {
    "array": np.arange(10000.0),
    "small": np.arange(3),
    "scalar": np.float64(2),
    "of other order": np.asfortranarray(np.ones((30, 50))),
    "big-endian": np.arange(10000, dtype=">i4"),
    "structured": np.zeros(5000, np.dtype([("a", "f8"), ("b", "i2", (2, 3))])),
    "aligned": np.zeros(3, np.dtype("u1,f8", align=True)),
    "titled": np.zeros(3, np.dtype({"names": ["a", "b"], "formats": ["f8", "u1"], "titles": ["x", "y"]})),
    "record": np.zeros(2, "i4,f4").view(np.recarray),
    "one record": np.zeros(2, "i4,f4").view(np.recarray)[0],
    "times": np.array(["2020-01-01"], "M8[ns]"),
    "differences": np.array([3], "m8[25s]"),
    "text": np.array(["abc"]),
    "void": np.zeros(2, "V7"),
    "objects": np.array([[1, "a"], [{}, np.arange(3)]], object),
    "objects in records": np.zeros(3, [("a", "O"), ("b", "i4")]),
    "0-d": np.array(3),
    "empty": np.zeros((0, 3)),
    "masked": np.ma.array([1, 2], mask=[0, 1]),
    "masked one": np.ma.masked,
    "matrix": np.ones((1, 2)).view(np.matrix),
    "dtype": np.dtype("f8"),
    "subarray": np.dtype("(2,3)f8"),
    "metadata": np.dtype("f8", metadata={"a": 1}),
    "type": np.float64,
    "bool": np.bool_,
    "bytearray": bytearray(b"a"),
    "bytes": b"y" * 200000,
    "no bytes": b"",
    "string": "x" * 200000,
    "sets": [{1, 2}, frozenset([1])],
    "collections": [
        collections.defaultdict(list, a=[1]),
        collections.OrderedDict(a=1),
        collections.deque([1, 2], 5),
        collections.Counter("aab"),
    ],
    "times of day": [
        datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=2), "x")),
        datetime.date(2020, 1, 2),
        datetime.time(3),
    ],
    "numbers": [decimal.Decimal("1.5"), fractions.Fraction(1, 3), 1j, 2**100, range(3), slice(1, 2), ..., True, None],
    "many": [[float(i) for i in range(8000)], {i: (i, str(i)) for i in range(2000)}, list(range(-5, 8000))],
    "names": [uuid.UUID(int=3), pathlib.PurePosixPath("a/b"), Path("c"), list, float],
}


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("compress", [0, 3])
def test_data_is_safe(protocol: int, compress: int) -> None:
    for name, value in {**VALUES, "all": VALUES}.items():
        for library in (shoal, joblib):
            if library is joblib and protocol == 0 and name in ("all", "masked one"):
                continue
            file = io.BytesIO()
            library.dump(value, file, compress=compress, protocol=protocol)
            data = file.getvalue()
            plain = shoal.load(io.BytesIO(data))
            for stream in (io.BytesIO(data), Pipe(data))[: 1 if protocol == 0 else 2]:  # lines come byte by byte
                loaded = shoal.load(stream, trusted=[])
                assert pickle.dumps(loaded) == pickle.dumps(plain) or repr(loaded) == repr(plain), (name, library)
            assert not shoal.inspect(io.BytesIO(data)).untrusted


def test_load_reads_no_further_than_the_object() -> None:
    file = io.BytesIO()
    for value in VALUES.values():
        shoal.dump(value, file)
    file.write(b"rest")
    begin = io.BytesIO(file.getvalue())
    pipe = Pipe(file.getvalue())
    for _ in VALUES:
        position = begin.tell()
        shoal.inspect(begin)
        assert begin.tell() == position
        plain = repr(shoal.load(begin))
        begin.seek(position)
        assert repr(shoal.load(begin, trusted=[])) == plain
        assert repr(shoal.load(pipe, trusted=[])) == plain
    assert begin.read() == pipe.rest() == b"rest"


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_arrays_are_mapped(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    value = [np.arange(5000), "a", np.ones((100, 200)), np.zeros(0), np.arange(7)]
    shoal.dump(value, path)
    loaded = shoal.load(path, mmap_mode=mode, trusted=[])
    assert isinstance(loaded[0], np.memmap)
    for written, array in zip(value, loaded, strict=True):
        np.testing.assert_array_equal(written, array)
    loaded = shoal.load(path, trusted=[], verify=True)
    np.testing.assert_array_equal(loaded[2], value[2])


@settings(max_examples=examples(60), deadline=None)
@given(
    value=st.recursive(
        st.none()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text()
        | st.binary()
        | st.dates()
        | st.decimals(allow_nan=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    ),
    protocol=st.sampled_from([0, 1, 2, 3, 4, 5]),
)
def test_plain_data(value: Any, protocol: int) -> None:
    file = io.BytesIO()
    shoal.dump(value, file, protocol=protocol)
    assert shoal.load(io.BytesIO(file.getvalue()), trusted=[]) == value
    data = pickle.dumps(value, protocol)
    assert shoal.load(io.BytesIO(data), trusted=[]) == value


@settings(max_examples=examples(300), deadline=None)
@given(st.data())
def test_damaged_files_run_no_code(data: st.DataObject) -> None:
    """A damaged file is refused, or loads, or a class that is safe says that its state makes no sense; nothing else."""
    good = bytearray(DAMAGED)
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with Executed() as executed:
        for load in (shoal.inspect, lambda file: shoal.load(file, trusted=[])):
            try:
                load(io.BytesIO(bytes(good)))
            except (CorruptFile, UntrustedFile, RecursionError, FileLimitError):
                pass
            except Exception as error:
                # Classes of data say that their state makes no sense; inspect rebuilds nothing that could.
                if "Python 2" not in str(error) and (load is shoal.inspect or isinstance(error, ImportError)):
                    raise
    assert not executed.events


class Executed:
    """Notes what only code does that a file has chosen: imports, processes, changes of files."""

    _now: ClassVar[list[Executed]] = []
    _hooked: ClassVar[bool] = False

    def __enter__(self) -> Executed:
        self.events: list[str] = []
        if not Executed._hooked:  # for good: such hooks cannot be removed
            Executed._hooked = True
            sys.addaudithook(Executed._heard)
        Executed._now.append(self)
        sys.meta_path.insert(0, self)  # type: ignore[arg-type]
        return self

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        Executed._now.remove(self)

    def find_spec(self, name: str, *_: object) -> None:
        """Note an import of what is not there yet."""
        if name.partition(".")[0] not in ("numpy", "shoal"):
            self.events.append(f"import {name}")

    @staticmethod
    def _heard(event: str, args: tuple[Any, ...]) -> None:
        if Executed._now and event.startswith(("os.", "subprocess.", "shutil.", "socket.")):
            Executed._now[-1].events.append(f"{event} {args!r:.200}")


def test_executed_code_is_detected_by_these_tests(mark: Path) -> None:
    """The test above can fail."""
    with Executed() as executed:
        with pytest.raises(ImportError):
            shoal.load(io.BytesIO(PROTO4 + named("no_such_module", "f") + b"."), trusted=lambda name: True)
        shoal.load(io.BytesIO(ATTACKS["reduce"][0](text(mark))), trusted=["os.mkdir"])
    assert "import no_such_module" in executed.events
    assert any(event.startswith("os.mkdir") for event in executed.events)


DAMAGED = pickle.dumps([np.arange(3), {"a": decimal.Decimal(1), "b": np.array([1, "a"], object)}, uuid.UUID(int=1)])


def test_models() -> None:
    pytest.importorskip("sklearn")
    import scipy.sparse
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    rng = np.random.RandomState(0)
    x = rng.rand(60, 4)
    y = (x[:, 0] > 0.5).astype(int)
    sparse = scipy.sparse.csr_matrix(x)
    for model, data, trusted in (
        (RandomForestClassifier(3, random_state=0), x, ["sklearn.*"]),
        (make_pipeline(StandardScaler(), LogisticRegression()), x, ["sklearn.*"]),
        (SVC(), x, ["sklearn.*"]),
        (SVC(), sparse, ["sklearn.*", "scipy.sparse.*"]),
        (GradientBoostingClassifier(n_estimators=2, random_state=0), x, ["sklearn.*", "numpy.random.*", "_loss.*"]),
    ):
        model.fit(data, y)
        for library in (shoal, joblib):
            file = io.BytesIO()
            library.dump(model, file)
            assert shoal.inspect(io.BytesIO(file.getvalue())).untrusted
            refused(file.getvalue(), *shoal.inspect(io.BytesIO(file.getvalue())).untrusted)
            loaded = shoal.load(io.BytesIO(file.getvalue()), trusted=trusted)
            np.testing.assert_array_equal(loaded.predict(data), model.predict(data))


def test_frames() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "a": [1, 2],
            "b": ["x", "y"],
            "c": pandas.to_datetime(["2020", "2021"]),
            "d": pandas.Categorical(["u", "v"]),
            "e": pandas.array([1, None], dtype="Int64"),
        },
        index=pandas.MultiIndex.from_tuples([(1, "a"), (2, "b")]),
    )
    for library in (shoal, joblib):
        file = io.BytesIO()
        library.dump(frame, file)
        loaded = shoal.load(io.BytesIO(file.getvalue()), trusted=["pandas.*", "pyarrow.lib.*"])
        pandas.testing.assert_frame_equal(loaded, frame)


# ---- inspect.


@pytest.mark.parametrize("compress", [0, "gzip", "lzma"])
def test_inspect(compress: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    value = {"a": np.zeros((100, 100)), "b": np.arange(3, dtype="i2"), "c": subprocess.Popen}
    shoal.dump(value, path, compress=compress)
    info = shoal.inspect(path)
    assert info.name == str(path)
    assert info.size == path.stat().st_size
    assert info.compressor == (compress or None)
    assert info.protocol == 5
    assert "numpy.dtype" in info.imports
    assert info.untrusted == ("subprocess.Popen",)
    assert [(array.dtype, array.shape, array.nbytes) for array in info.arrays] == [
        ("float64", (100, 100), 80000),
        ("int16", (3,), 6),
    ]
    assert info.arrays[0].position is not None
    assert info.versions["numpy"] == np.__version__
    assert info.checksums
    assert info.uncompressed > 80000
    with pytest.raises(AttributeError):
        info.size = 3  # type: ignore[misc]
    for said in (
        "float64 (100, 100), 80,000 bytes",
        "subprocess.Popen",
        "protocol 5",
        np.__version__,
        "with checksums",
    ):
        assert said in repr(info)
    assert "(safe)" in repr(info)
    assert info == shoal.inspect(str(path))

    joblib.dump(value, path, compress=0)
    info = shoal.inspect(path)
    assert not info.checksums
    assert info.versions == {}
    assert info.uncompressed == info.size


def test_inspect_of_an_attack(mark: Path) -> None:
    opcodes = named("builtins", "bytes") + b"J\xff\xff\xff\x7f\x85R"
    info = shoal.inspect(io.BytesIO(PROTO4 + opcodes + b"."))
    assert info.misuses
    assert "WARNING" in repr(info)


def test_the_command_line(tmp_path: Path) -> None:
    path, broken = tmp_path / "file", tmp_path / "broken"
    shoal.dump([np.arange(3), len], path)
    broken.write_bytes(path.read_bytes()[:-30])
    command = [sys.executable, "-m", "shoal", "inspect", str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0
    assert done.stdout == repr(shoal.inspect(path)) + "\n"
    done = subprocess.run([*command, str(broken)], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "broken" in done.stderr
    assert "builtins.len" in done.stdout


def test_damage_is_reported_before_trust(tmp_path: Path) -> None:
    path = tmp_path / "file"
    shoal.dump([subprocess.Popen, "a" * 1000], path)
    data = bytearray(path.read_bytes())
    data[-400] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedFile):
        shoal.inspect(path)


@pytest.mark.parametrize("write", [shoal.dump, joblib.dump])
@pytest.mark.parametrize("compress", ["zlib", "bz2"])
@pytest.mark.parametrize(
    "value", ["ab" * 2_000_000, ["x" * 10_000 + str(number) for number in range(1000)]], ids=["one", "many"]
)
def test_strings_count_as_their_length(write: Any, compress: str, value: Any) -> None:
    """However well they are compressed: their bytes are no opcodes."""
    file = io.BytesIO()
    write(value, file, compress=(compress, 9))
    assert shoal.load(io.BytesIO(file.getvalue()), trusted=[]) == value
