"""Progress: bars, lines and the user's own callable."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from shoal import Parallel, delayed
from shoal.observe._progress import progress_listener
from shoal.observe.events import BatchCompleted, Event, InputExhausted, Listener, RunFinished, RunStarted


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def listener(progress: bool | Callable[[int, int | None], object], clock: Clock | None = None) -> Listener:
    made = progress_listener(progress, "Parallel(n_jobs=2)", clock=clock or Clock())
    assert made is not None
    return made


def feed(listen: Listener, *sequence: Event) -> None:
    for event in sequence:
        listen(event)


def replace_stderr(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> io.StringIO:
    # Not in a fixture: pytest's own capture replaces the streams between a fixture and its test.
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_false_gives_no_listener() -> None:
    assert progress_listener(False, "P") is None


@pytest.mark.parametrize("progress", [None, 1, 0, "bar", 2.5, []])
def test_any_other_value_raises_a_type_error(progress: object) -> None:
    with pytest.raises(TypeError, match=r"True, False or a callable that takes \(done, total\)"):
        progress_listener(progress, "P")  # type: ignore[arg-type]


def told(*sequence: Event) -> list[tuple[int, int | None]]:
    calls: list[tuple[int, int | None]] = []
    feed(listener(lambda done, total: calls.append((done, total))), *sequence)
    return calls


def test_callable_with_a_known_total() -> None:
    assert told(
        RunStarted(2, "X", 5),
        BatchCompleted(2, 0.0),
        InputExhausted(5),
        BatchCompleted(3, 0.0),
        RunFinished(None),
    ) == [(2, 5), (5, 5)]


def test_callable_if_the_total_becomes_known_before_the_end() -> None:
    assert told(
        RunStarted(2, "X", None),
        BatchCompleted(2, 0.0),
        InputExhausted(5),
        BatchCompleted(3, 0.0),
        RunFinished(None),
    ) == [(2, None), (5, 5)]


def test_callable_if_the_total_becomes_known_at_the_end() -> None:
    assert told(RunStarted(1, "X", None), BatchCompleted(2, 0.0), InputExhausted(2), RunFinished(None)) == [
        (2, None),
        (2, 2),
    ]


@pytest.mark.parametrize("total", [0, None])
def test_callable_in_a_run_without_calls(total: int | None) -> None:
    assert told(RunStarted(2, "X", total), InputExhausted(0), RunFinished(None)) == [(0, 0)]


def test_callable_is_not_called_after_a_failure() -> None:
    assert told(RunStarted(2, "X", None), BatchCompleted(2, 0.0), RunFinished(KeyError())) == [(2, None)]


def test_exceptions_of_the_callable_propagate() -> None:
    def refuse(done: int, total: int | None) -> None:
        raise LookupError(done, total)

    listen = listener(refuse)
    listen(RunStarted(2, "X", 5))
    with pytest.raises(LookupError, match=r"\(2, 5\)"):
        listen(BatchCompleted(2, 0.0))
    listen(RunFinished(LookupError()))


def test_a_line_every_five_seconds_and_one_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    log = replace_stderr(monkeypatch, io.StringIO())
    clock = Clock()
    listen = listener(True, clock)
    listen(RunStarted(2, "X", 1000))
    for _ in range(100):
        clock.now += 0.12
        listen(BatchCompleted(10, 0.1))
    listen(RunFinished(None))
    assert log.getvalue().splitlines() == [
        "Parallel(n_jobs=2): 420/1000 calls, 5 s, 7 s left",
        "Parallel(n_jobs=2): 840/1000 calls, 10 s, 2 s left",
        "Parallel(n_jobs=2): 1000/1000 calls, 12 s",
    ]


def test_lines_with_an_unknown_total(monkeypatch: pytest.MonkeyPatch) -> None:
    log = replace_stderr(monkeypatch, io.StringIO())
    clock = Clock()
    listen = listener(True, clock)
    listen(RunStarted(2, "X", None))
    clock.now += 6
    feed(listen, BatchCompleted(10, 0.1), InputExhausted(20))
    clock.now += 6
    feed(listen, BatchCompleted(5, 0.1), RunFinished(KeyError()))
    assert log.getvalue().splitlines() == [
        "Parallel(n_jobs=2): 10 calls, 6 s",
        "Parallel(n_jobs=2): 15/20 calls, 12 s, 4 s left",
        "Parallel(n_jobs=2): 15/20 calls, 12 s",
    ]


@pytest.mark.parametrize(("given", "line"), [(100, "12/12 calls, 9 s"), (5, "12/12 calls, 9 s")])
def test_a_wrong_total_is_corrected_at_the_end(monkeypatch: pytest.MonkeyPatch, given: int, line: str) -> None:
    log = replace_stderr(monkeypatch, io.StringIO())
    clock = Clock()
    listen = listener(True, clock)
    listen(RunStarted(2, "X", given))
    clock.now += 9
    feed(listen, BatchCompleted(10, 0.1), InputExhausted(12), BatchCompleted(2, 0.1), RunFinished(None))
    first, last = log.getvalue().splitlines()
    assert first == f"Parallel(n_jobs=2): {'10 calls, 9 s' if given == 5 else '10/100 calls, 9 s, 81 s left'}"
    assert last == f"Parallel(n_jobs=2): {line}"


@pytest.mark.parametrize("given", [2, 3, 5, 100])
def test_a_bar_with_a_wrong_total_from_the_user(monkeypatch: pytest.MonkeyPatch, given: int) -> None:
    terminal = replace_stderr(monkeypatch, Terminal())
    feed(listener(True), RunStarted(2, "X", given), BatchCompleted(3, 0.0))
    assert ("%|" in terminal.getvalue().split("\r")[-1]) is (given >= 3)
    feed(listener(True), RunStarted(2, "X", given), BatchCompleted(3, 0.0), InputExhausted(3), RunFinished(None))
    assert "| 3/3 [" in terminal.getvalue().split("\r")[-1]


def numbers(n: int) -> Any:
    return (delayed(abs)(-number) for number in range(n))


@pytest.mark.parametrize("return_as", ["list", "generator"])
@pytest.mark.parametrize(("backend", "n_jobs"), [("threading", 1), ("threading", 2), ("loky", 2)])
@pytest.mark.parametrize(("announced", "reported"), [(9, {9}), (20, {9, 20}), (4, {4, 9, None})])
@pytest.mark.parametrize("where", ["constructor", "call", "acall"])
def test_total_gives_a_generator_expression_a_total(
    backend: str, n_jobs: int, return_as: str, announced: int, reported: set[int | None], where: str
) -> None:
    calls: list[tuple[int, int | None]] = []
    arguments = {"total": announced} if where == "constructor" else {}
    parallel = Parallel(
        n_jobs, backend, return_as=return_as, progress=lambda done, total: calls.append((done, total)), **arguments
    )

    async def awaited() -> list[int]:
        made = parallel.acall(numbers(9), total=announced)
        return await made if return_as == "list" else [result async for result in made]

    if where == "acall":
        results = asyncio.run(awaited())
    else:
        results = list(parallel(numbers(9), **({"total": announced} if where == "call" else {})))
    assert results == list(range(9))
    assert {total for _, total in calls} <= reported
    assert calls[0][1] in (announced, 9, None)
    assert all(total is None or done <= total for done, total in calls)
    assert calls[-1] == (9, 9)


def test_the_total_of_one_run_overrides_that_of_the_parallel() -> None:
    calls: list[tuple[int, int | None]] = []
    parallel = Parallel(n_jobs=1, progress=lambda done, total: calls.append((done, total)), total=50)
    parallel(numbers(2), total=2)
    parallel(numbers(2))
    parallel([*numbers(2)], total=7)  # a list tells by itself
    assert [total for _, total in calls] == [2, 2, 50, 50, 2, 2, 2]


@pytest.mark.parametrize("total", [-1, 1.5, "9", True])
def test_a_total_that_is_no_number_of_calls_raises_a_value_error(total: Any) -> None:
    with pytest.raises(ValueError, match="total must be the number of calls, 0 or more, or None, got"):
        Parallel(total=total)
    parallel = Parallel()
    with pytest.raises(ValueError, match="total must be the number of calls"):
        parallel([], total=total)
    with pytest.raises(ValueError, match="total must be the number of calls"):
        parallel.acall([], total=total)
    assert parallel([]) == []


def test_nothing_is_printed_if_standard_error_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    feed(listener(True), RunStarted(2, "X", 2), BatchCompleted(2, 0.0), RunFinished(None))
    assert capsys.readouterr() == ("", "")


def test_tqdm_is_imported_only_for_a_bar() -> None:
    code = """
import sys
from shoal.observe._progress import progress_listener
from shoal.observe.events import BatchCompleted, RunFinished, RunStarted
for progress in True, print:
    listen = progress_listener(progress, "P")
    for event in RunStarted(2, "X", 1), BatchCompleted(1, 0.0), RunFinished(None):
        listen(event)
assert "tqdm" not in sys.modules
sys.stderr.isatty = lambda: True
progress_listener(True, "P")
assert "tqdm" in sys.modules
"""
    process = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (process.stdout, process.stderr, process.returncode) == ("1 1\n", "P: 1/1 calls, 0 s\n", 0)


def test_bar_with_a_known_total(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = replace_stderr(monkeypatch, Terminal())
    feed(
        listener(True),
        RunStarted(2, "X", 4),
        BatchCompleted(3, 0.0),
        BatchCompleted(1, 0.0),
        RunFinished(None),
    )
    drawn = terminal.getvalue()
    assert drawn.startswith("\rParallel(n_jobs=2):   0%|")
    assert "| 4/4 [" in drawn.split("\r")[-1]
    assert drawn.endswith("call/s]\n")


def test_bar_whose_total_becomes_known_later(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = replace_stderr(monkeypatch, Terminal())
    listen = listener(True)
    feed(listen, RunStarted(2, "X", None), BatchCompleted(3, 0.0))
    assert "%" not in terminal.getvalue()
    listen(InputExhausted(4))
    assert "Parallel(n_jobs=2):  75%|" in terminal.getvalue().split("\r")[-1]
    feed(listen, BatchCompleted(1, 0.0), RunFinished(None))
    assert "| 4/4 [" in terminal.getvalue().split("\r")[-1]


def test_bar_stays_visible_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = replace_stderr(monkeypatch, Terminal())
    feed(listener(True), RunStarted(2, "X", 4), BatchCompleted(3, 0.0), RunFinished(KeyError()))
    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith("Parallel(n_jobs=2):  75%|")
    assert last.endswith("\n")


def test_bar_creates_neither_a_thread_nor_a_semaphore() -> None:
    code = """
import sys, threading
from shoal.observe._progress import progress_listener
from shoal.observe.events import BatchCompleted, RunFinished, RunStarted
sys.stderr.isatty = lambda: True
listen = progress_listener(True, "P")
for event in RunStarted(2, "X", 2), BatchCompleted(1, 0.0):
    listen(event)
assert threading.enumerate() == [threading.main_thread()]
assert "multiprocessing.synchronize" not in sys.modules
listen(RunFinished(None))
"""
    process = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert "| 1/2 [" in process.stderr


def test_bar_disabled_by_the_environment() -> None:
    code = """
import sys
from shoal.observe._progress import progress_listener
from shoal.observe.events import BatchCompleted, InputExhausted, RunFinished, RunStarted
sys.stderr.isatty = lambda: True
listen = progress_listener(True, "P")
for event in RunStarted(2, "X", None), BatchCompleted(1, 0.0), InputExhausted(1), RunFinished(None):
    listen(event)
"""
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"TQDM_DISABLE": "1"},
    )
    assert (process.stderr, process.returncode) == ("", 0)


def in_notebook(monkeypatch: pytest.MonkeyPatch, chosen: type) -> None:
    autonotebook = types.ModuleType("tqdm.autonotebook")
    autonotebook.tqdm = chosen  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", types.ModuleType("ipykernel.zmqshell"))
    monkeypatch.setitem(sys.modules, "tqdm.autonotebook", autonotebook)


def test_notebook_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    from tqdm.std import tqdm

    log = replace_stderr(monkeypatch, io.StringIO())
    notebook_bar = type("NotebookBar", (tqdm,), {"__module__": "tqdm.notebook"})
    in_notebook(monkeypatch, notebook_bar)
    feed(listener(True), RunStarted(2, "X", 4), BatchCompleted(3, 0.0), RunFinished(None))
    assert "75%|" in log.getvalue()


def test_notebook_without_widgets_prints_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    log = replace_stderr(monkeypatch, io.StringIO())
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", types.ModuleType("ipykernel.zmqshell"))
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.delitem(sys.modules, "tqdm.autonotebook", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        feed(listener(True), RunStarted(2, "X", 4), BatchCompleted(3, 0.0), RunFinished(None))
    assert log.getvalue() == "Parallel(n_jobs=2): 3/4 calls, 0 s\n"
