"""
An array larger than the workers' memory
========================================

A file holds an array of 128 MB. The workers may have 96 MB each. They map the file, and read only what they need.
"""

import os
import tempfile

import matplotlib.pyplot as plt
import numpy as np

from shoal import Parallel, delayed

folder = tempfile.TemporaryDirectory()
path = os.path.join(folder.name, "heights.npy")

# %%
# A landscape of 4000 × 8000 points, written piece by piece.

heights = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(4000, 8000))
columns = np.linspace(0, 12, 8000, dtype=np.float32)
for row in range(4000):
    heights[row] = np.sin(columns + row / 700) * np.cos(columns * row / 9000)
del heights

# %%
# Each call gets the whole array, and looks at a strip of it. shoal sends the name of the file, and the worker maps it.
# A worker that holds more than ``max_worker_memory`` of its own would be replaced. Mapped pages are not its own.

heights = np.load(path, mmap_mode="r")


def summit(heights: np.ndarray, begin: int) -> tuple[float, float]:
    strip = heights[begin : begin + 100]
    return float(strip.max()), float(strip.mean())


found = Parallel(n_jobs=2, max_worker_memory="96M")(delayed(summit)(heights, row) for row in range(0, 4000, 100))
highest, mean = np.transpose(found)
print(f"{heights.nbytes / 1e6:.0f} MB in {len(found)} calls")

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.imshow(heights[::20, ::20], cmap="terrain", extent=(0, 8000, 4000, 0))
left.set(title="The array, one point of 400", xlabel="column", ylabel="row")
right.plot(range(0, 4000, 100), highest, label="highest point")
right.plot(range(0, 4000, 100), mean, label="mean")
right.set(title="Strips of 100 rows", xlabel="row", ylabel="height")
right.legend()
plt.show()

# %%
# The file goes with its folder. On Windows it must not be mapped any more.

del heights
folder.cleanup()
