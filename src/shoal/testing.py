"""The contracts of backends, compressors and stores, as test classes to subclass.

Needs pytest. Tests of arrays import numpy by themselves: subinterpreters that run calls import this module, and cannot
import numpy.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import logging
import multiprocessing
import os
import pickle
import random
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from shoal import (
    CacheWarning,
    FallbackWarning,
    Parallel,
    RemoteTraceback,
    UnusedResultsWarning,
    delayed,
    load,
    report,
    send,
    shared,
)
from shoal.backends import Backend, WorkerSpec, create, names
from shoal.memory import formats
from shoal.memory.store import Key, Limits, Meta, Store
from shoal.parallel._delayed import Call
from shoal.persistence.compression import COMPRESSORS, CompressorWrapper, detect

__all__ = ["BackendTests", "CompressorTests", "StoreTests"]

#: The time after which a test gives up waiting, in seconds.
PATIENCE = 60


class BackendTests:
    """The contract of a backend, tested directly and through :class:`~shoal.Parallel`.

    Subclass it, and set :attr:`backend` or override :meth:`make_backend`. pytest finds the subclass if its name begins
    with "Test". Features that the backend declares not to support (`supports_timeout`, `supports_return_generator`,
    `replaces_workers`) are not tested.

    Attributes
    ----------
    backend : str
        The name under which the backend is registered.
    takes_arrays : bool
        Whether its workers can import numpy. If they cannot, the tests of arrays are left out.

    Examples
    --------
    >>> from shoal.testing import BackendTests
    >>> class TestThreading(BackendTests):
    ...     backend = "threading"
    """

    backend: str
    takes_arrays: bool = True

    def make_backend(self) -> Backend:
        """Return a new backend."""
        return create(self.backend)

    @pytest.fixture
    def parallel(self) -> Callable[..., Parallel[Any, Any]]:
        """Give a function that returns a Parallel with two workers on a new backend; it accepts the other arguments."""

        def make(**arguments: Any) -> Parallel:
            return Parallel(n_jobs=2, backend=self.make_backend(), **arguments)

        return make

    @pytest.fixture
    def gate(self, tmp_path: Path) -> Iterator[Path]:
        """Give a path for ``wait_for(path)``, which waits until a file is there. The end of the test creates it."""
        path = tmp_path / "gate"
        yield path
        path.touch()

    def numpy(self) -> Any:
        """Return numpy, or skip the test where the workers cannot import it."""
        if not self.takes_arrays:
            pytest.skip("its workers cannot import numpy")
        return pytest.importorskip("numpy")

    # Tested directly

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

    def test_slots_run_submitted_calls(self) -> None:
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

    def test_abort_returns_a_working_slot(self, gate: Path) -> None:
        backend = self.make_backend()
        n_workers = backend.workers(2)
        slots = backend.open(WorkerSpec(n_workers))
        try:
            if n_workers > 1:  # a slot that runs calls inside submit() cannot be stopped
                slots[0].executor.submit(wait_for, gate)
            slots[0] = backend.abort(slots[0])
            assert sum(slot.width for slot in slots) == n_workers
            assert slots[0].executor.submit(divmod, 17, 5).result(PATIENCE) == (3, 2)
        finally:
            gate.touch()
            backend.close(slots)

    def test_retire_replaces_the_worker(self, gate: Path) -> None:
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

    # Tested through Parallel: results

    @pytest.mark.parametrize("n_calls", [0, 1, 2, 500])
    @pytest.mark.parametrize("batch_size", ["auto", 1, 7])
    def test_a_list_in_order(self, parallel: Callable[..., Parallel[Any, Any]], n_calls: int, batch_size: Any) -> None:
        if n_calls > 2:  # fewer calls if each batch has a long way to its worker
            n_calls = int(n_calls / self.make_backend().distance)
        run = parallel(batch_size=batch_size)
        expected = [number**2 for number in range(n_calls)]
        assert run(delayed(pow)(number, 2) for number in range(n_calls)) == expected
        assert run([delayed(pow)(number, 2) for number in range(n_calls)]) == expected

    @pytest.mark.parametrize("pre_dispatch", ["all", 1, "3 * n_jobs"])
    def test_pre_dispatch(self, parallel: Callable[..., Parallel[Any, Any]], pre_dispatch: Any) -> None:
        results = parallel(pre_dispatch=pre_dispatch)(delayed(abs)(-number) for number in range(50))
        assert results == list(range(50))

    @pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
    def test_generators(self, parallel: Callable[..., Parallel[Any, Any]], return_as: str) -> None:
        if not self.make_backend().supports_return_generator:
            with pytest.raises(ValueError, match="return_as"):
                parallel(return_as=return_as)
            return
        run = parallel(return_as=return_as)
        for n_calls in (0, 1, 200):
            results = list(run(delayed(abs)(-number) for number in range(n_calls)))
            assert (results if return_as == "generator" else sorted(results)) == list(range(n_calls))

    @pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
    def test_a_dropped_generator(self, parallel: Callable[..., Parallel[Any, Any]], return_as: str) -> None:
        if not self.make_backend().supports_return_generator:
            return
        run = parallel(return_as=return_as)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnusedResultsWarning)
            results: Any = run(delayed(abs)(-number) for number in itertools.count())
            first = [next(results) for _ in range(5)]
            results.close()
        assert len(set(first)) == 5
        assert return_as == "generator_unordered" or first == list(range(5))
        assert sorted(run(delayed(abs)(number) for number in range(10))) == list(range(10))

    def test_unordered_results_do_not_wait_for_a_slow_call(
        self, parallel: Callable[..., Parallel[Any, Any]], gate: Path
    ) -> None:
        backend = self.make_backend()
        if not backend.supports_return_generator or backend.workers(2) == 1:
            return
        calls = [delayed(wait_for)(gate), *(delayed(abs)(-number) for number in range(1, 5))]
        results: Any = parallel(return_as="generator_unordered", batch_size=1)(calls)
        assert sorted(next(results) for _ in range(4)) == [1, 2, 3, 4]
        gate.touch()
        assert list(results) == ["opened"]

    # Functions and arguments

    def test_keywords(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        calls = [delayed(sorted)([3, 1, 2], reverse=True), delayed(sorted)([3, 1, 2]), delayed(int)("11", base=2)]
        assert parallel()(calls) == [[3, 2, 1], [1, 2, 3], 3]

    def test_lambdas_and_closures(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        factor = 3

        def scaled(number: int) -> int:
            return factor * number

        calls: list[Call] = []
        for number in range(20):
            calls += [delayed(scaled)(number), delayed(lambda shift, number=number: shift + number)(100)]
        assert parallel()(calls) == [value for n in range(20) for value in (3 * n, 100 + n)]

    @pytest.mark.parametrize("n_items", [1000, 400_000])
    def test_arrays(self, parallel: Callable[..., Parallel[Any, Any]], n_items: int) -> None:
        numpy = self.numpy()
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
            first += 1  # the caller owns the results and may write to them

    @pytest.mark.parametrize("n_items", [1000, 400_000])
    def test_writing_to_an_argument_does_not_change_the_array_of_the_caller(
        self, parallel: Callable[..., Parallel[Any, Any]], n_items: int
    ) -> None:
        if self.make_backend().in_process:
            return
        array = self.numpy().ones(n_items)
        assert parallel()([delayed(overwrite)(array)]) == [n_items]
        assert (array == 1).all()

    def test_shared(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        table: dict[int, str | None] = {number: str(number) for number in range(1000)}
        common = shared(table)
        run = parallel()
        assert run(delayed(dict.get)(common, number) for number in range(100)) == [str(n) for n in range(100)]
        if self.make_backend().in_process:
            assert run([delayed(identity)(common)])[0] is table

    def test_shared_arrays(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        arrays = shared({"arrays": [self.numpy().ones(9)]})
        assert parallel()([delayed(sums_of)(value=arrays)]) == [[9]]

    # Errors

    @pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
    def test_an_exception(self, parallel: Callable[..., Parallel[Any, Any]], return_as: str) -> None:
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

    def test_an_exception_of_the_input(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        def calls() -> Iterator[Call]:
            for number in range(5):
                yield delayed(abs)(number)
            raise Refused(5, "no more input")

        run = parallel()
        with pytest.raises(Refused, match="no more input"):
            run(calls())
        assert run([delayed(abs)(-1)]) == [1]

    def test_timeout(self, parallel: Callable[..., Parallel[Any, Any]], gate: Path) -> None:
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

    # What calls say

    def test_log_records(self, parallel: Callable[..., Parallel[Any, Any]], caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "shoal.testing.calls")
        parallel(batch_size=2)(delayed(say)(number) for number in range(6))
        records = [record for record in caplog.records if record.name == "shoal.testing.calls"]
        assert sorted(record.getMessage() for record in records) == [f"call {number}" for number in range(6)]
        assert {record.funcName for record in records} == {"say"}
        assert sorted(record.shoal_call for record in records) == list(range(6))  # type: ignore[attr-defined]

    def test_warnings(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        with warnings.catch_warnings(record=True) as issued:
            warnings.simplefilter("always")
            parallel(batch_size=2)(delayed(warn_of)(number) for number in range(6))
        messages = sorted(str(each.message) for each in issued if each.category is ImportWarning)
        assert messages == [f"call {number}" for number in range(6)]
        assert {each.filename for each in issued if each.category is ImportWarning} == {__file__}

    def test_warnings_that_are_errors(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ImportWarning)
            with pytest.raises(ImportWarning, match="call 3"):
                parallel()([delayed(warn_of)(3)])

    def test_output(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            parallel(batch_size=2)(delayed(say)(number) for number in range(6))
        assert sorted(out.getvalue().splitlines()) == [f"output of call {number}" for number in range(6)]
        errors = [line for line in err.getvalue().splitlines() if line.startswith("errors of")]
        assert sorted(errors) == [f"errors of call {number}" for number in range(6)]

    # What calls send, and the context variables that they see

    def test_messages(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        received: list[tuple[int, Any]] = []
        run = parallel(on_message=lambda index, message: received.append((index, message)))
        assert run(delayed(send_each)(number, 5) for number in range(6)) == [[True] * 5] * 6
        for number in range(6):
            assert [message for index, message in received if index == number] == [(number, i) for i in range(5)]
        assert len(received) == 30

    def test_messages_that_nobody_takes(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        assert parallel()(delayed(send_each)(number, 2) for number in range(4)) == [[False, False]] * 4

    def test_more_messages_than_may_wait(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        received: list[Any] = []
        run = parallel(on_message=lambda index, message: received.append((index, len(message[1]))))
        run(delayed(send_each)(number, 300, "x" * 2000) for number in range(2))
        assert sorted(received) == [(number, 2000) for number in range(2) for _ in range(300)]

    def test_messages_of_each_attempt(self, parallel: Callable[..., Parallel[Any, Any]], tmp_path: Path) -> None:
        received: list[Any] = []
        run = parallel(on_message=lambda *it: received.append(it), retries=1, retry_wait=0)
        assert run([delayed(send_and_fail_once)(tmp_path / "first"), delayed(abs)(-1)]) == [None, 1]
        assert received == [(0, "attempt"), (0, "attempt")]

    def test_an_exception_of_on_message_ends_the_run(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        def on_message(index: int, message: Any) -> None:
            raise Refused(index, "on_message")

        with pytest.raises(Refused):
            parallel(on_message=on_message, on_error="return", retries=2)([delayed(send_each)(0, 3), delayed(abs)(-1)])
        assert parallel()([delayed(abs)(-1), delayed(abs)(-2)]) == [1, 2]

    def test_messages_of_nested_calls_reach_the_outer_run(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        received: list[Any] = []
        run = parallel(on_message=lambda *it: received.append(it))
        run(delayed(send_from_nested)(number) for number in range(2))
        assert sorted(received) == [(number, (inner, 0)) for number in range(2) for inner in range(2)]

    @pytest.mark.parametrize("every", [False, True])
    def test_context_variables(self, parallel: Callable[..., Parallel[Any, Any]], every: bool) -> None:
        token = VARIABLE.set({"request": 7})
        try:
            run = parallel(context=True if every else [VARIABLE])
            assert run(delayed(value_of_variable)() for _ in range(6)) == [{"request": 7}] * 6
        finally:
            VARIABLE.reset(token)
        assert run(delayed(value_of_variable)() for _ in range(4)) == [None] * 4

    # Several runs: one after the other, nested, and at the same time

    def test_several_runs_in_a_with_block(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        with parallel() as run:
            assert run(delayed(abs)(-number) for number in range(10)) == list(range(10))
            with pytest.raises(Refused):
                run(delayed(refuse)(number, 3) for number in range(10))
            for _ in range(2):
                assert run(delayed(abs)(-number) for number in range(10)) == list(range(10))
        assert run([delayed(abs)(-1)]) == [1]

    def test_nested_runs(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        assert parallel()(delayed(nest)(2, number) for number in range(3)) == [[[n, -n], [n, -n]] for n in range(3)]

    def test_runs_in_several_threads(self) -> None:
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

    # Reports

    def test_a_report(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        with report() as found:
            parallel(batch_size=2)(delayed(identity)(number) for number in range(10))
            with pytest.raises(Refused):
                parallel(batch_size=1)([delayed(refuse)(1, 1)])
        one, failed = found.to_dict()["runs"]
        assert (one["outcome"], one["calls"]["total"], one["calls"]["done"]) == ("done", 10, 10)
        assert one["function"] == f"{__name__}.identity"
        assert sum(worker["calls"] for worker in one["workers"]) == sum(one["slices"]["calls"]) == 10
        assert sum(one["histogram"]["counts"]) == 10
        assert sorted(one["slices"]["first"])[0] == 0
        assert {call["call"] for call in one["slowest"]} <= set(range(10))
        assert {call["arguments"] for call in one["slowest"]} <= set(map(str, range(10)))
        assert one["start"] <= min(one["slices"]["start"]) <= max(one["slices"]["end"]) <= one["end"]
        assert (failed["outcome"], failed["counts"]["failures"]) == ("failed", 1)
        assert str(failed["error"]).startswith("Refused")

    def test_a_report_of_nested_runs(self, parallel: Callable[..., Parallel[Any, Any]]) -> None:
        with report() as found:
            parallel(batch_size=1)(delayed(nest)(1, number) for number in range(3))
        outer, *inner = found.to_dict()["runs"]
        assert outer["parent"] is None
        assert [run["parent"] for run in inner] == [outer["id"]] * 3
        assert [run["calls"]["done"] for run in inner] == [2, 2, 2]

    # Progress and verbosity

    @pytest.mark.parametrize("n_calls", [1, 50])
    def test_progress(self, parallel: Callable[..., Parallel[Any, Any]], n_calls: int) -> None:
        reports: list[tuple[int, int | None]] = []
        parallel(progress=lambda done, total: reports.append((done, total)))(delayed(abs)(n) for n in range(n_calls))
        done = [count for count, _ in reports]
        assert done == sorted(done)
        assert reports[-1] == (n_calls, n_calls)

    def test_verbose(self, parallel: Callable[..., Parallel[Any, Any]], capsys: pytest.CaptureFixture[str]) -> None:
        parallel(verbose=50, batch_size=1)([delayed(abs)(number) for number in range(5)])
        printed = capsys.readouterr().out
        assert re.search(r"Done +5 out of +5 .* finished\n$", printed)


class CompressorTests:
    """The contract of a compressor for `dump` and `load`.

    Subclass it and set :attr:`compressor`. pytest finds the subclass if its name begins with "Test".

    Attributes
    ----------
    compressor : str
        The name under which the compressor is registered.
    levels : tuple of (int or None)
        The levels that are tested; None is the default level of the compressor.

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
        """The registered compressor."""
        return COMPRESSORS[self.compressor]

    def compressed(self, data: Any, level: int | None = None) -> bytes:
        """Return `data` after compression."""
        file = io.BytesIO()
        with self.wrapper.compressor_file(file, level) as compressing:
            assert compressing.write(data) == memoryview(data).nbytes
        assert not file.closed
        return file.getvalue()

    @pytest.fixture(params=[0, 1, 1000, 300_001])
    def data(self, request: pytest.FixtureRequest) -> bytes:
        """Give bytes that can be compressed, in several sizes."""
        size: int = request.param
        numpy = pytest.importorskip("numpy")
        array: Any = numpy.random.default_rng(0).integers(0, 9, size, dtype=numpy.uint8)
        return bytes(array)

    def test_compressed_data_is_read_unchanged(self, data: bytes) -> None:
        for level in self.levels:
            with self.wrapper.decompressor_file(io.BytesIO(self.compressed(data, level))) as file:
                assert file.read() == data
                assert file.read(1) == b""

    def test_the_compressor_is_recognised_by_its_first_bytes(self, data: bytes) -> None:
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
        array: Any = pytest.importorskip("numpy").arange(1000.0)
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
                chunk = self.left[: min(len(buffer), 5000)]
                buffer[: len(chunk)] = chunk
                self.left = self.left[len(chunk) :]
                return len(chunk)

        with self.wrapper.decompressor_file(io.BufferedReader(Pipe())) as file:
            assert file.read() == data

    def test_reading_a_truncated_file_raises_an_eof_error(self, data: bytes) -> None:
        compressed = self.compressed(data)
        for left_out in {1, 2, 3, 4, 5, 6, 7, 8, len(compressed) // 2} & set(range(1, len(compressed) - 3)):
            with (
                self.wrapper.decompressor_file(io.BytesIO(compressed[:-left_out])) as file,
                pytest.raises(EOFError),
            ):
                file.read()


class StoreTests:
    """The contract of a store.

    Subclass it and override :meth:`make_store`. pytest finds the subclass if its name begins with "Test".

    Examples
    --------
    >>> from shoal.memory.store import create
    >>> from shoal.testing import StoreTests
    >>> class TestLocal(StoreTests):
    ...     def make_store(self, location, limits=None):
    ...         return create("local", location, limits=limits)
    """

    def make_store(self, location: Path, limits: Limits | None = None) -> Store:
        """Return a new store at a location. At the first call for a location, the location is empty."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        """Give an empty store."""
        return self.make_store(tmp_path / "cache")

    @staticmethod
    def key(number: int = 0, function: str = "module/function") -> Key:
        """Return a key."""
        return Key(function, f"{number:032x}")

    @staticmethod
    def meta(**arguments: str) -> Meta:
        """Return metadata with these arguments."""
        return Meta(0.25, time.time(), arguments)

    # Values

    @pytest.mark.parametrize(
        "value",
        [None, 42, "text", [1, {"two": (3, 4.0)}, {5}], b"x" * 100_000],
        ids=["None", "int", "str", "nested", "bytes"],
    )
    def test_a_saved_value_is_loaded(self, store: Store, value: Any) -> None:
        key = self.key()
        with pytest.raises(KeyError):
            store.load(key)
        assert not store.contains(key)
        store.save(key, value, self.meta())
        assert store.contains(key)
        assert store.load(key) == value
        assert type(store.load(key)) is type(value)

    def test_saved_arrays_are_loaded(self, store: Store) -> None:
        numpy = pytest.importorskip("numpy")
        objects = numpy.array(["a", None], dtype=object)
        for number, value in enumerate([objects.reshape(1, 2), [numpy.arange(100_000), numpy.float32(1.5), objects]]):
            store.save(self.key(number), value, self.meta())
            loaded = store.load(self.key(number))
            numpy.testing.assert_equal(loaded, value)
            assert type(loaded) is type(value)

    def test_the_file_of_a_value_is_opened(self, store: Store) -> None:
        key = self.key()
        try:
            with pytest.raises(KeyError):
                store.open_value(key)
        except NotImplementedError:
            pytest.skip("this store does not give access to its files")
        store.save(key, [1, "two"], self.meta())
        with store.open_value(key) as file:
            assert load(file) == [1, "two"]

    def test_the_file_of_a_value_is_saved(self, store: Store) -> None:
        store.save(self.key(0), [1, "two"], self.meta())
        try:
            with store.open_value(self.key(0)) as file:
                store.save_file(self.key(1), file, self.meta(x="3"))
        except NotImplementedError:
            pytest.skip("this store does not take files")
        assert store.load(self.key(1)) == [1, "two"]
        assert store.meta(self.key(1)).arguments == {"x": "3"}

    def test_a_value_in_another_format(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        if not store.formats:
            pytest.skip("this store keeps pickles only")
        monkeypatch.setattr(formats, "_formats", {})
        raw = formats.Format("bin", lambda data, file: file.write(data), lambda file: file.read())
        formats.register_format("raw", raw)
        key, meta = self.key(0), self.meta()._replace(format="raw")
        for value, format in ((b"one", "raw"), (b"two", "raw"), (b"three", "pickle"), (b"four", "raw")):
            store.save(key, value, meta._replace(format=format))
            assert store.contains(key)
            assert store.load(key) == value
        assert store.meta(key) == meta
        assert [entry.key for entry in store.entries()] == [key]
        with store.open_value(key) as file:
            assert re.search(r"output-[0-9a-f]{16}\.bin$", str(file.name))
            assert file.read() == b"four"
            file.seek(0)
            store.save_file(self.key(1), file, meta)
        assert store.load(self.key(1)) == b"four"
        with pytest.raises(TypeError):
            store.save(self.key(2), "text", meta)
        assert not store.contains(self.key(2))

    @pytest.mark.parametrize("mmap_mode", ["r", "r+", "w+", "c"])
    def test_mmap_mode_does_not_change_the_value(self, store: Store, mmap_mode: str) -> None:
        numpy = pytest.importorskip("numpy")
        array = numpy.arange(1000.0)
        store.save(self.key(), {"array": array}, self.meta())
        assert numpy.array_equal(store.load(self.key(), mmap_mode)["array"], array)

    def test_a_value_is_replaced(self, store: Store) -> None:
        for number in range(3):
            store.save(self.key(), [number], self.meta(number=str(number)))
            assert store.load(self.key()) == [number]
            assert store.meta(self.key()).arguments == {"number": str(number)}
        assert len(list(store.entries())) == 1

    def test_values_of_different_keys_are_separate(self, store: Store) -> None:
        keys = [self.key(number, function) for number in range(3) for function in ("m/f", "m/f/g", "m/ff", "n")]
        for number, key in enumerate(keys):
            store.save(key, number, self.meta())
        assert [store.load(key) for key in keys] == list(range(len(keys)))
        assert {entry.key for entry in store.entries()} == set(keys)

    def test_meta(self, store: Store) -> None:
        with pytest.raises(KeyError):
            store.meta(self.key())
        meta = self.meta(x="'größer'", y="[1, 2]")
        store.save(self.key(), 1, meta)
        assert store.meta(self.key()) == meta

    def test_a_value_that_cannot_be_pickled_is_not_stored(self, store: Store) -> None:
        store.save(self.key(1), "before", self.meta())
        for key in (self.key(0), self.key(1)):
            with pytest.raises((pickle.PicklingError, TypeError, AttributeError)):
                store.save(key, [b"x" * 200_000, threading.Lock()], self.meta())
        assert not store.contains(self.key(0))
        with pytest.raises(KeyError):
            store.load(self.key(0))
        assert store.load(self.key(1)) == "before"
        assert [entry.key for entry in store.entries()] == [self.key(1)]

    def test_stores_at_the_same_location_share_values(self, store: Store, tmp_path: Path) -> None:
        store.save(self.key(), 42, self.meta())
        for other in (pickle.loads(pickle.dumps(store)), self.make_store(tmp_path / "cache")):
            assert other.load(self.key()) == 42
            other.save(self.key(1), 43, self.meta())
            assert store.load(self.key(1)) == 43
            other.clear()
            store.save(self.key(), 42, self.meta())

    # Entries and their removal

    def test_entries(self, store: Store) -> None:
        assert list(store.entries()) == []
        begin = time.time()
        store.save(self.key(0), b"", self.meta())
        store.save(self.key(1), noise(100_000), self.meta())
        small, large = sorted(store.entries(), key=lambda entry: entry.nbytes)
        assert (small.key, large.key) == (self.key(0), self.key(1))
        assert 0 < small.nbytes < 2000
        assert 100_000 <= large.nbytes < 110_000
        assert all(begin - 5 <= entry.used <= time.time() + 5 for entry in (small, large))

    def test_entries_of_a_function(self, store: Store) -> None:
        for number, function in enumerate(("m/f", "m/f", "m/f/g", "m/ff")):
            store.save(self.key(number, function), number, self.meta())
        assert {entry.key for entry in store.entries_of("m/f")} == {self.key(0, "m/f"), self.key(1, "m/f")}
        assert list(store.entries_of("missing")) == []

    def test_discard(self, store: Store) -> None:
        store.discard(self.key())
        for number in range(2):
            store.save(self.key(number), number, self.meta())
        store.discard(self.key(0))
        assert not store.contains(self.key(0))
        with pytest.raises(KeyError):
            store.meta(self.key(0))
        assert store.load(self.key(1)) == 1
        store.save(self.key(0), "new", self.meta())
        assert store.load(self.key(0)) == "new"

    def test_clear(self, store: Store) -> None:
        store.clear()
        store.clear("m/f")
        keys = [self.key(0, function) for function in ("m/f", "m/f/g", "m/ff", "n")]
        for key in keys:
            store.save(key, 0, self.meta())
            store.keep_source(key.function, "source")
        store.clear("m/f")
        assert {entry.key for entry in store.entries()} == set(keys[2:])
        assert [store.source(key.function) for key in keys] == [None, None, "source", "source"]
        store.clear()
        assert list(store.entries()) == []
        assert store.source("n") is None
        store.save(keys[0], 1, self.meta())
        assert store.load(keys[0]) == 1

    def test_sources(self, store: Store) -> None:
        assert store.source("module/function") is None
        for source in ("# first line: 3\ndef f(x):\n    return 'ä'\n", "", "\r\nother"):
            store.keep_source("module/function", source)
            assert store.source("module/function") == source
        assert list(store.entries()) == []
        assert store.foreign("module/function") is False

    def fill(self, store: Store, count: int) -> None:
        """Save values of 10 kB each, one after the other."""
        for number in range(count):
            store.save(self.key(number), noise(10_000), self.meta())
            time.sleep(0.02)  # the clock of a file system may be coarse

    @pytest.mark.parametrize(
        ("limits", "left"),
        [
            (Limits(), 6),
            (Limits(items=2), 2),
            (Limits(nbytes=35_000), 3),
            (Limits(age=1000), 6),
            (Limits(age=0), 0),
            (Limits(items=10, nbytes=0), 0),
            (Limits(items=4, nbytes=25_000), 2),
        ],
    )
    def test_reduce(self, store: Store, limits: Limits, left: int) -> None:
        self.fill(store, 6)
        store.reduce(limits)
        assert {entry.key for entry in store.entries()} == {self.key(number) for number in range(6 - left, 6)}

    @pytest.mark.parametrize("limits", [Limits(items=3), Limits(nbytes=35_000)])
    def test_saving_keeps_the_store_within_its_limits(self, tmp_path: Path, limits: Limits) -> None:
        store = self.make_store(tmp_path / "cache", limits)
        for number in range(10):
            store.save(self.key(number), noise(10_000), self.meta())
            time.sleep(0.02)
            if number:
                assert store.load(self.key(0)) == noise(10_000)  # so value 0 is the most recently used one
                time.sleep(0.02)
            assert len(list(store.entries())) == min(number + 1, 3)
        assert {entry.key for entry in store.entries()} == {self.key(number) for number in (0, 8, 9)}

    def test_a_value_larger_than_the_limit_is_not_stored(self, tmp_path: Path) -> None:
        store = self.make_store(tmp_path / "cache", Limits(nbytes=50_000))
        store.save(self.key(0), b"small", self.meta())
        with pytest.warns(CacheWarning, match="not kept"):
            store.save(self.key(1), noise(60_000), self.meta())
        assert not store.contains(self.key(1))
        assert store.load(self.key(0)) == b"small"

    # Several threads at the same time

    def test_a_lease(self, store: Store) -> None:
        with store.lease(self.key()) as first, store.lease(self.key(1)) as other, store.lease(self.key()) as again:
            assert (first, other, again) == (True, True, True)
        with store.lease(self.key()) as later:
            assert later

    def test_one_of_many_threads_computes(self, store: Store) -> None:
        computed: list[int] = []
        results: list[int] = []
        barrier = threading.Barrier(8)

        def call() -> None:
            barrier.wait(PATIENCE)
            while True:
                with store.lease(self.key()) as mine:
                    if mine and not store.contains(self.key()):
                        computed.append(1)
                        time.sleep(0.1)
                        store.save(self.key(), 42, self.meta())
                if store.contains(self.key()):
                    results.append(store.load(self.key()))
                    return

        in_threads([call] * 8)
        assert (len(computed), results) == (1, [42] * 8)

    def test_all_waiting_threads_compute_after_a_failure(self, store: Store) -> None:
        tried: list[int] = []
        barrier = threading.Barrier(4)

        def call() -> None:
            barrier.wait(PATIENCE)
            while True:
                try:
                    with store.lease(self.key()) as mine:
                        if mine:
                            tried.append(1)
                            time.sleep(0.1)
                            raise Refused(0, "this")
                except Refused:
                    return

        in_threads([call] * 4)
        assert len(tried) == 4

    def test_leases_that_wait_for_each_other_do_not_deadlock(self, store: Store) -> None:
        n_threads = 3
        barrier = threading.Barrier(n_threads)
        leases: list[bool] = []

        def call(number: int) -> None:
            with store.lease(self.key(number)) as first:
                barrier.wait(PATIENCE)
                with store.lease(self.key((number + 1) % n_threads)) as second:
                    leases.append(second)
                assert first

        in_threads([functools.partial(call, number) for number in range(n_threads)])
        assert True in leases

    def test_threads_that_read_write_and_remove(self, store: Store) -> None:
        wrong: list[Any] = []
        until = time.monotonic() + 1

        def use(seed: int) -> None:
            numbers = random.Random(seed)
            while time.monotonic() < until:
                number, chance = numbers.randrange(10), numbers.random()
                key = self.key(number)
                if chance < 0.5:
                    try:
                        value = store.load(key)
                        if value != [number] * (number * 1000 + 1):
                            wrong.append(value)
                    except KeyError:
                        pass
                elif chance < 0.9:
                    store.save(key, [number] * (number * 1000 + 1), self.meta(n=str(number)))
                elif chance < 0.95:
                    store.discard(key)
                elif chance < 0.98:
                    assert len(list(store.entries())) <= 10
                elif chance < 0.99:
                    store.reduce(Limits(items=5))
                else:
                    store.clear(None if chance < 0.995 else key.function)

        in_threads([functools.partial(use, seed) for seed in range(4)])
        assert wrong == []
        store.save(self.key(), 1, self.meta())
        assert store.load(self.key()) == 1


def noise(n_bytes: int) -> bytes:
    """Return the same incompressible bytes at each call."""
    return random.Random(0).randbytes(n_bytes)


def in_threads(calls: list[Callable[[], Any]]) -> None:
    """Run calls at the same time, each in its own thread. Raise the first exception that one of them raises."""
    errors: list[BaseException] = []

    def run(call: Callable[[], Any]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"


class Refused(Exception):
    """An exception whose constructor has other parameters than that of its base class."""

    number: int
    reason: str

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number, self.reason = number, reason


def refuse(number: int, bad: int) -> int:
    """Return `number`. Raise Refused if it equals `bad`."""
    if number == bad:
        raise Refused(number, f"number {number}")
    return number


def identity(value: Any) -> Any:
    """Return `value`."""
    return value


def sums_of(value: dict[str, Any]) -> list[float]:
    """Return the sums of the arrays in ``value["arrays"]``."""
    return [array.sum() for array in value["arrays"]]


def overwrite(array: Any) -> float:
    """Set all elements of an array to 0, in place; return the former sum."""
    before = float(array.sum())
    array[:] = 0
    return before


def nest(levels: int, number: int) -> Any:
    """Run nested calls, `levels` levels deep."""
    if not levels:
        return number
    inner: Callable[..., Any] = nest
    if levels == 1:
        return Parallel(n_jobs=2)([delayed(inner)(0, number), delayed(inner)(0, -number)])
    return Parallel(n_jobs=2)(delayed(inner)(levels - 1, number) for _ in range(2))


def wait_for(path: Path) -> str:
    """Wait until a file exists at `path`, then return "opened".

    Raises
    ------
    TimeoutError
        If there is none after :data:`PATIENCE` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} was not created within {PATIENCE} seconds")
        time.sleep(0.01)
    return "opened"


def say(number: int) -> None:
    """Log a message, and print to both standard streams."""
    logging.getLogger("shoal.testing.calls").info("call %d", number)
    print(f"output of call {number}")  # noqa: T201
    print(f"errors of call {number}", file=sys.stderr)  # noqa: T201


def send_each(number: int, count: int, *more: Any) -> list[bool]:
    """Send as many messages; return whether they were taken."""
    return [send((number, *(more or (i,)))) for i in range(count)]


def send_and_fail_once(path: Path) -> None:
    """Send a message; then fail, unless there is a file at `path`, which is made."""
    send("attempt")
    if not path.exists():
        path.touch()
        raise Refused(0, "the first attempt")


def send_from_nested(number: int) -> None:
    """Send messages from nested calls."""
    inner: Callable[..., Any] = send_each
    Parallel(n_jobs=2)(delayed(inner)(nested, 1) for nested in range(2))


#: A variable for tests of contexts.
VARIABLE: ContextVar[Any] = ContextVar("VARIABLE", default=None)


def value_of_variable() -> Any:
    """Return the value of :data:`VARIABLE`."""
    return VARIABLE.get()


def warn_of(number: int) -> None:
    """Issue a warning of a category that is ignored by default."""
    warnings.warn(f"call {number}", ImportWarning)  # noqa: B028 this is the place
