"""What shoal takes from :mod:`typing`: type checkers get the original, and programs a stand-in.

To import :mod:`typing` takes as long as to import all modules of shoal that a program needs before its first run. The
modules that every program imports take from here what they need of it, and import the rest under ``TYPE_CHECKING``.

A default stands for a type variable that an annotation leaves out: ``MemorizedFunc`` means ``MemorizedFunc[..., Any]``.
Type checkers know defaults from ``typing_extensions``, which they bring along. Programs do not need that package.
"""

from __future__ import annotations

#: Type checkers take it to be true, whatever its value.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any, Generic, Literal, NamedTuple, overload

    from typing_extensions import ParamSpec, TypeVar

    #: The values of ``return_as`` by which results come one by one.
    AsGenerator = Literal["generator", "generator_unordered"]
    #: The value of ``return_as`` by which all results come in a list.
    AsList = Literal["list"]

    #: The values of ``on_error``.
    Raises = Literal["raise"]
    Returns = Literal["return"]

    #: The parameters of a function, and its result.
    P = ParamSpec("P", default=...)
    R = TypeVar("R", default=Any)
    # Others, for signatures that have several.
    Q = ParamSpec("Q", default=...)
    S = TypeVar("S", default=Any)
    T = TypeVar("T", default=Any)
    R_co = TypeVar("R_co", default=Any, covariant=True)
    #: ``return_as`` and ``on_error`` of a ``Parallel``.
    Form = TypeVar("Form", bound=AsList | AsGenerator, default=AsList, covariant=True)
    Failed = TypeVar("Failed", bound=Raises | Returns, default=Raises, covariant=True)
else:
    from collections import namedtuple
    from types import GenericAlias

    P = Q = R = S = T = R_co = Form = Failed = None

    class Generic:
        """The base of classes whose annotations have parameters in brackets."""

        __class_getitem__ = classmethod(GenericAlias)

    class _NamedTupleMaker(type):
        def __new__(cls, name, bases, body):
            if not bases:
                return super().__new__(cls, name, bases, body)
            fields = body["__annotations__"]
            defaults = [body.pop(field) for field in fields if field in body]
            return type(name, (namedtuple(name, fields, defaults=defaults),), {"__slots__": (), **body})

    class NamedTuple(metaclass=_NamedTupleMaker):
        """Makes a subclass of tuple from the fields and defaults in the body of a class.

        Its module needs ``from __future__ import annotations``, without which Python 3.14 keeps the fields elsewhere.
        """

    def overload(function):
        """Return the function. Only type checkers read overloads."""
        return function


__all__ = [
    "TYPE_CHECKING",
    "AsGenerator",
    "AsList",
    "Failed",
    "Form",
    "Generic",
    "NamedTuple",
    "P",
    "Q",
    "R",
    "R_co",
    "Raises",
    "Returns",
    "S",
    "T",
    "overload",
]
