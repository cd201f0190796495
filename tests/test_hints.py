"""Misspelt names: the error says which name was probably meant."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import shoal
from shoal import Memory, Parallel, delayed, dump, executor, parallel_config
from shoal._hints import hint, nearest


def f(number: int) -> int:
    return number


def loose(name: str, value: Any) -> dict[str, Any]:
    """Return an argument whose name or value a type checker would refuse."""
    return {name: value}


MISSPELT: dict[str, tuple[Callable[[], object], str]] = {
    "a backend": (lambda: Parallel(backend="treading"), "'threading'"),
    "a backend of a context": (lambda: parallel_config(backend="lokky"), "'loky'"),
    "an argument": (lambda: Parallel(n_job=2), "'n_jobs'"),
    "an argument of another library": (lambda: Parallel(max_workers=2), "'n_jobs'"),
    "a setting of a context": (lambda: parallel_config(retry_one=OSError), "'retry_on'"),
    "an argument of an executor": (lambda: executor(2, retrys=1), "'retries'"),
    "an option of a backend": (lambda: Parallel(2, backend="loky", initialiser=print), "'initializer'"),
    "return_as": (lambda: Parallel(**loose("return_as", "generater")), "'generator'"),
    "on_error": (lambda: Parallel(**loose("on_error", "returns")), "'return'"),
    "prefer": (lambda: Parallel(**loose("prefer", "thread")), "'threads'"),
    "require": (lambda: Parallel(**loose("require", "sharemem")), "'sharedmem'"),
    "progress": (lambda: Parallel(**loose("progress", "Rich")), "'rich'"),
    "forward": (lambda: Parallel(forward=["loging"]), "'logging'"),
    "batch_size": (lambda: Parallel(batch_size="atuo"), "'auto'"),
    "start_method": (lambda: Parallel(2, "loky", start_method="spwan")([delayed(f)(1)]), "'spawn'"),
    "a compressor": (lambda: dump(1, "file", compress="gzp"), "'gzip'"),
    "a compressor with a level": (lambda: dump(1, "file", compress=("zlb", 3)), "'zlib'"),
    "the algorithm of a hash": (lambda: shoal.hash(1, "xxh3-128"), "'xxh3_128'"),
    "the algorithm of keys": (lambda: Memory(None, hash_name="mdd5"), "'md5'"),
    "a store": (lambda: Memory("folder", backend="locale"), "'local'"),
    "an ignored parameter": (lambda: Memory("folder", verbose=0).cache(f, ignore=["numbr"]), "'number'"),
}


@pytest.mark.parametrize("what", MISSPELT)
def test_a_misspelt_name_is_answered_by_the_right_one(
    what: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    use, meant = MISSPELT[what]
    with pytest.raises((TypeError, ValueError), match=f"; did you mean {re.escape(meant)}\\?"):
        use()


def test_nothing_is_suggested_where_no_name_is_near() -> None:
    with pytest.raises(ValueError, match=r"expected one of [^;]*$"):
        Parallel(backend="xyz")
    assert hint(None, ["none"]) == ""
    assert hint("r+w", ["r", "w+", None]) == ""


def test_the_case_does_not_count() -> None:
    assert nearest("LOKY", ["loky", "threading"]) == "loky"
    assert nearest("memory", ["Memory"]) == "Memory"
