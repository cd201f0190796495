"""Checks that there is an argument or option of a name; suggests the nearest name, or the backend that takes it."""

from __future__ import annotations

from shoal._cpus import is_serial
from shoal._hints import nearest
from shoal._typing import TYPE_CHECKING
from shoal.backends import Backend
from shoal.parallel.options._checks import OF_ONE_PARALLEL, check

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

#: Names of the arguments in other libraries, if they are too different for a guess by their spelling.
_ELSEWHERE = {
    "max_workers": "n_jobs",
    "n_workers": "n_jobs",
    "num_workers": "n_jobs",
    "workers": "n_jobs",
    "processes": "n_jobs",
    "max_tasks_per_child": "max_tasks_per_worker",
    "maxtasksperchild": "max_tasks_per_worker",
    "chunksize": "batch_size",
    "chunk_size": "batch_size",
    "env": "environment",
    "context": "backend=multiprocessing.get_context(...)",
    "mp_context": "backend=multiprocessing.get_context(...)",
    "inner_max_num_threads": "parallel_config(backend=..., inner_max_num_threads=...)",
}


def check_options(
    caller: str, known: Iterable[str], backend: Backend, options: Mapping[str, Any], depth: int = 0
) -> None:
    """Check that a backend takes the options that a function received, and can use their values.

    Parameters
    ----------
    caller
        The name of the function: ``"Parallel"``.
    known
        The names of the function's own arguments.
    backend, options
        The backend of the runs, and the options.
    depth
        How deep the runs are nested in others. If this is more than 0, or ``JOBLIB_MULTIPROCESSING=0`` forbids
        processes, the user has not chosen the backend. Then options that only another backend takes are ignored.

    Raises
    ------
    TypeError
        If the backend does not take an option.
    TypeError, ValueError
        If the value of an option cannot be used.
    """
    if not options or backend.options is None:
        return
    made_with = {name for name in backend.constructor_options if name in backend.given_options}
    options = {
        name: value
        for name, value in options.items()
        if not (name in made_with and value is backend.given_options[name])
    }
    instead = depth > 0 or is_serial()
    for name in options:
        if name not in backend.options and not (instead and _takers(name)):
            raise unexpected(caller, name, known, backend)
    check({name: options[name] for name in options if name in backend.options})


def unexpected(caller: str, name: str, known: Iterable[str], backend: Backend | None = None) -> TypeError:
    """Return the error for a keyword that neither `caller` nor the backend takes. It suggests the nearest name."""
    if name in OF_ONE_PARALLEL and name not in known:
        return TypeError(
            f"{caller}() got an unexpected keyword argument {name!r}: it is no setting of a context, but belongs to "
            f"one Parallel. Give it there: Parallel({name}=...)"
        )
    takers = _takers(name)
    message = f"{caller}() got an unexpected keyword argument {name!r}"
    if backend is not None:
        message += f": neither it nor the backend {backend.name!r} takes it"
    meant = _ELSEWHERE.get(name)
    if meant is None and not takers:
        options = _options_here() if backend is None else backend.options or ()
        meant = nearest(name, [*known, *options])
    if meant is not None:
        message += f"; did you mean {repr(meant) if meant.isidentifier() else meant}?"
    if takers:
        stop = "." if meant is None else ""
        subject = "The backend {!r} takes" if len(takers) == 1 else "The backends {!r} and {!r} take"
        message += f"{stop} {subject.format(*takers)} it."
    return TypeError(message)


def _options_here() -> dict[str, list[str]]:
    """Return the options of the backends that start processes on this machine, each with the backends that take it."""
    from shoal.backends._multiprocessing import MultiprocessingBackend
    from shoal.backends._processes import LokyBackend

    takers: dict[str, list[str]] = {}
    for kind in (LokyBackend, MultiprocessingBackend):
        for name in kind.options or ():
            takers.setdefault(name, []).append(kind.name)
    return takers


def _takers(name: str) -> list[str]:
    """Return the names of the backends that start processes on this machine and take an option."""
    return _options_here().get(name, [])


def check_unowned(caller: str, known: Iterable[str], options: Mapping[str, Any]) -> None:
    """Raise the error for keywords that a context does not know, if the context names no backend that may take them.

    Parameters
    ----------
    caller, known
        As for :func:`check_options`.
    options
        The keywords.

    Raises
    ------
    TypeError
        If a keyword belongs to one ``Parallel``, or is unknown.
    ValueError
        If a keyword is an option of backends.
    """
    for name in options:
        takers = ["loky"] if name == "inner_max_num_threads" else _takers(name)
        if not takers:
            raise unexpected(caller, name, [*known, "inner_max_num_threads"])
        raise ValueError(
            f"{name} and other constructor parameters backend_params are only supported when backend is not None. "
            f"Name one: {caller}(backend={takers[0]!r}, {name}=...)"
        )
