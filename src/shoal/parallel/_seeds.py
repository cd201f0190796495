"""``Parallel(seed=)``: a random generator for each call, the same wherever and however often it runs.

::

    calls ──over──> calls with rng=Seed     a stand-in, of a few numbers, while the call travels and waits
                                │
                                └─ resolved before each attempt ──> numpy.random.Generator, at its beginning
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from numpy.random import Generator, SeedSequence, default_rng

from shoal.parallel._delayed import StandIn, describe, is_call

#: The name of the argument.
NAME = "rng"


class Seed(StandIn):
    """What stands for the random generator of one call."""

    __slots__ = ("_state",)

    def __init__(self, *state: Any) -> None:
        StandIn.in_use = True
        self._state = state

    def resolve(self) -> Generator:
        """Return the generator, at the beginning of its stream."""
        return _generator(*self._state)

    def __reduce__(self) -> Any:
        return _generator, self._state

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seed) and other._state == self._state

    def __hash__(self) -> int:
        return hash(self._state)


def _generator(entropy: Any, spawn_key: tuple[int, ...], pool_size: int) -> Generator:
    return default_rng(SeedSequence(entropy, spawn_key=spawn_key, pool_size=pool_size))


class Seeds:
    """The generators of a run: that of call i is seeded by the i-th child that `seed` would spawn.

    Parameters
    ----------
    seed
        As for :class:`~shoal.Parallel`. A SeedSequence stays as it is; its children so far are left out.

    Raises
    ------
    TypeError
        If it is no seed.
    ValueError
        If a number of it is negative.
    """

    def __init__(self, seed: Any) -> None:
        root = seed if isinstance(seed, SeedSequence) else SeedSequence(_entropy(seed))
        self._entropy, self._pool_size = root.entropy, root.pool_size
        self._spawn_key = tuple(root.spawn_key)
        self._first = root.n_children_spawned

    def over(self, calls: Iterable[Any]) -> Iterator[Any]:
        """Give each call its generator, unless it has one of its own; pass on what is no call.

        Raises
        ------
        TypeError
            If a function cannot take it.
        """
        latest: Any = Seeds  # no function of a call; most calls of a run are of one function
        place: int | None = None
        for index, call in enumerate(calls):
            try:
                function, args, kwargs = call
            except (TypeError, ValueError):
                yield call
                continue
            if not is_call((function, args, kwargs)):
                yield call
                continue
            if function is not latest:
                place = _place(function, index)
                latest = function
            if NAME in kwargs or (place is not None and len(args) > place):
                yield call
            else:
                spawn_key = (*self._spawn_key, self._first + index)
                yield function, args, {**kwargs, NAME: Seed(self._entropy, spawn_key, self._pool_size)}
            del call, args, kwargs


def _place(function: Callable[..., Any], index: int) -> int | None:
    """Return the place of `rng` among the positional arguments of a function, None if it is taken by name only."""
    if isinstance(function, functools.partial) and NAME in function.keywords:
        return -1  # it is there already, whatever the arguments are
    parameters: Mapping[str, inspect.Parameter] = {}
    with contextlib.suppress(TypeError, ValueError):  # of a builtin that does not tell
        parameters = inspect.signature(function).parameters
    if NAME in parameters and parameters[NAME].kind is not inspect.Parameter.POSITIONAL_ONLY:
        by_name = parameters[NAME].kind is inspect.Parameter.KEYWORD_ONLY
        return None if by_name else list(parameters).index(NAME)
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    raise TypeError(
        f"seed= gives each call a random generator as its argument {NAME!r}, but {describe(function)}, the function of "
        f"call {index}, takes no argument of that name. Give it one, or pass no seed."
    )


def _entropy(seed: Any) -> Any:
    try:
        if isinstance(seed, Sequence) and not isinstance(seed, (str, bytes)):
            return tuple(_natural(number) for number in seed)
        return _natural(seed)
    except TypeError:
        raise TypeError(
            f"seed must be an integer, a sequence of integers or a numpy.random.SeedSequence, got: {seed!r}"
        ) from None


def _natural(number: Any) -> int:
    if isinstance(number, bool):
        raise TypeError
    value = operator.index(number)
    if value < 0:
        raise ValueError(f"seed must not be negative, got: {number!r}")
    return value
