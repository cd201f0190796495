"""
A parameter sweep
=================

One call for each pair of parameters of a simulation. A callable for ``progress=`` sees how far the run is, and a report
says how well the workers were used.
"""

import time

import matplotlib.pyplot as plt
import numpy as np

import shoal
from shoal import Parallel, delayed

# %%
# The simulation is a ball in a box of air: how far does it fly?


def distance(angle: float, drag: float) -> float:
    """Return how far a ball flies, in metres."""
    x, y, step = 0.0, 0.0, 0.0005
    vx, vy = 30 * np.cos(angle), 30 * np.sin(angle)
    while y >= 0:
        speed = (vx * vx + vy * vy) ** 0.5
        vx, vy = vx - step * drag * speed * vx, vy - step * (9.81 + drag * speed * vy)
        x, y = x + step * vx, y + step * vy
    return float(x)


angles = np.radians(np.linspace(10, 80, 24))
drags = np.linspace(0, 0.05, 10)

# %%
# The calls run on two workers, and the results come back in the order of the calls.
# On a terminal and in a notebook, ``progress=True`` shows a bar; here, a function notes the times.

seen = []
begin = time.perf_counter()


def note(done: int, total: int | None) -> None:
    seen.append((time.perf_counter() - begin, done))


with shoal.report() as report:
    found = Parallel(n_jobs=2, progress=note)(delayed(distance)(angle, drag) for drag in drags for angle in angles)
distances = np.reshape(found, (len(drags), len(angles)))

# %%
# Without air, 45° is best. With it, a lower angle is.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
colours = plt.colormaps["viridis"](np.linspace(0, 0.9, len(drags)))
for row, colour in zip(distances, colours, strict=True):
    left.plot(np.degrees(angles), row, color=colour)
    left.plot(np.degrees(angles[row.argmax()]), row.max(), "o", color=colour)
left.set(title="How far the ball flies, from no drag to much", xlabel="angle in degrees", ylabel="metres")
right.step(*zip(*seen, strict=True), where="post")
right.set(title="Progress of the run", xlabel="seconds", ylabel="calls done")
plt.show()

# %%
# The report names what made the run slow, if anything did. In a notebook, a report as the last line of a cell shows
# this page.

report
