"""The rows of the table; benchmarks/README.md says what each one is and what is asked of it.

A row gives seconds unless its `unit` says otherwise. Within its process it warms up, then takes the median of
a few repetitions; the driver takes the median over several processes.
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
