"""The command line: ``python -m shoal``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import shoal


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
    code = 0
    for file in parser.parse_args(arguments).files:
        try:
            print(repr(shoal.inspect(file)))  # noqa: T201
        except (OSError, ValueError, shoal.UntrustedFile) as error:
            print(f"shoal: {error}", file=sys.stderr)  # noqa: T201
            code = 1
    return code
