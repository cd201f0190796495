"""Futures for jobs that do not tell when they have ended, as those of batch systems: one thread asks them.

::

    submit ──> a job: done(), result(), cancel() ──followed──> a future <── completed by the thread ── done()? result()

This is the only place where shoal polls: the files and commands of a batch system tell nothing by themselves.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import BrokenExecutor, CancelledError, Future
from typing import Any

from shoal._forks import BACKENDS, after_fork_in_child
from shoal._tracebacks import in_a_line
from shoal.backends.base import start_thread

#: The seconds between two looks at the jobs: the first pause after news, and how pauses grow without news.
FIRST_PAUSE, GROWTH, LONGEST_PAUSE = 0.02, 1.3, 2.0


class JobLost(BrokenExecutor):
    """A job has ended without a result. The others go on."""


def followed(job: Any) -> Any:
    """Return a future for what an executor has returned: itself if it is one."""
    if hasattr(job, "add_done_callback"):
        return job
    future = _JobFuture(job)
    _watcher.watch(future)
    return future


class _JobFuture(Future[Any]):
    """The future of a job."""

    def __init__(self, job: Any) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()
        self._job = job
        self._given_up = False

    def cancel(self) -> bool:
        """Cancel the job, also if it runs. Its outcome is not awaited."""
        self._given_up = True
        self._job.cancel()
        return False

    def look(self) -> bool:
        """Return whether the job has ended; if so, take its outcome."""
        try:
            if self._given_up:
                raise CancelledError
            if not self._job.done():
                return False
            result = self._job.result()
        except CancelledError as error:
            self.set_exception(error)
        except BaseException as error:
            lost = JobLost(f"{self._job!r} has ended without a result: {in_a_line(error)}")
            lost.__cause__ = error
            self.set_exception(lost)
        else:
            self.set_result(result)
        return True


class _Watcher:
    """Looks at the jobs that have not ended, in a thread that ends when there are none. Thread-safe."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop all jobs. In a forked child they are the parent's."""
        self._lock = threading.Lock()
        self._watched: list[_JobFuture] = []
        self._runs = False
        self._news = threading.Event()

    def watch(self, future: _JobFuture) -> None:
        """Complete a future when its job has ended."""
        with self._lock:
            self._watched.append(future)
            start, self._runs = not self._runs, True
        self._news.set()
        if start:
            start_thread("shoal-jobs", self._watch)

    def _watch(self) -> None:
        pause = FIRST_PAUSE
        while True:
            if self._news.wait(pause):  # another job: it may be a short one
                self._news.clear()
                pause = FIRST_PAUSE
                time.sleep(pause)
            with self._lock:
                watched = list(self._watched)
                self._runs = bool(watched)
            if not watched:
                return
            ended = {future for future in watched if future.look()}
            pause = FIRST_PAUSE if ended else min(pause * GROWTH, LONGEST_PAUSE)
            with self._lock:
                self._watched = [future for future in self._watched if future not in ended]


_watcher = _Watcher()
after_fork_in_child(_watcher.forget, BACKENDS)
