"""What `make test` leaves to `make test-all`: most of each product of parameters, and most of the random examples."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

#: Whether all tests run; conftest.py sets it.
thorough = True

#: A value: the number of the parameter, and the id of the value.
Value = tuple[int, str]


def values_of(item: pytest.Item) -> list[Value]:
    """Return the values of the parameters of a test, those of its fixtures included."""
    parameters: Any = getattr(item, "callspec", None)
    return [] if parameters is None else [*enumerate(parameters._idlist)]  # `id` joins the same by "-"


def examples(number: int) -> int:
    """Return how many of so many random examples a test of Hypothesis tries: `make test` tries a fifth."""
    return number if thorough else number // 5


def sampled(*values: Any) -> list[Any]:
    """Return the values of a parameter that is a scale: every third is for `make test` too."""
    return [pytest.param(value, marks=[pytest.mark.thorough] * (place % 3 > 0)) for place, value in enumerate(values)]


def part_of(product: list[pytest.Item]) -> list[pytest.Item]:
    """Choose tests such that each value of each parameter occurs.

    Parameters
    ----------
    product
        The tests of one function, in their order.
    """
    missing = {value for item in product for value in values_of(item)}
    chosen: list[pytest.Item] = []
    times = Counter[Value]()  # how often each value was chosen: among equals, one with rare values is better
    while missing:
        best = max(
            product, key=lambda item: (len(missing & {*values_of(item)}), -sum(times[v] for v in values_of(item)))
        )
        chosen.append(best)
        missing -= {*values_of(best)}
        times.update(values_of(best))
    return chosen
