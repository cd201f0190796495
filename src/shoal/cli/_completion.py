"""``shoal --completion``: scripts that complete the arguments in a shell. shtab makes them from the parser."""

from __future__ import annotations

import argparse

from shoal.cli._text import DONE, FAILED, complain, say
from shoal.errors import MissingExtra

#: The kinds of arguments that are paths, by their names in the help.
_PATHS = {"FILE": "FILE", "SCRIPT": "FILE", "FOLDER": "DIRECTORY"}


def print_script(parser: argparse.ArgumentParser, shell: str) -> int:
    """Print the script for a shell; return the exit code."""
    try:
        import shtab
    except ImportError:
        complain(str(MissingExtra("--completion", "shtab", "completion")))
        return FAILED
    for action in _actions(parser):
        if action.metavar in _PATHS:
            action.complete = getattr(shtab, _PATHS[action.metavar])  # type: ignore[attr-defined] # shtab reads it
    say(shtab.complete(parser, shell))
    return DONE


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the actions of a parser and of its commands."""
    found = []
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                found += _actions(inner)
    return found
