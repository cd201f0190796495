"""The rows of the table; benchmarks/README.md describes them and their targets.

A row returns seconds unless its `unit` says otherwise. Within its process it warms up and then takes the median of some
repetitions. The driver takes the median over several processes.
"""

from __future__ import annotations

from benchmarks._registry import Row

from . import cache, calls, data, files, hashing, memory, processes, sklearn, survival, workers

ROWS: dict[str, Row] = {
    value.name: value
    for module in (processes, calls, data, hashing, cache, memory, sklearn, survival, workers)
    for value in vars(module).values()
    if isinstance(value, Row)
} | {value.name: value for value in files.FILES}
