"""The text that a terminal shows for every error and warning: the user's lines, the right message at the end, no shoal.

`_tracebacks_program` causes them on each backend and in each way of running calls. The tests read its output.
"""

from __future__ import annotations

import linecache
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import shoal
import shoal.errors
from _capabilities import SLOWNESS, needs_limits, needs_signals
from _children import without_guard
from _tracebacks_program import CASES

PROGRAM = Path(__file__).with_name("_tracebacks_program.py")
BACKENDS = ("loky", "multiprocessing", "threading", "sequential")
NAMES = [name for name in shoal.errors.__all__ if name != "FailedCall"]
pytestmark = [needs_limits, needs_signals]

#: What the message of a case says; those that are not here name their class only.
SAYS = {
    "a_call_raises": "division by zero",
    "a_call_raises_again": "division by zero",
    "input_raises": "no more input",
    "worker_exits": r"a worker process exited with code 3; it ran call 0, leave\(3\)",
    "worker_crashes": r"was killed by SIGSEGV: a crash in compiled code; it ran call [01], crash\(\)",
    "worker_exits_in_its_initializer": r"code 3; it had just started .*, and was to run call [01], divide\(",
    "worker_grows": r"it held [\d.]+M of memory, over max_worker_memory='60M' .*; it ran call [01], grow\(\)",
    "initializer_raises_in_executor": "the executor has ended, because of ZeroDivisionError",
    "no_main_guard": r"'forkserver' import .*_tracebacks_program\.py, which would start worker processes again",
    "a_call_stops": r"call [01], stop\([12]\) raised StopIteration\([12]\), which neither a generator",
    "call_takes_too_long": r"call 0, sleep\(2\) ran for longer than task_timeout=0\.3 seconds",
    "call_of_a_nested_run_takes_too_long": r"call 0, sleep\(1\) ran for longer than task_timeout=0\.2 seconds",
    "result_takes_too_long": r"the result of call 0 was not ready within timeout=0\.3 seconds",
    "argument_cannot_be_pickled": r"call 0, identity\(\.\.\.\), cannot be sent .*: args\[0\]\['lock'\] cannot",
    "function_cannot_be_pickled": "the function's variable lock cannot be pickled",
    "result_cannot_be_pickled": r"the result of call [01], a_lock\(\.\.\.\), cannot be sent .*: result\['lock'\]",
    "exception_cannot_be_pickled": "code 3",
    "argument_cannot_be_rebuilt": r"call 0, identity\(\.\.\.\) cannot be unpickled in a worker: ValueError: no such",
    "result_cannot_be_rebuilt": r"the result of call 0, returned_result\(\.\.\.\) cannot be unpickled in the calling",
    "exception_cannot_be_rebuilt": r"the exception of call 0, raise_what_only_.* \(CannotBeRebuiltHere",
    "no_room_for_arrays": r"no room for 3200000 bytes .* \(\[Errno 27\] File too large\)",
    "folder_is_gone": r"no worker can be started .* os\.chdir",
    "no_descriptors": r"no worker can be started .*\(ulimit -n\)",
    "no_threads": r"no worker can be started .*\(ulimit -u\)",
    "wrong_arguments": r"Too many arguments for twice\(number: int\) -> int:\n    twice\(1, 2, \) was called",
    "file_is_text": r"table\.csv.* looks like a CSV|it looks like|CSV",
    "file_is_empty": "empty",
    "value_cannot_be_dumped": r"value\['lock'\]",
    "extra_is_missing": r"Run: pip install 'shoal\[ray\]'",
    "call_warns": "a warning of the call's",
}
#: What would be of no use: how processes are started and answered, and what engines guess.
OF_NO_USE = (
    "<dynamic-code>",
    "BrokenProcessPool",
    "_RemoteTraceback",
    "During handling of",
    "site-packages/cloudpickle",
)
FRAME = re.compile(r'^ +File "(.+)", line \d+, in ', re.MULTILINE)
MACHINERY = re.compile(r"/(shoal/(parallel|backends|_\w+\.py)|loky|multiprocessing|concurrent)\b")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], str]:
    """Give the text that was shown for each backend, case and way of running calls."""
    children = {}
    for backend in BACKENDS:
        folder = tmp_path_factory.mktemp(backend)
        command = [sys.executable, str(PROGRAM), str(folder), backend]
        children[backend] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    sections = {}
    try:
        for backend, child in children.items():
            out, _ = child.communicate(timeout=100 * SLOWNESS)
            for section in re.split(r"^=== ", out, flags=re.MULTILINE)[1:]:
                head, _, text = section.partition("\n")
                _, case, way = head.split(", ")
                sections[backend, case, way] = text
    finally:
        for child in children.values():
            child.kill()
    return sections


def without_crash_report(text: str) -> str:
    """Remove the report of the interpreter about a segmentation fault."""
    return re.sub(r"\A(Fatal Python error|Windows fatal).*?(?=^Traceback)", "", text, flags=re.MULTILINE | re.DOTALL)


def final_message(text: str) -> str:
    """Return the text after the last frame."""
    lines = text.rstrip().split("\n")
    last = max((row for row, line in enumerate(lines) if re.match(r'  File ".*", line ', line)), default=-1)
    message = next(row for row in range(last + 1, len(lines)) if not lines[row].startswith("    "))
    return "\n".join(lines[message:])


def test_every_error_ends_with_its_message_and_shows_the_line_of_the_user(
    shown: dict[tuple[str, str, str], str],
) -> None:
    for name, provoke, backend, way in CASES:
        case = provoke.__name__
        if name.endswith("Warning"):
            continue
        text = without_crash_report(shown[backend, case, way])
        where = f"{case} on {backend}, {way}:\n{text}"
        message = final_message(text)
        assert re.match(rf"([\w.]+\.)?{name}\b", message), where
        assert re.search(SAYS.get(case, name), message), where
        blocks = text.split("\nTraceback (most recent call last):\n")
        assert f", in {case}\n    run(" in blocks[-1], where  # the user's line, in the traceback that is read first
        assert not [word for word in OF_NO_USE if word in text], where


def test_few_frames_of_shoal_are_shown(shown: dict[tuple[str, str, str], str]) -> None:
    for (backend, case, way), text in shown.items():
        for block in without_crash_report(text).split("Traceback (most recent call last):\n"):
            files = FRAME.findall(block)
            ours = [file for file in files if MACHINERY.search(file)]
            assert len(ours) <= 5, f"{case} on {backend}, {way}:\n{text}"


def test_a_cause_is_shown_only_if_it_is_the_users(shown: dict[tuple[str, str, str], str]) -> None:
    for (backend, case, way), text in shown.items():
        *causes, _ = re.split(r"^The above exception was the direct cause.*$", without_crash_report(text), flags=re.M)
        for cause in causes:
            if "persistence" in cause or "hashing" in cause:  # of calls to these functions
                continue
            if re.fullmatch(r"\s*StopIteration: [12]\s*", cause):  # between the worker's traceback and our error
                continue
            assert f'"{PROGRAM}"' in cause or "initializer" in case, f"{case} on {backend}, {way}:\n{text}"


def test_every_warning_shows_the_line_of_the_user(shown: dict[tuple[str, str, str], str]) -> None:
    for name, provoke, backend, way in CASES:
        case = provoke.__name__
        if name.endswith("Warning"):
            text = shown[backend, case, way]
            lines = text.splitlines()
            place = next(place for place, line in enumerate(lines) if f": {name}: " in line)
            assert re.match(rf"{re.escape(str(PROGRAM))}:\d+: {name}: ", lines[place]), f"{case} on {backend}:\n{text}"
            assert lines[place + 1].startswith("  "), f"{case} on {backend}:\n{text}"
            assert re.search(SAYS.get(case, name), text)
            assert "Traceback" not in text


def test_every_class_of_errors_has_a_case(shown: dict[tuple[str, str, str], str]) -> None:
    """A new class of errors needs a case in _tracebacks_program, for itself or for a subclass."""
    everything = "\n".join(shown.values())
    seen = {getattr(shoal.errors, name) for name in NAMES if re.search(rf"\b{name}:", everything)}
    missing = [
        name for name in NAMES if not any(issubclass(shown_class, getattr(shoal.errors, name)) for shown_class in seen)
    ]
    assert missing == []


CELL = """
import warnings

def fail(number):
    warnings.warn("mine")
    raise ValueError(number)  # on this line
"""


@without_guard
@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_functions_that_no_import_finds_show_their_file_and_line(backend: str, tmp_path: Path) -> None:
    run = f"""
    import sys
    from shoal import Parallel, delayed
    try:
        Parallel(n_jobs=2, backend={backend!r})([delayed(fail)(3)])
    except ValueError:
        sys.excepthook(*sys.exc_info())
    """
    run = textwrap.dedent(run)
    cell = f"""
    import linecache
    name, text = "<ipython-input-3-0123abcd>", {CELL!r}
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    exec(compile(text, name, "exec"))
    """
    script = tmp_path / "script.py"
    script.write_text(CELL + run)
    # In later releases of 3.13, only the code object itself leads to the source of `python -c`.
    linecache_knows_command = sys.version_info >= (3, 13) and not hasattr(linecache, "_interactive_cache")
    for name, shows_source, command, given in (
        (str(script), True, [str(script)], ""),
        ("<string>", linecache_knows_command, ["-c", CELL + run], ""),
        ("<stdin>", False, ["-"], CELL + run),
        ("<ipython-input-3-0123abcd>", True, ["-c", textwrap.dedent(cell) + run], ""),
    ):
        program = [sys.executable, *command]
        said = subprocess.run(
            program, input=given, capture_output=True, text=True, timeout=60 * SLOWNESS, check=False
        ).stderr
        assert f"{name}:5: UserWarning: mine" in said, said
        assert f'  File "{name}", line 6, in fail\n' in said, said
        assert ("raise ValueError(number)  # on this line" in said) or not shows_source, said
        assert "dynamic-code" not in said, said
