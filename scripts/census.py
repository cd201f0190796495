"""What is in the temporary folder: ``python -m scripts.census FILE [--since FILE]``.

It writes the names to a file, one a line. With ``--since``, it fails if a name that shoal or its tests give is new.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

#: The starts of names that shoal, joblib's folders and multiprocessing give.
OURS = ("shoal", "joblib", "loky", "pymp-", ".shoal")


def names() -> set[str]:
    """Return the names in the temporary folder."""
    return {path.name for path in Path(tempfile.gettempdir()).iterdir()}


def main(arguments: list[str]) -> int:
    """Write the names, and compare them."""
    found = names()
    Path(arguments[0]).write_text("\n".join(sorted(found)), encoding="utf-8")
    if arguments[1:2] != ["--since"]:
        return 0
    before = set(Path(arguments[2]).read_text(encoding="utf-8").splitlines())
    left = sorted(name for name in found - before if name.startswith(OURS))
    print(f"{len(left)} of {len(found - before)} new names are shoal's:", *left)
    return bool(left)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
