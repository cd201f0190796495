"""The command line: ``shoal``, and ``python -m shoal``.

::

    main ──> _parser: what the arguments mean
      └────> _run, _inspect, _cache, _top, _stack, _env or _demo, imported when it is needed ──> the exit code
                 └──> _text: lines, tables, JSON

Tests: tests/cli/.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from shoal.cli._parser import parse
from shoal.cli._text import FAILED, complain, prepare_output

#: The exit codes of a shell's programs that were ended by SIGINT and by SIGPIPE.
_INTERRUPTED, _PIPE_CLOSED = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The arguments of the command line; by default those in ``sys.argv``.

    Returns
    -------
    int
        The exit code: 0 if all is done; 1 if something is wrong with what was looked at; 130 after an interrupt; 141 if
        the reader of the output has closed the pipe.

    Raises
    ------
    SystemExit
        With the code 2 if the arguments are wrong; with 0 after ``--help``, ``--version`` and ``--completion``; and
        with what the program says that ``shoal run`` runs.
    """
    try:
        try:
            given = parse(list(sys.argv[1:] if arguments is None else arguments))
        except SystemExit:
            _flush()  # of the help, to which nobody may listen any more
            raise
        command = importlib.import_module(f"shoal.cli._{given.command}")
        if given.command != "run":
            prepare_output()
            code: int = command.main(given)
            _flush()
            return code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes the stream once more at its end. That must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except OSError as error:
        complain(str(error))
        return FAILED
    # Interrupts, closed pipes and errors of the program belong to the program.
    return int(command.main(given))


def _flush() -> None:
    if sys.stdout is not None:  # it was closed when the interpreter started
        sys.stdout.flush()
