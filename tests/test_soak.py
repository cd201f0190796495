"""``make soak`` (scripts/soak): it fails for what rises, and for a wrong result, and passes otherwise."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="a soak forks")

from scripts.soak import __main__ as soak
from scripts.soak import _actions, _rows
from scripts.soak._watch import TOLERATED, Watch, fit

from _capabilities import SLOWNESS, needs_proc
from _docs import ROOT

pytestmark = needs_proc


def watched(**values: list[float]) -> Watch:
    watch = Watch()
    n = len(next(iter(values.values())))
    watch.times = [10.0 * i for i in range(n)]
    watch.samples = {name: values.get(name, [1.0] * n) for name in TOLERATED}
    return watch


def test_a_leak_rises_and_noise_does_not() -> None:
    rng = random.Random(0)
    noise = [50 + rng.uniform(-5, 5) for _ in range(60)]
    assert watched(MB=noise).verdict()[1] == []
    assert watched(MB=[value + 0.5 * i for i, value in enumerate(noise)]).verdict()[1] == ["MB"]
    assert watched(descriptors=[20.0 + i // 3 for i in range(60)]).verdict()[1] == ["descriptors"]
    assert watched(MB=[10.0] * 5 + [50.0] * 55).verdict()[1] == []  # warming up


def test_a_line_has_the_slope_of_its_samples() -> None:
    line = fit([0, 1, 2, 3], [1, 3, 5, 7])
    assert (line.slope, line.error, line.seconds) == (2, 0, 3)
    assert fit([0, 1], [0, 9]).slope == 0


def test_descriptors_and_files_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    watch = Watch()
    before = watch.sample()
    with contextlib.ExitStack() as files:
        for _ in range(50):
            files.enter_context(tempfile.TemporaryFile(dir=tmp_path))
            files.enter_context(tempfile.NamedTemporaryFile())
        after = watch.sample()
    assert 90 <= after["descriptors"] - before["descriptors"] <= 110  # other threads of this process may have some too
    assert after["files"] - before["files"] == 50


def test_a_wrong_result_ends_a_soak(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_actions, "ACTIONS", {"wrong": lambda rng: _actions.check(rng.random(), 2)})
    monkeypatch.setattr(sys, "argv", ["soak", "--seed", "5", "--minutes", "1"])
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)  # put back what the soak changes
    monkeypatch.setenv("TMPDIR", tempfile.gettempdir())
    for name, value in soak.ALLOCATOR.items():  # else it would replace this process by one with them
        monkeypatch.setenv(name, value)
    assert soak.main() == 1
    said = capsys.readouterr().out
    assert "--repeat wrong:" in said
    assert "seed 5: FAILED" in said


def test_the_long_rows_run() -> None:
    assert {name: row(50)[0] for name, (row, _) in _rows.ROWS.items() if name in ("generator", "runs", "deaths")} == {
        "generator": True,
        "runs": True,
        "deaths": True,
    }
    assert _rows.cache(50)[1].startswith("1,000 -> 50 results: first hit ")


def test_a_short_soak_passes() -> None:
    command = [
        sys.executable,
        "-m",
        "scripts.soak",
        "--minutes",
        "0.05",
        "--seed",
        "1",
        "--only",
        "a_file",
        "an_executor",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100 * SLOWNESS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 1: nothing rises, and no result was wrong" in done.stdout
