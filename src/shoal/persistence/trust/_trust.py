"""Decides which globals a file may import, and imports them."""

from __future__ import annotations

import enum
import importlib
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from shoal._hints import hint
from shoal.errors import UntrustedFile
from shoal.persistence.trust._arrow import GUARDED
from shoal.persistence.trust._presets import PRESETS
from shoal.persistence.trust._reconstructors import RECONSTRUCTORS
from shoal.persistence.trust._safe import SAFE
from shoal.persistence.trust._standins import Global
from shoal.persistence.trust._survey import Survey

Ask = Callable[[str], Any]
#: No pattern covers modules below these names. Test helpers run any code that they are given, and importing
#: ``__main__`` runs a command line.
_NEVER = frozenset(("tests", "_tests", "testing", "_testing", "test_utils", "conftest", "__main__"))
#: The names that files of some releases give to a module of a library, and its place. It is not imported by that name,
#: because a file in the working folder may have it.
_RENAMED = {"_loss": "sklearn._loss._loss"}
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_PATTERN = re.compile(rf"{_NAME.pattern}\.(\*|[^\W\d]\w*)")


class Trust:
    """The arguments of ``load(trusted=)``. Thread-safe, because it never changes.

    Parameters
    ----------
    trusted
        A callable that is given a dotted name and returns whether it is trusted; the name of a preset; or an iterable
        of such callables, of such names, of dotted names, and of names of modules followed by ``.*``.
    max_bytes
        The number of bytes that an object may take; None for the default limit.

    Raises
    ------
    TypeError, ValueError
        If `trusted` is neither.
    """

    def __init__(self, trusted: Ask | Iterable[str | Ask], max_bytes: int | None = None) -> None:
        self.max_bytes = max_bytes
        self._names: set[str] = set()
        self._packages: set[str] = set()
        self._audited: set[str] = set()  # names of presets
        self._asked: list[Ask] = []
        preset = isinstance(trusted, str) and trusted in PRESETS
        if isinstance(trusted, (str, bytes)) and not preset:
            raise TypeError(
                f"trusted takes a list of names, or one of the presets {list(PRESETS)}, got: {trusted!r}"
                f"{_instead(trusted)}"
            )
        if not (callable(trusted) or isinstance(trusted, Iterable)):
            raise TypeError(
                f"trusted takes a list of names, or one of the presets {list(PRESETS)}, got: {trusted!r}. To let the "
                "file import anything, leave trusted out"
            )
        for item in [trusted] if callable(trusted) or preset else trusted:
            if callable(item):
                self._asked.append(item)
            elif not isinstance(item, str):
                raise TypeError(f"trusted takes dotted names and callables, got: {item!r}")
            elif item in PRESETS:
                self._audited |= PRESETS[item]
            elif not _PATTERN.fullmatch(item):
                raise ValueError(
                    f"trusted takes presets and names like 'package.Class' and 'package.*', got: {item!r}"
                    f"{_instead(item)}"
                )
            elif item.endswith(".*"):
                self._packages.add(item[:-2])
            else:
                self._names.add(item)

    def found(self, name: str, survey: Survey) -> dict[tuple[str, str], Any]:
        """Import the globals of a file if all of them are trusted; return them, by module and qualified name.

        Parameters
        ----------
        name
            The name of the file, for errors.
        survey
            The result of the dry run.

        Raises
        ------
        UntrustedFile
            If a global is not trusted; then nothing was imported. Or if a pattern covers a global by its name, but its
            package does not define it, or it is not a class.
        CorruptFile
            If the dry run could not be completed.
        ImportError, AttributeError
            If a global does not exist here.
        """
        known = survey.notes.globals
        named = {key for key, standin in known.items() if self._named(standin.name)}
        untrusted = {
            standin.name
            for key, standin in known.items()
            if key not in named and standin.name not in self._audited and not self._in_package(key[0])
        }
        if untrusted or survey.notes.misuses:
            raise UntrustedFile(name, tuple(sorted(untrusted)), tuple(survey.notes.misuses)) from survey.failure
        if survey.failure is not None:
            raise survey.failure
        values = {}
        for key, standin in known.items():
            dotted = standin.name
            if dotted in SAFE:
                values[key] = _safe(dotted)
                continue
            steps = _steps(*key)
            values[key] = partial(GUARDED[dotted], name) if dotted in GUARDED else steps[-1]
            defined = dotted in self._audited or self._defines(steps[:-1] if dotted in RECONSTRUCTORS else steps)
            if key not in named and not (defined and _as_pickle_does(standin, steps[-1])):
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
        """Tell whether a trusted package defines an object itself, and also every class on the way to it."""
        return all(isinstance(step, type) for step in steps[:-1]) and all(
            self._in_package(getattr(step, "__module__", None)) for step in steps
        )


def _instead(given: str | bytes) -> str:
    """Return the end of a message: what to pass instead of a string that is not valid."""
    text = str(given)
    near = hint(text, PRESETS)
    if _PATTERN.fullmatch(text):
        return f". Pass trusted=[{text!r}]{near}"
    if _NAME.fullmatch(text):
        return near or f". Pass trusted=[{text + '.*'!r}]"
    return near or ". Pass a list such as trusted=['package.Class', 'package.*']"


def _as_pickle_does(standin: Global, value: Any) -> bool:
    """Tell whether a pattern covers the way in which a file uses a global.

    Of a class, it covers ``__new__`` without arguments, and then setting the state of the instance. It also covers
    ``__new__`` with arguments for members of enumerations, if the arguments are simple values, since these are hashed,
    and for named tuples, because their construction runs no code of theirs. Of other callables, it covers those in the
    table of reconstructors.
    """
    uses = standin.uses
    if not isinstance(value, type):
        return not uses and standin.name in RECONSTRUCTORS
    if "items" in uses and not issubclass(value, dict):
        return False
    if "appended" in uses and not issubclass(value, (list, set)):
        return False
    if "called freely" in uses or ("called" in uses and type(value) is not enum.EnumMeta):
        return False
    if "made" in uses and not str(getattr(value.__new__, "__module__", "")).startswith("namedtuple_"):
        return False
    return "result called" not in uses


def _steps(module: str, name: str) -> list[Any]:
    """Import a module, and return the objects that the parts of a qualified name in it refer to."""
    value = importlib.import_module(_RENAMED.get(module, module))
    steps: list[Any] = []
    for part in name.split("."):
        steps.append(getattr(steps[-1] if steps else value, part))
    return steps


def _safe(dotted: str) -> Any:
    """Import a safe global. NumPy 2.0 has renamed ``numpy.core``, and files contain either name."""
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
