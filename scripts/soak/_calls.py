"""What workers run. Each new worker imports this module, so it imports little."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import shoal


def square(x: int) -> int:
    return x * x


def total(array: Any) -> float:
    return float(array.sum())


def twice(array: Any) -> Any:
    return array * 2


def fail_at(x: int, bad: int) -> int:
    if x == bad:
        raise ZeroDivisionError(x)
    return x


def die_once(x: int, marker: str) -> int:
    """Kill the worker, the first time that a call has this marker."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return x
    os.kill(os.getpid(), signal.SIGKILL)
    return -1


def sleep_at(x: int, long: int) -> int:
    if x == long:
        time.sleep(600)
    return x


def nested(x: int, backend: str) -> int:
    return sum(shoal.Parallel(n_jobs=2, backend=backend)(shoal.delayed(square)(i) for i in range(x)))


def send_number(x: int) -> int:
    shoal.send(x)
    return x


def same(x: Any) -> Any:
    return x


def die(x: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
