"""A forked worker cannot be told from one that was started by exec: both report the same state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from _capabilities import FORK_SERVER, needs

pytestmark = needs(FORK_SERVER, "there is no fork server")

PROBE = Path(__file__).with_name("_worker_probe.py")


def probe(folder: Path, method: str, inner: str, *options: str, prelude: str = "", **variables: str) -> dict[str, Any]:
    told = folder / f"{method or 'forked'}.json"
    (folder / "where").mkdir(exist_ok=True)
    program = f"import sys; sys.argv = ['probe', {inner!r}, {str(told)!r}]; import os; {prelude}\n"
    program += "import _worker_probe; _worker_probe.main()"
    environment = {
        **os.environ,
        "SHOAL_START_METHOD": method,
        "PYTHONPATH": os.pathsep.join([str(PROBE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
        **variables,
    }
    subprocess.run(
        [sys.executable, *options, "-c", program],
        env=environment,
        cwd=folder / "where",
        check=True,
        timeout=110,
        stdin=subprocess.DEVNULL,
    )
    answer: dict[str, Any] = json.loads(told.read_text())
    return answer


#: How the program is started, and its actions before it has workers.
PROGRAMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "threads of BLAS": {"inner": "2"},
    "more threads than CPUs": {"inner": "8"},
    "told by variables": {"variables": {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}},
    "options": {"options": ("-X", "dev", "-W", "ignore", "-O")},
    "isolated variables": {"variables": {"PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "once"}},
    "faulthandler by itself": {"variables": {"PYTHONFAULTHANDLER": "0"}},
    "other surroundings": {
        "prelude": "import signal, resource, locale; os.umask(0o027); os.nice(2); "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (512, 1024)); signal.signal(signal.SIGUSR1, signal.SIG_IGN); "
        "signal.signal(signal.SIGINT, signal.SIG_IGN); os.environ['ADDED'] = 'x'; os.sched_setaffinity(0, [0]); "
        "sys.path.append('/nowhere'); os.mkdir('below') if not os.path.isdir('below') else None; os.chdir('below'); "
        "sys.setrecursionlimit(2000); sys.setswitchinterval(0.1)",
    },
    "a session of its own": {"prelude": "os.fork() and os._exit(os.waitstatus_to_exitcode(os.wait()[1])); os.setsid()"},
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_forked_worker_looks_like_one_started_by_exec(tmp_path: Path, name: str) -> None:
    how = PROGRAMS[name]
    inner, options = how.get("inner", "None"), how.get("options", ())
    forked, started = (
        probe(tmp_path, method, inner, *options, prelude=how.get("prelude", ""), **how.get("variables", {}))
        for method in ("", "loky")
    )
    for answer in (forked, started):
        assert answer["clock"]
        for kind in answer["draws"][0]:
            assert len({draw[kind] for draw in answer["draws"]}) == 3, f"{kind} is the same in several workers"
    ours, theirs = forked["report"], started["report"]
    different = {key: (ours[key], theirs[key]) for key in theirs if ours[key] != theirs[key]}
    expected = {
        # Values that differ between programs.
        "argv": lambda ours, theirs: [*ours[:2], ours[2].replace("forked.json", "loky.json")] == theirs,
        "process": lambda ours, theirs: ours[:2] == theirs[:2],
        "parent": lambda ours, theirs: ours[1] == theirs[1],
        "variables": lambda ours, theirs: {**ours, "SHOAL_START_METHOD": "loky"} == theirs,
        "variables in C": lambda ours, theirs: {**ours, "SHOAL_START_METHOD": "loky"} == theirs,
    }
    for key in list(different):
        if key in expected and expected[key](*different[key]):
            del different[key]
    assert different == {}
