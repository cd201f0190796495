"""
A pipeline of images
====================

A generator makes images, workers sharpen them, and a slow consumer takes them one at a time. ``max_pending`` bounds how
many images are under way, so memory stays bounded however many images there are.
"""

import time
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np

from shoal import Parallel, delayed

# %%
# The source: it notes when each image is read.

read: list[float] = []
begin = time.perf_counter()


def images(count: int) -> Iterator[np.ndarray]:
    y, x = np.mgrid[-1:1:240j, -1:1:240j]
    for number in range(count):
        read.append(time.perf_counter() - begin)
        angle = number / count * np.pi
        yield np.sin(20 * (x * np.cos(angle) + y * np.sin(angle))) * np.exp(-3 * (x * x + y * y))


def sharpen(image: np.ndarray) -> np.ndarray:
    for _ in range(10):
        blurred = sum(np.roll(image, shift, axis) for shift in (1, -1) for axis in (0, 1)) / 4
        image = np.clip(image + 0.3 * (image - blurred), -1, 1)
    return image


# %%
# The consumer takes 30 ms for each image. ``return_as="generator"`` hands them out in order.

taken: list[float] = []
kept: list[np.ndarray] = []
parallel = Parallel(n_jobs=2, return_as="generator", max_pending=8)
for number, image in enumerate(parallel(delayed(sharpen)(image) for image in images(60))):
    time.sleep(0.03)
    taken.append(time.perf_counter() - begin)
    if number % 15 == 0:
        kept.append(image)

# %%

figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
for axis, image in zip(axes, kept, strict=True):
    axis.imshow(image, cmap="gray")
    axis.set_axis_off()
figure.suptitle("Four of the sharpened images")
plt.show()

# %%
# The source runs ahead of the consumer, but never further than ``max_pending`` and what is being read ahead allow.

figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
axis.step(read, range(1, 61), where="post", label="read from the source")
axis.step(taken, range(1, 61), where="post", label="taken by the consumer")
axis.set(title="Images over time", xlabel="seconds", ylabel="images")
axis.legend()
plt.show()
