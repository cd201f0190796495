"""Lines that worker processes print go above the progress bars that the calling process draws on the terminal.

::

    calling process: bars_drawn() ── with each batch ──> worker: print_above(bars), the calls, finish_lines()

    terminal, before        after a worker has printed "fitted 3"
    50%|█████     | 4/8     fitted 3                                the bar has moved down by a line, and the cursor is
                            50%|█████     | 4/8                     where the bar is drawn next

The worker writes each line in one write, together with the control sequences that make room for it. So the lines of
several processes follow each other, and no process waits for another. Lines of ``verbose=`` also go above the bars.
"""

from __future__ import annotations

import os
import re
import sys
from threading import get_ident
from typing import Any, TextIO

#: Control sequences for colours and styles, which take no columns.
_STYLE = re.compile(r"\x1b\[[\d;]*m")


def bars_drawn() -> int:
    """Return how many tqdm bars, of shoal or of the user, this process currently draws on a terminal."""
    tqdm: Any = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    if tqdm is None or not tqdm._instances:
        return 0
    bars = [
        bar for bar in list(tqdm._instances) if not getattr(bar, "disable", True) and not getattr(bar, "gui", False)
    ]
    return sum(1 for bar in bars if on_terminal(bar.fp))


def print_above(bars: int) -> None:
    """Make this process print whole lines, above `bars` bars, on those of its standard streams that are terminals.

    A worker process calls this before each batch of calls.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # With PYTHONUNBUFFERED, print() writes its arguments one by one, and lines of several processes would mix.
        if getattr(stream, "write_through", False) and not stream.closed:
            stream.reconfigure(write_through=False, line_buffering=True)
        if isinstance(stream, _AboveBars):
            stream.bars = bars
        elif bars:
            setattr(sys, name, above_bars(stream, bars))


def above_bars(stream: Any, bars: int) -> Any:
    """Return a stream that writes lines above `bars` bars; `stream` itself if there can be no bars on it."""
    has_bars = bars and os.name == "posix" and os.environ.get("TERM", "dumb") != "dumb" and on_terminal(stream)
    return _AboveBars(stream, bars) if has_bars else stream


def finish_lines() -> None:
    """Print the text that calls printed without a newline at its end. A worker calls this after each batch."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, _AboveBars):
            stream.finish()


def on_terminal(stream: Any) -> bool:
    """Tell whether a stream is a terminal. None and closed streams are none."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError, OSError):  # there is no stream, or it is closed
        return False


class _AboveBars:
    """A standard stream that writes lines above the bars.

    Text that moves the cursor, such as a bar that the worker itself draws, is written unchanged.
    """

    def __init__(self, stream: TextIO, bars: int) -> None:
        self.bars = bars
        self._stream = stream
        self._unfinished: dict[int, str] = {}  # by thread: the beginning of a line that it has not finished
        self._cursor_moved = False  # during this batch. Then even an empty line may belong to the cursor movement

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the lines that are complete, and keep the rest until its line is complete."""
        plain = _STYLE.sub("", text)
        thread = get_ident()
        beginning = self._unfinished.pop(thread, "")
        moves = "\r" in plain or "\x1b" in plain
        self._cursor_moved = self._cursor_moved or moves
        if not self.bars or moves or (self._cursor_moved and not (beginning or plain.strip("\n"))):
            return self._stream.write(beginning + text)
        *lines, beginning = (beginning + text).split("\n")
        if beginning:
            self._unfinished[thread] = beginning
        if lines:
            self._stream.write("".join(map(self._line_above, lines)))
            self._stream.flush()
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several pieces of text."""
        for line in lines:
            self.write(line)

    def finish(self) -> None:
        """Write the lines that are not complete."""
        self._cursor_moved = False
        while self._unfinished:
            _, line = self._unfinished.popitem()
            self._stream.write(self._line_above(line))
            self._stream.flush()

    def _line_above(self, line: str) -> str:
        """Return a line with the control sequences that move the bars down by the number of rows that it takes."""
        shown = _STYLE.sub("", line).expandtabs()
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns or 80  # some terminals do not know their size
        except OSError:
            columns = 80
        rows = max(1, -(-_width(shown) // columns))
        down = rows + self.bars - 1
        # Newlines make room at the bottom. Then the cursor goes up to the first bar and inserts empty rows there.
        return "\n" * down + f"\x1b[{down}A\r\x1b[{rows}L{line}\n"


def _width(text: str) -> int:
    """Return the number of terminal columns that a line takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)
