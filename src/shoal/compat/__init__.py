"""``import joblib`` that is served by shoal: one finder, before all others, and an environment variable for children.

::

    install_as_joblib() ──> sys.meta_path[0]: joblib ──> shoal/compat/joblib/__init__.py, its submodules as usual
              │             (an installed joblib is not looked at)
              └──> SHOAL_AS_JOBLIB=1 ──> worker processes and other programs: importing shoal does the same there
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from importlib.metadata import Distribution

#: With "1", importing shoal has shoal stand in for joblib.
VARIABLE = "SHOAL_AS_JOBLIB"
#: The release of joblib for which shoal stands in.
VERSION = "1.6.0"

_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "joblib")


def install_as_joblib(replace: bool = False) -> None:
    """Have shoal stand in for joblib: from now on ``import joblib`` imports :mod:`shoal.compat.joblib`.

    It takes well under a millisecond, and holds for this process, for its worker processes, and for the programs that
    it starts if they import shoal. An installed joblib is not looked at, and none need be installed.

    Parameters
    ----------
    replace
        What is done if joblib was imported already. By default that is an error. True takes it out of ``sys.modules``,
        so that what imports joblib later gets shoal; but modules that have joblib's functions and classes by now keep
        them, and go on using them.

    Raises
    ------
    RuntimeError
        If joblib was imported already.

    Notes
    -----
    Thread-safe. To be called before anything imports joblib: scikit-learn, say. Calling it again does nothing.

    Examples
    --------
    >>> import shoal
    >>> shoal.install_as_joblib()  # doctest: +SKIP
    """
    loaded = sys.modules.get("joblib")
    if loaded is not None and not _is_ours(loaded):
        if not replace:
            raise RuntimeError(
                "joblib is imported already, and what has imported it would go on using it. Call install_as_joblib() "
                "before any import of joblib or of a library that uses it, such as scikit-learn; set the environment "
                f"variable {VARIABLE}=1 before the program starts; or pass replace=True, which replaces joblib for "
                "the imports that are still to come"
            )
        for name in [name for name in sys.modules if name == "joblib" or name.startswith("joblib.")]:
            del sys.modules[name]
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    os.environ[VARIABLE] = "1"


def _is_ours(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and os.path.dirname(os.path.abspath(file)) == _FOLDER


class _Finder:
    """Finds our package under the name joblib, and what is installed under that name if nothing is."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of the package; its submodules are found by its path."""
        if fullname != "joblib":
            return None
        from importlib.util import spec_from_file_location

        return spec_from_file_location(
            fullname, os.path.join(_FOLDER, "__init__.py"), submodule_search_locations=[_FOLDER]
        )

    def find_distributions(self, context: Any = None) -> Iterator[Distribution]:
        """Yield a distribution named joblib, where none is installed and one is asked for."""
        name = getattr(context, "name", None)
        if name is not None and name.lower() == "joblib" and not self._is_installed(context.path):
            yield _distribution()

    def _is_installed(self, path: Iterable[str]) -> bool:
        from importlib.metadata import MetadataPathFinder

        context = MetadataPathFinder.Context(name="joblib", path=list(path))
        return any(True for _ in MetadataPathFinder.find_distributions(context))

    def invalidate_caches(self) -> None:
        """Do nothing: nothing is cached."""


def _distribution() -> Distribution:
    from importlib.metadata import Distribution

    class Joblib(Distribution):
        def read_text(self, filename: str) -> str | None:
            if filename == "METADATA":
                return f"Metadata-Version: 2.1\nName: joblib\nVersion: {VERSION}\nSummary: shoal in joblib's place\n"
            return None

        def locate_file(self, path: Any) -> Any:
            from pathlib import Path

            return Path(_FOLDER).parent / path

    return Joblib()


_finder: Any = _Finder()
