"""The command line: ``python -m shoal``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import shoal
from shoal.errors import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default that in ``sys.argv``; return the exit code: 0, or 1 if a file cannot be read."""
    parser = argparse.ArgumentParser(prog="shoal", description="Inspects files that shoal or joblib has written.")
    parser.add_argument("--version", action="version", version=f"shoal {shoal.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    look = commands.add_parser(
        "inspect", help="show the contents and the imports of files, without running code from them"
    )
    look.add_argument("files", nargs="+", metavar="FILE")
    look.add_argument("--max-bytes", type=int, help="the most bytes that an object may take in memory")
    code, given = 0, parser.parse_args(arguments)
    for file in given.files:
        try:
            print(repr(shoal.inspect(file, max_bytes=given.max_bytes)))  # noqa: T201
        except (OSError, ValueError, RecursionError, shoal.FileLimitError, shoal.UntrustedFile) as error:
            print(f"shoal: {printable(str(error))}", file=sys.stderr)  # noqa: T201
            code = 1
    return code
