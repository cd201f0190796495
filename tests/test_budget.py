"""The table of docs/cpu-budget.md, row by row; and the rule behind it."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from _budget_util import CPUS, Level
from shoal import Parallel, _cpus, cpu_count, delayed, effective_n_jobs, parallel_config
from shoal._cpus import budget_of_call, cpu_share, thread_limits
from shoal.backends import Slot, WorkerSpec
from shoal.backends._processes import LokyBackend

DOCUMENT = Path(__file__).parents[1] / "docs" / "cpu-budget.md"


class Row(NamedTuple):
    levels: list[Level]
    numbers: list[int | list[int]]  # of workers, level by level, and of BLAS threads
    total: int


def level(cell: str) -> Level:
    found = re.fullmatch(r"([a-z]+) (-?\d+|None)(?:, inner_max_num_threads=(\d+))?", cell)
    assert found is not None, f"no run: {cell!r}"
    backend, n_jobs, inner = found.groups()
    return Level(backend, None if n_jobs == "None" else int(n_jobs), inner and int(inner))


def rows() -> Iterator[Row]:
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 5 and cells[-1].isdecimal():
            outer, inner, workers, blas, total = cells
            names = [outer, *(re.split(r", (?!inner_)", inner) if inner else [])]
            yield Row([level(name) for name in names], [*map(number, workers.split(" × ")), number(blas)], int(total))


def number(cell: str) -> int | list[int]:
    """Read a number, or those of each outer worker."""
    return [*map(int, cell.strip("()").split(", "))] if "," in cell else int(cell)


ROWS = list(rows())


def name(row: Row) -> str:
    return ">".join("_".join(str(part) for part in level if part is not None) for level in row.levels)


FIRST = {tuple(level.backend for level in row.levels): row for row in reversed(ROWS)}


def is_thorough(row: Row) -> bool:
    """Return whether it is neither the first of its nesting of backends, nor has something left over."""
    return row not in FIRST.values() and all(isinstance(number, int) for number in row.numbers)


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=[pytest.mark.thorough] * is_thorough(row)) for row in ROWS], ids=name
)
def test_row(tmp_path: Path, row: Row) -> None:
    program = [sys.executable, "-W", "error", str(Path(__file__).with_name("_budget_util.py"))]
    told = subprocess.run(
        [*program, json.dumps(row.levels), str(tmp_path)], capture_output=True, text=True, timeout=110, check=False
    )
    assert (told.returncode, told.stderr) == (0, "")
    found = json.loads(told.stdout)
    if found is None:
        pytest.skip("numpy has no BLAS that threadpoolctl knows")
    assert found == row.numbers


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_rows_keep_to_the_budget(row: Row) -> None:
    n_outer, *inner = row.numbers
    assert isinstance(n_outer, int)
    of_each = (math.prod(n[i] if isinstance(n, list) else n for n in inner) for i in range(n_outer))
    assert sum(of_each) == row.total
    explicit = math.prod(max(level.n_jobs or 1, 1) for level in row.levels) * max(row.levels[-1].inner or 1, 1)
    assert row.total <= max(CPUS, explicit)


def test_the_table_has_every_combination() -> None:
    names = ["loky", "multiprocessing", "threading"]
    nested = {tuple(level.backend for level in row.levels) for row in ROWS}
    assert nested >= {(outer, inner) for outer in names for inner in names}


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cpus, "cpu_count", lambda: CPUS)


def counts() -> tuple[int, int, int]:
    return effective_n_jobs(-1), effective_n_jobs(None), effective_n_jobs(5)


@pytest.mark.usefixtures("eight")
def test_calls_see_their_share() -> None:
    inside = Parallel(n_jobs=2, backend="threading")([delayed(counts)(), delayed(cpu_count)(), delayed(cpu_share)(3)])
    assert inside == [(4, 1, 5), cpu_count(), 1]
    assert budget_of_call.get() is None


def test_a_share_is_never_more_than_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    token = budget_of_call.set(4 * cpu_count())
    try:
        assert Parallel(n_jobs=1)([delayed(effective_n_jobs)(-1)]) == [cpu_count()]
        monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
        assert effective_n_jobs(-1) == 1
    finally:
        budget_of_call.reset(token)


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("variable", "outside", "inside"),
    [(None, "4", "2"), ("3", "3", "2"), ("1", "1", "1"), ("16", "16", "2"), ("4,2", "4,2", "2"), ("", "", "2")],
)
def test_variables_of_the_program_and_the_share(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, outside: str, inside: str
) -> None:
    if variable is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert thread_limits(None, cpu_share(2))["OMP_NUM_THREADS"] == outside
    token = budget_of_call.set(4)
    try:
        assert thread_limits(None, cpu_share(2))["OMP_NUM_THREADS"] == inside
        assert thread_limits(7, 2)["OMP_NUM_THREADS"] == "7"
    finally:
        budget_of_call.reset(token)


def environments(n_jobs: int, **options: Any) -> list[str]:
    """Return OMP_NUM_THREADS of each worker, as the backend is asked for it."""

    class Stop(Exception):
        pass

    class Backend(LokyBackend):
        def open(self, spec: WorkerSpec) -> list[Slot]:
            asked.append(spec)
            raise Stop

    asked: list[WorkerSpec] = []
    with pytest.raises(Stop):
        Parallel(n_jobs=n_jobs, backend=Backend(**options))([delayed(abs)(-1)] * 20)
    (spec,) = asked
    return [spec.environment_of(index)["OMP_NUM_THREADS"] for index in range(spec.n_workers)]


def test_what_is_left_over_is_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cpus, "cpu_count", lambda: 16)
    assert environments(9) == ["2"] * 7 + ["1"] * 2
    assert environments(9, inner_max_num_threads=3) == ["3"] * 9
    assert environments(8) == ["2"] * 8
    assert environments(-2) == ["1"] * 15
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert environments(9) == ["4"] * 9


def test_processes_of_pytest_xdist_divide_the_threads_and_not_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cpus, "cpu_count", lambda: 16)
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "4")
    assert environments(3) == ["2", "1", "1"]
    assert environments(-1) == ["1"] * 16
    inside = Parallel(n_jobs=2, backend="threading")([delayed(counts)(), delayed(cpu_share)(2)])
    assert inside == [(2, 1, 5), 1]


@pytest.mark.usefixtures("eight")
def test_settings_of_a_context_inside_a_call_keep_the_share() -> None:
    def inside() -> int:
        with parallel_config(backend="threading", n_jobs=-1):
            return effective_n_jobs(None)

    assert Parallel(n_jobs=4, backend="threading")([delayed(inside)()] * 4) == [2] * 4
