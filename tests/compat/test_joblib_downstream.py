"""Ways in which other projects use joblib, found in their code, with shoal in joblib's place.

Each pattern runs in a process of its own, in which an import of the real joblib fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = str(Path(__file__).resolve().parents[2] / "src")

PRELUDE = """\
import importlib.abc, os, sys, warnings
warnings.simplefilter("error")

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "joblib" or (name.startswith("joblib.") and not str(list(path)[0]).startswith(os.environ["SHOAL"])):
            raise AssertionError(f"the real joblib is imported: {name}")
        return None

import shoal
shoal.install_as_joblib()
sys.meta_path.insert(1, Blocker())
"""


def run(tmp_path: Path, code: str, prelude: str = PRELUDE, **variables: str) -> str:
    """Run a program with shoal in joblib's place; return its output."""
    script = tmp_path / "program.py"
    script.write_text(prelude + code)
    environment = {**os.environ, "PYTHONPATH": SOURCE, "SHOAL": SOURCE, **variables}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "leaked" not in done.stderr
    return done.stdout


PATTERNS = {
    "a subclass that wraps the functions of its calls": """
from joblib import Parallel, delayed
class Wrapped:
    def __init__(self, function): self.function = function
    def __call__(self, *args, **kwargs): return self.function(*args, **kwargs)
class Sub(Parallel):
    def __call__(self, iterable):
        return super().__call__((Wrapped(f), a, k) for f, a, k in iterable)
if __name__ == "__main__":
    for backend in ("loky", "threading"):
        assert Sub(n_jobs=2, backend=backend)(delayed(pow)(i, 2) for i in range(9)) == [i**2 for i in range(9)]
""",
    "print_progress is overridden, and reads the counters": """
from joblib import Parallel, delayed
class ProgressParallel(Parallel):
    def __init__(self, n_jobs, total):
        super().__init__(n_jobs=n_jobs, backend="threading")
        self.total, self.seen = total, []
    def print_progress(self):
        self.seen.append((self.n_completed_tasks, self.n_dispatched_tasks, self._is_completed()))
for n_jobs in (1, 2):
    p = ProgressParallel(n_jobs, 7)
    p(delayed(abs)(i) for i in range(7))
    assert p.seen[-1][0] == p.n_completed_tasks == p.n_dispatched_tasks == 7, p.seen
""",
    "print_progress is assigned to the class (joblib_progress)": """
import joblib
from joblib import Parallel, delayed
seen = []
original = joblib.parallel.Parallel.print_progress
joblib.parallel.Parallel.print_progress = lambda self: seen.append(self.n_completed_tasks)
try:
    for n_jobs in (1, 2):
        Parallel(n_jobs=n_jobs, backend="threading")(delayed(abs)(i) for i in range(5))
        assert max(seen) == 5
        seen.clear()
finally:
    joblib.parallel.Parallel.print_progress = original
Parallel(n_jobs=2, backend="threading")(delayed(abs)(i) for i in range(5))
assert not seen
""",
    "BatchCompletionCallBack is replaced (tqdm_joblib, datamol)": """
import joblib
from joblib import Parallel, delayed
if __name__ == "__main__":
    for backend in ("loky", "threading"):
        done = []
        class CallBack(joblib.parallel.BatchCompletionCallBack):
            def __init__(self, *args, **kwargs): super().__init__(*args, **kwargs)
            def __call__(self, *args, **kwargs):
                done.append(self.batch_size)
                return super().__call__(*args, **kwargs)
        old, joblib.parallel.BatchCompletionCallBack = joblib.parallel.BatchCompletionCallBack, CallBack
        try:
            Parallel(n_jobs=2, backend=backend)(delayed(abs)(i) for i in range(11))
        finally:
            joblib.parallel.BatchCompletionCallBack = old
        assert sum(done) == 11, done
""",
    "BatchCompletionCallBack is replaced, with batches of several calls": """
import joblib
from joblib import Parallel, delayed
if __name__ == "__main__":
    for backend in ("loky", "threading"):
        done = []
        class CallBack(joblib.parallel.BatchCompletionCallBack):
            def __call__(self, *args, **kwargs):
                done.append(self.batch_size)
                return super().__call__(*args, **kwargs)
        old, joblib.parallel.BatchCompletionCallBack = joblib.parallel.BatchCompletionCallBack, CallBack
        try:
            p = Parallel(n_jobs=2, backend=backend, batch_size=5)
            p(delayed(abs)(i) for i in range(23))
        finally:
            joblib.parallel.BatchCompletionCallBack = old
        assert sum(done) == 23 == p.n_completed_tasks == p.n_dispatched_tasks, done
        assert max(done) == 5, done
        assert len(done) == p.n_dispatched_batches, done
        seen = []
        class Progress(Parallel):
            def print_progress(self):
                seen.append(self.n_completed_tasks)
        Progress(n_jobs=2, backend=backend, batch_size=5)(delayed(abs)(i) for i in range(23))
        assert seen == sorted(seen) and seen[-1] == 23 and len(seen) == len(done), seen
""",
    "the initializer of the workers is wrapped": """
import os
from joblib import Parallel, delayed
def init(): os.environ["WAS_HERE"] = "yes"
def look(): return os.environ.get("WAS_HERE")
if __name__ == "__main__":
    p = Parallel(n_jobs=2, backend="loky")
    p.__enter__()
    assert p._backend._workers._initializer is None
    p._backend._workers._initializer = init
    p._backend._workers._initargs = ()
    assert set(p(delayed(look)() for _ in range(4))) == {"yes"}
    p.__exit__(None, None, None)
""",
    "a subclass of LokyBackend configures itself": """
import os
from joblib import Parallel, delayed, parallel_config, register_parallel_backend
from joblib._parallel_backends import LokyBackend
def init(value): os.environ["VALUE"] = value
def look(x): return os.environ.get("VALUE"), type(x).__name__
class Mine(LokyBackend):
    def configure(self, *args, **kwargs):
        return super().configure(*args, **{**kwargs, "max_nbytes": None, "initializer": init, "initargs": ("set",)})
if __name__ == "__main__":
    register_parallel_backend("mine", Mine)
    with parallel_config("mine", n_jobs=2):
        assert set(Parallel()(delayed(look)(i) for i in range(4))) == {("set", "int")}
""",
    "a subclass changes how arrays are sent": """
import numpy
from joblib import Parallel, delayed, parallel_config, register_parallel_backend
from joblib._parallel_backends import LokyBackend, MultiprocessingBackend
def look(array): return type(array).__name__, array.flags.writeable
def subclass(base, **changed):
    class Mine(base):
        def configure(self, *args, **kwargs):
            return super().configure(*args, **{**kwargs, **changed})
    return Mine
if __name__ == "__main__":
    array = numpy.ones(300_000)
    for base in (LokyBackend, MultiprocessingBackend):
        for changed, seen in (({"max_nbytes": None}, ("ndarray", True)), ({"mmap_mode": "c"}, ("memmap", True)),
                              ({"max_nbytes": 10**9}, ("ndarray", True)), ({}, ("memmap", False))):
            register_parallel_backend("mine", subclass(base, **changed))
            with parallel_config("mine", n_jobs=2):
                assert set(Parallel()(delayed(look)(array) for _ in range(2))) == {seen}, (base, changed)
                with Parallel() as parallel:
                    assert set(parallel(delayed(look)(array) for _ in range(2))) == {seen}, (base, changed)
""",
    "a subclass of LokyBackend wraps the callback (freqtrade)": """
from joblib import Parallel, delayed
from joblib._parallel_backends import LokyBackend
seen = []
class Mine(LokyBackend):
    def submit(self, func, callback=None):
        def wrapped(out):
            seen.append(len(func.items))
            callback(out)
        return super().submit(func, wrapped)
    apply_async = submit
if __name__ == "__main__":
    results = Parallel(n_jobs=2, backend=Mine())(delayed(pow)(i, 2) for i in range(20))
    assert results == [i**2 for i in range(20)] and sum(seen) == 20, (results, seen)
    try:
        Parallel(n_jobs=2, backend=Mine())(delayed(int)(i) for i in ["1", "x", "2"])
    except ValueError as error:
        assert "'x'" in str(error)
    else:
        raise AssertionError
""",
    "only apply_async, and get() (joblib-spark, htcondor)": """
import cloudpickle
from concurrent.futures import ThreadPoolExecutor
from joblib import Parallel, delayed, parallel_config
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase, SequentialBackend, register_parallel_backend
from joblib._utils import _TracebackCapturingWrapper, _retrieve_traceback_capturing_wrapped_call
import warnings; warnings.simplefilter("default")
class Job:
    def __init__(self, future): self.future = future
    def get(self, timeout=None):
        return _retrieve_traceback_capturing_wrapped_call(self.future.result(timeout))
class Spark(ParallelBackendBase, AutoBatchingMixin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._pool = None
    def effective_n_jobs(self, n_jobs): return 2 if n_jobs in (None, -1) else n_jobs
    def configure(self, n_jobs=1, parallel=None, prefer=None, require=None, **kwargs):
        n_jobs = self.effective_n_jobs(n_jobs)
        self._pool = ThreadPoolExecutor(n_jobs)
        self.parallel = parallel
        return n_jobs
    def apply_async(self, func, callback=None):
        blob = cloudpickle.dumps(_TracebackCapturingWrapper(func))
        future = self._pool.submit(lambda: cloudpickle.loads(blob)())
        if callback: future.add_done_callback(callback)
        return Job(future)
    def terminate(self):
        if self._pool: self._pool.shutdown(wait=False)
    def abort_everything(self, ensure_ready=True):
        self.terminate()
        if ensure_ready: self.configure(self.parallel.n_jobs, self.parallel)
    def get_nested_backend(self): return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None
    def start_call(self): self.started = True
register_parallel_backend("spark", Spark)
def nested(x):
    from joblib.parallel import get_active_backend
    return type(get_active_backend()[0]).__name__, x
with parallel_config("spark", n_jobs=3):
    assert Parallel()(delayed(nested)(i) for i in range(10)) == [("SequentialBackend", i) for i in range(10)]
    try:
        Parallel()(delayed(int)(x) for x in ["1", "y"])
    except ValueError: pass
    else: raise AssertionError
""",
    "the callback receives the result (ipyparallel)": """
import threading
from joblib import Parallel, delayed
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase
class View(AutoBatchingMixin, ParallelBackendBase):
    supports_retrieve_callback = True
    def __init__(self, view=None, **kwargs):
        super().__init__(**kwargs)
        self._view = view
    def effective_n_jobs(self, n_jobs): return 2
    def submit(self, func, callback=None):
        def work(): callback(func())
        threading.Thread(target=work).start()
    def retrieve_result_callback(self, out): return out
p = Parallel(n_jobs=2, backend=View(view="here"))
assert p(delayed(abs)(-i) for i in range(30)) == list(range(30))
assert p._backend._view == "here"
results = Parallel(n_jobs=2, backend=View(), return_as="generator")(delayed(abs)(-i) for i in range(5))
assert list(results) == list(range(5))
""",
    "the base of PicklingPool is replaced (ray, lithops)": """
from multiprocessing.pool import ThreadPool, Pool
from joblib import Parallel, delayed, parallel_config
from joblib._parallel_backends import MultiprocessingBackend
from joblib.parallel import register_parallel_backend
from joblib.pool import PicklingPool
class RayPool(ThreadPool):
    calls = 0
    def __init__(self, processes=None, context=None, ray_remote_args=None, **kwargs):
        self.remote = ray_remote_args
        super().__init__(processes)
    def apply_async(self, func, args=(), kwargs=None, callback=None, error_callback=None):
        RayPool.calls += 1
        return super().apply_async(func, args, kwargs or {}, callback, error_callback)
    def _setup_queues(self):
        ThreadPool._setup_queues(self)
class Ray(MultiprocessingBackend):
    def __init__(self, nesting_level=None, inner_max_num_threads=None, ray_remote_args=None, **kwargs):
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads, **kwargs)
        self.args = ray_remote_args
    def configure(self, n_jobs=1, parallel=None, prefer=None, require=None, **kwargs):
        PicklingPool.__bases__ = (RayPool,)
        PicklingPool._setup_queues = RayPool._setup_queues
        return super().configure(n_jobs, parallel, prefer, require, ray_remote_args=self.args, **kwargs)
    def effective_n_jobs(self, n_jobs): return 3
register_parallel_backend("ray", Ray)
with parallel_config("ray", ray_remote_args={"x": 1}):
    assert Parallel(n_jobs=-1)(delayed(abs)(-i) for i in range(12)) == list(range(12))
assert RayPool.calls
""",
    "start_call sets the number of workers (lithops)": """
from multiprocessing.pool import ThreadPool
from joblib import Parallel, delayed
from joblib._parallel_backends import MultiprocessingBackend, PoolManagerMixin
sizes = []
class Lithops(MultiprocessingBackend):
    supports_timeout = True
    supports_retrieve_callback = False
    def configure(self, n_jobs=1, parallel=None, prefer=None, require=None, **kwargs):
        self._pool, self.parallel = ThreadPool(2), parallel
        return 8
    def effective_n_jobs(self, n_jobs): return 8
    def start_call(self):
        self.parallel._cached_effective_n_jobs = 1
        self.parallel.pre_dispatch = "all"
    def compute_batch_size(self): return int(1e6)
    def submit(self, func, callback=None):
        sizes.append(len(func.items))
        return self._get_pool().apply_async(func, callback=callback)
    apply_async = submit
assert Lithops.submit is not PoolManagerMixin.submit
assert Parallel(n_jobs=-1, backend=Lithops())(delayed(abs)(-i) for i in range(50)) == list(range(50))
assert sizes == [50], sizes
""",
    "options are set on the instance (pyqlib)": """
import os
from joblib import Parallel, delayed
from joblib._parallel_backends import MultiprocessingBackend
class ParallelExt(Parallel):
    def __init__(self, *args, **kwargs):
        most = kwargs.pop("maxtasksperchild", None)
        super().__init__(*args, **kwargs)
        if isinstance(self._backend, MultiprocessingBackend):
            self._backend_kwargs["maxtasksperchild"] = most
if __name__ == "__main__":
    pids = ParallelExt(n_jobs=2, backend="multiprocessing", maxtasksperchild=1, batch_size=1)(
        delayed(os.getpid)() for _ in range(6))
    assert len(set(pids)) > 2, pids
""",
    "names that projects read": """
import joblib, joblib.parallel
assert "LokyBackend" in str(joblib.Parallel(n_jobs=2)._backend)
assert joblib.parallel.get_active_backend()[1] is None
with joblib.parallel_config(**{"backend": "threading", "n_jobs": 3}):
    assert joblib.parallel.get_active_backend()[1] == 3
with joblib.parallel_backend("loky", max_nbytes=1) as (backend, n_jobs):
    assert n_jobs == -1 and backend.nesting_level == 0
from joblib.externals.loky.backend.context import set_start_method
from joblib.externals.loky import get_reusable_executor, set_loky_pickler
from joblib.externals.loky.process_executor import TerminatedWorkerError, BrokenProcessPool
import loky.backend.context
assert loky.backend.context.set_start_method is set_start_method
get_reusable_executor().shutdown(wait=True)
assert joblib.parallel.mp
# joblib takes a tenth of a second off on Windows.
assert joblib.logger.short_format_time(2.0) == ("   1.9s" if os.name == "nt" else "   2.0s")
assert "joblib" in sys.modules and joblib.__version__ == "1.6.0" and os.path.exists(joblib.__file__)
import importlib.metadata
assert importlib.metadata.version("joblib")
""",
    "a subclass of a hasher": """
import io, pickle
import numpy as np
import joblib
from joblib.hashing import Hasher, NumpyHasher, Pickler
class Mine(NumpyHasher):
    def save(self, obj):
        if isinstance(obj, complex): obj = str(obj)
        super().save(obj)
class Fast(Hasher):
    dispatch = Hasher.dispatch.copy()
    def __init__(self, hash_name="md5"):
        self.stream = io.BytesIO()
        Pickler.__init__(self, self.stream, protocol=3)
        import hashlib
        self._hash = hashlib.new(hash_name)
    def save_global(self, obj, name=None, pack=None): Pickler.save_global(self, obj, name=name)
    dispatch[type(len)] = save_global
values = [1, "a", {"b": 2, "a": {3, 1}}, [np.arange(5)], np.float64, {1: np.ones((2, 3)).T}, "a".upper, int.__add__]
for value in values:
    assert NumpyHasher().hash(value) == joblib.hash(value), value
assert Mine().hash([1j]) != NumpyHasher().hash([1j])
assert Fast().hash({"a": [1, 2]}) == Hasher().hash({"a": [1, 2]}) == joblib.hash({"a": [1, 2]})
""",
    "a subclass of the unpickler (pyod) and of the pickler (scikit-learn)": """
import io, pickle
import numpy as np
import joblib
from joblib.numpy_pickle import NumpyPickler, NumpyUnpickler, _validate_fileobject_and_memmap
objects = np.array(["x", None], dtype=object)
value = {"a": np.arange(6.0).reshape(2, 3), "b": [objects], "c": np.asfortranarray(np.eye(3))}
joblib.dump(value, "file.pkl"); joblib.dump(value, "file.gz", compress=3)
class Compat(NumpyUnpickler):
    dispatch = NumpyUnpickler.dispatch.copy()
    built = 0
    def load_build(self):
        Compat.built += 1
        super().load_build()
    dispatch[pickle.BUILD[0]] = load_build
    def find_class(self, module, name):
        assert module.split(".")[0] in ("numpy", "joblib", "builtins"), module
        return super().find_class(module, name)
for name in ("file.pkl", "file.gz"):
    with open(name, "rb") as f, _validate_fileobject_and_memmap(f, name, None) as (source, mode):
        back = Compat(name, source, ensure_native_byte_order=True, mmap_mode=mode).load()
    assert np.array_equal(back["a"], value["a"]) and back["c"].flags.f_contiguous and back["b"][0][0] == "x"
assert Compat.built
class Picky(NumpyPickler):
    def save(self, obj):
        assert obj is not Ellipsis
        super().save(obj)
buffer = io.BytesIO()
pickler = Picky(buffer)
pickler.dispatch_table = {}
pickler.dump(value)
buffer.seek(0)
back = joblib.load(buffer)
assert np.array_equal(back["a"], value["a"]) and back["b"][0][1] is None
""",
    "parts of numpy_pickle are replaced (clearml)": """
import joblib, joblib.numpy_pickle as module
import numpy as np
seen = []
original = module._write_fileobject
def patched(filename, *args, **kwargs):
    seen.append(filename)
    return original(filename, *args, **kwargs)
module._write_fileobject = patched
joblib.dump({"a": np.ones(9)}, "a.pkl.gz", compress=3)
assert seen == ["a.pkl.gz"] and np.array_equal(joblib.load("a.pkl.gz")["a"], np.ones(9))
module._write_fileobject = original
init = module.NumpyPickler.__init__
def patched_init(self, *args, **kwargs):
    seen.append("init")
    init(self, *args, **kwargs)
module.NumpyPickler.__init__ = patched_init
joblib.dump([np.ones(3)], "b.pkl")
assert seen[-1] == "init" and np.array_equal(joblib.load("b.pkl")[0], np.ones(3))
""",
    "a dropped generator ends later runs on loky, and no others": """
warnings.simplefilter("ignore")
import time
from joblib import Parallel, delayed
def results(values):
    try:
        return sorted(values)
    except RuntimeError as error:
        return str(error).partition(" has been")[0]
def begun(return_as, backend="loky", **options):
    return Parallel(2, backend=backend, return_as=return_as, **options)(delayed(pow)(i, 2) for i in range(4))
if __name__ == "__main__":
    whole, gone = [0, 1, 4, 9], "The executor underlying Parallel"
    for return_as in ("generator", "generator_unordered"):
        before, threads = begun(return_as), begun(return_as, "threading")
        dropped = Parallel(2, return_as=return_as)(delayed(time.sleep)(60) for _ in range(2))
        after, others = begun(return_as), begun(return_as, initializer=abs, initargs=(1,))
        del dropped
        found = [results(each) for each in (before, threads, after, others, begun(return_as))]
        assert found == [whole, whole, gone, whole, whole], found
        for _ in begun(return_as):
            pass
""",
    "mapped arguments are read-only": """
import numpy as np
from joblib import Parallel, delayed
def look(a): return isinstance(a, np.memmap), a.flags.writeable
if __name__ == "__main__":
    for backend in ("loky", "multiprocessing"):
        assert Parallel(2, backend=backend)(delayed(look)(a) for a in [np.ones(10**6)] * 2) == [(True, False)] * 2
""",
    "files contain joblib's names": """
import numpy as np, joblib
joblib.dump([np.ones(10)], "f.pkl")
assert b"joblib.numpy_pickle" in open("f.pkl", "rb").read()
""",
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern(tmp_path: Path, pattern: str) -> None:
    run(tmp_path, PATTERNS[pattern])
