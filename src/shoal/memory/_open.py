"""What a cached function tells of its results: ``explain``, ``entries``."""

from __future__ import annotations

from collections.abc import Iterator

from shoal._typing import P, R_co
from shoal.memory._calls import CachedCalls
from shoal.memory._explain import Explanation
from shoal.memory._results import MemorizedResult
from shoal.memory.key._reach import Reached


class OpenCalls(CachedCalls[P, R_co]):
    """The methods of a cached function that look at its results. Thread-safe."""

    def entries(self) -> Iterator[MemorizedResult[R_co]]:
        """Yield a reference to each result of the function, in any order: as :meth:`Memory.entries` does."""
        store = self.store_backend
        for entry in store.entries_of(self._identity.path):
            yield MemorizedResult(store, entry.key, mmap_mode=self.mmap_mode, nbytes=entry.nbytes, used=entry.used)

    def explain(self, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """Explain whether the result of a call is stored, and if not, why: in words, and as an object.

        Nothing is computed, saved or removed. The stored result is read and compared with its checksums.

        Returns
        -------
        Explanation
            ``hit``, ``cause``, ``summary``, the ``differences`` to the nearest stored call, and the ``diff`` of a
            source that has changed. ``str()`` of it says all that in words.

        Raises
        ------
        ArgumentError, HashingError
            As the call itself would.
        """
        return self._explained(args, kwargs)

    def depends_on(self) -> list[Reached]:
        """Return what results depend on besides the arguments and the function: what ``depends=`` names or finds.

        Returns
        -------
        list of Reached
            Each has a ``name``, a ``kind`` ("named", "function", "class", "module", "constant", "package" or "not
            counted") and a ``text``: a digest, a value, a version, or why it does not count.
        """
        return self._identity.dependencies()
