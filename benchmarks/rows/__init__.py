"""The rows of the table; benchmarks/README.md describes them and their targets.

A row returns seconds unless its `unit` says otherwise. Within its process it warms up and then takes the median of some
repetitions. The driver takes the median over several processes.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

from benchmarks._registry import Row, faster
from benchmarks.contenders import LIBRARIES

from . import cache, calls, data, files, hashing, memory, processes, sklearn, survival, workers


def _of(module: ModuleType) -> list[Row]:
    return [value for value in vars(module).values() if isinstance(value, Row)]


#: Headings of the page of figures, and the rows below them.
GROUPS: dict[str, list[Row]] = {
    "Whole scripts": _of(processes),
    "Calls": _of(calls),
    "Large arguments and results": _of(data),
    "Hashes": _of(hashing),
    "Stored results": _of(cache),
    "Resources of the program": _of(memory),
    "Under scikit-learn": _of(sklearn),
    "Faults and threads": _of(survival),
    "Worker processes": _of(workers),
    "Files": files.FILES,
}
ROWS: dict[str, Row] = {row.name: row for rows in GROUPS.values() for row in rows}

#: Rows of runs on worker processes. On a narrow system, shoal has to be as fast as joblib in each.
_ON_PROCESSES = """
    first_call warm_two calls_1000 calls_1000_main unordered_1000 calls_100000 calls_100000_main mixed_400 array_400mb
    results_100mb arrays_480kb arrays_1600kb big_dict sklearn_grid sklearn_processes sklearn_cross_val sklearn_rfecv
    sklearn_first_fit many_first many_warm many_calls first_cv_16 first_cv_2 first_call_numpy
"""
NARROW: dict[str, Row] = {
    name: replace(ROWS[name], contenders=LIBRARIES, floors=(), targets=(faster(1),)) for name in _ON_PROCESSES.split()
}
