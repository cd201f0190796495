"""What a dry run puts in the place of globals: classes that take every call and every change, and do nothing.

::

    Global ──call──> Result        of what has no rule: whatever it is called with
       │                │
       └─── misuses ────┘          of what has one: only as pickle calls and changes it when it rebuilds data

A global itself is never to be changed: nothing that pickle writes does so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from shoal.persistence._dtypes import SurveyedArray, need

#: Where ``getattr`` is.
GETATTR = ("builtins", "getattr")
#: No more misuses are noted than anybody reads.
_MANY = 20


class Notes:
    """What is noted of a file.

    Parameters
    ----------
    rules
        How what is safe may be used, by dotted name.

    Attributes
    ----------
    globals
        What it would import: what stands for it, by module and qualified name.
    arrays
        The arrays that it holds.
    misuses
        What it would do that pickle does not do, in words.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self.rules = rules
        self.globals: dict[tuple[str, str], Global] = {}
        self.arrays: list[SurveyedArray] = []
        self.misuses: list[str] = []

    def stand_in(self, module: str, qualname: str) -> Global:
        """Return what stands for a global."""
        known = self.globals.get((module, qualname))
        if known is None:
            known = self.globals[module, qualname] = _made(Global, module, qualname, self)
        return known

    def attribute_getter(self) -> Global:
        """Return what stands for ``getattr``.

        Pickle writes a call of it for ``Class.method``, where the class alone is named: that is a global then. Only
        other uses of it are noted as its import.
        """
        made: Global = _made(Global, *GETATTR, self)

        def get(kind: Any, name: Any) -> Any:
            if isinstance(kind, Global) and kind is not made and type(name) is str and name.isidentifier():
                return self.stand_in(kind.module, f"{kind.qualname}.{name}")
            return self.stand_in(*GETATTR).result

        made.rule = Rule(get)
        return made

    def misused(self, text: str) -> None:
        """Note what is done that pickle does not do."""
        if text not in self.misuses and len(self.misuses) < _MANY:
            self.misuses.append(text)


class Rule(NamedTuple):
    """How something may be used.

    Attributes
    ----------
    call
        Takes the arguments of a call, and raises ValueError (or TypeError or AttributeError) if pickle gives no such.
        Returns what the call does, or the array that is made, or None: a stand-in will do.
    change
        Takes the state of a BUILD likewise.
    """

    call: Callable[..., Any] | None = None
    change: Callable[[Any], SurveyedArray | None] | None = None


class _Standin(type):
    """The class of all stand-ins. They are classes, since NEWOBJ wants one."""

    module: str
    qualname: str
    rule: Rule | None
    notes: Notes

    @property
    def name(cls) -> str:
        """The dotted name."""
        return f"{cls.module}.{cls.qualname}"

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.called(args, kwargs)

    def called(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise NotImplementedError

    def append(cls, item: Any) -> None:
        """Take an item: nothing is done."""

    extend = add = append

    def __setitem__(cls, key: Any, value: Any) -> None:
        """Take an item: nothing is done."""


class Global(_Standin):
    """Stands for what a file would import."""

    def called(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = None
        if cls.rule is None:
            pass
        elif cls.rule.call is None or kwargs:
            cls.notes.misused(f"{cls.name} is called")
        else:
            try:
                value = cls.rule.call(*args)
            except (TypeError, ValueError, AttributeError) as error:
                cls.notes.misused(f"{cls.name} is called with what pickle does not give it ({error})")
        if type(value) is SurveyedArray:
            cls.notes.arrays.append(value)
            return cls.result
        return cls.result if value is None else value

    @property
    def result(cls) -> Any:
        """What stands for whatever it returns."""
        made = cls.__dict__.get("_result")
        if made is None:
            made = cls._result = _made(Result, cls.module, cls.qualname, cls.notes)
        return made

    def append(cls, item: Any = None, value: Any = None) -> None:
        cls.notes.misused(f"{cls.name} itself is changed")

    extend = add = __setitem__ = __setstate__ = append


class Result(_Standin):
    """Stands for what a call has returned."""

    def called(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if cls.rule is not None:
            cls.notes.misused(f"what {cls.name} returns is called")
        return cls

    def __setstate__(cls, state: Any) -> None:
        if cls.rule is None:
            return
        try:
            need(cls.rule.change, "it has none")
            array = cls.rule.change(state)  # type: ignore[misc]
            if array is not None:
                cls.notes.arrays.append(array)
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            cls.notes.misused(f"{cls.name} is given a state that pickle does not write ({error})")


def _made(kind: Any, module: str, qualname: str, notes: Notes) -> Any:
    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return cls.called(args, kwargs)

    rule = notes.rules.get(f"{module}.{qualname}")
    members = {"__new__": new, "module": module, "qualname": qualname, "rule": rule, "notes": notes}
    return type.__call__(kind, "stand_in", (), members)
