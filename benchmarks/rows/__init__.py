"""The rows of the table; benchmarks/README.md describes them and their targets.

A row returns seconds unless its `unit` says otherwise. Within its process it warms up and then takes the median of some
repetitions. The driver takes the median over several processes.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks._registry import Row, faster
from benchmarks.contenders import LIBRARIES

from . import cache, calls, data, files, hashing, memory, processes, sklearn, survival, workers

ROWS: dict[str, Row] = {
    value.name: value
    for module in (processes, calls, data, hashing, cache, memory, sklearn, survival, workers)
    for value in vars(module).values()
    if isinstance(value, Row)
} | {value.name: value for value in files.FILES}

#: Rows of runs on worker processes. On a narrow system, shoal has to be as fast as joblib in each.
_ON_PROCESSES = """
    first_call warm_two calls_1000 calls_1000_main unordered_1000 calls_100000 calls_100000_main mixed_400 array_400mb
    results_100mb arrays_480kb arrays_1600kb big_dict sklearn_grid sklearn_processes sklearn_cross_val sklearn_rfecv
    sklearn_first_fit many_first many_warm many_calls first_cv_16 first_cv_2 first_call_numpy
"""
NARROW: dict[str, Row] = {
    name: replace(ROWS[name], contenders=LIBRARIES, floors=(), targets=(faster(1),)) for name in _ON_PROCESSES.split()
}
