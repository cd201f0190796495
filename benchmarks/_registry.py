"""Defines a row: a name, a function that measures one contender, and the targets for shoal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TypeAlias

Measured: TypeAlias = "float | tuple[float, str]"  # the value, and a note
Measure: TypeAlias = Callable[[str], Measured]


@dataclass(frozen=True)
class Target:
    """A bound on the quotient of two contenders' medians, or on one contender's median."""

    numerator: str
    denominator: str | None = None
    minimum: float | None = None
    maximum: float | None = None

    def value(self, medians: Mapping[str, float]) -> float | None:
        """Return the quotient; None if a contender was not measured."""
        numerator = medians.get(self.numerator)
        denominator = 1.0 if self.denominator is None else medians.get(self.denominator)
        return None if numerator is None or denominator is None else numerator / max(denominator, 1e-9)

    def reached(self, value: float) -> bool:
        return (self.minimum is None or value >= self.minimum) and (self.maximum is None or value <= self.maximum)

    def __str__(self) -> str:
        return f">= {self.minimum:g}" if self.minimum is not None else f"<= {self.maximum:g}"

    @property
    def quotient(self) -> str:
        return self.numerator if self.denominator is None else f"{self.numerator}/{self.denominator}"


@dataclass(frozen=True)
class Row:
    """A row of the table. `measure(contender)` returns seconds, or another `unit`, in a fresh process."""

    name: str
    title: str
    measure: Measure
    contenders: tuple[str, ...]
    floors: tuple[str, ...]
    targets: tuple[Target, ...]
    unit: str = "ms"
    rounds: int = 5
    at_most: Mapping[str, int] = field(default_factory=dict)  # the number of rounds of contenders that take too long


def faster(times: float, than: str = "joblib", contender: str = "shoal") -> Target:
    """Return the target that `contender` is at least `times` times as fast as `than`."""
    return Target(numerator=than, denominator=contender, minimum=times)


def row(
    title: str,
    contenders: tuple[str, ...],
    *targets: Target,
    floors: tuple[str, ...] = (),
    unit: str = "ms",
    rounds: int = 5,
    at_most: Mapping[str, int] | None = None,
) -> Callable[[Measure], Row]:
    """Make a row of the decorated function, which is its `measure` and gives it its name."""
    return lambda measure: Row(
        measure.__name__, title, measure, contenders, floors, targets, unit, rounds, at_most or {}
    )


def timed(call: Callable[[], object], repeat: int, *, warm_up: bool = True) -> float:
    """Return the median time of `call` in seconds; `warm_up` calls it once before."""
    if warm_up:
        call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
        del result
    return median(times)
