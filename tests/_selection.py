"""Which tests of a product of parameters `make test` runs. `make test-all` runs all of them."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

#: A value: the number of the parameter, and the id of the value.
Value = tuple[int, str]


def values_of(item: pytest.Item) -> list[Value]:
    """Return the values of the parameters of a test, those of its fixtures included."""
    parameters: Any = getattr(item, "callspec", None)
    return [] if parameters is None else [*enumerate(parameters._idlist)]  # `id` joins the same by "-"


def part_of(product: list[pytest.Item]) -> list[pytest.Item]:
    """Choose tests such that each value of each parameter occurs; if there are three parameters, each pair of values.

    Parameters
    ----------
    product
        The tests of one function, in their order.
    """
    wanted = {item: {*combinations(values_of(item), min(len(values_of(item)) - 1, 2))} for item in product}
    missing = set().union(*wanted.values())
    chosen = []
    while missing:
        best = max(product, key=lambda item: len(wanted[item] & missing))
        chosen.append(best)
        missing -= wanted[best]
    return chosen
