"""What becomes of files that are removed while a process has them, and of memory without memfds."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from _windows_files import as_on_windows
from shoal._platform import memory
from shoal._platform.files import OPEN_FILES_STAY
from shoal._platform.memory import discard, forget_discarded, new_section, open_section


@pytest.fixture(autouse=True)
def windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let files that are open stay, and forget those that were left before and in the test."""
    as_on_windows(monkeypatch)
    memory._left.clear()
    yield
    memory._left.clear()


def test_a_file_in_use_is_removed_with_a_later_one(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for path in (first, second, third):
        path.touch()
    with open(first, "rb"):
        discard(str(first))
        discard(str(second))
        assert sorted(tmp_path.iterdir()) == [first, third]
    discard(str(third))
    assert list(tmp_path.iterdir()) == []
    assert not memory._left


def test_a_folder_with_a_file_in_use_is_removed_at_exit(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "used").touch()
    (folder / "other").touch()
    with open(folder / "used", "rb"):
        discard(str(folder))
        assert [path.name for path in folder.iterdir()] == ["used"]
    memory._at_exit()
    assert not folder.exists()


def test_the_exit_waits_for_a_moment_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_EXIT_SECONDS", 0.05)
    with open(tmp_path / "used", "wb"):
        discard(str(tmp_path / "used"))
        memory._at_exit()
        assert (tmp_path / "used").exists()


def test_what_is_gone_already_is_discarded(tmp_path: Path) -> None:
    discard(str(tmp_path / "missing"))
    assert not memory._left


def test_a_fork_removes_nothing_of_its_parent(tmp_path: Path) -> None:
    with open(tmp_path / "used", "wb"):
        discard(str(tmp_path / "used"))
    forget_discarded()
    memory._at_exit()
    assert (tmp_path / "used").exists()


@pytest.mark.skipif(sys.platform != "win32", reason="needs sections with names")
def test_a_section_is_shared_by_its_name() -> None:
    name, ours = new_section(10_000)
    assert ours[:] == bytes(10_000)
    code = f"from shoal._platform.memory import open_section; open_section({name!r}, 10_000)[9_999] = 7"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert ours[9_999] == 7
    again = open_section(name, 10_000)
    assert again[9_999] == 7
    again.close()
    ours.close()
    assert open_section(name, 10_000)[9_999] == 0  # it ended with the last mapping


WITHOUT_MEMFDS = """
import os, sys, tempfile
os.__dict__.pop("memfd_create", None)
import numpy as np
import shoal
from shoal.parallel.transport import _segments
if sys.argv[2] == "joblib":
    shoal.install_as_joblib()
    import joblib._memmapping_reducer
    joblib._memmapping_reducer.SYSTEM_SHARED_MEM_FS_MIN_SIZE = 2**62  # so /dev/shm is not used
    from joblib import Parallel, delayed
else:
    from shoal import Parallel, delayed

made = []
new = os.open
def noting(path, flags, *rest, **options):
    if flags & os.O_EXCL and "segment" in str(path):
        made.append(path)
    return new(path, flags, *rest, **options)
os.open = noting

kept = []
def keep(array):
    kept.append(array)  # a worker may have an argument mapped for as long as it likes
    return array + 1

def fill(n):
    return np.full(n, 1.0)

if __name__ == "__main__":
    assert not _segments.HAS_MEMFD
    _segments.MAPS_PARTS = sys.argv[1] == "maps"
    folder = tempfile.gettempdir()
    for _ in range(3):
        for result in Parallel(n_jobs=2)(delayed(keep)(np.ones(n)) for n in (100, 10_000, 300_000) * 3):
            assert (result == 2).all()
    n_folders = len([name for name in os.listdir(folder) if name.startswith("shoal-")])
    assert n_folders == 1, os.listdir(folder)
    array = np.ones(300_000)
    files = [Parallel(n_jobs=2)([delayed(getattr)(array, "filename")] * 2) for _ in range(2)]
    folders = {os.path.dirname(file) for found in files for file in found}
    assert len(folders) == (2 if sys.argv[2] == "joblib" else 1)
    made.clear()
    for _ in range(10):
        for result in Parallel(n_jobs=2, batch_size=1)(delayed(fill)(100_000) for _ in range(8)):
            assert (result == 1).all()
    print(len(made))
"""


# Where open files stay, the notes of the workers are in a section, so that the folder can be removed.
HAS_SECTIONS = sys.platform == "win32"


@pytest.mark.slow
@pytest.mark.skipif(OPEN_FILES_STAY and not HAS_SECTIONS, reason="no system has the one without the other")
@pytest.mark.parametrize("name", ["shoal", "joblib"])
@pytest.mark.parametrize(
    "results",
    [
        pytest.param("maps", marks=pytest.mark.skipif(not hasattr(mmap, "MAP_PRIVATE"), reason="needs mmap of POSIX")),
        "copies",
    ],
)
def test_a_program_without_memfds_has_one_folder_and_leaves_none(tmp_path: Path, results: str, name: str) -> None:
    (tmp_path / "program.py").write_text(WITHOUT_MEMFDS)
    folder = tmp_path / "temporary"
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}
    command = [sys.executable, str(tmp_path / "program.py"), results, name]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert [left for left in os.listdir(folder) if left.startswith(("shoal", "joblib"))] == []
    if results == "copies":  # 80 results, whose files are used again
        assert int(output) < 20
