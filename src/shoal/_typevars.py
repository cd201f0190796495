"""The type variables of public signatures, and what their values mean.

A default stands for a variable that an annotation leaves out: ``MemorizedFunc`` means ``MemorizedFunc[..., Any]``. Type
checkers know defaults from ``typing_extensions``, which they bring along. Programs do not need that package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

#: The values of ``return_as`` by which results come one by one.
AsGenerator = Literal["generator", "generator_unordered"]
#: The value of ``return_as`` by which all results come in a list.
AsList = Literal["list"]

#: The values of ``on_error``.
Raises = Literal["raise"]
Returns = Literal["return"]

if TYPE_CHECKING:
    from typing_extensions import ParamSpec, TypeVar

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
    from typing import ParamSpec, TypeVar

    P, Q = ParamSpec("P"), ParamSpec("Q")
    R, S, T, R_co, Form, Failed = map(TypeVar, ("R", "S", "T", "R_co", "Form", "Failed"))
