"""Which globals a file may import, and their import."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from typing import Any

from shoal.errors import UntrustedFile
from shoal.persistence._safe import SAFE
from shoal.persistence._survey import Survey

Ask = Callable[[str], Any]
_PATTERN = re.compile(r"([^\W\d]\w*)(\.[^\W\d]\w*)*(\.\*)?")


class Trust:
    """What ``load(trusted=)`` says, and what is safe anyway.

    Parameters
    ----------
    trusted
        A callable that takes a dotted name; or several of: such callables, dotted names, and names of modules followed
        by ``.*``.

    Raises
    ------
    TypeError, ValueError
        If it is none of that.
    """

    def __init__(self, trusted: Ask | Iterable[str | Ask]) -> None:
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

    def covers(self, module: str, name: str) -> bool:
        """Tell whether a global may be imported; what a package defines is only known then."""
        return self._named(f"{module}.{name}") or self._in_package(module)

    def found(self, name: str, survey: Survey) -> dict[tuple[str, str], Any]:
        """Return what the globals of a file are, by module and qualified name.

        Raises
        ------
        UntrustedFile
            If something does not cover them all: then nothing was imported. Or if a package that is trusted has some of
            them only from elsewhere.
        CorruptFile
            If the file could not be gone through.
        ImportError, AttributeError
            If one is not there.
        """
        untrusted = [
            f"{module}.{qualname}" for module, qualname in survey.notes.globals if not self.covers(module, qualname)
        ]
        if untrusted or survey.notes.misuses:
            raise UntrustedFile(name, tuple(sorted(untrusted)), tuple(survey.notes.misuses)) from survey.failure
        if survey.failure is not None:
            raise survey.failure
        values = {}
        for module, qualname in survey.notes.globals:
            dotted = f"{module}.{qualname}"
            if dotted in SAFE:
                values[module, qualname] = _safe(dotted)
                continue
            steps = _steps(module, qualname)
            values[module, qualname] = steps[-1]
            if not (self._named(dotted) or self._defines(steps)):
                untrusted.append(dotted)
        if untrusted:
            raise UntrustedFile(name, tuple(sorted(untrusted)))
        return values

    def _named(self, dotted: str) -> bool:
        return dotted in SAFE or dotted in self._names or any(ask(dotted) for ask in self._asked)

    def _in_package(self, module: Any) -> bool:
        if not isinstance(module, str):
            return False
        parents = module.split(".")
        return any(".".join(parents[:depth]) in self._packages for depth in range(1, len(parents) + 1))

    def _defines(self, steps: list[Any]) -> bool:
        """Tell whether a trusted package defines something itself, and every class on the way to it."""
        return all(isinstance(step, type) for step in steps[:-1]) and all(
            self._in_package(getattr(step, "__module__", None)) for step in steps
        )


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
