"""Arithmetic in ``pre_dispatch=``, the defaults of arguments, and exceptions that travel with their tracebacks."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from shoal.errors import RemoteTraceback
from shoal.parallel.options._expressions import _power
from shoal.parallel.options._settings import Default

_MOST = 10**6
_LONGEST = 30


class _Sentinel(Default):
    """The value of an argument that was not given."""

    def __init__(self, default_value: Any) -> None:
        super().__init__(default_value)

    @property
    def default_value(self) -> Any:
        """What stands in for it."""
        return self.value


class _TooLarge(Exception):
    """A value is above a million."""


def _raised(base: Any, exponent: Any) -> Any:
    if isinstance(base, float) or isinstance(exponent, float):
        return base**exponent
    try:
        return _power(base, exponent)
    except ValueError:
        raise _TooLarge(f"{base}**{exponent}") from None


operators: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _raised,
    ast.USub: operator.neg,
}


def eval_expr(expr: str) -> Any:
    """Return the value of an expression of numbers, ``+ - * / // % **`` and parentheses.

    Raises
    ------
    ValueError
        If there is anything else in it, it is longer than 30 characters, or a value in it is above a million.
    """
    if len(expr) > _LONGEST:
        raise ValueError(f"Expression {expr[:_LONGEST]!r}... is too long. Max length is {_LONGEST}, got {len(expr)}.")
    try:
        return eval_(ast.parse(expr, mode="eval").body)
    except _TooLarge as error:
        raise ValueError(f"Numeric literal {error} is too large, max is {_MOST}.") from None
    except (ArithmeticError, KeyError, SyntaxError, TypeError) as error:
        raise ValueError(f"{expr!r} is not a valid or supported arithmetic expression.") from error


def eval_(node: ast.expr) -> Any:
    """Return the value of a node of an expression."""
    match node:
        case ast.Constant(value=int() | float() as value):
            pass
        case ast.BinOp(left=left, op=symbol, right=right):
            value = operators[type(symbol)](eval_(left), eval_(right))
        case ast.UnaryOp(op=symbol, operand=operand):
            value = operators[type(symbol)](eval_(operand))
        case _:
            raise TypeError(ast.dump(node))
    if not isinstance(value, complex) and abs(value) > _MOST:
        raise _TooLarge(value)
    return value


class _Raised:
    """An exception on its way from where a batch ran, with its traceback as text."""

    def __init__(self, error: BaseException) -> None:
        import traceback

        self.text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.error = error
        error.__traceback__ = None


class _TracebackCapturingWrapper:
    """Calls a function where it is sent, and returns what it raises.

    Parameters
    ----------
    func
        A function of keywords.
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    def __call__(self, **kwargs: Any) -> Any:
        try:
            return self.func(**kwargs)
        except BaseException as error:  # it is raised where the result is awaited
            return _Raised(error)


def _retrieve_traceback_capturing_wrapped_call(out: Any) -> Any:
    """Return a result, or raise the exception that came in its place."""
    if isinstance(out, _Raised):
        error = out.error
        error.__cause__ = RemoteTraceback("a worker", out.text)
        raise error
    if isinstance(out, BaseException):
        raise out
    return out
