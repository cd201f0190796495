"""``shoal demo``: what it shows, and that it needs no checkout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from _cli_util import SHOAL, run
from shoal.cli import _demo, main


def test_the_demo_shows_both_times_and_a_report(tmp_path: Path) -> None:
    code, out, err = run(SHOAL, "demo", "--n-jobs", "2", "--report", "demo.json", cwd=tmp_path)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].endswith("counts primes in 40 calls, with 1 worker, and twice with 2.")
    times = [line.split("  ")[1] for line in lines if line.endswith("times as fast")]
    assert times == ["2 workers, started anew", "2 workers, kept"]
    assert "  What to mend" in lines
    assert lines[-1] == "The whole report is in demo.json."
    assert "40/40 calls" in err  # the bar, as it is shown where there is no terminal
    report = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
    assert [made["calls"]["done"] for made in report["runs"]] == [40, 40]


def test_primes_are_counted() -> None:
    assert _demo.primes(2, 30) == 10


def test_a_fault_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    results = iter([([1], 2.0), ([2], 1.0), ([2], 0.5)])
    monkeypatch.setattr(_demo, "_counted", lambda n_jobs: next(results))
    assert main(["demo", "--n-jobs", "2"]) == 1
    found = capsys.readouterr()
    assert "2.0 times as fast" in found.out
    assert "4.0 times as fast" in found.out
    assert "the results of the two runs differ" in found.err


@pytest.mark.parametrize(("option", "value"), [("--report", "demo.txt"), ("--n-jobs", "0")])
def test_wrong_arguments(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["demo", option, value])
    assert value in capsys.readouterr().err
