"""What a row is: a name, a function that measures one contender, and what is asked of shoal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TypeAlias

Measured: TypeAlias = "float | tuple[float, str]"  # the value, and what else is worth saying
Measure: TypeAlias = Callable[[str], Measured]


@dataclass(frozen=True)
class Asked:
    """A bound on `over` / `under`, two contenders' medians, or on `over` alone."""

    over: str
    under: str | None = None
    least: float | None = None
    most: float | None = None

    def value(self, medians: Mapping[str, float]) -> float | None:
        """The quotient; None if one of the two was not measured."""
        over = medians.get(self.over)
        under = 1.0 if self.under is None else medians.get(self.under)
        return None if over is None or under is None else over / max(under, 1e-9)

    def reached(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        return f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"

    @property
    def quotient(self) -> str:
        return self.over if self.under is None else f"{self.over}/{self.under}"


@dataclass(frozen=True)
class Row:
    """One line of the table. `measure(contender)` gives seconds, or what `unit` says, in a fresh process."""

    name: str
    title: str
    measure: Measure
    contenders: tuple[str, ...]
    floors: tuple[str, ...]
    asked: tuple[Asked, ...]
    unit: str = "ms"
    rounds: int = 5
    at_most: Mapping[str, int] = field(default_factory=dict)  # rounds of a contender that takes too long


def faster(times: float, than: str = "joblib", who: str = "shoal") -> Asked:
    """`who` takes at most a `times`-th of what `than` takes."""
    return Asked(over=than, under=who, least=times)


def row(
    title: str,
    contenders: tuple[str, ...],
    *asked: Asked,
    floors: tuple[str, ...] = (),
    unit: str = "ms",
    rounds: int = 5,
    at_most: Mapping[str, int] | None = None,
) -> Callable[[Measure], Row]:
    """Make the decorated function the `measure` of a row of its name."""
    return lambda measure: Row(measure.__name__, title, measure, contenders, floors, asked, unit, rounds, at_most or {})


def timed(call: Callable[[], object], repeat: int, *, warm_up: bool = True) -> float:
    """The median time of `call` in seconds, after one call that does not count."""
    if warm_up:
        call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
        del result
    return median(times)
