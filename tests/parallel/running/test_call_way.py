"""docs/design/parallel.md lists the functions that a call runs through: they are the ones that run."""

from __future__ import annotations

import json
import queue
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import shoal
from shoal import Parallel, delayed
from shoal._platform.capabilities import SHORT_PIPES

SOURCE = Path(shoal.__file__).parent
SECTION = (
    (Path(__file__).parents[3] / "docs" / "design" / "parallel.md")
    .read_text(encoding="utf-8")
    .partition("## The way of a call\n")[2]
    .partition("\n## ")[0]
)
USERS = {"calls": "the caller's iterator", "double": "the user's function"}

#: The types by which a call gets from one thread or process to another.
CROSSINGS = (socket.socket, queue.SimpleQueue)

Way = list[tuple[str, str, str]]

noted: Way = []


def double(x: int) -> int:
    return 2 * x


def calls(number: int) -> Iterator[Any]:
    for x in range(number):
        yield delayed(double)(x)


def name_of(code: CodeType, frame: FrameType) -> str:
    """The name of a function, with its class."""
    owner = frame.f_locals.get("self")
    for kind in type(owner).__mro__:
        if getattr(vars(kind).get(code.co_name), "__code__", None) is code:
            return f"{kind.__name__}.{code.co_name}"
    return code.co_name


def note_in(place: str, way: Way, entry: str) -> Callable[[FrameType, str, Any], None]:
    """A profile function that notes shoal's functions on the stack, from `entry` on, when a call crosses a boundary."""

    def note(frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        users = event == "call" and code in (double.__code__, calls.__code__)
        crosses = event == "c_call" and isinstance(getattr(arg, "__self__", None), CROSSINGS)
        if not (users or crosses):
            return
        stack: Way = []
        inner: FrameType | None = frame
        while inner is not None:
            path = Path(inner.f_code.co_filename)
            if path.is_relative_to(SOURCE):
                stack.append((place, name_of(inner.f_code, inner), path.relative_to(SOURCE).as_posix()))
            if inner.f_code.co_name == entry:
                break
            inner = inner.f_back
        else:
            return  # another stack of this thread: an error of the worker's start, say
        # Beside the way: no call is in what these transfer, or it is for later.
        if {"alive", "Loop.ask", "Run._read_on"} & {name for _, name, _ in stack}:
            return
        if users:
            stack.insert(0, (place, USERS[code.co_name], ""))
        way.extend(step for step in reversed(stack) if step not in way)

    return note


def note_from_now_on() -> None:
    sys.setprofile(note_in("worker", noted, "serve"))


def noted_in_worker() -> Way:
    sys.setprofile(None)
    return noted


def main() -> None:
    """Print the functions that two calls on two warm workers run through."""
    way: Way = []
    active = False
    in_loop = note_in("pool", way, "_ready")
    threading.setprofile(lambda frame, event, arg: in_loop(frame, event, arg) if active else None)
    parallel = Parallel(n_jobs=2, backend="loky")
    parallel(calls(4))
    parallel(delayed(note_from_now_on)() for _ in range(2))
    noted.clear()
    active = True
    sys.setprofile(note_in("caller", way, "__call__"))
    parallel(calls(2))
    sys.setprofile(None)
    active = False
    print(json.dumps([way, parallel(delayed(noted_in_worker)() for _ in range(2))]))


@pytest.mark.skipif(SHORT_PIPES, reason="batches pass through pipes here; the documentation lists the way by sockets")
def test_a_call_runs_through_the_functions_of_the_documentation() -> None:
    program = [sys.executable, "-c", f"import {__name__} as test; test.main()"]
    folder = Path(__file__).parent
    output = subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=60, check=True).stdout
    way, workers = json.loads(output)
    listed = re.findall(r"^(caller|worker|pool) +(.*?)(?: {2,}(\S+\.py))?$", SECTION, re.MULTILINE)
    assert [step for step in listed if step[0] != "worker"] == [tuple(step) for step in way]
    for there in workers:  # the answer of the call before leads the list
        assert sorted(step for step in listed if step[0] == "worker") == sorted(map(tuple, there))
    steps = {step[1:] for step in listed if step[2]}
    assert f"{len(steps)} functions in {len({path for _, path in steps})} modules" in SECTION
