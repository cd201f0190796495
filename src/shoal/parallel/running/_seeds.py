"""``Parallel(seed=)``: a random generator for each call, the same wherever and however often the call runs.

::

    calls ──seeded──> calls with rng=Seed     a placeholder of a few numbers, while the call waits and travels
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

from shoal.parallel._delayed import Placeholder, describe, is_call

#: The name of the argument.
NAME = "rng"


class Seed(Placeholder):
    """Takes the place of the random generator of one call, until the call runs."""

    __slots__ = ("_state",)

    def __init__(self, *state: Any) -> None:
        Placeholder.in_use = True
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
    """The random generators of a run. That of call i is seeded by the i-th child that `seed` would spawn.

    Parameters
    ----------
    seed
        As for :class:`~shoal.Parallel`. A SeedSequence is not changed, and the children that it has spawned already
        are not used again.

    Raises
    ------
    TypeError
        If `seed` is neither an integer, nor a sequence of integers, nor a SeedSequence.
    ValueError
        If an integer is negative.
    """

    def __init__(self, seed: Any) -> None:
        root = seed if isinstance(seed, SeedSequence) else SeedSequence(_entropy(seed))
        self._entropy, self._pool_size = root.entropy, root.pool_size
        self._spawn_key = tuple(root.spawn_key)
        self._first = root.n_children_spawned

    def seeded(self, calls: Iterable[Any]) -> Iterator[Any]:
        """Yield the calls, each with its generator as the argument `rng`, unless it passes an `rng` already.

        An item that is no call is yielded as it is: the run raises the error for it.

        Raises
        ------
        TypeError
            If a function has no argument `rng`.
        """
        latest: Any = Seeds  # a function that no call has; most calls of a run have one function
        position: int | None = None
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
                position = _position_of_rng(function, index)
                latest = function
            if NAME in kwargs or (position is not None and len(args) > position):
                yield call
            else:
                spawn_key = (*self._spawn_key, self._first + index)
                yield function, args, {**kwargs, NAME: Seed(self._entropy, spawn_key, self._pool_size)}
            del call, args, kwargs


def _position_of_rng(function: Callable[..., Any], index: int) -> int | None:
    """Return the position of `rng` among the positional arguments of a function; None if it is keyword-only."""
    if isinstance(function, functools.partial) and NAME in function.keywords:
        return -1  # the partial passes it already
    parameters: Mapping[str, inspect.Parameter] = {}
    with contextlib.suppress(TypeError, ValueError):  # some builtins have no signature
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
