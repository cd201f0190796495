"""
Monte Carlo with a seed
=======================

Each call gets a random generator of its own. The numbers depend on the seed and on the position of the call, and on
nothing else: one worker and two find the same, to the last bit.
"""

import matplotlib.pyplot as plt
import numpy as np

from shoal import Parallel, delayed

# %%
# What is the mean of the highest price of a share within a year? Each call simulates 500 years.


def highest(years: int, rng: np.random.Generator) -> np.ndarray:
    steps = rng.normal(0.0002, 0.012, size=(years, 250))
    return np.exp(steps.cumsum(axis=1)).max(axis=1)


calls = [delayed(highest)(500) for _ in range(40)]
prices = np.concatenate(Parallel(n_jobs=2, seed=2024)(calls))
alone = np.concatenate(Parallel(n_jobs=1, seed=2024)(calls))
print("the same with one worker:", np.array_equal(prices, alone))

# %%
# The mean settles as years are added.

count = np.arange(1, len(prices) + 1)
mean = prices.cumsum() / count
error = np.sqrt(np.maximum((prices**2).cumsum() / count - mean**2, 0) / count)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.hist(prices, bins=80)
left.set(title="Highest price of a year", xlabel="price, 1 at the beginning", ylabel="years")
right.plot(count, mean)
right.fill_between(count, mean - 2 * error, mean + 2 * error, alpha=0.3)
right.set(title="Mean, with two standard errors", xlabel="years", xscale="log", xlim=(20, None), ylim=(1.1, 1.25))
plt.show()
