"""A Memory in an object store, with a server that fails: `make test-objects`. It needs moto and s3fs."""

from __future__ import annotations

import datetime
import logging
import random
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shoal import CacheWarning, Memory, expires_after
from shoal.memory.store import Limits, Store, create
from shoal.testing import StoreTests

pytest.importorskip("moto.moto_server.werkzeug_app")
s3fs = pytest.importorskip("s3fs")

pytestmark = [
    pytest.mark.timeout(600),  # moto needs tens of milliseconds for a request
    # Those of moto, s3fs and what they need.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

#: How a server fails, and what a client sees.
FAULTS = ("500", "503", "closes", "half", "garbled", "slow")


class Server:
    """A server of S3 on loopback, whose requests fail as `fault` says. It can go away, and come back with its data."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self._app = DomainDispatcherApplication(create_backend_app)
        self.fault: Callable[[], str | None] = lambda: None
        self.port = 0
        self.come_back()

    def come_back(self) -> None:
        from werkzeug.serving import make_server

        self._server = make_server("127.0.0.1", self.port, self, threaded=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def go_away(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        fault = self.fault()
        if fault in ("500", "503"):
            start(f"{fault} Fault", [("Content-Type", "application/xml"), ("Connection", "close")])
            return [b"<Error><Code>InternalError</Code><Message>on purpose</Message></Error>"]
        if fault == "slow":
            time.sleep(0.05)
        if fault == "closes" and environ["REQUEST_METHOD"] == "GET":
            return self._close(environ, start, b"")
        answer: list[Any] = []
        body = b"".join(self._app(environ, lambda *head: answer.append(head)))
        status, headers = answer[-1][:2]
        if fault in ("closes", "half"):  # the request was served, and the client does not learn it
            return self._close(environ, lambda *_: start(status, headers), body[: len(body) // 2])
        if fault == "garbled" and body and ".pkl" in environ["PATH_INFO"]:
            place = random.randrange(len(body))
            body = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        start(status, headers)
        return [body]

    @staticmethod
    def _close(environ: dict[str, Any], start: Callable[..., Any], body: bytes) -> Iterator[bytes]:
        start("200 OK", [])
        yield body
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "retries", 1)  # so that tests are quick, and see each fault
        for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION"):
            patch.delenv(name, raising=False)
        server = Server()
        s3fs.S3FileSystem(**options_of(server)).mkdir("bucket")
        yield server
        server.go_away()


@pytest.fixture(autouse=True)
def sound(server: Server) -> Iterator[None]:
    yield
    server.fault = lambda: None


def options_of(server: Server) -> dict[str, Any]:
    quick = {"retries": {"max_attempts": 1}, "connect_timeout": 5, "read_timeout": 5}
    endpoint = f"http://127.0.0.1:{server.port}"
    return {"key": "key", "secret": "secret", "endpoint_url": endpoint, "config_kwargs": quick}


def memory_at(server: Server, path: Path, **options: Any) -> Memory:
    location = f"s3://bucket{path}"
    return Memory(location, backend="fsspec", verbose=0, backend_options=options_of(server), **options)


class TestObjectStore(StoreTests):
    @pytest.fixture(autouse=True)
    def _server(self, server: Server) -> None:
        self.options = options_of(server)

    def make_store(self, location: Path, limits: Limits | None = None) -> Store:
        store = create("fsspec", f"s3://bucket{location}", limits=limits, **self.options)
        assert store is not None
        return store


def test_what_one_process_writes_another_one_sees_at_once(server: Server, tmp_path: Path) -> None:
    one, other = (memory_at(server, tmp_path).cache(_count, version=1) for _ in range(2))
    assert [one(1), other(1)] == [10, 10]
    assert len(list(one.entries())) == len(list(other.entries())) == 1
    one(2)
    assert other.check_call_in_cache(2)
    assert len(list(other.entries())) == 2
    one.clear()
    assert not other.check_call_in_cache(2)
    assert list(other.entries()) == []


def test_expiry_limits_info_and_prune(server: Server, tmp_path: Path) -> None:
    runs.clear()
    memory = memory_at(server, tmp_path, items_limit=3)
    cached = memory.cache(_count)
    for number in (1, 2, 3, 1, 4):  # 2 was used least recently
        cached(number)
    assert [cached.check_call_in_cache(number) for number in (1, 2, 3, 4)] == [True, False, True, True]
    info = memory.info()
    assert info is not None
    assert (info.entries, info.hits, info.misses) == (3, 1, 4)
    entries = list(memory.entries())
    assert info.nbytes == sum(entry.nbytes for entry in entries)
    assert all(time.time() - entry.used < 1000 for entry in entries)
    assert len(memory.prune(items_limit=1, dry_run=True)) == 2
    assert len(memory.prune(items_limit=1)) == 2
    assert cached.check_call_in_cache(4)
    assert memory.verify().states["sound"] == 1
    assert memory.prune(older_than=datetime.timedelta(days=1)) == []
    expiring = memory.cache(_count, cache_validation_callback=expires_after(seconds=0))
    assert expiring.explain(4).cause == "expired"
    assert expiring(4) == 40
    assert runs == [1, 2, 3, 4, 4]


@pytest.mark.parametrize("variant", ["limits", "md5, expiring"])
def test_calls_are_right_while_the_server_fails(server: Server, tmp_path: Path, variant: str) -> None:
    if variant == "limits":
        cached = (memory := memory_at(server, tmp_path, items_limit=3)).cache(_count)
    else:
        memory = memory_at(server, tmp_path, hash_name="md5")
        cached = memory.cache(_count, cache_validation_callback=expires_after(seconds=0.5))
    draw = random.Random(variant)
    server.fault = lambda: draw.choice(FAULTS) if draw.random() < 0.3 else None
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", CacheWarning)
        for _ in range(20):
            number = draw.randrange(5)
            assert cached(number) == 10 * number
    assert told, "no fault was seen"
    server.fault = lambda: None
    assert memory.verify().bad == []
    cached.call(1)
    if variant == "limits":
        assert len(list(memory.entries())) <= 3
        runs.clear()
        assert [cached.call_and_shelve(1).get(), cached(1)] == [10, 10]
        assert runs == []


def test_a_server_that_goes_away_and_comes_back(server: Server, tmp_path: Path) -> None:
    cached = memory_at(server, tmp_path).cache(_count)
    runs.clear()
    assert [cached(1), cached(1)] == [10, 10]
    server.go_away()
    try:
        with pytest.warns(CacheWarning, match=r"Unable to read from the cache: .*will be computed again"):
            assert [cached(1), cached(2), cached(2)] == [10, 20, 20]
        with pytest.raises(OSError, match=r"Connect|Endpoint"):
            list(cached.entries())
        with pytest.raises(OSError, match=r"Connect|Endpoint"):
            cached.clear()
    finally:
        server.come_back()
    assert runs == [1, 1, 2, 2]
    assert [cached(1), cached(2), cached(2)] == [10, 20, 20]
    assert runs == [1, 1, 2, 2, 2]


runs: list[int] = []


def _count(number: int) -> int:
    runs.append(number)
    return 10 * number
