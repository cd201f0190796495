"""The values of context variables, on their way to calls in other processes.

::

    caller: variables_for(context=) ── Variables, once to each worker ──> worker: variables_set, around each batch
"""

from __future__ import annotations

import contextvars
import logging
import sys
from contextvars import ContextVar, Token
from typing import Any

from shoal._context import home_of
from shoal._pickling import culprit, dumps, loads
from shoal._tracebacks import cause_of, in_a_line
from shoal.errors import CallPicklingError, CallUnpicklingError

_LOGGER = logging.getLogger("shoal.context")
#: Variables that no module had, and the number of modules at that time. True need not search for them again.
_homeless: dict[ContextVar[Any], int] = {}
#: The beginnings of the names of modules whose variables shoal sets in the worker itself.
_OWN = ("shoal.backends.", "shoal.observe.", "shoal.parallel.", "shoal._cpus")


class Variables:
    """Context variables and their values, pickled.

    Parameters
    ----------
    entries
        For each variable its module and name, and the pickle of the variable and its value.
    """

    def __init__(self, entries: tuple[tuple[str, bytes], ...]) -> None:
        self._entries = entries
        self._decoded: list[tuple[ContextVar[Any], Any]] | None = None

    def __reduce__(self) -> Any:
        return Variables, (self._entries,)

    def decoded(self) -> list[tuple[ContextVar[Any], Any]]:
        """Return the variables of this process, and their values. They are decoded once.

        Raises
        ------
        CallUnpicklingError
            If a variable is not found in this process, or a value cannot be unpickled.
        """
        if self._decoded is None:
            decoded = []
            for name, stream in self._entries:
                try:
                    decoded.append(loads(stream))
                except Exception as error:
                    what = f"the context variable {name}"
                    raise CallUnpicklingError(what, "a worker", in_a_line(error)) from cause_of(error)
            self._decoded = decoded
        return self._decoded


class variables_set:
    """A block in which context variables have the values that they have in the caller.

    Parameters
    ----------
    variables
        The variables; None for none.
    """

    def __init__(self, variables: Variables | None) -> None:
        self._values = [] if variables is None else variables.decoded()
        self._tokens: list[tuple[ContextVar[Any], Token[Any]]] = []

    def __enter__(self) -> None:
        self._tokens = [(variable, variable.set(value)) for variable, value in self._values]

    def __exit__(self, *_: object) -> None:
        for variable, token in reversed(self._tokens):
            variable.reset(token)


def variables_for(context: Any) -> Variables | None:
    """Return the variables that the argument `context` of ``Parallel`` names, with their values in this context.

    Variables that are not set are left out.

    Parameters
    ----------
    context
        Variables; or True for all that can be sent.

    Returns
    -------
    None if there is nothing to send.

    Raises
    ------
    CallPicklingError
        If a named variable cannot be sent, because no module has it or its value cannot be pickled.
    """
    if not context:
        return None
    if context is True:
        entries = _all_entries()
    else:
        named = (context,) if isinstance(context, ContextVar) else context
        present = contextvars.copy_context()
        try:
            entries = [_entry(each, present[each], home_of(each)) for each in named if each in present]
        except CallPicklingError as error:
            raise error.with_traceback(None) from error.__cause__
    return Variables(tuple(entries)) if entries else None


def _all_entries() -> list[tuple[str, bytes]]:
    """Return the entries of all variables of this context that can be sent, but for shoal's own."""
    entries = []
    for variable, value in contextvars.copy_context().items():
        if _homeless.get(variable) == len(sys.modules):
            continue
        home = home_of(variable)
        if home is None:
            _homeless[variable] = len(sys.modules)
        elif home[0].startswith(_OWN):
            continue
        try:
            entries.append(_entry(variable, value, home))
        except CallPicklingError as error:
            _LOGGER.debug("context=True leaves out %r: %s", variable.name, error)
    return entries


def _entry(variable: ContextVar[Any], value: Any, home: tuple[str, str] | None) -> tuple[str, bytes]:
    if home is None:
        reason = "workers find a variable by the module that has it as an attribute, and none has this one"
        raise CallPicklingError(f"the context variable {variable.name!r}", "the variable", reason)
    name = ".".join(home)
    try:
        return name, dumps((variable, value), out_of_band=2**63)[0]
    except Exception as error:
        path, reason = culprit(value, "its value")
        raise CallPicklingError(f"the context variable {name}", path, reason) from cause_of(error)
