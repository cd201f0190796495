"""The contracts that extensions of shoal have to keep, as test classes to subclass. Needs pytest."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import re
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from shoal import FallbackWarning, Parallel, RemoteTraceback, UnusedResultsWarning, delayed, shared
from shoal.backends import Backend, WorkerSpec, create, names
from shoal.parallel._delayed import Call
from shoal.persistence.compression import COMPRESSORS, CompressorWrapper, detect

__all__ = ["BackendTests", "CompressorTests"]

#: The seconds after which something that should have happened is taken for lost.
PATIENCE = 60


class BackendTests:
    """What every backend has to do, asked directly and through :class:`~shoal.Parallel`.

    A subclass sets :attr:`backend`, or overrides :meth:`make_backend`; pytest finds it if its name begins with
    "Test". What a backend declares not to support (`supports_timeout`, `supports_return_generator`, `replaces_workers`)
    is not asked of it.

    Attributes
    ----------
    backend : str
        The name under which the backend is registered.

    Examples
    --------
    >>> from shoal.testing import BackendTests
    >>> class TestThreading(BackendTests):
    ...     backend = "threading"
    """

    backend: str

    def make_backend(self) -> Backend:
        """Return a new backend."""
        return create(self.backend)

    @pytest.fixture
    def parallel(self) -> Callable[..., Parallel]:
        """Make a Parallel of two workers on a new backend; takes the other arguments."""

        def make(**arguments: Any) -> Parallel:
            return Parallel(n_jobs=2, backend=self.make_backend(), **arguments)

        return make

    @pytest.fixture
    def gate(self, tmp_path: Path) -> Iterator[Path]:
        """Give the path for which ``wait_for(path)`` waits, in whatever process; it is there after the test."""
        path = tmp_path / "gate"
        yield path
        path.touch()

    # Directly

    def test_workers(self) -> None:
        backend = self.make_backend()
        everywhere = backend.workers(-1)
        assert everywhere >= 1
        assert backend.workers(1) == 1
        assert backend.workers(3) in (3, 1)
        assert backend.workers(-2) == max(everywhere - 1, 1)
        assert backend.workers(-1000 - everywhere) == 1
        assert backend.workers(None) == backend.workers(backend.default_n_jobs)
        with pytest.raises(ValueError, match="n_jobs"):
            backend.workers(0)

    def test_slots_run_what_they_are_given(self) -> None:
        backend = self.make_backend()
        n_workers = backend.workers(2)
        slots = backend.open(WorkerSpec(n_workers))
        try:
            assert sum(slot.width for slot in slots) == n_workers
            for slot in slots:
                assert slot.executor.submit(divmod, 17, 5).result(PATIENCE) == (3, 2)
                assert isinstance(slot.executor.submit(divmod, 17, 0).exception(PATIENCE), ZeroDivisionError)
                assert slot.executor.submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
        finally:
            backend.close(slots)

    def test_an_aborted_slot_has_a_successor(self, gate: Path) -> None:
        backend = self.make_backend()
        n_workers = backend.workers(2)
        slots = backend.open(WorkerSpec(n_workers))
        try:
            if n_workers > 1:  # one that works where it is submitted cannot be stopped
                slots[0].executor.submit(wait_for, gate)
            slots[0] = backend.abort(slots[0])
            assert sum(slot.width for slot in slots) == n_workers
            assert slots[0].executor.submit(divmod, 17, 5).result(PATIENCE) == (3, 2)
        finally:
            gate.touch()
            backend.close(slots)

    def test_a_retired_worker_has_a_successor(self, gate: Path) -> None:
        backend = self.make_backend()
        if not backend.replaces_workers:
            return
        slots = backend.open(WorkerSpec(2))
        try:
            slot = slots[0]
            pid = slot.executor.submit(os.getpid).result(PATIENCE)
            submitted = slot.executor.submit(wait_for, gate)
            assert backend.retire(slot, pid)
            assert not backend.retire(slot, pid)
            later = slot.executor.submit(os.getpid)
            gate.touch()
            assert submitted.result(PATIENCE)
            assert later.result(PATIENCE) != pid
        finally:
            gate.touch()
            backend.close(slots)

    def test_nested_backends_are_registered(self) -> None:
        name = self.make_backend().nested(0)
        for depth in range(1, 5):
            assert name in names()
            name = create(name).nested(depth)

    # Through Parallel: results

    @pytest.mark.parametrize("n_calls", [0, 1, 2, 500])
    @pytest.mark.parametrize("batch_size", ["auto", 1, 7])
    def test_a_list_in_order(self, parallel: Callable[..., Parallel], n_calls: int, batch_size: Any) -> None:
        run = parallel(batch_size=batch_size)
        expected = [number**2 for number in range(n_calls)]
        assert run(delayed(pow)(number, 2) for number in range(n_calls)) == expected
        assert run([delayed(pow)(number, 2) for number in range(n_calls)]) == expected

    @pytest.mark.parametrize("pre_dispatch", ["all", 1, "3 * n_jobs"])
    def test_pre_dispatch(self, parallel: Callable[..., Parallel], pre_dispatch: Any) -> None:
        results = parallel(pre_dispatch=pre_dispatch)(delayed(abs)(-number) for number in range(50))
        assert results == list(range(50))

    @pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
    def test_generators(self, parallel: Callable[..., Parallel], return_as: str) -> None:
        if not self.make_backend().supports_return_generator:
            with pytest.raises(ValueError, match="return_as"):
                parallel(return_as=return_as)
            return
        run = parallel(return_as=return_as)
        for n_calls in (0, 1, 200):
            results = list(run(delayed(abs)(-number) for number in range(n_calls)))
            assert (results if return_as == "generator" else sorted(results)) == list(range(n_calls))

    @pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
    def test_a_dropped_generator(self, parallel: Callable[..., Parallel], return_as: str) -> None:
        if not self.make_backend().supports_return_generator:
            return
        run = parallel(return_as=return_as)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnusedResultsWarning)
            results = run(delayed(abs)(-number) for number in itertools.count())
            first = [next(results) for _ in range(5)]
            results.close()
        assert len(set(first)) == 5
        assert return_as == "generator_unordered" or first == list(range(5))
        assert sorted(run(delayed(abs)(number) for number in range(10))) == list(range(10))

    def test_unordered_results_do_not_wait(self, parallel: Callable[..., Parallel], gate: Path) -> None:
        backend = self.make_backend()
        if not backend.supports_return_generator or backend.workers(2) == 1:
            return
        calls = [delayed(wait_for)(gate), *(delayed(abs)(-number) for number in range(1, 5))]
        results = parallel(return_as="generator_unordered", batch_size=1)(calls)
        assert [next(results) for _ in range(4)] == [1, 2, 3, 4]
        gate.touch()
        assert list(results) == ["opened"]

    # Functions and arguments

    def test_keywords(self, parallel: Callable[..., Parallel]) -> None:
        calls = [delayed(sorted)([3, 1, 2], reverse=True), delayed(sorted)([3, 1, 2]), delayed(int)("11", base=2)]
        assert parallel()(calls) == [[3, 2, 1], [1, 2, 3], 3]

    def test_lambdas_and_closures(self, parallel: Callable[..., Parallel]) -> None:
        factor = 3

        def scaled(number: int) -> int:
            return factor * number

        calls: list[Call] = []
        for number in range(20):
            calls += [delayed(scaled)(number), delayed(lambda shift, number=number: shift + number)(100)]
        assert parallel()(calls) == [value for n in range(20) for value in (3 * n, 100 + n)]

    @pytest.mark.parametrize("n_items", [1000, 400_000])
    def test_arrays(self, parallel: Callable[..., Parallel], n_items: int) -> None:
        array = numpy.arange(n_items, dtype=numpy.float64)
        nested = {"arrays": [array, array[::2]]}
        first, sums, back = parallel()([delayed(identity)(array), delayed(sums_of)(nested), delayed(identity)(nested)])
        assert sums == [array.sum(), array[::2].sum()]
        assert numpy.array_equal(back["arrays"][1], array[::2])
        if self.make_backend().in_process:
            assert first is array
            assert back is nested
        else:
            assert first is not array
            assert numpy.array_equal(first, array)
            first += 1  # results are the caller's own, to write to

    @pytest.mark.parametrize("n_items", [1000, 400_000])
    def test_what_calls_write_into_copies_stays_there(self, parallel: Callable[..., Parallel], n_items: int) -> None:
        if self.make_backend().in_process:
            return
        array = numpy.ones(n_items)
        assert parallel()([delayed(overwrite)(array)]) == [n_items]
        assert (array == 1).all()

    def test_shared(self, parallel: Callable[..., Parallel]) -> None:
        table = {number: str(number) for number in range(1000)}
        common = shared(table)
        run = parallel()
        assert run(delayed(dict.get)(common, number) for number in range(100)) == [str(n) for n in range(100)]
        assert run([delayed(sums_of)(value=shared({"arrays": [numpy.ones(9)]}))]) == [[9]]
        if self.make_backend().in_process:
            assert run([delayed(identity)(common)])[0] is table

    # Errors

    @pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
    def test_an_exception(self, parallel: Callable[..., Parallel], return_as: str) -> None:
        backend = self.make_backend()
        if return_as != "list" and not backend.supports_return_generator:
            return
        run = parallel(return_as=return_as)
        with pytest.raises(Refused, match="number 7") as caught:
            list(run(delayed(refuse)(number, 7) for number in range(20)))
        assert (caught.value.number, caught.value.reason) == (7, "number 7")
        if backend.in_process:
            assert "refuse" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        else:
            assert isinstance(caught.value.__cause__, RemoteTraceback)
            assert "in refuse\n" in str(caught.value.__cause__)
            assert "call 7, " in str(caught.value.__cause__)
        assert sorted(run(delayed(refuse)(number, -1) for number in range(20))) == list(range(20))

    def test_an_exception_of_the_input(self, parallel: Callable[..., Parallel]) -> None:
        def calls() -> Iterator[Call]:
            for number in range(5):
                yield delayed(abs)(number)
            raise Refused(5, "no more input")

        run = parallel()
        with pytest.raises(Refused, match="no more input"):
            run(calls())
        assert run([delayed(abs)(-1)]) == [1]

    def test_timeout(self, parallel: Callable[..., Parallel], gate: Path) -> None:
        backend = self.make_backend()
        run = parallel(timeout=0.1)
        if backend.supports_timeout and backend.workers(2) > 1:
            with pytest.raises(TimeoutError) as caught:
                run([delayed(wait_for)(gate), delayed(wait_for)(gate)])
            assert isinstance(caught.value, multiprocessing.TimeoutError)
        else:
            with pytest.warns(FallbackWarning, match="timeout"):
                assert run([delayed(time.sleep)(0.2)]) == [None]
            return
        gate.touch()
        assert parallel(timeout=PATIENCE)([delayed(abs)(-1), delayed(abs)(-2)]) == [1, 2]

    # Runs beside, below and after each other

    def test_with_parallel(self, parallel: Callable[..., Parallel]) -> None:
        with parallel() as run:
            assert run(delayed(abs)(-number) for number in range(10)) == list(range(10))
            with pytest.raises(Refused):
                run(delayed(refuse)(number, 3) for number in range(10))
            for _ in range(2):
                assert run(delayed(abs)(-number) for number in range(10)) == list(range(10))
        assert run([delayed(abs)(-1)]) == [1]

    def test_nested_runs(self, parallel: Callable[..., Parallel]) -> None:
        assert parallel()(delayed(nest)(2, number) for number in range(3)) == [[[n, -n], [n, -n]] for n in range(3)]

    def test_threads_at_once(self) -> None:
        results: dict[int, list[int]] = {}

        def use(number: int) -> None:
            for _ in range(3):
                run = Parallel(n_jobs=2, backend=self.make_backend())
                results[number] = run(delayed(pow)(x, number) for x in range(20))

        threads = [threading.Thread(target=use, args=(number,)) for number in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert results == {number: [x**number for x in range(20)] for number in (1, 2)}

    # What is told of a run

    @pytest.mark.parametrize("n_calls", [1, 50])
    def test_progress(self, parallel: Callable[..., Parallel], n_calls: int) -> None:
        told: list[tuple[int, int | None]] = []
        parallel(progress=lambda done, total: told.append((done, total)))(delayed(abs)(n) for n in range(n_calls))
        done = [count for count, _ in told]
        assert done == sorted(done)
        assert told[-1] == (n_calls, n_calls)

    def test_verbose(self, parallel: Callable[..., Parallel], capsys: pytest.CaptureFixture[str]) -> None:
        parallel(verbose=50, batch_size=1)([delayed(abs)(number) for number in range(5)])
        printed = capsys.readouterr().out
        assert re.search(r"Done +5 out of +5 .* finished\n$", printed)


class CompressorTests:
    """What every compressor has to do for `dump` and `load`.

    A subclass sets :attr:`compressor`; pytest finds it if its name begins with "Test".

    Attributes
    ----------
    compressor : str
        The name under which the compressor is registered.
    levels : tuple of (int or None)
        The levels that it has; None is its default.

    Examples
    --------
    >>> from shoal.testing import CompressorTests
    >>> class TestGzip(CompressorTests):
    ...     compressor = "gzip"
    """

    compressor: str
    levels: tuple[int | None, ...] = (None, 1, 3, 9)

    @property
    def wrapper(self) -> CompressorWrapper:
        """The compressor that is tested."""
        return COMPRESSORS[self.compressor]

    def compressed(self, data: Any, level: int | None = None) -> bytes:
        """Return `data`, compressed."""
        file = io.BytesIO()
        with self.wrapper.compressor_file(file, level) as compressing:
            assert compressing.write(data) == memoryview(data).nbytes
        assert not file.closed
        return file.getvalue()

    @pytest.fixture(params=[0, 1, 1000, 300_001])
    def data(self, request: pytest.FixtureRequest) -> bytes:
        """Bytes that can be compressed, of several sizes."""
        size: int = request.param
        return numpy.random.default_rng(0).integers(0, 9, size, dtype=numpy.uint8).tobytes()

    def test_what_is_compressed_comes_back(self, data: bytes) -> None:
        for level in self.levels:
            with self.wrapper.decompressor_file(io.BytesIO(self.compressed(data, level))) as file:
                assert file.read() == data
                assert file.read(1) == b""

    def test_files_are_recognised(self, data: bytes) -> None:
        for level in self.levels:
            compressed = self.compressed(data, level)
            assert compressed.startswith(self.wrapper.prefix)
            assert detect(compressed[:16]) == self.compressor
        assert re.fullmatch(r"(\.\w+)?", self.wrapper.extension)

    def test_reads_of_any_size(self, data: bytes) -> None:
        with self.wrapper.decompressor_file(io.BytesIO(self.compressed(data))) as file:
            position = 0
            for size in (1, 0, 7, 100, 70_000, 200_000):
                assert file.read(size) == data[position : position + size]
                position = min(position + size, len(data))
            buffer = bytearray(len(data) + 1)
            assert file.readinto(buffer) == len(data) - position
            assert buffer[: len(data) - position] == data[position:]

    def test_writes_of_any_buffer(self) -> None:
        array: Any = numpy.arange(1000.0)
        for buffer in (array, memoryview(array), bytearray(b"abc"), array[:0]):
            with self.wrapper.decompressor_file(io.BytesIO(self.compressed(buffer))) as file:
                assert file.read() == bytes(buffer)

    def test_many_writes(self) -> None:
        file = io.BytesIO()
        with self.wrapper.compressor_file(file) as compressing:
            for number in range(1000):
                compressing.write(b"%d," % number)
        file.seek(0)
        assert self.wrapper.decompressor_file(file).read() == b"".join(b"%d," % number for number in range(1000))

    def test_paths(self, tmp_path: Path, data: bytes) -> None:
        path = str(tmp_path / "file")
        file = self.wrapper.compressor_file(path)
        file.write(data)
        for _ in range(2):
            file.close()
        with self.wrapper.decompressor_file(path) as file:
            assert file.read() == data

    def test_pipes(self, data: bytes) -> None:
        class Pipe(io.RawIOBase):
            left = self.compressed(data)

            def readable(self) -> bool:
                return True

            def readinto(self, buffer: Any) -> int:
                taken = self.left[: min(len(buffer), 5000)]
                buffer[: len(taken)] = taken
                self.left = self.left[len(taken) :]
                return len(taken)

        with self.wrapper.decompressor_file(io.BufferedReader(Pipe())) as file:
            assert file.read() == data

    def test_what_is_cut_short_is_no_whole(self, data: bytes) -> None:
        compressed = self.compressed(data)
        for left_out in {1, 2, 3, 4, 5, 6, 7, 8, len(compressed) // 2} & set(range(1, len(compressed) - 3)):
            with (
                self.wrapper.decompressor_file(io.BytesIO(compressed[:-left_out])) as file,
                pytest.raises(EOFError),
            ):
                file.read()


class Refused(Exception):
    """An exception whose constructor is unlike that of its base."""

    number: int
    reason: str

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number, self.reason = number, reason


def refuse(number: int, bad: int) -> int:
    """Return `number`, unless it is the bad one."""
    if number == bad:
        raise Refused(number, f"number {number}")
    return number


def identity(value: Any) -> Any:
    """Return `value`."""
    return value


def sums_of(value: dict[str, Any]) -> list[float]:
    """Return the sums of the arrays in a dict of lists."""
    return [array.sum() for array in value["arrays"]]


def overwrite(array: Any) -> float:
    """Write into an argument; return its former sum."""
    before = float(array.sum())
    array[:] = 0
    return before


def nest(levels: int, number: int) -> Any:
    """Run calls below this call."""
    if not levels:
        return number
    inner: Callable[..., Any] = nest
    if levels == 1:
        return Parallel(n_jobs=2)([delayed(inner)(0, number), delayed(inner)(0, -number)])
    return Parallel(n_jobs=2)(delayed(inner)(levels - 1, number) for _ in range(2))


def wait_for(path: Path) -> str:
    """Wait until there is a file at `path`."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} was never made")
        time.sleep(0.01)
    return "opened"
