"""Measures one contender in this process: ``python -m benchmarks._one ROW CONTENDER`` prints JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from .rows import ROWS


def nothing(x: Any) -> Any:
    """Do nothing. As in a script, workers cannot import this function of `__main__` by name."""
    return x


def main() -> None:
    name, contender = sys.argv[1:]
    measured = ROWS[name].measure(contender)
    value, note = measured if isinstance(measured, tuple) else (measured, "")
    print(json.dumps({"value": value, "note": note}))


if __name__ == "__main__":
    main()
