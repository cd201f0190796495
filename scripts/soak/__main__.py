"""Soak: ``python -m scripts.soak [--minutes M] [--seed S] [--threads N] [--repeat NAME:SEED] [--rows NAME ...]``."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from shoal.errors import FallbackWarning, UnusedResultsWarning

from ._rows import ROWS
from ._watch import Watch

#: The seconds of a round, and those after which an action counts as hung.
ROUND, HUNG = 10.0, 180.0
#: Python's own allocator keeps arenas of which a few objects are left: with it, memory rises although no object
#: is kept. The C library's gives back what is free.
ALLOCATOR = {"PYTHONMALLOC": "malloc", "MALLOC_ARENA_MAX": "1"}


def main() -> int:
    options = parse()
    if not options.rows and sys.platform == "linux" and ALLOCATOR.keys() - os.environ.keys():
        os.execve(sys.executable, [sys.executable, "-m", "scripts.soak", *sys.argv[1:]], {**os.environ, **ALLOCATOR})
    folder = tempfile.mkdtemp(prefix="soak")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    try:
        if options.rows:
            return run_rows(options.rows)
        return Soak(options).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.soak", description="Random runs, in which nothing may leak"
    )
    parser.add_argument("--minutes", type=float, default=30.0, metavar="M", help="how long (30)")
    parser.add_argument("--seed", type=int, default=None, metavar="S", help="that of an earlier soak, to repeat it")
    parser.add_argument("--threads", type=int, default=3, metavar="N", help="threads that run actions (3)")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="the names of actions; all by default")
    parser.add_argument("--repeat", metavar="NAME:SEED", help="one action, as a failure names it, a hundred times")
    parser.add_argument("--clusters", action="store_true", help="runs on dask and ray too, where they are installed")
    parser.add_argument(
        "--rows", nargs="+", metavar="NAME[=N]", help=f"instead: long rows, with their number: {', '.join(ROWS)}"
    )
    return parser.parse_args()


def run_rows(rows: list[str]) -> int:
    """Run long rows; return the exit code."""
    failed = False
    for row in rows:
        name, _, number = row.partition("=")
        began = time.monotonic()
        good, text = ROWS[name][0](int(float(number or ROWS[name][1])))
        failed |= not good
        print(f"{'ok    ' if good else 'FAILED'} {name}: {text}; {time.monotonic() - began:.0f} s", flush=True)
    return int(failed)


class Soak:
    """Random actions in several threads, by one seed.

    Parameters
    ----------
    options
        Those of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        from . import _actions

        if options.clusters:
            from . import _clusters  # noqa: F401 registers its actions
        self._actions = {name: found for name, found in _actions.ACTIONS.items() if name in (options.only or [name])}
        self._seed = random.randrange(10**9) if options.seed is None else options.seed
        self._options = options
        self._done: Counter[str] = Counter()
        self._failures: list[str] = []
        self._running: dict[int, tuple[str, float]] = {}
        self._lock = threading.Lock()  # guards the three above

    def run(self) -> int:
        """Run; return the exit code."""
        warnings.simplefilter("ignore", UnusedResultsWarning)
        warnings.simplefilter("ignore", FallbackWarning)
        warnings.filterwarnings("ignore", "Loky-backed|Multiprocessing-backed")  # as joblib says, in nested runs
        if self._options.repeat:
            name, _, seed = self._options.repeat.rpartition(":")
            for _ in range(100):
                self._act(0, name, seed)
            print(*self._failures, sep="\n")
            return int(bool(self._failures))
        print(f"seed {self._seed}: {self._options.threads} threads, {self._options.minutes:g} minutes", flush=True)
        watch, end, number = Watch(), time.monotonic() + 60 * self._options.minutes, 0
        while time.monotonic() < end and not self._failures:
            self._round(number, min(ROUND, max(end - time.monotonic(), 1.0)))
            number += 1
            found = watch.sample()
            print(f"round {number}: {sum(self._done.values())} actions; " + _shown(found), flush=True)
        texts, rising = watch.verdict()
        print(*(f"{name}: {count}" for name, count in sorted(self._done.items())), sep=", ")
        print(*texts, *self._failures, sep="\n")
        good = not (rising or self._failures)
        print(f"seed {self._seed}: " + ("nothing rises, and no result was wrong" if good else "FAILED"))
        return int(not good)

    def _round(self, number: int, seconds: float) -> None:
        """Run actions for some seconds in all threads, and wait for the last one."""
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._act_until, args=(end, number, index), daemon=True)
            for index in range(self._options.threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(1.0)
                self._look_for_hung()

    def _act_until(self, end: float, number: int, index: int) -> None:
        rng = random.Random(f"{self._seed} {number} {index}")
        names = list(self._actions)
        while time.monotonic() < end and not self._failures:
            self._act(index, rng.choice(names), str(rng.randrange(10**9)))

    def _act(self, index: int, name: str, seed: str) -> None:
        with self._lock:
            self._running[index] = f"{name}:{seed}", time.monotonic()
        try:
            self._actions[name](random.Random(seed))
        except BaseException:
            with self._lock:
                self._failures.append(f"--repeat {name}:{seed}\n{traceback.format_exc()}")
        with self._lock:
            del self._running[index]
            self._done[name] += 1

    def _look_for_hung(self) -> None:
        """End the program if an action hangs: its threads cannot be ended."""
        with self._lock:
            hung = [name for name, since in self._running.values() if time.monotonic() - since > HUNG]
        if hung:
            print(f"seed {self._seed}: HUNG for {HUNG:g} s: --repeat {', '.join(hung)}", flush=True)
            faulthandler.dump_traceback(all_threads=True)
            with contextlib.suppress(OSError):
                shutil.rmtree(Path(tempfile.gettempdir()))
            os._exit(2)


def _shown(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" if name == "MB" else f"{name} {value:.0f}" for name, value in found.items())


if __name__ == "__main__":
    sys.exit(main())
