"""Arithmetic in ``pre_dispatch=``, default values of arguments, and exceptions with their tracebacks."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from shoal.errors import RemoteTraceback
from shoal.parallel.options._expressions import _power
from shoal.parallel.options._settings import Default

_MAX_VALUE = 10**6
_MAX_LENGTH = 30


class _Sentinel(Default):
    """Marks an argument that was not given."""

    def __init__(self, default_value: Any) -> None:
        super().__init__(default_value)

    @property
    def default_value(self) -> Any:
        """The default of the argument."""
        return self.value


class _TooLarge(Exception):
    """A value is above a million."""


def _bounded_power(base: Any, exponent: Any) -> Any:
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
    ast.Pow: _bounded_power,
    ast.USub: operator.neg,
}


def eval_expr(expr: str) -> Any:
    """Evaluate an expression of numbers, ``+ - * / // % **`` and parentheses.

    Raises
    ------
    ValueError
        If it contains anything else, is longer than 30 characters, or has an intermediate value above a million.
    """
    if len(expr) > _MAX_LENGTH:
        raise ValueError(
            f"Expression {expr[:_MAX_LENGTH]!r}... is too long. Max length is {_MAX_LENGTH}, got {len(expr)}."
        )
    try:
        return eval_(ast.parse(expr, mode="eval").body)
    except _TooLarge as error:
        raise ValueError(f"Numeric literal {error} is too large, max is {_MAX_VALUE}.") from None
    except (ArithmeticError, KeyError, SyntaxError, TypeError) as error:
        raise ValueError(f"{expr!r} is not a valid or supported arithmetic expression.") from error


def eval_(node: ast.expr) -> Any:
    """Evaluate a node of an expression."""
    match node:
        case ast.Constant(value=int() | float() as value):
            pass
        case ast.BinOp(left=left, op=symbol, right=right):
            value = operators[type(symbol)](eval_(left), eval_(right))
        case ast.UnaryOp(op=symbol, operand=operand):
            value = operators[type(symbol)](eval_(operand))
        case _:
            raise TypeError(ast.dump(node))
    if not isinstance(value, complex) and abs(value) > _MAX_VALUE:
        raise _TooLarge(value)
    return value


class _CapturedException:
    """An exception of a batch, returned by a worker with its traceback as text."""

    def __init__(self, error: BaseException) -> None:
        import traceback

        self.text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.error = error
        error.__traceback__ = None


class _TracebackCapturingWrapper:
    """Calls a function on a worker, and returns the exception that it raises."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    def __call__(self, **kwargs: Any) -> Any:
        try:
            return self.func(**kwargs)
        except BaseException as error:  # raised again where the result is awaited
            return _CapturedException(error)


def _retrieve_traceback_capturing_wrapped_call(out: Any) -> Any:
    """Return a result, or raise the exception that a worker returned."""
    if isinstance(out, _CapturedException):
        error = out.error
        error.__cause__ = RemoteTraceback("a worker", out.text)
        raise error
    if isinstance(out, BaseException):
        raise out
    return out
