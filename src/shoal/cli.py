"""The command line: ``python -m shoal``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import shoal
from shoal.errors import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments
        Those of the command line; ``sys.argv`` by default.

    Returns
    -------
    What the process is to exit with: 0 if all went well, 1 if a file cannot be read.
    """
    parser = argparse.ArgumentParser(prog="shoal", description="Looks into files of shoal's and joblib's.")
    parser.add_argument("--version", action="version", version=f"shoal {shoal.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    look = commands.add_parser("inspect", help="say what files hold and would import, without running any of it")
    look.add_argument("files", nargs="+", metavar="FILE")
    look.add_argument("--max-bytes", type=int, help="how many bytes an object may take")
    code, given = 0, parser.parse_args(arguments)
    for file in given.files:
        try:
            print(repr(shoal.inspect(file, max_bytes=given.max_bytes)))  # noqa: T201
        except (OSError, ValueError, RecursionError, shoal.FileLimitError, shoal.UntrustedFile) as error:
            print(f"shoal: {printable(str(error))}", file=sys.stderr)  # noqa: T201
            code = 1
    return code
