"""What calls print in worker processes is there when their run has its results, also where stdout is no terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from _capabilities import needs_fork
from _children import runnable

PRELUDE = """
import os, signal, sys
from shoal import Parallel, delayed, executor

backend = sys.argv[1]


def say(index, end="\\n", fail=False):
    print("out", index, end=end)
    print("err", index, end=end, file=sys.stderr)
    if fail:
        raise ValueError("failed")
    return index


def leave():
    # At once and for good: nothing is written by any exit.
    os.write(1, b"end")
    os.kill(os.getpid(), 9)


"""

FORMS = {
    "list": "Parallel(2, backend)([delayed(say)(0), delayed(say)(1)])",
    "no line": "Parallel(2, backend)([delayed(say)(0, end=' '), delayed(say)(1, end=' ')])",
    "executor": """
with executor(2, backend) as workers:
    results = [workers.submit(say, index).result() for index in range(2)]
    assert results == [0, 1]
    leave()
""",
    "failure": """
try:
    Parallel(2, backend, on_error="return", batch_size=1)([delayed(say)(0), delayed(say)(1, fail=True)])
except ValueError:
    pass
""",
    "killed later": """
with Parallel(2, backend, batch_size=1) as parallel:
    parallel([delayed(say)(0), delayed(say)(1)])
    try:
        parallel([delayed(os._exit)(1)] * 2)
    except Exception:
        pass
""",
}


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
@pytest.mark.parametrize("form", FORMS)
def test_prints_are_written_before_the_results_arrive(tmp_path: Path, form: str, backend: str) -> None:
    out, err = run(tmp_path, f"{PRELUDE}{FORMS[form]}\nleave()\n", backend)
    assert sorted(out.split()[:-1]) == ["0", "1", "out", "out"]
    assert out.endswith("end")
    assert sorted(err.split()) == ["0", "1", "err", "err"]


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_a_stream_that_cannot_be_flushed_costs_no_result(tmp_path: Path, backend: str) -> None:
    source = f"""{PRELUDE}
import io


class Refusing(io.StringIO):
    def flush(self):
        raise SystemExit("no")


def replace(how):
    sys.stdout = None if how == "none" else object() if how == "object" else Refusing()
    if how == "closed":
        sys.stdout.close()
    sys.stderr = sys.stdout
    return how


for how in ("none", "object", "closed", "refusing"):
    with Parallel(2, backend) as parallel:
        assert parallel([delayed(replace)(how)] * 4) == [how] * 4
        assert parallel([delayed(abs)(-1)] * 4) == [1] * 4
leave()
"""
    out, err = run(tmp_path, source, backend)
    # A new interpreter that ends by SystemExit prints a line break, since it cannot print the exception.
    assert (out, err.strip()) == ("end", "")


@needs_fork
def test_what_a_child_of_a_call_says_goes_where_the_worker_writes(tmp_path: Path) -> None:
    """The child has no way to the caller. What the call had said before the fork arrives once."""
    source = f"""{PRELUDE}
import contextlib, io, logging


def fork():
    print("before")
    if not os.fork():
        print("in the child")
        logging.getLogger("any").error("record of the child")
        sys.stdout.flush()
        os._exit(0)
    os.wait()
    print("after")


text = io.StringIO()
with contextlib.redirect_stdout(text):
    Parallel(2, backend)([delayed(fork)()])
assert text.getvalue().split() == ["before", "after"], text.getvalue()
"""
    out, err = run(tmp_path, source, "loky")
    assert (out, err) == ("in the child\n", "record of the child\n")


def run(folder: Path, source: str, backend: str) -> tuple[str, str]:
    """Run a program whose streams are files, as Python has it by default; return what is in them."""
    program = folder / "program.py"
    program.write_text(source)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    # Where segments are files, loky's resource tracker warns when it removes the folder of a killed program.
    environment["PYTHONWARNINGS"] = "ignore:resource_tracker"
    with open(folder / "out", "w") as out, open(folder / "err", "w") as err:
        subprocess.run(
            [sys.executable, str(runnable(program)), backend], stdout=out, stderr=err, env=environment, check=False
        )
    return (folder / "out").read_text(), (folder / "err").read_text()
