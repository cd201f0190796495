"""Makes ``import joblib`` return shoal: by a finder before all others, and by an environment variable for children.

::

    install_as_joblib() ──> sys.meta_path[0]: joblib ──> shoal/compat/joblib/__init__.py, its submodules as usual
              │             (an installed joblib is ignored)
              └──> SHOAL_AS_JOBLIB=1 ──> worker processes and child programs: importing shoal does the same there
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

#: If it is "1", importing shoal calls :func:`install_as_joblib`.
VARIABLE = "SHOAL_AS_JOBLIB"
#: The release of joblib that shoal replaces.
VERSION = "1.6.0"

_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "joblib")


def install_as_joblib(replace: bool = False) -> None:
    """Put shoal in joblib's place: from now on ``import joblib`` imports :mod:`shoal.compat.joblib`.

    This holds for this process, for its worker processes, and for programs that it starts if they import shoal. It
    takes well under a millisecond. joblib need not be installed, and is ignored if it is.

    Parameters
    ----------
    replace
        Whether to remove joblib from ``sys.modules`` if it was imported already. Later imports of joblib then get
        shoal, but modules that have joblib's functions and classes keep them.

    Raises
    ------
    RuntimeError
        If joblib was imported already and `replace` is False.

    Notes
    -----
    Thread-safe. Call it before importing joblib or a library that uses it, such as scikit-learn. Calling it again
    does nothing.

    Examples
    --------
    >>> import shoal
    >>> shoal.install_as_joblib()  # doctest: +SKIP
    """
    loaded = sys.modules.get("joblib")
    if loaded is not None and not _is_ours(loaded):
        if not replace:
            raise RuntimeError(
                "joblib is imported already, and modules that have imported it would go on using it. Call "
                "install_as_joblib() before any import of joblib or of a library that uses it, such as scikit-learn; "
                f"set the environment variable {VARIABLE}=1 before the program starts; or pass replace=True, which "
                "replaces joblib for later imports"
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
    """Finds shoal's package under the name joblib, and a distribution of that name if none is installed."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of the package; submodules are found by its path."""
        if fullname != "joblib":
            return None
        from importlib.util import spec_from_file_location

        return spec_from_file_location(
            fullname, os.path.join(_FOLDER, "__init__.py"), submodule_search_locations=[_FOLDER]
        )

    def find_distributions(self, context: Any = None) -> Iterator[Distribution]:
        """Yield a distribution named joblib, if that name is asked for and none is installed."""
        name = getattr(context, "name", None)
        if name is not None and name.lower() == "joblib" and not self._is_installed(context.path):
            yield _distribution()

    def _is_installed(self, path: Iterable[str]) -> bool:
        from importlib.metadata import MetadataPathFinder

        context = MetadataPathFinder.Context(name="joblib", path=list(path))
        return any(True for _ in MetadataPathFinder.find_distributions(context))

    def invalidate_caches(self) -> None:
        """Do nothing, because this finder has no cache."""


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
