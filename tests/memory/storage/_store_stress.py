"""Eight processes over 200 keys of one store, with everything that a store does, while some of them are killed.

Run as ``python _store_stress.py FOLDER SECONDS SEED``; prints what went wrong, and nothing otherwise.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from shoal.memory.storage._filestore import FileStore
from shoal.memory.store import Key, Limits, Meta

N_PROCESSES, N_KEYS = 8, 200
LIMIT, LARGEST = 300_000, 10_000  # bytes


def key_of(number: int) -> Key:
    return Key(f"module/function{number % 3}", f"{number:032x}")


def value_of(number: int) -> list[bytes]:
    return [b"%d" % number, random.Random(number).randbytes(number % 20 * 500)]


def size_of(folder: Path) -> int:
    """Return the size of the published entries in bytes."""
    size = 0
    for path, _, names in os.walk(folder / "module"):  # which goes on where folders disappear
        for name in names:
            try:
                size += os.stat(os.path.join(path, name)).st_size if name.endswith((".pkl", ".json")) else 0
            except OSError:
                pass
    return size


def work(folder: str, seed: int) -> None:
    """Use the store until killed."""
    numbers = random.Random(seed)
    store = FileStore(folder, limits=Limits(nbytes=LIMIT))
    meta = Meta(0.0, 0.0, {})
    parent = os.getppid()
    while os.getppid() == parent:
        number, what = int(numbers.triangular(0, N_KEYS, 0)), numbers.random()
        key = key_of(number)
        if what < 0.8:
            try:
                value = store.load(key)
            except KeyError:
                with store.lease(key) as mine:
                    inner = key_of(numbers.randrange(N_KEYS))
                    with store.lease(inner):
                        if mine:
                            store.save(key, value_of(number), meta)
                continue
            assert value == value_of(number), f"{key} is {value}"
        elif what < 0.9:
            store.save(key, value_of(number), meta)
        elif what < 0.96:
            store.discard(key)
        elif what < 0.98:
            assert len(list(store.entries())) <= N_KEYS
            store.keep_source(key.function, "source")
        elif what < 0.99:
            store.reduce(Limits(items=50))
        elif what < 0.995:
            store.clear(key.function)
        else:
            store.clear()


def start(folder: str, seed: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work(folder, seed)
    except BaseException:
        print(traceback.format_exc(), flush=True)
    os._exit(1)


def main(folder: str, seconds: float, seed: int) -> None:
    numbers = random.Random(seed)
    living = {start(folder, seed + n) for n in range(N_PROCESSES)}
    try:
        largest = kill_some(folder, seconds, numbers, living)
    finally:
        for pid in living:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if largest > LIMIT + LARGEST:
        print(f"there were {largest} bytes")
    check(folder)


def kill_some(folder: str, seconds: float, numbers: random.Random, living: set[int]) -> int:
    """Kill processes and start others; return the most bytes that were ever seen."""
    until = time.monotonic() + seconds
    largest = 0
    while time.monotonic() < until:
        time.sleep(numbers.uniform(0.01, 0.1))
        for pid in living:  # while nothing changes
            os.kill(pid, signal.SIGSTOP)
        largest = max(largest, size_of(Path(folder)))
        for pid in living:
            os.kill(pid, signal.SIGCONT)
        victim = numbers.choice(sorted(living))
        os.kill(victim, signal.SIGKILL)
        _, status = os.waitpid(victim, 0)
        if not os.WIFSIGNALED(status):
            print("a process has ended by itself")
        living.remove(victim)
        living.add(start(folder, numbers.randrange(2**32)))
    return largest


def check(folder: str) -> None:
    """Check what is left in the folder."""
    store = FileStore(folder, limits=Limits(nbytes=LIMIT))
    store.save(Key("module/last", "f" * 32), 1, Meta(0.0, 0.0, {}))
    store.reduce(Limits(nbytes=LIMIT))
    for name in ("aside", "waiting"):
        path = Path(folder, ".shoal", name)
        left = os.listdir(path) if path.exists() else []
        if left:
            print(f"left in {name}: {left}")
    entries = list(store.entries())
    size = sum(entry.nbytes for entry in entries)
    if size > LIMIT:
        print(f"there are {size} bytes")
    for entry in entries:
        if sorted(os.listdir(store.folder(entry.key))) != ["metadata.json", "output.pkl"]:
            print(f"{entry}: {os.listdir(store.folder(entry.key))}")
        if entry.key.function != "module/last" and store.load(entry.key) != value_of(int(entry.key.call, 16)):
            print(f"{entry} is not what was saved")
    folders = {path.parent for path in Path(folder).glob("module/*/*/*")}
    if len(folders) != len(entries):
        print(f"{len(folders)} folders of {len(entries)} entries")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
