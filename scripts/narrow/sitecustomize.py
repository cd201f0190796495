"""Makes Linux as narrow as macOS and Windows are, in each process that finds this file: `make test-narrow`.

`make bench ARGS=--narrow` leaves the last row of the table out: TESTS_OPEN_FILES chooses.

It takes functions away, and gives some others the limits that they have elsewhere. ``sys.platform`` stays "linux", so
that shoal has to ask what a system can do. One constant is set, because files are what shoal does not ask about:
``shoal._platform.files.OPEN_FILES_STAY``. `enter` (__init__.py) hides /proc, and names the folder that still shows it
to this file and to the tests (TESTS_PROC).

==================================  ==============================================  ==================
what is missing, or refused         which fallback then works                       as on
==================================  ==============================================  ==================
memfd_create                        segments are files in a folder                  macOS, Windows
O_TMPFILE                           a new file has a name beside the old one        macOS, Windows
pidfd_open, epoll                   the sentinel of a process; poll                 macOS
sched_getaffinity, _setaffinity     CPUs by their number; workers on all of them    macOS, Windows
fork, the fork server               workers are started by exec, or spawned         Windows
sockets hold 4 kB at first          parts of messages are sent as there is room     macOS (8 kB), Windows
writev of 2 GiB and more            parts of the data                               macOS
removing or replacing open files    the file is removed later, or tried again       Windows
==================================  ==============================================  ==================
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_SEEN = os.environ.get("TESTS_PROC", "/proc")
_INT_MAX = 2**31 - 1
_SHARED = os.O_NOATIME  # marks files that were opened to be shared
_SOCKET_BYTES = 2048  # Linux doubles it


def _take_away() -> None:
    processes = ["fork", "forkpty", "pidfd_open", "sched_getaffinity", "sched_setaffinity"]
    for name in [*processes, "memfd_create", "O_TMPFILE"]:
        vars(os).pop(name, None)
    vars(select).pop("epoll", None)
    if "tempfile" in sys.modules:  # a .pth file has imported it
        sys.modules["tempfile"]._O_TMPFILE_WORKS = False  # type: ignore[attr-defined]


# What is refused


def _holds(pid: str, file: os.stat_result) -> bool:
    """Tell whether a process has opened a file, and not as `_open_shared` does."""
    folder = f"{_SEEN}/{pid}"
    for fd in os.listdir(f"{folder}/fd"):
        try:
            if os.path.samestat(os.stat(f"{folder}/fd/{fd}"), file):
                with open(f"{folder}/fdinfo/{fd}") as information:
                    flags = next(line for line in information if line.startswith("flags:"))
                if not int(flags.split()[1], 8) & _SHARED:
                    return True
        except OSError:
            continue
    return False


_narrow: dict[str, bool] = {}


def _is_narrow(pid: str) -> bool:
    """Tell whether a process is one of the tests."""
    if pid not in _narrow:
        with open(f"{_SEEN}/{pid}/environ", "rb") as file:
            _narrow[pid] = b"TESTS_PROC=" in file.read()
    return _narrow[pid]


def _is_open(status: os.stat_result, or_mapped: bool) -> bool:
    """Tell whether any process of the tests has opened the file, or mapped it.

    Results that this process has mapped for itself do not count: where files in use stay, they are copied.
    """
    mapped = f" {os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x} {status.st_ino} "
    for pid in filter(str.isdigit, os.listdir(_SEEN)):
        try:
            if not _is_narrow(pid):
                continue
            if _holds(pid, status):
                return True
            if or_mapped:
                with open(f"{_SEEN}/{pid}/maps") as file:
                    found = [line for line in file if mapped in line]
                if any(int(pid) != os.getpid() or line.split()[1].endswith("s") for line in found):
                    return True
        except OSError:
            continue
    return False


def _refuse_open(path: Any, dir_fd: int | None = None, or_mapped: bool = True) -> None:
    """Raise PermissionError, as Windows does, if `path` is a file that is open. One that is mapped can be renamed."""
    try:
        status = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    except (OSError, ValueError):
        return
    if os.path.stat.S_ISREG(status.st_mode) and _is_open(status, or_mapped):  # type: ignore[attr-defined]
        error = PermissionError(errno.EACCES, "the file is open, as far as Windows goes", os.fspath(path))
        error.winerror = 32  # type: ignore[attr-defined]
        raise error


def _by_temporary_file() -> bool:
    """Tell whether ``tempfile.TemporaryFile`` removes the name of its file, which it does not do on Windows."""
    return sys._getframe(2).f_globals.get("__name__") == "tempfile"


def _limit_files() -> None:
    remove, rename, replace = os.unlink, os.rename, os.replace

    def unlink(path: Any, *, dir_fd: int | None = None) -> None:
        if not _by_temporary_file():
            _refuse_open(path, dir_fd)
        remove(path, dir_fd=dir_fd)

    def moves(move: Any) -> Any:
        def moved(src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
            _refuse_open(src, src_dir_fd, or_mapped=False)
            _refuse_open(dst, dst_dir_fd)
            move(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

        return moved

    os.unlink = os.remove = unlink
    os.rename, os.replace = moves(rename), moves(replace)
    # shutil and tempfile ask whether these functions take descriptors of folders.
    for known in (os.supports_dir_fd, os.supports_follow_symlinks):
        if remove in known:
            known.update({os.unlink, os.rename})


def _limit_pipes() -> None:
    writev, pair = os.writev, socket.socketpair

    def limited_writev(fd: int, buffers: Any, /) -> int:
        if sum(memoryview(buffer).nbytes for buffer in buffers) > _INT_MAX:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return writev(fd, buffers)

    def small_pair(*args: Any, **options: Any) -> tuple[socket.socket, socket.socket]:
        ends = pair(*args, **options)
        # Of workers' sockets, shoal changes the first end only on Linux.
        ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        return ends

    os.writev = limited_writev
    socket.socketpair = small_pair


# Modules that are changed when they are imported


class _Changed(MetaPathFinder):
    """Changes modules after their code has run."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        change = _CHANGES.get(name)
        spec = None if change is None else PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                change(module)  # type: ignore[misc]

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _without_forks(module: Any) -> None:
    contexts = module._concrete_contexts
    for name in ("fork", "forkserver"):
        contexts.pop(name, None)
    module._default_context._default_context = contexts["spawn"]
    module.DefaultContext.get_all_start_methods = lambda self: ["spawn"]


def _look_elsewhere(module: Any) -> None:
    module.PROCFS_PATH = _SEEN
    if hasattr(module.Process, "cpu_affinity"):
        del module.Process.cpu_affinity


def _open_shared(path: str, flags: int) -> int:
    """Open a file so that it can be renamed and removed meanwhile. The flag shows that in /proc."""
    try:
        return os.open(path, flags | _SHARED)
    except PermissionError:  # of another user's file
        return os.open(path, flags)


def _keep_open_files(module: Any) -> None:
    module.OPEN_FILES_STAY = True
    module.open_shared = module.opener = _open_shared


_CHANGES = {"multiprocessing.context": _without_forks, "psutil": _look_elsewhere}

_take_away()
if "TESTS_OPEN_FILES" in os.environ:
    _CHANGES["shoal._platform.files"] = _keep_open_files
    _limit_files()
_limit_pipes()
sys.meta_path.insert(0, _Changed())
