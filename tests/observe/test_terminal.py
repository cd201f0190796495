"""Progress bars and the output of worker processes on a terminal, rendered row by row as a user sees it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from _capabilities import needs_terminal
from shoal.observe._terminal import _AboveBars

pytestmark = needs_terminal

COLUMNS, ROWS = 90, 12
_SEQUENCE = re.compile(r"\x1b\[\??(\d*)([A-Za-z])|(.)", re.DOTALL)


class Screen:
    """A terminal: its rows, and the rows that have scrolled off its top."""

    def __init__(self) -> None:
        self.gone: list[str] = []
        self.rows = [" " * COLUMNS for _ in range(ROWS)]
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        for number, command, char in _SEQUENCE.findall(text):
            if command == "A":
                self._row = max(0, self._row - int(number or 1))
            elif command == "L":
                for _ in range(int(number or 1)):
                    self.rows.insert(self._row, " " * COLUMNS)
                    del self.rows[ROWS:]
            elif command == "K":
                self.rows[self._row] = self.rows[self._row][: self._column].ljust(COLUMNS)
            elif command in ("h", "l"):  # shows or hides the cursor
                pass
            elif command != "m" and char == "\r":
                self._column = 0
            elif command != "m" and char == "\n":
                self._down()
            elif char:
                if self._column == COLUMNS:
                    self._column = 0
                    self._down()
                row = self.rows[self._row]
                self.rows[self._row] = row[: self._column] + char + row[self._column + 1 :]
                self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == ROWS:
            self._row -= 1
            self.gone.append(self.rows.pop(0))
            self.rows.append(" " * COLUMNS)

    @property
    def lines(self) -> list[str]:
        return [row.rstrip() for row in [*self.gone, *self.rows] if row.strip()]


def run_on_terminal(program: str, tmp_path: Path, unbuffered: str = "") -> Screen:
    import fcntl
    import pty
    import struct
    import termios

    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(program))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    streams: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    environment = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": unbuffered}
    environment["NO_COLOR"] = "1"
    child = subprocess.Popen([sys.executable, str(script)], env=environment, **streams)
    os.close(theirs)
    said = b""
    try:
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # all who had it open have ended
                break
            if not data:
                break
            said += data
        assert child.wait(60) == 0, said
    finally:
        child.kill()
        os.close(ours)
    screen = Screen()
    screen.feed(said.decode())
    return screen


PROGRAM = """
import sys, time
from shoal import Parallel, delayed

def call(i):
    time.sleep(0.02)
    print("line", i, "of a worker")
    sys.stderr.write(f"\\x1b[31mwarning {{i}}\\x1b[0m\\n")
    if i == 3:
        print("long " * 30)
        print()
    print("without end", i, end="")
    return i

if __name__ == "__main__":
    {run}
    print("the end")
"""


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize("whose", ["shoal", "user"])
def test_lines_of_workers_go_above_the_bar(backend: str, whose: str, tmp_path: Path) -> None:
    if whose == "shoal":
        run = (
            f"Parallel(n_jobs=2, backend='{backend}', batch_size=1, progress=True)(delayed(call)(i) for i in range(8))"
        )
    else:
        run = (
            "from tqdm import tqdm; calls = [delayed(call)(i) for i in range(8)]; bar = tqdm(total=8, unit='call'); "
            f"Parallel(n_jobs=2, backend='{backend}', batch_size=1)(calls); bar.update(8); bar.close()"
        )
    lines = run_on_terminal(PROGRAM.format(run=run), tmp_path).lines
    expected = [f"{text} {i}{rest}" for i in range(8) for text, rest in (("line", " of a worker"), ("warning", ""))]
    expected += [f"without end {i}" for i in range(8)]
    long = ("long " * 30).strip()
    expected += [long[:COLUMNS].rstrip(), long[COLUMNS:]]
    *printed, bar, last = lines
    assert sorted(printed) == sorted(expected)
    assert "8/8" in bar
    assert last == "the end"


NESTED = """
from shoal import Parallel, delayed

def inner(i):
    print("inner", i)

def outer(i):
    print("outer", i)
    Parallel(n_jobs=2, backend="threading", progress="rich")(delayed(inner)(i) for i in range(8))

if __name__ == "__main__":
    Parallel(n_jobs=2, backend={backend!r}, batch_size=1, progress="rich")(delayed(outer)(i) for i in range(6))
    print("the end")
"""


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading", "sequential"])
def test_lines_of_calls_go_above_the_bars_of_rich(backend: str, tmp_path: Path) -> None:
    pytest.importorskip("rich")
    *printed, bar, last = run_on_terminal(NESTED.format(backend=backend), tmp_path).lines
    assert sorted(printed) == sorted([f"outer {i}" for i in range(6)] + [f"inner {i}" for i in range(8)] * 6)
    assert re.fullmatch(r"Parallel\(n_jobs=[12]\) +━+ +6/6 .*", bar)
    assert last == "the end"


def test_lines_of_verbose_go_above_the_bar(tmp_path: Path) -> None:
    run = "Parallel(n_jobs=2, batch_size=1, progress=True, verbose=20)([delayed(abs)(i) for i in range(6)])"
    *told, bar, last = run_on_terminal(PROGRAM.format(run=run), tmp_path).lines
    line = re.compile(
        r"\[Parallel\(n_jobs=2\)\]: (Using backend LokyBackend with 2 concurrent workers\."
        r"|Done +\d+ (tasks|out of +6) +\| elapsed: +[\d.]+s( remaining: +[\d.]+s)?( finished)?)"
    )
    assert len(told) > 2
    assert [text for text in told if not line.fullmatch(text)] == []
    assert "6/6" in bar
    assert last == "the end"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_lines_of_workers_are_not_mixed_without_a_bar(backend: str, unbuffered: str, tmp_path: Path) -> None:
    calls = "[delayed(print)('mine', i) for i in range(4)]"
    run = f"Parallel(n_jobs=2, backend='{backend}', batch_size=1, verbose=5)({calls})"
    lines = run_on_terminal(PROGRAM.format(run=run), tmp_path, unbuffered).lines
    assert sorted(line for line in lines if not line.startswith("[Parallel")) == [
        "mine 0",
        "mine 1",
        "mine 2",
        "mine 3",
        "the end",
    ]


class Sink:
    def __init__(self) -> None:
        self.written: list[str] = []

    def write(self, text: str) -> int:
        self.written.append(text)
        return len(text)

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        raise OSError("no descriptor")


@pytest.mark.parametrize(
    ("line", "rows"), [("", 1), ("x" * 80, 1), ("x" * 81, 2), ("\xe9" * 80, 1), ("e\u0301" * 80, 1), ("\u65e5" * 41, 2)]
)
def test_a_line_moves_the_bar_down_by_the_rows_that_it_takes(line: str, rows: int) -> None:
    sink: Any = Sink()
    _AboveBars(sink, bars=1).write(line + "\n")
    assert sink.written == ["\n" * rows + f"\x1b[{rows}A\r\x1b[{rows}L{line}\n"]


def test_a_terminal_that_does_not_know_its_width_has_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers, or under ``script``."""
    import pty

    ours, theirs = pty.openpty()
    monkeypatch.setattr(Sink, "fileno", lambda self: theirs)
    sink: Any = Sink()
    _AboveBars(sink, bars=1).write("x" * 81 + "\n")
    os.close(ours)
    os.close(theirs)
    assert sink.written == [f"\n\n\x1b[2A\r\x1b[2L{'x' * 81}\n"]


def test_text_that_moves_the_cursor_is_written_unchanged() -> None:
    sink: Any = Sink()
    above = _AboveBars(sink, bars=1)
    for text in ("\r10%", "\x1b[A", "\n"):
        above.write(text)
    assert sink.written == ["\r10%", "\x1b[A", "\n"]
    above.bars = 0
    above.write("plain\n")
    assert sink.written[3:] == ["plain\n"]


def test_lines_of_threads_are_not_mixed() -> None:
    sink: Any = Sink()
    above = _AboveBars(sink, bars=2)
    above.write("begun ")
    thread = threading.Thread(target=above.writelines, args=(["other ", "thread\n", "left"],))
    thread.start()
    thread.join()
    above.write("and ended\n")
    above.finish()
    placed = [text.removeprefix("\n\n\x1b[2A\r\x1b[1L") for text in sink.written]
    assert placed == ["other thread\n", "begun and ended\n", "left\n"]
