"""Checks the values of arguments: those of ``Parallel``, of contexts and of executors, and the options of backends.

Each argument has one check, whichever function receives it. The check runs where the user wrote the value. Its error
names the argument and the value, and says which values are right. ``_names.py`` checks the names of options.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextvars import ContextVar

from shoal._hints import hint
from shoal._sizes import parse_size
from shoal._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

#: The arguments of ``Parallel`` that no context can set.
OF_ONE_PARALLEL = ("return_as", "timeout", "pre_dispatch", "batch_size", "seed", "memory", "total", "on_message")

_MMAP_MODES = (None, "r", "r+", "w+", "c")


def as_number(value: Any) -> float | None:
    """Return a real number as a float; None for NaN and for all that is no number, booleans and strings included."""
    kind = type(value)
    if kind.__name__ in ("bool", "bool_") or not (hasattr(kind, "__float__") or hasattr(kind, "__index__")):
        return None
    if kind is not int and kind is not float:
        import numbers  # not at the top: most values are of these types, and it takes half a millisecond

        # float() of numpy's complex numbers would drop the imaginary part.
        if isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real):
            return None
    try:
        number = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):  # such as an array of several numbers
        return None
    return None if math.isnan(number) else number


def integer(n_jobs: Any, name: str = "n_jobs") -> int:
    """Return a number of workers, cut to an integer.

    Parameters
    ----------
    n_jobs, name
        The number, and the name of the argument.

    Raises
    ------
    TypeError
        If `n_jobs` is a container, or looks like the calls that belong to the call of a ``Parallel``.
    ValueError
        If no integer can be made of it.
    """
    try:
        return int(n_jobs)
    except (TypeError, ValueError, OverflowError):
        refuse_calls(name, n_jobs)
        kind = TypeError if isinstance(n_jobs, (list, tuple, set, dict)) else ValueError  # as int() and joblib have it
        raise kind(f"{name} could not be converted to int: {n_jobs!r:.80}") from None


def refuse_calls(name: str, value: Any) -> None:
    """Raise TypeError if an argument of ``Parallel()`` looks like calls: ``Parallel(calls)``."""
    first = value[0] if isinstance(value, (list, tuple)) and value else None
    if isinstance(first, tuple) or callable(first) or isinstance(value, Iterator) or hasattr(type(value), "__aiter__"):
        raise TypeError(
            f"Parallel() itself takes no calls, but {name} is {value!r:.60} ({type(value).__name__}). Make it first, "
            "then pass the calls to it: Parallel(n_jobs=2)(delayed(function)(argument) for argument in arguments)"
        )


def check(values: Mapping[str, Any]) -> None:
    """Check the values of arguments, and that they do not contradict each other.

    Parameters
    ----------
    values
        The values of arguments, by name. A name without a check in :data:`_CHECKS` may have any value.

    Raises
    ------
    ValueError, TypeError
        If a value cannot be used.
    """
    for name, value in values.items():
        if (accepts := _CHECKS.get(name)) is not None:
            accepts(name, value)
    if values.get("prefer") == "processes" and values.get("require") == "sharedmem":
        raise ValueError(
            "prefer='processes' and require='sharedmem' are inconsistent settings: processes do not share memory"
        )


def _hint(_name: str, prefer: Any) -> None:
    if prefer not in ("processes", "threads", None):
        near = hint(prefer, ("processes", "threads"))
        raise ValueError(
            f"prefer={prefer!r} is not a valid backend hint, expected 'processes', 'threads' or None{near}"
        )


def _constraint(_name: str, require: Any) -> None:
    if require not in ("sharedmem", None):
        near = hint(require, ("sharedmem",))
        raise ValueError(f"require={require!r} is not a valid constraint, expected 'sharedmem' or None{near}")


def _verbose(_name: str, verbose: Any) -> None:
    if not (verbose is None or isinstance(verbose, bool) or as_number(verbose) is not None or hasattr(verbose, "info")):
        raise TypeError(f"verbose must be a number, the higher the more is printed, or a logger, got: {verbose!r:.80}")


def _folder(_name: str, folder: Any) -> None:
    if not (folder is None or isinstance(folder, (str, os.PathLike))):
        raise TypeError(f"temp_folder must be the path of a folder, or None, got: {folder!r:.80}")


def _size(name: str, size: Any) -> None:
    if size is None:
        return
    try:
        if isinstance(size, bool):
            raise ValueError
        parse_size(size)
    except ValueError:
        message = f"{name}={size!r:.80} is not a size: pass a number of bytes, or a string such as '500M', or None"
        raise ValueError(message) from None


def _positive_size(name: str, size: Any) -> None:
    _size(name, size)
    if size is not None and parse_size(size) == 0:
        raise ValueError(f"{name} must be a positive size, such as '2G', or None, got: {size!r}")


def _mmap_mode(_name: str, mode: Any) -> None:
    if mode not in _MMAP_MODES:
        raise ValueError(f"mmap_mode must be one of {_MMAP_MODES}, got: {mode!r:.80}")


def _progress(_name: str, progress: Any) -> None:
    if isinstance(progress, str) and progress == "rich":
        from importlib.util import find_spec

        if find_spec("rich") is None:
            from shoal.errors import MissingExtra

            raise MissingExtra("progress='rich'", "rich", "rich")
    elif not (isinstance(progress, bool) or callable(progress)):
        raise TypeError(
            f"progress must be True, False, 'rich' or a callable that takes (done, total), not {progress!r:.80} "
            f"of type {type(progress).__name__}{hint(progress, ('rich',))}"
        )


def _batch_size(_name: str, size: Any) -> None:
    if size != "auto" and not callable(size) and not (_is_integer(size) and int(size) > 0):
        raise ValueError(
            f"batch_size must be 'auto', a positive integer or a callable, got: {size!r}{hint(size, ('auto',))}"
        )


def _timeout(_name: str, timeout: Any) -> None:
    number = as_number(timeout)
    if timeout is not None and (number is None or number < 0):
        raise ValueError(f"timeout must be a number of seconds, 0 or more, or None, got: {timeout!r:.80}")


def _total(_name: str, total: Any) -> None:
    if total is not None and not (_is_integer(total) and total >= 0):
        raise ValueError(f"total must be the number of calls, 0 or more, or None, got: {total!r:.80}")


def _on_error(_name: str, on_error: Any) -> None:
    if on_error not in ("raise", "return"):
        near = hint(on_error, ("raise", "return"))
        raise ValueError(f"on_error must be 'raise' or 'return', got: {on_error!r}{near}")


def _retries(_name: str, retries: Any) -> None:
    if not callable(retries) and not (_is_integer(retries) and retries >= 0):
        raise ValueError(
            f"retries must be a number of attempts after the first, 0 or more, or a callable that takes the attempts "
            f"so far and returns whether to stop, got: {retries!r}"
        )


def _retry_wait(_name: str, wait: Any) -> None:
    if not callable(wait) and not (_is_real(wait) and 0 <= wait < math.inf):
        raise ValueError(f"retry_wait must be seconds, 0 or more, or a callable that returns them, got: {wait!r}")


def _retry_on(_name: str, retry_on: Any) -> None:
    types = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    if all(isinstance(kind, type) for kind in types):
        fits = all(issubclass(kind, BaseException) for kind in types)
    else:
        fits = callable(retry_on)
    if not fits:
        raise TypeError(
            f"retry_on must name types of exceptions, or be a callable that takes an exception, got: {retry_on!r}"
        )


#: What can be forwarded from a call to the caller.
FORWARDED = ("logging", "warnings", "output")


def _forward(_name: str, forward: Any) -> None:
    if isinstance(forward, bool):
        return
    names = (forward,) if isinstance(forward, str) else forward
    unknown = [name for name in names if name not in FORWARDED] if isinstance(names, Iterable) else [forward]
    if unknown:
        raise ValueError(
            "forward must be True, False, or name some of 'logging', 'warnings' and 'output', got: "
            f"{forward!r:.80}{hint(unknown[0], FORWARDED)}"
        )


def _seconds(name: str, seconds: Any) -> None:
    if seconds is not None and not (_is_real(seconds) and seconds > 0):
        raise ValueError(f"{name} must be a positive number of seconds, or None, got: {seconds!r:.80}")


def _count(what: str) -> Callable[[str, Any], None]:
    def accepts(name: str, value: Any) -> None:
        if value is not None and not (_is_integer(value) and value > 0):
            raise ValueError(f"{name} must be a positive number of {what}, or None, got: {value!r:.80}")

    return accepts


def _callable(name: str, function: Any) -> None:
    if not (function is None or callable(function)):
        raise TypeError(f"{name} must be a callable, or None, got: {function!r:.80}")


def _initargs(_name: str, initargs: Any) -> None:
    if not (initargs is None or isinstance(initargs, Iterable)):
        raise TypeError(f"initargs must be a tuple of the initializer's arguments, got: {initargs!r:.80}")


def _context(_name: str, context: Any) -> None:
    named = context if isinstance(context, (list, tuple, set, frozenset)) else (context,)
    other = context is None or isinstance(context, bool) or hasattr(context, "Process")
    if not (other or {*map(type, named)} <= {ContextVar}):
        raise TypeError(
            "context must be a list of context variables, a context of multiprocessing, True or None, got: "
            f"{context!r:.80}"
        )


def _is_integer(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, float) or _is_integer(value)


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "prefer": _hint,
    "require": _constraint,
    "verbose": _verbose,
    "temp_folder": _folder,
    "max_nbytes": _size,
    "mmap_mode": _mmap_mode,
    "progress": _progress,
    "forward": _forward,
    "on_message": _callable,
    "batch_size": _batch_size,
    "timeout": _timeout,
    "total": _total,
    "retries": _retries,
    "retry_on": _retry_on,
    "retry_wait": _retry_wait,
    "on_error": _on_error,
    "task_timeout": _seconds,
    "max_pending": _count("results"),
    "max_tasks_per_worker": _count("calls"),
    "max_worker_memory": _positive_size,
    "inner_max_num_threads": _count("threads"),
    "initializer": _callable,
    "initargs": _initargs,
    "idle_worker_timeout": _seconds,
    "maxtasksperchild": _count("calls"),
    "context": _context,
}
