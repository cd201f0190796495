"""``shoal inspect``: what files contain and would import, without running anything from them."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from typing import Any

from shoal.cli._text import DONE, FAILED, complain, say, say_json
from shoal.errors import FileLimitError, UntrustedFile
from shoal.persistence._inspect import FileInfo, inspect


def main(given: Namespace) -> int:
    """Inspect each file. If one cannot be read, say so, and go on with the next."""
    code, found = DONE, []
    for file in given.files:
        try:
            info = inspect(file, max_bytes=given.max_bytes)
        except (OSError, ValueError, RecursionError, FileLimitError, UntrustedFile) as error:
            complain(str(error))
            code = FAILED
            continue
        if given.json:
            found.append(_fields(info))
        else:
            say(repr(info))
    if given.json:
        say_json(found)
    return code


def _fields(info: FileInfo) -> dict[str, Any]:
    fields = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
    return {**fields, "arrays": [array._asdict() for array in info.arrays]}
