"""Files that cannot be loaded, and what is said of them: that they are no dumps at all, empty, or of other versions."""

from __future__ import annotations

import gzip
import io
import pickle
import sys
import tarfile
import threading
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _persistence_zoo import COMPRESSORS
from shoal import (
    CorruptFile,
    DamagedFile,
    DumpPicklingError,
    EmptyFile,
    ForeignFile,
    TruncatedFile,
    dump,
    inspect,
    load,
)
from shoal.persistence import _format


def packed(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "x")
    return file.getvalue()


def saved(save: Any, *values: Any) -> bytes:
    file = io.BytesIO()
    save(file, *values)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x.csv"))
    return file.getvalue()


TABLE = "a CSV table"
FOREIGN: dict[str, tuple[bytes, str]] = {
    "csv": (b"id,name\n1,a\n2,b\n", TABLE),
    "csv that begins as zlib": (b"x,y\n1,2\n", TABLE),
    "csv that begins as bz2": (b"BZ,NO\n1,2\n", TABLE),
    "csv that begins as joblib before 0.10": (b"ZF,x\n1,2\n", TABLE),
    "csv of numbers": (b"0.5,1.2\n1.5,2.2\n", TABLE),
    "csv that is long": (b"sepal length,sepal width\n" + b"5.1,3.5\n" * 500, TABLE),
    "csv with a mark": ("\ufeffa,b\n1,2\n".encode(), TABLE),
    "csv in latin-1": ("a,b\né,2\n".encode("latin-1"), TABLE),
    "csv, compressed": (gzip.compress(b"a,b\n1,2\n"), f"{TABLE}.*compressed by gzip"),
    "semicolons": (b"Name;Age\nBob;3\n", TABLE),
    "tabs": (b"a\tb\n1\t2\n", "separated by tabs"),
    "json": (b'{"a": 1}', "JSON"),
    "json of a list": (b"[1, 2, 3]", "JSON"),
    "text": (b"hello world\n", "text"),
    "text that begins as a number": (b"In 2020 we\n", "text"),
    "text that begins as an import": (b"cos x\nsin y\n(z)\n", "text"),
    "text in utf-16": ("hallo".encode("utf-16"), "text"),
    "html": (b"<!DOCTYPE html><html></html>", "HTML"),
    "xml": (b"<?xml version='1.0'?><a/>", "XML"),
    "git": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "npy": (saved(np.save, np.arange(3)), r"numpy\.load"),
    "npz": (saved(np.savez, np.arange(3)), r"numpy\.load"),
    "zip": (packed("f.txt"), "zip archive"),
    "torch": (packed("archive/data.pkl"), r"torch\.load"),
    "torch, long ago": (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2), r"torch\.load"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0", "PNG"),
    "parquet": (b"PAR1\x15\x04", "Parquet"),
    "hdf5": (b"\x89HDF\r\n\x1a\n\0\0\0", "HDF5"),
    "safetensors": ((10).to_bytes(8, "little") + b'{"a":{}}  ', "safetensors"),
    "tar": (tarred(), "tar archive"),
    "zeros": (bytes(100), r"begins with b'\\x00"),
    "nothing, compressed": (gzip.compress(b""), "empty file"),
}


WAYS: dict[str, Any] = {
    "load": load,
    "trusted": lambda path: load(path, trusted=[]),
    "mapped": lambda path: load(path, "r"),
    "object": lambda path: load(io.BytesIO(path.read_bytes())),
    "inspect": inspect,
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:mmap_mode:UserWarning")
def test_foreign_files_are_recognised(tmp_path: Path, kind: str, way: str) -> None:
    data, looks_like = FOREIGN[kind]
    if (kind, way) == ("torch, long ago", "inspect"):
        pytest.skip("a pickle of a number, as far as can be told without loading it")
    if (kind, way) == ("text that begins as an import", "trusted"):
        pytest.skip("what it would import is refused before all else")
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(ForeignFile, match=looks_like) as caught:
        WAYS[way](path)
    assert isinstance(caught.value, (CorruptFile, pickle.UnpicklingError))
    assert "was not written by shoal.dump or joblib" in str(caught.value)
    assert "damaged" not in str(caught.value)
    assert repr(pickle.loads(pickle.dumps(caught.value))) == repr(caught.value)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [{"a": [1, 2, "text"], "b": None}, ["x,y", "1,2"], "a text\nof lines"], ids=repr)
def test_damaged_pickles_are_reported_as_damaged(protocol: int, value: Any) -> None:
    whole = pickle.dumps(value, protocol)
    for size in range(3 if protocol > 1 else 12 + 12 * isinstance(value, str), len(whole)):
        with pytest.raises(CorruptFile) as caught:
            load(io.BytesIO(whole[:size]))
        assert not isinstance(caught.value, ForeignFile), size


@pytest.mark.parametrize("compress", ["", *COMPRESSORS])
def test_damaged_dumps_are_reported_as_damaged(compress: str) -> None:
    file = io.BytesIO()
    dump({"a": np.zeros(9), "text": "a,b\n" * 999}, file, compress=compress or 0)
    whole = file.getvalue()
    for at in range(0, len(whole), max(len(whole) // 50, 1)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x15
        for data in (bytes(damaged), whole[:at] or whole[:1]):
            if compress and data[:6] != whole[:6]:
                continue
            error = None
            try:
                load(io.BytesIO(data))  # if the change hit a value, another value is loaded
            except Exception as caught:
                error = caught
            assert isinstance(error, (TruncatedFile, DamagedFile, ImportError, type(None))), at


def test_empty_files(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"")
    for load_or_inspect in (load, inspect):
        with pytest.raises(EmptyFile, match=r"x\.pkl is empty") as caught:
            load_or_inspect(tmp_path / "x.pkl")
        assert isinstance(caught.value, EOFError)
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# Paths, and what is none


class Named:
    def __init__(self, path: Any) -> None:
        self._path = path

    def __fspath__(self) -> Any:
        return self._path


@pytest.mark.parametrize("mmap_mode", [None, "r"])
def test_paths_of_bytes(tmp_path: Path, mmap_mode: Any) -> None:
    dump([1], tmp_path / "x.pkl")
    path = bytes(tmp_path / "x.pkl")
    assert load(path, mmap_mode) == load(Named(path), mmap_mode) == [1]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(b"nowhere", mmap_mode)


@pytest.mark.parametrize("compress", ["", *COMPRESSORS])
def test_contents_of_a_file_are_not_a_path(compress: str) -> None:
    file = io.BytesIO()
    dump([1], file, compress=compress or 0)
    with pytest.raises(ValueError, match=r"load\(io\.BytesIO\(data\)\)"):
        load(file.getvalue())


@pytest.mark.parametrize("what", [None, 3, 1.5, ["x.pkl"], bytearray(b"x.pkl"), object], ids=repr)
def test_other_types_are_refused(what: Any) -> None:
    with pytest.raises(TypeError, match=r"load\(\) takes a path .* or a file object"):
        load(what)


# What cannot be pickled


class Model:
    callback: Any = None


def model() -> Model:
    made = Model()
    made.callback = lambda: 1
    return made


CULPRITS: dict[str, Any] = {
    r"value\[0\]\['model'\]\.callback": [{"model": model()}],
    r"value\['a'\]\[1\]": {"a": [np.zeros(99_999), threading.Lock()]},
    r"value\['g'\]": {"g": (n for n in "a")},
    "value": lambda: 1,
}


@pytest.mark.parametrize("compress", ["", *COMPRESSORS])
@pytest.mark.parametrize("path", CULPRITS)
@pytest.mark.parametrize("protocol", [None, 0, 2])
def test_the_part_that_cannot_be_pickled_is_named(tmp_path: Path, path: str, compress: str, protocol: Any) -> None:
    value = CULPRITS[path]
    dump("before", tmp_path / "old.pkl")
    for name in ("x.pkl", "old.pkl"):
        with pytest.raises(DumpPicklingError, match=rf": {path} cannot be pickled") as caught:
            dump(value, tmp_path / name, compress=compress or 0, protocol=protocol)
        assert isinstance(caught.value, (pickle.PicklingError, TypeError, AttributeError))
        assert caught.value.__cause__ is not None
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["old.pkl"]
    assert load(tmp_path / "old.pkl") == "before"
    with pytest.raises(DumpPicklingError, match=path):
        dump(value, io.BytesIO(), compress=compress or 0, protocol=protocol)


class Refuses:
    def __reduce__(self) -> Any:
        raise ValueError("not me")


class Odd:
    """A file that takes nothing."""

    def write(self, data: Any) -> None:
        raise TypeError("takes no argument")


def test_exceptions_of_classes_are_raised_as_they_are() -> None:
    with pytest.raises(ValueError, match=r"^not me$"):
        dump([Refuses()], io.BytesIO())
    with pytest.raises(TypeError, match="takes no argument"):
        dump([1], Odd())


# Versions


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A package that is there when a file is written."""
    module = types.ModuleType("alibrary")
    module.__dict__["__version__"] = "1.0"
    for name, raises in (("Kind", None), ("Picky", ValueError("it was otherwise.")), ("Own", OSError(5, "two parts"))):

        def set_state(self: Any, state: Any, raises: Any = raises) -> None:
            if raises is not None and module.__version__ != "1.0":
                raise raises

        kind = type(name, (), {"__module__": "alibrary", "__setstate__": set_state, "x": 1})
        setattr(module, name, kind)
    monkeypatch.setitem(sys.modules, "alibrary", module)
    return module


def made(kind: Any) -> Any:
    value = kind()
    value.x = 2
    return value


@pytest.mark.parametrize("compress", ["", *COMPRESSORS])
@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("several", [False, True])
def test_errors_name_the_versions_that_wrote_the_file(
    tmp_path: Path, library: types.ModuleType, monkeypatch: pytest.MonkeyPatch, compress: str, size: int, several: bool
) -> None:
    path = tmp_path / "x.pkl"
    kinds = {name: getattr(library, name) for name in ("Kind", "Picky", "Own")}
    files = {}
    for name, kind in kinds.items():
        with open(tmp_path / name, "wb") as file:
            dump([made(kind), bytes(size)], file, compress=compress or 0)
            if several:
                dump([1], file, compress=compress or 0)
        files[name] = tmp_path / name
    library.__dict__["__version__"] = "2.0"
    text = r"was written with alibrary 1\.0 \(here: 2\.0\): use the same versions"
    with pytest.raises(ValueError, match=rf"^it was otherwise\. .*Picky {text}"):
        load(files["Picky"])
    with pytest.raises(OSError, match="two parts") as caught:
        load(files["Own"])
    assert "alibrary" in "".join(getattr(caught.value, "__notes__", ["alibrary"]))
    delattr(library, "Kind")
    for how in ({}, {"trusted": ["alibrary.*"]}, {"mmap_mode": "r"} if not compress else {}):
        with pytest.raises(AttributeError, match=f"Kind.*{text}"):
            load(files["Kind"], **how)
    with open(files["Kind"], "rb") as file, pytest.raises(AttributeError, match=text):
        load(file)
    monkeypatch.delitem(sys.modules, "alibrary")
    with pytest.raises(ModuleNotFoundError, match=r"was written with alibrary 1\.0 \(not installed here\)") as missing:
        load(files["Kind"])
    assert missing.value.name == "alibrary"
    assert not path.exists()


def test_another_python_is_named(tmp_path: Path, library: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_format, "_PYTHON", "3.99.1")
    dump(made(library.Kind), tmp_path / "x")
    monkeypatch.undo()
    with pytest.raises(ModuleNotFoundError, match=r"Python 3\.99\.1 \(here: 3\.\d+"):
        load(tmp_path / "x")


@pytest.mark.parametrize("versions", [{"numpy": 2}, {"numpy": ["2"]}, {"a": None}], ids=repr)
def test_odd_versions_are_damage(monkeypatch: pytest.MonkeyPatch, versions: Any) -> None:
    monkeypatch.setattr(_format, "here", lambda _: versions)
    monkeypatch.setattr(_format, "_versions", lambda *_: _format._encode(versions))
    from shoal.persistence.writing import _writer

    monkeypatch.setattr(_writer, "here", lambda _: versions)
    for size in (1, 100_000):
        file = io.BytesIO()
        dump([bytes(size)], file)
        with pytest.raises(DamagedFile):
            load(io.BytesIO(file.getvalue()))


@pytest.mark.parametrize("size", [1, 100_000])
def test_numpy_1_finds_modules_that_numpy_2_has_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """What NumPy 2 has in ``numpy.rec``, NumPy 1 has in ``numpy.core.records``."""
    old, new = types.ModuleType("numpy.core.records"), types.ModuleType("numpy.rec")
    kind = type("recarray2", (), {"__module__": "numpy.rec"})
    for module in (old, new):
        module.__dict__["recarray2"] = kind
        monkeypatch.setitem(sys.modules, module.__name__, module)
    dump([kind, bytes(size)], tmp_path / "x")
    monkeypatch.setitem(sys.modules, "numpy.rec", None)  # type: ignore[arg-type]
    assert load(tmp_path / "x")[0] is kind


def test_files_of_text_are_refused(tmp_path: Path) -> None:
    with open(tmp_path / "x", "w") as file, pytest.raises(TypeError, match="mode 'wb'"):
        dump([1], file)
    dump([1], tmp_path / "x")
    with open(tmp_path / "x") as file, pytest.raises(TypeError, match="mode 'rb'"):
        load(file)


def test_unpicklable_parts_are_found_in_arrays_of_objects() -> None:
    array = np.empty((2, 3), object)
    array[1, 2] = [lambda: None]
    with pytest.raises(DumpPicklingError, match=r": value\['a'\]\[1, 2\]\[0\] cannot be pickled"):
        dump({"a": array}, io.BytesIO())


def test_a_module_cannot_be_dumped_itself() -> None:
    with pytest.raises(DumpPicklingError, match=r": value\[0\] cannot be pickled"):
        dump([pickle], io.BytesIO())
