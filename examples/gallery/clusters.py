"""
dask and ray on this machine
============================

The same calls on workers of shoal, of a dask cluster and of a ray cluster. Both clusters run on this machine here;
elsewhere, only the address differs.
"""

import time
from importlib.util import find_spec

import matplotlib.pyplot as plt

from shoal import Parallel, delayed, parallel_config

# %%


def work(number: int) -> int:
    return sum(divisor for divisor in range(1, 2000) if number % divisor == 0)


def timed() -> float:
    calls = [delayed(work)(number) for number in range(1, 1001)]
    Parallel()(calls[:10])  # what the first run of a cluster has to start is not measured
    begin = time.perf_counter()
    assert Parallel()(calls)[5] == 12
    return time.perf_counter() - begin


seconds = {}
with parallel_config("loky", n_jobs=2):
    seconds["loky"] = timed()

# %%
# dask: a scheduler and a worker, in processes of their own. ``Client("tcp://scheduler:8786")`` is a cluster elsewhere.

if find_spec("distributed"):
    from distributed import Client

    with Client(n_workers=1, threads_per_worker=2, dashboard_address=None), parallel_config("dask"):
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
# One machine's own workers are the fastest. A cluster pays when calls need more CPUs or memory than one machine has.

figure, axis = plt.subplots(figsize=(7, 2.2), layout="constrained")
bars = axis.barh(list(seconds), list(seconds.values()))
axis.bar_label(bars, fmt="%.2f s", padding=3)
axis.invert_yaxis()
axis.set(title="1,000 calls on two workers", xlabel="seconds", xlim=(0, 1.15 * max(seconds.values())))
plt.show()
