"""Checksums on a second thread: they are those of all pieces, whatever the system grants, and no thread is left."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import pytest
import xxhash

from shoal._arrays import PIECE, SLAB, cut
from shoal.persistence import _checksums
from shoal.persistence._checksums import LARGE, updating

DATA = bytes(range(251)) * (LARGE // 250)


def checksum_of(data: bytes) -> tuple[int, int]:
    """The checksum, and the size of its pieces."""
    checksum = xxhash.xxh3_64()
    with updating(checksum, len(data)) as (update, step):
        for piece in cut(memoryview(data), step):
            update(piece)
    return checksum.intdigest(), step


def test_the_checksum_is_that_of_all_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for budget, step in ((2, SLAB), (1, PIECE)):
        monkeypatch.setattr(_checksums, "cpu_budget", lambda budget=budget: budget)
        assert checksum_of(DATA) == (xxhash.xxh3_64_intdigest(DATA), step)
    assert checksum_of(DATA[:1000]) == (xxhash.xxh3_64_intdigest(DATA[:1000]), PIECE)


def test_a_system_that_grants_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_checksums, "cpu_budget", lambda: 2)
    monkeypatch.setattr(_checksums, "start_new_thread", refuse)
    assert checksum_of(DATA) == (xxhash.xxh3_64_intdigest(DATA), PIECE)


def test_a_thread_that_comes_too_late_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[Any] = []
    monkeypatch.setattr(_checksums, "cpu_budget", lambda: 2)
    monkeypatch.setattr(_checksums, "start_new_thread", lambda function, _: late.append(function))
    assert checksum_of(DATA) == (xxhash.xxh3_64_intdigest(DATA), SLAB)
    late.pop()()  # it finds nothing to do, and ends


@pytest.mark.parametrize("fails", [False, True])
def test_the_thread_ends_with_the_block(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    ended = threading.Event()

    def start(function: Any, arguments: Any) -> None:
        def run() -> None:
            function(*arguments)
            ended.set()

        threading.Thread(target=run).start()

    monkeypatch.setattr(_checksums, "cpu_budget", lambda: 2)
    monkeypatch.setattr(_checksums, "start_new_thread", start)

    def pieces() -> Any:
        yield memoryview(DATA)
        if fails:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone") if fails else nullcontext():  # noqa: SIM117
        with updating(xxhash.xxh3_64(), len(DATA)) as (update, _):
            for piece in pieces():
                update(piece)
    assert ended.wait(60)
