"""What calls say in worker processes arrives in the caller: log records, warnings, output."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import pickle
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from _capabilities import needs_fork
from _faults_util import PATIENCE
from _live_util import LiveTests
from shoal import Parallel, delayed, executor, parallel_config
from shoal.observe import _saying

LOGGER = logging.getLogger("shoal.tests.saying")


class Collected(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return sorted(record.getMessage() for record in self.records)


@pytest.fixture
def collected() -> Iterator[Collected]:
    handler = Collected()
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(logging.NOTSET)


def log_each_level(number: int) -> None:
    for level in (logging.DEBUG, logging.INFO, logging.ERROR):
        LOGGER.log(level, "%s of %d", logging.getLevelName(level), number)


def test_the_levels_of_the_caller_apply(collected: Collected) -> None:
    calls = [delayed(log_each_level)(number) for number in range(2)]
    Parallel(n_jobs=2)(calls)
    assert collected.messages == ["ERROR of 0", "ERROR of 1", "INFO of 0", "INFO of 1"]
    LOGGER.setLevel(logging.ERROR)
    Parallel(n_jobs=2)(calls)
    assert len(collected.records) == 6
    LOGGER.setLevel(logging.DEBUG)
    Parallel(n_jobs=2)(calls)
    assert len(collected.records) == 12
    logging.disable(logging.ERROR)
    try:
        Parallel(n_jobs=2)(calls)
    finally:
        logging.disable(logging.NOTSET)
    assert len(collected.records) == 12


def log_in_detail(path: Path) -> None:
    try:
        raise LookupError("not there")
    except LookupError:
        LOGGER.exception("in %s", path, extra={"request": "r7"}, stack_info=True)


def test_a_record_keeps_what_handlers_show(collected: Collected, tmp_path: Path) -> None:
    Parallel(n_jobs=2)([delayed(abs)(-1), delayed(log_in_detail)(tmp_path)])
    (record,) = collected.records
    text = logging.Formatter("%(levelname)s %(funcName)s %(message)s").format(record)
    assert text.startswith(f"ERROR log_in_detail in {tmp_path}\nTraceback ")
    assert "LookupError: not there\n" in text
    assert "log_in_detail" in record.stack_info
    assert (record.request, record.shoal_call) == ("r7", 1)
    assert record.shoal_worker in (0, 1)
    assert record.process != os.getpid()


def log_a_lock() -> None:
    LOGGER.info("a lock", extra={"lock": threading.Lock()})
    LOGGER.info("%s", threading.current_thread())


def test_what_cannot_be_pickled_becomes_text(collected: Collected) -> None:
    Parallel(n_jobs=2)([delayed(log_a_lock)(), delayed(abs)(-1)])
    first, second = collected.records
    assert first.getMessage() == "a lock"
    assert first.lock == "<lock>"
    assert "MainThread" in second.getMessage()


def set_up_logging(path: Path) -> None:
    logging.basicConfig(filename=path, level=logging.INFO, force=True)


def test_records_that_the_worker_handles_are_not_forwarded(collected: Collected, tmp_path: Path) -> None:
    path = tmp_path / "log"
    parallel = Parallel(n_jobs=2, initializer=set_up_logging, initargs=(path,))
    parallel(delayed(log_each_level)(number) for number in range(2))
    assert collected.records == []
    assert len(path.read_text().splitlines()) == 4


def log_by_functions_of_the_module(number: int) -> int:
    logging.warning("root %d", number)  # noqa: LOG015 as users do
    LOGGER.info("then %d", number)
    return len(logging.root.handlers)


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_functions_of_the_logging_module_set_up_nothing_in_workers(backend: str, collected: Collected) -> None:
    """They call ``basicConfig``, whose handler would keep this record and all later ones in the worker."""
    root = Collected()
    logging.root.addHandler(root)
    try:
        calls = (delayed(log_by_functions_of_the_module)(number) for number in range(2))
        assert Parallel(n_jobs=2, backend=backend)(calls) == [0, 0]
    finally:
        logging.root.removeHandler(root)
    assert [message for message in root.messages if "root" in message] == ["root 0", "root 1"]
    assert collected.messages == ["then 0", "then 1"]


def set_up_in_a_call(path: Path) -> None:
    logging.basicConfig(filename=path, level=logging.INFO)
    LOGGER.info("into the file")


def test_a_call_can_set_up_logging(collected: Collected, tmp_path: Path) -> None:
    parallel = Parallel(n_jobs=2, backend="multiprocessing")
    parallel(delayed(set_up_in_a_call)(tmp_path / str(number)) for number in range(2))
    assert collected.records == []
    assert sum(path.read_text().count("into the file") for path in tmp_path.iterdir()) == 2


def warn_once(number: int) -> None:
    warnings.warn("always the same", FutureWarning, stacklevel=1)


def test_a_warning_is_shown_once_per_place() -> None:
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("default")
        for _ in range(3):
            Parallel(n_jobs=2)(delayed(warn_once)(number) for number in range(8))
    assert [str(each.message) for each in issued] == ["always the same"]
    assert (issued[0].filename, issued[0].category) == (__file__, FutureWarning)


class OwnWarning(UserWarning):
    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class Demanding(UserWarning):
    """It cannot be unpickled."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)


def warn_of_own() -> None:
    warnings.warn(OwnWarning("own", 7), stacklevel=1)


def test_a_warning_keeps_its_class_and_attributes() -> None:
    with pytest.warns(OwnWarning, match="own") as issued:
        Parallel(n_jobs=2)([delayed(warn_of_own)(), delayed(abs)(1)])
    assert issued[0].message.code == 7  # type: ignore[union-attr]


def warn_demandingly() -> None:
    warnings.warn(Demanding("as text", 7), stacklevel=1)


def test_a_warning_that_cannot_be_unpickled_keeps_its_text_and_name() -> None:
    with pytest.warns(UserWarning, match="Demanding: as text"):
        Parallel(n_jobs=2)([delayed(warn_demandingly)(), delayed(abs)(1)])


def test_a_filter_of_a_category_makes_an_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", category=OwnWarning)
        with pytest.raises(OwnWarning) as raised:
            Parallel(n_jobs=2)([delayed(warn_of_own)(), delayed(abs)(1)])
    assert "warn_of_own" in str(raised.value.__cause__)


def ignore_warnings() -> None:
    warnings.simplefilter("ignore", FutureWarning)


@pytest.mark.parametrize("method", [None, "loky", "spawn"])
@pytest.mark.parametrize("options", [{"initializer": ignore_warnings}, {"environment": {"PYTHONWARNINGS": "ignore"}}])
def test_filters_of_the_worker_stay(options: dict[str, Any], method: str | None) -> None:
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        for _ in range(2):
            Parallel(n_jobs=2, start_method=method, **options)(delayed(warn_once)(number) for number in range(2))
    assert issued == []


def warn_of_a_new_module(folder: Path, name: str) -> None:
    sys.path.insert(0, str(folder))
    module = importlib.import_module(name)
    warnings.warn("of a new module", module.Late, stacklevel=1)


def test_a_filter_waits_for_the_module_of_its_category(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"own_category_{os.urandom(4).hex()}"
    (tmp_path / f"{name}.py").write_text("class Late(UserWarning):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    late = importlib.import_module(name).Late
    calls = [delayed(warn_of_a_new_module)(tmp_path, name) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", category=late)
        Parallel(n_jobs=2)(calls)  # the module is imported only in the calls
        with pytest.raises(late):
            Parallel(n_jobs=2)(calls)


def speak(number: int) -> None:
    print(f"out {number}")
    print(f"err {number}", file=sys.stderr)
    sys.stdout.buffer.write(f"bytes {number}\n".encode())


def test_the_output_of_a_call_is_a_block() -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        Parallel(n_jobs=2)(delayed(speak)(number) for number in range(9))
    blocks = out.getvalue().splitlines()
    pairs = list(zip(blocks[::2], blocks[1::2], strict=True))
    assert sorted(pairs) == [(f"out {number}", f"bytes {number}") for number in range(9)]
    assert sorted(err.getvalue().splitlines()) == [f"err {number}" for number in range(9)]


def print_text(text: str) -> None:
    print(text)
    print(text, file=sys.stderr)


def test_output_may_hold_any_character() -> None:
    """Names of files that are no UTF-8 have surrogates, and the worker's own stderr takes them."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        Parallel(n_jobs=2)([delayed(print_text)("name\udce9 \u00e9")])
    assert out.getvalue() == err.getvalue() == "name\udce9 \u00e9\n"


@pytest.mark.parametrize(("encoding", "seen"), [("utf-8", "\\udce9 \u00e9\n"), ("ascii", "\\udce9 \\xe9\n")])
def test_characters_that_a_stream_lacks_end_no_run(encoding: str, seen: str) -> None:
    data = io.BytesIO()
    with io.TextIOWrapper(data, encoding=encoding, newline="\n") as stream, contextlib.redirect_stdout(stream):
        Parallel(n_jobs=2)([delayed(print)("\udce9 \u00e9")])
        assert data.getvalue().decode(encoding) == seen


class OnlyWrite:
    """The least that ``print`` needs."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text


def test_a_stream_needs_no_method_but_write() -> None:
    stream = OnlyWrite()
    with contextlib.redirect_stdout(stream):  # type: ignore[type-var]
        Parallel(n_jobs=2)([delayed(print)("text")])
    assert stream.text == "text\n"


class TestLoky(LiveTests):
    backend = "loky"


class TestMultiprocessing(LiveTests):
    backend = "multiprocessing"


def fork_after_speaking() -> list[str]:
    print("before the fork")
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return [thread.name for thread in threading.enumerate()]


@needs_fork
def test_a_call_that_speaks_can_fork() -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        names = Parallel(n_jobs=2)([delayed(fork_after_speaking)(), delayed(list)()])[0]
    assert "shoal-said" not in names  # Python warns of a fork in a process with several threads
    assert out.getvalue() == "before the fork\n"


def nest(number: int) -> None:
    with parallel_config(backend="loky"):
        Parallel(n_jobs=2)(delayed(log_each_level)(10 * number + inner) for inner in range(2))


def test_what_nested_calls_say_comes_through(collected: Collected) -> None:
    Parallel(n_jobs=2)(delayed(nest)(number) for number in range(2))
    assert collected.messages == [f"{level} of {n}" for level in ("ERROR", "INFO") for n in (0, 1, 10, 11)]


@pytest.mark.parametrize(
    ("forward", "kinds"), [(False, ""), ("logging", "l"), (["output", "warnings"], "wo"), (True, "lwo")]
)
def test_forward_says_what_is_forwarded(forward: Any, kinds: str, collected: Collected) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        with parallel_config(forward=forward):
            Parallel(n_jobs=2)([delayed(log_each_level)(0), delayed(warn_once)(0), delayed(print)("text")])
    assert bool(collected.records) == ("l" in kinds)
    assert bool(issued) == ("w" in kinds)
    assert bool(out.getvalue()) == ("o" in kinds)


def test_executors_forward(collected: Collected) -> None:
    with executor(max_workers=2) as workers:
        workers.submit(log_each_level, 3).result(PATIENCE)
    assert collected.messages == ["ERROR of 3", "INFO of 3"]


def say_and_fail() -> None:
    LOGGER.error("before the failure")
    raise LookupError


def test_what_a_failing_call_says_arrives(collected: Collected) -> None:
    with pytest.raises(LookupError):
        Parallel(n_jobs=2)([delayed(say_and_fail)()])
    assert collected.messages == ["before the failure"]


def test_conditions_that_another_thread_is_pickling_are_not_taken_for_old_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second thread asks while the first one has seen that something changed, and has not pickled it yet."""
    kinds = "logging", "warnings"
    monkeypatch.setattr(_saying, "_last", ((), b""))
    of_second: list[bytes | None] = []
    dumps = pickle.dumps

    def slowly(value: Any, protocol: int) -> bytes:
        monkeypatch.setattr(pickle, "dumps", dumps)
        second = threading.Thread(target=lambda: of_second.append(_saying.conditions(kinds)))
        second.start()
        second.join()
        return dumps(value, protocol)

    monkeypatch.setattr(pickle, "dumps", slowly)
    first = _saying.conditions(kinds)
    assert of_second == [first]
    assert first != b""
