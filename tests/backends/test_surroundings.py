"""What workers follow of their program: new files of modules are found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def test_new_files_of_modules_are_found(tmp_path: Path, fresh_python: Callable[..., str]) -> None:
    """Also those that are as old as what is known of their folder, and folders of namespace packages."""
    fresh_python(f"""
        import importlib, os, sys
        from pathlib import Path
        from shoal.backends import _surroundings

        folders = [Path({str(tmp_path)!r}, name) for name in ("first", "second")]
        for folder in folders:
            folder.mkdir()
        folders[0].joinpath("space").mkdir()
        folders[0].joinpath("space", "known.py").touch()
        sys.path[:0] = map(str, folders)
        import space.known

        def found(name):
            try:
                return bool(importlib.import_module(name))
            except ModuleNotFoundError:
                return False

        names = ["late", "space.late"]
        assert not any(map(found, names))
        times = folders[1].stat()
        folders[1].joinpath("space").mkdir()
        for path in folders[1], folders[1] / "space":
            path.joinpath("late.py").touch()
        os.utime(folders[1], ns=(times.st_atime_ns, times.st_mtime_ns))
        assert not any(map(found, names))
        _surroundings._forget_listings()
        assert all(map(found, names))
        assert "importlib.metadata" not in sys.modules
    """)
