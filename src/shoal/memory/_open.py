"""What a cached function tells of its results: ``explain``, ``entries``."""

from __future__ import annotations

from shoal._typevars import P, R_co
from shoal.memory._calls import CachedCalls
from shoal.memory._explain import Explanation


class OpenCalls(CachedCalls[P, R_co]):
    """The methods of a cached function that look at its results. Thread-safe."""

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
