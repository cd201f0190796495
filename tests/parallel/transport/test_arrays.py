"""Arrays to worker processes and back: whatever holds them, of every kind, through memory, a folder or the pipe."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from _capabilities import PROC, needs_fork, needs_limits, needs_memfd, needs_proc, needs_replacing
from _faults_util import Child
from shoal import Parallel, delayed, parallel_config
from shoal.errors import NoSpaceError
from shoal.parallel.transport import _segments

BIG = 20_000  # floats: above every limit that is set here
LIMIT = 50_000  # bytes


def run(calls: Any, **options: Any) -> list[Any]:
    return Parallel(n_jobs=2, **{"max_nbytes": LIMIT, "batch_size": 1, **options})(calls)


def same(value: Any) -> Any:
    return value


def facts(array: Any) -> tuple[Any, ...]:
    return type(array).__name__, array.dtype, array.shape, array.flags.writeable, isinstance(array, np.memmap)


def described(value: Any) -> tuple[Any, dict[str, Any]]:
    """Return the value, and what it is in the worker."""
    return value, {
        "memmap": isinstance(value, np.memmap),
        "writeable": value.flags.writeable,
        "mode": getattr(value, "mode", None),
        "file": getattr(value, "filename", None) and str(value.filename),
        "strides": value.strides,
        "dtype": value.dtype,
    }


# ---- containers


@dataclasses.dataclass
class Holder:
    array: Any
    name: str = "holder"


class Slotted:
    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array


def table(n: int) -> Any:
    import pandas

    return pandas.DataFrame({"x": np.arange(n, dtype=float), "y": np.arange(n), "z": ["text"] * n})


def sparse(n: int) -> Any:
    import scipy.sparse as scipy

    return scipy.random_array((n, n // 2), density=0.05, rng=np.random.default_rng(0), format="csr")


def estimator(n: int) -> Any:
    import sklearn.linear_model as linear

    x = np.random.default_rng(0).normal(size=(n // 100 + 5, 3))
    model = linear.LinearRegression().fit(x, x @ [1.0, 2.0, 3.0])
    model.extra_ = np.arange(n, dtype=float)
    return model


def unpack(container: Any) -> list[Any]:
    """Return the arrays in a container."""
    if isinstance(container, np.ndarray):
        return [container]
    if isinstance(container, dict):
        return [array for value in container.values() for array in unpack(value)]
    if isinstance(container, (list, tuple)):
        return [array for value in container for array in unpack(value)]
    if isinstance(container, (Holder, Slotted)):
        return unpack(container.array)
    if isinstance(container, (int, str)):
        return []
    if hasattr(container, "indptr"):
        return [container.data, container.indices, container.indptr]
    if hasattr(container, "iloc"):
        return [np.asarray(container[column]) for column in container.columns]
    return [container.extra_, container.coef_]


def change(container: Any) -> tuple[Any, list[Any]]:
    """Write into the arrays of a container, as a call may; return it, and what it was."""
    before = [array.copy() for array in unpack(container)]
    if not hasattr(container, "iloc"):
        for array in unpack(container):
            if array.dtype != object:
                array[...] = 7
    return container, before


CONTAINERS: dict[str, Any] = {
    "bare": lambda n: np.arange(n, dtype=float),
    "list": lambda n: [1, np.arange(n, dtype=float), "x"],
    "dict": lambda n: {"a": {"b": (np.arange(n), np.ones(n))}},
    "dataclass": lambda n: Holder(np.arange(n, dtype=float)),
    "slots": lambda n: Slotted(np.arange(n, dtype=float)),
    "data frame": table,
    "sparse matrix": lambda n: sparse(max(20, int(n**0.5) * 3)),
    "estimator": estimator,
    "array twice": lambda n: [np.arange(n, dtype=float)] * 2,
}


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize("n", [10, 3_000, BIG])
@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers(kind: str, n: int, backend: str) -> None:
    """Calls see what was sent, may write into it, and give it back; the caller's is untouched."""
    container = CONTAINERS[kind](n)
    original = [array.copy() for array in unpack(container)]
    for back, before in run([delayed(change)(container) for _ in range(2)], backend=backend):
        assert type(back) is type(container)
        for seen, expected in zip(before, original, strict=True):
            np.testing.assert_array_equal(seen, expected)
        for array in unpack(back):
            if array.dtype != object and kind != "data frame":
                assert (array == 7).all()
        for array in unpack(back):
            if kind != "data frame":
                array[...] = 8  # results are writable
    for array, expected in zip(unpack(container), original, strict=True):
        np.testing.assert_array_equal(array, expected)


def one_object(pair: Any) -> bool:
    return pair[0] is pair[1]


@pytest.mark.parametrize("n", [10, BIG])
def test_an_array_twice_in_a_call_is_one_object(n: int) -> None:
    array = np.arange(n, dtype=float)
    assert run([delayed(one_object)([array, array])]) == [True]


# ---- kinds of arrays


class Own(np.ndarray):
    """A subclass that carries more than its bytes."""

    unit: str

    def __reduce__(self) -> Any:
        rebuild, args, state = super().__reduce__()  # type: ignore[misc]
        return rebuild, args, (*state, self.unit)

    def __setstate__(self, state: Any) -> None:
        self.unit = state[-1]
        super().__setstate__(state[:-1])


def own(n: int) -> Any:
    array = np.arange(n, dtype=float).view(Own)
    array.unit = "m"
    return array


def read_only(n: int) -> Any:
    array = np.arange(n, dtype=float)
    array.flags.writeable = False
    return array


KINDS: dict[str, Any] = {
    "C": lambda n: np.arange(n * 2, dtype="f4").reshape(2, -1),
    "Fortran": lambda n: np.asfortranarray(np.arange(n * 2, dtype="f8").reshape(2, -1)),
    "transposed 3d": lambda n: np.arange(n * 8, dtype="i4").reshape(2, 4, -1).transpose(1, 2, 0),
    "strided": lambda n: np.arange(n * 3, dtype=float)[::3],
    "columns": lambda n: np.arange(n * 4, dtype=float).reshape(-1, 4)[:, 1:3],
    "negative strides": lambda n: np.arange(n, dtype=float)[::-1],
    "both negative": lambda n: np.arange(n * 2, dtype=float).reshape(2, -1)[::-1, ::-2],
    "broadcast": lambda n: np.broadcast_to(np.arange(10.0), (n // 10, 10)),
    "structured": lambda n: np.rec.array(np.zeros(n, dtype=[("a", "i4"), ("b", ">f8"), ("c", "S3")])).view(np.ndarray),
    "record array": lambda n: np.rec.array(np.ones(n, dtype=[("a", "i4"), ("b", "f8")])),
    "big-endian": lambda n: np.arange(n, dtype=">i8"),
    "complex": lambda n: np.arange(n) * (1 + 2j),
    "bool": lambda n: np.arange(n * 8) % 3 == 0,
    "float16": lambda n: np.arange(n * 4, dtype="f2"),
    "text": lambda n: np.array(["grün", "x"] * (n // 2)),
    "bytes": lambda n: np.array([b"ab", b"c"] * n, dtype="S5"),
    "void": lambda n: np.zeros(n, dtype="V16"),
    "datetime": lambda n: np.datetime64("2020-01-01") + np.arange(n),
    "timedelta": lambda n: np.arange(n).astype("m8[ms]"),
    "object": lambda n: np.array([{"i": i} for i in range(n)], dtype=object),
    "structured with objects": lambda n: np.array([(i, [i]) for i in range(n)], dtype=[("a", int), ("b", object)]),
    "matrix": lambda n: np.arange(n, dtype=float).reshape(2, -1).view(np.matrix),
    "masked": lambda n: np.ma.masked_greater(np.arange(n, dtype=float), 5),
    "own class": own,
    "read-only": read_only,
    "zero-dimensional": lambda n: np.array(float(n)),
    "empty": lambda n: np.empty((0, n)),
    "empty in the middle": lambda n: np.empty((n, 0, 3), dtype="i2"),
    "scalar": lambda n: np.float64(n),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("mmap_mode", ["c", "r", "r+", None])
@pytest.mark.parametrize("n", [20, BIG])
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_arrays(kind: str, n: int, mmap_mode: str | None) -> None:
    array = KINDS[kind](n)
    before = array.copy()
    back, here = run([delayed(same)(array), delayed(same)([array])], mmap_mode=mmap_mode)
    for result in (back, here[0]):
        assert type(result) is type(array)
        assert result.dtype == array.dtype
        assert result.shape == array.shape
        np.testing.assert_array_equal(np.asarray(result), np.asarray(array))
        if kind == "masked":
            np.testing.assert_array_equal(result.mask, array.mask)
        if kind == "own class":
            assert result.unit == "m"
        if kind not in ("scalar", "read-only", "broadcast"):
            assert result.flags.writeable or mmap_mode == "r"
        if kind not in ("scalar", "void", "broadcast") and result.size and result.flags.writeable:
            result.flat[0] = result.flat[-1]  # is memory of its own
    np.testing.assert_array_equal(np.asarray(array), np.asarray(before))


@pytest.mark.parametrize(
    ("mmap_mode", "mode", "writeable"), [("c", "c", True), ("r", "r", False), ("r+", "r+", True), ("w+", "r+", True)]
)
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_modes(mmap_mode: str, mode: str, writeable: bool, backend: str) -> None:
    array = np.arange(BIG, dtype=float)
    (_, seen), (_, small) = run(
        [delayed(described)(array), delayed(described)(array[:5].copy())], mmap_mode=mmap_mode, backend=backend
    )
    assert (seen["memmap"], seen["mode"], seen["writeable"]) == (True, mode, writeable)
    assert not small["memmap"]


@pytest.mark.parametrize(
    "options", [{"mmap_mode": None}, {"max_nbytes": None}, {"max_nbytes": "1G"}, {"max_nbytes": BIG * 8}]
)
def test_arrays_that_are_not_mapped(options: dict[str, Any]) -> None:
    array = np.arange(BIG, dtype=float)
    ((back, seen),) = run([delayed(described)(array)], **options)
    assert not seen["memmap"]
    assert seen["writeable"]
    np.testing.assert_array_equal(back, array)


def add_one(array: Any) -> float:
    array += 1
    return float(array[0])


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize("n", [10, 5_000, BIG, 10 * BIG])
@pytest.mark.parametrize("options", [{}, {"max_nbytes": None}, {"mmap_mode": None}, {"max_nbytes": 0}])
def test_writing_into_an_argument_never_reaches_the_caller(n: int, options: dict[str, Any], backend: str) -> None:
    array = np.zeros(n)
    assert run([delayed(add_one)(array) for _ in range(6)], backend=backend, **options) == [1.0] * 6
    assert not array.any()


def test_strides_are_kept_where_they_are_those_of_a_whole_array() -> None:
    for order in "CF":
        array = np.ones((100, 300), order=order)
        ((back, seen),) = run([delayed(described)(array)])
        assert seen["memmap"]
        assert seen["strides"] == array.strides == back.strides


# ---- written once


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each segment that is written."""
    sizes: list[int] = []
    original = _segments.SegmentAllocator.store

    def store(self: Any, views: Any) -> Any:
        sizes.append(sum(view.nbytes for view in views))
        return original(self, views)

    monkeypatch.setattr(_segments.SegmentAllocator, "store", store)
    return sizes


def total(*arrays: Any) -> float:
    return float(sum(np.sum(array) for array in arrays))


@pytest.mark.parametrize("batch_size", [1, 7, "auto"])
def test_an_array_in_many_calls_is_written_once(stored: list[int], batch_size: Any) -> None:
    first, second = np.ones(BIG), np.ones(2 * BIG)
    calls = [delayed(total)(first, [second, {"x": first}]) for _ in range(40)]
    assert run([delayed(total)(first, second) for _ in calls], batch_size=batch_size) == [3.0 * BIG] * 40
    assert sorted(stored) == [first.nbytes, second.nbytes]


def test_an_array_that_takes_the_place_of_another_is_written_anew(stored: list[int]) -> None:
    """The next array may be at the address of one that is gone."""
    calls = (delayed(total)(np.full(BIG, float(i))) for i in range(30))
    assert run(calls) == [float(i) * BIG for i in range(30)]
    assert stored == [BIG * 8] * 30


def test_views_of_one_array_are_told_apart() -> None:
    array = np.arange(4 * BIG, dtype=float)
    parts = [array[:BIG], array[BIG:], array[::2], array[::-1]]
    assert run([delayed(total)(part) for part in parts]) == [float(part.sum()) for part in parts]


# ---- memmaps of the caller


@pytest.fixture
def mapped_file(tmp_path: Path) -> Any:
    array = np.memmap(tmp_path / "data.bin", dtype="f8", mode="w+", shape=(100, 400))
    array[:] = np.arange(40_000).reshape(100, 400)
    array.flush()
    return array


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize(
    "view",
    [
        lambda a: a,
        lambda a: a[10:20],
        lambda a: a[:, 5],
        lambda a: a[::-3, ::2],
        lambda a: a.T,
        lambda a: np.asarray(a)[3:, 1:],
        lambda a: a.view("i8"),
        lambda a: a.reshape(-1)[7:],
        lambda a: a[5, 5:6],
    ],
    ids=["whole", "rows", "column", "backwards", "transposed", "as array", "other dtype", "flat", "one element"],
)
def test_memmaps_go_by_reference(mapped_file: Any, stored: list[int], view: Any, backend: str) -> None:
    array = view(mapped_file)
    ((back, seen),) = run([delayed(described)(array)], backend=backend)
    assert stored == []
    assert (seen["memmap"], seen["mode"], seen["file"]) == (True, "r+", str(mapped_file.filename))
    np.testing.assert_array_equal(back, array)
    if array.size > 1:
        assert seen["strides"] == array.strides


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_modes_of_memmaps(tmp_path: Path, mode: Any) -> None:
    np.arange(1000.0).tofile(tmp_path / "data.bin")
    array = np.memmap(tmp_path / "data.bin", "f8", mode, offset=80)
    if mode == "c":
        array[0] = -1  # is in no file
    ((back, seen),) = run([delayed(described)(array)])
    np.testing.assert_array_equal(back, array)
    assert seen["writeable"] == (mode != "r")
    if mode != "c":
        assert (seen["memmap"], seen["mode"]) == (True, mode)


def write_row(array: Any, row: int) -> None:
    array[row] = row


def test_writing_into_a_memmap_of_the_caller_reaches_it(mapped_file: Any) -> None:
    """As in joblib: it is how calls fill an array of the caller's."""
    run([delayed(write_row)(mapped_file, row) for row in range(100)])
    np.testing.assert_array_equal(mapped_file, np.repeat(np.arange(100.0), 400).reshape(100, 400))


@needs_replacing
def test_memmap_whose_file_is_gone(tmp_path: Path) -> None:
    array = np.memmap(tmp_path / "data.bin", "f8", "w+", shape=(BIG,))
    array[:] = 3
    os.unlink(tmp_path / "data.bin")
    assert run([delayed(total)(array)]) == [3.0 * BIG]


def test_npy_file_that_is_mapped(tmp_path: Path, stored: list[int]) -> None:
    np.save(tmp_path / "data.npy", np.arange(BIG, dtype=">f8").reshape(4, -1, order="F"))
    array = np.load(tmp_path / "data.npy", mmap_mode="r")
    ((back, seen),) = run([delayed(described)(array)])
    assert stored == []
    assert seen["file"] == str(tmp_path / "data.npy")
    np.testing.assert_array_equal(back, array)


# ---- results


def fill(value: float, n: int) -> Any:
    return np.full(n, value)


def many(n: int, each: int) -> Any:
    return {"parts": [np.full(each, float(i)) for i in range(n)], "rest": "x"}


@pytest.mark.parametrize("n", [10, 5_000, 20 * BIG])
@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
def test_results_are_writable_and_share_nothing(n: int, batch_size: Any) -> None:
    results = run([delayed(fill)(float(i), n) for i in range(40)], batch_size=batch_size)
    for index, result in enumerate(results):
        assert type(result) is np.ndarray
        assert result.flags.writeable
        assert (result == index).all()
        result[:] = -index
    for index, result in enumerate(results):
        assert (result == -index).all()
    if n < BIG:
        results[0] = np.sort(results[0])
    kept = results[17]
    del results, result
    assert (kept == -17).all()


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_many_arrays_in_a_result(return_as: str) -> None:
    results = list(run([delayed(many)(100, 40_000) for _ in range(4)], return_as=return_as))
    for result in results:
        for index, part in enumerate(result["parts"]):
            assert (part == index).all()
            part[:] = 1000
    assert [float(result["parts"][50][0]) for result in results] == [1000.0] * 4


def give_back_a_view(array: Any) -> Any:
    return array[5:-5:2]


def test_results_that_are_views_of_arguments() -> None:
    """They outlive the run, whose segments are gone by then."""
    array = np.arange(20 * BIG, dtype=float)
    results = run([delayed(give_back_a_view)(array) for _ in range(4)])
    for result in results:
        assert type(result) is np.ndarray
        np.testing.assert_array_equal(result, array[5:-5:2])
        result[:] = 0
    assert array[5] == 5


@needs_fork
def test_results_survive_a_fork(tmp_path: Path) -> None:
    source = """
        import os, sys
        import numpy
        from shoal import Parallel, delayed

        def fill(i):
            return numpy.full(100_000, float(i))

        results = Parallel(n_jobs=2)(delayed(fill)(i) for i in range(6))
        pid = os.fork()
        if not pid:
            assert all((result == i).all() for i, result in enumerate(results))
            results[0][:] = 9
            del results
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert all((result == i).all() for i, result in enumerate(results))
        print("ok")
    """
    with Child(source, tmp_path, "-W", "ignore::DeprecationWarning") as child:
        assert child.wait() == (0, "ok\n", "")


def test_results_can_be_sent_on() -> None:
    results = run([delayed(fill)(float(i), 10 * BIG) for i in range(4)])
    assert run([delayed(total)(result) for result in results]) == [float(i) * 10 * BIG for i in range(4)]


# ---- folders, and no room


def look(folder: str, array: Any) -> tuple[bool, list[str], float]:
    found = [str(path) for path in Path(folder).rglob("*") if path.is_file()]
    return str(getattr(array, "filename", "")).startswith(folder), found, float(array.sum())


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize("how", ["argument", "context", "environment"])
def test_folder_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, backend: str) -> None:
    folder = tmp_path / "made" / "when needed"
    array = np.ones(BIG)
    if how == "environment":
        monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(folder))
    options = {"temp_folder": str(folder)} if how == "argument" else {}
    with parallel_config(**({"temp_folder": str(folder)} if how == "context" else {})):
        results = run([delayed(look)(str(folder), array) for _ in range(4)], backend=backend, **options)
    for there, found, value in results:
        assert there
        assert found
        assert value == BIG
    assert list(folder.iterdir()) == []


def test_folder_goes_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        run([delayed(divmod)(1, 0), delayed(total)(np.ones(BIG))], temp_folder=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def no_memory(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "memfd_create", refuse)


@needs_memfd
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.ENOSYS, errno.EPERM])
def test_a_folder_serves_where_there_is_no_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    no_memory(monkeypatch, number)
    array = np.arange(20 * BIG, dtype=float)
    for there, found, value in run([delayed(look)(str(tmp_path), array) for _ in range(4)]):
        assert there
        assert found
        assert value == array.sum()
    for result in run([delayed(fill)(2.0, 20 * BIG) for _ in range(8)]):
        assert (result == 2).all()
    assert list(tmp_path.iterdir()) == []


def full_after(monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
    """Let every write of this process into a segment fail with "no space" beyond so many bytes."""
    original = _segments.write

    def write(fd: int, view: memoryview, offset: int) -> None:
        if view.nbytes > nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(fd, view, offset)

    monkeypatch.setattr(_segments, "write", write)


@pytest.mark.parametrize("options", [{}, {"temp_folder": "here"}])
def test_no_room_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]) -> None:
    if options:
        options = {"temp_folder": str(tmp_path)}
    before = len(os.listdir("/proc/self/fd")) if PROC else 0
    with monkeypatch.context() as patch:
        full_after(patch, 1000)
        with pytest.raises(NoSpaceError, match=rf"no room for {BIG * 8} bytes.*temp_folder= or JOBLIB_TEMP_FOLDER"):
            run([delayed(total)(np.ones(BIG)) for _ in range(4)], **options)
        with pytest.raises(NoSpaceError):
            run([delayed(total)(np.ones(BIG)) for _ in range(4)], mmap_mode=None, **options)
    assert issubclass(NoSpaceError, OSError)
    assert run([delayed(total)(np.ones(BIG))], **options) == [float(BIG)]
    assert list(tmp_path.iterdir()) == []
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 40  # workers, if these were the first; no segments


@needs_proc
@needs_memfd
def test_memory_that_is_full_while_it_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the first place refuses: the folder serves."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    original, refused = _segments.write, []

    def write(fd: int, view: memoryview, offset: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:"):
            refused.append(view.nbytes)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(fd, view, offset)

    monkeypatch.setattr(_segments, "write", write)
    results = run([delayed(look)(str(tmp_path), np.ones(BIG)) for _ in range(3)])
    assert refused
    assert all(there and value == BIG for there, _, value in results)
    assert list(tmp_path.iterdir()) == []


def make_full() -> None:
    """Let shared memory refuse what this worker writes."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@needs_limits
def test_results_come_back_where_the_worker_finds_no_room() -> None:
    results = run([delayed(fill)(float(i), 5 * BIG) for i in range(6)], initializer=make_full)
    assert [float(result[-1]) for result in results] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
