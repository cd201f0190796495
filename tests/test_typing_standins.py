"""What programs get in place of :mod:`typing` behaves as what type checkers see."""

from __future__ import annotations

import pickle
import typing
from typing import Any

import pytest

from shoal import MemorizedFunc, Parallel
from shoal._typing import NamedTuple


class Ours(NamedTuple):
    """A point."""

    x: int
    y: str = "north"

    @property
    def both(self) -> str:
        return f"{self.x} {self.y}"

    def moved(self) -> Ours:
        return self._replace(x=self.x + 1)


class Theirs(typing.NamedTuple):
    """A point."""

    x: int
    y: str = "north"


@pytest.mark.parametrize("name", ["__doc__", "__module__", "_fields", "_field_defaults", "__match_args__"])
def test_a_named_tuple_has_the_attributes_of_typing(name: str) -> None:
    assert getattr(Ours, name) == getattr(Theirs, name)


def test_a_named_tuple_has_fields_defaults_and_methods() -> None:
    made: Any = Ours(1)
    assert made == (1, "north")
    assert repr(made) == "Ours(x=1, y='north')"
    assert (made.x, made.both, made.moved()) == (1, "1 north", Ours(2))
    assert type(made.moved()) is Ours
    assert made._asdict() == {"x": 1, "y": "north"}
    assert type(pickle.loads(pickle.dumps(made))) is Ours
    assert not hasattr(made, "__dict__")
    with pytest.raises(AttributeError):
        made.x = 2
    with pytest.raises(TypeError):
        Ours()  # type: ignore[call-arg]


def test_generic_classes_take_their_parameters_when_a_program_runs() -> None:
    kinds: Any = Parallel, MemorizedFunc
    assert [kind[int, str].__origin__ for kind in kinds] == [*kinds]
    derived = type("Derived", (typing.cast(Any, Parallel),), {})
    assert issubclass(derived, Parallel)
