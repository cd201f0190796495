"""The arguments of the command line, and their help.

No command is imported here, so that ``--help`` and ``shoal run`` start fast.
"""

from __future__ import annotations

import argparse
import datetime
import re
from collections.abc import Sequence
from typing import Any

import shoal
from shoal._sizes import parse_size
from shoal.cli._completion import print_script

_EXIT_CODES = "  0    done\n  1    {failed}\n  2    wrong usage\n  130  interrupted"
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|w)")
_SECONDS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
#: The shells whose completion scripts shtab writes.
_SHELLS = ("bash", "zsh", "fish")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the values of the arguments.

    Raises
    ------
    SystemExit
        With the code 2 if the arguments are wrong, and with 0 if they ask for help, the version or a completion script.
    """
    parser = make_parser()
    if list(arguments[:1]) != ["run"]:
        given = parser.parse_args(arguments)
        if getattr(given, "action", None) == "prune" and not any(
            item is not None
            for item in (given.bytes_limit, given.items_limit, given.age_limit, given.older_than, given.function)
        ):
            parser.error(
                "cache prune: give a limit: --bytes-limit, --items-limit or --age-limit; or --older-than or --function"
            )
        return given
    own, program = _split(arguments)
    given = parser.parse_args(own)
    if given.script is None and given.module is None:
        parser.error("run: name a script, or a module with -m. See: shoal run --help")
    given.arguments = program
    return given


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """Split the arguments behind the script or the module of ``shoal run``: the rest belongs to the program.

    argparse cannot do it, because the program may have options that look like those of shoal.
    """
    end = 1
    while end < len(arguments):
        item = arguments[end]
        if item in ("-m", "--"):
            end += 2
            break
        if item.startswith("-m") or not item.startswith("-"):
            end += 1
            break
        end += 2 if item in ("--n-jobs", "--backend", "--report") else 1
    return arguments[:end], list(arguments[end:])


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="shoal",
        description="Runs programs with shoal in joblib's place, and looks at runs, files and caches.",
        epilog="shoal COMMAND --help says more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"shoal {shoal.__version__}")
    parser.add_argument(
        "--completion",
        action=_Completion,
        choices=_SHELLS,
        help="print a script that completes the arguments of shoal in this shell (needs the extra 'completion')",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_inspect(commands)
    _add_cache(commands)
    _add_top(commands)
    _add_stack(commands)
    _add_env(commands)
    _add_demo(commands)
    return parser


class _Completion(argparse.Action):
    """Prints a completion script, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, _given: Any, values: Any, _option: str | None = None) -> None:
        parser.exit(print_script(parser, values))


def _command(
    commands: Any, name: str, summary: str, examples: str, failed: str, usage: str | None = None, codes: str = ""
) -> argparse.ArgumentParser:
    """Add a command. Its help ends with examples and with the meanings of its exit codes."""
    indented = "\n".join(f"  {line}" for line in examples.splitlines())
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n{indented}\n\nexit codes:\n{codes or _EXIT_CODES.format(failed=failed)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=usage,
        allow_abbrev=False,
    )
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_run(commands: Any) -> None:
    run = _command(
        commands,
        "run",
        "run a Python program with shoal in joblib's place",
        "shoal run train.py --epochs 3\nshoal run --progress --n-jobs 4 train.py\nshoal run -m pytest -x tests",
        "",
        usage="shoal run [OPTION ...] (SCRIPT | -m MODULE) [ARGUMENT ...]",
        codes="  that of the program; 2 if the program cannot be found, or for wrong usage",
    )
    run.add_argument("--progress", action="store_true", help="show a progress bar for each run of Parallel")
    run.add_argument(
        "--n-jobs",
        type=_n_jobs,
        metavar="N",
        help="the number of workers where the program gives none; -1 for one per CPU",
    )
    run.add_argument("--backend", metavar="NAME", help="the backend where the program names none")
    run.add_argument(
        "--report", metavar="FILE", help="write a report that says why runs are slow: .html, .json or .trace.json"
    )
    run.add_argument("-m", dest="module", metavar="MODULE", help="run a module, as python -m does")
    run.add_argument("script", nargs="?", metavar="SCRIPT", help="the program: a file, or a folder with __main__.py")
    run.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="the arguments of the program")


def _add_inspect(commands: Any) -> None:
    look = _command(
        commands,
        "inspect",
        "show what files contain and would import, without running anything from them",
        "shoal inspect model.pkl\nshoal inspect --json *.pkl\nshoal inspect --max-bytes 2G large.pkl",
        "a file cannot be read, is damaged, or does what no pickle of data does",
    )
    look.add_argument("files", nargs="+", metavar="FILE", help="a file that shoal or joblib has written")
    look.add_argument(
        "--max-bytes", type=_size, metavar="SIZE", help="the most bytes that an object may take in memory: 500M, 2G"
    )
    _add_json(look)


def _add_cache(commands: Any) -> None:
    cache = _command(
        commands,
        "cache",
        "look at the results that Memory has stored, remove them, and pass them on",
        "shoal cache ls ~/cache\nshoal cache prune ~/cache --bytes-limit 10G\nshoal cache verify ~/cache",
        "there is no cache, or something is wrong with it",
    )
    actions = cache.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_to_cache(
        actions,
        "ls",
        "list the cached functions",
        "shoal cache ls ~/cache\nshoal cache ls --json ~/cache",
        "there is no cache",
    )
    _add_to_cache(
        actions,
        "info",
        "show how many results there are, and which are the largest",
        "shoal cache info ~/cache\nshoal cache info --json s3://bucket/cache",
        "there is no cache",
    )
    show = _add_to_cache(
        actions,
        "show",
        "show the results of a function, with their arguments",
        "shoal cache show ~/cache features.extract\nshoal cache show ~/cache extract --json",
        "there is no such function, or a value cannot be rebuilt",
    )
    show.add_argument("function", metavar="FUNCTION", help="the name that 'shoal cache ls' shows, or the end of it")
    show.add_argument(
        "--unpickle",
        action="store_true",
        help="also rebuild each value and show it. This can run any code that a file contains: use it only for caches "
        "that you trust",
    )
    why = _add_to_cache(
        actions,
        "why",
        "show why each result of a function was computed: in what it differs from the nearest earlier one",
        "shoal cache why ~/cache features.extract\nshoal cache why ~/cache extract 5c1d",
        "there is no such function or call",
    )
    why.add_argument("function", metavar="FUNCTION", help="the name that 'shoal cache ls' shows, or the end of it")
    why.add_argument("call", nargs="?", metavar="CALL", help="the digest of one call, or its beginning")
    _add_changes_of_cache(actions)


def _add_changes_of_cache(actions: Any) -> None:
    prune = _add_to_cache(
        actions,
        "prune",
        "remove results: until the rest is within limits, least recently used first; old ones; those of a function",
        "shoal cache prune ~/cache --bytes-limit 10G\nshoal cache prune ~/cache --age-limit 30d --dry-run\n"
        "shoal cache prune ~/cache --function features.extract --older-than 1w",
        "there is no cache, or results cannot be removed",
    )
    prune.add_argument("--bytes-limit", type=_size, metavar="SIZE", help="the largest size of all results: 500M, 10G")
    prune.add_argument("--items-limit", type=_count, metavar="N", help="the largest number of results")
    prune.add_argument(
        "--age-limit",
        type=_age,
        metavar="AGE",
        help="how long a result may stay unused: 12h, 30d, 2w (s, min, h, d, w)",
    )
    prune.add_argument("--older-than", type=_age, metavar="AGE", help="remove what was saved so long ago: 30d, 2w")
    prune.add_argument(
        "--function", metavar="FUNCTION", help="only the results of this function; without a limit, all of them"
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    _add_to_cache(
        actions,
        "verify",
        "compare each result with its checksums, without rebuilding it",
        "shoal cache verify ~/cache\nshoal cache verify ~/cache --json",
        "there is no cache, or a result is damaged",
    )
    export = _add_to_cache(
        actions,
        "export",
        "write results to a tar, for 'shoal cache import'",
        "shoal cache export ~/cache warm.tar.gz\nshoal cache export ~/cache f.tar --function features.extract",
        "there is no cache or function, or the tar cannot be written",
    )
    export.add_argument("file", metavar="FILE", help="the tar; .gz, .bz2 or .xz at its end compresses it")
    export.add_argument("--function", metavar="FUNCTION", help="only the results of this function")
    imported = _add_to_cache(
        actions,
        "import",
        "add the results of a tar. Import only what you trust: results are pickles, which can run any code when used",
        "shoal cache import ~/cache warm.tar.gz",
        "the tar contains what no cache contains, or a result is damaged",
    )
    imported.add_argument("file", metavar="FILE", help="the tar that 'shoal cache export' has written")


def _add_to_cache(actions: Any, name: str, summary: str, examples: str, failed: str) -> argparse.ArgumentParser:
    action = _command(actions, name, summary, examples, failed)
    action.add_argument("folder", metavar="FOLDER", help="the location of a Memory, or a URL that fsspec knows")
    _add_json(action)
    return action


def _add_top(commands: Any) -> None:
    top = _command(
        commands,
        "top",
        "show the runs of your programs now: calls done, time left, and what each worker process does",
        "shoal top\nshoal top 4711 --interval 5\nshoal top --once --json",
        "there is no such process, it belongs to another user, or the system is not Linux",
    )
    top.add_argument("pid", nargs="?", type=_pid, metavar="PID", help="the process id of one program")
    top.add_argument("--once", action="store_true", help="show one table and end, as if the output were no terminal")
    top.add_argument(
        "--interval", type=_interval, default=1.0, metavar="SECONDS", help="the time between two tables (default: 1)"
    )
    _add_json(top)


def _add_stack(commands: Any) -> None:
    stack = _command(
        commands,
        "stack",
        "show the Python stacks of a running program and of its worker processes, which run on",
        "shoal stack 4711\nshoal stack --native 4711",
        "there is no such process, it belongs to another user, or a stack cannot be shown",
    )
    stack.add_argument("pid", type=_pid, metavar="PID", help="the process id of a program, or of one worker")
    stack.add_argument("--native", action="store_true", help="also show the frames of compiled code (needs py-spy)")


def _add_env(commands: Any) -> None:
    env = _command(
        commands,
        "env",
        "show what a bug report needs: versions, CPUs, limits, variables and backends",
        "shoal env\nshoal env --blas\nshoal env --json > environment.json",
        "numpy or threadpoolctl cannot be imported for --blas",
    )
    env.add_argument("--blas", action="store_true", help="import numpy, and show the thread pools of BLAS and OpenMP")
    _add_json(env)


def _add_demo(commands: Any) -> None:
    demo = _command(
        commands,
        "demo",
        "run the same calls with one worker and with several, and show what a report says of it",
        "shoal demo\nshoal demo --n-jobs 4 --report demo.html",
        "the report cannot be written, or the results differ",
    )
    demo.add_argument(
        "--n-jobs", type=_n_jobs, metavar="N", help="the number of workers; by default one per CPU, up to 8"
    )
    demo.add_argument("--report", type=_report, metavar="FILE", help="write the report: .html, .json or .trace.json")


def _report(path: str) -> str:
    if not path.endswith((".html", ".json")):
        raise argparse.ArgumentTypeError(f"{path!r} is no name of a report: it ends with .html, .json or .trace.json")
    return path


def _n_jobs(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not number:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of workers: give 1 or more, or -1 for one per CPU")
    return number


def _pid(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no process id: give the number that 'shoal top' or ps shows")
    return int(text)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no time between two tables: give seconds, above 0")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of results: give 0 or more")
    return int(text)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _age(text: str) -> datetime.timedelta:
    match = _AGE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age: give a number and a unit (s, min, h, d, w), like '30d'")
    return datetime.timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
