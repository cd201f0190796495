"""Names, sources and arguments of functions."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote

from shoal._tracebacks import warn
from shoal.memory import _texts
from shoal.memory.key._source import names_of, source_of

__all__ = ["filter_args", "format_call", "format_signature", "get_func_code", "get_func_name"]

_NONE: Mapping[str, Any] = MappingProxyType({})


def filter_args(
    func: Callable[..., Any], ignore_lst: Sequence[str], args: Sequence[Any] = (), kwargs: Mapping[str, Any] = _NONE
) -> dict[str, Any]:
    """Return the arguments of a call by name, including defaults; variable arguments as "*" and "**".

    Parameters
    ----------
    func
        The function.
    ignore_lst
        The names to leave out.
    args, kwargs
        The arguments of the call.

    Raises
    ------
    ValueError
        If the arguments do not match the function, or it has no argument with a name in `ignore_lst`.

    Warns
    -----
    UserWarning
        If `ignore_lst` cannot be applied, because the names of the arguments are unknown.
    """
    if isinstance(ignore_lst, str):
        raise ValueError(
            f"ignore_lst must be a list of parameters to ignore {ignore_lst} (type {type(ignore_lst)}) was given"
        )
    given = list(args)
    if not (inspect.ismethod(func) or inspect.isfunction(func)):
        if ignore_lst:
            warn(f"Cannot inspect object {func}, ignore list will not work.")
        return {"*": given, "**": kwargs}
    shown = f"{func.__name__}{inspect.signature(func)}"
    if inspect.ismethod(func):
        given.insert(0, func.__self__)
        func = func.__func__
    parameters = inspect.signature(func).parameters.values()
    called = f"{func.__name__}({', '.join(map(repr, args))}, {', '.join(f'{k}={v}' for k, v in kwargs.items())})"

    def mismatch(problem: str) -> ValueError:
        return ValueError(f"{problem} for {shown}:\n    {called} was called.")

    found: dict[str, Any] = {}
    left, rest = dict(kwargs), given
    stars = ""
    for parameter in parameters:
        name, kind = parameter.name, parameter.kind
        if kind is parameter.VAR_POSITIONAL:
            found["*"], rest = rest, []
        elif kind is parameter.VAR_KEYWORD:
            stars = "**"
        elif kind is not parameter.KEYWORD_ONLY and rest:
            if name in left:
                raise mismatch(f"Argument {name} was given both as positional and as keyword")
            found[name], rest = rest[0], rest[1:]
        elif name in left and kind is not parameter.POSITIONAL_ONLY:
            found[name] = left.pop(name)
        elif parameter.default is not parameter.empty:
            found[name] = parameter.default
        else:
            raise mismatch("Wrong number of arguments")
    if rest:
        raise mismatch("Too many arguments")
    if stars:
        found["**"] = left
    elif left:
        raise mismatch("Too many keyword arguments")
    for name in ignore_lst:
        if name not in found:
            raise ValueError(f"Ignore list: argument '{name}' is not defined for function {shown}")
        del found[name]
    return found


def get_func_code(func: Any) -> tuple[str, str | None, int]:
    """Return the source of a function, its file, and the number of its first line.

    Without a source, return a fingerprint of the code or else the ``repr``, and -1 as the line.
    """
    text, file, line = source_of(func)
    return text, file, line


def get_func_name(func: Any, resolv_alias: bool = True, win_characters: bool = True) -> tuple[list[str], str]:
    """Return the parts of a function's module name, and the function's name.

    Parameters
    ----------
    func
        The function.
    resolv_alias
        Ignored; it served Python 2.
    win_characters
        Whether, on Windows, characters that are not allowed in file names are replaced.
    """
    modules, name = names_of(func)
    if os.name == "nt" and not win_characters:
        return [unquote(module) for module in modules], unquote(name)
    return modules, name


def _clean_win_chars(string: str) -> str:
    """Replace characters that Windows does not allow in file names."""
    for char in "<>!:\\":
        string = string.replace(char, quote(char))
    return string


def format_signature(func: Any, *args: Any, **kwargs: Any) -> tuple[str, str]:
    """Return the dotted name of a function, and a call of it as text."""
    return _texts.signature(func, args, kwargs)


def format_call(func: Any, args: Any, kwargs: Any, object_name: str = "Memory") -> str:
    """Return the lines that announce a call."""
    path, signature = format_signature(func, *args, **kwargs)
    return f"{'_' * 80}\n[{object_name}] Calling {path}...\n{signature}"
