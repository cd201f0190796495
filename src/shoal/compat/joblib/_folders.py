"""The folders of arrays that workers map.

Every ``Parallel`` needs a folder's name, but few need the code that maps arrays, so that is in another module.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from uuid import uuid4

from shoal.parallel.transport._folders import Folder

SYSTEM_SHARED_MEM_FS = "/dev/shm"
SYSTEM_SHARED_MEM_FS_MIN_SIZE = int(2e9)
FOLDER_PERMISSIONS = stat.S_IRWXU


def _get_temp_dir(pool_folder_name: str, temp_folder: str | None = None) -> tuple[str, bool]:
    """Return the path of a folder with this name, and whether it is in shared memory.

    The folder is in `temp_folder`, else in ``JOBLIB_TEMP_FOLDER``, else in shared memory if 2 GB are free there, else
    in the system's temporary folder.
    """
    parent = temp_folder or os.environ.get("JOBLIB_TEMP_FOLDER") or None
    shared = parent is None and _has_room(SYSTEM_SHARED_MEM_FS)
    if parent is None:
        parent = SYSTEM_SHARED_MEM_FS if shared else tempfile.gettempdir()
    return os.path.join(os.path.abspath(os.path.expanduser(parent)), pool_folder_name), shared


def _has_room(folder: str) -> bool:
    if not hasattr(os, "statvfs"):
        return False
    try:
        status = os.statvfs(folder)
    except OSError:
        return False
    return status.f_bsize * status.f_bavail > _min_free_bytes() and os.access(folder, os.W_OK)


def _min_free_bytes() -> int:
    """Return the bytes that must be free in shared memory. Programs may set this in ``_memmapping_reducer``."""
    module = sys.modules.get(f"{__package__}._memmapping_reducer")
    return int(getattr(module, "SYSTEM_SHARED_MEM_FS_MIN_SIZE", SYSTEM_SHARED_MEM_FS_MIN_SIZE))


class TemporaryFolder(Folder):
    """A folder at `location` for the arrays of one ``Parallel``; it is made when it is first needed."""

    def __init__(self, location: str) -> None:
        super().__init__(os.path.dirname(location))
        self.location = location

    def _make(self) -> str:
        os.makedirs(self.location, mode=FOLDER_PERMISSIONS, exist_ok=True)
        return self.location


class TemporaryResourcesManager:
    """The folders of a pool: one for each context, that is for each ``Parallel`` that uses the pool.

    Parameters
    ----------
    temp_folder_root
        The parent folder; None lets :func:`_get_temp_dir` choose it.
    context_id
        The first context.
    eager
        Whether a folder in shared memory is made at once.
    """

    def __init__(self, temp_folder_root: str | None = None, context_id: str | None = None, eager: bool = True) -> None:
        self._temp_folder_root = temp_folder_root
        self._eager = eager
        self._id = uuid4().hex
        self._folders: dict[str, TemporaryFolder] = {}
        self.set_current_context(uuid4().hex if context_id is None else context_id)

    def set_current_context(self, context_id: str) -> None:
        """Make a context the current one."""
        self._current_context_id = context_id
        self.register_new_context(context_id)

    def register_new_context(self, context_id: str) -> None:
        """Choose a folder for a context, unless it has one."""
        if context_id not in self._folders:
            name = f"joblib_memmapping_folder_{os.getpid()}_{self._id}_{context_id}"
            path, shared = _get_temp_dir(name, self._temp_folder_root)
            self._folders[context_id] = folder = TemporaryFolder(path)
            if shared and self._eager:
                folder.path()

    def resolve_temp_folder_name(self) -> str:
        """Return the path of the current context's folder, which need not exist yet."""
        return self.folder().location

    def folder(self) -> TemporaryFolder:
        """Return the folder of the current context."""
        self.register_new_context(self._current_context_id)
        return self._folders[self._current_context_id]

    def _clean_temporary_resources(
        self, context_id: str | None = None, force: bool = False, allow_non_empty: bool = False
    ) -> None:
        """Remove the folder of a context, or all folders. Arrays that workers have mapped stay mapped."""
        for known in list(self._folders) if context_id is None else [context_id]:
            folder = self._folders.pop(known, None)
            if folder is not None:
                folder.remove()
