"""What a dry run puts in the place of globals: classes that take every call and every change, and do nothing.

::

    Global ──call──> Result        of what has no rule: whatever it is called with; its uses are noted
       │                │
       └─── misuses ────┘          of what has one: only as pickle calls and changes it when it rebuilds data
       │
       └──call──> Container        of arrays of objects and the like, one each: built once, and not too deep

A global itself is never to be changed: nothing that pickle writes does so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from shoal.persistence.trust._dtypes import Dtype, SurveyedArray, need
from shoal.persistence.trust._limits import PER_OPCODE, Budget

#: Where ``getattr`` is.
GETATTR = ("builtins", "getattr")
#: Types of plain data.
PLAIN = (int, float, complex, str, bytes, bool, type(None))
#: Tuples of so many plain data are simple.
_SIMPLE = 64
#: No more misuses are noted than anybody reads.
_MANY = 20
#: Objects that the interpreter frees by recursion in C are nested no deeper. The stack of a main thread, 8 MB, takes
#: 10,000 arrays of objects in each other; pickle itself writes some 300.
DEPTH = 500


class Notes:
    """What is noted of a file.

    Parameters
    ----------
    rules
        How what is safe may be used, by dotted name.
    reconstructors
        How what patterns cover may be called, by dotted name.
    budget
        What may be taken.

    Attributes
    ----------
    globals
        What it would import: what stands for it, by module and qualified name.
    arrays
        The arrays that it holds.
    misuses
        What it would do that pickle does not do, in words.
    events
        How often something without a rule was handed anything: code of others runs then.
    built
        The states of dtypes with fields, and of arrays of objects, with the dictionary or list in each.
    late
        How deep what was put into containers is that were in others already.
    """

    def __init__(self, rules: Mapping[str, Rule], reconstructors: Mapping[str, Rule], budget: Budget) -> None:
        self.rules, self.reconstructors, self.budget = rules, reconstructors, budget
        self.globals: dict[tuple[str, str], Global] = {}
        self.arrays: list[SurveyedArray] = []
        self.misuses: list[str] = []
        self.events = 0
        self.built: list[tuple[Any, Any]] = []
        self.late = 0

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

    def array(self, array: SurveyedArray, state: Any = None) -> None:
        """Note an array; the state that it was given, if its objects are in a list there."""
        self.arrays.append(array)
        if state is not None:
            self.budget.charge(array.nbytes)
            data = [part for part in state if type(part) is list]
            if data:
                self.built.append((state, data[0]))


class Rule(NamedTuple):
    """How something may be used.

    Attributes
    ----------
    call
        Takes the arguments of a call, and raises ValueError (or TypeError or AttributeError) if pickle gives no such.
        Returns what the call does, or the array that is made, or None: a stand-in will do.
    change
        Takes the state of a BUILD likewise.
    contains
        Whether it holds objects, and is freed by recursion.
    """

    call: Callable[..., Any] | None = None
    change: Callable[[Any], SurveyedArray | None] | None = None
    contains: bool = False


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
        return cls.called(args, kwargs, "called")

    def called(cls, args: tuple[Any, ...], kwargs: dict[str, Any], how: str) -> Any:
        raise NotImplementedError


class Global(_Standin):
    """Stands for what a file would import.

    Attributes
    ----------
    uses
        How it is used, without a rule: "called" by REDUCE, and "made" by NEWOBJ with arguments, other than as the table
        of reconstructors says; "called freely" if an argument of REDUCE is not simple, or there are keyword arguments;
        the result being "called", given "items" or being "appended" to.
    """

    uses: set[str]

    def called(cls, args: tuple[Any, ...], kwargs: dict[str, Any], how: str) -> Any:
        notes, rule, value = cls.notes, cls.rule, None
        if rule is None:
            notes.events += 1
            if how == "called" or args or kwargs:
                notes.budget.charge(_size(args))
                value = cls._used(how, args, kwargs)
        elif rule.call is None or kwargs:
            notes.misused(f"{cls.name} is called")
        else:
            notes.budget.charge(_size(args))
            try:
                value = rule.call(*args)
            except (TypeError, ValueError, AttributeError) as error:
                notes.misused(f"{cls.name} is called with what pickle does not give it ({error})")
        if value is None:
            return Container(cls, args) if rule is not None and rule.contains else cls.result
        if type(value) is SurveyedArray:
            notes.array(value)
            return Container(cls, (), built=True)
        if isinstance(value, Dtype):
            value.notes = notes
        return value

    def _used(cls, how: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = cls.notes.reconstructors.get(cls.name) if how == "called" and not kwargs else None
        if rule is not None and rule.call is not None:
            try:
                return rule.call(*args)
            except (TypeError, ValueError, AttributeError):
                pass
        cls.uses.add(how)
        if kwargs or (how == "called" and not all(map(simple, args))):
            cls.uses.add("called freely")
        return None

    @property
    def result(cls) -> Any:
        """What stands for whatever it returns."""
        made = cls.__dict__.get("_result")
        if made is None:
            made = cls._result = _made(Result, cls.module, cls.qualname, cls.notes)
            made.uses = cls.uses
        return made

    def append(cls, item: Any = None, value: Any = None) -> None:
        cls.notes.misused(f"{cls.name} itself is changed")

    extend = add = __setitem__ = __setstate__ = append


class Result(_Standin):
    """Stands for what a call has returned."""

    uses: set[str]

    def called(cls, args: tuple[Any, ...], kwargs: dict[str, Any], how: str) -> Any:
        if cls.rule is not None:
            cls.notes.misused(f"what {cls.name} returns is called")
        cls.notes.events += 1
        cls.uses.add("result called")
        return cls

    def append(cls, item: Any) -> None:
        """Take an item, or several: nothing is done."""
        if cls.rule is None:
            cls.notes.events += 1
            cls.uses.add("appended")

    extend = add = append

    def __setitem__(cls, key: Any, value: Any) -> None:
        """Take an item: nothing is done."""
        if cls.rule is None:
            cls.notes.events += 1
            cls.uses.add("items")

    def __setstate__(cls, state: Any) -> None:
        if cls.rule is None:
            cls.notes.events += 1
            if type(state) is tuple:
                _states_of_arrays(state, cls.notes)
            known = cls.notes.reconstructors.get(cls.name)
            if known is not None and known.change is not None:
                _change(cls, known, state)
            return
        _change(cls, cls.rule, state)


class Container:
    """Stands for one array of objects, or what else holds objects and is freed by recursion.

    Parameters
    ----------
    kind
        What was called.
    args
        With what.
    built
        Whether it is whole, and takes no state any more.

    Attributes
    ----------
    depth
        How many such are in each other here.
    """

    __slots__ = ("_built", "_held", "_kind", "depth")

    def __init__(self, kind: Global, args: tuple[Any, ...] = (), built: bool = False) -> None:
        self._kind, self._built, self._held, self.depth = kind, built, False, 1
        for arg in args:
            if type(arg) in (list, tuple):
                self._holds(arg)

    def _holds(self, items: Any) -> None:
        notes = self._kind.notes
        notes.budget.charge(PER_OPCODE * len(items))
        for item in items:
            if type(item) is Container and item is not self:
                if self._held:
                    notes.late += item.depth
                item._held = True
                self.depth = max(self.depth, item.depth + 1)
        if self.depth + notes.late > DEPTH:
            raise RecursionError(f"more than {DEPTH} arrays or containers are nested in each other")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._kind.result(*args, **kwargs)

    def append(self, item: Any) -> None:
        """Take an item."""
        self._kind.result.append(item)
        self._holds((item,))

    add = append

    def extend(self, items: Any) -> None:
        """Take several."""
        self._kind.result.append(items)
        self._holds(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._kind.result[key] = value
        self._holds((key, value))

    def __setstate__(self, state: Any) -> None:
        kind = self._kind
        if self._built and kind.rule is not None:  # numpy frees the memory that it has, whatever looks at it
            kind.notes.misused(f"{kind.name} is given a second state")
        kind.result.__setstate__(state)
        self._built = True
        if type(state) is tuple:
            for part in state:
                if type(part) is list:
                    self._holds(part)


def _change(kind: Any, rule: Rule, state: Any) -> None:
    """Check the state of a BUILD."""
    notes = kind.notes
    notes.budget.charge(_size((state,)))
    try:
        need(rule.change, "it has none")
        array = rule.change(state)  # type: ignore[misc]
        if array is not None:
            notes.array(array, state)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        notes.misused(f"{kind.name} is given a state that pickle does not write ({error})")


def _states_of_arrays(state: tuple[Any, ...], notes: Notes) -> None:
    """Check the states of arrays of objects in that of something else: a class of arrays may give them to numpy."""
    waiting = [state]
    notes.budget.charge(_size((state,)))
    while waiting:
        parts = waiting.pop()
        for at, part in enumerate(parts):
            if type(part) is tuple:
                waiting.append(part)
                notes.budget.charge(_size((part,)))
            elif (
                isinstance(part, Dtype) and part.real.hasobject and at + 2 < len(parts) and type(parts[at + 2]) is list
            ):
                try:
                    part.check_objects(parts[at + 2], parts[at - 1])
                except ValueError as error:
                    notes.misused(f"an array is given what it does not hold ({error})")
                notes.built.append((parts, parts[at + 2]))


def simple(value: Any) -> bool:
    """Tell whether a hash of something is taken at once: plain data, or a tuple of a few."""
    if type(value) is tuple:
        return len(value) <= _SIMPLE and all(type(item) in PLAIN for item in value)
    return type(value) in PLAIN


def _size(parts: tuple[Any, ...]) -> int:
    """Return how many bytes may be taken for what is made of some objects, at most."""
    size = 0
    for part in parts:
        kind = type(part)
        if kind is list or kind is tuple or kind is dict:
            size += PER_OPCODE * len(part)
        elif kind is bytes or kind is str or kind is bytearray:
            size += len(part)
    return size


def _made(kind: Any, module: str, qualname: str, notes: Notes) -> Any:
    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return cls.called(args, kwargs, "made")

    rule = notes.rules.get(f"{module}.{qualname}")
    members = {"__new__": new, "module": module, "qualname": qualname, "rule": rule, "notes": notes, "uses": set()}
    return type.__call__(kind, "stand_in", (), members)
