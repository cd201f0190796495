"""Which globals a file may import, and their import."""

from __future__ import annotations

import enum
import importlib
import re
from collections.abc import Callable, Iterable
from typing import Any

from shoal.errors import UntrustedFile
from shoal.persistence.trust._reconstructors import RECONSTRUCTORS
from shoal.persistence.trust._safe import SAFE
from shoal.persistence.trust._standins import Global
from shoal.persistence.trust._survey import Survey

Ask = Callable[[str], Any]
#: What no pattern covers: tests run whatever they are given, and the import of a command line runs it.
_NEVER = frozenset(("tests", "_tests", "testing", "_testing", "test_utils", "conftest", "__main__"))
_PATTERN = re.compile(r"([^\W\d]\w*)(\.[^\W\d]\w*)*(\.\*)?")


class Trust:
    """What ``load(trusted=)`` says, and what is safe anyway.

    Parameters
    ----------
    trusted
        A callable that takes a dotted name; or several of: such callables, dotted names, and names of modules followed
        by ``.*``.
    max_bytes
        How many bytes an object may take; None for the default.

    Raises
    ------
    TypeError, ValueError
        If it is none of that.
    """

    def __init__(self, trusted: Ask | Iterable[str | Ask], max_bytes: int | None = None) -> None:
        self.max_bytes = max_bytes
        self._names: set[str] = set()
        self._packages: set[str] = set()
        self._asked: list[Ask] = []
        if isinstance(trusted, (str, bytes)):
            raise TypeError(f"trusted takes a list of names, got: {trusted!r}. Pass trusted=[{trusted!r}]")
        for item in [trusted] if callable(trusted) else trusted:
            if callable(item):
                self._asked.append(item)
            elif not isinstance(item, str):
                raise TypeError(f"trusted takes dotted names and callables, got: {item!r}")
            elif not _PATTERN.fullmatch(item):
                raise ValueError(f"trusted takes names like 'package.Class' and 'package.*', got: {item!r}")
            elif item.endswith(".*"):
                self._packages.add(item[:-2])
            else:
                self._names.add(item)

    def found(self, name: str, survey: Survey) -> dict[tuple[str, str], Any]:
        """Return what the globals of a file are, by module and qualified name.

        Raises
        ------
        UntrustedFile
            If something does not cover them all: then nothing was imported. Or if a package that is trusted has some of
            them only from elsewhere, or as functions.
        CorruptFile
            If the file could not be gone through.
        ImportError, AttributeError
            If one is not there.
        """
        known = survey.notes.globals
        named = {place for place, standin in known.items() if self._named(standin.name)}
        untrusted = {
            standin.name for place, standin in known.items() if place not in named and not self._in_package(place[0])
        }
        if untrusted or survey.notes.misuses:
            raise UntrustedFile(name, tuple(sorted(untrusted)), tuple(survey.notes.misuses)) from survey.failure
        if survey.failure is not None:
            raise survey.failure
        values = {}
        for place, standin in known.items():
            dotted = standin.name
            if dotted in SAFE:
                values[place] = _safe(dotted)
                continue
            steps = _steps(*place)
            values[place] = steps[-1]
            defined = self._defines(steps[:-1] if dotted in RECONSTRUCTORS else steps)
            if place not in named and not (defined and _as_pickle_does(standin, steps[-1])):
                untrusted.add(dotted)
        if untrusted:
            raise UntrustedFile(name, tuple(sorted(untrusted)))
        return values

    def _named(self, dotted: str) -> bool:
        return dotted in SAFE or dotted in self._names or any(ask(dotted) for ask in self._asked)

    def _in_package(self, module: Any) -> bool:
        if not isinstance(module, str):
            return False
        parents = module.split(".")
        return not _NEVER.intersection(parents) and any(
            ".".join(parents[:depth]) in self._packages for depth in range(1, len(parents) + 1)
        )

    def _defines(self, steps: list[Any]) -> bool:
        """Tell whether a trusted package defines something itself, and every class on the way to it."""
        return all(isinstance(step, type) for step in steps[:-1]) and all(
            self._in_package(getattr(step, "__module__", None)) for step in steps
        )


def _as_pickle_does(standin: Global, value: Any) -> bool:
    """Tell whether a pattern covers what a file does with a global.

    Of classes it covers ``__new__`` without arguments, and what follows to give the instance its state; with arguments,
    members of enumerations and named tuples, whose construction runs no code of theirs; and what is in the table.
    """
    uses = standin.uses
    if not isinstance(value, type):
        return not uses and standin.name in RECONSTRUCTORS
    if "items" in uses and not issubclass(value, dict):
        return False
    if "appended" in uses and not issubclass(value, (list, set)):
        return False
    if "called" in uses and type(value) is not enum.EnumMeta:
        return False
    if "made" in uses and not str(getattr(value.__new__, "__module__", "")).startswith("namedtuple_"):
        return False
    return "result called" not in uses


def _steps(module: str, name: str) -> list[Any]:
    """Import a module, and return what a qualified name in it goes by."""
    value = importlib.import_module(module)
    steps: list[Any] = []
    for part in name.split("."):
        steps.append(getattr(steps[-1] if steps else value, part))
    return steps


def _safe(dotted: str) -> Any:
    """Import what is safe; numpy has renamed its core in 2.0, and files name it either way."""
    module, _, name = dotted.rpartition(".")
    if module == "pathlib._local":  # of Python 3.13
        module = "pathlib"
    if module.startswith(("numpy.core", "numpy._core")):
        import numpy as np

        core = "numpy._core" if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else "numpy.core"
        module = core + module.partition("core")[2]
    if module == "numpy.rec":  # before 2.0, it is no module of its own
        import numpy as np

        return getattr(np.rec, name)
    return getattr(importlib.import_module(module), name)
