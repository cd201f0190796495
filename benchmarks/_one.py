"""One measurement in a process of its own: ``python -m benchmarks._one ROW CONTENDER`` prints JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from .rows import ROWS


def nothing(x: Any) -> Any:
    """A no-op of `__main__`, as in a user's script: workers cannot import it by name."""
    return x


def main() -> None:
    name, contender = sys.argv[1:]
    measured = ROWS[name].measure(contender)
    value, note = measured if isinstance(measured, tuple) else (measured, "")
    print(json.dumps({"value": value, "note": note}))


if __name__ == "__main__":
    main()
