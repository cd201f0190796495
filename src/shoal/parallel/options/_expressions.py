"""Computes ``pre_dispatch="2 * n_jobs"``. It parses the expression and never runs it as code."""

from __future__ import annotations

import functools
import math
import operator

from shoal._typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ast

_LONGEST = 30  # with n_jobs written as a number
_LARGEST = 1_000_000


@functools.lru_cache
def evaluate(expression: str, n_jobs: int) -> int:
    """Return the value of an expression in `n_jobs`, without its fraction.

    Parameters
    ----------
    expression : str
        Numbers, the name ``n_jobs``, ``+ - * / // % **`` and parentheses.
    n_jobs : int
        The value of ``n_jobs``.

    Raises
    ------
    ValueError
        If the expression contains anything else, is longer than 30 characters (with the value of ``n_jobs`` in its
        place), or a value in it is undefined or larger than a million.
    """
    if expression == "2 * n_jobs":  # the default, for which nothing is imported
        return 2 * n_jobs

    import ast

    try:
        if len(expression.replace("n_jobs", str(n_jobs))) > _LONGEST:
            raise ValueError("it is too long")
        return int(_value(ast.parse(expression.strip(), "pre_dispatch", "eval").body, n_jobs))
    except (ArithmeticError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"pre_dispatch={expression!r} cannot be computed: {error}. Allowed are numbers, n_jobs, "
            f"+ - * / // % ** and parentheses, in at most {_LONGEST} characters and with no value "
            f"above {_LARGEST}, for example '2 * n_jobs'"
        ) from error


def _value(node: ast.expr, n_jobs: int) -> float:
    import ast

    value: float
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            pass
        case ast.Name(id="n_jobs"):
            value = n_jobs
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = -_value(operand, n_jobs)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            value = _value(operand, n_jobs)
        case ast.BinOp(left=left, op=symbol, right=right) if type(symbol).__name__ in _OPERATORS:
            value = _OPERATORS[type(symbol).__name__](_value(left, n_jobs), _value(right, n_jobs))
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is not arithmetic")
    if abs(value) > _LARGEST:
        raise ValueError("a value is too large")
    return value


def _power(base: float, exponent: float) -> float:
    # First by logarithms, because 999999**999999 takes seconds. The caller compares values near the limit.
    if base and exponent * math.log(abs(base)) > math.log(_LARGEST) + 1:
        raise ValueError("a value is too large")
    power: float | complex = base**exponent
    if isinstance(power, complex):
        raise ValueError("a negative number has no such power")
    return power


_OPERATORS = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mult": operator.mul,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
    "Pow": _power,
}
