"""Caps on the BLAS threads of this process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from _capabilities import SLOWNESS, needs_fork
from shoal import Parallel, _cpus, delayed
from shoal.backends import _blas
from shoal.backends._blas import BlasCap


class Library:
    """A fake BLAS that counts how often its limit is set."""

    def __init__(self, threads: int | None, filepath: str = "blas") -> None:
        self.threads, self.filepath, self.told = threads, filepath, 0

    def get_num_threads(self) -> int | None:
        return self.threads

    def set_num_threads(self, threads: int) -> None:
        self.threads, self.told = threads, self.told + 1


@pytest.fixture
def blas(monkeypatch: pytest.MonkeyPatch) -> _blas._Caps:
    """Give new limits, which see only the libraries of the test."""
    owner = _blas._Caps()
    monkeypatch.setattr(owner, "find_libraries", lambda: None)
    monkeypatch.setattr(_blas, "_limits", owner)
    return owner


def test_the_smallest_cap_applies_in_any_order(blas: _blas._Caps) -> None:
    library = Library(8)
    blas.libraries = [library]
    first, second, third = BlasCap(4), BlasCap(2), BlasCap(6)
    seen = []
    for step in (
        first.__enter__,
        second.__enter__,
        third.__enter__,
        second.__exit__,
        first.__exit__,
        third.__exit__,
    ):
        step()
        seen.append(library.threads)
    assert seen == [4, 2, 2, 4, 6, 8]


def test_a_lower_limit_is_not_changed(blas: _blas._Caps) -> None:
    library, silent = Library(1), Library(None, "silent")
    blas.libraries = [library, silent]
    with BlasCap(1), BlasCap(4):
        assert library.threads == 1
    assert library.told == silent.told == 0


def test_a_limit_set_between_caps_is_restored(blas: _blas._Caps) -> None:
    library = Library(8)
    blas.libraries = [library]
    with BlasCap(2):
        pass
    library.threads = 6
    with BlasCap(2):
        assert library.threads == 2
    assert library.threads == 6


def test_a_library_that_is_loaded_later(blas: _blas._Caps) -> None:
    early, late = Library(8), Library(6, "late")
    blas.libraries = [early]
    with BlasCap(2):
        blas.libraries = [early, late]
        with BlasCap(3):
            assert (early.threads, late.threads) == (2, 2)
    assert (early.threads, late.threads) == (8, 6)


class OpenMPLibrary(Library):
    """A fake BLAS with a limit for each thread."""

    threading_layer = "openmp"

    def __init__(self, threads: int, filepath: str) -> None:
        self.of_thread = threading.local()
        self.found = threads
        super().__init__(threads, filepath)

    @property
    def threads(self) -> int:
        return getattr(self.of_thread, "threads", self.found)

    @threads.setter
    def threads(self, threads: int) -> None:
        self.of_thread.threads = threads


def test_limits_of_each_thread(blas: _blas._Caps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cpus, "cpu_count", lambda: 8)
    library, low, silent = OpenMPLibrary(8, "high"), OpenMPLibrary(2, "low"), Library(None)
    blas.libraries = [library, low, silent]

    def seen() -> tuple[int, int]:
        return library.threads, low.threads

    assert Parallel(n_jobs=2, backend="threading")(delayed(seen)() for _ in range(8)) == [(4, 2)] * 8
    assert seen() == (8, 2)


def test_an_error_ends_the_cap(blas: _blas._Caps) -> None:
    library = Library(8)
    blas.libraries = [library]
    with pytest.raises(KeyError), BlasCap(2):
        raise KeyError
    assert library.threads == 8


def test_caps_of_many_threads(blas: _blas._Caps) -> None:
    overlaps = []

    class Slow(Library):
        busy = False

        def set_num_threads(self, threads: int) -> None:
            overlaps.extend([threads] * self.busy)
            self.busy = True
            time.sleep(1e-6)  # lets another thread run in between
            super().set_num_threads(threads)
            self.busy = False

    library = Slow(16)
    blas.libraries = [library]
    above: list[int | None] = []
    start = threading.Barrier(8)

    def work(limit: int) -> None:
        cap = BlasCap(limit)
        start.wait()
        for _ in range(100):
            with cap:
                time.sleep(1e-6)
                seen = library.threads
                if seen is None or seen > limit:
                    above.append(seen)

    threads = [threading.Thread(target=work, args=(n + 1,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert above == overlaps == []
    assert library.threads == 16


REAL = """
import sys
import threading
from shoal.backends._blas import BlasCap
with BlasCap(1):
    assert "threadpoolctl" not in sys.modules
import numpy
import threadpoolctl
def threads():
    blas = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    return [library.num_threads for library in blas]
threadpoolctl.threadpool_limits(3, user_api="blas")
before = threads()
with BlasCap(2):
    with BlasCap(1):
        inner = threads()
    outer = threads()
print(before, inner, outer, threads())

def cap_here():
    with BlasCap(1):
        print(threads())
def cap_elsewhere():
    other = threading.Thread(target=cap_here)
    other.start()
    other.join()
    print(threads())
with BlasCap(2):
    cap_elsewhere()
threadpoolctl.threadpool_limits(4, user_api="blas")
cap_elsewhere()
"""


def test_real_blas() -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "4"}
    told = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, check=True, env=environment)
    if told.stdout.startswith("[] "):
        pytest.skip("numpy has no BLAS that threadpoolctl knows")
    assert told.stdout == "[3] [1] [2] [3]\n" + "[1]\n[2]\n[1]\n[4]\n"  # also in other threads


FORKED = """
import os
from shoal.backends import _blas
with _blas._limits.lock:
    pid = os.fork()
    if pid == 0:
        with _blas.BlasCap(1):
            os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@needs_fork
def test_a_forked_child_does_not_hang() -> None:
    told = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, check=True, timeout=20 * SLOWNESS
    )
    assert told.stdout == "7\n"
