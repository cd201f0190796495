"""Compressors: each by the contract, beside joblib, and what is registered."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import sys
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _capabilities import needs_proc
from conftest import FreshPython
from shoal.persistence import compression
from shoal.persistence.compression import COMPRESSORS, CompressorWrapper, _stream, detect, register_compressor
from shoal.testing import CompressorTests

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
JOBLIBS = ("zlib", "gzip", "bz2", "lzma", "xz", "lz4")

needs_lz4 = pytest.mark.skipif(FREE_THREADED and sys.version_info >= (3, 14), reason="lz4 has no wheels for 3.14t")


class TestZlib(CompressorTests):
    compressor = "zlib"
    levels = (None, *range(10))


class TestGzip(CompressorTests):
    compressor = "gzip"
    levels = (None, *range(10))


class TestBz2(CompressorTests):
    compressor = "bz2"


class TestLzma(CompressorTests):
    compressor = "lzma"
    levels = (None, 0, 1)


class TestXz(CompressorTests):
    compressor = "xz"
    levels = (None, 0, 1)


@needs_lz4
class TestLz4(CompressorTests):
    compressor = "lz4"


class TestZstd(CompressorTests):
    compressor = "zstd"
    levels = (None, *range(10))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, CompressorWrapper]]:
    """The compressors, which are as before afterwards."""
    before = dict(COMPRESSORS)
    yield COMPRESSORS
    COMPRESSORS.clear()
    COMPRESSORS.update(before)


class TestOneOfYourOwn(CompressorTests):
    compressor = "own"

    @pytest.fixture(autouse=True)
    def registered(self, registry: Any) -> None:
        class Own(gzip.GzipFile):
            def __init__(self, fileobj: Any, mode: str, compresslevel: int = 5) -> None:
                if isinstance(fileobj, str):
                    super().__init__(fileobj, mode, compresslevel)
                else:
                    super().__init__(None, mode, compresslevel, fileobj)

        register_compressor("own", CompressorWrapper(Own, b"\x1f\x8b", ".own"))
        del registry["gzip"]


def test_the_table() -> None:
    assert list(COMPRESSORS) == ["zlib", "gzip", "bz2", "lzma", "xz", "lz4", "zstd"]
    assert [wrapper.extension for wrapper in COMPRESSORS.values()] == [
        *(".z", ".gz", ".bz2", ".lzma", ".xz", ".lz4", ".zst")
    ]
    rows = [line for line in (compression.__doc__ or "").splitlines() if line.startswith(tuple(COMPRESSORS))]
    assert [row.split()[0] for row in rows] == list(COMPRESSORS)
    assert all(wrapper.extension in row for wrapper, row in zip(COMPRESSORS.values(), rows, strict=True))


def test_uncompressed_files_have_no_compressor() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for value in ((1, "x"), "BZ", {"x": 2.0}, None, b"x", CompressorWrapper):
            assert detect(pickle.dumps(value, protocol)) is None
    assert detect(b"") is None
    assert detect(b"ZF0x1") is None


def test_isal_is_installed_if_it_has_wheels() -> None:
    if sys.version_info[:2] == (3, 13):
        pytest.skip("isal has no wheels for 3.13t, so that it is optional on 3.13")
    assert _stream.isal is not None


# What is registered


@pytest.mark.parametrize(
    ("name", "compressor", "said"),
    [
        (3, CompressorWrapper(io.BytesIO), "name of a compressor must be a string, not 3"),
        ("new", io.BytesIO, "instance of CompressorWrapper, not"),
        ("new", CompressorWrapper(len), "class of file objects, but .* has no"),
        ("zlib", CompressorWrapper(io.BytesIO), "named 'zlib' is registered already"),
    ],
)
def test_arguments_that_cannot_be_registered(registry: Any, name: Any, compressor: Any, said: str) -> None:
    before = dict(registry)
    with pytest.raises(ValueError, match=said):
        register_compressor(name, compressor)
    assert registry == before


def test_force_replaces_a_registered_name(registry: Any) -> None:
    new = CompressorWrapper(bz2.BZ2File, b"BZ", ".new")
    register_compressor("zlib", new, force=True)
    assert COMPRESSORS["zlib"] is new
    register_compressor("unopened", CompressorWrapper(None))


def test_a_wrapper_without_a_prefix_recognises_nothing(registry: Any) -> None:
    new = CompressorWrapper(io.BytesIO)
    register_compressor("new", new)
    assert (new.prefix, new.extension) == (b"", "")
    assert detect(b"anything") is None


def test_arguments_of_the_factory() -> None:
    calls: list[Any] = []
    wrapper = CompressorWrapper(lambda *args, **kwargs: calls.append((args, kwargs)))
    wrapper.compressor_file("path")
    wrapper.compressor_file("path", 7)
    wrapper.compressor_file("path", compresslevel=7)
    wrapper.decompressor_file("path")
    seven = ("path", "wb"), {"compresslevel": 7}
    assert calls == [(("path", "wb"), {}), seven, seven, (("path", "rb"), {})]


@pytest.mark.parametrize(
    ("name", "modules", "said"),
    [
        ("lz4", ["lz4", "lz4.frame"], "LZ4 is not installed. Install it with pip"),
        ("zstd", ["compression.zstd", "backports.zstd"], r"Zstandard is not installed. .* 'shoal\[zstd\]'"),
        ("bz2", ["bz2"], "module bz2 is not compiled"),
        ("lzma", ["lzma"], "module lzma is not compiled"),
        ("xz", ["lzma"], "module lzma is not compiled"),
    ],
)
def test_libraries_that_are_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, modules: list[str], said: str
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    for use in (COMPRESSORS[name].compressor_file, COMPRESSORS[name].decompressor_file):
        with pytest.raises(ValueError, match=said):
            use(str(tmp_path / "file"))
    assert list(tmp_path.iterdir()) == []


def test_without_isal(fresh_python: FreshPython) -> None:
    printed = fresh_python(
        """
        import sys
        sys.modules["isal"] = sys.modules["zlib_ng"] = None
        import io, zlib
        from shoal.persistence.compression import _stream
        from shoal.persistence.compression import COMPRESSORS
        file = io.BytesIO()
        with COMPRESSORS["zlib"].compressor_file(file) as compressing:
            compressing.write(b"data")
        print(_stream.isal, zlib.decompress(file.getvalue()))
        """
    )
    assert printed == "None b'data'\n"


def test_levels_that_zstd_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="levels from -"):
        COMPRESSORS["zstd"].compressor_file(str(tmp_path / "file"), 1000)
    assert list(tmp_path.iterdir()) == []


@needs_proc  # the threads of a library are counted there
def test_zstd_starts_threads_for_large_data(monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.persistence.compression import _zstd

    monkeypatch.setattr(_zstd, "cpu_budget", lambda: 2)
    tasks = Path("/proc/self/task")

    def count() -> int:
        return len(list(tasks.iterdir()))

    before = count()
    file = COMPRESSORS["zstd"].compressor_file(io.BytesIO())
    file.write(bytes(1000))
    assert count() == before
    file.write(bytes(4 << 20))
    assert count() > before
    file.close()


# Beside joblib


VALUES: dict[str, Any] = {
    "empty": b"",
    "small": {"a": [1, 2.5, "x"], "b": None},
    "blocks": np.random.default_rng(0).integers(0, 9, 300_000).tobytes(),  # more than two of zlib and gzip
}


@needs_lz4
def test_files_of_both(tmp_path: Path, fresh_python: FreshPython) -> None:
    """Each reads what the other wrote, with each compressor, at each level, from a path and from a file object."""
    cases = [["zlib", level, "blocks"] for level in (None, 1, 6)] + [["gzip", 3, "blocks"]]
    cases += [[name, level, value] for name in JOBLIBS for level in (None, 1, 3, 9) for value in ("empty", "small")]
    for name, level, value in cases:
        with COMPRESSORS[name].compressor_file(str(tmp_path / f"ours-{name}-{level}-{value}"), level) as file:
            file.write(pickle.dumps(VALUES[value]))
            if name in ("zlib", "gzip"):
                file.finish(lambda _: bytes(range(256)) * 600)
    (tmp_path / "values").write_bytes(pickle.dumps(VALUES))
    printed = fresh_python(
        f"""
        import io, json, pickle, sys, warnings
        from pathlib import Path
        warnings.simplefilter("ignore")
        sys.unraisablehook = lambda _: None  # lz4 flushes files that joblib has closed; 3.13 tells of it
        import joblib
        folder, read = Path({str(tmp_path)!r}), 0
        values = pickle.loads((folder / "values").read_bytes())
        for name, level, value in json.loads({json.dumps(json.dumps(cases))}):
            path = folder / f"ours-{{name}}-{{level}}-{{value}}"
            read += joblib.load(path) == values[value]
            with open(path, "rb") as file:
                read += joblib.load(file) == values[value]
            read += joblib.load(io.BytesIO(path.read_bytes())) == values[value]
            compress = (name, 3 if level is None else level)
            joblib.dump(values[value], folder / f"theirs-{{name}}-{{level}}-{{value}}", compress=compress)
        print(read)
        """
    )
    assert int(printed) == 3 * len(cases)
    for name, level, value in cases:
        path = tmp_path / f"theirs-{name}-{level}-{value}"
        assert detect(path.read_bytes()[:16]) == name
        with COMPRESSORS[name].decompressor_file(str(path)) as file:
            assert pickle.load(file) == VALUES[value]


def test_other_readers() -> None:
    data = np.arange(400_000).tobytes()
    readers = {
        "zlib": zlib.decompress,
        "gzip": gzip.decompress,
        "bz2": bz2.decompress,
        "lzma": lambda file: lzma.decompress(file, lzma.FORMAT_ALONE),
        "xz": lambda file: lzma.decompress(file, lzma.FORMAT_XZ),
    }
    for name, decompress in readers.items():
        file = io.BytesIO()
        with COMPRESSORS[name].compressor_file(file, 1) as compressing:
            compressing.write(data)
        assert decompress(file.getvalue()) == data
