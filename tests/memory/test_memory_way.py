"""docs/memory.md lists the functions that a hit and a miss of the cache run through: they are the ones that run."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import shoal
from _capabilities import needs_fcntl, needs_replacing
from shoal import Memory
from shoal.memory.store import Store

ROOM = Path(shoal.__file__).parent / "memory"
SECTION = (
    (Path(__file__).parents[2] / "docs" / "memory.md").read_text(encoding="utf-8").partition("## The way of a call")
)
HIT, MISS, STORE = ([*block.split("\n")] for block in re.findall(r"```\n(.*?)\n```", SECTION[2], re.DOTALL))
USERS = "the user's function"
DESCRIBING = ("Identity.words", "Identity.described_as_json")


def double(x: int) -> int:
    return 2 * x


def name_of(frame: FrameType) -> str:
    """The name of a function, with its class."""
    code, owner = frame.f_code, frame.f_locals.get("self")
    for kind in type(owner).__mro__:
        if getattr(vars(kind).get(code.co_name), "__code__", None) is code:
            return f"{kind.__name__}.{code.co_name}"
    return code.co_name


def is_of_store(frame: FrameType | None) -> bool:
    return frame is not None and "storage" in Path(frame.f_code.co_filename).parts


def way_of(call: Callable[[], Any]) -> tuple[list[str], list[str]]:
    """The functions that a call runs through, and those that the first rule leaves out."""
    way: list[str] = []
    inside: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event != "call":
            return
        if frame.f_code is double.__code__:
            way.append(USERS)
        elif path.is_relative_to(ROOM) and not frame.f_code.co_name.startswith("<"):
            name = name_of(frame)
            of_contract = isinstance(frame.f_locals.get("self"), Store) and frame.f_code.co_name in vars(Store)
            if is_of_store(frame.f_back) or (is_of_store(frame) and not of_contract):
                if name not in inside:
                    inside.append(name)
            elif path.name not in ("_texts.py", "_parts.py") and name not in DESCRIBING:
                way.append(name)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return way, inside


@pytest.fixture
def cached(tmp_path: Path) -> Any:
    """A cached function whose source is in the store already, and whose store has its folders."""
    function = Memory(tmp_path, verbose=0).cache(double)
    function(0)
    return function


def test_a_hit_runs_through_the_functions_of_the_documentation(cached: Any) -> None:
    assert way_of(lambda: cached(0)) == (HIT, [])


@needs_fcntl
@needs_replacing
def test_a_miss_runs_through_the_functions_of_the_documentation(cached: Any) -> None:
    way, inside = way_of(lambda: cached(1))
    assert (way, inside) == (MISS, STORE)
    assert len([name for name in way if name != USERS]) <= 15


@needs_fcntl
@needs_replacing
def test_a_miss_is_no_longer_where_an_earlier_process_has_stored_the_source(tmp_path: Path) -> None:
    Memory(tmp_path, verbose=0).cache(double)(0)
    later = Memory(tmp_path, verbose=0).cache(double)
    later(1)  # asks the store once whether joblib has saved results
    assert way_of(lambda: later(2)) == (MISS, STORE)
