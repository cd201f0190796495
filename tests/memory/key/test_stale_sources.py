"""A file is edited while a process runs its old code: results are never saved under the source of other code."""

from __future__ import annotations

import dataclasses
import enum
import os
import py_compile
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path
from typing import Any

import pytest

from _capabilities import needs_fork, needs_proc
from shoal.memory.key import _freshness

OLD = """
class C:
    rate = 1

    def m(self):
        return self.rate

def f(x):
    return C().m()
"""
#: What has an effect of its own: the body of the function, of the class's method, a constant of the class.
EDITS = {
    "function": OLD.replace("    return C().m()", "    return 2 * C().m()"),
    "method": OLD.replace("return self.rate", "return 2 * self.rate"),
    "constant": OLD.replace("rate = 1", "rate = 2  # of another size"),
}
CALLS = {"function": "memory.cache(m.f)(0)", "method": "memory.cache(g, depends=[m.C])(0)"}
CALLS["constant"] = CALLS["method"]

BEGIN = """
import os, sys
sys.path.insert(0, {folder!r})
from pathlib import Path
file = Path({folder!r}, "edited.py")
def kept():
    from shoal import Memory
    memory = Memory({folder!r} + "/cache", verbose=0)
    def g(x):
        return m.f(x)
    def of_module(x):
        return m.f(x)
    return {call}
"""
END = "import edited as m\nprint(kept())\n"


def run(folder: Path, call: str, *parts: str) -> str:
    source = BEGIN.format(folder=str(folder), call=call) + "".join(textwrap.dedent(part) for part in parts)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def old_file(folder: Path) -> Path:
    """A file whose times are long before the start of every process in this test."""
    file = folder / "edited.py"
    file.write_text(OLD)
    os.utime(file, (1_500_000_000, 1_500_000_000))
    return file


@pytest.mark.parametrize("what", EDITS)
@pytest.mark.parametrize(
    "edit",
    [
        "file.write_text({new!r})",
        "new = file.with_suffix(''); new.write_text({new!r}); os.utime(new, (1.5e9,) * 2); os.replace(new, file)",
    ],
    ids=["written", "replaced, with the old time"],
)
@pytest.mark.parametrize("first", ["", "from shoal import Memory\n"], ids=["before", "after"])
def test_an_edit_after_the_import(tmp_path: Path, what: str, edit: str, first: str) -> None:
    old_file(tmp_path)
    change = edit.format(new=EDITS[what], folder=str(tmp_path))
    assert run(tmp_path, CALLS[what], first, "import edited as m\n", change, "\nprint(kept())\n") == "1"
    assert run(tmp_path, CALLS[what], END) == "2"


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_of_a_module_that_a_function_depends_on(tmp_path: Path, what: str) -> None:
    old_file(tmp_path)
    call = "memory.cache(g, depends=[m])(0)"
    edit = f"import edited as m\nfile.write_text({EDITS[what]!r})\nprint(kept())\n"
    assert run(tmp_path, call, edit) == "1"
    assert run(tmp_path, call, END) == "2"
    assert run(tmp_path, call, END) == "2"


@needs_fork
def test_a_forked_child_has_the_code_of_its_parent(tmp_path: Path) -> None:
    old_file(tmp_path)
    in_child = f"""
        import edited as m
        file.write_text({EDITS["function"]!r})
        if os.fork() == 0:
            print(kept(), flush=True)
            os._exit(0)
        os.wait()
        """
    assert run(tmp_path, CALLS["function"], in_child) == "1"
    assert run(tmp_path, CALLS["function"], END) == "2"


def test_bytecode_of_an_older_text_with_the_same_size_and_time(tmp_path: Path) -> None:
    """Python itself runs the old code then, and its result must not count as that of the new text."""
    file = old_file(tmp_path)
    assert run(tmp_path, "0", END) == "0"
    new = OLD.replace("return C().m()", "return 2+0+0+0")
    assert len(new) == len(OLD)
    file.write_text(new)
    os.utime(file, (1_500_000_000, 1_500_000_000))
    assert run(tmp_path, CALLS["function"], END) == "1"
    file.write_text(new)
    assert run(tmp_path, CALLS["function"], END) == "2"


def test_bytecode_is_not_trusted_where_changes_have_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = old_file(tmp_path)
    py_compile.compile(str(file))
    new = OLD.replace("return C().m()", "return 2+0+0+0")
    file.write_text(new)
    os.utime(file, (1_500_000_000, 1_500_000_000))
    monkeypatch.setattr(_freshness, "HAS_CHANGE_TIMES", False)
    monkeypatch.setattr(_freshness, "_changed", lambda status: status.st_mtime)
    names: dict[str, Any] = {}
    exec(compile(OLD, str(file), "exec"), names)
    assert not _freshness.is_code_of(names["f"].__code__, new)


def test_a_worker_that_imports_the_edited_file(tmp_path: Path) -> None:
    """The worker runs the new code, and saves its result under the new source."""
    decorated = f"from shoal import Memory\nmemory = Memory({str(tmp_path / 'cache')!r}, verbose=0)\n" + OLD.replace(
        "def f(x)", "@memory.cache\ndef f(x)"
    )
    (tmp_path / "edited.py").write_text(decorated)
    in_parent = f"""
        from shoal import Parallel, delayed
        os.environ["PYTHONPATH"] = str(file.parent)
        import edited as m
        file.write_text({decorated.replace("return C().m()", "return 2 * C().m()")!r})
        print(*Parallel(n_jobs=2)(delayed(m.f)(i) for i in range(2)), m.f.check_call_in_cache(0), m.f(0))
        """
    assert run(tmp_path, "0", in_parent) == "2 2 False 1"
    assert run(tmp_path, "0", "import edited as m\nprint(m.f.check_call_in_cache(0), m.f(0))") == "True 2"


@needs_proc
def test_the_start_of_the_process_that_has_loaded_the_code() -> None:
    source = "import time\nbegin = time.time()\nfrom shoal.memory.key._freshness import code_started\n"
    before = time.time()
    printed = subprocess.run(
        [sys.executable, "-c", source + "print(code_started(), begin)"], capture_output=True, text=True, check=True
    )
    started, begun = map(float, printed.stdout.split())
    assert before - 1 < started <= begun + 0.1
    assert _freshness.code_started() <= before


def test_files_are_compared_if_the_start_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("")
    changed = _freshness._changed(os.stat(file))
    for started, expected in ((0.0, True), (changed + 60, True), (changed + 86400, False)):
        monkeypatch.setattr(_freshness, "_started", started)
        assert _freshness.may_have_changed(str(file)) is expected
    monkeypatch.chdir(tmp_path)
    assert _freshness.may_have_changed("x.py"), "it may be another one, in another folder"


def test_enumerations_and_dataclasses_are_not_mistaken_for_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A metaclass or a decorator may change the values of constants."""
    monkeypatch.setitem(sys.modules, "made", types.ModuleType("made"))  # where dataclass() looks
    text = "import enum\nclass Color(enum.Enum):\n    RED = 1\nclass Row:\n    size: int = 3\n    name = 'x'\n"
    names: dict[str, Any] = {"__name__": "made"}
    exec(text, names)
    assert issubclass(names["Color"], enum.Enum)
    names["Row"] = dataclasses.dataclass(names["Row"])
    assert _freshness.is_namespace_of(vars(names["Color"]), text, "f", ("Color",))
    assert _freshness.is_namespace_of(vars(names["Row"]), text, "f", ("Row",))
    assert not _freshness.is_namespace_of(vars(names["Row"]), text.replace("'x'", "'y'"), "f", ("Row",))
