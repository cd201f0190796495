"""
A crawl with retries and time limits
====================================

Forty files are read over a bad connection. Some attempts fail, some never end, and one file is broken. The run ends
all the same, with a result or an exception for each file.
"""

import hashlib
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt

from shoal import Parallel, TaskTimeout, delayed

folder = tempfile.TemporaryDirectory()
files = [Path(folder.name, f"{number:02}.txt") for number in range(40)]
for number, file in enumerate(files):
    file.write_text(f"text {number}" if number != 17 else "", encoding="utf-8")

# %%
# The bad connection is made up: some attempts raise, two files hang at their first attempt.


def checksum(file: Path) -> str:
    attempts = file.with_suffix(".attempts")
    with attempts.open("a") as log:
        log.write("x")
    attempt = attempts.stat().st_size
    luck = random.Random(f"{file.name} {attempt}").random()
    time.sleep(0.01)
    if file.stem in ("05", "23") and attempt == 1:
        time.sleep(3600)
    if luck < 0.3:
        raise ConnectionError("the connection was lost")
    text = file.read_text(encoding="utf-8")
    if not text:
        raise ValueError(f"{file.name} is empty")
    return hashlib.sha256(text.encode()).hexdigest()


# %%
# ``task_timeout`` ends a call that hangs. ``retry_on`` says after which failures another attempt may help: an empty
# file stays empty. With ``on_error="return"`` the exceptions are among the results.

results = Parallel(
    n_jobs=2,
    retries=4,
    retry_on=(ConnectionError, TaskTimeout),
    retry_wait=lambda attempt: 0.01 * 2**attempt,
    task_timeout=1,
    on_error="return",
)(delayed(checksum)(file) for file in files)

for file, result in zip(files, results, strict=True):
    if isinstance(result, Exception):
        print(f"{file.name}: {type(result).__name__}: {result}")

# %%

attempts = Counter(file.with_suffix(".attempts").stat().st_size for file in files)
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
axis.bar(list(attempts), list(attempts.values()))
axis.set(title="How many attempts the files took", xlabel="attempts", ylabel="files", xticks=range(1, 6))
plt.show()
folder.cleanup()
