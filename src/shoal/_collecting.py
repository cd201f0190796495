"""The garbage collector, put off while an object is rebuilt."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collecting_later() -> Iterator[None]:
    """Have the collector of this process wait for the end of the block, unless it is off in any case.

    For where many objects are made of which none is garbage yet: to look for some takes a fifth of the time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
