"""Each planted fault is named, and nothing else; a run without faults has no findings."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shoal
from _capabilities import PROC, SLOWNESS
from _planted import (
    clean,
    clean_arrays_on_threads,
    clean_listeners,
    clean_methods,
    clean_replacements,
    clean_serial,
    clean_threads,
    die_once,
    few_calls,
    gil,
    imports,
    large_arguments,
    large_arguments_of_each_call,
    large_callable_object,
    large_object_of_a_method,
    large_results,
    memory,
    memory_with_both_limits,
    oversubscription,
    replaced_workers,
    short_calls,
    slow_consumer,
    slow_input,
    slow_on_message,
    slow_progress,
    slow_start,
    straggler,
    worker_deaths,
)
from _python import GIL
from shoal import Parallel, delayed, shutdown_workers
from shoal.reports._facts import Facts
from shoal.reports._findings import _FAULTS, diagnosed
from shoal.reports._worker_findings import worker_deaths as worker_deaths_of

#: A busy machine delays calls, so that a run may have another fault than the planted one. Then the program runs again.
ATTEMPTS = 6

#: A program, and the faults that its report names.
PLANTED: dict[Callable[..., None], set[str]] = {
    clean: set(),
    clean_threads: set(),
    clean_arrays_on_threads: set(),
    clean_serial: set(),
    clean_methods: set(),
    clean_listeners: set(),
    # Its calls are too short where workers start slowly.
    clean_replacements: {"replaced_workers"} if SLOWNESS != 1 else set(),
    short_calls: {"short_calls"},
    large_arguments: {"large_arguments"},
    large_arguments_of_each_call: {"large_arguments"},
    large_object_of_a_method: {"large_arguments"},
    large_callable_object: {"large_arguments"},
    large_results: {"large_results"},
    straggler: {"straggler"},
    gil: {"gil"} if GIL else set(),
    slow_input: {"slow_input"},
    few_calls: {"few_calls"},
    slow_consumer: {"slow_consumer"},
    slow_progress: {"slow_listeners"},
    slow_on_message: {"slow_listeners"},
    worker_deaths: {"worker_deaths"},
    memory: {"memory"},
    memory_with_both_limits: {"memory"},
    replaced_workers: {"replaced_workers"},
    imports: {"imports"},
    slow_start: {"slow_start"},
    oversubscription: {"oversubscription"},
}


def test_every_fault_is_planted() -> None:
    assert set().union(*PLANTED.values(), {"gil"}) == _FAULTS.keys()


def reported(program: Callable[..., None], folder: Path) -> dict[str, Any]:
    """Run a program on warm workers, and return its report."""
    Parallel(n_jobs=2)(delayed(time.sleep)(0.01) for _ in range(4))
    with shoal.report() as report:
        program(folder) if program.__code__.co_argcount else program()
    return report.to_dict()


@pytest.mark.parametrize("program", PLANTED, ids=lambda program: program.__name__)
def test_a_planted_fault_is_named_and_no_other(
    program: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if program is oversubscription:
        pytest.importorskip("numpy")
        if sys.platform != "linux":
            pytest.skip("only Linux tells how much its threads run")
    if program is gil and not PROC:
        pytest.skip("where threads do not tell how long they wait for a CPU, the finding needs one that is idle")
    monkeypatch.syspath_prepend(str(tmp_path))
    found: list[Any] = []
    for _ in range(ATTEMPTS):
        report = reported(program, tmp_path)
        found.append([(finding["fault"], finding["sentence"]) for finding in report["findings"]])
        if {fault for fault, _ in found[-1]} == PLANTED[program]:
            break
    else:
        pytest.fail(f"expected {PLANTED[program]}, found:\n" + "\n".join(map(str, found)))
    assert all(len(sentence.split(". ")) > 1 and any(map(str.isdigit, sentence)) for _, sentence in found[-1])
    if program in (memory, memory_with_both_limits):
        shutdown_workers()  # those that hold memory


def test_a_large_argument_is_named_with_its_remedy() -> None:
    report = reported(large_arguments, Path())
    (finding,) = [finding for finding in report["findings"] if finding["fault"] == "large_arguments"]
    assert "args[0]" in finding["sentence"]
    assert "shoal.shared(" in finding["sentence"]
    assert finding["figures"]["argument"] == "args[0]"
    assert finding["figures"]["bytes"] > 1_000_000


@pytest.mark.parametrize("program", [large_object_of_a_method, large_callable_object])
def test_the_large_object_of_a_function_is_named_with_its_remedy(program: Callable[[], None]) -> None:
    report = reported(program, Path())
    (finding,) = [finding for finding in report["findings"] if finding["fault"] == "large_arguments"]
    assert finding["figures"]["argument"] == "function"
    assert finding["figures"]["type"].endswith("Table")
    assert "function of a module" in finding["sentence"]


def test_a_death_that_ends_the_run_is_not_told_as_a_retry(tmp_path: Path) -> None:
    with shoal.report() as report, pytest.raises(shoal.WorkerDied):
        Parallel(n_jobs=2, batch_size=1)(delayed(die_once)(f"{tmp_path}/{number}") for number in range(1))
    (run,) = report.to_dict()["runs"]
    assert run["outcome"] == "failed"
    finding = worker_deaths_of(Facts(run, 2, True))
    assert finding is not None
    assert "exit code 7" in finding.cause
    assert "The run had 1 failure of calls, and 0 retries." in finding.cause
    assert "replaced" not in finding.cause


def test_findings_about_a_run_without_calls() -> None:
    with shoal.report() as report:
        Parallel(n_jobs=2)([])
    assert diagnosed(report.to_dict()["runs"], 2, True) == []


def test_runs_with_the_same_fault_are_told_of_once() -> None:
    for _ in range(ATTEMPTS):  # one run may have another fault too
        with shoal.report() as report:
            few_calls()
            few_calls()
        findings = [finding for finding in report.to_dict()["findings"] if finding["fault"] == "few_calls"]
        if findings and "runs" in findings[0]["figures"]:
            break
    (finding,) = findings
    assert finding["figures"]["runs"] == 2
    assert finding["sentence"].endswith("The same holds for 1 other run of time.sleep.")
