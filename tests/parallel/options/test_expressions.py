from __future__ import annotations

import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.parallel.options._expressions import evaluate


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> str:
    """Arithmetic in n_jobs, parenthesized at random."""
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(["n_jobs", "0", "1", "2", "7", "1.5", "0.25", "1e3", ".5", "999999"]))
    if draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from("+-")) + draw(expressions(depth - 1))
    left, right = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    symbol = draw(st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]))
    text = f"{left} {symbol} {right}"
    return f"({text})" if draw(st.booleans()) else text


@given(expressions(), st.integers(1, 64))
def test_agrees_with_python_or_refuses(expression: str, n_jobs: int) -> None:
    try:
        result = evaluate(expression, n_jobs)
    except ValueError:
        return
    assert result == int(eval(expression, {"n_jobs": n_jobs}))


@given(st.integers(1, 99), st.integers(1, 99), st.sampled_from(["+", "-", "*", "/", "//", "%"]))
def test_small_arithmetic_is_never_refused(n_jobs: int, number: int, symbol: str) -> None:
    expression = f"(n_jobs {symbol} {number}) + -n_jobs"
    assert evaluate(expression, n_jobs) == int(eval(expression, {"n_jobs": n_jobs}))


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("2 * n_jobs", 8),
        ("2*n_jobs", 8),
        (" 2 * n_jobs ", 8),
        ("1.5*n_jobs", 6),
        ("n_jobs / 3", 1),
        ("2 + 3 * n_jobs ** 2", 50),
        ("-(1 - n_jobs)", 3),
        ("+n_jobs", 4),
        ("n_jobs % 3", 1),
        ("10**6", 1_000_000),
        ("2**-1 * n_jobs", 2),
        ("7", 7),
        ("(-1)**1000000", 1),
    ],
)
def test_value(expression: str, result: int) -> None:
    value = evaluate(expression, 4)
    assert value == result
    assert type(value) is int


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "  ",
        "2 *",
        "2 * n_job",
        "n_jobs.real",
        "abs(n_jobs)",
        "__import__('os')",
        "n_jobs if n_jobs else 2",
        "n_jobs and 2",
        "n_jobs < 2",
        "n_jobs @ 2",
        "n_jobs << 2",
        "~n_jobs",
        "[n_jobs]",
        "'2'",
        "2j",
        "True",
        "None",
        "n_jobs\0",
        "n_jobs; 2",
        "n_jobs = 2",
        "2n_jobs",
        "(" * 30,
        "n_jobs / 0",
        "n_jobs // 0.0",
        "n_jobs % 0",
        "0 ** -1",
        "(-n_jobs) ** .5",
    ],
)
def test_what_is_not_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="Allowed are numbers, n_jobs") as caught:
        evaluate(expression, 4)
    assert repr(expression) in str(caught.value)


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "9**9**9**9",
        "9.**9**9",
        "10**6 + 1",
        "-10**6 - 1",
        "1e999",
        "1e999 - 1e999",
        "1000001",
        "0 * 1e7",
    ],
)
def test_large_values_are_refused_before_they_are_computed(expression: str) -> None:
    with pytest.raises(ValueError, match="no value above 1000000"):
        evaluate(expression, 4)


def test_a_huge_power_takes_no_memory() -> None:
    evaluate("2 ** 2", 4)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="too large"):
            evaluate("n_jobs ** 300000", 4)
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()


def test_n_jobs_is_bound_by_the_same_limit() -> None:
    with pytest.raises(ValueError, match="too large"):
        evaluate("n_jobs", 1_000_001)


def test_length_is_counted_with_n_jobs_as_a_number() -> None:
    assert evaluate("n_jobs + n_jobs + n_jobs + n_jobs", 2) == 8
    assert evaluate("1" + " " * 27 + "+1", 2) == 2
    with pytest.raises(ValueError, match="too long"):
        evaluate("1" + " " * 28 + "+1", 2)
    with pytest.raises(ValueError, match="too long"):
        evaluate("n_jobs" + "+n_jobs" * 10_000, 2)


def test_importing_it_does_not_import_ast() -> None:
    code = "import sys; import shoal.parallel.options._expressions; print('ast' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
