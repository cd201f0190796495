"""New files that replace old ones when they are complete."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from _capabilities import KILL, NAMELESS, needs_fifo, needs_links, needs_modes, needs_nameless_files, needs_replacing
from _faults_util import Child
from shoal import _files
from shoal._files import replacement
from shoal._platform.files import opener

_MARK = ".shoal-part"
#: In how many pieces :func:`write` writes.
_PIECES = 1


@pytest.fixture(params=["nameless", "named", "in pieces"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With and without nameless temporary files, and when all is written at once or not."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    monkeypatch.setattr(sys.modules[__name__], "_PIECES", 2 if request.param == "in pieces" else 1)
    return str(request.param)


def write(path: Path | str, data: bytes = b"new", **options: Any) -> None:
    with replacement(str(path), **options) as file:
        size = len(data) // _PIECES
        for _ in range(1, _PIECES):
            file.write(data[:size])
            data = data[size:]
        file.write(data)


def open_below(folder: Path) -> list[str]:
    """Return the files of a folder, also those without a name, that this process has open."""
    opened = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            opened.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [path for path in opened if path.startswith(str(folder))]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("durable", [False, True])
def test_new_files_and_old_ones(tmp_path: Path, way: str, durable: bool) -> None:
    path = tmp_path / "x"
    for data in (b"first", b"second" * 100_000, b""):
        write(path, data, durable=durable)
        assert path.read_bytes() == data
        assert os.listdir(tmp_path) == ["x"]


def test_readers_see_nothing_before_the_end(tmp_path: Path, way: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with replacement(str(path)) as file:
        for _ in range(10):
            file.write(b"new" * 10_000)
        assert file.tell() == 300_000
        assert path.read_bytes() == b"old"
        beside = [name for name in os.listdir(tmp_path) if name != "x"]
        assert len(beside) == (way == "named" or not NAMELESS)
        assert all(name.startswith(".") and name.endswith(_MARK) for name in beside)
    assert path.read_bytes() == b"new" * 100_000


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("old", [True, False])
def test_a_failed_block_changes_nothing(tmp_path: Path, way: str, old: bool, error: type[BaseException]) -> None:
    path = tmp_path / "x"
    if old:
        path.write_bytes(b"old")
    with pytest.raises(error), replacement(str(path)) as file:  # noqa: PT012
        file.write(b"new")
        raise error
    assert os.listdir(tmp_path) == ["x"] * old
    assert not old or path.read_bytes() == b"old"


@needs_replacing
def test_a_reader_keeps_the_file_that_it_has_opened(tmp_path: Path, way: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with open(path, "rb") as file:
        write(path)
        assert file.read() == b"old"


@needs_modes
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000, 0o027])
def test_permissions_are_those_of_open(tmp_path: Path, way: str, umask: int) -> None:
    source = f"""
        import os, sys
        from shoal._files import replacement
        if {way!r} == "named" and hasattr(os, "O_TMPFILE"):
            del os.O_TMPFILE
        os.umask({umask})
        for name in ("new", "old"):
            with replacement(name) as file:
                file.write(b"new")
        open("plain", "wb").close()
    """
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "old").chmod(0o751)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))}
    subprocess.run([sys.executable, "-c", textwrap.dedent(source)], cwd=tmp_path, check=True, env=environment)
    assert mode(tmp_path / "new") == mode(tmp_path / "plain") == 0o666 & ~umask
    assert mode(tmp_path / "old") == 0o751


@needs_links
def test_links_are_followed(tmp_path: Path, way: str) -> None:
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "x"
    target.write_bytes(b"old")
    (tmp_path / "link").symlink_to("there/x")
    (tmp_path / "chain").symlink_to(tmp_path / "link")
    (tmp_path / "dangling").symlink_to("there/new")
    for name, end in (("link", target), ("chain", target), ("dangling", tmp_path / "there" / "new")):
        write(tmp_path / name, name.encode())
        assert (tmp_path / name).is_symlink()
        assert not end.is_symlink()
        assert end.read_bytes() == name.encode()
    assert sorted(os.listdir(tmp_path / "there")) == ["new", "x"]


@needs_links
def test_links_that_lead_nowhere(tmp_path: Path, way: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("missing/x")
    for name, number in (("loop", errno.ELOOP), ("nowhere", errno.ENOENT)):
        with pytest.raises(OSError, match=r".") as caught:
            write(tmp_path / name)
        assert caught.value.errno == number
        assert (tmp_path / name).is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["loop", "nowhere"]


def test_other_names_of_the_file_keep_the_old_content(tmp_path: Path, way: str) -> None:
    path, other = tmp_path / "x", tmp_path / "y"
    path.write_bytes(b"old")
    os.link(path, other)
    write(path)
    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"old")


@needs_fifo
def test_other_kinds_of_files_are_written_directly(tmp_path: Path, way: str) -> None:
    write("/dev/null")
    assert not stat.S_ISREG(os.stat("/dev/null").st_mode)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    received: list[bytes] = []

    def read() -> None:
        with open(fifo, "rb") as file:
            received.append(file.read())

    thread = threading.Thread(target=read)
    thread.start()
    write(fifo, b"through" * 10_000)
    thread.join(30)
    assert received == [b"through" * 10_000]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert os.listdir(tmp_path) == ["fifo"]


@pytest.mark.parametrize("path", ["", "new/", "folder", "missing/x", "file/x"])
def test_errors_are_those_of_open(tmp_path: Path, way: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r".") as expected:
        open(path, "wb").close()
    with pytest.raises(OSError, match=r".") as caught:
        write(path)
    assert type(caught.value) is type(expected.value)
    assert caught.value.errno == expected.value.errno
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert not os.listdir(tmp_path / "folder")


@needs_modes
def test_without_permission(tmp_path: Path, way: str) -> None:
    """As an unprivileged user: read-only files, and folders that allow no new file."""
    source = f"""
        import os, sys
        from shoal._files import replacement
        if {way!r} == "named" and hasattr(os, "O_TMPFILE"):
            del os.O_TMPFILE
        folder = sys.argv[1]
        os.chmod(folder, 0o777)
        os.mkdir(folder + "/closed", 0o777)
        for name in ("read-only", "closed/open", "closed/read-only"):
            with open(f"{{folder}}/{{name}}", "wb") as file:
                file.write(b"old")
            os.chmod(f"{{folder}}/{{name}}", 0o444 if "read" in name else 0o666)
        os.chmod(folder + "/closed", 0o555)
        if os.geteuid() == 0:
            os.setegid(65534)
            os.seteuid(65534)

        def attempt(name):
            try:
                with replacement(f"{{folder}}/{{name}}") as file:
                    file.write(b"new")
            except PermissionError:
                print(name, "no")
            else:
                with open(f"{{folder}}/{{name}}", "rb") as file:
                    print(name, file.read().decode())

        attempt("read-only")
        attempt("closed/open")
        attempt("closed/read-only")
        attempt("closed/new")
        attempt("new")
        print(sorted(os.listdir(folder + "/closed")), [n for n in os.listdir(folder) if "part" in n], flush=True)
    """
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        if os.geteuid() == 0 and parent.stat().st_uid == 0 and parent != Path("/") and "pytest" in str(parent):
            parent.chmod(parent.stat().st_mode | 0o011)
    with Child(source, tmp_path) as child:
        expected = "read-only no\nclosed/open new\nclosed/read-only no\nclosed/new no\nnew new\n"
        assert child.wait() == (0, expected + "['open', 'read-only'] []\n", "")


@needs_modes
def test_the_owner_stays(tmp_path: Path, way: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    path = tmp_path / "x"
    path.write_bytes(b"old")
    os.chown(path, 12345, 12346)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)


# Writers that are killed

_WRITER = """
    import os, sys, time
    from shoal._files import replacement
    vars(os).pop("O_TMPFILE", None)
    with replacement(sys.argv[1] + "/kept/x") as file:
        file.write(b"half")
        file.write(b"half" * 100_000)
        print("begun", flush=True)
        time.sleep(60)
"""


def test_leftovers_of_killed_writers_are_removed_but_not_files_of_running_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    kept = tmp_path / "kept"
    kept.mkdir()
    with Child(_WRITER, tmp_path) as running, Child(_WRITER, tmp_path) as killed:
        for child in (running, killed):
            assert child.process.stdout is not None
            assert child.process.stdout.readline() == "begun\n"
        assert len(os.listdir(kept)) == 2
        os.kill(killed.pid, KILL)
        killed.process.wait()
        for name in os.listdir(kept):
            os.utime(kept / name, (0, 0))  # where a file has no lock at first, new ones are not removed
        write(kept / "y")
        left = sorted(os.listdir(kept))
        assert len(left) == 2
        assert left[1] == "y"
        assert (kept / left[0]).read_bytes()[:4] == b"half"
        os.kill(running.pid, KILL)
        running.process.wait()
        os.utime(kept / left[0], (0, 0))
        (kept / f"mine{_MARK[:-1]}").write_bytes(b"")
        write(kept / "y")
        assert sorted(os.listdir(kept)) == [f"mine{_MARK[:-1]}", "y"]


@needs_nameless_files
def test_a_name_that_was_left_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer may be killed, or still be running, between its link and its rename."""
    path = tmp_path / "x"
    path.write_bytes(b"old")

    class Killed(BaseException):
        pass

    def no_replace(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_replace)
        patch.setattr(os, "unlink", lambda _: None)
        with pytest.raises(Killed):
            write(path)
    assert len(os.listdir(tmp_path)) == 2
    write(path)
    assert os.listdir(tmp_path) == ["x"]
    assert path.read_bytes() == b"new"

    at_work = False

    def replace_while_another_does(source: str, target: str) -> None:
        nonlocal at_work
        if not at_work:
            at_work = True
            write(path, b"other")
            assert path.read_bytes() == b"other"
            assert os.path.exists(source)
        real_replace(source, target)

    real_replace = os.replace
    monkeypatch.setattr(_files.os, "replace", replace_while_another_does)
    write(path, b"last")
    assert path.read_bytes() == b"last"
    assert os.listdir(tmp_path) == ["x"]


@needs_nameless_files
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("old", [True, False])
def test_without_proc_a_nameless_file_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool, durable: bool
) -> None:
    monkeypatch.setattr(_files, "_DESCRIPTORS", str(tmp_path / "no-proc"))
    monkeypatch.setattr(_files._TemporaryFile, "_can_be_linked", True)
    path = tmp_path / "x"
    if old:
        path.write_bytes(b"old")
        path.chmod(0o640)
    for data in (b"a" * 3_000_000, b"second", b""):
        write(path, data, durable=durable)
        assert path.read_bytes() == data
        assert os.listdir(tmp_path) == ["x"]
    assert not old or mode(path) == 0o640
    assert not open_below(tmp_path)
    assert not _files._TemporaryFile._can_be_linked  # the files after the first have had names from the beginning


@needs_nameless_files
def test_a_folder_that_goes_away_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setattr(_files._TemporaryFile, "_can_be_linked", True)
    with pytest.raises(FileNotFoundError), replacement(str(folder / "x")) as file:  # noqa: PT012
        file.write(b"new")
        folder.rmdir()
    assert _files._TemporaryFile._can_be_linked


@pytest.mark.parametrize("same", [True, False])
def test_many_at_once(tmp_path: Path, way: str, same: bool) -> None:
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            for count in range(30):
                path = tmp_path / ("x" if same else f"x{index}")
                write(path, b"%d " % index * 10_000)
                with open(path, "rb", opener=opener) as file:
                    data = file.read()
                assert len(set(data.split())) == 1
                assert len(data) == 20_000, count
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert sorted(os.listdir(tmp_path)) == (["x"] if same else [f"x{index}" for index in range(4)])
