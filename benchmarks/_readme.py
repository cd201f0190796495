"""The table of README.md, from the file of figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ._page import amount
from ._report import number

BEGIN = "<!-- `make bench` writes this table. -->\n"
END = "<!-- The end of the table. -->\n"

#: The rows that the table shows, and what it calls them. A name may be followed by the contender that stands for shoal.
SHOWN = {
    "import_time": "import, above a bare interpreter",
    "first_call": "first call of a script, whole process",
    "warm_two": "two no-op calls on warm workers",
    "calls_1000_main": "1,000 no-op calls of a function of `__main__`",
    "calls_1000": "1,000 no-op calls of an importable function",
    "calls_100000": "100,000 no-op calls",
    "many_first": "the first 128 calls on 128 workers",
    "memory_sklearn": "16 workers that use scikit-learn, memory",
    "threads_2000": "2,000 no-op calls on threads",
    "array_400mb": "one array of 400 MB into 20 calls",
    "results_100mb": "4 results of 100 MB",
    "arrays_480kb": "500 arrays of 480 KB there and back",
    "big_dict": "a dict of 200,000 tuples into 200 calls",
    "big_dict shared": "the same with `shared(d)`",
    "dump_floats": "`dump` of a list of a million floats",
    "load_tuples": "`load` of a dict of 200,000 tuples",
    "dump_forest": "`dump` of a forest of 100 trees",
    "dump_doubles_z": "`dump(compress=3)` of 100 MB of random doubles",
    "hash_100mb": "`hash` of an array of 100 MB",
    "cache_hit": "load of a small result by `Memory`",
    "sklearn_processes": "scikit-learn: 1,000 no-op calls of its own `Parallel`",
    "sklearn_predict": "scikit-learn: `forest.predict`, 10 rows, two threads",
    "sklearn_grid": "scikit-learn: `GridSearchCV`, 15 short fits",
}


def written(text: str, content: Mapping[str, Any]) -> str:
    """Return the text of README.md with the table of these figures."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return (
        f"{before}{BEGIN}\n| | joblib | shoal | ratio |\n|---|---:|---:|---:|\n{''.join(_lines(content))}\n{END}{after}"
    )


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    for key, text in SHOWN.items():
        name, _, contender = key.partition(" ")
        row = content["rows"].get(name)
        if row is not None:
            theirs, ours = row["medians"]["joblib"], row["medians"][contender or "shoal"]
            shown = amount(theirs, row["unit"]), amount(ours, row["unit"]), number(theirs / ours)
            yield f"| {text} | {' | '.join(shown)} |\n"
