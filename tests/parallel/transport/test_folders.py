"""Folders of segments: which ones a program removes when it makes its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shoal._platform import locks
from shoal.parallel.transport import _folders
from shoal.parallel.transport._folders import Folder, remove_abandoned

PROGRAM = """
import sys
from shoal.parallel.transport import _folders

class Nobody:
    def register(self, *_): pass

_folders._tracker = Nobody  # it would remove the folder of a killed program
print(_folders.Folder(sys.argv[1]).path(), flush=True)
sys.stdin.read()
"""


@contextmanager
def program(parent: Path) -> Iterator[Path]:
    """Run a program that has a folder in `parent`; give the path of the folder. At the end, the program is killed."""
    command = [sys.executable, "-c", PROGRAM, str(parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            folder = Path(process.stdout.readline().strip())
            (folder / "segment-0").touch()
            age(folder)
            yield folder
        finally:
            process.kill()


def age(folder: Path) -> None:
    """Make a folder an hour old."""
    hour_ago = folder.stat().st_mtime - 3600
    os.utime(folder, (hour_ago, hour_ago))


@pytest.fixture
def folder_of() -> Iterator[Callable[[Path], Path]]:
    """Return a function that makes a folder of this process in another one."""
    made: list[Folder] = []

    def make(parent: Path) -> Path:
        made.append(Folder(str(parent)))
        return Path(made[-1].path())

    yield make
    for folder in made:
        folder.remove()


def test_the_folder_of_a_killed_program_is_removed_by_the_next_one(
    tmp_path: Path, folder_of: Callable[[Path], Path]
) -> None:
    with program(tmp_path) as killed:
        pass
    (tmp_path / "shoal-notes").touch()
    (tmp_path / "other").mkdir()
    assert killed.exists()
    ours = folder_of(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {ours.name, "other", "shoal-notes"}


def test_the_folder_of_a_running_program_stays(tmp_path: Path) -> None:
    with program(tmp_path) as folder:
        remove_abandoned(str(tmp_path))
        assert sorted(path.name for path in folder.iterdir()) == ["lock", "segment-0"]


def test_own_folders_stay(tmp_path: Path, folder_of: Callable[[Path], Path]) -> None:
    ours = folder_of(tmp_path)
    age(ours)
    remove_abandoned(str(tmp_path))
    assert ours.exists()
    # Looking at its lock file would have unlocked it.
    code = f"from shoal.parallel.transport._folders import remove_abandoned; remove_abandoned({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert ours.exists()


@pytest.mark.parametrize("state", ["young", "of another host", "locks do not work"])
def test_a_folder_that_may_be_in_use_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    with program(tmp_path) as folder:
        pass
    if state == "young":
        os.utime(folder)
    elif state == "of another host":
        (folder / "lock").write_text("elsewhere")
        age(folder)
    else:

        def fail(*_: object) -> bool:
            raise OSError("no locks here")

        monkeypatch.setattr(locks, "lock_byte", fail)
    remove_abandoned(str(tmp_path))
    assert (folder / "segment-0").exists()


def test_what_is_left_of_a_removed_folder_is_removed(tmp_path: Path) -> None:
    with program(tmp_path) as folder:
        pass
    (folder / "lock").unlink()
    remove_abandoned(str(tmp_path))
    assert (folder / "segment-0").exists()  # it has just been changed
    age(folder)
    remove_abandoned(str(tmp_path))
    assert not folder.exists()


def test_a_folder_without_locks_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder_of: Callable[[Path], Path]
) -> None:
    def fail(*_: object) -> bool:
        raise OSError("no locks here")

    monkeypatch.setattr(locks, "lock_byte", fail)
    assert folder_of(tmp_path).exists()


def test_nothing_is_left_of_a_folder_that_nobody_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no tracker")

    monkeypatch.setattr(_folders, "_tracker", fail)
    with pytest.raises(OSError, match="no tracker"):
        Folder(str(tmp_path)).path()
    assert list(tmp_path.iterdir()) == []


def test_a_removed_folder_leaves_nothing(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    Path(folder.path(), "segment-0").touch()
    folder.remove()
    assert list(tmp_path.iterdir()) == []
    assert not folder._path
    assert folder._lock == -1
