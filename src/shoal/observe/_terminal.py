"""Lines of worker processes on a terminal on which the calling process draws a progress bar: they go above the bar.

::

    calling process: bars_drawn() ── with each batch ──> worker: print_above(bars), the calls, finish_lines()

    terminal, before        after a worker has printed "fitted 3"
    50%|█████     | 4/8     fitted 3                                the bar is pushed down by a line, and the cursor is
                            50%|█████     | 4/8                     where the bar is drawn next

The worker writes each line at once, with the control sequences that make room for it. Lines that several processes
write at one time follow each other, and no process waits for another. The lines of ``verbose=`` go there, too.
"""

from __future__ import annotations

import os
import re
import sys
from threading import get_ident
from typing import Any, TextIO

#: Colours and the like, which take no room.
_STYLE = re.compile(r"\x1b\[[\d;]*m")


def bars_drawn() -> int:
    """Return how many bars of tqdm, shoal's or the user's own, this process draws on a terminal now."""
    tqdm: Any = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    if tqdm is None or not tqdm._instances:
        return 0
    bars = [
        bar for bar in list(tqdm._instances) if not getattr(bar, "disable", True) and not getattr(bar, "gui", False)
    ]
    return sum(1 for bar in bars if _on_terminal(bar.fp))


def print_above(bars: int) -> None:
    """Have this process print whole lines from now on, above so many bars where its standard streams are terminals.

    To be called in a worker process, before each batch of calls.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # With PYTHONUNBUFFERED, print() would write its arguments one by one.
        if getattr(stream, "write_through", False) and not stream.closed:
            stream.reconfigure(write_through=False, line_buffering=True)
        if isinstance(stream, _Above):
            stream.bars = bars
        elif bars:
            setattr(sys, name, above_bars(stream, bars))


def above_bars(stream: Any, bars: int) -> Any:
    """Return what writes the lines of a stream above so many bars; the stream itself where none can be there."""
    drawn = bars and os.name == "posix" and os.environ.get("TERM", "dumb") != "dumb" and _on_terminal(stream)
    return _Above(stream, bars) if drawn else stream


def finish_lines() -> None:
    """Print what calls have printed without an end of line. To be called after each batch."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, _Above):
            stream.finish()


def _on_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError, OSError):  # none, or closed
        return False


class _Above:
    """A standard stream whose lines go above the bars.

    Not for text that moves the cursor, such as a bar of the worker's own: that passes as it is.
    """

    def __init__(self, stream: TextIO, bars: int) -> None:
        self.bars = bars
        self._stream = stream
        self._begun: dict[int, str] = {}  # by thread: what it has printed of a line whose end it has not
        self._moved = False  # whether the batch has moved the cursor: then even an empty line may be part of that

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the lines that are whole."""
        plain = _STYLE.sub("", text)
        thread = get_ident()
        begun = self._begun.pop(thread, "")
        moves = "\r" in plain or "\x1b" in plain
        self._moved = self._moved or moves
        if not self.bars or moves or (self._moved and not (begun or plain.strip("\n"))):
            return self._stream.write(begun + text)
        *lines, begun = (begun + text).split("\n")
        if begun:
            self._begun[thread] = begun
        if lines:
            self._stream.write("".join(map(self._placed, lines)))
            self._stream.flush()
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several pieces of text."""
        for line in lines:
            self.write(line)

    def finish(self) -> None:
        """Write the lines that have no end yet."""
        self._moved = False
        while self._begun:
            _, line = self._begun.popitem()
            self._stream.write(self._placed(line))
            self._stream.flush()

    def _placed(self, line: str) -> str:
        """Return a line with what pushes the bars down by as many rows as it takes."""
        shown = _STYLE.sub("", line).expandtabs()
        try:
            columns = max(os.get_terminal_size(self._stream.fileno()).columns, 1)
        except OSError:
            columns = 80
        rows = max(1, -(-_width(shown) // columns))
        down = rows + self.bars - 1
        # Newlines make room at the bottom of the screen; then up to the first bar, and there so many empty lines.
        return "\n" * down + f"\x1b[{down}A\r\x1b[{rows}L{line}\n"


def _width(text: str) -> int:
    """Return how many columns of a terminal a line takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)
