"""The command line as a whole: help, exit codes, interrupts, closed pipes, completion; and ``shoal inspect``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shoal
from _capabilities import SLOWNESS, needs_any_names, needs_fifo, needs_signals
from _cli_util import SHOAL, run
from shoal.cli import main

COMMANDS = [
    ["run"],
    ["inspect"],
    ["cache"],
    *(["cache", action] for action in ("ls", "info", "show", "prune", "verify")),
    ["top"],
    ["stack"],
    ["env"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_examples_and_exit_codes(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    shown = capsys.readouterr().out
    examples = shown.partition("examples:\n")[2].partition("\n\nexit codes:")[0].splitlines()
    assert len(examples) >= 2
    assert all(example.startswith(f"  shoal {' '.join(command)}") for example in examples)


@pytest.mark.parametrize("arguments", [[], ["no"], ["cache"], ["cache", "ls"], ["inspect"], ["--completion", "cmd"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: shoal" in capsys.readouterr().err


def test_version() -> None:
    assert run(SHOAL, "--version") == (0, f"shoal {shoal.__version__}\n", "")


def test_the_console_script() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert EntryPoint("shoal", project["scripts"]["shoal"], "console_scripts").load() is main


def test_importing_shoal_does_not_load_argparse(fresh_python) -> None:
    assert fresh_python("import sys, shoal; print('argparse' in sys.modules)") == "False\n"


# ---- inspect.


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(tmp_path / name) for name in ("a.pkl", "b.pkl")]
    shoal.dump(np.zeros((2, 3)), files[0])
    shoal.dump(1j, files[1], compress=("zlib", 1))
    assert main(["inspect", *files]) == 0
    assert capsys.readouterr().out == "".join(f"{shoal.inspect(file)!r}\n" for file in files)
    assert main(["inspect", "--json", *files]) == 0
    array, number = json.loads(capsys.readouterr().out)
    assert (array["name"], array["checksums"], array["arrays"][0]["shape"]) == (files[0], True, [2, 3])
    assert (number["compressor"], number["imports"]) == ("zlib", ["builtins.complex"])


def test_inspect_goes_on_after_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x05]")
    shoal.dump([1], tmp_path / "good.pkl")
    names = [str(tmp_path / f"{name}.pkl") for name in ("missing", "bad", "good")]
    assert main(["inspect", "--json", *names]) == 1
    captured = capsys.readouterr()
    assert [item["name"] for item in json.loads(captured.out)] == [names[2]]
    assert captured.err.count("shoal: ") == 2
    shoal.dump(np.zeros(10_000), names[2])
    assert main(["inspect", names[2], "--max-bytes", "1K"]) == 1


@needs_any_names
def test_names_that_the_output_cannot_encode(tmp_path: Path) -> None:
    shoal.dump([1], tmp_path / "ä\udcff.pkl")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    code, stdout, stderr = run(SHOAL, "inspect", str(tmp_path / "ä\udcff.pkl"), env=environment)
    assert (code, stderr) == (0, "")
    assert "\\xe4\\udcff.pkl" in stdout


# ---- Signals and pipes.


@needs_fifo
def test_an_interrupt_shows_no_traceback(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen([*SHOAL, "inspect", str(fifo)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        fd = os.open(fifo, os.O_WRONLY)  # waits until the child has opened the file, from which it then reads
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=60 * SLOWNESS) == (b"", b"")
        os.close(fd)
    assert child.returncode == 130


@needs_signals
@pytest.mark.parametrize("arguments", [["env"], ["--help"], ["env", "--json"]], ids=" ".join)
def test_a_closed_pipe_shows_no_traceback(arguments: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reading, writing = os.pipe()
    os.close(reading)
    try:
        child = subprocess.Popen([*SHOAL, *arguments], stdout=writing, stderr=subprocess.PIPE, env=environment)
    finally:
        os.close(writing)
    with child:
        assert child.communicate(timeout=60 * SLOWNESS) == (None, b"")
    assert child.returncode == 141


@needs_signals
def test_a_closed_output_shows_no_traceback() -> None:
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *SHOAL, "top", "--once"], stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# ---- Completion.


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit, match="0"):
        main(["--completion", shell])
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert "verify" in script.read_text()
    if shutil.which(shell):
        assert run((shell, "-n"), str(script)) == (0, "", "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        (["shoal", "ca"], {"cache"}),
        (["shoal", "cache", "ver"], {"verify"}),
        (["shoal", "cache", "prune", "--it"], {"--items-limit"}),
        (["shoal", "inspect", "mod"], {"model.pkl"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash_completes(line: list[str], found: set[str], tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    _, script, _ = run(SHOAL, "--completion", "bash")
    (tmp_path / "script").write_text(script)
    (tmp_path / "model.pkl").write_text("")
    words = " ".join(line)
    asks = (
        f"source ./script; COMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; COMP_LINE='{words}'; "
        f"COMP_POINT={len(words)}; $(complete -p shoal | sed 's/.*-F \\([^ ]*\\).*/\\1/') shoal; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    code, stdout, _ = run(("bash", "-c"), asks, cwd=tmp_path)
    assert code == 0
    assert found <= set(stdout.split())


def test_completion_without_shtab(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "shtab", missing)
    with pytest.raises(SystemExit, match="1"):
        main(["--completion", "bash"])
    assert "pip install 'shoal[completion]'" in capsys.readouterr().err
