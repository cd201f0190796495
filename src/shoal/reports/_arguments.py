"""How large the arguments of calls are, and the objects whose methods are called, from a sample of calls."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from shoal._pickling import dumps

#: The number of positions and keywords that are measured.
MOST = 32
#: The name of the object that travels with a function.
FUNCTION = "function"
#: Objects of these packages stand for descriptors. To pickle one duplicates a descriptor, which nobody would close.
_DUPLICATED = ("multiprocessing", "_multiprocessing", "socket")


class Way(NamedTuple):
    """How an object travels by itself.

    Attributes
    ----------
    name
        ``"mapped"`` or ``"once"``, as in docs/report-schema.md; ``"batch"`` for an array that goes with its batch.
    nbytes
        Its size; None if it has to be pickled to know it.
    value
        What is pickled to know the size.
    """

    name: str
    nbytes: int | None
    value: Any = None


WayOf = Callable[[Any], "Way | None"]


class _Sample:
    """What is known of one argument."""

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind
        self.samples = 0
        self.seconds = 0.0
        self.nbytes = {"batch": 0, "mapped": 0, "once": 0}
        self.repeated = False

    def to_dict(self) -> dict[str, Any]:
        way = max(self.nbytes, key=lambda name: self.nbytes[name])
        return {
            "name": self.name,
            "type": self.kind,
            "samples": self.samples,
            "bytes": sum(self.nbytes.values()) / self.samples,
            "seconds": self.seconds / self.samples,
            "repeated": self.repeated,
            "way": way,
        }


class Arguments:
    """Samples the arguments of the calls of a run.

    The first call of the batches 0, 3, 15, 63, ... is measured, so that this costs little beside the pickling itself.
    Where batches have one call each, its arguments are compared with those of the batch before.

    Parameters
    ----------
    way_of
        Returns how an object travels; None for objects that are pickled with what contains them.

    Notes
    -----
    It belongs to the thread that owns the run. Only :meth:`to_list` may be called by any thread.
    """

    def __init__(self, way_of: WayOf) -> None:
        self._way_of = way_of
        self._batches = 0
        self._next = 0
        self._samples: dict[str, _Sample] = {}
        self._last: dict[str, Any] = {}  # the values of the batch before one that is measured

    def see(self, functions: list[Any], args: list[tuple[Any, ...]], kwargs: list[dict[str, Any]] | None) -> None:
        """Look at the arguments of a batch. It raises nothing that a value raises.

        Parameters
        ----------
        functions
            The function of each call; or one function, which all calls have.
        args, kwargs
            The arguments of each call; no keyword arguments if no call has any.
        """
        sampled = self._batches == self._next
        followed = self._batches == self._next - 1
        self._batches += 1
        if not (sampled or followed):
            return
        values = _named(functions[0], args[0], kwargs[0] if kwargs else {})
        other = _named(functions[-1], args[-1], kwargs[-1] if kwargs else {}) if len(args) > 1 else self._last
        self._last = {} if sampled else values
        if sampled:
            self._next = 4 * self._next + 3
        for name, value in values.items():
            sample = self._samples.get(name)
            if sample is None:
                sample = self._samples[name] = _Sample(name, _kind(value))
            if sampled:
                self._measure(sample, value)
            if name in other and self._marked(other[name]) is self._marked(value):
                sample.repeated = True

    def to_list(self) -> list[dict[str, Any]]:
        """Return the list ``arguments`` of docs/report-schema.md, the largest first."""
        found = [sample.to_dict() for sample in list(self._samples.values()) if sample.samples]
        return sorted(found, key=lambda one: -one["bytes"])

    def _marked(self, value: Any) -> Any:
        """Return the object that a marker marks; other values as they are. Each call may have a marker of its own."""
        try:
            way = self._way_of(value)
        except Exception:  # attributes of the user's
            return value
        return way.value if way is not None and way.name == "once" else value

    def _measure(self, sample: _Sample, value: Any) -> None:
        sizes = dict.fromkeys(sample.nbytes, 0)
        try:
            way = self._way_of(value)
            if way is not None and way.name == "once" and sample.samples:
                return
            began = time.perf_counter()
            nbytes = self._pickled(value, sizes)
            sample.seconds += time.perf_counter() - began
        except Exception:  # what cannot be pickled fails with its call
            return
        sample.samples += 1
        sizes["batch"] += nbytes
        for name, size in sizes.items():
            sample.nbytes[name] += size

    def _pickled(self, value: Any, sizes: dict[str, int]) -> int:
        """Return the number of bytes of a pickle; add to `sizes` what would not be in it."""

        def reduce(obj: Any) -> Any:
            way = self._way_of(obj)
            if way is None:
                return (int, ()) if type(obj).__module__.partition(".")[0] in _DUPLICATED else NotImplemented
            nbytes = self._pickled(way.value, sizes) if way.nbytes is None else way.nbytes
            sizes[way.name] += nbytes
            return int, ()

        stream, buffers = dumps(value, reduce)
        return len(stream) + sum(view.nbytes for view in buffers)


def _named(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    carried = _carried(function)
    first = [] if carried is None else [(FUNCTION, carried)]
    positional = [(f"args[{position}]", value) for position, value in enumerate(args)]
    named = [(f"kwargs[{name!r}]", value) for name, value in kwargs.items()]
    return dict(itertools.islice(itertools.chain(first, positional, named), MOST))


def _carried(function: Any) -> Any:
    """Return the object that travels with a function: that of a bound method, or a callable object itself.

    None if there is none. Plain functions and classes are imported by workers, or sent once to each.
    """
    kind = type(function)
    if kind in (MethodType, BuiltinFunctionType):
        owner = function.__self__
        return None if issubclass(type(owner), (type, ModuleType)) else owner
    return None if issubclass(kind, (FunctionType, type)) else function


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
