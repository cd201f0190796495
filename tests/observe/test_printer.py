"""Printer: the lines of ``verbose=``, compared with those of joblib."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys

import pytest

from shoal import Parallel, delayed, parallel_config
from shoal.observe import events
from shoal.observe._printer import Printer
from shoal.observe.events import (
    BatchCompleted,
    BatchDispatched,
    BatchSizeChanged,
    Event,
    InputExhausted,
    RunFinished,
    RunStarted,
)

# Runs joblib for a grid of settings. For each run it prints the settings, the events that correspond to joblib's
# counters each time that joblib considers printing, and the lines that joblib printed.
JOBLIB_RUNS = """
import contextlib, io, itertools, json, threading, time
import joblib

class Calls:
    def __init__(self, calls):
        self.calls, self.ended = calls, threading.Event()
    def __iter__(self):
        yield from self.calls
        self.ended.set()

class SizedCalls(Calls):
    def __len__(self):
        return len(self.calls)

class Parallel(joblib.Parallel):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.events, self.batches, self.done, self.exhausted = [], 0, 0, False
    def print_progress(self):
        self.events += [["BatchDispatched", [1]]] * (self.n_dispatched_batches - self.batches)
        self.batches = self.n_dispatched_batches
        if self._original_iterator is None and not self.exhausted:
            self.exhausted = True
            self.events.append(["InputExhausted", [self.n_dispatched_tasks]])
        if self.n_completed_tasks > self.done:
            self.events.append(["BatchCompleted", [self.n_completed_tasks - self.done, 0.0]])
            self.done = self.n_completed_tasks
        super().print_progress()

def run(verbose, n_jobs, sized, pre_dispatch, n_calls):
    parallel = Parallel(n_jobs, "threading", verbose=verbose, batch_size=1, pre_dispatch=pre_dispatch)
    def call():
        # Without this wait, joblib may count a run as finished while it is being started.
        if pre_dispatch == "all":
            calls.ended.wait(10)
        while not (parallel._iterating or parallel._original_iterator is None):
            time.sleep(0.0001)
    calls = (SizedCalls if sized else Calls)([joblib.delayed(call)()] * n_calls)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        parallel(calls)
    started = ["RunStarted", [n_jobs, "ThreadingBackend", n_calls if sized else None]]
    amount = getattr(parallel, "_pre_dispatch_amount", 0)
    events = [started, *parallel.events, ["RunFinished", [None]]]
    return [[verbose, n_jobs, sized, pre_dispatch, n_calls], amount, events, out.getvalue(), err.getvalue()]

verbosities, sizes = [1, 5, 10, 11, 50, 100], [0, 1, 7, 120]
print(json.dumps(
    [run(*settings) for settings in itertools.product(verbosities, [1], [True, False], ["2*n_jobs"], sizes)]
    + [run(*settings) for settings in itertools.product(
        verbosities, [2], [True, False], [1, "2*n_jobs", "all"], sizes
    )]
))
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def masked(text: str) -> list[str]:
    return re.sub(r" *\d+\.\d(s|min)", " TIME", text).splitlines()


def feed(printer: Printer, *sequence: Event) -> None:
    for event in sequence:
        printer(event)


@pytest.mark.slow
def test_the_lines_equal_those_of_joblib(capsys: pytest.CaptureFixture[str]) -> None:
    process = subprocess.run(
        [sys.executable, "-c", JOBLIB_RUNS], check=True, capture_output=True, text=True, timeout=100
    )
    runs = json.loads(process.stdout)
    assert len(runs) == 192
    for settings, pre_dispatch, recorded, out, err in runs:
        verbose, n_jobs, _, _, n_calls = settings
        printer = Printer(verbose, f"Parallel(n_jobs={n_jobs})", pre_dispatch, clock=Clock())
        feed(printer, *(getattr(events, name)(*fields) for name, fields in recorded))

        expected = [masked(out), masked(err)]
        if not any(line.endswith("finished") for line in (out + err).splitlines()):
            assert n_calls < 2 or pre_dispatch == 1, settings
            width = len(str(n_calls)) if settings[2] and n_calls else 3
            expected[verbose < 50].append(
                f"[Parallel(n_jobs={n_jobs})]: Done {n_calls:{width}d} out of {n_calls:{width}d} "
                "| elapsed: TIME finished"
            )
        assert [masked(text) for text in capsys.readouterr()] == expected, settings


def test_times_come_from_the_clock() -> None:
    clock, lines = Clock(), []
    printer = Printer(11, "Parallel(n_jobs=-1)", 4, clock=clock, write=lines.append)
    feed(printer, RunStarted(2, "LokyBackend", None), BatchDispatched(20))
    clock.now += 9.96
    feed(printer, BatchCompleted(10, 1.0), InputExhausted(40))
    clock.now += 50.04
    feed(printer, BatchCompleted(10, 1.0))
    clock.now += 15
    feed(printer, BatchCompleted(10, 1.0), BatchCompleted(10, 1.0), RunFinished(None))
    assert lines == [
        "[Parallel(n_jobs=-1)]: Using backend LokyBackend with 2 concurrent workers.\n",
        "[Parallel(n_jobs=-1)]: Done  10 tasks      | elapsed:   10.0s\n",
        "[Parallel(n_jobs=-1)]: Done  40 out of  40 | elapsed:  1.2min finished\n",
    ]


def test_the_remaining_time_is_printed_once_the_input_has_ended() -> None:
    clock, lines = Clock(), []
    printer = Printer(100, "P", 0, clock=clock, write=lines.append)
    feed(printer, RunStarted(2, "LokyBackend", None), InputExhausted(40))
    clock.now += 90
    feed(printer, BatchCompleted(30, 1.0))
    assert lines[1:] == ["[P]: Done  30 out of  40 | elapsed:  1.5min remaining:   30.0s\n"]


@pytest.mark.parametrize("verbose", [9, 10])
def test_batch_sizes_are_printed_from_verbosity_10(verbose: int) -> None:
    lines: list[str] = []
    printer = Printer(verbose, "P", 4, clock=Clock(), write=lines.append)
    feed(printer, RunStarted(2, "LokyBackend", 1000), BatchDispatched(1), BatchCompleted(1, 0.00123456))
    del lines[:]
    feed(printer, BatchSizeChanged(64), BatchDispatched(64), BatchSizeChanged(32))
    assert lines == [
        "[P]: Batch computation too fast (0.00123s.) Setting batch_size=64.\n",
        "[P]: Batch computation too slow (0.00123s.) Setting batch_size=32.\n",
    ] * (verbose >= 10)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_failed_run_prints_no_last_line(n_jobs: int) -> None:
    lines: list[str] = []
    printer = Printer(100, "P", 4, clock=Clock(), write=lines.append)
    feed(
        printer,
        RunStarted(n_jobs, "X", 3),
        BatchDispatched(1),
        BatchCompleted(1, 0.0),
        RunFinished(KeyError()),
    )
    assert [line for line in lines if "Using" not in line] == ["[P]: Done 1 out of 3 | elapsed:    0.0s\n"]


@pytest.mark.parametrize("verbose", [0, -1])
def test_nothing_is_printed_without_verbosity(verbose: int) -> None:
    lines: list[str] = []
    printer = Printer(verbose, "P", 4, write=lines.append)
    feed(printer, RunStarted(2, "X", 1), BatchSizeChanged(2), BatchCompleted(1, 0.0), RunFinished(None))
    assert lines == []


@pytest.mark.parametrize(("verbose", "name"), [(49, "stderr"), (50, "stdout")])
def test_nothing_is_printed_if_the_standard_stream_is_none(
    verbose: int, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, name, None)
    feed(Printer(verbose, "P", 4), RunStarted(2, "X", 1), BatchCompleted(1, 0.0), RunFinished(None))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_logger_gets_the_lines(
    backend: str, n_jobs: int, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = [delayed(abs)(number) for number in range(3)]
    caplog.set_level(logging.INFO)
    Parallel(n_jobs, backend, verbose=logging.getLogger("progress"))(calls)
    with parallel_config(verbose=logging.LoggerAdapter(logging.getLogger("progress"), {})):
        Parallel(n_jobs, backend)(calls)
    records = [record for record in caplog.records if record.name == "progress"]
    lines = [record.getMessage() for record in records]
    assert {record.levelname for record in records} == {"INFO"}
    ends = [line.partition(" | ")[0].split() for line in lines if line.endswith("finished")]
    assert ends == [f"[Parallel(n_jobs={n_jobs})]: Done 3 out of 3".split()] * 2
    assert len([line for line in lines if "concurrent workers" in line]) == 2 * (n_jobs - 1)
    assert not any("\n" in line for line in lines)
    assert capsys.readouterr() == ("", "")


def test_a_run_in_a_worker_logs_in_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Parallel(2, "loky")([delayed(logs_inside)()])
    assert [record.name for record in caplog.records if record.getMessage().endswith("finished")] == ["inside"]


def logs_inside() -> None:
    Parallel(2, "threading", verbose=logging.getLogger("inside"))([delayed(abs)(1)])
