"""The arguments of a call as a row of values: bound by Python itself, with defaults, without ignored parameters.

::

    f(1, b=2) ──> bind(1, b=2) ──┬─> (tag, 1, 2, 3)               hashed by xxh3_128; in the order of the parameters
                                 └─> {"a": 1, "b": 2, "c": 3}     hashed by md5, as joblib does; and saved as texts

`bind` is a function that is compiled with the parameters and defaults of f, so that Python decides which argument
belongs to which parameter.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from shoal._hints import hint
from shoal._tracebacks import warn
from shoal.errors import ArgumentError
from shoal.memory.key._source import Subject, names_of

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}

Bind = Callable[..., Any]


def signature_of(subject: Subject) -> inspect.Signature | None:
    """Return the signature that calls are bound by, or None if it is unknown."""
    if subject.opaque:
        return None
    try:
        return inspect.signature(subject.function)
    except (TypeError, ValueError):
        return None


def own_signature_of(subject: Subject) -> inspect.Signature | None:
    """Return the signature of the function itself, even if it claims the signature of a function that it wraps.

    Its own signature decides what a call means: ``def wrapper(x=1)`` may wrap ``def f(x=0)``, or swap the arguments.
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
    """Return the parameters that count for the key, as pairs: joblib's name ("*", "**"), the name in the signature.

    Raise ValueError if `ignore` is a string or contains a name that is not a parameter.
    Raise TypeError if `ignore` is not iterable.
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
                f"{hint(item, dict(named))}"
            )
    return [(name, parameter) for name, parameter in named if name not in ignore]


def _template(signature: inspect.Signature | None) -> str:
    """Return the parameters as source text, with "=0" for every default."""
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


def _binder(signature: inspect.Signature | None, outer: str, result: str, value: Any) -> Bind:
    """Compile ``lambda parameters: result``, with `value` in place of "?" in the text of the result."""
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
    """Return a function that binds a call to the tuple of `tag` and the arguments that count.

    `keyword_defaults` is the dictionary of defaults that belongs to the cached function. The function may change it in
    place, so it is used and not copied.
    """
    bind: Any = _binder(signature, "tag", f"(?, {', '.join(name for _, name in parameters)})", tag)
    if keyword_defaults is not None:
        bind.__kwdefaults__ = keyword_defaults
    made: Bind = bind
    return made


class _NotGiven:
    """The placeholder for an argument that was not passed and whose default is not known."""

    def __reduce__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN = _NotGiven()


def without_defaults(signature: inspect.Signature) -> inspect.Signature:
    """Return the signature with :data:`NOT_GIVEN` for every default."""
    parameters = signature.parameters.values()
    return signature.replace(
        parameters=[p if p.default is p.empty else p.replace(default=NOT_GIVEN) for p in parameters]
    )


def dict_binder(signature: inspect.Signature | None, parameters: list[tuple[str, str]]) -> Bind:
    """Return a function that binds a call to joblib's dictionary of the arguments that count."""
    items = (f"{label!r}: {f'[*{name}]' if label == '*' else name}" for label, name in parameters)
    return _binder(signature, "tag", f"{{{', '.join(items)}}}", None)


def wrong_arguments(
    function: Any, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ArgumentError:
    """Return the error for arguments that do not fit the signature of a function."""
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
