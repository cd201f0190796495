"""A new argument of Parallel has all its places: a check, a docstring, and an argument wherever it can be set."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import shoal
from shoal import Parallel, executor, parallel_config
from shoal.parallel._executor import NOT_OF_EXECUTORS
from shoal.parallel._parallel import ARGUMENTS
from shoal.parallel.options._checks import _CHECKS, OF_ONE_PARALLEL
from shoal.parallel.options._plan import Plan, plan_of
from shoal.parallel.options._settings import Settings

#: Fields that no user passes by this name, and why.
NO_ARGUMENTS = {
    "depth": "follows from the runs in which a call is nested",
    "settings": "holds the fields of Settings",
    "options": "holds the keywords that Parallel passes to its backend",
    "seeds": "is made from the argument seed",
    "own_workers": "is set for executors only",
    "resends": "is set for executors only",
    "origins": "follows from where the other values come from",
}
#: Arguments without an entry in _CHECKS, and where they are checked instead.
CHECKED_ELSEWHERE = {
    "n_jobs": "_checks.integer, and Backend.workers",
    "backend": "_settings.resolve, by backends.create",
    "return_as": "Plan.checked, whose message lists the values as joblib's does",
    "pre_dispatch": "Plan.bound, since an expression needs the number of workers",
    "seed": "_seeds.Seeds, which numpy's types need; numpy is imported only with a seed",
    "report": "_settings.with_report, by report_at",
    "memory": "_plan.plan_of: it must have the methods of a ResultCache",
}
#: Arguments that stand for a field of another name.
RENAMED = {"seed": "seeds"}

FIELDS = sorted({*Settings._fields, *Plan._fields} - NO_ARGUMENTS.keys() | RENAMED.keys())
SETTINGS = [name for name in Settings._fields if name not in NO_ARGUMENTS]


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name, it in inspect.signature(function).parameters.items() if it.kind is not it.VAR_KEYWORD]


def documented(thing: Any) -> set[str]:
    """Return the names in the section Parameters of a docstring."""
    section = inspect.cleandoc(thing.__doc__).partition("Parameters\n----------\n")[2]
    section = re.split(r"\n\w[\w ]*\n-{3,}\n", section)[0]
    entries = [line.partition(" :")[0] for line in section.splitlines() if re.match(r"[\w*]", line)]
    return {name.strip("* ") for entry in entries for name in entry.split(",")}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_an_argument_with_a_docstring_and_a_check(name: str) -> None:
    assert name in parameters(Parallel), f"Parallel.__init__ has no argument {name!r}"
    assert name in documented(Parallel), f"the docstring of Parallel does not describe {name!r}"
    assert (name in _CHECKS) is not (name in CHECKED_ELSEWHERE), f"_checks._CHECKS has no check for {name!r}"


def test_every_argument_is_a_field() -> None:
    assert sorted(parameters(Parallel)) == FIELDS
    assert documented(Parallel) == {*FIELDS, "options"}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_can_be_set_by_a_context(name: str) -> None:
    assert name in parameters(parallel_config)
    assert name in documented(parallel_config)


#: A value of each setting that is not its default. Values of n_jobs and backend are resolved, not stored as given.
VALUES: dict[str, Any] = {
    "verbose": 1,
    "temp_folder": "/somewhere",
    "max_nbytes": "3M",
    "mmap_mode": "r",
    "prefer": "threads",
    "require": "sharedmem",
    "progress": print,
    "retries": 3,
    "retry_on": OSError,
    "retry_wait": 0.5,
    "on_error": "return",
    "task_timeout": 7.0,
    "max_pending": 5,
    "max_tasks_per_worker": 6,
    "max_worker_memory": "1G",
    "forward": False,
    "context": True,
    "report": shoal.report(),
}


def test_each_setting_has_a_value_here() -> None:
    assert {"n_jobs", "backend", *VALUES} == set(SETTINGS)


@pytest.mark.parametrize("name", VALUES)
def test_a_setting_is_passed_on(name: str) -> None:
    value = VALUES[name]
    assert getattr(Parallel(**{name: value})._plan.settings, name) == value
    with parallel_config(**{name: value}):
        assert getattr(Parallel()._plan.settings, name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("return_as", "generator"),
        ("timeout", 3.0),
        ("pre_dispatch", "all"),
        ("batch_size", 4),
        ("total", 9),
        ("memory", {}),
        ("on_message", print),
    ],
)
def test_an_argument_of_one_parallel_is_passed_on(name: str, value: Any) -> None:
    if name == "memory":
        value = Cache()
    assert getattr(Parallel(**{name: value})._plan, name) == value


class Cache:
    def get(self, call: Any, default: Any) -> Any:
        return default

    def put(self, call: Any, value: Any) -> None:
        pass


@pytest.mark.filterwarnings("ignore::shoal.FallbackWarning")  # threads are not replaced
@pytest.mark.parametrize("name", sorted({*VALUES} - set(NOT_OF_EXECUTORS)))
def test_a_setting_of_an_executor_is_passed_on(name: str) -> None:
    with executor(max_workers=2, backend="threading", **{name: VALUES[name]}) as workers:
        assert getattr(workers._loop.owned_run._plan.settings, name) == VALUES[name]


def test_an_executor_has_all_other_arguments() -> None:
    has = {*FIELDS, "max_workers"} - set(NOT_OF_EXECUTORS)
    assert set(parameters(executor)) == has
    assert documented(executor) == {*has, "options"}


def test_lists_of_arguments_are_complete() -> None:
    assert sorted(ARGUMENTS) == FIELDS
    assert {*SETTINGS, *OF_ONE_PARALLEL} == set(FIELDS)
    assert set(parameters(plan_of)) >= {"n_jobs", "backend", *OF_ONE_PARALLEL}
    assert set(NOT_OF_EXECUTORS) <= set(FIELDS)


def test_no_exception_is_left_over() -> None:
    assert NO_ARGUMENTS.keys() <= {*Settings._fields, *Plan._fields}
    assert CHECKED_ELSEWHERE.keys() <= set(FIELDS)
