"""
Clusters of dask and ray
========================

The same calls on workers of shoal, of a dask cluster and of a ray cluster. Both clusters run on this machine here;
elsewhere, only the address differs.
"""

import time
from importlib.util import find_spec

import matplotlib.pyplot as plt

from shoal import Parallel, delayed, parallel_config

# %%


def work(number: int) -> int:
    return number**2


def timed() -> float:
    """Return the seconds that a run of 1,000 calls takes: the least of five, after one that starts the workers."""
    calls = [delayed(work)(number) for number in range(1000)]
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        assert Parallel()(calls)[5] == 25
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])


seconds = {}
with parallel_config("loky", n_jobs=2):
    seconds["loky"] = timed()

# %%
# dask: ``processes=False`` makes a small cluster in this process. ``Client("tcp://scheduler:8786")`` is one elsewhere.

if find_spec("distributed"):
    from distributed import Client

    with Client(processes=False, threads_per_worker=2, dashboard_address=None), parallel_config("dask"):
        seconds["dask"] = timed()

# %%
# ray: ``ray.init("auto")`` is the cluster that this machine belongs to.

if find_spec("ray"):
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    with parallel_config("ray"):
        seconds["ray"] = timed()
    ray.shutdown()

# %%
# These calls do next to nothing, so the times are those of sending them there and back. A cluster pays when calls
# need more CPUs or memory than one machine has.

figure, axis = plt.subplots(figsize=(7, 2.2), layout="constrained")
milliseconds = [1000 * value for value in seconds.values()]
bars = axis.barh(list(seconds), milliseconds)
axis.bar_label(bars, fmt="%.0f ms", padding=3)
axis.invert_yaxis()
axis.set(title="1,000 calls on two workers", xlabel="milliseconds", xlim=(0, 1.15 * max(milliseconds)))
plt.show()
