"""Dumps and loads 3 GiB, more than some systems write at once: ``python -m scripts.large_dump``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from shoal import dump, load


def main() -> None:
    """Fail if the file is not as long as the array, or if its ends differ."""
    array = np.zeros(3 * 2**30, "u1")
    array[0], array[-1] = 1, 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.pkl"
        dump(array, path)
        assert path.stat().st_size >= array.nbytes
        read = load(path)
    assert (read.nbytes, read[0], read[-1]) == (array.nbytes, 1, 2)
    print("3 GiB were written and read")


if __name__ == "__main__":
    main()
