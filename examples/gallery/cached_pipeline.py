"""
A pipeline that remembers
=========================

Two steps, each cached. When a parameter of the last step changes, the first one is loaded. When the program runs again,
both are.
"""

import tempfile
import time

import matplotlib.pyplot as plt
import numpy as np

from shoal import Memory, Parallel, delayed

folder = tempfile.TemporaryDirectory()
memory = Memory(folder.name, verbose=0)

# %%


@memory.cache
def measure(station: int) -> np.ndarray:
    time.sleep(0.1)  # a slow instrument
    hours = np.arange(240)
    return 10 + station + 5 * np.sin(hours / 24 * 2 * np.pi) + np.random.default_rng(station).normal(0, 2, 240)


@memory.cache
def smooth(series: np.ndarray, width: int) -> np.ndarray:
    time.sleep(0.05)
    return np.convolve(series, np.ones(width) / width, mode="same")


def pipeline(station: int, width: int) -> np.ndarray:
    return smooth(measure(station), width)


def timed(width: int) -> tuple[float, list[np.ndarray]]:
    begin = time.perf_counter()
    series = Parallel(n_jobs=2)(delayed(pipeline)(station, width) for station in range(12))
    return time.perf_counter() - begin, series


# %%
# The first run computes all, the second one only what ``width`` changes, the third one nothing.

runs = {"first run": timed(5), "another width": timed(13), "the same again": timed(13)}

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
left.plot(measure(3), color="lightgray", label="measured")
left.plot(runs["first run"][1][3], label="width 5")
left.plot(runs["another width"][1][3], label="width 13")
left.set(title="One station", xlabel="hours", ylabel="°C")
left.legend()
bars = right.barh(list(runs), [seconds for seconds, _ in runs.values()])
right.bar_label(bars, fmt="%.2f s", padding=3)
right.invert_yaxis()
right.set(title="12 stations on two workers", xlabel="seconds", xlim=(0, 1.2 * runs["first run"][0]))
plt.show()

# %%
# What is stored:

info = memory.info()
print(f"{info.entries} results, {info.nbytes / 1000:.0f} kB")
memory.close()
folder.cleanup()
