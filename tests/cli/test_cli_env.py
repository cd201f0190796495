"""``shoal env``: each section, and what it says about limits."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest

import shoal
from _capabilities import needs_limits
from _cli_util import SHOAL, run
from shoal import _cpus
from shoal.cli import _env, main


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["env", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_sections(capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(capsys)
    assert found["shoal"]["version"] == shoal.__version__
    assert found["python"]["executable"] == sys.executable
    assert found["cpus"]["usable"] == _cpus.cpu_count()
    assert found["backends"]["threading"] == "available"
    assert found["packages"]["numpy"][0].isdecimal()
    assert "blas" not in found
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:-1] for line in lines if not line.startswith(" ")] == list(found)


def test_what_limits_the_cpus(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cpus, "_machine_cpus", lambda: 16)
    monkeypatch.setattr(_cpus, "usable_cpus", lambda: range(8))
    monkeypatch.setattr(_cpus, "_cgroup_limit", lambda: 4)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "3")
    monkeypatch.setattr(_cpus, "_slurm_limit", lambda: 6)
    expected = {"usable": 3, "machine": 16, "affinity": 8, "cgroup": 4, "Slurm": 6, "LOKY_MAX_CPU_COUNT": "3"}
    assert ask(capsys)["cpus"] == expected
    monkeypatch.setattr(_cpus, "usable_cpus", lambda: None)
    for name in ("_cgroup_limit", "_slurm_limit"):
        monkeypatch.setattr(_cpus, name, lambda: _cpus.NO_LIMIT)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "all")
    found = ask(capsys)["cpus"]
    assert (found["affinity"], found["cgroup"], found["Slurm"]) == (None, None, None)
    assert "must be an integer" in found["usable"]
    assert main(["env"]) == 0
    assert "no limit" in capsys.readouterr().out


def test_variables_that_are_set(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", "/tmp")
    monkeypatch.setenv("SECRET", "a password")
    found = ask(capsys)["variables"]
    assert (found["OMP_NUM_THREADS"], found["JOBLIB_TEMP_FOLDER"]) == ("2", "/tmp")
    assert "SECRET" not in found


def test_packages_that_are_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_env, "_PACKAGES", ("no-such-package",))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("JOBLIB_MULTIPROCESSING", "0")
    found = ask(capsys)
    assert found["packages"] == {"no-such-package": "not installed"}
    assert "shoal[dask]" in found["backends"]["dask"]
    assert "threads are used instead" in found["backends"]["loky"]


def test_blas(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(ask(capsys, "--blas")["blas"], dict)


def test_no_package_is_imported(fresh_python) -> None:
    printed = fresh_python(
        """
        import sys
        from shoal.cli import main
        main(["env", "--json"])
        print({"numpy", "scipy", "sklearn", "dask", "distributed", "ray", "joblib"} & set(sys.modules))
        """
    )
    assert printed.endswith("set()\n")


@needs_limits
def test_ulimits() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = min(200, hard)
    limited = ("sh", "-c", f'ulimit -Sn {few}; exec "$@"', "sh", *SHOAL)
    code, stdout, _ = run(limited, "env", "--json", env=dict(os.environ))
    assert code == 0
    assert json.loads(stdout)["limits"]["ulimit -n"].split()[0] == str(few)
