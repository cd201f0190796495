"""Commands of SLURM that run their jobs here: sbatch, srun, scancel, sacct.

`commands_in(folder)` makes them. A job has a folder of its own in there, named by its id. It contains its script, the
id of its process group and, once it has ended, how. `JOBS_AT_A_TIME` in the environment limits how many jobs run; the
next ones wait until one has ended.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

COMMANDS = ("sbatch", "srun", "scancel", "sacct")


def commands_in(folder: Path) -> str:
    """Make the commands in a new folder; return the value of ``PATH`` with which they are found."""
    folder.mkdir()
    for command in COMMANDS:
        path = folder / command
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {shlex.quote(__file__)} {command} "$@"\n')
        path.chmod(0o755)
    return os.pathsep.join([str(folder), os.environ["PATH"]])


def here() -> Path:
    """Return the folder of the jobs: that of the commands, which comes first in ``PATH``."""
    return Path(os.environ["PATH"].split(os.pathsep)[0])


def sbatch(*args: str) -> None:
    """Start a job, and print its id."""
    number = 1 + sum(path.is_dir() for path in here().iterdir())
    job = here() / str(number)
    job.mkdir()
    script = job / "script"
    script.write_text(Path(args[-1]).read_text())
    output = (job / "output").open("w")
    environment = {**os.environ, "SLURM_JOB_ID": str(number), "SLURM_JOB_NODELIST": "here"}
    done = job / "done"
    run = f"{_until_there_is_room(number)}/bin/sh {script}"
    command = f"echo $$ >{job}/pid; {run}; echo $? >{done}.part; mv {done}.part {done}"
    subprocess.Popen(["/bin/sh", "-c", command], env=environment, stdout=output, stderr=output, start_new_session=True)
    print(f"Submitted batch job {number}")


def _until_there_is_room(number: int) -> str:
    """Return the commands with which a job waits until few enough jobs before it run."""
    limit = int(os.environ.get("JOBS_AT_A_TIME", 0))
    if not limit:
        return ""
    return f"while [ $(ls -d {here()}/*/done 2>/dev/null | wc -l) -lt {number - limit} ]; do sleep 0.1; done; "


def srun(*args: str) -> None:
    """Run a command, with its output in the files of --output and --error."""
    rest, streams = list(args), {}
    while rest[0].startswith("--"):
        option = rest.pop(0).lstrip("-")
        if option in ("output", "error"):
            streams[option] = rest.pop(0).replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0")
    for descriptor, name in ((1, "output"), (2, "error")):
        if name in streams:
            os.dup2(os.open(streams[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.execvp(rest[0], rest)


def scancel(*args: str) -> None:
    """Kill a job."""
    job = here() / args[0]
    if not (job / "done").exists():
        (job / "done").write_text("cancelled")
        deadline = time.monotonic() + 10
        while not (job / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(int((job / "pid").read_text()), signal.SIGKILL)


def sacct(*args: str) -> None:
    """Print the states of jobs."""
    print("JobID|State|NodeList")
    for option, number in pairwise(args):
        if option == "-j":
            done = here() / number / "done"
            text = done.read_text().strip() if done.exists() else "running"
            state = {"running": "RUNNING", "cancelled": "CANCELLED", "0": "COMPLETED"}.get(text, "FAILED")
            print(f"{number}|{state}|here")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
