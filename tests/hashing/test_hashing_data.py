"""Large data is fed into a node: the digest depends only on the bytes."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal.hashing import _bytes


def fed(nbytes: int, pieces: Any) -> bytes:
    node = xxhash.xxh3_128()
    _bytes.feed(node, nbytes, pieces)
    return node.digest()


@pytest.fixture(autouse=True, scope="module")
def small_blocks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_bytes, "BLOCK_BYTES", 16)
        patch.setattr(_bytes, "cpu_budget", lambda: 3)
        yield


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_the_digest_does_not_depend_on_how_the_data_is_cut(data: bytes, cuts: list[int]) -> None:
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in pairwise(bounds)]
    assert fed(len(data), pieces) == fed(len(data), [data])


@given(st.binary(min_size=1, max_size=300), st.integers(0, 10_000))
def test_every_byte_counts(data: bytes, place: int) -> None:
    other = bytearray(data)
    other[place % len(data)] ^= 1
    assert fed(len(data), [other]) != fed(len(data), [data])
    assert fed(len(data) + 1, [data + b"\0"]) != fed(len(data), [data])


@pytest.mark.parametrize("size", [16, 17, 32, 100, 16 * 50, 16 * 50 + 3])
def test_digest_of_the_digests_of_blocks(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    blocks = [data[start : start + 16] for start in range(0, size, 16)]
    expected = data if size <= 16 else b"".join(xxhash.xxh3_128_digest(block) for block in blocks)
    assert fed(size, [data]) == xxhash.xxh3_128_digest(expected)


@pytest.mark.parametrize("allowed", [0, 1])
def test_digest_when_no_further_thread_can_start(monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    data = np.random.default_rng(0).bytes(1000)
    expected, started = fed(1000, [data]), []
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if len(started) == allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    assert fed(1000, [data]) == expected
    assert len(started) == allowed
    assert not any(thread.is_alive() for thread in started)


def test_buffers_of_any_layout() -> None:
    array = np.arange(1000.0)
    for view in (array, array.reshape(10, 100).T, array.reshape(10, 100)[:, ::3]):
        assert shoal.hash(view) == shoal.hash(view.copy(order="K") if view.flags.forc else view)
        assert shoal.hash(memoryview(view)) == shoal.hash(memoryview(view))
    assert shoal.hash(memoryview(array)) != shoal.hash(memoryview(array[:-1]))
    assert shoal.hash(memoryview(b"")) == shoal.hash(memoryview(b"abc")[3:])
