"""What the arguments of dump and load mean: as in joblib, down to warnings and errors."""

from __future__ import annotations

import io
import os
import pathlib
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

import shoal
from _persistence_zoo import COMPRESSORS, JOBLIBS, filled, portrait
from shoal.persistence.compression import COMPRESSORS as RECORDS

# joblib leaves its LZ4 files open, which say so when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

VALUE = {"a": [1, "x"], "big": filled("f8", (6000,)), "small": filled("i4", (3,))}
BOTH = pytest.mark.parametrize("module", [joblib, shoal])


def outcome(function: Callable[[], Any]) -> tuple[Any, ...]:
    """Return what a call returns or raises, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = "returned", function()
        except Exception as error:
            result = "raised", (stdlib(type(error)), str(error))
    return *result, [(warning.category, str(warning.message)) for warning in caught]


def stdlib(kind: type) -> type:
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def written(path: Path) -> str:
    """Return the compressor of a file, by its first bytes."""
    head = path.read_bytes()[:8]
    return next((name for name, record in RECORDS.items() if head.startswith(record.prefix)), "none")


# dump

LEVELS = [*range(-1, 11), True, False, None, 2.5, "3"]
NAMES = ["zlib", "gzip", "bz2", "lzma", "xz", "lz4", "nope", "", None]
COMPRESS = [*LEVELS, *NAMES, *((name, level) for name in NAMES[:-2] for level in (0, 1, 9, 10, None, True))]
COMPRESS += [("zlib",), ("zlib", 3, 1), (), ("zlib", "3"), (3, "zlib"), ["zlib", 3], b"zlib", (None, 3)]


@pytest.mark.parametrize(
    "filename", ["x.pkl", "x", ".gz", "x.gz.pkl", *(f"x.y{RECORDS[n].extension}" for n in JOBLIBS)]
)
def test_every_form_of_compress(tmp_path: Path, filename: str) -> None:
    path, value = tmp_path / filename, [1, filled("i4", (5,))]
    for compress in COMPRESS:
        outcomes = []
        for module in (joblib, shoal):
            result = outcome(lambda: module.dump(value, str(path), compress=compress))  # noqa: B023
            if result[0] == "returned":
                assert portrait(shoal.load(path)) == portrait(value)
                result += (written(path),)
                path.unlink()
            else:
                assert not path.exists() or module is joblib
                path.unlink(missing_ok=True)
            outcomes.append(result)
        theirs, ours = outcomes
        assert ours[0] == theirs[0], compress
        if ours[0] == "raised":
            assert ours[1][0] is theirs[1][0], compress
            if theirs[1][0] is ValueError:
                assert ours[1][1].partition(". Possible")[0] == theirs[1][1].partition(". Possible")[0]
        else:
            assert ours == theirs, compress


@pytest.mark.parametrize("compress", [0, False, True, 1, 9, "gzip", ("bz2", 2), ("lz4", 0)])
def test_compress_into_file_objects(compress: Any) -> None:
    files = []
    for module in (joblib, shoal):
        files.append(io.BytesIO())
        assert module.dump(VALUE, files[-1], compress=compress, protocol=4) is None
    assert files[0].getvalue()[:2] == files[1].getvalue()[:2]
    assert not any(file.closed for file in files)


def test_zstd_by_name_and_extension(tmp_path: Path) -> None:
    for path, compress in [("x.zst", 0), ("x.pkl.zst", 7), ("x", "zstd"), ("x.gz", ("zstd", 1)), ("x.zst", True)]:
        assert shoal.dump(VALUE, str(tmp_path / path), compress) == [str(tmp_path / path)]
        assert written(tmp_path / path) == "zstd"
    shoal.dump(VALUE, tmp_path / "x.zst", ("zstd", 0))
    assert written(tmp_path / "x.zst") == "none"


def test_levels_of_numpy(tmp_path: Path) -> None:
    for compress in (np.int64(3), ("bz2", np.uint8(2)), np.float32(1)):
        shoal.dump(VALUE, tmp_path / "x", compress)
        assert written(tmp_path / "x") == ("bz2" if isinstance(compress, tuple) else "zlib")
        assert portrait(shoal.load(tmp_path / "x")) == portrait(VALUE)


class Somewhere:
    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        return self.path


@BOTH
def test_paths(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (
        "x.pkl",
        Path("x.pkl"),
        Somewhere("x.pkl"),
        pathlib.PurePath("x.pkl"),
        os.path.abspath("x.pkl"),
        "é 雪",
    ):
        assert module.dump(VALUE, path) == [os.fspath(path)]
        assert portrait(module.load(path)) == portrait(VALUE)
    assert portrait(module.load(b"x.pkl")) == portrait(VALUE)


@pytest.mark.parametrize(
    "filename", [None, 3, b"x.pkl", [1], {"a": 1}, np.zeros(3), Somewhere(b"x.pkl"), io.StringIO(), VALUE], ids=type
)
def test_arguments_that_are_not_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filename: Any) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = outcome(lambda: joblib.dump("x.pkl", filename))
    ours = outcome(lambda: shoal.dump("x.pkl", filename))
    assert theirs[0] == ours[0] == "raised"
    assert ours[1][0] is theirs[1][0]
    if ours[1][0] is ValueError:
        assert ours[1][1].startswith("Second argument should be a filename or a file-like object, ")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("where", ["", "new/", "missing/x.pkl", "file/x.pkl", ".", "x" * 300, "nul\0"])
def test_paths_that_cannot_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    for name, arguments in (("dump", (VALUE, where)), ("load", (where,))):
        theirs = outcome(lambda: getattr(joblib, name)(*arguments))  # noqa: B023
        ours = outcome(lambda: getattr(shoal, name)(*arguments))  # noqa: B023
        assert theirs[0] == ours[0] == "raised"
        assert ours[1][0] is theirs[1][0]
        if ours[1][0] is not ValueError and "[WinError" not in ours[1][1]:  # other numbers, for the same reasons
            assert ours[1][1].partition(":")[0] == theirs[1][1].partition(":")[0]
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("protocol", [None, -2, -1, 0, 1, 2, 3, 4, 5, 6, 100, "2", True], ids=repr)
def test_protocols(protocol: Any) -> None:
    outcomes = []
    for module in (joblib, shoal):
        file = io.BytesIO()
        result = outcome(lambda: module.dump(VALUE, file, protocol=protocol))  # noqa: B023
        outcomes.append(result if result[0] == "returned" else (result[0], result[1][0]))
        if result[0] == "returned":
            file.seek(0)
            assert portrait(shoal.load(file)) == portrait(VALUE)
            if protocol is not None:
                highest = 5 if protocol < 0 else int(protocol)
                assert file.getvalue()[:2] == (b"\x80%c" % highest if highest >= 2 else file.getvalue()[:2])
    assert outcomes[0] == outcomes[1]


def test_objects_that_cannot_be_pickled(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    for value in (lambda: 1, [1, (item for item in [])], open, np.array([lambda: 1], object)):
        if value is open:
            continue
        theirs, ours = outcome(lambda: joblib.dump(value, path)), outcome(lambda: shoal.dump(value, path))  # noqa: B023
        assert ours[0] == theirs[0] == "raised"
        path.unlink()  # joblib leaves a part
        with pytest.raises((AttributeError, TypeError, shoal.CallPicklingError.__mro__[1])):
            shoal.dump(value, path)
        assert not os.listdir(tmp_path)


# load


@pytest.mark.parametrize("mmap_mode", [None, "r", "r+", "w+", "c"])
@pytest.mark.parametrize("native", ["auto", True, False])
@pytest.mark.parametrize("compress", [0, "zlib", "lz4"])
def test_byte_order(tmp_path: Path, compress: Any, native: Any, mmap_mode: Any) -> None:
    kinds = [
        "f8",
        ">f8",
        "<i2",
        ">i2",
        "S3",
        ">U2",
        ">M8[s]",
        [("a", ">i4"), ("b", ">f8")],
        [("a", "<i4"), ("b", ">f8")],
    ]
    value = [filled(kind, (size,)) for kind in kinds for size in (3, 20_000)]
    value += [filled(">i4", (4, 5)).T, filled(">c16", ()), filled(">f4", (0,))]
    options = {"mmap_mode": mmap_mode, "ensure_native_byte_order": native}
    for module in (joblib, shoal):
        path = tmp_path / module.__name__  # Windows does not replace a file that is mapped
        module.dump(value, path, compress=compress)
        theirs, ours = (outcome(partial(library.load, path, **options)) for library in (joblib, shoal))
        assert ours[0] == theirs[0]
        assert ours[2] == theirs[2]
        if ours[0] == "raised":
            assert ours[1] == theirs[1]
        else:
            # Where files are compressed, nothing is mapped; joblib leaves the byte order even so, and so does shoal.
            assert portrait(ours[1], mapped=True) == portrait(theirs[1], mapped=True)


@pytest.mark.parametrize("compress", [0, *JOBLIBS])
@pytest.mark.parametrize("kind", ["path", "bytes", "file", "raw", "gzip"])
def test_warnings_if_arrays_cannot_be_mapped(tmp_path: Path, kind: str, compress: Any) -> None:
    import gzip

    path = tmp_path / "x.pkl"
    shoal.dump(VALUE, path, compress=compress)
    if kind == "gzip":
        path = tmp_path / "x.pkl.gz"
        path.write_bytes(gzip.compress((tmp_path / "x.pkl").read_bytes()))

    def opened() -> Any:
        if kind == "bytes":
            return io.BytesIO(path.read_bytes())
        if kind == "path":
            return path
        return gzip.open(path) if kind == "gzip" else open(path, "rb", buffering=-(kind == "file"))

    outcomes = []
    for module in (joblib, shoal):
        file = opened()
        state, value, warned = outcome(lambda: module.load(file, mmap_mode="r"))  # noqa: B023
        assert state == "returned"
        outcomes.append(
            (portrait(value, mapped=True), [(kind, text.replace(repr(file), "F")) for kind, text in warned])
        )
        if kind != "path":
            file.close()
    assert [category for category, _ in outcomes[0][1]] == [category for category, _ in outcomes[1][1]]
    assert outcomes[0] == outcomes[1]


def test_warnings_point_to_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    shoal.dump(VALUE, path, compress=3)
    with pytest.warns(UserWarning, match="is not compatible") as caught:
        shoal.load(path, mmap_mode="r")
    file = io.BytesIO()
    shoal.dump(VALUE, file)
    file.seek(0)
    with pytest.warns(UserWarning, match="In memory") as more:
        shoal.load(file, mmap_mode="r")
    assert {warning.filename for warning in [*caught, *more]} == {__file__}


@pytest.mark.parametrize("compress", [0, *COMPRESSORS])
def test_the_compressor_is_recognised_by_the_first_bytes(tmp_path: Path, compress: Any) -> None:
    for extension in (".pkl", *(record.extension for record in RECORDS.values())):
        path = tmp_path / f"x{extension}"
        with open(path, "wb") as file:
            shoal.dump(VALUE, file, compress=compress)
        assert portrait(shoal.load(path)) == portrait(VALUE)
        if compress != "zstd":
            assert portrait(joblib.load(path)) == portrait(VALUE)


@pytest.mark.parametrize("mmap_mode", ["x", "", "rb", 1, True])
def test_modes_that_do_not_exist(tmp_path: Path, mmap_mode: Any) -> None:
    path = tmp_path / "x.pkl"
    shoal.dump(VALUE, path)
    theirs = outcome(lambda: joblib.load(path, mmap_mode=mmap_mode))
    ours = outcome(lambda: shoal.load(path, mmap_mode=mmap_mode))
    assert theirs[0] == ours[0] == "raised"
    assert ours[1][0] is ValueError
    assert "mmap_mode must be one of" in ours[1][1]


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"\x80\x04", b"hello", b".", b"\n", b"ZF", b"\x78", b"\x1f\x8b", b"PK\3\4"]
)
def test_files_that_are_not_dumps(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    assert outcome(lambda: joblib.load(path))[0] == "raised"
    with pytest.raises(shoal.CorruptFile) as caught:
        shoal.load(path)
    assert str(path) in str(caught.value)


@BOTH
def test_pickles_load_too(module: Any, tmp_path: Path) -> None:
    import pickle

    path = tmp_path / "x.pkl"
    for protocol in range(6):
        path.write_bytes(pickle.dumps({"a": [1, "x"], "b": "é" * 100_000}, protocol) + b"whatever follows")
        assert module.load(path) == {"a": [1, "x"], "b": "é" * 100_000}


def test_files_of_python_2(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02U\x03\xe9\xe8\xeaq\x00.")
    for module, text in ((joblib, "python 2"), (shoal, "Python 2")):
        with pytest.raises(ValueError, match=text):
            module.load(path)
