"""``shoal run``: a program with shoal in joblib's place, as ``python script.py args`` would run it.

::

    install_as_joblib, set_defaults ──> sys.argv, sys.path[0], a new module __main__ ──> the program's code
                                                                                             │ an uncaught error
                             the interpreter ends as always <── sys.excepthook, without our frames

The program runs in this process. The module ``__main__`` stays in place until the process ends, because worker
processes, exit functions and threads of the program may still look for it.
"""

from __future__ import annotations

import builtins
import contextvars
import importlib
import importlib.util
import io
import os
import pkgutil
import re
import sys
from argparse import Namespace
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from shoal.cli._text import DONE, WRONG_USAGE, complain
from shoal.compat import install_as_joblib

#: Modules whose frames lead to the first frame of the program.
_is_ours = re.compile(rf"({re.escape(__name__)}|importlib|_frozen_importlib|zipimport|pkgutil)\b").match


class _Program(NamedTuple):
    """A program that can be run.

    Attributes
    ----------
    code
        Its code.
    argument
        The value of ``sys.argv[0]``.
    file, spec, loader
        Attributes of its module ``__main__``.
    """

    code: CodeType
    argument: str
    file: str | None
    spec: ModuleSpec | None
    loader: Any


def main(given: Namespace) -> int:
    """Run the program. Its uncaught errors and its ``SystemExit`` are raised."""
    options = {
        name: value
        for name, value in (("n_jobs", given.n_jobs), ("backend", given.backend), ("progress", given.progress))
        if value not in (None, False)
    }
    if options and not _set_defaults(options):
        return WRONG_USAGE
    if given.report is not None and not _report_to(given.report):
        return WRONG_USAGE
    install_as_joblib()
    try:
        program = _module(given.module) if given.module is not None else _script(given.script)
        if program is None:
            return WRONG_USAGE
        sys.argv[:] = [program.argument, *given.arguments]
        _run(program)
    except SystemExit:
        raise
    except BaseException as error:  # of the program; or a syntax error in it; or of a package that contains the module
        _show(error)
        raise
    return DONE


def _set_defaults(options: dict[str, Any]) -> bool:
    """Make options the defaults of ``Parallel`` in all threads of this process; return False if they are wrong."""
    from shoal.parallel.options._contexts import parallel_config
    from shoal.parallel.options._settings import set_defaults

    try:
        # In a copy of the context, because this thread too is to have no context of its own.
        settings = contextvars.copy_context().run(lambda: parallel_config(**options).settings)
    except (ImportError, TypeError, ValueError) as error:
        complain(str(error))
        return False
    set_defaults(settings)
    return True


def _report_to(path: str) -> bool:
    """Have the runs of this process in a report; return False if it cannot be written to `path`."""
    from shoal.reports._folder import report_to

    try:
        report_to(path)
    except ValueError as error:
        complain(str(error))
        return False
    return True


def _script(path: str) -> _Program | None:
    """Find a script, or ``__main__.py`` in a folder or a zip file. If there is none, say so and return None."""
    file = os.path.abspath(path)
    importer = pkgutil.get_importer(file)
    if importer is not None:
        spec = importer.find_spec("__main__")
        if spec is None:
            complain(f"there is no __main__ module in {path!r}")
            return None
        _replace_path(file)
        return _of_spec(spec, path)
    try:
        with io.open_code(file) as stream:
            source = stream.read()
    except OSError as error:
        complain(f"can't open the program {path!r}: {error.strerror or error}")
        return None
    code = pkgutil.read_code(io.BytesIO(source)) or compile(source, file, "exec", dont_inherit=True)
    _replace_path(os.path.dirname(os.path.realpath(path)))
    return _Program(code, path, file, None, SourceFileLoader("__main__", file))


def _module(name: str) -> _Program | None:
    """Find a module, or the module ``__main__`` of a package. If there is none, say so and return None."""
    _replace_path(os.getcwd())
    sys.argv[0] = "-m"  # as Python has it while it looks for a module
    spec = _spec_of(name)
    if spec is not None and spec.submodule_search_locations is not None:
        name = f"{name}.__main__"
        spec = _spec_of(name)
    if spec is None:
        complain(f"no module named {name!r}")
        return None
    return _of_spec(spec, spec.origin or name)


def _spec_of(name: str) -> ModuleSpec | None:
    """Find a module. The packages around it are imported; their errors are raised."""
    package = name.rpartition(".")[0]
    try:
        if package:
            importlib.import_module(package)
        return importlib.util.find_spec(name)
    except ImportError as error:
        if not package or error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise
    except ValueError:  # a module without a spec, or no name of a module at all
        pass
    return None


def _of_spec(spec: ModuleSpec, argument: str) -> _Program | None:
    code = getattr(spec.loader, "get_code", lambda _name: None)(spec.name)
    if code is None:
        complain(f"the module {spec.name!r} has no code that can be run")
        return None
    return _Program(code, argument, spec.origin, spec, spec.loader)


def _replace_path(folder: str) -> None:
    """Replace the folder of the command ``shoal`` in ``sys.path``, unless the interpreter adds no such folder."""
    if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
        sys.path[0] = folder


def _run(program: _Program) -> None:
    main = ModuleType("__main__")
    spec = program.spec
    vars(main).update(
        __builtins__=builtins,
        __cached__=None if spec is None else spec.cached,
        __file__=program.file,
        __loader__=program.loader,
        __package__=None if spec is None else spec.parent,
        __spec__=spec,
    )
    sys.modules["__main__"] = main
    exec(program.code, vars(main))


def _show(error: BaseException) -> None:
    """Show an uncaught error as the interpreter would, without the frames that led to the program.

    The caller raises the error again, and the interpreter must then show nothing. Only so does it end as always: after
    an interrupt, by the signal.
    """
    trace = error.__traceback__
    while trace is not None and _is_ours(str(trace.tb_frame.f_globals.get("__name__"))):
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
    sys.excepthook = lambda *_: None
