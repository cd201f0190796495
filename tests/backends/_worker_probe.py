"""What a worker process can see of how it was started; see test_worker_probe."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import locale
import logging
import multiprocessing
import os
import random
import resource
import secrets
import signal
import sys
import tempfile
import threading
import uuid
import warnings
from multiprocessing import resource_tracker
from typing import Any

import numpy
from threadpoolctl import ThreadpoolController

_STATUS = ("SigBlk", "SigIgn", "SigCgt", "ShdPnd", "Uid", "Gid", "Groups", "Seccomp", "Threads")
_STREAMS = ("stdin", "stdout", "stderr")


def report(caller: int) -> dict[str, Any]:
    """Return all that is to be the same in any worker of the program `caller`."""
    parent = multiprocessing.parent_process()
    me = multiprocessing.current_process()
    with open("/proc/self/status") as file:
        status = [line for line in file if line.startswith(_STATUS)]
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    umask = os.umask(0)
    os.umask(umask)
    return {
        "executable": sys.executable,
        "flags": str(sys.flags),
        "options": [sys._xoptions, sys.warnoptions, sys.dont_write_bytecode, sys.pycache_prefix],
        "path": sys.path,
        "argv": sys.argv,
        "names of __main__": "__file__" in vars(sys.modules["__main__"]) and sys.modules["__main__"].__file__,
        "interpreter": [sys.getrecursionlimit(), sys.getswitchinterval(), sys.gettrace(), sys.getprofile()],
        "hooks": [str(sys.excepthook), str(sys.displayhook), str(sys.unraisablehook), str(threading.excepthook)],
        "locale": [locale.setlocale(locale.LC_ALL), sys.getfilesystemencoding(), sys.flags.utf8_mode],
        "variables": dict(os.environ),
        "variables in C": {name: (libc.getenv(name.encode()) or b"").decode() for name in os.environ},
        "folder": os.getcwd(),
        "umask": umask,
        "niceness": os.nice(0),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if "RLIMIT_" in name},
        "affinity": sorted(os.sched_getaffinity(0)),
        "handlers": {number: _named(signal.getsignal(number)) for number in signal.valid_signals()},
        "wakeup": signal.set_wakeup_fd(-1),
        "status": status,
        "streams": [_stream(getattr(sys, name)) for name in _STREAMS],
        "sockets": _descriptors("socket:"),
        "files": _descriptors("/"),
        "group": [os.getpgrp() == os.getpgid(caller), os.getsid(0) == os.getsid(caller)],
        "threads": [thread.name for thread in threading.enumerate()],
        "main thread": [threading.main_thread().native_id == os.getpid(), threading.get_ident() != 0],
        "process": [me.daemon, bool(me.name), me.authkey.hex()],
        "parent": parent is not None and [parent.pid, parent.name],
        "children": [multiprocessing.get_start_method(), multiprocessing.active_children()],
        "tracker": resource_tracker._resource_tracker._fd is not None,  # type: ignore[attr-defined]
        "collector": [gc.isenabled(), gc.get_threshold(), gc.get_debug()],
        "warnings": sorted({str(entry) for entry in warnings.filters}),
        "logging": [str(logging.getLogger().handlers), logging.getLogger().level, logging.root.manager.disable],
        "crashes": faulthandler.is_enabled(),
        "BLAS": sorted((lib.user_api, lib.num_threads) for lib in ThreadpoolController().lib_controllers),
    }


def draws() -> dict[str, Any]:
    """Return what is to differ from worker to worker."""
    return {
        "random": random.random(),
        "numpy": float(numpy.random.random()),
        "secrets": secrets.token_hex(),
        "uuid1": str(uuid.uuid1()),
        "uuid4": str(uuid.uuid4()),
        "tempfile": tempfile.mktemp(),
        "generator": float(numpy.random.default_rng().random()),
    }


def clock() -> float:
    import time

    return time.perf_counter()


def _named(handler: Any) -> str:
    return getattr(handler, "__qualname__", str(handler))


def _stream(stream: Any) -> Any:
    if stream is None:
        return None
    where = os.fstat(stream.fileno())
    return [stream.encoding, stream.errors, stream.line_buffering, stream.fileno(), where.st_dev, where.st_ino]


def _descriptors(kind: str) -> int:
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += int(name) > 2 and os.readlink(f"/proc/self/fd/{name}").startswith(kind)
        except OSError:  # that of the listing itself
            continue
    return found


def main() -> None:
    """Run the probe as ``argv`` says; print what it tells, as JSON."""
    from shoal import Parallel, delayed, parallel_config

    inner, told = sys.argv[1], sys.argv[2]
    with parallel_config(backend="loky", inner_max_num_threads=int(inner) if inner != "None" else None):
        before = clock()
        calls = [delayed(draws)() for _ in range(3)]
        answer = {
            "report": Parallel(n_jobs=2)([delayed(report)(os.getpid())] * 2)[0],
            "draws": Parallel(n_jobs=3, batch_size=1, max_tasks_per_worker=1)(calls),
            "clock": before < Parallel(n_jobs=2)([delayed(clock)()] * 2)[0] < clock(),
        }
    with open(told, "w") as file:
        json.dump(answer, file, default=str)


if __name__ == "__main__":
    import _worker_probe

    _worker_probe.main()
