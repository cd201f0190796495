"""What shoal does in the time above the floor of a row, for the rows whose multiple is above 1.5."""

_RUN = (
    "The plan of the run, its schedule and its futures: about 230 Python calls for each run, and 120 for each batch. "
    "The caller's thread and the thread that reads from the workers take turns at the interpreter's lock."
)
_START = (
    "What makes a worker a fresh process: its environment, random states, signals, limits. It copies 2.8 MB for that."
)
_TABLE = (
    "Equal tables have equal digests however they are divided into chunks, and whatever is beneath missing values: "
    "each run of rows is brought into one form."
)
_WRAPPER = "scikit-learn's wrapper of each call, and the interpreter's lock, which the two threads share."

RESTS = {
    "import_time": "21 modules of shoal, and of the standard library `collections` and `threading`.",
    "first_call": "The import, and the fork server: a second interpreter, which imports what workers need.",
    "warm_two": _RUN,
    "calls_1000": _RUN,
    "calls_1000_main": f"The function travels by value. {_RUN}",
    "unordered_1000": f"A thread runs the calls, and the generator takes results from it one by one. {_RUN}",
    "calls_100000": "The caller's generator makes 100,000 tuples. The worker notes each call before it runs it.",
    "calls_100000_main": "The caller's generator makes 100,000 tuples. The worker notes each call before it runs it.",
    "threads_2000": "Each call passes the schedule, which keeps results in order, measures, and judges failures.",
    "inline_20000": "Failures that name their call, and the budget of CPUs for runs inside the calls.",
    "arrays_480kb": "Each batch is pickled, and its arrays are copied into shared memory one by one.",
    "big_dict": "The workers start, and each of them unpickles the dict.",
    "hash_dict": "Equal values have equal digests: pickle's bytes depend on which of their parts are the same object.",
    "hash_dict_md5": "The digest is joblib's, which is that of a pickle which its own Python pickler writes.",
    "hash_pandas": _TABLE,
    "hash_polars": _TABLE,
    "hash_arrow": _TABLE,
    "hash_small": "A class is chosen for each type, and keys are sorted, in Python.",
    "cache_hit": "The function's source and the result's checksum are compared, and the time of use is written.",
    "cache_miss": "A lease that keeps other processes from the same call, a file with metadata, the function's source.",
    "cache_at_limit": "A lease, metadata, and an index of sizes and times of use, in SQLite.",
    "many_first": _START,
    "many_warm": _RUN,
    "many_calls": _RUN,
    "few_descriptors": _START,
    "memory_numpy": _START,
    "replacement": f"The pool's thread notices the death, and asks the server for another process. {_START}",
    "own_process": "A worker copies 850 pages of memory from its start to its end, which takes most of its time.",
    "first_call_numpy": "The import, and the fork server: a second interpreter, which imports numpy too.",
    "sklearn_grid": "scikit-learn's own loop around the fits, which is not parallel.",
    "sklearn_predict": _WRAPPER,
    "sklearn_isolation": _WRAPPER,
    "sklearn_threads": "scikit-learn's wrapper of each call: the interpreter's lock lets one thread run it at a time.",
    "sklearn_processes": "scikit-learn's wrapper of each call is pickled, with a dictionary of its settings.",
    "sklearn_cross_val": "scikit-learn's own work around the fits, which is not parallel.",
    "sklearn_rfecv": "scikit-learn's own work around the fits, which is not parallel.",
    "sklearn_forest": "scikit-learn's own work around the fits, and the interpreter's lock between them.",
    "theirs_small": "Each array is a Python object, which is described by a Python function.",
    "dump_doubles_z": "The same two cores compute three checksums, join the parts of each block, and write the file.",
    "dump_forest_z": "The pickling, before the compression.",
    "load_forest_z": "The unpickling, after the decompression.",
}
