"""dump and load: what was stored comes back as it was, from shoal to shoal, from shoal to joblib, and the other way."""

from __future__ import annotations

import errno
import functools
import io
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from _capabilities import READ_ONLY, needs_replacing
from _persistence_zoo import COMPRESSORS, JOBLIBS, LAYOUTS, arrays, filled, objects, portrait, zoo
from shoal import DamagedFile, dump, load
from shoal.persistence import _checksums
from shoal.persistence.reading._reader import Reader

# joblib leaves its LZ4 files open, which say so when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

PROTOCOLS = [0, 1, 2, 3, 4, 5]
MODES = ["r", "r+", "w+", "c"]
NAMES = list(zoo())

stored = functools.partial(portrait, stored=True)

# The folder is the same for all examples of one test.
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def unused(folder: Path) -> str:
    """Return the path of a file that is not there yet: Windows does not replace a file that is mapped."""
    return os.path.join(tempfile.mkdtemp(dir=folder), "x.pkl")


def through(write: Any, read: Any, value: Any, **options: Any) -> Any:
    file = io.BytesIO()
    write(value, file, **options)
    file.seek(0)
    return read(file)


# Any object, in memory


@given(objects(), st.sampled_from([2, 3, 4, 5]), st.sampled_from([0, *COMPRESSORS]))
def test_files_of_shoal_load_in_shoal_and_joblib(value: Any, protocol: int, compress: Any) -> None:
    options = {"compress": compress, "protocol": protocol}
    as_stored = functools.partial(load, ensure_native_byte_order=False)
    assert portrait(through(dump, as_stored, value, **options)) == stored(value)
    if compress != "zstd":
        native = portrait(through(dump, load, value, **options))
        assert native == portrait(through(dump, joblib.load, value, **options))


@given(objects(), st.sampled_from(PROTOCOLS), st.sampled_from([0, *JOBLIBS]))
def test_files_of_joblib_load_in_shoal(value: Any, protocol: int, compress: Any) -> None:
    options = {"compress": compress, "protocol": protocol}
    for native in (True, False):
        ours = through(joblib.dump, functools.partial(load, ensure_native_byte_order=native), value, **options)
        theirs = through(joblib.dump, functools.partial(joblib.load, ensure_native_byte_order=native), value, **options)
        assert portrait(ours) == portrait(theirs)


@given(
    objects(st.integers() | st.text(max_size=3) | arrays().filter(lambda array: array.ndim)), st.sampled_from([0, 1])
)
def test_early_protocols(value: Any, protocol: int) -> None:
    value = pickle.loads(pickle.dumps(value, protocol))  # with which not everything keeps its layout
    again = through(dump, functools.partial(load, ensure_native_byte_order=False), value, protocol=protocol)
    assert portrait(again) == stored(value)
    assert portrait(through(dump, joblib.load, value, protocol=protocol)) == stored(again)


# Arrays, in files, mapped too


@in_one_folder
@given(st.lists(arrays(), min_size=1, max_size=4), st.sampled_from([2, 4, 5]), st.sampled_from(MODES))
def test_mapped_arrays(tmp_path: Path, value: list[Any], protocol: int, mode: str) -> None:
    path = unused(tmp_path)
    dump(value, path, protocol=protocol)
    assert portrait(load(path, mmap_mode=mode), mapped=True) == portrait(value, mapped=True, stored=True)
    theirs = joblib.load(path, mmap_mode=mode)
    assert portrait(theirs, mapped=True) == portrait(value, mapped=True, stored=True)
    path = unused(tmp_path)
    joblib.dump(value, path, protocol=protocol)
    ours = load(path, mmap_mode=mode)
    assert portrait(ours, mapped=True) == portrait(joblib.load(path, mmap_mode=mode), mapped=True)


@pytest.mark.parametrize("shape", [(5,), (90, 70)])
@pytest.mark.parametrize("writer", [dump, joblib.dump])
@pytest.mark.parametrize("mode", MODES)
def test_arrays_are_mapped_and_not_read(tmp_path: Path, writer: Any, mode: str, shape: tuple[int, ...]) -> None:
    path = tmp_path / "x.pkl"
    array = filled("f8", shape)
    writer({"one": array, "other": np.asfortranarray(array)}, path)
    before = path.read_bytes()
    value, theirs = load(path, mmap_mode=mode), joblib.load(path, mmap_mode=mode)
    for name, mapped in value.items():
        assert type(mapped) is type(theirs[name]) is np.memmap
        for attribute in ("offset", "mode", "dtype", "strides"):
            assert getattr(mapped, attribute) == getattr(theirs[name], attribute)
        assert str(mapped.filename) == str(theirs[name].filename)
        assert mapped.flags.writeable == theirs[name].flags.writeable == (mode != "r")
        assert mapped.flags.aligned
        assert writer is joblib.dump or mapped.ctypes.data % 64 == 0
        if mode != "r":
            mapped[0] = 1
            mapped.flush()
    del theirs
    if mode in ("r+", "w+"):
        changed = path.read_bytes()
        assert changed != before
        assert len(changed) == len(before)
        for options in ({}, {"verify": True}, {"trusted": "numpy"}) if writer is dump else ({},):
            assert (load(path, **options)["one"][0] == 1).all()
        assert (joblib.load(path)["one"][0] == 1).all()
        assert path.read_bytes() == changed
    else:
        assert path.read_bytes() == before


@pytest.mark.parametrize("trusted", [None, "numpy"])
def test_what_can_change_in_the_file_has_no_checksum(tmp_path: Path, trusted: str | None) -> None:
    """All arrays of the file are mapped as a whole. The pickle still has its checksum."""
    path = tmp_path / "x.pkl"
    dump({"one": filled("f8", (9000,)), "text": "unchanged"}, path)
    data = path.read_bytes()
    load(path, mmap_mode="r+", trusted=trusted)["one"][5] = 0
    damaged = bytearray(path.read_bytes())
    damaged[data.index(b"unchanged")] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DamagedFile):
        load(path)


def test_damage_is_found_before_the_checksums_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    dump(filled("f8", (9000,)), path)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedFile):
        load(path, mmap_mode="r+", verify=True)
    assert path.read_bytes() == data


@needs_replacing
@pytest.mark.parametrize("mode", MODES)
def test_arrays_are_mapped_from_the_file_that_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Another file may take the place of it in between."""
    path = tmp_path / "x.pkl"
    dump([np.zeros(9000), "old"], path)
    replaced = False

    find_class = Reader.find_class

    def late(self: Any, module: str, name: str) -> Any:
        nonlocal replaced
        if not replaced:
            replaced = True
            dump([np.ones(9000), "new", "x" * 90_000], path)
        return find_class(self, module, name)

    monkeypatch.setattr(Reader, "find_class", late)
    array, text = load(path, mmap_mode=mode)
    assert text == "old"
    assert (array == 0).all()


def test_a_read_only_file_is_mapped_read_only(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    dump([1, "x"], path)
    path.chmod(0o444)
    assert load(path, mmap_mode="r+") == [1, "x"]
    if READ_ONLY:
        dump(np.zeros(9000), tmp_path / "y.pkl")
        (tmp_path / "y.pkl").chmod(0o444)
        with pytest.raises(PermissionError):
            load(tmp_path / "y.pkl", mmap_mode="r+")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("compress", COMPRESSORS)
def test_compressed_files_are_not_mapped(tmp_path: Path, compress: str, mode: str) -> None:
    path = tmp_path / "x.pkl"
    value = [filled(">i4", (9000,)), filled("f8", (3,))]
    dump(value, path, compress=compress)
    with pytest.warns(UserWarning, match="is not compatible with compressed file"):
        assert portrait(load(path, mmap_mode=mode)) == stored(value)


# Everything else


@pytest.mark.parametrize("compress", [0, *COMPRESSORS])
@pytest.mark.parametrize("name", NAMES)
def test_zoo(tmp_path: Path, name: str, compress: Any) -> None:
    path = tmp_path / "x.pkl"
    value = zoo()[name]
    dump(value, path, compress=compress)
    for verify in (None, False, True):
        assert portrait(load(path, ensure_native_byte_order=False, verify=verify)) == stored(value)
    if compress in (0, *JOBLIBS):
        assert portrait(joblib.load(path)) == portrait(load(path))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_zoo_of_joblib(tmp_path: Path, name: str, protocol: int) -> None:
    path = tmp_path / "x.pkl"
    value = zoo()[name]
    compress = [0, *JOBLIBS][(NAMES.index(name) + protocol) % 7]
    joblib.dump(value, path, compress=compress, protocol=protocol)
    assert portrait(load(path)) == joblibs(path, name, value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_zoo_mapped(tmp_path: Path, name: str, mode: str) -> None:
    path = unused(tmp_path)
    value = zoo()[name]
    expected = portrait(value, mapped=True, stored=True)
    dump(value, path)
    assert portrait(load(path, mmap_mode=mode), mapped=True) == expected
    assert portrait(load(path, mmap_mode=mode, verify=True), mapped=True) == expected
    assert portrait(joblib.load(path, mmap_mode=mode), mapped=True) == expected
    path = unused(tmp_path)
    joblib.dump(value, path)
    ours = load(path, mmap_mode=mode)
    assert portrait(ours, mapped=True) == joblibs(path, name, value, mmap_mode=mode)


def joblibs(path: str | Path, name: str, value: Any, **options: Any) -> Any:
    """Return the portrait of what joblib loads."""
    if name == "matrix":  # which it loads as plain arrays under NumPy 2
        return portrait(value, mapped=True, stored=True)
    return portrait(joblib.load(path, **options), mapped=bool(options))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5, -1])
@pytest.mark.parametrize("name", NAMES)
def test_zoo_in_every_protocol(name: str, protocol: int) -> None:
    value = zoo()[name]
    file = io.BytesIO()
    dump(value, file, protocol=protocol)
    file.seek(0)
    if protocol >= 3:  # what is written by earlier ones is not always an object of the same class
        assert portrait(load(file, ensure_native_byte_order=False)) == stored(value)
    file.seek(0)
    ours = load(file)
    file.seek(0)
    assert portrait(ours) == portrait(joblib.load(file))


@pytest.mark.parametrize("kind", ["?", "i1", ">i4", "f2", ">f8", "c16", "g", "M8[ns]", "S3", "U2", "V5", "i4,>f8", "O"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_kind_of_array(tmp_path: Path, layout: str, kind: str) -> None:
    """Below and above each size from which arrays are stored in another way."""
    path = tmp_path / "x.pkl"
    itemsize = np.dtype(kind).itemsize
    counts = [1, 2, 3, 2**15 // itemsize - 1, 2**15 // itemsize + 1, 2**18 // itemsize + 3]
    value = [LAYOUTS[layout](filled(kind, (2, count))) for count in counts]
    several = [part for part in value[:3] for _ in range(40)]
    dump([value, several], path)
    assert portrait(load(path, ensure_native_byte_order=False)) == stored([value, several])
    assert portrait(joblib.load(path)) == portrait(load(path))
    joblib.dump(value, path)
    assert portrait(load(path)) == portrait(joblib.load(path))


@pytest.mark.parametrize("of", ["an array", "a read-only array", "a map of a file"])
@pytest.mark.parametrize("dtype", ["f8", "M8[s]", np.dtype("u1,f8", align=True), "V5", "g"], ids=str)
@pytest.mark.parametrize("protocol", [4, 5])
def test_small_arrays_are_rebuilt_as_large_ones(tmp_path: Path, of: str, dtype: Any, protocol: int) -> None:
    """They are not spliced into a compressed file; one that is rebuilt belongs to its reader all the same."""
    junk = [np.full(96, 255, np.uint8) for _ in range(100)]  # what new memory may have held before
    del junk
    kinds = []
    for shape in [(3, 2), (300, 200)]:
        array = np.zeros(shape, dtype)
        if of == "a read-only array":
            array.flags.writeable = False
        elif of == "a map of a file":
            array.tofile(tmp_path / "x")
            array = np.memmap(tmp_path / "x", array.dtype, "r", shape=shape)
        value = through(dump, load, array, compress="zlib", protocol=protocol)
        assert value.tobytes() == array.tobytes()
        kinds.append((type(value), value.dtype, value.dtype.isalignedstruct, value.flags.writeable))
    assert kinds[0] == kinds[1]
    assert kinds[0][0] is np.ndarray
    assert kinds[0][-1]


def test_arrays_larger_than_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    whole = filled("i4", (1100, 2100))
    value = [whole, whole[:, 1:], whole[::2].T, whole.T, filled(">i4", (2_200_000,))]
    for compress in (0, "zlib", "lz4"):
        dump(value, path, compress=compress)
        assert portrait(load(path, ensure_native_byte_order=False)) == stored(value)
    dump(value, path)
    assert portrait(joblib.load(path)) == portrait(load(path))


def test_numpy_is_not_imported_if_there_is_no_array(fresh_python: Any, tmp_path: Path) -> None:
    fresh_python(f"""
        import sys
        from shoal import dump, load
        dump({{"a": [1, "x"]}}, {str(tmp_path / "x")!r})
        assert load({str(tmp_path / "x")!r}) == {{"a": [1, "x"]}}
        assert not {{"numpy", "joblib"}} & set(sys.modules)
    """)


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("threads", [True, False])
def test_checksums_are_computed_while_an_array_is_written_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: int, threads: bool
) -> None:
    monkeypatch.setattr(_checksums, "cpu_budget", lambda: cpus)
    monkeypatch.setattr(_checksums, "LARGE", 2**17)
    if not threads:

        def refuse(*_: Any) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(_checksums, "start_new_thread", refuse)
    value = [np.arange(50_000.0), np.arange(60_000).reshape(200, 300).T, np.arange(99_999)[::2]]
    dump(value, tmp_path / "file")
    again = load(tmp_path / "file", verify=True)
    assert all((one == other).all() for one, other in zip(value, again, strict=True))

    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if len(data) > 2**17:
                raise OSError(errno.ENOSPC, "no space left")
            return super().write(data)

    with pytest.raises(OSError, match="no space left"):
        dump(value, Full())
