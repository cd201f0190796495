"""A system without processes and threads, as Pyodide is: shoal is imported, and all calls run in the caller."""

from __future__ import annotations

import json
from collections.abc import Callable

#: Takes away what Pyodide lacks, before anything imports it.
HIDDEN = """
import json, platform, sys, threading, time, warnings  # in Python 3.10, platform imports subprocess

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("_multiprocessing", "_posixsubprocess", "resource", "fcntl"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in ("_multiprocessing", "_posixsubprocess", "resource", "fcntl"):
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Absent())

def start(self):
    raise RuntimeError("can't start new thread")

del time.thread_time
threading.Thread.start = start

import shoal
from shoal import Parallel, delayed, effective_n_jobs
from shoal._platform import capabilities
capabilities._WEB = (sys.platform,)
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
        "FallbackWarning: neither processes nor threads can be started here, so calls run one after the other"
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


def test_a_report_measures_calls_in_the_caller(fresh_python: Callable[..., str]) -> None:
    program = """
warnings.simplefilter("ignore")
with shoal.report() as report:
    for n_jobs in (1, 2):
        Parallel(n_jobs=n_jobs)(delayed(abs)(-i) for i in range(3))
print(json.dumps([run["calls"]["done"] for run in report.to_dict()["runs"]]))
"""
    assert json.loads(fresh_python(HIDDEN + program)) == [3, 3]


def test_an_executor_runs_each_call_when_it_is_submitted(fresh_python: Callable[..., str]) -> None:
    program = """
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    executor = shoal.executor(2, retries=1, task_timeout=60)
tries, numbers = [], []

def fail_once(number):
    tries.append(number)
    if len(tries) == 1:
        raise LookupError(number)
    return executor.submit(abs, -number).result()

with executor:
    outcomes = [executor.submit(fail_once, 5).result(), list(executor.map(divmod, [7, 9], [2, 4]))]
    failed = executor.submit(divmod, 1, 0)
    failed.add_done_callback(lambda future: numbers.append(type(future.exception()).__name__))
    try:
        executor.submit(sys.exit, 3)
    except SystemExit as error:
        numbers.append(error.code)
try:
    executor.submit(abs, 1)
except RuntimeError as error:
    numbers.append(str(error))
executor.stop()
print(json.dumps([outcomes, tries, numbers, repr(executor), [str(one.message) for one in said]]))
"""
    outcomes, tries, numbers, text, said = json.loads(fresh_python(HIDDEN + program))
    assert outcomes == [5, [[3, 1], [2, 1]]]
    assert tries == [5, 5]
    assert numbers == ["ZeroDivisionError", 3, "cannot schedule new futures after shutdown"]
    assert text == "<shoal.executor in the caller>"
    assert [message.partition(",")[0].partition(":")[0] for message in said] == [
        "neither processes nor threads can be started here",
        "task_timeout=60 is ignored",
    ]


def test_threads_serve_where_there_are_threads_only(fresh_python: Callable[..., str]) -> None:
    program = """
warnings.simplefilter("error")
capabilities.has_threads = lambda: True
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
