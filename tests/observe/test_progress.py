"""Progress: bars, lines and the user's own callable."""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from _capabilities import SLOWNESS
from shoal import Parallel, delayed, parallel_config
from shoal.errors import MissingExtra
from shoal.observe._progress import progress_listener
from shoal.observe._rich_bars import Bar, display
from shoal.observe.events import (
    BatchCompleted,
    CallFailed,
    CallStepped,
    Event,
    InputExhausted,
    Listener,
    RunFinished,
    RunStarted,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def listener(progress: bool | str | Callable[[int, int | None], object], clock: Clock | None = None) -> Listener:
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


@pytest.mark.parametrize("progress", [None, 1, 0, "bar", "Rich", 2.5, []])
def test_any_other_value_raises_a_type_error(progress: object) -> None:
    with pytest.raises(TypeError, match=r"True, False, 'rich' or a callable that takes \(done, total\)"):
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


def printed(
    monkeypatch: pytest.MonkeyPatch, total: int | None, *steps: tuple[float, int], ended: bool = True
) -> list[str]:
    """Return the lines of a run in which, after so many seconds each, so many calls end."""
    log = replace_stderr(monkeypatch, io.StringIO())
    clock = Clock()
    listen = listener(True, clock)
    listen(RunStarted(2, "X", total))
    for seconds, calls in steps:
        clock.now += seconds
        listen(BatchCompleted(calls, 0.1))
    if ended:
        listen(RunFinished(None))
    lines = log.getvalue().splitlines()
    assert all(line.startswith("Parallel(n_jobs=2): ") for line in lines)
    return [line.removeprefix("Parallel(n_jobs=2): ") for line in lines]


def test_a_short_run_prints_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, 1000, *[(0.099, 10)] * 100) == ["1000/1000 calls, 10 s"]


def test_a_line_after_ten_seconds_and_after_each_tenth_of_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, 400, *[(1.25, 5)] * 80) == [
        "40/400 calls, 10 s, 90 s left",
        *(f"{done}/400 calls, {done / 4:.0f} s, {100 - done / 4:.0f} s left" for done in range(80, 401, 40)),
        "400/400 calls, 100 s",
    ]


def test_lines_are_at_least_ten_seconds_and_at_most_a_minute_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = printed(monkeypatch, 900, *[(0.5, 10)] * 90)
    assert [line.split(",")[1].strip() for line in fast] == ["10 s", "20 s", "30 s", "40 s", "45 s"]
    slow = printed(monkeypatch, 1000, *[(7.0, 1)] * 40, ended=False)
    assert [line.split("/")[0] for line in slow] == ["2", "11", "20", "29", "38"]
    assert slow[-1] == "38/1000 calls, 4 min, 112 min left"


def test_the_time_that_is_left_follows_the_pace_of_recent_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    # Half of the results were stored and came at once; each further call takes ten seconds.
    lines = printed(monkeypatch, 1000, (0.1, 500), *[(10.0, 1)] * 40, ended=False)
    left = [line.split(", ")[2].removesuffix(" left") for line in lines]
    assert left == ["10 s", "41 min", "61 min", "70 min", "74 min", "76 min", "76 min"]


def test_lines_with_an_unknown_total(monkeypatch: pytest.MonkeyPatch) -> None:
    log = replace_stderr(monkeypatch, io.StringIO())
    clock = Clock()
    listen = listener(True, clock)
    listen(RunStarted(2, "X", None))
    for _ in range(7):
        clock.now += 12
        listen(BatchCompleted(10, 0.1))
    listen(InputExhausted(80))
    clock.now += 60
    feed(listen, BatchCompleted(5, 0.1), RunFinished(KeyError()))
    assert log.getvalue().splitlines() == [
        "Parallel(n_jobs=2): 10 calls, 12 s",
        "Parallel(n_jobs=2): 60 calls, 72 s",
        "Parallel(n_jobs=2): 75/80 calls, 2 min, 15 s left",
        "Parallel(n_jobs=2): 75/80 calls, 2 min",
    ]


def test_lines_show_how_far_long_calls_are(monkeypatch: pytest.MonkeyPatch) -> None:
    log = replace_stderr(monkeypatch, io.StringIO())
    clock = Clock()
    listen = listener(True, clock)
    listen(RunStarted(2, "X", 4))
    for tenth in range(1, 11):
        clock.now += 20
        listen(CallStepped(1, tenth, 10))
    feed(listen, BatchCompleted(1, 200.0))
    clock.now += 60
    feed(listen, CallStepped(2, 0.5, None))
    assert log.getvalue().splitlines() == [
        "Parallel(n_jobs=2): 0/4 calls, 60 s; call 1: 3/10",
        "Parallel(n_jobs=2): 0/4 calls, 2 min; call 1: 6/10",
        "Parallel(n_jobs=2): 0/4 calls, 3 min; call 1: 9/10",
        "Parallel(n_jobs=2): 1/4 calls, 3 min, 10 min left",
        "Parallel(n_jobs=2): 1/4 calls, 4 min, 10 min left; call 2: 0.5",
    ]


@pytest.mark.parametrize(("given", "line"), [(100, "12/12 calls, 10 s"), (5, "12/12 calls, 10 s")])
def test_a_wrong_total_is_corrected_at_the_end(monkeypatch: pytest.MonkeyPatch, given: int, line: str) -> None:
    log = replace_stderr(monkeypatch, io.StringIO())
    clock = Clock()
    listen = listener(True, clock)
    listen(RunStarted(2, "X", given))
    clock.now += 10
    feed(listen, BatchCompleted(10, 0.1), InputExhausted(12), BatchCompleted(2, 0.1), RunFinished(None))
    first, last = log.getvalue().splitlines()
    assert first == f"Parallel(n_jobs=2): {'10 calls, 10 s' if given == 5 else '10/100 calls, 10 s, 90 s left'}"
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
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60 * SLOWNESS
    )
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
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60 * SLOWNESS
    )
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


# ---- progress="rich".


def rich_terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    pytest.importorskip("rich")
    display.reset()  # what a test that has failed may have left
    for name, value in (("TERM", "xterm"), ("COLUMNS", "90"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return replace_stderr(monkeypatch, Terminal())


_CONTROL = re.compile(r"\x1b\[[?\d;]*[A-Za-z]|\r")
_BAR = re.compile(r"[━╸╺]+|-[- ]{3,}")  # a terminal of Windows has the second


def rows(terminal: io.StringIO) -> list[str]:
    """Return the rows that were drawn last, without the bars themselves."""
    last = re.split(r"\x1b\[2K(?:\x1b\[1A\x1b\[2K)*", terminal.getvalue())[-1]
    plain = [_BAR.sub(" ", _CONTROL.sub("", row)).split() for row in last.split("\n")]
    return [" ".join(row) for row in plain if row]


def test_rich_draws_one_bar_and_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = rich_terminal(monkeypatch)
    listen = listener("rich")
    feed(listen, RunStarted(2, "X", 4))
    assert rows(terminal) == ["Parallel(n_jobs=2) 0/4 0:00:00"]
    feed(listen, BatchCompleted(3, 0.0), BatchCompleted(1, 0.0), RunFinished(None))
    assert rows(terminal)[0].startswith("Parallel(n_jobs=2) 4/4 0:00:0")
    assert terminal.getvalue().rstrip("\n").endswith("\x1b[?25h")  # the cursor is back
    assert sys.stderr is terminal


def test_rich_shows_runs_inside_calls_until_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = rich_terminal(monkeypatch)
    outer, inner, worker = listener("rich"), listener("rich"), Bar((1, 1), "Parallel(n_jobs=3)", 2, 5, False)
    feed(outer, RunStarted(2, "X", None))
    display.show_of_worker(worker, 7)
    feed(inner, RunStarted(2, "X", 9), BatchCompleted(2, 0.0))
    display.show_of_worker(worker._replace(done=3), 7)
    assert [row.split(" 0:")[0] for row in rows(terminal)] == [
        "Parallel(n_jobs=2) 0/?",
        "Parallel(n_jobs=3) 3/5",
        "Parallel(n_jobs=2) 2/9",
    ]
    feed(inner, RunFinished(None))
    display.show_of_worker(worker._replace(ended=True), 7)
    feed(outer, InputExhausted(3), BatchCompleted(3, 0.0), RunFinished(None))
    assert [row.split(" 0:")[0] for row in rows(terminal)] == ["Parallel(n_jobs=2) 3/3"]


def test_rich_removes_the_bars_of_a_call_that_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = rich_terminal(monkeypatch)
    outer = listener("rich", Clock())
    feed(outer, RunStarted(2, "X", 8))
    for call in (3, 4):
        display.show_of_worker(Bar((call, 1), f"inside {call}", 2, 5, False), call)
    feed(outer, CallFailed(3, KeyError(), None))
    display.show_of_worker(Bar((4, 1), "inside 4", 3, 5, False), 4)
    assert [row.split(" 0:")[0] for row in rows(terminal)] == ["Parallel(n_jobs=2) 0/8", "inside 4 3/5"]
    feed(outer, RunFinished(KeyError()))
    assert [row.split(" 0:")[0] for row in rows(terminal)] == ["Parallel(n_jobs=2) 0/8"]


def test_rich_draws_how_far_calls_are(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = rich_terminal(monkeypatch)
    outer = listener("rich")

    def shown() -> list[str]:
        return [row.split(" 0:")[0] for row in rows(terminal)]

    feed(outer, RunStarted(2, "X", 8), CallStepped(0, 1, 9), CallStepped(1, 2, None), CallStepped(0, 3, 9))
    assert shown() == ["Parallel(n_jobs=2) 0/8", "call 0 3/9", "call 1 2/?"]
    feed(outer, CallStepped(2, 4, 9))  # two calls run at a time: call 1 has ended
    assert shown() == ["Parallel(n_jobs=2) 0/8", "call 0 3/9", "call 2 4/9"]
    feed(outer, CallStepped(2, 9, 9))
    assert shown() == ["Parallel(n_jobs=2) 0/8", "call 0 3/9"]
    feed(outer, CallFailed(0, KeyError(), None), CallStepped(3, 1, 9))
    assert shown() == ["Parallel(n_jobs=2) 0/8", "call 3 1/9"]
    feed(outer, BatchCompleted(8, 0.0), RunFinished(None))
    assert shown() == ["Parallel(n_jobs=2) 8/8"]


def test_rich_gives_the_terminal_back_when_the_outermost_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = rich_terminal(monkeypatch)
    outer, inner = listener("rich"), listener("rich")
    feed(outer, RunStarted(2, "X", 8))
    feed(inner, RunStarted(2, "X", 9))  # in a call on a thread, which goes on
    feed(outer, RunFinished(KeyboardInterrupt()))
    assert [row.split(" 0:")[0] for row in rows(terminal)] == ["Parallel(n_jobs=2) 0/8"]
    assert terminal.getvalue().rstrip("\n").endswith("\x1b[?25h")
    assert sys.stderr is terminal
    drawn = terminal.getvalue()
    feed(inner, BatchCompleted(2, 0.0), RunFinished(None))
    assert terminal.getvalue() == drawn


def test_rich_draws_a_run_that_outlives_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = rich_terminal(monkeypatch)
    first, second = listener("rich"), listener("rich")
    feed(first, RunStarted(2, "X", 1))
    feed(second, RunStarted(2, "X", 9))  # in another thread
    feed(first, BatchCompleted(1, 0.0), RunFinished(None))
    feed(second, BatchCompleted(9, 0.0), RunFinished(None))
    assert [row.split(" 0:")[0] for row in rows(terminal)] == ["Parallel(n_jobs=2) 9/9"]
    assert sys.stderr is terminal


def test_a_fork_draws_nothing_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = rich_terminal(monkeypatch)
    outer = listener("rich")
    feed(outer, RunStarted(2, "X", 8))
    assert sys.stderr is not terminal
    display.reset()  # as after a fork
    assert sys.stderr is terminal
    drawn = terminal.getvalue()
    feed(outer, RunFinished(None))
    assert terminal.getvalue() == drawn


def test_bars_of_workers_are_not_drawn_without_a_run_that_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = rich_terminal(monkeypatch)
    display.show_of_worker(Bar((1, 1), "inside", 2, 5, False), 7)
    assert terminal.getvalue() == ""


def inside(backend: str, number: int) -> int:
    Parallel(2, backend, progress="rich")(delayed(abs)(each) for each in range(5))
    return number


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading", "sequential"])
def test_rich_shows_the_runs_inside_the_calls_of_a_run(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    shown: list[Bar] = []
    rich_terminal(monkeypatch)
    update = display._update
    monkeypatch.setattr(display, "_update", lambda bar, leave=False: (shown.append(bar), update(bar, leave)))
    calls = (delayed(inside)("threading", number) for number in range(3))
    assert Parallel(2, backend, progress="rich")(calls) == [0, 1, 2]
    assert [(bar.done, bar.total) for bar in shown if bar.ended] == [(5, 5)] * 3 + [(3, 3)]
    assert len({bar.key for bar in shown}) == 4
    others = {bar.key[0] for bar in shown} - {os.getpid()}
    assert bool(others) is (backend in ("loky", "multiprocessing"))


def test_rich_elsewhere_than_on_a_terminal_prints_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    log = replace_stderr(monkeypatch, io.StringIO())
    feed(listener("rich"), RunStarted(2, "X", 4), BatchCompleted(4, 0.0), RunFinished(None))
    assert log.getvalue() == "Parallel(n_jobs=2): 4/4 calls, 0 s\n"


def test_without_rich_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    for make in (Parallel, parallel_config):
        with pytest.raises(MissingExtra, match=r"progress='rich' needs rich, which is not installed.*'shoal\[rich\]'"):
            make(progress="rich")
