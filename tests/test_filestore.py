"""The file store: joblib's layout, published as a whole, computed once, and what is done about damage."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal import CacheWarning
from shoal.memory.storage._filestore import FileStore
from shoal.memory.store import Key, Limits, Meta

PATIENCE = 60
KEY = Key("module/function", "0" * 31 + "a")


def meta() -> Meta:
    return Meta(0.5, time.time(), {"x": "1"})


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "cache" / "joblib")


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a Python that has `store`, `key` and `say`; it is killed after the test."""
    running: list[subprocess.Popen[str]] = []
    prologue = f"""
    import os, sys, time
    from shoal.memory.storage._filestore import FileStore
    from shoal.memory.store import Key, Limits, Meta
    store = FileStore({str(tmp_path / "cache" / "joblib")!r})
    def key(number):
        return Key("module/function", f"{{number:032x}}")
    def say(*words):
        print(*words, flush=True)
    """

    def run(source: str, *arguments: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", textwrap.dedent(prologue) + textwrap.dedent(source)]
        process = subprocess.Popen(
            [*command, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdin is not None
    process.stdin.write(words + "\n")
    process.stdin.flush()


def files(store: FileStore) -> set[str]:
    root = Path(store.location)
    found = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    return found - {".shoal/locks", ".shoal/index.sqlite", ".shoal/index.sqlite-wal", ".shoal/index.sqlite-shm"}


# The layout


def test_the_layout_is_joblibs(store: FileStore, tmp_path: Path) -> None:
    store.save(KEY, [1, 2], Meta(0.5, 17.25, {"x": "1", "y": "'ü'"}))
    store.keep_source(KEY.function, "# first line: 3\ndef f(x): ...\n")
    folder = "module/function/" + KEY.call
    assert files(store) == {
        "module/function/func_code.py",
        folder + "/output.pkl",
        folder + "/metadata.json",
    }
    text = Path(store.location, folder, "metadata.json").read_text()
    assert json.loads(text) == {"duration": 0.5, "input_args": {"x": "1", "y": "'ü'"}, "time": 17.25}
    assert (tmp_path / "cache" / ".gitignore").read_text().splitlines()[-1] == "*"


def test_the_folder_that_is_not_called_joblib(tmp_path: Path) -> None:
    FileStore(tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".gitignore"]


@pytest.mark.parametrize("compress", [False, 3])
def test_joblib_finds_entries(fresh_python, tmp_path: Path, compress: Any) -> None:
    """What joblib has cached is overwritten by shoal, and joblib then finds that."""
    calls = f"""
        import sys, joblib, numpy as np
        sys.path.insert(0, {str(tmp_path)!r})
        from cached_by_both import f
        memory = joblib.Memory({str(tmp_path / "cache")!r}, verbose=0)
        g = memory.cache(f)
        print(g(1, y=2)["x"].sum(), len(memory.store_backend.get_items()))
        memory.reduce_size(items_limit=50)
        """
    (tmp_path / "cached_by_both.py").write_text("import numpy as np\ndef f(x, y):\n    return {'x': np.arange(5.)}\n")
    assert fresh_python(calls).split() == ["10.0", "1"]
    store = FileStore(tmp_path / "cache" / "joblib", compress=compress)
    (entry,) = store.entries()
    assert store.foreign(entry.key.function)
    assert np.array_equal(store.load(entry.key)["x"], np.arange(5.0))
    assert store.meta(entry.key).arguments == {"x": "1", "y": "2"}
    assert (store.source(entry.key.function) or "").startswith("# first line: 2\ndef f(x, y):")
    store.save(entry.key, {"x": np.ones(70_000)}, store.meta(entry.key))
    store.save(entry.key._replace(call="f" * 32), 1, meta())
    assert fresh_python(calls).split() == ["70000.0", "2"]
    store.clear(entry.key.function)
    assert fresh_python(calls).split() == ["10.0", "1"]
    assert len(list(store.entries())) == 1


def test_arrays_are_mapped(store: FileStore) -> None:
    array = np.arange(100_000.0)
    store.save(KEY, array, meta())
    mapped = store.load(KEY, "r")
    assert isinstance(mapped, np.memmap)
    store.save(KEY, np.zeros(3), meta())
    store.clear()
    assert np.array_equal(mapped, array)


def test_compressed_arrays_are_not_mapped(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="cannot be memmapped"):
        store = FileStore(tmp_path, compress=True, mmap_mode="r")
    store.save(KEY, np.zeros(100_000), meta())
    assert type(store.load(KEY, "r")) is np.ndarray


# Where it cannot be


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(store: FileStore, tmp_path: Path) -> None:
    store.save(KEY, 1, meta())
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        if path.is_dir():
            path.chmod(0o500)
    try:
        other = FileStore(store.location)
        assert other.load(KEY) == 1
        with pytest.raises(OSError, match="denied"):
            other.save(KEY._replace(call="b" * 32), 1, meta())
        with other.lease(KEY) as mine:
            assert mine
    finally:
        for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
            if path.is_dir():
                path.chmod(0o700)


@pytest.mark.parametrize("limits", [None, Limits(items=10)])
def test_a_folder_that_is_no_folder(tmp_path: Path, limits: Limits | None) -> None:
    (tmp_path / "file").write_text("")
    store = FileStore(tmp_path / "file" / "joblib", limits=limits)
    with pytest.raises(OSError, match="file"):
        store.save(KEY, 1, meta())
    with pytest.raises(OSError, match="file"):
        store.keep_source("f", "source")
    with pytest.raises(KeyError):
        store.load(KEY)
    assert not store.contains(KEY)
    with store.lease(KEY) as mine:
        assert mine


def test_a_full_disk(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    store.save(KEY, 1, meta())
    with monkeypatch.context() as patch:
        patch.setattr("shoal._output._written", full)
        with pytest.raises(OSError, match="No space"):
            store.save(KEY._replace(call="b" * 32), 1, meta())
    assert store.load(KEY) == 1
    assert os.listdir(Path(store.location, ".shoal", "aside")) == []


@pytest.mark.parametrize("limits", [None, Limits(items=10)])
def test_a_folder_that_disappears(tmp_path: Path, limits: Limits | None) -> None:
    import shutil

    store = FileStore(tmp_path / "cache", limits=limits)
    for number in range(3):
        with store.lease(KEY) as mine:
            assert mine
            store.save(KEY, number, meta())
            store.keep_source(KEY.function, "source")
        assert store.load(KEY) == number
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises(KeyError):
            store.load(KEY)
        store.clear()
        store.reduce(Limits(items=1))
        assert list(store.entries()) == []


# Damage


def spoil(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 16
    elif how == "first byte":
        data[0] ^= 16
    elif how == "empty":
        data.clear()
    else:
        del data[len(data) // 2 :]
    path.write_bytes(data)


@pytest.mark.parametrize("limits", [None, Limits(items=10)])
@pytest.mark.parametrize("how", ["flipped", "first byte", "empty", "truncated"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("value", [[1, "two", 3.0], [random.Random(0).randbytes(30_000).hex()]], ids=["small", "large"])
def test_damaged_values(tmp_path: Path, value: Any, compress: bool, how: str, limits: Limits | None) -> None:
    store = FileStore(tmp_path / "cache", compress=compress, limits=limits)
    store.save(KEY, value, meta())
    spoil(Path(store.folder(KEY), "output.pkl"), how)
    with pytest.warns(CacheWarning, match="cannot be read") as caught, pytest.raises(KeyError):
        store.load(KEY)
    assert len(caught) == 1
    assert str(store.folder(KEY)) in str(caught[0].message)
    assert not store.contains(KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError):
            store.load(KEY)
        store.save(KEY, value, meta())
        assert store.load(KEY) == value


def test_a_value_whose_class_is_gone(store: FileStore, fresh_python) -> None:
    fresh_python(f"""
        import sys, types, time
        from shoal.memory.storage._filestore import FileStore
        from shoal.memory.store import Key, Meta
        sys.modules["vanished"] = module = types.ModuleType("vanished")
        exec("class C: pass", module.__dict__)
        FileStore({store.location!r}).save(Key(*{tuple(KEY)!r}), module.C(), Meta(0., time.time(), {{}}))
    """)
    with pytest.warns(CacheWarning, match="vanished"), pytest.raises(KeyError):
        store.load(KEY)


def test_metadata_that_is_gone_or_damaged(store: FileStore) -> None:
    path = Path(store.folder(KEY), "metadata.json")
    for text in (None, "", "{", "[]", "3", '{"duration": null, "input_args": {}, "time": 3}'):
        store.save(KEY, 42, meta())
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        with pytest.raises(KeyError):
            store.meta(KEY)
        assert store.load(KEY) == 42


def test_half_an_entry_is_completed(store: FileStore) -> None:
    for left in ("output.pkl", "metadata.json", None):
        store.save(KEY, 1, meta())
        for name in {"output.pkl", "metadata.json"} - {left}:
            Path(store.folder(KEY), name).unlink()
        store.save(KEY, 2, meta())
        assert (store.load(KEY), store.meta(KEY).duration) == (2, 0.5)


def test_a_new_value_in_the_place_of_a_damaged_one_stays(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the reading of a damaged entry and its removal, another process has put a good one in its place."""
    store.save(KEY, "damaged", meta())
    spoil(Path(store.folder(KEY), "output.pkl"), "flipped")
    move_in = store._staging.move_in

    def late(path: str) -> str | None:
        store.save(KEY, "good", meta())
        return move_in(path)

    monkeypatch.setattr(store._staging, "move_in", late)
    assert store.load(KEY) == "good"
    monkeypatch.undo()
    assert store.load(KEY) == "good"


def test_a_mode_that_is_none_is_no_damage(store: FileStore) -> None:
    store.save(KEY, 1, meta())
    with pytest.raises(ValueError, match="mmap_mode"):
        store.load(KEY, "x")
    assert store.load(KEY) == 1


# Killed processes


def test_what_killed_writers_and_removers_have_left_is_swept(store: FileStore, start: Start) -> None:
    writer = start("""
        class Slow:
            def __reduce__(self):
                say("writing")
                time.sleep(100)
        store.save(key(1), Slow(), Meta(0., 0., {}))
    """)
    assert heard(writer) == "writing"
    aside = Path(store.location, ".shoal", "aside")
    FileStore(store.location).save(KEY, 1, meta())
    assert len(os.listdir(aside)) == 1, "it still writes"
    writer.kill()
    writer.wait()
    FileStore(store.location).save(KEY, 2, meta())
    assert os.listdir(aside) == []


# Leases between processes

_COMPUTE = """
    def compute(seconds):
        while True:
            with store.lease(key(0)) as mine:
                if mine and not store.contains(key(0)):
                    say("computes")
                    time.sleep(seconds)
                    store.save(key(0), 42, Meta(0., 0., {}))
            if store.contains(key(0)):
                return store.load(key(0))
    """


def test_one_of_many_processes_computes(start: Start) -> None:
    processes = [start(_COMPUTE + "say('ready'); input(); say(compute(0.5))") for _ in range(6)]
    for process in processes:
        assert heard(process) == "ready"
    for process in processes:
        tell(process, "go")
    said = [process.communicate(timeout=PATIENCE)[0].split() for process in processes]
    assert sorted(said) == [["42"]] * 5 + [["computes", "42"]]


def test_the_next_one_takes_over_from_the_dead(start: Start) -> None:
    first = start(_COMPUTE + "compute(1000)")
    assert heard(first) == "computes"
    others = [start(_COMPUTE + "say('ready'); say(compute(0.1))") for _ in range(3)]
    for process in others:
        assert heard(process) == "ready"
    time.sleep(0.3)
    first.kill()
    said = [process.communicate(timeout=PATIENCE)[0].split() for process in others]
    assert sorted(said) == [["42"]] * 2 + [["computes", "42"]]


def test_a_process_that_computes_has_children(start: Start) -> None:
    """What a computation leaves running when it is killed holds no lease."""
    first = start("""
        with store.lease(key(0)) as mine:
            if not os.fork():
                os.close(1)
                time.sleep(20)
                os._exit(0)
            say(mine)
            time.sleep(1000)
    """)
    assert heard(first) == "True"
    first.kill()
    first.wait()
    second = start("""
        with store.lease(key(0)) as mine:
            say(mine)
        input()
    """)
    assert heard(second) == "True"


def test_a_lease_is_not_taken_from_the_living(store: FileStore, start: Start) -> None:
    key = Key("module/function", f"{0:032x}")
    holder = start("with store.lease(key(0)) as mine: say(mine); input()")
    assert heard(holder) == "True"
    given: list[bool] = []

    def wait() -> None:
        with store.lease(key) as mine:
            given.append(mine)

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    store.reduce(Limits(items=3))
    store.clear()
    FileStore(store.location).save(KEY, 1, meta())
    time.sleep(0.2)
    assert given == []
    tell(holder, "done")
    for thread in threads:
        thread.join(PATIENCE)
    assert given == [False] * 3


def test_a_failure_is_told_to_other_processes(store: FileStore, start: Start) -> None:
    key = Key("module/function", f"{0:032x}")
    holder = start("""
        try:
            with store.lease(key(0)) as mine:
                say(mine)
                input()
                raise ValueError
        except ValueError:
            say("failed")
    """)
    assert heard(holder) == "True"
    given: list[bool] = []

    def wait() -> None:
        with store.lease(key) as mine:
            given.append(mine)

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    tell(holder, "done")
    for thread in threads:
        thread.join(PATIENCE)
    assert given == [True] * 3


def test_processes_in_a_circle(start: Start) -> None:
    """Each has one lease and wants that of the next; the last to ask sees it, and waits for nobody."""
    source = """
        me, n = map(int, sys.argv[1:])
        with store.lease(key(me)) as mine:
            say(mine)
            input()
            with store.lease(key((me + 1) % n)) as other:
                say(other)
    """
    processes = [start(source, number, 3) for number in range(3)]
    assert [heard(process) for process in processes] == ["True"] * 3
    for process in processes:
        tell(process, "go on")
    said = [process.communicate(timeout=PATIENCE)[0].split()[-1] for process in processes]
    assert "True" in said


def test_threads_of_two_processes_in_a_circle(start: Start) -> None:
    """A thread of each waits for a thread of the other, and two others only look as if they did."""
    source = """
        import threading
        me = int(sys.argv[1])
        barrier = threading.Barrier(3)
        def circle():
            with store.lease(key(me)):
                barrier.wait(); barrier.wait()
                with store.lease(key(1 - me)) as other:
                    say(other)
        def hold():
            with store.lease(key(10 + me)):
                barrier.wait(); barrier.wait()
                time.sleep(0.2)
        threads = [threading.Thread(target=target) for target in (circle, hold)]
        for thread in threads: thread.start()
        barrier.wait()
        say("ready"); input()
        barrier.wait()
        with store.lease(key(11 - me)):
            pass
        for thread in threads: thread.join()
        say("done")
    """
    processes = [start(source, number) for number in range(2)]
    assert [heard(process) for process in processes] == ["ready"] * 2
    for process in processes:
        tell(process, "go on")
    said = [process.communicate(timeout=PATIENCE)[0].split() for process in processes]
    assert all(words[-1] == "done" for words in said)
    assert "True" in said[0] + said[1]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_who_waits_can_be_interrupted(start: Start) -> None:
    holder = start("with store.lease(key(0)) as mine: say(mine); input()")
    assert heard(holder) == "True"
    waiter = start("""
        say("waits")
        try:
            with store.lease(key(0)): pass
        except KeyboardInterrupt:
            say("interrupted")
        with store.lease(key(1)) as mine: say(mine)
    """)
    assert heard(waiter) == "waits"
    time.sleep(0.3)
    waiter.send_signal(signal.SIGINT)
    assert heard(waiter) == "interrupted"
    assert heard(waiter) == "True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_has_no_leases(store: FileStore) -> None:
    with store.lease(KEY) as mine:
        assert mine
        child = os.fork()
        if not child:
            with store.lease(KEY._replace(call="b" * 32)) as mine:
                os._exit(0 if mine else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert not store._leases.locks.is_alive(1)  # type: ignore[union-attr]
    with store.lease(KEY) as mine:
        assert mine


def test_without_locks_all_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
    holder = start("with store.lease(key(0)) as mine: say(mine); input()")
    assert heard(holder) == "True"
    import fcntl

    def none(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    store = FileStore(tmp_path / "cache" / "joblib")
    with store.lease(Key("module/function", f"{0:032x}")) as mine:
        assert mine
        store.save(KEY, 1, meta())
    assert store.load(KEY) == 1


# Limits


def test_entries_of_others_are_counted(tmp_path: Path) -> None:
    unlimited = FileStore(tmp_path / "cache")
    for number in range(10):
        unlimited.save(Key("f", f"{number:032x}"), number, meta())
        os.utime(Path(unlimited.folder(Key("f", f"{number:032x}")), "output.pkl"), (number + 1e9, number + 1e9))
    store = FileStore(tmp_path / "cache", limits=Limits(items=5))
    assert store.load(Key("f", f"{3:032x}")) == 3
    store.save(KEY, 1, meta())
    assert {int(entry.key.call, 16) for entry in store.entries()} == {3, 7, 8, 9, 10}


def test_a_store_without_limits_tells_the_index(tmp_path: Path) -> None:
    limited = FileStore(tmp_path / "cache", limits=Limits(items=5))
    limited.save(KEY, 1, meta())
    unlimited = FileStore(tmp_path / "cache")
    for number in range(20):
        unlimited.save(Key("f", f"{number:032x}"), number, meta())
    assert len(list(limited.entries())) == 21
    limited.save(KEY, 1, meta())
    assert len(list(limited.entries())) == 5


@pytest.mark.parametrize("data", [b"", b"no database" * 1000])
def test_a_damaged_index_is_made_anew(tmp_path: Path, data: bytes) -> None:
    store = FileStore(tmp_path / "cache", limits=Limits(items=5))
    for number in range(5):
        store.save(Key("f", f"{number:032x}"), number, meta())
    del store
    for end in ("-wal", "-shm"):
        Path(tmp_path, "cache", ".shoal", "index.sqlite" + end).unlink(missing_ok=True)
    path = tmp_path / "cache" / ".shoal" / "index.sqlite"
    path.unlink()
    path.write_bytes(data)
    store = FileStore(tmp_path / "cache", limits=Limits(items=5))
    for number in range(5, 10):
        store.save(Key("f", f"{number:032x}"), number, meta())
    assert {int(entry.key.call, 16) for entry in store.entries()} == set(range(5, 10))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_limit_after_a_fork(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "cache", limits=Limits(items=5))
    store.save(KEY, 1, meta())
    child = os.fork()
    if not child:
        status = 1
        try:
            for number in range(10):
                store.save(Key("f", f"{number:032x}"), number, meta())
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(store.entries())) == 5
    store.save(KEY, 1, meta())
    assert len(list(store.entries())) == 5


def test_a_store_that_was_removed_is_not_made_again_at_exit(start: Start, tmp_path: Path) -> None:
    process = start("""
        import shutil
        store = FileStore(store.location, limits=Limits(items=5))
        store.save(key(0), 0, Meta(0., 0., {}))
        store.load(key(0))
        shutil.rmtree(store.location)
    """)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert os.listdir(tmp_path / "cache") == [".gitignore"]


def test_uses_are_kept_at_exit(start: Start, tmp_path: Path) -> None:
    store = FileStore(tmp_path / "cache" / "joblib", limits=Limits(items=5))
    for number in range(5):
        store.save(Key("module/function", f"{number:032x}"), number, meta())
    process = start("""
        store = FileStore(store.location, limits=Limits(items=5))
        say(store.load(key(0)))
    """)
    assert process.communicate(timeout=PATIENCE)[0].split() == ["0"]
    assert process.returncode == 0
    store.save(KEY, 1, meta())
    assert {int(entry.key.call, 16) for entry in store.entries()} == {0, 2, 3, 4, 10}
