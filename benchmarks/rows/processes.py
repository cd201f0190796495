"""Rows that time whole processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks._registry import Measured, faster, row
from benchmarks.contenders import EVERYONE

IMPORTS = {
    "shoal": "from shoal import Parallel, delayed",
    "joblib": "from joblib import Parallel, delayed",
    "multiprocessing": "from multiprocessing.pool import Pool",
    "futures": "from concurrent.futures import ProcessPoolExecutor",
    "mpire": "from mpire import WorkerPool",
    "package": "import concurrent.futures",
}

RUNS = {
    "shoal": "Parallel(n_jobs=2)(delayed(nothing)(i) for i in range(2))",
    "joblib": "Parallel(n_jobs=2)(delayed(nothing)(i) for i in range(2))",
    "multiprocessing": "with Pool(2) as pool: pool.map(nothing, range(2))",
    "futures": "with ProcessPoolExecutor(2) as pool: list(pool.map(nothing, range(2)))",
    "mpire": "with WorkerPool(2) as pool: pool.map(nothing, range(2))",
}


def seconds_of(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


@row("import, above a bare interpreter", EVERYONE, faster(4), floors=("package",))
def import_time(contender: str) -> Measured:
    """Time an import: the difference to a bare interpreter, which runs in turns with it."""
    seconds_of("-c", IMPORTS[contender])
    pairs = [(seconds_of("-c", "pass"), seconds_of("-c", IMPORTS[contender])) for _ in range(9)]
    return median(imported for _, imported in pairs) - median(bare for bare, _ in pairs)


@row("first call of a script, whole process", EVERYONE, faster(1.7), floors=("bare",))
def first_call(contender: str) -> Measured:
    if contender == "bare":
        script = ""
    else:
        script = (
            f"{IMPORTS[contender]}\n\n\ndef nothing(x):\n    return x\n\n\n"
            f"if __name__ == '__main__':\n    {RUNS[contender]}\n"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "script.py")
        path.write_text(script)
        seconds_of(str(path))
        times = [seconds_of(str(path)) for _ in range(3)]
        return median(times)
