"""``wrap_non_picklable_objects``: the standard pickler can pickle what it wraps."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from shoal import wrap_non_picklable_objects


def there_and_back(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def test_a_lambda_travels_and_is_called() -> None:
    factor = 3
    wrapped = wrap_non_picklable_objects(lambda number: factor * number)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(lambda number: factor * number)
    assert wrapped(2) == there_and_back(wrapped)(2) == there_and_back(there_and_back(wrapped))(2) == 6


def test_without_its_wrapper_the_object_itself_arrives() -> None:
    back = there_and_back(wrap_non_picklable_objects(lambda number: number + 1, keep_wrapper=False))
    assert type(back) is type(lambda: None)
    assert back(1) == 2


@pytest.mark.parametrize("keep_wrapper", [True, False])
def test_instances_of_a_wrapped_class_travel(keep_wrapper: bool) -> None:
    class Point:
        """A point of a line."""

        def __init__(self, x: int) -> None:
            self.x = x

    wrapped = wrap_non_picklable_objects(Point, keep_wrapper)
    assert (wrapped.__name__, wrapped.__doc__) == ("Point", "A point of a line.")
    point = wrapped(x=5)
    assert point.x == there_and_back(point).x == 5
    assert not callable(point)
    with pytest.raises(AttributeError, match="y"):
        _ = there_and_back(point).y


def test_instances_of_a_wrapped_class_are_called_if_it_says_so() -> None:
    class Adder:
        def __init__(self, more: int) -> None:
            self.more = more

        def __call__(self, number: int) -> int:
            return number + self.more

    assert there_and_back(wrap_non_picklable_objects(Adder)(2))(5) == 7
