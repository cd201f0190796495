"""Tests of what calls say and send while they run, for each backend that brings it to the program at once."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest

from _faults_util import wait_for
from shoal import Parallel, delayed, send, step
from shoal.observe.events import CallStepped

LOGGER = logging.getLogger("shoal.tests.live")


class Gate(io.StringIO):
    """Opens a gate when text arrives."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def write(self, text: str) -> int:
        self.path.touch()
        return super().write(text)


def print_and_wait(gate: Path) -> None:
    print("on the way")
    wait_for(gate)


def log_and_wait(gate: Path) -> None:
    LOGGER.warning("on the way")
    wait_for(gate)


def warn_and_wait(gate: Path) -> None:
    warnings.warn("on the way", ImportWarning, stacklevel=1)
    wait_for(gate)


def send_and_wait(gate: Path) -> None:
    send("on the way")
    wait_for(gate)
    send("at the end")


def step_and_wait(gate: Path) -> None:
    step(1, 3)
    wait_for(gate)


def send_and_fail(number: int) -> None:
    for message in range(number):
        send(message)
    raise ArithmeticError(number)


def say_much(number: int) -> None:
    for line in range(number):
        print(line)
        send(bytes(100_000) if line % 10 == 0 else line)


class LiveTests:
    """The tests. A call says or sends something, and ends only when the program has got it."""

    backend = ""

    def parallel(self, **arguments: Any) -> Parallel:
        return Parallel(n_jobs=2, backend=self.backend, batch_size=1, **arguments)

    def test_output(self, tmp_path: Path) -> None:
        out = Gate(tmp_path / "gate")
        with contextlib.redirect_stdout(out):
            self.parallel()([delayed(print_and_wait)(out.path), delayed(abs)(-1)])
        assert out.getvalue() == "on the way\n"

    def test_log_records(self, tmp_path: Path) -> None:
        gate, records = tmp_path / "gate", []

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                records.append(record.getMessage())
                gate.touch()

        handler = Handler()
        LOGGER.addHandler(handler)
        try:
            self.parallel()([delayed(log_and_wait)(gate), delayed(abs)(-1)])
        finally:
            LOGGER.removeHandler(handler)
        assert records == ["on the way"]

    def test_warnings(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda *_, **__: gate.touch()
            self.parallel()([delayed(warn_and_wait)(gate), delayed(abs)(-1)])
        assert gate.exists()

    def test_messages(self, tmp_path: Path) -> None:
        gate, received = tmp_path / "gate", []

        def on_message(index: int, message: Any) -> None:
            received.append((index, message))
            gate.touch()

        self.parallel(on_message=on_message)([delayed(send_and_wait)(gate), delayed(abs)(-1)])
        assert received == [(0, "on the way"), (0, "at the end")]

    def test_a_message_may_stop_the_run(self, tmp_path: Path) -> None:
        gate = tmp_path / "gate"
        run = self.parallel(on_message=lambda *_: run.stop())
        assert run([delayed(send_and_wait)(gate), delayed(send_and_wait)(gate)]) == []
        gate.touch()  # dask cannot end a call that runs

    def test_steps(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        gate, steps = tmp_path / "gate", []

        def listen(event: Any) -> None:
            if isinstance(event, CallStepped):
                steps.append(event)
                gate.touch()

        monkeypatch.setattr("shoal.observe._teller.progress_listener", lambda *_: listen)
        self.parallel(progress=True)([delayed(step_and_wait)(gate), delayed(abs)(-1)])
        assert steps == [CallStepped(0, 1, 3)]

    @pytest.mark.parametrize("number", [1, 3, 200])
    def test_messages_of_a_call_that_fails(self, number: int) -> None:
        received: list[tuple[int, Any]] = []
        run = self.parallel(on_message=lambda *it: received.append(it), on_error="return")
        run([delayed(abs)(-1), delayed(send_and_fail)(number)])
        assert received == [(1, message) for message in range(number)]

    def test_all_that_a_flood_says_arrives_in_order(self) -> None:
        out, received = io.StringIO(), []
        with contextlib.redirect_stdout(out):
            run = self.parallel(on_message=lambda _, message: received.append(message))
            run([delayed(say_much)(60), delayed(abs)(-1)])
        assert out.getvalue() == "".join(f"{line}\n" for line in range(60))
        assert [line for line in received if type(line) is int] == [line for line in range(60) if line % 10]
        assert [position for position, line in enumerate(received) if type(line) is bytes] == list(range(0, 60, 10))
