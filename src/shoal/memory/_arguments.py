"""Which call it is: arguments to what is hashed for its key, and to the text that is kept with its result.

::

    f(1, b=2) ──> bind(1, b=2) ──> (tag, 1, 2, 3)               hashed by xxh3_128; in the order of the parameters
                              └──> {"a": 1, "b": 2, "c": 3}     hashed by md5, as joblib does
                              └──> {"a": "1", "b": "2", "c": "3"}   kept, to be read

`bind` is a function that is made with the parameters of f, defaults too, so that Python itself says which argument is
which, and leaves out those that are ignored.
"""

from __future__ import annotations

import functools
import inspect
import sys
import time
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shoal._tracebacks import warn
from shoal.errors import ArgumentError
from shoal.memory._source import Subject, names_of

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}

Bind = Callable[..., Any]


def signature_of(subject: Subject) -> inspect.Signature | None:
    """Return the signature that calls are bound by; None if it is unknown."""
    if subject.opaque:
        return None
    try:
        return inspect.signature(subject.function)
    except (TypeError, ValueError):
        return None


def own_signature_of(subject: Subject) -> inspect.Signature | None:
    """Return the signature that the function itself has, where it claims to have that of one which it wraps.

    That is the one which says what a call means: ``def wrapper(x=1)`` may wrap ``def f(x=0)``, or swap arguments.
    """
    function = subject.function
    if subject.opaque or not (hasattr(function, "__wrapped__") or hasattr(function, "__signature__")):
        return signature_of(subject)
    try:
        if not isinstance(function, types.FunctionType):
            return inspect.signature(function, follow_wrapped=False)
        code, defaults, cells = function.__code__, function.__defaults__, function.__closure__
        bare = types.FunctionType(code, {}, function.__name__, defaults, cells)
        bare.__kwdefaults__ = function.__kwdefaults__
        return inspect.signature(bare)
    except (TypeError, ValueError):
        return None


def parameters_of(signature: inspect.Signature | None, ignore: Sequence[str], function: Any) -> list[tuple[str, str]]:
    """Return what counts for the key: joblib's name of each parameter ("*", "**") and the one in the signature.

    Raises
    ------
    ValueError
        If `ignore` is a string, or names what is no parameter.
    """
    if isinstance(ignore, str):
        raise ValueError(
            f"ignore must be a list of the names of parameters, not the string {ignore!r}: write [{ignore!r}]"
        )
    if not isinstance(ignore, Iterable):
        raise TypeError(f"ignore must be a list of the names of parameters, not {ignore!r:.80}")
    if signature is None:
        if ignore:
            warn(f"Cannot inspect object {function}, ignore list will not work.")
        return [("*", "args"), ("**", "kwargs")]
    named = [(_STARS.get(parameter.kind, name), name) for name, parameter in signature.parameters.items()]
    for item in ignore:
        if item not in dict(named):
            raise ValueError(
                f"Ignore list: argument '{item}' is not defined for function {names_of(function)[1]}{signature}"
            )
    return [(name, parameter) for name, parameter in named if name not in ignore]


def _template(signature: inspect.Signature | None) -> str:
    """Write the parameters, those with a default marked by "=0"."""
    if signature is None:
        return "*args, **kwargs"
    written: list[str] = []
    last = None
    for name, parameter in signature.parameters.items():
        if last is inspect.Parameter.POSITIONAL_ONLY and parameter.kind is not last:
            written.append("/")
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and last not in (
            inspect.Parameter.KEYWORD_ONLY,
            inspect.Parameter.VAR_POSITIONAL,
        ):
            written.append("*")
        star = _STARS.get(parameter.kind, "")
        written.append(f"{star}{name}{'' if parameter.default is parameter.empty else '=0'}")
        last = parameter.kind
    if last is inspect.Parameter.POSITIONAL_ONLY:
        written.append("/")
    return ", ".join(written)


@functools.lru_cache(256)
def _compiled(text: str) -> Callable[[Any], Bind]:
    made: Callable[[Any], Bind] = eval(text, {"__builtins__": {}})
    return made


def _bind(signature: inspect.Signature | None, outer: str, result: str, value: Any) -> Bind:
    while signature is not None and outer in signature.parameters:
        outer += "_"
    bind: Any = _compiled(f"lambda {outer}: lambda {_template(signature)}: {result.replace('?', outer)}")(value)
    if signature is not None:
        parameters = signature.parameters.values()
        given = [p for p in parameters if p.default is not p.empty]
        bind.__defaults__ = tuple(p.default for p in given if p.kind in _POSITIONAL) or None
        bind.__kwdefaults__ = {p.name: p.default for p in given if p.kind is p.KEYWORD_ONLY} or None
    made: Bind = bind
    return made


def row_binder(
    signature: inspect.Signature | None,
    parameters: list[tuple[str, str]],
    tag: str,
    keyword_defaults: dict[str, Any] | None = None,
) -> Bind:
    """Make the function that gives a tuple of `tag` and the arguments that count.

    `keyword_defaults` is the function's own dictionary of defaults, which may be changed in place.
    """
    bind: Any = _bind(signature, "tag", f"(?, {', '.join(name for _, name in parameters)})", tag)
    if keyword_defaults is not None:
        bind.__kwdefaults__ = keyword_defaults
    made: Bind = bind
    return made


class _NotGiven:
    """What stands for an argument that was not given, where nobody knows what the function takes in its place."""

    def __reduce__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN = _NotGiven()


def without_defaults(signature: inspect.Signature) -> inspect.Signature:
    """Return a signature in which :data:`NOT_GIVEN` is each default."""
    parameters = signature.parameters.values()
    return signature.replace(
        parameters=[p if p.default is p.empty else p.replace(default=NOT_GIVEN) for p in parameters]
    )


def dict_binder(signature: inspect.Signature | None, parameters: list[tuple[str, str]]) -> Bind:
    """Make the function that gives joblib's dictionary of the arguments that count."""
    items = (f"{label!r}: {f'[*{name}]' if label == '*' else name}" for label, name in parameters)
    return _bind(signature, "tag", f"{{{', '.join(items)}}}", None)


def wrong_arguments(
    function: Any, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ArgumentError:
    """Return the error for arguments that a function does not take."""
    parameters = signature.parameters.values()
    positional = [p.name for p in parameters if p.kind in _POSITIONAL]
    name = names_of(function)[1]
    starred = {p.kind for p in parameters}
    twice = [word for word in positional[: len(args)] if word in kwargs]
    try:
        signature.bind(*args, **kwargs)
        reason = "Wrong number of arguments"
    except TypeError:
        if twice:
            reason = f"Argument {twice[0]} was given both as positional and as keyword"
        elif len(args) > len(positional) and inspect.Parameter.VAR_POSITIONAL not in starred:
            reason = "Too many arguments"
        elif any(
            p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in kwargs
            for p in parameters
            if p.name not in positional[: len(args)]
        ):
            reason = "Wrong number of arguments"
        else:
            reason = "Too many keyword arguments"
    call = f"{name}({repr(list(args))[1:-1]}, {', '.join(f'{word}={value}' for word, value in kwargs.items())})"
    return ArgumentError(reason, f"{name}{signature}", call)


#: What a text of an argument is cut to, in characters; and the seconds for those of one call.
TEXT_LENGTH = 1000
TEXT_SECONDS = 0.05
_PLAIN = frozenset({type(None), bool, float, complex})
#: Types whose repr was found to take longer: their names stand for it.
_slow: set[type] = set()


def described(values: dict[str, Any]) -> dict[str, str]:
    """Return the text of each argument, of bounded length, in bounded time unless a single repr takes longer."""
    texts = {}
    started = time.perf_counter()
    for name, value in values.items():
        text = _quick(value)
        if text is not None:
            texts[name] = text
            continue
        kind = type(value)
        before = time.perf_counter()
        if kind in _slow or before - started > TEXT_SECONDS:
            texts[name] = f"<{kind.__qualname__}>"
            continue
        texts[name] = _bounded(value)
        if time.perf_counter() - before > TEXT_SECONDS:
            _slow.add(kind)
    return texts


def _quick(value: Any) -> str | None:
    """Return the text of a value that certainly takes no time, else None."""
    kind = type(value)
    if kind in _PLAIN or (kind is int and value.bit_length() < 1000) or (kind is str and len(value) < 500):
        return repr(value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray) and value.size > 100:
        return f"<{kind.__name__} of {value.dtype}, shape {value.shape}>"
    return None


def _bounded(value: Any) -> str:
    try:
        if type(value) in (int, str, bytes, bytearray, list, tuple, dict, set, frozenset):
            text = _short_repr()(value)
        elif hasattr(value, "shape") and hasattr(value, "columns"):
            return f"<{type(value).__name__}, shape {value.shape}>"
        else:
            text = repr(value)
    except Exception as error:  # it is the user's code, and no reason to fail
        return f"<{type(value).__qualname__}, whose repr raises {type(error).__name__}>"
    return text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 3] + "..."


@functools.lru_cache(1)
def _short_repr() -> Callable[[Any], str]:
    import reprlib

    short = reprlib.Repr()
    short.maxlevel = 4
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = short.maxfrozenset = 30
    short.maxstring = short.maxother = 300
    short.maxlong = 100
    return short.repr
