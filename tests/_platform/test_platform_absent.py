"""A system without processes and threads, as Pyodide is: shoal is imported, and all calls run in the caller."""

from __future__ import annotations

import json
from collections.abc import Callable

#: Takes away what Pyodide lacks, before anything imports it.
HIDDEN = """
import json, sys, threading, warnings

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("_multiprocessing", "_posixsubprocess", "resource", "fcntl"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in ("_multiprocessing", "_posixsubprocess", "resource", "fcntl"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())

def start(self):
    raise RuntimeError("can't start new thread")

threading.Thread.start = start

import shoal
from shoal import Parallel, delayed, effective_n_jobs
from shoal._platform import processes
processes._WEB = (sys.platform,)
"""


def test_everything_runs_inline_with_one_warning(fresh_python: Callable[..., str]) -> None:
    program = """
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    results = [
        Parallel(n_jobs=2, **options)(delayed(abs)(-i) for i in range(3))
        for options in ({}, {"backend": "loky"}, {"backend": "threading"}, {"backend": "multiprocessing"})
    ]
    results.append(list(Parallel(n_jobs=2, return_as="generator")(delayed(abs)(-i) for i in range(3))))
    counts = [effective_n_jobs(number) for number in (1, 2, -1)]
print(json.dumps([results, counts, [f"{one.category.__name__}: {one.message}" for one in said]]))
"""
    results, counts, said = json.loads(fresh_python(HIDDEN + program))
    assert results == [[0, 1, 2]] * 5
    assert counts == [1, 1, 1]
    assert said == [
        "FallbackWarning: this system starts neither processes nor threads, so calls run one after the other"
    ]


def test_one_worker_starts_no_thread(fresh_python: Callable[..., str]) -> None:
    program = """
messages = []
warnings.simplefilter("error")
assert Parallel(n_jobs=1)(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
Parallel(on_message=lambda message, call: messages.append(message))(delayed(shoal.send)(i) for i in range(3))
shoal.shutdown_workers()
print(json.dumps(messages))
"""
    assert json.loads(fresh_python(HIDDEN + program)) == [0, 1, 2]


def test_threads_serve_where_there_are_threads_only(fresh_python: Callable[..., str]) -> None:
    program = """
warnings.simplefilter("error")
processes.has_threads = lambda: True
threading.Thread.start = begin
try:
    Parallel(n_jobs=2, backend="loky")
except shoal.FallbackWarning as warning:
    print(warning)
warnings.simplefilter("ignore")
assert Parallel(n_jobs=2, backend="loky")(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
"""
    hidden = HIDDEN.replace("def start(", "begin = threading.Thread.start\n\ndef start(")
    assert "'loky' needs worker processes" in fresh_python(hidden + program)
