"""What dump and load need beside the object itself: a few megabytes. Each in a process of its own, by its peak."""

from __future__ import annotations

from pathlib import Path

import pytest

from _capabilities import needs_proc
from _faults_util import Child

pytestmark = needs_proc

_PROGRAM = """
    import os, sys
    import numpy as np
    from shoal import dump, load

    path = sys.argv[1] + "/x.pkl"
    MB = 2**20

    def resident(name="VmRSS"):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

    def peak_above(before, function):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew
        result = function()
        return (resident("VmHWM") - before) / MB, result

    def made():
        array = np.empty((5000, 5000))
        array[...] = np.arange(5000)
        return {{
            "contiguous": array,
            "fortran": array.T,
            "strided": array[:, ::2],
            "backwards": array[::-1],
            "swapped": array.view(">f8"),
            "bytes": b"x" * (200 * MB),
            "bytearray": bytearray(200 * MB),
            "text": "x" * (200 * MB),
        }}[{kind!r}]

    for value in (np.zeros(9000), [1] * 9000):  # whatever is imported, and started
        dump(value, path, compress={compress!r})
        load(path)
    value = made()
    nbytes = value.nbytes if hasattr(value, "nbytes") else len(value)
    more, _ = peak_above(resident(), lambda: dump(value, path, compress={compress!r}))
    assert more < {dumped}, f"dump: {{more:.0f}} MB"
    del value
    more, value = peak_above(resident(), lambda: load(path{options}))
    assert more < nbytes / MB + {loaded}, f"load: {{more:.0f}} MB of {{nbytes / MB:.0f}}"
    if {mapped}:
        assert more < 40, f"{{more:.0f}} MB mapped"
    del value
    print("ok", flush=True)
"""


def run(folder: Path, kind: str, compress: object = 0, loaded: int = 24, dumped: int = 24, options: str = "") -> None:
    source = _PROGRAM.format(
        kind=kind, compress=compress, loaded=loaded, dumped=dumped, options=options, mapped="mmap_mode" in options
    )
    with Child(source, folder) as child:
        assert child.wait() == (0, "ok\n", "")


@pytest.mark.parametrize("kind", ["contiguous", "fortran", "strided", "backwards", "swapped", "bytes", "bytearray"])
def test_large_arrays_and_buffers(tmp_path: Path, kind: str) -> None:
    run(tmp_path, kind)


def test_large_text(tmp_path: Path) -> None:
    """Which pickle makes bytes of, and of bytes text."""
    run(tmp_path, "text", loaded=224, dumped=224)


@pytest.mark.parametrize("options", [", verify=True", ", mmap_mode='r'", ", mmap_mode='c', verify=True"])
def test_verified_and_mapped(tmp_path: Path, options: str) -> None:
    run(tmp_path, "contiguous", options=options)


@pytest.mark.parametrize("compress", [("zlib", 1), "lz4", "zstd"])
def test_compressed(tmp_path: Path, compress: object) -> None:
    run(tmp_path, "contiguous", compress, loaded=64, dumped=64)
