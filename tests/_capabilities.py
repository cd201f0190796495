"""What this system can do, found by trying and not by its name, and the marks of tests that need more.

A mark skips its test, and gives the reason. Tests kill processes by `KILL`, which every system has.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sysconfig
import tempfile
from collections.abc import Callable

import pytest

#: By which factor this machine is slower than usual: on an emulated system, a worker may take seconds to start.
SLOWNESS = float(os.environ.get("TESTS_SLOWNESS", 1))


def _succeeds(action: Callable[[str], object]) -> bool:
    """Tell whether `action` succeeds with the path of an empty file."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = os.path.join(folder, "file")
        open(path, "wb").close()
        try:
            action(path)
        except (OSError, AttributeError, NotImplementedError):
            return False
        return True


def _link(path: str) -> None:
    os.symlink(path, path + ".link")
    if not os.path.islink(path + ".link"):
        raise OSError("links are not told from files")


def _fill_pipe(_: str) -> None:
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        while os.write(writing, bytes(1 << 16)):
            pass
    except BlockingIOError:
        pass
    finally:
        os.close(reading)
        os.close(writing)


def _describe_socket(_: str) -> None:
    with socket.socket() as one:
        os.fstat(one.fileno())


def _replace_open(path: str) -> None:
    open(path + ".new", "wb").close()
    with open(path, "rb"):
        os.replace(path + ".new", path)


def _set_time_of_reading(path: str) -> None:
    os.utime(path, (1_600_000_000, 1_700_000_000))
    if os.stat(path).st_atime != 1_600_000_000:
        raise OSError("asking for the time changes it")


def _write_to_read_only(path: str) -> None:
    os.chmod(path, 0o444)
    try:
        open(path, "wb").close()
    finally:
        os.chmod(path, 0o644)  # Windows removes no file that is read-only


def _is_proc(folder: str) -> bool:
    """Tell whether `folder` shows this process: under Wine, /proc shows the system around Windows."""
    try:
        with open(f"{folder}/self/stat") as file:
            return int(file.read().split()[0]) == os.getpid()
    except OSError:
        return False


#: Whether shoal finds /proc. The tests look at processes in `PROC_FOLDER`, which `make test-narrow` leaves them.
PROC: bool = _is_proc("/proc")
PROC_FOLDER: str | None = next(filter(_is_proc, [os.environ.get("TESTS_PROC", "/proc"), "/proc"]), None)
FORKS: bool = hasattr(os, "fork")
FORK_SERVER: bool = PROC and FORKS and "SHOAL_START_METHOD" not in os.environ
#: How the backend "loky" starts workers unless a program says otherwise.
START: str = "fork server" if FORK_SERVER else os.environ.get("SHOAL_START_METHOD") or "loky"
#: Files without a name get one by their path in /proc.
NAMELESS: bool = PROC and hasattr(os, "O_TMPFILE")
ROOT: bool = hasattr(os, "geteuid") and os.geteuid() == 0
SIGNALS: bool = hasattr(signal, "SIGKILL")
LINKS: bool = _succeeds(_link)
SOCKET_DESCRIPTORS: bool = _succeeds(_describe_socket)
#: Whether a file may be called "<lambda>".
ANGLES: bool = _succeeds(lambda path: open(f"{path}-<lambda>", "wb").close())
#: Whether a name may have characters that no text has. Windows has such names, and Wine does not.
ANY_NAMES: bool = _succeeds(lambda path: open(f"{path}-\udcff", "wb").close())
#: Under Wine, which opens a file to learn about it, the time of its last reading is always now.
READING_TIMES: bool = _succeeds(_set_time_of_reading)
#: Whether permissions keep this process from writing: root may write to any file.
READ_ONLY: bool = not _succeeds(_write_to_read_only)
#: Whether each Python that starts can have shoal in joblib's place: by a file beside the installed package.
INSTALLED: bool = os.path.exists(os.path.join(sysconfig.get_paths()["purelib"], "shoal-as-joblib.pth"))
REPLACES_OPEN_FILES: bool = _succeeds(_replace_open)

#: Ends a process at once. Windows ends it by any number, which becomes the exit code.
KILL: int = getattr(signal, "SIGKILL", 9)
#: The exit code of a process that `KILL` has ended, and how messages describe that.
KILLED: int = -9 if SIGNALS else 9
WORDS_OF_KILLED: str = "was killed by SIGKILL" if SIGNALS else "exited with code 9"


def needs(capability: object, reason: str) -> pytest.MarkDecorator:
    """Return a mark that skips a test for `reason` where `capability` is false."""
    return pytest.mark.skipif(not capability, reason=reason)


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def needs_other_start(method: str) -> pytest.MarkDecorator:
    """Return a mark that skips tests of a start method, where tests without one start workers by it already."""
    return needs(method != START, f"tests without a start method start workers by {method!r} here")


needs_proc = needs(PROC, "looks into /proc")
needs_fork = needs(FORKS, "forks")
needs_memfd = needs(hasattr(os, "memfd_create"), "needs memory files without a name (memfd_create)")
needs_nameless_files = needs(NAMELESS, "needs files without a name (O_TMPFILE)")
needs_limits = needs(_has("resource"), "sets limits of a process (setrlimit)")
needs_signals = needs(SIGNALS, "sends signals that a process can handle")
needs_terminal = needs(_has("termios"), "opens pseudo-terminals")
needs_fifo = needs(hasattr(os, "mkfifo"), "makes named pipes in a folder")
needs_links = needs(LINKS, "makes symbolic links, which need a privilege on some systems")
needs_socket_descriptors = needs(SOCKET_DESCRIPTORS, "closes sockets by their descriptors")
needs_angles = needs(ANGLES, "needs names of files such as <lambda>")
needs_any_names = needs(ANY_NAMES, "needs names of files that are no text")
needs_reading_times = needs(READING_TIMES, "sets the time at which a file was last read")
needs_installed = needs(INSTALLED, "needs shoal installed, and not only on the path")
needs_pipes_that_do_not_wait = needs(_succeeds(_fill_pipe), "fills a pipe that does not wait")
needs_fcntl = needs(_has("fcntl"), "locks parts of files by fcntl")
needs_modes = needs(hasattr(os, "getuid"), "sets permissions as POSIX has them")
needs_root = needs(ROOT, "needs root")
needs_affinity = needs(hasattr(os, "sched_setaffinity"), "ties processes to CPUs (sched_setaffinity)")
needs_replacing = needs(REPLACES_OPEN_FILES, "removes or replaces files that are open")
