"""``timeout=``: what it counts, and what not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from _capabilities import SLOWNESS
from shoal import Parallel, RunTimeout, delayed
from shoal.parallel.running import _patience
from shoal.parallel.running._patience import Patience
from shoal.testing import wait_for

TIMEOUT = 1.0 * SLOWNESS


def slow_input() -> Iterator[Any]:
    yield delayed(abs)(-1)
    time.sleep(1.3 * TIMEOUT)
    yield delayed(abs)(-2)


@pytest.mark.parametrize("return_as", ["list", "generator", "acall"])
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_the_time_that_the_input_takes_does_not_count(backend: str, return_as: Any) -> None:
    Parallel(n_jobs=2, backend=backend)(delayed(abs)(x) for x in range(4))  # starts the workers
    if return_as == "acall":
        results = asyncio.run(Parallel(n_jobs=2, backend=backend, timeout=TIMEOUT).acall(slow_input()))
    else:
        results = Parallel(n_jobs=2, backend=backend, timeout=TIMEOUT, return_as=return_as)(slow_input())
    assert list(results) == [1, 2]


@pytest.mark.parametrize("return_as", ["list", "generator"])
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_a_call_counts_that_is_under_way_while_the_input_waits(tmp_path: Path, backend: str, return_as: Any) -> None:
    gate = tmp_path / "gate"

    def stuck_input() -> Iterator[Any]:
        yield delayed(wait_for)(gate)
        yield delayed(wait_for)(gate)
        if backend == "threading":  # one thread runs the first call, and another one waits here
            wait_for(gate)

    run = Parallel(n_jobs=3, backend=backend, timeout=0.3, return_as=return_as, batch_size=1)
    with pytest.raises(RunTimeout, match="call 0"):
        list(run(stuck_input()))
    gate.touch()


def test_the_time_begins_when_a_call_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = 100.0, True
    monkeypatch.setattr(_patience, "time", SimpleNamespace(monotonic=lambda: now))
    patience = Patience(5.0, lambda: waits)
    for _ in range(40):
        assert patience.seconds() == 0.5
        now += 0.5
        assert not patience.is_over()
    waits = False
    assert patience.seconds() == 4.5  # from the last look
    now += 4.4
    assert not patience.is_over()
    now += 0.2
    assert patience.is_over()
    assert patience.seconds() == 0.0
    patience.again()
    assert not patience.is_over()
