"""The real joblib in the same process: neither disturbs the other, whichever is imported first."""

from __future__ import annotations

import glob
from pathlib import Path

import pytest

from _capabilities import SLOWNESS
from _children import SPAWNED
from _faults_util import Child

ORDERS = {
    "joblib first": """
import sklearn.ensemble, joblib
joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(i) for i in range(4))
import shoal
""",
    "shoal first": """
import shoal
shoal.Parallel(n_jobs=2)(shoal.delayed(abs)(i) for i in range(4))
import joblib
""",
}


@pytest.mark.parametrize("order", ORDERS)
def test_runs_of_both_take_turns(tmp_path: Path, order: str) -> None:
    """With arrays of 100 MB; multiprocessing's contexts stay joblib's, and nothing is said on stderr."""
    source = f"""
import warnings
warnings.filterwarnings("ignore", category=DeprecationWarning)
{ORDERS[order]}
import multiprocessing.context as contexts
import numpy, os
from joblib.externals.loky.backend.context import LokyContext as Joblibs

def total(array, i):
    return float(array[i]), os.getpid()

def grow(i):
    return numpy.full(2_000_000, float(i))

registered = {{name: type(context) for name, context in contexts._concrete_contexts.items()}}
assert registered["loky"] is Joblibs
array = numpy.arange(12_500_000, dtype=float)
pids = {{}}
for turn in range(2):
    for library in (shoal, joblib):
        pairs = library.Parallel(n_jobs=2)(library.delayed(total)(array, i) for i in range(5))
        assert [value for value, _ in pairs] == list(range(5))
        pids.setdefault(library, set()).update(pid for _, pid in pairs)
        grown = library.Parallel(n_jobs=2)(library.delayed(grow)(i) for i in range(3))
        assert all((result == i).all() for i, result in enumerate(grown))
assert not pids[shoal] & pids[joblib]
assert {{name: type(context) for name, context in contexts._concrete_contexts.items()}} == registered
print("ok", flush=True)
"""
    with Child(source, tmp_path) as child:
        assert child.wait() == (0, "ok\n", "")
        assert child.leaves_nothing() == []


#: The start method of a loky worker is "loky". multiprocessing sets it in the processes that the worker spawns, where
#: loky is not imported yet.
_in_joblib = pytest.mark.skipif(SPAWNED, reason="a worker of loky's cannot spawn processes by multiprocessing")


@pytest.mark.parametrize("outer", ["shoal", pytest.param("joblib", marks=_in_joblib)])
def test_one_inside_the_other(tmp_path: Path, outer: str) -> None:
    """Workers end by themselves, also those within which the other library's have been left idle."""
    inner = {"shoal": "joblib", "joblib": "shoal"}[outer]
    source = f"""
import atexit, os, joblib, shoal
from shoal.backends import _pool
_pool.EXIT_SECONDS *= {SLOWNESS}  # workers that take longer to end are killed
def rows(n):
    atexit.register(open, {str(tmp_path)!r} + f"/{{os.getpid()}}", "w")
    return os.getpid(), {inner}.Parallel(n_jobs=2)({inner}.delayed(pow)(i, 2) for i in range(n))
pids, values = zip(*{outer}.Parallel(n_jobs=2)({outer}.delayed(rows)(n) for n in range(5)))
assert list(values) == [[i * i for i in range(n)] for n in range(5)]
print("ok", *sorted(set(pids)), flush=True)
"""
    with Child(source, tmp_path) as child:
        code, out, _ = child.wait()
        # A worker of joblib's that still starts when its parent ends complains, also without shoal (joblib 1.6.0).
        assert (code, out[:3]) == (0, "ok ")
        assert child.leaves_nothing() == []
    if outer == "shoal":
        for pid in out.split()[1:]:
            assert (tmp_path / pid).exists(), "it was killed"
            assert glob.glob(f"/dev/shm/joblib_memmapping_folder_{pid}_*") == []
