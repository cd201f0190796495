"""``delayed(f)(x)``, the call f(x) before it runs; placeholders in its arguments; errors for input that is no call."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Iterator, Mapping

from shoal._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable
    from typing import Any, ClassVar, TypeAlias

    from shoal._typing import P, R

#: A call, and the type of its result.
Call: TypeAlias = "tuple[Callable[..., R], tuple[Any, ...], dict[str, Any]]"
#: The input of ``acall``.
Calls: TypeAlias = "Iterable[Call[R]] | AsyncIterable[Call[R]]"


class _Delayed:
    """What ``delayed(f)`` returns. Its attributes are those of f, which are looked up only when they are needed."""

    __slots__ = ("__wrapped__",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__wrapped__ = function

    def __call__(self, /, *args: Any, **kwargs: Any) -> Call:
        return self.__wrapped__, args, kwargs

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.__wrapped__.__doc__

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":  # it is missing while the object is unpickled
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __reduce__(self) -> Any:
        return delayed, (self.__wrapped__,)


def delayed(function: Callable[P, R]) -> Callable[P, Call[R]]:
    """Capture the arguments of a call of `function`, without calling it.

    Parameters
    ----------
    function : callable
        The function to call later.

    Returns
    -------
    callable
        ``delayed(f)(*args, **kwargs)`` returns the tuple ``(f, args, kwargs)``. :class:`~shoal.Parallel` takes an
        iterable of such tuples. The callable has the ``__name__``, the ``__doc__`` and the other attributes of
        `function`; its ``__wrapped__`` is `function`.

    Notes
    -----
    Thread-safe.

    Examples
    --------
    >>> from shoal import delayed
    >>> delayed(max)(1, 2, key=abs)
    (<built-in function max>, (1, 2), {'key': <built-in function abs>})
    """
    global _latest
    wrapped, made = _latest  # read once, since another thread may replace it
    if wrapped is not function:
        made = _Delayed(function)
        _latest = function, made
    return made


_NONE: tuple[object, _Delayed] = object(), _Delayed(int)  # no function is that object
#: The last argument and result of ``delayed``. A generator of calls mostly asks for the same function again.
_latest = _NONE


def forget_latest() -> None:
    """Release the function that ``delayed`` was called with last; called when a run ends."""
    global _latest
    _latest = _NONE


class Placeholder:
    """Takes the place of an argument, positional or by keyword, until the call is about to run."""

    __slots__ = ()

    #: Whether any placeholder was made. Only then are the arguments of calls searched, inline and on threads.
    in_use = False
    #: Resolves the placeholders inside arguments too. It is set as soon as there may be any.
    resolve_nested: ClassVar[Callable[[Call], Call] | None] = None

    def resolve(self) -> Any:
        """Return the argument that the call receives."""
        raise NotImplementedError


def resolved(call: Call) -> Call:
    """Return `call` with its arguments in place of the placeholders."""
    return shallow(call) if Placeholder.resolve_nested is None else Placeholder.resolve_nested(call)


def shallow(call: Call) -> Call:
    """Return `call` with its arguments in place of the placeholders, but for placeholders inside an argument."""
    function, args, kwargs = call
    return (
        function,
        tuple(arg.resolve() if issubclass(type(arg), Placeholder) else arg for arg in args),
        {name: arg.resolve() if issubclass(type(arg), Placeholder) else arg for name, arg in kwargs.items()},
    )


def describe(function: Any) -> str:
    """Return the name of a function, for a message."""
    wrapped = getattr(function, "__wrapped__", None) or getattr(function, "func", None) or function
    name = getattr(wrapped, "__qualname__", None) or type(wrapped).__qualname__
    module = getattr(wrapped, "__module__", None)
    return f"{module}.{name}" if module not in (None, "builtins", "__main__") else str(name)


def is_call(item: Any) -> bool:
    """Tell whether an item of three parts may be a call. Programs also make such tuples by hand.

    This takes time. A loop that runs calls checks only those that have failed: an item that is no call fails before it
    does anything.
    """
    _, args, kwargs = item
    return isinstance(args, Iterable) and isinstance(kwargs, Mapping)


def unpacked(item: Any, index: int) -> Call:
    """Return the function, arguments and keywords of an item of the input.

    Raises
    ------
    TypeError
        If the item is no call.
    """
    try:
        function, args, kwargs = item
    except (TypeError, ValueError):
        raise not_a_call(item, index) from None
    if (type(args) is not tuple or type(kwargs) is not dict) and not is_call((function, args, kwargs)):
        raise not_a_call(item, index)
    return function, args, kwargs


def not_a_call(item: Any, index: int) -> TypeError:
    """Return the error for an item of the input that is no delayed call."""
    return TypeError(
        f"item {index} of the input is no delayed call but {item!r:.80} ({type(item).__name__}). {_remedy(item)}: "
        "Parallel(...)(delayed(function)(argument) for argument in arguments)."
    )


def _remedy(item: Any) -> str:
    if isinstance(item, _Delayed):
        return "Its arguments are missing: write delayed(function)(), even if there are none"
    if isinstance(item, Coroutine):
        return "It is what an async function returns, which needs an event loop: pass a plain function to delayed"
    nested = isinstance(item, tuple) and item and isinstance(item[0], tuple)  # a tuple of three calls was unpacked
    if nested or isinstance(item, (list, Iterator)):
        return "If it holds calls, leave out the brackets around them"
    if isinstance(item, tuple) and item and callable(item[0]):
        return "Make the call by delayed, from the function and its arguments"
    if callable(item):
        return "It is a function without arguments: wrap it in delayed, then pass the arguments"
    return "If it is the result of a function, the function was called too early: wrap the function in delayed"


def check_input(calls: Any) -> None:
    """Check, before a run begins, that its input may be an iterable of calls.

    Raises
    ------
    TypeError
        If `calls` is no iterable, or is one call by itself.
    """
    if type(calls) is tuple and len(calls) == 3 and callable(calls[0]) and type(calls[2]) is dict:
        raise TypeError("Parallel was given one call, not an iterable of calls: write [delayed(function)(argument)]")
    if not hasattr(type(calls), "__iter__") and not hasattr(type(calls), "__getitem__"):
        if hasattr(type(calls), "__aiter__"):
            message = "which only acall takes: await Parallel(...).acall(calls), or async for"
        else:
            message = "not calls. Write Parallel(...)(delayed(function)(argument) for argument in arguments)"
        raise TypeError(f"Parallel was given {calls!r:.80} ({type(calls).__name__}), {message}")
