"""``delayed(f)(x)`` is the call f(x), not made yet; what may stand for its arguments; and what is no call."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, ClassVar

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class _Delayed:
    """What ``delayed(f)`` returns; it answers for f, asking it only when it is asked."""

    __slots__ = ("__wrapped__",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__wrapped__ = function

    def __call__(self, /, *args: Any, **kwargs: Any) -> Call:
        return self.__wrapped__, args, kwargs

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.__wrapped__.__doc__

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":  # not there yet while it is being unpickled
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __reduce__(self) -> Any:
        return delayed, (self.__wrapped__,)


def delayed(function: Callable[..., Any]) -> Callable[..., Call]:
    """Capture a call of `function` without making it.

    Parameters
    ----------
    function
        Any callable.

    Returns
    -------
    A callable: ``delayed(f)(*args, **kwargs)`` is the tuple ``(f, args, kwargs)``, which is what
    :class:`~shoal.Parallel` takes. It answers ``__wrapped__``, ``__name__`` and ``__doc__`` as `function` does.

    Examples
    --------
    >>> from shoal import delayed
    >>> delayed(max)(1, 2, key=abs)
    (<built-in function max>, (1, 2), {'key': <built-in function abs>})
    """
    global _latest
    latest = _latest  # read once: another thread may put its own there
    if latest is not None and latest.__wrapped__ is function:
        return latest
    _latest = latest = _Delayed(function)
    return latest


#: What ``delayed`` has made last: a generator of calls mostly asks for the same again.
_latest: _Delayed | None = None


def forget_latest() -> None:
    """Let go of the last function that was delayed; called when a run ends."""
    global _latest
    _latest = None


class StandIn:
    """What stands for an argument, by position or by name, until the call is about to run."""

    __slots__ = ()

    #: Whether any exists: inline and on threads the arguments are looked through only then.
    in_use = False
    #: Does the same within arguments; there as soon as anything may be marked there.
    look_through: ClassVar[Callable[[Call], Call] | None] = None

    def resolve(self) -> Any:
        """Return the argument."""
        raise NotImplementedError


def plain(call: Call) -> Call:
    """Return `call` with the arguments for which something stands in their places."""
    return shallow(call) if StandIn.look_through is None else StandIn.look_through(call)


def shallow(call: Call) -> Call:
    """Do as :func:`plain`, for what is an argument by itself."""
    function, args, kwargs = call
    return (
        function,
        tuple(arg.resolve() if issubclass(type(arg), StandIn) else arg for arg in args),
        {name: arg.resolve() if issubclass(type(arg), StandIn) else arg for name, arg in kwargs.items()},
    )


def describe(function: Any) -> str:
    """Name a function for a message."""
    wrapped = getattr(function, "__wrapped__", None) or getattr(function, "func", None) or function
    name = getattr(wrapped, "__qualname__", None) or type(wrapped).__qualname__
    module = getattr(wrapped, "__module__", None)
    return f"{module}.{name}" if module not in (None, "builtins", "__main__") else str(name)


def is_call(item: Any) -> bool:
    """Tell whether an item of three parts may be a call; people also make such tuples by hand.

    Who makes calls one after the other asks only when one has failed, since this is dear: what is no call fails before
    it does anything.
    """
    _, args, kwargs = item
    return isinstance(args, Iterable) and isinstance(kwargs, Mapping)


def parts(item: Any, index: int) -> Call:
    """Return the function, arguments and keywords of an item of the input.

    Raises
    ------
    TypeError
        If it is no call.
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
        return "It lacks its arguments: call it, delayed(function)(), even if there are none"
    if isinstance(item, Coroutine):
        return "It is what an async function returns, which needs an event loop: give delayed a plain function"
    nested = isinstance(item, tuple) and item and isinstance(item[0], tuple)  # a generator of three calls comes apart
    if nested or isinstance(item, (list, Iterator)):
        return "If it holds calls, leave out the brackets around them"
    if isinstance(item, tuple) and item and callable(item[0]):
        return "A call is made by delayed, of a function and its arguments"
    if callable(item):
        return "It is the function itself: wrap it in delayed, then call it with its arguments"
    return "If a function has returned it, that was called too early: wrap the function in delayed"


def check_input(calls: Any) -> None:
    """Refuse what cannot be the calls of a run, before it begins.

    Raises
    ------
    TypeError
        If `calls` is no iterable, or one call by itself.
    """
    if type(calls) is tuple and len(calls) == 3 and callable(calls[0]) and type(calls[2]) is dict:
        raise TypeError("Parallel was given one call, not an iterable of calls: write [delayed(function)(argument)]")
    if not hasattr(type(calls), "__iter__") and not hasattr(type(calls), "__getitem__"):
        if hasattr(type(calls), "__aiter__"):
            said = "which only acall takes: await Parallel(...).acall(calls), or async for"
        else:
            said = "not calls. Write Parallel(...)(delayed(function)(argument) for argument in arguments)"
        raise TypeError(f"Parallel was given {calls!r:.80} ({type(calls).__name__}), {said}")
